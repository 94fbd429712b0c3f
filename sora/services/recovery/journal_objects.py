"""Objects of the journal while they are being written: frames are added, and what is full goes into the object store.

A segment is put beside the reading of the next one, `PUTS` of them at a time. The database is told of each in its turn,
once all before it are there: a large account may have begun in one of those.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from sora import metrics
from sora.crashpoints import crash_point
from sora.store import journal
from sora.store.journal import Builder, Frame, encode, pack
from sora.store.marks import Written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora.store.blobs import BlobStore
    from sora.store.journal import Record
    from sora.store.leases import Lease
    from sora.store.marks import Marks
    from sora.store.readings import Mark
    from sora.store.sealing import AccountKey
    from sora.types import AccountId

PACKED_BYTES: Final = 256 * 1024
"""Records of an account are packed together until they have so many octets."""
INLINE_BYTES: Final = 32 * 1024
"""More is compressed in a thread."""
PUTS: Final = 2
"""Segments on their way to the object store, while the next one is filled."""


class Group:
    """What is being written of one account. The last payload is held back until it is known to be the last.

    Attributes:
        frames: Those that are ready.
        size: Their octets.
        total: Octets of the frames that were added to objects.
    """

    def __init__(self, account_id: AccountId, number: int, sealer: AccountKey | None) -> None:
        self.account_id = account_id
        self.number = number
        self.frames: list[Frame] = []
        self.size = 0
        self.total = 0
        self._sealer = sealer
        self._records: list[bytes] = []
        self._waiting = 0
        self._held: bytes | None = None
        self._part = 0

    async def add(self, record: Record) -> None:
        """The next record."""
        encoded = encode(record)
        self._records.append(encoded)
        self._waiting += len(encoded)
        if self._waiting >= PACKED_BYTES:
            await self._pack()

    async def end(self) -> None:
        """There are no more records."""
        await self._pack()
        if self._held is not None:
            self._seal(last=True)

    def take(self) -> list[Frame]:
        """Frames that are ready."""
        taken, self.frames, self.size = self.frames, [], 0
        return taken

    async def _pack(self) -> None:
        if not self._records:
            return
        inline = self._waiting <= INLINE_BYTES
        payload = pack(self._records) if inline else await asyncio.to_thread(pack, self._records)
        self._records, self._waiting = [], 0
        if self._held is not None:
            self._seal(last=False)
        self._held = payload

    def _seal(self, *, last: bool) -> None:
        payload, self._held = self._held or b"", None
        if self._sealer is not None:
            context = journal.frame_context(self.account_id, self.number, self._part, last=last)
            payload = self._sealer.seal_record(context, payload)
        self.frames.append(Frame(self.account_id, self.number, self._part, last, self._sealer is not None, payload))
        self.size += len(payload)
        self._part += 1


class Objects:
    """Objects that are filled one after the other.

    Attributes:
        seq: The number of the one that is open.
        gone: Accounts that are no more, by what was written and is not yet put.
    """

    def __init__(self, marks: Marks, blobs: BlobStore, lease: Lease) -> None:
        self._marks = marks
        self._blobs = blobs
        self._lease = lease
        self._written = Written()
        self._builder: Builder | None = None
        self._opened_mono = 0.0
        self.seq = 0
        self.gone: list[AccountId] = []

    def __len__(self) -> int:
        return len(self._builder) if self._builder else 0

    @property
    def age_s(self) -> float:
        """For how long an object has been open."""
        return time.monotonic() - self._opened_mono if self._builder else 0.0

    async def begin(self) -> None:
        """Have an object open."""
        if self._builder is None:
            self.seq = await self._number()
            self._builder = Builder(self.seq)
            self._opened_mono = time.monotonic()

    async def finish(self, group: Group, notes: Sequence[int], marks: Sequence[Mark], *, whole: bool) -> None:
        """All of an account is there."""
        await group.end()
        await self.begin()  # what was spilled may have closed the last one
        self._append(group)
        self._written.notes += notes
        self._written.marks += marks
        if group.total:
            self._written.accounts.append((group.account_id, group.number, group.total, whole))

    async def spill(self, group: Group) -> None:
        """Put what there is of a large account, and go on in another object."""
        await self.begin()
        self._append(group)
        await self.put()

    async def put(self) -> None:
        """Send the open object on its way."""
        raise AssertionError

    async def close(self) -> None:
        """Put what there is, and wait until all is there."""
        raise AssertionError

    def _append(self, group: Group) -> None:
        assert self._builder is not None, "begun"
        group.total += sum(self._builder.add(frame) for frame in group.take())

    async def _number(self) -> int:
        return await self._marks.take_seq(self._lease)

    async def _store(self, key: str, builder: Builder) -> int:
        """The octets of the object."""
        data = await asyncio.to_thread(builder.finish)
        crash_point("journal.read")
        await self._blobs.put(key, data)
        metrics.journal_bytes.inc(len(data))
        return len(data)


class Segments(Objects):
    """Segments; each is noted as soon as it and all before it are in the store."""

    def __init__(self, marks: Marks, blobs: BlobStore, lease: Lease) -> None:
        super().__init__(marks, blobs, lease)
        self._puts: list[asyncio.Task[None]] = []

    async def put(self) -> None:
        """See `Objects.put`; a number that was taken for nothing is no harm."""
        if self._builder is not None and self._builder.frames:
            await self._put()

    async def _put(self) -> None:
        assert self._builder is not None, "begun"
        builder, self._builder = self._builder, None
        written, self._written = self._written, Written()
        before = self._puts[-1] if self._puts else None
        self._puts.append(asyncio.create_task(self._send(builder, written, before)))
        while len(self._puts) >= PUTS:
            await asyncio.shield(self._puts[0])
            del self._puts[0]

    def carry(self, frame: Frame) -> int:
        """Add a frame as another segment has it; its octets."""
        assert self._builder is not None, "begun"
        return self._builder.add(frame)

    async def carried(self, accounts: Sequence[tuple[AccountId, int, int, bool]]) -> None:
        """All frames of some accounts are there; see `Written`. An object is put even if there were none."""
        await self.begin()
        self._written.accounts += accounts
        await self._put()

    async def close(self) -> None:
        """See `Objects.close`."""
        await self.put()
        while self._puts:
            await asyncio.shield(self._puts[0])
            del self._puts[0]

    async def abandon(self) -> None:
        """What is under way is of no use: something before it failed."""
        for task in self._puts:
            task.cancel()
        for task in self._puts:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task  # the first failure is the one that is told
        self._puts.clear()

    async def _send(self, builder: Builder, written: Written, before: asyncio.Task[None] | None) -> None:
        size = await self._store(journal.segment_key(builder.seq), builder)
        crash_point("journal.put")
        if before is not None:
            await asyncio.shield(before)
        await self._marks.written(self._lease, builder.seq, size, written)
        crash_point("journal.marked")
        metrics.journal_segments.inc()


class Snapshot(Objects):
    """A snapshot of one account: objects with one number, which count when the last of them is there."""

    def __init__(self, marks: Marks, blobs: BlobStore, lease: Lease, account_id: AccountId) -> None:
        super().__init__(marks, blobs, lease)
        self._account_id = account_id
        self._parts = 0
        self._size = 0

    async def put(self) -> None:
        """See `Objects.put`."""
        assert self._builder is not None, "begun"
        builder, self._builder = self._builder, None
        self._size += await self._store(journal.snapshot_key(self._account_id, self.seq, self._parts), builder)
        self._parts += 1

    async def close(self) -> None:
        """See `Objects.close`."""
        await self.put()
        crash_point("journal.snapshot_put")
        await self._marks.written(self._lease, self.seq, self._size, self._written, snapshot_parts=self._parts)
        crash_point("journal.snapshot_marked")

    async def _number(self) -> int:
        return self.seq or await super()._number()
