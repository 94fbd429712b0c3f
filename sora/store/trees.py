"""What happens to the tree of an account: names, subscriptions, rights and annotations, counted by one seq."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.types import AccountId, MailboxId, ModSeq

if TYPE_CHECKING:
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


class Leaf(Struct, frozen=True):
    """A mailbox of a `Tree`.

    Attributes:
        special_use: `\\Junk` …, or None.
        noselect: A name that only has mailboxes below it.
    """

    mailbox_id: MailboxId
    name: str
    special_use: str | None = None
    noselect: bool = False


class Tree(Struct, frozen=True):
    """An account as a filter sees it.

    Attributes:
        seq: Of the last change of it.
        address: The primary one.
        addresses: All of them, in lower case.
        mailboxes: By name, without those that show deleted mail: nothing can be filed there.
        keywords: Flag numbers by name in lower case.
    """

    seq: ModSeq
    address: str
    addresses: frozenset[str]
    mailboxes: Mapping[str, Leaf]
    keywords: Mapping[str, int]


class Trees:
    """Accounts' trees, and their changes."""

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

    async def get(self, account_id: AccountId) -> Tree | None:
        """The whole tree, in one statement; None: there is no such account."""
        row = await self._db.fetchrow(_TREE, account_id)
        if row is None:
            return None
        columns = (row["ids"] or (), row["names"] or (), row["uses"] or (), row["noselect"] or ())
        keywords = zip(row["keywords"] or (), row["numbers"] or (), strict=True)
        return Tree(
            ModSeq(row["change_seq"]),
            row["address"],
            frozenset(address.lower() for address in (row["address"], *(row["aliases"] or ()))),
            {
                name: Leaf(MailboxId(number), name, use, above)
                for number, name, use, above in zip(*columns, strict=True)
            },
            {name.lower(): number for name, number in keywords},
        )


_TREE: Final = """
    SELECT a.change_seq, a.address,
      (SELECT array_agg(l.address) FROM aliases l WHERE l.account_id = a.account_id) AS aliases, m.*, k.*
    FROM accounts a CROSS JOIN LATERAL (
      SELECT array_agg(x.mailbox_id) AS ids, array_agg(x.name) AS names, array_agg(x.special_use) AS uses,
        array_agg(x.noselect) AS noselect
      FROM mailboxes x WHERE x.account_id = a.account_id AND x.deleted_at IS NULL AND NOT x.shadow
    ) m CROSS JOIN LATERAL (
      SELECT array_agg(x.name) AS keywords, array_agg(x.flag_no) AS numbers
      FROM account_keywords x WHERE x.account_id = a.account_id
    ) k
    WHERE a.account_id = $1 AND a.deleted_at IS NULL
"""
