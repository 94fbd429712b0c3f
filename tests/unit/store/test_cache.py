"""The disk cache: bounded at all times, least recently used first, shared by processes, torn files are misses."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sora import metrics
from sora.store import cache as cache_module
from sora.store import diskfile
from sora.store.blobs import BlobRef, content_hash
from sora.store.cache import BLOCK_BYTES, SHARDS, Cache
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = BLOCK_BYTES


def body(number: int, blocks: int = 1) -> bytes:
    return number.to_bytes(4, "big") * (blocks * BLOCK // 4)


def ref(data: bytes) -> BlobRef:
    return BlobRef(AccountId(1), ContentId(1), content_hash(data), len(data))


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> Iterator[Cache]:
    made = Cache(tmp_path / "cache", 10 * BLOCK, 5 * BLOCK, clock=clock)
    yield made
    made.close()


async def kept(cache: Cache, *numbers: int) -> list[int]:
    return [number for number in numbers if await cache.read(ref(body(number))) is not None]


def on_disk(root: Path) -> int:
    """Blocks of the bodies that are there."""
    return sum(-(-path.stat().st_size // BLOCK) for path in (root / "objects").rglob("*.eml"))


async def test_what_was_put_can_be_read(cache: Cache) -> None:
    for data in (body(1), b"", b"short"):
        assert await cache.put(ref(data), data)
        assert await cache.read(ref(data)) == data
        assert cache.read_now(ref(data)) == data
    assert await cache.read(ref(b"absent")) is None
    assert cache.read_now(ref(b"absent")) is None


async def test_least_recently_used_leaves_first(cache: Cache, clock: Clock) -> None:
    for number in range(10):
        clock.now += 100
        await cache.put(ref(body(number)), body(number))
    clock.now += 100
    assert cache.read_now(ref(body(0))) is not None
    assert await cache.read(ref(body(1))) is not None
    await cache.put(ref(body(10)), body(10))
    clock.now = 0  # looking must not count as use any more
    assert await kept(cache, *range(11)) == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]


async def test_eviction_holds_few_files_in_memory(
    cache: Cache, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those of the minute at the border are sorted, and these by their exact time."""
    for number in range(10):
        clock.now += 100 if number in {0, 4, 8} else 5
        await cache.put(ref(body(number)), body(number))
    sizes: list[int] = []

    def counted(things: Iterable[Any]) -> list[Any]:
        result = sorted(things)
        sizes.extend(len(result) for thing in result[:1] if isinstance(thing, cache_module._File))
        return result

    monkeypatch.setattr(cache_module, "sorted", counted, raising=False)
    await cache.put(ref(body(20, 5)), body(20, 5))
    assert await kept(cache, *range(10)) == [5, 6, 7, 8, 9]
    assert sizes == [4]


async def test_use_is_noted_once_a_minute(cache: Cache, clock: Clock, tmp_path: Path) -> None:
    await cache.put(ref(body(1)), body(1))
    (path,) = (tmp_path / "cache" / "objects").rglob("*.eml")
    put_at = path.stat().st_mtime
    clock.now += 59
    await cache.read(ref(body(1)))
    assert path.stat().st_mtime == put_at
    clock.now += 1
    cache.read_now(ref(body(1)))
    assert path.stat().st_mtime == clock.now


