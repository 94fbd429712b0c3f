"""How long to wait before a child that died is started again.

The first death after a quiet time costs nothing: the child is back at once. Each quick death doubles the pause, up to a
cap that is kept for ever: a dependency that comes back after a day finds the node trying. A child that lived long
enough starts afresh.
"""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 0.25
CAP_S: Final = 30.0
HEALTHY_S: Final = 60.0
"""A child that lived so long did not die of its start."""


class Backoff:
    """The pauses of one slot."""

    __slots__ = ("deaths",)

    def __init__(self) -> None:
        self.deaths = 0

    def died(self, lived_s: float) -> float:
        """Seconds to wait before the next start, after a child that lived for `lived_s`."""
        if lived_s >= HEALTHY_S:
            self.deaths = 0
        self.deaths += 1
        if self.deaths == 1:
            return 0.0
        return min(CAP_S, FIRST_S * 2.0 ** min(self.deaths - 2, 16))
