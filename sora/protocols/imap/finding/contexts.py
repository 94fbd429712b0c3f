"""Searches whose results are kept up to date: UPDATE, ADDTO, REMOVEFROM, CANCELUPDATE (RFC 5267).

Whether a message belongs to a result depends on the message alone: its flags, which change, and everything else, which
does not. So after each step of what the client is told only those messages are looked at that arrived or changed in it;
a search by flags costs no statement. The order that the client must see is the reason for two steps:

1. `before`: messages that are about to be expunged leave the results, while their numbers are still valid.
2. The client is told: EXPUNGE or VANISHED, EXISTS, FETCH.
3. `after`: what has changed leaves or joins the results, what has arrived joins them.

What a search says about its own moment is settled when it is made: sequence numbers, `$` and `*` become UIDs then
(RFC 5267 §4.3). Where age or modseq is asked for, all messages are looked at again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sora import log
from sora._native.seqset import UidSet
from sora.errors import BadSyntax, Unavailable
from sora.protocols.imap.enable import UIDONLY
from sora.protocols.imap.views.selection import NO_UIDS
from sora.types import MAX_UID
from sora.wire import imap_esearch as wire
from sora.wire import imap_search as keys
from sora.wire.imap_syntax import quoted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from sora._native.viewcols import Snapshot
    from sora.protocols.imap.session import Session
    from sora.wire.imap_contexts import CancelUpdate
    from sora.wire.imap_search import SearchKey

    Match = Callable[[Session, SearchKey, UidSet], Awaitable[UidSet]]
    Order = Callable[[Session, UidSet], Awaitable[Sequence[int]]]

_log = log.get(__name__)

LOOK_AGAIN_S: Final = 10.0
"""How often the age of messages is looked at again (RFC 5032 §2 leaves it to the server)."""


class Context:
    """One result that is kept up to date.

    Attributes:
        tag: Of the command that made it.
        uid: It speaks of UIDs.
        found: What the client takes for the result; UIDs, as a set for SEARCH, in their order for SORT.
    """

    __slots__ = ("_checked_mono", "_key", "_match", "_order", "_place", "aged", "found", "tag", "uid")

    def __init__(
        self,
        tag: bytes,
        found: UidSet | Sequence[int],
        key: SearchKey,
        match: Match,
        order: Order | None,
        *,
        uid: bool,
        place: wire.Place | None = None,
    ) -> None:
        self.tag = tag
        self._place = place
        self.uid = uid
        self.found = found
        self.aged = any(isinstance(part, keys.Within | keys.ByModSeq) for part in parts_of(key))
        self._key = key
        self._match = match
        self._order = order
        self._checked_mono = time.monotonic()

    @property
    def ordered(self) -> bool:
        """It is that of a SORT."""
        return self._order is not None

    @property
    def due(self) -> bool:
        """All messages are to be looked at again."""
        return self.aged and time.monotonic() - self._checked_mono >= LOOK_AGAIN_S

    def leave(self, s: Session, gone: UidSet) -> None:
        """Messages leave the result; their numbers are those that the client has been told."""
        changes: list[tuple[int, UidSet | Sequence[int]]]
        if self._order is None:
            found = as_set(self.found)
            leaving = found & gone
            self.found = found - leaving
            changes = [(0, leaving)] if leaving else []
        else:
            changes = list(runs_within(list(self.found), gone, removed=True))
            self.found = [uid for uid in self.found if uid not in gone]
        self._tell(s, b"REMOVEFROM", changes)

    async def look(self, s: Session, changed: UidSet) -> None:
        """Look at messages that may have joined or left.

        Raises:
            Unavailable: Nothing was said and nothing has changed.
        """
        if self.aged:
            changed = s.view.told.all_uids()
        before = as_set(self.found) & changed
        matching = await self._match(s, self._key, changed)
        joining = matching - before
        ordered: Sequence[int] | None = None
        if self._order is not None and joining:
            ordered = await self._order(s, as_set(self.found) - (before - matching) | joining)
        self._checked_mono = time.monotonic()
        self.leave(s, before - matching)
        self._join(s, joining, ordered)

    def _join(self, s: Session, joining: UidSet, ordered: Sequence[int] | None) -> None:
        if ordered is None:
            self.found = as_set(self.found) | joining if self._order is None else self.found
            self._tell(s, b"ADDTO", [(0, joining)] if joining else [])
            return
        if [uid for uid in ordered if uid not in joining] != self.found:  # the order itself is another one now
            self.leave(s, as_set(self.found))
            joining = as_set(ordered)
        self.found = ordered
        self._tell(s, b"ADDTO", list(runs_within(ordered, joining, removed=False)))

    def _tell(self, s: Session, what: bytes, changes: Sequence[tuple[int, UidSet | Sequence[int]]]) -> None:
        if changes:
            uid = self.uid or UIDONLY in s.enabled  # RFC 9586 §3: no sequence numbers any more
            said = [(place, uids if uid else numbers_of(s, uids)) for place, uids in changes]
            s.write(wire.update_line(self.tag, what, said, uid=uid, place=self._place, utf8=s.utf8))


class Contexts:
    """The contexts of one session in its selected mailbox.

    Attributes:
        at: The picture up to which they are right.
    """

    __slots__ = ("_doubtful", "_open", "at")

    def __init__(self) -> None:
        self.at: Snapshot | None = None
        self._open: dict[bytes, Context] = {}
        self._doubtful: UidSet = NO_UIDS

    def __bool__(self) -> bool:
        return bool(self._open)

    def require_new(self, tag: bytes) -> None:
        """RFC 5267 §4.3: updates are told apart by the tag.

        Raises:
            BadSyntax: An earlier search with this tag is still kept up to date.
        """
        if tag in self._open:
            raise BadSyntax("Tag reuse")

    def begin(
        self,
        s: Session,
        found: UidSet | Sequence[int],
        key: SearchKey,
        match: Match,
        order: Order | None = None,
        *,
        uid: bool,
        place: wire.Place | None = None,
    ) -> None:
        """Keep a result up to date, or say that it will not be (RFC 5267 §4.3.1).

        Args:
            match: Finds a key among messages.
            order: Sorts messages; None: mailbox order.
        """
        limit = s.limits.search_contexts
        sorted_ones = sum(context.ordered for context in self._open.values())
        if len(self._open) >= limit or (order is not None and sorted_ones >= (limit + 1) // 2):
            refuse(s, b"Too many contexts")
            return
        if not self._open:
            self.at = s.view.told
        self._open[s.tag] = Context(s.tag, found, settled(s, key), match, order, uid=uid, place=place)

    def cancel(self, tags: Sequence[bytes]) -> None:
        """Stop.

        Raises:
            BadSyntax: There is no search with one of these tags; the others go on.
        """
        if not self._open.keys() >= set(tags):
            raise BadSyntax("No search with that tag is kept up to date")
        for tag in set(tags):
            del self._open[tag]

    def before(self, s: Session, *, hold: bool) -> None:
        """The client is about to be told what has happened; with *hold*, not of expunges."""
        if hold or not s.view.behind:
            return
        if gone := s.view.leaving():
            for context in self._open.values():
                context.leave(s, gone)

    async def after(self, s: Session) -> None:
        """The client has been told; what cannot be found out now is looked at the next time."""
        told = s.view.told
        changed = self._doubtful
        if self.at is not None and told is not self.at:
            diff = self.at.diff(told)
            changed = told.present(changed | diff.changed | diff.arrived)
        self.at, self._doubtful = told, changed
        try:
            for context in self._open.values():
                if changed or context.due:
                    await context.look(s, changed)
        except Unavailable as error:
            _log.info("search results not updated", extra={"detail": str(error)})
        else:
            self._doubtful = NO_UIDS


def refuse(s: Session, why: bytes) -> None:
    """The result will not be kept up to date (RFC 5267 §4.3.1)."""
    s.write(b"* NO [NOUPDATE %s] %s\r\n" % (quoted(s.tag), why))


async def cancelupdate(s: Session, cmd: CancelUpdate) -> None:
    """RFC 5267 §4.3.5."""
    s.results.contexts.cancel(cmd.tags)


def runs_within(found: Sequence[int], some: UidSet, *, removed: bool) -> Iterator[tuple[int, UidSet | Sequence[int]]]:
    """Neighbours in *found* that are in *some*, with the context position that the client needs for each.

    Positions count from 1. The client applies one after the other: what was removed before is gone already, what was
    added before is there.
    """
    run: list[int] = []
    start = gone = 0
    for index, uid in enumerate((*found, None)):
        if uid is not None and uid in some:
            if not run:
                start = index
            run.append(uid)
        elif run:
            yield start - gone + 1, run
            gone += len(run) if removed else 0
            run = []


def settled(s: Session, key: SearchKey) -> SearchKey:
    """The key with UIDs for what depends on the moment: sequence numbers, `$` and `*`.

    What a set of UIDs says of messages that are still to come stays: 5:* takes them in.
    """
    match key:
        case keys.InSeqs():
            return keys.InUids(s.uids(key.messages) if key.messages.is_saved else s.view.told.uids(key.messages))
        case keys.InUids():
            if key.messages.is_saved:
                return keys.InUids(s.uids(key.messages))
            told = s.view.told
            last = told.uid(len(told)) if len(told) else 0
            return keys.InUids(key.messages.resolve(last) | key.messages.resolve(MAX_UID))
        case keys.Not():
            return keys.Not(settled(s, key.key))
        case keys.Fuzzy():
            return keys.Fuzzy(settled(s, key.key))
        case keys.And():
            return keys.And(tuple(settled(s, part) for part in key.keys))
        case keys.Or():
            return keys.Or(settled(s, key.left), settled(s, key.right))
    return key


def parts_of(key: SearchKey) -> Iterator[SearchKey]:
    """The key and all keys in it."""
    yield key
    match key:
        case keys.Not() | keys.Fuzzy():
            yield from parts_of(key.key)
        case keys.And():
            for part in key.keys:
                yield from parts_of(part)
        case keys.Or():
            yield from parts_of(key.left)
            yield from parts_of(key.right)


def as_set(found: wire.Results) -> UidSet:
    """UIDs in whatever order, as a set."""
    return found if isinstance(found, UidSet) else UidSet.from_numbers(found)


def numbers_of(s: Session, found: UidSet | Sequence[int]) -> wire.Results:
    """Sequence numbers of UIDs, as the client has them; the order stays."""
    told = s.view.told
    return told.seqs(found) if isinstance(found, UidSet) else [told.seq(uid) for uid in found]
