"""Texts of the messages of selected mailboxes, as SORT and THREAD ask for them, kept in the worker.

Like the columns they never change, so of a mailbox that was read only what is new is read. Texts are read for the whole
mailbox or not kept: what comes to most of a mailbox is worth it, and what comes to less is read for itself. They are
kept packed, as they came; the octets are bounded.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from sora._native import columns as native
from sora._native.seqset import UidSet
from sora.types import MAX_UID

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from sora.protocols.imap.session import Session
    from sora.store.search import Search, What
    from sora.types import AccountId, MailboxId

KEPT_BYTES: Final = 64 * 1024**2
"""Of all mailboxes together: what THREAD reads of 300,000 messages."""

Key: TypeAlias = Literal["base_subject", "display_from", "display_to", "references", "from", "to", "cc"]
FIELDS: Final[Mapping[Key, int]] = {"from": native.FROM_FIELD, "to": native.TO_FIELD, "cc": native.CC_FIELD}
"""Those that are the addr-mailbox of a field's first address."""
READ: Final[Mapping[Key, What]] = {
    "base_subject": "base_subject",
    "display_from": "display_from",
    "display_to": "display_to",
    "references": "references",
    "from": "envelope",
    "to": "envelope",
    "cc": "envelope",
}


class _Entry:
    """One text of one mailbox: chunks, and up to which UID they reach."""

    __slots__ = ("chunks", "lock", "size", "up_to")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.up_to = 0
        self.lock = asyncio.Lock()


class TextCache:
    """The texts of a worker.

    Args:
        kept_bytes: Bound of what is kept; one mailbox alone may be larger while it is asked about.
    """

    def __init__(self, search: Search, kept_bytes: int = KEPT_BYTES) -> None:
        self._search = search
        self._kept_bytes = kept_bytes
        self._entries: OrderedDict[tuple[AccountId, MailboxId, int, Key], _Entry] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Octets held."""
        return sum(entry.size for entry in self._entries.values())

    async def packed(self, s: Session, uids: UidSet, key: Key) -> AsyncGenerator[bytes, None]:
        """Records of these messages, ascending, and perhaps of others too."""
        view, told = s.view.view, s.view.told
        name = (view.account_id, view.mailbox_id, s.view.uidvalidity, key)
        entry = self._entries.get(name)
        if entry is None:
            if 2 * len(uids) < len(told):
                async for chunk in self._read(view.account_id, view.mailbox_id, uids, key):
                    yield chunk
                return
            entry = self._entries[name] = _Entry()
        self._entries.move_to_end(name)
        async with entry.lock:  # who waits finds that it was read for him
            if uids.last > entry.up_to:
                await self._extend(s, entry, key)
        chunks = tuple(entry.chunks)
        self._tidy()
        for chunk in chunks:
            yield chunk

    async def _extend(self, s: Session, entry: _Entry, key: Key) -> None:
        """Read what the client knows and the entry does not: no UID below it will ever be new."""
        view, told = s.view.view, s.view.told
        fresh = told.present(UidSet.from_ranges([(entry.up_to + 1, MAX_UID)]))
        chunks = [chunk async for chunk in self._read(view.account_id, view.mailbox_id, fresh, key)]
        entry.chunks += chunks
        entry.size += sum(map(len, chunks))
        entry.up_to = fresh.last

    async def _read(
        self, account_id: AccountId, mailbox_id: MailboxId, uids: UidSet, key: Key
    ) -> AsyncGenerator[bytes, None]:
        async for chunk in self._search.texts(account_id, mailbox_id, uids, READ[key]):
            yield native.first_mailboxes(chunk, FIELDS[key]) if key in FIELDS else chunk

    def _tidy(self) -> None:
        size = self.size_bytes
        for name in list(self._entries):
            if size <= self._kept_bytes:
                return
            if not self._entries[name].lock.locked():
                size -= self._entries.pop(name).size
