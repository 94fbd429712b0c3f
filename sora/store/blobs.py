"""The object store as Sora sees it, and the one that is a plain directory.

An object is written whole or not at all, never changes under its key, and may be written again with the same bytes.
`NotFound` means that the store answered and has no such object; everything else that goes wrong is `BlobDown`, because
for the client it is temporary and for the operator it is in the detail.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, runtime_checkable

from msgspec import Struct

from sora import metrics
from sora._native.durable import sync_directories
from sora.errors import BlobDown, NotFound
from sora.store import diskfile
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

HASH_BYTES: Final = 32
THREADS: Final = 4
LIST_PAGE: Final = 1000
STALE_S: Final = 3600.0
"""A half-written file of this age has no writer any more: a write takes seconds."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_KEY: Final = re.compile(r"([0-9a-f]{16})/([0-9a-f]{2})/([0-9a-f]{64})-([1-9][0-9]{0,17})\.eml")
_LOCAL_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{64})\.eml")
_ABSENT: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_T = TypeVar("_T")


def content_hash(data: bytes) -> bytes:
    """BLAKE2b-256 over the exact stored bytes: the identity of a body inside its account."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def local_prefix(account_id: AccountId) -> str:
    """What the file names of an account's bodies begin with."""
    return f"{account_id:016x}-"


def local_name(account_id: AccountId, digest: bytes) -> str:
    """File name of a body in staging and cache: there the content is the identity, not the row."""
    return f"{local_prefix(account_id)}{digest.hex()}.eml"


def parse_local_name(name: str) -> tuple[AccountId, bytes] | None:
    """Account and hash of a file in staging or cache; None: a file of another kind."""
    match = _LOCAL_NAME.fullmatch(name)
    return (AccountId(int(match[1], 16)), bytes.fromhex(match[2])) if match else None


class BlobRef(Struct, frozen=True):
    """One stored body, as its row in the database describes it.

    Attributes:
        content_hash: See `content_hash`.
        size: Octets.
    """

    account_id: AccountId
    content_id: ContentId
    content_hash: bytes
    size: int

    @property
    def key(self) -> str:
        """Key in the object store.

        It ends in the content id, so that deleting the object of a purged row can never hit a later row with the same
        bytes.
        """
        digest = self.content_hash.hex()
        return f"{self.account_id:016x}/{digest[:2]}/{digest}-{self.content_id}.eml"

    @classmethod
    def of_entry(cls, entry: BlobEntry) -> BlobRef | None:
        """The body whose object this is, by its key; None: an object of another kind. The size is the object's."""
        return cls.of_key(entry.key, entry.size)

    @classmethod
    def of_key(cls, key: str, size: int = 0) -> BlobRef | None:
        """The body with this key; None: no body has such a key."""
        match = _KEY.fullmatch(key)
        if match is None or match[2] != match[3][:2]:
            return None
        return cls(AccountId(int(match[1], 16)), ContentId(int(match[4])), bytes.fromhex(match[3]), size)

    @property
    def name(self) -> str:
        """File name in staging and cache."""
        return local_name(self.account_id, self.content_hash)

    def matches(self, data: bytes) -> bool:
        """True if `data` is this body."""
        return len(data) == self.size and content_hash(data) == self.content_hash


class BlobStat(Struct, frozen=True):
    """What a store knows of an object.

    Attributes:
        etag: Changes with the content; its form is the store's own.
    """

    size: int
    etag: str


class BlobEntry(Struct, frozen=True):
    """One line of a listing."""

    key: str
    size: int
    modified_at: datetime


