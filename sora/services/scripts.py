"""Checks Sieve scripts beside the event loop.

A script of a megabyte takes seconds to check, and the loop has others to serve: what is not small goes to a thread, one
at a time, so that whoever sends many such scripts takes the time of one thread and not of all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sora.sieve.script import Script, compile
from sora.store.scripts import Quota

if TYPE_CHECKING:
    from sora.config import SieveTable
    from sora.services.node import Node

AT_ONCE: Final = 1024
"""Octets of a script that is checked where it is: that takes about a millisecond."""


class ScriptChecks:
    """The checks of one process; `node.shared(checks_of)`."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def check(self, source: bytes, max_bytes: int) -> Script:
        """Check a script.

        Raises:
            BadScript: With all that is wrong, line by line.
        """
        if len(source) <= AT_ONCE:
            return compile(source, max_bytes=max_bytes)
        async with self._turn:
            return await asyncio.to_thread(compile, source, max_bytes=max_bytes)


def checks_of(_node: Node) -> ScriptChecks:
    """For `Node.shared`."""
    return ScriptChecks()


def quota_of(table: SieveTable) -> Quota:
    """What an account may have, by the configuration."""
    return Quota(table.max_scripts, table.max_script_size, table.max_storage)
