"""Writes the account journal into the object store (`store/journal.py` says what it is, `store/marks.py` what is due).

A pass looks for accounts of which something is not in the bucket, reads them as they are at one moment, `TOGETHER` at a
time, and puts what has changed into segments, an object for many of them. Then the database notes what was written, and
which UIDs and modseqs are reserved. What was committed before a pass began is in the bucket when it has ended: that
moment is the recovery point. A long pass, as the first one of a large house is, closes a segment every `OPEN_S`: what
it wrote counts although it has not ended.

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
what has changed since then to the next segment. Of those that cannot be read, because their key is away, the frames
that segments have are carried over as they are. Segments that nobody needs are deleted.

**Another history.** If the bucket has a segment with a number that this database never took, or has not the last one
that it wrote, then the database was put back in time, or the bucket was exchanged: all is written anew. A database that
never took a number at all writes nothing then: it may be there by mistake.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from sora import log, metrics
from sora.crashpoints import crash_point
from sora.errors import InUse, KeyUnavailable, NotFound, Unavailable
from sora.services.recovery.journal_objects import Group, Segments, Snapshot
from sora.store import journal
from sora.store.journal import BadJournal, Gone, Reason
from sora.store.sealing import AccountKey

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence

    from sora.services.key_objects import KeyStore
    from sora.services.recovery.journal_objects import Objects
    from sora.store.account_keys import Sealers
    from sora.store.blobs import BlobStore
    from sora.store.journal import Record
    from sora.store.leases import Lease
    from sora.store.marks import Held, Marks
    from sora.store.readings import Look, Reading
    from sora.types import AccountId

SEGMENT_BYTES: Final = 8 * 1024**2
"""An object is closed when it is as large; a few times as much is held in memory."""
OPEN_S: Final = 20.0
"""An object is closed when it is as old."""
TOGETHER: Final = 200
"""Accounts that are read together."""
KEYS: Final = 4
"""Keys that are made at a time: each needs a connection of the pool."""
MOST_SEGMENTS: Final = 256
LEAST_BYTES: Final = 16 * 1024**2
"""Segments that are smaller together are left alone, if they are not many."""
SMALL_BYTES: Final = 16 * 1024
"""An account with less in segments needs no snapshot of its own."""
COMPACTED: Final = 2000
"""Accounts that are written anew in one pass, unless that takes longer than `COMPACT_S`."""
COMPACT_S: Final = 8.0
"""What has changed waits as long."""
SNAPSHOTS: Final = 4
"""Snapshots that are written at a time."""
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
        open_s: See `OPEN_S`.
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
        open_s: float = OPEN_S,
    ) -> None:
        self._marks = marks
        self._blobs = blobs
        self._sealers = sealers
        self._keys = keys
        self._lease = lease
        self._segment_bytes = segment_bytes
        self._most_segments = most_segments
        self._least_bytes = least_bytes
        self._open_s = open_s
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
        if state.stopped_at is None and state.seq:  # a segment that was not noted may be there
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
            if not await self._compare(lease):
                return
            self._token = lease.token
        began = await self._marks.now()
        skipped = await self._write_due(lease)
        if (await self._marks.state()).stopped_at is not None and not skipped:
            await self._blobs.delete(journal.STOPPED)
            await self._marks.set_stopped(stopped=False)
        await self._marks.hold_skipped(sorted(skipped))
        await self._marks.pass_ended(began, len(skipped))
        await self._compact(lease)

    async def _show(self) -> None:
        """On every node, whoever leads."""
        state = await self._marks.state()
        metrics.journal_recovery_point.set(state.recovery_point.timestamp() if state.recovery_point else 0)
        metrics.journal_skipped.set(state.skipped)

    async def _compare(self, lease: Lease) -> bool:
        """Begin anew if database and bucket are not of the same history; False: nothing may be written."""
        state = await self._marks.state()
        newest = await self._marks.newest_segment()
        if state.stopped_at is None and await self._is_ours(state.seq, newest):
            return True
        if not state.seq:
            # A new database beside the journal of one that was lost, perhaps: in time it would be deleted.
            _log.error(
                "no journal is written: the bucket has the one of another database; `sora-admin import s3` builds that "
                "anew, or remove `journal/` from the bucket"
            )
            return False
        _log.warning("the journal begins anew", extra={"seq": state.seq})
        # Above what another history left there: the clock that the numbers are taken from may be behind it.
        await self._marks.raise_seq(max([state.seq, *[seq async for seq in _numbers(self._blobs)]]))
        await self._marks.forget(lease)
        return True

    async def _is_ours(self, seq: int, newest: int) -> bool:
        async with aclosing(_segments(self._blobs, journal.segment_key(seq))) as later:
            async for _ in later:
                return False
        if newest:
            try:
                await self._blobs.stat(journal.segment_key(newest))
            except NotFound:
                return False
        return True

    async def _write_due(self, lease: Lease) -> set[AccountId]:
        """All accounts that are due; those that had to be left out."""
        out = Segments(self._marks, self._blobs, lease)
        after, skipped = -1, set()
        try:
            while due := await self._marks.due(after):
                for start in range(0, len(due), TOGETHER):
                    skipped |= await self._gather(out, due[start : start + TOGETHER])
                after = due[-1]
            await self._close(out)
        finally:
            await out.abandon()
        return skipped

    async def _gather(self, out: Objects, account_ids: Sequence[AccountId], whole: str = "") -> set[AccountId]:
        """Add accounts to what is being written; those that could not be, and others need not suffer for them.

        Args:
            whole: See `Reading.look`.
        """
        written: set[AccountId] = set()
        skipped: set[AccountId] = set()
        try:
            await self._write(out, account_ids, whole, written, skipped)
        except (InUse, Unavailable):
            raise
        except Exception:
            # One of them, and nobody knows which: each by itself.
            left = [found for found in account_ids if found not in written and found not in skipped]
            if len(account_ids) > 1:
                return skipped.union(*[await self._gather(out, [account_id], whole) for account_id in left])
            _log.exception("not in the journal", extra={"account_id": account_ids[0]})
            metrics.journal_errors.inc()
            skipped.update(account_ids)
        return skipped

    async def _write(
        self,
        out: Objects,
        account_ids: Sequence[AccountId],
        whole: str,
        written: set[AccountId],
        skipped: set[AccountId],
    ) -> None:
        """Some accounts as they are at one moment; `written` are those of which all is in an object."""
        await out.begin()  # the number first: a greater one means a later look
        async with self._marks.reading(account_ids, whole) as reading:
            sealers = await self._open(reading.looks)
            for look in reading.looks:
                if look.account_id not in sealers:
                    skipped.add(look.account_id)
                    continue
                await out.begin()
                group = Group(look.account_id, out.seq, sealers[look.account_id])
                async with aclosing(_records(reading, look, whole)) as records:
                    async for record in records:
                        await group.add(record)
                        if group.size >= self._segment_bytes:
                            await out.spill(group)
                every = bool(whole) or not look.known or look.gone
                await out.finish(group, look.notes, reading.marks(look), whole=every)
                if look.gone:
                    out.gone.append(look.account_id)
                written.add(look.account_id)
                if isinstance(out, Segments) and (len(out) >= self._segment_bytes or out.age_s >= self._open_s):
                    await out.put()

    async def _close(self, out: Objects) -> None:
        """Put what has gathered, and what follows from it."""
        await out.close()
        for account_id in out.gone:
            await self._blobs.erase(journal.snapshot_prefix(account_id))
        out.gone.clear()

    async def _open(self, looks: Sequence[Look]) -> dict[AccountId, AccountKey | None]:
        """What seals each account's records; None: nothing does. Those whose key cannot be had are not there."""
        slots = asyncio.Semaphore(KEYS)
        found: dict[AccountId, AccountKey | None] = {}

        async def open_one(account_id: AccountId) -> None:
            async with slots:
                try:
                    sealer = await self._sealers.get(account_id)
                except KeyUnavailable as error:
                    _log.error("not in the journal", extra={"account_id": account_id, "error": str(error)})
                    metrics.journal_errors.inc()
                    return
                found[account_id] = sealer if isinstance(sealer, AccountKey) else None

        sealed = [look.account_id for look in looks if look.account_id and not look.gone]
        await self._sealers.fetch_many(sealed)
        await _all([open_one(account_id) for account_id in sealed])
        await self._keys.ensure_many([account_id for account_id, sealer in found.items() if sealer is not None])
        return found | {look.account_id: None for look in looks if not look.account_id or look.gone}

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

    async def _write_anew(self, lease: Lease, held: Sequence[Held]) -> None:
        """Some accounts, or as many of them as there is time for."""
        until = time.monotonic() + COMPACT_S
        gone = [account.account_id for account in held if account.gone]
        large = [account.account_id for account in held if not account.gone and _is_large(account)]
        small = [account.account_id for account in held if not account.gone and not _is_large(account)]
        for account_id in gone:
            await self._blobs.erase(journal.snapshot_prefix(account_id))
            await self._marks.forget_account(account_id)
        skipped: set[AccountId] = set()
        out = Segments(self._marks, self._blobs, lease)
        try:
            for start in range(0, len(small), TOGETHER):
                skipped |= await self._gather(out, small[start : start + TOGETHER], "segment")
                if time.monotonic() > until:
                    break
            await self._close(out)
        finally:
            await out.abandon()
        for start in range(0, len(large), SNAPSHOTS):
            await _all([self._snapshot(lease, account_id, skipped) for account_id in large[start : start + SNAPSHOTS]])
            if time.monotonic() > until:
                break
        if skipped:
            await self._carry(lease, [account for account in held if account.account_id in skipped])

    async def _carry(self, lease: Lease, held: Sequence[Held]) -> None:
        """Put what segments have of some accounts into new ones, sealed as it is: nobody can read it now."""
        first = min(account.first_seq for account in held)
        sizes = {account.account_id: 0 for account in held}
        seen: set[tuple[AccountId, int, int]] = set()  # whoever died here before has left some of them twice
        out = Segments(self._marks, self._blobs, lease)
        try:
            await out.begin()
            begun = out.seq
            async with aclosing(_segments(self._blobs, journal.segment_key(max(0, first - 1)))) as segments:
                async for seq in segments:
                    if seq >= begun:
                        break
                    _, frames = await asyncio.to_thread(journal.parse, await self._blobs.get(journal.segment_key(seq)))
                    for frame in frames:
                        name = frame.account_id, frame.group, frame.part
                        if frame.account_id in sizes and name not in seen:
                            seen.add(name)
                            await out.begin()
                            sizes[frame.account_id] += out.carry(frame)
                    if len(out) >= self._segment_bytes:
                        await out.put()
            await out.carried([(account_id, begun, size, True) for account_id, size in sizes.items()])
            await out.close()
        except BadJournal as error:
            # What cannot be carried over stays where it is, and so does all that came later.
            _log.error("a segment is damaged, none is deleted", extra={"error": str(error)})
            metrics.journal_errors.inc()
        finally:
            await out.abandon()

    async def _snapshot(self, lease: Lease, account_id: AccountId, skipped: set[AccountId]) -> None:
        out = Snapshot(self._marks, self._blobs, lease, account_id)
        if left := await self._gather(out, [account_id], "snapshot"):
            skipped |= left
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
        async with aclosing(_segments(self._blobs, journal.PREFIX)) as segments:
            async for seq in segments:
                if seq >= first:
                    break
                doomed.append(seq)
        for start in range(0, len(doomed), DELETES):
            batch = doomed[start : start + DELETES]
            await asyncio.gather(*(self._blobs.delete(journal.segment_key(seq)) for seq in batch))
            crash_point("journal.deleted")
            await self._marks.segments_deleted(batch)


