"""The second copy of a body: in the transaction of the message, gone with the mark of the upload."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sora import metrics
from sora.errors import BlobDown
from sora.mime.digest import digest
from sora.services.uploads import BodyLost, Uploads
from sora.store.blobs import BlobRef, DirectoryStore, content_hash
from sora.store.bodies import Bodies
from sora.store.copies import INLINE_BYTES, PART_BYTES, BodyCopies, cut
from sora.store.deliveries import NewMessage
from sora.store.staging import Staging
from sora.store.uploads import PendingUploads
from tests.store.test_uploader import Bell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.store.store import Store
    from sora.types import AccountId

NODE = "node-1"
SMALL = b"Subject: small\r\n\r\nhello\r\n"
LARGE = b"Subject: large\r\n\r\n" + os.urandom(2 * PART_BYTES + 5)


class House:
    """A node whose staging directory stays empty: what is read or sent comes from the database."""

    def __init__(self, store: Store, root: Path, account_id: AccountId) -> None:
        self.store = store
        self.db = store.db
        self.account_id = account_id
        self.staging = Staging(root / "staging", 10**9)
        self.blobs = DirectoryStore(root / "objects")
        self.copies = BodyCopies(store.db)
        self.pending = PendingUploads(store.db, NODE)
        self.uploads = Uploads(self.pending, self.staging, self.blobs, None, Bell(), copies=self.copies)
        self.bodies = Bodies(None, self.staging, self.blobs, recent_bytes=0, before=[self.copies])

    async def deliver(self, *bodies: bytes, copied: bool = True) -> list[BlobRef]:
        batch = [
            NewMessage(
                account_id=self.account_id,
                mailbox_id=None,
                content_hash=content_hash(body),
                size=len(body),
                internal_date=datetime.now(UTC),
                digest=digest(body[:1000]),
            )
            for body in bodies
        ]
        pieces = [(body[:10], body[10:]) for body in bodies] if copied else None
        rows = await self.store.messages.deliver(batch, NODE, pieces)
        return [
            BlobRef(self.account_id, row.content_id, message.content_hash, message.size)
            for row, message in zip(rows, batch, strict=True)
        ]

    async def parts(self) -> list[tuple[int, int]]:
        rows = await self.db.fetch("SELECT content_id, length(body) FROM body_copies ORDER BY content_id, part")
        return [(row[0], row[1]) for row in rows]

    async def upload(self) -> None:
        for row in await self.pending.claim(10):
            await self.uploads.upload(row)


@pytest.fixture
async def house(store: Store, tmp_path: Path) -> AsyncIterator[House]:
    made = House(store, tmp_path, await store.accounts.create("ann@example.com"))
    await made.blobs.prepare()
    yield made
    await made.bodies.close()
    made.staging.close()
    made.blobs.close()


async def test_a_copy_is_read_and_uploaded_where_the_staged_file_is_gone(house: House) -> None:
    (ref,) = await house.deliver(SMALL)
    assert await house.parts() == [(ref.content_id, len(SMALL))]
    assert await house.bodies.get(ref) == SMALL
    before = metrics.uploads_from_copy._value.get()
    await house.upload()
    assert metrics.uploads_from_copy._value.get() == before + 1
    assert await house.blobs.get(ref.key) == SMALL
    assert await house.parts() == []
    assert await house.bodies.get(ref) == SMALL


async def test_without_copies_none_is_kept(house: House) -> None:
    (ref,) = await house.deliver(SMALL, copied=False)
    assert await house.parts() == []
    with pytest.raises(BlobDown):
        await house.bodies.get(ref)
    with pytest.raises(BodyLost):
        await house.upload()


@pytest.mark.parametrize("size", [INLINE_BYTES, INLINE_BYTES + 1, PART_BYTES, 2 * PART_BYTES, len(LARGE)])
async def test_a_body_of_any_size_comes_back(house: House, size: int) -> None:
    body = LARGE[:size]
    (ref,) = await house.deliver(body)
    assert max(length for _, length in await house.parts()) <= PART_BYTES
    assert await house.copies.read(ref) == body
    await house.upload()
    assert await house.blobs.get(ref.key) == body
    assert await house.parts() == []


async def test_a_batch_keeps_each_different_body_once(house: House) -> None:
    bodies = [SMALL, LARGE, SMALL, LARGE, SMALL + b"2"]
    refs = await house.deliver(*bodies)
    for ref, body in zip(refs, bodies, strict=True):
        assert await house.bodies.get(ref) == body
    assert len({content for content, _ in await house.parts()}) == 3
    again = await house.deliver(*bodies)
    assert again == refs
    assert len({content for content, _ in await house.parts()}) == 3


async def test_what_the_object_store_has_is_not_copied(house: House) -> None:
    await house.deliver(SMALL, LARGE)
    await house.upload()
    await house.deliver(SMALL, LARGE)
    assert await house.parts() == []
    await house.upload()


async def test_a_large_body_is_kept_with_its_message_or_not_at_all(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("sora.store.messages.add_parts", fails)
    with pytest.raises(RuntimeError):
        await house.deliver(LARGE)
    assert await house.parts() == []
    assert await house.db.fetchval("SELECT count(*) FROM messages") == 0


async def test_a_wrong_copy_is_no_body(house: House) -> None:
    (ref,) = await house.deliver(SMALL)
    await house.db.execute("UPDATE body_copies SET body = 'other octets'")
    with pytest.raises(BlobDown):
        await house.bodies.get(ref)
    with pytest.raises(BodyLost):
        await house.upload()
    assert len(await house.parts()) == 1, "a person may want to look"


async def test_the_staged_file_is_preferred_and_a_disk_that_fails_is_survived(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ref,) = await house.deliver(SMALL)
    await house.staging.stage_many([(ref.account_id, ref.content_hash, SMALL)])

    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(house.staging, "read_now", broken)
    await house.upload()
    assert await house.blobs.get(ref.key) == SMALL


def test_the_last_part_is_never_full() -> None:
    assert list(cut([b"abc", b"", b"defg"], 3)) == [b"abc", b"def", b"g"]
    assert list(cut([b"abcdef"], 3)) == [b"abc", b"def", b""]
    assert list(cut([], 3)) == [b""]
