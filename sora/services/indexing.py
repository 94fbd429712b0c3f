"""The search indexer: moves text from the queue, which SEARCH reads by brute force, to the index.

The index's pending list is flushed here too: whoever searches reads it line by line, and only the indexer, whom nobody
waits for, should pay for sorting it in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora import log, metrics

if TYPE_CHECKING:
    from sora.store.db import Database

_logger = log.get(__name__)

BATCH: Final = 500
"""Contents of one transaction: it may hold up who purges one of them."""
STEP_ROWS: Final = 2000
"""Contents between two flushes of the pending lists. What many messages have in common is sorted in once for all of
them: a content took 0.65 ms of the processor in a flush of 4,500, and 1.0 ms in one of 500."""
_GIN_INDEXES: Final = """
SELECT c.oid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
WHERE i.indrelid = 'sora.search_index'::regclass AND a.amname = 'gin'
"""


class Indexing:
    """One indexer. Several at a time do no harm: each takes rows that the others have not."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._flushed = False  # whoever did this before may have been killed

    async def step(self) -> int:
        """Index what waits, some at a time, flush, and tell how many contents moved.

        Raises:
            Unavailable: The database is away; nothing is lost, the rows are still in the queue.
        """
        moved = 0
        while moved < STEP_ROWS:
            count: int = await self._database.fetchval("SELECT sora.index_batch($1)", BATCH)
            metrics.janitor_rows.labels("index").inc(count)
            moved += count
            self._flushed = self._flushed and not count
            if count < BATCH:
                break
        if not self._flushed:
            await self._flush()
        return moved

    async def _flush(self) -> None:
        await self._database.fetch(f"SELECT gin_clean_pending_list(x.oid) FROM ({_GIN_INDEXES}) AS x (oid)")
        self._flushed = True
