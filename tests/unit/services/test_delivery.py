"""Delivery without PostgreSQL: what is batched, stamped, retried and answered. Staging is the real one."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from msgspec.structs import replace

from sora.errors import Busy, DatabaseDown, NotFound, OverQuota, StagingFull, Unavailable
from sora.mime.digest import digest
from sora.services import commits, delivery, lanes, letters
from sora.services.delivery import AppendItem, Delivery, MailEnvelope, MailLoop
from sora.services.lanes import FULL_LANE
from sora.services.recipients import Recipient
from sora.store.account_keys import NoKeys
from sora.store.deliveries import Delivered
from sora.store.sealing import AccountKey, Unsealed
from sora.store.staging import Staging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from sora.store.deliveries import NewMessage
    from sora.store.sealing import Sealer
    from sora.types import AccountId

NOON = datetime(2026, 3, 5, 12, 0, 0, tzinfo=UTC)
LETTER = b"From: a@example.org\r\nSubject: Hello\r\n\r\nbody\r\n"
INBOX = 900


class Messages:
    """A database in memory: rows that were committed, and a script of what goes wrong."""

    def __init__(self, staging: Staging) -> None:
        self.staging = staging
        self.calls: list[list[NewMessage]] = []
        self.bodies: list[list[bytes] | None] = []
        self.rows: list[NewMessage] = []
        self.before: list[Callable[[Sequence[NewMessage]], Any]] = []
        self.after: list[Callable[[Sequence[NewMessage]], Any]] = []
        self.witness_errors: list[Exception] = []
        self.witness_calls = 0
        self.poison: dict[bytes, Exception] = {}
        self.missing: int | None = -1
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.held: dict[int, asyncio.Future[bool]] = {}
        """Accounts that somebody else has locked, until there is a result; False: nobody has waited so long."""
        self.waited: list[list[int]] = []

    async def deliver(
        self,
        batch: Sequence[NewMessage],
        instance_id: str,
        bodies: Sequence[Sequence[bytes]] | None = None,
        *,
        patient: bool = True,
    ) -> list[Delivered]:
        assert instance_id == "node-1"
        if patient:
            await self._wait_for_locks(batch)
        locked = [row for row in batch if row.account_id in self.held]
        self.calls.append(list(batch))
        self.bodies.append(bodies and [b"".join(pieces) for pieces in bodies])
        self.entered.set()
        await self.gate.wait()
        if any(row.mailbox_id == self.missing for row in batch):
            raise NotFound
        for row in batch:
            assert self.staging.path(row.account_id, row.content_hash).exists(), "committed before it was staged"
            for word, error in self.poison.items():
                if word in self.staging.path(row.account_id, row.content_hash).read_bytes():
                    raise error
        if self.before:
            self.before.pop(0)(batch)
        self.rows += [row for row in batch if row not in locked]
        delivered = [self._locked(row) if row in locked else self._delivered(row) for row in batch]
        if self.after:
            self.after.pop(0)(batch)
        return delivered

    async def _wait_for_locks(self, batch: Sequence[NewMessage]) -> None:
        accounts = [row.account_id for row in batch]
        self.waited.append(list(accounts))
        for account_id in accounts:
            if account_id in self.held and not await asyncio.shield(self.held[account_id]):
                raise lock_timeout()

    def hold(self, *accounts: int) -> None:
        """Somebody else locks the INBOX of these."""
        self.held |= {account_id: asyncio.get_running_loop().create_future() for account_id in accounts}

    def free(self, account_id: int) -> None:
        self.held.pop(account_id).set_result(True)

    def time_out(self, account_id: int) -> None:
        """Whoever waits for this mailbox has waited long enough; it stays locked."""
        self.held[account_id].set_result(False)

    def _locked(self, row: NewMessage) -> Delivered:
        return Delivered(row.account_id, row.mailbox_id or INBOX + row.account_id, 0, 0, 77, 0, locked=True)

    async def find_witnesses(self, batch: Sequence[NewMessage]) -> list[Delivered | None]:
        self.witness_calls += 1
        if self.witness_errors:
            raise self.witness_errors.pop(0)
        return [self._delivered(row) if row in self.rows else None for row in batch]

    def _delivered(self, row: NewMessage) -> Delivered:
        number = self.rows.index(row) + 1
        return Delivered(
            account_id=row.account_id,
            mailbox_id=row.mailbox_id or INBOX,
            uid=number,
            uidvalidity=77,
            modseq=100 + number,
            content_id=1000 + number,
            duplicate=False,
        )


class Keys(NoKeys):
    """A key for each account, the same each time."""

    def peek(self, account_id: AccountId) -> Sealer:
        return AccountKey(account_id, bytes(32))


class Doorbell:
    def __init__(self) -> None:
        self.rung: list[int] = []

    def ring(self, content_ids: Iterable[int]) -> None:
        self.rung += content_ids


class Changes:
    def __init__(self) -> None:
        self.published: list[tuple[int, int, int]] = []

    def publish(self, account_id: int, mailbox_id: int, modseq: int) -> None:
        self.published.append((account_id, mailbox_id, modseq))


class World:
    """A delivery service and what it leaves behind."""

    def __init__(self, folder: Path, *, lanes: int = 1, staging_size: int = 10**9, copies: bool = False) -> None:
        self.folder = folder
        self.now = NOON
        self.fenced = False
        self.staging = Staging(folder, staging_size)
        self.messages = Messages(self.staging)
        self.doorbell = Doorbell()
        self.changes = Changes()
        self.delivery = Delivery(
            self.messages,  # type: ignore[arg-type]
            self.staging,
            self.changes,  # type: ignore[arg-type]
            self.doorbell,
            instance_id="node-1",
            host="store.example.com",
            lanes=lanes,
            copies=copies,
            fenced=lambda: self.fenced,
            clock=lambda: self.now,
        )

    def staged(self) -> list[bytes]:
        return sorted(path.read_bytes() for path in self.folder.glob("*.eml"))

    async def send(self, text: bytes = LETTER, *accounts: int, sender: str = "s@example.org") -> list[Any]:
        return await self.delivery.deliver(text, envelope(*(accounts or (1,)), sender=sender))

    async def hold(self) -> asyncio.Task[list[Any]]:
        """Occupy the only lane with a message until the gate opens."""
        self.messages.gate.clear()
        task = asyncio.create_task(self.send(b"Subject: first\r\n\r\n"))
        await self.messages.entered.wait()
        return task


def to(account_id: int, text: str = "", mailbox_id: int | None = None) -> Recipient:
    return Recipient(text or f"u{account_id}@example.com", account_id, f"u{account_id}@example.com", mailbox_id)


def envelope(*recipients: int | Recipient, sender: str = "s@example.org") -> MailEnvelope:
    known = tuple(to(item) if isinstance(item, int) else item for item in recipients)
    return MailEnvelope(sender=sender, recipients=known, hello="mx.example.net", peer="192.0.2.1", id="x-1")


def lock_timeout() -> Busy:
    busy = Busy()
    busy.__cause__ = asyncpg.LockNotAvailableError("lock timeout")
    return busy


def lose(*, maybe_done: bool = True) -> Callable[[Sequence[NewMessage]], Any]:
    def fail(_: Sequence[NewMessage]) -> None:
        raise DatabaseDown(detail="connection lost", maybe_done=maybe_done)

    return fail


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "staging")
    yield world
    await world.delivery.close()
    world.staging.close()


class TestMessage:
    async def test_is_stamped_staged_and_committed(self, world: World) -> None:
        assert await world.send() == [None]
        (body,) = world.staged()
        (row,) = world.messages.rows
        assert body == (
            b"Return-Path: <s@example.org>\r\nDelivered-To: u1@example.com\r\n"
            b"Received: from mx.example.net ([192.0.2.1])\r\n"
            b"\tby store.example.com with LMTP id x-1\r\n\tfor <u1@example.com>;\r\n"
            b"\tThu, 5 Mar 2026 12:00:00 +0000\r\n" + LETTER
        )
        assert row.content_hash == hashlib.blake2b(body, digest_size=32).digest()
        assert row.size == len(body)
        assert row.internal_date == NOON
        assert (row.account_id, row.mailbox_id) == (1, None)

    async def test_copies_are_the_octets_that_are_staged(self, tmp_path: Path) -> None:
        world = World(tmp_path, copies=True)
        assert await world.send(LETTER, 1, 2) == [None, None]
        assert sorted(body for bodies in world.messages.bodies for body in bodies or ()) == world.staged()
        await world.delivery.close()
        world.staging.close()

    async def test_without_copies_none_are_handed_over(self, world: World) -> None:
        await world.send()
        assert world.messages.bodies == [None]

    async def test_a_fenced_node_takes_no_mail(self, world: World) -> None:
        world.fenced = True
        (error,) = await world.send()
        assert isinstance(error, Unavailable)
        assert world.staged() == world.messages.calls == []
        world.fenced = False
        assert await world.send() == [None]

    async def test_wakes_uploader_and_watchers(self, world: World) -> None:
        await world.send()
        assert world.doorbell.rung == [1001]
        assert world.changes.published == [(1, INBOX, 101)]

    async def test_header_and_search_text_have_the_trace_fields(self, world: World) -> None:
        await world.send()
        (body,) = world.staged()
        (row,) = world.messages.rows
        assert row.digest.header is not None
        stored = digest(body)
        assert (row.trace + row.digest.header, row.trace_text + row.digest.header_text) == (
            stored.header, stored.header_text
        )  # fmt: skip
        assert replace(row.digest, header=stored.header, header_text=stored.header_text) == stored

    async def test_large_message_leaves_the_loop_alone(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        threads = []
        real = letters.mime_digest.digest

        def spy(*args: Any, **kwargs: Any) -> Any:
            threads.append(threading.current_thread())
            return real(*args, **kwargs)

        monkeypatch.setattr(letters.mime_digest, "digest", spy)
        await world.send(LETTER + b"x" * delivery.INLINE_BYTES)
        await world.send()
        assert threads[0] is not threading.main_thread()
        assert threads[1] is threading.main_thread()

    @pytest.mark.parametrize("piece", [b"To: a@b\r\n", b"a@b,", b"=?x?q?y?= ", b"\r\n--b\r\n\r\n"])
    @pytest.mark.parametrize("path", ["lmtp", "append"])
    async def test_so_does_one_with_much_to_parse(
        self, world: World, monkeypatch: pytest.MonkeyPatch, piece: bytes, path: str
    ) -> None:
        inline = []
        real = letters.mime_digest.digest

        def spy(*args: Any, **kwargs: Any) -> Any:
            inline.append(threading.current_thread() is threading.main_thread())
            return real(*args, **kwargs)

        monkeypatch.setattr(letters.mime_digest, "digest", spy)
        for text in (piece * 5_000, b"x" * len(piece) * 5_000, piece * 100):
            if path == "lmtp":
                assert await world.send(LETTER[:-8] + text) == [None]
            else:
                await world.delivery.append(1, 5, [AppendItem(LETTER[:-8] + text)])
        assert inline == [False, True, True]


class TestRecipients:
    async def test_one_mailbox_named_twice_gets_one_message_and_two_answers(self, world: World) -> None:
        outcome = await world.delivery.deliver(LETTER, envelope(to(1), to(1, "alias@example.com")))
        assert outcome == [None, None]
        assert len(world.messages.rows) == 1
        (body,) = world.staged()
        assert body.count(b"Delivered-To:") == 1
        assert b"alias@example.com" not in body
        assert b"\tfor <" not in body

    async def test_two_mailboxes_of_an_account_share_the_body(self, world: World) -> None:
        outcome = await world.delivery.deliver(LETTER, envelope(to(1), to(1, "u1+x@example.com", mailbox_id=5)))
        assert outcome == [None, None]
        first, second = world.messages.rows
        assert {first.mailbox_id, second.mailbox_id} == {None, 5}
        assert first.content_hash == second.content_hash
        assert len(world.staged()) == 1

    async def test_accounts_see_nothing_of_each_other(self, world: World) -> None:
        await world.send(LETTER, 1, 2)
        bodies = world.staged()
        assert len(bodies) == 2
        assert sorted(body.count(b"u1@example.com") for body in bodies) == [0, 2]
        assert sorted(body.count(b"u2@example.com") for body in bodies) == [0, 2]

    async def test_each_has_its_own_outcome_in_order(self, world: World) -> None:
        world.messages.poison[b"u2@example.com"] = OverQuota()
        world.messages.poison[b"u4@example.com"] = NotFound()
        outcome = await world.send(LETTER, 4, 1, 2, 3)
        assert [type(error) for error in outcome] == [NotFound, type(None), OverQuota, type(None)]
        assert [row.account_id for row in world.messages.rows] == [1, 3]

    async def test_a_detail_mailbox_that_went_away_means_inbox(self, world: World) -> None:
        world.messages.missing = 5
        outcome = await world.delivery.deliver(LETTER, envelope(to(1, "u1+x@example.com", mailbox_id=5)))
        assert outcome == [None]
        assert [row.mailbox_id for row in world.messages.rows] == [None]

    async def test_without_an_inbox_nobody_lives_there(self, world: World) -> None:
        world.messages.missing = None
        (error,) = await world.send()
        assert isinstance(error, NotFound)


class TestLoops:
    async def test_too_many_hops(self, world: World) -> None:
        (error,) = await world.send(b"Received: x\r\n" * 51 + LETTER)
        assert isinstance(error, MailLoop)
        assert world.staged() == []

    async def test_as_many_hops_as_allowed(self, world: World) -> None:
        assert await world.send(b"Received: x\r\n" * 50 + LETTER) == [None]

    async def test_own_delivered_to_stops_only_that_recipient(self, world: World) -> None:
        outcome = await world.send(b"Delivered-To: U2@Example.com\r\n" + LETTER, 1, 2)
        assert outcome[0] is None
        assert isinstance(outcome[1], MailLoop)

    async def test_delivered_to_in_the_body_is_text(self, world: World) -> None:
        assert await world.send(LETTER + b"Delivered-To: u1@example.com\r\n") == [None]


class TestDedupeKey:
    async def test_a_retry_has_the_key_of_the_first_try(self, world: World) -> None:
        await world.send()
        world.now += timedelta(minutes=5)
        await world.send()
        first, second = world.messages.rows
        assert first.key == second.key
        assert first.content_hash != second.content_hash

    async def test_an_alias_of_the_same_mailbox_is_the_same_delivery(self, world: World) -> None:
        await world.delivery.deliver(LETTER, envelope(to(1), to(1, "alias@example.com")))
        await world.delivery.deliver(LETTER, envelope(to(1, "alias@example.com")))
        first, second = world.messages.rows
        assert first.key == second.key

    async def test_bytes_sender_and_account_count(self, world: World) -> None:
        await world.send(LETTER, 1, 2)
        await world.send(LETTER + b".", 1)
        await world.send(LETTER, 1, sender="other@example.org")
        await world.send(LETTER, 1, sender="")
        assert len({row.key for row in world.messages.rows}) == 5

    async def test_append_has_none(self, world: World) -> None:
        await world.delivery.append(1, 5, [AppendItem(LETTER), AppendItem(LETTER)])
        first, second = world.messages.rows
        assert first.key is None
        assert second.key is None
        assert first.append_id != second.append_id


class TestBatches:
    async def test_what_waits_goes_together(self, world: World) -> None:
        first = await world.hold()
        others = [asyncio.create_task(world.send(b"n: %d\r\n\r\n" % number, number)) for number in range(1, 11)]
        await settle(world, waiting=10)
        world.messages.gate.set()
        assert await asyncio.gather(first, *others) == [[None]] * 11
        assert [len(call) for call in world.messages.calls] == [1, 10]

    async def test_who_is_about_to_hand_in_is_let(self, world: World) -> None:
        async def later(turns: int) -> list[Any]:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await world.send(b"n: %d\r\n\r\n" % turns)

        assert await asyncio.gather(*map(later, (0, 2, 4))) == [[None]] * 3
        assert [len(call) for call in world.messages.calls] == [3]

    async def test_at_most_so_many(self, world: World) -> None:
        first = await world.hold()
        others = [asyncio.create_task(world.send(b"n: %d\r\n\r\n" % number, number)) for number in range(1, 101)]
        await settle(world, waiting=100)
        world.messages.gate.set()
        await asyncio.gather(first, *others)
        assert [len(call) for call in world.messages.calls] == [1, 64, 36]

    async def test_at_most_so_large(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(world.delivery._commits._lanes, "_max_bytes", 4000)
        first = await world.hold()
        texts = [b"n: %d\r\n\r\n" % number + b"x" * size for number, size in enumerate((1000, 1000, 9000, 10, 10))]
        others = [asyncio.create_task(world.send(text)) for text in texts]
        await settle(world, waiting=5)
        world.messages.gate.set()
        await asyncio.gather(first, *others)
        assert [len(call) for call in world.messages.calls] == [1, 2, 1, 2]

    @pytest.mark.parametrize("why", ["many wait", "the first is large"])
    async def test_a_second_lane_opens_where_it_helps(self, tmp_path: Path, why: str) -> None:
        world = World(tmp_path, lanes=2)
        first = b"x: y\r\n\r\n" + b"x" * (2 * 1024 * 1024 if why == "the first is large" else 1)
        others = FULL_LANE if why == "many wait" else 1
        world.messages.gate.clear()
        tasks = [asyncio.create_task(world.send(first))]
        await world.messages.entered.wait()
        world.messages.entered.clear()
        tasks += [asyncio.create_task(world.send(LETTER, number)) for number in range(2, 2 + others)]
        await world.messages.entered.wait()
        assert [len(call) for call in world.messages.calls] == [1, others]
        world.messages.gate.set()
        assert await asyncio.gather(*tasks) == [[None]] * (1 + others)
        world.staging.close()

    async def test_nobody_waits_long_behind_a_batch_that_is_stuck(self, tmp_path: Path) -> None:
        """It may wait for the lock of one mailbox until the lock timeout, and the other lane is free."""
        world = World(tmp_path, lanes=2)
        first = await world.hold()
        world.messages.entered.clear()
        second = asyncio.create_task(world.send(LETTER, 2))
        await world.messages.entered.wait()
        assert [len(call) for call in world.messages.calls] == [1, 1]
        world.messages.gate.set()
        assert await asyncio.gather(first, second) == [[None]] * 2
        world.staging.close()

    async def test_else_the_next_batch_gathers_behind_the_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "STALLED_S", 3600.0)
        world = World(tmp_path, lanes=2)
        first = await world.hold()
        others = [asyncio.create_task(world.send(LETTER, number)) for number in range(2, 1 + FULL_LANE)]
        await settle(world, waiting=FULL_LANE - 1)
        assert len(world.messages.calls) == 1
        world.messages.gate.set()
        await asyncio.gather(first, *others)
        assert [len(call) for call in world.messages.calls] == [1, FULL_LANE - 1]
        world.staging.close()

    async def test_a_session_that_went_away_harms_nobody(self, world: World) -> None:
        first = await world.hold()
        gone = asyncio.create_task(world.send(LETTER, 2))
        stays = asyncio.create_task(world.send(LETTER, 3))
        await settle(world, waiting=2)
        gone.cancel()
        world.messages.gate.set()
        assert await stays == [None]
        await first
        assert [row.account_id for row in world.messages.rows] == [1, 2, 3]

    async def test_close_waits_for_what_was_taken(self, world: World) -> None:
        first = await world.hold()
        closing = asyncio.create_task(world.delivery.close())
        await asyncio.sleep(0)
        assert not closing.done()
        world.messages.gate.set()
        await closing
        assert await first == [None]

    async def test_a_bug_answers_everybody_and_ends_no_lane(self, world: World) -> None:
        def bug(_: Sequence[NewMessage]) -> None:
            raise ZeroDivisionError

        world.messages.before.append(bug)
        (error,) = await world.send()
        assert isinstance(error, Unavailable)
        assert await world.send() == [None]


async def settle(world: World, waiting: int) -> None:
    """Until so many units wait for the lane."""
    while len(world.delivery._commits._lanes._waiting) < waiting:
        await asyncio.sleep(0)


class TestRefusedBatch:
    async def test_only_the_bad_one_fails(self, world: World) -> None:
        first = await world.hold()
        world.messages.poison[b"poison"] = asyncpg.UntranslatableCharacterError("bad text")
        texts = [b"n: 1\r\n\r\n", b"n: poison\r\n\r\n", b"n: 3\r\n\r\n"]
        others = [asyncio.create_task(world.send(text)) for text in texts]
        await settle(world, waiting=3)
        world.messages.gate.set()
        await first
        good, bad, also_good = await asyncio.gather(*others)
        assert good == also_good == [None]
        assert isinstance(bad[0], Unavailable)
        assert [len(call) for call in world.messages.calls] == [1, 3, 1, 1, 1]
        assert world.messages.witness_calls == 0

    async def test_a_lock_that_is_not_had_harms_only_its_own_mailbox(self, world: World) -> None:
        world.messages.poison[b"u2@example.com"] = lock_timeout()
        outcome = await world.send(LETTER, 1, 2, 3)
        assert [type(error) for error in outcome] == [type(None), Busy, type(None)]

    async def test_a_locked_mailbox_is_waited_for_once(self, world: World) -> None:
        """Each wait takes as long as the lock timeout, and blocks the lane for everybody else."""
        first = await world.hold()
        world.messages.poison[b"u2@example.com"] = lock_timeout()
        texts = [b"n: %d\r\n\r\n" % number for number in range(5)]
        others = [asyncio.create_task(world.send(text, 2)) for text in texts]
        others.append(asyncio.create_task(world.send(LETTER, 3)))
        await settle(world, waiting=6)
        world.messages.gate.set()
        await first
        outcomes = await asyncio.gather(*others)
        assert [type(error) for (error,) in outcomes] == [Busy] * 5 + [type(None)]
        assert [len(call) for call in world.messages.calls] == [1, 6, 1, 1]

    async def test_a_refused_batch_does_not_block_its_lane_for_ever(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(commits, "ALONE_S", -1.0)
        world.messages.poison[b"u2@example.com"] = asyncpg.UntranslatableCharacterError("bad text")
        outcome = await world.send(LETTER, 1, 2, 3)
        assert [type(error) for error in outcome] == [Busy] * 3
        assert len(world.messages.calls) == 1

    async def test_without_a_connection_nobody_is_tried_alone(self, world: World) -> None:
        world.messages.poison[b"u2@example.com"] = Busy()
        outcome = await world.send(LETTER, 1, 2, 3)
        assert [type(error) for error in outcome] == [Busy] * 3
        assert len(world.messages.calls) == 1

    async def test_staged_files_stay(self, world: World) -> None:
        world.messages.poison[b"body"] = asyncpg.UntranslatableCharacterError("no")
        await world.send()
        assert len(world.staged()) == 1

    async def test_all_of_an_append_or_none(self, world: World) -> None:
        world.messages.poison[b"poison"] = OverQuota()
        with pytest.raises(OverQuota):
            await world.delivery.append(1, 5, [AppendItem(b"a: b\r\n\r\n"), AppendItem(b"a: poison\r\n\r\n")])
        assert world.messages.rows == []
        assert [len(call) for call in world.messages.calls] == [2]


class TestLockedMailbox:
    async def test_steps_aside_and_holds_up_nobody(self, world: World) -> None:
        """The only lane goes on while two mailboxes are waited for."""
        world.messages.hold(2, 3)
        locked = [asyncio.create_task(world.send(LETTER, account)) for account in (2, 3)]
        assert await world.send(LETTER, 1) == [None]
        assert [await world.send(b"n: %d\r\n\r\n" % number, 4) for number in range(3)] == [[None]] * 3
        assert not any(task.done() for task in locked)
        assert {row.account_id for row in world.messages.rows} == {1, 4}
        world.messages.free(2)
        assert await locked[0] == [None]
        assert not locked[1].done()
        world.messages.free(3)
        assert await locked[1] == [None]
        assert world.messages.waited == [[2], [3]]

    async def test_others_of_its_batch_are_committed_with_the_first_call(self, world: World) -> None:
        world.messages.hold(2)
        sending = asyncio.create_task(world.send(LETTER, 1, 2, 3))
        await waited(world, 1)
        assert [[row.account_id for row in call] for call in world.messages.calls] == [[1, 2, 3]]
        assert [row.account_id for row in world.messages.rows] == [1, 3]
        assert len(world.doorbell.rung) == len(world.changes.published) == 2
        world.messages.free(2)
        assert await sending == [None] * 3
        assert len(world.doorbell.rung) == len(world.changes.published) == 3
        assert len(world.staged()) == 3, "what waited was not staged again"

    async def test_what_comes_meanwhile_waits_with_it(self, world: World) -> None:
        world.messages.hold(2)
        tasks = [asyncio.create_task(world.send(b"n: 0\r\n\r\n", 2))]
        await waited(world, 1)
        tasks += [asyncio.create_task(world.send(b"n: %d\r\n\r\n" % number, 2)) for number in (1, 2)]
        while len(waiting_aside(world)) < 2:
            await asyncio.sleep(0)
        assert world.messages.waited == [[2]]
        world.messages.free(2)
        assert await asyncio.gather(*tasks) == [[None]] * 3
        assert world.messages.waited == [[2], [2, 2]]

    async def test_all_of_an_append_or_none(self, world: World) -> None:
        world.messages.hold(2)
        appending = asyncio.create_task(world.delivery.append(2, 5, [AppendItem(LETTER), AppendItem(b"a: b\r\n\r\n")]))
        await waited(world, 1)
        assert world.messages.rows == []
        world.messages.free(2)
        assert (await appending).uids == (1, 2)

    async def test_who_waits_in_vain_is_told_to_come_again(self, world: World) -> None:
        world.messages.hold(2)
        tasks = [asyncio.create_task(world.send(b"n: %d\r\n\r\n" % number, 2)) for number in range(3)]
        await waited(world, 1)
        world.messages.time_out(2)
        assert [type(error) for task in tasks for error in await task] == [Busy] * 3
        assert world.messages.waited == [[2, 2, 2]], "one has spoken for all"
        assert len(world.staged()) == 3

    async def test_only_so_many_are_waited_for(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whose turn does not come is tried once more: it may be free by now, or not."""
        world.delivery._commits._patience._turn_s = 0.0
        world.messages.hold(2, 3, 4, 5)
        first = [asyncio.create_task(world.send(LETTER, account)) for account in (2, 3)]
        await waited(world, 2)
        world.messages.before.append(lambda batch: world.messages.free(5))
        free = asyncio.create_task(world.send(LETTER, 5))
        assert await free == [None]
        (error,) = await world.send(LETTER, 4)
        assert isinstance(error, Busy)
        assert sorted(world.messages.waited) == [[2], [3]]
        world.messages.free(2)
        world.messages.free(3)
        assert await asyncio.gather(*first) == [[None]] * 2

    async def test_a_bad_one_that_waits_fails_alone(self, world: World) -> None:
        world.messages.hold(2)
        texts = [b"n: 1\r\n\r\n", b"n: poison\r\n\r\n", b"n: 3\r\n\r\n"]
        tasks = [asyncio.create_task(world.send(text, 2)) for text in texts]
        await waited(world, 1)
        world.messages.poison[b"poison"] = asyncpg.UntranslatableCharacterError("bad text")
        world.messages.free(2)
        assert [type(error) for task in tasks for error in await task] == [type(None), Unavailable, type(None)]

    async def test_a_lost_answer_is_looked_for(self, world: World) -> None:
        world.messages.hold(2)
        sending = asyncio.create_task(world.send(LETTER, 2))
        await waited(world, 1)
        world.messages.after.append(lose())
        world.messages.free(2)
        assert await sending == [None]
        assert len(world.messages.rows) == 1
        assert world.messages.witness_calls == 1

    async def test_too_late_for_its_staged_file(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commits, "ALONE_S", -1.0)
        world.messages.hold(2)
        (error,) = await world.send(LETTER, 2)
        assert isinstance(error, Busy)
        assert world.messages.waited == []

    async def test_a_node_that_is_fenced_meanwhile_stores_nothing(self, world: World) -> None:
        world.messages.hold(2)

        def fence(_: Sequence[NewMessage]) -> None:
            world.fenced = True

        world.messages.after.append(fence)
        (error,) = await world.send(LETTER, 2)
        assert isinstance(error, Unavailable)
        assert world.messages.rows == world.messages.waited == []

    async def test_a_bug_answers_everybody(self, world: World) -> None:
        def bug(_: Sequence[NewMessage]) -> None:
            raise ZeroDivisionError

        world.messages.hold(2)
        sending = asyncio.create_task(world.send(LETTER, 2))
        await waited(world, 1)
        world.messages.before.append(bug)
        world.messages.free(2)
        (error,) = await sending
        assert isinstance(error, Unavailable)
        assert await world.send(LETTER, 2) == [None]

    async def test_close_waits_for_it(self, world: World) -> None:
        world.messages.hold(2)
        sending = asyncio.create_task(world.send(LETTER, 2))
        await waited(world, 1)
        closing = asyncio.create_task(world.delivery.close())
        while world.delivery._commits._lanes._tasks:
            await asyncio.sleep(0)
        assert not closing.done()
        world.messages.free(2)
        await closing
        assert await sending == [None]


