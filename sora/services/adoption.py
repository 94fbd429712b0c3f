"""Uploads of a node that is dead become the affair of another one.

Silence proves nothing by itself: a node may be slow, or cut off. So the leader of the housekeeping first fences the
node (its incarnation is raised: its leases are void, and its next heartbeat is refused), and only then takes over. What
it takes are rows that need nothing from the dead node's disk: those that the object store has already, and those of
which the database has a copy. All others stay where they are. Nobody gives them up; they are counted by node
(`stranded`) until the node is back, or an operator brings its disk (`sora-admin uploads adopt`).

If the node was not dead after all, both upload the same octets under the same key, and whoever is second finds the row
gone or marked. When it notices, it registers anew; what it still has staged is removed by its next sweep once the
object store has it, and queued again until then.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sora import log, metrics
from sora.crashpoints import crash_point

if TYPE_CHECKING:
    from sora.store.db import Database

BATCH: Final = 500

_log = log.get(__name__)


class Adoption:
    """Looks for dead nodes; run it where the lease of the housekeeping is held.

    Args:
        instance_id: Of the node that takes over, whose uploader finds the rows among its own.
        adopt_after_s: Silence after which a node is taken for dead; 0: never.
    """

    def __init__(self, db: Database, instance_id: str, adopt_after_s: float) -> None:
        self._db = db
        self._instance_id = instance_id
        self._silent = timedelta(seconds=adopt_after_s)

    async def step(self) -> int:
        """Adopt what can be adopted; how many uploads that were.

        Raises:
            Unavailable: The database is away, or somebody works on the rows; the next step goes on.
        """
        if not self._silent:
            return 0
        total = 0
        for row in await self._db.fetch("SELECT instance_id FROM adoptable_instances($1)", self._silent):
            if row["instance_id"] != self._instance_id:
                total += await self._adopt(row["instance_id"])
        return total

    async def _adopt(self, dead: str) -> int:
        if not await self._db.fetchval("SELECT fence_instance($1, $2)", dead, self._silent):
            return 0  # it was heard of in between
        crash_point("adopt.fenced")
        total = 0
        while moved := await self._db.fetchval("SELECT adopt_uploads($1, $2, $3)", dead, self._instance_id, BATCH):
            crash_point("adopt.moved")
            metrics.uploads_adopted.inc(moved)
            total += moved
        _log.warning("uploads of a dead node adopted", extra={"dead_instance": dead, "uploads": total})
        return total
