"""Admin operations on mailboxes and messages."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import Annotated

from msgspec import Meta, Struct

from sora.admin.context import Address, AdminContext, Done, MailboxName
from sora.types import UidValidity  # noqa: TC001 — msgspec reads the annotations at run time


class OneAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Request that names an account."""

    address: Address


class OneMailbox(Struct, frozen=True, forbid_unknown_fields=True):
    """Request that names a mailbox of an account."""

    address: Address
    mailbox: MailboxName


class RenameMailbox(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `mailboxes rename`."""

    address: Address
    mailbox: MailboxName
    to: Annotated[str, Meta(description="new name", min_length=1, max_length=1000)]


class ListMessages(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `messages list`."""

    address: Address
    mailbox: MailboxName = "INBOX"
    after: Annotated[int, Meta(description="begin behind this UID", ge=0)] = 0
    limit: Annotated[int, Meta(description="at most so many", ge=1, le=100_000)] = 1000


class MailboxInfo(Struct, frozen=True):
    """One line of `mailboxes list`."""

    name: str
    messages: int
    unseen: int
    size: int
    uidvalidity: UidValidity
    special_use: str | None
    selectable: bool
    subscribed: bool


class MessageInfo(Struct, frozen=True):
    """One line of `messages list`; times are UTC."""

    uid: int
    size: int
    internal_date: datetime
    sender: str
    subject: str
    uploaded: bool


async def list_mailboxes(ctx: AdminContext, req: OneAccount) -> list[MailboxInfo]:
    """List the mailboxes of an account."""
    account = await ctx.store.accounts.get(req.address)
    return [
        MailboxInfo(
            name=box.name,
            messages=box.status.messages,
            unseen=box.status.unseen,
            size=box.status.size,
            uidvalidity=box.uidvalidity,
            special_use=box.special_use,
            selectable=not box.noselect,
            subscribed=box.subscribed,
        )
        for box in await ctx.store.mailboxes.list(account.account_id)
        if box.status is not None
    ]


async def create(ctx: AdminContext, req: OneMailbox) -> Done:
    """Create a mailbox, with those above it that are missing."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.mailboxes.create(account.account_id, req.mailbox)
    return Done()


async def rename(ctx: AdminContext, req: RenameMailbox) -> Done:
    """Rename a mailbox with its children."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.mailboxes.rename(account.account_id, req.mailbox, req.to)
    return Done()


async def delete(ctx: AdminContext, req: OneMailbox) -> Done:
    """Delete a mailbox; its children stay."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.mailboxes.delete(account.account_id, req.mailbox)
    return Done()


async def list_messages(ctx: AdminContext, req: ListMessages) -> list[MessageInfo]:
    """List the messages of a mailbox in the order of their UIDs."""
    account = await ctx.store.accounts.get(req.address)
    mailbox = await ctx.store.mailboxes.get(account.account_id, req.mailbox)
    rows = await ctx.store.messages.list_messages(
        account.account_id, mailbox.mailbox_id, after=req.after, limit=req.limit
    )
    return [
        MessageInfo(
            uid=row["uid"],
            size=row["size"],
            internal_date=row["internal_date"],
            sender=row["sender"] or "",
            subject=row["subject"] or "",
            uploaded=row["uploaded_at"] is not None,
        )
        for row in rows
    ]
