"""One suite for every object store; then S3 with a network that fails, on a real S3 server."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from typing import TYPE_CHECKING

import pytest
from minio.versioningconfig import VersioningConfig

from sora.errors import BlobDown, ConfigError, NotFound
from sora.store import s3
from sora.store.blobs import BlobStore, DirectoryStore
from sora.store.s3 import S3Store
from tests.support.faultproxy import Fault, FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.swift import SwiftServer

_numbers = itertools.count(1)


def _bucket() -> str:
    return f"bucket-{next(_numbers)}"


@pytest.fixture(params=["directory", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    made: BlobStore
    if request.param == "directory":
        made = DirectoryStore(tmp_path / "objects")
    else:
        made = request.getfixturevalue("s3_server").store(_bucket())
    await made.prepare()
    yield made
    made.close()


BODY = bytes(range(256)) * 40


async def test_what_was_put_is_what_one_gets(store: BlobStore) -> None:
    for key, body in (("a/1.eml", BODY), ("a/empty", b""), ("a/nul", b"\0\r\n.\r\n\xff")):
        await store.put(key, body)
        assert await store.get(key) == body
        assert (await store.stat(key)).size == len(body)


async def test_a_large_object_is_whole(store: BlobStore) -> None:
    body = BODY * 700  # above the size at which S3 libraries begin to split
    assert len(body) > s3.PART_BYTES
    await store.put("large", body)
    assert await store.get("large") == body


async def test_put_again_is_no_error(store: BlobStore) -> None:
    await store.put("a/b", BODY)
    await store.put("a/b", BODY)
    assert await store.get("a/b") == BODY
    assert [entry.key async for entry in store.list()] == ["a/b"]


async def test_ranges_are_slices(store: BlobStore) -> None:
    await store.put("k", BODY)
    size = len(BODY)
    for offset, length in ((0, 10), (5, 1), (size - 3, 3), (size - 3, 100), (7, None), (size, 5), (size + 9, None)):
        end = None if length is None else offset + length
        assert await store.get("k", offset, length) == BODY[offset:end], (offset, length)


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, 0), (3, -1)])
async def test_nonsense_ranges_are_refused(store: BlobStore, offset: int, length: int | None) -> None:
    with pytest.raises(ValueError, match="not a range"):
        await store.get("k", offset, length)


async def test_absent_objects(store: BlobStore) -> None:
    await store.put("a/b", BODY)
    for key in ("a/c", "a", "a/b/c", "z"):
        with pytest.raises(NotFound):
            await store.get(key)
        with pytest.raises(NotFound):
            await store.stat(key)
    await store.delete("a/c")


async def test_delete(store: BlobStore) -> None:
    await store.put("a/b", BODY)
    await store.delete("a/b")
    with pytest.raises(NotFound):
        await store.get("a/b")
    await store.delete("a/b")
    assert [entry async for entry in store.list()] == []


async def test_a_label_goes_with_its_object(store: BlobStore) -> None:
    label = bytes(range(256)) * 5
    await store.put("a/b", BODY, label)
    await store.put("a/c", BODY)
    assert await store.label("a/b") == label
    assert await store.label("a/c") == b""
    assert await store.get("a/b") == BODY
    assert [entry.key async for entry in store.list()] == ["a/b", "a/c"]
    with pytest.raises(NotFound):
        await store.label("a/d")
    await store.put("a/b", BODY, b"another")
    assert await store.label("a/b") == b"another"
    await store.delete("a/b")
    await store.put("a/b", BODY)
    assert await store.label("a/b") == b""


async def test_erase_takes_what_begins_with_the_prefix(store: BlobStore) -> None:
    for key in ("k/1/a.key", "k/1/b.key", "k/10/a.key", "k/1"):
        if key != "k/1" or isinstance(store, S3Store):  # a directory cannot also be a file
            await store.put(key, BODY)
    assert await store.erase("k/1/") == 2
    assert [entry.key async for entry in store.list("k/1")][-1:] == ["k/10/a.key"]
    assert await store.erase("k/1/") == 0
    assert await store.erase("k/10/a.key") == 1


async def test_erase_leaves_no_version(s3_server: SwiftServer) -> None:
    store = s3_server.store(_bucket())
    try:
        await store.prepare()
        await store._call("put", store._client.set_bucket_versioning, store._bucket, VersioningConfig("Enabled"))
        for _ in range(3):
            await store.put("keys/1/a.key", BODY)
        await store.delete("keys/1/a.key")
        await store.put("keys/2/a.key", BODY)
        kept = await store._call("list", store._versions, "keys/")
        assert len(kept) == 5, "three versions, a delete marker, another object"
        assert await store.erase("keys/1/") == 4
        left = await store._call("list", store._versions, "keys/")
        assert [key for key, _ in left] == ["keys/2/a.key"]
    finally:
        store.close()


async def test_the_etag_tells_one_content_from_another(store: BlobStore) -> None:
    await store.put("k", b"one")
    first = await store.stat("k")
    await store.put("k", b"two")
    assert (await store.stat("k")).etag != first.etag


async def test_list_in_the_order_of_keys(store: BlobStore) -> None:
    keys = ["a-b", "a/b/1", "a/b/2", "a/c", "a0", "b/x"]
    for key in reversed(keys):
        await store.put(key, key.encode())
    entries = [entry async for entry in store.list()]
    assert [entry.key for entry in entries] == sorted(keys)
    assert [entry.size for entry in entries] == [len(key) for key in sorted(keys)]
    assert all(abs(entry.modified_at.timestamp() - time.time()) < 60 for entry in entries)
    for prefix in ("a/", "a/b", "a/b/1", "a", "q", "a/b/1/x"):
        assert [entry.key async for entry in store.list(prefix)] == [
            key for key in sorted(keys) if key.startswith(prefix)
        ]


async def test_list_goes_on_over_pages(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sora.store.blobs.LIST_PAGE", 3)
    monkeypatch.setattr("sora.store.s3.LIST_PAGE", 3)
    keys = [f"p/{number:02}" for number in range(10)]
    for key in keys:
        await store.put(key, b"")
    assert [entry.key async for entry in store.list("p/")] == keys


async def test_list_begins_behind_a_key(store: BlobStore) -> None:
    keys = ["a-b", "a/b/1", "a/b/2", "a/c", "a0", "b/x"]
    for key in keys:
        await store.put(key, b"")
    for after in ("", *keys, "a/", "a/b", "a/b/", "a/b/15", "a/z", "c"):
        expected = [key for key in keys if key > after]
        assert [entry.key async for entry in store.list(after=after)] == expected, after
        assert [entry.key async for entry in store.list("a/", after)] == [k for k in expected if k[:2] == "a/"], after


async def test_many_at_a_time(store: BlobStore) -> None:
    bodies = {f"k/{number}": bytes([number]) * 1000 for number in range(40)}
    await asyncio.gather(*(store.put(key, body) for key, body in bodies.items()))
    got = await asyncio.gather(*(store.get(key) for key in bodies))
    assert got == list(bodies.values())


async def test_ping_and_prepare(store: BlobStore) -> None:
    await store.put("k", BODY)
    await store.ping()
    await store.prepare()
    assert await store.get("k") == BODY


# S3 alone: who we are, and where.


async def test_a_wrong_secret_is_refused(s3_server: SwiftServer) -> None:
    bucket = _bucket()
    right = s3_server.store(bucket)
    await right.prepare()
    await right.put("k", BODY)
    wrong = s3_server.store(bucket, secret_key="wrong")
    for call in (wrong.get("k"), wrong.put("k", b"overwritten"), wrong.stat("k"), wrong.delete("k"), wrong.ping()):
        with pytest.raises(BlobDown) as caught:
            await call
        assert bucket in caught.value.detail
    assert await right.get("k") == BODY
    with pytest.raises(BlobDown, match="SignatureDoesNotMatch"):
        await wrong.get("k")
    right.close()
    wrong.close()


async def test_a_missing_bucket_is_an_outage_not_a_missing_object(s3_server: SwiftServer) -> None:
    store = s3_server.store("no-such-bucket")
    for call in (store.get("k"), store.put("k", b"x"), store.stat("k"), store.ping()):
        with pytest.raises(BlobDown, match="NoSuchBucket"):
            await call
    store.close()


async def test_objects_survive_a_killed_server(s3_server: SwiftServer) -> None:
    store = s3_server.store(_bucket())
    await store.prepare()
    await store.put("k", BODY)
    s3_server.kill()
    try:
        with pytest.raises(BlobDown):
            await store.get("k")
    finally:
        s3_server.start()
    assert await store.get("k") == BODY  # the kept-alive connection of before is replaced without an error
    store.close()


@pytest.mark.parametrize("endpoint", ["", "s3.example.com", "ftp://x", "https://", "https://x/path"])
async def test_endpoints_that_cannot_be(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"object_store\.endpoint"):
        S3Store(endpoint, "r", "b", "a", "s")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_connections_of_both_schemes(scheme: str) -> None:
    pool = s3._Pool(0.1, 0.7, 1).connection_from_url(f"{scheme}://127.0.0.1:1")
    connection = pool._new_conn()
    assert isinstance(connection, s3._Https) == (scheme == "https")
    assert connection.send_s == 0.7


# S3 behind a network that fails.

CONNECT_S = 0.3
READ_S = 1.0
REQUEST_S = 1.5
BOUND_S = CONNECT_S + 2 * READ_S + REQUEST_S + 1.0


@pytest.fixture
def proxy(s3_server: SwiftServer) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.port) as made:
        yield made


@pytest.fixture
async def behind(s3_server: SwiftServer, proxy: FaultProxy) -> AsyncIterator[S3Store]:
    """A store behind the proxy with the object `k` = BODY in it."""
    made = S3Store(
        proxy.endpoint, "us-east-1", _bucket(), s3_server.access_key, s3_server.secret_key,
        connect_s=CONNECT_S, read_s=READ_S, request_s=REQUEST_S, threads=4,
    )  # fmt: skip
    await made.prepare()
    await made.put("k", BODY)
    yield made
    made.close()


async def test_the_proxy_itself_lets_everything_pass(behind: S3Store, proxy: FaultProxy) -> None:
    proxy.cut()
    assert await behind.get("k") == BODY
    await behind.put("k2", BODY * 30)
    assert await behind.get("k2") == BODY * 30


FAULTS = [
    (Fault.REFUSE, 0),
    (Fault.UNAVAILABLE, 0),
    (Fault.RESET_REQUEST, 100),
    (Fault.TRUNCATE_REPLY, 10),
    (Fault.LOST_REPLY, 0),
    (Fault.BLACK_HOLE, 0),
]


@pytest.mark.parametrize(("fault", "amount"), FAULTS, ids=lambda value: getattr(value, "name", value))
async def test_every_fault_is_blob_down_in_bounded_time_and_over_when_it_is_over(
    behind: S3Store, proxy: FaultProxy, fault: Fault, amount: int
) -> None:
    proxy.set(fault, amount)
    proxy.cut()
    for call in (behind.get("k"), behind.put("k", BODY), behind.stat("k"), behind.ping()):
        started = time.monotonic()
        with pytest.raises(BlobDown) as caught:
            await call
        assert caught.value.detail
        assert time.monotonic() - started < BOUND_S
    with pytest.raises(BlobDown):
        [entry async for entry in behind.list()]
    proxy.set(Fault.OK)
    proxy.cut()
    assert await behind.get("k") == BODY


async def test_a_body_that_ends_early_is_never_accepted(behind: S3Store, proxy: FaultProxy) -> None:
    reply = len(BODY) + 200  # headers included: the cut is somewhere in the body, or just before its end
    for amount in (reply // 2, len(BODY), reply):
        proxy.set(Fault.TRUNCATE_REPLY, amount)
        proxy.cut()
        with pytest.raises(BlobDown, match="IncompleteRead"):
            await behind.get("k")


async def test_a_reply_cut_within_its_headers_confirms_nothing(behind: S3Store, proxy: FaultProxy) -> None:
    """`200 OK` is there, what follows is not; http.client takes that for a whole answer."""
    proxy.set(Fault.TRUNCATE_REPLY, 20)
    proxy.cut()
    for call in (behind.put("k", BODY), behind.stat("k"), behind.get("k")):
        with pytest.raises(BlobDown, match="headers are missing"):
            await call


async def test_a_put_cut_in_the_middle_leaves_no_object(
    behind: S3Store, proxy: FaultProxy, s3_server: SwiftServer
) -> None:
    proxy.set(Fault.RESET_REQUEST, 50_000)
    proxy.cut()
    with pytest.raises(BlobDown):
        await behind.put("partial", BODY * 20)
    proxy.set(Fault.OK)
    with pytest.raises(NotFound):
        await behind.get("partial")


async def test_a_lost_reply_is_an_error_and_the_put_can_be_repeated(behind: S3Store, proxy: FaultProxy) -> None:
    proxy.set(Fault.LOST_REPLY)
    proxy.cut()
    with pytest.raises(BlobDown):
        await behind.put("lost", BODY)
    proxy.set(Fault.OK)
    assert await behind.get("lost") == BODY
    await behind.put("lost", BODY)
    assert await behind.get("lost") == BODY


async def test_latency_is_no_fault(behind: S3Store, proxy: FaultProxy) -> None:
    proxy.set(Fault.LATENCY, 50)
    assert await behind.get("k") == BODY


async def test_a_slow_upload_may_take_longer_than_any_single_wait(s3_server: SwiftServer, proxy: FaultProxy) -> None:
    """`sendall` of a piece, or of the whole body, under the connect timeout would fail for ever on a slow line."""
    body = BODY * 250
    connect_s, read_s, rate = 0.2, 2.0, 800_000
    assert s3.PIECE_BYTES / rate > connect_s
    store = S3Store(
        proxy.endpoint, "us-east-1", _bucket(), s3_server.access_key, s3_server.secret_key,
        connect_s=connect_s, read_s=read_s,
    )  # fmt: skip
    await store.prepare()
    proxy.set(Fault.THROTTLE, rate)
    proxy.cut()
    started = time.monotonic()
    await store.put("slow", body)
    assert time.monotonic() - started > read_s
    proxy.set(Fault.OK)
    assert await store.get("slow") == body
    store.close()


async def test_a_reply_that_trickles_is_ended(behind: S3Store, proxy: FaultProxy) -> None:
    """Each wait is short; the whole would take three times the bound."""
    proxy.set(Fault.TRICKLE_REPLY, 30)
    proxy.cut()
    started = time.monotonic()
    with pytest.raises(BlobDown, match="too slow"):
        await behind.get("k")
    assert REQUEST_S <= time.monotonic() - started < BOUND_S


async def test_a_kept_connection_that_breaks_at_the_next_request_is_no_error(
    behind: S3Store, proxy: FaultProxy
) -> None:
    for call in (lambda: behind.get("k"), lambda: behind.put("k", BODY), lambda: behind.stat("k")):
        proxy.set(Fault.RESET_REQUEST, once=True)
        await call()
        assert proxy.mode.fault is Fault.OK


async def test_waiting_for_a_free_connection_is_bounded_too(behind: S3Store, proxy: FaultProxy) -> None:
    proxy.set(Fault.BLACK_HOLE)
    proxy.cut()
    started = time.monotonic()
    results = await asyncio.gather(*(behind.get("k") for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {BlobDown}
    assert any("busy" in str(result) for result in results)
    assert time.monotonic() - started < BOUND_S + READ_S
    proxy.set(Fault.OK)
    proxy.cut()
    assert await behind.get("k") == BODY


async def test_a_cancelled_reader_gives_its_slot_back_when_its_thread_is_free(
    behind: S3Store, proxy: FaultProxy
) -> None:
    proxy.set(Fault.BLACK_HOLE)
    proxy.cut()
    readers = [asyncio.create_task(behind.get("k")) for _ in range(4)]
    await asyncio.wait(readers, timeout=0.1)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    proxy.set(Fault.OK)
    proxy.cut()
    assert await behind.get("k") == BODY


async def test_a_failure_that_nobody_waits_for_is_not_logged_as_a_bug(s3_server: SwiftServer) -> None:
    """A probe with a time of its own is cancelled before the request fails."""
    store = s3_server.store("gone")
    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    gate = threading.Event()

    def fail() -> None:
        gate.wait()
        raise OSError("too late")

    reader = asyncio.create_task(store._call("stat", fail))
    while store._slots._value == s3.THREADS:
        await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    del reader  # its traceback holds the frame, and that the future
    gate.set()
    while store._slots._value < s3.THREADS:
        await asyncio.sleep(0.01)
    gc.collect()
    await asyncio.sleep(0)
    store.close()
    assert unheard == []
