"""The housekeeping, on a real database and a directory store; the clock of the schema is moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sora._native.seqset import UidSet
from sora.crashpoints import POINTS
from sora.errors import BlobDown
from sora.services import cleanup as cleanup_module
from sora.services import orphans
from sora.services.cleanup import PHASES, Cleanup
from sora.services.delivery import AppendItem
from sora.store import upkeep as upkeep_module
from sora.store.blobs import BlobRef, DirectoryStore
from sora.store.upkeep import Upkeep
from sora.store.uploads import PendingUploads
from sora.types import SEEN, ContentId
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from pathlib import Path

    from sora.services.node import Node
    from sora.types import AccountId, MailboxId, ModSeq

FAST: dict[str, object] = {"max_rows_per_second": 10**7}
HOLD = "SELECT set_legal_hold($1, $2, 'case', 'test')"


class World:
    """One account whose mail is uploaded at once."""

    def __init__(self, node: Node, account_id: AccountId, inbox: MailboxId) -> None:
        self.node = node
        self.db = node.store.db
        self.account_id = account_id
        self.inbox = inbox
        self.publish: Callable[[AccountId, MailboxId, ModSeq], None] | None = None
        self.cleanup = Cleanup(self.db, node.blobs, node.config)

    def configure(self, **tables: dict[str, object]) -> None:
        """Another configuration from now on."""
        given = {name: msgspec.to_builtins(getattr(self.node.config, name)) | keys for name, keys in tables.items()}
        config = msgspec.structs.replace(
            self.node.config,
            **{name: msgspec.convert(keys, type(getattr(self.node.config, name))) for name, keys in given.items()},
        )
        self.cleanup = Cleanup(self.db, self.node.blobs, config, publish=self.publish)

    async def append(self, *bodies: bytes, day: int = 0) -> None:
        """Bodies that come on a day, and are uploaded at once."""
        at = datetime.now(UTC) + timedelta(days=day)
        items = [AppendItem(body, internal_date=at) for body in bodies]
        await self.node.delivery.append(self.account_id, self.inbox, items)
        await self.upload()

    async def upload(self) -> None:
        pending = PendingUploads(self.db, self.node.instance_id)
        for row in await pending.claim(100):
            body = await self.node.staging.read(row.account_id, row.content_hash)
            assert body is not None
            await self.node.blobs.put(row.ref.key, body)
            await pending.done(row, lambda: self.node.staging.retire(row.account_id, row.content_hash))  # noqa: B023

    async def expunge_all(self) -> None:
        await self.node.store.messages.expunge(self.account_id, self.inbox, None, only_deleted=False)

    async def later(self, days: int) -> None:
        """Move the clock of the schema, for every connection that is made from now on."""
        name = await self.db.fetchval("SELECT current_database()")
        await self.db.execute(f"ALTER DATABASE {name} SET sora.clock_offset = '{days} days'")
        for db in (self.db, self.node.delivery._commits._messages._db):
            while db._at_hand:
                await db._give_back(db._at_hand.pop())
            await db._pool.expire_connections()

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
    async with open_node(dsn, tmp_path, cleanup=FAST) as node:
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
    finish = world.db.fetchval

    async def fetchval(sql: str, *args: Any) -> Any:
        if "finish_purges" in sql:
            steps.append(("before finish", len(await world.keys()), await world.count("message_contents")))
        return await finish(sql, *args)

    await world.append(b"a\r\n")
    await world.expunge_all()
    await world.later(15)
    monkeypatch.setattr(world.db, "fetchval", fetchval)
    await world.run()
    assert steps == [("before finish", 0, 1)]
    order = ["cleanup.selected", "cleanup.marked", "cleanup.object_deleted", "cleanup.row_deleted"]
    assert [point for point in passed if point in order] == order


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
    """Asked before each batch: the lease may be lost at any time."""
    await world.append(b"a\r\n")
    await world.expunge_all()
    await world.later(15)
    asked = 0

    async def go_on() -> bool:
        nonlocal asked
        asked += 1
        return await world.count("messages") == 1

    await world.cleanup.run(go_on)
    assert asked > 2
    assert await world.count("messages") == 0
    assert len(await world.keys()) == 1
    await world.run()
    assert await world.keys() == []


class SlowPhase:
    """A phase of five steps of 20 s, and the clock that it moves.

    Attributes:
        ran: What was done; other phases add themselves.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    async def run(self, cleanup: Cleanup) -> AsyncGenerator[int]:
        for _ in range(5 - self.ran.count("long")):
            self.now += 20.0
            self.ran.append("long")
            yield 1


