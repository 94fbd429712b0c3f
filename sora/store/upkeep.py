"""The janitor's statements: what is past its time, and how far the phases of the cleanup have come.

Each call that removes something is one short transaction; 0 means that there is nothing, or that it must wait (held,
locked, restored meanwhile).
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from sora.store.blobs import BlobRef
from sora.types import AccountId, MailboxId, ModSeq

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from asyncpg import Record

    from sora.store.blobs import BlobEntry
    from sora.store.db import Database

SELECTED: Final = 100
"""Mailboxes or accounts that are chosen at a time."""


class OldMessages(Struct, frozen=True):
    """What a window of the table of messages has of one mailbox.

    Attributes:
        last_uid: The window ends here.
        uids: Those that are too old, ascending.
    """

    account_id: AccountId
    mailbox_id: MailboxId
    last_uid: int
    uids: list[int]


class Progress(Struct, frozen=True):
    """How far a phase has come; times are UTC.

    Attributes:
        place: Where the round under way goes on; empty: at the beginning.
        finished_at: End of the last complete round.
        last_rows: Of the last pass.
        passed_at: End of the last pass.
        detail: What the last complete round found.
    """

    phase: str
    place: str
    started_at: datetime | None
    finished_at: datetime | None
    last_rows: int
    total_rows: int
    passed_at: datetime | None
    detail: dict[str, Any]


class Upkeep:
    """What the cleanup asks of the database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # ── progress ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def progress(self, phase: str) -> Progress:
        """Of one phase; one that never ran stands at the beginning."""
        row = await self._db.fetchrow("SELECT * FROM cleanup_progress WHERE phase = $1", phase)
        return _progress(row) if row else Progress(phase, "", None, None, 0, 0, None, {})

    async def all_progress(self) -> list[Progress]:
        """Of every phase that ever ran."""
        return [_progress(row) for row in await self._db.fetch("SELECT * FROM cleanup_progress ORDER BY phase")]

    async def rest_s(self, phase: str) -> float | None:
        """Seconds since the last complete round of a phase ended; None: there was none, or one is under way."""
        age: float | None = await self._db.fetchval(
            """
            SELECT extract(epoch FROM clock() - finished_at)::float8 FROM cleanup_progress
            WHERE phase = $1 AND place = ''
            """,
            phase,
        )
        return age

    async def save_place(self, phase: str, place: str) -> None:
        """The round under way goes on behind here, whoever takes it up."""
        await self._db.execute(
            """
            INSERT INTO cleanup_progress AS p (phase, place, started_at) VALUES ($1, $2, clock())
            ON CONFLICT (phase) DO UPDATE SET place = EXCLUDED.place,
              started_at = CASE WHEN p.place = '' THEN clock() ELSE p.started_at END
            """,
            phase,
            place,
        )

    async def end_round(self, phase: str, **detail: object) -> None:
        """The round is complete."""
        await self._db.execute(
            """
            INSERT INTO cleanup_progress (phase, started_at, finished_at, detail)
            VALUES ($1, clock(), clock(), $2::jsonb)
            ON CONFLICT (phase) DO UPDATE SET place = '', finished_at = clock(), detail = EXCLUDED.detail
            """,
            phase,
            msgspec.json.encode(detail).decode(),
        )

    async def end_pass(self, phase: str, rows: int) -> None:
        """A pass over the phase is over."""
        await self._db.execute(
            """
            INSERT INTO cleanup_progress AS p (phase, last_rows, total_rows, passed_at) VALUES ($1, $2, $2, clock())
            ON CONFLICT (phase) DO UPDATE SET last_rows = EXCLUDED.last_rows, passed_at = clock(),
              total_rows = p.total_rows + EXCLUDED.last_rows
            """,
            phase,
            rows,
        )

    async def leader(self) -> str | None:
        """The node that has the lease of the housekeeping."""
        name: str | None = await self._db.fetchval(
            "SELECT instance_id FROM leases WHERE name = 'janitor' AND expires_at > clock()"
        )
        return name

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def old_messages(self, after: tuple[int, int, int], max_age: timedelta, rows: int) -> list[OldMessages]:
        """A window of *rows* messages behind a place (account, mailbox, uid), by mailbox; empty: there are none."""
        found = await self._db.fetch(
            "SELECT * FROM scan_old_messages($1, $2, $3, clock() - $4::interval, $5)", *after, max_age, rows
        )
        return [
            OldMessages(AccountId(r["account_id"]), MailboxId(r["mailbox_id"]), r["last_uid"], r["uids"] or [])
            for r in found
        ]

    async def expunge_old(
        self, account_id: AccountId, mailbox_id: MailboxId, uids: Sequence[int]
    ) -> tuple[int, ModSeq] | None:
        """Expunge messages for all to see: how many, and the modseq of it; None: they must stay."""
        row = await self._db.fetchrow("SELECT * FROM expunge_old($1, $2, $3)", account_id, mailbox_id, uids)
        return (row["expunged"], ModSeq(row["modseq"])) if row else None

    async def expunged_mailboxes(self, grace: timedelta, without: Sequence[int] = ()) -> list[Record]:
        """Mailboxes with messages that were expunged before the grace, but for some."""
        return await self._db.fetch("SELECT * FROM select_expunged($1, $2, $3)", grace, SELECTED, without)

    async def trim_expunged(self, account_id: AccountId, mailbox_id: MailboxId, grace: timedelta, rows: int) -> int:
        """Remove messages that were expunged before the grace, and the log of it."""
        return await self._count(
            "SELECT trim_expunges($1, $2, clock() - $3::interval, $4)", account_id, mailbox_id, grace, rows
        )

    async def outdated_shadows(self, grace: timedelta, without: Sequence[int] = ()) -> list[Record]:
        """Mailboxes of deleted mail that show some from before the grace, but for some."""
        return await self._db.fetch("SELECT * FROM select_outdated_shadows($1, $2, $3)", grace, SELECTED, without)

    async def trim_shadow(self, account_id: AccountId, mailbox_id: MailboxId, grace: timedelta, rows: int) -> int:
        """Take what went before the grace out of a mailbox of deleted mail."""
        return await self._count("SELECT trim_shadow($1, $2, $3, $4)", account_id, mailbox_id, grace, rows)

    async def journals(self, after: tuple[int, int], keep: int, mailboxes: int) -> list[Record]:
        """The next mailboxes behind a place, and the entries of their journals that are too many."""
        return await self._db.fetch("SELECT * FROM scan_journals($1, $2, $3, $4)", *after, keep, mailboxes)

    async def compact_journal(self, account_id: AccountId, mailbox_id: MailboxId, rows: int) -> int:
        """Merge the oldest entries of a journal."""
        return await self._count("SELECT compact_journal($1, $2, $3)", account_id, mailbox_id, rows)

    # ── mailboxes and accounts ───────────────────────────────────────────────────────────────────────────────────────

    async def deleted_mailboxes(self, grace: timedelta, without: Sequence[int] = ()) -> list[Record]:
        """Mailboxes that were deleted before the grace, but for some."""
        return await self._db.fetch("SELECT * FROM select_deleted_mailboxes($1, $2, $3)", grace, SELECTED, without)

    async def purge_mailbox(self, account_id: AccountId, mailbox_id: MailboxId, grace: timedelta, rows: int) -> int:
        """Remove rows of a deleted mailbox, at last itself."""
        return await self._count("SELECT purge_mailbox($1, $2, $3, $4)", account_id, mailbox_id, grace, rows)

    async def deleted_accounts(self, grace: timedelta, without: Sequence[int] = ()) -> list[Record]:
        """Accounts that were deleted before the grace, but for some."""
        return await self._db.fetch("SELECT * FROM select_deleted_accounts($1, $2, $3)", grace, SELECTED, without)

    async def purge_account(self, account_id: AccountId, grace: timedelta, rows: int) -> int:
        """Delete the mailboxes of a deleted account; remove the account if nothing of it is left."""
        return await self._count("SELECT purge_account($1, $2, $3)", account_id, grace, rows)

    # ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def purgeable(self, limit: int, before: datetime) -> list[Record]:
        """Contents that may have lost their last message before a moment, and those whose purge was begun."""
        return await self._db.fetch("SELECT * FROM select_purgeable($1, $2)", limit, before)

    async def begin_purges(self, contents: Sequence[Record]) -> list[BlobRef]:
        """Mark those of the contents that nobody uses; their objects may be deleted then."""
        rows = await self._db.fetch(
            "SELECT * FROM begin_purges($1, $2)",
            [row["account_id"] for row in contents],
            [row["content_id"] for row in contents],
        )
        return [BlobRef(**row) for row in rows]

    async def finish_purges(self, refs: Sequence[BlobRef]) -> int:
        """Remove the rows of contents whose objects are gone."""
        return await self._count(
            "SELECT finish_purges($1, $2)", [ref.account_id for ref in refs], [ref.content_id for ref in refs]
        )

    async def now(self) -> datetime:
        """The clock of the schema."""
        now: datetime = await self._db.fetchval("SELECT clock()")
        return now

    # ── objects without a row ────────────────────────────────────────────────────────────────────────────────────────

    async def unknown(self, refs: Sequence[BlobRef]) -> dict[int, bool]:
        """Those that have no row, by place in *refs*; True: the account is under legal hold."""
        rows = await self._db.fetch(
            "SELECT * FROM unknown_objects($1, $2, $3)",
            [ref.account_id for ref in refs],
            [ref.content_id for ref in refs],
            [ref.content_hash for ref in refs],
        )
        return {row["ord"] - 1: row["held"] for row in rows}

    async def note_orphans(self, entries: Sequence[BlobEntry], grace: timedelta) -> set[str]:
        """Note objects without a row; the keys of those that were noted, and are, older than the grace."""
        rows = await self._db.fetch(
            "SELECT * FROM note_orphans($1, $2, $3, $4) AS n (key) WHERE key IS NOT NULL",
            [entry.key for entry in entries],
            [entry.size for entry in entries],
            [entry.modified_at for entry in entries],
            grace,
        )
        return {row["key"] for row in rows}

    async def list_orphans(self, after: str, limit: int) -> list[Record]:
        """In the order of their keys."""
        return await self._db.fetch("SELECT * FROM orphan_objects WHERE key > $1 ORDER BY key LIMIT $2", after, limit)

    async def forget_orphans(self, keys: Sequence[str]) -> None:
        """These are gone, or have a row after all."""
        await self._db.execute("DELETE FROM orphan_objects WHERE key = ANY ($1)", keys)

    async def forget_unseen_orphans(self, since: datetime) -> None:
        """Those that a round which began then has not met are gone."""
        await self._db.execute("DELETE FROM orphan_objects WHERE last_seen_at < $1", since)

    async def count_orphans(self) -> tuple[int, int]:
        """How many there are, and their octets."""
        row = await self._db.fetchrow("SELECT count(*), coalesce(sum(size), 0)::bigint FROM orphan_objects")
        assert row is not None, "an aggregate is one row"
        return row[0], row[1]

    # ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def archive_texts(self, age: timedelta, rows: int) -> int:
        """Move texts that are indexed for longer than *age* out of the full-text index."""
        return await self._count("SELECT archive_search_texts($1, $2)", age, rows)

    async def trim_witnesses(self, rows: int) -> int:
        """Remove witnesses of deliveries that nobody can ask for any more, and dead leases."""
        return await self._count("SELECT trim_witnesses($1)", rows)

    async def trim_logs(self, age: timedelta, rows: int) -> int:
        """Remove what happened to accounts longer ago."""
        return await self._count("SELECT trim_logs($1, $2)", age, rows)

    async def backlog(self, grace: timedelta) -> dict[str, int]:
        """How much waits for the phases that have a backlog; expunged messages are counted by their log."""
        row = await self._db.fetchrow(_BACKLOG, grace)
        assert row is not None, "an aggregate is one row"
        return dict(row)

    async def _count(self, sql: str, *arguments: object) -> int:
        return int(await self._db.fetchval(sql, *arguments) or 0)


_BACKLOG: Final = """
    SELECT (SELECT coalesce(sum(cardinality(uids) - trimmed), 0)::bigint FROM message_expunges
            WHERE expunged_at < clock() - $1::interval) AS expunged,
      (SELECT count(*) FROM mailboxes WHERE deleted_at < clock() - $1::interval) AS mailboxes,
      (SELECT count(*) FROM accounts WHERE deleted_at < clock() - $1::interval) AS accounts,
      (SELECT count(*) FROM purge_candidates)
        + (SELECT count(*) FROM message_contents WHERE purging_at IS NOT NULL) AS bodies,
      (SELECT count(*) FROM orphan_objects) AS orphans
"""


def _progress(row: Record) -> Progress:
    return Progress(**{**row, "detail": msgspec.json.decode(row["detail"])})
