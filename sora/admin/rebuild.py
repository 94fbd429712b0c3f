"""Admin operations for after a loss: the database built anew from the bucket, and UIDs that are passed over."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.errors import Refused
from sora.services.recovery.rebuild import Rebuild, Rebuilt
from sora.store.account_keys import open_sealers
from sora.store.bodies import open_cache, open_staging
from sora.store.keyring import open_keyring
from sora.store.rebuilding import Rebuilding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.config import Config
    from sora.store.cache import Cache
    from sora.store.staging import Staging

AHEAD: Final = 1 << 20
BUMPED: Final = 500
"""Mailboxes in one transaction, which has the locks of all of them."""


class ImportS3(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `import s3`."""

    damaged: Annotated[bool, Meta(description="go on without what is damaged of the journal")] = False


class BumpUids(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `mailboxes bump-uids`."""

    address: Annotated[str, Meta(description="of this account alone; empty: of all", max_length=320)] = ""
    ahead: Annotated[int, Meta(description="UIDs and modseqs to pass over", ge=1, le=1 << 30)] = AHEAD


class Bumped(Struct, frozen=True):
    """What goes on above its old numbers."""

    accounts: int
    mailboxes: int


async def import_s3(ctx: AdminContext, req: ImportS3) -> Rebuilt:
    """Build the database anew from the bucket: accounts, mailboxes, messages with UIDs and flags, filters.

    The database must be empty and migrated, no server may run, and the keyring must be at hand if mail is encrypted.
    Run it on the node that has the staging directory. It goes on where it was interrupted.
    """
    keyring = open_keyring(ctx.config)
    search = ctx.config.search
    with _opened(ctx.config) as (staging, cache):
        return await Rebuild(
            ctx.store.db,
            Rebuilding(ctx.store.db),
            ctx.blobs,
            keyring,
            open_sealers(keyring, ctx.store.db),
            staging,
            cache,
            body_limit=search.body_limit if search.index_bodies else 0,
            damaged=req.damaged,
            progress=ctx.progress,
        ).run()


async def bump_uids(ctx: AdminContext, req: BumpUids) -> Bumped:
    """Pass over UIDs that clients may know although this database does not.

    For after a point-in-time recovery, and after the promotion of a standby that was behind. Mailboxes keep their
    UIDVALIDITY, so nothing is fetched again; clients hear all flags once more, and of each message that is not here.
    Run it before the first server starts: what is given out until then is given out twice.
    """
    rebuilding = Rebuilding(ctx.store.db)
    only = (await ctx.store.accounts.get(req.address)).account_id if req.address else None
    if only is None:
        await rebuilding.bump_numbers()
    mailboxes = await rebuilding.all_mailboxes(only)
    bumped = 0
    for start in range(0, len(mailboxes), BUMPED):
        ctx.progress("mailboxes", start, len(mailboxes))
        bumped += await rebuilding.bump(mailboxes[start : start + BUMPED], req.ahead)
    return Bumped(len({account_id for account_id, _ in mailboxes}), bumped)


@contextlib.contextmanager
def _opened(config: Config) -> Iterator[tuple[Staging | None, Cache | None]]:
    """Staging and cache of this node, where it has them."""
    with contextlib.ExitStack() as stack:
        staging = cache = None
        try:
            if Path(config.uploader.staging_path).is_dir():
                staging = open_staging(config)
                stack.callback(staging.close)
            if Path(config.local_cache.path).is_dir():
                cache = open_cache(config)
        except OSError as error:
            raise Refused(f"{error.filename}: {error.strerror}") from error
        if cache is not None:
            stack.callback(cache.close)
        yield staging, cache
