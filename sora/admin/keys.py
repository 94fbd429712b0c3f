"""Admin operations on keys: the master keys of the keyring, and the end of an account's data key."""

from __future__ import annotations

import contextlib
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta, Struct

from sora.admin.context import Address, AdminContext  # noqa: TC001 — the table of operations reads the annotations
from sora.crashpoints import crash_point
from sora.errors import DatabaseDown, NotFound, Refused
from sora.services import rotation
from sora.services.node import INSTANCE_FILE
from sora.services.shredding import HORIZON, Shredding
from sora.store import keyring
from sora.store.account_keys import WrappedKeys
from sora.store.bodies import open_cache, open_staging
from sora.store.keyring import Keyring
from sora.store.shreddings import Shreddings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.config import Config
    from sora.services.shredding import Files
    from sora.types import AccountId


class KeyInfo(Struct, frozen=True):
    """One line of `keys list`.

    Attributes:
        accounts: Whose data keys it wraps; None: the database is away.
        encrypts: It is the newest that does not wait.
        present: It is in the keyring of this machine.
    """

    id: str
    created_at: datetime | None
    fingerprint: str
    accounts: int | None
    encrypts: bool
    waiting: bool
    present: bool


class Rotate(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `keys rotate`."""

    step: Annotated[
        Literal["all", "add", "activate", "rewrap"],
        Meta(
            description="on one node: all. On several: add on one, copy the keyring to all, activate on one, copy it "
            "again, rewrap"
        ),
    ] = "all"
    batch: Annotated[int, Meta(description="accounts of one transaction", ge=1, le=10_000)] = rotation.BATCH


class Rotated(Struct, frozen=True):
    """What `keys rotate` did.

    Attributes:
        added: The master key that was made.
        activated: Master keys that waited and encrypt now.
        rewrapped: Accounts whose key the newest master key wraps now and did not before.
        failed: Accounts whose key could not be unwrapped; the log says why.
        unneeded: Master keys that wrap nothing any more.
    """

    added: str = ""
    activated: list[str] = []
    rewrapped: int = 0
    failed: int = 0
    unneeded: list[str] = []


class ShredAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `keys shred`."""

    address: Address


class Receipt(Struct, frozen=True):
    """What was destroyed, and what this did not reach.

    Attributes:
        key_fingerprint: Of the data key.
        objects_to_delete: Objects of bodies that the cleaner will delete.
        nodes_to_follow: Nodes that have not removed their files yet.
        plain_bodies: Stored before the account had a key.
        horizon: Where something stays readable, and for how long.
    """

    address: str
    account_id: int
    key_fingerprint: str
    master_key: str
    requested_at: datetime
    finished_at: datetime | None
    key_objects: int
    messages: int
    contents: int
    texts: int
    copies: int
    files: int
    plain_bodies: int
    objects_to_delete: int
    nodes_to_follow: list[str]
    horizon: list[str]


_FAILED: Final = 1


async def list_keys(ctx: AdminContext) -> list[KeyInfo]:
    """List the master keys, and how many accounts each is needed for."""
    ring = Keyring(_keyring_file(ctx), service_uid=keyring.service_uid(ctx.config))
    newest = ring.newest()
    try:
        uses: dict[str, int] | None = {use.key_id: use.accounts for use in await WrappedKeys(ctx.store.db).uses()}
    except DatabaseDown:
        uses = None
    known = [
        KeyInfo(
            id=key.id,
            created_at=key.created_at,
            fingerprint=key.fingerprint.hex(),
            accounts=None if uses is None else uses.get(key.id, 0),
            encrypts=key.id == newest.id,
            waiting=key.waiting,
            present=True,
        )
        for key in ring.keys
    ]
    missing = (uses or {}).keys() - {key.id for key in ring.keys}
    return known + [
        KeyInfo(
            id=key_id,
            created_at=None,
            fingerprint="",
            accounts=(uses or {})[key_id],
            encrypts=False,
            waiting=False,
            present=False,
        )
        for key_id in sorted(missing)
    ]


async def rotate(ctx: AdminContext, req: Rotate) -> Rotated:
    """Add a master key, and wrap the data key of every account with it; the first time, make the keyring."""
    path, service_uid = _keyring_file(ctx), keyring.service_uid(ctx.config)
    added, activated = "", []
    if req.step in ("all", "add"):
        if not keyring.exists(path):
            await _check_missing(ctx, path)
        added = keyring.add_key(path, waiting=req.step == "add", service_uid=service_uid).id
        crash_point("rotate.key_added")
    if req.step == "activate":
        activated = [key.id for key in keyring.activate(path, service_uid=service_uid)]
    if req.step not in ("all", "rewrap"):
        return Rotated(added, activated)
    wrapped, ring = WrappedKeys(ctx.store.db), Keyring(path, service_uid=service_uid)
    try:
        done = await rotation.rewrap(wrapped, ring, batch=req.batch)
    except DatabaseDown:
        if len(ring.keys) > 1:
            raise
        # A new installation, which does not start without a keyring: there is nothing to wrap anew.
        return Rotated(added, activated)
    needed = {use.key_id for use in await wrapped.uses()} | {ring.newest().id}
    unneeded = [key.id for key in ring.keys if key.id not in needed]
    return Rotated(added, activated, done.rewrapped, done.failed, unneeded)


async def _check_missing(ctx: AdminContext, path: str) -> None:
    """A keyring that accounts need and that is not there is no reason to make another: processes would take that."""
    try:
        needed = sum(use.accounts for use in await WrappedKeys(ctx.store.db).uses())
    except DatabaseDown:
        return  # a new installation, which does not start without a keyring
    if needed:
        raise Refused(f"{path} is missing, and {needed} accounts need its keys: bring it back")


async def shred(ctx: AdminContext, req: ShredAccount) -> Receipt:
    """Destroy the data key of an account, and with it all its mail, for ever; nothing brings it back."""
    account_id = await _find(ctx, req.address)
    shreddings = Shreddings(ctx.store.db)
    with node_files(ctx.config) as (instance_id, files):
        await Shredding(shreddings, ctx.blobs, files, instance_id).shred(account_id)
    done = await shreddings.get(account_id)
    return Receipt(
        address=done.address,
        account_id=account_id,
        key_fingerprint=done.fingerprint.hex(),
        master_key=done.key_id,
        requested_at=done.requested_at,
        finished_at=done.finished_at,
        key_objects=done.key_objects,
        messages=done.messages,
        contents=done.contents,
        texts=done.texts,
        copies=done.copies,
        files=done.files,
        plain_bodies=done.plain_bodies,
        objects_to_delete=done.objects_left,
        nodes_to_follow=done.nodes_left,
        horizon=list(HORIZON),
    )


async def _find(ctx: AdminContext, address: str) -> AccountId:
    """The account, or the deleted one, that has the address."""
    with contextlib.suppress(NotFound):
        return (await ctx.store.accounts.get(address)).account_id
    return (await ctx.store.accounts.get(address, deleted=True)).account_id


def _keyring_file(ctx: AdminContext) -> str:
    path = ctx.config.encryption.keyring_file
    if not path:
        raise Refused("Encryption is off: encryption.keyring_file is not set")
    return path


@contextlib.contextmanager
def node_files(config: Config) -> Iterator[tuple[str, list[Files]]]:
    """Name and files of the node that this command runs on; it may run on a machine that is none."""
    instance = Path(config.uploader.staging_path) / INSTANCE_FILE
    if not instance.exists():
        yield "", []
        return
    with contextlib.ExitStack() as stack:
        staging, cache = open_staging(config), open_cache(config)
        stack.callback(staging.close)
        files: list[Files] = [staging]
        if cache is not None:
            stack.callback(cache.close)
            files.append(cache)
        yield instance.read_text(encoding="ascii").strip(), files


def failed(answer: Rotated) -> int:
    """The exit code of `keys rotate`."""
    return _FAILED if answer.failed else 0
