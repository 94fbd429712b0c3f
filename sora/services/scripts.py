"""Checks Sieve scripts beside the event loop.

A script of a megabyte takes seconds to check, and the loop has others to serve: what is not small goes to a thread, one
at a time, so that whoever sends many such scripts takes the time of one thread and not of all. Meanwhile the thread
gives the interpreter lock back after a millisecond, and nobody looks for garbage: a million new objects would be looked
through again and again, with everything stopped (measured: 250 ms at a time). What the check made is gone before that
begins again, which is why it gives the warnings and not the script.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from typing import TYPE_CHECKING, Final, TypeAlias

from sora.sieve.script import compile
from sora.store.scripts import Quota

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.services.node import Node
    from sora.tables import SieveTable

Warnings: TypeAlias = tuple[tuple[int, int, str], ...]
"""Line, column and text."""

AT_ONCE: Final = 1024
"""Octets of a script that is checked where it is: that takes about a millisecond."""
SWITCH_S: Final = 0.001


class ScriptChecks:
    """The checks of one process; `node.shared(checks_of)`."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def check(self, source: bytes, max_bytes: int) -> Warnings:
        """Check a script.

        Raises:
            BadScript: With all that is wrong, line by line.
        """
        if len(source) <= AT_ONCE:
            return compile(source, max_bytes=max_bytes).warnings
        async with self._turn:
            return await asyncio.to_thread(_check, source, max_bytes)


def _check(source: bytes, max_bytes: int) -> Warnings:
    with _considerate():
        script = compile(source, max_bytes=max_bytes)
        warnings, commands = script.warnings, list(script.commands)
        del script
        while commands:  # all at once would be one step, which nobody can interrupt
            commands.pop()
        return warnings


@contextlib.contextmanager
def _considerate() -> Iterator[None]:
    """Leave the process to its other threads as far as can be; for one thread at a time."""
    collecting, switch_s = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(switch_s)
        if collecting:
            gc.enable()


def checks_of(_node: Node) -> ScriptChecks:
    """For `Node.shared`."""
    return ScriptChecks()


def quota_of(table: SieveTable) -> Quota:
    """What an account may have, by the configuration."""
    return Quota(table.max_scripts, table.max_script_size, table.max_storage)
