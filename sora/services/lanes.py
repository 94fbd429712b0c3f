"""Units of delivery on their way to the database: they gather while a batch is under way, and leave in the next one.

Few tasks, the lanes, do all of it. A lane that is free takes everything that waits, up to a number and a size. There is
no timer: alone, a message is a batch of one and waits for nobody; under load the batches grow by themselves, because
the next one gathers while the last one syncs, and whoever is about to hand in a message is let before it starts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from sora import log
from sora.errors import SoraError, Unavailable
from sora.store.deliveries import HELD, Share

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sora.services.letters import Box, Letter
    from sora.store.deliveries import Delivered
    from sora.store.effects import Effects
    from sora.store.replacing import Replaced
    from sora.types import AccountId, MailboxId

_log = log.get(__name__)

MAX_BATCH: Final = 64
"""Messages of one transaction: 32 gave 6,000 a second and 128 gave 8,000, at three times the delay."""
FULL_LANE: Final = 16
"""Units that wait before another lane opens beside one with a small batch."""
QUIET_TURNS: Final = 3
"""Turns of the event loop without a new unit before a batch starts: from the arrival of a message's last octets to its
unit it takes so many. A turn with nothing to do takes microseconds."""
STALLED_S: Final = 0.05
"""A batch that takes so long waits for a lock or for the disk: others need not wait with it."""
LARGE_BATCH_BYTES: Final = 1024 * 1024
"""A batch that nobody should wait for: its disk writes take longer than a call."""
MAX_BATCH_BYTES: Final = 32 * 1024 * 1024
"""Octets staged together; a larger message goes alone."""


class Unit:
    """What is committed together or not at all.

    An LMTP message for one mailbox, what a filter makes of one, or all messages of an APPEND.

    Attributes:
        letters: In the order in which they are stored; none, if all that a filter does is effects.
        replaced: A message that goes as they come; such a unit is committed alone.
        effects: What a filter does besides; they happen if all letters are stored, and once.
    """

    __slots__ = ("aside_since", "done", "effects", "letters", "locked", "path", "replaced", "result", "size")

    def __init__(
        self,
        path: str,
        letters: Sequence[Letter],
        replaced: Replaced | None = None,
        effects: Effects | None = None,
    ) -> None:
        self.path = path
        self.letters = letters
        self.replaced = replaced
        self.effects = effects
        self.size = sum(letter.size for letter in letters)
        self.done: asyncio.Future[list[Delivered] | SoraError] = asyncio.get_running_loop().create_future()
        self.result: list[Delivered] | SoraError | None = None
        self.aside_since: float | None = None
        """When it left its batch to wait for a locked mailbox; who waits with it sees to its answer."""
        self.locked: tuple[AccountId, MailboxId] | None = None
        """The mailbox that it met locked last."""

    @property
    def boxes(self) -> frozenset[Box]:
        """Where it goes."""
        return frozenset((letter.row.account_id, letter.row.mailbox_id) for letter in self.letters)

    @property
    def is_wide(self) -> bool:
        """Whether it goes to several mailboxes."""
        return len({box for box in self.boxes if box[1] != HELD}) > 1

    @property
    def share(self) -> Share:
        """What the database gets of it."""
        return Share(tuple(letter.row for letter in self.letters), self.effects)

    @property
    def plain(self) -> bool:
        """Letters for one mailbox and nothing else, as most mail is."""
        return self.effects is None and (len(self.letters) == 1 or len(self.boxes) <= 1)

    def forget_copies(self) -> bool:
        """Without the copies of replies, which are not to be sent; False: there are none."""
        if self.effects is None or not (gone := self.effects.copies):
            return False
        for place in gone:
            self.letters[place].body.release()
        self.letters = [letter for place, letter in enumerate(self.letters) if place not in gone]
        self.effects = self.effects.without_copies()
        return True

    def answer(self, result: list[Delivered] | SoraError) -> None:
        """Tell the waiting session, if it still waits."""
        self.result = self.result or result
        for letter in self.letters:
            letter.body.release()
        if not self.done.done():
            self.done.set_result(result)


class Lanes:
    """Takes units from a queue in batches, up to `count` batches at a time, oldest first.

    Whoever comes while a batch is under way waits for the next one, because a call costs as much as eight messages in
    it. Another lane opens only when as many as `FULL_LANE` wait, or one for `STALLED_S`, or the batch under way is a
    large one.
    """

    def __init__(
        self,
        commit: Callable[[list[Unit]], Awaitable[None]],
        count: int,
        max_messages: int = MAX_BATCH,
        max_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        self._commit = commit
        self._count = count
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: deque[Unit] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._large = 0

    def submit(self, unit: Unit) -> None:
        """Queue a unit; its `done` has the answer."""
        self._waiting.append(unit)
        enough = self._busy == self._large or len(self._waiting) >= FULL_LANE
        if enough:
            self._open()
        elif len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(STALLED_S, self._unstall, unit)

    def _unstall(self, unit: Unit) -> None:
        """Open another lane if `unit` is still the first that waits."""
        if self._waiting and self._waiting[0] is unit:
            self._open()

    def _open(self) -> None:
        if self._busy < self._count:
            self._busy += 1
            task = asyncio.get_running_loop().create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def drained(self) -> None:
        """Until nothing waits and nothing runs."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                if self._waiting:  # else another lane that gathered beside this one has taken all
                    await self._one(self._take())
        finally:
            # At once, not when the task is seen to be done: a unit that comes in between would wait for nobody.
            self._busy -= 1

    async def _gather(self) -> None:
        """Let sessions whose message is here hand it in."""
        quiet, count = 0, len(self._waiting)
        while quiet < QUIET_TURNS and count < self._max_messages:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == count else 0
            count = len(self._waiting)

    async def _one(self, batch: list[Unit]) -> None:
        large = sum(unit.size for unit in batch) > LARGE_BATCH_BYTES
        self._large += large
        try:
            await self._commit(batch)
        except Exception:
            _log.exception("delivery batch failed")
        finally:
            self._large -= large
            # Only a bug or a cancelled lane leaves a unit without an answer, and then nothing is known of it.
            for unit in batch:
                if unit.aside_since is None:
                    unit.answer(Unavailable(detail="delivery ended without an answer"))

    def _take(self) -> list[Unit]:
        return take(self._waiting, self._max_messages, self._max_bytes)


def take(waiting: deque[Unit], max_messages: int = MAX_BATCH, max_bytes: int = MAX_BATCH_BYTES) -> list[Unit]:
    """A batch: the oldest unit, whatever its size, and what fits beside it."""
    batch = [waiting.popleft()]
    messages, size = max(1, len(batch[0].letters)), batch[0].size
    while waiting:
        unit = waiting[0]
        messages += max(1, len(unit.letters))
        size += unit.size
        if messages > max_messages or size > max_bytes:
            break
        batch.append(waiting.popleft())
    return batch
