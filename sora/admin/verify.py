"""`sora-admin verify`: database, object store, staging and cache compared with each other, and mended.

Exit codes: 0 nothing is wrong, or all of it was mended; 3 a dependency went away (call it again: it goes on); 4
something is wrong that can be mended, or waits for somebody; 5 a body has no good copy anywhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from sora.admin.context import AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.errors import ConfigError, InUse
from sora.services.key_objects import open_key_objects
from sora.services.node import own_instance_id
from sora.services.recovery.mending import KINDS, Mending
from sora.services.recovery.places import Places
from sora.services.recovery.verifying import Verifier
from sora.store import diskfile
from sora.store.account_keys import open_sealers
from sora.store.bodies import open_cache, open_staging
from sora.store.keyring import open_keyring
from sora.store.upkeep import Upkeep
from sora.store.verification import Verification
from sora.store.verify_runs import Finding, VerifyRuns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sora.types import AccountId

LISTED: Final = 1000
REMAINS: Final = 4
LOST: Final = 5
_LOCK: Final = ".verify"


class Verify(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `verify`."""

    address: Annotated[str, Meta(description="only this account; default: all", max_length=320)] = ""
    deep: Annotated[bool, Meta(description="read every copy of every body, and compare it with its hash")] = False
    repair: Annotated[bool, Meta(description="mend what a good copy exists of; never destroys the last one")] = False
    restart: Annotated[bool, Meta(description="from the beginning, though an earlier run was cut short")] = False


class KindFound(Struct, frozen=True):
    """One kind of damage.

    Attributes:
        found: Not mended: nobody asked for that, or it failed.
        waits: It needs somebody or something else; the finding says what.
        lost: No good copy is anywhere.
    """

    kind: str
    meaning: str
    found: int = 0
    mended: int = 0
    waits: int = 0
    lost: int = 0


class Verified(Struct, frozen=True):
    """What `verify` found.

    Attributes:
        resumed: It went on where an earlier command was cut short; the numbers are those of both.
        mailboxes: Looked at, as are the others.
        objects: Listed in the object store, of other kinds too.
        findings: The worst first, at most a thousand.
    """

    run: int
    resumed: bool
    seconds: float
    mailboxes: int
    bodies: int
    objects: int
    staged: int
    cached: int
    keys: int
    damage: list[KindFound]
    findings: list[Finding]


async def verify(ctx: AdminContext, req: Verify) -> Verified:
    """Compare database, object store, staging and cache with each other, and mend them.

    A run that was cut short goes on where it stopped when it is called again with the same options.
    """
    account_id = (await ctx.store.accounts.get(req.address)).account_id if req.address else None
    began = time.monotonic()
    async with opened(ctx, account_id, deep=req.deep, repair=req.repair) as verifier:
        with _alone(Path(ctx.config.uploader.staging_path)):
            run, resumed, counts = await verifier.run(anew=req.restart)
        kinds: dict[str, dict[str, int]] = {}
        for row in await verifier.runs.tally(run):
            kinds.setdefault(row["kind"], {})[row["state"]] = row["n"]
        damage = [KindFound(kind, KINDS[kind], **_counted(states)) for kind, states in kinds.items()]
        return Verified(
            run=run,
            resumed=resumed,
            seconds=round(time.monotonic() - began, 1),
            mailboxes=counts.get("mailboxes", 0),
            bodies=counts.get("bodies", 0),
            objects=counts.get("objects", 0),
            staged=counts.get("staging", 0),
            cached=counts.get("cache", 0),
            keys=counts.get("keys", 0),
            damage=damage,
            findings=await verifier.runs.findings(run, LISTED),
        )


def failed(found: Verified) -> int:
    """The exit code, see above."""
    if any(kind.lost for kind in found.damage):
        return LOST
    return REMAINS if any(kind.found or kind.waits for kind in found.damage) else 0


@contextlib.asynccontextmanager
async def opened(
    ctx: AdminContext, account_id: AccountId | None, *, deep: bool, repair: bool
) -> AsyncIterator[Verifier]:
    """A verifier of this node.

    Raises:
        ConfigError: A directory or keyring that cannot be used.
    """
    keyring = open_keyring(ctx.config)
    instance_id = own_instance_id(ctx.config)
    database = ctx.store.db
    rows, upkeep = Verification(database, instance_id), Upkeep(database)
    sealed = keyring is not None or await rows.has_keys()  # also when the keyring was taken away
    with contextlib.ExitStack() as stack:
        try:
            staging = open_staging(ctx.config)
            stack.callback(staging.close)
            cache = open_cache(ctx.config)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from error
        if cache is not None:
            stack.callback(cache.close)
        places = Places(database, ctx.blobs, staging, cache, open_sealers(keyring, database), encrypted=sealed)
        keys = open_key_objects(keyring, database, ctx.blobs)
        yield Verifier(
            VerifyRuns(database, instance_id),
            rows,
            upkeep,
            places,
            Mending(
                database,
                rows,
                upkeep,
                places,
                keys,
                instance_id,
                grace=timedelta(seconds=ctx.config.cleanup.grace_period),
            ),
            keyring,
            account_id=account_id,
            deep=deep,
            repair=repair,
            progress=ctx.progress,
        )


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One at a time on a node. The lock goes with the process, however that ends.

    Raises:
        InUse: Another one is at it.
    """
    fd = os.open(directory / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, diskfile.FILE_MODE)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse("This node is being verified already") from None
        yield
    finally:
        os.close(fd)


def _counted(states: dict[str, int]) -> dict[str, int]:
    """What is being mended when a run ends was not."""
    return {
        "found": states.get("found", 0) + states.get("mending", 0),
        "mended": states.get("mended", 0),
        "waits": states.get("waits", 0),
        "lost": states.get("lost", 0),
    }
