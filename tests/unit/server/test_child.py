"""The child's side of the fork: what happens before its event loop runs."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sora.server.child import Process

_HASH_IN_THREADS = """
import os, sys, threading
import argon2
from sora.server import child

def kept_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

if sys.argv[1] == "fixed":
    child._give_memory_back()
before = kept_kib()
gate = threading.Barrier(3)

def work():
    for _ in range(3):
        argon2.PasswordHasher(time_cost=1, memory_cost=19456, parallelism=1).hash("x")
    gate.wait()  # a pool keeps its threads, so their arenas stay
    gate.wait()

for _ in range(2):
    threading.Thread(target=work).start()
gate.wait()
print(kept_kib() - before)
gate.wait()
"""


@pytest.mark.parametrize(("how", "low", "high"), [("fixed", -1024, 8192), ("as it comes", 16384, 1 << 20)])
def test_what_a_hash_needed_goes_back_to_the_system(how: str, low: int, high: int) -> None:
    """Kept KiB; the second row says that without it they are kept, so that the first one means something."""
    done = subprocess.run([sys.executable, "-c", _HASH_IN_THREADS, how], capture_output=True, check=True, text=True)
    assert low <= int(done.stdout) <= high


async def test_who_was_told_to_end_can_be_told_again() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child: Any = SimpleNamespace(config=None, row=SimpleNamespace(state=""), channel=ours)
        process = Process(child)
        process.drain(3600.0)
        assert (process.stopping.is_set(), process.ending.is_set()) == (True, False)
        process.drain(0.0)
        process.drain(0.0)
        process.drain(3600.0)
        await asyncio.wait_for(process.ending.wait(), 5)
