"""`sora-admin cache …` and `cleanup …` on a node that has something to show."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest

from sora.admin import storage, upkeep
from sora.admin.context import AdminContext
from sora.admin.upkeep import ListOrphans
from sora.errors import Refused
from sora.store.blobs import BlobEntry, BlobRef, content_hash
from sora.store.upkeep import Upkeep
from sora.types import AccountId, ContentId
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def context(dsn: str, tmp_path: Path) -> AsyncIterator[AdminContext]:
    async with open_node(dsn, tmp_path) as node:
        yield AdminContext(config=node.config, dsn=dsn, store=node.store, blobs=node.blobs, cost=None)  # type: ignore[arg-type]


async def test_the_cache_is_shown_verified_and_purged(context: AdminContext, tmp_path: Path) -> None:
    with storage._cache(context.config) as cache:
        for data in (b"one", b"two"):
            assert await cache.put(BlobRef(AccountId(1), ContentId(1), content_hash(data), 3), data)
    stats = await storage.cache_stats(context)
    assert (stats.files, stats.quarantined, stats.hit_ratio) == (2, 0, None)
    assert stats.path == context.config.local_cache.path
    first = next((tmp_path / "cache" / "objects").rglob("*.eml"))
    os.truncate(first, 1)
    assert (await storage.cache_verify(context)).bad == 1
    assert (await storage.cache_stats(context)).quarantined == 1
    assert await storage.cache_purge(context) == storage.Purged(1)
    assert (await storage.cache_stats(context)).files == 0


async def test_a_node_without_a_cache_says_so(context: AdminContext) -> None:
    table = msgspec.structs.replace(context.config.local_cache, capacity=0)
    context.config = msgspec.structs.replace(context.config, local_cache=table)
    with pytest.raises(Refused):
        await storage.cache_stats(context)


async def test_the_cleanup_shows_what_waits_and_what_was_done(context: AdminContext) -> None:
    async def phase(name: str) -> upkeep.PhaseInfo:
        (found,) = [row for row in (await upkeep.status(context)).phases if row.phase == name]
        return found

    assert ((await phase("mailboxes")).backlog, (await phase("mailboxes")).passed_at) == (0, None)
    account_id = await context.store.accounts.create("ann@example.com")
    await context.store.mailboxes.delete(account_id, "Trash")
    await context.store.db.execute("UPDATE mailboxes SET deleted_at = clock() - interval '20 d' WHERE name = 'Trash'")
    assert (await phase("mailboxes")).backlog == 1
    await Upkeep(context.store.db).end_pass("mailboxes", 7)
    done = await phase("mailboxes")
    assert (done.last_rows, done.total_rows) == (7, 7)
    assert done.passed_at is not None
    assert (await upkeep.status(context)).leader is None
    await context.store.leases.register("node-1")
    await context.store.leases.acquire("janitor", "node-1")
    assert (await upkeep.status(context)).leader == "node-1"


async def test_objects_without_a_row_are_listed_in_pages(context: AdminContext) -> None:
    entries = [BlobEntry(key=f"k{number}", size=number, modified_at=datetime.now(UTC)) for number in range(3)]
    await Upkeep(context.store.db).note_orphans(entries, timedelta(days=1))
    assert [row.key for row in await upkeep.orphans(context, ListOrphans(limit=2))] == ["k0", "k1"]
    assert [(row.key, row.size) for row in await upkeep.orphans(context, ListOrphans(after="k1"))] == [("k2", 2)]
