"""Registration of the node and leadership of the housekeeping, on a real database."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from sora.config import Config
from sora.errors import DatabaseDown, DatabaseReadOnly, InUse
from sora.server import janitor
from sora.server.janitor import Leadership, Registration
from sora.server.scoreboard import Scoreboard
from tests.support.node import open_node

if TYPE_CHECKING:
    from pathlib import Path

    from sora.store.store import Store


async def incarnation(store: Store, name: str) -> int:
    value: int = await store.db.fetchval("SELECT incarnation FROM instances WHERE instance_id = $1", name)
    return value


def test_without_a_smarthost_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert janitor._smarthost(Config(), "me.example") is None
    (record,) = caplog.records
    assert (record.levelname, "no smarthost is configured" in record.getMessage()) == ("WARNING", True)


async def test_one_life_of_the_supervisor_is_one_incarnation(store: Store) -> None:
    row = Scoreboard(1).take()
    for _ in range(3):
        # Each is a janitor that died and came back.
        await Registration(store, "node-1", row).beat()
    assert await incarnation(store, "node-1") == row.get("incarnation") == 1
    await Registration(store, "node-1", Scoreboard(1).take()).beat()
    assert await incarnation(store, "node-1") == 2


async def test_the_heartbeat_is_written(store: Store) -> None:
    node = Registration(store, "node-1", Scoreboard(1).take())
    await node.beat()
    await store.db.execute("UPDATE instances SET heartbeat_at = clock() - interval '1 hour'")
    await node.beat()
    assert await store.db.fetchval("SELECT clock() - heartbeat_at < interval '1 minute' FROM instances")


async def test_a_node_whose_name_was_taken_says_so_and_registers_again(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Scoreboard(1).take()
    await Registration(store, "node-1", ours).beat()
    await Registration(store, "node-1", Scoreboard(1).take()).beat()
    await Registration(store, "node-1", ours).beat()
    assert "its name is used" in caplog.text
    assert await incarnation(store, "node-1") == ours.get("incarnation") == 3


async def test_a_copy_of_the_disk_is_fenced_while_the_node_lives(store: Store) -> None:
    node, copy = Scoreboard(1).take(), Scoreboard(1).take()
    ours, theirs = Registration(store, "node-1", node), Registration(store, "node-1", copy)
    ours._seat, theirs._seat = "here", "there"
    await ours.beat()
    await theirs.beat()
    assert (copy.get("fenced"), copy.get("incarnation")) == (1, 0)
    await ours.beat()
    assert (node.get("fenced"), node.get("incarnation")) == (0, 1)
    await theirs.leave()
    assert not await store.db.fetchval("SELECT stopped_at IS NOT NULL FROM instances"), "it had no right to say that"
    await ours.leave()
    await theirs.beat()
    assert (copy.get("fenced"), copy.get("incarnation")) == (0, 2)
    await ours.beat()
    assert node.get("fenced") == 1, "now this one is the other"


async def test_a_node_that_slept_while_a_copy_took_its_name_is_fenced_until_that_is_silent(store: Store) -> None:
    node, copy = Scoreboard(1).take(), Scoreboard(1).take()
    ours, theirs = Registration(store, "node-1", node), Registration(store, "node-1", copy)
    ours._seat, theirs._seat = "here", "there"
    await ours.beat()
    await store.db.execute("UPDATE instances SET heartbeat_at = clock() - interval '2 minutes'")
    await theirs.beat()
    for _ in range(2):
        await ours.beat()
        assert node.get("fenced") == 1
    await store.db.execute("UPDATE instances SET heartbeat_at = clock() - interval '2 minutes'")
    await ours.beat()
    assert (node.get("fenced"), node.get("incarnation")) == (0, 3)


async def test_a_stop_of_the_janitor_alone_is_taken_back(store: Store) -> None:
    row = Scoreboard(1).take()
    node = Registration(store, "node-1", row)
    await node.beat()
    await node.leave()
    assert await store.db.fetchval("SELECT stopped_at IS NOT NULL FROM instances")
    await Registration(store, "node-1", row).beat()
    assert await store.db.fetchval("SELECT stopped_at IS NULL FROM instances")
    assert row.get("incarnation") == 1


async def test_an_upgraded_node_says_so_when_its_old_workers_are_gone(
    store: Store, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then a migration must take nothing away that they need."""
    async with open_node(dsn, tmp_path) as opened:
        row, config = Scoreboard(1).take(), opened.config
    monkeypatch.setattr(janitor, "_version", lambda: "1.0")
    await Registration(store, "node-1", row, config=config).beat()
    monkeypatch.setattr(janitor, "_version", lambda: "1.1")
    upgraded = Registration(store, "node-1", row, config=config)
    await upgraded.beat()
    assert await store.db.fetchval("SELECT version FROM instances") == "1.0"
    upgraded._since_mono -= config.process.linger + 1
    await upgraded.beat()
    assert await store.db.fetchval("SELECT version FROM instances") == "1.1"


