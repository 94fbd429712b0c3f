"""Nothing acknowledged is lost, doubled or altered while processes are killed: a sample of the fault matrix."""

from __future__ import annotations

import itertools
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.demo import Demo
from tests.support.ledger import Ledger, Verdict, clients, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLIENTS = 4
KILLS = 10
NOTHING_WRONG = Verdict(set(), set(), set())


def victims(demo: Demo) -> Iterator[tuple[str, Callable[[], int]]]:
    """Process after process to kill: who, and how to find its pid at that time."""

    def child(role: str) -> Callable[[], int]:
        return lambda: next(p["pid"] for p in demo.status()["processes"] if p["role"] == role and p["pid"])

    yield from itertools.cycle(
        [
            ("worker", child("worker")),
            ("postgresql", lambda: demo.status()["supervisor"]["postgres_pid"]),
            ("uploader", child("uploader")),
        ]
    )


def killed_roles(demo: Demo) -> set[str]:
    """Roles of the processes that ended by SIGKILL, as the supervisor saw it."""
    lines = map(json.loads, (demo.directory / "run" / "sora.log").read_text().splitlines())
    return {line["role"] for line in lines if line["text"] == "process ended" and line["status"] == -signal.SIGKILL}


def assert_no_traceback(demo: Demo) -> None:
    """Faults of dependencies are no bugs: none may leave a traceback."""
    for path in (demo.log_path, demo.directory / "run" / "sora.log"):
        assert "traceback" not in path.read_text().lower(), path


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_while_processes_die(tmp_path: Path) -> None:
    ledger = Ledger(wanted=1000)
    killed = set()
    with Demo(tmp_path / "demo", "--workers", "2") as demo:
        with clients(demo.ports, ledger, CLIENTS):
            for kill, (who, find) in zip(range(KILLS), victims(demo), strict=False):
                ledger.wait_for((kill + 1) * ledger.wanted // (KILLS + 1))
                os.kill(find(), signal.SIGKILL)
                killed.add(who)
        assert judge(demo.ports, ledger, CLIENTS) == NOTHING_WRONG
    assert killed == {"worker", "postgresql", "uploader"}
    assert {key[:2] for key in ledger.acknowledged} == {"c0", "c1", "c2", "c3"}
    assert_no_traceback(demo)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "point", ["lmtp.staged", "lmtp.committed", "append.staged", "append.committed", "uploader.put"]
)
def test_nothing_acknowledged_is_lost_at_a_crash_point(tmp_path: Path, point: str) -> None:
    """Every process dies when it passes the point for the 12th time, in the worst moment there is for that step."""
    ledger = Ledger(wanted=60)
    with Demo(tmp_path / "demo", "--workers", "1", environment={**os.environ, "SORA_CRASH_AT": f"{point}:12"}) as demo:
        with clients(demo.ports, ledger, 2):
            pass
        assert judge(demo.ports, ledger, 2) == NOTHING_WRONG
    assert killed_roles(demo) == {"uploader" if point.startswith("uploader") else "worker"}
    assert_no_traceback(demo)
