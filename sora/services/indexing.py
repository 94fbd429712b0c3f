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
FLUSH_EVERY: Final = 4000
"""Contents between two flushes of the pending lists; a flush takes 60 to 240 ms."""
_GIN_INDEXES: Final = """
SELECT c.oid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
WHERE i.indrelid = 'sora.search_index'::regclass AND a.amname = 'gin'
"""


class Indexing:
    """One indexer. Several at a time do no harm: each takes rows that the others have not."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unflushed = 0

    async def step(self) -> int:
        """Index a batch, flush if it is time, and tell how many contents moved.

        Raises:
            Unavailable: The database is away; nothing is lost, the rows are still in the queue.
        """
        moved: int = await self._database.fetchval("SELECT sora.index_batch($1)", BATCH)
        metrics.janitor_rows.labels("index").inc(moved)
        self._unflushed += moved
        if self._unflushed >= FLUSH_EVERY or (self._unflushed and not moved):
            await self._flush()
        return moved

    async def _flush(self) -> None:
        self._unflushed = 0
        await self._database.fetch(f"SELECT gin_clean_pending_list(x.oid) FROM ({_GIN_INDEXES}) AS x (oid)")
