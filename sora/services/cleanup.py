"""What the janitor removes, and in which order.

A phase is one row of `PHASES`: a function that works in bounded batches and yields, after each, how many rows that was;
`Cleanup` sets the size of the batches and pauses between them (`services/pace.py`), so that mail does not wait. A phase
that has used up its share of the time gives way to the next; a pass goes round until no phase has anything left.

Everything may be interrupted at any instruction and is taken up again by whoever leads next: what is done is not seen
any more by the statements that choose, and a walk through a whole table or bucket notes its place. Doing it twice, or
two janitors at a time, does no harm.

A body goes in three steps. `begin_purges` looks for references under the lock of the content's row and marks it; then
the object is deleted; then the row. A crash in between leaves a marked row, which the next pass takes up again; an
object that is gone already is no error.

Nothing of an account under legal hold is removed: each transaction asks `account_held()`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sora import log, metrics
from sora.crashpoints import crash_point
from sora.errors import BlobDown, Busy, NotFound, Unavailable
from sora.services import orphans
from sora.services.pace import Pace
from sora.store.upkeep import Upkeep
from sora.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

    from asyncpg import Record

    from sora.config import Config
    from sora.store.blobs import BlobRef, BlobStore
    from sora.store.db import Database
    from sora.types import AccountId, MailboxId, ModSeq

_logger = log.get(__name__)

PHASE_S: Final = 60.0
"""After this time a phase gives way to the next one."""
BODIES: Final = 64
"""Bodies that are marked, deleted and removed together."""
DELETES: Final = 8
"""Objects that are deleted at a time."""
JOURNAL_ROWS: Final = 32
"""Entries of a journal that are kept for each 1,024 messages; it is compacted when there are twice as many."""
JOURNAL_MAILBOXES: Final = 200
JOURNAL_BATCH: Final = 2000
"""Entries that are looked at under the lock of a mailbox."""
SCAN_ROWS: Final = 5000
"""Messages of one window of the retention: 5 to 10 ms, and no lock."""
SCAN_COST: Final = 50
"""Rows that are only looked at count as one that is removed."""
ROUND_S: Final = 86400.0
"""A walk through everything begins at most once in this time."""


class Cleanup:
    """Removes what is past its time.

    Args:
        publish: Told of what sessions see (`Changes.publish`); None: they find out when they look.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        config: Config,
        *,
        publish: Callable[[AccountId, MailboxId, ModSeq], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        table = config.cleanup
        self.upkeep = Upkeep(database)
        self.blobs = blobs
        self.pace = Pace(table.max_rows_per_second)
        self.grace = timedelta(seconds=table.grace_period)
        self.orphan_grace = timedelta(seconds=table.orphan_grace)
        self._log_retention = timedelta(seconds=table.log_retention)
        self._text_retention = timedelta(seconds=config.search.retention)
        max_age_s = parse_duration(table.max_age_restriction) if table.max_age_restriction else 0.0
        self._max_age = timedelta(seconds=max_age_s)
        self._publish = publish
        self._clock = clock

    async def run(self, go_on: Callable[[], Awaitable[bool]]) -> None:
        """One pass: round after round over all phases, until none was cut short.

        Args:
            go_on: Asked before every batch; False ends the pass.

        Raises:
            Unavailable: A dependency is away; the next pass goes on where this one stopped. While the object store is
                away the phases that do without it still run.
        """
        store_down: BlobDown | None = None
        unfinished = True
        while unfinished:
            unfinished = False
            for name in PHASES:
                if store_down is not None and name in STORE_PHASES:
                    continue
                try:
                    ended = await self._run_phase(name, go_on)
                except BlobDown as error:
                    store_down, ended = error, True
                if ended is None:
                    return
                unfinished |= not ended
        if store_down is not None:
            raise store_down
        metrics.cleanup_finished.set_to_current_time()

    async def _run_phase(self, name: str, go_on: Callable[[], Awaitable[bool]]) -> bool | None:
        """True: the phase has nothing more to do; False: its time was up; None: the pass has to end."""
        ends, total = self._clock() + PHASE_S, 0
        try:
            async with aclosing(PHASES[name](self)) as batches:
                while await go_on():
                    self.pace.begin()
                    rows = await anext(batches, None)
                    if rows is None:
                        return True
                    total += rows
                    metrics.janitor_rows.labels(name).inc(rows)
                    await self.pace.end(rows)
                    if self._clock() >= ends:
                        return False
        except Unavailable:
            raise
        except Exception:
            metrics.cleanup_errors.labels(name).inc()
            _logger.exception("cleanup phase failed", extra={"phase": name})
            return True
        finally:
            if total:
                with suppress(Unavailable):
                    await self.upkeep.end_pass(name, total)
        return None

    # ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def retention(self) -> AsyncGenerator[int]:
        """Expunge messages older than `cleanup.max_age_restriction`, so that sessions hear of it."""
        if not self._max_age:
            return
        rest_s = await self.upkeep.rest_s("retention")
        if rest_s is not None and rest_s < min(ROUND_S, self._max_age.total_seconds() / 10):
            return
        place = _numbers((await self.upkeep.progress("retention")).place, 3)
        while window := await self.upkeep.old_messages(place, self._max_age, SCAN_ROWS):
            yield SCAN_ROWS // SCAN_COST
            for found in window:
                for uids in batched(found.uids, self.pace.rows):
                    yield await self._patiently(
                        "retention", self._expunge_old(found.account_id, found.mailbox_id, uids)
                    )
            place = window[-1].account_id, window[-1].mailbox_id, window[-1].last_uid
            await self.upkeep.save_place("retention", _text(place))
        await self.upkeep.end_round("retention")

    async def _expunge_old(self, account_id: AccountId, mailbox_id: MailboxId, uids: Sequence[int]) -> int:
        done = await self.upkeep.expunge_old(account_id, mailbox_id, uids)
        crash_point("cleanup.expunged")
        if done is None:
            return 0
        rows, modseq = done
        if rows and self._publish is not None:
            self._publish(account_id, mailbox_id, modseq)
        return rows

    async def begin_accounts(self) -> AsyncGenerator[int]:
        """Delete the mailboxes of accounts past their grace; remove accounts of which nothing is left."""

        async def step(row: Record) -> int:
            rows = await self.upkeep.purge_account(row["account_id"], self.grace, self.pace.rows)
            crash_point("cleanup.account_step")
            return rows

        async with aclosing(self._each("accounts", self.upkeep.deleted_accounts, "account_id", step)) as batches:
            async for rows in batches:
                yield rows

    async def deleted_mailboxes(self) -> AsyncGenerator[int]:
        """Empty and remove mailboxes past their grace."""

        async def step(row: Record) -> int:
            key = row["account_id"], row["mailbox_id"]
            rows = await self.upkeep.purge_mailbox(*key, self.grace, self.pace.rows)
            crash_point("cleanup.mailbox_step")
            return rows

        async with aclosing(self._each("mailboxes", self.upkeep.deleted_mailboxes, "mailbox_id", step)) as batches:
            async for rows in batches:
                yield rows

    async def shadows(self) -> AsyncGenerator[int]:
        """Take what is past its grace out of the mailboxes in which users see their deleted mail."""

        async def step(row: Record) -> int:
            return await self.upkeep.trim_shadow(row["account_id"], row["mailbox_id"], self.grace, self.pace.rows)

        async with aclosing(self._each("shadows", self.upkeep.outdated_shadows, "mailbox_id", step)) as batches:
            async for rows in batches:
                yield rows

    async def expunged(self) -> AsyncGenerator[int]:
        """Remove rows and log of messages past their grace."""

        async def step(row: Record) -> int:
            key = row["account_id"], row["mailbox_id"]
            rows = await self.upkeep.trim_expunged(*key, self.grace, self.pace.rows)
            crash_point("cleanup.trimmed")
            return rows

        async with aclosing(self._each("expunged", self.upkeep.expunged_mailboxes, "mailbox_id", step)) as batches:
            async for rows in batches:
                yield rows

    async def _each(
        self,
        phase: str,
        select: Callable[[timedelta, Sequence[int]], Awaitable[list[Record]]],
        key: str,
        step: Callable[[Record], Awaitable[int]],
    ) -> AsyncGenerator[int]:
        """Work off what is chosen, batch by batch, until nothing is left but what must wait.

        What must wait is passed over, or the oldest few of it would keep all others from being chosen.
        """
        waiting: list[int] = []
        while rows := await select(self.grace, waiting):
            for row in rows:
                removed = 0
                while batch := await self._patiently(phase, step(row)):
                    removed += batch
                    yield batch
                if not removed:
                    waiting.append(row[key])
                    yield 0

    async def bodies(self) -> AsyncGenerator[int]:
        """Delete objects that nobody refers to, and their rows."""
        began = await self.upkeep.now()
        while candidates := await self.upkeep.purgeable(BODIES, began):
            crash_point("cleanup.selected")
            try:
                marked = await self.upkeep.begin_purges(candidates)
            except Busy as error:
                _logger.info("left for the next pass", extra={"detail": str(error)})
                return
            crash_point("cleanup.marked")
            yield await self._purge(marked)
            if not marked and all(row["begun"] for row in candidates):
                return  # somebody else is at them

    async def _purge(self, marked: Sequence[BlobRef]) -> int:
        """Delete marked bodies; those whose objects went lose their rows even if others fail.

        Also bodies whose rows do not say that they were uploaded: the note of an upload may have died with its process.
        """
        slots = asyncio.Semaphore(DELETES)

        async def delete(ref: BlobRef) -> None:
            async with slots:
                await self.blobs.delete(ref.key)
            crash_point("cleanup.object_deleted")

        results = await asyncio.gather(*map(delete, marked), return_exceptions=True)
        gone = [ref for ref, result in zip(marked, results, strict=True) if result is None]
        rows = await self.upkeep.finish_purges(gone) if gone else 0
        crash_point("cleanup.row_deleted")
        for result in results:
            if result is not None:
                raise result
        return rows

    async def witnesses(self) -> AsyncGenerator[int]:
        """Remove witnesses of deliveries that nobody can ask for any more, and dead leases."""
        while rows := await self._patiently("witnesses", self.upkeep.trim_witnesses(self.pace.rows)):
            crash_point("cleanup.witnesses_trimmed")
            yield rows

    async def logs(self) -> AsyncGenerator[int]:
        """Remove what happened to accounts longer ago than `cleanup.log_retention`."""
        while rows := await self._patiently("logs", self.upkeep.trim_logs(self._log_retention, self.pace.rows)):
            yield rows

    async def texts(self) -> AsyncGenerator[int]:
        """Move texts older than `search.retention` out of the full-text index."""
        if not self._text_retention:
            return
        while rows := await self._patiently("texts", self.upkeep.archive_texts(self._text_retention, self.pace.rows)):
            crash_point("cleanup.archived")
            yield rows

    async def journals(self) -> AsyncGenerator[int]:
        """Merge old entries of flag journals that have grown long."""
        rest_s = await self.upkeep.rest_s("journals")
        if rest_s is not None and rest_s < ROUND_S:
            return
        place = _numbers((await self.upkeep.progress("journals")).place, 2)
        while window := await self.upkeep.journals(place, JOURNAL_ROWS, JOURNAL_MAILBOXES):
            yield 0
            for row in window:
                left = row["excess"]
                while left > 0:
                    size = min(JOURNAL_BATCH, left + 1)
                    gone = await self._patiently(
                        "journals", self.upkeep.compact_journal(row["account_id"], row["mailbox_id"], size)
                    )
                    crash_point("cleanup.compacted")
                    yield gone
                    left = left - gone if gone else 0
            place = window[-1]["account_id"], window[-1]["mailbox_id"]
            await self.upkeep.save_place("journals", _text(place))
        await self.upkeep.end_round("journals")

    async def orphans(self) -> AsyncGenerator[int]:
        """Find objects without a row; delete those that stay without one for `cleanup.orphan_grace`."""
        async with aclosing(orphans.sweep(self.upkeep, self.blobs, self.orphan_grace)) as batches:
            async for rows in batches:
                yield rows

    async def _patiently(self, phase: str, work: Awaitable[int]) -> int:
        """A statement about one mailbox or account; 0 if that is busy, gone or broken: a later pass comes by."""
        try:
            return await work
        except (Busy, NotFound) as error:
            _logger.info("left for the next pass", extra={"detail": str(error)})
        except Unavailable:
            raise
        except Exception:
            # One mailbox that breaks a statement must not keep all others from being cleaned.
            metrics.cleanup_errors.labels(phase).inc()
            _logger.exception("cleanup failed at one of many", extra={"phase": phase})
        return 0


PHASES: Final[dict[str, Callable[[Cleanup], AsyncGenerator[int]]]] = {
    "retention": Cleanup.retention,
    "accounts_begun": Cleanup.begin_accounts,  # their mailboxes become deleted, and are emptied next
    "mailboxes": Cleanup.deleted_mailboxes,
    "shadows": Cleanup.shadows,
    "expunged": Cleanup.expunged,
    "witnesses": Cleanup.witnesses,
    "logs": Cleanup.logs,
    "texts": Cleanup.texts,
    "journals": Cleanup.journals,
    "bodies": Cleanup.bodies,
    "accounts": Cleanup.begin_accounts,
    "orphans": Cleanup.orphans,
}
"""In this order: what an earlier phase lets go, a later one removes in the same round."""
STORE_PHASES: Final = frozenset({"bodies", "orphans"})
"""These need the object store."""


def _numbers(place: str, count: int) -> Any:
    """A place as a key of `count` numbers; the one before all others where it is empty."""
    return tuple(map(int, place.split("/"))) if place else (0,) * count


def _text(place: Sequence[int]) -> str:
    return "/".join(map(str, place))


def batched(uids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Cut a list."""
    for start in range(0, len(uids), size):
        yield uids[start : start + size]