async def waited(world: World, count: int) -> None:
    """Until so many calls have waited for a lock."""
    while len(world.messages.waited) < count:
        await asyncio.sleep(0)


def waiting_aside(world: World) -> list[lanes.Unit]:
    return [unit for units in world.delivery._commits._patience._items.values() for unit in units]


class TestLostAnswer:
    async def test_committed(self, world: World) -> None:
        world.messages.after.append(lose())
        assert await world.send() == [None]
        assert len(world.messages.calls) == 1
        assert len(world.messages.rows) == 1
        assert world.doorbell.rung == [1001]
        assert world.changes.published == [(1, INBOX, 101)]

    async def test_not_committed_is_delivered_again(self, world: World) -> None:
        world.messages.before.append(lose())
        assert await world.send() == [None]
        assert len(world.messages.calls) == 2
        assert len(world.messages.rows) == 1

    async def test_each_unit_by_its_own_witness(self, world: World) -> None:
        def half(batch: Sequence[NewMessage]) -> None:
            world.messages.rows.append(batch[0])
            lose()(batch)

        world.messages.before.append(half)
        assert await world.send(LETTER, 1, 2) == [None, None]
        assert [len(call) for call in world.messages.calls] == [2, 1]
        assert sorted(row.account_id for row in world.messages.rows) == [1, 2]

    async def test_lost_again_is_a_temporary_failure(self, world: World) -> None:
        world.messages.before += [lose(), lose()]
        (error,) = await world.send()
        assert isinstance(error, DatabaseDown)
        assert not error.maybe_done, "the witnesses have said so"
        assert world.messages.rows == []
        assert len(world.staged()) == 1

    async def test_lost_again_but_committed(self, world: World) -> None:
        world.messages.before.append(lose())
        world.messages.after.append(lose())
        assert await world.send() == [None]
        assert len(world.messages.rows) == 1

    async def test_witnesses_are_waited_for(self, world: World) -> None:
        world.messages.after.append(lose())
        world.messages.witness_errors += [DatabaseDown(), DatabaseDown()]
        assert await world.send() == [None]
        assert world.messages.witness_calls == 3

    async def test_no_witness_no_promise(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commits, "WITNESS_WAIT_S", 0.0)
        world.messages.after.append(lose())
        world.messages.witness_errors.append(DatabaseDown())
        (error,) = await world.send()
        assert isinstance(error, DatabaseDown)
        assert error.maybe_done
        assert len(world.messages.calls) == 1
        assert len(world.staged()) == 1

    async def test_never_sent_is_never_asked(self, world: World) -> None:
        world.messages.before.append(lose(maybe_done=False))
        (error,) = await world.send()
        assert isinstance(error, DatabaseDown)
        assert world.messages.witness_calls == 0
        assert len(world.messages.calls) == 1

    async def test_half_of_an_append_is_no_append(self, world: World) -> None:
        def half(batch: Sequence[NewMessage]) -> None:
            world.messages.rows.append(batch[0])
            lose()(batch)

        world.messages.before += [half, lose()]
        with pytest.raises(DatabaseDown):
            await world.delivery.append(1, 5, [AppendItem(LETTER), AppendItem(LETTER)])

    async def test_append_gets_its_uids_from_the_witness(self, world: World) -> None:
        world.messages.after.append(lose())
        result = await world.delivery.append(1, 5, [AppendItem(LETTER), AppendItem(LETTER)])
        assert (result.uidvalidity, result.uids) == (77, (1, 2))


