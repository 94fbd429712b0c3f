"""The doorbell between the workers, who stage bodies, and the uploader, who sends them.

It carries hints: what must be uploaded stands in `pending_uploads` and in the staging directory, which the uploader
looks through every few seconds anyway. A hint that is lost costs those seconds and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final

from sora._native.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CAPACITY: Final = 65536
HOLE_S: Final = 1.0
"""A producer that has not published for so long is dead, or may as well be."""


class Doorbell:
    """A queue of hints; make it before the fork.

    Any process may `ring`; one process listens.

    Args:
        capacity: Hints that fit in.
        handed: What `hand_over` gave in a process that became this one; the queue goes on.
    """

    def __init__(self, capacity: int = CAPACITY, handed: tuple[int, int, int] | None = None) -> None:
        self._ring = Ring(capacity) if handed is None else Ring(*handed)

    def hand_over(self) -> tuple[int, int, int]:
        """Capacity, and the descriptors of the memory and of the bell."""
        return self._ring.capacity, self._ring.memory, self._ring.fd

    def ring(self, content_ids: Iterable[int]) -> None:
        """Wake the listener; a full queue needs no more hints."""
        for content_id in content_ids:
            self._ring.put(content_id)

    @property
    def dropped(self) -> int:
        """Hints that found the queue full."""
        return self._ring.dropped

    @contextlib.contextmanager
    def listening(self) -> Iterator[Listener]:
        """Hear the bell in the running event loop."""
        listener = Listener(self._ring)
        try:
            yield listener
        finally:
            listener.close()


class Listener:
    """The consumer's side, inside an event loop."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self._hole_since: float | None = None
        self._loop.add_reader(ring.fd, self._heard)

    async def wait(self, timeout: float | None = None) -> list[int]:
        """The hints that came, oldest first; empty after `timeout` seconds of silence."""
        deadline = None if timeout is None else self._loop.time() + timeout
        while not (hints := self._ring.drain()):
            left = None if deadline is None else deadline - self._loop.time()
            if left is not None and left <= 0:
                return []
            await self._sleep(left)
        self._hole_since = None
        return hints

    def close(self) -> None:
        """Stop hearing."""
        self._loop.remove_reader(self._ring.fd)

    def _heard(self) -> None:
        """The descriptor stays readable until it is read, however busy the consumer is."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._ring.fd)
        self._rung.set()

    async def _sleep(self, left: float | None) -> None:
        """Until the bell rings, `left` seconds passed or a hole is old enough to be given up."""
        self._rung.clear()
        if self._ring.arm():
            self._hole_since = None
        elif self._ring.hole():
            hole_left = self._hole_left()
            if hole_left <= 0:
                self._ring.skip()
                self._hole_since = None
                return
            left = hole_left if left is None else min(left, hole_left)
        else:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), left)

    def _hole_left(self) -> float:
        """Seconds that the producer of the place at the head still has."""
        now = self._loop.time()
        if self._hole_since is None:
            self._hole_since = now
        return self._hole_since + HOLE_S - now
