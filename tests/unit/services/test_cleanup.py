"""The housekeeping, on a real database and a directory store; the clock of the schema is moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sora._native.seqset import UidSet
from sora.errors import BlobDown
from sora.services import cleanup as cleanup_module
from sora.services.cleanup import PHASES, Cleanup
from sora.services.delivery import AppendItem
from sora.store.blobs import BlobRef, DirectoryStore
from sora.store.uploads import PendingUploads
from sora.types import SEEN
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.node import Node
    from sora.types import AccountId, MailboxId

GRACE_S = 14 * 86400.0
DAY = "1 day"


class World:
    """One account whose mail is uploaded at once."""

    def __init__(self, node: Node, account_id: AccountId, inbox: MailboxId) -> None:
        self.node = node
        self.db = node.store.db
        self.account_id = account_id
        self.inbox = inbox
        self.cleanup = Cleanup(self.db, node.blobs, grace_s=GRACE_S)

    async def append(self, *bodies: bytes) -> None:
        await self.node.delivery.append(self.account_id, self.inbox, [AppendItem(body) for body in bodies])
        pending = PendingUploads(self.db, self.node.instance_id)
        for row in await pending.claim(100):
            body = await self.node.staging.read(row.account_id, row.content_hash)
            assert body is not None
            await self.node.blobs.put(row.ref.key, body)
            await pending.done(row, lambda: self.node.staging.retire(self.account_id, row.content_hash))  # noqa: B023

    async def expunge_all(self) -> None:
        await self.node.store.messages.expunge(self.account_id, self.inbox, None, only_deleted=False)

    async def later(self, days: int) -> None:
        """Move the clock of the schema, for every connection that is made from now on."""
        name = await self.db.fetchval("SELECT current_database()")
        await self.db.execute(f"ALTER DATABASE {name} SET sora.clock_offset = '{days} days'")
        await self.db._pool.expire_connections()

    async def keys(self) -> list[str]:
        return [entry.key async for entry in self.node.blobs.list()]

    async def count(self, table: str) -> int:
        count: int = await self.db.fetchval(f"SELECT count(*) FROM {table}")
        return count

    async def run(self) -> None:
        async def go_on() -> bool:
            return True

        await self.cleanup.run(go_on)


@pytest.fixture
async def world(dsn: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_node(dsn, tmp_path) as node:
        account_id = await node.store.accounts.create("alice@example.com")
        inbox = await node.store.mailboxes.get(account_id, "INBOX")
        yield World(node, account_id, inbox.mailbox_id)


async def test_inside_the_grace_nothing_goes(world: World) -> None:
    await world.append(b"a\r\n", b"b\r\n")
    await world.expunge_all()
    await world.later(13)
    await world.run()
    assert len(await world.keys()) == 2
    assert await world.count("messages") == 2


async def test_past_the_grace_rows_and_objects_go_and_live_mail_stays(world: World) -> None:
    await world.append(b"a\r\n", b"b\r\n")
    await world.expunge_all()
    await world.append(b"b\r\n", b"c\r\n")
    await world.later(15)
    await world.run()
    assert await world.count("messages") == 2
    assert await world.count("message_contents") == 2
    keys = await world.keys()
    assert len(keys) == 2
    bodies = {await world.node.blobs.get(key) for key in keys}
    assert bodies == {b"b\r\n", b"c\r\n"}


async def test_a_body_whose_object_is_gone_already_is_no_error(world: World) -> None:
    await world.append(b"a\r\n")
    await world.expunge_all()
    await world.later(15)
    for key in await world.keys():
        await world.node.blobs.delete(key)
    await world.run()
    assert await world.count("message_contents") == 0


async def test_while_the_store_is_away_the_row_stays_marked_and_the_next_pass_ends_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.append(b"a\r\n")
    await world.expunge_all()
    await world.later(15)

    async def away(self: DirectoryStore, key: str) -> None:
        raise BlobDown

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "delete", away)
        with pytest.raises(BlobDown):
            await world.run()
    assert await world.db.fetchval("SELECT count(*) FROM message_contents WHERE purging_at IS NOT NULL") == 1
    await world.run()
    assert await world.keys() == []
    assert await world.count("message_contents") == 0


async def test_the_object_goes_before_the_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int, int]] = []
    passed: list[str] = []
    monkeypatch.setattr(cleanup_module, "crash_point", passed.append)
    finish = world.db.execute

    async def execute(sql: str, *args: Any) -> str:
        if "finish_purge" in sql:
            steps.append(("before finish", len(await world.keys()), await world.count("message_contents")))
        return await finish(sql, *args)

    await world.append(b"a\r\n")
    await world.expunge_all()
    await world.later(15)
    monkeypatch.setattr(world.db, "execute", execute)
    await world.run()
    assert steps == [("before finish", 0, 1)]
    assert passed == ["cleanup.selected", "cleanup.object_deleted", "cleanup.row_deleted"]


async def test_deleted_mailboxes_and_accounts_go_in_one_pass(world: World) -> None:
    await world.node.store.accounts.create("bob@example.com")
    await world.append(b"a\r\n")
    await world.node.store.accounts.delete(world.account_id)
    await world.run()
    assert await world.count("accounts") == 2
    await world.later(15)
    await world.run()
    assert await world.count("accounts") == 1
    assert await world.keys() == []
    for table in ("messages", "message_contents", "message_sequences"):
        assert await world.count(table) == 0


async def test_a_pass_ends_when_it_may_not_go_on(world: World) -> None:
    await world.append(b"a\r\n")
    await world.expunge_all()
    await world.later(15)
    answers = iter([True, False])

    async def go_on() -> bool:
        return next(answers)

    await world.cleanup.run(go_on)
    assert await world.count("messages") == 0
    assert len(await world.keys()) == 1


async def test_a_phase_gives_way_when_its_time_is_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    ran = {"endless": 0, "other": 0}

    async def endless(cleanup: Cleanup) -> int:
        nonlocal now
        now += 20.0
        ran["endless"] += 1
        return 1

    async def other(cleanup: Cleanup) -> int:
        ran["other"] += 1
        return 0

    async def go_on() -> bool:
        return True

    monkeypatch.setattr(cleanup_module, "PHASES", {"endless": endless, "other": other})
    await Cleanup(world.db, world.node.blobs, grace_s=1, clock=lambda: now).run(go_on)
    assert ran == {"endless": 3, "other": 1}


async def test_witnesses_go_while_the_object_store_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each delivery leaves one: an outage of days must not fill the table."""
    await world.append(b"a\r\n")
    await world.expunge_all()
    await world.later(15)

    async def away(_: str) -> None:
        raise BlobDown

    monkeypatch.setattr(world.node.blobs, "delete", away)
    with pytest.raises(BlobDown):
        await world.run()
    assert await world.count("append_witnesses") == 0


