"""The answer of `soractl status --json`; its shape on a running supervisor is in the integration tests."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from sora.server import status
from sora.server.processes import ROLES, Role, Running, Slot
from sora.server.scoreboard import Scoreboard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def make() -> Iterator[Callable[[Role, int, int], Running]]:
    board, sockets = Scoreboard(8), []

    def make(role: Role, slot: int, generation: int) -> Running:
        ours, theirs = socket.socketpair()
        sockets.extend([ours, theirs])
        running = Running(os.getpid(), Slot(role, slot), generation, board.take(), ours)
        running.slot.current = running
        running.ready = True
        return running

    yield make
    for sock in sockets:
        sock.close()


WORKER, UPLOADER = ROLES[0], ROLES[1]


def test_processes_stand_in_the_order_of_roles_slots_and_generations(
    make: Callable[[Role, int, int], Running],
) -> None:
    given = [make(Role("bygone", "", False), 0, 1), make(UPLOADER, 0, 1), make(WORKER, 1, 1), make(WORKER, 0, 2),
             make(WORKER, 0, 1)]  # fmt: skip
    answer = status.describe("running", {"pid": 1}, given, ROLES, database_down=False)
    assert [(p["role"], p["slot"], p["generation"]) for p in answer["processes"]] == [
        ("worker", 0, 1), ("worker", 0, 2), ("worker", 1, 1), ("uploader", 0, 1), ("bygone", 0, 1),
    ]  # fmt: skip
    assert (answer["state"], answer["supervisor"]) == ("running", {"pid": 1})


def test_numbers_are_those_of_the_uploader_while_it_can_be_believed(
    make: Callable[[Role, int, int], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader = make(UPLOADER, 0, 1)
    uploader.row.set("uploads_pending", 3)
    uploader.row.set("uploads_oldest_ms", 1500)
    uploader.row.set_health("postgresql", True)
    uploader.row.set_health("object_store", False)

    def shown(*, down: bool = False) -> tuple[object, ...]:
        answer = status.describe("running", {}, [uploader], ROLES, database_down=down)
        return (*answer["uploads"].values(), *answer["health"].values())

    assert shown() == (3, 1.5, "ok", "down")
    uploader.stranded = [{"instance_id": "a", "uploads": 2}]
    assert shown() == (3, 1.5, uploader.stranded, "ok", "down")
    uploader.stranded = []
    assert shown(down=True) == (3, 1.5, "down", "down")
    uploader.ready = False
    assert shown() == (None, None, "unknown", "unknown")
    uploader.ready = True
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + status.FRESH_S + 1)
    assert shown() == (None, None, "unknown", "unknown")
    uploader.row.beat()
    assert shown() == (3, 1.5, "ok", "down")
