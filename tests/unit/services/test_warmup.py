"""The warm-up: newest first, bounded, behind every reader, and seldom."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sora._native.seqset import UidSet
from sora.errors import BlobDown
from sora.services import warmup as warmup_module
from sora.services.delivery import AppendItem
from sora.services.warmup import Warmup
from sora.store.blobs import content_hash
from sora.store.uploads import PendingUploads
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.node import Node
    from sora.store.blobs import BlobRef
    from sora.types import AccountId, MailboxId

SIZE = 100


class World:
    """An account with twelve uploaded messages; the object store counts what it is asked for."""

    def __init__(self, node: Node, account_id: AccountId, inbox: MailboxId) -> None:
        self.node = node
        self.account_id = account_id
        self.inbox = inbox
        self.asked: list[str] = []
        self.now = 0.0
        self.warmup = self.make()

    def make(self, messages: int = 5, max_bytes: int = 10_000) -> Warmup:
        return Warmup(
            self.node.store.db, self.node.bodies, messages=messages, max_bytes=max_bytes, clock=lambda: self.now
        )

    async def fill(self) -> list[BlobRef]:
        items = [AppendItem(b"%04d" % number * (SIZE // 4)) for number in range(12)]
        await self.node.delivery.append(self.account_id, self.inbox, items)
        pending = PendingUploads(self.node.store.db, self.node.instance_id)
        refs = []
        for row in await pending.claim(100):
            body = await self.node.staging.read(row.account_id, row.content_hash)
            assert body is not None
            await self.node.blobs.put(row.ref.key, body)
            await pending.done(row, lambda: self.node.staging.retire(self.account_id, row.content_hash))  # noqa: B023
            refs.append(row.ref)
        order = [content_hash(item.data) for item in items]
        return sorted(refs, key=lambda ref: order.index(ref.content_hash))

    async def login(self) -> None:
        self.warmup.login(self.account_id)
        await self.warmup.idle()

    async def cached(self, refs: list[BlobRef]) -> list[bool]:
        assert self.node.bodies.cache is not None
        return [await self.node.bodies.cache.has(ref) for ref in refs]


@pytest.fixture
async def world(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with open_node(dsn, tmp_path) as node:
        account_id = await node.store.accounts.create("alice@example.com")
        inbox = await node.store.mailboxes.get(account_id, "INBOX")
        world = World(node, account_id, inbox.mailbox_id)
        get = node.blobs.get

        async def counted(key: str, offset: int = 0, length: int | None = None) -> bytes:
            world.asked.append(key)
            return await get(key, offset, length)

        monkeypatch.setattr(node.blobs, "get", counted)
        yield world
        await world.warmup.close()


async def test_the_newest_of_inbox_are_brought_near_once(world: World) -> None:
    refs = await world.fill()
    await world.login()
    assert await world.cached(refs) == [False] * 7 + [True] * 5
    assert world.asked == [ref.key for ref in reversed(refs[-5:])]
    world.now += warmup_module.AGAIN_S - 1
    await world.login()
    assert len(world.asked) == 5
    assert world.node.bodies.cache is not None
    await world.node.bodies.cache.purge()
    await world.login()
    assert len(world.asked) == 5, "not so soon again"
    world.now += 1
    await world.login()
    assert len(world.asked) == 10


async def test_what_is_at_hand_is_not_fetched(world: World) -> None:
    refs = await world.fill()
    await world.node.bodies.get(refs[-1])
    await world.node.bodies.cache.stats()  # type: ignore[union-attr]  # what was offered is written
    await world.node.staging.stage_many([(refs[-2].account_id, refs[-2].content_hash, b"0010" * (SIZE // 4))])
    world.asked.clear()
    await world.login()
    assert world.asked == [ref.key for ref in reversed(refs[-5:-2])]


async def test_the_octets_are_bounded(world: World) -> None:
    refs = await world.fill()
    world.warmup = world.make(max_bytes=2 * SIZE + 1)
    await world.login()
    assert await world.cached(refs) == [False] * 10 + [True] * 2


async def test_expunged_messages_and_other_mailboxes_are_left_alone(world: World) -> None:
    refs = await world.fill()
    await world.node.store.messages.expunge(world.account_id, world.inbox, UidSet.from_numbers([12]), False)
    await world.login()
    assert await world.cached(refs) == [False] * 6 + [True] * 5 + [False]


async def test_what_is_not_in_the_object_store_yet_is_not_asked_for(world: World) -> None:
    """Another node has it in its staging."""
    refs = await world.fill()
    await world.node.store.db.execute(
        "UPDATE message_contents SET uploaded_at = NULL WHERE content_id = $1", refs[-1].content_id
    )
    await world.login()
    assert world.asked == [ref.key for ref in reversed(refs[-5:-1])]


async def test_readers_go_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = await world.fill()
    gate = asyncio.Event()
    get = world.node.blobs.get

    async def slow(key: str, offset: int = 0, length: int | None = None) -> bytes:
        if key == refs[0].key:
            world.asked.append("reader")
            await gate.wait()
            world.asked.append("reader done")
        return await get(key, offset, length)

    monkeypatch.setattr(world.node.blobs, "get", slow)
    reading = asyncio.create_task(world.node.bodies.get(refs[0]))
    while "reader" not in world.asked:
        await asyncio.sleep(0)
    world.warmup.login(world.account_id)
    for _ in range(50):
        await world.node.store.db.ping()
    assert world.asked == ["reader"]
    gate.set()
    await reading
    await world.warmup.idle()
    assert world.asked[1] == "reader done"
    assert sum(await world.cached(refs[-5:])) == 5


async def test_a_store_that_is_away_is_no_error_of_the_login(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.fill()

    async def away(*_: object) -> bytes:
        raise BlobDown

    monkeypatch.setattr(world.node.blobs, "get", away)
    await world.login()
    assert world.node.bodies._searches == {}


async def test_wrong_octets_are_not_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = await world.fill()

    async def other(*_: object) -> bytes:
        return b"x" * SIZE

    monkeypatch.setattr(world.node.blobs, "get", other)
    await world.login()
    assert not any(await world.cached(refs))


async def test_it_is_off_with_0_and_with_a_full_queue(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.fill()
    world.warmup = world.make(messages=0)
    await world.login()
    world.warmup = world.make()
    monkeypatch.setattr(warmup_module, "QUEUE", 0)
    await world.login()
    assert world.asked == []


async def test_accounts_are_forgotten_in_their_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup_module, "REMEMBERED", 2)
    await world.fill()
    await world.login()
    for other in (1001, 1002):
        world.warmup.login(other)  # type: ignore[arg-type]
    await world.warmup.idle()
    await world.node.bodies.cache.purge()  # type: ignore[union-attr]
    world.asked.clear()
    await world.login()
    assert len(world.asked) == 5


async def test_a_directory_is_near_enough(world: World) -> None:
    await world.fill()
    world.node.warmup.login(world.account_id)
    await world.node.warmup.idle()
    assert world.asked == []
