"""A node put together on a test database, and without one."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sora import config as configuration
from sora.errors import ConfigError, LimitExceeded, Unavailable
from sora.services.node import Node, own_instance_id
from tests.support.node import SilentDoorbell, open_node

if TYPE_CHECKING:
    from collections.abc import Mapping


def config(folder: Path, **tables: Mapping[str, object]) -> configuration.Config:
    base: dict[str, Mapping[str, object]] = {
        "database": {"primary": "postgresql:///sora"},
        "object_store": {"path": str(folder / "objects")},
        "local_cache": {"path": str(folder / "cache")},
        "uploader": {"staging_path": str(folder / "staging")},
        "process": {"runtime_path": str(folder)},
        "limits": {"exempt_networks": [], "connections_per_address": 1},
    }
    return configuration.parse({**base, **tables})


async def test_the_services_are_there_and_reach_the_database(dsn: str, tmp_path: Path) -> None:
    async with open_node(dsn, tmp_path) as node:
        await node.store.db.ping()
        account_id = await node.store.accounts.create("alice@example.com")
        assert (await node.store.accounts.get("alice@example.com")).account_id == account_id
        assert len(node.connections) == 0
        assert node.instance_id == own_instance_id(node.config)


async def test_what_a_protocol_shares_is_made_once_for_each_node(dsn: str, tmp_path: Path) -> None:
    class Server:
        def __init__(self, node: Node) -> None:
            self.node = node

    async with open_node(dsn, tmp_path) as one, open_node(dsn, tmp_path) as two:
        assert one.shared(Server) is one.shared(Server)
        assert one.shared(Server).node is one
        assert two.shared(Server).node is two


async def test_without_a_database_it_opens_and_says_try_again(tmp_path: Path) -> None:
    node = await Node.open(config(tmp_path), dsn=f"postgresql:///x?host={tmp_path}", doorbell=SilentDoorbell())
    with pytest.raises(Unavailable):
        await node.store.db.ping()
    await node.close()


async def test_live_values_hold_at_once_and_counts_outlive_them(tmp_path: Path) -> None:
    node = await Node.open(config(tmp_path), dsn=f"postgresql:///x?host={tmp_path}", doorbell=SilentDoorbell())
    with node.limits.connect("192.0.2.1"):
        with pytest.raises(LimitExceeded):
            node.limits.connect("192.0.2.1")
        limits = {"exempt_networks": [], "connections_per_address": 2, "recipients": 9}
        node.take_live(config(tmp_path, limits=limits))
        assert node.config.limits.recipients == 9
        with node.limits.connect("192.0.2.1"), pytest.raises(LimitExceeded):
            node.limits.connect("192.0.2.1")
    await node.close()


async def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "staging").write_text("a file")
    with pytest.raises(ConfigError, match="staging"):
        await Node.open(config(tmp_path), dsn="postgresql:///x", doorbell=SilentDoorbell())


def test_the_name_of_the_node_is_made_once_and_kept(tmp_path: Path) -> None:
    name = own_instance_id(config(tmp_path))
    assert len(name) == 36
    assert own_instance_id(config(tmp_path)) == name
    assert sorted(path.name for path in (tmp_path / "staging").iterdir()) == ["instance"]


def test_processes_that_start_together_agree_on_the_name(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(6) as pool:
        names = pool.map(own_instance_id, [config(tmp_path)] * 24, chunksize=1)
    assert len(set(names)) == 1


def test_a_name_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    Path(tmp_path / "staging").write_text("a file")
    with pytest.raises(ConfigError, match=r"uploader\.staging_path"):
        own_instance_id(config(tmp_path))
