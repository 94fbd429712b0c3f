"""Objects without a row: reported at once, deleted late, and not at all when too many are unknown."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sora.errors import BlobDown
from sora.services import orphans
from sora.store.blobs import BlobRef, content_hash
from sora.store.upkeep import Upkeep
from sora.types import AccountId, ContentId
from tests.unit.services.test_cleanup import HOLD, World, world

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["world"]
GRACE = timedelta(days=10)
DAY = 86400


def stray(number: int, account_id: int = 77) -> str:
    digest = content_hash(b"%d" % number)
    return BlobRef(AccountId(account_id), ContentId(1000 + number), digest, 1).key


class Bucket:
    """The object store of a world, and the sweep over it at a given day."""

    def __init__(self, world: World, root: Path) -> None:
        self.world = world
        self.root = root
        self.upkeep = Upkeep(world.db)

    async def put(self, key: str, age_days: float = 0) -> None:
        await self.world.node.blobs.put(key, b"x")
        at = time.time() - age_days * DAY
        os.utime(self.root / key, (at, at))

    async def sweep(self, day: int, grace: timedelta = GRACE) -> list[int]:
        await self.world.later(day)
        return [rows async for rows in orphans.sweep(self.upkeep, self.world.node.blobs, grace)]

    async def noted(self) -> list[str]:
        return [row["key"] for row in await self.upkeep.list_orphans("", 10_000)]

    async def keys(self) -> list[str]:
        return await self.world.keys()


@pytest.fixture
async def bucket(world: World, tmp_path: Path) -> Bucket:
    return Bucket(world, tmp_path / "objects")


async def test_an_object_goes_at_a_second_look_long_after_the_first(bucket: Bucket) -> None:
    await bucket.world.append(b"a\r\n")
    (known,) = await bucket.keys()
    await bucket.put(stray(1), age_days=100)
    await bucket.sweep(0)
    assert await bucket.noted() == [stray(1)]
    await bucket.sweep(9)
    assert sorted(await bucket.keys()) == sorted([known, stray(1)])
    await bucket.sweep(11)
    assert await bucket.keys() == [known]
    assert await bucket.noted() == []
    await bucket.sweep(30)
    assert await bucket.keys() == [known]


async def test_a_young_object_is_spared_however_long_its_key_is_known(bucket: Bucket) -> None:
    await bucket.put(stray(1), age_days=100)
    await bucket.sweep(0)
    await bucket.put(stray(1), age_days=-8)  # written again, on day 8
    await bucket.sweep(11)
    assert await bucket.keys() == [stray(1)]
    for day in (16, 19):
        await bucket.sweep(day)
        assert await bucket.keys() == [stray(1)], "the first look at these octets was on day 11"
    await bucket.sweep(22)
    assert await bucket.keys() == []


async def test_an_object_store_whose_clock_is_ahead_costs_time_and_no_objects(bucket: Bucket) -> None:
    await bucket.put(stray(1), age_days=-5)
    await bucket.sweep(0)
    await bucket.sweep(12)
    assert await bucket.keys() == [stray(1)]
    await bucket.sweep(16)
    assert await bucket.keys() == []


async def test_objects_of_other_kinds_are_not_looked_at(bucket: Bucket) -> None:
    for key in ("keys/0000000000000001/1", "health/probe", "backup.tar"):
        await bucket.put(key, age_days=1000)
    for day in (0, 11, 22):
        await bucket.sweep(day)
    assert len(await bucket.keys()) == 3
    assert await bucket.noted() == []


async def test_a_row_that_appears_ends_the_suspicion(bucket: Bucket) -> None:
    """As after an import from the bucket."""
    await bucket.world.append(b"a\r\n")
    rows = await bucket.world.db.fetch("SELECT * FROM message_contents")
    await bucket.world.db.execute("UPDATE message_contents SET content_id = content_id + 1")
    await bucket.sweep(0)
    assert len(await bucket.noted()) == 1
    await bucket.world.db.execute("UPDATE message_contents SET content_id = $1", rows[0]["content_id"])
    await bucket.sweep(11)
    await bucket.sweep(22)
    assert len(await bucket.keys()) == 1
    assert await bucket.noted() == []


async def test_another_hash_under_the_same_number_is_no_row(bucket: Bucket) -> None:
    await bucket.world.append(b"a\r\n")
    (known,) = await bucket.keys()
    other = BlobRef(bucket.world.account_id, ContentId(int(known.split("-")[1][:-4])), content_hash(b"b"), 1).key
    await bucket.put(other)
    await bucket.sweep(0)
    assert await bucket.noted() == [other]


async def test_too_many_are_no_leftovers(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database from an old backup, or an empty one: the objects may be all there is."""
    monkeypatch.setattr(orphans, "FEWEST", 2)
    for number in range(3):
        await bucket.put(stray(number), age_days=100)
    for day in (0, 11, 22):
        await bucket.sweep(day)
    assert len(await bucket.keys()) == 3
    assert "objects without a row" in caplog.text
    monkeypatch.setattr(orphans, "FEWEST", 3)
    await bucket.sweep(33)
    assert await bucket.keys() == []


async def test_nothing_is_deleted_without_a_grace_or_under_a_hold(bucket: Bucket) -> None:
    held = stray(1, bucket.world.account_id)
    await bucket.world.db.execute(HOLD, bucket.world.account_id, True)
    await bucket.put(held, age_days=100)
    await bucket.put(stray(2), age_days=100)
    for day in (0, 11):
        await bucket.sweep(day, timedelta(0))
    assert sorted(await bucket.keys()) == sorted([held, stray(2)])
    await bucket.sweep(22)
    assert await bucket.keys() == [held]


async def test_a_listing_goes_on_in_the_next_pass(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "PAGE", 2)
    monkeypatch.setattr(orphans, "PASS_KEYS", 4)
    keys = sorted(stray(number) for number in range(7))
    for key in keys:
        await bucket.put(key)
    assert len(await bucket.sweep(0)) == 2
    assert await bucket.noted() == keys[:4]
    assert len(await bucket.sweep(0)) == 2
    assert await bucket.noted() == keys
    progress = await bucket.upkeep.progress("orphans")
    assert (progress.place, progress.detail["scanned"], progress.detail["unknown"]) == ("", 7, 7)
    assert await bucket.sweep(0) == [], "the next round begins later"


async def test_a_crash_in_between_repeats_a_page(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "PAGE", 2)
    keys = sorted(stray(number) for number in range(5))
    for key in keys:
        await bucket.put(key, age_days=100)
    await bucket.sweep(0)

    class Crash(BaseException):
        """The process ends."""

    def crash(point: str) -> None:
        if point == "cleanup.orphan_deleted":
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(orphans, "crash_point", crash)
        with pytest.raises(Crash):
            await bucket.sweep(11)
    assert len(await bucket.keys()) < 5
    await bucket.sweep(11)
    assert await bucket.keys() == []
    await bucket.sweep(22)
    assert await bucket.noted() == [], "what was noted in the round of the crash goes with the next one"


async def test_a_store_that_is_away_ends_the_sweep_and_forgets_nothing(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bucket.put(stray(1), age_days=100)
    await bucket.sweep(0)

    async def away(_: str) -> None:
        raise BlobDown

    with monkeypatch.context() as patch:
        patch.setattr(bucket.world.node.blobs, "delete", away)
        with pytest.raises(BlobDown):
            await bucket.sweep(11)
    assert await bucket.noted() == [stray(1)]
    await bucket.sweep(11)
    assert await bucket.keys() == []
