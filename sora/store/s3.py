"""The object store that speaks S3, by way of minio-py.

The library is synchronous, so requests run in threads of their own. Left alone it would also try six times with
timeouts of five minutes; here every request has one try, a bound on each wait for the network and a bound on the whole,
and whoever called decides what to do next. One thing is tried twice, at once: a request whose kept-alive connection the
server had closed in the meantime.

What the library raises falls into four families (an S3 answer, an answer that is not S3, urllib3's and the socket's
errors); all of them become `BlobDown`, but for "no such key", which is `NotFound`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError

from sora import metrics
from sora.errors import BlobDown, ConfigError, NotFound
from sora.store.blobs import LIST_PAGE, BlobEntry, BlobStat, check_key, check_range

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from urllib3.response import BaseHTTPResponse

LABEL: Final = "sora-"
"""Names of the user metadata that make up the label are this and a number."""
LABEL_PIECE: Final = 250
"""S3 bounds all metadata of an object, others every value: Swift to 256."""
THREADS: Final = 16
CONNECT_S: Final = 2.0
READ_S: Final = 10.0
REQUEST_S: Final = 30.0
"""Bound on a whole request of no size; the octets add to it at `SLOWEST_BYTES_S`."""
SLOWEST_BYTES_S: Final = 256 * 1024
PIECE_BYTES: Final = 256 * 1024
SINGLE_PUT_BYTES: Final = 5 * 1024**3
"""S3's own bound on one PUT. Bodies are in memory and far smaller: never in parts, so never half there."""
SEND_BUFFER_BYTES: Final = 256 * 1024
"""What the kernel holds back is still on its way while we wait for the answer: megabytes of it would not get through a
slow line within one wait."""
PART_BYTES: Final = 5 * 1024**2
"""The least part size that the library takes."""

_ABSENT: Final = frozenset({"NoSuchKey", "NoSuchVersion"})
_TEMPORARY: Final = (MinioException, HTTPError, OSError, ParseError, UnicodeDecodeError)
_T = TypeVar("_T")


