"""The database's side of the journal (`store/journal.py`): what is due, what there is to write, what was written."""

from __future__ import annotations

import contextlib
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from sora.store.readings import Mark, Reading
from sora.types import MAX_UID, AccountId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sora.store.db import Database
    from sora.store.leases import Lease

DUE: Final = 100_000
"""Accounts that are looked up at a time: each look is a pass over all counters."""
IDLE_S: Final = 600
"""A transaction that reads a large account waits for the object store in between."""
_SNAPSHOT: Final = f"""
    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'
"""


class State(Struct, frozen=True):
    """How far the journal is; times are UTC.

    Attributes:
        seq: The last number that was taken for an object.
        closed_seq: Of the last object that is in the store for certain.
        recovery_point: What was committed before is in the bucket.
        skipped: Accounts that the last pass could not write.
        stopped_at: Since when it is off.
        compact_upto: The last segment that the compaction under way makes needless; 0: none is under way.
        compacted_segments: How many were left by the last one, and `compacted_bytes` of them.
    """

    seq: int
    closed_seq: int
    recovery_point: datetime | None
    skipped: int
    stopped_at: datetime | None
    compact_upto: int
    compacted_segments: int
    compacted_bytes: int


class Extent(Struct, frozen=True):
    """What the journal takes in the bucket."""

    segments: int
    segment_bytes: int
    oldest_at: datetime | None
    snapshots: int
    snapshot_bytes: int


class Held(Struct, frozen=True):
    """What the journal has of an account.

    Attributes:
        first_seq: The oldest segment that is needed.
        since_bytes: What it takes of segments since its snapshot.
        gone: The account is no more.
    """

    account_id: AccountId
    first_seq: int
    since_bytes: int
    snapshot_bytes: int
    gone: bool


class Written(Struct):
    """What becomes true for the database when an object is in the store.

    Attributes:
        accounts: Account, group, octets, and whether the group makes all segments before it needless.
        notes: Of `journal_dirty`.
    """

    accounts: list[tuple[AccountId, int, int, bool]] = field(default_factory=list)
    notes: list[int] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


