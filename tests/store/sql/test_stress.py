"""Six connections on four mailboxes of two accounts: no deadlock, and no reader ever sees a broken invariant."""

from __future__ import annotations

import asyncio
import collections
import random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.store.sql.oracle import TOP, Planes, deliver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sora.store.db import Connection, Database

ROUNDS = 150
WORKERS = 6


class Writer:
    """One connection and its random operations."""

    def __init__(self, conn: Connection, boxes: list[tuple[int, int]], seed: int) -> None:
        self.conn = conn
        self.boxes = boxes
        self.random = random.Random(seed)
        self.views: dict[tuple[int, int], Planes] = collections.defaultdict(Planes)
        self.done: collections.Counter[str] = collections.Counter()

    async def run(self) -> None:
        """All rounds; SQL errors are the test's failures, deadlocks above all."""
        operations: list[Callable[[int, int], Awaitable[object]]] = [
            self.do_deliver, self.do_deliver, self.do_store, self.do_store, self.do_expunge, self.do_copy, self.do_move,
            self.do_move, self.do_move_across, self.do_trim, self.do_compact, self.read_delta,
            self.read_invariants, self.do_roll_back,
        ]  # fmt: skip
        for _ in range(ROUNDS):
            operation = self.random.choice(operations)
            await operation(*self.random.choice(self.boxes))
            self.done[operation.__name__] += 1

    def _bounds(self) -> tuple[list[int], list[int]]:
        low = self.random.randint(1, 1500)
        return [low], [self.random.choice([low, low + 5, low + 200])]

    async def do_deliver(self, account_id: int, mailbox_id: int) -> None:
        targets = [self.random.choice(self.boxes) for _ in range(self.random.choice([1, 1, 5, 100]))]
        await deliver(self.conn, [
            {"account_id": a, "mailbox_id": m, "hash": self.random.randbytes(1),
             "flags": self.random.choice([None, [0], [0, 3], [16]])}
            for a, m in targets
        ])  # fmt: skip

    async def do_store(self, account_id: int, mailbox_id: int) -> None:
        flags = self.random.sample([0, 1, 2, 3, 16], 2)
        viewer = self.random.choice([None, 4711])
        await self.conn.fetch(
            "SELECT * FROM store_flags($1, $2, $3, $4, $5, $6, $7, NULL, $8)",
            account_id, mailbox_id, *self._bounds(), flags, [4], self.random.random() < 0.2, viewer,
        )  # fmt: skip

    async def do_expunge(self, account_id: int, mailbox_id: int) -> None:
        only_deleted = self.random.random() < 0.6
        await self.conn.fetch(
            "SELECT * FROM expunge($1, $2, $3, $4, $5)", account_id, mailbox_id, *self._bounds(), only_deleted
        )

    async def do_copy(self, account_id: int, mailbox_id: int) -> None:
        await self._transfer("copy", account_id, mailbox_id, same_account=True)

    async def do_move(self, account_id: int, mailbox_id: int) -> None:
        await self._transfer("move", account_id, mailbox_id, same_account=True)

    async def do_move_across(self, account_id: int, mailbox_id: int) -> None:
        await self._transfer("move", account_id, mailbox_id, same_account=False)

    async def _transfer(self, verb: str, account_id: int, mailbox_id: int, *, same_account: bool) -> None:
        targets = [box for box in self.boxes if (box[0] == account_id) == same_account and box[1] != mailbox_id]
        await self.conn.fetch(
            f"SELECT * FROM {verb}_messages($1, $2, $3, $4, $5, $6, NULL, 'node')",
            account_id, mailbox_id, *self.random.choice(targets), *self._bounds(),
        )  # fmt: skip

    async def do_trim(self, account_id: int, mailbox_id: int) -> None:
        await self.conn.execute("SELECT trim_expunges($1, $2, clock(), 50)", account_id, mailbox_id)

    async def do_compact(self, account_id: int, mailbox_id: int) -> None:
        await self.conn.execute("SELECT compact_journal($1, $2, 20)", account_id, mailbox_id)

    async def do_roll_back(self, account_id: int, mailbox_id: int) -> None:
        """Half of a change, and then a worker that dies."""
        transaction = self.conn.transaction()
        await transaction.start()
        await self.conn.fetch("SELECT * FROM expunge($1, $2, NULL, NULL, true)", account_id, mailbox_id)
        await transaction.rollback()

    async def read_delta(self, account_id: int, mailbox_id: int) -> None:
        """A session's view stays in step whatever the others do: counts and bitmaps are of one snapshot."""
        view = self.views[account_id, mailbox_id]
        row = await self.conn.fetchrow("SELECT * FROM mailbox_delta($1, $2, $3)", account_id, mailbox_id, view.since)
        assert row["highest_modseq"] >= view.since
        view.apply(row)
        flags = view.flags()
        assert len(flags) == row["message_count"]
        assert sum(0 not in f for f in flags.values()) == row["unseen_count"]
        assert all(uid < row["uid_next"] for uid in flags)

    async def read_invariants(self, account_id: int, mailbox_id: int) -> None:
        wrong = await self.conn.fetch("SELECT * FROM check_mailbox($1, $2)", account_id, mailbox_id)
        assert wrong == []


