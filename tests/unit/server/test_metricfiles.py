"""Files of metrics, in processes of their own: the library decides at its import."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sora import metrics
from sora.server import metricfiles

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import os, sys
from pathlib import Path
from sora.server import metricfiles
directory = Path(sys.argv[1])
directory.mkdir()
(directory / "counter_99.db").write_text("old")
metricfiles.install(directory)
from sora import metrics

def child(row, count):
    pid = os.fork()
    if pid == 0:
        metricfiles.become(row)
        metrics.connections_total.labels("imap").inc(count)
        metrics.connections.labels("imap").inc(count)
        os._exit(0)
    os.waitpid(pid, 0)

child(1, 2)
child(2, 3)
metricfiles.forget(1)
child(1, 10)   # the row is used again: its counters go on, its gauges start afresh
metricfiles.forget(2)
from sora.web.health import collect
print(collect().decode())
print(sorted(path.name for path in directory.iterdir()))
"""


def test_rows_are_used_again_and_add_up(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "metrics")], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert 'sora_connections_total{protocol="imap"} 15.0' in lines
    assert 'sora_connections_open{protocol="imap"} 10.0' in lines
    assert "counter_99.db" not in lines[-1]
    assert "counter_1.db" in lines[-1]


FULL = """
import errno, os, sys
from pathlib import Path
from sora.server import metricfiles
directory = Path(sys.argv[1])
metricfiles.install(directory)
from sora import metrics
from sora.web.health import collect

def full(fd, offset, size):
    os.ftruncate(fd, size)  # as much of it was found
    raise OSError(errno.ENOSPC, "full")

def sizes():
    return {os.stat(path).st_blocks * 512 == os.stat(path).st_size > 0 for path in directory.glob("*_1.db")}

room, metricfiles.INITIAL_BYTES = os.posix_fallocate, 4096
metricfiles.become(1)
metrics.connections_total.labels("imap").inc(2)
print("reserved", sizes())
os.posix_fallocate = full
for number in range(200):
    metrics.connections_total.labels(f"p{number}").inc(number)
print("grown", *(metrics.connections_total.labels(name)._value.get() for name in ("p199", "imap")))
print("holes", sizes())
metricfiles.become(2)
metrics.connections_total.labels("imap").inc(3)
print("counts", metrics.connections_total.labels("imap")._value.get(), sorted(directory.glob("*_2.db")))
print([line for line in collect().decode().splitlines() if line.startswith('sora_connections_total{protocol="imap"}')])
"""


def test_a_full_disk_kills_nobody(tmp_path: Path) -> None:
    """No file has a hole that could not be filled later; without room counting goes on in memory."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "metrics")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "reserved {True}",
        "grown 199.0 2.0",
        "holes {True}",
        "counts 3.0 []",
        "['sora_connections_total{protocol=\"imap\"} 2.0']",
    ]


def test_too_late_is_a_bug(tmp_path: Path) -> None:
    assert metrics.connections is not None
    with pytest.raises(RuntimeError):
        metricfiles.install(tmp_path)
