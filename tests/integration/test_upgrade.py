"""An upgrade: the supervisor executes the installed release in its own process, and no client notices."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sora.server.control import short_path
from tests.support.demo import Demo
from tests.support.fakesora import FakeSora, Hammer, alive, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


def program(pid: int) -> list[str]:
    """Command line of a process."""
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        return file.read().split("\0")[:-1]


def test_the_program_changes_and_the_process_stays(sora: FakeSora) -> None:
    before = sora.status()
    assert sora.supervisor is not None
    assert "sora.toml" in program(sora.supervisor.pid)[-1]
    done = sora.ctl("upgrade", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "reloaded": True, "upgraded": True, "generation": 2, "changed": [], "restart_needed": [],
    }  # fmt: skip
    assert program(sora.supervisor.pid)[-1].isdigit()
    after = sora.status()
    assert after["supervisor"]["pid"] == before["supervisor"]["pid"]
    assert after["supervisor"]["uptime_s"] > before["supervisor"]["uptime_s"]
    until(lambda: {p["generation"] for p in sora.status()["processes"]} == {2}, "the second generation")
    assert len(sora.status()["processes"]) == len(before["processes"])
    assert not {p["pid"] for p in before["processes"]} & {p["pid"] for p in sora.status()["processes"]}
    assert sora.call("upgrade")["generation"] == 3
    assert sora.call("reload")["generation"] == 4


def test_no_connection_is_refused_or_reset(sora: FakeSora) -> None:
    with Hammer(sora.port) as hammer:
        hammer.await_answer_of(1)
        for generation in range(2, 5):
            assert sora.call("upgrade", 60)["generation"] == generation
            hammer.await_answer_of(generation)
    assert hammer.failures == []


def test_who_was_about_to_ask_is_answered_by_the_successor(sora: FakeSora) -> None:
    with short_path(sora.directory / "run" / "control.sock") as name, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(15)
        sock.connect(name)
        sock.sendall(b'{"verb": ')
        assert "error" not in sora.call("upgrade", 60)
        sock.sendall(b'"status"}\n')
        with sock.makefile("rb") as file:
            assert json.loads(file.readline())["supervisor"]["generation"] == 2


def test_old_sessions_stay_are_counted_and_end_with_the_stop(sora: FakeSora) -> None:
    old = sora.client()
    _, _, old_pid = old.ask()
    restarts = sora.processes()[0]["restarts"]
    sora.configure("[limits]\nrecipients = 7")
    assert sora.call("upgrade", 60)["changed"] == ["limits.recipients"]
    assert old.ask()[1:] == (1, old_pid)
    until(lambda: old.ask("recipients") == (7,), "the live value in the old generation")
    # a process writes its counts with its next heartbeat
    until(
        lambda: (
            [(p["pid"], p["connections"]["imap"], p["restarts"]) for p in sora.processes(state="draining")]
            == [(old_pid, 1, restarts)]
        ),
        "the old session in the status",
    )
    assert sora.ctl("stop").returncode == 0
    assert old.at_end()
    assert not alive(old_pid)


def test_a_stuck_process_of_the_old_release_is_found(tmp_path: Path) -> None:
    with FakeSora(tmp_path, stuck_after="2s") as sora:
        old = sora.client()
        _, _, pid = old.ask()
        assert "error" not in sora.call("upgrade", 60)
        os.kill(pid, signal.SIGSTOP)
        until(lambda: not alive(pid), "its end")


def test_a_killed_process_is_counted_on_after_the_upgrade(sora: FakeSora) -> None:
    os.kill(sora.processes()[0]["pid"], signal.SIGKILL)
    until(lambda: [p["restarts"] for p in sora.processes()] == [1, 0], "the restart")
    assert "error" not in sora.call("upgrade", 60)
    assert [p["restarts"] for p in sora.processes()] == [1, 0]


def test_a_key_that_needs_a_restart_is_named_by_an_upgrade_too(sora: FakeSora) -> None:
    sora.configure(workers=5)
    assert sora.call("upgrade", 60)["restart_needed"] == ["process.workers"]
    assert len(sora.processes()) == 2


def test_an_upgrade_that_cannot_work_changes_nothing(sora: FakeSora) -> None:
    before = {p["pid"] for p in sora.processes()}
    sora.configure("[limits]\nrecipiens = 3")
    done = sora.ctl("upgrade")
    assert done.returncode == 1  # soractl itself reads the configuration
    assert "not upgraded, the old release goes on: unknown key limits.recipiens" in sora.call("upgrade", 60)["error"]
    sora.configure('[auth]\ndefault_domain = "fails.example"')
    assert "this does not work" in sora.call("upgrade", 60)["error"]  # the new processes do not start
    assert {p["pid"] for p in sora.processes()} == before
    with sora.client() as client:
        assert client.ask()[1] == 1
    sora.configure()
    assert sora.call("upgrade", 60)["upgraded"] is True


@pytest.mark.parametrize(
    ("release", "reason"),
    [
        ("/bin/false", "the new release ended with 1"),
        ("/nowhere/soractl", "No such file or directory: '/nowhere/soractl'"),
        (f"{sys.executable} -c import&nothing", "SyntaxError: invalid syntax"),
    ],
)
def test_a_release_that_does_not_work_is_not_taken(tmp_path: Path, release: str, reason: str) -> None:
    sora = FakeSora(tmp_path)
    sora.environment = {"SORA_TEST_SUCCESSOR": release}
    with sora:
        pids = sora.pids()
        done = sora.ctl("upgrade")
        assert done.returncode == 1
        assert done.stderr.startswith("soractl: not upgraded, the old release goes on: ")
        assert reason in done.stderr
        assert sora.client().ask()[1] == 1
        assert sora.pids() == pids


def test_sigusr2_upgrades(sora: FakeSora) -> None:
    assert sora.supervisor is not None
    sora.signal(signal.SIGUSR2)
    until(lambda: {p["generation"] for p in sora.processes("uploader")} == {2}, "the second generation")
    assert program(sora.supervisor.pid)[-1].isdigit()


def test_a_stop_right_after_the_request_stops(sora: FakeSora) -> None:
    pids = sora.pids()
    sora.signal(signal.SIGUSR2)
    sora.signal(signal.SIGTERM)
    assert sora.supervisor is not None
    assert sora.supervisor.wait(20) == 0
    until(lambda: not [pid for pid in pids if alive(pid)], "the end of every process")


def test_upgrades_leave_nothing_behind(sora: FakeSora) -> None:
    assert "error" not in sora.call("upgrade", 60)
    before = sora.open_files()
    for _ in range(2):
        assert "error" not in sora.call("upgrade", 60)
    until(lambda: sora.open_files() <= before, "as few open files as before")


def test_the_whole_product_with_its_postgresql(tmp_path: Path) -> None:
    with Demo(tmp_path / "sora", "--workers", "2") as demo:
        address = ("127.0.0.1", demo.ports["imap"])
        before = demo.status()
        with socket.create_connection(address, timeout=15) as idle, idle.makefile("rb") as file:
            assert file.readline().startswith(b"* OK")
            idle.sendall(b"a LOGIN user1@example.com demo\r\nb SELECT INBOX\r\n")
            while not file.readline().startswith(b"b OK"):
                pass
            done = demo.ctl("upgrade", "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["generation"] == 2
            with smtplib.LMTP("127.0.0.1", demo.ports["lmtp"]) as lmtp:
                lmtp.sendmail("me@example.org", ["user1@example.com"], "Subject: after\r\n\r\nText.\r\n")
            idle.sendall(b"c NOOP\r\n")
            told = [file.readline()]
            while not told[-1].startswith(b"c OK"):
                told.append(file.readline())
            assert b"* 1 EXISTS\r\n" in told
            idle.sendall(b"d LOGOUT\r\n")
        after = until(lambda: all_new(demo, 2), "the second generation")
        for key in ("pid", "postgres_pid"):
            assert after["supervisor"][key] == before["supervisor"][key]
        os.kill(after["supervisor"]["postgres_pid"], signal.SIGKILL)
        until(lambda: demo.status()["supervisor"]["postgres_pid"] not in (None, before["supervisor"]["postgres_pid"]),
              "the new PostgreSQL", 30)  # fmt: skip
        until(lambda: demo.status()["health"]["postgresql"] == "ok", "its health", 30)
        pids = [demo.status()["supervisor"]["postgres_pid"], *(p["pid"] for p in demo.status()["processes"])]
        assert demo.ctl("stop").returncode == 0
        assert not [pid for pid in pids if alive(pid)]


def all_new(demo: Demo, generation: int) -> dict[str, Any] | None:
    status = demo.status()
    return status if {p["generation"] for p in status["processes"]} == {generation} else None
