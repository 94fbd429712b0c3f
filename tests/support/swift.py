"""A real S3 server for the tests: OpenStack Swift, in an environment of its own (`.venv-s3`).

It refuses wrong secrets, answers ranges, listings and digests as S3 does, and keeps its data over a SIGKILL. Its
dependencies stay out of the product's environment; `make test` makes `.venv-s3` from `swift-requirements.txt`.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from sora.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
ENVIRONMENT: Final = ROOT / ".venv-s3"
REQUIREMENTS: Final = Path(__file__).with_name("swift-requirements.txt")
SERVER: Final = Path(__file__).with_name("swift_server.py")
START_S: Final = 15.0
REGION: Final = "us-east-1"


class SwiftServer:
    """One server with its data below `directory`.

    Attributes:
        endpoint: `http://127.0.0.1:port`; the port stays the same over `kill` and `start`.
    """

    def __init__(self, directory: Path) -> None:
        self.access_key = "sora:sora"
        self.secret_key = secrets.token_hex(16)
        self.port = 0
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None

    @property
    def endpoint(self) -> str:
        """For `object_store.endpoint`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it serves."""
        python = ENVIRONMENT / "bin" / "python"
        if not python.exists():
            pytest.fail(
                f"the S3 test server is not installed: python3 -m venv {ENVIRONMENT.name} && "
                f"{ENVIRONMENT.name}/bin/pip install -r {REQUIREMENTS.relative_to(ROOT)}",
                pytrace=False,
            )
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [python, "-P", "-W", "ignore", SERVER, self._directory, self.access_key, str(self.port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            )
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self.secret_key}\n")
        self._process.stdin.close()
        self.port = json.loads(self._first_line())["port"]

    def _first_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(START_S) else ""
        if not line:
            self.kill()
            pytest.fail(f"Swift did not start: {(self._directory / 'server.log').read_text()[-2000:]}", pytrace=False)
        return line

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def store(self, bucket: str, *, secret_key: str | None = None, endpoint: str | None = None) -> S3Store:
        """A store on this server with bounds that suit a test; the caller closes it."""
        return S3Store(
            endpoint or self.endpoint,
            REGION,
            bucket,
            self.access_key,
            self.secret_key if secret_key is None else secret_key,
            connect_s=1.0,
            read_s=5.0,
            request_s=10.0,
        )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """A running S3 server for the whole session; use a bucket of your own."""
    server = SwiftServer(tmp_path_factory.mktemp("swift"))
    server.start()
    try:
        yield server
    finally:
        server.kill()
