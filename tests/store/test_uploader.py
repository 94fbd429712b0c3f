"""The uploader on a real database: every body arrives, whatever fails or dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sora import metrics
from sora.errors import BlobDown, DatabaseDown
from sora.mime.digest import digest
from sora.services import uploads as uploads_module
from sora.services.uploads import BodyLost, Breaker, Uploads
from sora.store import labels
from sora.store.blobs import BlobRef, DirectoryStore, content_hash
from sora.store.bodies import Bodies
from sora.store.cache import Cache
from sora.store.deliveries import NewMessage
from sora.store.staging import SETTLE_S, Staging
from sora.store.upkeep import Upkeep
from sora.store.uploads import PendingUploads
from tests.support.faultproxy import Fault, FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from sora.store.blobs import BlobStore
    from sora.store.db import Database
    from sora.store.store import Store
    from sora.store.uploads import PendingUpload
    from sora.types import AccountId
    from tests.support.swift import SwiftServer

NODE = "node-1"
BODY = b"Subject: x\r\n\r\nhello\r\n"
ROOT = Path(__file__).parents[2]


class Bell:
    """A doorbell of one loop."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, timeout: float | None = None) -> object:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), timeout)
        self._rung.clear()
        return None


class MoodyStore(DirectoryStore):
    """A store that is away when told, and keeps count."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.away = False
        self.puts: list[str] = []
        self.under_way = 0
        self.most_under_way = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def put(self, key: str, data: bytes, label: bytes = b"") -> None:
        await self._moody(key, super().put(key, data, label))

    async def put_file(self, key: str, path: Path, data: bytes, label: bytes = b"") -> None:
        await self._moody(key, super().put_file(key, path, data, label))

    async def _moody(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        self.puts.append(key)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
            if self.away:
                raise BlobDown(detail="away")
            await work
        finally:
            work.close()
            self.under_way -= 1


class House:
    """One node and its database."""

    def __init__(self, store: Store, root: Path, account_id: AccountId, blobs: BlobStore | None = None) -> None:
        self.db: Database = store.db
        self.store = store
        self.root = root
        self.account_id = account_id
        self.staging = Staging(root / "staging", 10**9)
        self.cache = Cache(root / "cache", 10**8, 10**7)
        self.moody = MoodyStore(root / "objects")
        self.blobs: BlobStore = blobs or self.moody
        self.bell = Bell()
        self.pending = PendingUploads(self.db, NODE)
        self.uploads = self.uploader()

    def uploader(self, **options: Any) -> Uploads:
        options.setdefault("poll_s", 0.05)
        return Uploads(self.pending, self.staging, self.blobs, self.cache, self.bell, **options)

    async def deliver(self, body: bytes = BODY, *, stage: bool = True, key: bytes | None = None) -> BlobRef:
        if stage:
            await self.stage(body)
        message = NewMessage(
            account_id=self.account_id,
            mailbox_id=None,
            content_hash=content_hash(body),
            size=len(body),
            internal_date=datetime.now(UTC),
            digest=digest(body),
            key=key,
        )
        (delivered,) = await self.store.messages.deliver([message], NODE)
        return BlobRef(self.account_id, delivered.content_id, message.content_hash, message.size)

    async def stage(self, body: bytes) -> None:
        await self.staging.stage_many([(self.account_id, content_hash(body), body)])

    async def staged(self, ref: BlobRef) -> bool:
        return await self.staging.exists(ref.account_id, ref.content_hash)

    async def claim(self) -> PendingUpload:
        (row,) = await self.pending.claim(10)
        return row

    async def is_uploaded(self, ref: BlobRef) -> bool:
        return bool(
            await self.db.fetchval(
                "SELECT uploaded_at IS NOT NULL FROM message_contents WHERE account_id = $1 AND content_id = $2",
                ref.account_id,
                ref.content_id,
            )
        )

    async def rows(self) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.db.fetch("SELECT * FROM pending_uploads ORDER BY created_at")]

    async def make_due(self) -> None:
        await self.pending.recover()

    async def until(self, condition: Callable[[], Any], timeout: float = 10) -> None:
        """Wait for the database to show something; it has no way to tell us."""
        async with asyncio.timeout(timeout):
            while not await condition():
                await asyncio.sleep(0.01)

    async def is_idle(self) -> bool:
        return not await self.rows()

    async def close(self) -> None:
        self.cache.close()
        self.staging.close()
        self.moody.close()


@pytest.fixture
async def house(store: Store, tmp_path: Path) -> AsyncIterator[House]:
    made = House(store, tmp_path, await store.accounts.create("ann@example.com"))
    await made.moody.prepare()
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def running(uploads: Uploads) -> AsyncIterator[asyncio.Event]:
    """The uploader at work; stopped at the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(uploads.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await task


def counted(result: str) -> float:
    return metrics.uploads.labels(result)._value.get()


# ── one row ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_body_goes_from_staging_to_the_store(house: House) -> None:
    ref = await house.deliver()
    assert await house.staged(ref)
    assert not await house.is_uploaded(ref)
    await house.uploads.upload(await house.claim())
    assert await house.blobs.get(ref.key) == BODY
    assert await house.is_uploaded(ref)
    assert await house.rows() == []
    assert not await house.staged(ref)
    assert await house.cache.read(ref) == BODY


async def test_the_cache_takes_a_copy_where_it_cannot_have_the_file(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await house.deliver()
    link = os.link

    def elsewhere(source: Path, target: Path) -> None:
        if "cache" in str(target):
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", elsewhere)
    await house.uploads.upload(await house.claim())
    await house.cache.stats()
    assert await house.cache.read(ref) == BODY


async def test_the_object_is_compared_before_it_is_sent(house: House, tmp_path: Path) -> None:
    ref = await house.deliver()
    house.staging.path(ref.account_id, ref.content_hash).write_bytes(BODY[:-1] + b"?")
    with pytest.raises(BodyLost):
        await house.uploads.upload(await house.claim())
    assert house.moody.puts == []
    assert len(await house.rows()) == 1
    assert not await house.is_uploaded(ref)
    assert len(list((tmp_path / "staging" / "quarantine").iterdir())) == 1


async def test_a_file_gone_before_the_commit_is_marked_when_the_object_is_right(house: House) -> None:
    ref = await house.deliver()
    await house.blobs.put(ref.key, BODY)
    house.moody.puts.clear()
    assert await house.staging.retire(ref.account_id, ref.content_hash)
    await house.uploads.upload(await house.claim())
    assert await house.is_uploaded(ref)
    assert await house.rows() == []
    assert house.moody.puts == []


@pytest.mark.parametrize("wrong", [b"", BODY[:-1], BODY[:-1] + b"?"])
async def test_a_wrong_object_is_no_proof(house: House, wrong: bytes) -> None:
    ref = await house.deliver()
    await house.blobs.put(ref.key, wrong)
    await house.staging.retire(ref.account_id, ref.content_hash)
    with pytest.raises(BodyLost):
        await house.uploads.upload(await house.claim())
    assert not await house.is_uploaded(ref)
    assert len(await house.rows()) == 1


async def test_a_failed_transaction_keeps_everything(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = await house.deliver()
    row = await house.claim()

    async def interrupted(*_: object) -> bool:
        raise RuntimeError("interrupted")

    monkeypatch.setattr(house.staging, "retire_many", interrupted)
    with pytest.raises(RuntimeError):
        await house.uploads.upload(row)
    assert not await house.is_uploaded(ref)
    assert len(await house.rows()) == 1
    assert await house.staged(ref)


async def test_a_file_that_cannot_be_removed_is_left_to_the_sweep(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await house.deliver()

    async def broken(*_: object) -> bool:
        raise OSError(5, "I/O error")

    monkeypatch.setattr(house.staging, "retire_many", broken)
    await house.uploads.upload(await house.claim())
    assert await house.is_uploaded(ref)
    assert await house.rows() == []


async def test_the_same_bytes_for_another_node_wait_there(house: House, store: Store) -> None:
    """This node's file may go; the other one's row stays until that node has seen to it."""
    ref = await house.deliver()
    await house.db.execute(
        "INSERT INTO pending_uploads (account_id, content_hash, instance_id, content_id, size) "
        "SELECT account_id, content_hash, 'node-2', content_id, size FROM pending_uploads"
    )
    await house.uploads.upload(await house.claim())
    assert [row["instance_id"] for row in await house.rows()] == ["node-2"]
    assert not await house.staged(ref)
    (other,) = await PendingUploads(house.db, "node-2").claim(10)
    assert other.uploaded


async def test_a_file_that_a_later_row_counts_on_stays(house: House) -> None:
    """The row was re-armed for a new content of the same bytes, whose object has another key."""
    ref = await house.deliver()
    row = await house.claim()
    await house.db.execute("UPDATE pending_uploads SET content_id = content_id + 1000")
    await house.uploads.upload(row)
    assert await house.staged(ref)
    assert [left["content_id"] for left in await house.rows()] == [ref.content_id + 1000]


# ── the same bytes again ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_uploaded_is_not_sent_again(house: House) -> None:
    ref = await house.deliver()
    await house.uploads.upload(await house.claim())
    again = await house.deliver()
    assert again == ref
    row = await house.claim()
    assert row.uploaded
    await house.uploads.upload(row)
    assert len(house.moody.puts) == 1
    assert await house.rows() == []
    assert not await house.staged(ref)


@pytest.mark.parametrize("arrives", ["before it is staged", "before it is committed", "when it is there"])
async def test_an_upload_that_ends_after_its_body_was_purged(house: House, arrives: str) -> None:
    """The same bytes come again: they are another content, with an object and an upload of its own.

    What is late leaves an object without a row, and never a row without an object.
    """
    old = await house.deliver()
    late = await house.claim()
    await house.deliver(stage=False)  # arms the claimed row again
    await house.uploads.upload(await house.claim())
    await house.db.execute("DELETE FROM messages")
    assert not await house.staged(old)
    upkeep = Upkeep(house.db)
    gone = await upkeep.begin_purges([{"account_id": old.account_id, "content_id": old.content_id}])  # type: ignore[list-item]
    assert gone == [old]
    await house.blobs.delete(old.key)
    await upkeep.finish_purges(gone)

    async def arrive() -> None:
        await house.blobs.put(old.key, BODY)
        await house.pending.done(late, lambda: house.staging.retire(late.account_id, late.content_hash))

    if arrives == "before it is staged":
        await arrive()
    await house.stage(BODY)
    if arrives == "before it is committed":
        await arrive()
    new = await house.deliver(stage=False)
    if arrives == "when it is there":
        await arrive()
    assert new.content_id != old.content_id
    assert not await house.is_uploaded(new)
    await house.uploads.upload(await house.claim())
    assert await house.is_uploaded(new)
    assert await house.blobs.get(new.key) == BODY


@pytest.mark.parametrize("staged", ["before the unlink", "after the unlink"])
async def test_a_delivery_in_the_middle_of_the_upload_of_the_same_bytes(
    house: House, staged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the content row, then sees it uploaded; at no time is the body out of reach."""
    ref = await house.deliver()
    row = await house.claim()
    in_transaction, go_on = asyncio.Event(), asyncio.Event()
    retire = house.staging.retire_many

    async def slowly(items: Sequence[tuple[AccountId, bytes]]) -> int:
        if staged == "before the unlink":
            in_transaction.set()
            await go_on.wait()
            return await retire(items)
        removed = await retire(items)
        in_transaction.set()
        await go_on.wait()
        return removed

    monkeypatch.setattr(house.staging, "retire_many", slowly)
    upload = asyncio.create_task(house.uploads.upload(row))
    await in_transaction.wait()
    bodies = Bodies(None, house.staging, house.blobs, recent_bytes=0)
    await house.stage(BODY)
    delivery = asyncio.create_task(house.deliver(stage=False))
    await house.until(lambda: _is_waiting_for_a_lock(house.db))
    assert not delivery.done()
    assert await bodies.get(ref) == BODY
    go_on.set()
    assert await delivery == ref
    await upload
    monkeypatch.undo()
    assert await house.staged(ref)  # the second delivery counted on it
    assert await bodies.get(ref) == BODY
    second = await house.claim()
    assert second.uploaded
    await house.uploads.upload(second)
    assert await house.rows() == []
    assert len(house.moody.puts) == 1
    assert await bodies.get(ref) == BODY


async def _is_waiting_for_a_lock(db: Database) -> bool:
    return bool(await db.fetchval("SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock')"))


async def test_a_delivery_while_the_body_is_being_sent(house: House) -> None:
    ref = await house.deliver()
    house.moody.gate.clear()
    upload = asyncio.create_task(house.uploads.upload(await house.claim()))
    await house.until(lambda: _true(bool(house.moody.puts)))
    assert await house.deliver() == ref
    house.moody.gate.set()
    await upload
    assert await house.is_uploaded(ref)
    assert await house.staged(ref)  # spared: it was staged again a moment ago


async def test_a_database_that_is_away_is_no_bug(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Counting and sweeping say so in a line, without a traceback."""
    monkeypatch.setattr(uploads_module, "SWEEP_S", 0.0)
    asked: set[str] = set()

    def away(name: str) -> Callable[..., Any]:
        async def call(*_: object) -> Any:
            asked.add(name)
            raise DatabaseDown

        return call

    await house.stage(BODY)
    await age(house, BODY, SETTLE_S + 60)
    for name in ("backlog", "facts"):
        monkeypatch.setattr(house.pending, name, away(name))
    async with running(house.uploads):
        await house.until(lambda: _true(len(asked) == 2))
        await house.until(lambda: _true(len({record.message for record in caplog.records}) >= 2))
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert not any(record.exc_info for record in caplog.records)


async def _true(value: bool) -> bool:
    return value


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_bell_wakes_it(house: House) -> None:
    async with running(house.uploader(poll_s=3600)):
        ref = await house.deliver()
        house.bell.ring()
        await house.until(house.is_idle)
    assert await house.blobs.get(ref.key) == BODY


async def test_it_looks_for_rows_only_while_there_may_be_some(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed: list[int] = []
    claim = house.pending.claim

    async def spy(limit: int) -> list[PendingUpload]:
        rows = await claim(limit)
        claimed.append(len(rows))
        return rows

    monkeypatch.setattr(house.pending, "claim", spy)
    for number in range(25):
        await house.deliver(BODY + bytes([number]))
    async with running(house.uploader(parallel=2, poll_s=3600)):
        await house.until(house.is_idle)
    assert claimed == [20, 5], "a claim that was not full is the last one"


async def test_without_a_bell_it_looks_by_itself(house: House) -> None:
    async with running(house.uploads):
        ref = await house.deliver()
        await house.until(house.is_idle)
    assert await house.blobs.get(ref.key) == BODY


async def test_many_at_a_time_but_not_too_many(house: House) -> None:
    refs = [await house.deliver(BODY + bytes([number])) for number in range(40)]
    house.moody.gate.clear()
    async with running(house.uploader(parallel=4)):
        await house.until(lambda: _true(house.moody.under_way == 4))
        house.moody.gate.set()
        await house.until(house.is_idle)
    assert house.moody.most_under_way == 4
    for number, ref in enumerate(refs):
        assert await house.blobs.get(ref.key) == BODY + bytes([number])
    assert len(house.moody.puts) == 40


async def test_what_was_sent_together_is_marked_together(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [await house.deliver(BODY + bytes([number])) for number in range(20)]
    marked: list[int] = []
    done_many = house.pending.done_many

    async def counting(rows: Sequence[PendingUpload], unlink: Any) -> None:
        marked.append(len(rows))
        await done_many(rows, unlink)

    monkeypatch.setattr(house.pending, "done_many", counting)
    before = counted("done")
    async with running(house.uploader(parallel=10)):
        await house.until(house.is_idle)
    assert sum(marked) == 20
    assert len(marked) < 20
    assert counted("done") - before == 20
    for ref in refs:
        assert await house.is_uploaded(ref)
        assert not await house.staged(ref)


async def test_one_row_that_cannot_be_marked_does_not_hold_up_the_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [await house.deliver(BODY + bytes([number])) for number in range(8)]
    done_many = house.pending.done_many

    async def picky(rows: Sequence[PendingUpload], unlink: Any) -> None:
        if any(row.content_id == refs[3].content_id for row in rows):
            raise RuntimeError("not this one")
        await done_many(rows, unlink)

    monkeypatch.setattr(house.pending, "done_many", picky)
    async with running(house.uploader(parallel=8)):
        await house.until(lambda: _left(house, 1))
    (row,) = await house.rows()
    assert row["content_id"] == refs[3].content_id
    assert row["last_error"] == "not this one"
    assert await house.staged(refs[3])


async def _left(house: House, number: int) -> bool:
    rows = await house.rows()
    return len(rows) == number and all(row["last_error"] for row in rows)


async def test_a_start_takes_over_what_a_dead_process_had_claimed(house: House) -> None:
    await house.deliver()
    assert await house.claim()
    assert await house.pending.claim(10) == []
    async with running(house.uploads):
        await house.until(house.is_idle)


async def test_a_stop_finishes_what_is_under_way_and_gives_back_the_rest(house: House) -> None:
    for number in range(12):
        await house.deliver(BODY + bytes([number]))
    house.moody.gate.clear()
    async with running(house.uploader(parallel=3)) as stop:
        await house.until(lambda: _true(house.moody.under_way == 3))
        stop.set()
        house.moody.gate.set()
    assert len(house.moody.puts) == 3
    rows = await house.rows()
    assert len(rows) == 9
    assert {row["attempts"] for row in rows} == {0}
    assert len(await house.pending.claim(100)) == 9  # due at once


async def test_a_stop_does_not_wait_for_ever(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "DRAIN_S", 0.05)
    await house.deliver()
    house.moody.gate.clear()
    async with running(house.uploads):
        await house.until(lambda: _true(house.moody.under_way == 1))
    assert len(await house.rows()) == 1


async def test_an_outage_costs_one_probe_at_a_time_and_ends_by_itself(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaker, "FIRST_S", 0.02)
    monkeypatch.setattr(Breaker, "CAP_S", 0.1)
    monkeypatch.setattr(uploads_module, "OUTAGE_BASE_S", 0.01)
    monkeypatch.setattr(uploads_module, "OUTAGE_MAX_S", 0.1)
    refs = [await house.deliver(BODY + bytes([number])) for number in range(30)]
    house.moody.away = True
    before = counted("store_down")
    uploads = house.uploader(parallel=4)
    async with running(uploads):
        await house.until(lambda: _true(not uploads.store_is_up and house.moody.under_way == 0))
        house.moody.most_under_way = 0
        tried = len(house.moody.puts)
        await house.until(lambda: _true(len(house.moody.puts) >= tried + 4))
        assert house.moody.most_under_way == 1
        rows = await house.rows()
        assert len(rows) == 30
        assert sum(row["attempts"] for row in rows) <= len(house.moody.puts)
        assert await _claimed_rows(house) <= 1
        for ref in refs:
            assert await house.staged(ref)
        house.moody.away = False
        await house.until(house.is_idle)
        assert uploads.store_is_up
    assert counted("store_down") - before >= tried + 4
    assert [await house.is_uploaded(ref) for ref in refs] == [True] * 30


async def test_up_to_the_threshold_and_no_further(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the breaker is open nothing is sent until its pause is over: a test without a clock has a long pause."""
    monkeypatch.setattr(Breaker, "FIRST_S", 3600)
    monkeypatch.setattr(Breaker, "CAP_S", 3600)
    for number in range(30):
        await house.deliver(BODY + bytes([number]))
    house.moody.away = True
    uploads = house.uploader(parallel=4)
    async with running(uploads):
        await house.until(lambda: _true(not uploads.store_is_up and house.moody.under_way == 0))
        await house.until(lambda: _none_claimed(house))
        assert len(house.moody.puts) <= 3 + 4  # up to the threshold, and what was under way then
    assert len(await house.rows()) == 30


async def _claimed_rows(house: House) -> int:
    """Rows that are neither due nor waiting after a failure."""
    return sum(row["next_try"] > datetime.now(UTC) + timedelta(seconds=60) for row in await house.rows())


async def _none_claimed(house: House) -> bool:
    return not await _claimed_rows(house)


async def test_a_lost_body_is_kept_and_healed_when_it_turns_up(house: House, caplog: pytest.LogCaptureFixture) -> None:
    lost = await house.deliver(BODY + b"lost")
    await house.staging.retire(lost.account_id, lost.content_hash)
    fine = await house.deliver()
    before = counted("lost")
    async with running(house.uploads):
        await house.until(lambda: house.is_uploaded(fine))
        await house.until(lambda: _noted(house))
        assert house.uploads.store_is_up
    (row,) = await house.rows()
    assert row["content_id"] == lost.content_id
    assert "lost" in row["last_error"]
    assert row["next_try"] > datetime.now(UTC)
    assert counted("lost") == before + 1
    assert any(record.levelname == "ERROR" and "both missing" in record.message for record in caplog.records)
    await house.stage(BODY + b"lost")
    async with running(house.uploads):
        await house.until(house.is_idle)
    assert await house.blobs.get(lost.key) == BODY + b"lost"


async def _noted(house: House) -> bool:
    return any(row["last_error"] for row in await house.rows())


async def test_pauses_of_a_row_grow_and_never_end(house: House) -> None:
    await house.deliver()
    pauses = []
    for _ in range(14):
        await house.make_due()
        row = await house.claim()
        await house.pending.failed(row, "x", base_s=2, max_s=600)
        (found,) = await house.rows()
        pauses.append((found["next_try"] - datetime.now(UTC)).total_seconds())
    assert pauses[0] == pytest.approx(2, abs=0.5)
    assert pauses[3] == pytest.approx(16, abs=0.5)
    assert pauses[-1] == pytest.approx(600, abs=0.5)
    assert found["attempts"] == 14


async def test_an_unknown_error_costs_its_row_a_pause_and_nothing_else(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = await house.deliver(BODY + b"bad")
    good = await house.deliver()
    put = house.moody.put_file

    async def buggy(key: str, path: Path, data: bytes, *rest: bytes) -> None:
        if key == bad.key:
            raise ZeroDivisionError("a bug")
        await put(key, path, data, *rest)

    monkeypatch.setattr(house.moody, "put_file", buggy)
    async with running(house.uploads):
        await house.until(lambda: house.is_uploaded(good))
        await house.until(lambda: _noted(house))
    assert any(record.exc_info and "upload failed" in record.message for record in caplog.records)
    assert [row["content_id"] for row in await house.rows()] == [bad.content_id]


async def test_a_database_that_goes_away_is_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "DATABASE_PAUSE_S", 0.01)
    ref = await house.deliver()
    for name in ("recover", "claim", "done"):
        monkeypatch.setattr(house.pending, name, _failing_twice(getattr(house.pending, name)))
    monkeypatch.setattr("sora.store.uploads.LEASE_S", 0.1)  # what could not be marked is claimed again soon
    async with running(house.uploads):
        await house.until(house.is_idle)
    assert await house.is_uploaded(ref)


def _failing_twice(function: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    async def call(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise DatabaseDown
        return await function(*args)

    return call


async def test_the_backlog_is_counted(house: House) -> None:
    assert (await house.pending.backlog()).pending == 0
    await house.deliver(BODY + b"1")
    await house.deliver()
    await house.db.execute("UPDATE pending_uploads SET created_at = created_at - interval '100 s', attempts = 3 "
                           "WHERE content_hash = $1", content_hash(BODY))  # fmt: skip
    await house.uploads.report()
    status = house.uploads.status()
    assert (status.pending, status.failing) == (2, 1)
    assert 100 <= status.oldest_s < 200
    assert metrics.uploads_pending._value.get() == 2
    assert metrics.uploads_oldest_seconds._value.get() == status.oldest_s


# ── the sweep ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def age(house: House, body: bytes, seconds: float) -> None:
    path = house.staging.path(house.account_id, content_hash(body))
    then = time.time() - seconds
    os.utime(path, (then, then))


async def test_quarantine_is_kept_unless_the_operator_bounds_it(house: House) -> None:
    await house.stage(b"damaged")
    await house.staging.quarantine(house.account_id, content_hash(b"damaged"))
    await house.uploads.sweep()
    assert await house.staging.count_quarantined() == 1
    await house.uploader(quarantine_s=86400.0).sweep()
    assert await house.staging.count_quarantined() == 1
    await house.uploader(quarantine_s=1e-6).sweep()
    assert await house.staging.count_quarantined() == 0
    assert metrics.staging_quarantined._value.get() == 0


async def test_a_fenced_node_uploads_nothing_and_judges_no_file(house: House) -> None:
    fenced = True
    ref = await house.deliver()
    await house.stage(b"orphan")
    orphan = house.staging.path(house.account_id, content_hash(b"orphan"))
    os.utime(orphan, (0, 0))
    uploads = house.uploader(fenced=lambda: fenced)
    async with running(uploads):
        house.bell.ring()
        await uploads.sweep()
        assert await uploads._start_uploads() == 0
        assert len(await house.rows()) == 1
        assert orphan.exists()
        fenced = False
        await house.until(house.is_idle)
        await uploads.sweep()
    assert await house.blobs.get(ref.key) == BODY
    assert not orphan.exists()


async def test_the_sweep(house: House) -> None:
    waiting = await house.deliver(b"waiting")
    await age(house, b"waiting", 10 * uploads_module.ORPHAN_S)
    await house.stage(b"young orphan")
    await age(house, b"young orphan", uploads_module.ORPHAN_S - 60)
    await house.stage(b"old orphan")
    await age(house, b"old orphan", uploads_module.ORPHAN_S + 60)
    spared = await house.deliver(b"spared")
    await house.stage(b"spared")
    fresh = await house.deliver(b"fresh")
    await house.stage(b"fresh")
    forgotten = await house.deliver(b"forgotten")
    for row in await house.pending.claim(10):
        if row.content_id in (spared.content_id, fresh.content_id):
            await house.uploads.upload(row)
    await house.db.execute("DELETE FROM pending_uploads WHERE content_id = $1", forgotten.content_id)
    for body in (b"spared", b"forgotten"):
        await age(house, body, SETTLE_S + 60)
    await house.uploads.sweep()
    left = {file.content_hash for file in await house.staging.list_files()}
    assert left == {content_hash(body) for body in (b"waiting", b"young orphan", b"fresh", b"forgotten")}
    (aside,) = (house.staging.path(house.account_id, content_hash(b"old orphan")).parent / "quarantine").iterdir()
    assert aside.read_bytes() == b"old orphan", "nobody knows whether it is the only copy"
    assert metrics.staging_quarantined._value.get() == await house.staging.count_quarantined() == 1
    assert {row["content_id"] for row in await house.rows()} == {waiting.content_id, forgotten.content_id}
    await house.make_due()
    for row in await house.pending.claim(10):
        await house.uploads.upload(row)
    assert await house.blobs.get(forgotten.key) == b"forgotten"


async def test_the_sweep_goes_through_all_in_batches(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "SWEEP_BATCH", 3)
    for number in range(10):
        body = b"orphan %d" % number
        await house.stage(body)
        await age(house, body, uploads_module.ORPHAN_S + 60)
    await house.uploads.sweep()
    assert await house.staging.list_files() == []


# ── killed ───────────────────────────────────────────────────────────────────────────────────────────────────────────

PROCESS = """
import asyncio, sys
from sora.services.uploads import Uploads
from sora.store.blobs import DirectoryStore
from sora.store.db import Database
from sora.store.staging import Staging
from sora.store.uploads import PendingUploads
from tests.store.test_uploader import NODE, Bell

async def main(dsn, root):
    db = await Database.open(dsn, min_size=1, max_size=2)
    uploads = Uploads(PendingUploads(db, NODE), Staging(root + "/staging", 10**9), DirectoryStore(root + "/objects"),
                      None, Bell(), parallel=1)
    await uploads.run(asyncio.Event())

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("point", "file_is_left", "object_is_there"),
    [
        ("uploader.claimed", True, False),
        ("uploader.put", True, True),
        ("uploader.marked", True, True),
        ("uploader.unlinked", False, True),
    ],
)
async def test_killed_at_every_step(
    house: House, dsn: str, tmp_path: Path, point: str, file_is_left: bool, object_is_there: bool
) -> None:
    ref = await house.deliver()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROCESS, dsn, str(tmp_path),
        cwd=ROOT, env={**os.environ, "SORA_CRASH_AT": point}, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert await house.staged(ref) is file_is_left
    keys = [entry.key async for entry in house.blobs.list()]
    assert keys == ([ref.key] if object_is_there else [])
    assert len(await house.rows()) == 1
    assert not await house.is_uploaded(ref)
    bodies = Bodies(None, house.staging, house.blobs)
    assert await bodies.get(ref) == BODY
    async with running(house.uploads):
        await house.until(house.is_idle)
    assert await house.is_uploaded(ref)
    assert not await house.staged(ref)
    assert await house.blobs.get(ref.key) == BODY


# ── on S3 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_s3_that_goes_away_and_comes_back(
    store: Store, tmp_path: Path, s3_server: SwiftServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaker, "FIRST_S", 0.02)
    monkeypatch.setattr(Breaker, "CAP_S", 0.1)
    monkeypatch.setattr(uploads_module, "OUTAGE_BASE_S", 0.01)
    monkeypatch.setattr(uploads_module, "OUTAGE_MAX_S", 0.1)
    with FaultProxy(s3_server.port) as proxy:
        blobs = s3_server.store("uploads", endpoint=proxy.endpoint)
        await blobs.prepare()
        house = House(store, tmp_path, await store.accounts.create("ann@example.com"), blobs)
        async with running(house.uploader(parallel=3)):
            refs = []
            for fault, amount in ((Fault.LOST_REPLY, 0), (Fault.RESET_REQUEST, 50), (Fault.UNAVAILABLE, 0)):
                proxy.set(fault, amount)
                proxy.cut()
                made = proxy.connections
                refs += [await house.deliver(BODY + fault.name.encode() + bytes([number])) for number in range(4)]
                await house.until(lambda made=made: _true(proxy.connections >= made + 3))
            assert len(await house.rows()) == 12
            proxy.set(Fault.OK)
            proxy.cut()
            await house.until(house.is_idle)
        for ref in refs:
            assert ref.matches(await blobs.get(ref.key))
        await house.close()
        blobs.close()


async def test_an_object_says_where_its_message_was(house: House) -> None:
    """With the upload: a rebuild finds mail that no segment of the journal knows."""
    ref = await house.deliver()
    box = await house.db.fetchrow(
        "SELECT mailbox_id, uidvalidity FROM mailboxes WHERE account_id = $1 AND name = 'INBOX'", house.account_id
    )
    assert box is not None
    await house.db.execute("SELECT register_keywords($1, '{$Junk}')", house.account_id)
    await house.db.execute(
        "SELECT store_flags($1, $2, '{1}', '{1}', '{0,2,16}', '{}')", house.account_id, box["mailbox_id"]
    )
    await house.uploads.upload(await house.claim())
    label = labels.read(await house.blobs.label(ref.key), ref.key, None)
    assert label is not None
    (place,) = label.places
    assert (label.account_id, label.content_id, label.size) == (ref.account_id, ref.content_id, ref.size)
    assert (place.mailbox_id, place.name, place.uidvalidity, place.uid) == (
        box["mailbox_id"], "INBOX", box["uidvalidity"], 1,
    )  # fmt: skip
    assert place.flags == ("\\Seen", "\\Flagged", "$Junk")
    assert [entry.key async for entry in house.blobs.list()] == [ref.key]


async def test_an_expunged_message_is_in_no_label(house: House) -> None:
    ref = await house.deliver()
    await house.db.execute(
        "SELECT expunge($1, mailbox_id, '{1}', '{1}', false) FROM mailboxes WHERE account_id = $1 AND name = 'INBOX'",
        house.account_id,
    )
    await house.uploads.upload(await house.claim())
    label = labels.read(await house.blobs.label(ref.key), ref.key, None)
    assert label is not None
    assert label.places == ()
