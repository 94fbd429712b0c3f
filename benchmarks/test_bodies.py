"""Reading and staging bodies.

python -m pytest benchmarks/test_bodies.py -o addopts=
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import uvloop

from sora.store import diskfile
from sora.store.blobs import BlobRef, DirectoryStore, content_hash
from sora.store.bodies import Bodies
from sora.store.cache import Cache
from sora.store.staging import Staging
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = [2_000, 20_000, 64_000, 1_000_000]


def ref(data: bytes) -> BlobRef:
    return BlobRef(AccountId(1), ContentId(1), content_hash(data), len(data))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = uvloop.new_event_loop()
    yield made
    made.close()


def measure(
    benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[object]]
) -> None:
    """Time calls one after the other; 20 of them in a round, so that starting the loop does not count."""
    calls = 20

    async def many() -> None:
        for _ in range(calls):
            await function()

    benchmark.extra_info["calls per round"] = calls
    benchmark(lambda: loop.run_until_complete(many()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["page cache", "thread"])
def test_read_a_cached_file(
    benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, tmp_path: Path, size: int, how: str
) -> None:
    """The reason for `bodies.INLINE_BYTES`."""
    path = tmp_path / "body"
    path.write_bytes(os.urandom(size))
    pool = ThreadPoolExecutor(2)

    async def inline() -> bytes:
        return diskfile.read_cached(path, size)

    async def hop() -> bytes:
        return await loop.run_in_executor(pool, diskfile.read, path)

    measure(benchmark, loop, inline if how == "page cache" else hop)
    pool.shutdown()


@pytest.mark.parametrize("size", SIZES)
def test_hash(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark(content_hash, os.urandom(size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", ["memory", "cache", "staging", "store"])
def test_get(
    benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, tmp_path: Path, size: int, place: str
) -> None:
    data = os.urandom(size)
    cache, staging = Cache(tmp_path / "cache", 10**9, 10**8), Staging(tmp_path / "staging", 10**9)
    blobs = DirectoryStore(tmp_path / "objects")
    bodies = Bodies(
        cache if place == "cache" else None, staging, blobs, recent_bytes=16 * 1024**2 if place == "memory" else 0
    )

    async def fill() -> None:
        await blobs.prepare()
        await blobs.put(ref(data).key, data)
        if place == "cache":
            await cache.put(ref(data), data)
        if place == "staging":
            await staging.stage_many([(AccountId(1), content_hash(data), data)])

    loop.run_until_complete(fill())
    wanted = ref(data)
    measure(benchmark, loop, lambda: bodies.get(wanted))
    cache.close()
    staging.close()
    blobs.close()


@pytest.mark.parametrize("count", [1, 8, 32])
def test_stage_a_batch(
    benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, tmp_path: Path, count: int
) -> None:
    staging = Staging(tmp_path / "staging", 10**12)

    def batch() -> tuple[tuple[list[tuple[AccountId, bytes, bytes]]], dict[str, object]]:
        bodies = [os.urandom(20_000) for _ in range(count)]
        return ([(AccountId(1), content_hash(body), body) for body in bodies],), {}

    benchmark.pedantic(lambda items: loop.run_until_complete(staging.stage_many(items)), setup=batch, rounds=40)
    staging.close()


@pytest.mark.parametrize("full", [False, True], ids=["room", "evicting"])
def test_put_into_the_cache(
    benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, tmp_path: Path, full: bool
) -> None:
    """With 5,000 files; an eviction walks through all of them and makes room for 500."""
    size = 4_000
    cache = Cache(tmp_path / "cache", 5_000 * 4096 if full else 10**9, 10**6)

    async def fill() -> None:
        for number in range(5_000):
            data = number.to_bytes(4, "big") * (size // 4)
            await cache.put(ref(data), data)

    loop.run_until_complete(fill())

    def one() -> tuple[tuple[bytes], dict[str, object]]:
        return (os.urandom(size),), {}

    benchmark.pedantic(lambda data: loop.run_until_complete(cache.put(ref(data), data)), setup=one, rounds=1000)
    cache.close()
