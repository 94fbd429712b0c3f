"""Units of several letters and with effects, on a real PostgreSQL: stored together or not at all, and once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from sora.crashpoints import POINTS
from sora.errors import Busy, DatabaseDown, NotFound, OverQuota
from sora.mime import digest as mime_digest
from sora.services.lanes import Unit
from sora.services.letters import MailEnvelope
from sora.services.recipients import Recipient
from sora.sieve.actions import Remembered
from sora.store import keyring
from sora.store import messages as store_messages
from sora.store.blobs import BlobRef
from sora.store.copies import INLINE_BYTES
from sora.store.deliveries import HELD
from sora.store.effects import Replied, duplicate_entry
from sora.store.outbound import CHANNEL, Outgoing
from sora.types import ContentId
from tests.store.test_delivery import CHECK, LETTER, World, answer_lost, as_it_is, never_arrived
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from sora.services.letters import Desk, Letter
    from sora.store.deliveries import Delivered
    from sora.types import AccountId, MailboxId

MEMORY = ("sieve_duplicates", "vacation_replies")
REPLY = b"Subject: Away\r\n\r\nI am away.\r\n"


class Filtered(World):
    """Delivers what a filter could have made of a message."""

    def __init__(self, node: Any, dsn: str) -> None:
        super().__init__(node, dsn)
        self.calls: list[str] = []
        node.changes.ring = self.calls.append

    async def desk(self, account_id: AccountId, data: bytes = LETTER, recipient: str = "u@x") -> Desk:
        delivery = self.node.delivery
        to = Recipient(recipient, account_id, "u@x")
        envelope = MailEnvelope(sender="s@x", recipients=(to,), hello="mx", peer="local", id="1")
        return delivery._letters.incoming(data, envelope, "mx").desk([to], await delivery._sealers.get(account_id))

    def commit(self, desk: Desk, letters: Sequence[Letter], **effects: Any) -> Awaitable[Any]:
        unit = Unit("lmtp", letters, effects=desk.effects(**effects))
        self.node.delivery._commits.submit(unit)
        return unit.done

    async def filter(
        self,
        account_id: AccountId,
        *mailboxes: MailboxId | None,
        to: Sequence[str] = (),
        answer: str = "",
        track: Sequence[str] = (),
        data: bytes = LETTER,
        recipient: str = "u@x",
    ) -> list[Delivered]:
        """File into mailboxes, redirect, answer, remember ids."""
        desk = await self.desk(account_id, data, recipient)
        letters = [desk.letter(mailbox_id) for mailbox_id in mailboxes]
        if to:
            letters.append(desk.held())
        outgoing = [Outgoing("redirect", "s@x", address, len(letters) - 1) for address in to]
        if answer:
            outgoing.append(Outgoing("vacation", "", answer, data=REPLY))
        done: list[Delivered] = await self.commit(
            desk,
            letters,
            outgoing=outgoing,
            remembered=[Remembered("", name, 3600) for name in track],
            replied=[Replied("h", answer, 3600, len(outgoing) - 1)] if answer else (),
        )
        return done

    async def queued(self) -> list[tuple[str, str]]:
        rows = await self.node.store.db.fetch("SELECT kind, recipient FROM outbound_queue ORDER BY queue_id")
        return [tuple(row) for row in rows]

    async def value(self, sql: str, *args: object) -> Any:
        return await self.node.store.db.fetchval(sql, *args)

    def disturb(self, *steps: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]) -> None:
        """Put each step between the next calls with effects and the database."""
        messages = self.node.delivery._commits._messages
        real, waiting = messages.deliver_shares, list(steps)

        async def deliver_shares(*args: Any, **kwargs: Any) -> Any:
            step = waiting.pop(0) if waiting else as_it_is
            return await step(lambda: real(*args, **kwargs))

        messages.deliver_shares = deliver_shares  # type: ignore[method-assign]

    async def boxes(self, account_id: AccountId, *names: str) -> list[MailboxId]:
        return [(await self.node.store.mailboxes.create(account_id, name)).mailbox_id for name in names]


@pytest.fixture
async def world(dsn: str, tmp_path: Path) -> AsyncIterator[Filtered]:
    async with open_node(dsn, tmp_path) as node:
        yield Filtered(node, dsn)


class TestEffects:
    async def test_letters_and_effects_are_one_transaction(self, world: Filtered) -> None:
        alice = await world.account("alice")
        (lists,) = await world.boxes(alice, "Lists")
        rows = await world.filter(alice, None, lists, to=["a@y", "b@y"], answer="s@x", track=["<1>"])
        assert [row.mailbox_id for row in rows] == [await world.inbox(alice), lists, HELD]
        assert [row.uid for row in rows] == [1, 1, 0]
        assert len({row.content_id for row in rows}) == 1, "one body for all"
        assert await world.queued() == [("redirect", "a@y"), ("redirect", "b@y"), ("vacation", "s@x")]
        assert await world.node.store.filter_memory.is_duplicate(alice, "", "<1>")
        assert await world.node.store.filter_memory.was_answered(alice, "h", "s@x")
        tables = ("messages", "outbound_queue", "recent_deliveries", "sieve_duplicates", "vacation_replies")
        together = " UNION ".join(f"SELECT xmin::text FROM {table}" for table in tables)
        assert await world.value(f"SELECT count(*) FROM ({together}) x") == 1
        assert world.calls == [CHANNEL]
        assert {change[1] for change in world.published} == {await world.inbox(alice), lists}

    async def test_a_redirect_is_kept_nowhere_but_for_its_mail(self, world: Filtered) -> None:
        alice = await world.account("alice", quota_messages=1)
        await world.send(alice)
        (row,) = await world.filter(alice, to=["a@y"], data=b"x: y\r\n\r\n")
        assert await world.count(alice) == 1, "no message, and no quota"
        mail = await world.node.store.db.fetchrow("SELECT * FROM outbound_queue")
        content = await world.node.store.db.fetchrow(
            "SELECT * FROM message_contents WHERE content_id = $1", row.content_id
        )
        assert mail is not None
        assert content is not None
        assert (mail["content_id"], mail["size"]) == (row.content_id, content["size"])
        body = await world.node.staging.read(alice, content["content_hash"])
        assert body is not None
        assert body.startswith(b"Return-Path: <s@x>\r\nDelivered-To: u@x\r\n")
        assert body.endswith(b"x: y\r\n\r\n")
        assert row.content_id in world.rung
        assert await world.value("SELECT count(*) FROM pending_uploads WHERE content_id = $1", row.content_id) == 1

    async def test_held_letters_wait_for_each_other_in_one_direction(self, world: Filtered) -> None:
        """No lock stands before their witnesses: two deliveries of the same two may meet there."""
        alice = await world.account("alice")
        desks = [await world.desk(alice, data) for data in (b"x: 1\r\n\r\n", b"x: 2\r\n\r\n")]
        rows = sorted((desk.held().row for desk in desks), key=lambda row: row.key or b"", reverse=True)
        insert = "INSERT INTO recent_deliveries (account_id, key, mailbox_id, uid) VALUES ($1, $2, -1, 1)"
        async with world.node.store.db.transaction() as conn:
            await conn.execute(insert, alice, rows[1].key)
            delivery = asyncio.create_task(world.node.store.messages.deliver(rows, "n"))
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            async with asyncio.timeout(10):
                while not await world.value(waits):
                    await asyncio.sleep(0.01)
            await conn.execute(insert, alice, rows[0].key)
        assert len(await delivery) == 2

    async def test_effects_without_any_letter(self, world: Filtered) -> None:
        alice = await world.account("alice")
        assert await world.filter(alice, answer="s@x", track=["<1>"]) == []
        assert await world.queued() == [("vacation", "s@x")]
        assert await world.count(alice) == 0

    async def test_a_batch_of_many_is_four_round_trips(self, world: Filtered) -> None:
        alice, bob = await world.account("alice"), await world.account("bob")
        (lists,) = await world.boxes(alice, "Lists")
        calls = _counted(world)
        await asyncio.gather(
            world.filter(alice, None, lists, to=["a@y"], answer="s@x", track=["<1>"]),
            world.filter(bob, to=["b@y"], data=b"x: y\r\n\r\n"),
            world.filter(bob, answer="t@x", data=b"x: z\r\n\r\n"),
            world.send(bob),
            world.send(alice, data=b"x: y\r\n\r\n"),
        )
        assert calls == ["BEGIN", "deliver", "apply_effects", "COMMIT"]
        assert (await world.count(alice), await world.count(bob)) == (3, 1)

    async def test_a_batch_without_effects_is_one(self, world: Filtered) -> None:
        alice = await world.account("alice")
        (lists,) = await world.boxes(alice, "Lists")
        calls = _counted(world)
        desk = await world.desk(alice)
        unit = Unit("lmtp", [desk.letter(None), desk.letter(lists)])
        world.node.delivery._commits.submit(unit)
        await asyncio.gather(unit.done, world.send(alice, data=b"x: y\r\n\r\n"))
        assert calls == ["deliver"]
        assert await world.count(alice) == 3

    async def test_recipients_of_one_account_have_their_own(self, world: Filtered) -> None:
        """They share the message in INBOX, as without filters, but each of them sends what it was sent itself."""
        alice = await world.account("alice")
        one, two = await asyncio.gather(
            world.filter(alice, None, to=["a@y"], recipient="u@x"),
            world.filter(alice, None, to=["b@y"], recipient="v@x"),
        )
        assert await world.count(alice) == 1
        assert await world.queued() == [("redirect", "a@y"), ("redirect", "b@y")]
        assert [row.duplicate for row in (*one, *two)] == [False, False, True, False]
        contents = await world.node.store.db.fetch("SELECT content_id FROM outbound_queue ORDER BY queue_id")
        assert [row[0] for row in contents] == [one[1].content_id, two[1].content_id]
        assert one[1].content_id != two[1].content_id, "Received names another recipient"


class TestRetry:
    async def test_sends_nothing_and_stores_nothing(self, world: Filtered) -> None:
        alice = await world.account("alice")
        for _ in range(3):
            await world.filter(alice, None, to=["a@y"], answer="s@x")
        assert await world.queued() == [("redirect", "a@y"), ("vacation", "s@x")]
        assert await world.count(alice) == 1
        assert await world.value("SELECT count(*) FROM message_contents") == 1

    async def test_in_one_batch(self, world: Filtered) -> None:
        alice = await world.account("alice")
        results = await asyncio.gather(*(world.filter(alice, to=["a@y"]) for _ in range(5)))
        assert await world.queued() == [("redirect", "a@y")]
        assert len({row.content_id for (row,) in results}) == 1

    async def test_whose_letter_was_purged_still_sends_nothing(self, world: Filtered) -> None:
        alice = await world.account("alice")
        (row,) = await world.filter(alice, to=["a@y"])
        await _forget_body(world, alice, row.content_id)
        (again,) = await world.filter(alice, to=["a@y"])
        assert again.duplicate
        assert await world.queued() == []

    async def test_for_another_recipient_whose_message_was_purged_sends_its_own(self, world: Filtered) -> None:
        alice = await world.account("alice")
        kept, _ = await world.filter(alice, None, to=["a@y"], recipient="u@x")
        inbox = await world.inbox(alice)
        await world.value("SELECT 1 FROM expunge($1, $2, '{1}', '{1}', false)", alice, inbox)
        await world.value("SELECT trim_expunges($1, $2, now() + interval '1 d')", alice, inbox)
        await _forget_body(world, alice, kept.content_id)
        old, held = await world.filter(alice, None, to=["b@y"], recipient="v@x")
        assert (old.duplicate, old.content_id, held.duplicate) == (True, 0, False)
        assert await world.value("SELECT content_id FROM outbound_queue") == held.content_id
        assert await world.value("SELECT content_user($1, $2)", alice, held.content_id) == "upload"

    async def test_after_a_day_is_another_delivery(self, world: Filtered) -> None:
        alice = await world.account("alice")
        await world.filter(alice, None, to=["a@y"])
        await world.value("UPDATE recent_deliveries SET delivered_at = delivered_at - interval '25 h' RETURNING 1")
        await world.filter(alice, None, to=["a@y"])
        assert await world.queued() == [("redirect", "a@y")] * 2
        assert await world.count(alice) == 2


class TestReplies:
    async def test_two_at_the_same_moment_are_one(self, world: Filtered) -> None:
        alice = await world.account("alice")
        for n in range(3):
            mails = [b"n: %d.%d\r\n\r\n" % (n, m) for m in range(3)]
            await asyncio.gather(*(world.filter(alice, None, answer="S@x", data=data) for data in mails))
        assert await world.queued() == [("vacation", "S@x")]
        assert await world.count(alice) == 9

    async def test_of_two_transactions_the_second_waits_for_the_first(self, world: Filtered) -> None:
        """If the first one is undone after all, the second one answers."""
        alice = await world.account("alice")
        sql = """INSERT INTO sora.vacation_replies SELECT $1, entry, now() + interval '1 h' FROM sora.vacation_replies
                 RETURNING 1"""
        await world.filter(alice, answer="s@x", data=b"n: 0\r\n\r\n")
        entry = await world.value("DELETE FROM vacation_replies RETURNING entry")
        sql = "INSERT INTO sora.vacation_replies VALUES ($1, $2, now() + interval '1 h')"
        for number, end, total in ((1, "ROLLBACK", 2), (2, "COMMIT", 2)):
            other = await asyncpg.connect(world.dsn)
            await other.execute("BEGIN")
            if end == "COMMIT":
                await other.execute("DELETE FROM sora.vacation_replies")
            await other.execute(sql, alice, entry)
            answering = asyncio.create_task(world.filter(alice, None, answer="s@x", data=b"n: %d\r\n\r\n" % number))
            await world.waiting()
            await other.execute(end)
            await other.close()
            await answering
            assert len(await world.queued()) == total
        assert await world.count(alice) == 2, "only the reply was dropped"

    async def test_again_when_the_period_is_over(self, world: Filtered) -> None:
        alice = await world.account("alice")
        await world.filter(alice, answer="s@x")
        await world.value("UPDATE vacation_replies SET expires_at = clock() RETURNING 1")
        await world.filter(alice, answer="s@x", data=b"x: y\r\n\r\n")
        await world.filter(alice, answer="s@x", data=b"x: z\r\n\r\n")
        assert await world.queued() == [("vacation", "s@x")] * 2

    async def test_an_id_is_tracked_as_long_as_the_longest_says(self, world: Filtered) -> None:
        alice = await world.account("alice")
        desk = await world.desk(alice)
        await world.commit(desk, [], remembered=[Remembered("h", "<1>", 7200), Remembered("h", "<1>", 60)])
        own = "SELECT expires_at - clock() FROM sieve_duplicates WHERE entry = $1"
        left = await world.value(own, duplicate_entry("h", "<1>"))
        assert 7100 < left.total_seconds() <= 7200


class TestLost:
    async def test_answer_after_the_commit(self, world: Filtered) -> None:
        alice, bob = await world.account("alice"), await world.account("bob")
        world.disturb(answer_lost)
        rows, plain = await asyncio.gather(world.filter(alice, None, to=["a@y"], answer="s@x"), world.send(bob))
        assert [row.uid for row in rows] == [1, 0]
        assert plain == [None]
        assert await world.queued() == [("redirect", "a@y"), ("vacation", "s@x")]
        assert (await world.count(alice), await world.count(bob)) == (1, 1)

    async def test_call(self, world: Filtered) -> None:
        alice = await world.account("alice")
        world.disturb(never_arrived)
        await world.filter(alice, None, to=["a@y"], answer="s@x")
        assert await world.queued() == [("redirect", "a@y"), ("vacation", "s@x")]
        assert await world.count(alice) == 1

    async def test_twice_is_a_temporary_failure_that_may_be_retried(self, world: Filtered) -> None:
        alice = await world.account("alice")
        world.disturb(answer_lost, answer_lost)
        error: object = await world.filter(alice, to=["a@y"])
        assert isinstance(error, DatabaseDown)
        await world.filter(alice, to=["a@y"])
        assert await world.queued() == [("redirect", "a@y")]

    async def test_backend_killed_before_the_commit(self, world: Filtered) -> None:
        alice = await world.account("alice")
        (lists,) = await world.boxes(alice, "Lists")
        for mailboxes in ((lists,), (None, lists)):  # it dies in the transaction, or while it waits apart
            async with world.locked(lists):
                filtering = asyncio.create_task(world.filter(alice, *mailboxes, to=["a@y"]))
                (pid,) = await world.waiting()
                await world.value("SELECT pg_terminate_backend($1)", pid)
                error: object = await filtering
            assert isinstance(error, DatabaseDown)
            assert (await world.count(alice), await world.queued()) == (0, [])
        await world.filter(alice, None, lists, to=["a@y"])
        assert (await world.count(alice), await world.queued()) == (2, [("redirect", "a@y")])

    @pytest.mark.parametrize("mailboxes", [(), (None,)])
    async def test_a_backend_that_still_commits_is_waited_for(
        self, world: Filtered, mailboxes: tuple[None, ...]
    ) -> None:
        """The client is cut off from a call whose transaction goes on, and saves again beside it."""
        alice = await world.account("alice")
        desk = await world.desk(alice)
        late: list[asyncio.Task[Any]] = []

        async def cut_off(call: Callable[[], Awaitable[Any]]) -> None:
            late.append(asyncio.create_task(call()))
            await world.waiting()
            raise DatabaseDown(maybe_done=True)

        world.disturb(cut_off)
        other = await asyncpg.connect(world.dsn)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(other.close)
            await other.execute("BEGIN")
            await other.execute(
                "INSERT INTO sora.recent_deliveries (account_id, key, mailbox_id, uid) VALUES ($1, $2, 0, 0)",
                alice, desk.effects_key,
            )  # fmt: skip
            filtering = asyncio.create_task(world.filter(alice, *mailboxes, to=["a@y"]))
            await world.waiting(2)
            await other.execute("ROLLBACK")
            await filtering
        await asyncio.gather(*late)
        assert await world.queued() == [("redirect", "a@y")]
        assert await world.count(alice) == len(mailboxes)


class TestLockedMailbox:
    async def test_of_one_letter_holds_all_of_the_unit_and_nobody_else(self, world: Filtered) -> None:
        """Not even who delivers to the other mailbox of the same unit."""
        alice, bob = await world.account("alice"), await world.account("bob")
        (lists,) = await world.boxes(alice, "Lists")
        async with world.locked(lists):
            filtering = asyncio.create_task(world.filter(alice, None, lists, to=["a@y"], answer="s@x"))
            await world.waiting()
            assert await world.send(alice, bob, data=b"x: y\r\n\r\n") == [None, None]
            await world.filter(bob, None, to=["b@y"], data=b"x: y\r\n\r\n")
            await world.filter(alice, None, to=["c@y"], data=b"x: z\r\n\r\n")
            assert await world.queued() == [("redirect", "b@y"), ("redirect", "c@y")]
            assert await world.value("SELECT count(*) FROM messages WHERE account_id = $1", alice) == 2
            assert not filtering.done()
        rows = await filtering
        assert [row.uid for row in rows] == [3, 1, 0]
        assert len(await world.queued()) == 4
        assert await world.count(alice) == 4

    async def test_of_both_letters_one_after_the_other(self, world: Filtered) -> None:
        alice = await world.account("alice")
        inbox = await world.inbox(alice)
        (lists,) = await world.boxes(alice, "Lists")
        async with world.locked(lists):
            async with world.locked(inbox):
                filtering = asyncio.create_task(world.filter(alice, None, lists, to=["a@y"]))
                await world.waiting()
            sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = lock_key($1)::oid"
            while not await world.value(sql, lists):
                assert not filtering.done()
            await world.send(alice, data=b"x: y\r\n\r\n")
        await filtering
        assert (await world.count(alice), await world.queued()) == (3, [("redirect", "a@y")])

    async def test_and_is_refused_when_the_turn_to_wait_does_not_come(
        self, world: Filtered, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is tried once more without waiting, and takes no connection for longer."""
        alice = await world.account("alice")
        (lists,) = await world.boxes(alice, "Lists")
        monkeypatch.setattr(world.node.delivery._commits._patience, "_turn_s", 0.05)
        monkeypatch.setattr(world.node.delivery._commits._patience, "_turns", asyncio.Semaphore(0))
        async with world.locked(lists):
            error: object = await world.filter(alice, None, lists, to=["a@y"])
        assert isinstance(error, Busy)
        assert (await world.count(alice), await world.queued()) == (0, [])

    async def test_or_a_quota(self, world: Filtered) -> None:
        alice = await world.account("alice", quota_messages=10)
        (lists,) = await world.boxes(alice, "Lists")
        async with world.holding("lock_account_quotas", alice):
            filtering = asyncio.create_task(world.filter(alice, None, lists, to=["a@y"]))
            await world.waiting()
            assert await world.queued() == []
        await filtering
        assert (await world.count(alice), await world.queued()) == (2, [("redirect", "a@y")])

    async def test_a_batch_that_stepped_aside_for_one_mailbox_has_its_effects(self, world: Filtered) -> None:
        alice = await world.account("alice")
        async with world.locked(await world.inbox(alice)):
            filtering = [world.filter(alice, None, to=[f"{n}@y"], data=b"n: %d\r\n\r\n" % n) for n in range(4)]
            tasks = [asyncio.create_task(one) for one in filtering]
            await world.waiting()
            assert await world.queued() == []
        await asyncio.gather(*tasks)
        assert await world.queued() == [("redirect", f"{n}@y") for n in range(4)]

    @pytest.mark.parametrize("narrow", [True, False])
    async def test_busy_in_the_end_means_nothing_of_it(
        self, world: Filtered, monkeypatch: pytest.MonkeyPatch, narrow: bool
    ) -> None:
        alice = await world.account("alice")
        (lists,) = await world.boxes(alice, "Lists")
        mailboxes = (lists,) if narrow else (None, lists)
        await world.node.store.db.execute("ALTER FUNCTION sora.deliver SET lock_timeout = '200ms'")
        monkeypatch.setattr(store_messages, "LOCKS_FREE", store_messages.LOCKS_FREE.replace("10s", "200ms"))
        async with world.locked(lists):
            error: object = await world.filter(alice, *mailboxes, to=["a@y"], answer="s@x", track=["<1>"])
        assert isinstance(error, Busy)
        assert await world.count(alice) == 0
        assert await world.queued() == []
        assert not await world.node.store.filter_memory.is_duplicate(alice, "", "<1>")
        await world.filter(alice, *mailboxes, to=["a@y"], answer="s@x", track=["<1>"])
        assert (await world.count(alice), len(await world.queued())) == (len(mailboxes), 2)

    async def test_a_retry_of_what_is_committed_does_not_wait(self, world: Filtered) -> None:
        alice = await world.account("alice")
        (lists,) = await world.boxes(alice, "Lists")
        await world.filter(alice, None, lists, to=["a@y"])
        async with world.locked(lists):
            rows = await world.filter(alice, None, lists, to=["a@y"])
        assert all(row.duplicate for row in rows)
        assert await world.queued() == [("redirect", "a@y")]

    async def test_nobody_waits_for_a_held_letter(self, world: Filtered) -> None:
        """Neither for the mailbox that its number would be the lock of, nor for the quota of its account."""
        alice = await world.account("alice", quota_messages=10)
        async with world.holding("lock_mailboxes", -1), world.holding("lock_account_quotas", alice):
            await world.filter(alice, to=["a@y"])
        assert await world.queued() == [("redirect", "a@y")]


