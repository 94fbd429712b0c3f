"""An account, a node's directories and a maildir, for tests of imports and exports."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sora import config
from sora.admin.context import AdminContext
from sora.services.logins.passwords import HashCost
from sora.store.bodies import open_blob_store
from sora.store.exports import Exports
from sora.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.store.db import Database
    from sora.store.exports import ExportRow
    from sora.types import AccountId

ADDRESS = "ann@example.com"


class House:
    """What `sora-admin` works with, on a test database."""

    def __init__(self, context: AdminContext, ann: AccountId, folder: Path) -> None:
        self.context = context
        self.store = context.store
        self.ann = ann
        self.mail = folder / "mail"
        self.folder = folder

    @property
    def config_path(self) -> Path:
        """A configuration file for processes."""
        return self.folder / "sora.toml"

    def make_folder(self, name: str = "") -> Path:
        """A folder of the maildir."""
        path = self.mail / name
        for part in ("cur", "new", "tmp"):
            (path / part).mkdir(parents=True, exist_ok=True)
        return path

    def fill(self, name: str, uids: list[int], uidvalidity: int = 77, uid_next: int = 0, size: int = 0) -> None:
        """Messages with UIDs in a folder."""
        path = self.make_folder(name)
        lines = [f"3 V{uidvalidity} N{uid_next or max(uids, default=0) + 1} G00\n"]
        for uid in uids:
            base = f"{1_000_000_000 + uid}.M{uid}.vm"
            if not any(path.glob(f"*/{base}*")):
                body = "x" * size if size else f"body {uid}"
                file = path / "cur" / f"{base}:2,{'S' if uid % 2 else ''}"
                file.write_text(f"Subject: {name} {uid}\nMessage-ID: <{uid}.{name}@x>\n\n{body}\n")
                os.utime(file, (1_000_000_000 + uid, 1_000_000_000 + uid))
            lines.append(f"{uid} :{base}\n")
        (path / "dovecot-uidlist").write_text("".join(lines))

    async def rows(self, mailbox: str) -> list[ExportRow]:
        """Messages of a mailbox."""
        found = await self.store.mailboxes.get(self.ann, mailbox)
        return await Exports(self.store.db).rows(self.ann, found.mailbox_id, 0)

    async def uids(self, mailbox: str) -> list[int]:
        """UIDs of a mailbox."""
        return [row.uid for row in await self.rows(mailbox)]

    async def uidvalidity(self, mailbox: str) -> int:
        """UIDVALIDITY of a mailbox."""
        return (await self.store.mailboxes.get(self.ann, mailbox)).uidvalidity


@asynccontextmanager
async def open_house(dsn: str, database: Database, folder: Path, **tables: dict[str, object]) -> AsyncIterator[House]:
    """A house; `tables` are tables of the configuration."""
    settings: dict[str, object] = {
        "database": {"primary": dsn},
        "object_store": {"kind": "directory", "path": str(folder / "objects")},
        "local_cache": {"path": str(folder / "cache")},
        "uploader": {"staging_path": str(folder / "staging")},
        "process": {"runtime_path": str(folder)},
        "servers": {"imap": {"listen": ["127.0.0.1:0"]}},
        **tables,
    }
    for name in ("objects", "cache", "staging"):
        (folder / name).mkdir(exist_ok=True)
    parsed = config.parse(settings, base=folder)
    store = Store(database)
    ann = await store.accounts.create(ADDRESS)
    blobs = open_blob_store(parsed.object_store)
    await blobs.prepare()
    context = AdminContext(config=parsed, dsn=dsn, store=store, blobs=blobs, cost=HashCost())
    house = House(context, ann, folder)
    house.config_path.write_text(_toml(settings))
    yield house
    blobs.close()


def _toml(settings: dict[str, object]) -> str:
    lines = []
    for table, values in settings.items():
        assert isinstance(values, dict)
        plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
        if plain:
            lines.append(f"[{table}]")
            lines += [f"{key} = {_value(value)}" for key, value in plain.items()]
        for key, below in values.items():
            if isinstance(below, dict):
                lines.append(f"[{table}.{key}]")
                lines += [f"{name} = {_value(value)}" for name, value in below.items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