class BlobStore(Protocol):
    """Objects by key. Every method may raise BlobDown; keys are those that `check_key` passes."""

    async def put(self, key: str, data: bytes, label: bytes = b"") -> None:
        """Store an object; on disk, and readable everywhere, afterwards.

        Args:
            label: A few octets that are stored with it (`labels.py`); they may be lost in a power cut.
        """

    async def label(self, key: str) -> bytes:
        """What was stored with an object; empty: nothing.

        Raises:
            NotFound: No such object.
        """

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Octets of an object, cut at its end like a slice.

        Raises:
            NotFound: No such object.
        """

    async def stat(self, key: str) -> BlobStat:
        """Size and etag.

        Raises:
            NotFound: No such object.
        """

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is removed already."""

    async def erase(self, prefix: str) -> int:
        """Remove the objects whose key begins with `prefix`, with every version that the store has kept of them.

        Returns:
            How many versions there were.
        """

    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[BlobEntry]:
        """Objects whose key begins with `prefix` and is greater than `after`, in the order of their keys."""

    async def ping(self) -> None:
        """Return if the store is there and takes our credentials."""

    async def prepare(self) -> None:
        """Create the bucket or directory if it is missing."""

    def close(self) -> None:
        """Give threads and connections back."""


@runtime_checkable
class TakesFiles(Protocol):
    """A store that need not write what is on its disk already."""

    async def put_file(self, key: str, path: Path, data: bytes, label: bytes = b"") -> None:
        """`BlobStore.put` of a file that is synced, has these octets, and will never be written to.

        The file may be gone, or lie where the store cannot use it: then `data` is stored.
        """


def check_key(key: str) -> str:
    """The key itself, if it is one that is safe in any store and as a path.

    Raises:
        ValueError: An empty, hidden or parent segment, or another character than letters, digits and `._-`.
    """
    if len(key) > 1024 or not all(map(_SEGMENT.fullmatch, key.split("/"))):
        raise ValueError(f"not an object key: {key!r}")
    return key


class _Put:
    """One object on its way into a directory.

    Attributes:
        unsynced: Directories with names in them that may not be on disk yet.
        error: Why it is not there; final when `done` is set.
        broken: What is no failure of the disk. Set until the object is known to be written or not: whoever is woken
            by a group that was cut short must not take that for a success.
    """

    __slots__ = ("broken", "data", "done", "error", "fd", "label", "linked", "path", "source", "temporary", "unsynced")

    def __init__(self, path: Path, data: bytes, source: Path | None, label: bytes) -> None:
        self.path = path
        self.data = data
        self.label = label
        self.source = source
        self.linked = False
        self.done = asyncio.Event()
        self.error: OSError | None = None
        self.broken: Exception | None = BlobDown(detail="put: the store was closed")
        self.temporary = path
        self.fd = -1
        self.unsynced: list[Path] = []

    def attempt(self, step: Callable[[_Put], None]) -> None:
        """Take a step, if all went well before."""
        if self.error is None:
            try:
                step(self)
            except OSError as error:
                self.error = error

    def link(self) -> None:
        """Give a file that is on disk already the name of the object, if that can be.

        A name that is there already is left to `sync_and_rename`: what bears it may be torn. The object is as old as
        its name, so that nobody takes it for a forgotten one.
        """
        if self.source is not None:
            with contextlib.suppress(OSError):
                os.link(self.source, self.path)
                self.linked = True
                os.utime(self.path)

    def sync_and_rename(self) -> None:
        """What was written gets its name."""
        if not self.linked:
            os.fsync(self.fd)
            self.temporary.rename(self.path)
        if self.label:
            _write_label(self.path, self.label)

    def finish(self, failed: Mapping[Path, OSError]) -> None:
        """Leave nothing behind; `failed` are directories that could not be synced."""
        self.broken = None
        if self.fd >= 0:
            os.close(self.fd)
            self.temporary.unlink(missing_ok=True)
        self.error = self.error or next((failed[path] for path in self.unsynced if path in failed), None)


