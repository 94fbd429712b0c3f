"""`body_copies`: the second copy of bodies that are not in the object store yet (`uploader.durability = "database"`).

The stored octets, as they are in staging: sealed where encryption is on. Small bodies go in with the call that makes
the message (`Messages.deliver`); a body above `INLINE_BYTES` follows in the same transaction, `PART_BYTES` at a time,
so that neither we nor PostgreSQL hold it in memory more than once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sora.store.blobs import BlobRef
    from sora.store.db import Connection, Database
    from sora.store.diskfile import Octets
    from sora.types import AccountId, ContentId

INLINE_BYTES: Final = 512 * 1024
"""Up to here a body is an argument of the call. A batch of 64 such is 32 MiB, which is what a lane stages at a time."""
PART_BYTES: Final = 2 * 1024 * 1024

Pieces = tuple["Octets", ...]
"""A body as it was staged: in pieces that are never joined, because a large one may be the mapping of a file."""


class BodyCopies:
    """Reads copies; also a source of `Bodies`."""

    name = "database"
    remote = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(self, ref: BlobRef) -> bytes | None:
        """The stored octets; None if the database has no copy.

        Raises:
            Unavailable: It cannot be asked.
        """
        first = await self._part(ref, 0)
        if first is None or len(first) < PART_BYTES:
            return first
        parts = [first]
        while part := await self._part(ref, len(parts)):
            parts.append(part)
        return b"".join(parts)

    async def quarantine(self, ref: BlobRef) -> None:
        """A copy stays where it is, for a person to look at; it goes when the right body is uploaded."""

    async def _part(self, ref: BlobRef, number: int) -> bytes | None:
        body: bytes | None = await self._db.fetchval(
            "SELECT body FROM body_copies WHERE account_id = $1 AND content_id = $2 AND part = $3",
            ref.account_id,
            ref.content_id,
            number,
        )
        return body


async def add_parts(conn: Connection, account_id: AccountId, content_id: ContentId, pieces: Sequence[Octets]) -> None:
    """In the transaction that made the message: keep a large body, unless its object is there already."""
    if not await conn.fetchval(
        """
        SELECT c.uploaded_at IS NULL AND NOT EXISTS (
          SELECT 1 FROM body_copies b WHERE b.account_id = c.account_id AND b.content_id = c.content_id)
        FROM message_contents c WHERE c.account_id = $1 AND c.content_id = $2
        """,
        account_id,
        content_id,
    ):
        return
    for number, part in enumerate(cut(pieces, PART_BYTES)):
        await conn.execute(
            "INSERT INTO body_copies (account_id, content_id, part, body) VALUES ($1, $2, $3, $4)",
            account_id,
            content_id,
            number,
            part,
        )


def cut(pieces: Sequence[Octets], size: int) -> Iterator[bytes]:
    """The pieces again, in parts of exactly `size` octets but for the last, which is shorter: it may be empty.

    A part that is not full ends the body, so a reader needs no count.
    """
    held = bytearray()
    for piece in pieces:
        start = 0
        while start < len(piece):
            taken = piece[start : start + size - len(held)]
            held += taken
            start += len(taken)
            if len(held) == size:
                yield bytes(held)
                held.clear()
    yield bytes(held)
