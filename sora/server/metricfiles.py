"""Where the metrics of many processes meet: files named by row of the scoreboard, not by pid.

`prometheus_client` keeps a file per process and metric type and adds them up when it is asked. Named by pid, every
crash and every reload would leave files behind for ever; a row is used again, and its counters go on.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
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
    values.ValueClass = values.MultiProcessValue(lambda: _identity)  # type: ignore[no-untyped-call]


def become(row: int) -> None:
    """In a child, after the fork: write to the files of this row from now on."""
    global _identity
    _identity = str(row)


def forget(row: int) -> None:
    """In the supervisor: a process ended, and with it what its gauges said."""
    if VARIABLE in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(row)  # type: ignore[no-untyped-call]
