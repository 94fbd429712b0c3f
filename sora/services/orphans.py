"""Objects that no row knows: found, reported, and deleted when they have stayed unknown for long.

An object is in the store only after its row is in the database, and goes before its row goes. So an object without a
row is left from something that broke: a PUT whose answer was lost and that arrived late, a purge of a database that was
restored from a backup. In the last case it may be the only copy of a message: nothing is deleted unless the operator
asks for it, nor before some time has passed, nor when too much is unknown.

The listing goes on where it stopped, a bounded part in each pass. Objects that are no bodies (wrapped keys, what other
programs put there) are not looked at.
"""

from __future__ import annotations

import asyncio
from itertools import compress
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from sora import log, metrics
from sora.crashpoints import crash_point
from sora.store.blobs import BlobRef

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from datetime import timedelta

    from sora.store.blobs import BlobEntry, BlobStore
    from sora.store.upkeep import Upkeep

_logger = log.get(__name__)

PHASE: Final = "orphans"
PAGE: Final = 1000
PASS_KEYS: Final = 100_000
"""Keys that are listed in one pass: a hundred requests to S3."""
KEY_COST: Final = 50
"""Keys that are only looked at count as one row."""
DELETES: Final = 8
FEWEST: Final = 1000
LARGEST_SHARE: Final = 0.05
"""More unknown objects than so many, and than this share of all, are no leftovers: the database is not that of this
bucket, or was restored. Nothing is deleted then."""


class Place(Struct, frozen=True, forbid_unknown_fields=True):
    """How far the listing has come, and what it has found since it began."""

    key: str = ""
    scanned: int = 0
    unknown: int = 0
    unknown_bytes: int = 0


async def sweep(upkeep: Upkeep, blobs: BlobStore, grace: timedelta) -> AsyncGenerator[int]:
    """A bounded part of a round; yields after each page of the listing.

    Args:
        grace: Between the first look and the deletion, and the least age of the object; 0: nothing is deleted.
    """
    rest_s = await upkeep.rest_s(PHASE)
    if rest_s is not None and rest_s < round_s(grace):
        return
    progress = await upkeep.progress(PHASE)
    place = msgspec.json.decode(progress.place, type=Place) if progress.place else Place()
    may_delete = bool(grace) and plausible(progress.detail)
    if not progress.place:
        await upkeep.save_place(PHASE, _text(place))
    listed = 0
    async for page in _pages(blobs, place.key):
        unknown, deleted = await _look(upkeep, blobs, page, grace, may_delete=may_delete)
        place = Place(
            key=page[-1].key,
            scanned=place.scanned + len(page),
            unknown=place.unknown + len(unknown),
            unknown_bytes=place.unknown_bytes + sum(entry.size for entry in unknown),
        )
        await upkeep.save_place(PHASE, _text(place))
        yield deleted + len(page) // KEY_COST
        listed += len(page)
        if listed >= PASS_KEYS:
            return
    await _end(upkeep, place)


def round_s(grace: timedelta) -> float:
    """Seconds between two listings of the whole bucket."""
    return max(86400.0, grace.total_seconds() / 10)


def plausible(detail: dict[str, int]) -> bool:
    """True if the last complete listing found so little that it can be leftovers; False also if there was none."""
    if "scanned" not in detail:
        return False
    return detail["unknown"] <= max(FEWEST, LARGEST_SHARE * detail["scanned"])


async def _pages(blobs: BlobStore, after: str) -> AsyncIterator[list[BlobEntry]]:
    page: list[BlobEntry] = []
    async for entry in blobs.list(after=after):
        page.append(entry)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


async def _look(
    upkeep: Upkeep, blobs: BlobStore, page: Sequence[BlobEntry], grace: timedelta, *, may_delete: bool
) -> tuple[list[BlobEntry], int]:
    """The objects of a page without a row, and how many of them were deleted."""
    bodies = [(entry, ref) for entry in page if (ref := BlobRef.of_entry(entry)) is not None]
    held = await upkeep.unknown([ref for _, ref in bodies])
    unknown = [bodies[at][0] for at in held]
    if not unknown:
        return [], 0
    ripe = await upkeep.note_orphans(unknown, grace)
    crash_point("cleanup.orphan_noted")
    free = compress(unknown, (not is_held for is_held in held.values()))
    doomed = [entry.key for entry in free if entry.key in ripe] if may_delete else []
    await _delete(blobs, doomed)
    if doomed:
        await upkeep.forget_orphans(doomed)
        _logger.warning("objects without a row deleted", extra={"objects": len(doomed), "first": doomed[0]})
    return unknown, len(doomed)


async def _delete(blobs: BlobStore, keys: Sequence[str]) -> None:
    slots = asyncio.Semaphore(DELETES)

    async def delete(key: str) -> None:
        async with slots:
            await blobs.delete(key)
        crash_point("cleanup.orphan_deleted")

    await asyncio.gather(*map(delete, keys))


async def _end(upkeep: Upkeep, place: Place) -> None:
    """The whole bucket has been looked at."""
    progress = await upkeep.progress(PHASE)
    if progress.started_at is not None:
        await upkeep.forget_unseen_orphans(progress.started_at)
    await upkeep.end_round(PHASE, scanned=place.scanned, unknown=place.unknown, unknown_bytes=place.unknown_bytes)
    objects, octets = await upkeep.count_orphans()
    metrics.orphaned_objects.set(objects)
    metrics.orphaned_bytes.set(octets)
    if objects:
        _logger.warning("objects without a row", extra={"objects": objects, "octets": octets, "listed": place.scanned})


def _text(place: Place) -> str:
    return msgspec.json.encode(place).decode()
