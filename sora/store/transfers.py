"""COPY and MOVE into a mailbox of another account, which has contents, hashes and keywords of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sora.errors import OverQuota
from sora.store.copies import add_parts
from sora.store.messages import CopyResult
from sora.types import AccountId, ContentId, MailboxId, Rights

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sora._native.seqset import UidSet
    from sora.store.copies import Pieces
    from sora.store.db import Connection, Database


class Transfer(Struct, frozen=True):
    """Messages on their way from one mailbox to another.

    Attributes:
        actor_id: who does it: of the \\Seen flags this one's is taken along.
        rights: the actor's in the target; flags that they do not allow to set stay behind (RFC 4314 §4).
        move: expunge them at the source.
    """

    account_id: AccountId
    mailbox_id: MailboxId
    to_account_id: AccountId
    to_mailbox_id: MailboxId
    actor_id: AccountId
    rights: Rights
    move: bool = False


class Copied(Struct, frozen=True):
    """What was copied, and the contents that it has in the other account."""

    result: CopyResult
    content_ids: list[ContentId]


class Transfers:
    """Messages that go from one account to another."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def require_room(self, account_id: AccountId, size: int) -> None:
        """Refuse what cannot fit, before bodies are read and written; the commit decides.

        Raises:
            OverQuota: so many octets do not fit.
        """
        left: int | None = await self._db.fetchval("SELECT room_left($1)", account_id)
        if left is not None and left < size:
            raise OverQuota

    async def across(
        self,
        transfer: Transfer,
        uids: UidSet,
        hashes: Mapping[ContentId, bytes],
        instance_id: str,
        body_of: Callable[[bytes], Awaitable[Pieces]] | None = None,
    ) -> Copied:
        """Make messages of bodies that are staged for the other account, all or none.

        Args:
            uids: those that are gone are skipped.
            hashes: what each content is called in the other account.
            instance_id: where the bodies are staged.
            body_of: the stored octets of a staged body, by its new hash: of each new content a copy is kept in the
                database. None: none is.

        Raises:
            NotFound: one of the mailboxes is gone.
            OverQuota: nothing was copied.
        """
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(
                _MOVE if transfer.move else _COPY,
                transfer.account_id, transfer.mailbox_id, transfer.to_account_id, transfer.to_mailbox_id,
                *uids.bounds(), transfer.actor_id, instance_id, list(hashes), list(hashes.values()),
                int(transfer.rights),
            )  # fmt: skip
            result = CopyResult(**row)
            contents = await self._contents(conn, transfer, result)
            if body_of is not None:
                for content_id, content_hash in contents:
                    await add_parts(conn, transfer.to_account_id, content_id, await body_of(content_hash))
        return Copied(result, [content_id for content_id, _ in contents])

    async def _contents(
        self, conn: Connection, transfer: Transfer, result: CopyResult
    ) -> list[tuple[ContentId, bytes]]:
        rows: list[Any] = await conn.fetch(
            _CONTENTS, transfer.to_account_id, transfer.to_mailbox_id, result.target_uids
        )
        return [(ContentId(row["content_id"]), row["content_hash"]) for row in rows]


_COPY = "SELECT * FROM copy_messages($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_MOVE = _COPY.replace("copy_", "move_")
_CONTENTS = """
    SELECT DISTINCT c.content_id, c.content_hash FROM unnest($3::bigint[]) u (uid)
    CROSS JOIN LATERAL (
      SELECT i.content_id FROM messages i WHERE i.account_id = $1 AND i.mailbox_id = $2 AND i.uid = u.uid OFFSET 0) m
    CROSS JOIN LATERAL (
      SELECT i.content_id, i.content_hash FROM message_contents i
      WHERE i.account_id = $1 AND i.content_id = m.content_id OFFSET 0) c
"""
