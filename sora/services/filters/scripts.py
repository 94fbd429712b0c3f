"""Checks Sieve scripts beside the event loop.

A script of a megabyte takes seconds to check, and the loop has others to serve: what is not small goes to a thread, one
at a time, so that whoever sends many such scripts takes the time of one thread and not of all. Meanwhile the thread
gives the interpreter lock back after a millisecond, and nobody looks for garbage: a million new objects would be looked
through again and again, with everything stopped (measured: 250 ms at a time). What the check made is gone before that
begins again, which is why it gives the warnings and not the script.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct

from sora.errors import InvalidName
from sora.sieve.script import MAX_NESTING, MOST_NESTING, Script, compile
from sora.store.scripts import Quota

if TYPE_CHECKING:
    from sora.services.node import Node
    from sora.sieve import checks
    from sora.store import scripts
    from sora.store.scripts import StoredScript
    from sora.tables import SieveTable
    from sora.types import AccountId

_Known: TypeAlias = "dict[str | None, tuple[str, bytes] | None]"
Warnings: TypeAlias = tuple[tuple[int, int, str], ...]
"""Line, column and text."""

AT_ONCE: Final = 1024
"""Octets of a script that is checked where it is: that takes about a millisecond."""
SWITCH_S: Final = 0.001
LARGE: Final = 64 * 1024
"""Octets of a script whose objects are many."""
KEPT_BYTES: Final = 2 << 20
"""Octets of the scripts that are kept compiled, which take a hundred times as much; one alone may be larger."""
MAX_ACCOUNTS: Final = 10_000
"""Whose scripts are known by name."""
MAX_NAMES: Final = 256
"""Of one account, those of scripts that there are not among them: anything may be asked for."""


class ScriptChecks:
    """One queue of checks.

    Sessions have one (`node.shared(checks_of)`) and deliveries another, so that mail does not wait for whoever sends
    many scripts.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def compile(self, source: bytes) -> Script:
        """Compile a script that is to run, whatever limits were set since it was stored.

        Raises:
            BadScript: With all that is wrong, line by line.
        """
        if len(source) <= AT_ONCE:
            return compile(source, max_bytes=AT_ONCE, max_nesting=MOST_NESTING)
        async with self._turn:
            return await asyncio.to_thread(_compile, source)

    async def check(self, source: bytes, max_bytes: int, max_nesting: int = MAX_NESTING) -> Warnings:
        """Check a script.

        Raises:
            BadScript: With all that is wrong, line by line.
        """
        if len(source) <= AT_ONCE:
            return compile(source, max_bytes=max_bytes, max_nesting=max_nesting).warnings
        async with self._turn:
            return await asyncio.to_thread(_check, source, max_bytes, max_nesting)


def _compile(source: bytes) -> Script:
    with _considerate:
        script = compile(source, max_bytes=len(source), max_nesting=MOST_NESTING)
        if len(source) > LARGE:
            gc.freeze()  # it stays, and need not be looked through again and again
        return script


def _check(source: bytes, max_bytes: int, max_nesting: int) -> Warnings:
    with _considerate:
        script = compile(source, max_bytes=max_bytes, max_nesting=max_nesting)
        warnings, commands = script.warnings, list(script.commands)
        del script
        _free(commands)
        return warnings


def _free(commands: list[checks.Node]) -> None:
    """All at once would be one step, which nobody can interrupt."""
    while commands:
        commands.pop()


class _Considerate:
    """Leave the process to its other threads as far as can be, until the last thread in here has left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = False, 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = gc.isenabled(), sys.getswitchinterval()
                gc.disable()
                sys.setswitchinterval(SWITCH_S)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                collecting, switch_s = self._before
                sys.setswitchinterval(switch_s)
                if collecting:
                    gc.enable()


_considerate: Final = _Considerate()


class _Compiled(Struct):
    """A script that is kept, and the octets of its source."""

    script: Script
    size: int


class CompiledScripts:
    """Scripts of accounts, ready to run; what was read once is kept until the account's scripts change.

    Equal texts are compiled once, whoever has them: they are known by the version that names the text.
    """

    def __init__(self, store: scripts.Scripts, script_checks: ScriptChecks) -> None:
        self._store = store
        self._checks = script_checks
        self._compiled: OrderedDict[bytes, _Compiled] = OrderedDict()
        self._size = 0
        self._versions: OrderedDict[AccountId, tuple[int, _Known]] = OrderedDict()

    async def active(self, account_id: AccountId, number: int) -> tuple[str, Script] | None:
        """The script that runs at a delivery, and its name; None: there is none.

        Args:
            number: Another one after every change of the account's scripts (`Recipient.script`).

        Raises:
            BadScript: It has errors: another release has taken it.
            Unavailable: It cannot be read now.
        """
        return await self._find(account_id, number, None)

    async def named(self, account_id: AccountId, number: int, name: str) -> Script | None:
        """A script by name, as `include` and IMAPSIEVE want it; None: there is none.

        Raises:
            BadScript, Unavailable: See `active`.
        """
        found = await self._find(account_id, number, name)
        return None if found is None else found[1]

    async def _find(self, account_id: AccountId, number: int, name: str | None) -> tuple[str, Script] | None:
        known = self._known(account_id, number)
        if name in known:
            found = known[name]
            if found is None:
                return None
            if found[1] in self._compiled:
                self._compiled.move_to_end(found[1])
                return found[0], self._compiled[found[1]].script
        stored = await self._read(account_id, name)
        if len(known) >= MAX_NAMES:
            known.clear()
        known[name] = None if stored is None else (stored.name, stored.version)
        return None if stored is None else (stored.name, await self._compile(stored))

    async def _read(self, account_id: AccountId, name: str | None) -> StoredScript | None:
        if name is None:
            return await self._store.find_active(account_id)
        try:
            return await self._store.find(account_id, name)
        except InvalidName:
            return None

    def _known(self, account_id: AccountId, number: int) -> _Known:
        """Versions by name, of the account's present scripts; None as name: of the active one."""
        if number == 0:
            return {}  # it is not known which scripts these are
        found = self._versions.get(account_id)
        if found is None or found[0] != number:
            found = self._versions[account_id] = number, {}
        self._versions.move_to_end(account_id)
        if len(self._versions) > MAX_ACCOUNTS:
            self._versions.popitem(last=False)
        return found[1]

    async def _compile(self, stored: StoredScript) -> Script:
        if stored.version in self._compiled:
            return self._compiled[stored.version].script
        script = await self._checks.compile(stored.content)
        if stored.version not in self._compiled:
            self._compiled[stored.version] = _Compiled(script, len(stored.content))
            self._size += len(stored.content)
            while self._size > KEPT_BYTES and len(self._compiled) > 1:
                self._drop()
        return script

    def _drop(self) -> None:
        """Forget the script that was not used for the longest time; a large one is freed by a thread."""
        _, oldest = self._compiled.popitem(last=False)
        self._size -= oldest.size
        if oldest.size > AT_ONCE:
            asyncio.get_running_loop().run_in_executor(None, _free, list(oldest.script.commands))


def checks_of(_node: Node) -> ScriptChecks:
    """For `Node.shared`."""
    return ScriptChecks()


def quota_of(table: SieveTable) -> Quota:
    """What an account may have, by the configuration."""
    return Quota(table.max_scripts, table.max_script_size, table.max_storage)
