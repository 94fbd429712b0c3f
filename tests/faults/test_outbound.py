"""No mail of the queue is lost, and none is sent twice where SMTP can know, whatever dies or lies.

The smarthost is a process of its own, as are the senders; what it has taken is on its disk before it says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sora.store.db import Database
from sora.store.outbound import Outgoing, enqueue, sealed
from sora.store.sealing import PLAIN
from sora.store.store import Store
from sora.types import AccountId
from tests.support.demo import Demo
from tests.support.pgproxy import PostgresProxy
from tests.support.smtpsink import running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.support.smtpsink import Sink

pytestmark = pytest.mark.timeout(60)
DATA = b"Subject: hi\r\n\r\n" + b"x" * 70 + b"\r\n"


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    with running(tmp_path / "sink") as sink:
        yield sink


@pytest.fixture
async def ann(store: Store) -> AccountId:
    return await store.accounts.create("ann@example.com")


class Senders:
    """Processes that send; what they say is in `log`."""

    def __init__(self, dsn: str, directory: Path, port: int) -> None:
        self._command = [sys.executable, "-m", "tests.support.sender", dsn, str(directory), str(port)]
        self._all: list[subprocess.Popen[bytes]] = []
        self.log = directory.with_suffix(".log")

    def start(self, claim: str = "node/1/1", crash_at: str = "", connections: int = 4) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "SORA_CRASH_AT": crash_at}
        with self.log.open("ab") as log:
            process = subprocess.Popen([*self._command, claim, str(connections)], env=environment, stderr=log)
        self._all.append(process)
        return process

    def stop(self) -> None:
        for process in self._all:
            process.terminate()
        for process in self._all:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()


@pytest.fixture
def senders(dsn: str, tmp_path: Path, sink: Sink) -> Iterator[Senders]:
    senders = Senders(dsn, tmp_path / "node", sink.port)
    yield senders
    senders.stop()


async def queue(store: Store, account_id: AccountId, count: int = 1) -> list[str]:
    recipients = [f"{number}@example.org" for number in range(count)]
    mails = [Outgoing("redirect", "a@example.org", recipient, data=DATA) for recipient in recipients]
    async with store.db.transaction() as conn:
        await enqueue(conn, [sealed(account_id, mail, PLAIN) for mail in mails])
    return sorted(recipients)


async def until(condition: Callable[[], Awaitable[Any] | Any], seconds: float = 30.0) -> None:
    """Look again and again."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.02)


async def drained(store: Store) -> bool:
    return (await store.outbound.backlog()).pending == 0


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize(("point", "twice"), [("outbound.claimed", 0), ("outbound.sent", 1), ("outbound.marked", 0)])
async def test_killed_at_every_crash_point(
    store: Store, sink: Sink, senders: Senders, ann: AccountId, point: str, twice: int, passes: int
) -> None:
    """One connection, so one mail is under way; it is sent twice only if the smarthost had it and nobody noted that."""
    wanted = await queue(store, ann, 20)  # more than are claimed at a time
    victim = senders.start(crash_at=f"{point}:{passes}", connections=1)
    await until(lambda: victim.poll() is not None)
    assert victim.returncode == -signal.SIGKILL
    left = {mail.recipient for mail in await store.outbound.list_mail()}
    assert sorted(left | set(sink.recipients())) == wanted, "each is in the queue or was taken"
    senders.start()
    await until(lambda: drained(store))
    assert sorted(set(sink.recipients())) == wanted
    assert len(sink.mails()) == 20 + twice


async def test_killed_in_the_middle_of_the_data(store: Store, sink: Sink, senders: Senders, ann: AccountId) -> None:
    wanted = await queue(store, ann, 8)
    sink.mode(slow_s=0.3)
    victim = senders.start()
    await until(lambda: sink.mails())
    victim.kill()
    victim.wait()
    sink.mode()
    senders.start()
    await until(lambda: drained(store))
    found = Counter(sink.recipients())
    assert sorted(found) == wanted
    assert sum(found.values()) <= 8 + 4, "one for each connection at most"


async def test_two_at_once_send_each_mail_once(store: Store, sink: Sink, senders: Senders, ann: AccountId) -> None:
    wanted = await queue(store, ann, 150)
    senders.start("one/1/1")
    senders.start("two/1/1")
    await until(lambda: drained(store))
    assert sink.recipients() == wanted


async def test_what_a_dead_node_had_claimed_is_sent_by_another(
    store: Store, sink: Sink, senders: Senders, ann: AccountId
) -> None:
    wanted = await queue(store, ann, 3)
    victim = senders.start("one/1/1", crash_at="outbound.claimed")
    await until(lambda: victim.poll() is not None)
    senders.start("two/1/1")
    await asyncio.to_thread(sink.mails)
    await store.db.execute("UPDATE outbound_queue SET next_try = next_try - interval '30 min'")  # the end of the claim
    await store.db.execute("SELECT pg_notify('sora_outbound', '')")
    await until(lambda: drained(store), 45)
    assert sink.recipients() == wanted


