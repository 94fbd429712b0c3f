"""Fixtures of the SQL tests: a transaction that is rolled back, and an account in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.store.sql.tools import Account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sora.store.db import Connection
    from tests.support.postgres import Cluster


@pytest.fixture(scope="session")
def shared_dsn(cluster: Cluster) -> Iterator[str]:
    """A migrated database in which every test leaves nothing but used sequence numbers."""
    name = asyncio.run(cluster.create())
    yield cluster.dsn(name)
    asyncio.run(cluster.drop(name))


@pytest.fixture
async def conn(shared_dsn: str) -> AsyncIterator[Connection]:
    """A plain connection in a transaction: errors stay PostgreSQL's own, with their SQLSTATE."""
    connection = await asyncpg.connect(shared_dsn, server_settings={"search_path": "sora, public"})
    await connection.set_type_codec(
        "bit", schema="pg_catalog", format="binary", encoder=lambda bits: (len(bits) * 8).to_bytes(4, "big") + bits,
        decoder=lambda data: bytes(data[4:]),
    )  # fmt: skip
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


@pytest.fixture
async def account(conn: Connection) -> Account:
    """user@example.com with its six mailboxes."""
    return await Account.create(conn, "user@example.com")
