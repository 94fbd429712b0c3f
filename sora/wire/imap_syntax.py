"""What the IMAP grammar modules share: whole commands and lists on the way in, strings on the way out."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora._native.imapscan import Cursor

T = TypeVar("T")

_ASTRING: Final = re.compile(rb"[^\x00-\x20(){%*\"\\\x7f-\xff]+")
_QUOTABLE: Final = re.compile(rb"[^\x00\r\n\x80-\xff]*")
_QUOTABLE_UTF8: Final = re.compile(rb"[^\x00\r\n]*")
_SPECIALS: Final = re.compile(rb'(["\\])')

MAX_QUOTED: Final = 1024
"""Longer strings are written as literals, which some clients read more safely."""


def whole(parse: Callable[[Cursor], T]) -> Callable[[Cursor], T]:
    """Make a parse function demand that the command ends where it stops."""

    @functools.wraps(parse)
    def parse_whole(cur: Cursor) -> T:
        value = parse(cur)
        cur.end()
        return value

    return parse_whole


def parenthesised(cur: Cursor, parse_one: Callable[[Cursor], T], *, empty: bool = False) -> list[T]:
    """`"(" one *(SP one) ")"`; with *empty* also `()`."""
    cur.expect(b"(")
    if empty and cur.skip(b")"):
        return []
    found = [parse_one(cur)]
    while not cur.skip(b")"):
        found.append(parse_one(cur.sp()))
    return found


def quoted(text: bytes) -> bytes:
    """A quoted string; *text* must have no NUL, CR or LF."""
    return b'"' + _SPECIALS.sub(rb"\\\1", text) + b'"'


def literal(data: bytes) -> bytes:
    """A literal, as servers send it."""
    return b"{%d}\r\n%s" % (len(data), data)


def string(text: bytes, *, utf8: bool = False) -> bytes:
    """Quoted if the grammar allows it, else a literal.

    Args:
        utf8: the client takes UTF-8 in quoted strings (RFC 6855, RFC 9051).
    """
    quotable = _QUOTABLE_UTF8 if utf8 else _QUOTABLE
    if len(text) <= MAX_QUOTED and quotable.fullmatch(text):
        return quoted(text)
    return literal(text)


def nstring(text: bytes | None, *, utf8: bool = False) -> bytes:
    """NIL, or a string."""
    return b"NIL" if text is None else string(text, utf8=utf8)


def astring(text: bytes, *, utf8: bool = False) -> bytes:
    """An atom if it can be one, else a string. NIL is quoted: readers take the atom for no string at all."""
    if _ASTRING.fullmatch(text) and text.upper() != b"NIL":
        return text
    return string(text, utf8=utf8)
