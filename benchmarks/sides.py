"""Two ways to do the same, timed in turns.

One after the other they would meet different moments of the machine. In turns each round has both under the same load,
so the ratio of a round means something even where its times do not; the median of the ratios is what is reported.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

SIDES: Final = ("ours", "plain")
SAMPLE_S: Final = 0.002
"""A call that takes less is repeated within its turn, or the clock would be measured."""
MIN_ROUNDS: Final = 3
MAX_ROUNDS: Final = 25


def compare(
    benchmark: BenchmarkFixture,
    calls: dict[str, Callable[[], Any]],
    *,
    seconds: float,
    before: Callable[[], None] | None = None,
    warm: int = 1,
) -> None:
    """Time both sides; medians and ratio are left in the benchmark's extra_info.

    Args:
        calls: What to time, by side.
        seconds: About so long altogether, but never less than three rounds.
        before: Runs before each call, untimed; such calls are not repeated within a turn.
        warm: Calls of each side that do not count; fewer if one alone takes longer than `seconds`.
    """
    repeats = {side: _warm_up(calls[side], before, warm, seconds) for side in SIDES}
    cost_s = sum(took_s for _, took_s in repeats.values())
    rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, int(seconds / cost_s)))
    times: dict[str, list[float]] = {side: [] for side in SIDES}

    def one_round() -> None:
        for side in SIDES if len(times["ours"]) % 2 else reversed(SIDES):
            times[side].append(_turn(calls[side], before, repeats[side][0]))

    benchmark.pedantic(one_round, rounds=rounds)
    benchmark.extra_info |= {side: statistics.median(times[side]) for side in SIDES}
    ratios = [plain / ours for ours, plain in zip(times["ours"], times["plain"], strict=True)]
    benchmark.extra_info["ratio"] = statistics.median(ratios)


def _turn(call: Callable[[], Any], before: Callable[[], None] | None, repeats: int) -> float:
    """Seconds of one call."""
    if before is not None:
        before()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def _warm_up(
    call: Callable[[], Any], before: Callable[[], None] | None, warm: int, seconds: float
) -> tuple[int, float]:
    """How many calls make a turn, and how long that takes with what goes before it."""
    started = time.perf_counter()
    done, call_s = 0, 0.0
    while done < warm and (done < MIN_ROUNDS or time.perf_counter() - started < seconds):
        call_s = _turn(call, before, 1)
        done += 1
    if before is not None:
        return 1, (time.perf_counter() - started) / done
    repeats = max(1, int(SAMPLE_S / max(call_s, 1e-8)))
    return repeats, call_s * repeats
