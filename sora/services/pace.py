"""How fast background work may go: so many rows a second, in transactions that are over before anybody waits."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TARGET_S: Final = 0.010
"""Time of one batch. It holds the lock of a mailbox for so long, and a delivery there may wait for it."""
IDLE_SHARE: Final = 3
"""A batch is followed by a pause so many times as long, whatever the rate: on a machine that is busy, batches take
longer, and the work falls back by itself."""
LEAST_ROWS: Final = 20
MOST_ROWS: Final = 2000
BURST_S: Final = 1.0
"""A rate is kept over so many seconds: time that was lost is made up for no longer."""


class Pace:
    """Sizes batches and pauses between them.

    Args:
        rows_per_s: Bound on the rows.
        clock: Monotonic seconds.
        sleep: Waits.
    """

    def __init__(
        self,
        rows_per_s: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rows_per_s
        self._clock = clock
        self._sleep = sleep
        self._most = max(LEAST_ROWS, min(MOST_ROWS, int(rows_per_s * BURST_S)))
        self._due = clock()
        self._began = clock()
        self.rows = min(self._most, 10 * LEAST_ROWS)

    def begin(self) -> int:
        """A batch begins; how many rows it may have."""
        self._began = self._clock()
        return self.rows

    async def end(self, rows: int) -> None:
        """A batch of so many rows is done: pause, and fit the next one to what this one took."""
        now = self._clock()
        took = now - self._began
        if rows >= self.rows // 2:
            self._fit(took)
        self._due = max(self._due, now - BURST_S) + rows / self._rate
        pause = max(self._due - now, IDLE_SHARE * took if rows else 0.0)
        # Exact pauses would let two janitors, or a janitor and a client, walk in step.
        await self._sleep(pause * random.uniform(0.9, 1.1))

    def _fit(self, took: float) -> None:
        """At most half as large or twice as large at a time: one slow batch says little."""
        wanted = self.rows * TARGET_S / max(took, 1e-6)
        wanted = min(2 * self.rows, max(self.rows / 2, wanted))
        self.rows = int(min(self._most, max(LEAST_ROWS, wanted)))
