"""Writes the account journal into the object store (`store/journal.py` says what it is, `store/marks.py` what is due).

A pass looks for accounts of which something is not in the bucket, reads each of them as it is at one moment, and puts
what has changed into a segment, one object for all of them. Then the database notes what was written, and which UIDs
and modseqs are reserved. What was committed before a pass began is in the bucket when it has ended: that moment is the
recovery point.

Whoever dies in between costs a repetition, because records are absolute and the marks move last:

| killed after | what the next leader finds                        | what it does                              |
|--------------|---------------------------------------------------|-------------------------------------------|
| read         | a number that was taken for nothing               | writes the same again, with a new number  |
| put          | a segment that the marks do not know              | the same; to replay both does no harm     |
| marked       | all of it                                         | goes on                                   |

Two leaders at a time, because one was taken for dead, do no harm either: every object has a number of its own, taken
under the lease, and the marks move under the lease.

**Compaction.** When segments have become many, or outweigh the snapshots and what the last compaction left, accounts
that need one are written anew, some in each pass: to a snapshot if they have changed much since their last one, else
what has changed since then to the next segment. Segments that nobody needs are deleted.

**Another history.** If the bucket has a segment with a number that this database never took, or has not the last one
that it wrote, then the database was put back in time, or the bucket was exchanged: all is written anew.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from sora import log, metrics
from sora.crashpoints import crash_point
from sora.errors import InUse, KeyUnavailable, NotFound, Unavailable
from sora.store import journal
from sora.store.journal import Builder, Frame, Gone, Page, Reason, pack
from sora.store.marks import Written
from sora.store.sealing import AccountKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from sora.services.key_objects import KeyStore
    from sora.store.account_keys import Sealers
    from sora.store.blobs import BlobStore
    from sora.store.journal import Record
    from sora.store.leases import Lease
    from sora.store.marks import Held, Mark, Marks, Reading
    from sora.types import AccountId

SEGMENT_BYTES: Final = 8 * 1024**2
"""An object is closed when it is as large; twice as much is held in memory."""
INLINE_MESSAGES: Final = 512
"""A page of more messages is packed in a thread."""
MOST_SEGMENTS: Final = 256
LEAST_BYTES: Final = 16 * 1024**2
"""Segments that are smaller together are left alone, if they are not many."""
SMALL_BYTES: Final = 16 * 1024
"""An account with less in segments needs no snapshot of its own."""
COMPACTED: Final = 500
"""Accounts that are written anew in one pass."""
DELETES: Final = 8

_log = log.get(__name__)


class Journal:
    """The writer; one in a cluster, by the janitor's lease.

    Args:
        keys: Puts the wrapped key of an account into the object store before anything is sealed with it.
        lease: The lease, or None while somebody else has it.
        segment_bytes: See `SEGMENT_BYTES`.
        most_segments: See `MOST_SEGMENTS`.
        least_bytes: See `LEAST_BYTES`.
    """

    def __init__(
        self,
        marks: Marks,
        blobs: BlobStore,
        sealers: Sealers,
        keys: KeyStore,
        lease: Callable[[], Awaitable[Lease | None]],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        most_segments: int = MOST_SEGMENTS,
        least_bytes: int = LEAST_BYTES,
    ) -> None:
        self._marks = marks
        self._blobs = blobs
        self._sealers = sealers
        self._keys = keys
        self._lease = lease
        self._segment_bytes = segment_bytes
        self._most_segments = most_segments
        self._least_bytes = least_bytes
        self._token = 0  # of the lease under which the bucket was compared with the database

    async def step(self) -> bool:
        """Write what is due, and compact; False if somebody else is the leader.

        Raises:
            Unavailable: A dependency is away; what was not written is due the next time.
        """
        try:
            lease = await self._lease()
            if lease is not None:
                await self._lead(lease)
        except InUse as error:
            _log.info("somebody else writes the journal now", extra={"detail": str(error)})
            lease = None
        finally:
            await self._show()
        return lease is not None

    async def stop(self) -> bool:
        """Turn the journal off: say so in the bucket, then let go of what is reserved; False: not the leader.

        Raises:
            Unavailable: A dependency is away.
        """
        lease = await self._lease()
        if lease is None:
            return False
        state = await self._marks.state()
        if state.stopped_at is None and state.closed_seq:
            # First: from now on UIDs may be given out of which the bucket knows nothing.
            await self._blobs.put(journal.STOPPED, (await self._marks.now()).isoformat().encode())
            crash_point("journal.stopped")
            await self._marks.set_stopped(stopped=True)
            _log.warning("the journal is off")
        await self._marks.forget(lease)
        self._token = 0
        return True

    # ── a pass ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _lead(self, lease: Lease) -> None:
        if lease.token != self._token:
            await self._compare(lease)
            self._token = lease.token
        began = await self._marks.now()
        skipped = await self._write_due(lease)
        if (await self._marks.state()).stopped_at is not None and not skipped:
            await self._blobs.delete(journal.STOPPED)
            await self._marks.set_stopped(stopped=False)
        await self._marks.pass_ended(began, skipped)
        await self._compact(lease)

    async def _show(self) -> None:
        """On every node, whoever leads."""
        state = await self._marks.state()
        metrics.journal_recovery_point.set(state.recovery_point.timestamp() if state.recovery_point else 0)
        metrics.journal_skipped.set(state.skipped)

    async def _compare(self, lease: Lease) -> None:
        """Begin anew if database and bucket are not of the same history."""
        state = await self._marks.state()
        newest = await self._marks.newest_segment()
        if state.stopped_at is None and await self._is_ours(state.seq, newest):
            return
        _log.warning("the journal begins anew", extra={"seq": state.seq})
        await self._marks.forget(lease)

    async def _is_ours(self, seq: int, newest: int) -> bool:
        async with aclosing(_first(self._blobs, journal.segment_key(seq))) as later:
            async for key in later:
                if journal.parse_segment_key(key) is not None:
                    return False
        if newest:
            try:
                await self._blobs.stat(journal.segment_key(newest))
            except NotFound:
                return False
        return True

    async def _write_due(self, lease: Lease) -> int:
        """All accounts that are due; how many had to be left out."""
        out = _Segments(self._marks, self._blobs, lease, self._segment_bytes)
        after, skipped = -1, 0
        while due := await self._marks.due(after):
            for account_id in due:
                skipped += not await self._gather(out, account_id)
            after = due[-1]
        await self._close(out)
        return skipped

    async def _gather(self, out: _Segments, account_id: AccountId, whole: str = "") -> bool:
        """Add an account to the segment; see `_write`."""
        done = await self._write(out, account_id, whole)
        if len(out) >= self._segment_bytes:
            await self._close(out)
        return done

    async def _write(self, out: _Objects, account_id: AccountId, whole: str) -> bool:
        """One account; False if it cannot be done now, and others need not suffer for it."""
        try:
            await self._write_account(out, account_id, whole)
        except KeyUnavailable as error:
            _log.error("not in the journal", extra={"account_id": account_id, "error": str(error)})
        except (InUse, Unavailable):
            raise
        except Exception:
            _log.exception("not in the journal", extra={"account_id": account_id})
        else:
            return True
        metrics.journal_errors.inc()
        return False

    async def _write_account(self, out: _Objects, account_id: AccountId, whole: str) -> None:
        await out.begin()  # the number first: a greater one means a later look
        async with self._marks.reading(account_id) as reading:
            group = _Group(account_id, out.seq, await self._sealer(reading))
            marks: list[Mark] = []
            async with aclosing(_records(reading, whole, marks)) as records:
                async for record in records:
                    group.add(await _packed(record))
                    if group.size >= self._segment_bytes:
                        await out.spill(group)
        if not reading.exists or reading.shredded:
            out.gone.append(account_id)
        await out.begin()  # what was spilled may have closed the last one
        out.finish(group, reading.notes, marks, whole=bool(whole) or not reading.known or account_id in out.gone)

    async def _close(self, out: _Objects) -> None:
        """Put what has gathered, and what follows from it."""
        await out.close()
        for account_id in out.gone:
            await self._blobs.erase(journal.snapshot_prefix(account_id))
        out.gone.clear()

    async def _sealer(self, reading: Reading) -> AccountKey | None:
        """What seals an account's records; None: nothing does."""
        if not reading.account_id or not reading.exists or reading.shredded:
            return None
        sealer = await self._sealers.get(reading.account_id)
        if not isinstance(sealer, AccountKey):
            return None
        await self._keys.ensure(reading.account_id)
        return sealer

    # ── compaction ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _compact(self, lease: Lease) -> None:
        """Begin a compaction if that is worth its while, and go on with one that is under way."""
        state = await self._marks.state()
        upto = state.compact_upto
        if not upto:
            extent = await self._marks.extent()
            more = extent.segments - state.compacted_segments
            heavy = state.compacted_bytes + max(self._least_bytes, state.compacted_bytes + extent.snapshot_bytes)
            if more <= self._most_segments and extent.segment_bytes <= heavy:
                return
            upto = state.closed_seq
            await self._marks.compact(upto)
        held = await self._marks.held(upto, COMPACTED)
        await self._write_anew(lease, held)
        await self._delete_needless()
        if not held:
            await self._marks.compact(0)

    async def _write_anew(self, lease: Lease, held: list[Held]) -> None:
        out = _Segments(self._marks, self._blobs, lease, self._segment_bytes)
        for account in held:
            if account.gone:
                await self._blobs.erase(journal.snapshot_prefix(account.account_id))
                await self._marks.forget_account(account.account_id)
            elif account.since_bytes > max(SMALL_BYTES, account.snapshot_bytes):
                await self._snapshot(lease, account.account_id)
            else:
                await self._gather(out, account.account_id, "segment")
        await self._close(out)

    async def _snapshot(self, lease: Lease, account_id: AccountId) -> None:
        out = _Snapshot(self._marks, self._blobs, lease, account_id)
        if not await self._write(out, account_id, "snapshot"):
            return
        await self._close(out)
        prefix = journal.snapshot_prefix(account_id)
        for key in [entry.key async for entry in self._blobs.list(prefix)]:
            parsed = journal.parse_snapshot_key(key)
            if parsed is not None and parsed[1] < out.seq:
                await self._blobs.delete(key)

    async def _delete_needless(self) -> None:
        """From the bucket as it is: what an earlier history left goes too, when every account is written."""
        first = await self._marks.first_needed()
        doomed = []
        async with aclosing(_first(self._blobs, journal.PREFIX)) as keys:
            async for key in keys:
                seq = journal.parse_segment_key(key)
                if seq is None or seq >= first:
                    break
                doomed.append(seq)
        for start in range(0, len(doomed), DELETES):
            batch = doomed[start : start + DELETES]
            await asyncio.gather(*(self._blobs.delete(journal.segment_key(seq)) for seq in batch))
            crash_point("journal.deleted")
            await self._marks.segments_deleted(batch)


