"""One PostgreSQL cluster per test process, one fresh database per test, cloned from a migrated template."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from sora.server.embedded_pg import EmbeddedPostgres

if TYPE_CHECKING:
    from pathlib import Path


class Cluster:
    """A running cluster whose database `sora` is migrated and serves as the template."""

    def __init__(self, directory: Path) -> None:
        # A test cluster is thrown away: what it loses at a power cut is of no interest.
        self.postgres = EmbeddedPostgres(
            directory, {"fsync": "off", "shared_buffers": "64MB", "max_connections": "100"}
        )
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Start, and migrate the template."""
        self.postgres.prepare()
        self.postgres.start()
        from sora.store import migrate

        asyncio.run(migrate.up(self.postgres.dsn))

    def stop(self) -> None:
        """Stop the cluster."""
        self.postgres.stop()

    def dsn(self, database: str) -> str:
        """The DSN of one database."""
        return urlunsplit(urlsplit(self.postgres.dsn)._replace(path=f"/{database}"))

    async def create(self, *, empty: bool = False) -> str:
        """A new database, migrated unless `empty`; returns its name."""
        name = f"test_{next(self._numbers)}"
        template = "template0" if empty else "sora"
        await self._administer(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    async def drop(self, name: str) -> None:
        """Drop a database, whoever is still connected."""
        await self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    async def _administer(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
