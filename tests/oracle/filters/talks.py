"""What is said to a server: scripts by ManageSieve, mail by LMTP; and who takes the mail that scripts send."""

from __future__ import annotations

import re
import socket
import threading
from base64 import b64encode
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

from aiosmtpd.controller import Controller
from msgspec import Struct

from tests.oracle.dovecot import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_REPLY: Final = re.compile(r"[2-5][0-9]{2}(?:[ -]|\Z)")
_LITERAL: Final = re.compile(rb"\{(\d+)\+?\}\r\n\Z")


class Conversation:
    """Lines over a connection to loopback; a context manager that closes it."""

    def __init__(self, port: int) -> None:
        self._stack = ExitStack()
        self._socket = self._stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        self._file = self._stack.enter_context(self._socket.makefile("rb"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, octets: bytes) -> None:
        """Send."""
        self._socket.sendall(octets)

    def line(self) -> bytes:
        """The next line.

        Raises:
            ConnectionResetError: There is none.
        """
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError(f"the connection ended: {line!r}")
        return line

    def read(self, size: int) -> bytes:
        """So many octets."""
        return self._file.read(size)


class ManageSieve(Conversation):
    """A logged-in ManageSieve connection."""

    def __init__(self, port: int, user: str, password: str) -> None:
        super().__init__(port)
        self.answer()
        initial = b64encode(f"\0{user}\0{password}".encode())
        self.ok(b'AUTHENTICATE "PLAIN" "%b"' % initial)

    def answer(self) -> tuple[bytes, str]:
        """The status of a response, and all that stands around it."""
        text = b""
        while True:
            line = self.line()
            first = line.split(b" ", 1)[0].strip()
            while literal := _LITERAL.search(line):
                line = line[: literal.start()] + self.read(int(literal[1])) + self.line()
            text += line
            if first in (b"OK", b"NO", b"BYE"):
                return first, text.decode("utf-8", "replace")

    def ask(self, command: bytes) -> tuple[bytes, str]:
        """A command and its answer."""
        self.send(command + b"\r\n")
        return self.answer()

    def ok(self, command: bytes) -> None:
        """A command that must succeed."""
        status, text = self.ask(command)
        assert status == b"OK", (command[:100], text)

    def put(self, name: str, script: bytes) -> str:
        """Store a script; why it was refused, or nothing."""
        status, text = self.ask(b'PUTSCRIPT "%b" {%d+}\r\n%b' % (name.encode(), len(script), script))
        return "" if status == b"OK" else text


class Lmtp(Conversation):
    """An LMTP connection."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.reply()
        self.command("LHLO client.example")

    def reply(self) -> str:
        """One reply, its lines joined.

        Raises:
            ConnectionResetError: It is none.
        """
        lines = []
        while True:
            line = self.line().decode("utf-8", "replace").rstrip("\r\n")
            if not _REPLY.match(line):
                raise ConnectionResetError(f"this is no line of a reply: {line!r}")
            lines.append(line[4:])
            if line[3:4] != "-":
                return line[:4] + "\n".join(lines)

    def command(self, text: str) -> str:
        """One command and its reply."""
        self.send(text.encode() + b"\r\n")
        return self.reply()

    def deliver(self, sender: str, recipients: Sequence[str], data: bytes, parameters: str = "") -> list[str]:
        """The reply for each recipient: to its RCPT if it was not taken."""
        reply = self.command(f"MAIL FROM:<{sender}>{parameters}")
        assert reply[0] == "2", (sender, reply)
        replies = {recipient: self.command(f"RCPT TO:<{recipient}>") for recipient in recipients}
        taken = [recipient for recipient, reply in replies.items() if reply[0] == "2"]
        if not taken:
            self.command("RSET")
            return list(replies.values())
        assert self.command("DATA")[0] == "3"
        self.send(re.sub(rb"(?m)^\.", b"..", data) + b".\r\n")
        for recipient in taken:
            replies[recipient] = self.reply()
        return list(replies.values())


# --------------------------------------------------------------------------------------------------------- the sink


class Sent(Struct, frozen=True):
    """A message that arrived at the sink."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes


class Sink:
    """An SMTP server that takes everything; a context manager that stops it.

    Attributes:
        port: Where it listens.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._taken: list[Sent] = []
        self._changed = threading.Condition()
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, enable_SMTPUTF8=True)

    def __enter__(self) -> Self:
        self._controller.start()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()  # type: ignore[no-untyped-call]

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        """See aiosmtpd."""
        with self._changed:
            sender = envelope.mail_from.removeprefix("<").removesuffix(">")
            self._taken.append(Sent(sender, tuple(envelope.rcpt_tos), bytes(envelope.content)))
            self._changed.notify_all()
        return "250 2.0.0 taken"

    def taken(self) -> list[Sent]:
        """All that has arrived."""
        with self._changed:
            return list(self._taken)

    def wait(self, enough: Callable[[list[Sent]], bool], timeout_s: float) -> bool:
        """Until enough has arrived."""
        with self._changed:
            return self._changed.wait_for(lambda: enough(self._taken), timeout_s)
