"""How the commands of a session end: what fails is noted, counted and timed, and a peer that only errs is shown out.

For the protocols whose commands come one after the other and have one answer each.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

from sora import errors, log, metrics
from sora.errors import AuthFailed, PeerGone, SoraError, WireError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Counter, Histogram

_log = log.get(__name__)

NO_COMMAND: Final = "none"
"""Metric label of what is no command."""


@cache
def _count(protocol: str, label: str, result: str) -> Counter:
    """`labels` of a metric costs as much as a small command, so each combination is looked up once."""
    return metrics.commands.labels(protocol, label, result)


@cache
def _seconds(protocol: str, label: str) -> Histogram:
    return metrics.command_seconds.labels(protocol, label)


class Outcome:
    """How one command ended.

    Attributes:
        label: For metrics and the log; a command that is known by now.
        failure: Why it was not done; None: it was.
    """

    __slots__ = ("failure", "label")

    def __init__(self) -> None:
        self.label = NO_COMMAND
        self.failure: SoraError | None = None


class Tally:
    """The commands of one session.

    Attributes:
        commands: So many.
        bad_in_a_row: Syntax errors and failed logins since the last command that was done.
    """

    __slots__ = ("_protocol", "bad_in_a_row", "commands")

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self.commands = 0
        self.bad_in_a_row = 0

    @contextmanager
    def command(self) -> Iterator[Outcome]:
        """Run a command inside. Its failure does not come out, but for that of the connection."""
        started_mono, outcome = time.monotonic(), Outcome()
        try:
            yield outcome
        except (PeerGone, TimeoutError):
            raise
        except SoraError as error:
            outcome.failure = error
        except Exception:
            _log.exception("command failed", extra={"command": outcome.label})
            outcome.failure = errors.Unavailable("Internal error, try again later")
        _seconds(self._protocol, outcome.label).observe(time.monotonic() - started_mono)
        self.note(outcome.label, outcome.failure)

    def note(self, label: str, failure: SoraError | None) -> None:
        """Count a command, or what was none."""
        self.commands += 1
        down = isinstance(failure, errors.Unavailable)
        _count(self._protocol, label, "ok" if failure is None else "failed" if down else "refused").inc()
        if down:
            _log.warning("command not done", extra={"command": label, "detail": str(failure)})
        if failure is None:
            self.bad_in_a_row = 0
        elif isinstance(failure, WireError | AuthFailed):
            self.bad_in_a_row += 1