@pytest.mark.timeout(90)
@pytest.mark.parametrize("seed", [5])
async def test_no_deadlock_and_no_broken_invariant(db: Database, seed: int) -> None:
    boxes = await make_boxes(db)
    writers: list[Writer] = []

    async def work(number: int) -> None:
        async with db.acquire() as conn:
            writer = Writer(conn, boxes, seed * 100 + number)
            writers.append(writer)
            await writer.run()

    await asyncio.gather(*(work(number) for number in range(WORKERS)))
    total = sum((writer.done for writer in writers), collections.Counter())
    assert all(
        total[name] > 20 for name in ("do_move", "do_move_across", "do_deliver", "read_invariants", "read_delta")
    )
    for account_id, mailbox_id in boxes:
        await compare_with_rows(db, account_id, mailbox_id)


async def make_boxes(db: Database) -> list[tuple[int, int]]:
    """Two mailboxes in each of two accounts, with one keyword."""
    boxes = []
    for address in ("a@example.com", "b@example.com"):
        account_id = await db.fetchval("SELECT create_account($1)", address)
        await db.execute("SELECT register_keywords($1, $2)", account_id, ["word"])
        for name in ("INBOX", "Trash"):
            row = await db.fetchrow("SELECT * FROM mailboxes WHERE account_id = $1 AND name = $2", account_id, name)
            assert row is not None
            boxes.append((account_id, row["mailbox_id"]))
    return boxes


async def compare_with_rows(db: Database, account_id: int, mailbox_id: int) -> None:
    """The caches say what the rows say, and a rebuild finds nothing to correct."""
    rows = await db.fetch(
        """
        SELECT uid, row_number() OVER (ORDER BY uid) FROM messages
        WHERE account_id = $1 AND mailbox_id = $2 AND expunged_at IS NULL ORDER BY uid
        """,
        account_id, mailbox_id,
    )  # fmt: skip
    assert await _numbers(db, account_id, mailbox_id) == rows
    assert await db.fetch("SELECT * FROM check_mailbox($1, $2)", account_id, mailbox_id) == []
    before = await _cache(db, account_id, mailbox_id)
    await db.execute("SELECT rebuild_mailbox($1, $2)", account_id, mailbox_id)
    assert await _cache(db, account_id, mailbox_id) == before


async def _numbers(db: Database, account_id: int, mailbox_id: int) -> list[Any]:
    return await db.fetch(
        "SELECT uid, seqnum FROM message_sequence_numbers WHERE account_id = $1 AND mailbox_id = $2 ORDER BY uid",
        account_id, mailbox_id,
    )  # fmt: skip


