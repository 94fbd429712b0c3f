"""The whole product as a user starts it: `soractl demo`, its processes, and what becomes of them."""

from __future__ import annotations

import contextlib
import imaplib
import json
import os
import poplib
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.demo import Demo, free_port_base
from tests.support.fakesora import alive, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)
USER, PASSWORD = "user1@example.com", "demo"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "sora"


@pytest.fixture(scope="module")
def demo(directory: Path) -> Iterator[Demo]:
    with Demo(directory, "--workers", "2", "--accounts", "3") as demo:
        yield demo


def send(demo: Demo, subject: str) -> None:
    with smtplib.LMTP("127.0.0.1", demo.ports["lmtp"]) as lmtp:
        lmtp.sendmail("me@example.org", [USER], f"Subject: {subject}\r\n\r\nText.\r\n")


@contextlib.contextmanager
def imap(demo: Demo, user: str = USER) -> Iterator[imaplib.IMAP4]:
    with imaplib.IMAP4("127.0.0.1", demo.ports["imap"], timeout=15) as client:
        client.login(user, PASSWORD)
        client.select("INBOX")
        yield client


def found(demo: Demo, subject: str) -> bool:
    with imap(demo) as client:
        return bool(client.search(None, "SUBJECT", subject)[1][0])


def get(demo: Demo, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{demo.ports['metrics']}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def pids(status: dict[str, Any], role: str | None = None) -> list[int]:
    return [process["pid"] for process in status["processes"] if role in (None, process["role"])]


def all_ready(demo: Demo) -> bool:
    status = demo.status()
    return (
        [process["role"] for process in status["processes"]] == ["worker", "worker", "uploader", "janitor", "http"]
        and all(process["state"] == "ready" for process in status["processes"])
        and status["health"] == {"postgresql": "ok", "object_store": "ok"}
    )


def test_the_ready_line_is_the_contracts(demo: Demo, directory: Path) -> None:
    assert demo.ready.keys() == {"ready", "pid", "config", "ports", "accounts", "api_token"}
    assert demo.ready["config"] == str(directory / "sora.toml")
    assert demo.ready["accounts"] == [f"user{number}@example.com" for number in (1, 2, 3)]
    assert list(demo.ports) == ["imap", "imaps", "pop3", "pop3s", "lmtp", "managesieve", "metrics"]
    base = demo.ports["imap"]
    assert [port - base for port in demo.ports.values()] == [0, 1, 2, 3, 4, 5, 7]
    for port in demo.ports.values():
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_every_process_is_ready_and_every_account_can_log_in(demo: Demo) -> None:
    until(lambda: all_ready(demo), "every process and both dependencies")
    assert demo.status()["supervisor"]["postgres_pid"] > 0
    for user in demo.ready["accounts"]:
        with imap(demo, user) as client:
            assert client.noop()[0] == "OK"
    trusting = ssl._create_unverified_context()
    with imaplib.IMAP4_SSL("127.0.0.1", demo.ports["imaps"], ssl_context=trusting, timeout=15) as client:
        assert client.login("user2", PASSWORD)[0] == "OK"
    pop3 = poplib.POP3_SSL("127.0.0.1", demo.ports["pop3s"], context=trusting, timeout=15)
    pop3.user(USER)
    pop3.pass_(PASSWORD)
    pop3.quit()


def test_mail_goes_in_and_out_and_up(demo: Demo, directory: Path) -> None:
    send(demo, "up")
    assert found(demo, "up")
    until(lambda: list((directory / "objects").rglob("*.eml")), "the body in the object store")
    until(lambda: demo.status()["uploads"] == {"pending": 0, "oldest_s": 0.0}, "an empty queue")


def test_metrics_and_health_over_http(demo: Demo) -> None:
    send(demo, "counted")
    assert get(demo, "/livez")[0] == 200
    assert json.loads(get(demo, "/readyz")[1]) == {"status": "ok", "postgresql": "ok", "node": "ok"}
    status, text = get(demo, "/metrics")
    assert status == 200
    assert 'sora_connections_total{protocol="lmtp"}' in text
    assert get(demo, "/nothing")[0] == 404


def test_connections_show_in_the_status(demo: Demo) -> None:
    with imap(demo), imap(demo):
        until(lambda: sum(p["connections"]["imap"] for p in demo.status()["processes"]) >= 2, "two connections")


@pytest.mark.parametrize("role", ["worker", "uploader", "janitor", "http", "postgres"])
def test_kill_minus_9_is_repaired(demo: Demo, role: str) -> None:
    until(lambda: all_ready(demo), "every process")
    before = demo.status()
    if role == "postgres":
        killed = [before["supervisor"]["postgres_pid"]]
    else:
        killed = pids(before, role)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(alive, killed)), "their end")

    def repaired() -> bool:
        status = demo.status()
        now = [status["supervisor"]["postgres_pid"]] if role == "postgres" else pids(status, role)
        return len(now) == len(killed) and not set(now) & set(killed) and all_ready(demo)

    until(repaired, f"the new {role}", 60)
    send(demo, f"after-{role}")
    assert found(demo, f"after-{role}")
    assert get(demo, "/readyz")[0] == 200


