"""One reload: a new generation of processes beside the old one, and then instead of it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final, Protocol

from sora.crashpoints import crash_point
from sora.server import reloading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sora.config import Config
    from sora.server.children import Children
    from sora.server.control import Answer
    from sora.server.processes import Slot
    from sora.server.reactor import Timer
    from sora.server.reloading import Change

TIMEOUT_S: Final = 60.0
LINGERING: Final = 4
"""Old generations that may linger; the oldest beyond that end at once, for each holds memory and connections."""


class Owner(Protocol):
    """Whose processes a reload replaces.

    Attributes:
        config: For processes that are started from now on.
        generation: The same.
    """

    config: Config
    generation: int

    @property
    def children(self) -> Children:
        """The processes and their slots."""

    def after(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call later."""

    def reload_done(self, status: str) -> None:
        """The reload ended, well or not."""


class Reload:
    """One reload in progress.

    Roles that overlap start the new process first; the old one ends only when every new one is ready. The others end
    the old process first, once the new generation is sure to stay.
    """

    def __init__(self, owner: Owner, change: Change, answer: Answer) -> None:
        self._owner = owner
        self._children = owner.children
        self._change = change
        self._answer = answer
        self._old_config = owner.config
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Fork the new generation."""
        self._owner.config = self._change.effective
        self._owner.generation += 1
        try:
            for slot in self._overlapping():
                slot.next = self._children.spawn(slot)
        except OSError as error:
            self.abort(f"no process can be started: {error}")
            return
        crash_point("reload.forked")
        why = f"the new processes are not ready after {TIMEOUT_S:.0f} s"
        self._timer = self._owner.after(TIMEOUT_S, lambda: self.abort(why))

    def check(self) -> None:
        """Go on once every new process is ready."""
        if all(slot.next is not None and slot.next.ready for slot in self._overlapping()):
            self._commit()

    def abort(self, why: str) -> None:
        """Keep the old generation and the old configuration."""
        self._owner.config = self._old_config
        for slot in self._children.slots:
            if slot.next is not None:
                doomed, slot.next = slot.next, None
                doomed.draining = True
                doomed.kill(signal.SIGKILL)
        self._owner.reload_done("reload failed")
        self.finish({"error": f"reload failed, the old processes go on: {why}"})

    def finish(self, answer: Mapping[str, object]) -> None:
        """Answer whoever asked."""
        if self._timer is not None:
            self._timer.cancel()
        self._answer(answer)

    def _overlapping(self) -> Iterator[Slot]:
        return (slot for slot in self._children.slots if slot.role.overlaps)

    def _commit(self) -> None:
        """The new generation takes over; the old one may linger, with the new live values."""
        crash_point("reload.ready")
        owner = self._owner
        for slot in self._children.slots:
            self._take_over(slot)
        values = reloading.live_values(owner.config)
        for running in self._children.live.values():
            if running.draining:
                running.send(live=values)
        self._end_oldest()
        self._children.balance()
        crash_point("reload.taken_over")
        owner.reload_done(f"generation {owner.generation}")
        self.finish(
            {
                "reloaded": True,
                "generation": owner.generation,
                "changed": [*self._change.live, *self._change.worker],
                "restart_needed": list(self._change.restart),
            }
        )

    def _take_over(self, slot: Slot) -> None:
        slot.cancel_restart()
        old = slot.current
        if slot.role.overlaps:
            slot.current, slot.next = slot.next, None
        elif old is None:
            self._children.fill(slot)
        if old is not None:
            old.drain(self._owner.config.process.linger if slot.role.name == "worker" else 0.0)

    def _end_oldest(self) -> None:
        # Of those that linger. A role that does not overlap may be filled during a reload, and looks newer than it is.
        children = self._children.live.values()
        draining = [running for running in children if running.draining and running.slot.role.overlaps]
        too_old = sorted({running.generation for running in draining})[:-LINGERING]
        for running in draining:
            if running.generation in too_old:
                running.drain(0.0)
