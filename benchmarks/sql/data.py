"""A database with mailboxes of given sizes, in the company of many small ones, as real delivery would leave it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

NEIGHBOURS = 500
NEIGHBOUR_MESSAGES = 200
BATCH = 100_000


class Target(Struct, frozen=True):
    """A mailbox to measure, and another of the same account to copy to."""

    size: int
    account_id: int
    mailbox_id: int
    other_id: int


async def build(conn: asyncpg.Connection, sizes: Sequence[int], company: int = NEIGHBOURS) -> list[Target]:
    """Fill the database; about 20 s a million messages."""
    targets = []
    for size in sizes:
        account_id = await conn.fetchval("SELECT create_account($1)", f"user{size}@example.com")
        ids = await conn.fetch(
            "SELECT mailbox_id FROM mailboxes WHERE account_id = $1 AND name IN ('Archive', 'Trash') ORDER BY name",
            account_id,
        )
        targets.append(Target(size, account_id, ids[0][0], ids[1][0]))
    neighbours = [await conn.fetchval("SELECT create_account($1)", f"neighbour{i}@example.com") for i in range(company)]
    for target in targets:
        for first in range(1, target.size + 1, BATCH):
            last = min(first + BATCH - 1, target.size)
            await _insert(conn, target.account_id, target.mailbox_id, first, last)
    await _insert_neighbours(conn, neighbours)
    for target in targets:
        await _set_flags(conn, target)
    await conn.execute("VACUUM ANALYZE")
    return targets


async def _insert(conn: asyncpg.Connection, account_id: int, mailbox_id: int, first: int, last: int) -> None:
    await conn.execute(
        """
        WITH c AS (
          INSERT INTO message_contents (account_id, content_hash, size, sent_at, message_id, thread_id, subject, sender,
            recipients, envelope, body_structure)
          SELECT $1::bigint, decode(md5($2 || '/' || i) || md5('x' || i), 'hex'), 2000 + i % 3000,
            clock() - i * interval '1 min',
            '<' || i || '@example.org>', i, 'Subject number ' || i,
            'sender' || i % 997 || '@example.org', 'user@example.com',
            convert_to(repeat('("envelope") ', 30), 'UTF8'), convert_to(repeat('("text" "plain") ', 20), 'UTF8')
          FROM generate_series($3::bigint, $4::bigint) i
          RETURNING content_id, size)
        INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size)
        SELECT $1, $5, $3 - 1 + row_number() OVER (ORDER BY content_id), content_id, 2, clock(), size FROM c
        """,
        account_id, str(account_id), first, last, mailbox_id,
    )  # fmt: skip


async def _insert_neighbours(conn: asyncpg.Connection, accounts: Sequence[int]) -> None:
    """Message by message over all of them, so that the rows of one mailbox are spread over the heap."""
    await conn.execute(
        """
        INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size)
        SELECT m.account_id, m.mailbox_id, u, nextval('content_ids'), 2, clock(), 1000
        FROM generate_series(1, $2::int) u, mailboxes m
        WHERE m.account_id = ANY ($1::bigint[]) AND m.name = 'INBOX' ORDER BY u, m.account_id
        """,
        accounts, NEIGHBOUR_MESSAGES,
    )  # fmt: skip


async def _set_flags(conn: asyncpg.Connection, target: Target) -> None:
    """Most are seen, some are answered or flagged; nothing is \\Deleted."""
    for flags, last in ([0], target.size * 19 // 20), ([1], target.size // 3), ([2], target.size // 10):
        await conn.fetch(
            "SELECT * FROM store_flags($1, $2, ARRAY[1::bigint], ARRAY[$3::bigint], $4, '{}')",
            target.account_id, target.mailbox_id, last, flags,
        )  # fmt: skip
