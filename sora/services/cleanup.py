"""What the janitor removes, and in which order.

A phase is one row of `PHASES`: a function that handles one bounded batch and says how many rows that was. A pass calls
each phase until it has no more to do or its share of the pass is used up; what is left waits for the next pass. No
phase holds a lock over the network.

A body goes in three steps: `begin_purge` looks for references under the lock of the content's row and marks it, then
the object is deleted, then the row. A crash in between leaves a marked row, which the next pass takes up again; an
object that is gone already is no error.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sora import log, metrics
from sora.crashpoints import crash_point
from sora.errors import Busy
from sora.store.blobs import BlobRef

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncpg import Record

    from sora.store.blobs import BlobStore
    from sora.store.db import Database

_logger = log.get(__name__)

ROWS: Final = 5000
"""Messages of one statement: short enough for the lock of their mailbox."""
MAILBOXES: Final = 100
BODIES: Final = 200
JOURNAL_ROWS: Final = 64
PHASE_S: Final = 60.0
"""Time of one phase in one pass."""


class Cleanup:
    """Removes what is past its grace.

    Args:
        grace_s: How long expunged messages, deleted mailboxes and deleted accounts can be restored.
        clock: Monotonic seconds.
    """

    def __init__(
        self, database: Database, blobs: BlobStore, *, grace_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._grace = timedelta(seconds=grace_s)
        self._clock = clock

    async def run(self, go_on: Callable[[], Awaitable[bool]]) -> None:
        """One pass over all phases.

        Args:
            go_on: Asked before every batch; False ends the pass.

        Raises:
            Unavailable: A dependency is away; the next pass goes on where this one stopped.
        """
        for name, phase in PHASES.items():
            ends, rows = self._clock() + PHASE_S, 1
            while rows and self._clock() < ends:
                if not await go_on():
                    return
                rows = await phase(self)
                metrics.janitor_rows.labels(name).inc(rows)

    async def trim_expunged(self) -> int:
        """Remove rows and log of messages expunged before the grace, a batch of each mailbox that has some."""
        mailboxes = await self._database.fetch("SELECT * FROM sora.select_expunged($1, $2)", self._grace, MAILBOXES)
        rows = 0
        for mailbox in mailboxes:
            rows += await self._locking(
                "SELECT sora.trim_expunges($1, $2, sora.clock() - $3::interval, $4)",
                mailbox["account_id"],
                mailbox["mailbox_id"],
                self._grace,
                ROWS,
            )
        return rows

    async def compact_journals(self) -> int:
        """Merge old entries of flag journals that have grown long."""
        mailboxes = await self._database.fetch(
            "SELECT * FROM sora.select_long_journals($1, $2)", JOURNAL_ROWS, MAILBOXES
        )
        rows = 0
        for mailbox in mailboxes:
            rows += await self._locking(
                "SELECT sora.compact_flag_changes($1, $2)", mailbox["account_id"], mailbox["mailbox_id"]
            )
        return rows

    async def purge_mailboxes(self) -> int:
        """Empty and remove mailboxes deleted before the grace."""
        row = await self._database.fetchrow("SELECT * FROM sora.purge_mailboxes($1, $2)", self._grace, ROWS)
        return int(row["messages"] + row["mailboxes"]) if row is not None else 0

    async def purge_accounts(self) -> int:
        """Remove accounts deleted before the grace, as far as nothing of them is left."""
        return await self._locking("SELECT sora.purge_accounts($1)", self._grace)

    async def purge_bodies(self) -> int:
        """Delete objects that no message refers to, and their rows."""
        candidates = await self._database.fetch("SELECT * FROM sora.select_purgeable($1)", BODIES)
        if candidates:
            crash_point("cleanup.selected")
        rows = 0
        for candidate in candidates:
            rows += await self._purge_body(candidate)
        return rows

    async def _purge_body(self, candidate: Record) -> int:
        account_id, content_id = candidate["account_id"], candidate["content_id"]
        marked = await self._database.fetchrow("SELECT * FROM sora.begin_purge($1, $2)", account_id, content_id)
        if marked is None:
            return 0
        # Also if the row does not say that it was uploaded: the mark of an upload may have been lost with its process.
        await self._blobs.delete(BlobRef(account_id, content_id, marked["content_hash"], marked["size"]).key)
        crash_point("cleanup.object_deleted")
        await self._database.execute("SELECT sora.finish_purge($1, $2)", account_id, content_id)
        crash_point("cleanup.row_deleted")
        return 1

    async def trim_witnesses(self) -> int:
        """Remove witnesses of deliveries that nobody can ask for any more, and dead leases."""
        return await self._locking("SELECT sora.trim_witnesses($1)", ROWS)

    async def _locking(self, sql: str, *arguments: object) -> int:
        """A statement that takes the lock of a mailbox or account; one that is busy waits for the next pass."""
        try:
            return int(await self._database.fetchval(sql, *arguments) or 0)
        except Busy as error:
            _logger.info("left for the next pass", extra={"detail": str(error)})
            return 0


PHASES: Final[dict[str, Callable[[Cleanup], Awaitable[int]]]] = {
    "expunged": Cleanup.trim_expunged,
    "journals": Cleanup.compact_journals,
    "accounts_begun": Cleanup.purge_accounts,  # their mailboxes become deleted, and are emptied next
    "mailboxes": Cleanup.purge_mailboxes,
    "witnesses": Cleanup.trim_witnesses,  # before the bodies: an object store that is away ends the pass there
    "bodies": Cleanup.purge_bodies,
    "accounts": Cleanup.purge_accounts,
}
"""In this order: what an earlier phase lets go, a later one removes in the same pass."""
