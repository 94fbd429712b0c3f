"""A small IMAP client that gives answers as values: quoted or literal, the text is the same."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

Value = object
"""bytes (a string or an atom), None (NIL) or a list of values."""

BURST: Final = 50
"""Commands that are sent without waiting."""

_LITERAL: Final = re.compile(rb"~?\{(\d+)\}\r\n\Z")
_ATOM: Final = re.compile(rb"[^\s()\[\]\"{]+(?:\[[^\]]*\](?:<\d+>)?)?")


class Answer(Struct, frozen=True):
    """What a command was answered.

    Attributes:
        status: `OK`, `NO` or `BAD`.
        text: What stands behind it.
        untagged: Lines with their literals in place, without the last line end.
    """

    status: bytes
    text: bytes
    untagged: list[bytes]


class Client:
    """A logged-in connection.

    Args:
        port: On 127.0.0.1.
    """

    def __init__(self, port: int, user: str, password: str) -> None:
        self._port = port
        self._login = b"LOGIN %b %b" % (user.encode(), password.encode())
        self._number = 0
        self._mailbox = b""
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=15)
        self._file = self._socket.makefile("rb")
        greeting = self._file.readline()
        assert greeting.startswith(b"* OK"), greeting
        self.ok(self._login)
        if self._mailbox:
            self.select(self._mailbox)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def select(self, mailbox: bytes) -> None:
        """Select a mailbox, and again after each loss of the connection."""
        self.ok(b"SELECT " + mailbox)
        self._mailbox = mailbox

    def ok(self, command: bytes) -> list[bytes]:
        """The untagged lines of a command that must succeed."""
        answer = self.ask([command])[0]
        assert answer.status == b"OK", (command[:200], answer.status, answer.text)
        return answer.untagged

    def ask(self, commands: Iterable[bytes]) -> list[Answer]:
        """Answers of commands, which are sent fifty at a time; literals in them are non-synchronizing.

        A server that says BYE to a command is left and called again; that command's status is `BYE`.
        """
        answers: list[Answer] = []
        waiting = list(commands)
        for start in range(0, len(waiting), BURST):
            burst = waiting[start : start + BURST]
            try:
                answers += self._burst(burst)
            except ConnectionResetError:
                self._again()
                answers += map(self._alone, burst)
        return answers

    def _alone(self, command: bytes) -> Answer:
        try:
            return self._burst([command])[0]
        except ConnectionResetError as bye:
            self._again()
            return Answer(b"BYE", str(bye).encode(), [])

    def _again(self) -> None:
        self.__exit__()
        self._connect()

    def _burst(self, commands: list[bytes]) -> list[Answer]:
        """Answers in order.

        Raises:
            ConnectionResetError: The server said BYE to one of them.
        """
        tags = []
        out = []
        for command in commands:
            self._number += 1
            tags.append(b"t%d" % self._number)
            out.append(b"%b %b\r\n" % (tags[-1], command))
        self._socket.sendall(b"".join(out))
        return [self._answer(tag) for tag in tags]

    def _answer(self, tag: bytes) -> Answer:
        untagged: list[bytes] = []
        while True:
            line = self._line()
            if line.startswith(b"* BYE"):
                raise ConnectionResetError(line)
            if line.startswith(tag + b" "):
                _, status, text = line.rstrip(b"\r\n").split(b" ", 2)
                return Answer(status, text, untagged)
            untagged.append(line.removesuffix(b"\r\n"))

    def _line(self) -> bytes:
        """A line with the literals in it."""
        pieces: list[bytes] = []
        while True:
            line = self._file.readline()
            if not line.endswith(b"\r\n"):
                raise ConnectionResetError(f"the connection ended: {b''.join(pieces)[-200:]!r} {line!r}")
            pieces.append(line)
            if not (literal := _LITERAL.search(line)):
                return b"".join(pieces)
            pieces.append(self._file.read(int(literal[1])))


def fetched(line: bytes) -> tuple[int, dict[bytes, Value]] | None:
    """Sequence number and items of a FETCH response; None for another one.

    Raises:
        ValueError: It does not follow the grammar.
    """
    match = re.match(rb"\* (\d+) FETCH \(", line)
    if match is None:
        return None
    items, end = _list(line, match.end())
    if end != len(line):
        raise ValueError(f"text behind the response: {line[end:][:100]!r}")
    return int(match[1]), dict(zip(items[::2], items[1::2], strict=True))  # type: ignore[arg-type]


def parse(text: bytes) -> Value:
    """A single value.

    Raises:
        ValueError: It does not follow the grammar.
    """
    value, end = _value(text, 0)
    if end != len(text):
        raise ValueError(f"text behind the value: {text[end:][:100]!r}")
    return value


def _list(text: bytes, at: int) -> tuple[list[Value], int]:
    """The values up to the parenthesis that closes the list."""
    values: list[Value] = []
    while True:
        while text[at : at + 1] == b" ":
            at += 1
        if text[at : at + 1] == b")":
            return values, at + 1
        value, at = _value(text, at)
        values.append(value)


def _value(text: bytes, at: int) -> tuple[Value, int]:
    first = text[at : at + 1]
    if first == b"(":
        return _list(text, at + 1)
    if first == b'"':
        return _quoted(text, at + 1)
    if literal := re.compile(rb"~?\{(\d+)\}\r\n").match(text, at):
        end = literal.end() + int(literal[1])
        return text[literal.end() : end], end
    atom = _ATOM.match(text, at)
    if atom is None:
        raise ValueError(f"no value at {text[at : at + 100]!r}")
    return (None if atom[0].upper() == b"NIL" else atom[0]), atom.end()


def _quoted(text: bytes, at: int) -> tuple[bytes, int]:
    match = re.compile(rb'((?:[^"\\\r\n\0\x80-\xff]|\\["\\])*)"').match(text, at)
    if match is None:
        raise ValueError(f"a quoted string that is none: {text[at : at + 100]!r}")
    return re.sub(rb"\\(.)", rb"\1", match[1]), match.end()
