"""COPY and MOVE. Inside an account that is one statement; into another one the bodies have to go along.

A body belongs to one account: its object's name, its hash and, with encryption on, its key do. So what is copied into
another account is read, hashed and sealed for that account and staged on this node, as an APPEND would be, and then
one transaction makes messages of it. What was staged for nothing, because the transaction was refused, is swept like
any other staged file without a row.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, cast

from sora.errors import BlobDown, Busy, Unavailable
from sora.store.blobs import BlobRef
from sora.store.sealing import Unsealed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence

    from sora._native.seqset import UidSet
    from sora.services.commits import Doorbell
    from sora.store.account_keys import Sealers
    from sora.store.bodies import Bodies
    from sora.store.copies import Pieces
    from sora.store.messages import CopyResult
    from sora.store.sealing import Sealer
    from sora.store.staging import Staging
    from sora.store.store import Store
    from sora.store.transfers import Transfer
    from sora.types import ContentId

    Row = Mapping[str, Any]

COLUMNS: Final = ("content_id", "content_hash", "size", "expunged_at")
AT_ONCE: Final = 8
"""Bodies that are read at a time."""
AT_ONCE_BYTES: Final = 8 * 1024 * 1024
"""Octets that are read at a time; a larger body goes alone."""
INLINE_BYTES: Final = 256 * 1024
"""Hashing up to this size is done in the event loop."""
PATIENCE_S: Final = 300.0
"""How long staging may take: what it stages is safe from the sweep for twice that (`SETTLE_S` of the directory)."""


class Transfers:
    """Messages on their way between mailboxes.

    Args:
        instance_id: Names the staging directory in `pending_uploads`.
        copies: Keep a copy of each body in the database until it is uploaded.
        fenced: True while this node must take no mail.
    """

    def __init__(
        self,
        store: Store,
        staging: Staging,
        sealers: Sealers,
        bodies: Bodies,
        doorbell: Doorbell,
        *,
        instance_id: str,
        copies: bool = False,
        fenced: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._staging = staging
        self._sealers = sealers
        self._bodies = bodies
        self._doorbell = doorbell
        self._instance_id = instance_id
        self._copies = copies
        self._fenced = fenced
        self._clock = clock

    async def transfer(self, transfer: Transfer, uids: UidSet) -> CopyResult:
        """Copy or move messages, all or none.

        Args:
            uids: Those that are gone are skipped.

        Raises:
            NotFound: One of the mailboxes is gone.
            OverQuota: They do not fit; nothing was copied.
            BlobDown: A body cannot be had now; nothing was copied.
            Unavailable: Try again; if the connection to PostgreSQL broke, they may be there.
        """
        if transfer.account_id == transfer.to_account_id:
            messages = self._store.messages
            work = messages.move if transfer.move else messages.copy
            return await work(
                transfer.account_id, transfer.mailbox_id, uids, transfer.to_mailbox_id,
                transfer.actor_id, transfer.rights,
            )  # fmt: skip
        if self._fenced():
            raise Unavailable(detail="another process uses the name of this node")
        return await self._across(transfer, uids)

    async def _across(self, transfer: Transfer, uids: UidSet) -> CopyResult:
        rows = [row async for chunk in self._chunks(transfer, uids) for row in chunk if row["expunged_at"] is None]
        await self._store.transfers.require_room(transfer.to_account_id, sum(row["size"] for row in rows))
        hashes = await self._stage(transfer, list({row["content_id"]: row for row in rows}.values()))
        done = await self._store.transfers.across(
            transfer, uids, hashes, self._instance_id, self._body_of(transfer) if self._copies else None
        )
        self._doorbell.ring(done.content_ids)
        return done.result

    async def _chunks(self, transfer: Transfer, uids: UidSet) -> AsyncGenerator[list[Row], None]:
        rows = self._store.messages.rows(transfer.account_id, transfer.mailbox_id, uids, COLUMNS)
        async with aclosing(cast("AsyncGenerator[list[Row], None]", rows)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _stage(self, transfer: Transfer, rows: Sequence[Row]) -> dict[ContentId, bytes]:
        """Put the bodies into staging for the other account; returns what they are called there."""
        ends = self._clock() + PATIENCE_S
        account_id = transfer.to_account_id
        sealer = self._sealers.peek(account_id) or await self._sealers.get(account_id)
        hashes: dict[ContentId, bytes] = {}
        for batch in _batches(rows):
            if self._clock() > ends:
                raise Busy("Too much to copy at once")
            refs = [BlobRef(transfer.account_id, r["content_id"], r["content_hash"], r["size"]) for r in batch]
            bodies = await asyncio.gather(*map(self._bodies.get, refs))
            digests = [await _hash(sealer, body) for body in bodies]
            sealed = [Unsealed(sealer, digest, (body,)) for digest, body in zip(digests, bodies, strict=True)]
            await self._staging.stage_many(
                [(account_id, digest, body) for digest, body in zip(digests, sealed, strict=True)]
            )
            hashes |= {ref.content_id: digest for ref, digest in zip(refs, digests, strict=True)}
        return hashes

    def _body_of(self, transfer: Transfer) -> Callable[[bytes], Any]:
        """Reads what was staged, as it is stored: the copy in the database is the same."""

        async def read(content_hash: bytes) -> Pieces:
            stored = await self._staging.read(transfer.to_account_id, content_hash)
            if stored is None:
                raise BlobDown(detail="a staged body is gone")
            return (stored,)

        return read


async def _hash(sealer: Sealer, body: bytes) -> bytes:
    if len(body) <= INLINE_BYTES:
        return sealer.hash((body,))
    return await asyncio.to_thread(sealer.hash, (body,))


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows whose bodies are read together."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        if batch and (len(batch) == AT_ONCE or size + row["size"] > AT_ONCE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row["size"]
    if batch:
        yield batch
