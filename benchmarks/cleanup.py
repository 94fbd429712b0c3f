"""What the cleanup costs those who deliver and read meanwhile.

    python -m benchmarks.cleanup [--messages 1000000] [--contents 1000] [--runs 5] [--seconds 20]

A demo with a directory store; the contents are delivered, copied until there are as many messages as wanted, and
expunged 15 days ago. A legal hold on all accounts is the switch: with it the janitor finds nothing to do (a quiet
run), without it it cleans (a cleaning run). Quiet and cleaning runs take turns; in both, clients deliver to and fetch
from the very accounts and mailboxes that are being cleaned. At the end the rest is cleaned, and everything is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
from msgspec import Struct

from benchmarks.mailload import Deliverer, Fetcher, on_schedule, percentile
from sora import config as configuration
from sora.cli.admin import find_dsn
from tests.support.demo import Demo

if TYPE_CHECKING:
    from collections.abc import Sequence

ACCOUNTS: Final = 20
LIVE: Final = 100
"""Messages of each account that stay."""
CLIENTS: Final = 4
PER_S: Final = 12.0
"""Of each client; four deliver and four fetch."""
SETTLE_S: Final = 2.0
LIMIT: Final = 1.5
RESULT: Final = Path(__file__).parent / "results" / "cleanup.md"
EXPUNGED: Final = "SELECT coalesce(sum(cardinality(uids) - trimmed), 0)::bigint FROM sora.message_expunges"


class Run(Struct, frozen=True):
    """One run: seconds at the 99th and 50th percentile, samples, and messages that were removed meanwhile."""

    lmtp_p99: float
    lmtp_p50: float
    fetch_p99: float
    fetch_p50: float
    samples: int
    removed: int
    seconds: float


async def seed(demo: Demo, conn: asyncpg.Connection, users: Sequence[str], messages: int, contents: int) -> None:
    """Live mail, and mail that was expunged 15 days ago, through the product's own functions."""
    deliverers = [await Deliverer.open(demo.ports, [user]) for user in users]
    for deliver in deliverers:
        for _ in range(contents // len(users)):
            await deliver()
    await until_zero(conn, "SELECT count(*) FROM sora.pending_uploads")
    share = contents // len(users)
    for account in await conn.fetch("SELECT account_id FROM sora.accounts ORDER BY account_id"):
        boxes = dict(
            await conn.fetch("SELECT name, mailbox_id FROM sora.mailboxes WHERE account_id = $1", account["account_id"])
        )
        await _fill(conn, account["account_id"], boxes["INBOX"], boxes["Archive"], share, messages // len(users))
    for deliver in deliverers:
        for _ in range(LIVE):
            await deliver()
        deliver.close()


async def _fill(conn: asyncpg.Connection, account: int, inbox: int, archive: int, share: int, wanted: int) -> None:
    """`wanted` messages over two mailboxes, all expunged: great expunges, and many small ones."""
    copy = "SELECT cardinality(source_uids) FROM sora.copy_messages($1, $2, $1, $3, $4, $5)"
    have, step = share, share
    while have < wanted:
        step = min(step * 2 if step < 1000 else step, have, wanted - have)
        await conn.fetchval(copy, account, inbox, inbox if have < wanted // 2 else archive, [1], [step])
        have += step
    await conn.execute("SET sora.clock_offset = '-15 days'")
    expunge = "SELECT modseq FROM sora.expunge($1, $2, $3, $4, false)"
    for mailbox in (inbox, archive):
        top = await conn.fetchval("SELECT uid_next - 1 FROM sora.mailbox_stats WHERE mailbox_id = $1", mailbox)
        small = min(top // 4, 2000)
        for first in range(1, small, 10):
            await conn.fetchval(expunge, account, mailbox, [first], [min(first + 9, small)])
        await conn.fetchval(expunge, account, mailbox, [1], [top])
    await conn.execute("RESET sora.clock_offset")


async def hold(conn: asyncpg.Connection, held: bool) -> None:
    """The switch; when it returns, nothing is removed any more, or may be."""
    for row in await conn.fetch("SELECT account_id FROM sora.accounts ORDER BY account_id"):
        await conn.execute("SELECT sora.set_legal_hold($1, $2, 'benchmark', 'benchmark')", row["account_id"], held)


async def measure(demo: Demo, conn: asyncpg.Connection, users: Sequence[str], seconds: float) -> Run:
    """One run of the clients."""
    deliverers = [await Deliverer.open(demo.ports, users) for _ in range(CLIENTS)]
    fetchers = [await Fetcher.open(demo.ports, user) for user in users[:CLIENTS]]
    before, began = await conn.fetchval(EXPUNGED), time.monotonic()
    until = began + seconds
    clients: list[Deliverer | Fetcher] = [*deliverers, *fetchers]
    took = await asyncio.gather(*(on_schedule(client, PER_S, until) for client in clients))
    removed = before - await conn.fetchval(EXPUNGED)
    for client in clients:
        client.close()
    lmtp = [value for values in took[:CLIENTS] for value in values]
    fetch = [value for values in took[CLIENTS:] for value in values]
    return Run(
        lmtp_p99=percentile(lmtp, 0.99),
        lmtp_p50=percentile(lmtp, 0.5),
        fetch_p99=percentile(fetch, 0.99),
        fetch_p50=percentile(fetch, 0.5),
        samples=len(lmtp) + len(fetch),
        removed=removed,
        seconds=time.monotonic() - began,
    )


async def until_zero(conn: asyncpg.Connection, sql: str) -> None:
    """Wait for the processes to finish something."""
    while await conn.fetchval(sql):  # noqa: ASYNC110 — the other side is a database
        await asyncio.sleep(0.2)


async def rest(conn: asyncpg.Connection) -> tuple[int, float]:
    """Let the cleanup finish; messages and seconds."""
    began, before = time.monotonic(), await conn.fetchval(EXPUNGED)
    await until_zero(conn, EXPUNGED)
    await until_zero(conn, "SELECT count(*) FROM sora.purge_candidates")
    return before, time.monotonic() - began


async def count(demo: Demo, conn: asyncpg.Connection) -> dict[str, int]:
    """What is there."""
    row = await conn.fetchrow(
        """
        SELECT (SELECT count(*) FROM sora.messages) AS messages,
          (SELECT count(*) FROM sora.messages WHERE expunged_at IS NOT NULL) AS expunged,
          (SELECT count(*) FROM sora.message_contents) AS contents,
          (SELECT count(*) FROM sora.pending_uploads) AS pending
        """
    )
    objects = await asyncio.to_thread(lambda: sum(1 for _ in (demo.directory / "objects").rglob("*.eml")))
    return {**row, "objects": objects}


async def benchmark(demo: Demo, arguments: argparse.Namespace) -> str:
    """Everything; the text of the report."""
    config = configuration.load(demo.config)
    conn = await asyncpg.connect(find_dsn(config))
    users = demo.ready["accounts"]
    await hold(conn, True)
    began = time.monotonic()
    await seed(demo, conn, users, arguments.messages, arguments.contents)
    seeded_s = time.monotonic() - began
    await conn.execute("VACUUM ANALYZE")
    total = await conn.fetchval(EXPUNGED)
    before = await count(demo, conn)
    runs: list[tuple[Run, Run]] = []
    load = os.getloadavg()
    for number in range(arguments.runs):
        quiet = await measure(demo, conn, users, arguments.seconds)
        await hold(conn, False)
        await asyncio.sleep(SETTLE_S)
        cleaning = await measure(demo, conn, users, arguments.seconds)
        await hold(conn, True)
        await asyncio.sleep(SETTLE_S)
        runs.append((quiet, cleaning))
        sys.stderr.write(f"run {number + 1}: {quiet} {cleaning}\n")
    await hold(conn, False)
    left, rest_s = await rest(conn)
    await until_zero(conn, "SELECT count(*) FROM sora.pending_uploads")
    after = await count(demo, conn)
    await conn.close()
    return report(arguments, config, runs, total, before, after, seeded_s, left, rest_s, load)


def report(
    arguments: argparse.Namespace,
    config: configuration.Config,
    runs: Sequence[tuple[Run, Run]],
    total: int,
    before: dict[str, int],
    after: dict[str, int],
    seeded_s: float,
    left: int,
    rest_s: float,
    load: tuple[float, float, float],
) -> str:
    """Markdown."""
    lines = [
        "# Cleanup beside mail",
        "",
        f"`python -m benchmarks.cleanup --messages {arguments.messages} --contents {arguments.contents}"
        f" --runs {arguments.runs} --seconds {arguments.seconds:g}`",
        "",
        f"{total:,} expunged messages over {arguments.contents:,} contents, directory store,"
        f" `cleanup.max_rows_per_second = {config.cleanup.max_rows_per_second}`; {CLIENTS} clients deliver and"
        f" {CLIENTS} fetch (five messages whole), {PER_S:g} times a second each, in the accounts that are cleaned."
        f" {os.cpu_count()} processors, load {load[0]:.1f} before the first run. Times in milliseconds.",
        "",
        "| run | LMTP p50 quiet | cleaning | LMTP p99 quiet | cleaning | FETCH p50 quiet | cleaning | FETCH p99 quiet"
        " | cleaning | rows/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for number, (quiet, cleaning) in enumerate(runs, 1):
        values = [
            getattr(run, name)
            for name in ("lmtp_p50", "lmtp_p99", "fetch_p50", "fetch_p99")
            for run in (quiet, cleaning)
        ]
        cells = " | ".join(f"{value * 1000:.1f}" for value in values)
        lines.append(f"| {number} | {cells} | {cleaning.removed / cleaning.seconds:.0f} |")
    lines.append("")
    for name, title in (("lmtp_p99", "LMTP"), ("fetch_p99", "FETCH")):
        ratio = ratio_of_medians(runs, name)
        verdict = "holds" if ratio <= LIMIT else "DOES NOT HOLD"
        lines.append(f"- {title}: p99 while cleaning is {ratio:.2f} times the quiet one (medians); {LIMIT} {verdict}")
    stray = sum(quiet.removed for quiet, _ in runs)
    gone = before["messages"] - before["expunged"]
    lines += [
        f"- removed in quiet runs: {stray}",
        f"- the last {left:,} messages took {rest_s:.0f} s: {left / max(rest_s, 1e-9):.0f} a second, bodies included",
        f"- seeded in {seeded_s:.0f} s; live messages before {gone:,}, at the end {after['messages']:,} with those that"
        " arrived meanwhile",
        f"- at the end: {after['expunged']} expunged rows, {after['contents']:,} contents, {after['objects']:,}"
        " objects",
        "- messages, contents and objects " + ("agree" if agree(after) else "DO NOT AGREE"),
        "",
    ]
    return "\n".join(lines)


def agree(after: dict[str, int]) -> bool:
    """Nothing is left of what was expunged, and nothing is missing of what is alive: each message has its own body."""
    return not after["expunged"] and after["messages"] == after["contents"] == after["objects"]


def ratio_of_medians(runs: Sequence[tuple[Run, Run]], name: str) -> float:
    """Of all cleaning runs to all quiet ones."""
    quiet: float = statistics.median(getattr(run, name) for run, _ in runs)
    cleaning: float = statistics.median(getattr(run, name) for _, run in runs)
    return cleaning / quiet


def main() -> int:
    """Exit code 0 if the bound holds and nothing is left or missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.cleanup", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--contents", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of soractl demo")
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="cleanup-", dir=arguments.dir))
    settings = [f"--set={value}" for value in ("cleanup.wake_interval=1s", *arguments.set)]
    try:
        with Demo(scratch / "demo", "--accounts", str(ACCOUNTS), *settings) as demo:
            text = asyncio.run(benchmark(demo, arguments))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    arguments.out.write_text(text, encoding="utf-8")
    print(text)
    return int("NOT HOLD" in text or "NOT AGREE" in text)


if __name__ == "__main__":
    raise SystemExit(main())
