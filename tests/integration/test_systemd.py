"""The unit files, and the protocol between a service manager and the supervisor, without systemd as process 1."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sora.cli import manpages
from tests.support.demo import free_port_base
from tests.support.fakesora import FakeSora, alive, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(60)
UNITS = Path(__file__).parent.parent.parent / "systemd"
needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The unit files, with a program that exists here."""
    program = shutil.which("true")
    for source in UNITS.glob("sora.s*[te]"):
        (tmp_path / source.name).write_text(source.read_text().replace("/usr/bin/soractl", str(program)))
    return tmp_path


@needs_analyze
def test_systemd_finds_nothing_to_say(units: Path) -> None:
    files = [str(units / name) for name in ("sora.service", "sora.socket")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "sora" in line]
    assert (done.returncode, ours) == (0, [])


@needs_analyze
def test_the_service_is_hardened(units: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(units / "sora.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    level = re.search(r"Overall exposure level for sora.service: (\d+\.\d+)", done.stdout)
    assert level
    assert float(level[1]) <= 2.5


@pytest.mark.parametrize("tool", ["systemd-sysusers", "systemd-tmpfiles"])
def test_user_and_directories_can_be_made(tmp_path: Path, tool: str) -> None:
    if shutil.which(tool) is None or os.geteuid() != 0:
        pytest.skip(f"{tool} is not installed, or we are not root")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    sysusers, tmpfiles = (str(UNITS / f"sora.{name}.conf") for name in ("sysusers", "tmpfiles"))
    subprocess.run(["systemd-sysusers", f"--root={root}", sysusers], check=True, capture_output=True)
    assert re.search(r"^sora:", (root / "etc/passwd").read_text(), re.MULTILINE)
    if tool == "systemd-tmpfiles":
        done = subprocess.run(
            [tool, "--create", f"--root={root}", tmpfiles], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        names = ("etc/sora", "var/lib/sora", "var/cache/sora", "run/sora")
        modes = {name: (root / name).stat().st_mode & 0o777 for name in names}
        assert modes == {"etc/sora": 0o750, "var/lib/sora": 0o700, "var/cache/sora": 0o700, "run/sora": 0o750}


def test_what_the_units_name_exists() -> None:
    from sora.cli.ctl import build_parser

    text = "".join(path.read_text() for path in UNITS.glob("sora.s*[te]"))
    for name, section in re.findall(r"man:([\w.-]+)\((\d)\)", text):
        assert f"{name}.{section}" in manpages.pages("1")
    for line in re.findall(r"^Exec\w+=/usr/bin/soractl (.*)$", text, re.MULTILINE):
        build_parser().parse_args(line.split())


def test_the_service_may_write_what_the_readme_configures() -> None:
    text = (UNITS / "sora.service").read_text()
    given = {"State": "/var/lib", "Cache": "/var/cache", "Runtime": "/run"}
    writable = {f"{top}/{re.search(rf'^{kind}Directory=(.+)$', text, re.MULTILINE)[1]}" for kind, top in given.items()}  # type: ignore[index]
    readme = (UNITS.parent / "README.md").read_text()
    paths = re.findall(r'^(?:staging_path|path|runtime_path) = "(/[^"]+)"', readme, re.MULTILINE)
    assert len(paths) == 3
    assert [path for path in paths if not any(f"{path}/".startswith(f"{top}/") for top in writable)] == []


# ---------------------------------------------------------------------- notification


class Manager:
    """The manager's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(20)

    def forget(self) -> None:
        """Whatever came so far."""
        while select.select([self.socket], [], [], 0)[0]:
            self.socket.recv(999)

    def hear(self, *skipped: str) -> dict[str, str]:
        """The next message that does not begin with one of these words."""
        while True:
            message = dict(line.split("=", 1) for line in self.socket.recv(999).decode().splitlines())
            if next(iter(message)) not in skipped:
                return message


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()


def now_usec() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_every_step_is_told(tmp_path: Path, manager: Manager) -> None:
    sora = FakeSora(tmp_path)
    sora.environment = {"NOTIFY_SOCKET": str(manager.path)}
    with sora:
        assert sora.supervisor is not None
        pid = str(sora.supervisor.pid)
        ready = manager.hear()
        assert (ready["READY"], ready["MAINPID"]) == ("1", pid)
        for generation, verb in ((2, "reload"), (3, "upgrade"), (4, "reload")):
            before = now_usec()
            assert sora.call(verb, 60)["generation"] == generation
            reloading = manager.hear()
            assert reloading["RELOADING"] == "1"
            assert before < int(reloading["MONOTONIC_USEC"]) < now_usec()
            ready = manager.hear()
            assert (ready["READY"], ready["STATUS"], ready["MAINPID"]) == ("1", f"generation {generation}", pid)
        sora.configure("[limits]\nrecipiens = 3")
        for verb in ("reload", "upgrade"):
            assert "error" in sora.call(verb, 60)
            assert list(manager.hear()) == ["RELOADING", "MONOTONIC_USEC"]
            assert manager.hear()["STATUS"] == f"{verb} refused"
        sora.signal(signal.SIGTERM)
        assert manager.hear() == {"STOPPING": "1"}


def test_the_watchdog_is_fed_also_after_an_upgrade_and_not_by_a_stuck_supervisor(
    tmp_path: Path, manager: Manager
) -> None:
    sora = FakeSora(tmp_path)
    sora.environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "2000000"}
    with sora:
        assert manager.hear("READY") == {"WATCHDOG": "1"}
        assert "error" not in sora.call("upgrade", 60)
        while manager.hear("RELOADING") == {"WATCHDOG": "1"}:
            pass
        assert manager.hear("READY") == {"WATCHDOG": "1"}
        sora.signal(signal.SIGSTOP)
        assert sora.supervisor is not None
        until(lambda: Path(f"/proc/{sora.supervisor.pid}/stat").read_text().split()[2] == "T", "the stop")  # type: ignore[union-attr]
        manager.forget()
        manager.socket.settimeout(2.5)  # more than twice the pause between two
        with pytest.raises(TimeoutError):
            manager.hear()
        sora.signal(signal.SIGCONT)


# ---------------------------------------------------------------------- socket activation

ACTIVATOR = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="imap")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_socket_of_the_manager_is_served_and_outlives_us(tmp_path: Path) -> None:
    """Who connects before the start, during an upgrade or after the stop waits, and is never refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        early = socket.create_connection(address, timeout=15)
        sora = FakeSora(tmp_path)
        sora.listen = f"127.0.0.1:{address[1]}"
        sora.configure()
        sora.launcher = [sys.executable, "-c", ACTIVATOR, str(listener.fileno())]
        sora.pass_fds = [listener.fileno()]
        with sora, early, early.makefile("rb") as file:
            assert sora.port == address[1]
            assert file.readline() == b"hello\n"
            for _ in range(10):
                sora.client().ask()
            for process in sora.processes():
                os.kill(process["pid"], signal.SIGKILL)
            sora.client().ask()
            assert sora.call("reload")["generation"] == 2
            assert sora.call("upgrade", 60)["generation"] == 3
            assert sora.client().ask()[1] == 3
            assert sora.supervisor is not None
            assert b"LISTEN_" not in Path(f"/proc/{sora.supervisor.pid}/environ").read_bytes()
        with socket.create_connection(address, timeout=5):
            pass


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed")
def test_systemds_own_activator(tmp_path: Path) -> None:
    port = free_port_base()
    sora = FakeSora(tmp_path)
    sora.listen = f"127.0.0.1:{port}"
    sora.configure()
    sora.launcher = ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", "--setenv=HOME"]

    def connect() -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=15)
        except ConnectionRefusedError:
            return None

    sora.launch()
    try:
        with until(connect, "the activator") as first, first.makefile("rb") as file:
            sora.await_ready()
            assert file.readline() == b"hello\n"
            pids = sora.pids()
            sora.client().ask()
            assert sora.ctl("stop").returncode == 0
            assert not [pid for pid in pids if alive(pid)]
    finally:
        sora.__exit__()
