"""The uploader: sends staged bodies to the object store, and feels the pulse of both dependencies."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import asyncpg

from sora import log
from sora.errors import BlobDown, NotFound, Unavailable
from sora.server import child as children
from sora.services.node import open_database, own_instance_id
from sora.services.uploads import Uploads
from sora.store.blobs import BlobRef
from sora.store.bodies import open_blob_store, open_cache, open_staging
from sora.store.uploads import PendingUploads
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from sora.server.child import Child, Process
    from sora.server.scoreboard import Row
    from sora.store.blobs import BlobStore
    from sora.store.db import Database

_logger = log.get(__name__)

PROBE_S: Final = 5.0
PROBE_TIMEOUT_S: Final = 4.0
_NO_OBJECT: Final = BlobRef(AccountId(0), ContentId(0), bytes(32), 0).key
"""A key that no message has: a store that says "not found" is well."""


def run(child: Child) -> int:
    """Be the uploader."""
    return children.run(child, _main, nice=children.BACKGROUND_NICE)


async def _main(process: Process) -> None:
    child = process.child
    config = child.config
    async with contextlib.AsyncExitStack() as stack:
        database = await open_database(config, child.dsn, "sora uploader")
        stack.push_async_callback(database.close)
        staging = open_staging(config)
        stack.callback(staging.close)
        cache = open_cache(config)
        if cache is not None:
            stack.callback(cache.close)
        blobs = open_blob_store(config.object_store)
        stack.callback(blobs.close)
        bell = stack.enter_context(child.doorbell.listening())
        pending = PendingUploads(database, own_instance_id(config))
        uploads = Uploads(pending, staging, blobs, cache, bell, parallel=config.uploader.parallel)
        process.on_beat = lambda: _show(child.row, uploads)
        pulse = asyncio.create_task(_feel(process, database, blobs))
        process.ready()
        await uploads.run(process.stopping)
        await pulse


def _show(row: Row, uploads: Uploads) -> None:
    """Write the backlog to the scoreboard."""
    backlog = uploads.status()
    row.set("uploads_pending", backlog.pending)
    row.set("uploads_oldest_ms", max(0, int(backlog.oldest_s * 1000)))


async def _feel(process: Process, database: Database, blobs: BlobStore) -> None:
    """Probe both dependencies every few seconds."""
    row = process.child.row
    while not process.stopping.is_set():
        row.set_health("postgresql", await _database_answers(database))
        row.set_health("object_store", await _store_answers(blobs))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.stopping.wait(), PROBE_S)


async def _database_answers(database: Database) -> bool:
    try:
        await asyncio.wait_for(database.ping(), PROBE_TIMEOUT_S)
    except (Unavailable, TimeoutError):
        return False
    except asyncpg.PostgresError:
        _logger.exception("PostgreSQL answers strangely")
        return False
    return True


async def _store_answers(blobs: BlobStore) -> bool:
    try:
        await asyncio.wait_for(blobs.stat(_NO_OBJECT), PROBE_TIMEOUT_S)
    except NotFound:
        return True
    except (BlobDown, TimeoutError):
        return False
    return True
