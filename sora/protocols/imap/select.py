"""SELECT, EXAMINE, CLOSE, UNSELECT, NOOP and CHECK: which mailbox is open, and what is new in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora.errors import NotFound, Unavailable
from sora.protocols.imap import enable, modes
from sora.protocols.imap.objectids import mailbox_id
from sora.protocols.imap.places import place_of
from sora.protocols.imap.replies import Reply
from sora.protocols.imap.rights import CHANGES
from sora.protocols.imap.views import resync
from sora.protocols.imap.views.untagged import write_count
from sora.types import Rights

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session
    from sora.protocols.imap.views.selection import Selection
    from sora.wire import imap_commands as wire


async def select(s: Session, cmd: wire.Select) -> Reply:
    """RFC 9051 §6.3.2, §6.3.3. One statement, and two for QRESYNC if anything has changed.

    The mailbox that was selected is left first, whether the new one can be opened or not.
    """
    resync.check(s, cmd)
    modes.tell_closed(s)
    s.unselect()
    if cmd.condstore or cmd.qresync is not None:
        enable.switch_on(s, enable.CONDSTORE)
    place = await place_of(s, cmd.mailbox)
    selection = await s.server.views.select(place.owner_id, place.name, place.viewer_id, read_only=cmd.read_only)
    selection.frozen = s.node.store.db.read_only
    s.select(selection)
    _tell_picture(s, selection, cmd.mailbox)
    if cmd.qresync is not None:
        try:
            await resync.resync(s, cmd.qresync)
        except BaseException:
            s.unselect()  # a SELECT that fails leaves nothing selected
            raise
    writable = not selection.read_only and selection.view.rights & CHANGES
    return Reply(code=b"READ-WRITE" if writable else b"READ-ONLY")


def _tell_picture(s: Session, selection: Selection, name: str) -> None:
    """The untagged responses that RFC 9051 §6.3.2 and RFC 7162 §3.1.2.1 require."""
    told = selection.told
    s.write(b"* FLAGS %s\r\n" % selection.flags_list())
    s.write(selection.permanent_flags())
    write_count(s.write, len(told), selection.recent_count(), s.enabled)
    if not modes.is_rev2(s.enabled) and enable.UIDONLY not in s.enabled and (unseen := told.first_unseen()):
        s.write(b"* OK [UNSEEN %d] First unseen\r\n" % unseen)
    s.write(b"* OK [UIDVALIDITY %d] UIDs valid\r\n" % selection.uidvalidity)
    s.write(b"* OK [UIDNEXT %d] Predicted next UID\r\n" % told.uid_next)
    s.write(b"* OK [HIGHESTMODSEQ %d] Highest\r\n" % told.highest_modseq)
    s.write(b"* OK [MAILBOXID %s] Its name for good\r\n" % mailbox_id(selection.view.mailbox_id))
    modes.tell_selected(s, name)


async def noop(s: Session, _cmd: wire.Noop | wire.Check) -> None:
    """NOOP and CHECK: the client asks for news, so its mailbox is compared with the database.

    Notices from other workers take a few milliseconds. A client that stored something on one connection and polls on
    another must see it, so the picture is not taken as it is, however lately it was compared; sessions that ask at the
    same time share a statement.
    """
    if s.selection is None:
        return
    try:
        await s.view.view.refresh()
    except NotFound:
        pass  # told at the end of the command, as for every other one
    except Unavailable:
        pass  # NOOP always succeeds (RFC 9051 §6.1.2); the news come later


async def close(s: Session, _cmd: wire.Close) -> Reply:
    """RFC 9051 §6.4.1: messages with \\Deleted go, silently; not in EXAMINE, nor without the right e (RFC 4314 §4).

    The modseq in the answer (RFC 7162 §3.2.8) is where the client stands: with the expunge, if nothing that it was not
    told of lies in between.
    """
    selection = s.view
    highest = 0
    if not selection.read_only and selection.view.rights & Rights.EXPUNGE:
        view, told = selection.view, selection.told.highest_modseq
        done = await s.node.store.messages.expunge(view.account_id, view.mailbox_id, None)
        if done.uids:
            view.expunged(done.modseq, done.uids)
            s.publish(view.account_id, view.mailbox_id, done.modseq)
            highest = done.modseq if done.modseq == told + 1 else told
    s.unselect()
    return Reply(code=b"HIGHESTMODSEQ %d" % highest if highest and enable.CONDSTORE in s.enabled else b"")


async def unselect(s: Session, _cmd: wire.Unselect) -> None:
    """RFC 9051 §6.4.2."""
    s.unselect()
