"""Children as the supervisor sees them: slots, the processes that fill them, and who serves whose listener."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Final

import orjson
from msgspec import Struct

from sora import log
from sora.server.backoff import Backoff
from sora.server.child import PACKET

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sora.server.reactor import Timer
    from sora.server.scoreboard import Row

_logger = log.get(__name__)


class Role(Struct, frozen=True):
    """A kind of child.

    Attributes:
        module: Has `run(child) -> int`.
        overlaps: A reload starts the new process while the old one works; otherwise the old one ends first.
    """

    name: str
    module: str
    overlaps: bool


ROLES: Final = (
    Role("worker", "sora.server.worker", True),
    Role("uploader", "sora.server.uploader", False),  # the doorbell has one listener
    Role("janitor", "sora.server.janitor", False),
    Role("http", "sora.server.httpd", True),
)


class ProcessState(Struct, frozen=True):
    """One live process for a successor of the supervisor; see `Running`."""

    pid: int
    role: str
    slot: int
    generation: int
    row: int
    channel: int
    started_mono: float
    ready: bool
    draining: bool
    serving: list[int]


class Running:
    """One live process.

    Attributes:
        ready: It said so.
        draining: It was told to end.
        failed: Why it could not start, in its own words; empty: it did not say.
        hung_up: It closed its end; nothing more will be heard.
        serving: Slots whose listeners it was told to serve.
        stranded: What the uploader last said of silent nodes.
    """

    __slots__ = (
        "_beat", "_beat_mono", "channel", "draining", "failed", "generation", "hung_up", "pid", "ready", "row",
        "serving", "slot", "started_mono", "stranded",
    )  # fmt: skip

    def __init__(self, pid: int, slot: Slot, generation: int, row: Row, channel: socket.socket) -> None:
        self.pid = pid
        self.slot = slot
        self.generation = generation
        self.row = row
        self.channel = channel
        self.started_mono = time.monotonic()
        self.ready = False
        self.draining = False
        self.failed = ""
        self.hung_up = False
        self.stranded: list[dict[str, Any]] = []
        self.serving: Sequence[int] = (slot.number,)
        self._beat = 0
        self._beat_mono = self.started_mono

    @classmethod
    def adopt(cls, state: ProcessState, slot: Slot, row: Row) -> Running:
        """A process that the program before us started."""
        channel = socket.socket(fileno=state.channel)
        channel.setblocking(False)
        running = cls(state.pid, slot, state.generation, row, channel)
        running.started_mono = state.started_mono
        running.ready = state.ready
        running.draining = state.draining
        running.serving = tuple(state.serving)
        return running

    def hand_over(self) -> ProcessState:
        """For the program that this process is about to run."""
        return ProcessState(
            self.pid,
            self.slot.role.name,
            self.slot.number,
            self.generation,
            self.row.number,
            self.channel.fileno(),
            self.started_mono,
            self.ready,
            self.draining,
            list(self.serving),
        )

    @property
    def uptime_s(self) -> float:
        """Seconds since the fork."""
        return time.monotonic() - self.started_mono

    @property
    def state(self) -> str:
        """`starting`, `ready` or `draining`."""
        return "draining" if self.draining else self.row.state

    def send(self, **message: Any) -> None:
        """Give an order. One whose queue is full has not listened for hundreds of orders: it is stuck, and killed."""
        try:
            self.channel.send(orjson.dumps(message))
        except BlockingIOError:
            _logger.error("process does not take orders; killing it", extra={"child_pid": self.pid})
            self.kill(signal.SIGKILL)
        except ConnectionError:
            return  # it ends; SIGCHLD follows

    def drain(self, linger_s: float) -> None:
        """Tell it to end; its sessions may stay for a while."""
        self.draining = True
        self.send(drain=linger_s)

    def kill(self, number: int) -> None:
        """Send a signal. The pid is ours until we reap it."""
        os.kill(self.pid, number)

    def hear(self) -> list[dict[str, Any]]:
        """What it said since."""
        messages: list[dict[str, Any]] = []
        while True:
            try:
                packet = self.channel.recv(PACKET)
            except BlockingIOError:
                return messages
            except ConnectionError:
                packet = b""
            if not packet:
                self.hung_up = True
                return messages
            messages.append(orjson.loads(packet))

    def silent_s(self, now: float) -> float:
        """Seconds since its last heartbeat."""
        beat = self.row.get("heartbeat")
        if beat != self._beat:
            self._beat, self._beat_mono = beat, now
        return now - self._beat_mono

    def forgive(self, now: float) -> None:
        """Count its silence from now: it was we who did not look."""
        self._beat_mono = now

    def status(self, restarts: int) -> dict[str, Any]:
        """One entry of `status --json`."""
        return {
            "role": self.slot.role.name,
            "slot": self.slot.number,
            "pid": self.pid,
            "generation": self.generation,
            "state": self.state,
            "restarts": restarts,
            "uptime_s": round(self.uptime_s, 3),
            "connections": self.row.connections(),
        }


class Slot:
    """A place that one process of a role fills.

    Attributes:
        current: Does the work; None while it is dead and waits for its restart.
        next: Of a reload in progress.
        restarts: Deaths that nobody asked for.
        timer: The restart to come.
    """

    __slots__ = ("backoff", "current", "next", "number", "restarts", "role", "timer")

    def __init__(self, role: Role, number: int) -> None:
        self.role = role
        self.number = number
        self.backoff = Backoff()
        self.restarts = 0
        self.current: Running | None = None
        self.next: Running | None = None
        self.timer: Timer | None = None

    def cancel_restart(self) -> None:
        """Forget the restart to come."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def assign(slots: int, live: Iterable[int]) -> dict[int, list[int]]:
    """Who serves whose listener: every live worker its own, and the orphaned ones spread over the live.

    Args:
        slots: Number of worker slots.
        live: Slots whose worker is ready.

    Returns:
        For each live slot the slots it serves, its own first. Empty if nobody is live: connections wait in the queues.
    """
    serving = {slot: [slot] for slot in sorted(live)}
    for orphan in range(slots):
        if orphan not in serving and serving:
            laziest = min(serving, key=lambda slot: (len(serving[slot]), slot))
            serving[laziest].append(orphan)
    return serving


def peek_ended() -> int | None:
    """Pid of a child that ended and was not collected yet."""
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return info.si_pid if info is not None else None


def preload(roles: Sequence[Role]) -> None:
    """Whatever children run, imported once, so that they share the memory of it."""
    for role in roles:
        module = importlib.import_module(role.module)
        getattr(module, "preload", lambda: None)()
