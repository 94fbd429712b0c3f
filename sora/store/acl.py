"""Who else may do what in the mailboxes of an account (RFC 4314), and what others share with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import NotFound
from sora.store.addresses import fold_address
from sora.store.mailboxes import Status, listed, read_status
from sora.types import AccountId, MailboxId, ModSeq, Rights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from sora.store.db import Database
    from sora.store.mailboxes import ListedMailbox

ANYONE: Final = AccountId(0)
AUTHENTICATED: Final = AccountId(-1)
EVERYBODY: Final = {"anyone": ANYONE, "authenticated": AUTHENTICATED}
"""Identifiers that are no account. Both mean every account of the owner's domain: nobody comes in without a login, and
whoever shares a mailbox with everybody does not mean the other customers of the installation."""


class Entry(Struct, frozen=True):
    """One line of an access control list.

    Attributes:
        identifier: address of an account, or one of `EVERYBODY`.
        negative: the rights are taken away, whoever gives them.
    """

    identifier: str
    rights: Rights
    negative: bool = False


class SharedMailbox(Struct, frozen=True):
    """A mailbox that somebody shares.

    Attributes:
        owner: primary address.
        rights: of the viewer.
        status: counters; `unseen` is the viewer's, and only there if it was asked for.
    """

    owner_id: AccountId
    owner: str
    rights: Rights
    name: str
    special_use: str | None
    noselect: bool
    status: Status


class Acl:
    """Access control lists of mailboxes."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find_owner(self, address: str) -> AccountId | None:
        """The account of a primary address."""
        if not address.isprintable():
            return None
        found: AccountId | None = await self._db.fetchval(
            "SELECT account_id FROM accounts WHERE address = $1 AND deleted_at IS NULL", fold_address(address)
        )
        return found

    async def find_grantee(self, identifier: str) -> AccountId:
        """Whom an identifier means: an account, by any of its addresses, or everybody.

        Raises:
            NotFound: nobody. A name that means nobody today may be given to somebody tomorrow.
        """
        if (everybody := EVERYBODY.get(identifier.lower())) is not None:
            return everybody
        found: AccountId | None = await self._db.fetchval(_FIND_GRANTEE, fold_address(identifier))
        if found is None:
            raise NotFound("No such identifier")
        return found

    async def rights_above(self, account_id: AccountId, names: Sequence[str], actor_id: AccountId) -> Rights | None:
        """Somebody's rights in the lowest of some mailboxes one above the other; None: none of them exists."""
        found: int | None = await self._db.fetchval(_RIGHTS_ABOVE, account_id, [*names], actor_id)
        return None if found is None else Rights(found)

    async def entries(self, account_id: AccountId, mailbox_id: MailboxId) -> list[Entry]:
        """The access control list of a mailbox: its owner first, then by identifier."""
        rows = await self._db.fetch(_LIST, account_id, mailbox_id)
        return [Entry(row["identifier"], Rights(row["rights"]), row["negative"]) for row in rows]

    async def set(
        self, account_id: AccountId, mailbox_id: MailboxId, grantee_id: AccountId, entry: Entry, mode: str = "="
    ) -> ModSeq | None:
        """Change one line.

        Args:
            grantee_id: see `find_grantee`.
            entry: its rights are set (mode `=`), added (`+`) or removed (`-`); without any, the line goes.

        Returns:
            The mailbox's modseq after it, which everybody who has it selected must hear; None: nothing has changed.

        Raises:
            NotFound: the mailbox is gone.
        """
        row = await self._db.fetchrow(
            "SELECT * FROM set_acl($1, $2, $3, $4, $5, $6)",
            account_id, mailbox_id, grantee_id, entry.negative, int(entry.rights), mode,
        )  # fmt: skip
        assert row is not None, "set_acl() always answers with one row"
        return ModSeq(row["modseq"]) if row["changed"] else None

    async def list_shared(self, viewer_id: AccountId, *, unseen: bool = False) -> list[SharedMailbox]:
        """What others share with an account: all mailboxes that it may see, by owner and name.

        Args:
            unseen: count the messages that the viewer has not seen.
        """
        rows = await self._db.fetch("SELECT * FROM list_shared($1, $2)", viewer_id, unseen)
        return [_shared(row) for row in rows]

    async def list_all(
        self, viewer_id: AccountId, *, unseen: bool = False
    ) -> tuple[list[ListedMailbox], list[SharedMailbox]]:
        """`Mailboxes.list` and `list_shared` in one statement."""
        rows = await self._db.fetch(_LIST_ALL, viewer_id, unseen)
        own = [row for row in rows if row["account_id"] is None]
        return listed(own), [_shared(row) for row in rows[len(own) :]]


_LIST_ALL: Final = """
    SELECT * FROM (
      SELECT NULL::bigint AS account_id, NULL::text AS address, l.rights, l.mailbox_id, l.name, l.uidvalidity,
        l.special_use, l.noselect, l.subscribed, l.uid_next, l.highest_modseq, l.message_count, l.unseen_count,
        l.deleted_count, l.total_size
      FROM list_mailboxes($1) l
      UNION ALL
      SELECT s.account_id, s.address, s.rights, s.mailbox_id, s.name, s.uidvalidity,
        s.special_use, s.noselect, false, s.uid_next, s.highest_modseq, s.message_count, s.unseen_count,
        s.deleted_count, s.total_size
      FROM list_shared($1, $2) s
    ) b ORDER BY address COLLATE "C" NULLS FIRST, name COLLATE "C"
"""
_FIND_GRANTEE: Final = """
    SELECT account_id FROM accounts WHERE address = $1 AND deleted_at IS NULL
    UNION ALL
    SELECT l.account_id FROM aliases l JOIN accounts a USING (account_id) WHERE l.address = $1 AND a.deleted_at IS NULL
    LIMIT 1
"""
_RIGHTS_ABOVE: Final = """
    SELECT mailbox_rights($1, m.mailbox_id, $3) FROM mailboxes m
    WHERE m.account_id = $1 AND m.name = ANY ($2::text[]) AND m.deleted_at IS NULL ORDER BY length(m.name) DESC LIMIT 1
"""
_LIST: Final = """
    SELECT CASE c.grantee_id WHEN 0 THEN 'anyone' WHEN -1 THEN 'authenticated' ELSE a.address END AS identifier,
      c.rights, c.negative
    FROM (
      SELECT grantee_id, negative, rights FROM mailbox_acl WHERE account_id = $1 AND mailbox_id = $2
      UNION ALL
      SELECT $1, false, 2047 WHERE NOT EXISTS (
        SELECT 1 FROM mailbox_acl WHERE account_id = $1 AND mailbox_id = $2 AND grantee_id = $1 AND NOT negative)
    ) c LEFT JOIN accounts a ON a.account_id = c.grantee_id AND a.deleted_at IS NULL
    WHERE c.grantee_id <= 0 OR a.account_id IS NOT NULL
    ORDER BY c.grantee_id <> $1, 1, c.negative
"""


def _shared(row: Record) -> SharedMailbox:
    return SharedMailbox(
        owner_id=AccountId(row["account_id"]),
        owner=row["address"],
        rights=Rights(row["rights"]),
        name=row["name"],
        special_use=row["special_use"],
        noselect=row["noselect"],
        status=read_status(row),
    )
