"""The database's side of the journal (`store/journal.py`): what is due, what there is to write, what was written."""

from __future__ import annotations

import contextlib
import struct
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from sora.store.journal import (
    HASH_BYTES,
    Account,
    AliasFacts,
    CredentialFacts,
    DomainFacts,
    Domains,
    GrantFacts,
    MailboxFacts,
    MailFacts,
    Messages,
    MetadataFacts,
    Outbound,
    Page,
    Plane,
    ScriptFacts,
    Scripts,
)
from sora.types import MAX_UID, AccountId, MailboxId

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from asyncpg import Record

    from sora.store.db import Connection, Database
    from sora.store.leases import Lease

AHEAD: Final = 1 << 20
"""UIDs and modseqs that are reserved in advance; more are when half of them are used."""
PAGE_BLOCKS: Final = 16
"""Blocks of a page: up to 16,384 messages, 1.5 MB before they are compressed."""
MAIL_BYTES: Final = 1024**2
"""Mail that waits to leave is written in pages of about so many octets."""
DUE: Final = 1000
"""Accounts that are looked up at a time."""
IDLE_S: Final = 600
"""A transaction that reads a large account waits for the object store in between."""
PLANE_BYTES: Final = 128
_PLANE: Final = struct.Struct(f">ihq{PLANE_BYTES}s")
_FIRST: Final = -1


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


class Mark(Struct, frozen=True):
    """A mailbox, and how much of it the journal has.

    Attributes:
        uid_reserved: What the next page of it promises, as `modseq_reserved`.
        since: From where the next page goes on.
    """

    mailbox_id: MailboxId
    uid_next: int
    highest_modseq: int
    uid_reserved: int
    modseq_reserved: int
    since: int


class Written(Struct):
    """What becomes true for the database when an object is in the store.

    Attributes:
        accounts: Account, group, octets, and whether the group makes all segments before it needless.
        notes: Of `journal_dirty`.
        marks: By account.
    """

    accounts: list[tuple[AccountId, int, int, bool]] = field(default_factory=list)
    notes: list[int] = field(default_factory=list)
    marks: list[tuple[AccountId, Mark]] = field(default_factory=list)


