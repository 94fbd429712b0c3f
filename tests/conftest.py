"""Fixtures that many tests share: a real PostgreSQL, a real S3 server, the store on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.support.postgres import Cluster
from tests.support.swift import s3_server  # noqa: F401

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from sora.services.node import Node
    from sora.store.db import Database
    from sora.store.store import Store


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the event loop that the product runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A PostgreSQL of this test process."""
    cluster = Cluster(tmp_path_factory.mktemp("postgres"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
async def dsn(cluster: Cluster) -> AsyncIterator[str]:
    """A fresh, migrated database."""
    name = await cluster.create()
    yield cluster.dsn(name)
    await cluster.drop(name)


@pytest.fixture
async def empty_dsn(cluster: Cluster) -> AsyncIterator[str]:
    """A fresh database without a schema."""
    name = await cluster.create(empty=True)
    yield cluster.dsn(name)
    await cluster.drop(name)


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    """An open `Database` on a fresh, migrated database."""
    from sora.store.db import Database

    database = await Database.open(dsn, min_size=1, max_size=8)
    yield database
    await database.close()


@pytest.fixture
async def store(db: Database) -> Store:
    """The repositories on a fresh, migrated database."""
    from sora.store.store import Store

    return Store(db)


@pytest.fixture
async def node(dsn: str, tmp_path: Path) -> AsyncIterator[Node]:
    """What the protocol servers of one worker share, on a fresh database, with the settings of the tests."""
    from tests.support.node import open_node

    async with open_node(dsn, tmp_path) as node:
        yield node
