"""ManageSieve against real processes: two workers that must agree, and clients that other people wrote."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, BinaryIO

import pytest

from tests.support.demo import PASSWORD, Demo
from tests.support.fakesora import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)

USER = "user1@example.com"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with Demo(tmp_path_factory.mktemp("managesieve") / "demo", "--accounts", "2", "--workers", "2") as demo:
        yield demo


class Client:
    """Says lines and reads answers."""

    def __init__(self, demo: Demo) -> None:
        self._socket = socket.create_connection(("127.0.0.1", demo.ports["managesieve"]), timeout=20)
        self._file: BinaryIO = self._socket.makefile("rb")
        assert self._answer()[-1] == b'OK "Sora ready"\r\n'
        plain = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
        assert self.say(f'AUTHENTICATE "PLAIN" "{plain}"') == [b'OK "Logged in"\r\n']

    def say(self, line: str) -> list[bytes]:
        self._socket.sendall(line.encode() + b"\r\n")
        return self._answer()

    def _answer(self) -> list[bytes]:
        lines = [self._file.readline()]
        while lines[-1] and not lines[-1].startswith((b"OK", b"NO", b"BYE")):
            lines.append(self._file.readline())
        return lines

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def connections(demo: Demo) -> int:
    """As `soractl status` shows them."""
    return sum(process["connections"].get("managesieve", 0) for process in demo.status()["processes"])


def test_sessions_on_all_workers_see_the_same(demo: Demo) -> None:
    clients = [Client(demo) for _ in range(8)]
    for number, client in enumerate(clients):
        assert client.say(f'PUTSCRIPT "s{number}" "keep;"') == [b"OK\r\n"]
    for number, client in enumerate(clients):
        assert client.say(f'SETACTIVE "s{number}"') == [b"OK\r\n"]
        for other in clients:
            listed = other.say("LISTSCRIPTS")
            assert [line for line in listed if b"ACTIVE" in line] == [b'"s%d" ACTIVE\r\n' % number]
            assert len(listed) == len(clients) + 1
    clients[0].say('SETACTIVE ""')
    for number, client in enumerate(clients):
        assert client.say(f'DELETESCRIPT "s{number}"') == [b"OK\r\n"]
        client.close()


def test_status_counts_the_connections(demo: Demo) -> None:
    client = Client(demo)
    until(lambda: connections(demo) == 1, "the session is counted")
    client.close()
    until(lambda: connections(demo) == 0, "its end is counted")


@pytest.mark.skipif(shutil.which("sieve-connect") is None, reason="sieve-connect is not installed")
def test_sieve_connect(demo: Demo, tmp_path: Path) -> None:
    """With TLS, which it insists on where it is offered."""
    script = tmp_path / "a.sieve"
    script.write_text('require "fileinto";\nfileinto "Work";\n')

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["sieve-connect", "--server", "127.0.0.1", "--port", str(demo.ports["managesieve"]), "--user", USER,
             "--passwordfd", "0", "--notlsverify", *arguments],
            input=PASSWORD + "\n", text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("--upload", "--localsieve", str(script), "--remotesieve", "probe")
    run("--activate", "--remotesieve", "probe")
    assert "ACTIVE" in run("--list")
    run("--download", "--remotesieve", "probe", "--localsieve", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text().replace("\r\n", "\n") == script.read_text()
    run("--deactivate")
    run("--delete", "--remotesieve", "probe")
    assert "probe" not in run("--list")