def _is_large(account: Held) -> bool:
    """It is worth a snapshot of its own."""
    return account.since_bytes > max(SMALL_BYTES, account.snapshot_bytes)


async def _records(reading: Reading, look: Look, whole: str) -> AsyncGenerator[Record]:
    """What is to be written of an account."""
    if look.gone:
        # Its mailboxes have marks all the same: what still happens to them is written by this.
        yield Gone(Reason.SHREDDED if look.shredded else Reason.PURGED)
        return
    if not look.account_id:
        yield await reading.domains()
        return
    account, scripts = reading.account(look), await reading.scripts(look)
    if account is not None:
        yield account
    if scripts is not None:
        yield scripts
    async with aclosing(reading.outbound(look, whole)) as mails:
        async for mail in mails:
            yield mail
    for mark in reading.marks(look):
        async with aclosing(reading.pages(mark)) as pages:
            async for page in pages:
                yield page


async def _segments(blobs: BlobStore, after: str) -> AsyncGenerator[int]:
    """Numbers of the segments behind a key, ascending; snapshots are listed behind all of them."""
    async with aclosing(_entries(blobs, after)) as entries:
        async for key in entries:
            seq = journal.parse_segment_key(key)
            if seq is None:
                return
            yield seq


async def _numbers(blobs: BlobStore) -> AsyncGenerator[int]:
    """Numbers of all objects."""
    async with aclosing(_entries(blobs, "")) as entries:
        async for key in entries:
            seq, snapshot = journal.parse_segment_key(key), journal.parse_snapshot_key(key)
            if seq is not None:
                yield seq
            elif snapshot is not None:
                yield snapshot[1]


async def _entries(blobs: BlobStore, after: str) -> AsyncGenerator[str]:
    async for entry in blobs.list(journal.PREFIX, after):
        yield entry.key


async def _all(tasks: Sequence[Coroutine[None, None, None]]) -> None:
    """Together; all have ended when the first that failed is told of."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
