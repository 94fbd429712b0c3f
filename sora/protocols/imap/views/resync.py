"""QRESYNC (RFC 7162 §3.2.5): a client that knew a mailbox at some modseq is told what has happened since.

What the answer adds to that knowledge is the picture of a fresh SELECT. If the expunge log does not reach back so far,
the answer is worked out from what the client says it has: everything of it that is not there has vanished. That may
name UIDs the client never had, which it ignores; it never leaves one out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora.errors import BadSyntax
from sora.protocols.imap.enable import QRESYNC, UIDONLY
from sora.protocols.imap.replies import UidRequired
from sora.protocols.imap.views.selection import NO_UIDS
from sora.protocols.imap.views.untagged import flag_lines, write_vanished

if TYPE_CHECKING:
    from sora._native.seqset import SeqSet
    from sora._native.viewcols import Snapshot
    from sora.protocols.imap.session import Session
    from sora.protocols.imap.views.selection import Selection
    from sora.wire import imap_commands as wire
    from sora.wire.imap_fetch import Fetch

MAX_MATCH: Final = 10_000
"""Pairs of sequence numbers and UIDs that are looked at; RFC 7162 §3.2.5.2 thinks of a handful."""


def check(s: Session, cmd: wire.Select) -> None:
    """Before the mailbox that is selected is left.

    Raises:
        BadSyntax: QRESYNC was not enabled (RFC 7162 §3.2.5).
        UidRequired: Sequence numbers after UIDONLY (RFC 9586 §3.4).
    """
    if cmd.qresync is None:
        return
    if QRESYNC not in s.enabled:
        raise BadSyntax("QRESYNC must be enabled first")
    if cmd.qresync.match is not None and UIDONLY in s.enabled:
        raise UidRequired


async def resync(s: Session, asked: wire.QResync) -> None:
    """Tell what vanished and what changed. Nothing if the UIDs mean other messages now.

    A client that knows a later modseq than there is (of a database that was restored from a backup) is told everything;
    what it has seen since then is in no log, and has vanished.
    """
    selection = s.view
    told = selection.told
    if asked.uidvalidity != selection.uidvalidity:
        return
    if asked.modseq == told.highest_modseq:
        return
    ahead = asked.modseq > told.highest_modseq
    since = 0 if ahead else asked.modseq
    known = all_below(told.uid_next) if asked.known_uids is None else asked.known_uids
    gone = known - told.all_uids() if ahead else await vanished(s, since, known, asked.match)
    write_vanished(s.write, gone, earlier=True)
    modseqs = await selection.view.modseqs.reach(since, told.highest_modseq)
    changed = modseqs.newer(told.present(known), since, told.highest_modseq)
    for chunk in flag_lines(
        told, changed, selection.names, s.enabled,
        recent_after=selection.recent_after, modseqs=selection.modseqs_of(modseqs, changed),
    ):  # fmt: skip
        s.write(chunk)
        await s.breathe()


def all_below(uid_next: int) -> UidSet:
    """1 to UIDNEXT - 1."""
    return UidSet.from_ranges([(1, uid_next - 1)]) if uid_next > 1 else NO_UIDS


async def vanished(s: Session, since: int, known: UidSet, match: tuple[SeqSet, UidSet] | None = None) -> UidSet:
    """UIDs among `known` that are not in the client's mailbox any more, and were at modseq `since` as far as is known.

    Args:
        match: Sequence numbers and UIDs of that time, which narrow the answer where the log is cut.
    """
    selection = s.view
    view = selection.view
    log = await s.node.store.messages.expunged_since(view.account_id, view.mailbox_id, since)
    if log.complete:
        # what went after the client's picture is still in it, and is told later like any other change
        return (UidSet.from_numbers(log.uids) & known) - selection.told.all_uids()
    if match is not None and (sure := matching_up_to(selection.told, *match)):
        known = known - UidSet.from_ranges([(1, sure)])
    return known - selection.told.all_uids()


async def changed_since(s: Session, cmd: Fetch, uids: UidSet) -> UidSet:
    """CHANGEDSINCE and VANISHED of FETCH (RFC 7162 §3.1.4.1, §3.2.6): what went is told, what changed is given back.

    Raises:
        BadSyntax: VANISHED, and QRESYNC was not enabled.
    """
    if cmd.changed_since is None:
        return uids
    if cmd.vanished:
        if QRESYNC not in s.enabled:
            raise BadSyntax("QRESYNC must be enabled first")
        assert isinstance(cmd.messages, UidSet), "the parser takes VANISHED with UID FETCH only"
        known = resolved(cmd.messages, s.view)
        write_vanished(s.write, await vanished(s, cmd.changed_since, known), earlier=True)
    up_to = s.view.told.highest_modseq
    modseqs = await s.view.view.modseqs.reach(cmd.changed_since, up_to)
    return modseqs.newer(uids, cmd.changed_since, up_to)


def matching_up_to(told: Snapshot, seqs: SeqSet, uids: UidSet) -> int:
    """The last UID up to which the client has lost nothing; 0: none.

    Messages do not come in between, so where a UID still has its sequence number, all below it are still there. Sets
    that are larger than any client's samples (`1:4294967295` is short to write) narrow nothing.
    """
    if len(seqs) > MAX_MATCH:
        return 0
    pairs = zip(reversed(list(seqs)), reversed(list(uids)), strict=True)
    return next((uid for seq, uid in pairs if told.seq(uid) == seq), 0)


def resolved(uids: UidSet, selection: Selection) -> UidSet:
    """A set of UIDs in which `*` is the last UID there has been: the messages behind it may be those that went."""
    return uids.resolve(selection.told.uid_next - 1) & all_below(selection.told.uid_next)
