"""Admin operations on who else may use a mailbox (RFC 4314)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta, Struct

from sora.admin.context import Address, AdminContext, Done, MailboxName
from sora.errors import InvalidName, WireError
from sora.services.changes import NOTIFY, pack
from sora.store.acl import Entry
from sora.types import NO_RIGHTS
from sora.wire.imap_acl import parse_rights, write_rights

if TYPE_CHECKING:
    from sora.store.mailboxes import Mailbox
    from sora.types import AccountId

Identifier = Annotated[str, Meta(description="an address, `anyone` or `authenticated`", min_length=1)]
Negative = Annotated[
    bool, Meta(description="the line of rights taken away, whoever gives them; `acl list` shows it behind a dash")
]
MODES: Final = {"set": "=", "add": "+", "remove": "-"}


class OneAcl(Struct, frozen=True, forbid_unknown_fields=True):
    """Request that names a mailbox."""

    address: Address
    mailbox: MailboxName


class SetAcl(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `acl set`."""

    address: Address
    mailbox: MailboxName
    identifier: Identifier
    rights: Annotated[
        str, Meta(description="letters of lrswipkxtea, as in RFC 4314; see --change to add to those before")
    ]
    change: Annotated[
        Literal["set", "add", "remove"],
        Meta(description="put the rights in the place of those before, add them or remove them; set unless given"),
    ] = "set"
    negative: Negative = False


class DeleteAcl(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `acl delete`."""

    address: Address
    mailbox: MailboxName
    identifier: Identifier
    negative: Negative = False


class AclEntry(Struct, frozen=True):
    """One line of `acl list`; the identifier of negative rights is behind a dash."""

    identifier: str
    rights: str


async def list_acl(ctx: AdminContext, req: OneAcl) -> list[AclEntry]:
    """List who may do what in a mailbox, its owner first."""
    account_id, mailbox = await _find(ctx, req.address, req.mailbox)
    entries = await ctx.store.acl.entries(account_id, mailbox.mailbox_id)
    return [AclEntry("-" * entry.negative + entry.identifier, write_rights(entry.rights).decode()) for entry in entries]


async def set_acl(ctx: AdminContext, req: SetAcl) -> Done:
    """Give rights in a mailbox, or take them away; sessions obey at once or at their next command."""
    try:
        rights = parse_rights(req.rights)
    except WireError as error:
        raise InvalidName(error.text) from error
    await _change(ctx, req, Entry(req.identifier, rights, req.negative), MODES[req.change])
    return Done()


async def delete_acl(ctx: AdminContext, req: DeleteAcl) -> Done:
    """Remove a line of the list; of the owner's rights, l and a stay."""
    await _change(ctx, req, Entry(req.identifier, NO_RIGHTS, req.negative), "=")
    return Done()


async def _find(ctx: AdminContext, address: str, name: str) -> tuple[AccountId, Mailbox]:
    account = await ctx.store.accounts.get(address)
    return account.account_id, await ctx.store.mailboxes.get(account.account_id, name)


async def _change(ctx: AdminContext, req: SetAcl | DeleteAcl, entry: Entry, mode: str) -> None:
    account_id, mailbox = await _find(ctx, req.address, req.mailbox)
    grantee_id = await ctx.store.acl.find_grantee(entry.identifier)
    modseq = await ctx.store.acl.set(account_id, mailbox.mailbox_id, grantee_id, entry, mode)
    if modseq is not None:
        channels, payloads = zip(*pack({(account_id, mailbox.mailbox_id): modseq}), strict=True)
        await ctx.store.db.execute(NOTIFY, channels, payloads)
