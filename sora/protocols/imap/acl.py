"""SETACL, DELETEACL, GETACL, LISTRIGHTS, MYRIGHTS (RFC 4314): who may do what in a mailbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.errors import NotFound
from sora.protocols.imap.places import find
from sora.store.acl import Entry
from sora.types import NO_RIGHTS, Rights
from sora.wire import imap_acl as wire

if TYPE_CHECKING:
    from sora.protocols.imap.places import Found
    from sora.protocols.imap.session import Session

SHOWING: Final = Rights.LOOKUP | Rights.READ | Rights.INSERT | Rights.CREATE | Rights.DELETE_MAILBOX | Rights.ADMINISTER


async def setacl(s: Session, cmd: wire.SetAcl) -> None:
    """RFC 4314 §3.1.

    Raises:
        NotFound: There is no such mailbox or identifier.
        NoPermission: The right a is missing.
    """
    found = await find(s, cmd.mailbox, Rights.ADMINISTER)
    await _change(s, found, Entry(cmd.identifier, cmd.rights, cmd.negative), cmd.mode)


async def deleteacl(s: Session, cmd: wire.DeleteAcl) -> None:
    """RFC 4314 §3.2; of the owner's rights, l and a stay."""
    found = await find(s, cmd.mailbox, Rights.ADMINISTER)
    await _change(s, found, Entry(cmd.identifier, NO_RIGHTS, cmd.negative), "=")


async def _change(s: Session, found: Found, entry: Entry, mode: str) -> None:
    """Change the list, and make the sessions that have the mailbox selected look at it before anything else."""
    acl = s.node.store.acl
    grantee_id = await acl.find_grantee(entry.identifier)
    owner_id, mailbox_id = found.place.owner_id, found.mailbox.mailbox_id
    modseq = await acl.set(owner_id, mailbox_id, grantee_id, entry, mode)
    if modseq is not None:
        s.node.changes.publish(owner_id, mailbox_id, modseq)
        await s.server.views.reread(owner_id, mailbox_id)


async def getacl(s: Session, cmd: wire.GetAcl) -> None:
    """RFC 4314 §3.3."""
    found = await find(s, cmd.mailbox, Rights.ADMINISTER)
    entries = await s.node.store.acl.entries(found.place.owner_id, found.mailbox.mailbox_id)
    named = [("-" * entry.negative + entry.identifier, entry.rights) for entry in entries]
    s.write(wire.acl_line(cmd.mailbox, named, utf8=s.utf8))


async def listrights(s: Session, cmd: wire.ListRights) -> None:
    """RFC 4314 §3.4: every right can be given to everybody; the owner keeps l and a."""
    found = await find(s, cmd.mailbox, Rights.ADMINISTER)
    grantee_id = await s.node.store.acl.find_grantee(cmd.identifier)
    keeps = grantee_id == found.place.owner_id and not cmd.negative
    always = Rights.LOOKUP | Rights.ADMINISTER if keeps else NO_RIGHTS
    s.write(wire.listrights_line(cmd.mailbox, cmd.spelled, always, utf8=s.utf8))


async def myrights(s: Session, cmd: wire.MyRights) -> None:
    """RFC 4314 §3.5; it takes any right that shows what the mailbox is for (§4)."""
    found = await find(s, cmd.mailbox, NO_RIGHTS)
    if not found.mailbox.rights & SHOWING:
        raise NotFound("No such mailbox")
    s.write(wire.myrights_line(cmd.mailbox, found.mailbox.rights, utf8=s.utf8))
