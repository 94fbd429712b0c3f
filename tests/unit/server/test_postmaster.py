"""The watch over the embedded PostgreSQL, with a process that only pretends to be one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from sora.errors import ConfigError
from sora.server.postmaster import Postmaster
from sora.server.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.server.embedded_pg import EmbeddedPostgres


class Pretender:
    """A child that accepts after a moment, or ends at once."""

    log_path = Path("/srv/postgresql.log")

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.code = "import time; time.sleep(60)"
        self.refuse = False
        self.spawned = 0
        self.asked = 0
        self.prepared = False

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    def prepare(self) -> None:
        self.prepared = True

    def spawn(self) -> None:
        if self.refuse:
            raise ConfigError("no binaries")
        self.spawned += 1
        self.asked = 0
        self.process = subprocess.Popen([sys.executable, "-c", self.code])

    def is_ready(self) -> bool:
        self.asked += 1
        return self.asked > 2

    def poll(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Fixture:
    """A postmaster with its loop, and what it told us."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.postgres = Pretender()
        self.told: list[str] = []
        self.postmaster = Postmaster(
            cast("EmbeddedPostgres", self.postgres), self.reactor, lambda: self.told.append("ready"), self.told.append
        )

    def until_ready(self) -> None:
        while not self.postmaster.ready:
            self.reactor.step()

    def until_reaped(self) -> None:
        while self.postgres.poll() is None:
            time.sleep(0.005)
        self.postmaster.reap()


@pytest.fixture
def fixture() -> Iterator[Fixture]:
    fixture = Fixture()
    yield fixture
    fixture.postgres.stop()
    fixture.reactor.close()


def test_ready_is_told_once_and_a_killed_one_comes_back(fixture: Fixture) -> None:
    fixture.postmaster.start()
    assert fixture.postgres.prepared
    assert not fixture.postmaster.ready
    fixture.until_ready()
    assert fixture.told == ["ready"]
    first = fixture.postmaster.pid
    fixture.postgres.stop()
    fixture.postmaster.reap()
    assert not fixture.postmaster.ready
    fixture.until_ready()
    assert fixture.postmaster.pid != first
    assert fixture.told == ["ready"]


def test_quick_deaths_make_the_pauses_longer(fixture: Fixture) -> None:
    fixture.postmaster.start()
    fixture.until_ready()
    starts = []
    for _ in range(3):
        fixture.postgres.stop()
        fixture.postmaster.reap()
        began = time.monotonic()
        fixture.until_ready()
        starts.append(time.monotonic() - began)
    assert starts[1] >= 0.25
    assert starts[2] >= 0.5


def test_one_that_ends_before_it_accepts_fails_the_start(fixture: Fixture) -> None:
    fixture.postgres.code = "raise SystemExit(1)"
    fixture.postmaster.start()
    fixture.until_reaped()
    assert fixture.told == ["PostgreSQL did not start: see /srv/postgresql.log"]
    assert fixture.postgres.spawned == 1


def test_one_that_cannot_be_spawned_again_is_tried_later(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fixture.postmaster.start()
    fixture.until_ready()
    fixture.postgres.refuse = True
    fixture.postgres.stop()
    fixture.postmaster.reap()
    while "PostgreSQL cannot be started" not in caplog.text:
        fixture.reactor.step()
    fixture.postgres.refuse = False
    fixture.until_ready()


def test_after_stop_nothing_comes_back(fixture: Fixture) -> None:
    fixture.postmaster.start()
    fixture.until_ready()
    fixture.postmaster.stop()
    fixture.postmaster.reap()
    fixture.reactor.after(0.0, lambda: None)
    fixture.reactor.step()
    assert fixture.postgres.spawned == 1
