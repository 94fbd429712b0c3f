"""An account as the SQL tests see it, and a check for SQLSTATEs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.store.sql.oracle import TOP, deliver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.store.db import Connection

ALL = ([1], [TOP])


@contextlib.asynccontextmanager
async def fails_with(conn: Connection, sqlstate: str) -> AsyncIterator[None]:
    """Expect a PostgreSQL error with this code, and go on as if nothing had been tried."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        async with conn.transaction():
            yield
    assert caught.value.sqlstate == sqlstate


class Account:
    """Mailboxes by name, and the calls the tests make most."""

    def __init__(self, conn: Connection, account_id: int, boxes: dict[str, int]) -> None:
        self.conn = conn
        self.id = account_id
        self.boxes = boxes

    @classmethod
    async def create(cls, conn: Connection, address: str) -> Account:
        account = cls(conn, await conn.fetchval("SELECT create_account($1)", address), {})
        await account.refresh()
        return account

    async def refresh(self) -> None:
        """Read the names again."""
        self.boxes = {row["name"]: row["mailbox_id"] for row in await self.list() if row["mailbox_id"] is not None}

    async def list(self) -> list[Any]:
        rows: list[Any] = await self.conn.fetch("SELECT * FROM list_mailboxes($1)", self.id)
        return rows

    async def deliver(self, count: int = 1, name: str = "INBOX", **fields: Any) -> list[int]:
        """Deliver equal messages; their UIDs."""
        message = {"account_id": self.id, "mailbox_id": self.boxes[name], **fields}
        return [row["uid"] for row in await deliver(self.conn, [message] * count)]

    async def uids(self, name: str = "INBOX") -> list[int]:
        rows = await self.conn.fetch(
            "SELECT uid FROM messages WHERE account_id = $1 AND mailbox_id = $2 AND expunged_at IS NULL ORDER BY uid",
            self.id, self.boxes[name],
        )  # fmt: skip
        return [row["uid"] for row in rows]

    async def stats(self, name: str = "INBOX") -> Any:
        return await self.conn.fetchrow("SELECT * FROM mailbox_stats WHERE mailbox_id = $1", self.boxes[name])

    async def store(self, flags: list[int], lo: list[int] | None = None, hi: list[int] | None = None) -> list[Any]:
        """Set flags in INBOX."""
        rows: list[Any] = await self.conn.fetch(
            "SELECT * FROM store_flags($1, $2, $3, $4, $5, '{}')",
            self.id, self.boxes["INBOX"], lo or [1], hi or lo or [TOP], flags,
        )  # fmt: skip
        return rows

    async def expunge(self, lo: list[int], name: str = "INBOX") -> list[int]:
        """Remove these messages whatever their flags."""
        sql = "SELECT uids FROM expunge($1, $2, $3, $3, false)"
        uids: list[int] = await self.conn.fetchval(sql, self.id, self.boxes[name], lo)
        return uids

    async def changes(self, since: int = 0) -> list[tuple[str, str]]:
        """What poll_accounts() tells."""
        rows = await self.conn.fetch("SELECT * FROM poll_accounts($1, $2)", [self.id], [since])
        return [(row["kind"], row["name"]) for row in rows]

    async def check(self) -> None:
        """No mailbox of the account has anything wrong."""
        for row in await self.conn.fetch("SELECT mailbox_id FROM mailboxes WHERE account_id = $1", self.id):
            assert await self.conn.fetch("SELECT * FROM check_mailbox($1, $2)", self.id, row["mailbox_id"]) == []
