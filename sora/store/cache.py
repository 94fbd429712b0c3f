"""Bodies on the local disk, so that reading mail twice asks the object store once.

Shared by the processes of a node without a server between them:

- one file per body, `objects/<2 hex>/<account>-<hash>.eml`, the bytes as they are in the object store. Written under
  another name and renamed, but never synced: after a power cut a file may be torn, and whoever reads it finds out by
  its length and when it is opened;
- one small file, `usage`, with the octets in use. It is changed only with its lock held, and always in the direction
  that errs towards "more": counted in before the rename, counted out after the unlink. A process that is killed in
  between leaves the number too high until the next eviction, which adds the files up anyway;
- room is made before a body goes in, so the bound holds at all times (each process may be writing one temporary more).
  Eviction removes the least recently used, by the file's time; a reader moves that at most once a minute. It goes a
  tenth below the bound, so that the walk through the directory is paid once per tenth of the capacity;
- everything that writes runs in one background thread per process. Readers take no lock.

What is counted is blocks of 4 KiB, which is what the disk loses.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from msgspec import Struct

from sora import log, metrics
from sora.store import diskfile, sealing
from sora.store.blobs import content_hash, local_prefix, parse_local_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sora.store.blobs import BlobRef
    from sora.types import AccountId

READ_THREADS: Final = 4
BLOCK_BYTES: Final = 4096
LOW_WATER: Final = 0.9
TOUCH_S: Final = 60.0
STALE_S: Final = 3600.0
MAX_WAITING: Final = 64
"""Bodies that wait to be written; what comes on top is not kept. A busy disk must not fill the memory."""
SHARDS: Final = tuple(f"{number:02x}" for number in range(256))
"""Directories of the files, by the first octet of the hash."""
KEPT_CORRUPT: Final = 16
"""Corrupt files kept for a person to look at, the newest."""

_USAGE: Final = struct.Struct("<8sq36s")
_MAGIC: Final = b"SORACHE1"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MINUTE_NS: Final = 60 * 10**9
_T = TypeVar("_T")
_log = log.get(__name__)


class CacheStats(Struct, frozen=True):
    """What the cache holds, and how this process fared with it."""

    used_bytes: int
    capacity_bytes: int
    files: int
    quarantined: int
    hits: int
    misses: int


class CachedFile(NamedTuple):
    """A file of the cache; `account_id` is None if its name is no body's."""

    path: Path
    account_id: AccountId | None
    content_hash: bytes
    size: int


class _File(NamedTuple):
    used_ns: int
    charge: int
    path: Path


