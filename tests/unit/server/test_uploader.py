"""The pulse of both dependencies, as the status shows it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import asyncpg

from sora.server import uploader
from sora.store.blobs import DirectoryStore
from sora.store.db import Database

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_an_empty_store_is_well_and_one_that_is_gone_is_down(tmp_path: Path) -> None:
    blobs = DirectoryStore(tmp_path / "objects")
    await blobs.prepare()
    assert await uploader._store_answers(blobs)
    shutil.rmtree(tmp_path / "objects")
    assert not await uploader._store_answers(blobs)
    blobs.close()


async def test_the_database_answers_or_is_down(db: Database, tmp_path: Path) -> None:
    assert await uploader._database_answers(db)
    away = await Database.open(f"postgresql:///x?host={tmp_path}", min_size=0)
    assert not await uploader._database_answers(away)
    await away.close()


async def test_a_strange_answer_does_not_stop_the_pulse(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status would show the last health for ever."""

    async def strange() -> None:
        raise asyncpg.DataCorruptedError("invalid page")

    monkeypatch.setattr(db, "ping", strange)
    assert not await uploader._database_answers(db)