class TestRefused:
    async def test_over_quota_is_nothing_of_it_and_others_are_stored(self, world: Filtered) -> None:
        alice = await world.account("alice", quota_messages=1)
        bob = await world.account("bob")
        (lists,) = await world.boxes(alice, "Lists")
        error, _, plain = await asyncio.gather(
            world.filter(alice, None, lists, to=["a@y"], answer="s@x", track=["<1>"]),
            world.filter(bob, None, to=["b@y"]),
            world.send(bob, data=b"x: y\r\n\r\n"),
        )
        assert isinstance(error, OverQuota)
        assert plain == [None]
        assert await world.queued() == [("redirect", "b@y")]
        assert (await world.count(alice), await world.count(bob)) == (0, 2)
        assert await world.value("SELECT count(*) FROM vacation_replies") == 0

    async def test_a_mailbox_that_is_gone_means_inbox_for_its_letter_alone(self, world: Filtered) -> None:
        alice = await world.account("alice")
        gone, lists = await world.boxes(alice, "Gone", "Lists")
        await world.node.store.mailboxes.delete(alice, "Gone")
        rows = await world.filter(alice, gone, lists, to=["a@y"], answer="s@x")
        assert [row.mailbox_id for row in rows] == [await world.inbox(alice), lists, HELD]
        assert len(await world.queued()) == 2
        assert await world.node.store.db.fetch(CHECK, alice, lists) == []

    async def test_where_it_is_kept_in_inbox_too_it_is_there_once(self, world: Filtered) -> None:
        alice = await world.account("alice")
        (gone,) = await world.boxes(alice, "Gone")
        await world.node.store.mailboxes.delete(alice, "Gone")
        rows = await world.filter(alice, None, gone, to=["a@y"])
        assert [row.duplicate for row in rows] == [False, True, False]
        assert await world.count(alice) == 1

    @pytest.mark.parametrize("mailboxes", [(), (None,)])
    @pytest.mark.parametrize("to", [[], ["a@y"]])
    async def test_an_account_that_is_gone_sends_nothing(
        self, world: Filtered, mailboxes: tuple[None, ...], to: list[str]
    ) -> None:
        alice = await world.account("alice")
        await world.node.store.accounts.delete(alice)
        error: object = await world.filter(alice, *mailboxes, to=to, answer="s@x")
        assert isinstance(error, NotFound)
        assert await world.queued() == []


