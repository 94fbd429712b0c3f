"""CANCELUPDATE (RFC 5267) and UIDBATCHES (RFC 10022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from sora.errors import BadSyntax
from sora.wire.imap_syntax import quoted, whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sora._native.imapscan import Cursor


class CancelUpdate(Struct, frozen=True):
    """CANCELUPDATE (RFC 5267 §4.3.5); tags of searches with UPDATE."""

    tags: tuple[bytes, ...]


class UidBatches(Struct, frozen=True):
    """UIDBATCHES (RFC 10022 §3.1).

    Attributes:
        size: messages of a batch.
        batches: first and last batch asked for, from 1; may be the wrong way round; None: all.
    """

    size: int
    batches: tuple[int, int] | None = None


@whole
def parse_cancelupdate(cur: Cursor) -> CancelUpdate:
    """`1*(SP quoted)`."""
    tags = [_quoted(cur.sp())]
    while not cur.at_end():
        tags.append(_quoted(cur.sp()))
    return CancelUpdate(tuple(tags))


def _quoted(cur: Cursor) -> bytes:
    if cur.peek() != ord('"'):
        raise BadSyntax("Expected a tag in quotes")
    return cur.string()


@whole
def parse_uidbatches(cur: Cursor) -> UidBatches:
    """`SP nz-number [SP nz-number ":" nz-number]`."""
    size = cur.sp().nz_number()
    if cur.at_end():
        return UidBatches(size)
    first = cur.sp().nz_number()
    return UidBatches(size, (first, cur.expect(b":").nz_number()))


def uidbatches_line(tag: bytes, ranges: Iterable[tuple[int, int]]) -> bytes:
    """UIDBATCHES; ranges from high to low, the highest first."""
    written = b",".join([b"%d:%d" % span for span in ranges])
    return b"* UIDBATCHES (TAG %s)%s\r\n" % (quoted(tag), b" " + written if written else b"")
