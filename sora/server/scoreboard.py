"""What every process of this node is doing, in memory that they share.

One row of 64-bit numbers for each process, made before the fork and reached by all. A row has one writer, the process
that runs in it; the supervisor writes only while nobody does (before the fork and after the end). A reload has two
generations of a slot alive at a time, so rows are handed out by the supervisor and are not slots.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# Fields are only ever added at the end: an upgrade has processes of two releases on one board.
FIELDS: Final = (
    "heartbeat",
    "state",
    "imap",
    "pop3",
    "lmtp",
    "uploads_pending",
    "uploads_oldest_ms",
    "postgresql",
    "object_store",
    "incarnation",
    "lease_token",
    "fenced",
    "managesieve",
)
PROTOCOLS: Final = ("imap", "pop3", "lmtp", "managesieve")

STATES: Final = ("starting", "ready", "draining")
HEALTH: Final = ("unknown", "ok", "down")

_ROW: Final = 16
_INDEX: Final[Mapping[str, int]] = {name: number for number, name in enumerate(FIELDS)}
assert len(FIELDS) <= _ROW


class Row:
    """The numbers of one process."""

    __slots__ = ("_numbers", "_start", "number")

    def __init__(self, numbers: memoryview, number: int) -> None:
        self.number = number
        self._numbers = numbers
        self._start = number * _ROW

    def get(self, field: str) -> int:
        """One number."""
        value: int = self._numbers[self._start + _INDEX[field]]
        return value

    def set(self, field: str, value: int) -> None:
        """One number; eight aligned octets, so a reader sees the old or the new value."""
        self._numbers[self._start + _INDEX[field]] = value

    def beat(self) -> None:
        """Say "alive"."""
        self.set("heartbeat", self.get("heartbeat") + 1)

    @property
    def state(self) -> str:
        """`starting`, `ready` or `draining`."""
        return STATES[self.get("state")]

    @state.setter
    def state(self, name: str) -> None:
        self.set("state", STATES.index(name))

    def health(self, dependency: str) -> str:
        """`ok`, `down` or `unknown`."""
        return HEALTH[self.get(dependency)]

    def set_health(self, dependency: str, ok: bool) -> None:
        """Result of a probe."""
        self.set(dependency, HEALTH.index("ok" if ok else "down"))

    def connections(self) -> dict[str, int]:
        """Open connections by protocol."""
        return {protocol: self.get(protocol) for protocol in PROTOCOLS}

    def clear(self) -> None:
        """All zero: a new process begins."""
        for field in FIELDS:
            self.set(field, 0)


class Scoreboard:
    """The rows; make it before the fork.

    Args:
        rows: Processes that may be alive at a time, lingering generations included.
        fd: Of the memory of a board, to go on with it; it is ours from now on.
    """

    def __init__(self, rows: int = 1024, fd: int | None = None) -> None:
        self.fd = os.memfd_create("sora-scoreboard", os.MFD_CLOEXEC) if fd is None else fd
        os.ftruncate(self.fd, rows * _ROW * 8)
        self._memory = mmap.mmap(self.fd, rows * _ROW * 8)
        self._numbers = memoryview(self._memory).cast("Q")
        self._free = set(range(rows))

    def __del__(self) -> None:
        os.close(self.fd)

    def take(self) -> Row:
        """A free row, all zero; the lowest, so that numbers (and with them metric files) are used again.

        Raises:
            RuntimeError: All rows are taken.
        """
        if not self._free:
            raise RuntimeError("more processes than rows of the scoreboard")
        number = min(self._free)
        self._free.remove(number)
        row = Row(self._numbers, number)
        row.clear()
        return row

    def retake(self, number: int) -> Row:
        """The row of a process that runs since before this board was handed to us."""
        self._free.remove(number)
        return Row(self._numbers, number)

    def release(self, row: Row) -> None:
        """Give a row back after its process ended."""
        self._free.add(row.number)
