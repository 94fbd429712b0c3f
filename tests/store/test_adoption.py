"""Uploads of dead nodes: what is adopted, with which proof, and what is left for an operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from sora.errors import InUse
from sora.mime.digest import digest
from sora.services.adoption import Adoption
from sora.store.blobs import content_hash
from sora.store.deliveries import NewMessage
from sora.store.uploads import PendingUploads, list_stranded

if TYPE_CHECKING:
    from sora.store.store import Store
    from sora.types import AccountId

DEAD, LIVE = "dead", "live"


@pytest.fixture
async def account_id(store: Store) -> AccountId:
    for name in (DEAD, LIVE):
        await store.leases.register(name, host=f"host-{name}")
    return await store.accounts.create("ann@example.com")


async def deliver(store: Store, account_id: AccountId, body: bytes, node: str = DEAD, *, copied: bool = False) -> int:
    message = NewMessage(
        account_id=account_id,
        mailbox_id=None,
        content_hash=content_hash(body),
        size=len(body),
        internal_date=datetime.now(UTC),
        digest=digest(body),
    )
    (row,) = await store.messages.deliver([message], node, [(body,)] if copied else None)
    return row.content_id


async def silence(store: Store, seconds: float, node: str = DEAD) -> None:
    await store.db.execute(
        "UPDATE instances SET heartbeat_at = clock() - $2::interval WHERE instance_id = $1",
        node,
        timedelta(seconds=seconds),
    )


async def rows(store: Store) -> dict[int, str]:
    return dict(await store.db.fetch("SELECT content_id, instance_id FROM pending_uploads"))


def adoption(store: Store) -> Adoption:
    return Adoption(store.db, LIVE, 600)


async def test_only_what_needs_nothing_from_the_dead_disk_is_adopted(store: Store, account_id: AccountId) -> None:
    copied = await deliver(store, account_id, b"copied", copied=True)
    alone = await deliver(store, account_id, b"alone")
    stored = await deliver(store, account_id, b"stored")
    await store.db.execute("UPDATE message_contents SET uploaded_at = clock() WHERE content_id = $1", stored)
    await silence(store, 599)
    assert await adoption(store).step() == 0
    await silence(store, 601)
    assert await adoption(store).step() == 2
    assert await rows(store) == {copied: LIVE, alone: DEAD, stored: LIVE}
    assert {row.content_id for row in await PendingUploads(store.db, LIVE).claim(10)} == {copied, stored}
    assert await adoption(store).step() == 0


async def test_a_node_that_wakes_up_notices(store: Store, account_id: AccountId) -> None:
    await deliver(store, account_id, b"copied", copied=True)
    await silence(store, 601)
    lease = await store.leases.acquire("job", DEAD)
    await adoption(store).step()
    assert not await store.leases.heartbeat(DEAD, 1)
    assert (await store.leases.acquire("job", LIVE)).token > lease.token
    assert await store.leases.register(DEAD) == 3
    with pytest.raises(InUse):
        await store.db.fetchval("SELECT adopt_uploads($1, $2)", DEAD, LIVE)


async def test_zero_means_never(store: Store, account_id: AccountId) -> None:
    await deliver(store, account_id, b"copied", copied=True)
    await silence(store, 10**6)
    assert await Adoption(store.db, LIVE, 0).step() == 0
    assert not (await store.leases.find_instance(DEAD)).fenced  # type: ignore[union-attr]


async def test_a_node_without_anything_to_adopt_is_left_alone(store: Store, account_id: AccountId) -> None:
    await deliver(store, account_id, b"alone")
    await silence(store, 601)
    assert await adoption(store).step() == 0
    assert await store.leases.heartbeat(DEAD, 1), "nobody had a reason to declare it dead"


async def test_what_both_nodes_have_is_one_upload(store: Store, account_id: AccountId) -> None:
    content = await deliver(store, account_id, b"both", copied=True)
    assert await deliver(store, account_id, b"both", LIVE) == content
    await silence(store, 601)
    assert await adoption(store).step() == 1
    assert await rows(store) == {content: LIVE}


async def test_many_are_adopted_in_batches(
    store: Store, account_id: AccountId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sora.services.adoption.BATCH", 3)
    for number in range(10):
        await deliver(store, account_id, b"%d" % number, copied=True)
    await silence(store, 601)
    assert await adoption(store).step() == 10
    assert set((await rows(store)).values()) == {LIVE}


@pytest.mark.parametrize("point", ["adopt.fenced", "adopt.moved"])
async def test_what_was_cut_short_is_finished_by_the_next_step(
    store: Store, account_id: AccountId, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def die(passed: str) -> None:
        if passed == point:
            raise KeyboardInterrupt

    for number in range(5):
        await deliver(store, account_id, b"%d" % number, copied=True)
    await silence(store, 601)
    monkeypatch.setattr("sora.services.adoption.BATCH", 2)
    monkeypatch.setattr("sora.services.adoption.crash_point", die)
    with pytest.raises(KeyboardInterrupt):
        await adoption(store).step()
    left = 5 if point == "adopt.fenced" else 3
    assert sum(node == DEAD for node in (await rows(store)).values()) == left
    monkeypatch.undo()
    assert await adoption(store).step() == left
    assert set((await rows(store)).values()) == {LIVE}


async def test_stranded_bodies_are_counted_by_node(store: Store, account_id: AccountId) -> None:
    await deliver(store, account_id, b"copied", copied=True)
    await deliver(store, account_id, b"alone")
    await deliver(store, account_id, b"alone too")
    await deliver(store, account_id, b"here too")
    await deliver(store, account_id, b"here too", LIVE)
    await deliver(store, account_id, b"only here", LIVE)
    await deliver(store, account_id, b"never registered", "stranger")
    assert await list_stranded(store.db) == []
    await silence(store, 61)
    (dead,) = await list_stranded(store.db)
    assert (dead.instance_id, dead.host, dead.uploads, dead.bytes) == (DEAD, "host-dead", 2, len(b"alonealone too"))
    assert dead.silent_s == pytest.approx(61, abs=5)
    await store.db.execute("UPDATE pending_uploads SET created_at = created_at - interval '2 minutes'")
    _, stranger = await list_stranded(store.db)
    assert (stranger.instance_id, stranger.host, stranger.silent_s, stranger.uploads) == ("stranger", "", None, 1)
    await silence(store, 0)
    assert [node.instance_id for node in await list_stranded(store.db)] == ["stranger"]


async def test_an_operator_brings_one_body(store: Store, account_id: AccountId) -> None:
    content = await deliver(store, account_id, b"alone")
    with pytest.raises(InUse):
        await store.db.fetchval("SELECT adopt_upload($1, $2, $3, $4)", account_id, content_hash(b"alone"), DEAD, LIVE)
    await silence(store, 61)
    assert await store.db.fetchval("SELECT fence_instance($1, $2)", DEAD, timedelta(seconds=60))
    for expected in (True, False):
        assert expected is await store.db.fetchval(
            "SELECT adopt_upload($1, $2, $3, $4)", account_id, content_hash(b"alone"), DEAD, LIVE
        )
    assert await rows(store) == {content: LIVE}
