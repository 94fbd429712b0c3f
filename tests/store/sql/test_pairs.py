"""The benchmarks' plain SQL gives what our functions give, and every function of the schema is measured."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from benchmarks.sql.data import build
from benchmarks.sql.pairs import PAIRS, furnish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.sql.pairs import Context, Pair
    from tests.support.postgres import Cluster

pytestmark = pytest.mark.timeout(90)  # the first test waits for the database and its plain copy

SCHEMA = Path(__file__).parents[3] / "schema"
EXEMPT: dict[str, str] = {}
"""Names of the schema without a benchmark, and why."""


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def context(runner: asyncio.Runner, cluster: Cluster) -> Iterator[Context]:
    """A mailbox of 3,000 messages, a plain copy of it, and functions that count their calls."""

    async def fill() -> tuple[str, Context]:
        name = await cluster.create()
        settings = {"search_path": "sora, public", "track_functions": "all"}
        conn = await asyncpg.connect(cluster.dsn(name), server_settings=settings)
        (target,) = await build(conn, [3000], 10)
        return name, await furnish(conn, target)

    name, context = runner.run(fill())
    yield context
    runner.run(context.conn.close())
    runner.run(cluster.drop(name))


async def answer(context: Context, pair: Pair, side: str) -> object:
    """What one side says, without leaving anything behind."""
    transaction = context.conn.transaction()
    await transaction.start()
    try:
        await context.prepare(pair)
        return await context.run(pair, side)
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
def test_plain_sql_says_the_same(runner: asyncio.Runner, context: Context, pair: Pair) -> None:
    before = runner.run(calls(context))
    ours = runner.run(answer(context, pair, "ours"))
    after = runner.run(calls(context))
    plain = runner.run(answer(context, pair, "plain"))
    if pair.same:
        assert ours == plain
        assert ours or pair.fails, "two empty answers prove nothing"
    silent = {name for name in pair.names if name in after and after[name] == before.get(name, 0)}
    assert not silent or pair.fails, "said to be measured here, but not called"


async def calls(context: Context) -> dict[str, int]:
    """Calls of each function so far; SQL functions may be inlined and are then not counted, so they are left out."""
    rows = await context.conn.fetch(
        """
        SELECT p.proname AS name, coalesce(pg_stat_get_function_calls(p.oid), 0)
          + coalesce(pg_stat_get_xact_function_calls(p.oid), 0) AS calls
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.pronamespace = 'sora'::regnamespace AND l.lanname = 'plpgsql'
        """
    )
    return {row["name"]: row["calls"] for row in rows}


def schema_names() -> set[str]:
    text = "".join(path.read_text() for path in sorted(SCHEMA.glob("*.sql")))
    return set(re.findall(r"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE|VIEW) (?:sora\.)?(\w+)", text))


def test_every_function_is_measured() -> None:
    measured = {name for pair in PAIRS for name in pair.names}
    assert schema_names() - measured - EXEMPT.keys() == set()
    assert measured - schema_names() == set()
    assert EXEMPT.keys() - schema_names() == set()
    assert EXEMPT.keys() & measured == set()
