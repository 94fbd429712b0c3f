"""Flag changes of a worker's sessions: those that wait while others are being committed are committed together.

A commit costs more than a flag change, so what gathers while one is under way shares the next one. There is no timer:
alone, a change is a batch of one. A batch may span mailboxes, and takes those whose lock is free at once. What meets a
mailbox that somebody else holds (a COPY of a hundred thousand messages takes seconds) steps aside and waits for it, and
so does what comes for that mailbox meanwhile, so that no mailbox is slow for another one's sake.

A batch that the server refused (a mailbox is gone) is tried again one by one: nobody fails for another's sake. A lost
connection is not, because it may be committed: flag changes can be repeated, but only their sender knows whether it
still wants that. Nor is a server that is busy: each change would wait as long as all of them did.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from msgspec import Struct, structs

from sora.errors import Busy, DatabaseDown
from sora.store.patience import Patience
from sora.types import AccountId, MailboxId, ModSeq

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from sora.store.db import Database

LANES: Final = 3
MAX_BATCH: Final = 32
FULL_LANE: Final = 16
"""Changes that wait before another lane opens."""
STALLED_S: Final = 0.02
"""A batch that takes so long waits for the disk: others need not wait with it."""
PATIENT_LANES: Final = 2
"""Mailboxes held by others whose locks are waited for at a time, each on a connection."""


class FlagChange(Struct, frozen=True):
    """Answer of `store_flags`.

    Attributes:
        modseq: of the mailbox after the call, raised only if a flag changed; 0: none of the messages is there.
        blocks: (block number, and three masks of 128 octets: messages the change was applied to, those of them whose
            flags it really changed, those that failed UNCHANGEDSINCE).
    """

    modseq: ModSeq
    blocks: list[tuple[int, bytes, bytes, bytes]]


class FlagEdit(Struct, frozen=True):
    """What `store_flags` takes, in its order; UIDs as bounds of ranges."""

    account_id: AccountId
    mailbox_id: MailboxId
    lows: list[int]
    highs: list[int]
    set: list[int]
    clear: list[int]
    replace: bool = False
    unchanged_since: int | None = None
    viewer_id: AccountId | None = None


class _Asked(Struct):
    """An edit and who waits for it."""

    edit: FlagEdit
    done: asyncio.Future[FlagChange]


class FlagLanes:
    """The flag changes of a worker."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: deque[_Asked] = deque()
        self._patience: Patience[int, _Asked] = Patience(self._wait_for_lock, PATIENT_LANES)
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0

    async def store(self, edit: FlagEdit) -> FlagChange:
        """Commit a change, together with what else waits.

        Raises:
            NotFound: the mailbox is gone.
            Unavailable: the database is.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(edit, loop.create_future())
        if self._patience.join(_lock_key(asked), asked):
            return await asked.done
        self._waiting.append(asked)
        if not self._busy or len(self._waiting) >= FULL_LANE:
            self._open()
        elif len(self._waiting) == 1:
            loop.call_later(STALLED_S, self._unstall, asked)
        return await asked.done

    def _unstall(self, asked: _Asked) -> None:
        """Open another lane if this is still the first that waits."""
        if self._waiting and self._waiting[0] is asked:
            self._open()

    def _open(self) -> None:
        if self._busy < LANES:
            self._busy += 1
            task = asyncio.get_running_loop().create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                await self._commit(batch)
        finally:
            # At once, not when the task is seen to be done: what comes in between would wait for nobody.
            self._busy -= 1

    async def _commit(self, batch: Sequence[_Asked], *, patient: bool = False) -> None:
        """Answer a batch, but for changes that step aside.

        Args:
            patient: all are of one mailbox, whose lock is waited for.
        """
        try:
            changes = await self._together([asked.edit for asked in batch], patient)
        except Exception as error:
            if len(batch) == 1 or isinstance(error, Busy | DatabaseDown):
                _fail(batch, error)
                return
            for asked in batch:
                await self._commit([asked], patient=patient)
        else:
            for asked, change in zip(batch, changes, strict=True):
                if change is None:
                    self._patience.add(_lock_key(asked), asked)
                elif not asked.done.done():  # else its session is gone
                    asked.done.set_result(change)

    async def _wait_for_lock(self, held: list[_Asked]) -> None:
        for start in range(0, len(held), MAX_BATCH):
            await self._commit(held[start : start + MAX_BATCH], patient=True)

    async def _together(self, edits: Sequence[FlagEdit], patient: bool) -> list[FlagChange | None]:
        """One answer for each edit; None: its mailbox is locked."""
        if len(edits) == 1:
            return [_change(await self._db.fetch(_ONE, *structs.astuple(edits[0]), patient))]
        rows: list[list[Record]] = [[] for _ in edits]
        columns = zip(*(_texts(edit) for edit in edits), strict=True)
        for row in await self._db.fetch(_MANY, *map(list, columns), patient):
            rows[row["ord"] - 1].append(row)
        return [_change(found) for found in rows]


# One after the other, as they are given. OFFSET 0 keeps both as they are written: the lock is asked for once, and
# nothing is called where it was not had.
_MANY: Final = """
    SELECT e.ord, e.mine, f.* FROM (
      SELECT *, $10 OR try_lock_mailbox(mailbox) AS mine FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[],
        $5::text[], $6::text[], $7::boolean[], $8::bigint[], $9::bigint[])
        WITH ORDINALITY e (account, mailbox, lows, highs, set, clear, replace, since, viewer, ord) OFFSET 0) e
    LEFT JOIN LATERAL (
      SELECT * FROM store_flags(e.account, e.mailbox, e.lows::bigint[], e.highs::bigint[], e.set::int2[],
        e.clear::int2[], e.replace, e.since, e.viewer) WHERE e.mine OFFSET 0) f ON true
"""
_ONE: Final = """
    SELECT e.mine, f.* FROM (SELECT $10 OR try_lock_mailbox($2) AS mine OFFSET 0) e
    LEFT JOIN LATERAL (
      SELECT * FROM store_flags($1, $2, $3, $4, $5, $6, $7, $8, $9) WHERE e.mine OFFSET 0) f ON true
"""


def _lock_key(asked: _Asked) -> int:
    """As lock_key() in the schema."""
    return asked.edit.mailbox_id & 0x7FFFFFFF


def _texts(edit: FlagEdit) -> tuple[object, ...]:
    """Arrays as texts, because those of several edits have different lengths."""
    values = structs.astuple(edit)
    return tuple(str(value).translate(_BRACES) if isinstance(value, list) else value for value in values)


_BRACES: Final = str.maketrans("[]", "{}")


def _change(rows: Sequence[Record]) -> FlagChange | None:
    """None: the mailbox is locked. Without messages that are there, a row says only that it is not."""
    if not rows[0]["mine"]:
        return None
    return FlagChange(
        ModSeq(rows[0]["modseq"] or 0),
        [(row["block_no"], row["applied"], row["changed"], row["failed"]) for row in rows if row["modseq"]],
    )


def _fail(batch: Sequence[_Asked], error: Exception) -> None:
    for asked in batch:
        if not asked.done.done():
            asked.done.set_exception(error)
