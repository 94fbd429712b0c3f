"""The queue of hints: like its plain model in one process, and without loss between several."""

from __future__ import annotations

import os
import select
import signal
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from sora._native.ring import Ring
from tests.support.models_ring import RingModel

VALUES = st.integers(0, 2**64 - 1)
CAPACITY = 4


def rings(ring: Ring) -> bool:
    return bool(select.select([ring.fd], [], [], 0)[0])


class RingMachine(RuleBasedStateMachine):
    """Every sequence of steps gives what the model gives; a small ring goes round often."""

    positions = Bundle("positions")

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring(CAPACITY)
        self.model = RingModel(CAPACITY)

    @rule(value=VALUES)
    def put(self, value: int) -> None:
        assert self.ring.put(value) == self.model.put(value)

    @rule(target=positions)
    def take(self) -> int | None:
        position = self.model.take()
        assert self.ring.take() == position
        return position

    @rule(position=positions, value=VALUES)
    def publish(self, position: int | None, value: int) -> None:
        if position is not None:
            assert self.ring.publish(position, value) == self.model.publish(position, value)

    @rule(limit=st.integers(0, CAPACITY + 1))
    def drain(self, limit: int) -> None:
        assert self.ring.drain(limit) == self.model.drain(limit)

    @rule()
    def arm(self) -> None:
        assert self.ring.arm() == self.model.arm()

    @rule()
    def skip(self) -> None:
        assert self.ring.skip() == self.model.skip()

    @invariant()
    def agrees(self) -> None:
        assert len(self.ring) == len(self.model)
        assert self.ring.hole() == self.model.hole()
        assert self.ring.dropped == self.model.dropped
        assert rings(self.ring) == self.model.rung


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("capacity", [0, 1, 3, 1000, 2**25])
def test_capacity_is_a_power_of_two(capacity: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Ring(capacity)


def test_a_slow_producer_that_was_skipped_does_not_block_the_ring() -> None:
    ring = Ring(2)
    late = ring.take()
    assert late is not None
    assert ring.skip()
    assert not ring.publish(late, 7)
    for value in range(10):
        assert ring.put(value)
        assert ring.drain() == [value]


def child(work: object) -> int:
    """Fork a process that does `work` and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
        finally:
            os._exit(0)
    return pid


def test_a_producer_killed_in_the_middle_leaves_a_hole_that_can_be_skipped() -> None:
    ring = Ring(8)

    def die() -> None:
        ring.put(1)
        ring.take()
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(child(die), 0)
    ring.put(2)
    assert ring.drain() == [1]
    assert ring.hole()
    assert not ring.arm()
    assert ring.skip()
    assert ring.drain() == [2]


def test_nothing_is_lost_or_doubled_between_processes() -> None:
    """Producers spin against a full ring; the consumer sleeps whenever it may, and is always woken."""
    ring = Ring(64)
    producers, each = 3, 20_000

    def produce(number: int) -> None:
        value = number * each
        while value < (number + 1) * each:
            value += ring.put(value)

    pids = [child(lambda number=number: produce(number)) for number in range(producers)]
    seen: list[int] = []
    sleeps = 0
    while len(seen) < producers * each:
        values = ring.drain()
        seen += values
        if not values and ring.arm():
            assert select.select([ring.fd], [], [], 10)[0], "a wake-up was lost"
            sleeps += 1
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    assert Counter(seen) == Counter(range(producers * each))
    for number in range(producers):
        mine = [value for value in seen if value // each == number]
        assert mine == sorted(mine), "each producer's order is kept"
    assert sleeps > 0


def test_a_successor_goes_on_with_the_same_memory_and_bell() -> None:
    first = Ring(8)
    first.put(1)
    second = Ring(8, os.dup(first.memory), os.dup(first.fd))
    first.put(2)
    assert second.drain() == [1, 2]
    assert second.arm()
    first.put(3)
    assert os.eventfd_read(second.fd) == 1
    assert second.drain() == [3]
    with pytest.raises(MemoryError):
        Ring(16, os.dup(first.memory), os.dup(first.fd))
