"""What was expunged or deleted and is not purged yet, and how it comes back.

A message that is restored is a new one: an expunge is final, so it gets a new UID, and everything else of the old one.
A mailbox that is restored is the old one, with its UIDVALIDITY and UIDs.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.store.mailboxes import canonical_name
from sora.types import MailboxId, Uid, UidValidity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from sora._native.seqset import UidSet
    from sora.store.db import Database
    from sora.types import AccountId

PAGE: Final = 1000
"""Messages of one transaction, which holds the locks of both mailboxes."""
EVER: Final = datetime(1, 1, 1, tzinfo=UTC)


class DeletedMessage(Struct, frozen=True):
    """A message that nobody sees any more.

    Attributes:
        name: of its mailbox, which may be deleted too.
        deleted_at: when it was expunged, or its mailbox deleted.
        kept: the account has the same message in some mailbox: it was moved or copied before.
    """

    mailbox_id: MailboxId
    name: str
    uid: Uid
    size: int
    internal_date: datetime
    deleted_at: datetime
    sender: str | None
    subject: str | None
    kept: bool


class DeletedMailbox(Struct, frozen=True):
    """A mailbox that nobody sees any more."""

    mailbox_id: MailboxId
    name: str
    uidvalidity: UidValidity
    special_use: str | None
    deleted_at: datetime
    message_count: int
    total_size: int


class RestoredMessages(Struct, frozen=True):
    """What one step brought back.

    Attributes:
        uids: new ones, ascending.
        skipped: messages that the account has still, or again.
    """

    uids: list[Uid]
    skipped: int


class RestoredMailbox(Struct, frozen=True):
    """A mailbox that is back."""

    mailbox_id: MailboxId
    name: str
    uidvalidity: UidValidity
    message_count: int


def _pages(uids: Sequence[Uid]) -> Iterator[Sequence[Uid]]:
    for first in range(0, len(uids), PAGE):
        yield uids[first : first + PAGE]


class Undelete:
    """Deleted messages and mailboxes of all accounts."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def messages(
        self,
        account_id: AccountId,
        name: str | None = None,
        since: datetime = EVER,
        after: tuple[int, int] = (0, 0),
    ) -> AsyncIterator[list[DeletedMessage]]:
        """Deleted messages in pages, by mailbox and UID; of one mailbox name or of all.

        Args:
            after: Begin behind this mailbox id and UID.

        Raises:
            InvalidName: It cannot be a name.
        """
        boxes = await self._db.fetch(
            """
            SELECT mailbox_id FROM mailboxes WHERE account_id = $1 AND NOT shadow AND ($2::text IS NULL OR name = $2)
              AND mailbox_id >= $3
            ORDER BY mailbox_id
            """,
            account_id,
            None if name is None else canonical_name(name),
            after[0],
        )
        for (mailbox_id,) in boxes:
            gone = await self._uids(account_id, mailbox_id, since)
            for uids in _pages(gone[bisect_right(gone, after[1]) :] if mailbox_id == after[0] else gone):
                rows = await self._db.fetch("SELECT * FROM list_deleted($1, $2, $3)", account_id, mailbox_id, uids)
                if rows:
                    yield [DeletedMessage(**row) for row in rows]

    async def _uids(self, account_id: AccountId, mailbox_id: MailboxId, since: datetime) -> list[Uid]:
        """What went from a mailbox, ascending; a million of them are 40 MB."""
        found: list[Uid] = await self._db.fetchval("SELECT deleted_uids($1, $2, $3)", account_id, mailbox_id, since)
        return found

    async def mailboxes(self, account_id: AccountId) -> list[DeletedMailbox]:
        """Deleted mailboxes, the last deleted first."""
        rows = await self._db.fetch("SELECT * FROM list_deleted_mailboxes($1)", account_id)
        return [DeletedMailbox(**row) for row in rows]

    async def names(
        self, account_id: AccountId, prefix: str, grace: timedelta, selected: MailboxId | None = None
    ) -> dict[str, bool]:
        """Names of mailboxes from which something went within the grace period that is nowhere else, in byte order.

        Args:
            prefix: What shadows are called is this and the name.
            selected: If this is a shadow, its name is among them in any case.

        Returns:
            By name whether its shadow is there and up to date.
        """
        rows = await self._db.fetch(
            "SELECT * FROM deleted_names($1, $2, $3, $4)", account_id, prefix, grace, selected or 0
        )
        return {row["name"]: row["current"] for row in rows}

    async def refresh(self, account_id: AccountId, name: str, shadow: str, grace: timedelta) -> None:
        """Show in a mailbox, made if it is missing, what went from those of a name and is nowhere else.

        Nothing is done if nothing went, or if the account has a mailbox of its own that is called as the shadow is.

        Args:
            shadow: What it is called.
        """
        first = more = True
        while more:
            row = await self._db.fetchrow(
                "SELECT * FROM refresh_deleted($1, $2, $3, $4, $5)", account_id, name, shadow, grace, first
            )
            more, first = row is not None and row["more"], False

    async def special_use(self, account_id: AccountId, name: str) -> str | None:
        """That of the mailbox which had a name last and was deleted, unless another one has it now."""
        use: str | None = await self._db.fetchval(
            """
            SELECT CASE WHEN NOT EXISTS (
                SELECT 1 FROM mailboxes o WHERE o.account_id = $1 AND o.special_use = b.special_use
                  AND o.deleted_at IS NULL) THEN b.special_use END
            FROM mailboxes b WHERE b.account_id = $1 AND b.name = $2 AND b.deleted_at IS NOT NULL AND NOT b.shadow
            ORDER BY b.deleted_at DESC, b.mailbox_id DESC LIMIT 1
            """,
            account_id,
            canonical_name(name),
        )
        return use

    async def sources(self, account_id: AccountId, name: str) -> list[MailboxId]:
        """The mailboxes that have or had a name, the present one last; empty: there was none."""
        rows = await self._db.fetch(
            """
            SELECT mailbox_id FROM mailboxes WHERE account_id = $1 AND name = $2 AND NOT noselect AND NOT shadow
            ORDER BY deleted_at NULLS LAST, mailbox_id
            """,
            account_id,
            canonical_name(name),
        )
        return [MailboxId(row["mailbox_id"]) for row in rows]

    async def restore(
        self,
        account_id: AccountId,
        mailbox_id: MailboxId,
        to_mailbox_id: MailboxId,
        *,
        uids: UidSet | None = None,
        since: datetime = EVER,
        again: bool = False,
    ) -> AsyncIterator[RestoredMessages]:
        """Bring messages of a mailbox back into one that is there, step by step; each step is committed.

        Args:
            uids: None: all.
            since: only what went after this.
            again: also what the account has still, or again.

        Raises:
            NotFound: The target is gone.
            OverQuota: The next step does not fit.
        """
        gone = await self._uids(account_id, mailbox_id, since)
        for step in _pages(gone if uids is None else [uid for uid in gone if uid in uids]):
            row = await self._db.fetchrow(
                "SELECT * FROM restore_messages($1, $2, $3, $4, $5)",
                account_id, mailbox_id, to_mailbox_id, step, again,
            )  # fmt: skip
            assert row is not None, "restore_messages() always answers with one row"
            yield RestoredMessages(row["target_uids"], row["skipped"])

    async def restore_mailbox(
        self, account_id: AccountId, mailbox_id: MailboxId, name: str | None = None
    ) -> RestoredMailbox:
        """Make a deleted mailbox what it was, under its old name or another one.

        Raises:
            NotFound: It is not deleted, or purged already.
            AlreadyExists: The name is taken.
            OverQuota: It does not fit.
        """
        wanted = None if name is None else canonical_name(name)
        row = await self._db.fetchrow("SELECT * FROM restore_mailbox($1, $2, $3)", account_id, mailbox_id, wanted)
        assert row is not None, "restore_mailbox() always answers with one row"
        return RestoredMailbox(**row)
