"""The processes of a supervisor: forked into their slots, heard, watched, and replaced when they end.

A child that dies is back at once the first time, and after growing pauses if it dies again and again. One whose heart
does not beat is killed. While a worker slot has no worker, another worker serves the slot's listeners too.
"""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import os
import signal
import socket
import time
import traceback
from typing import TYPE_CHECKING, Final, Protocol

from sora import log
from sora.server import metricfiles
from sora.server.processes import Role, Running, Slot, assign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sora.config import Config
    from sora.server.child import Child
    from sora.server.processes import ProcessState
    from sora.server.reactor import Reactor
    from sora.server.scoreboard import Row, Scoreboard

    Main = Callable[[Child], int]

_logger = log.get(__name__)

ASLEEP_S: Final = 5.0
"""Hearts that were looked at so long ago: this process did not run, which does not make the children silent."""
QUICK_DEATHS: Final = 3
"""A start in which one process dies so often has failed."""
RETRY_S: Final = 1.0
"""Pause at least, when the machine could not make a process."""
_ERRAND: Final = Role("errand", "", False)


class Owner(Protocol):
    """Whose children they are.

    Attributes:
        state: `starting`, `running` or `stopping`.
        config: For processes that are started from now on.
        generation: The same.
    """

    state: str
    config: Config
    generation: int

    def bequeath(self, slot: Slot, row: Row, channel: socket.socket, supervisor_pid: int) -> Child:
        """In a new process: close what is the owner's alone; gives what the child needs."""

    def child_ready(self) -> None:
        """One more process does its work."""

    def successor_ended(self, why: str) -> None:
        """A process that a reload had started did not live."""

    def start_failed(self, why: str) -> None:
        """A process cannot live."""


