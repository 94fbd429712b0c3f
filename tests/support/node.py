"""A whole node on a test database: real store, staging and directory store in a temporary folder."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sora import config
from sora.services.node import Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path


class SilentDoorbell:
    """Nobody uploads here; bodies stay in staging."""

    def ring(self, content_ids: Iterable[int]) -> None:
        """See `services.delivery.Doorbell`."""


@asynccontextmanager
async def open_node(dsn: str, folder: Path, **tables: dict[str, object]) -> AsyncIterator[Node]:
    """A node that takes passwords in cleartext.

    Args:
        folder: For staging, cache and object store.
        tables: Tables of the configuration, such as `limits={"bad_commands": 3}`.
    """
    settings: dict[str, object] = {
        "database": {"primary": dsn},
        "object_store": {"kind": "directory", "path": str(folder / "objects")},
        "local_cache": {"path": str(folder / "cache")},
        "uploader": {"staging_path": str(folder / "staging")},
        "process": {"runtime_path": str(folder)},
        "auth": {"allow_cleartext": True},
        "servers": {"imap": {"listen": ["127.0.0.1:0"]}},
    }
    for name in ("objects", "cache", "staging"):
        (folder / name).mkdir(exist_ok=True)
    for name, table in tables.items():
        settings[name] = {**settings.get(name, {}), **table}  # type: ignore[dict-item]
    node = await Node.open(config.parse(settings, base=folder), dsn=dsn, doorbell=SilentDoorbell())
    try:
        yield node
    finally:
        await node.close()
