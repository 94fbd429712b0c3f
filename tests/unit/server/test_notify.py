"""systemd's protocol, against a socket of our own."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from sora.server import notify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager that listens."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@sora-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def test_ready_reloading_stopping(manager: socket.socket) -> None:
    notify.ready("2 workers")
    assert manager.recv(999) == b"READY=1\nSTATUS=2 workers\nMAINPID=%d" % os.getpid()
    notify.reloading()
    lines = manager.recv(999).split(b"\n")
    assert lines[0] == b"RELOADING=1"
    assert lines[1].startswith(b"MONOTONIC_USEC=")
    notify.stopping()
    assert manager.recv(999) == b"STOPPING=1"
    notify.alive()
    assert manager.recv(999) == b"WATCHDOG=1"


def test_no_manager_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify.notify("READY=1")


def test_the_watchdog_is_fed_twice_as_often_as_asked() -> None:
    own = str(os.getpid())
    assert notify.watchdog_interval({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": own}) == 15.0
    assert notify.watchdog_interval({"WATCHDOG_USEC": "30000000"}) == 15.0
    assert notify.watchdog_interval({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) == 0.0
    assert notify.watchdog_interval({"WATCHDOG_USEC": "soon"}) == 0.0
    assert notify.watchdog_interval({}) == 0.0


def test_sockets_of_the_manager_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(notify, "FIRST_FD", os.dup(listener.fileno()))
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "imap"}
        (taken,) = notify.take_listen_fds(environment)
        with taken:
            assert taken.getsockname() == listener.getsockname()
            assert not taken.getblocking()
        assert environment == {}
        assert notify.take_listen_fds(environment) == []


def test_sockets_for_another_process_are_left_alone() -> None:
    assert notify.take_listen_fds({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []


def test_a_manager_that_does_not_read_is_not_waited_for_for_ever(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "SEND_TIMEOUT_S", 0.01)
    while notify.notify("WATCHDOG=1"):
        pass
    assert manager.recv(999) == b"WATCHDOG=1"
    assert notify.notify("READY=1")
