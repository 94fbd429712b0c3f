"""Runs of `sora-admin verify`: how far each has come, and what it has found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from asyncpg import Record

    from sora.store.db import Database
    from sora.types import AccountId

RUNS_KEPT: Final = 20
"""Of a node, with their findings."""


class Finding(Struct, frozen=True):
    """Something that is wrong.

    Attributes:
        kind: See `KINDS`.
        subject: The object, file, mailbox or account.
        state: `found`; `mending`: it is being mended; `mended`; `waits`: it needs somebody or something else, the
            detail says what; `lost`: no good copy is anywhere.
    """

    kind: str
    subject: str
    account_id: int | None
    detail: str
    state: str = "found"


class Run(Struct, frozen=True):
    """One run, as far as it has come.

    Attributes:
        resumed: It goes on where an earlier command was cut short.
        counts: What was looked at.
    """

    run_id: int
    phase: str
    place: str
    counts: dict[str, int]
    resumed: bool


class VerifyRuns:
    """The runs of a node.

    Args:
        instance_id: This node.
    """

    def __init__(self, db: Database, instance_id: str) -> None:
        self._db = db
        self._instance_id = instance_id

    async def begin(
        self, account_id: AccountId | None, *, deep: bool, repair: bool, anew: bool, within: timedelta
    ) -> Run:
        """The run of this node that was cut short and asked the same, if it moved lately; else a new one."""
        row = None
        if not anew:
            row = await self._db.fetchrow(
                """
                SELECT run_id, phase, place, counts FROM verify_runs
                WHERE instance_id = $1 AND account_id IS NOT DISTINCT FROM $2 AND deep = $3 AND repair = $4
                  AND finished_at IS NULL AND moved_at > clock() - $5::interval
                ORDER BY run_id DESC LIMIT 1
                """,
                self._instance_id,
                account_id,
                deep,
                repair,
                within,
            )
        resumed = row is not None
        if row is None:
            await self._forget_old_runs()
            row = await self._db.fetchrow(
                """
                INSERT INTO verify_runs (instance_id, account_id, deep, repair) VALUES ($1, $2, $3, $4)
                RETURNING run_id, phase, place, counts
                """,
                self._instance_id,
                account_id,
                deep,
                repair,
            )
            assert row is not None, "INSERT … RETURNING gives its row"
        return Run(row["run_id"], row["phase"], row["place"], msgspec.json.decode(row["counts"]), resumed)

    async def note(self, run_id: int, findings: Sequence[Finding]) -> None:
        """Write findings down, or what has become of them."""
        await self._db.execute(_NOTE, run_id, *_columns(findings))

    async def move(
        self, run_id: int, phase: str, place: str, counts: Mapping[str, int], findings: Sequence[Finding]
    ) -> None:
        """A page is done. What of it was being mended and is not wrong any more was mended before a crash."""
        async with self._db.transaction() as connection:
            await connection.execute(_NOTE, run_id, *_columns(findings))
            await connection.execute(
                "UPDATE verify_findings SET state = 'mended' WHERE run_id = $1 AND state = 'mending'", run_id
            )
            await connection.execute(
                "UPDATE verify_runs SET phase = $2, place = $3, counts = $4, moved_at = clock() WHERE run_id = $1",
                run_id,
                phase,
                place,
                msgspec.json.encode(counts).decode(),
            )

    async def finish(self, run_id: int) -> None:
        """Everything has been looked at."""
        await self._db.execute("UPDATE verify_runs SET finished_at = clock() WHERE run_id = $1", run_id)

    async def tally(self, run_id: int) -> list[Record]:
        """How many findings there are, by kind and state."""
        return await self._db.fetch(
            "SELECT kind, state, count(*) AS n FROM verify_findings WHERE run_id = $1 GROUP BY 1, 2 ORDER BY 1, 2",
            run_id,
        )

    async def findings(self, run_id: int, limit: int) -> list[Finding]:
        """The worst first."""
        rows = await self._db.fetch(
            """
            SELECT kind, subject, account_id, detail, state FROM verify_findings WHERE run_id = $1
            ORDER BY array_position(ARRAY['lost', 'found', 'mending', 'waits', 'mended'], state), kind, subject LIMIT $2
            """,
            run_id,
            limit,
        )
        return [Finding(**row) for row in rows]

    async def unfinished(self, run_id: int) -> list[Finding]:
        """What was being mended when the run was killed: of one page at most."""
        rows = await self._db.fetch(
            """
            SELECT kind, subject, account_id, detail, state FROM verify_findings
            WHERE run_id = $1 AND state = 'mending' ORDER BY kind, subject
            """,
            run_id,
        )
        return [Finding(**row) for row in rows]

    async def _forget_old_runs(self) -> None:
        await self._db.execute(
            """
            DELETE FROM verify_runs WHERE instance_id = $1 AND run_id <= (
              SELECT run_id FROM verify_runs WHERE instance_id = $1 ORDER BY run_id DESC OFFSET $2 LIMIT 1)
            """,
            self._instance_id,
            RUNS_KEPT - 1,
        )


_NOTE: Final = """
    INSERT INTO verify_findings AS f (run_id, kind, subject, account_id, detail, state)
    SELECT $1, * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[])
    ON CONFLICT (run_id, kind, subject) DO UPDATE SET detail = EXCLUDED.detail, state = EXCLUDED.state
"""


def _columns(findings: Sequence[Finding]) -> tuple[list[object], ...]:
    names = ("kind", "subject", "account_id", "detail", "state")
    return tuple([getattr(finding, name) for finding in findings] for name in names)
