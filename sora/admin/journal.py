"""Admin operations on the account journal: what a rebuild from the bucket alone would know."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import Final

from msgspec import Struct

from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.store.marks import Marks

LATE: Final = 3
"""A recovery point that is so many intervals old is an error."""


class JournalStatus(Struct, frozen=True):
    """The journal; times are UTC.

    Attributes:
        recovery_point: What was committed before is in the bucket; None: nothing is.
        age_s: How long ago that was; None: never.
        late: It is on, and that is too long ago.
        skipped: Accounts that the last pass left out, for want of their keys.
        segments: Objects with what has changed, and `segment_bytes` of them.
        snapshots: Accounts with a snapshot, and `snapshot_bytes` of them.
        least_left: Messages and changes that the mailbox with the fewest can still take before the next segment.
        stopped_at: Since when the journal is off.
    """

    recovery_point: datetime | None
    age_s: float | None
    late: bool
    skipped: int
    segments: int
    segment_bytes: int
    snapshots: int
    snapshot_bytes: int
    least_left: int | None
    stopped_at: datetime | None


async def status(ctx: AdminContext) -> JournalStatus:
    """Show how much of the database the journal in the object store has."""
    marks = Marks(ctx.store.db)
    state, extent, now = await marks.state(), await marks.extent(), await marks.now()
    age_s = (now - state.recovery_point).total_seconds() if state.recovery_point else None
    interval_s = ctx.config.journal.interval
    return JournalStatus(
        recovery_point=state.recovery_point,
        age_s=age_s,
        late=bool(interval_s) and (age_s is None or age_s > LATE * interval_s or state.stopped_at is not None),
        skipped=state.skipped,
        segments=extent.segments,
        segment_bytes=extent.segment_bytes,
        snapshots=extent.snapshots,
        snapshot_bytes=extent.snapshot_bytes,
        least_left=await marks.least_left(),
        stopped_at=state.stopped_at,
    )
