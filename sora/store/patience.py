"""What waits for locks that somebody else holds.

A batch takes only what it gets without waiting. What meets a locked mailbox steps aside to here: one wait for each key,
few at a time, and what comes for that key meanwhile joins it. So no mailbox is slow for another one's sake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_Key = TypeVar("_Key", bound=Hashable)
_Item = TypeVar("_Item")


class Patience(Generic[_Key, _Item]):
    """Items by the key of the lock that they wait for.

    Args:
        work: Waits for the lock and answers all the items; it may take long, and must not fail.
        count: Locks that are waited for at a time, each on a connection.
        turn_s: How long a key waits for its turn. None: as long as it takes.
        give_up: Answers the items whose turn did not come in that time.
    """

    def __init__(
        self,
        work: Callable[[list[_Item]], Awaitable[None]],
        count: int,
        turn_s: float | None = None,
        give_up: Callable[[list[_Item]], Awaitable[None]] | None = None,
    ) -> None:
        self._work = work
        self._give_up = give_up or work
        self._turn_s = turn_s
        self._turns = asyncio.Semaphore(count)
        self._items: dict[_Key, list[_Item]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, key: _Key, item: _Item) -> bool:
        """Wait with others for the same key; False: nobody waits for it."""
        waiting = self._items.get(key)
        if waiting is None:
            return False
        waiting.append(item)
        return True

    def add(self, key: _Key, item: _Item) -> None:
        """Wait for a key, alone or with others."""
        if self.join(key, item):
            return
        self._items[key] = [item]
        task = asyncio.get_running_loop().create_task(self._wait(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drained(self) -> None:
        """Until nobody waits."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _wait(self, key: _Key) -> None:
        """Work off what waits for a key; what comes for it meanwhile, too."""
        try:
            try:
                async with asyncio.timeout(self._turn_s):
                    await self._turns.acquire()
            except TimeoutError:
                await self._work_off(key, self._give_up)
                return
            try:
                await self._work_off(key, self._work)
            finally:
                self._turns.release()
        finally:
            # Nothing awaits in between: who comes now finds either the list that is worked off, or none.
            del self._items[key]

    async def _work_off(self, key: _Key, work: Callable[[list[_Item]], Awaitable[None]]) -> None:
        waiting = self._items[key]
        while waiting:
            items = waiting[:]
            waiting.clear()
            await work(items)
