"""Admin operations on what is stored on this node: the local cache."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from sora.admin import verify
from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.errors import Refused
from sora.store.bodies import open_cache

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


class CacheVerified(Struct, frozen=True):
    """What a look at every file found.

    Attributes:
        bad: Not what their names say; they are moved aside, unless their message has no good copy elsewhere.
    """

    files: int
    bytes: int
    bad: int


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
    files = octets = bad = 0
    with _cache(ctx.config):  # there is one
        pass
    async with verify.opened(ctx, None, deep=True, repair=True) as verifier:
        async for page in verifier.cache(""):
            files += page.looked
            octets += page.also["cached_bytes"]
            bad += len(page.damages)
            for damage in page.damages:
                assert damage.mend is not None, "a file of the cache can be moved"
                await damage.mend()
    return CacheVerified(files, octets, bad)


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
