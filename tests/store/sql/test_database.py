"""sora.store.db: what becomes of errors, transactions and connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import asyncpg
import pytest

from sora.errors import (
    AlreadyExists,
    Busy,
    DatabaseDown,
    DatabaseReadOnly,
    InUse,
    InvalidName,
    LimitExceeded,
    NoPermission,
    NotFound,
    OverQuota,
    SoraError,
)
from sora.store import db as module
from sora.store.db import Database

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

END_SESSION = "SELECT pg_terminate_backend(pg_backend_pid())"


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("P0002", NotFound), ("23505", AlreadyExists), ("SR001", OverQuota), ("SR002", InUse), ("SR003", InvalidName),
        ("SR004", LimitExceeded), ("SR005", NoPermission), ("55P03", Busy), ("40P01", Busy), ("40001", Busy),
        ("57014", Busy),
        ("53300", Busy), ("25006", DatabaseReadOnly), ("53100", DatabaseDown), ("57P03", DatabaseDown),
        ("08006", DatabaseDown),
        ("28P01", DatabaseDown), ("3D000", DatabaseDown), ("58030", DatabaseDown),
    ],
)  # fmt: skip
async def test_sqlstates_are_our_errors(db: Database, sqlstate: str, kind: type[SoraError]) -> None:
    with pytest.raises(kind) as caught:
        await db.execute(f"DO $$ BEGIN RAISE EXCEPTION 'secret detail' USING ERRCODE = '{sqlstate}'; END $$")
    assert "secret" in caught.value.detail
    assert "secret" not in caught.value.text


async def test_a_bug_stays_what_it_is(db: Database) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await db.fetchval("SELECT 1 / 0")
    assert await db.fetchval("SELECT 1") == 1


async def test_a_connection_that_broke_in_the_middle_is_not_used_again(dsn: str) -> None:
    """What asyncpg raises on a connection whose server died while an operation was under way."""
    db = await Database.open(dsn, min_size=1, max_size=1)
    try:
        before = await db.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(DatabaseDown) as caught:
            async with db.acquire():
                raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
        assert caught.value.maybe_done
        assert await db.fetchval("SELECT pg_backend_pid()") != before
    finally:
        await db.close()


async def test_a_connection_that_broke_while_nobody_used_it_is_replaced(dsn: str, db: Database) -> None:
    kept = await Database.open(dsn, min_size=1, max_size=1)
    try:
        async with kept.acquire() as conn:
            noticed = asyncio.Event()
            conn.add_termination_listener(lambda _: noticed.set())
            pid = conn.get_server_pid()
        assert await db.fetchval("SELECT pg_terminate_backend($1)", pid)
        await noticed.wait()
        assert await kept.fetchval("SELECT pg_backend_pid()") != pid
    finally:
        await kept.close()


async def test_the_four_ways_to_ask(db: Database) -> None:
    assert [row["x"] for row in await db.fetch("SELECT * FROM generate_series(1, $1) x", 3)] == [1, 2, 3]
    row = await db.fetchrow("SELECT 1 AS x WHERE $1", False)
    assert row is None
    assert await db.fetchval("SELECT count(*) FROM accounts") == 0
    assert await db.execute("DELETE FROM leases") == "DELETE 0"


async def test_bitmaps_are_bytes(db: Database) -> None:
    assert await db.fetchval("SELECT range_mask(0, 8)") == b"\xff\x80" + bytes(126)
    assert await db.fetchval("SELECT bit_count($1::bit(1024))", b"\x0f" * 128) == 512


async def test_a_statement_whose_connection_breaks_may_be_done(db: Database) -> None:
    with pytest.raises(DatabaseDown) as caught:
        await db.execute(END_SESSION)
    assert caught.value.maybe_done
    assert await db.fetchval("SELECT 1") == 1, "back by itself"


async def test_inside_a_transaction_nothing_is_done_before_the_commit(db: Database) -> None:
    with pytest.raises(DatabaseDown) as caught:
        await _in_transaction(db, "INSERT INTO domains (name) VALUES ('x')", END_SESSION)
    assert not caught.value.maybe_done
    assert await db.fetchval("SELECT count(*) FROM domains") == 0


async def test_a_commit_whose_answer_is_lost_may_be_done(db: Database) -> None:
    """A deferred trigger ends the session in the middle of the commit."""
    await db.execute(
        """
        CREATE FUNCTION bye() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NULL; END $$
        """
    )
    await db.execute(
        """
        CREATE CONSTRAINT TRIGGER bye AFTER INSERT ON domains DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION bye()
        """
    )
    with pytest.raises(DatabaseDown) as caught:
        await _in_transaction(db, "INSERT INTO domains (name) VALUES ('x')")
    assert caught.value.maybe_done


async def _in_transaction(db: Database, *statements: str) -> None:
    async with db.transaction() as conn:
        for statement in statements:
            await conn.execute(statement)


async def test_a_transaction_is_all_or_nothing(db: Database) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await _in_transaction(db, "INSERT INTO domains (name) VALUES ('x')", "SELECT 1 / 0")
    assert await db.fetchval("SELECT count(*) FROM domains") == 0
    async with db.transaction() as conn:
        await conn.execute("INSERT INTO domains (name) VALUES ('x')")
    assert await db.fetchval("SELECT count(*) FROM domains") == 1


async def test_a_cancelled_task_leaves_a_clean_connection(dsn: str) -> None:
    db = await Database.open(dsn, min_size=1, max_size=1)
    started = asyncio.Event()

    async def work() -> None:
        async with db.transaction() as conn:
            await conn.execute("INSERT INTO domains (name) VALUES ('x')")
            started.set()
            await conn.execute("SELECT pg_sleep(10)")

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.fetchval("SELECT count(*) FROM domains") == 0
    await db.close()


async def test_a_transaction_left_open_is_not_handed_on(dsn: str) -> None:
    db = await Database.open(dsn, min_size=1, max_size=1)
    async with db.acquire() as conn:
        await conn.execute("BEGIN")
        await conn.execute("INSERT INTO domains (name) VALUES ('x')")
    assert await db.fetchval("SELECT count(*) FROM domains") == 0
    await db.close()


async def test_a_pool_without_a_free_connection_is_busy(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACQUIRE_TIMEOUT_S", 0.05)
    db = await Database.open(dsn, min_size=1, max_size=1)
    async with db.acquire():
        with pytest.raises(Busy):
            await db.fetchval("SELECT 1")
    await db.close()


async def test_a_server_that_is_away_is_down(tmp_path: Path) -> None:
    dsn = f"postgresql:///sora?host={tmp_path}"
    with pytest.raises(DatabaseDown):
        await Database.open(dsn, min_size=1)
    db = await Database.open(dsn, min_size=0)
    for call in (db.ping, lambda: db.fetch("SELECT 1"), lambda: _in_transaction(db)):
        await _is_down(call)
    await db.close()


async def _is_down(call: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(DatabaseDown) as caught:
        await call()
    assert not caught.value.maybe_done


async def test_a_closed_pool_is_down(dsn: str) -> None:
    db = await Database.open(dsn)
    await db.close()
    with pytest.raises(DatabaseDown):
        await db.fetch("SELECT 1")


async def test_close_takes_what_is_given_back_while_it_waits(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    db = await Database.open(dsn)
    cut = Mock()
    monkeypatch.setattr(asyncpg.Pool, "terminate", cut)
    async with db.acquire() as conn:
        closing = asyncio.create_task(db.close())
        await asyncio.sleep(0)
        assert await conn.fetchval("SELECT 1") == 1
    await closing
    cut.assert_not_called()


async def test_close_does_not_wait_for_ever(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROLLBACK_TIMEOUT_S", 0.1)
    db = await Database.open(dsn)
    async with db.acquire():
        await db.close()


async def test_misuse_is_not_hidden(db: Database) -> None:
    with pytest.raises(asyncpg.InterfaceError):
        await db.fetch("SELECT $1::int")


async def test_a_standby_is_not_a_primary(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await db.ping()

    async def in_recovery(*_: object) -> tuple[bool, bool]:
        return True, True

    monkeypatch.setattr(db, "fetchrow", in_recovery)
    with pytest.raises(DatabaseReadOnly, match="standby"):
        await db.ping()


async def backend(db: Database) -> int:
    return int(await db.fetchval("SELECT pg_backend_pid()"))


async def test_a_database_that_is_told_to_take_no_changes(dsn: str) -> None:
    db = await Database.open(dsn, min_size=0, max_size=1)
    try:
        await db.execute("CREATE TABLE t (n int)")
        first = await backend(db)
        db.set_read_only(wanted=True)
        assert not db.read_only, "nobody has asked yet"
        with pytest.raises(DatabaseReadOnly):
            await db.execute("INSERT INTO t VALUES (1)")
        assert db.read_only
        second = await backend(db)
        assert second != first
        with pytest.raises(DatabaseReadOnly, match=r"database\.read_only is set"):
            await db.ping()
        with pytest.raises(DatabaseReadOnly):
            async with db.transaction() as conn:
                await conn.execute("INSERT INTO t VALUES (1)")
        assert await backend(db) == second, "a refusal breaks no connection"
        db.set_read_only(wanted=True)
        assert await backend(db) == second
        db.set_read_only(wanted=False)
        await db.execute("INSERT INTO t VALUES (1)")
        assert not db.read_only
        await db.ping()
    finally:
        await db.close()


async def test_what_is_under_way_ends_as_it_began(dsn: str) -> None:
    db = await Database.open(dsn, min_size=0, max_size=2)
    try:
        await db.execute("CREATE TABLE t (n int)")
        async with db.transaction() as conn:
            db.set_read_only(wanted=True)
            await conn.execute("INSERT INTO t VALUES (1)")
            assert await db.fetchval("SELECT count(*) FROM t") == 0
        assert await db.fetchval("SELECT count(*) FROM t") == 1
        with pytest.raises(DatabaseReadOnly):
            await db.execute("DELETE FROM t")
    finally:
        await db.close()


async def test_what_the_owner_of_the_database_wants_holds(dsn: str) -> None:
    """The setting is heard of with the next answer, and the key of the configuration does not undo it."""
    db = await Database.open(dsn, min_size=0, max_size=1)
    name = dsn.partition("?")[0].rpartition("/")[2]
    try:
        await db.execute("CREATE TABLE t (n int)")
        await db.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        assert not db.read_only, "it holds for new sessions"
        with pytest.raises(DatabaseDown):
            await db.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert await db.fetchval("SELECT 1") == 1
        assert db.read_only
        with pytest.raises(DatabaseReadOnly, match="default_transaction_read_only is on"):
            await db.ping()
        for wanted in (True, False):
            db.set_read_only(wanted=wanted)
            with pytest.raises(DatabaseReadOnly):
                await db.execute("INSERT INTO t VALUES (1)")
    finally:
        await db.close()


async def test_a_connection_that_breaks_while_it_is_held_is_an_outage(db: Database) -> None:
    """Between two statements: the pool takes it back, and the next statement says so in words of its own."""
    async with db.acquire() as conn:
        pid = await conn.fetchval("SELECT pg_backend_pid()")
        await db.execute("SELECT pg_terminate_backend($1)", pid)
        while not is_broken(conn):
            await asyncio.sleep(0.01)
        with pytest.raises(DatabaseDown), module.translated(maybe_done=True):
            await conn.execute("SELECT 1")


def is_broken(conn: asyncpg.Connection) -> bool:
    try:
        return bool(conn.is_closed())
    except asyncpg.InterfaceError:
        return True
