"""The supervisor: opens the listeners, forks the processes, and keeps both.

It has no event loop and no thread; one `selectors` loop waits for signals, for packets of the children and for requests
of `soractl`. Why a reload loses no connection:

- The listening sockets are its own and stay open as long as it lives. Worker slot i serves a duplicate of socket i. A
  connection waits in the socket's queue, not in a process, so whoever serves the socket next gets it.
- A reload forks the new generation on the same sockets and waits until all of it is ready; only then the old generation
  stops to accept, and lingers until its sessions end.
- Every socket always has a live acceptor: while a slot has no worker, another worker serves the slot's socket too.
- An upgrade executes the new release in this very process, which inherits the sockets and the children, and then
  reloads (see `handover`).

Children are forked from this process after everything is imported and frozen, so they share its memory; `children`
keeps them.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sora import config as configuration
from sora import log
from sora.errors import SoraError, Unavailable
from sora.server import handover, notify, reloading, status
from sora.server.child import Child
from sora.server.children import Children
from sora.server.control import ControlServer
from sora.server.embedded_pg import EmbeddedPostgres
from sora.server.generations import Reload
from sora.server.handover import Handover
from sora.server.listeners import HTTP_SERVERS, Listeners
from sora.server.postmaster import Postmaster
from sora.server.processes import ROLES, Slot, peek_ended, preload
from sora.server.reactor import Reactor, Timer
from sora.server.shared import Shared
from sora.server.upgrading import trial

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from sora.config import Config
    from sora.server.children import Main
    from sora.server.control import Answer, Verb
    from sora.server.processes import Role
    from sora.server.runtime import Runtime
    from sora.server.scoreboard import Row

_logger = log.get(__name__)

TICK_S: Final = 1.0
GRACE_S: Final = 5.0
"""What a process may take to end after its sessions are gone."""
OPEN_FILES: Final = 1_048_576


class Supervisor:
    """One run of Sora.

    Args:
        path: Of the configuration file, read again by a reload.
        config: What it says now.
        runtime: Its lock is ours; given back at the end.
        prepare: Runs in a child of its own once PostgreSQL accepts and before anything else starts; gives the exit
            status, and says `failed` if that is not 0.
        on_ready: Called once, when every listener accepts.
        start_timeout_s: Give up if that takes longer; None: never.
        roles: What runs.
        successor: Command of the program that an upgrade executes, see `upgrading`.
        handed: State of the program that this process ran before; it goes on from there.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        runtime: Runtime,
        *,
        prepare: Main | None = None,
        on_ready: Callable[[Supervisor], None] | None = None,
        start_timeout_s: float | None = None,
        roles: Sequence[Role] = ROLES,
        successor: Sequence[str] = (),
        handed: Handover | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self.generation = 1 if handed is None else handed.generation
        self.state = "starting" if handed is None else "running"
        self.listeners = Listeners()
        self._prepare = prepare
        self._on_ready = on_ready
        self._start_timeout_s = start_timeout_s
        self._runtime = runtime
        self._started_mono = time.monotonic() if handed is None else handed.started_mono
        self._failure = ""
        self._roles = roles
        self._successor = successor
        self._handed = handed
        self._workers = (config.process.workers or len(os.sched_getaffinity(0))) if handed is None else handed.workers
        self._reload: Reload | None = None
        self._postmaster: Postmaster | None = None
        self._control: ControlServer | None = None
        self._reactor = Reactor()
        self._shared = Shared(self._workers, None if handed is None else handed.shared)
        slots = [Slot(role, number) for role in roles for number in range(self._count(role.name))]
        self.children = Children(self, self._reactor, self._shared.scoreboard, slots)
        self._done = False

    # ------------------------------------------------------------------ life

    def run(self) -> None:
        """Start, work until told to stop, stop.

        Raises:
            ConfigError, Unavailable: It could not start; one line says why.
        """
        # Handlers first: a signal during the start must end it in order.
        self._reactor.handle(
            {
                signal.SIGTERM: self.stop,
                signal.SIGINT: self.stop,
                signal.SIGHUP: self._hangup,
                signal.SIGUSR2: self._upgrade_signal,
                signal.SIGCHLD: self._reap,
            }
        )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handover.SIGNALS)  # held back since an upgrade began
        try:
            if self._handed is None:
                self._open()
            else:
                self._resume(self._handed)
            while not self._done:
                self._reactor.step()
        finally:
            self._close()
        if self._failure:
            raise Unavailable(self._failure)

    def stop(self) -> None:
        """Let every process finish what it has in hand, and end. A second call does not wait for them."""
        if self.state == "stopping":
            self.children.kill_all()
            return
        _logger.info("stopping")
        self.state = "stopping"
        notify.stopping()
        if self._reload is not None:
            self._reload.finish({"error": "Sora is being stopped"})
            self._reload = None
        self.children.end_all()
        self._reactor.after(self.config.process.drain_timeout + GRACE_S, self.children.kill_all)
        self._finish_if_empty()

    def _open(self) -> None:
        """Everything up to the first fork."""
        _raise_open_files()
        reloading.check_files(self.config)
        self.listeners = Listeners.open(self.config, self._workers, notify.take_listen_fds())
        self._control = ControlServer(self._runtime.control, self._reactor, self._verbs())
        preload(self._roles)
        self._begin_ticking()
        if self._start_timeout_s is not None:
            self._reactor.after(self._start_timeout_s, self._start_timeout)
        if self.config.database.embedded:
            self._make_postmaster().start()
        else:
            self._database_ready()

    def _begin_ticking(self) -> None:
        self._reactor.every(TICK_S, self.children.look)
        if watchdog_s := notify.watchdog_interval():
            self._reactor.every(watchdog_s, notify.alive)

    def _make_postmaster(self) -> Postmaster:
        self._postgres = EmbeddedPostgres(self.config.database.embedded)
        self._postmaster = Postmaster(self._postgres, self._reactor, self._database_ready, self.start_failed)
        return self._postmaster

    @property
    def _dsn(self) -> str:
        return self._postgres.dsn if self.config.database.embedded else self.config.database.primary

    def _database_ready(self) -> None:
        if self.state == "starting":
            self._prepare_then(self._start_all)

    def _prepare_then(self, done: Callable[[str], None]) -> None:
        if self._prepare is None:
            done("")
        else:
            self.children.send_on_errand(self._prepare, done)

    def _start_all(self, problem: str) -> None:
        if problem:
            self.start_failed(problem)
        elif self.state == "starting":
            for slot in self.children.slots:
                slot.current = self.children.spawn(slot)

    def _announce_if_ready(self) -> None:
        if self.state == "starting" and self.children.all_ready:
            self.state = "running"
            _logger.info("ready", extra={"ports": self.listeners.ports()})
            if self._on_ready is not None:
                self._on_ready(self)
            notify.ready(f"{len(self.children.slots)} processes")

    def _start_timeout(self) -> None:
        if self.state == "starting":
            waiting = (slot for slot in self.children.slots if not (slot.current and slot.current.ready))
            names = ", ".join(f"{slot.role.name} {slot.number}" for slot in waiting)
            self.start_failed(f"not ready after {self._start_timeout_s:.0f} s, waiting for {names}")

    def start_failed(self, why: str) -> None:
        """If it did not start yet: give up."""
        if self.state == "starting":
            self._failure = why
            self.stop()

    def _finish_if_empty(self) -> None:
        if self.state == "stopping" and not self.children.live:
            self._done = True

    def _close(self) -> None:
        for running in self.children.live.values():  # only after an error in this process
            running.kill(signal.SIGKILL)
            os.waitpid(running.pid, 0)
        if self._postmaster is not None:
            self._postmaster.stop()
        self.listeners.close()
        if self._control is not None:
            self._control.close()
        self._reactor.close()
        # The lock goes with this process: `soractl stop` waits for it, and promises that nothing is left.
        _logger.info("stopped")

    # ------------------------------------------------------------------ processes

    def _count(self, role: str) -> int:
        """How many processes of a role run."""
        if role == "worker":
            return self._workers
        if role == "http":
            return int(any(name in HTTP_SERVERS for name, _ in self.config.servers.items()))
        return 1

    def bequeath(self, slot: Slot, row: Row, channel: socket.socket, supervisor_pid: int) -> Child:
        """In a child: let go of what is ours alone, and keep what the child needs."""
        self._reactor.close()
        if self._control is not None:
            self._control.close(unlink=False)
        return Child(
            role=slot.role.name,
            slot=slot.number,
            generation=self.generation,
            config=self.config,
            dsn=self._dsn,
            supervisor_pid=supervisor_pid,
            row=row,
            node_row=self._shared.node_row,
            channel=channel,
            listeners=self.listeners,
            doorbell=self._shared.doorbell,
            counts=self._shared.counts,
            remembered=self._shared.remembered,
        )

    def child_ready(self) -> None:
        """Whoever waits for it goes on."""
        if self._reload is not None:
            self._reload.check()
        self._announce_if_ready()

    def successor_ended(self, why: str) -> None:
        """The reload that had started it has failed."""
        if self._reload is not None:
            self._reload.abort(why)

    def _reap(self) -> None:
        """Collect every process that ended."""
        if self._postmaster is not None:
            self._postmaster.reap()
        while (pid := peek_ended()) is not None:
            if self._postmaster is not None and pid == self._postmaster.pid:
                self._postmaster.reap()
            else:
                _, status = os.waitpid(pid, 0)
                self.children.ended(pid, os.waitstatus_to_exitcode(status))
        self._finish_if_empty()

    # ------------------------------------------------------------------ reload

    def _hangup(self) -> None:
        self.reload(lambda answer: _logger.info("reload", extra=dict(answer)))

    def reload(self, answer: Answer) -> None:
        """Read the configuration again and replace the processes; answers when the new ones are ready."""
        if self.state != "running":
            answer({"error": f"Sora is {self.state}"})
            return
        if self._busy:
            answer({"error": "a reload is in progress"})
            return
        notify.reloading()
        self._begin_reload(answer)

    @property
    def _busy(self) -> bool:
        """True during a reload or an upgrade."""
        return self._reload is not None or self.children.on_errand

    def _begin_reload(self, answer: Answer) -> None:
        try:
            change = reloading.classify(self.config, configuration.load(self.path))
            reloading.check_files(change.effective)
        except SoraError as error:
            notify.ready("reload refused")
            answer({"error": str(error)})
            return
        self._reload = Reload(self, change, answer)
        self._reload.begin()

    def reload_done(self, status: str) -> None:
        """A reload ended, well or not."""
        self._reload = None
        notify.ready(status)

    def after(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """A timer of the supervisor's loop."""
        return self._reactor.after(delay_s, callback)

    # ------------------------------------------------------------------ upgrade

    def _upgrade_signal(self) -> None:
        self.upgrade(lambda answer: _logger.info("upgrade", extra=dict(answer)))

    def upgrade(self, answer: Answer) -> None:
        """Become the release that is installed now; answers only if that cannot be, else the successor does.

        Before it begins the new release says whether it can go on with our state: whatever is wrong with it, this
        program goes on.
        """
        if self.state != "running" or self._busy or not self._successor:
            answer({"error": f"Sora is {self.state}" if self.state != "running" else "a reload is in progress"})
            return
        notify.reloading()

        def tried(problem: str) -> None:
            if not problem and self.state == "running":
                problem = self._execute()
            if self.state == "running":
                notify.ready("upgrade refused")
            answer({"error": f"not upgraded, the old release goes on: {problem or 'Sora is being stopped'}"})

        self.children.send_on_errand(trial(self._successor, self._hand_over()), tried)

    def _execute(self) -> str:
        """Become the successor; comes back only with the reason why that cannot be."""
        signal.pthread_sigmask(signal.SIG_BLOCK, handover.SIGNALS)
        self._reactor.flush_signals()  # what came before is ours, what comes from here on is the successor's
        try:
            if self.state == "running":
                _logger.info("executing the successor", extra={"command": " ".join(self._successor)})
                handover.execute(self._successor, self._hand_over())
        except OSError as error:
            return f"{self._successor[0]}: {error.strerror}"
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, handover.SIGNALS)
        return ""

    def _hand_over(self) -> Handover:
        assert self._control is not None
        return Handover(
            path=str(self.path),
            config=msgspec.to_builtins(self.config),
            generation=self.generation,
            started_mono=self._started_mono,
            workers=self._workers,
            lock=self._runtime.lock_fd,
            control=self._control.hand_over(),
            listeners=self.listeners.hand_over(),
            shared=self._shared.hand_over(),
            postgres=self._postmaster.pid if self._postmaster is not None else None,
            restarts=[(slot.role.name, slot.number, slot.restarts) for slot in self.children.slots],
            processes=self.children.hand_over(),
        )

    def _resume(self, handed: Handover) -> None:
        """Go on where the program before us stopped, and replace its processes by ours."""
        self.listeners = Listeners.take_over(handed.listeners)
        self._control = ControlServer(self._runtime.control, self._reactor, self._verbs(), handed.control)
        preload(self._roles)
        self._begin_ticking()
        self.children.adopt(handed.processes, handed.restarts)
        if self.config.database.embedded:
            postmaster = self._make_postmaster()
            if handed.postgres is not None:
                postmaster.adopt(handed.postgres)
            else:
                postmaster.start()
        self._reap()  # who ended while nobody looked
        self._prepare_then(self._upgraded)

    def _upgraded(self, problem: str) -> None:
        assert self._control is not None
        waiting = self._control.answer_waiting
        if problem:
            _logger.error("upgraded, but the old processes go on", extra={"detail": problem})
            if self.state == "running":
                notify.ready("upgraded, with the old processes")
            waiting({"error": f"the supervisor is upgraded, but the old processes go on: {problem}"})
        elif self.state == "running":
            self._begin_reload(lambda answer: waiting(answer if "error" in answer else {**answer, "upgraded": True}))

    # ------------------------------------------------------------------ control verbs

    def _verbs(self) -> dict[str, Verb]:
        return {
            "status": lambda _, answer: answer(self.status()),
            "reload": lambda _, answer: self.reload(answer),
            "upgrade": lambda _, answer: self.upgrade(answer),
            "stop": self._stop_verb,
        }

    def _stop_verb(self, request: Mapping[str, Any], answer: Answer) -> None:
        answer({"stopping": True, "pid": os.getpid()})
        if self.state != "stopping":
            self.stop()

    def status(self) -> dict[str, Any]:
        """What `soractl status --json` shows."""
        postmaster = self._postmaster
        return status.describe(
            "reloading" if self.state == "running" and self._busy else self.state,
            {
                "pid": os.getpid(),
                "generation": self.generation,
                "uptime_s": round(time.monotonic() - self._started_mono, 3),
                "postgres_pid": postmaster.pid if postmaster is not None else None,
            },
            list(self.children),
            self._roles,
            database_down=postmaster is not None and not postmaster.ready,
        )


def _raise_open_files() -> None:
    """One descriptor per connection, and two more for each that reads a body."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(hard, OPEN_FILES), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):
            continue  # beyond what an ordinary user, or the kernel, allows
        return
    _logger.warning("limit of open files stays", extra={"soft": soft, "hard": hard})
