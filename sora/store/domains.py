"""Domains and aliases.

Whoever claims a new address, as account or as alias, first locks the row of its domain, so that two claims of one
address follow each other.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sora.errors import AlreadyExists, NotFound, Refused
from sora.store.addresses import canonical_address, canonical_domain, fold_address

if TYPE_CHECKING:
    from sora.store.db import Connection, Database
    from sora.types import AccountId


class Domain(Struct, frozen=True):
    """A domain; `catch_all` is the primary address of the account that gets mail for unknown names."""

    name: str
    catch_all: str | None
    quota_bytes: int | None
    account_quota_bytes: int | None
    accounts: int
    created_at: datetime


class Alias(Struct, frozen=True):
    """A further address of an account."""

    alias: str
    address: str
    login: bool
    created_at: datetime


class Domains:
    """Domains, and the addresses in them that are no account's own."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # ── aliases ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def add_alias(self, alias: str, account_id: AccountId, *, login: bool = True) -> None:
        """Give an account a further address; `login`: it may log in with it too.

        Raises:
            InvalidName: not an address.
            AlreadyExists: an account or alias has the address.
        """
        alias = canonical_address(alias)
        async with self._db.transaction() as conn:
            await claim(conn, alias)
            await conn.execute(
                "INSERT INTO aliases (address, account_id, login) VALUES ($1, $2, $3)", alias, account_id, login
            )

    async def list_aliases(self, account_id: AccountId | None = None) -> list[Alias]:
        """Aliases of one account, or all, in the order of their addresses."""
        rows = await self._db.fetch(
            """
            SELECT s.address AS alias, a.address, s.login, s.created_at
            FROM aliases s JOIN accounts a USING (account_id)
            WHERE $1::bigint IS NULL OR s.account_id = $1 ORDER BY s.address, a.address
            """,
            account_id,
        )
        return [Alias(**row) for row in rows]

    async def remove_alias(self, alias: str) -> None:
        """Remove an alias.

        Raises:
            NotFound: no such alias.
        """
        await self._update("DELETE FROM aliases WHERE address = $1", fold_address(alias), missing="No such alias")

    # ── domains ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def add(self, name: str) -> None:
        """Add a domain; accounts add theirs by themselves.

        Raises:
            InvalidName: not a domain.
            AlreadyExists: it is there.
        """
        status = await self._db.execute(
            "INSERT INTO domains (name) VALUES ($1) ON CONFLICT DO NOTHING", canonical_domain(name)
        )
        if status.endswith(" 0"):
            raise AlreadyExists(f"Domain {name} exists")

    async def list_domains(self) -> list[Domain]:
        """Every domain by name, with the number of its accounts."""
        rows = await self._db.fetch(
            """
            SELECT d.name, c.address AS catch_all, d.quota_bytes, d.account_quota_bytes, d.created_at,
              (SELECT count(*) FROM accounts a WHERE a.domain_id = d.domain_id AND a.deleted_at IS NULL) AS accounts
            FROM domains d LEFT JOIN accounts c ON c.account_id = d.catch_all_account_id ORDER BY d.name
            """
        )
        return [Domain(**row) for row in rows]

    async def remove(self, name: str) -> None:
        """Remove a domain without accounts, with the aliases in it.

        Raises:
            NotFound: no such domain.
            Refused: it still has accounts, perhaps deleted ones that can be restored.
        """
        async with self._db.transaction() as conn:
            domain_id = await conn.fetchval(
                "SELECT domain_id FROM domains WHERE name = $1 FOR UPDATE", fold_address(name)
            )
            if domain_id is None:
                raise NotFound(f"No domain {name}")
            if await conn.fetchval("SELECT EXISTS (SELECT FROM accounts WHERE domain_id = $1)", domain_id):
                raise Refused(f"Domain {name} still has accounts")
            await conn.execute("DELETE FROM aliases WHERE split_part(address, '@', -1) = $1", fold_address(name))
            await conn.execute("DELETE FROM domains WHERE domain_id = $1", domain_id)

    async def set_catch_all(self, name: str, account_id: AccountId | None) -> None:
        """Say who gets mail for unknown names of a domain; None: nobody.

        Raises:
            NotFound: no such domain.
        """
        await self._update(
            "UPDATE domains SET catch_all_account_id = $2 WHERE name = $1", fold_address(name), account_id,
            missing=f"No domain {name}",
        )  # fmt: skip

    async def _update(self, sql: str, *args: Any, missing: str) -> None:
        status = await self._db.execute(sql, *args)
        if status.endswith(" 0"):
            raise NotFound(missing)


async def claim(conn: Connection, address: str) -> int:
    """Lock the domain of a new address, creating it if need be; gives its id.

    Raises:
        AlreadyExists: the address is taken.
    """
    name = address.rpartition("@")[2]
    await conn.execute("INSERT INTO domains (name) VALUES ($1) ON CONFLICT DO NOTHING", name)
    domain_id: int = await conn.fetchval("SELECT domain_id FROM domains WHERE name = $1 FOR UPDATE", name)
    taken = await conn.fetchval(
        """
        SELECT EXISTS (SELECT FROM accounts WHERE address = $1 AND deleted_at IS NULL)
            OR EXISTS (
              SELECT FROM aliases s JOIN accounts a USING (account_id) WHERE s.address = $1 AND a.deleted_at IS NULL)
        """,
        address,
    )
    if taken:
        raise AlreadyExists(f"{address} exists")
    return domain_id