class Cache:
    """The body cache of a node.

    Args:
        capacity: Octets, counted in blocks.
        max_object_size: Larger bodies are not kept.
        clock: Seconds of the wall clock; it orders the files by use.
    """

    def __init__(
        self,
        path: str | Path,
        capacity: int,
        max_object_size: int,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._root = Path(path)
        self._objects = self._root / "objects"
        self._temporary = self._root / "tmp"
        self._quarantine = self._root / "quarantine"
        self._capacity = capacity
        self._max_object_size = max_object_size
        self._clock = clock
        self._boot = _boot_id()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cache-write")
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="cache-read")
        self._waiting = 0
        self._hits = 0
        self._misses = 0
        for directory in (self._root, self._objects, self._temporary, self._quarantine):
            diskfile.make_directory(directory)
        diskfile.sweep_temporaries(self._temporary, STALE_S)
        with self._usage() as usage:
            if usage.bytes > capacity:  # the operator made it smaller
                self._shrink(usage, capacity)

    def read_now(self, ref: BlobRef) -> bytes | None:
        """A body if it can be had without waiting for the disk, not verified; None if it is not kept.

        Raises:
            WouldBlock: It may be here; use `read`.
        """
        path = self._path(ref)
        try:
            data = diskfile.read_cached(path, sealing.most_stored(ref.size))
        except FileNotFoundError:
            return None
        if not sealing.is_whole(data, ref.size):
            raise diskfile.WouldBlock
        self._touch(path)
        self._hit()
        return data

    async def read(self, ref: BlobRef) -> bytes | None:
        """A body, not verified; None if it is not kept, or its file is torn or unreadable."""
        data = await asyncio.get_running_loop().run_in_executor(self._readers, self._read, self._path(ref), ref.size)
        if data is None:
            self._misses += 1
            metrics.cache_requests.labels("miss").inc()
        else:
            self._hit()
        return data

    def _hit(self) -> None:
        self._hits += 1
        metrics.cache_requests.labels("hit").inc()

    async def has(self, ref: BlobRef) -> bool:
        """True if a body is kept; this is no use of it."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._path(ref).exists)

    async def put(self, ref: BlobRef, data: bytes) -> bool:
        """Keep a body; False if it is too large or could not be written."""
        return self._wants(ref) and await self._write(self._put, ref, data)

    def offer(self, ref: BlobRef, data: bytes) -> None:
        """Keep a body, some time, if the disk is not busy; nobody waits for it."""
        if not self._wants(ref) or self._waiting >= MAX_WAITING:
            return
        self._waiting += 1
        self._writer.submit(self._put, ref, data).add_done_callback(self._offered)

    async def adopt_many(self, files: Sequence[tuple[BlobRef, Path]]) -> int:
        """Keep bodies that are files already, by a hard link, or a copy where that cannot be; how many were kept."""
        wanted = [(ref, path) for ref, path in files if self._wants(ref)]
        return await self._write(self._adopt_many, wanted) if wanted else 0

    async def quarantine(self, ref: BlobRef) -> None:
        """Move a file aside that is not what its name says; where that fails it is found wrong again."""
        path = self._path(ref)
        with _unless_broken(path):
            await self._write(self._move_aside, path)

    async def stats(self) -> CacheStats:
        """Counts; it walks through the directory."""
        used, files, quarantined = await self._write(self._count)
        return CacheStats(
            used_bytes=used,
            capacity_bytes=self._capacity,
            files=files,
            quarantined=quarantined,
            hits=self._hits,
            misses=self._misses,
        )

    async def list_shard(self, shard: str) -> list[CachedFile]:
        """The files of one of `SHARDS`, for whoever looks at all of them."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._list_shard, shard)

    def path(self, ref: BlobRef) -> Path:
        """Where a body is, if it is kept."""
        return self._path(ref)

    async def look(self, path: Path) -> bytes | None:
        """What a file has, torn or not; None if it is gone. This is no use of it.

        Raises:
            OSError: The disk failed.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._look, path)

    async def put_aside(self, path: Path) -> None:
        """Move a file aside that is not what its name says, and let older ones stay; `recount` when that was done."""
        metrics.bodies_corrupt.labels("cache").inc()
        await self._write(self._move_aside, path, None)

    async def recount(self) -> None:
        """Add the files up: one that was altered, or came from elsewhere, was counted wrongly or not at all."""
        await self._write(self._recount)

    async def find_quarantined(self, ref: BlobRef) -> list[Path]:
        """Files that were put aside under the name of a body."""
        return await asyncio.to_thread(diskfile.find_quarantined, self._quarantine, ref.name)

    async def remove_account(self, account_id: AccountId) -> int:
        """Remove every body of an account, what was put aside included; how many there were."""
        return await self._write(self._remove_account, account_id)

    async def purge(self) -> int:
        """Remove all; how many files there were."""
        return await self._write(self._purge)

    def close(self) -> None:
        """Finish what is being written, drop what waits, give the threads back."""
        self._writer.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)

    async def _write(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, function, *args)

    def _wants(self, ref: BlobRef) -> bool:
        return ref.size <= self._max_object_size and _charge(sealing.most_stored(ref.size)) <= self._capacity

    def _offered(self, _: object) -> None:
        self._waiting -= 1

    def _path(self, ref: BlobRef) -> Path:
        name = ref.name
        return self._objects / name[17:19] / name

    # What follows runs in threads.

    def _read(self, path: Path, size: int) -> bytes | None:
        try:
            data = diskfile.read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("cached body cannot be read", extra={"file": path.name, "error": str(error)})
            return None
        if not sealing.is_whole(data, size):
            self._drop_torn(path)
            return None
        self._touch(path)
        return data

    def _touch(self, path: Path) -> None:
        """Count this use, unless one was counted within the last minute."""
        with contextlib.suppress(OSError):  # it is gone, or the disk may not be written any more
            now = self._clock()
            if now - path.stat().st_mtime >= TOUCH_S:
                os.utime(path, (now, now))

    def _drop_torn(self, path: Path) -> None:
        metrics.bodies_corrupt.labels("cache").inc()
        _log.info("torn file removed from the cache", extra={"file": path.name})
        with _unless_broken(path), self._usage() as usage, contextlib.suppress(FileNotFoundError):
            usage.remove(path)

    def _put(self, ref: BlobRef, data: bytes) -> bool:
        temporary = diskfile.temporary(self._temporary)
        try:
            os.close(diskfile.write_new(temporary, data))
            return self._insert(temporary, self._path(ref), len(data))
        except OSError as error:
            _log.warning("body not cached", extra={"file": ref.name, "error": str(error)})
            return False
        finally:
            _discard(temporary)

    def _adopt_many(self, files: Sequence[tuple[BlobRef, Path]]) -> int:
        return sum(self._adopt(ref, path) for ref, path in files)

    def _adopt(self, ref: BlobRef, path: Path) -> bool:
        temporary = diskfile.temporary(self._temporary)
        try:
            os.link(path, temporary)
            return self._insert(temporary, self._path(ref), temporary.stat().st_size)
        except FileNotFoundError:  # sent in an earlier life, and gone since
            return False
        except OSError:  # another file system, no more links
            return self._copy(ref, path)
        finally:
            _discard(temporary)

    def _copy(self, ref: BlobRef, path: Path) -> bool:
        try:
            return self._put(ref, diskfile.read(path))
        except OSError as error:
            _log.warning("body not cached", extra={"file": ref.name, "error": str(error)})
            return False

    def _insert(self, temporary: Path, path: Path, size: int) -> bool:
        """Make room, count the file in, give it its name."""
        with self._usage() as usage:
            if path.exists():
                return True
            charge = _charge(size)
            if usage.bytes + charge > self._capacity:
                self._shrink(usage, min(self._capacity - charge, int(self._capacity * LOW_WATER)))
            usage.add(charge)
            now = self._clock()
            os.utime(temporary, (now, now))
            diskfile.make_directory(path.parent)
            temporary.replace(path)
        return True

    def _shrink(self, usage: _Usage, bound: int) -> None:
        """Remove the least recently used until what is left fits in `bound`; the count is exact afterwards."""
        left = self._remove_oldest(bound)
        while left > max(0, bound):  # readers used some of them meanwhile
            left = self._remove_oldest(bound)
        usage.set(left)

    def _remove_oldest(self, bound: int) -> int:
        """Remove what has not been used since; gives the octets that are left.

        In two walks: a large cache has millions of files, which are first counted by the minute of their last use. Only
        those of one minute are ever held in memory.
        """
        minutes: Counter[int] = Counter()
        for file in self._files():
            minutes[file.used_ns // _MINUTE_NS] += file.charge
        left = sum(minutes.values())
        last = _last_to_go(minutes, left - bound)
        border: list[_File] = []
        for file in self._files():
            minute = file.used_ns // _MINUTE_NS
            if minute < last:
                left -= self._evict(file)
            elif minute == last:
                border.append(file)
        for file in sorted(border):
            if left <= bound:
                break
            left -= self._evict(file)
        return left

    def _evict(self, file: _File) -> int:
        file.path.unlink(missing_ok=True)
        metrics.cache_evictions.inc()
        return file.charge

    def _files(self) -> Iterator[_File]:
        for directory in list(os.scandir(self._objects)):
            for entry in list(os.scandir(directory)):
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    yield _File(found.st_mtime_ns, _charge(found.st_size), Path(entry.path))

    def _move_aside(self, path: Path, kept: int | None = KEPT_CORRUPT) -> None:
        with self._usage() as usage, contextlib.suppress(FileNotFoundError):
            charge = _charge(path.stat().st_size)
            path.rename(self._quarantine / f"{time.time_ns()}-{path.name}")
            usage.add(-charge)
        for name in sorted(os.listdir(self._quarantine))[: -kept if kept else 0]:
            (self._quarantine / name).unlink(missing_ok=True)

    def _count(self) -> tuple[int, int, int]:
        with self._usage() as usage:
            return usage.bytes, sum(1 for _ in self._files()), len(os.listdir(self._quarantine))

    def _list_shard(self, shard: str) -> list[CachedFile]:
        found: list[CachedFile] = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._objects / shard):
                with contextlib.suppress(FileNotFoundError):
                    account_id, digest = parse_local_name(entry.name) or (None, b"")
                    size = entry.stat(follow_symlinks=False).st_size
                    found.append(CachedFile(Path(entry.path), account_id, digest, size))
        return found

    def _look(self, path: Path) -> bytes | None:
        try:
            return diskfile.read(path)
        except FileNotFoundError:  # evicted since
            return None

    def _recount(self) -> None:
        with self._usage() as usage:
            usage.set(sum(file.charge for file in self._files()))

    def _remove_account(self, account_id: AccountId) -> int:
        prefix = local_prefix(account_id)
        removed = 0
        for file in [file for file in self._files() if file.path.name.startswith(prefix)]:
            with self._usage() as usage, contextlib.suppress(FileNotFoundError):
                usage.remove(file.path)
                removed += 1
        return removed + diskfile.remove_quarantined(self._quarantine, prefix)

    def _purge(self) -> int:
        with self._usage() as usage:
            files = list(self._files())
            for file in files:
                file.path.unlink(missing_ok=True)
            usage.set(0)
        return len(files)

    @contextlib.contextmanager
    def _usage(self) -> Iterator[_Usage]:
        """The shared count, locked. Opened anew each time, so that threads exclude each other like processes."""
        fd = os.open(self._root / "usage", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, diskfile.FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            usage = _Usage(fd, self._boot)
            if not usage.trusted:
                usage.set(sum(file.charge for file in self._files()))
            yield usage
            metrics.cache_bytes.set(usage.bytes)
        finally:
            os.close(fd)


class _Usage:
    """The number in the `usage` file, while its lock is held.

    It is believed only within one boot of the machine: processes that are killed leave it too high at worst, but a
    power cut may leave any older number.
    """

    def __init__(self, fd: int, boot: bytes) -> None:
        self._fd = fd
        self._boot = boot
        record = os.pread(fd, _USAGE.size, 0)
        magic, number, written = _USAGE.unpack(record) if len(record) == _USAGE.size else (b"", 0, b"")
        self.trusted = magic == _MAGIC and written == boot
        self.bytes: int = number

    def set(self, number: int) -> None:
        self.bytes = max(0, number)
        os.pwrite(self._fd, _USAGE.pack(_MAGIC, self.bytes, self._boot), 0)

    def add(self, number: int) -> None:
        self.set(self.bytes + number)

    def remove(self, path: Path) -> None:
        charge = _charge(path.stat().st_size)
        path.unlink()
        self.add(-charge)


@contextlib.contextmanager
def _unless_broken(path: Path) -> Iterator[None]:
    """A disk that fails must not keep a reader from the next source."""
    try:
        yield
    except OSError as error:
        _log.warning("file of the cache cannot be removed", extra={"file": path.name, "error": str(error)})


def _discard(temporary: Path) -> None:
    """What stays is swept by the next start."""
    with contextlib.suppress(OSError):
        temporary.unlink()


def _last_to_go(minutes: Mapping[int, int], excess: int) -> int:
    """The minute with whose files so many octets are gone, the earlier ones included."""
    for minute, octets in sorted(minutes.items()):
        excess -= octets
        if excess <= 0:
            return minute
    return max(minutes, default=-1)


def _charge(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _boot_id() -> bytes:
    """What names this boot; a fresh value where the system has none, so that nothing older is believed."""
    try:
        return _BOOT_ID.read_bytes().strip().ljust(36)[:36]
    except OSError:
        return content_hash(str(time.time_ns()).encode()).hex().encode()[:36]
