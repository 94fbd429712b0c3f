"""sora.store.migrate: from nothing to the latest, and everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sora.errors import Busy, ConfigError, DatabaseDown
from sora.store import migrate
from sora.store.migrate import Standing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.store.db import Connection

NAMES = sorted(path.name for path in migrate.SCHEMA.glob("*.sql"))


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A copy of the first migrations, for a test to add to."""
    for name in NAMES[:3]:
        (tmp_path / name).write_text((migrate.SCHEMA / name).read_text())
    return tmp_path


@pytest.fixture
async def raw(empty_dsn: str) -> AsyncIterator[Connection]:
    """A connection to the database that is migrated."""
    connection = await asyncpg.connect(empty_dsn)
    yield connection
    await connection.close()


async def test_empty_to_latest(empty_dsn: str) -> None:
    before = await migrate.status(empty_dsn)
    assert [(step.name, step.applied, step.known) for step in before] == [(name, False, True) for name in NAMES]
    assert await migrate.pending(empty_dsn) == NAMES
    assert await migrate.up(empty_dsn) == NAMES
    assert await migrate.up(empty_dsn) == []
    assert all(step.applied and step.applied_at for step in await migrate.status(empty_dsn))
    assert await migrate.pending(empty_dsn) == []


async def test_two_at_once_apply_each_file_once(empty_dsn: str) -> None:
    one, two = await asyncio.gather(migrate.up(empty_dsn), migrate.up(empty_dsn))
    assert sorted([*one, *two]) == NAMES
    assert [] in (one, two)