async def test_a_mailbox_that_is_locked_waits_for_the_next_pass(world: World) -> None:
    await world.append(b"a\r\n")
    await world.expunge_all()
    await world.later(15)
    async with world.db.transaction() as holder:
        await holder.execute("SELECT lock_mailboxes($1)", [world.inbox])
        assert await world.cleanup.trim_expunged() == 0
    assert await world.cleanup.trim_expunged() == 1


async def test_long_journals_are_merged(world: World) -> None:
    await world.append(b"a\r\n")
    first = UidSet.from_numbers([1])
    for number in range(150):
        flags = ([SEEN], []) if number % 2 else ([], [SEEN])
        await world.node.store.messages.store_flags(world.account_id, world.inbox, first, *flags, False)
    before = await world.count("message_flag_changes")
    assert before > 64
    await world.run()
    assert await world.count("message_flag_changes") < before


def test_every_phase_has_a_name_for_the_metrics() -> None:
    names = ["expunged", "journals", "accounts_begun", "mailboxes", "witnesses", "bodies", "accounts"]
    assert list(PHASES) == names


async def test_keys_of_purged_bodies_are_the_keys_of_uploads(world: World) -> None:
    await world.append(b"a\r\n")
    row = await world.db.fetchrow("SELECT account_id, content_id, content_hash, size FROM message_contents")
    assert row is not None
    assert await world.keys() == [BlobRef(**row).key]