async def test_while_the_database_takes_no_changes_the_janitor_rests(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "READ_ONLY_S", 0.01)
    process = SimpleNamespace(stopping=asyncio.Event())
    asked = 0

    async def work() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            process.stopping.set()
        raise DatabaseReadOnly(detail="the server is a standby")

    await asyncio.wait_for(janitor._repeat(process, lambda: 0.0, work), 5)  # type: ignore[arg-type]
    assert asked == 5
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert told == ["nothing is done while the database is read-only"], "once"


async def test_a_heartbeat_that_nobody_heard_is_sent_again_soon(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its registration a node refuses every POP3 login, so it must not wait for the next round."""
    node = Registration(store, "node-1", Scoreboard(1).take())
    assert node.pause_s() == janitor.UNHEARD_S
    await node.beat()
    assert node.pause_s() == janitor.HEARTBEAT_S

    async def away(*_: object) -> bool:
        raise DatabaseDown

    monkeypatch.setattr(store.leases, "heartbeat", away)
    with pytest.raises(DatabaseDown):
        await node.beat()
    assert node.pause_s() == janitor.UNHEARD_S


async def test_one_node_leads_and_another_follows_when_it_resigns(store: Store) -> None:
    leaders = []
    for name in ("node-1", "node-2"):
        row = Scoreboard(1).take()
        await Registration(store, name, row).beat()
        leaders.append(Leadership(store, name, row))
    first, second = leaders
    assert await first.held()
    assert not await second.held()
    assert await first.held()
    await first.resign()
    second._renew_at = 0.0
    assert await second.held()


async def test_all_tasks_of_a_janitor_may_ask_at_once(store: Store) -> None:
    """At a start all of them do, before there is a token."""
    row = Scoreboard(1).take()
    await Registration(store, "node-1", row).beat()
    leader = Leadership(store, "node-1", row)
    assert await asyncio.gather(*(leader.held() for _ in range(4))) == [True] * 4
    leader._renew_at = 0.0
    assert await leader.held()
    assert await store.db.fetchval("SELECT token FROM leases") == 1


async def test_a_janitor_that_died_leads_on(store: Store) -> None:
    row = Scoreboard(1).take()
    await Registration(store, "node-1", row).beat()
    assert await Leadership(store, "node-1", row).held()
    token = row.get("lease_token")
    successor = Leadership(store, "node-1", row)
    assert await successor.held()
    assert row.get("lease_token") == token


async def test_a_lost_lease_ends_the_leadership(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "LEAD_S", 0.0)
    rows = [Scoreboard(1).take() for _ in range(2)]
    for name, row in zip(("node-1", "node-2"), rows, strict=True):
        await Registration(store, name, row).beat()
    first, second = (Leadership(store, f"node-{number}", row) for number, row in enumerate(rows, 1))
    assert await first.held()
    await store.db.execute("UPDATE leases SET expires_at = clock() - interval '1 s'")
    assert await second.held()
    assert not await first.held()
    await first.resign()
    assert await second.held()


async def test_an_unregistered_node_does_not_lead(store: Store) -> None:
    assert not await Leadership(store, "nobody", Scoreboard(1).take()).held()


async def test_the_lease_keeps_others_out(store: Store) -> None:
    row = Scoreboard(1).take()
    await Registration(store, "node-1", row).beat()
    assert await Leadership(store, "node-1", row).held()
    with pytest.raises(InUse):
        await store.leases.acquire(janitor.LEASE, "node-1")
