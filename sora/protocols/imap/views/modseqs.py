"""Modseqs of the messages of a selected mailbox, read when somebody asks and kept up with what happens.

A view knows its flags without knowing when they changed, and most sessions never ask. The first that does reads them in
one statement, all or only what is later than it cares for; from then on own changes are added as they are made, and
those of others by a statement that gives what is new.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from sora._native.modseqs import ModSeqs
from sora.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora._native.seqset import UidSet
    from sora.protocols.imap.views.selection import Selection
    from sora.types import AccountId, MailboxId

GROWTH: Final = 65_536
"""Changes that may be added (10 MiB) before all is read again: the journal in the database is merged meanwhile."""

KEPT_BYTES: Final = 256 * 1024
"""Of a view that nobody has selected, and there are 64 of those: about 20,000 messages."""


class ModSeqState(Protocol):
    """What `store.messages.modseqs` gives."""

    @property
    def highest_modseq(self) -> int: ...
    @property
    def created(self) -> bytes | None: ...
    @property
    def changes(self) -> bytes | None: ...


class Messages(Protocol):
    """The part of the message repository that is needed here."""

    async def modseqs(self, account_id: AccountId, mailbox_id: MailboxId, since: int, /) -> ModSeqState: ...


class ModSeqColumn:
    """The modseqs of one mailbox, shared by the sessions of a worker that select it."""

    __slots__ = ("_account_id", "_known", "_limit", "_lock", "_mailbox_id", "_messages")

    def __init__(self, messages: Messages, account_id: AccountId, mailbox_id: MailboxId) -> None:
        self._messages = messages
        self._account_id = account_id
        self._mailbox_id = mailbox_id
        self._known: ModSeqs | None = None
        self._limit = 0
        self._lock = asyncio.Lock()

    async def reach(self, since: int, up_to: int) -> ModSeqs:
        """Modseqs that are exact for what changed after `since` (0: for all), and hold everything up to `up_to`.

        Raises:
            NotFound: The mailbox is gone.
            Unavailable: The database is, or it is behind.
        """
        since = min(since, up_to)
        while (known := self._known) is None or known.since > since or known.highest < up_to:
            async with self._lock:
                if self._known is known and await self._read(known, since) < up_to:
                    raise Unavailable(detail=f"modseq {up_to} is not there yet")
        return known

    async def _read(self, known: ModSeqs | None, since: int) -> int:
        """One statement: all after `since`, or what is new. Returns the mailbox's modseq in it."""
        grows = known is not None and known.since <= since and known.entries <= self._limit
        after = known.highest if known is not None and grows else since
        state = await self._messages.modseqs(self._account_id, self._mailbox_id, after)
        if known is None or not grows:
            self._known = ModSeqs(since, max(since, state.highest_modseq), state.created, state.changes)
            self._limit = self._known.entries + GROWTH
        elif known.highest == after <= state.highest_modseq:  # else an own change came in between: once more
            known.add(state.highest_modseq, state.created, state.changes)
        return state.highest_modseq

    def flagged(self, modseq: int, blocks: Sequence[tuple[int, bytes, bytes, bytes]]) -> None:
        """A session of this worker has changed flags; see `view.FlagChange`."""
        if self._known is not None and self._known.highest + 1 == modseq:
            self._known.add_change(modseq, [(no, changed) for no, _, changed, _ in blocks if any(changed)])

    def expunged(self, modseq: int) -> None:
        """A session of this worker has expunged messages."""
        if self._known is not None and self._known.highest + 1 == modseq:
            self._known.add(modseq, None, None)

    def doubt(self, failed: UidSet, unchanged_since: int) -> None:
        """Messages failed UNCHANGEDSINCE. If nothing here says why, the journal was merged: they are later now.

        Without this the client would be told the same modseq again, and fail with it for ever.
        """
        known = self._known
        if known is not None and len(known.newer(failed, unchanged_since, known.highest)) < len(failed):
            self.forget()

    def forget(self) -> None:
        """What is here is not to be trusted."""
        self._known = None

    def rest(self) -> None:
        """Nobody has the mailbox selected just now."""
        if self._known is not None and self._known.size_bytes > KEPT_BYTES:
            self._known = None


async def modseqs_for(selection: Selection) -> ModSeqs | None:
    """What `Selection.sync` needs now; None: nothing. There must be no await between this and that.

    Raises:
        NotFound: The mailbox is gone.
        Unavailable: The database is.
    """
    view = selection.view
    while (since := selection.needs_modseqs) is not None:
        up_to = view.newest.highest_modseq
        known = await view.modseqs.reach(since, up_to)
        if view.newest.highest_modseq == up_to:
            return known
    return None