async def test_a_smarthost_that_is_down_costs_no_attempts(
    store: Store, sink: Sink, senders: Senders, ann: AccountId
) -> None:
    sink.stop()
    await store.db.execute("INSERT INTO instances (instance_id, host) VALUES ('node', 'mx1')")
    wanted = await queue(store, ann, 20)
    senders.start()
    await until(lambda: "smarthost is down" in senders.log.read_text())
    rows = await store.outbound.list_mail()
    assert {(mail.attempts, mail.last_error) for mail in rows} == {(0, "")}
    await until(store.outbound.unreached)
    (unreached,) = await store.outbound.unreached()
    assert unreached.node == "mx1"
    assert "Connect" in unreached.error
    sink.start()
    await until(lambda: drained(store))
    assert sink.recipients() == wanted
    assert sink.attempts() == 20
    assert await store.outbound.unreached() == []


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
async def test_a_connection_that_ends_before_the_end_of_data(
    store: Store, sink: Sink, senders: Senders, ann: AccountId, step: str
) -> None:
    wanted = await queue(store, ann, 2)
    sink.mode(drop=step)
    senders.start()
    await until(lambda: sink.attempts() >= 2)
    sink.mode()
    await until(lambda: drained(store))
    assert sink.recipients() == wanted, "never taken, so sent once"


async def test_a_lost_reply_is_sent_again(store: Store, sink: Sink, senders: Senders, ann: AccountId) -> None:
    wanted = await queue(store, ann, 1)
    sink.mode(drop="reply")
    senders.start()
    await until(lambda: sink.mails())
    sink.mode()
    await until(lambda: drained(store))
    found = Counter(sink.recipients())
    assert sorted(found) == wanted
    assert found["0@example.org"] >= 2, "nobody can know: at least once"


async def test_a_slow_smarthost(store: Store, sink: Sink, senders: Senders, ann: AccountId) -> None:
    wanted = await queue(store, ann, 12)
    sink.mode(slow_s=0.5)
    senders.start()
    await until(lambda: drained(store))
    assert sink.recipients() == wanted


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
async def test_some_are_refused_for_now_and_some_for_ever(
    store: Store, sink: Sink, senders: Senders, ann: AccountId, step: str
) -> None:
    wanted = await queue(store, ann, 6)
    sink.mode(**{step: {"text": "452 4.3.1 later", "times": 3}})
    senders.start()
    await until(lambda: drained(store))
    assert sink.recipients() == wanted
    sink.mode(**{step: {"text": "554 5.6.0 never", "times": 2}})
    await queue(store, ann, 6)
    await store.db.execute("SELECT pg_notify('sora_outbound', '')")
    await until(lambda: drained(store), 45)
    found = Counter(sink.recipients())
    assert found["a@example.org"] == 2, "two reports"
    assert sum(found.values()) == 6 + 4 + 2


async def test_postgresql_goes_away_after_the_smarthost_said_yes(
    dsn: str, store: Store, sink: Sink, senders: Senders, ann: AccountId
) -> None:
    """We know that it was sent, so it is not sent again, however long it takes to note that."""
    wanted = await queue(store, ann, 4)
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(dsn).query)
    socket = Path(query["host"][0]) / f".s.PGSQL.{query.get('port', ['5432'])[0]}"
    sink.mode(slow_s=1.0)
    with PostgresProxy(socket) as proxy:
        senders.start()
        await until(lambda: len(sink.mails()) == 4)
        proxy.vanish()
        refused = proxy.refused
        await until(lambda: proxy.refused > refused)
        proxy.return_()
        await until(lambda: drained(store))
    assert sink.recipients() == wanted


async def test_the_janitor_sends(tmp_path: Path, sink: Sink) -> None:
    """The whole: configured by a reload, woken at once, killed after a mail was claimed, replaced, and no mail lost."""
    asked = tmp_path / "crash"
    environment = {**os.environ, "SORA_CRASH_AT": f"@{asked}"}
    with Demo(tmp_path / "demo", "--accounts", "1", environment=environment) as demo:
        with Path(demo.config).open("a") as file:
            file.write(f'\n[outbound]\nhost = "127.0.0.1"\nport = {sink.port}\ntls = "none"\nhello = "demo.example"\n')
        assert demo.ctl("reload").returncode == 0
        (socket,) = demo.directory.rglob(".s.PGSQL.5432")
        password = (socket.parents[1] / "password").read_text()
        database = await Database.open(f"postgresql://sora:{password}@/sora?host={socket.parent}", min_size=0)
        try:
            store = Store(database)
            account_id = AccountId(await database.fetchval("SELECT min(account_id) FROM accounts"))
            first = await queue(store, account_id, 2)
            await database.execute("SELECT pg_notify('sora_outbound', '')")
            await until(lambda: drained(store), 10)
            assert sink.recipients() == first
            asked.write_text("outbound.claimed")
            await queue(store, account_id, 2)
            await database.execute("SELECT pg_notify('sora_outbound', '')")
            await until(lambda: not asked.exists())
            await until(lambda: drained(store))
        finally:
            await database.close()
        assert sink.recipients() == sorted(first * 2)
        assert json.loads(demo.admin("queue", "list", "--json").stdout)["smarthost"] == "127.0.0.1"
        assert demo.ctl("stop").returncode == 0
    assert "traceback" not in (demo.directory / "run" / "sora.log").read_text().lower()
