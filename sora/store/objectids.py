"""Messages by the names that OBJECTID gives them (RFC 8474): each search is a lookup, however large the mailbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sora.store.db import Database
    from sora.types import AccountId, MailboxId


class ObjectIds:
    """Lookups inside one mailbox; messages that are gone never come back."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def of_content(self, account_id: AccountId, mailbox_id: MailboxId, content_hash: bytes) -> list[int]:
        """UIDs of the messages with these octets, in no order."""
        return await self._uids(_OF_CONTENT, account_id, mailbox_id, content_hash)

    async def of_thread(self, account_id: AccountId, mailbox_id: MailboxId, thread_id: int) -> list[int]:
        """UIDs of the messages of a thread, in no order."""
        return await self._uids(_OF_THREAD, account_id, mailbox_id, thread_id)

    async def _uids(self, sql: str, account_id: AccountId, mailbox_id: MailboxId, key: bytes | int) -> list[int]:
        return await self._db.fetchval(sql, account_id, mailbox_id, key) or []


# A content that is being purged has no message any more, and stands in no index by its hash.
_BY_CONTENT: Final = """
    SELECT array_agg(m.uid) FROM (
      SELECT i.content_id FROM message_contents i WHERE i.account_id = $1 AND {key} AND i.purging_at IS NULL OFFSET 0) c
    CROSS JOIN LATERAL (
      SELECT i.uid, i.mailbox_id, i.expunged_at FROM messages i
      WHERE i.account_id = $1 AND i.content_id = c.content_id OFFSET 0) m
    WHERE m.mailbox_id = $2 AND m.expunged_at IS NULL
"""
_OF_CONTENT: Final = _BY_CONTENT.format(key="i.content_hash = $3")
_OF_THREAD: Final = _BY_CONTENT.format(key="i.thread_id = $3")
