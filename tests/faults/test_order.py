"""A message is on disk before its row, and its row before the reply: read from the worker's system calls."""

from __future__ import annotations

import imaplib
import itertools
import re
import smtplib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import strace
from tests.support.demo import PASSWORD, Demo
from tests.support.strace import CannotTraceError, Strace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.strace import Call

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not strace.INSTALLED, reason="strace is not installed"),
]
USER = "user1@example.com"
IDLE_AGAIN = b"Z\0\0\0\5I"
"""ReadyForQuery, outside of a transaction: whatever was sent before is committed."""
WRITES = ("write", "writev", "sendto", "sendmsg")


def letter(word: str) -> bytes:
    return f"Subject: {word}\r\n\r\nThe word is {word}.\r\n".encode()


def deliver(demo: Demo, word: str) -> str:
    with smtplib.LMTP("127.0.0.1", demo.ports["lmtp"], timeout=30) as lmtp:
        try:
            lmtp.sendmail("me@example.org", [USER], letter(word))
        except smtplib.SMTPDataError as error:
            return str(error.smtp_code)
    return "250"


@contextmanager
def imap(demo: Demo) -> Iterator[imaplib.IMAP4]:
    with imaplib.IMAP4("127.0.0.1", demo.ports["imap"], timeout=30) as client:
        client.login(USER, PASSWORD)
        yield client


def append(demo: Demo, word: str) -> str:
    with imap(demo) as client:
        return client.append("INBOX", "", "", letter(word))[0]


def found(demo: Demo, word: str) -> bool:
    with imap(demo) as client:
        client.select("INBOX", readonly=True)
        return bool(client.search(None, "SUBJECT", word)[1][0])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with Demo(tmp_path_factory.mktemp("order") / "sora", "--workers", "1") as demo:
        yield demo


@contextmanager
def traced(demo: Demo, output: Path, inject: str = "") -> Iterator[Strace]:
    """Look at the worker."""
    worker = next(process["pid"] for process in demo.status()["processes"] if process["role"] == "worker")
    try:
        with Strace(worker, output, inject=inject) as trace:
            yield trace
    except CannotTraceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def calls(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """What the worker did for its first messages; only the first one has the text of the SQL."""
    with traced(demo, tmp_path_factory.mktemp("trace") / "calls") as trace:
        assert deliver(demo, "lmtp") == "250"
        assert append(demo, "append") == "OK"
    return trace.calls()


def first(calls: list[Call], after: Call | None, what: str, holds: Callable[[Call], object]) -> Call:
    """The first call that fits and began after another one."""
    fitting = (call for call in calls if holds(call) and (after is None or call.began > after.began))
    call = next(fitting, None)
    assert call is not None, f"no {what}"
    return call


def calls_deliver(calls: list[Call]) -> Callable[[Call], bool]:
    """Whether PostgreSQL is asked to run deliver(): the statement is prepared once, and bound by its name after."""
    parse = re.compile(rb"P.{4}([^\0]+)\0[^\0]*\bdeliver\(", re.DOTALL)
    names = [(call.path, name) for call in calls for name in parse.findall(call.data)]
    binds = [(path, re.compile(rb"B.{4}[^\0]*\0" + re.escape(name) + rb"\0", re.DOTALL)) for path, name in names]
    return lambda call: any(call.path == path and bind.search(call.data) for path, bind in binds)


def steps(calls: list[Call], word: str, staging: str) -> dict[str, Call]:
    """What was done for a letter, in the order in which it must be."""
    body = letter(word).splitlines()[-1]
    received = first(calls, None, "arrival", lambda c: c.path.startswith("socket:") and body in c.data)
    written = first(calls, None, "staged file", lambda c: c.path.startswith(f"{staging}/tmp/") and body in c.data)
    synced = first(calls, None, "fdatasync", lambda c: (c.name, c.path) == ("fdatasync", written.path))
    linked = first(calls, None, "link", lambda c: c.name == "link" and c.strings[0] == written.path.encode())
    durable = first(calls, linked, "fsync of the directory", lambda c: (c.name, c.path) == ("fsync", staging))
    sent = first(calls, received, "call of deliver()", calls_deliver(calls))
    committed = first(calls, sent, "commit", lambda c: c.path == sent.path and IDLE_AGAIN in c.data)
    replied = first(calls, received, "reply", lambda c: c.name in WRITES and c.path == received.path)
    return {
        "received": received, "written": written, "synced": synced, "linked": linked, "durable": durable,
        "sent": sent, "committed": committed, "replied": replied,
    }  # fmt: skip


@pytest.mark.parametrize(("word", "reply"), [("lmtp", rb"250 2\.0\.0 "), ("append", rb"\w+ OK \[APPENDUID ")])
def test_disk_then_row_then_reply(demo: Demo, calls: list[Call], word: str, reply: bytes) -> None:
    staging = demo.directory / "staging"
    done = steps(calls, word, str(staging))
    for (before, earlier), (after, later) in itertools.pairwise(done.items()):
        assert earlier.is_before(later), f"{after} began before {before} had ended"
    for name in ("synced", "linked", "durable"):
        assert done[name].result == 0
    assert re.fullmatch(rf"{staging}/[0-9a-f]{{16}}-[0-9a-f]{{64}}\.eml", done["linked"].strings[1].decode())
    assert re.match(reply, done["replied"].data)


@pytest.mark.parametrize("failing", ["fdatasync", "fsync", "link"])
@pytest.mark.parametrize(("store", "declined"), [(deliver, "452"), (append, "NO")])
def test_what_is_not_on_disk_is_not_accepted(
    demo: Demo, tmp_path: Path, store: Callable[[Demo, str], str], declined: str, failing: str
) -> None:
    word = f"{store.__name__}-without-{failing}"
    with traced(demo, tmp_path / "calls", failing) as trace:
        assert store(demo, word) == declined
    assert [call for call in trace.calls() if call.name == failing and call.result == -1]
    assert not found(demo, word)
    assert store(demo, word) in ("250", "OK")
    assert found(demo, word)
