"""A message on its way in: in memory while it is small, in a spool file when it is not.

A connection may bring a message of the largest size allowed, and there may be thousands of connections: what one of
them holds in memory is bounded by `IN_MEMORY`, whatever arrives. What nobody will store (too big, no room) is not held
at all, but taken to its end, because the client must finish before it can be told.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from sora.errors import SoraError, TooBig, Unavailable

if TYPE_CHECKING:
    from sora.store.diskfile import Octets
    from sora.store.staging import Spool, Staging

IN_MEMORY: Final = 1 << 20
"""Octets of a message held before it goes to a file."""
SLICE: Final = 1 << 18
"""Octets written to the file at a time."""


class Intake:
    """Collects the octets of one message.

    Args:
        limit: Octets that a message may have.
        in_memory: Octets held before they go to a file; None: `IN_MEMORY`.

    Attributes:
        began_mono: When the message began.
        size: Octets that have come.
        error: Why the message cannot be taken; None while it can.
    """

    def __init__(self, staging: Staging, limit: int, in_memory: int | None = None) -> None:
        self.began_mono = time.monotonic()
        self.size = 0
        self.error: SoraError | None = None
        self._staging = staging
        self._limit = limit
        self._in_memory = IN_MEMORY if in_memory is None else in_memory
        self._pieces: list[bytes] = []
        self._held = 0
        self._spool: Spool | None = None
        self._mapped = False

    @property
    def held(self) -> int:
        """Octets in memory."""
        return self._held

    @property
    def needs_turn(self) -> bool:
        """What `finish` gives takes memory, as much as the message is long."""
        return self._spool is not None and self._spool.in_memory

    def add(self, octets: bytes) -> None:
        """Take a piece, and see to `settle` soon."""
        self.size += len(octets)
        if self.error is None and self.size > self._limit:
            self.fail(TooBig())
        if self.error is None and octets:
            self._pieces.append(octets)
            self._held += len(octets)

    async def settle(self) -> None:
        """Move what is held to the file, once it is much."""
        if self._held > (self._in_memory if self._spool is None else SLICE):
            await self._spill()

    async def complete(self) -> None:
        """All octets have come: what is held of a message that has a file goes there.

        Raises:
            TooBig: It is over the limit.
            Unavailable: There was no room for it; it may come again.
        """
        if self._spool is not None and self._held:
            await self._spill()
        if self.error is not None:
            raise self.error

    async def finish(self, *, in_turn: bool = False) -> Octets:
        """The whole message.

        Args:
            in_turn: The caller holds `Staging.mapped`, if `needs_turn`.

        Raises:
            TooBig, Unavailable: See `complete`.
        """
        await self.complete()
        if self._spool is not None:
            return await self._map(self._spool, in_turn)
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def fail(self, error: SoraError) -> None:
        """Hold nothing any more; `finish` raises `error`."""
        self.error = error
        self.close()

    def close(self) -> None:
        """Let go of everything; a mapping that `finish` gave stays."""
        self._pieces, self._held = [], 0
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._mapped:
            self._mapped = False
            self._staging.mapped.release()

    async def _map(self, spool: Spool, in_turn: bool) -> Octets:
        """The message out of its file, when few others are; `close` makes room for the next."""
        try:
            if not spool.in_memory:
                return spool.map()
            if not in_turn:
                await self._staging.mapped.acquire()
                self._mapped = True
            return await asyncio.to_thread(spool.map)
        except OSError as error:
            raise Unavailable(detail=f"spool: {error}") from error

    async def _spill(self) -> None:
        pieces, self._pieces, self._held = self._pieces, [], 0
        try:
            await asyncio.to_thread(self._write, b"".join(pieces))
        except OSError as error:
            self.fail(Unavailable(detail=f"spool: {error}"))
        except Unavailable as error:
            self.fail(error)

    def _write(self, data: bytes) -> None:
        if self._spool is None:
            self._spool = self._staging.spool()
        self._spool.write(data)
