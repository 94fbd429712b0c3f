"""A process that does nothing but send the mail of the queue, as the janitor does: to be killed, and to have two of.

`python -m tests.support.sender DSN DIRECTORY PORT CLAIM [CONNECTIONS]` sends to a sink on loopback until SIGTERM. Crash
points are those of the product (`SORA_CRASH_AT`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora import config
from sora.services.changes import Changes
from sora.services.node import assemble_bodies
from sora.services.outbound import Sending
from sora.services.smarthost import Smarthost
from sora.store.account_keys import NoKeys
from sora.store.blobs import DirectoryStore
from sora.store.bodies import open_staging
from sora.store.db import Database
from sora.store.outbound import CHANNEL, Outbound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.config import Config
    from sora.store.account_keys import Sealers

QUICK: dict[str, Any] = {"tls": "none", "timeout": "5s", "retry": "1s", "retry_longest": "2s", "hello": "sora.example"}


def settings(dsn: str, directory: Path, port: int, **outbound: Any) -> Config:
    """A configuration with the sink as the smarthost."""
    for name in ("objects", "staging"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    return config.parse(
        {
            "database": {"primary": dsn},
            "object_store": {"kind": "directory", "path": str(directory / "objects")},
            "local_cache": {"capacity": 0},
            "uploader": {"staging_path": str(directory / "staging")},
            "process": {"runtime_path": str(directory)},
            "outbound": {"host": "127.0.0.1", "port": port, **QUICK, **outbound},
        },
        base=directory,
    )


@contextlib.asynccontextmanager
async def open_sending(
    dsn: str, directory: Path, port: int, claim: str = "node/1/1", *, sealers: Sealers | None = None, **outbound: Any
) -> AsyncIterator[Sending]:
    """The sender with what it needs.

    Args:
        sealers: None: without encryption.
    """
    conf = settings(dsn, directory, port, **outbound)
    async with contextlib.AsyncExitStack() as stack:
        database = await Database.open(dsn, min_size=0, max_size=8)
        stack.push_async_callback(database.close)
        staging = open_staging(conf)
        stack.callback(staging.close)
        blobs = DirectoryStore(conf.object_store.path)
        stack.callback(blobs.close)
        sealers = sealers or NoKeys()
        bodies = assemble_bodies(conf, stack, None, staging, blobs, sealers, database, "node")
        stack.push_async_callback(bodies.close)
        table = conf.outbound
        smarthost = Smarthost(table, table.hello) if table.host else None
        yield Sending(
            Outbound(database),
            bodies,
            sealers,
            smarthost,
            table,
            name=lambda: claim,
            hello=table.hello or "sora.example",
        )


async def _main(dsn: str, directory: str, port: str, claim: str, connections: str = "4") -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with open_sending(dsn, Path(directory), int(port), claim, connections=int(connections)) as sending:
        changes = Changes(dsn)
        changes.hear(CHANNEL, sending.wake, sending.wake)
        changes.start(mailboxes=False)
        await sending.run(stopping)
        await changes.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