class TestLetters:
    async def test_another_version_is_hashed_and_indexed_as_it_is_stored(self, world: Filtered) -> None:
        alice = await world.account("alice")
        (lists,) = await world.boxes(alice, "Lists")
        desk = await world.desk(alice)
        edited = b"Subject: Edited\r\n\r\nbody\r\n"
        letters = [desk.letter(None, edited, flags=(0,)), desk.letter(lists), desk.held(edited)]
        await world.commit(desk, letters, outgoing=[Outgoing("redirect", "s@x", "a@y", 2)])
        rows = await world.node.store.db.fetch(
            "SELECT m.mailbox_id, m.size, m.initial_flags, c.content_hash, c.subject, c.content_id"
            " FROM messages m JOIN message_contents c USING (account_id, content_id) ORDER BY m.mailbox_id"
        )
        assert [row["subject"] for row in rows] == ["Edited", "Hello"]
        assert [row["initial_flags"] for row in rows] == [[0], None]
        bodies = [await world.node.staging.read(alice, row["content_hash"]) for row in rows]
        assert bodies == [desk.stamp + edited, desk.stamp + LETTER]
        assert [row["size"] for row in rows] == [len(body) for body in bodies if body is not None]
        assert await world.value("SELECT content_id FROM outbound_queue") == rows[0]["content_id"]

    async def test_digests_are_computed_once_for_each_version(
        self, world: Filtered, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        computed: list[bytes] = []
        real = mime_digest.digest
        monkeypatch.setattr(mime_digest, "digest", lambda data, limit: computed.append(data) or real(data, limit))
        delivery = world.node.delivery
        users = [Recipient(f"u{n}@x", await world.account(f"u{n}"), "u@x") for n in range(3)]
        envelope = MailEnvelope(sender="s@x", recipients=tuple(users), hello="mx", peer="local", id="1")
        incoming = delivery._letters.incoming(LETTER, envelope, "mx")
        desks = [incoming.desk([user], await delivery._sealers.get(user.account_id)) for user in users]
        assert computed == [], "who discards needs none"
        for desk in desks:
            for version in (None, b"a: b\r\n\r\n", bytes(bytearray(b"a: b\r\n\r\n"))):
                desk.letter(None, version)
                desk.held(version)
        assert computed == [LETTER, b"a: b\r\n\r\n"]

    async def test_the_copy_of_an_answer_is_filed_once_though_its_date_changes(self, world: Filtered) -> None:
        alice = await world.account("alice")
        (sent,) = await world.boxes(alice, "Answers")
        for date in (b"Date: now\r\n\r\n", b"Date: later\r\n\r\n"):
            desk = await world.desk(alice)
            await world.commit(desk, [desk.letter(sent), desk.copy(sent, date, "vacation", flags=(0,))])
        assert await world.count(alice) == 2
        row = await world.node.store.db.fetchrow("SELECT * FROM messages WHERE uid = 2")
        assert row is not None
        assert (row["size"], row["initial_flags"]) == (len(b"Date: now\r\n\r\n"), [0]), "without trace fields"


class TestBodies:
    async def test_are_sealed_where_encryption_is_on(self, dsn: str, tmp_path: Path) -> None:
        keyring.add_key(tmp_path / "keyring.toml")
        encryption = {"keyring_file": str(tmp_path / "keyring.toml")}
        async with open_node(dsn, tmp_path, encryption=encryption) as node:
            world = Filtered(node, dsn)
            alice = await world.account("alice")
            (row,) = await world.filter(alice, to=["a@y"], answer="s@x")
            sealer = await node.delivery._sealers.get(alice)
            mail = await node.store.db.fetchrow("SELECT * FROM outbound_queue WHERE kind = 'vacation'")
            held = await node.store.db.fetchrow("SELECT * FROM message_contents")
            assert mail is not None
            assert held is not None
            assert REPLY not in mail["body"]
            reply = BlobRef(alice, ContentId(0), mail["body_hash"], mail["size"])
            assert sealer.open(reply, mail["body"]) == REPLY
            stored = await node.staging.read(alice, held["content_hash"])
            assert stored is not None
            plain = sealer.open(BlobRef(alice, row.content_id, held["content_hash"], held["size"]), stored)
            assert plain is not None
            assert plain.endswith(LETTER)

    @pytest.mark.parametrize("size", [10, INLINE_BYTES + 1])
    async def test_have_a_copy_in_the_database_where_that_is_wanted(self, dsn: str, tmp_path: Path, size: int) -> None:
        async with open_node(dsn, tmp_path, uploader={"durability": "database"}) as node:
            world = Filtered(node, dsn)
            alice = await world.account("alice")
            (lists,) = await world.boxes(alice, "Lists")
            data = LETTER + b"x" * size
            rows = await world.filter(alice, None, lists, to=["a@y"], data=data)
            (alone,) = await world.filter(alice, to=["b@y"], data=data + b"y")
            for row, body in ((rows[2], data), (alone, data + b"y")):
                copies = await node.store.db.fetch(
                    "SELECT body FROM body_copies WHERE content_id = $1 ORDER BY part", row.content_id
                )
                assert b"".join(copy["body"] for copy in copies).endswith(body)


class TestCleanup:
    async def test_a_held_letter_goes_when_its_mail_has_gone(self, world: Filtered) -> None:
        alice = await world.account("alice")
        (row,) = await world.filter(alice, to=["a@y"])
        begin = "SELECT count(*) FROM begin_purges(ARRAY[$1::bigint], ARRAY[$2::bigint])"
        user = "SELECT content_user($1, $2)"
        assert await world.value("SELECT content_id FROM select_purgeable()") == row.content_id
        assert await world.value(user, alice, row.content_id) == "upload"
        await world.node.store.db.execute("DELETE FROM pending_uploads")
        assert await world.value(user, alice, row.content_id) == "outbound"
        assert await world.value(begin, alice, row.content_id) == 0
        await world.node.store.db.execute("DELETE FROM outbound_queue")
        assert await world.value(user, alice, row.content_id) is None
        assert await world.value("SELECT content_id FROM select_purgeable()") == row.content_id
        assert await world.value(begin, alice, row.content_id) == 1

    async def test_what_need_not_be_remembered_is_forgotten(self, world: Filtered) -> None:
        alice = await world.account("alice")
        await world.filter(alice, answer="s@x", track=["<1>"])
        assert await world.value("SELECT trim_witnesses()") == 0
        for table, rows in zip(MEMORY, (2, 1), strict=True):  # an id, and the delivery to which it was new
            await world.node.store.db.execute(f"UPDATE {table} SET expires_at = clock() - interval '1 s'")
            assert await world.value("SELECT trim_witnesses()") == rows
            assert await world.value(f"SELECT count(*) FROM {table}") == 0

    async def test_nothing_is_remembered_of_an_account_that_is_purged(self, world: Filtered) -> None:
        alice, bob = await world.account("alice"), await world.account("bob")
        for account in (alice, bob):
            await world.filter(account, answer="s@x", track=["<1>"])
        await world.node.store.db.execute("DELETE FROM outbound_queue")
        await world.node.store.accounts.delete(alice)
        while await world.value("SELECT purge_account($1, '-1 s')", alice):
            for box in await world.node.store.db.fetch("SELECT mailbox_id FROM mailboxes WHERE deleted_at IS NOT NULL"):
                while await world.value("SELECT purge_mailbox($1, $2, '-1 s')", alice, box[0]):
                    pass
        assert await world.value("SELECT count(*) FROM accounts") == 1
        for table in MEMORY:
            assert await world.value(f"SELECT array_agg(DISTINCT account_id) FROM {table}") == [bob]

    async def test_nor_of_one_that_is_shredded_and_it_sends_nothing_more(self, dsn: str, tmp_path: Path) -> None:
        keyring.add_key(tmp_path / "keyring.toml")
        async with open_node(dsn, tmp_path, encryption={"keyring_file": str(tmp_path / "keyring.toml")}) as node:
            world = Filtered(node, dsn)
            alice, bob = await world.account("alice"), await world.account("bob")
            for account in (alice, bob):
                await world.filter(account, answer="s@x", track=["<1>"])
            desk = await world.desk(alice, b"x: y\r\n\r\n")
            await world.value("SELECT begin_shredding($1)", alice)
            while await world.value("SELECT shred_rows($1)", alice):
                pass
            for table in MEMORY:
                assert await world.value(f"SELECT array_agg(DISTINCT account_id) FROM {table}") == [bob]
            queued = await world.queued()
            outgoing = [Outgoing("vacation", "", "s@x", data=REPLY)]
            assert isinstance(await world.commit(desk, [], outgoing=outgoing), NotFound)
            assert await world.queued() == queued


async def _forget_body(world: Filtered, account_id: AccountId, content_id: ContentId) -> None:
    """Sent, uploaded and purged."""
    await world.node.store.db.execute("DELETE FROM outbound_queue; DELETE FROM pending_uploads")
    for step in ("begin_purges", "finish_purges"):
        await world.value(f"SELECT count(*) FROM {step}(ARRAY[$1::bigint], ARRAY[$2::bigint])", account_id, content_id)
    assert await world.value("SELECT count(*) FROM message_contents WHERE content_id = $1", content_id) == 0


def _counted(world: Filtered) -> list[str]:
    """What the deliveries say to the database from now on."""
    database = world.node.delivery._commits._messages._db
    calls: list[str] = []
    acquire, transaction = database.acquire, database.transaction

    class Counted:
        def __init__(self, conn: Any) -> None:
            self._conn = conn

        async def fetch(self, sql: str, *args: object) -> Any:
            calls.append(next(name for name in ("apply_effects", "deliver") if f"{name}(" in sql))
            return await self._conn.fetch(sql, *args)

    @contextlib.asynccontextmanager
    async def acquired() -> AsyncIterator[Any]:
        async with acquire() as conn:
            yield Counted(conn)

    @contextlib.asynccontextmanager
    async def begun() -> AsyncIterator[Any]:
        calls.append("BEGIN")
        async with transaction() as conn:
            yield Counted(conn)
        calls.append("COMMIT")

    database.acquire, database.transaction = acquired, begun  # type: ignore[method-assign]
    return calls


STEPS = ("lmtp.staged", "letters", "effects", "lmtp.committed")
"""Where the process dies: at a crash point, or in the transaction behind what stores letters or applies effects."""


class TestKilled:
    """By SIGKILL, at each step of a delivery; the MTA then sends it again."""

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("step", STEPS)
    async def test_nothing_or_all_of_it_and_once_in_the_end(self, dsn: str, tmp_path: Path, step: str) -> None:
        async with open_node(dsn, tmp_path) as node:
            world = Filtered(node, dsn)
            alice = await world.account("alice")
            assert await deliver_in_a_process(dsn, tmp_path, step) == -signal.SIGKILL
            tables = ("messages", "outbound_queue", *MEMORY)
            counts = [await world.value(f"SELECT count(*) FROM {table}") for table in tables]
            assert counts == ([1, 2, 2, 1] if step == "lmtp.committed" else [0, 0, 0, 0])
            assert await deliver_in_a_process(dsn, tmp_path, "") == 0
            assert [await world.value(f"SELECT count(*) FROM {table}") for table in tables] == [1, 2, 2, 1]
            assert await node.store.db.fetch(CHECK, alice, await world.inbox(alice)) == []


async def deliver_in_a_process(dsn: str, folder: Path, step: str) -> int | None:
    """Exit status of a process that delivers one and the same message, and dies at a step."""
    point = step if step in POINTS else ""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROCESS, dsn, str(folder), step, env=os.environ | {"SORA_CRASH_AT": point}
    )
    return await process.wait()


_PROCESS = """
import asyncio, os, signal, sys
from pathlib import Path
from sora.store import messages
from tests.store.test_filtered_delivery import Filtered
from tests.support.node import open_node

dsn, folder, step = sys.argv[1:]
apply = messages.apply

async def killed(*args):
    if step == "letters":
        os.kill(os.getpid(), signal.SIGKILL)
    result = await apply(*args)
    if step == "effects":
        os.kill(os.getpid(), signal.SIGKILL)
    return result

messages.apply = killed

async def main():
    async with open_node(dsn, Path(folder)) as node:
        alice = await node.store.db.fetchval("SELECT account_id FROM accounts")
        await Filtered(node, dsn).filter(alice, None, to=["a@y"], answer="s@x", track=["<1>"])

asyncio.run(main())
"""
