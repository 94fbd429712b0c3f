"""The places where a body may be, looked at one by one: what is there, and whether it is right.

Where `Bodies` wants one good copy as soon as possible, this wants to know of each place. Nothing is moved, nothing is
counted as a use. A body is right if it opens with the key of its account and has the hash of its row; if the key cannot
be had, that is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BlobDown, KeyUnavailable, NotFound
from sora.store import diskfile
from sora.store.blobs import BlobRef, content_hash
from sora.store.copies import BodyCopies
from sora.store.sealing import HEADER_BYTES, most_stored, parse_header
from sora.types import ContentId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.store.account_keys import Sealers
    from sora.store.blobs import BlobStore
    from sora.store.cache import Cache
    from sora.store.db import Database
    from sora.store.staging import Staging
    from sora.types import AccountId

GOOD: Final = "good"
BAD: Final = "bad"
ABSENT: Final = "absent"
UNKNOWN: Final = "unknown"
UNREADABLE: Final = "unreadable"
LARGE_BYTES: Final = 1024 * 1024
"""Of bodies that are larger, one is in memory at a time."""


class Look(Struct, frozen=True):
    """What is at one place.

    Attributes:
        state: `GOOD`, `BAD`, `ABSENT`; `UNKNOWN`: it is sealed, and the key cannot be had; `UNREADABLE`: the object
            store, which answers otherwise, does not give it.
        stored: The octets, if they are good.
    """

    state: str
    stored: bytes = b""


NOTHING: Final = Look(ABSENT)


class Found(Struct, frozen=True):
    """A good copy.

    Attributes:
        where: Its place; empty: there is none.
        unclear: What may be one, and could not be looked at.
    """

    where: str = ""
    stored: bytes = b""
    unclear: str = ""


class Places:
    """Looks at the places.

    Args:
        cache: None: no cache on this node.
        encrypted: Bodies may be sealed, which makes them longer or shorter than their row says.
    """

    def __init__(
        self,
        db: Database,
        blobs: BlobStore,
        staging: Staging,
        cache: Cache | None,
        sealers: Sealers,
        *,
        encrypted: bool,
    ) -> None:
        self.blobs = blobs
        self.staging = staging
        self.cache = cache
        self.sealers = sealers
        self._copies = BodyCopies(db)
        self._encrypted = encrypted
        self._large = asyncio.Lock()

    def plausible(self, ref: BlobRef, size: int) -> bool:
        """False if so many stored octets cannot be the body."""
        return size == ref.size or (self._encrypted and HEADER_BYTES < size <= most_stored(ref.size))

    async def stat(self, ref: BlobRef) -> str:
        """The object, by its size.

        Raises:
            BlobDown: The object store is away.
        """
        try:
            found = await self.blobs.stat(ref.key)
        except NotFound:
            return ABSENT
        except BlobDown:
            await self.blobs.ping()  # an outage, or this one object?
            return UNREADABLE
        return GOOD if self.plausible(ref, found.size) else BAD

    async def object(self, ref: BlobRef) -> Look:
        """The object, read; one that is too large to be the body is not.

        Raises:
            BlobDown: The object store is away.
        """
        state = await self.stat(ref)
        if state != GOOD:
            return Look(state)
        try:
            async with self._room(ref.size):
                return await self.judge(ref, await self.blobs.get(ref.key))
        except NotFound:
            return NOTHING
        except BlobDown:
            await self.blobs.ping()
            return Look(UNREADABLE)

    async def staged(self, ref: BlobRef) -> Look:
        """The staged file of this node."""
        return await self.file(ref, self.staging.path(ref.account_id, ref.content_hash))

    async def cached(self, ref: BlobRef) -> Look:
        """The file of this node's cache."""
        return await self.file(ref, self.cache.path(ref)) if self.cache is not None else NOTHING

    async def copy(self, ref: BlobRef) -> Look:
        """The copy in the database."""
        async with self._room(ref.size):
            return await self.judge(ref, await self._copies.read(ref))

    async def file(self, ref: BlobRef, path: Path) -> Look:
        """A file; one that the disk does not give is bad."""
        try:
            async with self._room(ref.size):
                return await self.judge(ref, await asyncio.to_thread(diskfile.read, path))
        except FileNotFoundError:
            return NOTHING
        except OSError:
            return Look(BAD)

    async def nameless(self, account_id: AccountId, digest: bytes, path: Path) -> str:
        """The state of a file that no row describes: its name has the hash, its header or length the size."""
        try:
            stored = await asyncio.to_thread(diskfile.read, path)
        except FileNotFoundError:
            return ABSENT
        except OSError:
            return BAD
        header = None if content_hash(stored) == digest else parse_header(stored)
        size = len(stored) if header is None else header.size
        return (await self.judge(BlobRef(account_id, ContentId(0), digest, size), stored)).state

    def _room(self, size: int) -> contextlib.AbstractAsyncContextManager[None]:
        """Held while a body is in memory."""
        return self._large if size > LARGE_BYTES else contextlib.nullcontext()

    async def judge(self, ref: BlobRef, stored: bytes | None) -> Look:
        """Whether octets are a body."""
        if stored is None:
            return NOTHING
        try:
            sealer = await self.sealers.reader(ref, stored)
            right = await asyncio.to_thread(sealer.verify, ref, stored)
        except KeyUnavailable:
            return Look(UNKNOWN)
        return Look(GOOD, stored) if right else Look(BAD)

    async def good_copy(self, ref: BlobRef) -> Found:
        """A place with the right octets, and these: the nearest to where they belong first.

        Raises:
            BlobDown: The object store is away.
        """
        unclear = ""
        async for name, look in self._looks(ref):
            if look.state == GOOD:
                return Found(name, look.stored)
            if look.state == UNKNOWN:
                unclear = f"{name} has it sealed, and the key of account {ref.account_id} is missing"
            elif look.state == UNREADABLE:
                unclear = unclear or f"{name} has it, and does not give it: see its log"
        return Found(unclear=unclear)

    async def open(self, ref: BlobRef, stored: bytes) -> bytes | None:
        """The plain body; None: it is another one.

        Raises:
            KeyUnavailable: The key cannot be had.
        """
        sealer = await self.sealers.reader(ref, stored)
        return await asyncio.to_thread(sealer.open, ref, stored)

    async def _looks(self, ref: BlobRef) -> AsyncIterator[tuple[str, Look]]:
        yield "the object store", await self.object(ref)
        yield "staging", await self.staged(ref)
        yield "the database", await self.copy(ref)
        yield "the cache", await self.cached(ref)
        # The same bytes under another row of the account: one that is going, or whose row was lost.
        digest = ref.content_hash.hex()
        async for entry in self.blobs.list(f"{ref.key.partition('/')[0]}/{digest[:2]}/{digest}-"):
            twin = BlobRef.of_entry(entry)
            if twin is not None and twin.content_id != ref.content_id:
                same = BlobRef(ref.account_id, twin.content_id, ref.content_hash, ref.size)
                yield f"object {entry.key}", await self.object(same)
        quarantined = await self.staging.find_quarantined(ref.account_id, ref.content_hash)
        for path in quarantined + (await self.cache.find_quarantined(ref) if self.cache is not None else []):
            yield f"quarantine, {path.name}", await self.file(ref, path)
