"""From staging to the object store, for ever and in any weather.

What must be sent stands in `pending_uploads`; the doorbell only says when to look. For each row: read the staged file
(or the copy in the database, if that is missing), compare it with its hash, PUT it, and then in one transaction mark
the content as uploaded, delete the row and the copy and remove the staged file (why in there: `PendingUploads.done`).
Rows that were sent gather while a transaction runs, and share the next. Every step may be repeated, so a crash costs a
repetition:

| killed after | what the next start finds                  | what it does                      |
|--------------|--------------------------------------------|-----------------------------------|
| claim, PUT   | a pending row, the staged file             | sends it (again)                  |
| mark         | the same: the transaction was rolled back  | sends it again                    |
| unlink       | a pending row, no staged file, the object  | reads the object, compares, marks |

A row is never given up. While the object store is away one row at a time asks whether it is back (`Breaker`); the
others wait untouched. A row whose file and object are both missing is an error in the log and in the metrics, and
stays.

Every now and then the staging directory is compared with the database. Files that were spared because another delivery
might have counted on them go when they are idle; a file whose content waits for an upload that nobody noted (a database
restored from a backup) is queued. A file that no row refers to is moved to quarantine after a day, far longer than any
transaction lasts: most likely its delivery was never committed, and its sender tried again; but if the database was
restored from a backup it may be the only copy of a message, so a person decides.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from sora import log, metrics
from sora.crashpoints import crash_point
from sora.errors import BlobDown, Busy, DatabaseDown, DatabaseReadOnly, KeyUnavailable, NotFound, SoraError, Unavailable
from sora.services.key_objects import NoKeyObjects
from sora.store import labels
from sora.store.account_keys import NoKeys
from sora.store.blobs import TakesFiles, local_name
from sora.store.bodies import INLINE_BYTES
from sora.store.diskfile import WouldBlock
from sora.store.sealing import AccountKey, is_sealed, most_stored
from sora.store.staging import SETTLE_S, is_settled
from sora.store.uploads import Backlog, PendingUpload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from sora.services.key_objects import KeyStore
    from sora.store.account_keys import Sealers
    from sora.store.blobs import BlobRef, BlobStore
    from sora.store.bodies import Source
    from sora.store.cache import Cache
    from sora.store.sealing import Sealer
    from sora.store.staging import StagedFile, Staging
    from sora.store.uploads import PendingUploads, StagedFact

POLL_S: Final = 2.0
"""How often the table is looked at while the doorbell is silent."""
GATHER_S: Final = 0.2
"""Between the bell and the look at the table: what comes meanwhile is claimed, sent and marked together."""
DATABASE_PAUSE_S: Final = 1.0
CLAIM_SHARE: Final = 10
"""Rows claimed at a time, in units of what is sent at a time: one query for several uploads."""
MARK_ROWS: Final = 64
"""Uploads marked in one transaction; no more are sent while twice as many wait for that."""
DRAIN_S: Final = 10.0
REPORT_S: Final = 5.0
REPORT_SHARE: Final = 20
"""Counting a large backlog takes at most one part in so many of the time."""
SWEEP_S: Final = 600.0
KEYS_S: Final = 10.0
"""How often keys are looked for that were wrapped anew."""
SWEEP_BATCH: Final = 500
ORPHAN_S: Final = 86400.0

OUTAGE_BASE_S: Final = 0.5
OUTAGE_MAX_S: Final = 30.0
"""A row that met an outage is not at fault: it is due again soon after the store is back."""
FAULT_BASE_S: Final = 2.0
FAULT_MAX_S: Final = 600.0

_log = log.get(__name__)


class Doorbell(Protocol):
    """Says that there may be something to do."""

    async def wait(self, timeout: float | None = None) -> object:
        """Return when it rings, or after `timeout` seconds."""


class BodyLost(SoraError):
    """Neither the staged file nor the object is there, but a row says they must be."""

    default_text = "Message body lost"


class Breaker:
    """How many uploads may be under way, by how the last ones went.

    Closed: as many as wanted. After `THRESHOLD` failures in a row it is open: none, for a pause that doubles with each
    failed probe; then one, the probe. Its success closes the breaker.
    """

    THRESHOLD: Final = 3
    FIRST_S: Final = 0.5
    CAP_S: Final = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._doublings = 0
        self._until_mono = 0.0

    @property
    def closed(self) -> bool:
        """True if the store is believed to be there."""
        return self._failures < self.THRESHOLD

    @property
    def pause_s(self) -> float:
        """Seconds until the next probe; 0 if there is nothing to wait for."""
        return 0.0 if self.closed else max(0.0, self._until_mono - self._clock())

    def allowed(self, wanted: int) -> int:
        """How many may be under way now."""
        if self.closed:
            return wanted
        return 0 if self.pause_s else 1

    def succeeded(self) -> None:
        """The store answered."""
        self._failures = self._doublings = 0

    def failed(self) -> None:
        """The store did not answer."""
        if self.pause_s:
            return  # it was under way when the breaker opened: nothing new
        self._failures += 1
        if not self.closed:
            pause = min(self.CAP_S, self.FIRST_S * 2**self._doublings)
            self._doublings = min(self._doublings + 1, 16)
            self._until_mono = self._clock() + pause * random.uniform(0.75, 1.25)


class Uploads:
    """The uploader of a node; one per staging directory.

    Args:
        cache: Gets what was sent, because new mail is read soon; None: no cache on this node.
        sealers: Tell whether a sealed body is what its name says; by default encryption is off.
        keys: Puts the wrapped key of an account into the object store before its first body.
        parallel: Uploads at a time.
        copies: Bodies in the database, for rows whose staged file is missing; None: there are none.
        fenced: True while another process uses the name of this node: nothing is claimed, and no file is judged,
            because the rows are about other files.
        quarantine_s: What was put aside is removed after so many seconds; 0: never.
    """

    def __init__(
        self,
        pending: PendingUploads,
        staging: Staging,
        blobs: BlobStore,
        cache: Cache | None,
        doorbell: Doorbell,
        *,
        sealers: Sealers | None = None,
        keys: KeyStore | None = None,
        parallel: int = 6,
        poll_s: float = POLL_S,
        copies: Source | None = None,
        fenced: Callable[[], bool] = lambda: False,
        quarantine_s: float = 0.0,
    ) -> None:
        self._pending = pending
        self._staging = staging
        self._blobs = blobs
        self._linking = blobs if isinstance(blobs, TakesFiles) else None
        self._cache = cache
        self._doorbell = doorbell
        self._sealers = sealers or NoKeys()
        self._keys = keys or NoKeyObjects()
        self._parallel = parallel
        self._poll_s = poll_s
        self._copies = copies
        self._fenced = fenced
        self._quarantine_s = quarantine_s
        self._breaker = Breaker()
        self._claimed: deque[PendingUpload] = deque()
        self._due = True  # there may be rows to claim
        self._resting = False  # because the database is read-only
        self._running: set[asyncio.Task[None]] = set()
        self._sent: deque[PendingUpload] = deque()
        self._marking: asyncio.Task[None] | None = None
        self._backlog = Backlog()

    async def run(self, stop: asyncio.Event) -> None:
        """Upload until `stop` is set; then finish what is under way and give back the rest."""
        stopping = asyncio.create_task(stop.wait())
        loops = (self._report_for_ever, self._sweep_for_ever, self._store_keys_for_ever)
        others = [asyncio.create_task(loop()) for loop in loops]
        try:
            await self._recover(stopping)
            await self._upload_until(stopping)
        finally:
            for task in (stopping, *others):
                task.cancel()
            await asyncio.gather(stopping, *others, return_exceptions=True)
            await self._drain()

    def status(self) -> Backlog:
        """What waits, as of a few seconds ago."""
        return self._backlog

    @property
    def store_is_up(self) -> bool:
        """False while the object store is taken to be away."""
        return self._breaker.closed

    async def report(self) -> None:
        """Count what waits, for `status` and the metrics."""
        self._backlog = await self._pending.backlog()
        metrics.uploads_pending.set(self._backlog.pending)
        metrics.uploads_oldest_seconds.set(self._backlog.oldest_s)

    async def sweep(self) -> None:
        """Compare the staging directory with the database, see above."""
        if self._fenced():
            return
        idle = [file for file in await self._staging.list_files() if is_settled(file)]
        for batch in _batches(idle, SWEEP_BATCH):
            facts = await self._pending.facts([(file.account_id, file.content_hash) for file in batch])
            for file, fact in zip(batch, facts, strict=True):
                await self._judge(file, fact)
        if self._quarantine_s and (gone := await self._staging.expire_quarantined(self._quarantine_s)):
            _log.warning("old files removed from quarantine", extra={"files": gone})
        metrics.staging_quarantined.set(await self._staging.count_quarantined())

    async def upload(self, row: PendingUpload) -> None:
        """All the steps of one row.

        Raises:
            BlobDown: The object store is away.
            BodyLost: There is nothing to send, and nothing was sent.
        """
        await self._put(row)
        await self._mark([row])

    async def _recover(self, stopping: asyncio.Task[bool]) -> None:
        while not stopping.done():
            try:
                await self._pending.recover()
            except SoraError as error:
                _log.warning("uploads wait for the database", extra={"error": str(error)})
                await asyncio.wait((stopping,), timeout=DATABASE_PAUSE_S)
            else:
                return

    async def _upload_until(self, stopping: asyncio.Task[bool]) -> None:
        ringing = asyncio.create_task(self._rung())
        try:
            while not stopping.done():
                if ringing.done():
                    ringing.result()
                    ringing = asyncio.create_task(self._rung())
                    self._due = True
                if not await self._start_uploads():
                    done, _ = await asyncio.wait(
                        (stopping, ringing, *self._tasks()),
                        timeout=self._breaker.pause_s or self._poll_s,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    self._due = self._due or not done
        finally:
            ringing.cancel()
            await asyncio.gather(ringing, return_exceptions=True)

    async def _rung(self) -> None:
        """Until it is worth while to look for rows."""
        await self._doorbell.wait(self._poll_s)
        await asyncio.sleep(GATHER_S)

    async def _start_uploads(self) -> int:
        """Start as many as may be under way; how many were started."""
        free = self._breaker.allowed(self._parallel) - len(self._running)
        if self._fenced() or free <= 0 or len(self._sent) >= 2 * MARK_ROWS:
            return 0
        if not self._claimed and self._due:
            await self._claim()
        started = min(free, len(self._claimed))
        for _ in range(started):
            task = asyncio.create_task(self._attempt(self._claimed.popleft()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return started

    async def _claim(self) -> None:
        """Take rows to send: some in advance, but no more than the probe while the store is away."""
        wanted = self._parallel * CLAIM_SHARE if self._breaker.closed else 1
        try:
            self._claimed.extend(await self._pending.claim(wanted))
            self._due = len(self._claimed) >= wanted
            self._resting = False
        except SoraError as error:
            if not self._resting:
                _log.warning("uploads wait for the database", extra={"error": str(error)})
            self._resting = isinstance(error, DatabaseReadOnly)  # that may last, and needs no line for each look
            await asyncio.sleep(DATABASE_PAUSE_S)

    async def _attempt(self, row: PendingUpload) -> None:
        """Send one row, whatever happens; it is marked with those that are sent meanwhile."""
        if await self._guarded(row, self._put(row)):
            self._sent.append(row)
            if self._marking is None:
                self._marking = asyncio.create_task(self._mark_sent())

    async def _mark_sent(self) -> None:
        """Mark what was sent, all that has gathered at a time; where that fails, row by row."""
        try:
            while self._sent:
                rows = [self._sent.popleft() for _ in range(min(MARK_ROWS, len(self._sent)))]
                if not await self._marked_together(rows):
                    for row in rows:
                        await self._guarded(row, self._mark([row]))
        finally:
            self._marking = None

    async def _marked_together(self, rows: list[PendingUpload]) -> bool:
        if len(rows) == 1:
            return False
        try:
            await self._mark(rows)
        except Exception as error:
            _log.warning("uploads not marked together", extra={"uploads": len(rows), "error": str(error)})
            return False
        return True

    async def _guarded(self, row: PendingUpload, work: Awaitable[None]) -> bool:
        """A step of one row; False if it failed, which is noted."""
        try:
            await work
        except KeyUnavailable as error:
            metrics.uploads.labels("no_key").inc()
            _log.error("upload waits for the key of its account", extra={**_fields(row), "error": str(error)})
            await self._fail(row, error, FAULT_BASE_S, FAULT_MAX_S)
        except BlobDown as error:
            metrics.uploads.labels("store_down").inc()
            self._breaker.failed()
            _log.warning("upload failed", extra={**_fields(row), "error": str(error)})
            await self._fail(row, error, OUTAGE_BASE_S, OUTAGE_MAX_S)
            if not self._breaker.closed:
                await self._give_back()
        except (DatabaseDown, Busy) as error:
            # The claim ends by itself. Whether it was marked will show: the object is there in either case.
            metrics.uploads.labels("database_down").inc()
            _log.warning("upload not marked", extra={**_fields(row), "error": str(error)})
        except BodyLost as error:
            metrics.uploads.labels("lost").inc()
            _log.error("staged body and object are both missing", extra=_fields(row))
            await self._fail(row, error, FAULT_BASE_S, FAULT_MAX_S)
        except Exception as error:
            metrics.uploads.labels("error").inc()
            _log.exception("upload failed", extra=_fields(row))
            await self._fail(row, error, FAULT_BASE_S, FAULT_MAX_S)
        else:
            return True
        return False

    async def _fail(self, row: PendingUpload, error: Exception, base_s: float, max_s: float) -> None:
        try:
            await self._pending.failed(row, str(error), base_s=base_s * random.uniform(0.5, 1.5), max_s=max_s)
        except SoraError as failure:
            _log.warning("failure not noted, the claim ends by itself", extra={"error": str(failure)})

    async def _give_back(self) -> None:
        """What was claimed and not started need not wait for its claim to end."""
        if not self._claimed:
            return
        rows = list(self._claimed)
        self._claimed.clear()
        try:
            await self._pending.give_back(rows)
        except SoraError as error:
            _log.warning("claims not given back, they end by themselves", extra={"error": str(error)})

    async def _put(self, row: PendingUpload) -> None:
        """The object is in the store afterwards."""
        crash_point("uploader.claimed")
        if not row.uploaded:
            await self._send(row)
        crash_point("uploader.put")

    async def _mark(self, rows: Sequence[PendingUpload]) -> None:
        """Rows whose objects are in the store are done; the cache gets their files, because new mail is read soon."""
        if self._cache:
            await self._cache.adopt_many(
                [(row.ref, self._staging.path(row.account_id, row.content_hash)) for row in rows]
            )
        await self._pending.done_many(rows, self._retire)
        metrics.uploads.labels("done").inc(len(rows))

    async def _send(self, row: PendingUpload) -> None:
        """Put the object there, or make sure that it is."""
        ref = row.ref
        staged = await self._staged(ref)
        linked = self._linking if staged is not None else None
        if staged is None:
            staged = await self._copied(ref)
        if staged is None:
            stored = await self._is_stored(ref)
            self._breaker.succeeded()
            if not stored:
                raise BodyLost(detail=ref.key)
            return
        sealer: Sealer | None = None
        if is_sealed(staged):
            await self._keys.ensure(ref.account_id)
            sealer = await self._sealers.reader(ref, staged)
        label = (
            labels.write(row.label, ref.key, sealer if isinstance(sealer, AccountKey) else None) if row.label else b""
        )
        if linked is not None:
            await linked.put_file(ref.key, self._staging.path(ref.account_id, ref.content_hash), staged, label)
        else:
            await self._blobs.put(ref.key, staged, label)
        self._breaker.succeeded()

    async def _staged(self, ref: BlobRef) -> bytes | None:
        """The staged body as it is; None if it is not there, or not what its name says (then it is moved aside)."""
        try:
            staged = await self._read_staged(ref)
        except OSError as error:
            if self._copies is None:
                raise
            _log.error("staged body cannot be read", extra={"account_id": ref.account_id, "error": str(error)})
            return None
        if staged is None or await self._verify(ref, staged):
            return staged
        metrics.bodies_corrupt.labels("staging").inc()
        _log.error("staged body does not match its hash", extra={"account_id": ref.account_id, "file": ref.name})
        await self._staging.quarantine(ref.account_id, ref.content_hash)
        return None

    async def _read_staged(self, ref: BlobRef) -> bytes | None:
        try:
            return self._staging.read_now(ref.account_id, ref.content_hash, ref.size)
        except WouldBlock:
            return await self._staging.read(ref.account_id, ref.content_hash)

    async def _copied(self, ref: BlobRef) -> bytes | None:
        """The copy in the database as it is; None if there is none, or not the right one."""
        copy = await self._copies.read(ref) if self._copies else None
        if copy is None:
            return None
        if await self._verify(ref, copy):
            metrics.uploads_from_copy.inc()
            return copy
        metrics.bodies_corrupt.labels("database").inc()
        _log.error("copy of a body does not match its hash", extra={"account_id": ref.account_id, "file": ref.name})
        return None

    async def _is_stored(self, ref: BlobRef) -> bool:
        """True if the object is there and is the right one."""
        try:
            if (await self._blobs.stat(ref.key)).size > most_stored(ref.size):
                return False
            stored = await self._blobs.get(ref.key)
        except NotFound:
            return False
        return await self._verify(ref, stored)

    async def _verify(self, ref: BlobRef, stored: bytes) -> bool:
        """Here if that takes less time than to ask a thread."""
        sealer = await self._sealers.reader(ref, stored)
        if len(stored) <= INLINE_BYTES:
            return sealer.verify(ref, stored)
        return await asyncio.to_thread(sealer.verify, ref, stored)

    async def _retire(self, rows: Sequence[PendingUpload]) -> None:
        crash_point("uploader.marked")
        try:
            await self._staging.retire_many([(row.account_id, row.content_hash) for row in rows])
        except OSError as error:
            # The objects are there, so the rows may go; the sweep will come by.
            _log.error("staged files not removed", extra={"files": len(rows), "error": str(error)})
        crash_point("uploader.unlinked")

    async def _judge(self, file: StagedFile, fact: StagedFact) -> None:
        if fact.pending:
            return
        if fact.content_id is None:
            if await self._staging.quarantine_idle(file.account_id, file.content_hash, ORPHAN_S):
                extra = {"account_id": file.account_id, "file": local_name(file.account_id, file.content_hash)}
                _log.warning("staged body without a message moved to quarantine", extra=extra)
        elif fact.uploaded:
            await self._staging.unlink_idle(file.account_id, file.content_hash, SETTLE_S)
        else:
            # Another node may have adopted it while this one was taken for dead: then both send it.
            _log.warning("staged body was not queued for upload", extra={"account_id": file.account_id})
            await self._pending.add(file.account_id, fact.content_id)

    def _tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return [*self._running, self._marking] if self._marking else [*self._running]

    async def _report_for_ever(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.report()
            except Unavailable as error:
                _log.warning("backlog not counted", extra={"error": str(error)})
            except Exception:
                _log.exception("backlog not counted")
            await asyncio.sleep(max(REPORT_S, REPORT_SHARE * (time.monotonic() - began)))

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S * random.uniform(0.75, 1.25))
            try:
                await self.sweep()
            except Unavailable as error:
                _log.warning("staging directory not compared with the database", extra={"error": str(error)})
            except Exception:
                _log.exception("staging directory not compared with the database")

    async def _store_keys_for_ever(self) -> None:
        """Keys that were wrapped anew; those of new accounts go with their first body."""
        while True:
            try:
                stored = await self._keys.store_pending()
            except Unavailable as error:
                _log.warning("keys not stored", extra={"error": str(error)})
                stored = 0
            except Exception:
                _log.exception("keys not stored")
                stored = 0
            await asyncio.sleep(0 if stored else KEYS_S * random.uniform(0.75, 1.25))

    async def _drain(self) -> None:
        """Let what is under way finish, for a while; give back what was not begun."""
        until_mono = time.monotonic() + DRAIN_S
        while tasks := self._tasks():
            await asyncio.wait(tasks, timeout=max(0.0, until_mono - time.monotonic()))
            if time.monotonic() >= until_mono:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        await self._give_back()


def _fields(row: PendingUpload) -> dict[str, object]:
    return {"account_id": row.account_id, "content_id": row.content_id, "attempts": row.attempts, "size": row.size}


def _batches(files: Sequence[StagedFile], size: int) -> Iterator[list[StagedFile]]:
    rest = iter(files)
    while batch := list(itertools.islice(rest, size)):
        yield batch
