"""Nothing acknowledged is lost, doubled or altered while processes are killed.

The ledger below shares no code with the store: it knows what its clients (smtplib, imaplib) were told, and compares
that with what imaplib finds afterwards.
"""

from __future__ import annotations

import hashlib
import imaplib
import itertools
import os
import re
import signal
import smtplib
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.support.demo import PASSWORD, Demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MESSAGES = 1000
CLIENTS = 4
KILLS = 10
TRANSIENT = (OSError, EOFError, smtplib.SMTPException, imaplib.IMAP4.error)
PACE_S = 0.02  # between two tries of one client, as an MTA waits between two tries; nothing depends on it


@dataclass
class Ledger:
    """What the clients sent and what they were told."""

    sent: dict[str, bytes] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    lock: threading.Condition = field(default_factory=threading.Condition)

    @property
    def complete(self) -> bool:
        return len(self.acknowledged) >= MESSAGES

    def send(self, key: str, body: bytes) -> None:
        with self.lock:
            self.sent[key] = body

    def acknowledge(self, key: str) -> None:
        with self.lock:
            self.acknowledged.add(key)
            self.lock.notify_all()

    def wait_for(self, count: int) -> None:
        with self.lock:
            assert self.lock.wait_for(lambda: len(self.acknowledged) >= count, timeout=100), "no progress"


def message(key: str) -> bytes:
    """A message whose every octet depends on its key; CRLF line ends, so that it arrives as it was sent."""
    noise = hashlib.shake_128(key.encode()).hexdigest(600 + len(key) * 37 % 2000)
    lines = "\r\n".join(noise[at : at + 70] for at in range(0, len(noise), 70))
    return (
        f"From: ledger@example.org\r\nSubject: {key}\r\nX-Ledger: {key}\r\n\r\n.dot\r\n{lines}\r\nend {key}\r\n"
    ).encode()


def keep_trying(attempt: Callable[[], bool], done: threading.Event) -> None:
    """Call `attempt` until it says that it succeeded; what breaks is tried again, as every client does."""
    while not done.wait(PACE_S):
        with suppress(*TRANSIENT):
            if attempt():
                return


def deliver(ports: dict[str, int], user: str, keys: Iterator[str], ledger: Ledger, done: threading.Event) -> None:
    """An MTA: the same message again until it is acknowledged."""
    connection: list[smtplib.LMTP] = []

    def attempt(key: str) -> bool:
        try:
            if not connection:
                connection.append(smtplib.LMTP("127.0.0.1", ports["lmtp"], timeout=20))
            connection[0].sendmail("ledger@example.org", [user], message(key))
        except TRANSIENT:
            for broken in connection:
                broken.close()
            connection.clear()
            raise
        ledger.acknowledge(key)
        return True

    for key in itertools.takewhile(lambda _: not ledger.complete, keys):
        ledger.send(key, message(key))
        keep_trying(lambda key=key: attempt(key), done)  # type: ignore[misc]
    for open_still in connection:
        open_still.close()


def append(ports: dict[str, int], user: str, keys: Iterator[str], ledger: Ledger, done: threading.Event) -> None:
    """A mail client. A lost answer, or NO, is not asked about again: such a message may be there, but once at most."""
    connection: list[imaplib.IMAP4] = []

    def connect() -> bool:
        fresh = imaplib.IMAP4("127.0.0.1", ports["imap"], timeout=20)
        try:
            fresh.login(user, PASSWORD)
        except TRANSIENT:
            fresh.shutdown()
            raise
        connection.append(fresh)
        return True

    for key in itertools.takewhile(lambda _: not ledger.complete, keys):
        if not connection:
            keep_trying(connect, done)
        ledger.send(key, message(key))
        try:
            status, _ = connection[0].append("INBOX", "", "", message(key))
            if status == "OK":
                ledger.acknowledge(key)
            else:
                done.wait(PACE_S)
        except TRANSIENT:
            connection.pop().shutdown()
    for open_still in connection:
        open_still.shutdown()


def fetch_all(ports: dict[str, int], user: str) -> list[bytes]:
    """Every message of INBOX."""
    client = imaplib.IMAP4("127.0.0.1", ports["imap"], timeout=60)
    client.login(user, PASSWORD)
    status, (count,) = client.select("INBOX", readonly=True)
    assert status == "OK"
    bodies = []
    for first in range(1, int(count or b"0") + 1, 100):
        status, data = client.fetch(f"{first}:{min(first + 99, int(count))}", "(BODY.PEEK[])")
        assert status == "OK"
        bodies += [part[1] for part in data if isinstance(part, tuple)]
    client.logout()
    assert len(bodies) == int(count)
    return bodies


def victims(demo: Demo) -> Iterator[tuple[str, Callable[[], int]]]:
    """Process after process to kill: who, and how to find its pid at that time."""

    def child(role: str) -> Callable[[], int]:
        return lambda: next(p["pid"] for p in demo.status()["processes"] if p["role"] == role and p["pid"])

    yield from itertools.cycle(
        [
            ("worker", child("worker")),
            ("postgresql", lambda: demo.status()["supervisor"]["postgres_pid"]),
            ("uploader", child("uploader")),
        ]
    )


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_while_processes_die(tmp_path: Path) -> None:
    ledger, done = Ledger(), threading.Event()
    with Demo(tmp_path / "demo", "--workers", "2") as demo:
        clients = [
            threading.Thread(
                target=deliver if number % 2 else append,
                args=(
                    demo.ports,
                    f"user{1 + number // 2}@example.com",
                    map(f"c{number}-m{{}}".format, itertools.count()),
                    ledger,
                    done,
                ),
            )
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        try:
            killed = []
            for kill, (who, find) in zip(range(KILLS), victims(demo), strict=False):
                ledger.wait_for((kill + 1) * MESSAGES // (KILLS + 1))
                os.kill(find(), signal.SIGKILL)
                killed.append(who)
            for client in clients:
                client.join(120)
                assert not client.is_alive()
        finally:
            done.set()
        found = [body for user in (1, 2) for body in fetch_all(demo.ports, f"user{user}@example.com")]
        log = demo.log_path.read_text()

    assert set(killed) == {"worker", "postgresql", "uploader"}
    seen: dict[str, list[bytes]] = {}
    for body in found:
        seen.setdefault(re.search(rb"^X-Ledger: (\S+)\r$", body, re.MULTILINE)[1].decode(), []).append(body)  # type: ignore[index]
    lost = ledger.acknowledged - seen.keys()
    doubled = {key for key, copies in seen.items() if len(copies) > 1}
    altered = {key for key, copies in seen.items() if not all(copy.endswith(ledger.sent[key]) for copy in copies)}
    assert (lost, doubled, altered) == (set(), set(), set())
    assert ledger.complete
    assert {key[:2] for key in ledger.acknowledged} == {"c0", "c1", "c2", "c3"}
    assert "Traceback" not in log
    assert "traceback" not in log
