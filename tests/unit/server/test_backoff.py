"""Pauses between restarts."""

from __future__ import annotations

from sora.server.backoff import CAP_S, HEALTHY_S, Backoff


def test_the_first_death_is_free_and_the_others_cost_ever_more_up_to_the_cap() -> None:
    backoff = Backoff()
    pauses = [backoff.died(1.0) for _ in range(40)]
    assert pauses[:9] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert set(pauses[9:]) == {CAP_S}


def test_a_healthy_life_starts_afresh() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.died(0.0)
    assert backoff.died(HEALTHY_S) == 0.0
    assert backoff.died(HEALTHY_S - 1) == 0.25