def test_a_reload_keeps_sessions_and_the_new_generation_serves(demo: Demo) -> None:
    with imap(demo) as client:
        generation = demo.status()["supervisor"]["generation"]
        done = demo.ctl("reload", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["generation"] == generation + 1
        assert client.noop()[0] == "OK"
        # processes without a session are gone soon, the one with ours stays
        until(
            lambda: [p["role"] for p in demo.status()["processes"] if p["state"] == "draining"] == ["worker"],
            "the end of whoever has no session",
        )
        assert client.noop()[0] == "OK"
        send(demo, "after-reload")
        assert found(demo, "after-reload")
    until(lambda: all_ready(demo), "the end of the old generation")


def test_a_handshake_that_began_before_a_reload_ends_after_it(demo: Demo) -> None:
    """The connection is accepted and has no session yet: the old generation must wait for it."""
    trusting = ssl._create_unverified_context()
    until(lambda: all_ready(demo), "the end of other generations")
    with socket.create_connection(("127.0.0.1", demo.ports["imaps"]), timeout=15) as plain:
        with socket.create_connection(("127.0.0.1", demo.ports["imaps"]), timeout=15) as other:
            trusting.wrap_socket(other).close()  # by now the first one is accepted as well, if it is the same worker
        assert demo.ctl("reload").returncode == 0
        with trusting.wrap_socket(plain) as tls, tls.makefile("rb") as file:
            assert file.readline().startswith(b"* OK")
    until(lambda: all_ready(demo), "the end of the old generation")


def test_a_stop_says_goodbye_and_a_second_start_has_the_mail(demo: Demo) -> None:
    send(demo, "kept")
    status = demo.status()
    everything = [*pids(status), status["supervisor"]["pid"], status["supervisor"]["postgres_pid"]]
    with socket.create_connection(("127.0.0.1", demo.ports["imap"]), timeout=15) as idle:
        file = idle.makefile("rb")
        assert file.readline().startswith(b"* OK")
        done = demo.ctl("stop")
        assert done.returncode == 0, done.stderr
        assert not any(map(alive, everything))
        assert file.readline().startswith(b"* BYE")
        assert file.read() == b""
        file.close()
    demo.stop()
    demo.start()
    assert found(demo, "kept")
    until(lambda: all_ready(demo), "every process")


def test_the_next_start_after_a_killed_supervisor_finds_its_way(demo: Demo) -> None:
    send(demo, "survives")
    before = demo.status()
    os.kill(demo.ready["pid"], signal.SIGKILL)
    demo.stop()
    demo.start()
    assert found(demo, "survives")
    assert not any(map(alive, [*pids(before), before["supervisor"]["postgres_pid"]]))


def test_detached_it_prints_the_line_and_returns(tmp_path: Path) -> None:
    ctl = [sys.executable, "-m", "sora.cli.ctl"]
    start = [*ctl, "demo", "--dir", str(tmp_path / "d"), "--port-base", str(free_port_base()), "--workers", "1"]
    done = subprocess.run([*start, "--detach"], capture_output=True, text=True, check=True)
    ready = json.loads(done.stdout)
    try:
        assert alive(ready["pid"])
        assert len(done.stdout.splitlines()) == 1
        assert "smtplib.LMTP" in done.stderr
        again = subprocess.run(start, capture_output=True, text=True, check=False)
        assert again.returncode == 1
        assert "already" in again.stderr
    finally:
        subprocess.run([*ctl, "stop", "--config", ready["config"]], capture_output=True, check=True)
    assert not alive(ready["pid"])


def test_detached_it_speaks_json_restarts_and_upgrades(tmp_path: Path) -> None:
    ctl = [sys.executable, "-m", "sora.cli.ctl"]
    start = [*ctl, "demo", "--dir", str(tmp_path / "d"), "--port-base", str(free_port_base()), "--workers", "1"]
    done = subprocess.run([*start, "--detach", "--json"], capture_output=True, text=True, check=True)
    first = json.loads(done.stdout)
    assert done.stderr == ""
    config = ["--config", first["config"], "--json"]
    try:
        done = subprocess.run([*ctl, "restart", *config, "--detach"], capture_output=True, text=True, check=True)
        second = json.loads(done.stdout)
        assert second.keys() == {"ready", "pid", "ports"}
        assert (second["ready"], second["ports"]) == (True, first["ports"])
        assert alive(second["pid"])
        assert not alive(first["pid"])
        done = subprocess.run([*ctl, "upgrade", *config], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["upgraded"] is True
        status = json.loads(subprocess.run([*ctl, "status", *config], capture_output=True, check=True).stdout)
        assert (status["supervisor"]["pid"], status["supervisor"]["generation"]) == (second["pid"], 2)
        assert "executing the successor" in (tmp_path / "d" / "run" / "sora.log").read_text()
    finally:
        done = subprocess.run([*ctl, "stop", *config], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"stopped": True, "was_running": True}
    assert not alive(second["pid"])


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    base = free_port_base()
    start = [sys.executable, "-m", "sora.cli.ctl", "demo", "--dir", str(tmp_path / "d"), "--port-base", str(base)]
    with socket.create_server(("127.0.0.1", base + 2)):
        done = subprocess.run(start, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"soractl: servers.pop3: cannot listen on 127.0.0.1:{base + 2}: already in use\n"
