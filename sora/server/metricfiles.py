"""Where the metrics of many processes meet: files named by row of the scoreboard, not by pid.

`prometheus_client` keeps a file per process and metric type and adds them up when it is asked. Named by pid, every
crash and every reload would leave files behind for ever; a row is used again, and its counters go on.

The library writes to holes of mapped files, which kills the process (SIGBUS) where the disk is full. So every octet of
a file is reserved before it is mapped; a process that finds no room counts in memory, and the sums do without it.
"""

from __future__ import annotations

import importlib
import mmap
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
INITIAL_BYTES: Final = 64 * 1024
"""Of a file, which doubles when it is full. The library would begin with 1 MiB, and there are dozens of files."""
_identity = "supervisor"


def install(directory: Path, *, keep: bool = False) -> None:
    """Begin with an empty `directory`, or `keep` what processes are writing to.

    Comes before the first import of `sora.metrics`, where the library decides.
    """
    if "sora.metrics" in sys.modules:
        raise RuntimeError("sora.metrics was imported before its files had a place")
    if not keep:
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=keep)
    os.environ[VARIABLE] = str(directory)
    from prometheus_client import values

    importlib.import_module("prometheus_client.multiprocess")  # for `forget`: a machine in trouble may not load it then
    vars(values)["MmapedDict"] = _reserving(vars(values)["MmapedDict"])
    values.ValueClass = values.MultiProcessValue(lambda: _identity)  # type: ignore[no-untyped-call]


def _reserving(base: Any) -> Any:
    """The library's file of values, with its space reserved."""

    class Reserved(base):  # type: ignore[misc]
        _f: Any
        _m: Any
        _used: int
        _capacity: int

        def __init__(self, filename: str, read_mode: bool = False) -> None:
            super().__init__(filename if read_mode or _reserve(filename) else _in_memory(), read_mode)

        def _init_value(self, key: str) -> None:
            needed = self._used + len(key.encode()) + 32  # the length in front, padding, two numbers
            if needed > self._capacity and not _has_room(self._f.fileno(), 2 * self._capacity):
                self._leave_disk()
            super()._init_value(key)

        def _leave_disk(self) -> None:
            self._f.close()
            self._f = open(_in_memory(self._m[:]), "a+b")  # the base class closes it
            self._m = mmap.mmap(self._f.fileno(), self._capacity)

    return Reserved


def _reserve(filename: str) -> bool:
    """Make the file, with space for its first values; False: there is none."""
    fd = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size > 0 or _has_room(fd, INITIAL_BYTES):
            return True
    finally:
        os.close(fd)
    os.unlink(filename)  # whoever adds up cannot read an empty one
    return False


def _has_room(fd: int, size: int) -> bool:
    before = os.fstat(fd).st_size
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        os.ftruncate(fd, before)  # some of it may have been found
        return False
    return True


def _in_memory(data: bytes = bytes(INITIAL_BYTES)) -> str:
    """Name of a file with this in it that is on no disk; its descriptor stays open with the process."""
    fd = os.memfd_create("metrics")
    os.write(fd, data)
    return f"/proc/self/fd/{fd}"


def become(row: int) -> None:
    """In a child, after the fork: write to the files of this row from now on."""
    global _identity
    _identity = str(row)


def forget(row: int) -> None:
    """In the supervisor: a process ended, and with it what its gauges said."""
    if VARIABLE in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(row)  # type: ignore[no-untyped-call]
