"""The child's side of the fork: what a process of any role gets, and how it becomes one.

A child talks with the supervisor over one SEQPACKET socket, a JSON object per packet. It says `{"ready": true}` once,
or `{"failed": "one line"}` before it ends; it hears the commands of `Process`.

It ends when the supervisor says so, on SIGTERM, when the supervisor is gone (the kernel sends SIGTERM then), and by an
alarm that only a beating heart puts off: nobody is left to kill an orphan that is stuck.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import uvloop

from sora import log
from sora.crashpoints import crash_point
from sora.errors import SoraError
from sora.server import metricfiles, reloading

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sora.config import Config
    from sora.server.listeners import Listeners
    from sora.server.scoreboard import Row
    from sora.server.shmqueue import Doorbell
    from sora.services.logins.limits import SharedCounts
    from sora.services.logins.remembered import Remembered

_logger = log.get(__name__)

BACKGROUND_NICE: Final = 10
"""Of processes whom no client waits for: a tenth of a worker's share where all of them want the processor."""
BEAT_S: Final = 1.0
PACKET: Final = 65536
MMAP_THRESHOLD: Final = 1024 * 1024
"""Larger blocks go back to the system when they are freed. glibc raises its own threshold to whatever was freed once,
and every thread that hashes passwords then keeps its 19 MiB for ever."""
_PR_SET_PDEATHSIG: Final = 1
_M_MMAP_THRESHOLD: Final = -3


@dataclass(slots=True)
class Child:
    """What the supervisor hands to a process at the fork.

    Attributes:
        role: `worker`, `uploader`, `janitor` or `http`.
        slot: Number inside the role.
        generation: Raised by each reload.
        config: Effective configuration of this generation.
        dsn: Of the primary.
        supervisor_pid: Whose child this is.
        row: This process's numbers.
        node_row: Numbers of the node, which outlive its processes.
        channel: Our end of the socket to the supervisor.
    """

    role: str
    slot: int
    generation: int
    config: Config
    dsn: str
    supervisor_pid: int
    row: Row
    node_row: Row
    channel: socket.socket
    listeners: Listeners
    doorbell: Doorbell
    counts: SharedCounts
    remembered: Remembered

    def say(self, **message: Any) -> None:
        """Tell the supervisor; one that died cannot be told, and we hear of that in another way."""
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            self.channel.send(orjson.dumps(message))


class Process:
    """A running child inside its event loop: heartbeat, commands, and the wish to end.

    Attributes:
        config: Changes when live keys do.
        stopping: No new work; sessions may linger.
        ending: The time to linger is over.
        on_serve: Takes the slots whose listeners this worker shall serve.
        on_live: Takes the configuration with new live values.
        on_beat: Called with every heartbeat, to write numbers to the row.
    """

    def __init__(self, child: Child) -> None:
        self.child = child
        self.config = child.config
        self.stopping = asyncio.Event()
        self.ending = asyncio.Event()
        self.on_serve: Callable[[Sequence[int]], Awaitable[None]] | None = None
        self.on_live: Callable[[Config], None] | None = None
        self.on_beat: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._commands: dict[str, Callable[[Any], None]] = {
            "serve": self._serve,
            "drain": self.drain,
            "live": self._live,
        }
        self._serving: asyncio.Task[None] | None = None
        self._end: asyncio.Handle | None = None
        self._end_at = math.inf

    def start(self) -> None:
        """Beat, and listen to the supervisor and to signals."""
        self._loop.set_exception_handler(_log_exception)
        self._loop.add_signal_handler(signal.SIGTERM, self.drain, 0.0)
        self.child.channel.setblocking(False)
        self._loop.add_reader(self.child.channel.fileno(), self._hear)
        self._beat()

    def ready(self) -> None:
        """Say that this process does its work."""
        if self.child.generation > 1:
            crash_point("reload.successor")
        if not self.stopping.is_set():
            self.child.row.state = "ready"
        self.child.say(ready=True)

    def drain(self, linger_s: float) -> None:
        """Ask the process to end; another call may shorten the time that sessions have, never prolong it."""
        self.child.row.state = "draining"
        self.stopping.set()
        when = self._loop.time() + linger_s
        if when < self._end_at:
            if self._end is not None:
                self._end.cancel()
            self._end_at = when  # uvloop's handle does not know it, if it is now
            self._end = self._loop.call_at(when, self.ending.set)

    def _hear(self) -> None:
        try:
            packet = self.child.channel.recv(PACKET)
        except BlockingIOError:
            return
        except ConnectionError:
            packet = b""
        if not packet:
            self._loop.remove_reader(self.child.channel.fileno())
            self.drain(0.0)
            return
        for command, argument in orjson.loads(packet).items():
            self._commands[command](argument)

    def _serve(self, slots: Sequence[int]) -> None:
        if self.on_serve is not None and not self.stopping.is_set():
            self._serving = self._loop.create_task(self._serve_after(self._serving, self.on_serve(slots)))

    async def _serve_after(self, before: asyncio.Task[None] | None, serve: Awaitable[None]) -> None:
        """Two orders must not overtake each other."""
        if before is not None:
            await asyncio.wait([before])
        await serve

    def _live(self, values: Mapping[str, Any]) -> None:
        self.config = reloading.apply_live(self.config, values)
        if self.on_live is not None:
            self.on_live(self.config)

    def _beat(self) -> None:
        self.child.row.beat()
        signal.alarm(int(2 * self.config.process.stuck_after) + 5)
        if self.on_beat is not None:
            self.on_beat()
        self._loop.call_later(BEAT_S, self._beat)


def run(child: Child, main: Callable[[Process], Awaitable[None]], *, nice: int = 0) -> int:
    """Be this child until it ends; gives the exit status."""
    _become(child)
    os.nice(nice)

    async def whole() -> None:
        process = Process(child)
        process.start()
        await main(process)

    try:
        uvloop.run(whole())
    except SoraError as error:
        _logger.error("process ends", extra={"detail": str(error)})
        child.say(failed=str(error))
        return 1
    except Exception as error:
        _logger.exception("process failed")
        child.say(failed=f"{child.role}: {type(error).__name__}: {error}")
        return 1
    return 0


def _become(child: Child) -> None:
    """Everything between the fork and the event loop."""
    # Ctrl-C reaches the whole foreground process group; the supervisor alone answers it, and ends us in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    _die_with(child.supervisor_pid)
    _give_memory_back()
    metricfiles.become(child.row.number)
    log.setup(child.config.log.format, child.config.log.level)
    log.bind(role=child.role, slot=child.slot)


def _die_with(supervisor_pid: int) -> None:
    """Have the kernel send SIGTERM when the supervisor is gone; end at once if that has happened already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != supervisor_pid:
        os._exit(1)


def _give_memory_back() -> None:
    """Fix the threshold of malloc; other C libraries than glibc have none."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def _log_exception(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """What nobody awaited: logged as a bug, with its traceback."""
    _logger.error(str(context.get("message", "unhandled")), exc_info=context.get("exception"))
