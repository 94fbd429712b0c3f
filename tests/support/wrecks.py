"""A node with mail at rest, and every kind of damage that can be done to it."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sora.admin.context import AdminContext
from sora.mime.digest import digest
from sora.services.key_objects import open_key_objects
from sora.services.uploads import Uploads
from sora.store.account_keys import open_sealers
from sora.store.blobs import BlobRef
from sora.store.bodies import open_cache
from sora.store.copies import BodyCopies
from sora.store.deliveries import NewMessage
from sora.store.keyring import open_keyring
from sora.store.uploads import PendingUpload, PendingUploads
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.node import Node
    from sora.store.cache import Cache
    from sora.types import AccountId


class SilentBell:
    """Nobody rings."""

    async def wait(self, timeout: float | None = None) -> None:
        """See `services.uploads.Doorbell`."""


class Wreck:
    """The node, and hands to break it with.

    Attributes:
        seen: What was told of progress.
    """

    def __init__(self, node: Node, cache: Cache, dsn: str, root: Path) -> None:
        self.node = node
        self.cache = cache
        self.root = root
        self.db = node.store.db
        self.seen: list[tuple[str, int, int]] = []
        self.context = AdminContext(
            config=node.config,
            dsn=dsn,
            store=node.store,
            blobs=node.blobs,
            cost=None,  # type: ignore[arg-type]
            progress=lambda *step: self.seen.append(step),
        )
        keyring = open_keyring(node.config)
        self.sealers = open_sealers(keyring, self.db)
        self.uploads = Uploads(
            PendingUploads(self.db, node.instance_id),
            node.staging,
            node.blobs,
            None,
            SilentBell(),
            sealers=self.sealers,
            keys=open_key_objects(keyring, self.db, node.blobs),
            copies=BodyCopies(self.db),
        )

    async def account(self, address: str = "ann@example.com") -> AccountId:
        """The account, made if it is not there."""
        with contextlib.suppress(Exception):
            return await self.node.store.accounts.create(address)
        return (await self.node.store.accounts.get(address)).account_id

    async def deliver(self, body: bytes, *, copied: bool = False) -> BlobRef:
        """A message that waits for its upload."""
        account_id = await self.account()
        sealer = await self.sealers.get(account_id)
        name = sealer.hash((body,))
        stored = b"".join(bytes(piece) for piece in sealer.seal(name, (body,)))
        await self.node.staging.stage_many([(account_id, name, stored)])
        message = NewMessage(
            account_id=account_id,
            mailbox_id=None,
            content_hash=name,
            size=len(body),
            internal_date=datetime.now(UTC),
            digest=digest(body),
        )
        copies = [(stored,)] if copied else None
        (row,) = await self.node.store.messages.deliver([message], self.node.instance_id, copies)
        return BlobRef(account_id, row.content_id, name, len(body))

    async def upload(self, ref: BlobRef, *, cached: bool = True) -> bytes:
        """Send it; the stored octets, if they are to be cached."""
        stored = self.staged(ref).read_bytes() if cached else b""
        await self.uploads.upload(
            PendingUpload(ref.account_id, ref.content_id, ref.content_hash, ref.size, 0, datetime.now(UTC), False)
        )
        if cached:
            await self.cache.put(ref, stored)
        return stored

    async def at_rest(self, body: bytes, *, cached: bool = True) -> BlobRef:
        """A message whose body is in the object store, and in the cache."""
        ref = await self.deliver(body)
        await self.upload(ref, cached=cached)
        return ref

    async def spoil_object(self, ref: BlobRef) -> None:
        """Other octets of the same length under its key; a link of the file elsewhere keeps the right ones."""
        stored = await self.node.blobs.get(ref.key)
        await self.node.blobs.delete(ref.key)
        await self.node.blobs.put(ref.key, flipped(stored))

    def spoil(self, path: Path) -> None:
        """Other octets of the same length in a file of its own."""
        stored = path.read_bytes()
        path.unlink()
        path.write_bytes(flipped(stored))

    def staged(self, ref: BlobRef) -> Path:
        """Its staged file."""
        return self.node.staging.path(ref.account_id, ref.content_hash)

    async def read(self, ref: BlobRef) -> bytes:
        """The body from the object store alone."""
        stored = await self.node.blobs.get(ref.key)
        plain = (await self.sealers.reader(ref, stored)).open(ref, stored)
        assert plain is not None
        return plain

    async def behind_the_triggers(self, sql: str) -> None:
        """Change rows so that nothing that is derived from them follows."""
        async with self.db.transaction() as connection:
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(sql)


def flipped(stored: bytes) -> bytes:
    """With one bit that is another."""
    return stored[:-1] + bytes([stored[-1] ^ 1])


@contextlib.asynccontextmanager
async def open_wreck(dsn: str, folder: Path, **tables: dict[str, object]) -> AsyncIterator[Wreck]:
    """A node whose heart beats, with an object store."""
    async with open_node(dsn, folder, **tables) as node:
        await node.blobs.prepare()
        await node.store.leases.register(node.instance_id, host="mail1")
        cache = open_cache(node.config)
        assert cache is not None
        try:
            yield Wreck(node, cache, dsn, folder)
        finally:
            cache.close()
