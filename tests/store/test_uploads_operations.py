"""`sora-admin uploads …` on a node that has something to upload."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sora.admin import system, uploads
from sora.admin.context import AdminContext
from sora.admin.uploads import Adopt, Retry
from sora.errors import InUse, Refused
from sora.mime.digest import digest
from sora.store.blobs import BlobRef, content_hash, local_name
from sora.store.deliveries import NewMessage
from sora.store.uploads import PendingUploads
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.node import Node


class House:
    """A node, and what another one (`dead`) has left."""

    def __init__(self, node: Node, dsn: str, root: Path) -> None:
        self.node = node
        self.root = root
        self.context = AdminContext(config=node.config, dsn=dsn, store=node.store, blobs=node.blobs, cost=None)  # type: ignore[arg-type]

    async def deliver(self, body: bytes, node: str = "", *, staged: bool = False, copied: bool = False) -> BlobRef:
        account_id = await self.account()
        message = NewMessage(
            account_id=account_id,
            mailbox_id=None,
            content_hash=content_hash(body),
            size=len(body),
            internal_date=datetime.now(UTC),
            digest=digest(body),
        )
        if staged:
            await self.node.staging.stage_many([(account_id, message.content_hash, body)])
        name = node or self.node.instance_id
        (row,) = await self.node.store.messages.deliver([message], name, [(body,)] if copied else None)
        return BlobRef(account_id, row.content_id, message.content_hash, message.size)

    async def account(self) -> int:  # type: ignore[return]
        found = await self.node.store.db.fetchval("SELECT account_id FROM accounts")
        return found or await self.node.store.accounts.create("ann@example.com")

    async def silence(self, seconds: int) -> None:
        await self.node.store.db.execute(
            f"UPDATE instances SET heartbeat_at = clock() - interval '{seconds} s' WHERE instance_id = 'dead'"
        )

    def mount(self, *bodies: tuple[BlobRef, bytes], name: str = "dead") -> str:
        folder = self.root / "mounted"
        folder.mkdir()
        (folder / "instance").write_text(f"{name}\n")
        for ref, body in bodies:
            (folder / ref.name).write_bytes(body)
        return str(folder)


@pytest.fixture
async def house(dsn: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_node(dsn, tmp_path) as node:
        await node.store.leases.register("dead", host="mail7")
        await node.store.leases.register(node.instance_id, host="mail8")
        yield House(node, dsn, tmp_path)


async def test_status_says_where_it_waits(house: House) -> None:
    await house.deliver(b"one", staged=True)
    await house.deliver(b"two", copied=True)
    await house.deliver(b"three", "dead")
    await house.silence(61)
    answer = await uploads.status(house.context)
    assert (answer.pending, answer.bytes, answer.failing, answer.copies, answer.quarantined) == (3, 11, 0, 1, 0)
    assert {(node.host, node.pending) for node in answer.nodes} == {("mail8", 2), ("mail7", 1)}
    assert [(node.instance_id, node.uploads) for node in answer.stranded] == [("dead", 1)]
    health = await system.health(house.context)
    assert not health.well
    assert "1 on mail7 (dead)" in health.uploads


async def test_retry_ends_pauses(house: House) -> None:
    await house.deliver(b"one", staged=True)
    pending = PendingUploads(house.node.store.db, house.node.instance_id)
    (row,) = await pending.claim(1)
    assert (await uploads.retry(house.context, Retry())).uploads == 0, "nothing has failed"
    await pending.failed(row, "away", base_s=3600, max_s=3600)
    assert await pending.claim(1) == []
    assert (await uploads.retry(house.context, Retry(instance="dead"))).uploads == 0
    assert (await uploads.retry(house.context, Retry())).uploads == 1
    assert len(await pending.claim(1)) == 1


async def test_verify_looks_for_every_body(house: House) -> None:
    await house.deliver(b"staged", staged=True)
    await house.deliver(b"copied", copied=True)
    stored = await house.deliver(b"stored")
    await house.deliver(b"elsewhere", "dead")
    damaged = await house.deliver(b"damaged", staged=True)
    house.node.staging.path(damaged.account_id, damaged.content_hash).write_bytes(b"DAMAGED")
    await house.node.blobs.prepare()
    await house.node.blobs.put(stored.key, b"stored")
    found = await uploads.verify(house.context)
    assert (found.rows, found.staged, found.copied, found.stored, found.elsewhere) == (5, 1, 1, 1, 1)
    assert [row.content_id for row in found.missing] == [damaged.content_id]
    assert found.missing_count == 1
    house.root.joinpath("objects").rename(house.root / "away")
    found = await uploads.verify(house.context)
    assert (found.unknown, found.elsewhere, found.missing_count) == (2, 1, 0)


async def test_adopt_takes_what_is_right_and_changes_nothing(house: House) -> None:
    first, second = await house.deliver(b"one", "dead"), await house.deliver(b"two", "dead")
    await house.deliver(b"three", "dead")
    await house.deliver(b"four", "dead", copied=True)
    folder = house.mount((first, b"one"), (second, b"TWO"))
    request = Adopt(node="dead", staging=folder)
    with pytest.raises(InUse, match="mail7"):
        await uploads.adopt(house.context, request)
    await house.silence(61)
    assert await uploads.adopt(house.context, request) == uploads.Adopted(adopted=1, copied=1, damaged=1, left=2)
    assert await house.node.bodies.get(first) == b"one"
    assert sorted(path.name for path in house.root.joinpath("mounted").iterdir()) == sorted(
        ["instance", first.name, second.name]
    )
    assert not await house.node.store.leases.heartbeat("dead", 1)
    house.root.joinpath("mounted", second.name).write_bytes(b"two")
    assert await uploads.adopt(house.context, request) == uploads.Adopted(adopted=1, copied=0, damaged=0, left=1)


async def test_adopt_refuses_what_cannot_be_meant(house: House) -> None:
    own = house.node.instance_id
    await house.silence(61)
    staging = house.node.config.uploader.staging_path
    for node, folder in ((own, str(house.root)), ("dead", staging), ("dead", str(house.root / "nowhere"))):
        with pytest.raises(Refused):
            await uploads.adopt(house.context, Adopt(node=node, staging=folder))
    with pytest.raises(Refused, match="another node, other"):
        await uploads.adopt(house.context, Adopt(node="dead", staging=house.mount(name="other")))


async def test_adopt_knows_a_node_that_never_registered(house: House) -> None:
    ref = await house.deliver(b"one", "stranger")
    folder = house.mount((ref, b"one"), name="stranger")
    answer = await uploads.adopt(house.context, Adopt(node="stranger", staging=folder))
    assert (answer.adopted, answer.left) == (1, 0)


async def test_quarantine_is_listed(house: House) -> None:
    assert await uploads.quarantine(house.context) == []
    known = await house.deliver(b"known", staged=True)
    unknown = local_name(known.account_id, content_hash(b"unknown"))
    await house.node.staging.stage_many([(known.account_id, content_hash(b"unknown"), b"unknown")])
    await house.node.staging.quarantine(known.account_id, known.content_hash)
    await house.node.staging.quarantine(known.account_id, content_hash(b"unknown"))
    listed = {row.file.partition("-")[2]: row for row in await uploads.quarantine(house.context)}
    assert {name: (row.known, row.size) for name, row in listed.items()} == {known.name: (True, 5), unknown: (False, 7)}
    at = listed[unknown].put_aside_at
    assert at is not None
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
