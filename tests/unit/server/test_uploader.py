"""The pulse of both dependencies, as the status shows it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import asyncpg

from sora import metrics
from sora.server import uploader
from sora.store.blobs import DirectoryStore
from sora.store.db import Database
from sora.store.uploads import Stranded

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


def test_stranded_bodies_are_shown_until_their_node_is_back(caplog: pytest.LogCaptureFixture) -> None:
    def value(name: str) -> float:
        return metrics.uploads_stranded.labels(name)._value.get()

    node = Stranded(instance_id="n-1", host="mail7", silent_s=61.0, uploads=3, bytes=9, oldest_s=70.0)
    shown = uploader._count_stranded([node], set())
    assert (shown, value("n-1")) == ({"n-1"}, 3)
    assert "only copies" in caplog.text
    caplog.clear()
    uploader._count_stranded([node], shown)
    assert not caplog.text, "once is enough"
    assert uploader._count_stranded([], shown) == set()
    assert value("n-1") == 0