async def _cache(db: Database, account_id: int, mailbox_id: int) -> list[Any]:
    return [
        await db.fetch(
            "SELECT block_no, n, live FROM message_sequences"
            " WHERE account_id = $1 AND mailbox_id = $2 AND n > 0 ORDER BY 1",
            account_id, mailbox_id,
        ),
        await db.fetch(
            "SELECT uid_next, message_count, unseen_count, deleted_count, total_size FROM mailbox_stats"
            " WHERE account_id = $1 AND mailbox_id = $2",
            account_id, mailbox_id,
        ),
    ]  # fmt: skip


async def test_opposite_moves_do_not_deadlock(db: Database) -> None:
    """MOVE A→B against MOVE B→A, all the time (lock order by key, not by role)."""
    boxes = (await make_boxes(db))[:2]
    account_id = boxes[0][0]
    for _, mailbox_id in boxes:
        await deliver_some(db, account_id, mailbox_id, 100)

    async def move(source: int, target: int) -> None:
        async with db.acquire() as conn:
            for _ in range(10):
                await conn.fetch(
                    "SELECT * FROM move_messages($1, $2, $1, $3, $4, $5)", account_id, source, target, [1], [TOP]
                )

    (_, first), (_, second) = boxes
    await asyncio.gather(*(move(*pair) for pair in [(first, second), (second, first)] * 3))
    counts = [await db.fetchval("SELECT message_count FROM mailbox_stats WHERE mailbox_id = $1", m) for _, m in boxes]
    assert sum(counts) == 200
    for box in boxes:
        await compare_with_rows(db, *box)


async def deliver_some(db: Database, account_id: int, mailbox_id: int, count: int) -> None:
    """Messages without flags."""
    async with db.acquire() as conn:
        await deliver(conn, [{"account_id": account_id, "mailbox_id": mailbox_id}] * count)


async def test_a_modseq_is_never_lower_than_one_already_seen(db: Database) -> None:
    """Commit order is modseq order: a poller that has seen N misses nothing that commits later."""
    account_id, mailbox_id = (await make_boxes(db))[0]
    async with db.acquire() as one, db.acquire() as two:
        await one.execute("BEGIN")
        rows = await deliver(one, [{"account_id": account_id, "mailbox_id": mailbox_id}])
        late = asyncio.create_task(deliver(two, [{"account_id": account_id, "mailbox_id": mailbox_id}]))
        await _until_blocked(db)
        assert await db.fetchval("SELECT highest_modseq FROM mailbox_stats WHERE mailbox_id = $1", mailbox_id) == 1
        await one.execute("COMMIT")
        assert (await late)[0]["modseq"] == rows[0]["modseq"] + 1


async def _until_blocked(db: Database) -> None:
    while not await db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"):
        await asyncio.sleep(0)


async def test_a_deadlock_of_raw_sql_is_reported_and_harms_nothing(db: Database) -> None:
    """The one way to deadlock: rows of two mailboxes by hand, without the locks. PostgreSQL ends one of the two."""
    (account_id, one), (_, two) = (await make_boxes(db))[:2]
    for mailbox_id in (one, two):
        await deliver_some(db, account_id, mailbox_id, 1)
    meet = asyncio.Barrier(2)

    async def expunge_by_hand(first: int, second: int) -> None:
        async with db.acquire() as conn, conn.transaction():
            await conn.execute("SET LOCAL deadlock_timeout = '50ms'")
            for mailbox_id in (first, second):
                await conn.execute(
                    "UPDATE messages SET expunged_at = now(), expunged_modseq = 100"
                    " WHERE account_id = $1 AND mailbox_id = $2",
                    account_id, mailbox_id,
                )  # fmt: skip
                if mailbox_id == first:
                    await meet.wait()

    results = await asyncio.gather(expunge_by_hand(one, two), expunge_by_hand(two, one), return_exceptions=True)
    assert sum(isinstance(r, Exception) for r in results) == 1
    assert not any(isinstance(r, asyncpg.InternalServerError) for r in results)
    for mailbox_id in (one, two):
        assert await db.fetch("SELECT * FROM check_mailbox($1, $2)", account_id, mailbox_id) == []
