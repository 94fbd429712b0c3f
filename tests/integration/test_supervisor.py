"""The supervisor with real processes and sockets; the processes are fakes that say who they are."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from sora import config as configuration
from tests.support.fakesora import Client, FakeSora, Hammer, alive, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


def test_status_has_the_shape_of_the_contract(sora: FakeSora) -> None:
    status = json.loads(sora.ctl("status", "--json").stdout)
    assert status.keys() == {"state", "supervisor", "processes", "uploads", "health"}
    assert status["state"] == "running"
    assert status["supervisor"].keys() == {"pid", "generation", "uptime_s", "postgres_pid"}
    assert sora.supervisor is not None
    assert status["supervisor"]["pid"] == sora.supervisor.pid
    assert [(p["role"], p["slot"]) for p in status["processes"]] == [
        ("worker", 0), ("worker", 1), ("uploader", 0), ("http", 0),
    ]  # fmt: skip
    for process in status["processes"]:
        assert process.keys() == {
            "role", "slot", "pid", "generation", "state", "restarts", "uptime_s", "connections",
        }  # fmt: skip
        assert (process["generation"], process["state"], process["restarts"]) == (1, "ready", 0)
        assert process["connections"].keys() == {"imap", "pop3", "lmtp", "managesieve"}
    assert status["uploads"].keys() == {"pending", "oldest_s"}
    assert status["health"].keys() == {"postgresql", "object_store"}
    assert sora.ctl("status").stdout.startswith("running, generation 1")


def test_connections_are_counted(sora: FakeSora) -> None:
    clients = [sora.client() for _ in range(5)]
    until(lambda: sum(p["connections"]["imap"] for p in sora.processes()) == 5, "five connections in the status")
    for client in clients:
        client.close()


def test_a_killed_process_is_replaced(sora: FakeSora) -> None:
    for role in ("worker", "uploader", "http"):
        before = sora.processes(role)[0]
        os.kill(before["pid"], signal.SIGKILL)

        def back(role: str = role, before: dict[str, object] = before) -> bool:
            return any(p["restarts"] == 1 and p["pid"] != before["pid"] for p in sora.processes(role))

        until(back, f"the new {role}")


def test_a_machine_that_cannot_make_a_process_costs_only_that_process(sora: FakeSora) -> None:
    """No descriptor is left for the channel of a new worker: the others serve on, and it comes when it can."""
    assert sora.supervisor is not None
    pid = sora.supervisor.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    victim = sora.processes()[0]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    os.kill(victim["pid"], signal.SIGKILL)
    until(lambda: "process cannot be started" in (sora.directory / "log").read_text(), "the failure in the log")
    for _ in range(10):
        with sora.client() as client:
            assert client.ask()[2] != victim["pid"]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    until(lambda: len(sora.processes()) == 2, "the new worker")
    assert sora.supervisor.poll() is None


def test_while_a_slot_has_no_worker_another_accepts_for_it(sora: FakeSora) -> None:
    def worker_0(restarts: int) -> int | None:
        return next((p["pid"] for p in sora.processes() if (p["slot"], p["restarts"]) == (0, restarts)), None)

    for restarts in range(4):
        os.kill(until(lambda: worker_0(restarts), "worker 0"), signal.SIGKILL)  # noqa: B023
    until(lambda: [p["slot"] for p in sora.processes()] == [1], "the death of worker 0")
    # The fourth death costs a second of pause. Half of these connections fall to the socket of slot 0.
    for _ in range(30):
        with sora.client() as client:
            assert client.ask()[0] == 1
    assert [p["slot"] for p in sora.processes()] == [1]
    until(lambda: worker_0(4), "the return of worker 0")
    sora.client_of(0).close()
    sora.client_of(1).close()


def test_when_every_worker_is_killed_no_connection_is_refused_or_reset(sora: FakeSora) -> None:
    for _ in range(3):
        for process in sora.processes():
            os.kill(process["pid"], signal.SIGKILL)
        clients = [sora.client() for _ in range(20)]
        for client in clients:
            assert len(client.ask()) == 3
            client.close()
        until(lambda: len(sora.processes()) == 2, "both workers")


def test_a_stuck_worker_is_replaced(tmp_path: Path) -> None:
    with FakeSora(tmp_path, stuck_after="2s") as sora:
        client = sora.client()
        _, _, pid = client.ask()
        client.tell("hang")
        # by the supervisor, not by the alarm that a child sets for the case that nobody is left to do it
        assert sora.exit_status(pid) == -signal.SIGKILL
        until(lambda: len(sora.processes()) == 2, "its successor")
        client.close()


def test_connections_that_wait_for_a_stuck_worker_are_answered(tmp_path: Path) -> None:
    with FakeSora(tmp_path, stuck_after="2s") as sora:
        stuck = sora.processes()[0]
        os.kill(stuck["pid"], signal.SIGSTOP)
        sockets = [socket.create_connection(("127.0.0.1", sora.port), timeout=20) for _ in range(20)]
        assert alive(stuck["pid"])  # about half of them wait in its queue
        for sock in sockets:
            with sock, sock.makefile("rb") as file:
                assert file.readline() == b"hello\n"
                sock.sendall(b"who\n")
                assert int(file.readline().split()[2]) != stuck["pid"]
        assert sora.exit_status(stuck["pid"]) == -signal.SIGKILL
        until(lambda: [p["restarts"] for p in sora.processes()] == [1, 0], "the successor")


def test_a_supervisor_that_slept_does_not_take_its_children_for_stuck(tmp_path: Path) -> None:
    with FakeSora(tmp_path, stuck_after="3s") as sora:
        pids = sora.pids()
        sora.signal(signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        # Nobody beats for longer than `stuck_after`, as if the machine had been suspended.
        with pytest.raises(TimeoutError), socket.create_connection(("127.0.0.1", sora.port), timeout=6) as sock:
            sock.recv(1)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert sora.client().ask()
        assert sora.pids() == pids


def test_reloads_lose_no_connection(sora: FakeSora) -> None:
    with Hammer(sora.port) as hammer:
        hammer.await_answer_of(1)
        for generation in range(2, 7):
            assert sora.call("reload")["generation"] == generation
            hammer.await_answer_of(generation)
    assert hammer.failures == []


def test_old_sessions_linger_with_the_new_live_values_and_end_with_the_stop(tmp_path: Path) -> None:
    with FakeSora(tmp_path) as sora:
        old = sora.client()
        _, _, old_pid = old.ask()
        sora.configure("[limits]\nrecipients = 7")
        assert sora.call("reload")["changed"] == ["limits.recipients"]
        with sora.client() as new:
            assert new.ask()[1] == 2
            assert new.ask("recipients") == (7,)
        assert old.ask()[1:] == (1, old_pid)
        until(lambda: old.ask("recipients") == (7,), "the live value in the old generation")
        assert [p["pid"] for p in sora.processes(state="draining")] == [old_pid]
        old.close()
        until(lambda: not alive(old_pid), "the end of the worker whose last session has ended")


def test_sessions_that_stay_are_ended_after_the_linger_time(tmp_path: Path) -> None:
    with FakeSora(tmp_path, linger="1s") as sora:
        old = sora.client()
        old.ask()
        sora.call("reload")
        assert old.at_end()
        until(lambda: not sora.processes(state="draining"), "the end of the old generation")


def test_old_generations_do_not_pile_up(sora: FakeSora) -> None:
    clients: list[Client] = []
    for _ in range(6):
        clients.append(sora.client())
        clients[-1].ask()
        assert "error" not in sora.call("reload")
    assert clients[0].at_end()
    assert clients[1].at_end()
    assert clients[2].ask()[1] == 3
    for client in clients:
        client.close()


def test_a_reload_that_cannot_work_changes_nothing(sora: FakeSora) -> None:
    before = {p["pid"] for p in sora.processes()}
    sora.configure('[auth]\ndefault_domain = "fails.example"')
    done = sora.ctl("reload")
    assert done.returncode == 1
    assert "this does not work" in done.stderr
    assert {p["pid"] for p in sora.processes()} == before
    sora.configure("[limits]\nrecipiens = 3")
    assert "nearest known key is limits.recipients" in sora.ctl("reload").stderr
    sora.configure()
    assert sora.call("reload")["reloaded"] is True


def test_keys_that_need_a_restart_are_named_and_keep_their_values(sora: FakeSora) -> None:
    sora.configure(workers=5)
    done = sora.ctl("reload")
    assert done.stdout.splitlines() == ["reloaded, generation 2", "needs a restart: process.workers"]
    assert len(sora.processes()) == 2


def other_value(key: configuration.Key, value: Any) -> Any:
    """A value that no key has by default, as it stands in the file."""
    if key.path == "limits.uid_batch":
        return value - 7  # the default is the most that RFC 10022 allows
    if isinstance(value, tuple):
        return ["192.0.2.0/24"] if key.path.endswith("networks") else ["nothing=1"]
    if isinstance(value, str):
        return {"sieve.redirect_sender": "owner", "sieve.url": "sieve://other"}.get(key.path, "X-Other")
    if isinstance(value, bool):
        return not value
    return f"{value + 7:.0f}s" if key.kind == "duration" else value + 7


def test_every_live_key_reaches_old_and_new_workers(sora: FakeSora) -> None:
    keys = {key.path: key for key in configuration.keys() if key.reload == "live"}
    before = configuration.load(sora.path)
    lines: dict[str, list[str]] = {}
    for path, key in keys.items():
        table, _, name = path.rpartition(".")
        lines.setdefault(table, []).append(f"{name} = {json.dumps(other_value(key, configuration.get(before, path)))}")
    process = dict(line.split(" = ") for line in lines.pop("process"))
    sora.configure(**{name: json.loads(value) for name, value in process.items()})
    text = sora.path.read_text()
    for table, entries in lines.items():
        head = f"[{table}]\n"
        text = text if head in text else f"{text}\n{head}"
        text = text.replace(head, head + "".join(f"{entry}\n" for entry in entries), 1)
    sora.path.write_text(text)
    after = configuration.load(sora.path)
    old = sora.client()
    _, _, old_pid = old.ask()
    answer = sora.call("reload")
    assert (sorted(answer["changed"]), answer["restart_needed"]) == (sorted(keys), [])
    new = sora.client()
    assert (old.ask()[1:], new.ask()[1]) == ((1, old_pid), 2)
    for path in keys:
        value = configuration.get(after, path)
        value = list(value) if isinstance(value, tuple) else value
        assert value != configuration.get(before, path)
        assert new.value(path) == value
        until(lambda: old.value(path) == value, f"{path} in the old generation")  # noqa: B023


def test_stuck_after_is_live(sora: FakeSora) -> None:
    sora.configure(stuck_after="2s")
    assert sora.call("reload")["changed"] == ["process.stuck_after"]
    pid = sora.client().ask()[2]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: not alive(pid), "the end of the stuck worker")


def test_linger_and_drain_timeout_are_live(sora: FakeSora) -> None:
    old = sora.client()
    old.ask()
    sora.configure(linger="1s", drain_timeout="100ms")
    assert sora.call("reload")["changed"] == ["process.drain_timeout", "process.linger"]
    assert old.at_end()
    client = sora.client()
    _, _, pid = client.ask()
    client.tell("hang")
    sora.signal(signal.SIGTERM)
    assert sora.supervisor is not None
    assert sora.supervisor.wait(10) == 0  # with the default it would take 15
    assert not alive(pid)


def test_hangup_reloads(sora: FakeSora) -> None:
    sora.signal(signal.SIGHUP)
    until(lambda: {p["generation"] for p in sora.processes("uploader")} == {2}, "the second generation")


@pytest.mark.parametrize("how", ["stop", "SIGTERM", "SIGINT"])
def test_a_stop_leaves_no_process(sora: FakeSora, how: str) -> None:
    pids = sora.pids()
    client = sora.client()
    client.ask()
    if how == "stop":
        assert sora.ctl("stop").returncode == 0
    else:
        sora.signal(getattr(signal, how))
    assert sora.supervisor is not None
    assert sora.supervisor.wait(15) == 0
    assert not [pid for pid in pids if alive(pid)]
    assert client.at_end()
    client.close()
    with pytest.raises(ConnectionRefusedError):
        sora.client()


def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with FakeSora(tmp_path, drain_timeout="100ms") as sora:
        client = sora.client()
        _, _, pid = client.ask()
        client.tell("hang")
        sora.signal(signal.SIGTERM)
        until(lambda: sora.status()["state"] == "stopping", "the stop to begin")
        sora.signal(signal.SIGTERM)  # the second one does not wait
        assert sora.supervisor is not None
        assert sora.supervisor.wait(15) == 0
        assert not alive(pid)
        client.close()


def test_children_follow_a_killed_supervisor_and_the_next_start_works(tmp_path: Path) -> None:
    with FakeSora(tmp_path) as first:
        pids = first.pids()
        first.kill_supervisor()
        until(lambda: not [pid for pid in pids if alive(pid)], "the end of the orphans")
    with FakeSora(tmp_path) as second, second.client() as client:
        assert client.ask()[1] == 1


def test_a_start_that_cannot_work_says_why_and_ends(tmp_path: Path) -> None:
    sora = FakeSora(tmp_path)
    sora.configure('[auth]\ndefault_domain = "fails.example"')
    with pytest.raises(RuntimeError, match="ended with 1: this does not work"), sora:
        pass


def test_the_service_manager_is_told_of_every_step(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(15)

        def heard(word: bytes) -> None:
            while not manager.recv(999).startswith(word):
                pass

        sora = FakeSora(tmp_path)
        sora.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with sora:
            heard(b"READY=1")
            heard(b"WATCHDOG=1")
            sora.signal(signal.SIGHUP)
            heard(b"RELOADING=1")
            heard(b"READY=1\nSTATUS=generation 2")
            sora.signal(signal.SIGTERM)
            heard(b"STOPPING=1")


def test_many_reloads_leave_nothing_behind(sora: FakeSora) -> None:
    before = sora.open_files()
    for _ in range(8):
        assert sora.call("reload")["reloaded"] is True
    until(
        lambda: sora.open_files() == before, "as many descriptors as before"
    )  # our own connection is one for a moment
    assert len(list((sora.directory / "run" / "metrics").glob("*_1[0-9].db"))) == 0


def test_a_second_supervisor_is_refused(sora: FakeSora) -> None:
    done = sora.ctl("start", "--detach")
    assert done.returncode == 1
    assert "already" in done.stderr
    assert len(sora.processes()) == 2