async def test_a_phase_gives_way_when_its_time_is_up_and_comes_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowPhase()

    async def other(cleanup: Cleanup) -> AsyncGenerator[int]:
        slow.ran.append("other")
        yield 1

    async def go_on() -> bool:
        return True

    monkeypatch.setattr(cleanup_module, "PHASES", {"long": slow.run, "other": other})
    await Cleanup(world.db, world.node.blobs, world.node.config, clock=lambda: slow.now).run(go_on)
    assert slow.ran == ["long"] * 3 + ["other"] + ["long"] * 2 + ["other"]


async def test_a_store_that_is_away_is_asked_once_a_pass(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowPhase()

    async def bodies(cleanup: Cleanup) -> AsyncGenerator[int]:
        slow.ran.append("bodies")
        if slow.ran:
            raise BlobDown
        yield 0

    async def go_on() -> bool:
        return True

    monkeypatch.setattr(cleanup_module, "PHASES", {"long": slow.run, "bodies": bodies})
    with pytest.raises(BlobDown):
        await Cleanup(world.db, world.node.blobs, world.node.config, clock=lambda: slow.now).run(go_on)
    assert slow.ran == ["long"] * 3 + ["bodies"] + ["long"] * 2


async def test_journals_are_looked_through_once_a_day(world: World) -> None:
    assert [rows async for rows in world.cleanup.journals()] == [0]
    assert [rows async for rows in world.cleanup.journals()] == []
    await world.later(2)
    assert [rows async for rows in world.cleanup.journals()] == [0]


async def test_a_phase_that_breaks_does_not_keep_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await world.append(b"a\r\n")
    await world.expunge_all()
    await world.later(15)

    async def broken(self: Upkeep, *_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(Upkeep, "journals", broken)
    await world.run()
    assert await world.keys() == []
    assert [record.phase for record in caplog.records if "phase failed" in record.message] == ["journals"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["trim_expunged", "purge_mailbox", "purge_account"])
async def test_one_that_breaks_or_waits_keeps_no_others(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Also where the oldest are so many that nothing else would be chosen."""
    monkeypatch.setattr(upkeep_module, "SELECTED", 1)
    accounts = world.node.store.accounts
    victims = [world.account_id, await accounts.create("bob@example.com"), await accounts.create("eve@example.com")]
    boxes = [(await world.node.store.mailboxes.get(account_id, "INBOX")).mailbox_id for account_id in victims]
    for account_id, box in zip(victims, boxes, strict=True):
        await world.node.delivery.append(account_id, box, [AppendItem(b"a\r\n")])
        await world.node.store.messages.expunge(account_id, box, None, only_deleted=False)
    await world.upload()
    if name != "trim_expunged":
        for account_id in victims:
            await accounts.delete(account_id)
    await world.later(15)
    real = getattr(Upkeep, name)

    async def broken(self: Upkeep, account_id: AccountId, *rest: object) -> int:
        if account_id == victims[0]:
            raise ZeroDivisionError
        if account_id == victims[1]:
            return 0
        rows: int = await real(self, account_id, *rest)
        return rows

    monkeypatch.setattr(Upkeep, name, broken)
    await world.run()
    table = "messages" if name == "trim_expunged" else "accounts"
    left = await world.db.fetch(f"SELECT account_id FROM {table} ORDER BY 1")
    assert [row["account_id"] for row in left] == victims[:2]
    assert any("failed at one of many" in record.message for record in caplog.records)


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
        await world.run()
        assert await world.count("messages") == 1
    await world.run()
    assert await world.count("messages") == 0


async def test_long_journals_are_merged(world: World) -> None:
    await world.append(b"a\r\n")
    first = UidSet.from_numbers([1])
    for number in range(150):
        flags = ([SEEN], []) if number % 2 else ([], [SEEN])
        await world.node.store.messages.store_flags(world.account_id, world.inbox, first, *flags, False)
    assert await world.count("message_flag_changes") > 64
    changed = await world.db.fetch("SELECT * FROM changed_since($1, $2, 100)", world.account_id, world.inbox)
    await world.run()
    assert await world.count("message_flag_changes") == 32
    assert changed == await world.db.fetch("SELECT * FROM changed_since($1, $2, 100)", world.account_id, world.inbox)


async def test_one_great_expunge_is_worked_off_in_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log is one row, and no lock may be held for the time of all of it."""
    await world.append(*(b"%d\r\n" % number for number in range(25)))
    await world.expunge_all()
    await world.later(15)
    monkeypatch.setattr(world.cleanup.pace, "rows", 10)
    monkeypatch.setattr(world.cleanup.pace, "_fit", lambda took: None)
    rows = [rows async for rows in world.cleanup.expunged()]
    assert rows == [10, 10, 5]
    assert await world.count("message_expunges") == 0


async def test_retention_expunges_old_mail_so_that_sessions_hear_of_it(world: World) -> None:
    told: list[tuple[int, int, int]] = []
    world.publish = lambda *change: told.append(change)
    world.configure(cleanup={**FAST, "max_age_restriction": "10d"})
    await world.append(b"old\r\n")
    await world.later(8)
    await world.append(b"new\r\n")
    before = await world.node.store.messages.state(world.account_id, world.inbox)
    await world.later(11)
    await world.run()
    after = await world.node.store.messages.delta(world.account_id, world.inbox, before.highest_modseq)
    assert after.message_count == 1
    assert after.highest_modseq == before.highest_modseq + 1
    assert told == [(world.account_id, world.inbox, after.highest_modseq)]
    assert await world.db.fetchval("SELECT uids FROM message_expunges") == [1]
    assert await world.db.fetchval("SELECT count(*) FROM messages") == 2, "restorable for the grace period"


async def test_retention_goes_on_where_it_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.configure(cleanup={**FAST, "max_age_restriction": "10d"})
    monkeypatch.setattr(cleanup_module, "SCAN_ROWS", 2)
    await world.append(*(b"%d\r\n" % number for number in range(5)))
    await world.later(11)
    phase = world.cleanup.retention()
    assert [await anext(phase) for _ in range(3)] == [0, 2, 0], "a window, its messages, the next window"
    await phase.aclose()
    assert (await world.cleanup.upkeep.progress("retention")).place == f"{world.account_id}/{world.inbox}/2"
    assert [rows async for rows in world.cleanup.retention()] == [0, 2, 0, 1]
    assert [rows async for rows in world.cleanup.retention()] == [], "one round a day"


async def test_an_import_of_old_mail_begins_to_age_when_it_arrives(world: World) -> None:
    world.configure(cleanup={**FAST, "max_age_restriction": "10d"})
    item = AppendItem(b"old\r\n", internal_date=datetime(2001, 1, 1, tzinfo=UTC))
    await world.node.delivery.append(world.account_id, world.inbox, [item])
    await world.run()
    assert (await world.node.store.messages.state(world.account_id, world.inbox)).message_count == 1
    await world.later(11)
    await world.run()
    assert (await world.node.store.messages.state(world.account_id, world.inbox)).message_count == 0


async def test_a_legal_hold_stops_every_phase_that_removes_mail(world: World) -> None:
    world.configure(cleanup={**FAST, "max_age_restriction": "10d", "orphan_grace": 86400.0})
    await world.append(b"a\r\n", b"b\r\n")
    await world.expunge_all()
    await world.append(b"c\r\n")
    await world.node.store.mailboxes.delete(world.account_id, "Trash")
    await world.db.execute("INSERT INTO purge_candidates SELECT account_id, content_id FROM message_contents")
    await world.db.execute(HOLD, world.account_id, True)
    await world.node.store.accounts.delete(world.account_id)
    for days in (15, 30, 45):
        await world.later(days)
        await world.run()
    assert await world.count("messages") == 3
    assert await world.count("mailboxes") == 6
    assert len(await world.keys()) == 3
    assert await world.db.fetchval("SELECT count(*) FROM messages WHERE expunged_at IS NULL") == 1
    await world.db.execute(HOLD, world.account_id, False)
    await world.run()
    assert await world.keys() == []
    assert await world.count("accounts") == 0


async def test_old_texts_leave_the_index_and_are_found_all_the_same(world: World) -> None:
    world.configure(search={"retention": 10 * 86400.0})
    search, inbox = world.node.store.search, (world.account_id, world.inbox, UidSet.from_numbers([1]))
    await world.append(b"Subject: needle\r\n\r\nhaystack\r\n")
    await world.db.fetchval("SELECT index_batch(10)")
    await world.later(9)
    await world.run()
    assert (await world.count("search_index"), await world.count("search_archive")) == (1, 0)
    await world.later(11)
    await world.run()
    assert (await world.count("search_index"), await world.count("search_archive")) == (0, 1)
    for pattern in ("NEEDLE", "NE"):
        assert len((await search.text(*inbox, pattern, headers=True, body=False)).sure) == 1
    assert len(await search.header(*inbox, "SUBJECT", "NEEDLE")) == 1
    assert len((await search.text(*inbox, "HAYSTACK", headers=False, body=True)).unsure) == 1
    assert not (await search.text(*inbox, "ABSENT", headers=True, body=False)).sure
    await world.expunge_all()
    await world.later(30)
    await world.run()
    assert await world.count("search_archive") == 0


async def test_account_changes_are_kept_for_their_time(world: World) -> None:
    await world.node.store.mailboxes.create(world.account_id, "new")
    before = await world.count("account_changes")
    assert before > 0
    await world.later(29)
    await world.run()
    assert await world.count("account_changes") == before
    await world.later(31)
    await world.run()
    assert await world.count("account_changes") == 0


async def test_progress_is_written_down(world: World) -> None:
    await world.append(b"a\r\n", b"b\r\n")
    await world.expunge_all()
    await world.later(15)
    await world.run()
    progress = {row.phase: row for row in await world.cleanup.upkeep.all_progress()}
    assert (progress["expunged"].last_rows, progress["bodies"].total_rows) == (2, 2)
    assert progress["journals"].finished_at is not None
    await world.append(b"c\r\n")
    await world.expunge_all()
    await world.later(30)
    await world.run()
    row = await world.cleanup.upkeep.progress("bodies")
    assert (row.last_rows, row.total_rows) == (1, 3)
    assert await world.cleanup.upkeep.backlog(world.cleanup.grace) == {
        "expunged": 0, "mailboxes": 0, "accounts": 0, "bodies": 0, "orphans": 0,
    }  # fmt: skip


class Crash(BaseException):
    """The process ends here: nobody catches it."""


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("cleanup.")])
async def test_a_crash_at_any_point_is_made_good_by_the_next_pass(
    world: World, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Whatever the first pass had done, the second one ends as if there had been no crash."""
    store = world.node.store
    world.configure(
        cleanup={**FAST, "max_age_restriction": "30d", "orphan_grace": 86400.0}, search={"retention": 5 * 86400.0}
    )
    await world.append(b"twice\r\n", b"gone\r\n", b"too old\r\n")
    await store.messages.expunge(world.account_id, world.inbox, UidSet.from_numbers([1, 2]), only_deleted=False)
    trash = await store.mailboxes.get(world.account_id, "Trash")
    await store.messages.copy(world.account_id, world.inbox, UidSet.from_numbers([3]), trash.mailbox_id)
    await store.mailboxes.delete(world.account_id, "Trash")
    bob = await store.accounts.create("bob@example.com")
    await store.accounts.delete(bob)
    await world.node.blobs.put(BlobRef(world.account_id, ContentId(999_999), bytes(32), 1).key, b"x")
    await world.run()
    await world.later(20)
    first = UidSet.from_numbers([3])
    for number in range(150):
        flags = ([SEEN], []) if number % 2 else ([], [SEEN])
        await store.messages.store_flags(world.account_id, world.inbox, first, *flags, False)
    await world.append(b"twice\r\n", b"alive\r\n", day=20)
    await world.db.fetchval("SELECT index_batch(10)")
    await world.later(45)
    passed = 0

    def crash(name: str) -> None:
        nonlocal passed
        if name == point:
            passed += 1
            raise Crash

    for module in (cleanup_module, orphans):
        monkeypatch.setattr(module, "crash_point", crash)
    with pytest.raises(Crash):
        await world.run()
    monkeypatch.undo()
    await world.db._pool.expire_connections()
    await world.later(47)
    await world.run()
    await world.later(48)
    await world.run()
    assert passed == 1
    assert await store.db.fetchval("SELECT array_agg(uid ORDER BY uid) FROM messages WHERE expunged_at IS NULL") == [
        4,
        5,
    ]
    assert await world.count("messages") == 3, "what was too old is restorable still"
    bodies = sorted([await world.node.blobs.get(key) for key in await world.keys()])
    assert bodies == [b"alive\r\n", b"too old\r\n", b"twice\r\n"]
    assert await world.count("message_contents") == 3
    assert await world.count("accounts") == 1
    assert await world.db.fetchval("SELECT count(*) FROM mailboxes WHERE deleted_at IS NOT NULL") == 0
    assert await world.db.fetch("SELECT * FROM check_mailbox($1, $2)", world.account_id, world.inbox) == []
    assert await world.count("search_archive") == 3
    assert await world.count("message_flag_changes") == 32


def test_the_phases_in_their_order() -> None:
    assert list(PHASES) == [
        "retention",
        "accounts_begun",
        "mailboxes",
        "shadows",
        "expunged",
        "witnesses",
        "logs",
        "texts",
        "journals",
        "bodies",
        "accounts",
        "orphans",
    ]


async def test_keys_of_purged_bodies_are_the_keys_of_uploads(world: World) -> None:
    await world.append(b"a\r\n")
    row = await world.db.fetchrow("SELECT account_id, content_id, content_hash, size FROM message_contents")
    assert row is not None
    assert await world.keys() == [BlobRef(**row).key]
