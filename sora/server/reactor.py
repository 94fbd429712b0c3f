"""The supervisor's loop: one `selectors` wait over descriptors, signals and timers. No threads, no asyncio.

A process that forks for its living must not own an event loop or a thread: a child would inherit half of either.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Timer:
    """A call to come; `cancel` it as often as you like."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call."""
        self.callback = None


class Reactor:
    """Waits for readiness, signals and time, and calls."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._signal_in, self._signal_out = socket.socketpair()
        self._signal_in.setblocking(False)
        self._signal_out.setblocking(False)
        self._handlers: dict[int, Callable[[], None]] = {}
        self.watch(self._signal_out, self._signals)

    def watch(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        """Call when `sock` can be read."""
        self._selector.register(sock, selectors.EVENT_READ, callback)

    def unwatch(self, sock: socket.socket) -> None:
        """No more calls for `sock`."""
        self._selector.unregister(sock)

    def handle(self, handlers: Mapping[int, Callable[[], None]]) -> None:
        """Call from the loop, never in the middle of something, when a signal comes."""
        self._handlers.update(handlers)
        signal.set_wakeup_fd(self._signal_in.fileno(), warn_on_full_buffer=False)
        for number in handlers:
            signal.signal(number, lambda *_: None)  # the handler's work is the byte in the wake-up descriptor
            signal.siginterrupt(number, False)

    def after(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call once after `delay_s` seconds."""
        timer = Timer(time.monotonic() + delay_s, callback)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def every(self, interval_s: float, callback: Callable[[], None]) -> None:
        """Call again and again."""

        def again() -> None:
            self.after(interval_s, again)
            callback()

        self.after(interval_s, again)

    def step(self) -> None:
        """Wait for the next event and make its calls."""
        for key, _ in self._selector.select(self._pause()):
            # A callback before it may have closed this one, and a new one may have got its number.
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()

    def flush_signals(self) -> None:
        """Make the calls for the signals that came so far."""
        self._signals()

    def close(self) -> None:
        """Let go of everything, also in a child after the fork."""
        signal.set_wakeup_fd(-1)
        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        self._signal_in.close()
        self._signal_out.close()

    def _pause(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _signals(self) -> None:
        numbers: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while data := self._signal_out.recv(4096):
                numbers.update(data)
        for number in sorted(numbers):
            if number in self._handlers:
                self._handlers[number]()
