"""A smarthost in a process of its own: aiosmtpd, which misbehaves as it is told.

`python -m tests.support.smtpsink DIRECTORY PORT` listens on loopback. `DIRECTORY/mails` gets a JSON line for each mail
at its end of data, on disk before the reply: what is there was taken, whatever the client came to know of it.
`DIRECTORY/mode`, a JSON object, is read at each step:

- `MAIL`, `RCPT`, `DATA`: reply to that step instead of the good one, for all mail or, as `{"text": …, "times": n}`, so
  often only;
- `drop`: the connection ends at this step: `MAIL`, `RCPT`, `DATA` (in the middle of the data) or `reply` (the mail was
  taken, its reply is lost);
- `slow_s`: pause before the reply to the end of data.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Sink:
    """The test's side of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Listen; on the same port each time."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.directory), str(self.port)], stdin=subprocess.DEVNULL
        )
        until = time.monotonic() + 15
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, "the sink ended"
            time.sleep(0.02)
        raise TimeoutError("the sink does not listen")

    def stop(self) -> None:
        """Be down: connections are refused."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def mode(self, **mode: Any) -> None:
        """Misbehave from now on; nothing given: behave."""
        path = self.directory / "mode"
        path.with_suffix(".new").write_text(json.dumps(mode))
        path.with_suffix(".new").rename(path)

    def mails(self) -> list[dict[str, Any]]:
        """What was taken: sender, recipient, data, options."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.directory / "mails").read_text().splitlines()
            return [{**mail, "data": base64.b64decode(mail["data"])} for mail in map(json.loads, lines)]
        return []

    def recipients(self) -> list[str]:
        """Of all mail that was taken, sorted."""
        return sorted(mail["recipient"] for mail in self.mails())

    def attempts(self) -> int:
        """MAIL commands so far."""
        with contextlib.suppress(FileNotFoundError):
            return len((self.directory / "attempts").read_bytes())
        return 0


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Sink]:
    """A sink that behaves."""
    sink = Sink(directory)
    sink.start()
    try:
        yield sink
    finally:
        sink.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Handler:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._said: dict[str, int] = {}

    def _mode(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self._directory / "mode").read_text())
            return found
        return {}

    def _reply(self, server: Any, step: str, good: str, mode: dict[str, Any]) -> str:
        if mode.get("drop") == step:
            server.transport.abort()
        wanted = mode.get(step, good)
        if isinstance(wanted, dict):
            key = json.dumps(mode)
            if self._said.get(key, 0) >= wanted["times"]:
                return good
            self._said[key] = self._said.get(key, 0) + 1
            wanted = wanted["text"]
        return str(wanted)

    def _append(self, name: str, line: bytes) -> None:
        with (self._directory / name).open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        self._append("attempts", b".")
        envelope.mail_from, envelope.mail_options = address, options
        return self._reply(server, "MAIL", "250 2.1.0 OK", self._mode())

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        reply = self._reply(server, "RCPT", "250 2.1.5 OK", self._mode())
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mode = self._mode()  # once: it may change meanwhile
        reply = self._reply(server, "DATA", "250 2.0.0 OK", mode)
        if reply.startswith("250") and mode.get("drop") != "DATA":
            mail = {
                "sender": envelope.mail_from.removesuffix("<>"),
                "recipient": envelope.rcpt_tos[0],
                "options": envelope.mail_options,
                "data": base64.b64encode(envelope.original_content).decode(),
            }
            self._append("mails", json.dumps(mail).encode() + b"\n")
        if mode.get("drop") == "reply":
            server.transport.abort()
        await asyncio.sleep(mode.get("slow_s", 0))
        return reply


async def _serve(directory: Path, port: int) -> None:
    from aiosmtpd.smtp import SMTP

    handler = _Handler(directory)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="sink.example", enable_SMTPUTF8=True, loop=loop), "127.0.0.1", port
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