class DirectoryStore:
    """Objects as files below one directory.

    A file that is on this disk already gets another name, a hard link: whoever gave it removes his own name in the end,
    and the octets stay. Others may hold a name of it too (staging, the cache), and change its time and its permissions
    as they use it: an object may seem younger than it is, never older, and its owner alone can read it in any case.

    A label is a hidden file beside the object.

    Anything else is written under another name, synced, renamed, and its directory synced; so a key is there completely
    or not at all, after a power cut too. Objects that come while others are written make up the next group: a group
    takes each of these steps for all its objects together, because syncing is what costs.

    Args:
        path: Root; `prepare` creates it. A root that is gone is an outage (an unmounted disk), not an empty store.
    """

    def __init__(self, path: str | Path) -> None:
        self._root = Path(path)
        self._temporary = self._root / ".tmp"
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")
        self._puts: list[_Put] = []
        self._putting: asyncio.Task[None] | None = None

    async def put(self, key: str, data: bytes, label: bytes = b"") -> None:
        """See `BlobStore.put`."""
        await self._put(_Put(self._path(key), data, None, label))

    async def put_file(self, key: str, path: Path, data: bytes, label: bytes = b"") -> None:
        """See `TakesFiles.put_file`."""
        await self._put(_Put(self._path(key), data, path, label))

    async def label(self, key: str) -> bytes:
        """See `BlobStore.label`."""
        return await self._call("stat", self._label, self._path(key))

    async def _put(self, put: _Put) -> None:
        self._puts.append(put)
        if self._putting is None:
            self._putting = asyncio.create_task(self._put_groups())
        with metrics.object_store_seconds.labels("put").time():
            await put.done.wait()
        if put.broken is not None:
            raise put.broken
        if put.error is not None:
            metrics.object_store_errors.labels("put").inc()
            raise BlobDown(detail=f"put: {put.error}") from put.error

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `BlobStore.get`."""
        check_range(offset, length)
        return await self._call("get", diskfile.read, self._path(key), offset, length)

    async def stat(self, key: str) -> BlobStat:
        """See `BlobStore.stat`."""
        return await self._call("stat", self._stat, self._path(key))

    async def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        await self._call("delete", self._delete, self._path(key))

    async def erase(self, prefix: str) -> int:
        """See `BlobStore.erase`; a directory keeps no versions."""
        keys = [entry.key async for entry in self.list(prefix)]
        for key in keys:
            await self.delete(key)
        return len(keys)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[BlobEntry]:
        """See `BlobStore.list`."""
        walk = self._walk_below(prefix, after)
        while page := await self._call("list", lambda: list(itertools.islice(walk, LIST_PAGE))):
            for entry in page:
                yield entry

    async def ping(self) -> None:
        """See `BlobStore.ping`."""
        await self._call("ping", self._ping)

    async def prepare(self) -> None:
        """See `BlobStore.prepare`; also removes what dead processes were writing."""
        await self._call("prepare", self._prepare)

    def close(self) -> None:
        """See `BlobStore.close`."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _call(self, operation: str, function: Callable[..., _T], *args: object) -> _T:
        """Run in a thread, measured, with OSError translated."""
        loop = asyncio.get_running_loop()
        with metrics.object_store_seconds.labels(operation).time():
            return await loop.run_in_executor(self._pool, self._run, operation, function, args)

    def _run(self, operation: str, function: Callable[..., _T], args: tuple[object, ...]) -> _T:
        try:
            return function(*args)
        except OSError as error:
            if isinstance(error, _ABSENT) and self._root.is_dir():
                raise NotFound("No such object", detail=str(error)) from error
            metrics.object_store_errors.labels(operation).inc()
            raise BlobDown(detail=f"{operation}: {error}") from error

    async def _put_groups(self) -> None:
        """Write what has gathered until nothing has."""
        try:
            while self._puts:
                group, self._puts = self._puts, []
                try:
                    await asyncio.get_running_loop().run_in_executor(self._pool, self._put_group, group)
                except Exception as error:  # a bug, or the store was closed
                    for put in group:
                        put.broken = error
                finally:
                    for put in group:
                        put.done.set()
        finally:
            self._putting = None

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _put_group(self, group: Sequence[_Put]) -> None:
        """Each step for all; an object that fails drops out with its error."""
        for put in group:
            put.attempt(self._write)
        for put in group:
            put.attempt(_Put.sync_and_rename)
        # Also those of objects that failed: others in the group may lie in a directory that one of them has made.
        directories = list({path for put in group for path in put.unsynced})
        errors = sync_directories([bytes(path) for path in directories])
        failed = {
            path: OSError(error, os.strerror(error), str(path))
            for path, error in zip(directories, errors, strict=True)
            if error
        }
        for put in group:
            put.finish(failed)

    def _write(self, put: _Put) -> None:
        """Link it or write it; a link need not ask whether the root is there, because it makes no directory."""
        put.unsynced = [put.path.parent]
        put.link()
        if put.linked:
            return
        self._ping()
        put.unsynced = [*diskfile.make_directories(put.path.parent), put.path.parent]
        put.link()
        if not put.linked:
            diskfile.make_directory(self._temporary)
            put.temporary = diskfile.temporary(self._temporary)
            put.fd = diskfile.write_new(put.temporary, put.data)

    def _stat(self, path: Path) -> BlobStat:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise IsADirectoryError(path)
        return BlobStat(size=found.st_size, etag=f"{found.st_ino:x}-{found.st_mtime_ns:x}")

    def _label(self, path: Path) -> bytes:
        self._stat(path)
        try:
            return diskfile.read(_label_path(path))
        except FileNotFoundError:
            return b""

    def _delete(self, path: Path) -> None:
        self._ping()
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            _label_path(path).unlink(missing_ok=True)
        if path.parent.is_dir():
            diskfile.sync_directory(path.parent)

    def _ping(self) -> None:
        if not self._root.is_dir():
            raise FileNotFoundError(f"{self._root} is not there")

    def _prepare(self) -> None:
        diskfile.make_directory(self._root)
        diskfile.make_directory(self._temporary)
        diskfile.sweep_temporaries(self._temporary, STALE_S)

    def _walk_below(self, prefix: str, after: str) -> Iterator[BlobEntry]:
        """From the directory that the prefix names: one beside it may have as many entries as there are accounts."""
        self._ping()
        above, slash, _ = prefix.rpartition("/")
        directory = self._root / above
        if all(part[:1] != "." for part in above.split("/")) and directory.is_dir():
            yield from self._walk(directory, above + slash, prefix, after)

    def _walk(self, directory: Path, above: str, prefix: str, after: str) -> Iterator[BlobEntry]:
        """Depth first, in the order of the whole keys: a directory sorts as its name with a slash."""
        entries = [
            (entry.name + "/" * entry.is_dir(), entry) for entry in os.scandir(directory) if entry.name[0] != "."
        ]
        for name, entry in sorted(entries, key=lambda pair: pair[0]):
            key = above + name
            if key.endswith("/"):
                if key.startswith(prefix[: len(key)]) and key >= after[: len(key)]:
                    yield from self._walk(Path(entry.path), key, prefix, after)
            elif key.startswith(prefix) and key > after:
                with contextlib.suppress(FileNotFoundError):  # deleted since the directory was read
                    found = entry.stat()
                    modified_at = datetime.fromtimestamp(found.st_mtime, UTC)
                    yield BlobEntry(key=key, size=found.st_size, modified_at=modified_at)


def _label_path(path: Path) -> Path:
    """Hidden, as no segment of a key is: no listing shows it."""
    return path.with_name(f".{path.name}.label")


def _write_label(path: Path, label: bytes) -> None:
    """Not synced: that would cost as much as the object, and the journal says the same a minute later."""
    target = _label_path(path)
    temporary = diskfile.temporary(path.parent)
    os.close(diskfile.write_new(temporary.with_name(f".{temporary.name}"), label))
    temporary.with_name(f".{temporary.name}").rename(target)


def check_range(offset: int, length: int | None) -> None:
    """Raise ValueError for a range that no store can read."""
    if offset < 0 or (length is not None and length < 1):
        raise ValueError(f"not a range: offset {offset}, length {length}")
