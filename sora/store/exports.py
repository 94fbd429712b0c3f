"""What an export needs of messages: rows in the order of their UIDs, with flags, and where their bodies are."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.store.blobs import BlobRef
from sora.types import AccountId, ContentId, MailboxId, Uid

if TYPE_CHECKING:
    from sora.store.db import Database

PAGE: Final = 200


class ExportRow(Struct, frozen=True):
    """A live message; `flags`: numbers, ascending."""

    uid: Uid
    internal_date: datetime
    flags: tuple[int, ...]
    body: BlobRef


class Exports:
    """Reads messages for an export."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def rows(self, account_id: AccountId, mailbox_id: MailboxId, after: int) -> list[ExportRow]:
        """At most `PAGE` messages behind a UID."""
        rows = await self._db.fetch(_ROWS, account_id, mailbox_id, after, PAGE)
        return [
            ExportRow(
                Uid(row["uid"]),
                row["internal_date"],
                tuple(row["flags"]),
                BlobRef(account_id, ContentId(row["content_id"]), row["content_hash"], row["size"]),
            )
            for row in rows
        ]

    async def keywords(self, account_id: AccountId, mailbox_id: MailboxId) -> dict[int, str]:
        """Keywords that messages of a mailbox bear, or have borne: name by flag number."""
        rows = await self._db.fetch(_KEYWORDS, account_id, mailbox_id)
        return {row["flag_no"]: row["name"] for row in rows}


# OFFSET 0 as in `messages._select`: a lookup by key for each message.
_ROWS: Final = """
    SELECT m.uid, m.internal_date, m.content_id, c.content_hash, c.size, ARRAY(
      SELECT f.flag_no FROM message_flags f
      WHERE f.account_id = $1 AND f.mailbox_id = $2 AND f.block_no = (m.uid >> 10)::int
        AND get_bit(f.bits, (m.uid & 1023)::int) = 1 ORDER BY f.flag_no) AS flags
    FROM (
      SELECT i.uid, i.internal_date, i.content_id FROM messages i
      WHERE i.account_id = $1 AND i.mailbox_id = $2 AND i.uid > $3 AND i.expunged_at IS NULL
      ORDER BY i.uid LIMIT $4) m
    CROSS JOIN LATERAL (
      SELECT x.content_hash, x.size FROM message_contents x
      WHERE x.account_id = $1 AND x.content_id = m.content_id OFFSET 0) c
    ORDER BY m.uid
"""
_KEYWORDS: Final = """
    SELECT k.flag_no, k.name FROM account_keywords k
    WHERE k.account_id = $1 AND EXISTS (
      SELECT FROM message_flags f
      WHERE f.account_id = $1 AND f.mailbox_id = $2 AND f.flag_no = k.flag_no AND f.bits <> 0::bit(1024))
    ORDER BY k.flag_no
"""
