"""The change feed on a real PostgreSQL, between two processes' worth of `Changes`."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.services import changes as module
from sora.services.changes import Changes, pack, unpack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.store.store import Store


class Watcher:
    """A callback that keeps what it was told."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int, int]] = []
        self._news = asyncio.Event()

    def __call__(self, account_id: int, mailbox_id: int, modseq: int) -> None:
        self.heard.append((account_id, mailbox_id, modseq))
        self._news.set()

    async def until(self, count: int) -> list[tuple[int, int, int]]:
        while len(self.heard) < count:
            self._news.clear()
            await self._news.wait()
        return self.heard


class Fleet:
    """Several processes on one database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.members: list[Changes] = []

    async def add(self, **settings: float) -> Changes:
        changes = Changes(self.dsn, **settings)
        self.members.append(changes)
        changes.start()
        await changes.listening.wait()
        return changes

    async def kill_connections(self) -> int:
        """End every connection of the fleet from the server's side."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return int(
                await connection.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE application_name = 'sora changes' AND datname = current_database()"
                )
            )
        finally:
            await connection.close()


@pytest.fixture
async def fleet(dsn: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(dsn)
    yield fleet
    for member in fleet.members:
        await member.close()


async def test_who_only_sends_needs_no_second_connection(fleet: Fleet) -> None:
    hearer, sender, watcher = await fleet.add(), Changes(fleet.dsn), Watcher()
    fleet.members.append(sender)
    hearer.watch(1, 2, watcher, 0)  # type: ignore[arg-type]
    sender.start(listen=False)
    sender.publish(1, 2, 3)  # type: ignore[arg-type]
    assert await watcher.until(1) == [(1, 2, 3)]
    assert not sender.listening.is_set()
    assert await fleet.kill_connections() == 3, "two of the one, one of the other"


class Notices:
    """What is really sent, as (channel, payload)."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self._news = asyncio.Event()

    def __call__(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        self.heard.append((channel, str(payload)))
        self._news.set()

    async def until(self, count: int) -> list[tuple[str, str]]:
        while len(self.heard) < count:
            self._news.clear()
            await self._news.wait()
        return self.heard


@contextlib.asynccontextmanager
async def notices(dsn: str) -> AsyncIterator[Notices]:
    """Listen on every channel."""
    heard = Notices()
    connection = await asyncpg.connect(dsn)
    try:
        for bucket in range(module.BUCKETS):
            await connection.add_listener(f"sora_{bucket}", heard)
        yield heard
    finally:
        await connection.close()


def watch(changes: Changes, account_id: int, mailbox_id: int, callback: Any, modseq: Any = None) -> Any:
    return changes.watch(account_id, mailbox_id, callback, modseq)  # type: ignore[arg-type]


def publish(changes: Changes, *change: int) -> None:
    changes.publish(*change)  # type: ignore[arg-type]


class TestLocal:
    async def test_watchers_of_the_mailbox_hear_at_once(self, fleet: Fleet) -> None:
        changes = Changes(fleet.dsn)
        one, two, other = Watcher(), Watcher(), Watcher()
        watch(changes, 1, 5, one)
        watch(changes, 1, 5, two)
        watch(changes, 1, 6, other)
        publish(changes, 1, 5, 10)
        assert one.heard == two.heard == [(1, 5, 10)]
        assert other.heard == []

    async def test_what_is_no_news_is_not_told(self, fleet: Fleet) -> None:
        changes = Changes(fleet.dsn)
        watcher = Watcher()
        watch(changes, 1, 5, watcher, 10)
        for modseq in (9, 10, 11, 11, 8, 12):
            publish(changes, 1, 5, modseq)
        assert [modseq for _, _, modseq in watcher.heard] == [11, 12]

    async def test_unwatch(self, fleet: Fleet) -> None:
        changes = Changes(fleet.dsn)
        one, two = Watcher(), Watcher()
        unwatch = watch(changes, 1, 5, one)
        watch(changes, 1, 5, two)
        unwatch()
        unwatch()
        publish(changes, 1, 5, 10)
        assert (one.heard, two.heard) == ([], [(1, 5, 10)])

    async def test_a_second_watcher_brings_no_old_news(self, fleet: Fleet) -> None:
        changes = Changes(fleet.dsn)
        one = Watcher()
        watch(changes, 1, 5, one, 10)
        watch(changes, 1, 5, Watcher())
        publish(changes, 1, 5, 10)
        assert one.heard == []

    async def test_the_same_callback_twice_is_two_watchers(self, fleet: Fleet) -> None:
        changes = Changes(fleet.dsn)
        watcher = Watcher()
        unwatch = watch(changes, 1, 5, watcher)
        watch(changes, 1, 5, watcher)
        unwatch()
        publish(changes, 1, 5, 10)
        assert watcher.heard == [(1, 5, 10)]

    async def test_an_old_unwatch_does_not_end_a_new_watch(self, fleet: Fleet) -> None:
        changes = Changes(fleet.dsn)
        watcher = Watcher()
        old = watch(changes, 1, 5, Watcher())
        old()
        watch(changes, 1, 5, watcher)
        old()
        publish(changes, 1, 5, 10)
        assert watcher.heard == [(1, 5, 10)]

    async def test_a_watcher_that_fails_harms_no_other(self, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
        def broken(*_: int) -> None:
            raise ZeroDivisionError

        changes = Changes(fleet.dsn)
        watcher = Watcher()
        watch(changes, 1, 5, broken)
        watch(changes, 1, 5, watcher)
        publish(changes, 1, 5, 10)
        assert watcher.heard == [(1, 5, 10)]
        assert "watcher failed" in caplog.text

    async def test_a_watcher_may_unwatch_while_it_is_told(self, fleet: Fleet) -> None:
        changes = Changes(fleet.dsn)
        watcher = Watcher()
        unwatch = watch(changes, 1, 5, lambda *_: unwatch())
        watch(changes, 1, 5, watcher)
        publish(changes, 1, 5, 10)
        assert watcher.heard == [(1, 5, 10)]


class TestBetweenProcesses:
    async def test_another_process_hears(self, fleet: Fleet) -> None:
        here, there = await fleet.add(), await fleet.add()
        watcher = Watcher()
        watch(there, 17, 5, watcher)
        publish(here, 17, 5, 10)
        assert await watcher.until(1) == [(17, 5, 10)]

    async def test_every_bucket(self, fleet: Fleet) -> None:
        here, there = await fleet.add(), await fleet.add()
        watcher = Watcher()
        for account_id in range(100, 100 + module.BUCKETS):
            watch(there, account_id, 5, watcher)
            publish(here, account_id, 5, 10)
        assert sorted(await watcher.until(module.BUCKETS)) == [
            (account_id, 5, 10) for account_id in range(100, 100 + module.BUCKETS)
        ]

    async def test_own_notices_are_not_told_again(self, fleet: Fleet) -> None:
        here = await fleet.add()
        watcher, marker = Watcher(), Watcher()
        watch(here, 1, 5, watcher)
        publish(here, 1, 5, 10)
        async with notices(fleet.dsn) as heard:
            publish(here, 1, 6, 2)
            await heard.until(1)
        # a change of somebody else, sent after them on the same channel: when it is here, they are too
        watch(here, 1, 7, marker)
        publish(await fleet.add(), 1, 7, 3)
        await marker.until(1)
        assert watcher.heard == [(1, 5, 10)]

    async def test_changes_of_a_moment_go_out_together(self, fleet: Fleet) -> None:
        here = await fleet.add(flush_s=0.05)
        async with notices(fleet.dsn) as heard:
            for modseq in range(2, 1002):
                publish(here, 32, 5, modseq)
                publish(here, 33, 5, modseq)
            assert sorted(await heard.until(2)) == [("sora_0", "20.5.3e9"), ("sora_1", "21.5.3e9")]

    async def test_many_mailboxes_need_few_notices(self, fleet: Fleet) -> None:
        here, there = await fleet.add(), await fleet.add()
        watcher = Watcher()
        for mailbox_id in range(5000):
            watch(there, 16, mailbox_id, watcher)
        async with notices(fleet.dsn) as heard:
            for mailbox_id in range(5000):
                publish(here, 16, mailbox_id, 10**12)
            assert len(await watcher.until(5000)) == 5000
        assert 10 < len(heard.heard) < 30

    async def test_foreign_notices_are_left_alone(self, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
        here = await fleet.add()
        watcher = Watcher()
        watch(here, 16, 5, watcher)
        connection = await asyncpg.connect(fleet.dsn)
        for payload in ("", "x", "1.2", "1.2.3.4", "10.5.zz"):
            await connection.execute("SELECT pg_notify('sora_0', $1)", payload)
        await connection.execute("SELECT pg_notify('sora_0', '10.5.7')")
        await connection.close()
        assert await watcher.until(1) == [(16, 5, 7)]
        assert caplog.text.count("notice not understood") == 4


class TestPoll:
    async def test_a_lost_notice_is_made_good(self, fleet: Fleet, store: Store) -> None:
        account_id = await store.accounts.create("alice@example.com")
        inbox = (await store.mailboxes.get(account_id, "INBOX")).mailbox_id
        here = await fleet.add(poll_s=0.05)
        watcher = Watcher()
        watch(here, account_id, inbox, watcher, 1)
        await store.db.execute("UPDATE mailbox_stats SET highest_modseq = 9 WHERE mailbox_id = $1", inbox)
        assert await watcher.until(1) == [(account_id, inbox, 9)]

    async def test_a_mailbox_that_is_gone_is_told(self, fleet: Fleet, store: Store) -> None:
        account_id = await store.accounts.create("alice@example.com")
        box = await store.mailboxes.create(account_id, "lists")
        here = await fleet.add(poll_s=0.05)
        watcher = Watcher()
        watch(here, account_id, box.mailbox_id, watcher, 7)
        await store.mailboxes.delete(account_id, "lists")
        assert (await watcher.until(1))[0] == (account_id, box.mailbox_id, module.GONE)

    async def test_one_that_is_restored_is_told_of_again(self, fleet: Fleet, store: Store) -> None:
        """That it was gone is a modseq that none reaches, but not what watchers know from then on."""
        account_id = await store.accounts.create("alice@example.com")
        box = (await store.mailboxes.create(account_id, "lists")).mailbox_id
        here, watcher, whole = await fleet.add(), Watcher(), Watcher()
        watch(here, account_id, box, watcher, 7)
        here.watch_account(account_id, whole)
        for modseq in (8, module.GONE, 9):
            here.publish(account_id, box, modseq)  # type: ignore[arg-type]
        told = [(account_id, box, modseq) for modseq in (8, module.GONE, 9)]
        assert watcher.heard == whole.heard == told

    async def test_nothing_new_is_nothing_told(self, fleet: Fleet, store: Store) -> None:
        account_id = await store.accounts.create("alice@example.com")
        inbox = (await store.mailboxes.get(account_id, "INBOX")).mailbox_id
        sent = (await store.mailboxes.get(account_id, "Sent")).mailbox_id
        here = await fleet.add(poll_s=0.02)
        quiet, marker = Watcher(), Watcher()
        watch(here, account_id, inbox, quiet, 1)
        watch(here, account_id, sent, marker, 1)
        for modseq in range(2, 6):
            await store.db.execute("UPDATE mailbox_stats SET highest_modseq = $2 WHERE mailbox_id = $1", sent, modseq)
            await marker.until(modseq - 1)
        assert quiet.heard == []


class TestLostConnections:
    async def test_listener_and_sender_come_back(self, fleet: Fleet, store: Store) -> None:
        account_id = await store.accounts.create("alice@example.com")
        inbox = (await store.mailboxes.get(account_id, "INBOX")).mailbox_id
        here, there = await fleet.add(), await fleet.add()
        watcher = Watcher()
        watch(there, account_id, inbox, watcher, 1)
        publish(here, account_id, inbox, 2)
        await watcher.until(1)
        assert await fleet.kill_connections() == 4
        while there.listening.is_set():
            await asyncio.sleep(0)
        await there.listening.wait()
        # the database knows nothing of modseq 9: only a notice can tell it
        publish(here, account_id, inbox, 9)
        assert (await watcher.until(2))[1] == (account_id, inbox, 9)

    async def test_who_hears_another_channel_learns_that_notices_were_lost(self, fleet: Fleet) -> None:
        here, seen = Changes(fleet.dsn), asyncio.Event()
        fleet.members.append(here)
        here.hear("sora_keys", lambda _: None, seen.set)
        here.start()
        await here.listening.wait()
        seen.clear()
        assert await fleet.kill_connections() == 2
        await seen.wait()

    async def test_polls_at_once_when_it_is_back(self, fleet: Fleet, store: Store) -> None:
        account_id = await store.accounts.create("alice@example.com")
        inbox = (await store.mailboxes.get(account_id, "INBOX")).mailbox_id
        here = await fleet.add(poll_s=3600.0)
        watcher = Watcher()
        watch(here, account_id, inbox, watcher, 1)
        await store.db.execute("UPDATE mailbox_stats SET highest_modseq = 9 WHERE mailbox_id = $1", inbox)
        await fleet.kill_connections()
        assert await watcher.until(1) == [(account_id, inbox, 9)]

    async def test_starts_without_a_server(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        real, refused = asyncpg.connect, asyncio.Event()

        async def away(*args: Any, **settings: Any) -> Any:
            if not refused.is_set():
                refused.set()
                raise ConnectionRefusedError
            return await real(*args, **settings)

        monkeypatch.setattr(module.asyncpg, "connect", away)
        here = await fleet.add()
        assert refused.is_set()
        assert here.listening.is_set()

    async def test_close_twice_and_without_start(self, fleet: Fleet) -> None:
        here = await fleet.add()
        await here.close()
        await here.close()
        assert not here.listening.is_set()
        await Changes(fleet.dsn).close()


class TestAccounts:
    async def test_all_mailboxes_of_the_account_are_heard(self, fleet: Fleet) -> None:
        here, there = await fleet.add(), await fleet.add()
        watcher = Watcher()
        there.watch_account(17, watcher)  # type: ignore[arg-type]
        publish(here, 17, 5, 10)
        await watcher.until(1)
        publish(here, 18, 6, 10)
        publish(here, 17, 6, 3)
        assert await watcher.until(2) == [(17, 5, 10), (17, 6, 3)]

    async def test_what_is_no_news_is_not_told(self, fleet: Fleet) -> None:
        changes, watcher = Changes(fleet.dsn), Watcher()
        unwatch = changes.watch_account(1, watcher)  # type: ignore[arg-type]
        changes.learn(1, {5: 10})  # type: ignore[arg-type, dict-item]
        for modseq in (9, 10, 11, 11, 8, 12):
            publish(changes, 1, 5, modseq)
        unwatch()
        unwatch()
        publish(changes, 1, 5, 13)
        assert [modseq for _, _, modseq in watcher.heard] == [11, 12]

    async def test_names_are_announced_with_their_commit(self, fleet: Fleet, store: Store) -> None:
        account_id = await store.accounts.create("alice@example.com")
        here, watcher = await fleet.add(poll_s=3600.0), Watcher()
        here.watch_account(account_id, watcher)
        async with store.db.transaction() as transaction:
            await transaction.execute("SELECT subscribe($1, 'Lists')", account_id)
            await transaction.execute("SELECT unsubscribe($1, 'Sent')", account_id)
            assert watcher.heard == []
        assert await watcher.until(2) == [(account_id, module.TREE, 1), (account_id, module.TREE, 2)]

    async def test_lost_notices_are_made_good_for_all_that_is_known(self, fleet: Fleet, store: Store) -> None:
        """The listener dies, things happen, it comes back: mailboxes and names are asked for."""
        account_id = await store.accounts.create("alice@example.com")
        inbox = (await store.mailboxes.get(account_id, "INBOX")).mailbox_id
        here, watcher = await fleet.add(poll_s=3600.0), Watcher()
        here.watch_account(account_id, watcher)
        here.learn(account_id, {module.TREE: 0, inbox: 1})  # type: ignore[dict-item]
        await fleet.kill_connections()
        await store.db.execute("UPDATE mailbox_stats SET highest_modseq = 9 WHERE mailbox_id = $1", inbox)
        await store.db.execute("UPDATE accounts SET change_seq = 4 WHERE account_id = $1", account_id)
        assert sorted(await watcher.until(2)) == [(account_id, module.TREE, 4), (account_id, inbox, 9)]

    async def test_who_knows_less_hears_it_from_the_next_poll(self, fleet: Fleet, store: Store) -> None:
        account_id = await store.accounts.create("alice@example.com")
        here, one, two = await fleet.add(poll_s=0.05), Watcher(), Watcher()
        here.watch_account(account_id, one)
        here.learn(account_id, {module.TREE: 0})  # type: ignore[dict-item]
        await store.mailboxes.subscribe(account_id, "Lists")
        await one.until(1)
        here.watch_account(account_id, two)
        here.learn(account_id, {module.TREE: 0})  # type: ignore[dict-item]
        assert await two.until(1) == [(account_id, module.TREE, 1)]

    async def test_a_mailbox_that_is_gone_is_not_asked_for_again(self, fleet: Fleet, store: Store) -> None:
        account_id = await store.accounts.create("alice@example.com")
        box = await store.mailboxes.create(account_id, "lists")
        here, watcher = await fleet.add(poll_s=0.05), Watcher()
        here.watch_account(account_id, watcher)
        here.learn(account_id, {module.TREE: 1, box.mailbox_id: 1})  # type: ignore[dict-item]
        await store.mailboxes.delete(account_id, "lists")
        assert await watcher.until(1) == [(account_id, module.TREE, 2)]
        await store.mailboxes.subscribe(account_id, "marker")
        await watcher.until(2)
        while any(mailbox_id == box.mailbox_id for _, mailbox_id, _ in here._known()[0]):
            await asyncio.sleep(0)


class TestPayload:
    @given(
        st.dictionaries(
            st.tuples(st.integers(1, 2**62), st.integers(1, 2**62)), st.integers(1, 2**62), min_size=0, max_size=40
        )
    )
    def test_comes_back(self, changes: dict[tuple[int, int], int]) -> None:
        packed = list(pack(changes))  # type: ignore[arg-type]
        found = {}
        for channel, payload in packed:
            assert len(payload) <= module.MAX_PAYLOAD
            for (account_id, mailbox_id), modseq in unpack(payload):
                assert channel == f"sora_{account_id % 16}"
                found[account_id, mailbox_id] = modseq
        assert found == changes

    @pytest.mark.parametrize(("lengths", "payloads"), [((4000, 3998), 1), ((4000, 3999), 2), ((7999,), 1)])
    def test_the_longest_payload(self, lengths: tuple[int, ...], payloads: int) -> None:
        joined = list(module._join("x" * length for length in lengths))
        assert len(joined) == payloads
        assert all(len(payload) <= 7999 for payload in joined)

    def test_full_payloads_hold_as_much_as_fits(self) -> None:
        generator = random.Random(1)
        changes = {(16, generator.getrandbits(40)): generator.getrandbits(40) for _ in range(2000)}
        payloads = [payload for _, payload in pack(changes)]  # type: ignore[arg-type]
        assert all(len(payload) <= module.MAX_PAYLOAD for payload in payloads)
        assert all(len(payload) > module.MAX_PAYLOAD - 30 for payload in payloads[:-1])
        assert sum(len(list(unpack(payload))) for payload in payloads) == len(changes)


@pytest.mark.parametrize("error", [OSError, asyncpg.InterfaceError, asyncpg.InternalClientError])
async def test_a_connection_that_breaks_in_any_way_is_made_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    execute = asyncpg.Connection.execute

    async def broken(*_args: object) -> str:
        monkeypatch.setattr(asyncpg.Connection, "execute", execute)
        raise error("broken")

    here, there, watcher = await fleet.add(flush_s=0.0), await fleet.add(), Watcher()
    watch(there, 1, 2, watcher)
    monkeypatch.setattr(asyncpg.Connection, "execute", broken)
    here.publish(1, 2, 3)  # type: ignore[arg-type]
    assert await watcher.until(1) == [(1, 2, 3)]
