"""Waiting for locks that somebody else holds: one wait for each key, few at a time."""

from __future__ import annotations

import asyncio

from sora.store.patience import Patience


class Waits:
    """Work that takes until it is told to end."""

    def __init__(self) -> None:
        self.begun: list[list[str]] = []
        self.given_up: list[list[str]] = []
        self.end = asyncio.Semaphore(0)

    async def work(self, items: list[str]) -> None:
        self.begun.append(items)
        await self.end.acquire()

    async def give_up(self, items: list[str]) -> None:
        self.given_up.append(items)

    async def until(self, count: int) -> None:
        while len(self.begun) + len(self.given_up) < count:
            await asyncio.sleep(0)


async def test_what_comes_meanwhile_joins() -> None:
    waits = Waits()
    patience: Patience[int, str] = Patience(waits.work, 2)
    assert not patience.join(1, "nobody waits yet")
    patience.add(1, "a")
    patience.add(1, "b")
    await waits.until(1)
    assert patience.join(1, "c")
    assert not patience.join(2, "another key")
    patience.add(1, "d")
    for _ in range(2):
        waits.end.release()
    await patience.drained()
    assert waits.begun == [["a", "b"], ["c", "d"]]
    assert not patience.join(1, "nobody waits any more")


async def test_so_many_at_a_time() -> None:
    waits = Waits()
    patience: Patience[int, str] = Patience(waits.work, 2)
    for key in range(3):
        patience.add(key, str(key))
    await waits.until(2)
    for _ in range(10):
        await asyncio.sleep(0)
    assert waits.begun == [["0"], ["1"]]
    waits.end.release()
    await waits.until(3)
    assert waits.begun[2] == ["2"]
    for _ in range(2):
        waits.end.release()
    await patience.drained()


async def test_whose_turn_does_not_come_is_given_up() -> None:
    waits = Waits()
    patience: Patience[int, str] = Patience(waits.work, 1, 0.001, waits.give_up)
    patience.add(1, "a")
    await waits.until(1)
    patience.add(2, "b")
    patience.add(2, "c")
    await waits.until(2)
    assert (waits.begun, waits.given_up) == ([["a"]], [["b", "c"]])
    waits.end.release()
    await patience.drained()
    patience.add(2, "d")
    waits.end.release()
    await patience.drained()
    assert waits.begun == [["a"], ["d"]], "the turn that nobody took is not lost"
