"""Where a body comes from, and that it is the right one."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

import pytest

from sora import metrics
from sora.errors import BlobDown, DatabaseDown, NotFound, Unavailable
from sora.store import bodies as bodies_module
from sora.store.blobs import BlobRef, DirectoryStore, content_hash
from sora.store.bodies import INLINE_BYTES, Bodies, open_blob_store
from sora.store.cache import Cache
from sora.store.s3 import S3Store
from sora.store.staging import Staging
from sora.tables import ObjectStoreTable
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SMALL = b"Subject: small\r\n\r\nbody\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"x" * INLINE_BYTES


def ref(data: bytes) -> BlobRef:
    return BlobRef(AccountId(1), ContentId(1), content_hash(data), len(data))


class GatedStore(DirectoryStore):
    """A store that can be held up and counts."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gets = 0
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        self.gets += 1
        self.asked.set()
        await self.open.wait()
        return await super().get(key, offset, length)


class House:
    """All places of one node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = Cache(root / "cache", 10**8, 10**7)
        self.staging = Staging(root / "staging", 10**8)
        self.blobs = GatedStore(root / "objects")
        self.bodies = Bodies(self.cache, self.staging, self.blobs, recent_bytes=0)

    async def stage(self, data: bytes) -> None:
        await self.staging.stage_many([(AccountId(1), content_hash(data), data)])

    def file(self, place: str) -> Path:
        (path,) = (self.root / place).rglob("*.eml")
        return path

    async def close(self) -> None:
        await self.bodies.close()
        self.cache.close()
        self.staging.close()
        self.blobs.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.blobs.prepare()
    yield made
    await made.close()


def reads(source: str) -> float:
    return metrics.bodies.labels(source)._value.get()


def corrupt(source: str) -> float:
    return metrics.bodies_corrupt.labels(source)._value.get()


@pytest.mark.parametrize("data", [SMALL, LARGE, b""])
async def test_each_place_in_turn(house: House, data: bytes) -> None:
    async def found_in(source: str) -> None:
        before = reads(source)
        assert await house.bodies.get(ref(data)) == data
        assert reads(source) == before + 1

    await house.blobs.put(ref(data).key, data)
    await found_in("store")
    await house.cache.purge()
    await house.stage(data)
    await found_in("staging")
    await house.cache.put(ref(data), data)
    await found_in("cache")


async def test_what_came_from_the_store_is_cached(house: House) -> None:
    await house.blobs.put(ref(SMALL).key, SMALL)
    await house.bodies.get(ref(SMALL))
    await house.cache.stats()
    await house.blobs.delete(ref(SMALL).key)
    assert await house.bodies.get(ref(SMALL)) == SMALL


async def test_a_staged_body_is_not_copied_to_the_cache(house: House) -> None:
    await house.stage(LARGE)
    await house.bodies.get(ref(LARGE))
    assert (await house.cache.stats()).files == 0


async def test_many_readers_are_one_search(house: House) -> None:
    await house.blobs.put(ref(LARGE).key, LARGE)
    house.blobs.open.clear()
    readers = [asyncio.create_task(house.bodies.get(ref(LARGE))) for _ in range(10)]
    await house.blobs.asked.wait()
    house.blobs.open.set()
    assert await asyncio.gather(*readers) == [LARGE] * 10
    assert house.blobs.gets == 1


async def test_two_rows_of_one_content_are_one_search(house: House) -> None:
    await house.blobs.put(ref(LARGE).key, LARGE)
    other = BlobRef(AccountId(2), ContentId(1), content_hash(LARGE), len(LARGE))
    await house.blobs.put(other.key, LARGE)
    await asyncio.gather(house.bodies.get(ref(LARGE)), house.bodies.get(ref(LARGE)), house.bodies.get(other))
    assert house.blobs.gets == 2  # accounts do not share


async def test_a_reader_that_goes_away_takes_nothing_from_the_others(house: House) -> None:
    await house.blobs.put(ref(SMALL).key, SMALL)
    house.blobs.open.clear()
    first = asyncio.create_task(house.bodies.get(ref(SMALL)))
    second = asyncio.create_task(house.bodies.get(ref(SMALL)))
    await house.blobs.asked.wait()
    first.cancel()
    house.blobs.open.set()
    assert await second == SMALL
    assert first.cancelled()


async def test_a_search_that_failed_is_not_remembered(house: House) -> None:
    with pytest.raises(BlobDown):
        await house.bodies.get(ref(SMALL))
    await house.blobs.put(ref(SMALL).key, SMALL)
    assert await house.bodies.get(ref(SMALL)) == SMALL


async def test_a_failure_nobody_waits_for_is_no_noise(house: House) -> None:
    """Warnings are errors here: an exception of a task that nobody looked at would fail the test."""
    house.blobs.open.clear()
    reader = asyncio.create_task(house.bodies.get(ref(SMALL)))
    await house.blobs.asked.wait()
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    house.blobs.open.set()
    with pytest.raises(BlobDown):
        await house.bodies.get(ref(SMALL))


@pytest.mark.parametrize("data", [SMALL, LARGE])
@pytest.mark.parametrize("place", ["cache", "staging"])
async def test_a_corrupt_file_is_counted_moved_aside_and_read_elsewhere(house: House, place: str, data: bytes) -> None:
    await house.blobs.put(ref(data).key, data)
    if place == "cache":
        await house.cache.put(ref(data), data)
    else:
        await house.stage(data)
    path = house.file(place)
    flipped = bytearray(data)
    flipped[-3] ^= 1
    path.write_bytes(flipped)
    before = corrupt(place)
    assert await house.bodies.get(ref(data)) == data
    assert corrupt(place) == before + 1
    (aside,) = (house.root / place / "quarantine").iterdir()
    assert aside.read_bytes() == flipped
    assert await house.bodies.get(ref(data)) == data
    assert corrupt(place) == before + 1


async def test_a_staged_file_cut_short_is_never_served(house: House) -> None:
    await house.stage(SMALL)
    house.file("staging").write_bytes(SMALL[:-1])
    with pytest.raises(BlobDown):
        await house.bodies.get(ref(SMALL))


async def test_a_corrupt_object_is_blob_down_and_never_cached(house: House) -> None:
    await house.blobs.put(ref(SMALL).key, SMALL[:-1] + b"?")
    before = corrupt("store")
    with pytest.raises(BlobDown):
        await house.bodies.get(ref(SMALL))
    assert corrupt("store") == before + 1
    assert (await house.cache.stats()).files == 0
    assert await house.blobs.get(ref(SMALL).key)  # it stays for a person to look at


async def test_a_body_that_is_nowhere_is_an_outage_for_the_client(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BlobDown) as caught:
        await house.bodies.get(ref(SMALL))
    assert not isinstance(caught.value, NotFound)
    assert "temporarily" in caught.value.text
    assert any(record.levelname == "ERROR" and record.message == "body is nowhere" for record in caplog.records)


async def test_a_disk_that_fails_does_not_hide_the_object(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.blobs.put(ref(LARGE).key, LARGE)
    await house.stage(LARGE)
    pread, path = os.pread, str(house.file("staging"))

    def broken(fd: int, length: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") == path:
            raise OSError(errno.EIO, "I/O error")
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", broken)
    assert await house.bodies.get(ref(LARGE)) == LARGE
    assert path == str(house.file("staging"))  # an error is not a corruption: nothing was moved


async def test_without_a_cache(house: House) -> None:
    bodies = Bodies(None, house.staging, house.blobs)
    await house.blobs.put(ref(SMALL).key, SMALL)
    assert await bodies.get(ref(SMALL)) == SMALL
    await house.stage(LARGE)
    assert await bodies.get(ref(LARGE)) == LARGE


async def test_recent_bodies_are_in_memory_within_their_bound(house: House) -> None:
    bodies = Bodies(house.cache, house.staging, house.blobs, recent_bytes=4000)
    datas = [bytes([number]) * 1000 for number in range(5)]
    for data in datas:
        await house.blobs.put(ref(data).key, data)
        await bodies.get(ref(data))
        await bodies.get(ref(datas[0]))  # used all the time: stays
    await house.cache.purge()
    house.blobs.gets = 0
    for data in (datas[0], datas[2], datas[3], datas[4]):
        assert await bodies.get(ref(data)) == data
    assert house.blobs.gets == 0
    assert await bodies.get(ref(datas[1])) == datas[1]
    assert house.blobs.gets == 1
    bodies.forget(ref(datas[0]))
    await house.cache.purge()
    await bodies.get(ref(datas[0]))
    assert house.blobs.gets == 2


async def test_one_large_body_does_not_drive_the_others_out_of_memory(house: House) -> None:
    bodies = Bodies(None, house.staging, house.blobs, recent_bytes=4000)
    data = b"x" * 1001
    await house.blobs.put(ref(data).key, data)
    await bodies.get(ref(data))
    await bodies.get(ref(data))
    assert house.blobs.gets == 2


async def test_small_bodies_on_disk_need_no_thread(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.cache.put(ref(SMALL), SMALL)

    def no_search(*_: object) -> None:
        raise AssertionError("a thread was asked")

    monkeypatch.setattr(Bodies, "_search", no_search)
    assert await house.bodies.get(ref(SMALL)) == SMALL
    await house.cache.purge()
    await house.stage(SMALL)
    assert await house.bodies.get(ref(SMALL)) == SMALL


async def test_close_ends_searches(house: House) -> None:
    house.blobs.open.clear()
    reader = asyncio.create_task(house.bodies.get(ref(SMALL)))
    await house.blobs.asked.wait()
    await house.bodies.close()
    with pytest.raises(asyncio.CancelledError):
        await reader


def test_the_store_that_the_configuration_names(tmp_path: Path) -> None:
    store = open_blob_store(ObjectStoreTable(kind="directory", path=str(tmp_path / "objects")))
    assert isinstance(store, DirectoryStore)
    assert not (tmp_path / "objects").exists()  # a disk that is not mounted is nothing to fill the mount point of
    store.close()
    table = ObjectStoreTable(
        kind="s3", endpoint="https://s3.example.com", bucket="mail", access_key="key", secret_key="secret"
    )
    store = open_blob_store(table)
    assert isinstance(store, S3Store)
    store.close()


def test_numbers_that_others_rely_on() -> None:
    assert bodies_module.RECENT_BYTES == 16 * 1024**2


# ── other sources ────────────────────────────────────────────────────────────────────────────────────────────────────


class Elsewhere:
    """A source that has what it is given, or cannot tell."""

    name = "elsewhere"
    remote = True

    def __init__(self, data: bytes | None = None, error: Unavailable | None = None) -> None:
        self.data = data
        self.error = error
        self.asked = 0
        self.put_aside = 0

    async def read(self, ref: BlobRef) -> bytes | None:
        self.asked += 1
        if self.error:
            raise self.error
        return self.data

    async def quarantine(self, ref: BlobRef) -> None:
        self.put_aside += 1


async def test_other_sources_are_asked_on_their_side_of_the_object_store(house: House) -> None:
    before, after = Elsewhere(), Elsewhere(SMALL)
    bodies = Bodies(None, house.staging, house.blobs, recent_bytes=0, before=[before], after=[after])
    await house.blobs.put(ref(SMALL).key, SMALL)
    assert await bodies.get(ref(SMALL)) == SMALL
    assert (before.asked, after.asked) == (1, 0)
    before.data = SMALL
    gets = house.blobs.gets
    assert await bodies.get(ref(SMALL)) == SMALL
    assert house.blobs.gets == gets
    before.data = None
    await house.blobs.delete(ref(SMALL).key)
    assert await bodies.get(ref(SMALL)) == SMALL
    assert after.asked == 1
    await bodies.close()


async def test_a_source_that_cannot_tell_hides_no_other(house: House) -> None:
    before, after = Elsewhere(error=DatabaseDown(detail="away")), Elsewhere(SMALL)
    bodies = Bodies(None, house.staging, house.blobs, recent_bytes=0, before=[before], after=[after])
    assert await bodies.get(ref(SMALL)) == SMALL, "neither did the object store"
    after.data = None
    with pytest.raises(BlobDown, match="no such object"):
        await bodies.get(ref(SMALL))
    await house.blobs.put(ref(SMALL).key, SMALL)
    assert await bodies.get(ref(SMALL)) == SMALL
    await bodies.close()


async def test_wrong_octets_from_elsewhere_are_not_believed(house: House) -> None:
    before = Elsewhere(SMALL[:-1] + b"?")
    bodies = Bodies(house.cache, house.staging, house.blobs, recent_bytes=0, before=[before])
    await house.blobs.put(ref(SMALL).key, SMALL)
    assert await bodies.get(ref(SMALL)) == SMALL
    assert before.put_aside == 1
    await bodies.close()


async def test_what_came_from_elsewhere_is_cached(house: House) -> None:
    before = Elsewhere(SMALL)
    bodies = Bodies(house.cache, house.staging, house.blobs, recent_bytes=0, before=[before])
    assert await bodies.get(ref(SMALL)) == SMALL
    await house.cache.stats()  # behind the writes that are under way
    assert await house.cache.read(ref(SMALL)) == SMALL
    await bodies.close()
