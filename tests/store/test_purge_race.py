"""Deliveries, uploads, expunges and two janitors at the same few bodies: nobody's body goes."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import msgspec

from sora.services.cleanup import Cleanup
from sora.services.delivery import AppendItem
from sora.store.blobs import BlobRef
from sora.store.uploads import PendingUploads
from tests.support.node import open_node

if TYPE_CHECKING:
    from pathlib import Path

    from sora.services.node import Node
    from sora.store.uploads import PendingUpload
    from sora.types import AccountId, MailboxId

ROUNDS = 40
BODIES = [b"body %d\r\n" % number for number in range(4)]


class World:
    """One account, four bodies, and what everybody does with them."""

    def __init__(self, node: Node, account_id: AccountId, inbox: MailboxId) -> None:
        self.node = node
        self.account_id = account_id
        self.inbox = inbox
        self.pending = PendingUploads(node.store.db, node.instance_id)
        self.done = asyncio.Event()
        table = msgspec.structs.replace(node.config.cleanup, grace_period=0.0, max_rows_per_second=10**7)
        self.config = msgspec.structs.replace(node.config, cleanup=table)

    async def deliver(self) -> None:
        for _ in range(ROUNDS):
            await self.node.delivery.append(self.account_id, self.inbox, [AppendItem(random.choice(BODIES))])

    async def expunge(self) -> None:
        for _ in range(ROUNDS):
            await self.node.store.messages.expunge(self.account_id, self.inbox, None, only_deleted=False)

    async def upload(self) -> None:
        while not self.done.is_set():
            for row in await self.pending.claim(10):
                await self.upload_one(row)

    async def upload_one(self, row: PendingUpload) -> None:
        body = await self.node.staging.read(row.account_id, row.content_hash)
        if not row.uploaded and body is not None:
            await self.node.blobs.put(row.ref.key, body)
        await self.pending.done(row, lambda: self.node.staging.retire(row.account_id, row.content_hash))

    async def clean(self) -> None:
        cleanup = Cleanup(self.node.store.db, self.node.blobs, self.config)

        async def go_on() -> bool:
            return True

        while not self.done.is_set():
            await cleanup.run(go_on)

    async def deleted(self) -> int:
        """Bodies that have gone so far."""
        used: int = await self.node.store.db.fetchval("SELECT last_value FROM content_ids")
        left: int = await self.node.store.db.fetchval("SELECT count(*) FROM message_contents")
        return used - left


async def test_nobody_loses_a_body(dsn: str, tmp_path: Path) -> None:
    async with open_node(dsn, tmp_path) as node:
        account_id = await node.store.accounts.create("alice@example.com")
        inbox = await node.store.mailboxes.get(account_id, "INBOX")
        world = World(node, account_id, inbox.mailbox_id)
        others = [asyncio.create_task(work()) for work in (world.upload, world.clean, world.clean)]
        await asyncio.gather(world.deliver(), world.deliver(), world.expunge())
        await node.delivery.append(account_id, inbox.mailbox_id, [AppendItem(body) for body in BODIES])
        world.done.set()
        await asyncio.gather(*others)
        assert await world.deleted() > 10, "nothing was at stake"
        for row in await world.pending.claim(100):
            await world.upload_one(row)
        done = await node.store.db.fetchval("SELECT count(*) FROM pending_uploads")
        assert done == 0
        rows = await node.store.db.fetch(
            "SELECT DISTINCT account_id, content_id, content_hash, c.size FROM messages m"
            " JOIN message_contents c USING (account_id, content_id) WHERE m.expunged_at IS NULL"
        )
        live = [BlobRef(**row) for row in rows]
        assert len(live) == len(BODIES)
        for ref in live:
            assert ref.matches(await node.blobs.get(ref.key)), "an object that a message needs"
        assert await node.store.db.fetch("SELECT * FROM check_mailbox($1, $2)", account_id, inbox.mailbox_id) == []
        await Cleanup(node.store.db, node.blobs, world.config).run(_always)
        keys = {entry.key async for entry in node.blobs.list()}
        contents = await node.store.db.fetch("SELECT account_id, content_id, content_hash, size FROM message_contents")
        assert keys == {BlobRef(**row).key for row in contents}, "and nothing is left behind"


async def _always() -> bool:
    return True
