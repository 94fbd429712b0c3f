"""Immutable facts of the messages of selected mailboxes, kept in the worker.

What `message_columns()` says about a message never changes, and a UID never comes back. So what was read stays right,
and of a mailbox that was asked about before only the new messages are read. All sessions of a worker share it. The
octets are bounded: what was not asked about for the longest time goes first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from sora._native.columns import Columns

if TYPE_CHECKING:
    from sora._native.seqset import UidSet
    from sora.protocols.imap.session import Session
    from sora.protocols.imap.views.selection import Selection
    from sora.store.search import Search
    from sora.types import AccountId, MailboxId

KEPT_BYTES: Final = 64 * 1024**2
"""Of all mailboxes together: 1.5 million messages."""
FEW: Final = 1000
"""So many missing messages are read at once; more of them only for who needs their facts, or asks twice."""

_Key: TypeAlias = "tuple[AccountId, MailboxId, int]"


class _Entry:
    """One mailbox."""

    __slots__ = ("asked", "columns", "lock")

    def __init__(self) -> None:
        self.columns = Columns()
        self.lock = asyncio.Lock()
        self.asked = False


class ColumnCache:
    """The columns of a worker.

    Args:
        kept_bytes: Bound of what is kept; one mailbox alone may be larger while it is asked about.
    """

    def __init__(self, search: Search, kept_bytes: int = KEPT_BYTES) -> None:
        self._search = search
        self._kept_bytes = kept_bytes
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return sum(entry.columns.size_bytes for entry in self._entries.values())

    def at_hand(self, selection: Selection, uids: UidSet) -> Columns | None:
        """The columns, if they hold all of these messages."""
        entry = self._entries.get(_key(selection))
        if entry is None or entry.columns.missing(uids):
            return None
        self._entries.move_to_end(_key(selection))
        return entry.columns

    def worth_reading(self, selection: Selection, uids: UidSet) -> bool:
        """Little is missing, or this is not the first time that somebody wants it."""
        entry = self._entries.setdefault(_key(selection), _Entry())
        again, entry.asked = entry.asked, True
        return again or len(entry.columns.missing(uids)) <= FEW

    async def get(self, s: Session, uids: UidSet) -> Columns:
        """The columns with all of these messages that are still there."""
        key = _key(s.view)
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        async with entry.lock:  # who waits finds that it was read for him
            missing = entry.columns.missing(uids)
            if missing:
                async for packed in self._search.columns(key[0], key[1], missing):
                    entry.columns.add(packed)
                    await s.breathe()
        if missing:
            self._tidy(s.view, entry)
        return entry.columns

    def _tidy(self, selection: Selection, entry: _Entry) -> None:
        """Forget messages that are gone, once they are the most, and the mailboxes nobody asks about."""
        if len(entry.columns) > 2 * len(selection.view.newest) + FEW:
            entry.columns.keep(selection.view.newest.all_uids() | selection.told.all_uids())
        size = self.size_bytes
        for key in list(self._entries):
            if size <= self._kept_bytes:
                return
            if not self._entries[key].lock.locked():
                size -= self._entries.pop(key).columns.size_bytes


def _key(selection: Selection) -> _Key:
    return selection.view.account_id, selection.view.mailbox_id, selection.uidvalidity
