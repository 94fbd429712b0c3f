"""Clients that keep books of what they were told, and a judge who compares them with what is found.

It shares no code with the store: smtplib and imaplib send and read, and the messages are made here.
"""

from __future__ import annotations

import hashlib
import imaplib
import itertools
import re
import smtplib
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.demo import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRANSIENT = (OSError, EOFError, smtplib.SMTPException, imaplib.IMAP4.error)
PACE_S = 0.02  # between two tries of one client, as an MTA waits between two tries; nothing depends on it


@dataclass
class Ledger:
    """What the clients sent and what they were told; complete with `wanted` acknowledgements."""

    wanted: int
    sent: dict[str, bytes] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    lock: threading.Condition = field(default_factory=threading.Condition)

    @property
    def complete(self) -> bool:
        return len(self.acknowledged) >= self.wanted

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


@contextmanager
def clients(ports: dict[str, int], ledger: Ledger, count: int, patience_s: float = 120) -> Iterator[None]:
    """`count` clients at work, half of them by APPEND and half by LMTP, two for each account; joined at the end."""
    done = threading.Event()
    threads = [
        threading.Thread(
            target=deliver if number % 2 else append,
            args=(ports, user(number), map(f"c{number}-m{{}}".format, itertools.count()), ledger, done),
        )
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
        for thread in threads:
            thread.join(patience_s)
            assert not thread.is_alive()
    finally:
        done.set()


def user(number: int) -> str:
    """The account of a client."""
    return f"user{1 + number // 2}@example.com"


@dataclass
class Verdict:
    """Keys of messages that went wrong; all empty when nothing did."""

    lost: set[str]
    doubled: set[str]
    altered: set[str]


def judge(ports: dict[str, int], ledger: Ledger, count: int) -> Verdict:
    """Compare the books with what imaplib finds in the accounts of `count` clients."""
    seen: dict[str, list[bytes]] = {}
    for name in sorted({user(number) for number in range(count)}):
        for body in fetch_all(ports, name):
            key = re.search(rb"^X-Ledger: (\S+)\r$", body, re.MULTILINE)
            assert key, body[:400]
            seen.setdefault(key[1].decode(), []).append(body)
    return Verdict(
        lost=ledger.acknowledged - seen.keys(),
        doubled={key for key, copies in seen.items() if len(copies) > 1},
        altered={key for key, copies in seen.items() if not all(copy.endswith(ledger.sent[key]) for copy in copies)},
    )