# ── objects under way ────────────────────────────────────────────────────────────────────────────────────────────────


class _Group:
    """What is being written of one account. The last payload is held back until it is known to be the last."""

    def __init__(self, account_id: AccountId, number: int, sealer: AccountKey | None) -> None:
        self.account_id = account_id
        self.number = number
        self.frames: list[Frame] = []
        self.size = 0
        self.total = 0
        self._sealer = sealer
        self._held: bytes | None = None
        self._part = 0

    def add(self, payload: bytes) -> None:
        """The next part."""
        if self._held is not None:
            self._seal(last=False)
        self._held = payload

    def end(self) -> None:
        """There are no more parts."""
        if self._held is not None:
            self._seal(last=True)

    def take(self) -> list[Frame]:
        """Frames that are ready."""
        taken, self.frames, self.size = self.frames, [], 0
        return taken

    def _seal(self, *, last: bool) -> None:
        payload, self._held = self._held or b"", None
        frame = Frame(self.account_id, self.number, self._part, last, self._sealer is not None, payload)
        if self._sealer is not None:
            sealed = self._sealer.seal_record(frame.context, payload)
            frame = Frame(self.account_id, self.number, self._part, last, sealed=True, payload=sealed)
        self.frames.append(frame)
        self.size += len(frame.payload)
        self._part += 1