class S3Store:
    """Objects in one bucket.

    Args:
        endpoint: `https://host[:port]`, or `http://` inside a trusted network.
        region: Always sent; the library would ask the server for it otherwise.
        connect_s: Bound on connecting.
        read_s: Bound on each wait for the peer, sending and receiving.
        request_s: See `REQUEST_S`.

    Raises:
        ConfigError: The endpoint or bucket name cannot be.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        *,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
        request_s: float = REQUEST_S,
        threads: int = THREADS,
    ) -> None:
        host, secure = _endpoint(endpoint)
        self._bucket = bucket
        self._request_s = request_s
        self._region = region
        self._http = _Pool(connect_s, read_s, threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="s3")
        self._slots = asyncio.Semaphore(threads)
        try:
            self._client = Minio(host, access_key, secret_key, secure=secure, region=region, http_client=self._http)
        except ValueError as error:
            raise ConfigError(f"object_store.endpoint: {error}") from error

    async def put(self, key: str, data: bytes, label: bytes = b"") -> None:
        """See `BlobStore.put`; the server compares a digest that is sent along."""
        if len(data) > SINGLE_PUT_BYTES:
            raise ValueError(f"{len(data)} octets are too many for one object")
        await self._call("put", self._put, check_key(key), data, label, size=len(data))

    async def label(self, key: str) -> bytes:
        """See `BlobStore.label`."""
        return await self._call("stat", self._label, check_key(key))

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `BlobStore.get`; an answer that ends early is an error."""
        check_range(offset, length)
        return await self._call("get", self._get, check_key(key), offset, length)

    async def stat(self, key: str) -> BlobStat:
        """See `BlobStore.stat`."""
        return await self._call("stat", self._stat, check_key(key))

    async def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        await self._call("delete", self._delete, check_key(key))

    async def erase(self, prefix: str) -> int:
        """See `BlobStore.erase`; a server that knows no versions has one of each object."""
        erased = 0
        while versions := await self._call("list", self._versions, prefix):
            for key, version in versions:
                await self._call("delete", self._delete, key, version)
            erased += len(versions)
        return erased

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[BlobEntry]:
        """See `BlobStore.list`."""
        while page := await self._call("list", self._page, prefix, after):
            for entry in page:
                yield entry
            after = page[-1].key

    async def ping(self) -> None:
        """See `BlobStore.ping`."""
        if not await self._call("ping", self._client.bucket_exists, self._bucket):
            raise self._no_bucket()

    async def prepare(self) -> None:
        """See `BlobStore.prepare`."""
        if not await self._call("prepare", self._client.bucket_exists, self._bucket):
            await self._call("prepare", self._client.make_bucket, self._bucket, self._region)

    def close(self) -> None:
        """See `BlobStore.close`."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._http.clear()

    async def _call(self, operation: str, function: Callable[..., _T], *args: Any, size: int = 0) -> _T:
        """Run in a thread, measured and bounded, with the library's errors translated.

        Who waits for a free thread does so here, where waiting can be bounded, and not inside the pool.
        """
        try:
            with metrics.object_store_seconds.labels(operation).time():
                await self._slot(operation)
                running = asyncio.get_running_loop().run_in_executor(
                    self._pool, self._run, operation, size, function, args
                )
                running.add_done_callback(self._ended)
                # Shielded: a caller that is cancelled leaves the thread busy, so its slot stays taken.
                return await asyncio.shield(running)
        except BlobDown:
            metrics.object_store_errors.labels(operation).inc()
            raise

    def _ended(self, running: asyncio.Future[Any]) -> None:
        self._slots.release()
        if not running.cancelled():
            running.exception()  # who waited for it may be gone, and a failure that nobody hears of would be logged

    async def _slot(self, operation: str) -> None:
        try:
            async with asyncio.timeout(self._request_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise BlobDown(detail=f"{operation}: every connection is busy") from error

    def _run(self, operation: str, size: int, function: Callable[..., _T], args: tuple[Any, ...]) -> _T:
        self._http.deadline.begin(self._request_s, size)
        try:
            try:
                return function(*args)
            except ProtocolError as error:
                if not _was_dropped(error):
                    raise
                return function(*args)
        except _TEMPORARY as error:
            raise self._translated(operation, error) from error

    def _translated(self, operation: str, error: Exception) -> BlobDown | NotFound:
        if isinstance(error, S3Error):
            if error.code in _ABSENT:
                return NotFound("No such object", detail=f"{operation}: {error.object_name}")
            return BlobDown(detail=f"{operation}: bucket {self._bucket}: {error.code}: {error.message}")
        return BlobDown(detail=f"{operation}: {type(error).__name__}: {error}")

    def _no_bucket(self) -> BlobDown:
        return BlobDown(detail=f"bucket {self._bucket}: NoSuchBucket: it does not exist")

    def _put(self, key: str, data: bytes, label: bytes) -> None:
        text = base64.b64encode(label).decode()
        pieces = (text[at : at + LABEL_PIECE] for at in range(0, len(text), LABEL_PIECE))
        metadata = {f"{LABEL}{number}": piece for number, piece in enumerate(pieces)} or None
        whole = max(len(data), PART_BYTES)
        stored = self._client.put_object(
            self._bucket,
            key,
            io.BytesIO(data),
            len(data),
            content_type="message/rfc822",
            metadata=metadata,  # type: ignore[arg-type]  # dict[str, str] is what it takes
            part_size=whole,
        )
        if not stored.etag:
            raise _incomplete()

    def _get(self, key: str, offset: int, length: int | None) -> bytes:
        try:
            response = self._client.get_object(self._bucket, key, offset=offset, length=length or 0)
        except S3Error as error:
            if error.code == "InvalidRange":
                return b""
            raise
        try:
            if (offset or length) and response.status != 206:
                raise ProtocolError("the server ignored the range")
            data = self._drain(response)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return data

    def _drain(self, response: BaseHTTPResponse) -> bytes:
        """All of the body (urllib3 counts); every piece arrives within `read_s`, all of them before the deadline."""
        announced = response.headers.get("Content-Length", "")
        if not announced.isdigit():
            raise _incomplete()
        deadline = self._http.deadline
        deadline.begin(self._request_s, int(announced))
        pieces = []
        while piece := response.read1(PIECE_BYTES, decode_content=False):
            deadline.check()
            pieces.append(piece)
        return b"".join(pieces)

    def _head(self, key: str) -> Any:
        try:
            return self._client.stat_object(self._bucket, key)
        except S3Error as error:
            # A HEAD has no body to say which is missing: the library takes every 404 for a missing key.
            if error.code in _ABSENT and not self._client.bucket_exists(self._bucket):
                raise self._no_bucket() from error
            raise

    def _label(self, key: str) -> bytes:
        found = self._head(key).metadata or {}
        pieces = iter(found.get(f"x-amz-meta-{LABEL}{number}") or "" for number in itertools.count())
        try:
            return base64.b64decode("".join(itertools.takewhile(bool, pieces)), validate=True)
        except ValueError:  # of somebody else
            return b""

    def _stat(self, key: str) -> BlobStat:
        found = self._head(key)
        if found.size is None or not found.etag:
            raise _incomplete()
        return BlobStat(size=found.size, etag=found.etag)

    def _delete(self, key: str, version: str | None = None) -> None:
        try:
            self._client.remove_object(self._bucket, key, version_id=version)
        except S3Error as error:
            if error.code not in _ABSENT:
                raise

    def _versions(self, prefix: str) -> tuple[tuple[str, str | None], ...]:
        """Keys and versions, delete markers among them."""
        options: dict[str, Any] = {"prefix": prefix, "recursive": True}
        try:
            found = self._client.list_objects(self._bucket, include_version=True, **options)
            return tuple((entry.object_name, entry.version_id) for entry in itertools.islice(found, LIST_PAGE))
        except S3Error as error:
            if error.code != "NotImplemented":
                raise
        found = self._client.list_objects(self._bucket, **options)
        return tuple((entry.object_name, None) for entry in itertools.islice(found, LIST_PAGE))

    def _page(self, prefix: str, after: str) -> tuple[BlobEntry, ...]:
        found = self._client.list_objects(self._bucket, prefix=prefix, recursive=True, start_after=after or None)
        return tuple(
            BlobEntry(key=entry.object_name, size=entry.size, modified_at=entry.last_modified)
            for entry in itertools.islice(found, LIST_PAGE)
        )


class _Deadline(threading.local):
    """When the request that this thread is making must be done, by the monotonic clock."""

    at = 0.0

    def begin(self, seconds: float, size: int) -> None:
        self.at = time.monotonic() + seconds + size / SLOWEST_BYTES_S

    def check(self) -> None:
        if time.monotonic() > self.at:
            raise TimeoutError("too slow as a whole")


class _Body(io.BytesIO):
    """What is sent, in pieces. As one piece, `sendall` would have to finish within the timeout of one wait."""

    def __init__(self, data: bytes, deadline: _Deadline) -> None:
        super().__init__(data)
        self._deadline = deadline

    def read(self, size: int | None = -1) -> bytes:
        self._deadline.check()
        return super().read(size)


class _Http(HTTPConnection):
    """urllib3 lets the connect timeout stand while the request is sent; a body may take longer than a handshake."""

    send_s = READ_S

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.send_s)


class _Https(HTTPSConnection):
    """See `_Http`."""

    send_s = READ_S

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.send_s)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connection.send_s = self.timeout.read_timeout
        return connection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connection.send_s = self.timeout.read_timeout
        return connection


class _Pool(urllib3.PoolManager):
    """Connections with one try, short waits and a deadline for each request."""

    def __init__(self, connect_s: float, read_s: float, size: int) -> None:
        timeout = urllib3.Timeout(connect=connect_s, read=read_s)
        options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)]
        super().__init__(
            num_pools=4, maxsize=size, timeout=timeout, retries=False, blocksize=PIECE_BYTES, socket_options=options
        )
        self.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        self.deadline = _Deadline()

    def urlopen(  # type: ignore[override]  # urllib3's own override differs the same way
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> BaseHTTPResponse:
        body = options.get("body")
        if body:
            options["body"] = _Body(body, self.deadline)
        return super().urlopen(method, url, redirect, **options)


def _was_dropped(error: ProtocolError) -> bool:
    """True if the connection went away before any answer came."""
    return len(error.args) > 1 and isinstance(error.args[1], ConnectionError)


def _incomplete() -> ProtocolError:
    """For a reply that was cut within its headers: http.client takes what came for all, and a 200 for a success."""
    return ProtocolError("headers are missing in the answer")


def _endpoint(endpoint: str) -> tuple[str, bool]:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        raise ConfigError(f"object_store.endpoint must be https://host[:port], not {endpoint!r}")
    return parts.netloc, parts.scheme == "https"
