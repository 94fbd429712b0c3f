"""Bodies on their way to the object store: one flat directory, shared by the processes of a node.

A staged file is the only copy of a message that was accepted, so:

- it is written under another name, synced, and linked to its own only if that is absent; the directory is synced before
  `stage_many` returns. A file under its own name is whole, on disk, and never written again;
- its name is account and hash, so a second delivery of the same bytes finds it there and uses it. It leaves a mark (the
  file becomes read-only, its time is now), because this second delivery may not have its row yet when the upload of the
  first is done: `retire` spares a marked file until it has been left alone for longer than any transaction lasts.
  Whatever is spared goes later with `unlink_idle`;
- staging a name and removing one exclude each other by a lock on `.lock`: shared for the one, exclusive for the other,
  and held for microseconds, never while a disk is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import re
import secrets
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import Struct

from sora import log, metrics
from sora._native.durable import publish
from sora.errors import StagingFull
from sora.store import diskfile, sealing
from sora.store.blobs import local_name, local_prefix
from sora.store.sealing import Unsealed
from sora.store.spool_cipher import PlainSpool, SealedSpool
from sora.types import AccountId

if TYPE_CHECKING:
    import mmap
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from typing import TypeAlias

    from sora.store.diskfile import Octets
    from sora.store.spool_cipher import SpoolCipher

    Stageable: TypeAlias = bytes | Sequence[Octets] | Unsealed

SETTLE_S: Final = 600.0
"""No delivery is longer than this between staging a body and committing its row."""
STALE_S: Final = 3600.0
RESCAN_S: Final = 10.0
"""How often the directory is added up; in between, a process knows its own writes only."""
RESCAN_SHARE: Final = 20
"""A look at a very full directory may take seconds: adding up takes at most one part in so many of the time."""
TRIP_THREADS: Final = 2
MAPPED: Final = 4
"""Messages that have come by way of a spool and are being stored at a time: with encryption on each is in memory."""
SHARED_MODE: Final = 0o400
"""A file that more than one delivery counts on."""

_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{64})\.eml")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})
_T = TypeVar("_T")
_numbers = itertools.count()
_log = log.get(__name__)


class StagedFile(Struct, frozen=True):
    """One body in staging.

    Attributes:
        modified_at_s: When it was last staged, in seconds of the wall clock.
    """

    account_id: AccountId
    content_hash: bytes
    size: int
    modified_at_s: float


class Staging:
    """The staging directory of this node.

    Args:
        max_size: Octets; `stage_many` refuses what would pass it. An estimate: processes see each other's files
            when they add up the directory.
        settle_s: See `SETTLE_S`.
        sealed: Messages that are still arriving are encrypted too.

    Attributes:
        mapped: Held by whoever stores a message out of a spool that takes memory.
    """

    def __init__(self, path: str | Path, max_size: int, *, settle_s: float = SETTLE_S, sealed: bool = False) -> None:
        self._root = Path(path)
        self._temporary = self._root / "tmp"
        self._new_names = f"{self._temporary}/{secrets.token_hex(12)}-"
        self._quarantine = self._root / "quarantine"
        self._max_size = max_size
        self._settle_s = settle_s
        self._cipher: type[SpoolCipher] = SealedSpool if sealed else PlainSpool
        self.mapped = asyncio.Semaphore(MAPPED)
        self._trips = ThreadPoolExecutor(TRIP_THREADS, thread_name_prefix="staging")
        self._counting = ThreadPoolExecutor(1, thread_name_prefix="staging-usage")
        self._usage = _Usage(self._add_up, self._counting.submit)
        for directory in (self._root, self._temporary):
            diskfile.make_directory(directory)
        diskfile.sweep_temporaries(self._temporary, STALE_S)
        self._usage.refresh()

    async def stage_many(self, items: Sequence[tuple[AccountId, bytes, Stageable]]) -> None:
        """Write bodies; all of them are on disk under their names when this returns.

        Args:
            items: Account, content hash, body as it is stored; it may be in pieces, which are never joined in memory,
                or be sealed while it is written.

        Raises:
            StagingFull: None of them may be counted on; nothing half-written stays.
        """
        await self._trip(self._stage_many, items)

    def spool(self, *, sealed: bool = False) -> Spool:
        """Room on this disk for a message that is still arriving.

        Args:
            sealed: What is written is sealed already.

        Raises:
            StagingFull: There is none.
        """
        return Spool(
            self._temporary, self._take_spooled, self._usage.release_unnamed, PlainSpool() if sealed else self._cipher()
        )

    def path(self, account_id: AccountId, content_hash: bytes) -> Path:
        """Where the body is, if it is there."""
        return self._root / local_name(account_id, content_hash)

    def read_now(self, account_id: AccountId, content_hash: bytes, size: int) -> bytes | None:
        """The body, as it is stored, if it can be had without waiting for the disk; None if it is not here.

        Args:
            size: Octets of the plain body.

        Raises:
            WouldBlock: It is here; use `read`.
        """
        try:
            return diskfile.read_cached(self.path(account_id, content_hash), sealing.most_stored(size))
        except FileNotFoundError:
            return None

    async def read(self, account_id: AccountId, content_hash: bytes) -> bytes | None:
        """The body, as it is stored; None if it is not here.

        Raises:
            OSError: The disk failed.
        """
        try:
            return await asyncio.to_thread(diskfile.read, self.path(account_id, content_hash))
        except FileNotFoundError:
            return None

    async def exists(self, account_id: AccountId, content_hash: bytes) -> bool:
        """True if the body is here."""
        return await asyncio.to_thread(self.path(account_id, content_hash).exists)

    async def retire(self, account_id: AccountId, content_hash: bytes) -> bool:
        """Remove a body that is in the object store; False if it was spared for another delivery, or is not here."""
        return await self.retire_many([(account_id, content_hash)]) == 1

    async def retire_many(self, items: Sequence[tuple[AccountId, bytes]]) -> int:
        """`retire` for several bodies with one trip; how many were removed."""
        return await self._trip(self._unlink, [self.path(*item) for item in items], self._may_retire)

    async def unlink_idle(self, account_id: AccountId, content_hash: bytes, idle_s: float) -> bool:
        """Remove a body that no row counts on, if nobody staged it for `idle_s` seconds; False if it stays."""
        path = self.path(account_id, content_hash)
        return await self._trip(self._unlink, [path], lambda found: _idle_s(found) >= idle_s) == 1

    async def quarantine_idle(self, account_id: AccountId, content_hash: bytes, idle_s: float) -> bool:
        """Move a body aside that no row counts on, if nobody staged it for `idle_s` seconds; False if it stays."""
        path = self.path(account_id, content_hash)
        return await self._trip(self._unlink, [path], lambda found: _idle_s(found) >= idle_s, self._move_aside) == 1

    async def count_quarantined(self) -> int:
        """Bodies that were moved aside and wait for a person."""
        return await asyncio.to_thread(lambda: len(os.listdir(self._quarantine)) if self._quarantine.is_dir() else 0)

    async def remove_account(self, account_id: AccountId) -> int:
        """Remove every body of an account, what was put aside included; how many there were."""
        return await self._trip(self._remove_account, account_id)

    async def expire_quarantined(self, older_than_s: float) -> int:
        """Remove what was put aside longer ago; how many bodies that were."""
        return await self._trip(self._expire_quarantined, (time.time() - older_than_s) * 1e9)

    async def pages(self, size: int) -> AsyncIterator[list[StagedFile]]:
        """Every staged body, so many at a time, in no order; what comes or goes meanwhile is met or not."""
        files = self._files()
        while page := await asyncio.to_thread(lambda: list(itertools.islice(files, size))):
            yield page

    async def find_quarantined(self, account_id: AccountId, content_hash: bytes) -> list[Path]:
        """Files that were put aside under the name of a body."""
        name = local_name(account_id, content_hash)
        return await asyncio.to_thread(diskfile.find_quarantined, self._quarantine, name)

    async def list_files(self) -> list[StagedFile]:
        """Every staged body, for the sweep; oldest first."""
        return sorted(await asyncio.to_thread(lambda: list(self._files())), key=lambda file: file.modified_at_s)

    async def quarantine(self, account_id: AccountId, content_hash: bytes) -> None:
        """Move a body aside that is not what its name says; it is kept for a person to look at."""
        await self._trip(self._move_aside, self.path(account_id, content_hash))

    @property
    def used_bytes(self) -> int:
        """Octets staged or on their way, as far as this process knows."""
        return self._usage.bytes + self._usage.unnamed

    def close(self) -> None:
        """Give the threads back; call it when nothing is being staged."""
        self._trips.shutdown(wait=True)
        self._counting.shutdown(wait=True)

    async def _trip(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._trips, function, *args)

    # What follows runs in threads.

    def _stage_many(self, items: Sequence[tuple[AccountId, bytes, Stageable]]) -> None:
        bodies = {(account_id, digest): _pieces(data) for account_id, digest, data in items}
        size = sum(map(_size, bodies.values()))
        if not self._usage.reserve(size, self._max_size):
            raise self._full()
        prefix, names = f"{self._new_names}{os.getpid():x}-", f"{self._root}/"
        files = [
            (f"{prefix}{next(_numbers)}.tmp".encode(), f"{names}{local_name(*key)}".encode(), pieces)
            for key, pieces in bodies.items()
        ]
        try:
            self._publish(files)
        except OSError as error:
            self._usage.release(size)
            if error.errno not in _FULL:
                raise
            raise StagingFull(detail=f"staging: {error}") from error

    def _publish(self, files: list[tuple[bytes, bytes, Sequence[Octets]]]) -> None:
        """Put files there under their names; a name that is there already is used, or moved aside if it is wrong."""
        errors = publish(files, bytes(self._root), bytes(self._root / ".lock"), diskfile.FILE_MODE)
        if not any(errors):
            return
        for error, (_, path, _) in zip(errors, files, strict=True):
            if error not in (0, errno.EEXIST):
                raise OSError(error, os.strerror(error), os.fsdecode(path))
        known = [file for file, error in zip(files, errors, strict=True) if error]
        try:
            with self._locked(fcntl.LOCK_SH):
                for temporary, path, pieces in known:
                    self._link(Path(os.fsdecode(temporary)), Path(os.fsdecode(path)), _size(pieces))
            diskfile.sync_directory(self._root)
        finally:
            for temporary, _, _ in known:
                Path(os.fsdecode(temporary)).unlink(missing_ok=True)

    def _use_existing(self, path: Path, size: int) -> bool:
        """True if the body is staged already; it is marked as shared then. Call it with the lock held."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        if found.st_size != size and not _is_sealed(path):
            self._report_corrupt(path)
            self._move_aside(path)
            return False
        path.chmod(SHARED_MODE)
        os.utime(path)
        self._usage.release(size)
        return True

    def _link(self, temporary: Path, path: Path, size: int) -> None:
        """Give a synced file its name, unless the body is staged already. Call it with the lock held."""
        while True:
            try:
                os.link(temporary, path)
            except FileExistsError:
                if self._use_existing(path, size):
                    return
            else:
                return

    def _take_spooled(self, size: int) -> None:
        if not self._usage.reserve(size, self._max_size, named=False):
            raise self._full()

    def _full(self) -> StagingFull:
        return StagingFull(detail=f"staging: {self.used_bytes} octets of {self._max_size} are in use")

    def _may_retire(self, found: os.stat_result) -> bool:
        return stat.S_IMODE(found.st_mode) != SHARED_MODE or _idle_s(found) >= self._settle_s

    def _unlink(
        self,
        paths: Sequence[Path],
        may: Callable[[os.stat_result], bool],
        remove: Callable[[Path], None] = Path.unlink,
    ) -> int:
        gone: list[int] = []
        with self._locked(fcntl.LOCK_EX):
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    if may(found):
                        remove(path)
                        gone.append(found.st_size)
        self._usage.release(sum(gone))
        return len(gone)

    def _remove_account(self, account_id: AccountId) -> int:
        prefix = local_prefix(account_id)
        paths = [Path(entry.path) for entry in os.scandir(self._root) if entry.name.startswith(prefix)]
        removed = sum(self._unlink([path], lambda _: True) for path in paths)
        diskfile.sync_directory(self._root)
        return removed + diskfile.remove_quarantined(self._quarantine, prefix)

    def _expire_quarantined(self, before_ns: float) -> int:
        removed = 0
        for path in self._quarantine.iterdir() if self._quarantine.is_dir() else ():
            at = path.name.partition("-")[0]  # see `_move_aside`
            if at.isdecimal() and int(at) < before_ns:
                path.unlink()
                removed += 1
        return removed

    def _move_aside(self, path: Path) -> None:
        diskfile.make_directory(self._quarantine)
        with contextlib.suppress(FileNotFoundError):
            path.rename(self._quarantine / f"{time.time_ns()}-{path.name}")

    def _report_corrupt(self, path: Path) -> None:
        metrics.bodies_corrupt.labels("staging").inc()
        _log.error("staged file has another size than its content", extra={"file": path.name})

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the lock; every holder opens the file anew, so that threads exclude each other like processes."""
        fd = os.open(self._root / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, diskfile.FILE_MODE)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    def _files(self) -> Iterator[StagedFile]:
        for entry in os.scandir(self._root):
            match = _NAME.fullmatch(entry.name)
            if match is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                yield StagedFile(
                    account_id=AccountId(int(match[1], 16)),
                    content_hash=bytes.fromhex(match[2]),
                    size=found.st_size,
                    modified_at_s=found.st_mtime,
                )

    def _add_up(self) -> int:
        return sum(file.size for file in self._files())


class Spool:
    """A message that is too large to be held in memory while it arrives: a file without a name.

    Whatever becomes of the process, nothing is left of it.

    Args:
        take: Counts octets in; raises StagingFull if there is no room for them.
        release: Counts them out.
        cipher: How the message stands in the file.

    Attributes:
        size: Octets written.
        in_memory: What `map` gives takes memory as long as it is used.
    """

    def __init__(
        self, directory: Path, take: Callable[[int], None], release: Callable[[int], None], cipher: SpoolCipher
    ) -> None:
        with _no_room():
            self._fd = diskfile.open_unnamed(directory)
        self._cipher = cipher
        self.in_memory = cipher.in_memory
        self._take = take
        self._release = release
        self._taken = 0
        self.size = 0

    def write(self, data: Octets) -> None:
        """Append; blocks.

        Raises:
            StagingFull: The disk is full, or the directory as full as it may be.
        """
        self._take(len(data))
        self._taken += len(data)
        with _no_room():
            for piece in self._cipher.seal(data):
                diskfile.write_all(self._fd, piece)
        self.size += len(data)

    def map(self) -> mmap.mmap:
        """What was written, which is not empty; it stays readable when the spool is closed. May block.

        Raises:
            OSError: The disk failed.
        """
        return self._cipher.map(self._fd, self.size)

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        taken, self._taken = self._taken, 0
        self._release(taken)


@contextlib.contextmanager
def _no_room() -> Iterator[None]:
    """A disk that is full or broken is a staging that is full: try again later."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StagingFull(detail=f"staging: {error}") from error


