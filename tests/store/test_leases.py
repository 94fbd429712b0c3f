"""Leases: one holder, a token that grows, and an end with the holder."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sora.errors import InUse
from sora.store.leases import Lease, maildrop
from sora.types import AccountId

if TYPE_CHECKING:
    from sora.store.store import Store

DROP = maildrop(AccountId(7))


@pytest.fixture
async def nodes(store: Store) -> None:
    for name in ("node-1", "node-2"):
        await store.leases.register(name, host="h", version="1")


async def later(store: Store, interval: str) -> None:
    """Turn the clock of the database forward, for connections made from now on too."""
    name = await store.db.fetchval("SELECT current_database()")
    await store.db.execute(f"ALTER DATABASE {name} SET sora.clock_offset = '{interval}'")
    await store.db.execute(f"SET sora.clock_offset = '{interval}'")


def test_maildrop_name() -> None:
    assert DROP == "pop3/7"


@pytest.mark.usefixtures("nodes")
async def test_one_holder(store: Store) -> None:
    lease = await store.leases.acquire(DROP, "node-1")
    for node in ("node-1", "node-2"):
        with pytest.raises(InUse):
            await store.leases.acquire(DROP, node)
    other = await store.leases.acquire(maildrop(AccountId(8)), "node-2")
    assert other.token > lease.token
    await store.leases.release(lease)
    again = await store.leases.acquire(DROP, "node-2")
    assert again.token > other.token


@pytest.mark.usefixtures("nodes")
async def test_one_of_many_gets_it(store: Store) -> None:
    results = await asyncio.gather(
        *(store.leases.acquire(DROP, f"node-{i % 2 + 1}") for i in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, Lease) for result in results) == 1
    assert sum(isinstance(result, InUse) for result in results) == 7


async def test_an_unknown_node_gets_nothing(store: Store) -> None:
    with pytest.raises(InUse):
        await store.leases.acquire(DROP, "stranger")


@pytest.mark.usefixtures("nodes")
async def test_a_lease_that_is_not_renewed_ends(store: Store) -> None:
    lease = await store.leases.acquire(DROP, "node-1", ttl_s=30)
    assert await store.leases.renew(lease, ttl_s=50)
    await later(store, "40 s")
    assert await store.leases.renew(lease, ttl_s=5)
    await later(store, "46 s")
    assert not await store.leases.renew(lease, ttl_s=5)
    new = await store.leases.acquire(DROP, "node-2")
    await store.leases.release(lease)
    with pytest.raises(InUse):
        await store.leases.acquire(DROP, "node-1")
    assert await store.leases.renew(new)


@pytest.mark.usefixtures("nodes")
async def test_a_node_that_starts_anew_holds_nothing_of_its_earlier_life(store: Store) -> None:
    await store.leases.acquire(DROP, "node-1")
    incarnation = await store.leases.register("node-1")
    assert incarnation == 2
    await store.leases.acquire(DROP, "node-2")


@pytest.mark.usefixtures("nodes")
async def test_a_silent_node_loses_its_leases(store: Store) -> None:
    lease = await store.leases.acquire(DROP, "node-1", ttl_s=3600)
    await later(store, "50 s")
    assert await store.leases.heartbeat("node-2", 1)
    with pytest.raises(InUse):
        await store.leases.acquire(DROP, "node-2")
    await later(store, "61 s")
    assert await store.leases.heartbeat("node-2", 1)
    new = await store.leases.acquire(DROP, "node-2")
    assert new.token > lease.token


async def test_heartbeat_of_an_earlier_life_is_refused(store: Store) -> None:
    first = await store.leases.register("node-1")
    second = await store.leases.register("node-1")
    assert not await store.leases.heartbeat("node-1", first)
    assert await store.leases.heartbeat("node-1", second)


@pytest.mark.usefixtures("nodes")
async def test_require_keeps_a_successor_out_until_the_commit(store: Store) -> None:
    lease = await store.leases.acquire(DROP, "node-1", ttl_s=30)
    async with store.db.transaction() as conn:
        await store.leases.require(conn, lease)
        await conn.execute("UPDATE instances SET heartbeat_at = heartbeat_at - interval '1 h'")
        successor = asyncio.create_task(store.leases.release(lease))
        while not await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not successor.done()
    await successor
    async with store.db.transaction() as conn:
        with pytest.raises(InUse):
            await store.leases.require(conn, lease)
