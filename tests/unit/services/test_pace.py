"""The pace of background work: the rate is kept, batches stay short, and a busy machine gets less of it."""

from __future__ import annotations

import random

import pytest

from sora.services.pace import IDLE_SHARE, LEAST_ROWS, MOST_ROWS, TARGET_S, Pace


class World:
    """A clock that sleeps move, and work that takes so long a row."""

    def __init__(self, rate: float, row_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)
        self.now = 100.0
        self.slept: list[float] = []
        self.longest = 0.0
        self.row_s = row_s
        self.rows = 0
        self.pace = Pace(rate, clock=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.now += seconds

    async def work(self, batches: int, available: int = 10**9) -> None:
        for _ in range(batches):
            rows = min(self.pace.begin(), available)
            took = rows * self.row_s
            self.now += took
            self.longest = max(self.longest, took)
            self.rows += rows
            await self.pace.end(rows)


@pytest.mark.parametrize("rate", [100, 2000, 20_000])
async def test_the_rate_is_kept(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(rate, 1e-6, monkeypatch)
    began = world.now
    await world.work(500)
    assert world.rows / (world.now - began) == pytest.approx(rate, rel=0.02)


async def test_batches_come_to_last_as_long_as_wished(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(10**9, 20e-6, monkeypatch)
    await world.work(20)
    assert world.pace.rows == pytest.approx(TARGET_S / 20e-6, rel=0.02)
    world.row_s, world.longest = 200e-6, 0.0  # the machine is busy now
    await world.work(20)
    assert world.pace.rows == pytest.approx(TARGET_S / 200e-6, rel=0.05)
    assert world.longest <= 10 * TARGET_S * 1.01


async def test_it_never_takes_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(10**9, 1e-3, monkeypatch)
    began = world.now
    await world.work(100)
    assert (world.now - began) / (world.rows * world.row_s) == pytest.approx(1 + IDLE_SHARE, rel=0.01)


async def test_sizes_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = World(10**9, 1e-9, monkeypatch), World(10**9, 1.0, monkeypatch)
    await fast.work(20)
    assert fast.pace.rows == MOST_ROWS
    await slow.work(20)
    assert slow.pace.rows == LEAST_ROWS


async def test_a_batch_is_no_more_than_a_second_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(50, 1e-9, monkeypatch)
    await world.work(20)
    assert world.pace.rows == 50
    assert max(world.slept) <= 1.0


async def test_small_batches_say_nothing_about_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(10**9, 1e-6, monkeypatch)
    before = world.pace.rows
    await world.work(10, available=3)
    assert world.pace.rows == before


async def test_time_that_was_lost_is_made_up_for_no_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(1000, 1e-6, monkeypatch)
    await world.work(50)
    world.now += 3600
    before, rows = world.now, world.rows
    await world.work(50)
    assert world.rows - rows <= 1000 * (world.now - before + 1.1)


async def test_nothing_done_costs_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(1000, 1e-6, monkeypatch)
    world.pace.begin()
    world.now += 2.0
    await world.pace.end(0)
    assert world.slept == [0.0]