def is_settled(file: StagedFile) -> bool:
    """True if whoever staged the body must have its row by now."""
    return time.time() - file.modified_at_s >= SETTLE_S


def _size(pieces: Sequence[Octets]) -> int:
    return sum(map(len, pieces))


def _pieces(body: Stageable) -> Sequence[Octets]:
    if isinstance(body, Unsealed):
        return body.seal()
    return (body,) if isinstance(body, bytes) else body


def _is_sealed(path: Path) -> bool:
    """True for a sealed body that is as long as it says; how long depends on the compressor too."""
    return sealing.is_sealed_file(diskfile.read(path, 0, sealing.HEADER_BYTES), path.stat().st_size)


def _idle_s(found: os.stat_result) -> float:
    return time.time() - found.st_mtime


class _Usage:
    """Octets in the directory: added up now and then, and counted on by what this process does in between.

    Attributes:
        bytes: Of files with a name.
        unnamed: Of this process's spools, which nobody sees who adds up.
    """

    def __init__(self, add_up: Callable[[], int], submit: Callable[[Callable[[], None]], object]) -> None:
        self._add_up = add_up
        self._submit = submit
        self._lock = threading.Lock()
        self._scan = threading.Lock()
        self._next_mono = 0.0
        self._fresh_mono = 0.0
        self._since = 0
        self.bytes = 0
        self.unnamed = 0

    def reserve(self, size: int, bound: int, *, named: bool = True) -> bool:
        """Count `size` octets in; False, and nothing counted, if they would pass the bound."""
        now = time.monotonic()
        if now >= self._next_mono:
            self._next_mono = now + RESCAN_S
            self._submit(self.refresh)
        if self._take(size, bound, named):
            return True
        # Before anything is refused, look what the uploader has removed in the meantime.
        if now >= self._fresh_mono:
            self.refresh()
        return self._take(size, bound, named)

    def release(self, size: int) -> None:
        """Count octets out."""
        with self._lock:
            self.bytes = max(0, self.bytes - size)
            self._since -= size

    def release_unnamed(self, size: int) -> None:
        """Count octets of a spool out."""
        with self._lock:
            self.unnamed -= size

    def refresh(self) -> None:
        """Add the directory up."""
        with self._scan:
            started = time.monotonic()
            with self._lock:
                self._since = 0
            found = self._add_up()
            took = time.monotonic() - started
            with self._lock:
                self.bytes = max(0, found + self._since)
            self._fresh_mono = started + (RESCAN_SHARE + 1) * took
            self._next_mono = max(started + RESCAN_S, self._fresh_mono)
        metrics.staging_bytes.set(self.bytes)

    def _take(self, size: int, bound: int, named: bool) -> bool:
        with self._lock:
            if self.bytes + self.unnamed + size > bound:
                return False
            if named:
                self.bytes += size
                self._since += size
            else:
                self.unnamed += size
            return True
