"""What becomes of processes that end, or do not beat; they are descriptors here, and nobody is forked."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from sora.config import Config
from sora.server import children as module
from sora.server.children import QUICK_DEATHS, Children
from sora.server.processes import ROLES, Running, Slot
from sora.server.reactor import Reactor
from sora.server.scoreboard import Scoreboard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.server.child import Child
    from sora.server.scoreboard import Row

WORKER, UPLOADER = ROLES[:2]


class Owner:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.state = "running"
        self.config = msgspec.convert({"process": {"stuck_after": 60.0}}, Config)
        self.generation = 1
        self.told: list[str] = []

    def bequeath(self, slot: Slot, row: Row, channel: socket.socket, supervisor_pid: int) -> Child:
        raise AssertionError("nobody is forked")

    def child_ready(self) -> None:
        self.told.append("ready")

    def successor_ended(self, why: str) -> None:
        self.told.append(why)

    def start_failed(self, why: str) -> None:
        self.told.append(why)


class Family(Children):
    """Children whose forks are entries in a list."""

    def __init__(self) -> None:
        self.owner = Owner()
        self.reactor = Reactor()
        self.board = Scoreboard()
        self.killed: list[tuple[int, int]] = []
        self.theirs: dict[int, socket.socket] = {}
        slots = [Slot(WORKER, 0), Slot(WORKER, 1), Slot(UPLOADER, 0)]
        super().__init__(self.owner, self.reactor, self.board, slots)
        for slot in slots:
            slot.current = self.spawn(slot)

    def spawn(self, slot: Slot) -> Running:
        pid = 1_000_000_000 + len(self.theirs)
        ours, self.theirs[pid] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, self.theirs[pid]):
            sock.setblocking(False)
        running = Running(pid, slot, 1, self.board.take(), ours)
        self._keep(running)
        return running

    def close(self) -> None:
        for running in self.live.values():
            running.channel.close()
        for sock in self.theirs.values():
            sock.close()
        self.reactor.close()


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    family = Family()
    monkeypatch.setattr(Running, "kill", lambda running, number: family.killed.append((running.pid, number)))
    yield family
    family.close()


def current(slot: Slot) -> Running:
    assert slot.current is not None
    return slot.current


def test_whoever_ends_is_back_at_once_and_counted(family: Family) -> None:
    slot = family.slots[0]
    dead = current(slot)
    family.ended(dead.pid, -9)
    assert slot.current is None
    assert (slot.restarts, dead.pid in family.live) == (1, False)
    family.reactor.step()
    assert current(slot) is not dead
    assert current(slot).row.number == dead.row.number


def test_a_stranger_that_ends_is_nobodys_loss(family: Family) -> None:
    family.ended(12345, 0)
    assert len(family.live) == 3


def test_what_a_process_said_last_is_heard(family: Family) -> None:
    family.owner.state = "starting"
    dead = current(family.slots[0])
    family.theirs[dead.pid].send(b'{"failed": "no certificate"}')
    family.ended(dead.pid, 1)
    assert family.owner.told == ["no certificate"]


def test_a_start_gives_up_after_quick_deaths(family: Family) -> None:
    family.owner.state = "starting"
    slot = family.slots[0]
    for _ in range(QUICK_DEATHS):
        assert family.owner.told == []
        if slot.current is None:
            slot.cancel_restart()
            family.fill(slot)
        family.ended(current(slot).pid, 1)
    assert family.owner.told == ["worker 0 died 3 times, see the log"]


def test_nobody_is_replaced_during_a_stop(family: Family) -> None:
    family.owner.state = "stopping"
    family.end_all()
    assert family.killed == [(pid, signal.SIGTERM) for pid in family.live]
    family.ended(current(family.slots[0]).pid, 0)
    assert (family.slots[0].timer, family.slots[0].restarts) == (None, 0)


def test_a_role_that_does_not_overlap_is_filled_when_the_old_process_made_room(family: Family) -> None:
    slot = family.slots[2]
    old = current(slot)
    old.drain(0.0)
    family.ended(old.pid, 0)
    assert (current(slot) is old, slot.restarts) == (False, 0)


def test_a_process_of_a_reload_that_dies_is_the_reloads_affair(family: Family) -> None:
    slot = family.slots[0]
    slot.next = family.spawn(slot)
    family.ended(slot.next.pid, 3)
    assert family.owner.told == ["the new worker 0 ended with 3"]
    assert slot.next is None
    assert slot.current is not None
    assert slot.restarts == 0


def test_a_machine_that_cannot_make_a_process_is_asked_again(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(slot: Slot) -> Running:
        raise OSError("no descriptors")

    slot = family.slots[0]
    with monkeypatch.context() as broken:
        broken.setattr(family, "spawn", fails)
        broken.setattr(module, "RETRY_S", 0.05)
        family.ended(current(slot).pid, -9)
        family.reactor.step()
        assert slot.current is None
    family.reactor.step()
    assert slot.current is not None


def test_others_accept_for_a_slot_without_a_worker(family: Family) -> None:
    for slot in family.slots:
        current(slot).ready = True
    one = current(family.slots[1])
    family.ended(current(family.slots[0]).pid, -9)
    assert family.theirs[one.pid].recv(99) == b'{"serve":[1,0]}'
    family.reactor.step()
    family.theirs[current(family.slots[0]).pid].send(b'{"ready":true}')
    family.reactor.step()
    assert family.theirs[one.pid].recv(99) == b'{"serve":[1]}'
    assert family.owner.told == ["ready"]


def test_the_first_worker_that_is_ready_accepts_for_all(family: Family) -> None:
    one = current(family.slots[1])
    family.theirs[one.pid].send(b'{"ready":true}')
    family.reactor.step()
    assert family.theirs[one.pid].recv(99) == b'{"serve":[1,0]}'


class Clock:
    """In place of `time`."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_process_whose_heart_is_silent_is_killed(family: Family, clock: Clock) -> None:
    stuck, *others = family
    for _ in range(59):
        clock.now += 1.0
        for running in others:
            running.row.beat()
        family.look()
    assert family.killed == []
    clock.now += 2.0
    family.look()
    assert family.killed == [(stuck.pid, signal.SIGKILL)]


def test_nobody_is_killed_because_the_supervisor_slept(family: Family, clock: Clock) -> None:
    family.look()
    clock.now += 600.0
    family.look()
    clock.now += 1.0
    family.look()
    assert family.killed == []
