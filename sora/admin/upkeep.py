"""Admin operations on the cleanup: how far it is, and what it found in the bucket."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct

from sora.admin.context import AdminContext  # noqa: TC001
from sora.store.upkeep import Upkeep


class PhaseInfo(Struct, frozen=True):
    """One phase of the cleanup; times are UTC.

    Attributes:
        backlog: What waits; None: it cannot be told without doing it.
        passed_at: When it last removed something.
        finished_at: End of the last walk through everything; None: it is no walk, or has not ended yet.
    """

    phase: str
    backlog: int | None
    last_rows: int
    total_rows: int
    passed_at: datetime | None
    finished_at: datetime | None
    under_way: bool


class CleanupStatus(Struct, frozen=True):
    """The whole cleanup.

    Attributes:
        leader: Instance that does it now; None: nobody.
    """

    leader: str | None
    phases: list[PhaseInfo]


class Orphan(Struct, frozen=True):
    """An object without a row."""

    key: str
    size: int
    modified_at: datetime
    first_seen_at: datetime
    last_seen_at: datetime


class ListOrphans(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `cleanup orphans`."""

    after: Annotated[str, Meta(description="begin behind this key")] = ""
    limit: Annotated[int, Meta(description="at most so many", ge=1, le=100_000)] = 1000


async def status(ctx: AdminContext) -> CleanupStatus:
    """Show what the cleanup has done and what waits for it."""
    upkeep = Upkeep(ctx.store.db)
    progress = {row.phase: row for row in await upkeep.all_progress()}
    backlog = await upkeep.backlog(timedelta(seconds=ctx.config.cleanup.grace_period))
    phases = []
    for name in sorted(progress.keys() | backlog.keys()):
        row = progress.get(name) or await upkeep.progress(name)
        phases.append(
            PhaseInfo(
                phase=name,
                backlog=backlog.get(name),
                last_rows=row.last_rows,
                total_rows=row.total_rows,
                passed_at=row.passed_at,
                finished_at=row.finished_at,
                under_way=bool(row.place),
            )
        )
    return CleanupStatus(await upkeep.leader(), phases)


async def orphans(ctx: AdminContext, req: ListOrphans) -> list[Orphan]:
    """List objects in the object store that no message has a row for."""
    rows = await Upkeep(ctx.store.db).list_orphans(req.after, req.limit)
    return [Orphan(**row) for row in rows]