class Reading:
    """One account as it is at one moment; inside `Marks.reading`.

    Attributes:
        exists: False: it was purged.
        shredded: Its key was destroyed.
        known: The journal has it already.
        kinds: Of `journal_dirty`: what has changed beside messages.
        notes: The rows that say so.
    """

    def __init__(self, conn: Connection, account_id: AccountId) -> None:
        self._conn = conn
        self.account_id = account_id
        self.exists = self.shredded = self.known = False
        self.kinds: set[str] = set()
        self.notes: list[int] = []

    async def look(self) -> None:
        """Find out what there is to read."""
        row = await self._conn.fetchrow(
            """
            SELECT $1 = 0 OR EXISTS (SELECT 1 FROM accounts WHERE account_id = $1) AS exists,
              EXISTS (SELECT 1 FROM shreddings WHERE account_id = $1) AS shredded,
              EXISTS (SELECT 1 FROM journal_accounts WHERE account_id = $1) AS known,
              coalesce(array_agg(note_id), '{}') AS notes, coalesce(array_agg(DISTINCT kind), '{}') AS kinds
            FROM journal_dirty WHERE account_id = $1
            """,
            self.account_id,
        )
        self.exists, self.shredded, self.known = row["exists"], row["shredded"], row["known"]
        self.notes, self.kinds = row["notes"], set(row["kinds"])

    async def marks(self, whole: str = "") -> list[Mark]:
        """Mailboxes of which there is something to write; all of them if `whole` is not empty.

        Args:
            whole: `snapshot`: everything in them; `segment`: what is not in the snapshot.
        """
        rows = await self._conn.fetch(_MARKS, self.account_id, bool(whole))
        since = {"": "modseq", "segment": "snapshot_modseq"}.get(whole)
        return [_mark(row, row[since] if since else 0) for row in rows]

    async def domains(self) -> Domains:
        """What belongs to no account."""
        rows = await self._conn.fetch(
            """
            SELECT domain_id, name, catch_all_account_id, quota_bytes, quota_messages, account_quota_bytes,
              account_quota_messages, account_quota_mailboxes, created_at FROM domains ORDER BY domain_id
            """
        )
        return Domains(tuple(DomainFacts(**row) for row in rows), await self._metadata())

    async def account(self) -> Account:
        """The account with the small things that belong to it."""
        row = await self._conn.fetchrow(
            """
            SELECT address, domain_id, disabled, legal_hold, deleted_at, quota_bytes, quota_messages, quota_mailboxes,
              created_at FROM accounts WHERE account_id = $1
            """,
            self.account_id,
        )
        keywords = await self._rows("SELECT flag_no, name FROM account_keywords WHERE account_id = $1 ORDER BY 1")
        subscriptions = await self._rows("SELECT name FROM subscriptions WHERE account_id = $1 ORDER BY 1")
        return Account(
            **row,
            credentials=tuple(CredentialFacts(**found) for found in await self._rows(_CREDENTIALS)),
            aliases=tuple(AliasFacts(**found) for found in await self._rows(_ALIASES)),
            keywords=tuple((found["flag_no"], found["name"]) for found in keywords),
            mailboxes=tuple(MailboxFacts(**found) for found in await self._rows(_MAILBOXES)),
            subscriptions=tuple(found["name"] for found in subscriptions),
            grants=tuple(GrantFacts(**found) for found in await self._rows(_GRANTS)),
            metadata=await self._metadata(),
        )

    async def scripts(self) -> Scripts:
        """All filters."""
        return Scripts(tuple(ScriptFacts(**row) for row in await self._rows(_SCRIPTS)))

    async def outbound(self) -> AsyncGenerator[Outbound]:
        """Mail that waits to leave; one page at least, because the first says that there was no other."""
        page, last = 0, 0
        while True:
            rows = await self._conn.fetch(_OUTBOUND, self.account_id, last, MAIL_BYTES)
            if rows or not page:
                yield Outbound(page, tuple(MailFacts(**row) for row in rows))
            if not rows:
                return
            page, last = page + 1, rows[-1]["queue_id"]

    async def pages(self, mark: Mark) -> AsyncGenerator[Page]:
        """A mailbox, some blocks at a time; one page at least, for what is said of the mailbox itself."""
        after, more = _FIRST, True
        while more:
            row = await self._conn.fetchrow(
                "SELECT * FROM journal_page($1, $2, $3, $4, $5)",
                self.account_id, mark.mailbox_id, mark.since, after, PAGE_BLOCKS,
            )  # fmt: skip
            blocks, more = row["blocks"], row["more"]
            last = blocks[-1] if more else MAX_UID >> 10
            yield Page(
                mailbox_id=mark.mailbox_id,
                since=mark.since,
                uid_next=mark.uid_next,
                highest_modseq=mark.highest_modseq,
                uid_reserved=mark.uid_reserved,
                modseq_reserved=mark.modseq_reserved,
                first_block=after + 1,
                last_block=last,
                blocks=tuple(blocks),
                planes=_planes(row["planes"] or b""),
                messages=_messages(row),
            )
            after = last

    async def _metadata(self) -> tuple[MetadataFacts, ...]:
        return tuple(MetadataFacts(**row) for row in await self._rows(_METADATA))

    async def _rows(self, sql: str) -> Sequence[Record]:
        rows: Sequence[Record] = await self._conn.fetch(sql, self.account_id)
        return rows


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

    async def now(self) -> datetime:
        """By the clock of the database."""
        now: datetime = await self._db.fetchval("SELECT clock()")
        return now

    async def due(self, after: int) -> list[AccountId]:
        """Accounts with something to write, behind `after`, ascending."""
        rows = await self._db.fetch("SELECT * FROM journal_due($1, $2)", after, DUE)
        return [AccountId(row[0]) for row in rows]

    @contextlib.asynccontextmanager
    async def reading(self, account_id: AccountId) -> AsyncIterator[Reading]:
        """An account as it is now, whatever happens meanwhile."""
        async with self._db.transaction() as conn:
            await conn.execute(_SNAPSHOT)
            reading = Reading(conn, account_id)
            await reading.look()
            yield reading

    async def take_seq(self, lease: Lease) -> int:
        """A number for an object.

        Raises:
            InUse: The lease was lost.
        """
        seq: int = await self._db.fetchval("SELECT take_journal_seq($1, $2)", lease.name, lease.token)
        return seq

    async def written(self, lease: Lease, seq: int, size: int, written: Written, *, snapshot_parts: int = 0) -> None:
        """An object is in the store, or all those of a snapshot.

        Raises:
            InUse: The lease was lost; its new holder writes all of it again.
        """
        columns: list[list[Any]] = [list(column) for column in zip(*written.accounts, strict=True)] or [[], [], [], []]
        await self._db.fetchval(
            "SELECT journal_written($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
            lease.name, lease.token, seq, size, *columns, written.notes,
            [account_id for account_id, _ in written.marks],
            [mark.mailbox_id for _, mark in written.marks],
            [mark.highest_modseq for _, mark in written.marks],
            [mark.uid_reserved for _, mark in written.marks],
            [mark.modseq_reserved for _, mark in written.marks],
            snapshot_parts,
        )  # fmt: skip

    async def pass_ended(self, recovery_point: datetime, skipped: int) -> None:
        """All that was committed before is in the bucket, but for the accounts that were skipped."""
        await self._db.execute(
            """
            UPDATE journal_state SET recovery_point = greatest(recovery_point, $1), skipped = $2
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


def _mark(row: Record, since: int) -> Mark:
    """With reservations that are renewed when half of what was promised is used."""
    return Mark(
        mailbox_id=MailboxId(row["mailbox_id"]),
        uid_next=row["uid_next"],
        highest_modseq=row["highest_modseq"],
        uid_reserved=_ahead(max(row["uid_next"], row["uid_wanted"]), row["uid_reserved"], MAX_UID + 1),
        modseq_reserved=_ahead(row["highest_modseq"] + 1, row["modseq_reserved"], 1 << 62),
        since=since,
    )


def _ahead(needed: int, reserved: int | None, most: int) -> int:
    if reserved is not None and (reserved - needed >= AHEAD // 2 or reserved == most):
        return reserved
    return min(needed + AHEAD, most)


def _planes(packed: bytes) -> tuple[Plane, ...]:
    return tuple(Plane(*found) for found in _PLANE.iter_unpack(packed))


def _messages(row: Record) -> Messages:
    if not row["uids"]:
        return Messages()
    if len(row["hashes"]) * 8 != len(row["uids"]) * HASH_BYTES:
        raise ValueError("a content hash of another length")
    return Messages(*(row[column] for column in Messages.__struct_fields__))


_SNAPSHOT: Final = f"""
    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'
"""
_MARKS: Final = """
    SELECT s.mailbox_id, s.uid_next, s.highest_modseq, k.uid_reserved, k.modseq_reserved,
      coalesce(k.modseq, 0) AS modseq, coalesce(k.snapshot_modseq, 0) AS snapshot_modseq,
      coalesce(k.uid_wanted, 0) AS uid_wanted
    FROM mailbox_stats s LEFT JOIN journal_marks k USING (account_id, mailbox_id)
    WHERE s.account_id = $1 AND ($2 OR k.modseq IS DISTINCT FROM s.highest_modseq
      OR k.uid_reserved IS DISTINCT FROM s.uid_reserved OR k.modseq_reserved IS DISTINCT FROM s.modseq_reserved
      OR k.uid_wanted > k.uid_reserved)
      AND NOT EXISTS (SELECT 1 FROM mailboxes b WHERE b.account_id = $1 AND b.mailbox_id = s.mailbox_id AND b.shadow)
    ORDER BY 1
"""
_CREDENTIALS: Final = """
    SELECT kind, name, hash, expires_at, created_at FROM credentials WHERE account_id = $1 ORDER BY credential_id
"""
_ALIASES: Final = "SELECT address, login, created_at FROM aliases WHERE account_id = $1 ORDER BY 1"
_MAILBOXES: Final = """
    SELECT mailbox_id, name, uidvalidity, special_use, noselect, created_at, deleted_at FROM mailboxes
    WHERE account_id = $1 AND NOT shadow ORDER BY 1
"""
_GRANTS: Final = """
    SELECT mailbox_id, grantee_id, negative, rights, domain_id FROM mailbox_acl WHERE account_id = $1 ORDER BY 1, 2, 3
"""
_METADATA: Final = """
    SELECT mailbox_id, viewer_id, entry, value FROM metadata WHERE account_id = $1 ORDER BY 1, 2, 3
"""
_SCRIPTS: Final = """
    SELECT name, content, version, active, updated_at FROM sieve_scripts WHERE account_id = $1 ORDER BY 1
"""
# the first mail whatever its size, and those behind it that fit
_OUTBOUND: Final = """
    SELECT queue_id, kind, sender, recipient, size, content_id, body, body_hash, header, smtputf8,
      params::text AS params, created_at, attempts
    FROM outbound_queue WHERE account_id = $1 AND queue_id = ANY (ARRAY(
      SELECT q.queue_id FROM (
        SELECT i.queue_id, sum(coalesce(length(i.body), 0) + length(i.header) + 500) OVER w AS upto,
          row_number() OVER w AS n
        FROM (SELECT * FROM outbound_queue WHERE account_id = $1 AND queue_id > $2 ORDER BY queue_id LIMIT 2000) i
        WINDOW w AS (ORDER BY i.queue_id)) q
      WHERE q.upto <= $3 OR q.n = 1))
    ORDER BY queue_id
"""