async def test_a_failing_file_leaves_nothing_and_the_next_run_goes_on(
    empty_dsn: str, schema: Path, raw: Connection
) -> None:
    bad = schema / "0004_bad.sql"
    bad.write_text("CREATE TABLE half (); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate.up(empty_dsn, schema)
    assert await raw.fetchval("SELECT to_regclass('sora.half')") is None
    assert [step.applied for step in await migrate.status(empty_dsn, schema)] == [True, True, True, False]
    bad.write_text("CREATE TABLE half ();")
    assert await migrate.up(empty_dsn, schema) == ["0004_bad.sql"]
    assert await raw.fetchval("SELECT to_regclass('sora.half')") is not None


async def test_an_older_release_goes_on_with_a_schema_that_has_grown(empty_dsn: str, schema: Path) -> None:
    """What a rolling upgrade and a downgrade by one release need."""
    (schema / "0098_future.sql").write_text("CREATE TABLE future ();")
    await migrate.up(empty_dsn, schema)
    (schema / "0098_future.sql").unlink()
    assert await migrate.standing(empty_dsn, schema) == Standing(missing=[], waiting=[], ahead=["0098_future.sql"])
    assert await migrate.up(empty_dsn, schema) == []
    assert [step.name for step in await migrate.status(empty_dsn, schema) if not step.known] == ["0098_future.sql"]


async def test_an_older_release_adds_nothing_to_a_newer_schema(empty_dsn: str, schema: Path, raw: Connection) -> None:
    (schema / "0098_future.sql").write_text("CREATE TABLE future ();")
    await migrate.up(empty_dsn, schema)
    (schema / "0098_future.sql").rename(schema / "0004_other.sql")
    with pytest.raises(ConfigError, match=r"newer release: it has 0098_future\.sql"):
        await migrate.up(empty_dsn, schema)
    assert (await migrate.standing(empty_dsn, schema)).missing == ["0004_other.sql"]


async def test_a_release_whose_needs_were_taken_away_is_refused(empty_dsn: str, schema: Path) -> None:
    (schema / "0098_gone.sql").write_text("-- contract: 2.1\nSELECT 1;")
    await migrate.up(empty_dsn, schema)
    (schema / "0098_gone.sql").unlink()
    for refused in (migrate.up, migrate.pending):
        with pytest.raises(
            ConfigError, match=r"newer release: 0098_gone\.sql took away what releases before 2\.1 need"
        ):
            await refused(empty_dsn, schema)


@pytest.mark.parametrize(
    ("versions", "applied"),
    [
        ([], True), (["2.1.0", "2.10"], True), (["2.1", "3"], True), (["2.1.0+local"], True),
        (["2.0.9"], False), (["2.1", "2.0.9"], False), ([""], False),
    ],
)  # fmt: skip
async def test_nothing_is_taken_away_while_an_older_node_runs(
    empty_dsn: str, tmp_path: Path, raw: Connection, versions: list[str], applied: bool
) -> None:
    for name in NAMES:
        (tmp_path / name).write_text((migrate.SCHEMA / name).read_text())
    await migrate.up(empty_dsn, tmp_path)
    for number, version in enumerate(versions):
        await raw.execute("SELECT sora.register_instance($1, 'h', $2)", f"node{number}", version)
    (tmp_path / "0097_contract.sql").write_text("-- contract: 2.1\nCREATE TABLE contracted ();")
    (tmp_path / "0098_expand.sql").write_text("CREATE TABLE expanded ();")
    waiting = [] if applied else ["0097_contract.sql"]
    assert await migrate.up(empty_dsn, tmp_path) == ["0097_contract.sql", "0098_expand.sql"][len(waiting) :]
    assert await migrate.standing(empty_dsn, tmp_path) == Standing(missing=[], waiting=waiting, ahead=[])
    # the node is upgraded, or stopped, or was not heard of for a while
    await raw.execute("UPDATE sora.instances SET heartbeat_at = now() - interval '61 s'")
    assert await migrate.up(empty_dsn, tmp_path) == waiting
    assert (await migrate.standing(empty_dsn, tmp_path)).waiting == []


async def test_a_stopped_node_does_not_count(empty_dsn: str, raw: Connection) -> None:
    await migrate.up(empty_dsn)
    await raw.execute("SELECT sora.register_instance('node', 'h', '1.0')")
    assert not await migrate._is_free(raw, "2.0")
    await raw.execute("UPDATE sora.instances SET stopped_at = now()")
    assert await migrate._is_free(raw, "2.0")


TAKES_AWAY = re.compile(
    r"^\s*(DROP (TABLE|FUNCTION|INDEX|VIEW|TYPE|SEQUENCE)"
    r"|ALTER TABLE .*\b(DROP|RENAME|SET NOT NULL|ALTER COLUMN .* TYPE))",
    re.IGNORECASE | re.MULTILINE,
)
FIRST_RELEASE = "0029"
"""Files before this one were changed until the first release: no older node has run on them."""


def test_a_file_that_takes_away_says_so() -> None:
    assert TAKES_AWAY.search("ALTER TABLE messages DROP COLUMN x;")
    assert not TAKES_AWAY.search("ALTER TABLE messages ADD COLUMN x int;")
    for name in NAMES:
        text = (migrate.SCHEMA / name).read_text()
        if name >= FIRST_RELEASE and TAKES_AWAY.search(text):
            assert text.startswith("-- contract: "), name


async def test_a_file_that_was_changed_after_it_was_applied_is_refused(empty_dsn: str, schema: Path) -> None:
    await migrate.up(empty_dsn, schema)
    changed = schema / NAMES[1]
    changed.write_text(changed.read_text() + "\n-- more\n")
    with pytest.raises(ConfigError, match=f"its {NAMES[1]} differs"):
        await migrate.up(empty_dsn, schema)


async def test_a_lost_lock_is_noticed(empty_dsn: str, schema: Path, raw: Connection) -> None:
    """As behind a pooler that gives every transaction another session."""
    (schema / "0004_unlock.sql").write_text("SELECT pg_advisory_unlock(21320, 0);")
    (schema / "0005_late.sql").write_text("CREATE TABLE late ();")
    with pytest.raises(ConfigError, match="lock was lost"):
        await migrate.up(empty_dsn, schema)
    assert await raw.fetchval("SELECT to_regclass('sora.late')") is None


async def test_ddl_does_not_queue_up_behind_a_long_transaction(
    empty_dsn: str, schema: Path, raw: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "DDL_LOCK_WAIT_S", 0.05)
    await migrate.up(empty_dsn, schema)
    (schema / "0004_alter.sql").write_text("ALTER TABLE accounts ADD COLUMN more int;")
    async with raw.transaction():
        await raw.fetch("SELECT * FROM sora.accounts")
        with pytest.raises(Busy):
            await migrate.up(empty_dsn, schema)
    assert await migrate.up(empty_dsn, schema) == ["0004_alter.sql"]


@pytest.mark.parametrize("names", [[], ["readme.sql"], ["0001_a.sql", "0001_b.sql"]])
async def test_a_directory_that_is_none_is_refused(empty_dsn: str, tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(ConfigError, match="not a directory of migrations"):
        await migrate.up(empty_dsn, tmp_path)


async def test_a_server_that_is_away_is_down(tmp_path: Path) -> None:
    with pytest.raises(DatabaseDown):
        await migrate.up(f"postgresql:///sora?host={tmp_path}")


async def test_uidvalidity_is_raised_by_every_run(empty_dsn: str, raw: Connection) -> None:
    await migrate.up(empty_dsn)
    await raw.execute("SELECT setval('sora.uidvalidities', 5)")
    await migrate.up(empty_dsn)
    assert await raw.fetchval("SELECT last_value FROM sora.uidvalidities") > 1_700_000_000


async def test_every_function_has_a_search_path(empty_dsn: str, raw: Connection) -> None:
    """One that runs queries, and has none, means something else in every session."""
    await migrate.up(empty_dsn)
    rows = await raw.fetch(
        """
        SELECT proname FROM pg_proc JOIN pg_language l ON l.oid = prolang
        WHERE pronamespace = 'sora'::regnamespace AND lanname = 'plpgsql' AND prosrc ~* '\\m(FROM|INSERT|UPDATE)\\M'
          AND NOT coalesce(proconfig @> ARRAY['search_path=sora, public'], false)
        """
    )
    # the one names its table in full, the other only speaks of inserting
    assert sorted(row["proname"] for row in rows) == ["mailbox_created", "messages_immutable"]
