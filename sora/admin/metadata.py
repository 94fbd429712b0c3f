"""Admin operations on shared annotations of mailboxes and of the server (METADATA, RFC 5464).

Private ones are their account's own affair. Those of the server are set here alone: no session may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from sora.admin.context import AdminContext, Done
from sora.errors import InvalidName, LimitExceeded, NotFound, TooBig, WireError
from sora.store.metadata import INFINITY, MAX_VALUE, SERVER, SHARED, Place, Wanted
from sora.wire.imap_metadata import check_name, check_settable

if TYPE_CHECKING:
    from collections.abc import Mapping

Entry = Annotated[str, Meta(description="name of a shared entry, /shared/…", min_length=1, max_length=1000)]
Value = Annotated[str, Meta(description="its value, UTF-8; it may be empty", max_length=MAX_VALUE)]
OfAddress = Annotated[str, Meta(description="account whose mailbox it is; the server unless given", max_length=320)]
OfMailbox = Annotated[str, Meta(description="mailbox of the account", max_length=1000)]


class GetMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `metadata get`."""

    entry: Annotated[str, Meta(description="an entry; those below it are shown too", max_length=1000)] = SHARED
    address: OfAddress = ""
    mailbox: OfMailbox = ""


class SetMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `metadata set`."""

    entry: Entry
    value: Value
    address: OfAddress = ""
    mailbox: OfMailbox = ""


class DeleteMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `metadata delete`."""

    entry: Entry
    address: OfAddress = ""
    mailbox: OfMailbox = ""


class Annotation(Struct, frozen=True):
    """One line of `metadata get`."""

    entry: str
    value: str


async def get(ctx: AdminContext, req: GetMetadata) -> list[Annotation]:
    """Show shared annotations of the server or of a mailbox."""
    place = await _place(ctx, req.address, req.mailbox)
    wanted = Wanted((_shared(req.entry),), INFINITY)
    found = await ctx.store.metadata.get([place], SERVER.account_id, wanted)
    return [Annotation(entry.name, (entry.value or b"").decode(errors="replace")) for entry in found.get(place, ())]


async def set_entry(ctx: AdminContext, req: SetMetadata) -> Done:
    """Set a shared annotation of the server or of a mailbox."""
    value = req.value.encode()
    if len(value) > MAX_VALUE:
        raise TooBig(f"A value has at most {MAX_VALUE} octets")
    await _set(ctx, req, {_shared(req.entry, settable=True): value})
    return Done()


async def delete(ctx: AdminContext, req: DeleteMetadata) -> Done:
    """Remove a shared annotation of the server or of a mailbox."""
    await _set(ctx, req, {_shared(req.entry, settable=True): None})
    return Done()


async def _set(ctx: AdminContext, req: SetMetadata | DeleteMetadata, values: Mapping[str, bytes | None]) -> None:
    place = await _place(ctx, req.address, req.mailbox)
    if not await ctx.store.metadata.set(place, SERVER.account_id, values):
        raise LimitExceeded("Too many annotations")


async def _place(ctx: AdminContext, address: str, mailbox: str) -> Place:
    if not address and not mailbox:
        return SERVER
    if not address or not mailbox:
        raise NotFound("Give both the account and its mailbox, or neither for the server")
    account = await ctx.store.accounts.get(address)
    return Place(account.account_id, (await ctx.store.mailboxes.get(account.account_id, mailbox)).mailbox_id)


def _shared(entry: str, *, settable: bool = False) -> str:
    """The folded name.

    Raises:
        InvalidName: It is no name of a shared entry.
    """
    try:
        name = check_name(entry.encode()).lower()
        if settable:
            check_settable(name)
    except WireError as error:
        raise InvalidName(error.text) from error
    if not f"{name}/".startswith(f"{SHARED}/"):
        raise InvalidName("Only shared entries are set and shown here")
    return name