async def test_the_bound_holds_at_every_moment(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cache"
    most = 0
    replace = Path.replace

    def watched(source: Path, target: Path) -> Path:
        nonlocal most
        result = replace(source, target)
        most = max(most, on_disk(root))
        return result

    monkeypatch.setattr(Path, "replace", watched)
    for number in range(60):
        data = body(number, blocks=1 + number % 5)
        assert await cache.put(ref(data), data)
        assert await cache.read(ref(data)) == data  # what came last is never what leaves
    assert 8 <= most <= 10


async def test_too_large_is_not_kept(cache: Cache) -> None:
    data = body(1, blocks=5) + b"x"
    assert not await cache.put(ref(data), data)
    cache.offer(ref(data), data)
    assert (await cache.stats()).files == 0


async def test_small_files_count_as_whole_blocks(cache: Cache) -> None:
    for number in range(30):
        await cache.put(ref(bytes([number])), bytes([number]))
    stats = await cache.stats()
    assert stats.files <= 10
    assert stats.used_bytes == stats.files * BLOCK


async def test_put_twice_counts_once(cache: Cache) -> None:
    for _ in range(3):
        assert await cache.put(ref(body(1)), body(1))
    stats = await cache.stats()
    assert (stats.files, stats.used_bytes) == (1, BLOCK)


async def test_a_torn_file_is_a_miss_and_goes(cache: Cache, tmp_path: Path) -> None:
    await cache.put(ref(body(1)), body(1))
    (path,) = (tmp_path / "cache" / "objects").rglob("*.eml")
    os.truncate(path, 100)
    with pytest.raises(diskfile.WouldBlock):
        cache.read_now(ref(body(1)))
    assert await cache.read(ref(body(1))) is None
    assert not path.exists()
    assert await cache.put(ref(body(1)), body(1))
    assert await cache.read(ref(body(1))) == body(1)


async def test_an_unreadable_file_is_a_miss(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await cache.put(ref(body(1)), body(1))

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "pread", broken)
    assert await cache.read(ref(body(1))) is None


@pytest.mark.parametrize("broken", ["utime", "unlink", "open"])
async def test_a_disk_that_may_not_be_written_any_more_keeps_no_reader(
    cache: Cache, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """As after errors=remount-ro: what is whole is read, what is torn or wrong is a miss, nothing raises."""
    for number in (1, 2):
        await cache.put(ref(body(number)), body(number))
    torn = next((tmp_path / "cache" / "objects").rglob(ref(body(2)).name))
    torn.write_bytes(body(2)[:-1])
    clock.now += 100
    real_open = os.open

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only file system")

    def open_to_read(path: str | Path, flags: int, *rest: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            refuse()
        return real_open(path, flags, *rest)

    if broken == "unlink":
        monkeypatch.setattr(Path, "unlink", refuse)
        monkeypatch.setattr(Path, "rename", refuse)
    else:
        monkeypatch.setattr(os, broken, open_to_read if broken == "open" else refuse)
    assert cache.read_now(ref(body(1))) == body(1)
    assert await cache.read(ref(body(1))) == body(1)
    assert await cache.read(ref(body(2))) is None
    await cache.quarantine(ref(body(1)))
    monkeypatch.undo()


async def test_a_cache_that_may_not_be_written_any_more_keeps_no_upload(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = tmp_path / "staged"
    staged.write_bytes(body(1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only file system")

    for name in ("link", "unlink", "open"):
        monkeypatch.setattr(os, name, refuse)
    assert await cache.adopt_many([(ref(body(1)), staged)]) == 0
    assert not await cache.put(ref(body(1)), body(1))
    monkeypatch.undo()


async def test_a_file_that_cannot_be_opened_is_left_to_the_slow_look(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.put(ref(body(1)), body(1))

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "no descriptors left")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(diskfile.WouldBlock):
        cache.read_now(ref(body(1)))
    assert await cache.read(ref(body(1))) is None
    monkeypatch.undo()


async def test_it_survives_a_restart(cache: Cache, tmp_path: Path) -> None:
    await cache.put(ref(body(1)), body(1))
    again = Cache(tmp_path / "cache", 10 * BLOCK, 5 * BLOCK)
    assert await again.read(ref(body(1))) == body(1)
    assert (await again.stats()).used_bytes == BLOCK
    again.close()


async def test_a_smaller_capacity_takes_effect_at_once(cache: Cache, tmp_path: Path, clock: Clock) -> None:
    for number in range(10):
        clock.now += 1
        await cache.put(ref(body(number)), body(number))
    again = Cache(tmp_path / "cache", 4 * BLOCK, BLOCK)
    assert on_disk(tmp_path / "cache") == 4
    assert await kept(again, *range(10)) == [6, 7, 8, 9]
    again.close()


@pytest.mark.parametrize("damage", ["missing", "garbage", "short", "another boot"])
async def test_a_count_that_cannot_be_believed_is_made_anew(
    cache: Cache, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await cache.put(ref(body(number)), body(number))
    usage = tmp_path / "cache" / "usage"
    if damage == "missing":
        usage.unlink()
    elif damage == "another boot":
        boot = tmp_path / "boot_id"
        boot.write_text("00000000-1111-2222-3333-444444444444\n")
        monkeypatch.setattr(cache_module, "_BOOT_ID", boot)
        record = bytearray(usage.read_bytes())
        record[8:16] = (7 * BLOCK).to_bytes(8, "little")
        usage.write_bytes(record)
    else:
        usage.write_bytes(b"garbage" * 20 if damage == "garbage" else b"SORA")
    again = Cache(tmp_path / "cache", 10 * BLOCK, 5 * BLOCK)
    assert (await again.stats()).used_bytes == 3 * BLOCK
    again.close()


async def test_within_one_boot_the_count_is_believed(cache: Cache, tmp_path: Path) -> None:
    """Processes restart often; none of them shall walk through a million files for it."""
    await cache.put(ref(body(1)), body(1))
    usage = tmp_path / "cache" / "usage"
    record = bytearray(usage.read_bytes())
    record[8:16] = (7 * BLOCK).to_bytes(8, "little")
    usage.write_bytes(record)
    again = Cache(tmp_path / "cache", 10 * BLOCK, 5 * BLOCK)
    assert (await again.stats()).used_bytes == 7 * BLOCK
    again.close()


async def test_a_failure_errs_towards_more(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(Path, "replace", broken)
    assert not await cache.put(ref(body(1)), body(1))
    monkeypatch.undo()
    assert (await cache.stats()).used_bytes == BLOCK
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []
    for number in range(2, 12):  # the first eviction adds up and finds out
        await cache.put(ref(body(number)), body(number))
    stats = await cache.stats()
    assert stats.used_bytes == stats.files * BLOCK


async def test_a_full_disk_is_no_error(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert not await cache.put(ref(body(1)), body(1))
    monkeypatch.undo()
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []
    assert await cache.read(ref(body(1))) is None


async def test_adopt_takes_the_file_itself(cache: Cache, tmp_path: Path) -> None:
    staged = tmp_path / "staged.eml"
    staged.write_bytes(body(1))
    assert await cache.adopt_many([(ref(body(2)), tmp_path / "absent"), (ref(body(1)), staged)]) == 1
    inode = staged.stat().st_ino
    staged.unlink()
    (path,) = (tmp_path / "cache" / "objects").rglob("*.eml")
    assert path.stat().st_ino == inode
    assert await cache.read(ref(body(1))) == body(1)
    assert (await cache.stats()).used_bytes == BLOCK


async def test_adopt_copies_what_cannot_be_linked(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = tmp_path / "staged.eml"
    staged.write_bytes(body(1))

    def elsewhere(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", elsewhere)
    assert await cache.adopt_many([(ref(body(1)), staged), (ref(body(2)), tmp_path / "absent")]) == 1
    assert await cache.read(ref(body(1))) == body(1)
    (path,) = (tmp_path / "cache" / "objects").rglob("*.eml")
    assert path.stat().st_ino != staged.stat().st_ino


async def test_offer_keeps_in_the_background_and_drops_what_is_too_much(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.offer(ref(body(1)), body(1))
    assert (await cache.stats()).files == 1  # the writer takes things in their order
    monkeypatch.setattr(cache_module, "MAX_WAITING", 0)
    cache.offer(ref(body(2)), body(2))
    assert (await cache.stats()).files == 1


async def test_offers_do_not_pile_up_in_the_count_of_waiting(cache: Cache) -> None:
    for number in range(3 * cache_module.MAX_WAITING):
        cache.offer(ref(body(number % 5)), body(number % 5))
        if number % 10 == 0:
            await cache.stats()
    await cache.stats()
    cache.offer(ref(body(77)), body(77))
    await cache.stats()
    assert await cache.read(ref(body(77))) == body(77)


async def test_quarantine_moves_aside_and_keeps_a_few(cache: Cache, tmp_path: Path) -> None:
    for number in range(20):
        await cache.put(ref(body(number)), body(number))
        await cache.quarantine(ref(body(number)))
        assert await cache.read(ref(body(number))) is None
    await cache.quarantine(ref(b"absent"))
    aside = sorted((tmp_path / "cache" / "quarantine").iterdir())
    assert [path.read_bytes() for path in aside] == [body(number) for number in range(4, 20)]
    assert (await cache.stats()).used_bytes == 0


async def test_purge_and_stats(cache: Cache) -> None:
    for number in range(3):
        await cache.put(ref(body(number)), body(number))
    await cache.read(ref(body(0)))
    cache.read_now(ref(body(1)))
    await cache.read(ref(body(9)))
    stats = await cache.stats()
    assert (stats.used_bytes, stats.capacity_bytes, stats.files) == (3 * BLOCK, 10 * BLOCK, 3)
    assert (stats.hits, stats.misses) == (2, 1)
    assert await cache.purge() == 3
    assert await kept(cache, 0, 1, 2) == []
    assert (await cache.stats()).used_bytes == 0


async def test_an_operator_may_remove_the_files(cache: Cache, tmp_path: Path) -> None:
    await cache.put(ref(body(1)), body(1))
    for path in (tmp_path / "cache" / "objects").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    assert await cache.read(ref(body(1))) is None
    assert await cache.put(ref(body(1)), body(1))
    assert await cache.read(ref(body(1))) == body(1)


async def test_whoever_looks_at_every_file_meets_them_by_shard(cache: Cache, tmp_path: Path) -> None:
    for number in range(5):
        await cache.put(ref(body(number)), body(number))
    stray = cache.path(ref(body(0))).with_name("stray")
    stray.write_bytes(b"x")
    found = [file for shard in SHARDS for file in await cache.list_shard(shard)]
    assert {file.content_hash for file in found if file.account_id is not None} == {
        content_hash(body(number)) for number in range(5)
    }
    assert [(file.path, file.size) for file in found if file.account_id is None] == [(stray, 1)]
    before = cache.path(ref(body(1))).stat().st_mtime_ns
    assert await cache.look(cache.path(ref(body(1)))) == body(1)
    assert cache.path(ref(body(1))).stat().st_mtime_ns == before, "looking is no use"
    assert await cache.look(stray.with_name("gone")) is None


async def test_what_is_put_aside_is_kept_and_counted_out(cache: Cache, tmp_path: Path) -> None:
    for number in range(3):
        await cache.put(ref(body(number)), body(number))
    os.truncate(cache.path(ref(body(0))), 100)
    cache.path(ref(body(1))).with_name("stray").write_bytes(b"x")
    await cache.put_aside(cache.path(ref(body(0))))
    await cache.put_aside(cache.path(ref(body(1))).with_name("stray"))
    await cache.recount()
    assert await kept(cache, 0, 1, 2) == [1, 2]
    stats = await cache.stats()
    assert (stats.files, stats.quarantined, stats.used_bytes) == (2, 2, 2 * BLOCK)
    assert [path.read_bytes() for path in await cache.find_quarantined(ref(body(0)))] == [body(0)[:100]]


async def test_requests_are_counted_for_the_hit_ratio(cache: Cache) -> None:
    def counted(result: str) -> float:
        return metrics.cache_requests.labels(result)._value.get()  # type: ignore[no-any-return]

    before = counted("hit"), counted("miss")
    await cache.put(ref(body(1)), body(1))
    cache.read_now(ref(body(1)))
    await cache.read(ref(body(1)))
    await cache.read(ref(body(2)))
    assert (counted("hit") - before[0], counted("miss") - before[1]) == (2, 1)


async def test_to_ask_whether_it_is_kept_is_no_use(cache: Cache, clock: Clock, tmp_path: Path) -> None:
    await cache.put(ref(body(1)), body(1))
    (path,) = (tmp_path / "cache" / "objects").rglob("*.eml")
    put_at = path.stat().st_mtime
    clock.now += 1000
    assert await cache.has(ref(body(1)))
    assert not await cache.has(ref(body(2)))
    assert path.stat().st_mtime == put_at


def test_a_start_sweeps_what_dead_processes_were_writing(tmp_path: Path) -> None:
    Cache(tmp_path, 10 * BLOCK, BLOCK).close()
    old = tmp_path / "tmp" / "x.tmp"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    Cache(tmp_path, 10 * BLOCK, BLOCK).close()
    assert not old.exists()


PROCESS = """
import asyncio, sys
from tests.unit.store.test_cache import BLOCK, body, ref, Cache

async def main():
    cache = Cache(sys.argv[1], 10 * BLOCK, 5 * BLOCK)
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        data = body(number, blocks=1 + number % 3)
        assert await cache.put(ref(data), data)
        found = await cache.read(ref(data))
        assert found is None or found == data
    cache.close()

asyncio.run(main())
"""


def test_processes_share_one_bound(tmp_path: Path) -> None:
    """Three writers at a time; the bound is looked at while they are at it."""
    root = Path(__file__).parents[3]
    ranges = [("0", "80"), ("40", "120"), ("200", "280")]  # two of them put the same bodies
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, tmp_path, *numbers], cwd=root, stderr=subprocess.PIPE, text=True
        )
        for numbers in ranges
    ]
    most = 0
    while any(writer.poll() is None for writer in writers):
        most = max(most, _blocks_locked(tmp_path))
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    assert 0 < most <= 10
    assert int.from_bytes((tmp_path / "usage").read_bytes()[8:16], "little") == on_disk(tmp_path) * BLOCK


def _blocks_locked(root: Path) -> int:
    """`on_disk` while no writer can change anything."""
    try:
        fd = os.open(root / "usage", os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return on_disk(root)
    finally:
        os.close(fd)
