"""What happens to the tree of an account: names, subscriptions, rights and annotations, counted by one seq."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from sora.types import AccountId, MailboxId, ModSeq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sora.store.db import Database


class TreeChange(Struct, frozen=True):
    """One row of `account_changes`.

    Attributes:
        kind: create, rename, delete, restore, subscribe, unsubscribe, acl, metadata or special_use.
        mailbox_id: None for what is about a name alone.
        old_name: of rename: the name before; of metadata: the entries, separated by spaces.
    """

    account_id: AccountId
    seq: ModSeq
    kind: str
    mailbox_id: MailboxId | None
    name: str | None
    old_name: str | None


class Trees:
    """Changes of accounts' trees."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def seq(self, account_id: AccountId) -> ModSeq:
        """The seq of the last change; 0 if there was none, or there is no such account."""
        seq = await self._db.fetchval("SELECT change_seq FROM accounts WHERE account_id = $1", account_id)
        return ModSeq(seq or 0)

    async def changes(self, known: Mapping[AccountId, ModSeq]) -> list[TreeChange]:
        """What came after these seqs, in order; a gap behind one: it is older than changes are kept."""
        rows = await self._db.fetch("SELECT * FROM poll_accounts($1, $2)", list(known), list(known.values()))
        return [TreeChange(*row.values()) for row in rows]
