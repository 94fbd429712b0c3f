"""Admin operations on what is stored on this node: the local cache."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.errors import KeyUnavailable, Refused
from sora.store import sealing
from sora.store.account_keys import open_sealers
from sora.store.blobs import BlobRef, content_hash
from sora.store.bodies import open_cache
from sora.store.cache import CacheVerified  # noqa: TC001
from sora.store.keyring import open_keyring
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.config import Config
    from sora.store.cache import Cache


class CacheInfo(Struct, frozen=True):
    """What the local cache holds, and how the processes of this node fared with it since the start.

    Attributes:
        hit_ratio: Of the bodies that were asked for; None: none was, or the node does not run.
    """

    path: str
    used_bytes: int
    capacity_bytes: int
    files: int
    quarantined: int
    hits: int
    misses: int
    hit_ratio: float | None


class Purged(Struct, frozen=True):
    """How many files were removed."""

    files: int


async def cache_stats(ctx: AdminContext) -> CacheInfo:
    """Show what the local cache of this node holds, and how often it helped."""
    with _cache(ctx.config) as cache:
        stats = await cache.stats()
    asked = _requests(Path(ctx.config.process.runtime_path) / "metrics")
    hits, misses = asked.get("hit", 0), asked.get("miss", 0)
    return CacheInfo(
        path=ctx.config.local_cache.path,
        used_bytes=stats.used_bytes,
        capacity_bytes=stats.capacity_bytes,
        files=stats.files,
        quarantined=stats.quarantined,
        hits=hits,
        misses=misses,
        hit_ratio=hits / (hits + misses) if hits + misses else None,
    )


async def cache_purge(ctx: AdminContext) -> Purged:
    """Remove every body from the local cache of this node; they are fetched again when they are read."""
    with _cache(ctx.config) as cache:
        return Purged(await cache.purge())


async def cache_verify(ctx: AdminContext) -> CacheVerified:
    """Compare every file of the local cache with its hash; those that differ are moved aside."""
    sealers = open_sealers(open_keyring(ctx.config), ctx.store.db)
    loop = asyncio.get_running_loop()

    def is_right(account_id: AccountId, digest: bytes, data: bytes) -> bool:
        """Runs in a thread; a sealed file whose key cannot be had is believed."""
        if content_hash(data) == digest:
            return True
        header = sealing.parse_header(data)
        if header is None:
            return False
        ref = BlobRef(account_id, ContentId(0), digest, header.size)
        try:
            return asyncio.run_coroutine_threadsafe(sealers.reader(ref, data), loop).result().verify(ref, data)
        except KeyUnavailable:
            return True

    with _cache(ctx.config) as cache:
        return await cache.verify(is_right)


@contextlib.contextmanager
def _cache(config: Config) -> Iterator[Cache]:
    try:
        cache = open_cache(config)
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}") from error
    if cache is None:
        raise Refused("This node has no local cache (local_cache.capacity = 0)")
    try:
        yield cache
    finally:
        cache.close()


def _requests(directory: Path) -> dict[str, int]:
    """Of all processes of the node, from the files in which they count."""
    if not directory.is_dir():
        return {}
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return {
        sample.labels["result"]: int(sample.value)
        for family in registry.collect()
        if family.name == "sora_cache_requests"
        for sample in family.samples
    }
