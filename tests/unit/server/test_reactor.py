"""The supervisor's loop: descriptors, signals, timers."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from sora.server.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close()


def test_timers_run_in_order_and_not_when_cancelled(reactor: Reactor) -> None:
    ran: list[str] = []
    reactor.after(0.02, lambda: ran.append("late"))
    reactor.after(0.01, lambda: ran.append("early"))
    reactor.after(0.0, lambda: ran.append("never")).cancel()
    while len(ran) < 2:
        reactor.step()
    assert ran == ["early", "late"]


def test_a_repeated_timer_repeats(reactor: Reactor) -> None:
    ran: list[int] = []
    reactor.every(0.001, lambda: ran.append(1))
    while len(ran) < 3:
        reactor.step()


def test_a_readable_socket_is_reported_until_unwatched(reactor: Reactor) -> None:
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    with ours, theirs:
        reactor.watch(ours, lambda: heard.append(ours.recv(10)))
        theirs.send(b"x")
        reactor.step()
        assert heard == [b"x"]
        reactor.unwatch(ours)
        theirs.send(b"y")
        reactor.after(0.01, lambda: None)
        reactor.step()
        assert heard == [b"x"]


def test_a_callback_may_unwatch_another_that_is_ready_too(reactor: Reactor) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def first_come(number: int) -> None:
        called.append(number)
        reactor.unwatch(pairs[1 - number][0])

    for number, (ours, theirs) in enumerate(pairs):
        reactor.watch(ours, lambda number=number: first_come(number))  # type: ignore[misc]
        theirs.send(b"x")
    reactor.step()
    assert len(called) == 1
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_a_descriptor_that_is_used_again_within_one_step_is_not_confused(reactor: Reactor) -> None:
    """A reaped child's channel is closed and a new child's gets its number, while the old event is still to come."""
    first, second = socket.socketpair(), socket.socketpair()
    called: list[str] = []
    replaced: list[socket.socket] = []

    def replace(other: socket.socket, name: str) -> None:
        called.append(name)
        number = other.fileno()
        reactor.unwatch(other)
        other.close()
        new = socket.socket(fileno=os.dup(first[1].fileno()))
        replaced.append(new)
        assert new.fileno() == number
        reactor.watch(new, lambda: called.append("new"))

    reactor.watch(first[0], lambda: replace(second[0], "first"))
    reactor.watch(second[0], lambda: replace(first[0], "second"))
    first[1].send(b"x")
    second[1].send(b"x")
    reactor.step()
    assert len(called) == 1
    for sock in (*first, *second, *replaced):
        sock.close()


def test_signals_are_handled_between_two_steps_and_once_for_many(reactor: Reactor) -> None:
    handled: list[str] = []
    reactor.handle({signal.SIGUSR1: lambda: handled.append("1"), signal.SIGUSR2: lambda: handled.append("2")})
    for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    assert handled == []
    reactor.step()
    assert handled == ["1", "2"]


def test_close_gives_the_signals_back() -> None:
    reactor = Reactor()
    reactor.handle({signal.SIGUSR1: lambda: None})
    reactor.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1
