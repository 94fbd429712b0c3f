"""The doorbell, inside an event loop and between processes."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from sora.server import shmqueue
from sora.server.shmqueue import Doorbell


async def test_hints_come_in_order_and_silence_is_empty() -> None:
    doorbell = Doorbell(8)
    with doorbell.listening() as bell:
        doorbell.ring([3, 1, 2])
        assert await bell.wait(5) == [3, 1, 2]
        assert await bell.wait(0.01) == []
        waiting = asyncio.create_task(bell.wait())
        await asyncio.sleep(0)
        doorbell.ring([9])
        assert await waiting == [9]


async def test_a_full_queue_drops_and_says_so() -> None:
    doorbell = Doorbell(4)
    doorbell.ring(range(10))
    assert doorbell.dropped == 6
    with doorbell.listening() as bell:
        assert await bell.wait() == [0, 1, 2, 3]


async def test_the_bell_wakes_a_listener_in_another_process() -> None:
    doorbell = Doorbell(64)
    with doorbell.listening() as bell:
        pid = os.fork()
        if pid == 0:
            for number in range(1000):
                doorbell.ring([number])
            os._exit(0)
        heard: list[int] = []
        while len(heard) + doorbell.dropped < 1000:
            heard += await bell.wait(10)
        os.waitpid(pid, 0)
        heard += await bell.wait(0.01)
    assert len(heard) + doorbell.dropped == 1000
    assert heard == sorted(heard)


async def test_a_hole_is_given_up_after_a_while_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shmqueue, "HOLE_S", 0.2)
    doorbell = Doorbell(8)
    pid = os.fork()
    if pid == 0:
        doorbell._ring.take()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    doorbell.ring([5])
    with doorbell.listening() as bell:
        assert await bell.wait(0.05) == []
        assert await bell.wait(5) == [5]


async def test_a_bell_that_rings_while_nobody_listens_costs_no_time() -> None:
    """The descriptor must not stay readable: an event loop would spin on it as long as the consumer is busy."""
    doorbell = Doorbell(8)
    with doorbell.listening() as bell:
        assert await bell.wait(0.01) == []
        doorbell.ring([1])
        await asyncio.sleep(0.05)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(doorbell._ring.fd)
        assert await bell.wait(0) == [1]
