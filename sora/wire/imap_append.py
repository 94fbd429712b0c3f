"""APPEND and REPLACE: their values, their grammar, and how they are read while their messages are still to come.

A message is a literal, or a list of texts and URLs that are put together (CATENATE, RFC 4469). Literals are announced
one by one, so a command is read from one to the next, each octet of it once; when it is whole it is parsed as others.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from sora._native.seqset import SeqSet, UidSet
from sora.errors import BadSyntax
from sora.wire.imap_syntax import whole

if TYPE_CHECKING:
    from datetime import datetime

    from sora._native.imapscan import Cursor


class Text(Struct, frozen=True):
    """A literal of CATENATE: `TEXT {n}`, or `UTF8 (~{n})` (RFC 6855 §4)."""

    size: int


class Url(Struct, frozen=True):
    """A URL of CATENATE, as it was sent."""

    url: bytes


Part: TypeAlias = "Text | Url"


class AppendItem(Struct, frozen=True):
    """One message of APPEND.

    Attributes:
        internal_date: aware, or None for now.
        size: octets announced.
        binary: sent as literal8 (RFC 3516): NUL allowed.
        utf8: sent as `UTF8 (~{n}...)` (RFC 6855 §4).
        data: None if the literal is streamed or not read yet.
        parts: what it is put together of (RFC 4469); empty: it is a literal.
    """

    flags: tuple[bytes, ...]
    internal_date: datetime | None
    size: int
    binary: bool = False
    utf8: bool = False
    data: bytes | None = None
    parts: tuple[Part, ...] = ()


class Append(Struct, frozen=True):
    """APPEND (RFC 9051 §6.3.12), one message or several (RFC 3502)."""

    mailbox: str
    items: tuple[AppendItem, ...]


class Replace(Struct, frozen=True):
    """REPLACE and UID REPLACE (RFC 8508 §3).

    Attributes:
        messages: one number, or `*`.
    """

    messages: SeqSet | UidSet
    mailbox: str
    items: tuple[AppendItem, ...]


@whole
def parse_append(cur: Cursor) -> Append:
    """`SP mailbox 1*append-message` (RFC 3502 §5).

    Also reads a command that is not whole yet (`Scanner.partial()`): the message announced is then the last item.
    """
    mailbox = cur.sp().mailbox()
    items = [_parse_item(cur)]
    while cur.peek() == ord(" "):
        items.append(_parse_item(cur))
    return Append(mailbox, tuple(items))


@whole
def parse_replace(cur: Cursor) -> Replace:
    """`SP seq-number SP mailbox append-message` (RFC 8508 §5)."""
    messages = _parse_number(cur.sp())
    mailbox = cur.sp().mailbox()
    return Replace(messages, mailbox, (_parse_item(cur),))


def _parse_number(cur: Cursor) -> SeqSet | UidSet:
    """`nz-number / "*"`."""
    kind = UidSet if cur.uid else SeqSet
    return kind.parse(b"*") if cur.skip(b"*") else kind.from_numbers([cur.nz_number()])


def _parse_item(cur: Cursor) -> AppendItem:
    """`[SP flag-list] [SP date-time] SP (literal / literal8 / utf8-literal / catenated)`."""
    flags, internal_date = _parse_head(cur)
    if cur.skip(b"CATENATE ("):
        return AppendItem(flags, internal_date, 0, parts=tuple(_parse_parts(cur)))
    utf8 = cur.skip(b"UTF8 (")
    pending = cur.at_pending()
    message = cur.literal()
    if utf8 and not pending:
        cur.expect(b")")
    return AppendItem(flags, internal_date, message.size, message.binary, utf8, message.data)


def _parse_head(cur: Cursor) -> tuple[tuple[bytes, ...], datetime | None]:
    flags: tuple[bytes, ...] = ()
    internal_date: datetime | None = None
    if cur.sp().peek() == ord("("):
        flags = cur.flags()
        cur.sp()
    if cur.peek() == ord('"'):
        internal_date = cur.date_time()
        cur.sp()
    return flags, internal_date


def _parse_parts(cur: Cursor) -> list[Part]:
    """`cat-part *(SP cat-part) ")"` (RFC 4469 §5)."""
    parts: list[Part] = []
    while True:
        if cur.skip(b"URL "):
            parts.append(Url(cur.astring()))
        else:
            utf8 = _skip_text(cur)
            parts.append(Text(cur.literal().size))
            if utf8:
                cur.expect(b")")
        if cur.skip(b")"):
            return parts
        cur.sp()


def _skip_text(cur: Cursor) -> bool:
    """What stands before a literal of CATENATE; True if a parenthesis follows it."""
    if cur.skip(b"UTF8 ("):
        return True
    cur.expect(b"TEXT ")
    return False


# ------------------------------------------------------------------------------------------------- while it is coming


class Step(enum.Enum):
    """What a reader meets beside URLs."""

    MESSAGE = enum.auto()
    """A message that is one literal: the one announced."""
    BEGIN = enum.auto()
    """A message that is put together."""
    END = enum.auto()
    """It is whole."""


class Reader:
    """Reads the arguments of a command up to the literal that was announced last.

    Args:
        cur: Stands behind the name of the command.
        replaces: The command is REPLACE.

    Attributes:
        mailbox: None: it is the literal announced.
        messages: What REPLACE is to replace.
    """

    __slots__ = ("_cur", "_first", "_inside", "_replaces", "_start", "_taken", "_utf8", "mailbox", "messages")

    def __init__(self, cur: Cursor, *, replaces: bool) -> None:
        self.mailbox: str | None = None
        self.messages: SeqSet | UidSet | None = None
        self._cur = cur
        self._start = cur.mark()
        self._replaces = replaces
        self._inside = False
        self._first = False
        self._utf8 = False
        self._taken = False

    def rewind(self) -> None:
        """The command is whole, and will be parsed."""
        self._cur.reset(self._start)

    def advance(self) -> tuple[list[Step | Url], bool]:
        """What has come since the last call, in order, and whether the literal announced is octets of a message.

        Raises:
            BadSyntax: The command is wrong already.
        """
        steps: list[Step | Url] = []
        if self.mailbox is None and not self._read_mailbox():
            return steps, False
        if self._taken:
            self._pass_literal()
        while (message := self._inside_list(steps) if self._inside else self._between(steps)) is None:
            pass
        return steps, message

    def _read_mailbox(self) -> bool:
        cur = self._cur
        cur.reset(self._start)
        cur.sp()
        if self._replaces:
            self.messages = _parse_number(cur)
            cur.sp()
        if cur.at_pending():
            return False
        self.mailbox = cur.mailbox()
        return True

    def _pass_literal(self) -> None:
        self._taken = False
        self._cur.literal()
        if self._utf8:
            self._cur.expect(b")")

    def _between(self, steps: list[Step | Url]) -> bool | None:
        """The head of a message."""
        cur = self._cur
        _parse_head(cur)
        if cur.skip(b"CATENATE ("):
            self._inside = self._first = True
            steps.append(Step.BEGIN)
            return None
        self._utf8 = cur.skip(b"UTF8 (")
        steps.append(Step.MESSAGE)
        return self._stop()

    def _inside_list(self, steps: list[Step | Url]) -> bool | None:
        """A part of a message, or its end."""
        cur = self._cur
        if not self._first and cur.skip(b")"):
            self._inside = False
            steps.append(Step.END)
            return None
        mark = cur.mark()
        if not self._first:
            cur.sp()
        if cur.skip(b"URL "):
            if cur.at_pending():
                cur.reset(mark)  # it is read again when the URL is there
                return False
            steps.append(Url(cur.astring()))
            self._first = False
            return None
        self._utf8 = _skip_text(cur)
        self._first = False
        return self._stop()

    def _stop(self) -> bool:
        if not self._cur.at_pending():
            raise BadSyntax("A message needs a literal")
        self._taken = True
        return True
