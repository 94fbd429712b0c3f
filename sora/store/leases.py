"""Exclusive rights that hold across nodes and die with their holder: POP3 maildrops, leaders of jobs.

A lease has a fencing token that only grows. Whoever writes under a lease calls `require` inside the transaction: a
holder that was taken for dead, and has woken up, is refused there, whatever it believes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import InUse

if TYPE_CHECKING:
    from sora.store.db import Connection, Database
    from sora.types import AccountId

DEFAULT_TTL_S: Final = 60.0


class Lease(Struct, frozen=True):
    """A lease that was acquired.

    Attributes:
        token: greater than that of every earlier holder of this name.
    """

    name: str
    token: int


def maildrop(account_id: AccountId) -> str:
    """Name of the lease on an account's POP3 maildrop (RFC 1939 §4)."""
    return f"pop3/{account_id}"


class Leases:
    """Leases and the nodes that hold them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def register(self, instance_id: str, *, host: str = "", version: str = "") -> int:
        """Say that a node has started: what its earlier life held is void from now on.

        Returns:
            The node's incarnation, for `heartbeat`.
        """
        incarnation: int = await self._db.fetchval("SELECT register_instance($1, $2, $3)", instance_id, host, version)
        return incarnation

    async def heartbeat(self, instance_id: str, incarnation: int) -> bool:
        """Say that a node lives; False: another process has started under its name."""
        alive: bool = await self._db.fetchval("SELECT heartbeat($1, $2)", instance_id, incarnation)
        return alive

    async def acquire(self, name: str, instance_id: str, *, ttl_s: float = DEFAULT_TTL_S) -> Lease:
        """Take a lease for a node that is registered; it must be renewed before *ttl_s* seconds have passed.

        Raises:
            InUse: somebody alive holds it.
        """
        token: int | None = await self._db.fetchval(
            "SELECT acquire_lease($1, $2, $3)", name, instance_id, timedelta(seconds=ttl_s)
        )
        if token is None:
            raise InUse(detail=f"lease {name}")
        return Lease(name, token)

    async def renew(self, lease: Lease, *, ttl_s: float = DEFAULT_TTL_S) -> bool:
        """Hold a lease longer; False: it is lost."""
        held: bool = await self._db.fetchval(
            "SELECT renew_lease($1, $2, $3)", lease.name, lease.token, timedelta(seconds=ttl_s)
        )
        return held

    async def release(self, lease: Lease) -> None:
        """Give a lease back; one that was lost meanwhile stays with its new holder."""
        await self._db.fetchval("SELECT release_lease($1, $2)", lease.name, lease.token)

    async def require(self, conn: Connection, lease: Lease) -> None:
        """Inside a transaction: refuse it unless the lease is held, and keep it held until the commit.

        Raises:
            InUse: it was lost.
        """
        await require(conn, lease)


async def require(conn: Connection, lease: Lease) -> None:
    """See `Leases.require`."""
    held = await conn.fetchval(
        "SELECT true FROM leases WHERE name = $1 AND token = $2 AND expires_at > clock() FOR UPDATE",
        lease.name,
        lease.token,
    )
    if not held:
        raise InUse(detail=f"lease {lease.name} was lost")
