"""Failed logins by key, in memory that the processes of a node share.

A key has a leaking bucket: every failure adds one, time takes away, and a full one begins a block. Rules:

- Only failures change a row, under the lock of whoever owns the memory; looking needs no lock. A number of eight
  octets is never half written, so the worst that a reader sees is a row between two failures.
- Keys are keyed hashes: neither names nor addresses are in the memory, and nobody can choose whose bucket to fill.
- Of a full group of rows the one that failed longest ago is forgotten, those that block last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

GROUP_ROWS: Final = 8
_MARKS: Final = struct.Struct(f"<{GROUP_ROWS}Q")
"""Fingerprints of the keys of a group: they come first, so that one look finds a row, or none."""
_MARK: Final = struct.Struct("<Q")
_ROW: Final = struct.Struct("<ddd")
"""Level, when that was true, end of the block."""
_GROUP_BYTES: Final = _MARKS.size + GROUP_ROWS * _ROW.size
GROUPS: Final = 4096
MEMORY_BYTES: Final = GROUPS * _GROUP_BYTES


class Standing(Struct, frozen=True):
    """How a key stands.

    Attributes:
        level: Failures that are not forgotten yet.
        blocked_s: Seconds until its block ends; 0: it is not blocked.
    """

    level: float = 0.0
    blocked_s: float = 0.0


class Failures:
    """The table.

    Args:
        memory: All zero, or what an earlier table of the node left; None: memory of this process alone.
        locked: The lock under which rows are changed.
        salt: Key of the hashes, the same for all processes.
    """

    def __init__(
        self,
        memory: memoryview | None = None,
        locked: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        salt: bytes | None = None,
    ) -> None:
        self._memory = memoryview(bytearray(MEMORY_BYTES)) if memory is None else memory
        self._groups = len(self._memory) // _GROUP_BYTES
        self._locked = locked
        self._salt = salt or os.urandom(16)

    def standing(self, key: str, now: float, leak: float) -> Standing:
        """How a key stands.

        Args:
            now: Monotonic seconds.
            leak: Failures that are forgotten in a second.
        """
        mark, group = self._place(key)
        row = self._find(mark, group)
        if row is None:
            return Standing()
        level, at, until = _ROW.unpack_from(self._memory, _start(group, row))
        return Standing(_leaked(level, at, now, leak), max(0.0, until - now))

    def add(self, key: str, now: float, leak: float, *, limit: int, block_s: float) -> bool:
        """Count a failure, in one step.

        Returns:
            True if it was the one too many: the key is blocked for *block_s* from now, and then begins anew. With a
            *block_s* of 0 it stays full.
        """
        mark, group = self._place(key)
        with self._locked():
            row = self._row_for(mark, group, now)
            level, at, until = _ROW.unpack_from(self._memory, _start(group, row))
            level = _leaked(level, at, now, leak) + 1
            full = level > limit - 1 and block_s > 0  # what leaked since the first of them saves nobody
            until = now + block_s if full else until
            _ROW.pack_into(self._memory, _start(group, row), 0.0 if full else min(level, limit), now, until)
        return full

    def block(self, key: str, now: float, block_s: float) -> None:
        """Block a key for *block_s* from now, whatever it has failed."""
        mark, group = self._place(key)
        with self._locked():
            _ROW.pack_into(self._memory, _start(group, self._row_for(mark, group, now)), 0.0, now, now + block_s)

    def clear(self, key: str) -> None:
        """Forget the failures and the block of a key."""
        mark, group = self._place(key)
        if self._find(mark, group) is None:
            return
        with self._locked():
            row = self._find(mark, group)
            if row is not None:
                _ROW.pack_into(self._memory, _start(group, row), 0.0, 0.0, 0.0)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.release()

    def _find(self, mark: int, group: int) -> int | None:
        """The row of a key."""
        marks = _MARKS.unpack_from(self._memory, group)
        return marks.index(mark) if mark in marks else None

    def _row_for(self, mark: int, group: int, now: float) -> int:
        """The row of a key; a new one begins with nothing."""
        row = self._find(mark, group)
        if row is None:
            row = self._least_missed(group, now)
            _MARK.pack_into(self._memory, group + row * _MARK.size, mark)
            _ROW.pack_into(self._memory, _start(group, row), 0.0, now, 0.0)
        return row

    def _least_missed(self, group: int, now: float) -> int:
        """The row that a new key takes: a free one, else the one that failed longest ago, those that block last."""
        marks = _MARKS.unpack_from(self._memory, group)

        def rank(row: int) -> tuple[bool, bool, float]:
            _, at, until = _ROW.unpack_from(self._memory, _start(group, row))
            return until > now, marks[row] != 0, at

        return min(range(GROUP_ROWS), key=rank)

    def _place(self, key: str) -> tuple[int, int]:
        """Fingerprint of a key, and where its group begins."""
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=self._salt).digest()
        mark = int.from_bytes(digest, "little") or 1
        return mark, mark % self._groups * _GROUP_BYTES


def key_of(site: str, login: str | None = None) -> str:
    """The one form under which failures are counted, looked up, and told to other nodes.

    Args:
        site: Of the client, from `limits.site_of`.
        login: In canonical form; None: all logins from there.
    """
    return site if login is None else f"{site} {login}"


def _start(group: int, row: int) -> int:
    return group + _MARKS.size + row * _ROW.size


def _leaked(level: float, at: float, now: float, leak: float) -> float:
    return max(0.0, level - max(0.0, now - at) * leak)
