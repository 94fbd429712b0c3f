"""Live keys in sessions of the real servers that were there before the reload."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.demo import Demo

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(120)


class Session:
    """A connection that sends a line and reads its answer."""

    def __init__(self, demo: Demo, server: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", demo.ports[server]), timeout=20)
        self.file = self.socket.makefile("rb")
        self.greeting = self.file.readline()

    def ask(self, line: str, until: str = "") -> str:
        """The first line of the answer that begins with `until`; empty at the end of the connection."""
        self.socket.sendall(line.encode() + b"\r\n")
        while (answer := self.file.readline().decode()) and not answer.startswith(until):
            pass
        return answer.rstrip()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with Demo(tmp_path_factory.mktemp("live") / "sora", "--workers", "1") as demo:
        yield demo


def reload(demo: Demo, **limits: str) -> None:
    """Reload with these limits and the defaults of all others."""
    path = Path(demo.config)
    kept = path.read_text().partition("\n[limits]")[0]
    path.write_text("\n".join([kept, "[limits]", *(f"{name} = {value}" for name, value in limits.items())]) + "\n")
    done = demo.ctl("reload", "--json")
    assert done.returncode == 0, done.stderr


def test_limits_of_commands_and_messages(demo: Demo) -> None:
    with contextlib.ExitStack() as stack:
        imap, lmtp = (stack.enter_context(contextlib.closing(Session(demo, name))) for name in ("imap", "lmtp"))
        assert imap.ask("a LOGIN user1@example.com demo", "a").startswith("a OK")
        assert lmtp.ask("LHLO client", "250 ")
        reload(demo, recipients="1", message_size='"1KB"', bad_commands="2", literal="10")
        assert lmtp.ask("MAIL FROM:<> SIZE=2000").startswith("552")
        assert lmtp.ask("MAIL FROM:<>").startswith("250")
        assert lmtp.ask("RCPT TO:<user1@example.com>").startswith("250")
        assert lmtp.ask("RCPT TO:<user2@example.com>").startswith("452")
        assert "TOOBIG" in imap.ask("b APPEND INBOX {2000}", "b")
        assert "TOOBIG" in imap.ask("c CREATE {20}", "c")
        assert imap.ask("d NOOP", "d").startswith("d OK")
        assert imap.ask("e NONSENSE", "e").startswith("e BAD")
        assert imap.ask("f NONSENSE", "* BYE")


def test_limits_of_connections_and_time(demo: Demo) -> None:
    with contextlib.ExitStack() as stack:

        def session(server: str) -> Session:
            return stack.enter_context(contextlib.closing(Session(demo, server)))

        old = session("imap")
        assert old.ask("a LOGIN user1@example.com demo", "a").startswith("a OK")
        waiting = session("imap")
        reload(
            demo,
            connections_per_account="1",
            connections_per_address="1",
            exempt_networks="[]",
            imap_idle_timeout='"1s"',
        )
        assert not waiting.ask("b LOGIN user1@example.com demo", "b").startswith("b OK")  # the old one holds the place
        counted = session("pop3")
        assert counted.greeting.startswith(b"+OK")
        assert not session("pop3").greeting.startswith(b"+OK")
        assert old.ask("c NOOP", "c").startswith("c OK")
        assert old.file.readline().startswith(b"* BYE")
