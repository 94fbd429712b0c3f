"""The breaker. The uploader itself is tested on a real database: tests/store/test_uploader.py."""

from __future__ import annotations

import pytest

from sora.services import uploads
from sora.services.uploads import Breaker


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(uploads.random, "uniform", lambda low, high: 1.0)
    return Clock()


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed()


def test_a_few_failures_are_no_outage(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, Breaker.THRESHOLD - 1)
    assert breaker.closed
    assert breaker.allowed(6) == 6
    assert breaker.pause_s == 0
    breaker.succeeded()
    fail(breaker, Breaker.THRESHOLD - 1)
    assert breaker.closed


def test_an_outage_allows_one_probe_after_each_pause(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, Breaker.THRESHOLD)
    pauses = []
    for _ in range(10):
        assert not breaker.closed
        assert breaker.allowed(6) == 0
        pauses.append(breaker.pause_s)
        clock.now += breaker.pause_s
        assert breaker.allowed(6) == 1
        breaker.failed()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    clock.now += 30
    breaker.succeeded()
    assert breaker.allowed(6) == 6
    fail(breaker, Breaker.THRESHOLD)
    assert breaker.pause_s == 0.5


def test_what_was_under_way_when_it_opened_does_not_count_again(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, Breaker.THRESHOLD + 5)
    assert breaker.pause_s == Breaker.FIRST_S


def test_pauses_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(uploads.random, "uniform", lambda low, high: seen.append((low, high)) or high)
    clock = Clock()
    breaker = Breaker(clock)
    fail(breaker, Breaker.THRESHOLD)
    assert seen == [(0.75, 1.25)]
    assert breaker.pause_s == Breaker.FIRST_S * 1.25
