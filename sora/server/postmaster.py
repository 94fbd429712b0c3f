"""The embedded PostgreSQL as a child of the supervisor: started, watched, started again, stopped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sora import log
from sora.errors import ConfigError
from sora.server.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.server.embedded_pg import EmbeddedPostgres
    from sora.server.reactor import Reactor

_logger = log.get(__name__)
_POLL_S: Final = 0.05
SLOW_S: Final = 30.0
"""A postmaster that recovers for so long is mentioned in the log."""


class Postmaster:
    """Keeps one PostgreSQL up. Workers reconnect by themselves.

    Args:
        on_ready: Called when it accepts for the first time.
        on_failed: Called with one line if it ends before that.
    """

    def __init__(
        self,
        postgres: EmbeddedPostgres,
        reactor: Reactor,
        on_ready: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self._postgres = postgres
        self._reactor = reactor
        self._on_ready: Callable[[], None] | None = on_ready
        self._on_failed = on_failed
        self._backoff = Backoff()
        self._started_mono = 0.0
        self._slow_logged = False
        self._stopped = False
        self.ready = False

    @property
    def pid(self) -> int | None:
        """The postmaster's, while it lives."""
        return self._postgres.pid

    def start(self) -> None:
        """Make the cluster if there is none (this takes seconds) and start it.

        Raises:
            ConfigError: No usable PostgreSQL or directory.
        """
        self._postgres.prepare()
        self._spawn()

    def adopt(self, pid: int) -> None:
        """Go on with a postmaster that this process started before it became this program."""
        self._on_ready = None
        self._postgres.adopt(pid)
        self._started_mono = time.monotonic()
        self._await_ready()

    def reap(self) -> None:
        """After SIGCHLD: see whether it ended, and plan its return."""
        if self._stopped or not self._started_mono or self._postgres.poll() is None:
            return
        lived_s, self._started_mono = time.monotonic() - self._started_mono, 0.0
        was_ready, self.ready = self.ready, False
        if self._on_ready is not None:
            self._on_failed(f"PostgreSQL did not start: see {self._postgres.log_path}")
            return
        delay_s = self._backoff.died(lived_s)
        _logger.error("PostgreSQL ended", extra={"was_ready": was_ready, "restart_in_s": delay_s})
        self._reactor.after(delay_s, self._spawn)

    def stop(self) -> None:
        """Shut it down and wait."""
        self._stopped = True
        self.ready = False
        self._postgres.stop()

    def _spawn(self) -> None:
        if self._stopped:
            return
        try:
            self._postgres.spawn()
        except (ConfigError, OSError) as error:
            delay_s = self._backoff.died(0.0)
            _logger.error("PostgreSQL cannot be started", extra={"detail": str(error), "retry_in_s": delay_s})
            self._reactor.after(max(delay_s, 1.0), self._spawn)
            return
        self._started_mono = time.monotonic()
        self._slow_logged = False
        self._await_ready()

    def _await_ready(self) -> None:
        if self._stopped or not self._started_mono:
            return
        if not self._postgres.is_ready():
            self._mention_slow()
            self._reactor.after(_POLL_S, self._await_ready)
            return
        self.ready = True
        _logger.info("PostgreSQL accepts", extra={"postgres_pid": self.pid})
        on_ready, self._on_ready = self._on_ready, None
        if on_ready is not None:
            on_ready()

    def _mention_slow(self) -> None:
        if not self._slow_logged and time.monotonic() - self._started_mono > SLOW_S:
            self._slow_logged = True
            _logger.warning("PostgreSQL still recovers", extra={"postgres_pid": self.pid})
