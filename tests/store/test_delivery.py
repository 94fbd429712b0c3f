"""Delivery on a real PostgreSQL: what a lost connection, a lost reply, a full account and a poisoned message do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from msgspec.structs import replace

from sora.errors import Busy, DatabaseDown, NotFound, OverQuota, Unavailable
from sora.services import letters
from sora.services.delivery import AppendItem, MailEnvelope
from sora.services.recipients import Recipient
from sora.store.copies import INLINE_BYTES as COPY_BYTES
from sora.wire import lmtp
from tests.support.letters import new_message
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from sora.services.node import Node
    from sora.store.deliveries import Delivered, NewMessage
    from sora.types import AccountId, MailboxId

CHECK = "SELECT * FROM check_mailbox($1, $2)"
LETTER = b"From: a@example.org\r\nSubject: Hello\r\n\r\nbody\r\n"


class World:
    def __init__(self, node: Node, dsn: str) -> None:
        self.node = node
        self.dsn = dsn
        self.rung: list[int] = []
        self.published: list[tuple[int, int, int]] = []
        node.delivery._commits._doorbell = self
        node.changes.publish = lambda *change: self.published.append(change)  # type: ignore[method-assign]

    def ring(self, content_ids: Iterable[int]) -> None:
        self.rung += content_ids

    async def account(self, name: str, **quota: int) -> AccountId:
        return await self.node.store.accounts.create(f"{name}@example.com", **quota)

    async def inbox(self, account_id: AccountId) -> MailboxId:
        return (await self.node.store.mailboxes.get(account_id, "INBOX")).mailbox_id

    async def send(self, *accounts: AccountId, data: bytes = LETTER, mailbox_id: MailboxId | None = None) -> list[Any]:
        recipients = tuple(Recipient(f"u{a}@x", a, f"u{a}@x", mailbox_id) for a in accounts)
        return await self.node.delivery.deliver(
            data, MailEnvelope(sender="s@x", recipients=recipients, hello="mx", peer="local", id="1")
        )

    async def count(self, account_id: AccountId) -> int:
        """Live messages, by the rows and by the counters."""
        rows = await self.node.store.db.fetchval("SELECT count(*) FROM messages WHERE account_id = $1", account_id)
        counted = await self.node.store.db.fetchval(
            "SELECT sum(message_count) FROM mailbox_stats WHERE account_id = $1", account_id
        )
        assert rows == counted
        return int(rows)

    def locked(self, mailbox_id: MailboxId) -> contextlib.AbstractAsyncContextManager[None]:
        """Hold the lock of a mailbox, so that a delivery to it waits inside PostgreSQL."""
        return self.holding("lock_mailboxes", mailbox_id)

    @contextlib.asynccontextmanager
    async def holding(self, lock: str, key: int) -> AsyncIterator[None]:
        """Hold a lock, as another process would."""
        connection = await asyncpg.connect(self.dsn)
        try:
            async with connection.transaction():
                await connection.execute(f"SELECT sora.{lock}(ARRAY[$1::bigint])", key)
                yield
        finally:
            await connection.close()

    async def waiting(self, count: int = 1) -> list[int]:
        """The delivering backends that wait for a lock, once there are so many."""
        while True:
            rows = await self.node.store.db.fetch(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'sora delivery' AND wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
            if len(rows) >= count:
                return [row["pid"] for row in rows]

    def disturb(self, *steps: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]) -> None:
        """Put each step between the next calls of `deliver` and the database."""
        messages = self.node.delivery._commits._messages
        real, waiting = messages.deliver, list(steps)

        async def deliver(
            batch: Sequence[NewMessage], instance_id: str, bodies: None, *, patient: bool
        ) -> list[Delivered]:
            if not waiting:
                return await real(batch, instance_id, bodies, patient=patient)
            result: list[Delivered] = await waiting.pop(0)(lambda: real(batch, instance_id, bodies, patient=patient))
            return result

        messages.deliver = deliver  # type: ignore[method-assign]


async def as_it_is(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


async def answer_lost(call: Callable[[], Awaitable[Any]]) -> None:
    """The commit happens, its answer does not arrive."""
    await call()
    raise DatabaseDown(maybe_done=True)


async def never_arrived(call: Callable[[], Awaitable[Any]]) -> None:
    """The connection breaks before the server sees the call; the client cannot know."""
    raise DatabaseDown(maybe_done=True)


@pytest.fixture
async def world(dsn: str, tmp_path: Path) -> AsyncIterator[World]:
    async with open_node(dsn, tmp_path) as node:
        yield World(node, dsn)


class TestDeliver:
    async def test_one(self, world: World) -> None:
        alice = await world.account("alice")
        assert await world.send(alice) == [None]
        rows = await world.node.store.db.fetch(
            "SELECT m.*, c.* FROM messages m JOIN message_contents c USING (account_id, content_id)"
        )
        (row,) = rows
        body = await world.node.staging.read(alice, row["content_hash"])
        assert body is not None
        assert hashlib.blake2b(body, digest_size=32).digest() == row["content_hash"]
        assert body.endswith(LETTER)
        assert row["size"] == len(body)
        assert row["subject"] == "Hello"
        assert world.rung == [row["content_id"]]
        assert world.published == [(alice, await world.inbox(alice), 2)]

    async def test_pending_upload_and_search_text(self, world: World) -> None:
        alice = await world.account("alice")
        await world.send(alice)
        upload = await world.node.store.db.fetchrow("SELECT * FROM pending_uploads")
        text = await world.node.store.db.fetchrow("SELECT * FROM search_queue")
        assert upload is not None
        assert text is not None
        assert upload["instance_id"] == world.node.instance_id
        assert f"DELIVERED-TO: U{alice}@X" in text["headers"]
        assert "SUBJECT: HELLO" in text["headers"]
        assert "BODY" in text["body"]

    async def test_many_at_once_are_few_transactions(self, world: World) -> None:
        accounts = [await world.account(f"u{n}") for n in range(8)]
        outcomes = await asyncio.gather(
            *(world.send(account, data=b"n: %d\r\n\r\n" % n) for n in range(10) for account in accounts)
        )
        assert outcomes == [[None]] * 80
        assert [await world.count(account) for account in accounts] == [10] * 8
        transactions = await world.node.store.db.fetchval("SELECT count(DISTINCT xmin::text) FROM messages")
        assert transactions <= 10

    async def test_many_to_one_mailbox_have_uids_in_a_row(self, world: World) -> None:
        alice = await world.account("alice")
        await asyncio.gather(*(world.send(alice, data=b"n: %d\r\n\r\n" % n) for n in range(100)))
        uids = await world.node.store.db.fetch("SELECT uid FROM messages ORDER BY uid")
        assert [row["uid"] for row in uids] == list(range(1, 101))
        inbox = await world.inbox(alice)
        assert await world.node.store.db.fetch("SELECT * FROM check_mailbox($1, $2)", alice, inbox) == []

    async def test_a_retry_is_one_message(self, world: World) -> None:
        alice = await world.account("alice")
        assert await world.send(alice) == [None]
        assert await world.send(alice) == [None]
        assert await world.count(alice) == 1
        assert len(world.rung) == 1

    async def test_a_retry_in_the_same_batch_is_one_message(self, world: World) -> None:
        alice = await world.account("alice")
        assert await asyncio.gather(*(world.send(alice) for _ in range(10))) == [[None]] * 10
        assert await world.count(alice) == 1

    async def test_deleted_mailbox_means_inbox(self, world: World) -> None:
        alice = await world.account("alice")
        box = await world.node.store.mailboxes.create(alice, "lists")
        await world.node.store.mailboxes.delete(alice, "lists")
        assert await world.send(alice, mailbox_id=box.mailbox_id) == [None]
        assert [change[1] for change in world.published] == [await world.inbox(alice)]


class TestOthersInTheBatch:
    async def test_over_quota_and_gone_fail_alone(self, world: World) -> None:
        alice = await world.account("alice")
        full = await world.account("full", quota_messages=1)
        await world.send(full, data=b"a: b\r\n\r\n")
        gone = await world.account("gone")
        await world.node.store.accounts.delete(gone)
        outcome = await world.send(alice, full, gone)
        assert [type(error) for error in outcome] == [type(None), OverQuota, NotFound]
        assert await world.count(alice) == 1
        assert await world.count(full) == 1

    async def test_poison_fails_alone(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        alice, bob = await world.account("alice"), await world.account("bob")
        real = letters._searchable

        def poisoned(stamp: bytes) -> str:
            return "\x00" if b"u%d@x" % bob in stamp else real(stamp)

        monkeypatch.setattr(letters, "_searchable", poisoned)
        outcome = await world.send(alice, bob)
        assert outcome[0] is None
        assert isinstance(outcome[1], Unavailable)
        assert (await world.count(alice), await world.count(bob)) == (1, 0)

    async def test_a_locked_mailbox_holds_up_only_its_own(self, world: World) -> None:
        alice, bob = await world.account("alice"), await world.account("bob")
        await world.node.store.db.execute("ALTER FUNCTION sora.deliver SET lock_timeout = '200ms'")
        async with world.locked(await world.inbox(bob)):
            outcome = await world.send(alice, bob)
        assert outcome[0] is None
        assert isinstance(outcome[1], Busy)
        assert (await world.count(alice), await world.count(bob)) == (1, 0)


class TestLockedMailbox:
    """Somebody else holds the lock for as long as the test wants: nothing here is judged by time."""

    async def test_holds_up_nobody_else(self, world: World) -> None:
        """More batches than there are lanes, while more mailboxes are locked than are waited for."""
        locked = [await world.account(f"locked{n}") for n in range(3)]
        free = [await world.account(f"free{n}") for n in range(3)]
        async with contextlib.AsyncExitStack() as stack:
            for account in locked:
                await stack.enter_async_context(world.locked(await world.inbox(account)))
            held = []
            for number in range(5):
                held += [asyncio.create_task(world.send(a, data=b"n: %d\r\n\r\n" % number)) for a in locked]
                sent = [world.send(a, data=b"n: %d\r\n\r\n" % number) for a in free]
                assert await asyncio.gather(*sent) == [[None]] * 3
            assert not any(task.done() for task in held)
        assert await asyncio.gather(*held) == [[None]] * 15
        assert [await world.count(account) for account in locked + free] == [5] * 6
        for account in locked:
            assert await world.node.store.db.fetch(CHECK, account, await world.inbox(account)) == []

    @pytest.mark.parametrize("whose", ["account", "domain"])
    async def test_so_does_a_locked_quota(self, world: World, whose: str) -> None:
        """A COPY holds the quota of its account, and of its domain, as long as the mailbox."""
        alice, bob = await world.account("alice", quota_messages=10), await world.account("bob")
        other = await world.node.store.accounts.create("carol@example.org", quota_messages=10)
        lock, key = "lock_account_quotas", int(alice)
        if whose == "domain":
            await world.node.store.db.execute("UPDATE domains SET quota_messages = 100 WHERE name = 'example.com'")
            lock = "lock_domain_quotas"
            key = await world.node.store.db.fetchval("SELECT domain_id FROM accounts WHERE account_id = $1", alice)
        async with world.holding(lock, key):
            held = [asyncio.create_task(world.send(alice))]
            if whose == "domain":
                held.append(asyncio.create_task(world.send(bob)))
            await world.waiting(len(held))
            assert await world.send(other) == [None]
            if whose == "account":
                assert await world.send(bob) == [None]
            assert not any(task.done() for task in held)
        assert await asyncio.gather(*held) == [[None]] * len(held)
        assert await world.count(alice) == 1

    async def test_all_of_an_append_or_none(self, world: World) -> None:
        alice, bob = await world.account("alice"), await world.account("bob")
        inbox = await world.inbox(alice)
        async with world.locked(inbox):
            items = [AppendItem(LETTER), AppendItem(b"a: b\r\n\r\n")]
            appending = asyncio.create_task(world.node.delivery.append(alice, inbox, items))
            await world.waiting()
            assert await world.send(bob) == [None]
            assert await world.count(alice) == 0
        assert (await appending).uids == (1, 2)

    async def test_a_retry_of_what_is_committed_does_not_wait(self, world: World) -> None:
        alice = await world.account("alice")
        assert await world.send(alice) == [None]
        async with world.locked(await world.inbox(alice)):
            assert await world.send(alice) == [None]
        assert await world.count(alice) == 1

    async def test_what_waits_counts_against_no_quota(self, world: World) -> None:
        alice = await world.account("alice", quota_messages=1)
        box = await world.node.store.mailboxes.create(alice, "Lists")
        recipients = tuple(Recipient("u@x", alice, "u@x", mailbox_id) for mailbox_id in (None, box.mailbox_id))
        async with world.locked(await world.inbox(alice)):
            sending = asyncio.create_task(
                world.node.delivery.deliver(LETTER, MailEnvelope("s@x", recipients, "mx", "local", id="1"))
            )
            await world.waiting()
            assert await world.count(alice) == 1
        inbox, lists = await sending
        assert isinstance(inbox, OverQuota)
        assert lists is None

    @pytest.mark.parametrize("size", [10, COPY_BYTES + 1])
    async def test_the_copy_of_a_body_is_kept_for_the_mailbox_that_is_free(self, world: World, size: int) -> None:
        """The first message with the body waits, the second one has it."""
        alice = await world.account("alice")
        box = await world.node.store.mailboxes.create(alice, "Lists")
        letter = new_message(alice, None, None)
        batch = [letter, replace(letter, mailbox_id=box.mailbox_id)]
        body = [b"x" * size]
        async with world.locked(await world.inbox(alice)):
            first, second = await world.node.store.messages.deliver(batch, "node-1", [body, body], patient=False)
        assert (first.locked, first.uid, second.locked, second.uid) == (True, 0, False, 1)
        stored = await world.node.store.db.fetchval("SELECT sum(length(body)) FROM body_copies")
        assert stored == size

    async def test_busy_after_the_lock_timeout(self, world: World) -> None:
        alice = await world.account("alice")
        await world.node.store.db.execute("ALTER FUNCTION sora.deliver SET lock_timeout = '200ms'")
        async with world.locked(await world.inbox(alice)):
            (error,) = await world.send(alice)
        assert isinstance(error, Busy)
        assert await world.count(alice) == 0
        assert await world.send(alice) == [None]


class TestLostConnection:
    async def test_backend_killed_before_the_commit(self, world: World) -> None:
        alice = await world.account("alice")
        async with world.locked(await world.inbox(alice)):
            sending = asyncio.create_task(world.send(alice))
            (pid,) = await world.waiting()
            await world.node.store.db.execute("SELECT pg_terminate_backend($1)", pid)
        assert await sending == [None]
        assert await world.count(alice) == 1

    async def test_answer_lost_after_the_commit(self, world: World) -> None:
        alice, bob = await world.account("alice"), await world.account("bob")
        world.disturb(answer_lost)
        assert await world.send(alice, bob) == [None, None]
        assert (await world.count(alice), await world.count(bob)) == (1, 1)
        assert len(world.rung) == 2
        assert {change[:2] for change in world.published} == {
            (account, await world.inbox(account)) for account in (alice, bob)
        }

    async def test_call_lost(self, world: World) -> None:
        alice = await world.account("alice")
        world.disturb(never_arrived)
        assert await world.send(alice) == [None]
        assert await world.count(alice) == 1

    async def test_witness_waits_for_a_backend_that_still_commits(self, world: World) -> None:
        alice = await world.account("alice")
        inbox = await world.inbox(alice)

        async def cut_off(call: Callable[[], Awaitable[Any]]) -> None:
            """The client gives up while the backend waits for its lock; the backend does not know, and commits."""
            world.late = asyncio.create_task(call())  # type: ignore[attr-defined]
            raise DatabaseDown(maybe_done=True)

        world.disturb(as_it_is, cut_off)  # the second call is the one that waits
        async with world.locked(inbox):
            sending = asyncio.create_task(world.send(alice))
            await world.waiting(2)  # the cut-off call first, then the look for its witness
        assert await sending == [None]
        await world.late  # type: ignore[attr-defined]
        assert await world.count(alice) == 1

    async def test_append(self, world: World) -> None:
        alice = await world.account("alice")
        inbox = await world.inbox(alice)
        world.disturb(answer_lost)
        result = await world.node.delivery.append(alice, inbox, [AppendItem(LETTER), AppendItem(LETTER)])
        assert result.uids == (1, 2)
        assert result.uidvalidity == (await world.node.store.mailboxes.get(alice, "INBOX")).uidvalidity
        assert await world.count(alice) == 2

    async def test_append_lost_before_the_commit(self, world: World) -> None:
        alice = await world.account("alice")
        world.disturb(never_arrived)
        result = await world.node.delivery.append(alice, await world.inbox(alice), [AppendItem(LETTER)])
        assert result.uids == (1,)
        assert await world.count(alice) == 1

    async def test_staged_file_stays_whatever_happens(self, world: World) -> None:
        alice = await world.account("alice")
        world.disturb(never_arrived, never_arrived)
        (error,) = await world.send(alice)
        assert isinstance(error, DatabaseDown)
        assert len(await world.node.staging.list_files()) == 1


class TestAppend:
    async def test_flags_and_dates(self, world: World) -> None:
        alice = await world.account("alice")
        inbox = await world.inbox(alice)
        await world.node.delivery.append(alice, inbox, [AppendItem(LETTER, flags=(0, 3))])
        status = (await world.node.store.mailboxes.status(alice, ["INBOX"]))["INBOX"]
        assert status is not None
        assert (status.messages, status.unseen, status.deleted) == (1, 0, 1)

    async def test_equal_messages_are_two(self, world: World) -> None:
        alice = await world.account("alice")
        inbox = await world.inbox(alice)
        for _ in range(2):
            await world.node.delivery.append(alice, inbox, [AppendItem(LETTER)])
        assert await world.count(alice) == 2
        assert await world.node.store.db.fetchval("SELECT count(*) FROM message_contents") == 1

    async def test_all_or_none(self, world: World) -> None:
        alice = await world.account("alice", quota_messages=2)
        inbox = await world.inbox(alice)
        with pytest.raises(OverQuota):
            await world.node.delivery.append(alice, inbox, [AppendItem(b"n: %d\r\n\r\n" % n) for n in range(3)])
        assert await world.count(alice) == 0

    async def test_no_such_mailbox(self, world: World) -> None:
        alice = await world.account("alice")
        with pytest.raises(NotFound):
            await world.node.delivery.append(alice, 10**9, [AppendItem(LETTER)])  # type: ignore[arg-type]


class TestFindRecipients:
    async def test_kinds(self, world: World) -> None:
        alice = await world.account("alice")
        box = await world.node.store.mailboxes.create(alice, "Lists")
        await world.node.store.mailboxes.create(alice, "parent/child")
        await world.node.store.mailboxes.delete(alice, "parent")
        full = await world.account("full", quota_messages=1)
        await world.send(full)
        names = ["alice", "ALICE+Lists", "alice+nothing", "alice+parent", "alice+../x", "full", "nobody"]
        found = await world.node.recipients.find(
            [lmtp.parse_recipient(b"TO:<%s@example.com>" % name.encode(), utf8=False).path for name in names]
        )
        inbox = [Recipient(f"{name}@example.com", alice, "alice@example.com") for name in names]
        assert found[0] == inbox[0]
        assert found[1] == Recipient("ALICE+Lists@example.com", alice, "alice@example.com", box.mailbox_id)
        assert found[2:5] == inbox[2:5]
        assert isinstance(found[5], OverQuota)
        assert isinstance(found[6], NotFound)
