"""Writers of IMAP responses: plain values in, bytes out (RFC 9051 §7).

A `..._line` function writes a whole untagged response; the others write a piece of one. Mailbox names are text and
become modified UTF-7, or UTF-8 for a client that has enabled it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora.wire import utf7
from sora.wire.imap_syntax import astring, literal, nstring, quoted, string

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sora._native.seqset import UidSet

__all__ = [
    "appenduid", "astring", "copyuid", "flag_list", "list_line", "literal", "mailbox",
    "nstring", "quoted", "search_line", "status_line", "string", "vanished_line",
]  # fmt: skip


def mailbox(name: str, *, utf8: bool = False) -> bytes:
    """A mailbox name."""
    return astring(name.encode() if utf8 else utf7.encode(name), utf8=utf8)


def flag_list(flags: Iterable[bytes]) -> bytes:
    r"""`(\Seen kw)`."""
    return b"(" + b" ".join(flags) + b")"


def list_line(
    attributes: Iterable[bytes],
    name: str,
    *,
    delimiter: str | None = "/",
    verb: bytes = b"LIST",
    child_info: Iterable[str] = (),
    old_name: str | None = None,
    utf8: bool = False,
) -> bytes:
    """LIST or LSUB.

    Args:
        attributes: such as rb"\\HasChildren".
        delimiter: None: the hierarchy is flat.
        child_info: selection options that match below this name (RFC 5258 §3.5).
        old_name: by which the client knows the mailbox (RFC 9051 §6.3.9.7, RFC 5465 §5.4).
    """
    separator = b"NIL" if delimiter is None else quoted(delimiter.encode())
    # A name that asks for the delimiter alone is empty, and an empty astring is quoted.
    line = b"* %s %s %s %s" % (verb, flag_list(attributes), separator, mailbox(name, utf8=utf8))
    options = b" ".join(quoted(option.encode()) for option in child_info)
    items = [b'"CHILDINFO" (%s)' % options] if options else []
    if old_name is not None:
        items.append(b'"OLDNAME" (%s)' % mailbox(old_name, utf8=utf8))
    return line + (b" (%s)\r\n" % b" ".join(items) if items else b"\r\n")


def status_line(name: str, items: Iterable[tuple[str, bytes]], *, utf8: bool = False) -> bytes:
    """STATUS; items with their values, in the order in which they were asked for."""
    values = b" ".join(b"%s %s" % (item.encode(), value) for item, value in items)
    return b"* STATUS %s (%s)\r\n" % (mailbox(name, utf8=utf8), values)


def search_line(numbers: Iterable[int], *, modseq: int | None = None) -> bytes:
    """The SEARCH response of RFC 3501 §7.2.5; *modseq* is the highest one found (RFC 7162 §3.1.5)."""
    found = b"".join(b" %d" % number for number in numbers)
    if modseq is None or not found:
        return b"* SEARCH%s\r\n" % found
    return b"* SEARCH%s (MODSEQ %d)\r\n" % (found, modseq)


def appenduid(uidvalidity: int, uids: UidSet) -> bytes:
    """Response code APPENDUID (RFC 4315 §3)."""
    return b"APPENDUID %d %s" % (uidvalidity, bytes(uids))


def copyuid(uidvalidity: int, source: UidSet, target: UidSet) -> bytes:
    """Response code COPYUID (RFC 4315 §3): the sets belong together pairwise, both ascending."""
    return b"COPYUID %d %s %s" % (uidvalidity, bytes(source), bytes(target))


def vanished_line(uids: UidSet, *, earlier: bool = False) -> bytes:
    """VANISHED (RFC 7162 §3.2.10)."""
    return b"* VANISHED %s%s\r\n" % (b"(EARLIER) " if earlier else b"", bytes(uids))
