"""The memory that all processes of a node share; made before the first fork, handed on by an upgrade."""

from __future__ import annotations

from msgspec import Struct

from sora.server.scoreboard import Scoreboard
from sora.server.shmqueue import Doorbell
from sora.services.logins.limits import SharedCounts
from sora.services.logins.remembered import Remembered, SharedMemory

LEAST_COLUMNS = 64
GENERATIONS = 6
"""Of workers that may count connections at a time: those that linger, those that work, those to come."""


class SharedState(Struct, frozen=True):
    """Everything that a successor needs to go on with the same memory."""

    scoreboard: int
    node_row: int
    doorbell: tuple[int, int, int]
    counts: SharedMemory
    remembered: SharedMemory

    def descriptors(self) -> tuple[int, ...]:
        """Those that the successor must inherit."""
        return (self.scoreboard, *self.doorbell[1:], self.counts.fd, self.remembered.fd)


class Shared:
    """The memory of one run.

    Args:
        workers: Number of worker slots.
        handed: By the program that this process ran before.
    """

    def __init__(self, workers: int, handed: SharedState | None = None) -> None:
        if handed is None:
            self.scoreboard = Scoreboard()
            self.node_row = self.scoreboard.take()
            self.doorbell = Doorbell()
            self.counts = SharedCounts(columns=max(LEAST_COLUMNS, GENERATIONS * workers))
            self.remembered = Remembered()
        else:
            self.scoreboard = Scoreboard(fd=handed.scoreboard)
            self.node_row = self.scoreboard.retake(handed.node_row)
            self.doorbell = Doorbell(handed=handed.doorbell)
            self.counts = SharedCounts(handed=handed.counts)
            self.remembered = Remembered(handed=handed.remembered)

    def hand_over(self) -> SharedState:
        """For the program that this process is about to run."""
        return SharedState(
            self.scoreboard.fd,
            self.node_row.number,
            self.doorbell.hand_over(),
            self.counts.hand_over(),
            self.remembered.hand_over(),
        )
