"""COPY, MOVE and EXPUNGE: messages are doubled, change their place and go."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sora._native.seqset import UidSet
from sora.crashpoints import crash_point
from sora.errors import DatabaseDown, Expunged, NotFound, OutcomeUnknown
from sora.protocols.imap import events, messagelimit
from sora.protocols.imap.enable import CONDSTORE
from sora.protocols.imap.places import find
from sora.protocols.imap.progress import working
from sora.protocols.imap.replies import Reply, TryCreate
from sora.protocols.imap.rights import require_selected
from sora.store.transfers import Transfer
from sora.types import DELETED, Rights
from sora.wire import imap_responses as responses

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sora.protocols.imap.places import Found
    from sora.protocols.imap.session import Session
    from sora.store.messages import CopyResult
    from sora.wire import imap_commands as wire


_T = TypeVar("_T")


async def known(work: Awaitable[_T]) -> _T:
    """NO says that the mailbox is as it was before (RFC 9051 §6.3.12, §6.4.7), so a client tries again, and has two.

    Raises:
        OutcomeUnknown: Neither OK nor NO would be true.
    """
    try:
        return await work
    except DatabaseDown as error:
        if error.maybe_done:
            raise OutcomeUnknown(detail=str(error)) from error
        raise


async def target_of(s: Session, name: str) -> Found:
    """The mailbox that messages shall go to.

    Raises:
        TryCreate: There is none, or it cannot hold messages.
        NoPermission: The right i is missing.
    """
    try:
        found = await find(s, name, Rights.INSERT)
    except NotFound:
        raise TryCreate from None
    if found.mailbox.noselect:
        raise TryCreate
    return found


async def copy(s: Session, cmd: wire.Copy) -> Reply | None:
    """RFC 9051 §6.4.7: all messages or none.

    Raises:
        Coded: They are more than may be saved at a time (RFC 9738).
    """
    target = await target_of(s, cmd.mailbox)
    uids = await _still_there(s, cmd)
    messagelimit.require_few(s, uids)
    if not uids:
        return None
    crash_point("copy.chosen")
    try:
        with working(s, len(uids)):
            done = await known(s.node.transfers.transfer(_between(s, target), uids))
    except NotFound:
        raise TryCreate from None
    crash_point("copy.committed")
    if not done.source_uids:
        return None
    s.publish(target.place.owner_id, target.mailbox.mailbox_id, done.target_modseq, done.target_uids)
    await events.arrived(s, target.place.owner_id, target.mailbox.mailbox_id, "COPY", done.target_uids)
    return Reply(code=_copyuid(done))


async def move(s: Session, cmd: wire.Move) -> Reply | None:
    """RFC 6851 §3.3: untagged COPYUID, then the expunges, then the tagged OK."""
    selection = s.view
    view = selection.view
    selection.require_writable()
    require_selected(view.rights, Rights.DELETE_MESSAGES | Rights.EXPUNGE)
    target = await target_of(s, cmd.mailbox)
    chosen = messagelimit.cut(s, await _still_there(s, cmd))
    uids = chosen.uids
    if not uids:
        return None
    crash_point("move.chosen")
    try:
        with working(s, len(uids)):
            done = await known(s.node.transfers.transfer(_between(s, target, move=True), uids))
    except NotFound:
        raise TryCreate from None
    crash_point("move.committed")
    if not done.source_uids:
        return None
    s.write(b"* OK [%s] Moved\r\n" % _copyuid(done))
    # in one mailbox the same modseq brings the copies: only the database has it all
    if target.mailbox.mailbox_id != view.mailbox_id:
        selection.expunged(done.source_modseq, done.source_uids)
    s.publish(view.account_id, view.mailbox_id, done.source_modseq)
    s.publish(target.place.owner_id, target.mailbox.mailbox_id, done.target_modseq, done.target_uids)
    await events.arrived(s, target.place.owner_id, target.mailbox.mailbox_id, "COPY", done.target_uids)
    return await _standing(s, chosen.reply, with_uid=isinstance(cmd.messages, UidSet))


async def _standing(s: Session, reply: Reply | None, *, with_uid: bool) -> Reply | None:
    """After messages went: with CONDSTORE the tagged OK says where the client stands (RFC 7162 §3.2.7).

    It is told what went before that, and of nothing beyond.

    Args:
        reply: What there is to say else; its code is in the tagged OK then.
    """
    if CONDSTORE not in s.enabled:
        return reply
    await s.bring_up_to_date(with_uid=with_uid)
    if s.selection is None:
        return reply
    code = b"HIGHESTMODSEQ %d" % s.view.told.highest_modseq
    if reply is None:
        return Reply(code=code)
    s.write(b"* OK [%s] Highest\r\n" % code)
    return reply


def _between(s: Session, target: Found, *, move: bool = False) -> Transfer:
    """From the selected mailbox to another one."""
    view = s.view.view
    return Transfer(
        account_id=view.account_id,
        mailbox_id=view.mailbox_id,
        to_account_id=target.place.owner_id,
        to_mailbox_id=target.mailbox.mailbox_id,
        actor_id=s.account_id,
        rights=target.mailbox.rights,
        move=move,
    )


async def _still_there(s: Session, cmd: wire.Copy | wire.Move) -> UidSet:
    """UIDs of the messages that the command names.

    Raises:
        Expunged: A sequence number stands for a message that is gone. UIDs that are gone are skipped.
    """
    view = s.view.view
    uids = s.uids(cmd.messages)
    if view.stale:
        await view.refresh()
    left = view.newest.present(uids)
    if len(left) < len(uids) and not isinstance(cmd.messages, UidSet):
        raise Expunged("Some of the messages no longer exist")
    return left


def _copyuid(done: CopyResult) -> bytes:
    """COPYUID (RFC 4315 §3): both sets ascending, so that they belong together pairwise."""
    source, target = UidSet.from_numbers(done.source_uids), UidSet.from_numbers(done.target_uids)
    return responses.copyuid(done.uidvalidity, source, target)


# ---------------------------------------------------------------------------------------------------- EXPUNGE


async def expunge(s: Session, cmd: wire.Expunge) -> Reply | None:
    r"""RFC 9051 §6.4.3 and UID EXPUNGE (§6.4.9): messages with \Deleted, of the UIDs given or of all.

    Of the UIDs given at most as many go as one command may work on (RFC 9738 §3.1).

    Raises:
        ReadOnly: The mailbox was opened by EXAMINE.
    """
    selection = s.view
    view = selection.view
    selection.require_writable()
    require_selected(view.rights, Rights.EXPUNGE)
    chosen = None if cmd.uids is None else _deleted(s, s.uids(cmd.uids))
    uids = None if chosen is None else chosen.uids
    if uids is not None and not uids:
        return None
    crash_point("expunge.chosen")
    with working(s):
        done = await s.node.store.messages.expunge(view.account_id, view.mailbox_id, uids)
    crash_point("expunge.committed")
    reply = None if chosen is None else chosen.reply
    if not done.uids:
        return reply
    selection.expunged(done.modseq, done.uids)
    s.publish(view.account_id, view.mailbox_id, done.modseq)
    return await _standing(s, reply, with_uid=uids is not None)


def _deleted(s: Session, uids: UidSet) -> messagelimit.Cut:
    r"""What of a UID set may go: all of it, unless more than the limit is known to have \Deleted."""
    if len(uids) <= s.limits.imap_messages:
        return messagelimit.Cut(uids)
    found = messagelimit.cut(s, uids & s.view.told.with_flag(DELETED, True))
    return found if found.code else messagelimit.Cut(uids)
