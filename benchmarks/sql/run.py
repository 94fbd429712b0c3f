"""Time of every SQL function at several mailbox sizes, each called often enough that generic plans are in use.

    python -m benchmarks.sql.run [--dsn DSN] [--sizes 10000,100000,1000000] [--calls 25] [--json FILE]

Without --dsn a PostgreSQL of its own is started in a temporary directory. All calls of a function are made in one
session: PL/pgSQL changes to generic plans at the sixth, and a plan that reads the whole mailbox shows only then and
only in a large one. The functions and what is asked of them are those of pairs.sql. The run fails if the calls after
the fifth take more than five times the first five.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
from msgspec import Struct, json

from benchmarks.sql.data import build
from benchmarks.sql.pairs import PAIRS, Context, Pair, furnish
from sora.server.embedded_pg import EmbeddedPostgres
from sora.store import migrate

COLLAPSE = 5.0
NOISE_MS = 2.0
"""Below this a ratio of medians says nothing."""


class Result(Struct):
    """Milliseconds of wall time, and the median of what the backend itself computed (0: not known)."""

    name: str
    size: int
    median_ms: float
    p99_ms: float
    cpu_ms: float
    first_ms: float
    later_ms: float

    @property
    def collapsed(self) -> bool:
        """Whether the generic plan is much worse than the custom ones."""
        return self.later_ms > NOISE_MS and self.later_ms > COLLAPSE * self.first_ms


async def measure(context: Context, pair: Pair, size: int, calls: int, pid: int) -> Result:
    """Call and time our side; every call is rolled back."""
    times, cpu = [], []
    for _ in range(calls):
        transaction = context.conn.transaction()
        await transaction.start()
        await context.prepare(pair)
        used, started = cpu_ms(pid), time.perf_counter()
        await context.run(pair, "ours")
        times.append((time.perf_counter() - started) * 1e3)
        cpu.append(cpu_ms(pid) - used)
        await transaction.rollback()
    # on a busy machine wall time says little of plans; CPU time does
    plain = cpu if any(cpu) else times
    return Result(
        pair.name,
        size,
        statistics.median(times),
        sorted(times)[int(calls * 0.99)],
        statistics.median(cpu),
        statistics.median(plain[:5]),
        statistics.median(plain[5:20]),
    )


def cpu_ms(pid: int) -> float:
    """CPU time of a backend on this machine; 0 if it is on another."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6
    except (FileNotFoundError, PermissionError):
        return 0.0


async def run(dsn: str, sizes: list[int], calls: int) -> list[Result]:
    """Migrate, fill, measure."""
    await migrate.up(dsn)
    conn = await asyncpg.connect(dsn, server_settings={"search_path": "sora, public", "jit": "off"})
    started = time.perf_counter()
    targets = await build(conn, sizes)
    print(f"built {sum(sizes):,} messages in {time.perf_counter() - started:.0f} s", flush=True)
    results = []
    for target in targets:
        # a session for each size: its plans are made on this mailbox, and grow old on it
        session = await asyncpg.connect(dsn, server_settings={"search_path": "sora, public", "jit": "off"})
        pid = await session.fetchval("SELECT pg_backend_pid()")
        context = await furnish(session, target, plain=False)
        results += [await measure(context, pair, target.size, calls, pid) for pair in PAIRS]
        await session.close()
        wrong = (
            await conn.fetch("SELECT * FROM check_mailbox($1, $2)", target.account_id, target.mailbox_id)
            if target.size < 1_000_000
            else []
        )
        if wrong:
            sys.exit(f"check_mailbox: {wrong[:3]}")
    await conn.close()
    return results


def show(results: list[Result], sizes: list[int]) -> None:
    """One line a case."""
    by_name: dict[str, dict[int, Result]] = {}
    for result in results:
        by_name.setdefault(result.name, {})[result.size] = result
    print(f"{'wall median / p99 / backend CPU, ms':<34}" + "".join(f"{size:>28,}" for size in sizes))
    for name, row in by_name.items():
        cells = [
            f"{row[s].median_ms:.2f} / {row[s].p99_ms:.2f} / {row[s].cpu_ms:.2f}" if s in row else "-" for s in sizes
        ]
        print(f"{name:<34}" + "".join(f"{cell:>28}" for cell in cells))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", help="an empty database; default: a PostgreSQL of its own")
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--calls", type=int, default=25)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    if options.dsn:
        results = asyncio.run(run(options.dsn, sizes, options.calls))
    else:
        with tempfile.TemporaryDirectory() as directory:
            postgres = EmbeddedPostgres(Path(directory), {"shared_buffers": "2GB", "max_wal_size": "8GB"})
            postgres.prepare()
            postgres.start()
            try:
                results = asyncio.run(run(postgres.dsn, sizes, options.calls))
            finally:
                postgres.stop()
    show(results, sizes)
    if options.json:
        options.json.write_bytes(json.encode(results))
    collapsed = [
        f"{r.name} at {r.size:,}: {r.first_ms:.2f} ms, then {r.later_ms:.2f} ms" for r in results if r.collapsed
    ]
    if collapsed:
        sys.exit("generic plans collapsed:\n" + "\n".join(collapsed))


if __name__ == "__main__":
    main()
