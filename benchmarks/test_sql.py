"""Every SQL function beside its plain model, in one session: `make bench`, table in results/sql.md."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from benchmarks.sides import SIDES, compare
from benchmarks.sql.data import build
from benchmarks.sql.pairs import PAIRS, furnish
from sora.server.embedded_pg import EmbeddedPostgres
from sora.store import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

    from benchmarks.sql.pairs import Context, Pair

WARM = 6
"""PL/pgSQL changes to generic plans at the sixth call."""


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def context(
    runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Context]:
    """One large mailbox among 200 small ones; without fsync, which is the same on both sides."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), {"fsync": "off", "shared_buffers": "1GB"})
    postgres.prepare()
    postgres.start()

    async def fill() -> Context:
        await migrate.up(postgres.dsn)
        conn = await asyncpg.connect(postgres.dsn, server_settings={"search_path": "sora, public", "jit": "off"})
        (target,) = await build(conn, [pytestconfig.getoption("--sql-messages")], 200)
        return await furnish(conn, target)

    context = runner.run(fill())
    yield context
    runner.run(context.conn.close())
    postgres.stop()


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
def test_sql(
    benchmark: BenchmarkFixture, pytestconfig: pytest.Config, runner: asyncio.Runner, context: Context, pair: Pair
) -> None:
    benchmark.group = f"sql {pair.name}"
    benchmark.extra_info["messages"] = pytestconfig.getoption("--sql-messages")

    def call(side: str) -> Callable[[], Any]:
        return lambda: runner.run(context.run(pair, side))

    def before() -> None:
        runner.run(_begin(context, pair))

    try:
        compare(
            benchmark,
            {side: call(side) for side in SIDES},
            seconds=pytestconfig.getoption("--pair-seconds"),
            before=before,
            warm=WARM,
        )
    finally:
        runner.run(context.conn.execute("ROLLBACK"))


async def _begin(context: Context, pair: Pair) -> None:
    """A new transaction in place of that of the last call."""
    await context.conn.execute("ROLLBACK" if context.conn.is_in_transaction() else "SELECT 1")
    await context.conn.execute("BEGIN")
    await context.prepare(pair)
