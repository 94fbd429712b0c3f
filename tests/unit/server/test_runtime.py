"""The lock of the runtime directory."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sora import config as configuration
from sora.errors import ConfigError, Unavailable
from sora.server.runtime import Runtime


@pytest.fixture
def config(tmp_path: Path) -> configuration.Config:
    return configuration.parse(
        {
            "database": {"primary": "postgresql:///sora"},
            "object_store": {"path": "objects"},
            "local_cache": {"capacity": 0},
            "uploader": {"staging_path": "staging"},
            "process": {"runtime_path": str(tmp_path / "run")},
        }
    )


def hold(config: configuration.Config, *, orphan: bool) -> tuple[int, int]:
    """A supervisor in a process of its own that takes the lock, with a child; pids of both once it is held."""
    reader, writer = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        Runtime(config).acquire(1.0)
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        os.write(writer, b"%d" % child)
        os.close(writer)
        if not orphan:
            signal.pause()
        os._exit(0)
    os.close(writer)
    child = int(os.read(reader, 20))
    os.close(reader)
    return supervisor, child


def test_the_second_supervisor_is_told_of_the_first(config: configuration.Config) -> None:
    supervisor, child = hold(config, orphan=False)
    try:
        assert Runtime(config).is_running()
        with pytest.raises(ConfigError, match=rf"runs in .* already \(pid {supervisor}\)"):
            Runtime(config).acquire(5.0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)


def test_orphans_of_a_dead_supervisor_are_waited_for(config: configuration.Config) -> None:
    supervisor, child = hold(config, orphan=True)
    os.waitpid(supervisor, 0)
    runtime = Runtime(config)
    with pytest.raises(Unavailable):
        runtime.wait_gone(0.05)
    with pytest.raises(ConfigError, match="earlier run"):
        runtime.acquire(0.05)
    os.kill(child, signal.SIGKILL)
    runtime.wait_gone(5.0)
    runtime.acquire(5.0)
    assert Runtime(config).is_running()
    assert runtime.directory.stat().st_mode & 0o777 == 0o700
    runtime.release()
    assert not runtime.is_running()


def test_a_killed_supervisor_that_nobody_collected_is_dead(config: configuration.Config) -> None:
    """In a container without an init its pid stays: the next start must not take it for another Sora."""
    supervisor, child = hold(config, orphan=False)
    os.kill(supervisor, signal.SIGKILL)
    os.waitid(os.P_PID, supervisor, os.WEXITED | os.WNOWAIT)
    try:
        with pytest.raises(ConfigError, match="earlier run"):
            Runtime(config).acquire(0.05)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(supervisor, 0)


def test_a_directory_that_cannot_be_made_is_named(config: configuration.Config) -> None:
    Path(config.process.runtime_path).write_text("a file")
    with pytest.raises(ConfigError, match=r"process\.runtime_path"):
        Runtime(config).acquire(1.0)


def test_nothing_runs_where_nothing_was(config: configuration.Config) -> None:
    assert not Runtime(config).is_running()