class Children:
    """Every live process, and the slots that they fill.

    Attributes:
        slots: In the order of `status`.
        live: By pid.
    """

    def __init__(self, owner: Owner, reactor: Reactor, scoreboard: Scoreboard, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self.live: dict[int, Running] = {}
        self._owner = owner
        self._reactor = reactor
        self._scoreboard = scoreboard
        self._errand: Running | None = None
        self._errand_done: Callable[[str], None] | None = None
        self._looked_mono = time.monotonic()

    # ------------------------------------------------------------------ begin

    def spawn(self, slot: Slot) -> Running:
        """Start a process for a slot; whether it is `next` or `current` there is for the caller to say.

        Raises:
            OSError: The machine cannot make one now; nothing is left of it.
        """
        return self._fork(slot, importlib.import_module(slot.role.module).run)

    def fill(self, slot: Slot) -> None:
        """Start the process of an empty slot; if the machine cannot make one now, it comes later."""
        slot.timer = None
        try:
            slot.current = self.spawn(slot)
        except OSError as error:
            delay_s = max(slot.backoff.died(0.0), RETRY_S)
            _logger.error(
                "process cannot be started",
                extra={"role": slot.role.name, "slot": slot.number, "detail": str(error), "retry_in_s": delay_s},
            )
            self._fill_later(slot, delay_s)

    def _fill_later(self, slot: Slot, delay_s: float) -> None:
        slot.timer = self._reactor.after(delay_s, functools.partial(self.fill, slot))

    def send_on_errand(self, run: Main, done: Callable[[str], None]) -> None:
        """Have a process of its own do something; `done` gets what went wrong, or nothing."""
        self._errand_done = done
        try:
            self._errand = self._fork(Slot(_ERRAND, 0), run)
        except OSError as error:
            done(f"no process can be started: {error.strerror}")

    @property
    def on_errand(self) -> bool:
        """True while a process is out."""
        return self._errand is not None

    def _fork(self, slot: Slot, run: Main) -> Running:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        row = self._scoreboard.take()
        supervisor_pid = os.getpid()
        gc.collect()
        gc.freeze()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            self._scoreboard.release(row)
            raise
        if pid == 0:
            self._be_child(slot, run, row, theirs, supervisor_pid)
        theirs.close()
        running = Running(pid, slot, self._owner.generation, row, ours)
        self._keep(running)
        _logger.info("process started", extra=_who(running))
        return running

    def _be_child(self, slot: Slot, run: Main, row: Row, channel: socket.socket, supervisor_pid: int) -> None:
        """The child from the fork to its end; never returns."""
        status = 1
        try:
            for running in self.live.values():
                running.channel.close()
            status = run(self._owner.bequeath(slot, row, channel, supervisor_pid))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def adopt(self, states: Iterable[ProcessState], restarts: Iterable[tuple[str, int, int]]) -> None:
        """Go on with processes that the program before us started; slots that are empty then are filled.

        Args:
            restarts: Of each slot, by role and number.
        """
        slots = {(slot.role.name, slot.number): slot for slot in self.slots}
        for role, number, count in restarts:
            if (role, number) in slots:
                slots[role, number].restarts = count
        for state in states:
            ours = slots.get((state.role, state.slot))
            slot = ours or Slot(Role(state.role, "", False), state.slot)
            running = Running.adopt(state, slot, self._scoreboard.retake(state.row))
            self._keep(running)
            if ours is None:
                running.drain(0.0)  # this release has no such process
            elif not running.draining:
                slot.current = running
        for slot in self.slots:
            if slot.current is None:
                self._fill_later(slot, 0.0)

    def _keep(self, running: Running) -> None:
        self.live[running.pid] = running
        self._reactor.watch(running.channel, lambda: self._heard(running))

    # ------------------------------------------------------------------ live

    def __iter__(self) -> Iterator[Running]:
        """Those who do the work, in the order of their start."""
        return (running for running in self.live.values() if running is not self._errand)

    @property
    def all_ready(self) -> bool:
        """True if every slot has a process that does its work."""
        return all(slot.current is not None and slot.current.ready for slot in self.slots)

    def _heard(self, running: Running) -> None:
        """Packets of a child."""
        for message in running.hear():
            if message.get("ready"):
                running.ready = True
                _logger.info("process ready", extra=_who(running))
                self.balance()
                self._owner.child_ready()
            running.failed = message.get("failed", running.failed)
            running.stranded = message.get("stranded", running.stranded)
        if running.hung_up:
            self._reactor.unwatch(running.channel)

    def balance(self) -> None:
        """Give every worker slot's listeners a live acceptor."""
        workers = [slot for slot in self.slots if slot.role.name == "worker"]
        live = {
            slot.number: slot.current
            for slot in workers
            if slot.current is not None and slot.current.ready and not slot.current.draining
        }
        for number, serving in assign(len(workers), live).items():
            running = live[number]
            if list(running.serving) != serving:
                running.serving = serving
                running.send(serve=serving)

    def look(self) -> None:
        """Look at the hearts; a process that is stuck is killed."""
        now = time.monotonic()
        late, self._looked_mono = now - self._looked_mono > ASLEEP_S, now
        for running in self:
            if late:
                running.forgive(now)
            elif running.silent_s(now) > self._owner.config.process.stuck_after:
                _logger.error("process is stuck; killing it", extra=_who(running))
                running.kill(signal.SIGKILL)

    # ------------------------------------------------------------------ end

    def ended(self, pid: int, status: int) -> None:
        """A process was collected; it may be one that we never started (in a container we may be process 1)."""
        running = self.live.pop(pid, None)
        if running is None:
            return
        self._bury(running, status)
        slot = running.slot
        if running is self._errand:
            self._errand_ended(running, status)
        elif running is slot.next:
            slot.next = None
            self._owner.successor_ended(running.failed or f"the new {slot.role.name} {slot.number} ended with {status}")
        elif running is slot.current:
            slot.current = None
            if self._owner.state != "stopping":
                self._replace(slot, running)

    def _bury(self, running: Running, status: int) -> None:
        """Its last words, and whatever we had of it."""
        if not running.hung_up:
            self._heard(running)
        if not running.hung_up:
            self._reactor.unwatch(running.channel)
        running.channel.close()
        self._scoreboard.release(running.row)
        metricfiles.forget(running.row.number)
        wanted = status == 0 and (running.draining or running is self._errand)
        level = logging.INFO if wanted else logging.ERROR
        _logger.log(level, "process ended", extra={**_who(running), "status": status})

    def _errand_ended(self, running: Running, status: int) -> None:
        done, self._errand, self._errand_done = self._errand_done, None, None
        assert done is not None
        done((running.failed or f"a process that prepares ended with {status}") if status else "")

    def _replace(self, slot: Slot, dead: Running) -> None:
        """Plan the return of a process that ended."""
        if dead.draining and not slot.role.overlaps:  # a reload told it to make room
            self.fill(slot)
            return
        slot.restarts += 1
        if self._owner.state == "starting" and (dead.failed or slot.restarts >= QUICK_DEATHS):
            name = f"{slot.role.name} {slot.number}"
            self._owner.start_failed(dead.failed or f"{name} died {slot.restarts} times, see the log")
            return
        self._fill_later(slot, slot.backoff.died(dead.uptime_s))
        self.balance()

    def end_all(self) -> None:
        """Ask every process to end, and start none any more."""
        for slot in self.slots:
            slot.cancel_restart()
        for running in self.live.values():
            running.draining = True
            running.kill(signal.SIGTERM)

    def kill_all(self) -> None:
        """End those that did not end when they were asked."""
        for running in self.live.values():
            _logger.warning("killing a process that does not end", extra=_who(running))
            running.kill(signal.SIGKILL)

    def hand_over(self) -> list[ProcessState]:
        """For the program that this process is about to run."""
        return [running.hand_over() for running in self.live.values() if not running.hung_up]


def _who(running: Running) -> dict[str, object]:
    """Fields of a line in the log."""
    return {"role": running.slot.role.name, "slot": running.slot.number, "child_pid": running.pid}
