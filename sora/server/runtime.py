"""The runtime directory: the lock that makes a supervisor the only one, and the files that others find it by.

The lock is inherited by every child, so it is free only when all processes of a run are gone. A new start waits for the
orphans of a killed supervisor to finish; a stop that sees the lock free knows that nothing is left.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sora.errors import ConfigError, Unavailable
from sora.server.control import SOCKET

if TYPE_CHECKING:
    from sora.config import Config

_POLL_S: Final = 0.02


class Runtime:
    """`process.runtime_path` and what is in it."""

    def __init__(self, config: Config) -> None:
        self.directory = Path(config.process.runtime_path)
        self.control = self.directory / SOCKET
        self.metrics = self.directory / "metrics"
        self.log = self.directory / "sora.log"
        self._lock = self.directory / "lock"
        self._fd = -1

    def acquire(self, timeout_s: float) -> None:
        """Make the directory and take the lock, waiting for orphans of a killed supervisor to end.

        Raises:
            ConfigError: Another supervisor runs here, or the directory cannot be used.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"process.runtime_path: {error.filename}: {error.strerror}") from error
        deadline = time.monotonic() + timeout_s
        while not _try_lock(self._fd):
            pid = self._owner()
            if _alive(pid):
                raise ConfigError(f"Sora runs in {self.directory} already (pid {pid})")
            if time.monotonic() > deadline:
                raise ConfigError(f"processes of an earlier run (supervisor pid {pid}) in {self.directory} do not end")
            time.sleep(_POLL_S)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    @property
    def lock_fd(self) -> int:
        """Descriptor of the lock that we hold."""
        return self._fd

    def resume(self, fd: int) -> None:
        """Go on with a lock that this process holds already."""
        self._fd = fd

    def release(self) -> None:
        """Let go; the lock is free when the last child did so too."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def is_running(self) -> bool:
        """True while any process of a run is alive."""
        try:
            fd = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(fd)
        finally:
            os.close(fd)

    def has_supervisor(self) -> bool:
        """True while a supervisor runs; orphans that one left behind when it was killed do not count."""
        if not self.is_running():
            return False
        text = self._lock.read_text(encoding="ascii").strip()
        return text.isdigit() and _alive(int(text))

    def wait_gone(self, timeout_s: float) -> None:
        """Return when every process of the run is gone.

        Raises:
            Unavailable: Some are still there after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while self.is_running():
            if time.monotonic() > deadline:
                raise Unavailable("some processes do not end", detail=str(self.directory))
            time.sleep(_POLL_S)

    def _owner(self) -> int:
        text = os.pread(self._fd, 32, 0).strip()
        return int(text) if text.isdigit() else 0


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(pid: int) -> bool:
    """True if the process runs; one that was killed and that nobody collects (a container without init) does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
