"""A copy of a node's disk must not live beside the node."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from sora import config as configuration
from sora.errors import ConfigError
from sora.services import seat
from sora.services.node import own_instance_id

if TYPE_CHECKING:
    from pathlib import Path

    from sora.config import Config
    from sora.store.store import Store


def config_of(folder: Path, **database: str) -> Config:
    return configuration.parse(
        {
            "database": database or {"primary": "postgresql:///unused"},
            "object_store": {"kind": "directory", "path": "objects"},
            "local_cache": {"path": "cache"},
            "uploader": {"staging_path": "staging"},
            "process": {"runtime_path": "run"},
        },
        base=folder,
    )


def test_a_restart_keeps_the_seat_and_a_copy_has_another(tmp_path: Path) -> None:
    node = config_of(tmp_path / "node")
    assert seat.own_seat(node) == seat.own_seat(node) != ""
    shutil.copytree(tmp_path / "node", tmp_path / "copy")
    copy = config_of(tmp_path / "copy")
    assert own_instance_id(copy) == own_instance_id(node)
    assert seat.own_seat(copy) != seat.own_seat(node)


def test_another_boot_is_another_seat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = config_of(tmp_path)
    before = seat.own_seat(node)
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(seat, "BOOT_ID", tmp_path / "boot_id")
    assert seat.own_seat(node) != before


def test_nobody_else_reaches_an_embedded_database(tmp_path: Path) -> None:
    assert seat.own_seat(config_of(tmp_path, embedded="postgresql")) == ""


async def look(store: Store, config: Config, seat_name: str) -> None:
    await seat.wait_until_free(store.leases, "node-1", seat_name, config, look_s=0.01)


async def test_a_free_seat_is_taken_at_once(store: Store, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    await look(store, config, "here")
    incarnation = await store.leases.register("node-1", seat="here")
    await look(store, config, "here")
    await store.leases.leave("node-1", incarnation)
    await look(store, config, "there")


async def test_a_node_that_is_heard_of_lives(store: Store, tmp_path: Path) -> None:
    incarnation = await store.leases.register("node-1", host="elsewhere", seat="here")
    await store.db.execute("UPDATE instances SET heartbeat_at = clock() - interval '30 s'")
    waiting = asyncio.create_task(look(store, config_of(tmp_path), "there"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.2)
    assert await store.leases.heartbeat("node-1", incarnation)
    with pytest.raises(ConfigError, match=r"lives on elsewhere.*staging.*Move it away.*uploads verify"):
        await waiting


async def test_a_silent_node_is_waited_for(store: Store, tmp_path: Path) -> None:
    await store.leases.register("node-1", seat="here")
    await store.db.execute("UPDATE instances SET heartbeat_at = clock() - interval '59.7 s'")
    await look(store, config_of(tmp_path), "there")
    assert await store.leases.register("node-1", seat="there") == 2