class _Objects:
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
        self.seq = 0
        self.gone: list[AccountId] = []

    def __len__(self) -> int:
        return len(self._builder) if self._builder else 0

    async def begin(self) -> None:
        """Have an object open."""
        if self._builder is None:
            self.seq = await self._number()
            self._builder = Builder(self.seq)

    def finish(self, group: _Group, notes: list[int], marks: list[Mark], *, whole: bool) -> None:
        """All of an account is there."""
        group.end()
        self._append(group)
        self._written.notes += notes
        self._written.marks += [(group.account_id, mark) for mark in marks]
        if group.total:
            self._written.accounts.append((group.account_id, group.number, group.total, whole))

    async def spill(self, group: _Group) -> None:
        """Put what there is of a large account, and go on in another object."""
        await self.begin()
        self._append(group)
        await self._put()

    async def close(self) -> None:
        """Put what there is."""
        raise AssertionError

    def _append(self, group: _Group) -> None:
        assert self._builder is not None, "begun"
        group.total += sum(self._builder.add(frame) for frame in group.take())

    async def _number(self) -> int:
        return await self._marks.take_seq(self._lease)

    async def _put(self) -> None:
        raise AssertionError

    async def _store(self, key: str) -> int:
        """The octets of the object."""
        assert self._builder is not None, "begun"
        data = await asyncio.to_thread(self._builder.finish)
        self._builder = None
        crash_point("journal.read")
        await self._blobs.put(key, data)
        metrics.journal_bytes.inc(len(data))
        return len(data)


