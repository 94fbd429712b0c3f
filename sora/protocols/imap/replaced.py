"""The message that REPLACE takes away (RFC 8508)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora.errors import Expunged, NotFound, Refused, Unavailable
from sora.protocols.imap.places import look_again
from sora.protocols.imap.rights import require_selected
from sora.store.replacing import Replaced
from sora.types import ModSeq, Rights, Uid

if TYPE_CHECKING:
    from sora._native.seqset import SeqSet, UidSet
    from sora.protocols.imap.session import Session


async def old_message(s: Session, messages: SeqSet | UidSet) -> Replaced:
    """The message that the client names, in its picture; whether it is still there, the commit decides.

    Raises:
        ReadOnly: The mailbox was opened by EXAMINE.
        NoPermission: It may not be expunged (RFC 8508 §3.5).
        BadSyntax: No message has that sequence number.
        Refused: No message has that UID, or there is none at all.
        Expunged: It is gone.
    """
    selection = s.view
    view = selection.view
    selection.require_writable()
    await look_again(s)  # the literal may come before the command is whole
    require_selected(view.rights, Rights.DELETE_MESSAGES | Rights.EXPUNGE)
    uids = s.uids(messages)
    if not uids:
        raise Refused("There is no such message to replace")
    rows = [
        row
        async for chunk in s.node.store.messages.rows(view.account_id, view.mailbox_id, uids, ("size", "expunged_at"))
        for row in chunk
    ]
    if not rows or rows[0]["expunged_at"] is not None:
        raise Expunged("The message to replace no longer exists")
    return Replaced(view.account_id, view.mailbox_id, Uid(uids.first), rows[0]["size"])


async def forget(s: Session, old: Replaced, modseq: ModSeq) -> None:
    """The message went: this worker's picture learns it, and others do.

    Args:
        modseq: 0: not known, because the answer of the commit was lost; the database tells.
    """
    view = s.view.view
    if modseq:
        s.view.expunged(modseq, [old.uid])
        s.publish(old.account_id, old.mailbox_id, modseq)
        return
    try:
        await view.refresh()
    except (NotFound, Unavailable):
        return  # it is done; the news come later
    s.publish(old.account_id, old.mailbox_id, ModSeq(view.newest.highest_modseq))
