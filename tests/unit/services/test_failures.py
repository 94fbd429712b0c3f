"""Failed logins by key: leaking buckets, blocks, full groups, and other processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.services.logins.failures import GROUP_ROWS, MEMORY_BYTES, Failures, Standing
from sora.services.logins.limits import SharedCounts

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAK = 0.01
"""One failure is forgotten in 100 s."""


def one_group() -> Failures:
    """A table in which all keys are neighbours."""
    return Failures(memoryview(bytearray(MEMORY_BYTES // 4096)))


def fail(failures: Failures, key: str, now: float = 0.0, *, limit: int = 3, block_s: float = 60.0) -> bool:
    return failures.add(key, now, LEAK, limit=limit, block_s=block_s)


@pytest.fixture(params=["local", "shared"])
def failures(request: pytest.FixtureRequest) -> Iterator[Failures]:
    if request.param == "local":
        yield Failures()
        return
    shared = SharedCounts(buckets=1, columns=1)
    yield shared.failures
    shared.close()


def test_a_key_that_never_failed_stands_well(failures: Failures) -> None:
    assert failures.standing("a", 5.0, LEAK) == Standing(0.0, 0.0)


def test_failures_add_up_and_leak(failures: Failures) -> None:
    assert not fail(failures, "a")
    assert not fail(failures, "a", 50.0)
    assert failures.standing("a", 50.0, LEAK).level == 1.5
    assert failures.standing("a", 100.0, LEAK).level == 1.0
    assert failures.standing("a", 10_000.0, LEAK).level == 0.0
    assert failures.standing("b", 50.0, LEAK).level == 0.0


def test_one_too_many_blocks_for_a_while_and_then_it_begins_anew(failures: Failures) -> None:
    assert [fail(failures, "a") for _ in range(3)] == [False, False, True]
    assert failures.standing("a", 0.0, LEAK) == Standing(0.0, 60.0)
    assert failures.standing("a", 59.0, LEAK).blocked_s == 1.0
    assert failures.standing("a", 60.0, LEAK) == Standing(0.0, 0.0)
    assert not fail(failures, "a", 60.0)


def test_a_failure_inside_a_block_does_not_end_it(failures: Failures) -> None:
    for _ in range(4):
        fail(failures, "a")
    assert failures.standing("a", 1.0, LEAK) == Standing(0.99, 59.0)


def test_without_blocks_the_bucket_stays_full(failures: Failures) -> None:
    assert not any(fail(failures, "a", block_s=0) for _ in range(9))
    assert failures.standing("a", 0.0, LEAK) == Standing(3.0, 0.0)


def test_a_block_from_elsewhere_holds_as_long_as_it_lasts_and_is_cleared(failures: Failures) -> None:
    failures.block("a", 100.0, 60.0)
    assert failures.standing("a", 130.0, LEAK).blocked_s == 30.0
    failures.add("b", 100.0, LEAK, limit=3, block_s=60.0)
    failures.block("b", 100.0, 10.0)
    assert failures.standing("b", 101.0, LEAK) == Standing(0.0, 9.0)
    failures.clear("a")
    assert failures.standing("a", 130.0, LEAK) == Standing()


def test_clear_forgets_one_key(failures: Failures) -> None:
    for _ in range(3):
        fail(failures, "a")
    fail(failures, "b")
    failures.clear("a")
    failures.clear("never")
    assert failures.standing("a", 0.0, LEAK) == Standing()
    assert failures.standing("b", 0.0, LEAK).level == 1.0


def test_of_a_full_group_the_oldest_is_forgotten_and_a_block_is_not() -> None:
    failures = one_group()
    for _ in range(3):
        fail(failures, "blocked", 1.0)
    for i in range(2, 1 + GROUP_ROWS):
        fail(failures, str(i), float(i))
    fail(failures, "new", 20.0)
    assert failures.standing("blocked", 20.0, LEAK).blocked_s == 41.0
    assert failures.standing("2", 20.0, LEAK).level == 0.0
    assert failures.standing("3", 20.0, LEAK).level > 0
    assert failures.standing("new", 20.0, LEAK).level == 1.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 50)), max_size=40))
def test_it_is_a_leaking_bucket_for_each_key(steps: list[tuple[str, float]]) -> None:
    failures, now = one_group(), 0.0
    levels: dict[str, tuple[float, float]] = {}
    for key, pause in steps:
        now += pause
        level, at = levels.get(key, (0.0, now))
        level = max(0.0, level - (now - at) * LEAK) + 1
        levels[key] = (level, now)
        assert not fail(failures, key, now, limit=1000)
        assert failures.standing(key, now, LEAK).level == pytest.approx(level)


def test_names_are_not_in_the_memory() -> None:
    memory = bytearray(MEMORY_BYTES)
    failures = Failures(memoryview(memory))
    fail(failures, "192.0.2.1 ann@example.com")
    fail(failures, "192.0.2.1 \udc80")
    assert b"ann" not in memory
    assert b"192" not in memory


def test_processes_count_together_and_a_successor_goes_on() -> None:
    shared = SharedCounts(buckets=1, columns=1)
    pid = os.fork()
    if not pid:
        try:
            fail(shared.failures, "a")
            fail(shared.failures, "a")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert shared.failures.standing("a", 0.0, LEAK).level == 2.0
    handed = shared.hand_over()
    successor = SharedCounts(handed=type(handed)(os.dup(handed.fd), handed.shape, handed.secret))
    assert fail(successor.failures, "a")
    assert shared.failures.standing("a", 0.0, LEAK).blocked_s == 60.0
    successor.close()
    shared.close()