class _Segments(_Objects):
    """Segments; each is noted as soon as it is in the store."""

    def __init__(self, marks: Marks, blobs: BlobStore, lease: Lease, limit: int) -> None:
        super().__init__(marks, blobs, lease)
        self._limit = limit

    async def close(self) -> None:
        """See `_Objects.close`; a number that was taken for nothing is no harm."""
        if self._builder is not None and self._builder.frames:
            await self._put()

    async def _put(self) -> None:
        written, self._written = self._written, Written()
        size = await self._store(journal.segment_key(self.seq))
        crash_point("journal.put")
        await self._marks.written(self._lease, self.seq, size, written)
        crash_point("journal.marked")
        metrics.journal_segments.inc()


class _Snapshot(_Objects):
    """A snapshot of one account: objects with one number, which count when the last of them is there."""

    def __init__(self, marks: Marks, blobs: BlobStore, lease: Lease, account_id: AccountId) -> None:
        super().__init__(marks, blobs, lease)
        self._account_id = account_id
        self._parts = 0
        self._size = 0

    async def close(self) -> None:
        """See `_Objects.close`."""
        await self._put()
        crash_point("journal.snapshot_put")
        await self._marks.written(self._lease, self.seq, self._size, self._written, snapshot_parts=self._parts)
        crash_point("journal.snapshot_marked")

    async def _number(self) -> int:
        return self.seq or await super()._number()

    async def _put(self) -> None:
        self._size += await self._store(journal.snapshot_key(self._account_id, self.seq, self._parts))
        self._parts += 1


async def _records(reading: Reading, whole: str, marks: list[Mark]) -> AsyncGenerator[Record]:
    """What is to be written of an account; the mailboxes among it are added to `marks`."""
    if not reading.exists or reading.shredded:
        yield Gone(Reason.SHREDDED if reading.shredded else Reason.PURGED)
        if reading.exists:
            marks += await reading.marks()  # what still happens to it is written by this
        return
    every = bool(whole) or not reading.known
    if not reading.account_id:
        yield await reading.domains()
        return
    if every or "account" in reading.kinds:
        yield await reading.account()
    if every or "scripts" in reading.kinds:
        yield await reading.scripts()
    if every or "outbound" in reading.kinds:
        async with aclosing(reading.outbound()) as mails:
            async for mail in mails:
                yield mail
    marks += await reading.marks(whole)
    for mark in marks:
        async with aclosing(reading.pages(mark)) as pages:
            async for page in pages:
                yield page


async def _packed(record: Record) -> bytes:
    """The payload; a large one is packed beside the loop."""
    if isinstance(record, Page) and len(record.messages) > INLINE_MESSAGES:
        return await asyncio.to_thread(pack, record)
    return pack(record)


async def _first(blobs: BlobStore, after: str) -> AsyncGenerator[str]:
    """Keys of the journal behind `after`."""
    async for entry in blobs.list(journal.PREFIX, after):
        yield entry.key
