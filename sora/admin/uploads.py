"""Admin operations on uploads: what waits where, whether it is really there, and what a dead node left behind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from sora import log
from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.admin.verify import opened
from sora.crashpoints import crash_point
from sora.errors import InUse, KeyUnavailable, Refused, Unavailable
from sora.services.node import INSTANCE_FILE, own_instance_id
from sora.services.recovery.places import ABSENT, BAD, GOOD, UNKNOWN, UNREADABLE
from sora.store import diskfile
from sora.store.blobs import BlobRef, parse_local_name
from sora.store.leases import DEAD_AFTER_S
from sora.store.uploads import Stranded, list_stranded
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from asyncpg import Record

    from sora.services.recovery.places import Places

PAGE: Final = 500
SHOWN: Final = 1000
QUARANTINE: Final = "quarantine"

_log = log.get(__name__)


class NodeUploads(Struct, frozen=True):
    """What waits on one node.

    Attributes:
        silent_s: Since its last heartbeat; None: it never registered.
    """

    instance_id: str
    host: str
    silent_s: float | None
    pending: int
    bytes: int
    oldest_s: float


class UploadsStatus(Struct, frozen=True):
    """Bodies that are not in the object store yet.

    Attributes:
        oldest_s: Age of the oldest, 0 if there is none.
        failing: Those that failed at least once.
        copies: Those of which the database has a copy.
        stranded: Those whose only copy is on a node that is silent, by node.
        quarantined: Files that this node has put aside.
    """

    pending: int
    bytes: int
    oldest_s: float
    failing: int
    last_error: str | None
    copies: int
    quarantined: int
    nodes: list[NodeUploads]
    stranded: list[Stranded]


class Retry(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `uploads retry`."""

    instance: Annotated[str, Meta(description="only those of this node; empty: all")] = ""


class Retried(Struct, frozen=True):
    """How many uploads are due at once."""

    uploads: int


class Missing(Struct, frozen=True):
    """A body that is nowhere: not in staging, not in the database, not in the object store."""

    account_id: int
    content_id: int
    instance_id: str
    size: int


class Verified(Struct, frozen=True):
    """Where the bodies of pending uploads are.

    Attributes:
        staged: In this node's staging, with the right hash.
        copied: In the database.
        stored: In the object store already.
        elsewhere: In the staging of another node, which this one cannot see.
        unknown: It cannot be told: the object store does not answer, or a key cannot be had.
        missing: Nowhere; at most a thousand are listed.
    """

    rows: int
    staged: int
    copied: int
    stored: int
    elsewhere: int
    unknown: int
    missing_count: int
    missing: list[Missing]


