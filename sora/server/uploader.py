"""The uploader: sends staged bodies to the object store, and feels the pulse of both dependencies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

import asyncpg
import msgspec

from sora import log, metrics
from sora.errors import BlobDown, DatabaseReadOnly, NotFound, Unavailable
from sora.server import child as children
from sora.services.key_objects import open_key_objects
from sora.services.node import open_database, own_instance_id
from sora.services.uploads import Uploads
from sora.store.account_keys import open_sealers
from sora.store.blobs import BlobRef
from sora.store.bodies import open_blob_store, open_cache, open_staging
from sora.store.copies import BodyCopies
from sora.store.keyring import open_keyring
from sora.store.uploads import PendingUploads, list_stranded
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from sora.server.child import Child, Process
    from sora.server.scoreboard import Row
    from sora.store.blobs import BlobStore
    from sora.store.db import Database
    from sora.store.uploads import Stranded

_logger = log.get(__name__)

PROBE_S: Final = 5.0
STRANDED_S: Final = 15.0
STRANDED_SHARE: Final = 20
"""Counting what a dead node left takes at most one part in so many of the time."""
SHOWN_NODES: Final = 50
"""A message to the supervisor is one packet."""
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
        process.on_live = lambda config: database.set_read_only(wanted=config.database.read_only)
        staging = open_staging(config)
        stack.callback(staging.close)
        cache = open_cache(config)
        if cache is not None:
            stack.callback(cache.close)
        blobs = open_blob_store(config.object_store)
        stack.callback(blobs.close)
        bell = stack.enter_context(child.doorbell.listening())
        keyring = open_keyring(config)
        pending = PendingUploads(database, own_instance_id(config))
        uploads = Uploads(
            pending,
            staging,
            blobs,
            cache,
            bell,
            sealers=open_sealers(keyring, database),
            keys=open_key_objects(keyring, database, blobs),
            parallel=config.uploader.parallel,
            copies=BodyCopies(database),
            fenced=lambda: bool(child.node_row.get("fenced")),
            quarantine_s=config.uploader.quarantine_retention,
        )
        process.on_beat = lambda: _show(child.row, uploads)
        pulse = asyncio.create_task(_feel(process, database, blobs))
        watch = asyncio.create_task(_watch_stranded(process, database))
        process.ready()
        await uploads.run(process.stopping)
        await asyncio.gather(pulse, watch)


def _show(row: Row, uploads: Uploads) -> None:
    """Write the backlog to the scoreboard."""
    backlog = uploads.status()
    row.set("uploads_pending", backlog.pending)
    row.set("uploads_oldest_ms", max(0, int(backlog.oldest_s * 1000)))


async def _watch_stranded(process: Process, database: Database) -> None:
    """Say every now and then which nodes are silent and have the only copy of a body; the supervisor shows it."""
    shown: set[str] = set()
    while not process.stopping.is_set():
        began = time.monotonic()
        try:
            found = await list_stranded(database)
        except Unavailable as error:
            _logger.warning("stranded uploads not counted", extra={"detail": str(error)})
        else:
            process.child.say(stranded=[msgspec.to_builtins(node) for node in found[:SHOWN_NODES]])
            shown = _count_stranded(found, shown)
        with contextlib.suppress(TimeoutError):
            pause_s = max(STRANDED_S, STRANDED_SHARE * (time.monotonic() - began))
            await asyncio.wait_for(process.stopping.wait(), pause_s)


def _count_stranded(found: list[Stranded], shown: set[str]) -> set[str]:
    """Set the metric, and to zero for nodes that are well again; the names that it has now."""
    for name in shown - {node.instance_id for node in found}:
        metrics.uploads_stranded.labels(name).set(0)
    for node in found:
        metrics.uploads_stranded.labels(node.instance_id).set(node.uploads)
        if node.instance_id not in shown:
            _logger.error(
                "the only copies of bodies are on a node that is silent",
                extra={"silent_instance": node.instance_id, "silent_host": node.host, "uploads": node.uploads},
            )
    return {node.instance_id for node in found}


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
    except DatabaseReadOnly:
        return True
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
