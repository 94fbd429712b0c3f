"""Who serves whose listener, and what is known of a process."""

from __future__ import annotations

import os
import signal
import socket
import time

import orjson
from hypothesis import given
from hypothesis import strategies as st

from sora.server.processes import ROLES, Running, Slot, assign
from sora.server.scoreboard import Scoreboard


@given(st.integers(1, 40).flatmap(lambda slots: st.tuples(st.just(slots), st.sets(st.integers(0, slots - 1)))))
def test_every_slot_has_one_acceptor_while_anybody_lives(case: tuple[int, set[int]]) -> None:
    slots, live = case
    serving = assign(slots, live)
    assert set(serving) == live
    if not live:
        return
    assert sorted(slot for mine in serving.values() for slot in mine) == list(range(slots))
    assert all(mine[0] == slot for slot, mine in serving.items())
    loads = sorted(map(len, serving.values()))
    assert loads[-1] - loads[0] <= 1


def running() -> tuple[Running, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return Running(os.getpid(), Slot(ROLES[0], 3), 2, Scoreboard(1).take(), ours), theirs


def test_what_a_child_says_is_heard_until_it_hangs_up() -> None:
    process, theirs = running()
    assert process.hear() == []
    theirs.send(b'{"ready": true}')
    theirs.send(b'{"failed": "no"}')
    assert process.hear() == [{"ready": True}, {"failed": "no"}]
    assert not process.hung_up
    theirs.close()
    assert process.hear() == []
    assert process.hung_up
    process.channel.close()


def test_orders_reach_the_child_and_one_that_is_gone_is_no_error() -> None:
    process, theirs = running()
    process.drain(5.0)
    assert process.draining
    assert process.state == "draining"
    assert orjson.loads(theirs.recv(100)) == {"drain": 5.0}
    theirs.close()
    process.send(serve=[1])
    process.channel.close()


def test_a_child_that_takes_no_orders_is_killed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    process = Running(pid, Slot(ROLES[0], 0), 1, Scoreboard(1).take(), ours)
    ended: tuple[int, int] = (0, 0)
    while not ended[0]:
        process.send(serve=list(range(100)))
        ended = os.waitpid(pid, os.WNOHANG)
    assert os.WTERMSIG(ended[1]) == signal.SIGKILL
    ours.close()
    theirs.close()


def test_silence_is_counted_from_the_last_beat_or_from_forgiveness() -> None:
    process, theirs = running()
    start = time.monotonic()
    process.row.beat()
    assert process.silent_s(start + 10) == 0
    assert process.silent_s(start + 25) == 15
    process.forgive(start + 25)
    assert process.silent_s(start + 26) == 1
    process.row.beat()
    assert process.silent_s(start + 99) == 0
    theirs.close()
    process.channel.close()


def test_a_line_of_the_status() -> None:
    process, theirs = running()
    process.row.state = "ready"
    process.row.set("imap", 4)
    status = process.status(restarts=7)
    assert status.pop("uptime_s") >= 0
    assert status == {
        "role": "worker",
        "slot": 3,
        "pid": os.getpid(),
        "generation": 2,
        "state": "ready",
        "restarts": 7,
        "connections": {"imap": 4, "pop3": 0, "lmtp": 0, "managesieve": 0},
    }
    theirs.close()
    process.channel.close()