class Adopt(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `uploads adopt`."""

    node: Annotated[str, Meta(description="instance id of the dead node", min_length=1, max_length=200)]
    staging: Annotated[str, Meta(description="its staging directory, mounted here", min_length=1)]


class Adopted(Struct, frozen=True):
    """What `uploads adopt` did.

    Attributes:
        adopted: Bodies that are staged here now, and uploaded by this node.
        copied: Uploads that needed nothing of the directory: the database or the object store has the body.
        damaged: Files that are not what their name says; they stay where they are.
        left: Uploads of the node that still wait for a file.
    """

    adopted: int
    copied: int
    damaged: int
    left: int


class Quarantined(Struct, frozen=True):
    """A file that was put aside.

    Attributes:
        known: A message refers to these bytes.
    """

    file: str
    account_id: int | None
    size: int
    put_aside_at: datetime | None
    known: bool


async def status(ctx: AdminContext) -> UploadsStatus:
    """Show how many bodies wait for the object store, and where."""
    rows = await ctx.store.db.fetch(
        """
        SELECT s.instance_id, coalesce(i.host, '') AS host, s.pending, s.bytes, s.failing,
          extract(epoch FROM clock() - i.heartbeat_at)::float8 AS silent_s,
          extract(epoch FROM clock() - s.oldest_at)::float8 AS oldest_s
        FROM upload_status() s LEFT JOIN instances i USING (instance_id) ORDER BY 1
        """
    )
    error = await ctx.store.db.fetchval(
        "SELECT last_error FROM pending_uploads WHERE last_error IS NOT NULL ORDER BY next_try DESC LIMIT 1"
    )
    copies = await ctx.store.db.fetchval("SELECT count(*) FROM body_copies WHERE part = 0")
    return UploadsStatus(
        pending=sum(row["pending"] for row in rows),
        bytes=sum(row["bytes"] for row in rows),
        oldest_s=max((row["oldest_s"] for row in rows), default=0.0),
        failing=sum(row["failing"] for row in rows),
        last_error=error,
        copies=copies,
        quarantined=len(await asyncio.to_thread(_quarantined, ctx.config.uploader.staging_path)),
        nodes=[NodeUploads(**{name: row[name] for name in NodeUploads.__struct_fields__}) for row in rows],
        stranded=await list_stranded(ctx.store.db),
    )


async def retry(ctx: AdminContext, req: Retry) -> Retried:
    """Try uploads that failed at once, instead of after their pause."""
    rows = await ctx.store.db.fetch(
        """
        UPDATE pending_uploads SET next_try = clock()
        WHERE attempts > 0 AND next_try > clock() AND ($1 = '' OR instance_id = $1) RETURNING 1
        """,
        req.instance,
    )
    return Retried(len(rows))


async def verify(ctx: AdminContext) -> Verified:
    """Look for the body of every pending upload, and compare those that can be read here with their hash."""
    own = own_instance_id(ctx.config)
    places = dict.fromkeys(("staged", "copied", "stored", "elsewhere", "unknown", "missing"), 0)
    missing: list[Missing] = []
    async with opened(ctx, None, deep=True, repair=False) as verifier:
        async for row in _pending(ctx):
            place = await _place(verifier.places, own, row)
            places[place] += 1
            if place == "missing" and len(missing) < SHOWN:
                missing.append(Missing(row["account_id"], row["content_id"], row["instance_id"], row["size"]))
    count = places.pop("missing")
    return Verified(rows=sum(places.values()) + count, missing_count=count, missing=missing, **places)


async def adopt(ctx: AdminContext, req: Adopt) -> Adopted:
    """Take over the uploads of a dead node from its staging directory; nothing there is changed.

    The node must have been silent for a minute, and is fenced: if it comes back it starts a new life. Files are
    compared with their hash, staged on this node, and only then does this node's uploader get their rows.
    """
    own = own_instance_id(ctx.config)
    directory = Path(req.staging)
    await asyncio.to_thread(_check_directory, ctx, req, directory, own)
    copied = 0
    if await _fence(ctx, req.node):
        while moved := await ctx.store.db.fetchval("SELECT adopt_uploads($1, $2)", req.node, own):
            copied += moved
    adopted = damaged = left = 0
    async with opened(ctx, None, deep=True, repair=False) as verifier:
        places = verifier.places
        async for row in _pending(ctx, req.node):
            ref = _ref(row)
            found = await places.file(ref, directory / ref.name)
            if found.state == UNKNOWN:
                raise KeyUnavailable(detail=f"{ref.name} is sealed, and its key cannot be had")
            if found.state == ABSENT:
                left += 1
            elif found.state == BAD:
                damaged += 1
                left += 1
                _log.error("file of a dead node does not match its hash", extra={"file": ref.name})
            else:
                await places.staging.stage_many([(ref.account_id, ref.content_hash, found.stored)])
                crash_point("adopt.staged")
                adopted += await ctx.store.db.fetchval(
                    "SELECT adopt_upload($1, $2, $3, $4)", ref.account_id, ref.content_hash, req.node, own
                )
    return Adopted(adopted, copied, damaged, left)


async def quarantine(ctx: AdminContext) -> list[Quarantined]:
    """List staged files of this node that were put aside: no message refers to them, or they are damaged."""
    found = await asyncio.to_thread(_quarantined, ctx.config.uploader.staging_path)
    names = [parse_local_name(path.name.partition("-")[2]) for path, _ in found]
    rows = await ctx.store.db.fetch(
        """
        SELECT EXISTS (SELECT 1 FROM message_contents c WHERE c.account_id = f.a AND c.content_hash = f.h
          AND c.purging_at IS NULL) AS known
        FROM unnest($1::bigint[], $2::bytea[]) WITH ORDINALITY f (a, h, n) ORDER BY f.n
        """,
        [name[0] if name else None for name in names],
        [name[1] if name else None for name in names],
    )
    return [
        Quarantined(path.name, name[0] if name else None, size, _put_aside_at(path), row["known"])
        for (path, size), name, row in zip(found, names, rows, strict=True)
    ]


# ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _pending(ctx: AdminContext, node: str = "") -> AsyncIterator[Record]:
    """All pending uploads, or those of a node, a page at a time; what is changed meanwhile is seen or not."""
    place: tuple[int, bytes, str] = (0, b"", "")
    while page := await ctx.store.db.fetch(
        """
        SELECT account_id, content_hash, instance_id, content_id, size FROM pending_uploads
        WHERE (account_id, content_hash, instance_id) > ($1, $2, $3::text) AND ($4 = '' OR instance_id = $4)
        ORDER BY account_id, content_hash, instance_id LIMIT $5
        """,
        *place,
        node,
        PAGE,
    ):
        for row in page:
            yield row
        place = page[-1]["account_id"], page[-1]["content_hash"], page[-1]["instance_id"]


async def _place(places: Places, own: str, row: Record) -> str:
    """Where a body is, the nearest place first."""
    ref = _ref(row)
    here = row["instance_id"] == own
    try:
        for name, look in (("staged", places.staged), ("copied", places.copy)):
            found = await look(ref)
            if found.state == GOOD:
                return name
            if found.state == UNKNOWN:
                return "unknown" if here else "elsewhere"
        state = await places.stat(ref)
        if state == GOOD:
            return "stored"
        if state == UNREADABLE:
            return "unknown" if here else "elsewhere"
    except Unavailable:
        return "unknown" if here else "elsewhere"
    return "missing" if here else "elsewhere"


async def _fence(ctx: AdminContext, node: str) -> bool:
    """See that the node is dead; False: it never registered, or its row was lost, so there is nobody to fence.

    Raises:
        InUse: It has been heard of.
    """
    found = await ctx.store.leases.find_instance(node)
    if found is None:
        return False
    if not await ctx.store.db.fetchval("SELECT fence_instance($1, $2)", node, timedelta(seconds=DEAD_AFTER_S)):
        raise InUse(f"The node lives: it was heard of {found.silent_s:.0f} s ago, on {found.host}")
    return True


def _check_directory(ctx: AdminContext, req: Adopt, directory: Path, own: str) -> None:
    if req.node == own or directory.resolve() == Path(ctx.config.uploader.staging_path).resolve():
        raise Refused("That is this node")
    if not directory.is_dir():
        raise Refused(f"{directory} is no directory")
    name = _read(directory / INSTANCE_FILE)
    if name is not None and name.decode("ascii", "replace").strip() != req.node:
        raise Refused(
            f"{directory} is the staging directory of another node, {name.decode('ascii', 'replace').strip()}"
        )


def _ref(row: Record) -> BlobRef:
    return BlobRef(AccountId(row["account_id"]), ContentId(row["content_id"]), row["content_hash"], row["size"])


def _read(path: Path) -> bytes | None:
    try:
        return diskfile.read(path)
    except FileNotFoundError:
        return None


def _quarantined(staging_path: str) -> Sequence[tuple[Path, int]]:
    """Files with their sizes, the oldest first."""
    directory = Path(staging_path) / QUARANTINE
    if not directory.is_dir():
        return []
    return [(path, path.stat().st_size) for path in sorted(directory.iterdir())]


def _put_aside_at(path: Path) -> datetime | None:
    """From the name, which begins with it in nanoseconds."""
    at = path.name.partition("-")[0]
    return datetime.fromtimestamp(int(at) / 1e9, UTC) if at.isdecimal() else None
