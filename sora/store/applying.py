"""What the journal says of an account becomes rows; its messages are gathered for later (`rebuilding.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msgspec import Struct

    from sora.store.db import Connection
    from sora.store.journal import Account, Domains, Outbound, Page, Scripts
    from sora.types import AccountId


class Applying:
    """One account as the journal has it; inside `Rebuilding.applying`."""

    def __init__(self, conn: Connection, account_id: AccountId) -> None:
        self._conn = conn
        self._account_id = account_id

    async def page(self, page: Page) -> None:
        """Messages and flags of some blocks of a mailbox."""
        facts = list(page.messages)
        await self._conn.execute(
            f"SELECT rebuild_page({', '.join(f'${n}' for n in range(1, 21))})",
            self._account_id, page.mailbox_id, page.since, page.uid_next, page.uid_reserved, page.modseq_reserved,
            page.first_block, page.last_block, list(page.blocks),
            [plane.block_no for plane in page.planes],
            [plane.flag_no for plane in page.planes],
            [plane.viewer_id for plane in page.planes],
            [plane.bits for plane in page.planes],
            [row.uid for row in facts],
            [row.content_id for row in facts],
            [row.content_hash for row in facts],
            [row.size for row in facts],
            [row.internal_date for row in facts],
            [row.saved_at for row in facts],
            [row.expunged_at for row in facts],
        )  # fmt: skip

    async def domains(self, domains: Domains) -> None:
        """Domains, but for their catch-all accounts, and annotations of the server."""
        await self._rows("domains", [
            {**_fields(row), "catch_all_account_id": None} for row in domains.domains
        ])  # fmt: skip
        await self._rows("metadata", [{"account_id": 0, **_fields(row)} for row in domains.metadata])

    async def account(self, account: Account, *, fresh: bool) -> None:
        """The account with all that belongs to it but scripts, outbound mail and messages.

        Args:
            fresh: Every mailbox gets a new UIDVALIDITY.
        """
        own = {"account_id": self._account_id}
        domain_id = await self._domain(account)
        # Whoever has the address by now was written after the one who had it before.
        await self._conn.execute(
            """
            UPDATE accounts SET deleted_at = clock()
            WHERE address = $1 AND deleted_at IS NULL AND $2::timestamptz IS NULL
            """,
            account.address, account.deleted_at,
        )  # fmt: skip
        columns = (
            "address", "disabled", "legal_hold", "deleted_at", "quota_bytes", "quota_messages", "quota_mailboxes",
            "created_at", "hold_reason", "held_at",
        )  # fmt: skip
        values = {name: getattr(account, name) for name in columns}
        await self._rows("accounts", [{**own, "domain_id": domain_id, **values}])
        await self._rows("credentials", [{**own, **_fields(row)} for row in account.credentials])
        await self._rows("aliases", [{**own, **_fields(row)} for row in account.aliases])
        await self._rows("account_keywords", [{**own, **_fields(row)} for row in account.keywords])
        await self._mailboxes(account, fresh=fresh)
        await self._rows("subscriptions", [{**own, **_fields(row)} for row in account.subscriptions])
        await self._rows("mailbox_acl", [
            {**own, **_fields(row), "domain_id": None if row.domain_id is None else domain_id}
            for row in account.grants
        ])  # fmt: skip
        await self._rows("metadata", [{**own, **_fields(row)} for row in account.metadata])
        await self._rows("legal_hold_log", [{**own, **_fields(row)} for row in account.holds])

    async def scripts(self, scripts: Scripts) -> None:
        """Filters."""
        own = {"account_id": self._account_id}
        await self._rows("sieve_scripts", [{**own, **_fields(row)} for row in scripts.scripts])

    async def outbound(self, outbound: Outbound) -> None:
        """A page of mail that waits to leave; the first takes the place of what was there."""
        if not outbound.page:
            await self._conn.execute("DELETE FROM outbound_queue WHERE account_id = $1", self._account_id)
        own = {"account_id": self._account_id}
        await self._rows("outbound_queue", [{**own, **_fields(row)} for row in outbound.mails])

    async def forget(self) -> None:
        """What was said so far is void."""
        for table in ("rebuild_messages", "rebuild_planes", "rebuild_mailboxes", "outbound_queue"):
            await self._conn.execute(f"DELETE FROM {table} WHERE account_id = $1", self._account_id)

    async def key(self, key_id: str, wrapped: bytes, fingerprint: bytes, *, alone: bool) -> None:
        """The data key.

        Args:
            alone: The bucket has this wrapping and no other.
        """
        await self._conn.execute(
            """
            INSERT INTO account_keys (account_id, key_id, wrapped, fingerprint, stored_at)
            VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN clock() END)
            """,
            self._account_id, key_id, wrapped, fingerprint, alone,
        )  # fmt: skip

    async def lose(self, reason: str, *, deliberate: bool = False) -> None:
        """It is not built anew."""
        await self._conn.execute(
            "INSERT INTO rebuild_lost VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            self._account_id, reason, deliberate,
        )  # fmt: skip

    async def contents(self) -> None:
        """Bodies that the journal names."""
        await self._conn.execute(
            """
            INSERT INTO rebuild_contents (account_id, content_id, content_hash, size, known)
            SELECT DISTINCT ON (content_id) account_id, content_id, content_hash, size, true
            FROM rebuild_messages WHERE account_id = $1 ORDER BY content_id
            """,
            self._account_id,
        )

    async def _domain(self, account: Account) -> int:
        """The number of its domain: that was made, or made again, after the journal had looked at the domains."""
        name = account.address.rpartition("@")[2]
        await self._conn.execute(
            "INSERT INTO domains (domain_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING", account.domain_id, name
        )
        found: int | None = await self._conn.fetchval("SELECT domain_id FROM domains WHERE name = $1", name)
        return account.domain_id if found is None else found

    async def _mailboxes(self, account: Account, *, fresh: bool) -> None:
        """Those of which no page tells have no reservation: they get a new UIDVALIDITY too."""
        rows = await self._conn.fetch(
            "SELECT mailbox_id FROM rebuild_mailboxes WHERE account_id = $1", self._account_id
        )
        told = {row[0] for row in rows}
        for box in account.mailboxes:
            values = {"account_id": self._account_id, **_fields(box)}
            if fresh or box.mailbox_id not in told:
                values.pop("uidvalidity")
            await self._rows("mailboxes", [values])
        await self._conn.execute(
            """
            INSERT INTO rebuild_mailboxes AS r (account_id, mailbox_id, uidvalidity)
            SELECT $1, * FROM unnest($2::bigint[], $3::bigint[])
            ON CONFLICT (account_id, mailbox_id) DO UPDATE SET uidvalidity = EXCLUDED.uidvalidity
            """,
            self._account_id,
            [box.mailbox_id for box in account.mailboxes],
            [box.uidvalidity for box in account.mailboxes],
        )
        # a mailbox that was removed: its pages speak of nothing
        for table in ("rebuild_messages", "rebuild_planes", "rebuild_mailboxes"):
            await self._conn.execute(
                f"DELETE FROM {table} WHERE account_id = $1 AND mailbox_id <> ALL ($2)",
                self._account_id, [box.mailbox_id for box in account.mailboxes],
            )  # fmt: skip

    async def _rows(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows that have the same columns; NULL where the journal says nothing."""
        if not rows:
            return
        names = list(rows[0])
        await self._conn.executemany(
            f"INSERT INTO {table} ({', '.join(names)}) OVERRIDING SYSTEM VALUE"
            f" VALUES ({', '.join(f'${n + 1}' for n in range(len(names)))})",
            [[row[name] for name in names] for row in rows],
        )


def _fields(row: Struct) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}
