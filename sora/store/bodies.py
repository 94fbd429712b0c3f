"""Where a body comes from: memory, cache, staging, a copy in the database, another node, object store, in this order.

The order cannot miss a body that exists: the uploader removes a staged file or a copy only after the object is there,
and the sources are asked in the direction in which bodies travel. Copies and other nodes are asked first only where the
configuration has them; elsewhere copies are asked last, for what an earlier configuration left.

Whatever leaves any of them is compared with the hash of its row; what does not match is counted, moved aside, and the
next source is asked. A client never sees invented or truncated content: if no source has the right bytes the answer is
`BlobDown`, "try again".

With encryption on, what is in files and in the object store is sealed, and stays so there; a body is opened for memory
only. Opening is comparing (`store/sealing.py`).

Several readers of one body that is not at hand are one search.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, ParamSpec, Protocol, TypeVar

from sora import log, metrics
from sora.errors import BlobDown, KeyUnavailable, NotFound, Unavailable
from sora.store.account_keys import NoKeys
from sora.store.blobs import BlobStore, DirectoryStore, local_prefix
from sora.store.cache import Cache
from sora.store.diskfile import WouldBlock
from sora.store.s3 import S3Store
from sora.store.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import BinaryIO

    from sora.config import Config
    from sora.store.account_keys import Sealers
    from sora.store.blobs import BlobRef
    from sora.tables import ObjectStoreTable
    from sora.types import AccountId

INLINE_BYTES: Final = 64 * 1024
"""Up to here a file in the page cache is read and hashed in the event loop. That is 4 to 90 µs, nearly all of it the
hash; asking a thread costs 30 µs on an idle machine and 100 µs on a busy one, and the hash is the same."""
RECENT_BYTES: Final = 16 * 1024**2
"""Verified bodies kept in the memory of a process: clients fetch a message in several parts."""
RECENT_SHARE: Final = 4
"""No body takes more than one part in so many of that."""

_log = log.get(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Bodies:
    """Reads bodies by their row.

    Args:
        cache: None: no cache on this node.
        sealers: Open what is sealed; by default encryption is off.
        recent_bytes: See `RECENT_BYTES`; 0 turns it off.
        before: Sources that are asked before the object store.
        after: Sources that are asked if the object store has no answer.
    """

    def __init__(
        self,
        cache: Cache | None,
        staging: Staging,
        blobs: BlobStore,
        sealers: Sealers | None = None,
        *,
        recent_bytes: int = RECENT_BYTES,
        before: Sequence[Source] = (),
        after: Sequence[Source] = (),
    ) -> None:
        self.cache = cache
        self._sealers = sealers or NoKeys()
        self._recent = _Recent(recent_bytes)
        self._disks: tuple[_Disk, ...] = (*((_Cached(cache),) if cache else ()), _Staged(staging))
        self._staging = staging
        self._stored = _Stored(blobs)
        self._sources: tuple[Source, ...] = (*self._disks, *before, self._stored, *after)
        self._searches: dict[str, asyncio.Task[bytes]] = {}

    def get_now(self, ref: BlobRef) -> bytes | None:
        """The body, verified, if nothing has to be waited for; None: use `get`."""
        data = self._recent.get(ref.name)
        return self._read_now(ref) if data is None and ref.size <= INLINE_BYTES else data

    async def get(self, ref: BlobRef) -> bytes:
        """The body, verified.

        Raises:
            BlobDown: No source has the right bytes now; the log says what each of them had.
        """
        data = self.get_now(ref)
        if data is not None:
            return data
        search = self._searches.get(ref.name)
        if search is None:
            search = asyncio.create_task(self._search(ref))
            self._searches[ref.name] = search
            search.add_done_callback(lambda _: self._searches.pop(ref.name))
        # Shielded: one reader that goes away must not take the body from the others.
        return await asyncio.shield(search)

    async def copy(self, ref: BlobRef, file: BinaryIO) -> None:
        """Write the body, verified, into a file: of a large one no more is held than what is stored of it.

        Raises:
            BlobDown: See `get`; what the file has in it is nothing.
        """

        async def write(ref: BlobRef, stored: bytes) -> bool | None:
            file.seek(0)
            file.truncate()
            sealer = await self._sealers.reader(ref, stored)
            return await asyncio.to_thread(sealer.open_into, ref, stored, file.write) or None

        source, *_ = await self._find(ref, write)
        metrics.bodies.labels(source.name).inc()

    async def warm(self, ref: BlobRef) -> bool:
        """Bring a body from the object store into the cache, if it is not on this node; False: nothing was to do.

        Readers go first: while one of this process waits for a body nothing is begun, and no reader waits for this.

        Raises:
            BlobDown: The object store is away, or has not the right bytes.
        """
        while self._searches:
            await asyncio.wait(list(self._searches.values()))
        if (
            self.cache is None
            or await self.cache.has(ref)
            or await self._staging.exists(ref.account_id, ref.content_hash)
        ):
            return False
        stored = await self._stored.read(ref)
        sealer = await self._sealers.reader(ref, stored)
        if not await _here_or_aside(ref.size, sealer.verify, ref, stored):
            raise BlobDown(detail=f"not the right bytes: {ref.key}")
        return await self.cache.put(ref, stored)

    def forget(self, ref: BlobRef) -> None:
        """Drop a body from memory."""
        self._recent.drop(ref.name)

    def forget_all(self) -> None:
        """Drop all bodies from memory."""
        self._recent.drop_all("")

    def forget_account(self, account_id: AccountId) -> None:
        """Drop the bodies of an account from memory."""
        self._recent.drop_all(local_prefix(account_id))

    async def close(self) -> None:
        """Give up what is being searched for."""
        searches = list(self._searches.values())
        for search in searches:
            search.cancel()
        await asyncio.gather(*searches, return_exceptions=True)

    def _read_now(self, ref: BlobRef) -> bytes | None:
        """A body that is on a local disk and in memory all the same; None if there is more to do."""
        for source in self._disks:
            try:
                stored = source.read_now(ref)
            except WouldBlock:
                return None
            if stored is not None:
                return self._open_now(source, ref, stored)
        return None

    def _open_now(self, source: Source, ref: BlobRef, stored: bytes) -> bytes | None:
        sealer = self._sealers.peek_reader(ref, stored)
        if sealer is None:
            return None
        try:
            data = sealer.open(ref, stored)
        except KeyUnavailable:  # said where it is searched for
            return None
        return None if data is None else self._accept(source, ref, stored, data)

    async def _search(self, ref: BlobRef) -> bytes:
        return self._accept(*await self._find(ref, self._open))

    async def _find(
        self, ref: BlobRef, use: Callable[[BlobRef, bytes], Awaitable[_T | None]]
    ) -> tuple[Source, BlobRef, bytes, _T]:
        """The first source that has the right bytes, and what was made of them."""
        down: Unavailable | None = None
        for source in self._sources:
            try:
                stored = await source.read(ref)
            except Unavailable as error:
                down = error
                continue
            if stored is None:
                continue
            made = await use(ref, stored)
            if made is not None:
                return source, ref, stored, made
            metrics.bodies_corrupt.labels(source.name).inc()
            _log.error("body does not match its hash", extra=_fields(ref, source))
            await source.quarantine(ref)
        if isinstance(down, BlobDown):
            raise down
        raise BlobDown(detail=f"no source has {ref.key}") from down

    async def _open(self, ref: BlobRef, stored: bytes) -> bytes | None:
        sealer = await self._sealers.reader(ref, stored)
        return await _here_or_aside(ref.size, sealer.open, ref, stored)

    def _accept(self, source: Source, ref: BlobRef, stored: bytes, data: bytes) -> bytes:
        metrics.bodies.labels(source.name).inc()
        self._recent.add(ref.name, data)
        if self.cache and source.remote:
            self.cache.offer(ref, stored)
        return data


class Source(Protocol):
    """A place where a body may be, as it is stored.

    Attributes:
        name: In metrics and the log.
        remote: What is read there is worth a place in the cache.
    """

    name: str
    remote: bool

    async def read(self, ref: BlobRef) -> bytes | None:
        """The stored octets; None if they are not there.

        Raises:
            Unavailable: That cannot be told.
        """

    async def quarantine(self, ref: BlobRef) -> None:
        """What was read is not what the row says."""


class _Disk(Source, Protocol):
    """A source that may answer at once."""

    def read_now(self, ref: BlobRef) -> bytes | None: ...


class _Cached:
    name = "cache"
    remote = False

    def __init__(self, cache: Cache) -> None:
        self.read_now = cache.read_now
        self.read = cache.read
        self.quarantine = cache.quarantine


class _Staged:
    name = "staging"
    remote = False

    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    def read_now(self, ref: BlobRef) -> bytes | None:
        return self._staging.read_now(ref.account_id, ref.content_hash, ref.size)

    async def read(self, ref: BlobRef) -> bytes | None:
        try:
            return await self._staging.read(ref.account_id, ref.content_hash)
        except OSError as error:
            _log.error("staged body cannot be read", extra={**_fields(ref, self), "error": str(error)})
            return None

    async def quarantine(self, ref: BlobRef) -> None:
        await self._staging.quarantine(ref.account_id, ref.content_hash)


class _Stored:
    name = "store"
    remote = True

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def read(self, ref: BlobRef) -> bytes:
        try:
            return await self._blobs.get(ref.key)
        except NotFound as error:
            # The row says that it exists. For the client this is an outage; an operator has to look.
            _log.error("body is nowhere", extra=_fields(ref, self))
            raise BlobDown(detail=f"no such object, and not on this node: {ref.key}") from error

    async def quarantine(self, ref: BlobRef) -> None:
        """An object stays where it is: nothing better could be put in its place from here."""


class _Recent:
    """Bodies in memory, the least recently used leave first."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._bytes = 0
        self._bodies: OrderedDict[str, bytes] = OrderedDict()

    def get(self, name: str) -> bytes | None:
        data = self._bodies.get(name)
        if data is not None:
            self._bodies.move_to_end(name)
            metrics.bodies.labels("memory").inc()
        return data

    def add(self, name: str, data: bytes) -> None:
        if not self._bound or len(data) > self._bound // RECENT_SHARE:
            return
        self.drop(name)
        self._bodies[name] = data
        self._bytes += len(data)
        while self._bytes > self._bound:
            _, dropped = self._bodies.popitem(last=False)
            self._bytes -= len(dropped)

    def drop_all(self, prefix: str) -> None:
        for name in [name for name in self._bodies if name.startswith(prefix)]:
            self.drop(name)

    def drop(self, name: str) -> None:
        self._bytes -= len(self._bodies.pop(name, b""))


async def _here_or_aside(size: int, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Here if that takes less time than to ask a thread."""
    if size <= INLINE_BYTES:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def _fields(ref: BlobRef, source: Source) -> dict[str, object]:
    return {"account_id": ref.account_id, "content_id": ref.content_id, "source": source.name, "size": ref.size}


def open_blob_store(table: ObjectStoreTable) -> BlobStore:
    """The object store that the configuration names; nothing is asked of it yet.

    Nothing is made either: a directory that is missing may be a disk that is not mounted, an outage to wait for. Only
    the first start of a node calls `BlobStore.prepare`.

    Raises:
        ConfigError: The endpoint cannot be.
    """
    if table.kind == "directory":
        return DirectoryStore(table.path)
    return S3Store(table.endpoint, table.region, table.bucket, table.access_key, table.secret_key)


def open_cache(config: Config) -> Cache | None:
    """The local cache that the configuration names, if any."""
    table = config.local_cache
    return Cache(table.path, table.capacity, table.max_object_size) if table.capacity else None


def open_staging(config: Config) -> Staging:
    """The staging directory that the configuration names."""
    sealed = bool(config.encryption.keyring_file)
    return Staging(config.uploader.staging_path, config.uploader.max_staging_size, sealed=sealed)
