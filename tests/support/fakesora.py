"""A supervisor with fake processes (see `fakerole`), in a process of its own: no database, starts in no time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.server.processes import Role

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
[database]
primary = "postgresql:///nowhere"
[object_store]
path = "objects"
[local_cache]
capacity = 0
[uploader]
staging_path = "staging"
[servers.imap]
listen = ["127.0.0.1:0"]
[servers.metrics]
listen = ["127.0.0.1:0"]
"""


def until(holds: Callable[[], Any], what: str, timeout_s: float = 15.0) -> Any:
    """Ask again and again until `holds` gives something true; gives that."""
    deadline = time.monotonic() + timeout_s
    while not (result := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.01)
    return result


def alive(pid: int) -> bool:
    """True while a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Client:
    """One connection to a fake worker."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._file = self.socket.makefile("rb")
        if self._file.readline() != b"hello\n":
            self.close()
            raise ConnectionError("no greeting")

    def ask(self, line: str = "who") -> tuple[int, ...]:
        """Slot, generation and pid of the worker; or the number that was asked for."""
        self.socket.sendall(line.encode() + b"\n")
        return tuple(map(int, self._file.readline().split()))

    def value(self, key: str) -> Any:
        """What the worker's configuration says."""
        self.socket.sendall(b"key %s\n" % key.encode())
        return json.loads(self._file.readline())

    def tell(self, line: str) -> None:
        """Send a line that has no answer."""
        self.socket.sendall(line.encode() + b"\n")

    def at_end(self) -> bool:
        """True once the other side has closed."""
        return self._file.readline() == b""

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Hammer:
    """Threads that connect and ask twice, again and again, while something happens; a context manager.

    Attributes:
        failures: Of clients that were refused, reset or not answered.
    """

    def __init__(self, port: int, threads: int = 3) -> None:
        self.failures: list[BaseException] = []
        self._port = port
        self._generations: set[int] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with Client(self._port) as client:
                    _, generation, pid = client.ask()
                    assert client.ask()[1:] == (generation, pid)
                self._generations.add(generation)
            except (OSError, ValueError, AssertionError) as error:
                self.failures.append(error)

    def await_answer_of(self, generation: int) -> None:
        """Until a client was served by this generation."""
        until(lambda: generation in self._generations, f"an answer of generation {generation}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class FakeSora:
    """One supervisor; a context manager that ends it."""

    def __init__(self, directory: Path, **process: Any) -> None:
        self.directory = directory
        self.path = directory / "sora.toml"
        self.process_table = {"workers": 2, **process}
        self.listen = "127.0.0.1:0"
        self.configure()
        self.port = 0
        self.environment: dict[str, str] = {}
        self.launcher: list[str] = []
        self.pass_fds: list[int] = []
        self.clients: list[Client] = []
        self.supervisor: subprocess.Popen[str] | None = None

    def configure(self, more: str = "", **process: Any) -> None:
        """Write the configuration."""
        table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in {**self.process_table, **process}.items())
        config = CONFIG.replace("127.0.0.1:0", self.listen, 1)
        self.path.write_text(f'{config}\n[process]\nruntime_path = "run"\n{table}\n{more}\n')

    def start(self) -> Self:
        """Start and wait until it is ready.

        Raises:
            RuntimeError: It ended instead.
        """
        self.launch()
        return self.await_ready()

    def launch(self) -> None:
        """Start."""
        with (self.directory / "log").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [*self.launcher, sys.executable, "-m", "tests.support.fakesora", str(self.path)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, **self.environment},
                pass_fds=self.pass_fds,
            )

    def await_ready(self) -> Self:
        """Wait until it is ready; see `start`."""
        assert self.supervisor is not None
        assert self.supervisor.stdout is not None
        line = self.supervisor.stdout.readline()
        if not line.startswith("{"):
            self.supervisor.stdout.close()
            raise RuntimeError(f"ended with {self.supervisor.wait()}: {line}")
        self.port = json.loads(line)["imap"]
        return self

    def kill_supervisor(self) -> None:
        """SIGKILL, nothing else."""
        assert self.supervisor is not None
        self.supervisor.kill()
        self.supervisor.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        assert self.supervisor is not None
        self.supervisor.send_signal(number)

    def ctl(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`soractl VERB`."""
        command = [sys.executable, "-m", "sora.cli.ctl", verb, "--config", str(self.path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    def call(self, verb: str, timeout_s: float = 15.0) -> dict[str, Any]:
        """The answer of a control verb."""
        from sora.server.control import call

        return call(self.directory / "run" / "control.sock", verb, timeout_s=timeout_s)

    def status(self) -> dict[str, Any]:
        """What `status --json` shows."""
        return self.call("status")

    def processes(self, role: str = "worker", state: str = "ready") -> list[dict[str, Any]]:
        """Processes of a role in a state."""
        return [p for p in self.status()["processes"] if (p["role"], p["state"]) == (role, state)]

    def open_files(self) -> int:
        """Descriptors of the supervisor, once no old generation is left."""
        until(lambda: len(self.status()["processes"]) == 4, "the end of old generations")
        assert self.supervisor is not None
        return len(os.listdir(f"/proc/{self.supervisor.pid}/fd"))

    def pids(self) -> set[int]:
        """Every process."""
        assert self.supervisor is not None
        return {self.supervisor.pid, *(p["pid"] for p in self.status()["processes"])}

    def exit_status(self, pid: int) -> int:
        """How a process ended, as soon as the supervisor has logged it."""

        def ends() -> list[int]:
            lines = (json.loads(line) for line in (self.directory / "log").read_text().splitlines() if line[:1] == "{")
            return [line["status"] for line in lines if (line["text"], line.get("child_pid")) == ("process ended", pid)]

        (status,) = until(ends, f"the end of {pid}")
        return int(status)

    def client(self) -> Client:
        """A new connection, closed at the end at the latest."""
        client = Client(self.port)
        self.clients.append(client)
        return client

    def client_of(self, slot: int) -> Client:
        """A connection that the kernel gave to the worker of a slot."""
        while True:
            client = self.client()
            if client.ask()[0] == slot:
                return client
            client.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        supervisor = self.supervisor
        if supervisor is None:
            return
        if supervisor.poll() is None:
            supervisor.send_signal(signal.SIGTERM)
            try:
                supervisor.wait(20)
            finally:
                supervisor.kill()
        supervisor.wait()
        assert supervisor.stdout is not None
        supervisor.stdout.close()


def _roles() -> list[Role]:
    from sora.server.processes import Role

    module = "tests.support.fakerole"
    return [Role("worker", module, True), Role("uploader", module, False), Role("http", module, True)]


def _successor() -> list[str]:
    """What an upgrade executes; a test may have another release "installed"."""
    return os.environ.get("SORA_TEST_SUCCESSOR", f"{sys.executable} -m tests.support.fakesora").split()


def _main(path: Path) -> None:
    from sora import config as configuration
    from sora import log
    from sora.errors import SoraError
    from sora.server import metricfiles
    from sora.server.runtime import Runtime

    log.setup()
    config = configuration.load(path)
    runtime = Runtime(config)
    try:
        runtime.acquire(10.0)
        metricfiles.install(runtime.metrics)
        from sora.server.supervisor import Supervisor

        Supervisor(
            path,
            config,
            runtime,
            roles=_roles(),
            successor=_successor(),
            on_ready=lambda supervisor: print(json.dumps(supervisor.listeners.ports()), flush=True),  # noqa: T201
        ).run()
    except SoraError as error:
        print(error, flush=True)  # noqa: T201
        os._exit(1)


def _upgraded(word: str) -> int:
    """The "new release": whatever the environment says of it."""
    from sora.server import upgrading

    return upgrading.main(word, command=_successor(), roles=_roles())


if __name__ == "__main__":
    if "/" in sys.argv[1]:
        _main(Path(sys.argv[1]))
    else:
        sys.exit(_upgraded(sys.argv[1]))
