"""Admin operations that bring deleted messages and mailboxes back."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from sora._native.seqset import UidSet
from sora.admin.context import (  # noqa: TC001 — the table of operations reads the annotations
    Address,
    AdminContext,
    MailboxName,
)
from sora.errors import AlreadyExists, BadSyntax, InvalidName, NotFound, OverQuota
from sora.store.undelete import EVER
from sora.types import MAX_UID, MailboxId, UidValidity
from sora.units import parse_duration

if TYPE_CHECKING:
    from sora.types import AccountId

MAX_SHOWN: Final = 10_000
"""Of one answer, which is in memory: about a kilobyte each."""
PLACE: Final = re.compile(r"(\d{1,18})\.(\d{1,10})")
SINCE: Final = "only what went within this time, `90m` or `2d`"


class ListDeleted(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `messages list-deleted`."""

    address: Address
    mailbox: Annotated[str, Meta(description="of this mailbox, deleted or not; empty: of all", max_length=1000)] = ""
    since: Annotated[str, Meta(description=SINCE)] = ""
    limit: Annotated[int, Meta(description="at most so many", ge=1, le=MAX_SHOWN)] = 1000
    after: Annotated[str, Meta(description="begin behind this `place` of a line", max_length=40)] = ""


class Restore(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `messages restore`."""

    address: Address
    mailbox: MailboxName
    uids: Annotated[str, Meta(description="only these old UIDs, `4,9:12`; empty: all")] = ""
    since: Annotated[str, Meta(description=SINCE)] = ""
    into: Annotated[str, Meta(description="into this mailbox; empty: the old one", max_length=1000)] = ""
    again: Annotated[bool, Meta(description="also messages that the account has still, or again")] = False


class DeletedMailboxes(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `mailboxes list-deleted`."""

    address: Address


class RestoreMailbox(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `mailboxes restore`."""

    address: Address
    mailbox: MailboxName
    id: Annotated[int, Meta(description="which of several of that name; 0: the last deleted", ge=0)] = 0
    to: Annotated[str, Meta(description="under this name; empty: the old one", max_length=1000)] = ""


class DeletedMessage(Struct, frozen=True):
    """One line of `messages list-deleted`; times are UTC.

    Attributes:
        kept: The account has the message in some mailbox, so it is not restored unless asked for.
        place: Where a list that shall go on behind this line begins.
    """

    mailbox: str
    uid: int
    size: int
    internal_date: datetime
    deleted_at: datetime
    sender: str
    subject: str
    kept: bool
    place: str


class Restored(Struct, frozen=True):
    """What came back.

    Attributes:
        skipped: Messages that the account has still, or again.
    """

    mailbox: str
    restored: int
    skipped: int = 0


class DeletedMailbox(Struct, frozen=True):
    """One line of `mailboxes list-deleted`; times are UTC."""

    id: MailboxId
    name: str
    messages: int
    size: int
    deleted_at: datetime
    uidvalidity: UidValidity
    special_use: str | None


async def list_messages(ctx: AdminContext, req: ListDeleted) -> list[DeletedMessage]:
    """List expunged messages, and those of deleted mailboxes, that can be restored."""
    account = await ctx.store.accounts.get(req.address)
    found: list[DeletedMessage] = []
    async for page in ctx.store.undelete.messages(
        account.account_id, req.mailbox or None, _moment(req.since), _place(req.after)
    ):
        found += [
            DeletedMessage(
                mailbox=message.name,
                uid=message.uid,
                size=message.size,
                internal_date=message.internal_date,
                deleted_at=message.deleted_at,
                sender=message.sender or "",
                subject=message.subject or "",
                kept=message.kept,
                place=f"{message.mailbox_id}.{message.uid}",
            )
            for message in page
        ]
        if len(found) >= req.limit:
            break
    return found[: req.limit]


async def restore_messages(ctx: AdminContext, req: Restore) -> Restored:
    """Bring expunged messages, and those of deleted mailboxes of that name, back into their mailbox.

    They get new UIDs; flags and dates are the old ones. A mailbox that is gone is made again. It may be repeated:
    messages that are back are skipped. Where the quota ends, those that fit stay.
    """
    account_id = (await ctx.store.accounts.get(req.address)).account_id
    uids, since = _uids(req.uids), _moment(req.since)
    sources = await ctx.store.undelete.sources(account_id, req.mailbox)
    if not sources:
        raise NotFound(f"There was no mailbox {req.mailbox}")
    target = await _target(ctx, account_id, req.into or req.mailbox)
    restored = skipped = 0
    try:
        for source in sources:
            async for step in ctx.store.undelete.restore(
                account_id, source, target, uids=uids, since=since, again=req.again
            ):
                restored += len(step.uids)
                skipped += step.skipped
    except OverQuota as error:
        raise OverQuota(f"{error.text}: {restored} messages are back, raise the quota and repeat it") from error
    return Restored(req.into or req.mailbox, restored, skipped)


async def list_mailboxes(ctx: AdminContext, req: DeletedMailboxes) -> list[DeletedMailbox]:
    """List deleted mailboxes that can be restored, the last deleted first."""
    account = await ctx.store.accounts.get(req.address)
    return [
        DeletedMailbox(
            id=box.mailbox_id,
            name=box.name,
            messages=box.message_count,
            size=box.total_size,
            deleted_at=box.deleted_at,
            uidvalidity=box.uidvalidity,
            special_use=box.special_use,
        )
        for box in await ctx.store.undelete.mailboxes(account.account_id)
    ]


async def restore_mailbox(ctx: AdminContext, req: RestoreMailbox) -> Restored:
    """Bring a deleted mailbox back as it was: its messages, UIDs, flags, rights and annotations."""
    account_id = (await ctx.store.accounts.get(req.address)).account_id
    named = [
        box
        for box in await ctx.store.undelete.mailboxes(account_id)
        if box.name == req.mailbox and req.id in (0, box.mailbox_id)
    ]
    if not named:
        raise NotFound(f"There is no deleted mailbox {req.mailbox}")
    box = await ctx.store.undelete.restore_mailbox(account_id, named[0].mailbox_id, req.to or None)
    return Restored(box.name, box.message_count)


async def _target(ctx: AdminContext, account_id: AccountId, name: str) -> MailboxId:
    """The mailbox of this name, made if it is missing."""
    found = await ctx.store.mailboxes.find(account_id, name)
    if found is None or found.noselect:
        use = await ctx.store.undelete.special_use(account_id, name)
        try:
            return (await ctx.store.mailboxes.create(account_id, name, use)).mailbox_id
        except AlreadyExists:  # somebody else has just made it
            return (await ctx.store.mailboxes.get(account_id, name)).mailbox_id
    return found.mailbox_id


def _place(text: str) -> tuple[int, int]:
    """Mailbox id and UID behind which to begin."""
    if not text:
        return 0, 0
    match = PLACE.fullmatch(text)
    if match is None:
        raise InvalidName(f"{text!r} is not the place of a line")
    return int(match[1]), int(match[2])


def _moment(within: str) -> datetime:
    if not within:
        return EVER
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(within))
    except ValueError as error:
        raise InvalidName(str(error)) from error


def _uids(text: str) -> UidSet | None:
    if not text:
        return None
    try:
        uids = UidSet.parse(text.encode())
    except BadSyntax as error:
        raise InvalidName(f"{text!r} is not a set of UIDs such as 4,9:12") from error
    if uids.is_saved:
        raise InvalidName("There is no saved search result here")
    return uids.resolve(MAX_UID)
