"""INPROGRESS (RFC 9585): a client that waits for a long command hears that it goes on, and how far it is.

A notice may only stand between two responses. So a command says from where to where it computes and writes nothing
(`working`); the notices come in that time alone, from a timer, also while one statement runs for minutes.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from sora.wire.imap_syntax import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sora.protocols.imap.session import Session

FIRST_S: Final = 2.0
AGAIN_S: Final = 5.0


class Timer(Protocol):
    """What `call_later` gives."""

    def cancel(self) -> None:
        """Do not call."""


class Clock(Protocol):
    """The part of an event loop that is needed: to be called after so many seconds."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        """Call back."""


class Progress:
    """How far a command is.

    Args:
        tell: Sends a response to the client.
        goal: How many messages there are to do; None: not known.
    """

    __slots__ = ("_clock", "_tag", "_tell", "_timer", "done", "goal")

    def __init__(self, tell: Callable[[bytes], None], tag: bytes, goal: int | None, clock: Clock) -> None:
        self.done = 0
        self.goal = goal
        self._tell = tell
        self._tag = tag
        self._clock = clock
        self._timer = clock.call_later(FIRST_S, self._notice)

    def end(self) -> None:
        """The command writes its answer now."""
        self._timer.cancel()

    def _notice(self) -> None:
        self._tell(notice(self._tag, self.done, self.goal))
        self._timer = self._clock.call_later(AGAIN_S, self._notice)


def notice(tag: bytes, done: int, goal: int | None) -> bytes:
    """One notice. Where more was done than there seemed to be, the goal was none; a tag with `]` cannot be said."""
    said = b"NIL" if b"]" in tag else quoted(tag)
    end = b"NIL" if goal is None or done >= goal else b"%d" % goal
    return b"* OK [INPROGRESS (%s %d %s)] Still at it\r\n" % (said, done, end)


@contextmanager
def working(s: Session, goal: int | None = None) -> Iterator[None]:
    """The command in hand computes, and writes nothing meanwhile.

    Args:
        goal: Messages that it looks at, if that is known.
    """
    if s.progress is not None:  # a part of something larger that is told already
        yield
        return
    s.progress = Progress(s.tell, s.tag, goal, s.server.clock or asyncio.get_running_loop())
    try:
        yield
    finally:
        s.progress.end()
        s.progress = None


def moved(s: Session, messages: int) -> None:
    """So many more messages have been looked at."""
    if s.progress is not None:
        s.progress.done += messages
