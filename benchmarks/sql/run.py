"""Time of every SQL function at several mailbox sizes, each called often enough that generic plans are in use.

    python -m benchmarks.sql.run [--dsn DSN] [--sizes 10000,100000,1000000] [--calls 25] [--json FILE]

Without --dsn a PostgreSQL of its own is started in a temporary directory. All calls of a function are made in one
session: PL/pgSQL changes to generic plans at the sixth, and a plan that reads the whole mailbox shows only then and
only in a large one. The run fails if the calls after the fifth take more than five times the first five.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from msgspec import Struct, json

from benchmarks.sql.data import Target, build
from sora.server.embedded_pg import EmbeddedPostgres
from sora.store import migrate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

TOP = 4_294_967_295
COLLAPSE = 5.0
NOISE_MS = 2.0
"""Below this a ratio of medians says nothing."""
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Case(Struct, frozen=True):
    """One line of the table: `prepare` runs untimed before each call."""

    name: str
    call: Callable[[], Awaitable[Any]]
    prepare: Callable[[], Awaitable[Any]] | None = None
    limit: int = TOP


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


class Bench:
    """The cases of one mailbox."""

    def __init__(self, conn: asyncpg.Connection, target: Target) -> None:
        self.conn = conn
        self.target = target
        self.random = random.Random(7)
        self.box = (target.account_id, target.mailbox_id)
        self.modseq = 0
        self.flag = False
        self.pending: list[Any] = []

    def cases(self) -> Iterator[Case]:
        """Reads first, so that they see the mailbox as it was built; then what changes it."""
        middle = self.target.size // 2
        yield Case("mailbox_state", self._sql("SELECT * FROM mailbox_state($1, $2)"))
        yield Case("mailbox_delta, nothing new", self._delta, self._catch_up)
        yield Case("mailbox_delta, one block", self._delta, self._change_one)
        yield Case("changed_since, one message", self._changed, self._change_one)
        yield Case("modseqs, whole mailbox", self._sql("SELECT modseqs($1, $2)"), limit=100_000)
        yield Case(
            "message_columns, 10,000", self._sql("SELECT message_columns($1, $2, $3, $4)", middle, middle + 9999)
        )
        yield Case("seq_of_uid", lambda: self.conn.fetch("SELECT seq_of_uid($1, $2, $3)", *self.box, self._uid()))
        yield Case("expunged_since", self._sql("SELECT * FROM expunged_since($1, $2, 1)"))
        yield Case(
            "list_mailboxes", lambda: self.conn.fetch("SELECT * FROM list_mailboxes($1)", self.target.account_id)
        )
        yield Case("claim_recent", self._sql("SELECT * FROM claim_recent($1, $2)"))
        yield Case("poll_mailboxes, 500", self._poll)
        yield Case("rows, 100 scattered", lambda: self._rows(100))
        yield Case("rows, 1,000 contiguous", lambda: self._rows_range(1000))
        yield Case("deliver 1", lambda: self._deliver(1))
        yield Case("deliver 32", lambda: self._deliver(32))
        yield Case("deliver 32 with keys, INBOX", lambda: self._deliver(32, inbox=True))
        yield Case("find_deliveries 32", self._find)
        yield Case("store 1", lambda: self._store(self._scattered(1)))
        yield Case("store 1,000 scattered", lambda: self._store(self._scattered(1000)))
        yield Case("store 5,000 contiguous", lambda: self._store(([1], [5000])))
        yield Case("store 100,000", lambda: self._store(([1], [100_000])))
        yield Case("store all", lambda: self._store(([1], [TOP])))
        yield Case("store 1, unchanged since", self._store_unchanged)
        yield Case("store 1, viewer", lambda: self._store(self._scattered(1), viewer=4711))
        yield Case("expunge, nothing deleted", self._sql("SELECT * FROM expunge($1, $2, NULL, NULL)"))
        yield Case("expunge 1", lambda: self._expunge(self._scattered(1)))
        yield Case(
            "expunge 1 of all \\Deleted", self._sql("SELECT * FROM expunge($1, $2, NULL, NULL)"), self._delete_one
        )
        yield Case("expunge 100 scattered", lambda: self._expunge(self._scattered(100)))
        yield Case("copy 1", lambda: self._transfer("copy", self._scattered(1)))
        yield Case("copy 100 scattered", lambda: self._transfer("copy", self._scattered(100)))
        yield Case("copy 100 contiguous", lambda: self._transfer("copy", self._contiguous(100)))
        yield Case("copy 1,000", lambda: self._transfer("copy", self._contiguous(1000)), limit=TOP)
        yield Case("move 1", lambda: self._transfer("move", self._scattered(1)))
        yield Case("move 100", lambda: self._transfer("move", self._contiguous(100)))
        yield Case("compact_flag_changes", self._sql("SELECT compact_flag_changes($1, $2)"), self._change_one)
        yield Case("trim_expunges, 100", self._sql("SELECT trim_expunges($1, $2, $3, 100)", NOW + timedelta(days=3650)))
        yield Case("claim_uploads 16", self._claim)
        yield Case("upload_done", self._upload_done)
        yield Case("select_purgeable", lambda: self.conn.fetch("SELECT * FROM select_purgeable(100)"))
        yield Case("begin_purge + finish_purge", self._purge)

    def _sql(self, sql: str, *args: object) -> Callable[[], Awaitable[Any]]:
        return lambda: self.conn.fetch(sql, *self.box, *args)

    def _uid(self) -> int:
        return self.random.randint(1, self.target.size)

    def _scattered(self, count: int) -> tuple[list[int], list[int]]:
        uids = sorted(self.random.sample(range(1, self.target.size), min(count, self.target.size // 10)))
        return uids, uids

    def _contiguous(self, count: int) -> tuple[list[int], list[int]]:
        first = self.random.randint(1, self.target.size - count)
        return [first], [first + count - 1]

    async def _catch_up(self) -> None:
        self.modseq = await self.conn.fetchval(
            "SELECT highest_modseq FROM mailbox_stats WHERE account_id = $1 AND mailbox_id = $2", *self.box
        )

    async def _change_one(self) -> None:
        await self._catch_up()
        await self._store(self._scattered(1))

    async def _delete_one(self) -> None:
        await self.conn.fetch("SELECT * FROM store_flags($1, $2, $3, $4, '{3}', '{}')", *self.box, *self._scattered(1))

    async def _delta(self) -> Any:
        return await self.conn.fetch("SELECT * FROM mailbox_delta($1, $2, $3)", *self.box, self.modseq)

    async def _changed(self) -> Any:
        return await self.conn.fetch("SELECT * FROM changed_since($1, $2, $3)", *self.box, self.modseq)

    async def _poll(self) -> Any:
        return await self.conn.fetch(
            """
            SELECT * FROM poll_mailboxes(
              ARRAY(SELECT account_id FROM mailboxes WHERE name = 'Sent' ORDER BY account_id LIMIT 500),
              ARRAY(SELECT mailbox_id FROM mailboxes WHERE name = 'Sent' ORDER BY account_id LIMIT 500),
              array_fill(1::bigint, '{500}'))
            """
        )

    async def _rows(self, count: int) -> Any:
        return await self._select(*self._scattered(count))

    async def _rows_range(self, count: int) -> Any:
        return await self._select(*self._contiguous(count))

    async def _select(self, lo: list[int], hi: list[int]) -> Any:
        return await self.conn.fetch(
            """
            SELECT m.uid, m.size, m.internal_date, c.content_hash, c.envelope, c.body_structure
            FROM unnest($3::bigint[], $4::bigint[]) r (lo, hi)
            CROSS JOIN LATERAL (SELECT * FROM messages i
              WHERE i.account_id = $1 AND i.mailbox_id = $2 AND i.uid BETWEEN r.lo AND r.hi OFFSET 0) m
            CROSS JOIN LATERAL (SELECT * FROM message_contents i
              WHERE i.account_id = $1 AND i.content_id = m.content_id OFFSET 0) c
            ORDER BY m.uid
            """,
            *self.box, lo, hi,
        )  # fmt: skip

    async def _deliver(self, count: int, *, inbox: bool = False) -> Any:
        text = ["x" * 60] * count
        keys = [os.urandom(32) for _ in range(count)] if inbox else [None] * count
        self.pending = keys
        return await self.conn.fetch(
            """
            SELECT * FROM deliver($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL, NULL, $6, $10, $11, $11,
              $12, $12, $12, $12, $12, $12, $12, $12, $12, $12,
              $13, $13, $17, $14, $15, $16, 'bench')
            """,
            [self.target.account_id] * count, [None if inbox else self.target.mailbox_id] * count,
            [os.urandom(32) for _ in range(count)], [3000] * count, [None] * count, [NOW] * count, keys, [None] * count,
            list(range(1, count + 1)), [f"<{os.urandom(8).hex()}@bench>" for _ in range(count)], [None] * count, text,
            [b"x" * 400] * count, ["header: value\n" * 60] * count, ["body text " * 150] * count, [False] * count,
            [b"header: value\r\n" * 60] * count,
        )  # fmt: skip

    async def _find(self) -> Any:
        count = len(self.pending)
        return await self.conn.fetch(
            "SELECT * FROM find_deliveries($1, $2, $3)", [self.target.account_id] * count, [None] * count, self.pending
        )

    async def _store(self, bounds: tuple[list[int], list[int]], *, viewer: int | None = None) -> Any:
        self.flag = not self.flag
        flags: tuple[list[int], list[int]] = ([0], []) if self.flag else ([], [0])
        if bounds[0] == bounds[1]:  # single messages: every call must change something
            flags = ([2, 16], [1]) if self.random.random() < 0.5 else ([1], [2, 16])
        return await self.conn.fetch(
            "SELECT * FROM store_flags($1, $2, $3, $4, $5, $6, false, NULL, $7)", *self.box, *bounds, *flags, viewer
        )

    async def _store_unchanged(self) -> Any:
        await self._catch_up()
        lo, hi = self._scattered(1)
        return await self.conn.fetch(
            "SELECT * FROM store_flags($1, $2, $3, $4, '{4}', '{}', false, $5)", *self.box, lo, hi, self.modseq
        )

    async def _expunge(self, bounds: tuple[list[int], list[int]]) -> Any:
        return await self.conn.fetch("SELECT * FROM expunge($1, $2, $3, $4, false)", *self.box, *bounds)

    async def _transfer(self, verb: str, bounds: tuple[list[int], list[int]]) -> Any:
        return await self.conn.fetch(
            f"SELECT * FROM {verb}_messages($1, $2, $1, $3, $4, $5)", *self.box, self.target.other_id, *bounds
        )

    async def _claim(self) -> Any:
        self.pending = await self.conn.fetch("SELECT * FROM claim_uploads('bench', 16)")
        return self.pending

    async def _upload_done(self) -> Any:
        row = self.pending.pop() if self.pending else None
        if row is None:
            self.pending = await self.conn.fetch("SELECT * FROM claim_uploads('bench', 64)")
            row = self.pending.pop()
        return await self.conn.fetch(
            "SELECT upload_done($1, $2, $3, 'bench')", row["account_id"], row["content_id"], row["content_hash"]
        )

    async def _purge(self) -> Any:
        row = await self.conn.fetchrow("SELECT * FROM select_purgeable(1)")
        if row is not None and await self.conn.fetchrow(
            "SELECT * FROM begin_purge($1, $2)", row["account_id"], row["content_id"]
        ):
            await self.conn.execute("SELECT finish_purge($1, $2)", row["account_id"], row["content_id"])


async def measure(case: Case, size: int, calls: int, pid: int) -> Result:
    """Call and time; writes commit one by one."""
    times, cpu = [], []
    for _ in range(calls):
        if case.prepare is not None:
            await case.prepare()
        used, started = cpu_ms(pid), time.perf_counter()
        await case.call()
        times.append((time.perf_counter() - started) * 1e3)
        cpu.append(cpu_ms(pid) - used)
    # on a busy machine wall time says little of plans; CPU time does
    plain = cpu if any(cpu) else times
    return Result(
        case.name,
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
        for case in Bench(session, target).cases():
            if target.size > case.limit:
                continue
            result = await measure(case, target.size, calls, pid)
            results.append(result)
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
