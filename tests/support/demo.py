"""A complete Sora on loopback, run as a user runs it: `soractl demo` in a directory of its own."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PORTS = 8
PASSWORD = "demo"


def free_port_base() -> int:
    """The first of `PORTS` neighbouring ports that nobody uses now."""
    while True:
        base = random.randrange(20_000, 32_000, PORTS)
        with ExitStack() as stack:
            try:
                for port in range(base, base + PORTS):
                    probe = stack.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return base


class Demo:
    """`soractl demo` in the foreground; a context manager that stops it.

    Attributes:
        ready: What it printed when every listener accepted.
        ports: Port by server name.
    """

    def __init__(self, directory: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.ready: dict[str, Any] = {}
        self.ports: dict[str, int] = {}
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self.log_path = directory.with_name(f"{directory.name}.log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait for the line that says it is ready.

        Raises:
            RuntimeError: It ended instead; the text is what it wrote to standard error.
        """
        command = [*self._ctl("demo"), "--dir", str(self.directory)]
        if not (self.directory / "sora.toml").exists():
            command += ["--port-base", str(free_port_base())]
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *self._arguments],
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env=None if self._environment is None else dict(self._environment),
                start_new_session=True,
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self.ready = json.loads(line)
                self.ports = self.ready["ports"]
                return
        status = self._process.wait()
        self._process.stdout.close()
        raise RuntimeError(f"the demo ended with {status}:\n{self.log_path.read_text()}")

    def stop(self) -> None:
        """Ctrl-C, and wait until it has gone."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    @property
    def config(self) -> str:
        """The configuration file."""
        return str(self.ready["config"])

    def status(self) -> dict[str, Any]:
        """`soractl status --json`."""
        done = subprocess.run(
            [*self._ctl("status"), "--config", self.config, "--json"], capture_output=True, text=True, check=True
        )
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def ctl(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`soractl VERB --config …`."""
        return subprocess.run(
            [*self._ctl(verb), "--config", self.config, *arguments], capture_output=True, text=True, check=False
        )

    def admin(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """`sora-admin --config … ARGUMENTS`."""
        return subprocess.run(
            [sys.executable, "-m", "sora.cli.admin", "--config", self.config, *arguments],
            capture_output=True,
            text=True,
            check=False,
            input=input,
        )

    @staticmethod
    def _ctl(verb: str) -> list[str]:
        return [sys.executable, "-m", "sora.cli.ctl", verb]