class Marks:
    """The tables `journal_*`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def state(self) -> State:
        """How far the journal is."""
        row = await self._db.fetchrow(
            """
            SELECT seq, closed_seq, recovery_point, skipped, stopped_at, compact_upto, compacted_segments,
              compacted_bytes FROM journal_state
            """
        )
        assert row is not None, "the migration makes it"
        return State(**row)

    async def extent(self) -> Extent:
        """What it takes in the bucket."""
        row = await self._db.fetchrow(
            """
            SELECT s.*, a.* FROM (
              SELECT count(*) AS segments, coalesce(sum(bytes), 0)::bigint AS segment_bytes, min(closed_at) AS oldest_at
              FROM journal_segments) s, (
              SELECT count(*) FILTER (WHERE snapshot_seq > 0) AS snapshots,
                coalesce(sum(snapshot_bytes), 0)::bigint AS snapshot_bytes FROM journal_accounts) a
            """
        )
        assert row is not None, "aggregates have a row"
        return Extent(**row)

    async def least_left(self) -> int | None:
        """UIDs or modseqs that can be given out before the next segment, where they are fewest; None: no bounds."""
        left: int | None = await self._db.fetchval(
            """
            SELECT min(least(uid_reserved - uid_next, modseq_reserved - 1 - highest_modseq)) FROM mailbox_stats
            WHERE uid_reserved <= $1
            """,
            MAX_UID,
        )
        return left

    async def now(self) -> datetime:
        """By the clock of the database."""
        now: datetime = await self._db.fetchval("SELECT clock()")
        return now

    async def due(self, after: int) -> list[AccountId]:
        """Accounts with something to write, behind `after`, ascending."""
        rows = await self._db.fetch("SELECT * FROM journal_due($1, $2)", after, DUE)
        return [AccountId(row[0]) for row in rows]

    @contextlib.asynccontextmanager
    async def reading(self, account_ids: Sequence[AccountId], whole: str = "") -> AsyncIterator[Reading]:
        """Some accounts as they are now, whatever happens meanwhile; `whole`: see `Reading.look`."""
        async with self._db.transaction() as conn:
            await conn.execute(_SNAPSHOT)
            reading = Reading(conn)
            await reading.look(account_ids, whole)
            yield reading

    async def take_seq(self, lease: Lease) -> int:
        """A number for an object.

        Raises:
            InUse: The lease was lost.
        """
        seq: int = await self._db.fetchval("SELECT take_journal_seq($1, $2)", lease.name, lease.token)
        return seq

    async def raise_seq(self, top: int) -> None:
        """The next number is greater than `top`."""
        await self._db.execute("UPDATE journal_state SET seq = greatest(seq, $1)", top)

    async def written(self, lease: Lease, seq: int, size: int, written: Written, *, snapshot_parts: int = 0) -> None:
        """An object is in the store, or all those of a snapshot.

        Raises:
            InUse: The lease was lost; its new holder writes all of it again.
        """
        columns: list[list[Any]] = [list(column) for column in zip(*written.accounts, strict=True)] or [[], [], [], []]
        await self._db.fetchval(
            "SELECT journal_written($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
            lease.name, lease.token, seq, size, *columns, written.notes,
            [mark.account_id for mark in written.marks],
            [mark.mailbox_id for mark in written.marks],
            [mark.highest_modseq for mark in written.marks],
            [mark.uid_reserved for mark in written.marks],
            [mark.modseq_reserved for mark in written.marks],
            snapshot_parts,
        )  # fmt: skip

    async def pass_ended(self, recovery_point: datetime, skipped: int) -> None:
        """All that was committed before is in the bucket, but for the accounts that were skipped.

        It only grows, unless the clock was put back: a moment that is still to come would hide that nothing is written.
        """
        await self._db.execute(
            """
            UPDATE journal_state SET skipped = $2, recovery_point =
              CASE WHEN recovery_point <= clock() THEN greatest(recovery_point, $1) ELSE $1 END
            WHERE recovery_point IS DISTINCT FROM $1
            """,
            recovery_point,
            skipped,
        )

    async def forget(self, lease: Lease) -> None:
        """Nothing is written, and nothing is reserved.

        Raises:
            InUse: The lease was lost.
        """
        while await self._db.fetchval("SELECT forget_journal($1, $2)", lease.name, lease.token):
            pass
        await self._db.execute("DELETE FROM journal_segments")

    async def hold_skipped(self, account_ids: Sequence[AccountId]) -> None:
        """Accounts that could not be written: if nothing is known of them, all segments there are may be needed."""
        await self._db.execute(
            """
            WITH new AS (
              INSERT INTO journal_accounts (account_id, first_seq, since_bytes)
              SELECT account_id, 0, 1 FROM accounts WHERE account_id = ANY ($1) ON CONFLICT DO NOTHING
              RETURNING account_id)
            INSERT INTO journal_dirty (account_id, kind)
            SELECT account_id, kind FROM new, unnest('{account,scripts,outbound}'::text[]) kind
            """,
            account_ids,
        )

    async def set_stopped(self, *, stopped: bool) -> None:
        """Note that the journal is off, or on again."""
        await self._db.execute(
            "UPDATE journal_state SET stopped_at = CASE WHEN $1 THEN coalesce(stopped_at, clock()) END", stopped
        )

    async def held(self, upto_seq: int, limit: int) -> list[Held]:
        """Accounts that need a segment up to `upto_seq`, those that need the oldest first."""
        rows = await self._db.fetch(
            """
            SELECT j.account_id, j.first_seq, j.since_bytes, j.snapshot_bytes,
              j.account_id <> 0 AND NOT EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = j.account_id) AS gone
            FROM journal_accounts j WHERE j.first_seq <= $1 AND j.since_bytes > 0 ORDER BY j.first_seq LIMIT $2
            """,
            upto_seq,
            limit,
        )
        return [Held(**row) for row in rows]

    async def compact(self, upto: int) -> None:
        """A compaction begins; 0: it has ended."""
        await self._db.execute(
            """
            UPDATE journal_state SET compact_upto = $1::bigint,
              compacted_segments = CASE WHEN $1::bigint = 0 THEN s.segments ELSE compacted_segments END,
              compacted_bytes = CASE WHEN $1::bigint = 0 THEN s.bytes ELSE compacted_bytes END
            FROM (SELECT count(*) AS segments, coalesce(sum(bytes), 0) AS bytes FROM journal_segments) s
            """,
            upto,
        )

    async def newest_segment(self) -> int:
        """The number of the last segment that is in the bucket; 0: there is none."""
        seq: int | None = await self._db.fetchval("SELECT max(seq) FROM journal_segments")
        return seq or 0

    async def first_needed(self) -> int:
        """The oldest segment that somebody needs; 0 while there are accounts of which nothing is written."""
        seq: int = await self._db.fetchval(
            """
            SELECT CASE WHEN EXISTS (
                SELECT 1 FROM accounts a WHERE NOT EXISTS (
                  SELECT 1 FROM journal_accounts j WHERE j.account_id = a.account_id)) THEN 0
              ELSE coalesce((SELECT min(first_seq) FROM journal_accounts WHERE since_bytes > 0), closed_seq + 1) END
            FROM journal_state
            """
        )
        return seq

    async def segments_deleted(self, seqs: Sequence[int]) -> None:
        """They are gone from the bucket."""
        await self._db.execute("DELETE FROM journal_segments WHERE seq = ANY ($1)", list(seqs))

    async def forget_account(self, account_id: AccountId) -> None:
        """Nothing in the bucket speaks of it any more, but that it is gone."""
        await self._db.execute(
            """
            DELETE FROM journal_accounts j WHERE j.account_id = $1
              AND NOT EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = $1)
              AND NOT EXISTS (SELECT 1 FROM journal_segments s WHERE s.seq < j.first_seq)
            """,
            account_id,
        )
