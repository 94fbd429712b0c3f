"""MODSEQ in SEARCH (RFC 7162 §3.1.5): as a key, and in the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora._native.seqset import UidSet
from sora.protocols.imap.enable import CONDSTORE, switch_on
from sora.wire import imap_search as keys

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session
    from sora.wire.imap_search import ByModSeq, Search, SearchKey


async def by_modseq(s: Session, key: ByModSeq, within: UidSet) -> UidSet:
    """Messages with this modseq or a later one. A message has one for all its flags, so the entry does not matter."""
    up_to = s.view.told.highest_modseq
    known = await s.view.view.modseqs.reach(max(key.modseq - 1, 0), up_to)
    return known.newer(within, max(key.modseq - 1, 0), up_to)


def note_enabling(s: Session, cmd: Search) -> None:
    """A search for modseqs says that the client understands them (RFC 7162 §3.1)."""
    if cmd.has_modseq:
        switch_on(s, CONDSTORE)


async def highest_found(s: Session, cmd: Search, found: UidSet) -> int | None:
    """The MODSEQ of the answer; None: there is none.

    It is that of what the answer names: with MIN and MAX alone these two, else everything found (RFC 7162 §3.1.6).
    """
    if not cmd.has_modseq or not found:
        return None
    ends = {"MIN": found.first, "MAX": found.last}
    if cmd.returns is not None and cmd.returns & ends.keys() and not cmd.returns & {"ALL", "COUNT", "PARTIAL"}:
        found = UidSet.from_numbers({ends[name] for name in cmd.returns & ends.keys()})
    up_to = s.view.told.highest_modseq
    return (await s.view.view.modseqs.reach(floor_of(cmd.key), up_to)).last(found, up_to)


def floor_of(key: SearchKey) -> int:
    """A modseq after which every message changed that the key finds; 0: there is none to be seen in it."""
    match key:
        case keys.ByModSeq():
            return max(key.modseq - 1, 0)
        case keys.And():
            return max(map(floor_of, key.keys))
        case keys.Or():
            return min(floor_of(key.left), floor_of(key.right))
    return 0
