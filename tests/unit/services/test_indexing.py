"""The search indexer on a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from sora.services import indexing as indexing_module
from sora.services.delivery import AppendItem
from sora.services.indexing import Indexing
from tests.support.node import open_node

if TYPE_CHECKING:
    from pathlib import Path

    from sora.services.node import Node


async def append(node: Node, count: int, address: str = "alice@example.com") -> None:
    account_id = await node.store.accounts.create(address)
    inbox = await node.store.mailboxes.get(account_id, "INBOX")
    items = [AppendItem(b"Subject: number %d\r\n\r\ntext\r\n" % number) for number in range(count)]
    await node.delivery.append(account_id, inbox.mailbox_id, items)


async def counts(node: Node) -> tuple[int, int]:
    return (
        await node.store.db.fetchval("SELECT count(*) FROM search_queue"),
        await node.store.db.fetchval("SELECT count(*) FROM search_index"),
    )


async def test_batches_move_until_the_queue_is_empty(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing_module, "BATCH", 4)
    monkeypatch.setattr(indexing_module, "STEP_ROWS", 8)
    async with open_node(dsn, tmp_path) as node:
        await append(node, 10)
        indexing = Indexing(node.store.db)
        assert await counts(node) == (10, 0)
        assert [await indexing.step() for _ in range(3)] == [8, 2, 0]
        assert await counts(node) == (0, 10)


async def pending_pages(node: Node) -> int:
    """Octets of the pending lists, as the number of tuples that wait in them."""
    await node.store.db.execute("CREATE EXTENSION IF NOT EXISTS pgstattuple SCHEMA public")
    total: int = await node.store.db.fetchval(
        f"SELECT sum((pgstatginindex(x.oid)).pending_tuples)::int FROM ({indexing_module._GIN_INDEXES}) AS x (oid)"
    )
    return total


async def test_the_pending_lists_are_flushed_after_each_step(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_node(dsn, tmp_path) as node:
        await append(node, 10)
        indexing = Indexing(node.store.db)
        with monkeypatch.context() as patched:
            patched.setattr(indexing_module, "_GIN_INDEXES", "SELECT 1 / 0")
            with pytest.raises(asyncpg.DivisionByZeroError):
                await indexing.step()
        assert await counts(node) == (0, 10)
        assert await pending_pages(node) > 0
        assert await indexing.step() == 0
        assert await pending_pages(node) == 0
        await append(node, 10, "bob@example.com")
        assert await indexing.step() == 10
        assert await pending_pages(node) == 0


async def test_a_new_indexer_flushes_what_another_has_left(dsn: str, tmp_path: Path) -> None:
    async with open_node(dsn, tmp_path) as node:
        await append(node, 10)
        await node.store.db.fetchval("SELECT index_batch(10)")
        assert await pending_pages(node) > 0
        assert await Indexing(node.store.db).step() == 0
        assert await pending_pages(node) == 0