class TestStaging:
    async def test_full_is_told_and_leaves_nothing(self, tmp_path: Path) -> None:
        world = World(tmp_path, staging_size=1000)
        (error,) = await world.send(LETTER + b"x" * 2000)
        assert isinstance(error, StagingFull)
        assert world.staged() == []
        assert world.messages.calls == []
        world.staging.close()

    async def test_what_fits_goes_in_beside_what_does_not(self, tmp_path: Path) -> None:
        world = World(tmp_path, staging_size=3000)
        first = await world.hold()
        others = [asyncio.create_task(world.send(LETTER + b"x" * size)) for size in (10, 5000, 20)]
        await settle(world, waiting=3)
        world.messages.gate.set()
        await first
        small, large, also_small = await asyncio.gather(*others)
        assert small == also_small == [None]
        assert isinstance(large[0], StagingFull)
        world.staging.close()

    async def test_no_more_sealed_bodies_are_held_than_are_stored_at_once(self, tmp_path: Path) -> None:
        """A message for many accounts is sealed for each of them; with a copy in the database it is stored twice."""
        world = World(tmp_path, copies=True)
        world.delivery._sealers = Keys()
        world.delivery._commits._lanes._max_messages = 1
        held: list[int] = []

        def count(_: object) -> None:
            bodies = [found for found in gc.get_objects() if isinstance(found, Unsealed)]
            held.append(sum(body._sealed is not None for body in bodies))

        world.messages.before = [count] * 5
        assert await world.send(LETTER, *range(1, 6)) == [None] * 5
        assert held == [1] * 5
        assert [bodies and len(bodies) for bodies in world.messages.bodies] == [1] * 5
        world.staging.close()

    async def test_a_broken_disk_is_temporary(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async def broken(_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(world.staging, "stage_many", broken)
        (error,) = await world.send()
        assert isinstance(error, Unavailable)
        assert world.messages.calls == []


class TestAppend:
    async def test_flags_dates_and_order(self, world: World) -> None:
        items = [
            AppendItem(b"n: 1\r\n\r\n", flags=(0, 16), internal_date=NOON - timedelta(days=1)),
            AppendItem(b"n: 2\r\n\r\n"),
        ]
        result = await world.delivery.append(1, 5, items)
        assert (result.uidvalidity, result.uids) == (77, (1, 2))
        first, second = world.messages.rows
        assert (first.flags, first.internal_date) == ((0, 16), NOON - timedelta(days=1))
        assert (second.flags, second.internal_date) == ((), NOON)
        assert world.staged() == [b"n: 1\r\n\r\n", b"n: 2\r\n\r\n"]

    async def test_bytes_are_not_touched(self, world: World) -> None:
        await world.delivery.append(1, 5, [AppendItem(LETTER)])
        assert world.staged() == [LETTER]
        assert world.messages.rows[0].content_hash == hashlib.blake2b(LETTER, digest_size=32).digest()

    async def test_many_are_one_transaction(self, world: World) -> None:
        result = await world.delivery.append(1, 5, [AppendItem(b"n: %d\r\n\r\n" % n) for n in range(100)])
        assert result.uids == tuple(range(1, 101))
        assert [len(call) for call in world.messages.calls] == [100]

    async def test_equal_messages_are_staged_once_and_stored_twice(self, world: World) -> None:
        result = await world.delivery.append(1, 5, [AppendItem(LETTER), AppendItem(LETTER)])
        assert len(result.uids) == 2
        assert len(world.staged()) == 1

    async def test_no_such_mailbox(self, world: World) -> None:
        world.messages.poison[b"body"] = NotFound()
        with pytest.raises(NotFound):
            await world.delivery.append(1, 5, [AppendItem(LETTER)])


async def test_lanes_that_gather_at_once_take_a_unit_once() -> None:
    """The one that comes too late ends as if it had never been needed."""
    taken: list[int] = []

    async def commit(batch: list[lanes.Unit]) -> None:
        taken.append(len(batch))

    two = lanes.Lanes(commit, 2)
    for _ in range(FULL_LANE):
        two.submit(lanes.Unit("lmtp", ()))
    tasks = list(two._tasks)
    assert len(tasks) == 2
    await two.drained()
    assert taken == [FULL_LANE]
    assert [task.exception() for task in tasks] == [None, None]


async def test_a_batch_has_no_more_units_without_letters_than_others() -> None:
    """Effects alone are as much work for the database as a message."""
    waiting = deque(lanes.Unit("lmtp", ()) for _ in range(5))
    assert [len(lanes.take(waiting, 3)), len(lanes.take(waiting, 3))] == [3, 2]
