"""What is looked at before the first process starts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from sora.errors import ConfigError
from sora.server.prepare import require_schema
from sora.store import migrate

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_database_without_the_schema_is_named(empty_dsn: str) -> None:
    with pytest.raises(ConfigError, match="sora-admin migrate up"):
        await require_schema(empty_dsn)
    await migrate.up(empty_dsn)
    await require_schema(empty_dsn)


async def test_a_database_that_is_away_is_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await require_schema(f"postgresql:///x?host={tmp_path}")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
