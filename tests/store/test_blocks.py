"""Blocks after failed logins, between two nodes' worth of memory on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sora.admin import auth as admin
from sora.errors import AuthFailed, DatabaseDown, InvalidName, NotFound
from sora.services.changes import Changes
from sora.services.logins.blocks import MAX_UNTOLD, SharedBlocks
from sora.services.logins.failures import Failures, key_of
from sora.services.logins.guesses import Blocked, Guesses
from sora.services.logins.limits import Limits
from sora.store.blocks import CHANNEL, AuthBlocks, NewBlock
from sora.tables import LimitsTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.store.store import Store

HERE = "192.0.2.1"
ANN = "ann@example.com"


class NodeMemory:
    """What one node knows; hears of the others by notices alone."""

    def __init__(self, store: Store, dsn: str) -> None:
        self.failures = Failures()
        self.blocks = SharedBlocks(AuthBlocks(store.db), self.failures, refresh_s=3600)
        self.changes = Changes(dsn)
        self.changes.hear(CHANNEL, self.blocks.wake)
        table = LimitsTable(login_failures_per_account=3, login_failures_per_address=5, login_delay=0.0)
        self.guesses = Guesses(self.failures, limits=Limits(), table=table)
        self.guesses.on_block = self.blocks.begin

    async def start(self) -> None:
        self.changes.start()
        await self.changes.listening.wait()
        self.blocks.start()

    async def close(self) -> None:
        await self.blocks.close()
        await self.changes.close()

    async def fail(self, times: int, peer: str = HERE, login: str = ANN) -> None:
        for _ in range(times):
            with pytest.raises(AuthFailed):
                async with self.guesses.attempt(peer, lambda: login):
                    raise AuthFailed

    async def is_blocked(self, peer: str = HERE, login: str = ANN) -> bool:
        try:
            async with self.guesses.attempt(peer, lambda: login):
                return False
        except Blocked:
            return True

    async def until_blocked(self, blocked: bool, peer: str = HERE, login: str = ANN) -> None:
        while await self.is_blocked(peer, login) is not blocked:
            await asyncio.sleep(0.005)


@pytest.fixture
async def nodes(store: Store, dsn: str) -> AsyncIterator[tuple[NodeMemory, NodeMemory]]:
    one, two = NodeMemory(store, dsn), NodeMemory(store, dsn)
    await one.start()
    await two.start()
    yield one, two
    await one.close()
    await two.close()


@pytest.fixture
def context(store: Store) -> Any:
    """Of an operation, as far as these need it."""

    class Context:
        class config:
            class auth:
                default_domain = "example.com"

    Context.store = store  # type: ignore[attr-defined]
    return Context


async def test_a_block_holds_on_the_other_node_at_once(nodes: tuple[NodeMemory, NodeMemory]) -> None:
    one, two = nodes
    await one.fail(3)
    await two.until_blocked(True)
    assert not await two.is_blocked(login="bob@example.com")
    assert not await two.is_blocked(peer="198.51.100.1")


async def test_a_whole_address_is_blocked_on_the_other_node(nodes: tuple[NodeMemory, NodeMemory]) -> None:
    one, two = nodes
    for number in range(5):
        await one.fail(1, peer="2001:db8::1", login=f"user{number}@example.com")
    await two.until_blocked(True, peer="2001:db8::2", login="somebody@example.com")


async def test_exempt_clients_are_not_blocked_by_what_others_tell(
    nodes: tuple[NodeMemory, NodeMemory], store: Store
) -> None:
    one, two = nodes
    two.guesses.limits = Limits(exempt_networks=["192.0.2.0/24"])
    await one.fail(3)
    await one.fail(3, peer="198.51.100.9")
    await two.until_blocked(True, peer="198.51.100.9")  # so what came before it has arrived
    assert not await two.is_blocked()
    assert {block.site for block in await AuthBlocks(store.db).list_blocks()} == {HERE, "198.51.100.9"}


async def test_a_node_that_starts_knows_the_blocks_of_before(
    nodes: tuple[NodeMemory, NodeMemory], store: Store
) -> None:
    one, _ = nodes
    await one.fail(3)
    await one.blocks.refresh()
    fresh = Failures()
    await SharedBlocks(AuthBlocks(store.db), fresh, clock=lambda: 50.0).refresh()
    assert 890 < fresh.standing(key_of(HERE, ANN), 50.0, 0.0).blocked_s <= 900


async def test_what_an_administrator_lifts_ends_everywhere(nodes: tuple[NodeMemory, NodeMemory], context: Any) -> None:
    one, two = nodes
    await one.fail(3)
    await two.until_blocked(True)
    shown = await admin.blocked(context)
    assert [(block.scope, block.site, block.login) for block in shown] == [("account", HERE, ANN)]
    assert await admin.unblock(context, admin.Unblock(who="Ann")) == shown
    await one.until_blocked(False)
    await two.until_blocked(False)
    assert await admin.blocked(context) == []
    await one.fail(3)
    await two.until_blocked(True)  # a block after that one holds again


@pytest.mark.parametrize("who", ["2001:db8::77", "2001:db8::/64", "2001:DB8:0::1"])
async def test_an_address_is_lifted_with_all_that_is_blocked_there(store: Store, context: Any, who: str) -> None:
    rows = AuthBlocks(store.db)
    lasts = timedelta(minutes=5)
    await rows.begin(
        [
            NewBlock("address", "2001:db8::/64", "", lasts),
            NewBlock("account", "2001:db8::/64", ANN, lasts),
            NewBlock("account", HERE, ANN, lasts),
        ]
    )
    lifted = await admin.unblock(context, admin.Unblock(who=who))
    assert [(block.scope, block.login) for block in lifted] == [("address", ""), ("account", ANN)]
    assert [block.site for block in await admin.blocked(context)] == [HERE]
    with pytest.raises(NotFound, match="is not blocked"):
        await admin.unblock(context, admin.Unblock(who=who))


async def test_an_account_is_lifted_under_all_its_names(store: Store, context: Any) -> None:
    account_id = await store.accounts.create(ANN)
    await store.db.execute(
        "INSERT INTO aliases (address, account_id, login) VALUES ('a@example.com', $1, true)", account_id
    )
    rows = AuthBlocks(store.db)
    names = (ANN, "a@example.com", "bob@example.com")
    await rows.begin([NewBlock("account", HERE, name, timedelta(minutes=5)) for name in names])
    assert len(await admin.unblock(context, admin.Unblock(who="a@example.com"))) == 2
    assert [block.login for block in await admin.blocked(context)] == ["bob@example.com"]


async def test_unblock_wants_an_address(context: Any) -> None:
    with pytest.raises(InvalidName):
        await admin.unblock(context, admin.Unblock(who="not an address@"))


async def test_rows_are_bounded_and_those_that_are_over_go(store: Store) -> None:
    rows = AuthBlocks(store.db)
    await rows.begin([NewBlock("address", HERE, "", timedelta(0))])
    await store.db.execute(
        "SELECT begin_auth_blocks(array_fill('address'::text, '{4}'), ARRAY['a', 'b', 'c', 'd'],"
        " array_fill(''::text, '{4}'), ARRAY['4 min', '1 min', '3 min', '2 min']::interval[], 3)"
    )
    assert [block.site for block in await rows.list_blocks()] == ["a", "c", "d"]
    assert await store.db.fetchval("SELECT count(*) FROM auth_blocks") == 3


async def test_news_come_in_the_order_of_their_commits(store: Store) -> None:
    """Or whoever has read the later one never reads the earlier."""
    rows = AuthBlocks(store.db)
    async with store.db.transaction() as conn:
        await conn.execute(
            "SELECT begin_auth_blocks(ARRAY['address'], ARRAY['a'], ARRAY[''], ARRAY['5 min']::interval[])"
        )
        second = asyncio.create_task(rows.begin([NewBlock("address", "b", "", timedelta(minutes=5))]))
        waits = "SELECT true FROM pg_locks WHERE relation = 'auth_blocks'::regclass AND NOT granted"
        while not await store.db.fetchval(waits):
            await asyncio.sleep(0.005)
        assert await rows.read_news(0) == []
    await second
    assert [news.site for news in await rows.read_news(0)] == ["a", "b"]


class Away:
    """PostgreSQL comes back when the test says so."""

    def __init__(self, rows: AuthBlocks) -> None:
        self.rows = rows
        self.db, rows._db = rows._db, self  # type: ignore[assignment]

    async def execute(self, *_: object) -> None:
        raise DatabaseDown

    fetch = execute

    def come_back(self) -> None:
        self.rows._db = self.db


async def test_without_postgresql_a_node_blocks_for_itself_and_tells_later(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    rows, failures = AuthBlocks(store.db), Failures()
    away = Away(rows)
    blocks = SharedBlocks(rows, failures, refresh_s=0.01)
    with caplog.at_level(logging.WARNING, "sora.services.logins.blocks"):
        blocks.begin("account", HERE, ANN, 300.0)
        blocks.begin("account", HERE, "over@example.com", -1.0)
        blocks.start()
        while not caplog.records:
            await asyncio.sleep(0.005)
        away.come_back()
        while not await rows.list_blocks():
            await asyncio.sleep(0.005)
    await blocks.close()
    assert [record.getMessage() for record in caplog.records] == ["blocks hold on this node alone"]
    assert [(block.site, block.login) for block in await rows.list_blocks()] == [(HERE, ANN)]


async def test_a_bug_does_not_end_the_sharing(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = AuthBlocks(store.db)
    blocks = SharedBlocks(rows, Failures(), refresh_s=0.01)
    begin = rows.begin

    async def broken(_blocks: object) -> None:
        monkeypatch.setattr(rows, "begin", begin)
        raise ValueError("a bug")

    monkeypatch.setattr(rows, "begin", broken)
    blocks.begin("account", HERE, "odd@example.com", 300.0)
    blocks.start()
    while not caplog.records:
        await asyncio.sleep(0.005)
    blocks.begin("account", HERE, ANN, 300.0)
    while not await rows.list_blocks():
        await asyncio.sleep(0.005)
    await blocks.close()
    assert [block.login for block in await rows.list_blocks()] == [ANN]


def test_few_blocks_wait_for_postgresql() -> None:
    blocks = SharedBlocks(AuthBlocks(None), Failures())  # type: ignore[arg-type]
    for number in range(MAX_UNTOLD + 5):
        blocks.begin("account", HERE, str(number), 60.0)
    assert len(blocks._untold) == MAX_UNTOLD
