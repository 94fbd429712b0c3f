"""METADATA (RFC 5464): commands in, responses out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax
from sora.wire.imap_responses import mailbox
from sora.wire.imap_syntax import astring, literal, nstring, parenthesised, whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sora._native.imapscan import Cursor

DEPTHS: Final = {b"0": 0, b"1": 1, b"INFINITY": 2}
MAX_NAME: Final = 1000
VENDOR_LEVELS: Final = 4
ENTRY_BEGINS: Final = frozenset(b'/"{')


class Asked(Struct, frozen=True):
    """What GETMETADATA, or LIST RETURN (METADATA ...), asks of a mailbox.

    Attributes:
        entries: as they came, each once.
        depth: levels below them: 0, 1, or 2 for all.
        max_size: of the values; None: no limit.
    """

    entries: tuple[str, ...]
    depth: int = 0
    max_size: int | None = None


class GetMetadata(Struct, frozen=True):
    """GETMETADATA (RFC 5464 §4.2); the mailbox without a name is the server."""

    mailbox: str
    asked: Asked


class SetMetadata(Struct, frozen=True):
    """SETMETADATA (RFC 5464 §4.3).

    Attributes:
        values: by name in lower case; None removes an entry.
    """

    mailbox: str
    values: dict[str, bytes | None]


@whole
def parse_getmetadata(cur: Cursor) -> GetMetadata:
    """`[SP getmetadata-options] SP mailbox SP entries`.

    The examples of the RFC have the options behind the mailbox, the grammar before it: both are taken.
    """
    options = _parse_options(cur) if cur.sp().peek() == ord("(") else None
    name = (cur if options is None else cur.sp()).mailbox()
    return GetMetadata(name, parse_asked(cur, options))


def parse_asked(cur: Cursor, options: dict[str, int] | None = None) -> Asked:
    """`[SP options] SP entries`; entries begin with a slash, options never do."""
    mark = cur.sp().mark()
    if options is None and cur.skip(b"("):
        has_options = cur.peek() not in ENTRY_BEGINS
        cur.reset(mark)
        options = _parse_options(cur) if has_options else {}
        if has_options:
            cur.sp()
    options = options or {}
    entries = parenthesised(cur, _parse_entry) if cur.peek() == ord("(") else [_parse_entry(cur)]
    return Asked(tuple(dict.fromkeys(entries)), options.get("DEPTH", 0), options.get("MAXSIZE"))


def _parse_options(cur: Cursor) -> dict[str, int]:
    """`"(" option *(SP option) ")"`."""

    def option(cur: Cursor) -> tuple[str, int]:
        name = cur.keyword()
        if name == b"MAXSIZE":
            return "MAXSIZE", cur.sp().number()
        if name == b"DEPTH" and (depth := DEPTHS.get(cur.sp().keyword())) is not None:
            return "DEPTH", depth
        raise BadSyntax("There is no such option of GETMETADATA")

    return dict(parenthesised(cur, option))


def _parse_entry(cur: Cursor) -> str:
    """An entry that may also be only the way to others."""
    return check_name(cur.astring())


@whole
def parse_setmetadata(cur: Cursor) -> SetMetadata:
    """`SP mailbox SP "(" entry SP value *(SP entry SP value) ")"`."""
    name = cur.sp().mailbox()
    values: dict[str, bytes | None] = {}

    def pair(cur: Cursor) -> None:
        entry = check_settable(check_name(cur.astring()).lower())
        values[entry] = _parse_value(cur.sp())

    parenthesised(cur.sp(), pair)
    return SetMetadata(name, values)


def _parse_value(cur: Cursor) -> bytes | None:
    """`nstring / literal8`."""
    if cur.at_literal():
        return cur.literal().data
    return cur.nstring()


def check_name(name: bytes) -> str:
    """The name of an entry, or of what is above entries.

    Raises:
        BadSyntax: RFC 5464 §3.2: it cannot be one.
    """
    text = name.decode("ascii", "replace")
    folded = text.lower()
    if not (folded + "/").startswith(("/private/", "/shared/")):
        raise BadSyntax("An entry begins with /private or /shared")
    if len(text) > MAX_NAME or "//" in text or text.endswith("/"):
        raise BadSyntax("A level of the entry is empty, or it is too long")
    if not text.isascii() or not text.isprintable() or not {"*", "%"}.isdisjoint(text):
        raise BadSyntax("An entry has no wildcards, no control characters and only US-ASCII")
    return text


def check_settable(name: str) -> str:
    """An entry that can have a value.

    Raises:
        BadSyntax: It stands above those that can.
    """
    levels = name.split("/")[1:]
    if len(levels) < (VENDOR_LEVELS if levels[1:2] == ["vendor"] else 2):
        raise BadSyntax("Such an entry has no value, only entries below it")
    return name


def metadata_changed_line(name: str, entries: Iterable[str], *, utf8: bool = False) -> bytes:
    """METADATA without values: entries that have changed (RFC 5464 §4.4.2)."""
    return b"* METADATA %s %s\r\n" % (mailbox(name, utf8=utf8), b" ".join(astring(entry.encode()) for entry in entries))


def metadata_line(name: str, values: Iterable[tuple[str, bytes | None]], *, utf8: bool = False) -> bytes:
    """METADATA with values (RFC 5464 §4.4.1); None: the entry has none."""
    words = [astring(entry.encode()) + b" " + _write_value(value) for entry, value in values]
    return b"* METADATA %s (%s)\r\n" % (mailbox(name, utf8=utf8), b" ".join(words))


def _write_value(value: bytes | None) -> bytes:
    return b"~" + literal(value) if value is not None and b"\0" in value else nstring(value)
