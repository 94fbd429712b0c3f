"""The pulse of both dependencies, as the status shows it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from sora.server import uploader
from sora.store.blobs import DirectoryStore
from sora.store.db import Database

if TYPE_CHECKING:
    from pathlib import Path


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
