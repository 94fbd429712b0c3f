"""INPROGRESS (RFC 9585): who waits hears that it goes on, and never in the middle of a response."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sora.errors import DatabaseDown
from sora.protocols.imap import progress
from sora.protocols.imap.progress import AGAIN_S, FIRST_S, Progress, notice
from tests.support.imap import ImapWorld

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sora.protocols.imap.session import Session
    from sora.services.node import Node
    from tests.support.transcripts import Link


class FakeTimer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Time goes on when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[FakeTimer] = []

    def call_later(self, delay: float, callback: Callable[[], None], /) -> FakeTimer:
        self.timers.append(FakeTimer(self.now + delay, callback))
        return self.timers[-1]

    @property
    def waiting(self) -> int:
        return sum(not timer.cancelled for timer in self.timers)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        while due := [timer for timer in self.timers if not timer.cancelled and timer.at <= self.now]:
            due[0].cancel()
            due[0].callback()


def test_the_first_notice_comes_soon_and_the_others_seldom() -> None:
    clock, said = FakeClock(), list[bytes]()
    going = Progress(said.append, b"A001", 1000, clock)
    clock.advance(FIRST_S - 0.01)
    assert not said
    going.done = 175
    clock.advance(0.01)
    assert said == [b'* OK [INPROGRESS ("A001" 175 1000)] Still at it\r\n']
    clock.advance(AGAIN_S - 0.01)
    assert len(said) == 1
    clock.advance(0.01)
    assert len(said) == 2
    going.end()
    clock.advance(100)
    assert len(said) == 2
    assert clock.waiting == 0


@pytest.mark.parametrize(
    ("tag", "done", "goal", "said"),
    [
        (b"a", 0, None, b'("a" 0 NIL)'),
        (b"a", 5, 9, b'("a" 5 9)'),
        (b"a", 9, 9, b'("a" 9 NIL)'),
        (b"a", 12, 9, b'("a" 12 NIL)'),
        (b"a]b", 1, 2, b"(NIL 1 2)"),
    ],
)
def test_a_notice(tag: bytes, done: int, goal: int | None, said: bytes) -> None:
    assert notice(tag, done, goal) == b"* OK [INPROGRESS %s] Still at it\r\n" % said


# ---------------------------------------------------------------------------------------------------- commands


@pytest.fixture
async def world(node: Node) -> ImapWorld:
    world = ImapWorld(node)
    await world.given("alice: INBOX=3 Other=0")
    return world


@asynccontextmanager
async def selected(world: ImapWorld) -> AsyncIterator[tuple[Link, Session, FakeClock]]:
    link = await world.connect(1)
    session = world.sessions[0]
    session.server.clock = clock = FakeClock()
    await link.send(b"s SELECT INBOX\r\n")
    while not (await link.read_line()).startswith(b"s OK"):
        pass
    try:
        yield link, session, clock
    finally:
        await link.hang_up()


class Gate:
    """A statement that takes until the test opens it."""

    def __init__(self, run: Any, error: Exception | None = None) -> None:
        self.run = run
        self.error = error
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.reached.set()
        await self.opened.wait()
        if self.error is not None:
            raise self.error
        return await self.run(*args, **kwargs)


@pytest.mark.parametrize(
    ("command", "owner", "method", "done"),
    [
        (b"SEARCH SUBJECT message", "search", "header", b"0 3"),
        (b"UID SEARCH RETURN (COUNT) SUBJECT message", "search", "header", b"0 3"),
        (b"COPY 1:2 Other", "messages", "copy", b"0 2"),
        (b"UID MOVE 1:2 Other", "messages", "move", b"0 2"),
        (b"EXPUNGE", "messages", "expunge", b"0 NIL"),
    ],
)
async def test_a_long_command_says_that_it_goes_on(
    world: ImapWorld, monkeypatch: pytest.MonkeyPatch, command: bytes, owner: str, method: str, done: bytes
) -> None:
    async with selected(world) as (link, session, clock):
        repository = getattr(world.node.store, owner)
        gate = Gate(getattr(repository, method))
        monkeypatch.setattr(repository, method, gate)
        await link.send(b"a " + command + b"\r\n")
        await gate.reached.wait()
        clock.advance(FIRST_S)
        assert await link.read_line() == b'* OK [INPROGRESS ("a" %s)] Still at it' % done
        clock.advance(AGAIN_S)
        assert await link.read_line() == b'* OK [INPROGRESS ("a" %s)] Still at it' % done
        gate.opened.set()
        while not (line := await link.read_line()).startswith(b"a "):
            assert b"INPROGRESS" not in line
        assert line.startswith(b"a OK")
        assert clock.waiting == 0
        assert session.progress is None


async def test_a_command_that_fails_says_nothing_more(world: ImapWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async with selected(world) as (link, session, clock):
        gate = Gate(None, DatabaseDown())
        monkeypatch.setattr(world.node.store.search, "header", gate)
        await link.send(b"a SEARCH SUBJECT message\r\n")
        await gate.reached.wait()
        gate.opened.set()
        assert (await link.read_line()).startswith(b"a NO")
        assert clock.waiting == 0
        assert session.progress is None


async def test_who_reads_bodies_tells_how_many(world: ImapWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages whose stored text is not whole are looked at one by one."""
    async with selected(world) as (link, session, clock):
        with progress.working(session, 3):
            progress.moved(session, 2)
            with progress.working(session, 100):  # what is part of it is told with it
                progress.moved(session, 0)
            clock.advance(FIRST_S)
            assert await link.read_line() == b'* OK [INPROGRESS ("s" 2 3)] Still at it'
        progress.moved(session, 5)  # nobody computes: nothing happens
        assert clock.waiting == 0


async def test_a_quick_command_says_nothing(world: ImapWorld) -> None:
    async with selected(world) as (link, _, clock):
        await link.send(b"a SEARCH SUBJECT message\r\n")
        assert await link.read_line() == b"* SEARCH 1 2 3"
        assert (await link.read_line()).startswith(b"a OK")
        assert clock.waiting == 0
