"""Sealed bodies on their way: staging, cache, and what a reader gets of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sora.errors import BlobDown, KeyUnavailable
from sora.store import sealing
from sora.store.account_keys import NoKeys
from sora.store.blobs import BlobRef, DirectoryStore, content_hash
from sora.store.bodies import INLINE_BYTES, Bodies
from sora.store.cache import Cache
from sora.store.sealing import PLAIN, AccountKey, Sealer, Unsealed
from sora.store.staging import Staging
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

ANN = AccountId(7)
KEY = AccountKey(ANN, bytes(range(32)))
SMALL = b"From: ann\r\n\r\n" + b"a secret word\r\n" * 300
LARGE = b"From: ann\r\n\r\n" + os.urandom(400_000)
BODIES = pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])


class Keys:
    """The key of one account, at hand or not, or gone."""

    def __init__(self) -> None:
        self.at_hand = True
        self.gone = False

    def peek(self, account_id: AccountId) -> Sealer | None:
        return None if self.gone or not self.at_hand else KEY

    async def get(self, account_id: AccountId) -> Sealer:
        if self.gone:
            raise KeyUnavailable
        return KEY

    async def fetch_many(self, account_ids: Sequence[AccountId]) -> None:
        """See `Sealers.fetch_many`."""

    def peek_reader(self, ref: BlobRef, stored: bytes) -> Sealer | None:
        return self.peek(ref.account_id) if sealing.is_sealed(stored) else PLAIN

    async def reader(self, ref: BlobRef, stored: bytes) -> Sealer:
        return await self.get(ref.account_id) if sealing.is_sealed(stored) else PLAIN

    def forget(self, account_id: AccountId) -> None:
        self.gone = True

    def forget_all(self) -> None:
        self.gone = True


def ref_of(body: bytes, key: Sealer = KEY) -> BlobRef:
    return BlobRef(ANN, ContentId(1), key.hash((body,)), len(body))


def sealed(body: bytes) -> bytes:
    return b"".join(KEY.seal(KEY.hash((body,)), (body,)))


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    made = Staging(tmp_path / "staging", 10**8)
    yield made
    made.close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    made = Cache(tmp_path / "cache", 10**7, 10**6)
    yield made
    made.close()


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    made = DirectoryStore(tmp_path / "objects")
    await made.prepare()
    yield made
    made.close()


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
async def bodies(cache: Cache, staging: Staging, blobs: DirectoryStore, keys: Keys) -> AsyncIterator[Bodies]:
    made = Bodies(cache, staging, blobs, keys, recent_bytes=0)
    yield made
    await made.close()


async def stage(staging: Staging, body: bytes) -> BlobRef:
    ref = ref_of(body)
    await staging.stage_many([(ANN, ref.content_hash, Unsealed(KEY, ref.content_hash, (body[:10], body[10:])))])
    return ref


# ── staging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@BODIES
async def test_a_body_is_sealed_while_it_is_staged(staging: Staging, body: bytes) -> None:
    ref = await stage(staging, body)
    stored = staging.path(ANN, ref.content_hash).read_bytes()
    assert body[100:120] not in stored
    assert KEY.open(ref, stored) == body
    assert staging.read_now(ANN, ref.content_hash, ref.size) == await staging.read(ANN, ref.content_hash) == stored


@BODIES
async def test_a_second_delivery_uses_the_file_of_the_first(staging: Staging, body: bytes) -> None:
    """Its sealed form differs, and may even have another length: another release compresses otherwise."""
    ref = await stage(staging, body)
    path = staging.path(ANN, ref.content_hash)
    longer = b"".join(KEY._seal_one(ref.content_hash, body, len(body)) if body is LARGE else [path.read_bytes()])
    path.write_bytes(longer)
    await stage(staging, body)
    assert path.read_bytes() == longer
    assert not (path.parent / "quarantine").exists()


async def test_a_torn_file_gives_way_to_the_second_delivery(staging: Staging) -> None:
    ref = await stage(staging, SMALL)
    path = staging.path(ANN, ref.content_hash)
    path.write_bytes(path.read_bytes()[:-1])
    await stage(staging, SMALL)
    assert KEY.open(ref, path.read_bytes()) == SMALL
    assert len(list((path.parent / "quarantine").iterdir())) == 1


async def test_a_body_that_is_kept_in_two_places_is_the_same_in_both() -> None:
    digest = KEY.hash((SMALL,))
    once = Unsealed(KEY, digest, (SMALL,))
    assert once.seal() != once.seal()
    kept = Unsealed(KEY, digest, (SMALL,), keep=True)
    assert kept.seal() == kept.seal()


async def test_all_of_an_account_is_removed(staging: Staging) -> None:
    first, second = await stage(staging, SMALL), await stage(staging, LARGE)
    await stage(staging, LARGE)  # two deliveries count on it
    await staging.quarantine(ANN, second.content_hash)
    await stage(staging, LARGE)
    await staging.stage_many([(AccountId(8), content_hash(b"other"), b"other")])
    await staging.stage_many([(AccountId(0x70), content_hash(b"more"), b"more")])
    assert await staging.remove_account(ANN) == 3
    assert await staging.remove_account(ANN) == 0
    assert await staging.read(ANN, first.content_hash) is None
    assert [file.account_id for file in await staging.list_files()] == [8, 0x70]


# ── cache ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@BODIES
async def test_the_cache_keeps_what_it_is_given(cache: Cache, body: bytes) -> None:
    ref, stored = ref_of(body), sealed(body)
    assert await cache.put(ref, stored)
    assert await cache.read(ref) == cache.read_now(ref) == stored


@BODIES
async def test_a_torn_file_is_a_miss(cache: Cache, body: bytes) -> None:
    ref, stored = ref_of(body), sealed(body)
    await cache.put(ref, stored)
    path = cache._path(ref)
    path.write_bytes(stored[:-5])
    assert await cache.read(ref) is None
    assert not path.exists()


async def test_the_bound_counts_what_is_on_the_disk(tmp_path: Path) -> None:
    body = b"text " * 40_000  # compresses to a block
    cache = Cache(tmp_path / "small", 300_000, 10**6)
    try:
        for number in range(5):
            copy = b"%d" % number + body
            assert await cache.put(ref_of(copy), sealed(copy))
        assert (await cache.stats()).files == 5
        assert (await cache.stats()).used_bytes == 5 * 4096
    finally:
        cache.close()


async def test_the_cache_forgets_an_account(cache: Cache) -> None:
    other = BlobRef(AccountId(8), ContentId(1), content_hash(b"x"), 1)
    for body in (SMALL, LARGE):
        await cache.put(ref_of(body), sealed(body))
    await cache.put(other, b"x")
    await cache.quarantine(ref_of(SMALL))
    assert await cache.remove_account(ANN) == 2
    assert (await cache.stats()).files == 1
    assert await cache.read(other) == b"x"
    assert (await cache.stats()).used_bytes == 4096


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@BODIES
async def test_a_reader_gets_the_plain_body_from_everywhere(
    bodies: Bodies, cache: Cache, staging: Staging, blobs: DirectoryStore, body: bytes
) -> None:
    ref = await stage(staging, body)
    assert await bodies.get(ref) == body
    await blobs.put(ref.key, sealed(body))
    await staging.retire(ANN, ref.content_hash)
    assert await bodies.get(ref) == body
    cache.close()  # what is offered is written
    kept = cache._path(ref).read_bytes()
    assert sealing.is_sealed(kept)
    assert (bodies.get_now(ref) == body) == (len(body) <= INLINE_BYTES)


async def test_a_key_that_is_not_at_hand_is_waited_for(bodies: Bodies, staging: Staging, keys: Keys) -> None:
    ref = await stage(staging, SMALL)
    keys.at_hand = False
    assert bodies.get_now(ref) is None
    assert await bodies.get(ref) == SMALL


@BODIES
async def test_a_key_that_is_gone_makes_no_body_corrupt(
    bodies: Bodies, staging: Staging, keys: Keys, body: bytes
) -> None:
    ref = await stage(staging, body)
    keys.forget(ANN)
    assert bodies.get_now(ref) is None
    with pytest.raises(KeyUnavailable):
        await bodies.get(ref)
    assert staging.path(ANN, ref.content_hash).exists(), "it is not put aside"


async def test_without_encryption_a_sealed_body_is_not_put_aside(
    cache: Cache, staging: Staging, blobs: DirectoryStore
) -> None:
    ref = await stage(staging, SMALL)
    bodies = Bodies(cache, staging, blobs, NoKeys(), recent_bytes=0)
    with pytest.raises(BlobDown):
        await bodies.get(ref)
    assert staging.path(ANN, ref.content_hash).exists()


async def test_a_forged_body_is_put_aside_and_the_next_source_asked(
    bodies: Bodies, staging: Staging, blobs: DirectoryStore
) -> None:
    ref = await stage(staging, SMALL)
    path = staging.path(ANN, ref.content_hash)
    forged = bytearray(path.read_bytes())
    forged[-1] ^= 1
    path.write_bytes(forged)
    await blobs.put(ref.key, sealed(SMALL))
    assert await bodies.get(ref) == SMALL
    assert not path.exists()
    assert len(list((path.parent / "quarantine").iterdir())) == 1


async def test_plain_bodies_from_before_are_read(bodies: Bodies, blobs: DirectoryStore, staging: Staging) -> None:
    for body in (SMALL, LARGE, sealed(b"a mail that looks sealed")):
        ref = ref_of(body, PLAIN)
        await blobs.put(ref.key, body)
        assert await bodies.get(ref) == body


async def test_memory_forgets_an_account(cache: Cache, staging: Staging, blobs: DirectoryStore, keys: Keys) -> None:
    bodies = Bodies(cache, staging, blobs, keys)
    ref = await stage(staging, SMALL)
    await bodies.get(ref)
    await staging.remove_account(ANN)
    assert bodies.get_now(ref) == SMALL
    bodies.forget_account(AccountId(8))
    assert bodies.get_now(ref) == SMALL
    bodies.forget_account(ANN)
    assert bodies.get_now(ref) is None


async def test_warming_keeps_the_sealed_body(bodies: Bodies, cache: Cache, blobs: DirectoryStore) -> None:
    ref, stored = ref_of(SMALL), sealed(SMALL)
    await blobs.put(ref.key, stored)
    assert await bodies.warm(ref)
    assert await cache.read(ref) == stored
    other = BlobRef(ANN, ContentId(2), KEY.hash((b"other",)), 5)
    await blobs.put(other.key, stored)
    with pytest.raises(BlobDown):
        await bodies.warm(other)
