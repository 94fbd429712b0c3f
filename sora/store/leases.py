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
DEAD_AFTER_S: Final = 60.0
"""A node that was silent for so long has lost its leases, and its name may be taken by another seat."""


class Lease(Struct, frozen=True):
    """A lease that was acquired.

    Attributes:
        token: greater than that of every earlier holder of this name.
    """

    name: str
    token: int


class Instance(Struct, frozen=True):
    """A node as it registered.

    Attributes:
        silent_s: Since its last heartbeat.
        stopped: It said that it stops.
        fenced: It was declared dead.
    """

    instance_id: str
    incarnation: int
    host: str
    seat: str
    peer_address: str
    stopped: bool
    fenced: bool
    silent_s: float


def maildrop(account_id: AccountId) -> str:
    """Name of the lease on an account's POP3 maildrop (RFC 1939 §4)."""
    return f"pop3/{account_id}"


class Leases:
    """Leases and the nodes that hold them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def register(
        self,
        instance_id: str,
        *,
        host: str = "",
        version: str = "",
        seat: str = "",
        peer_address: str = "",
        dead_after_s: float = DEAD_AFTER_S,
    ) -> int:
        """Say that a node has started: what its earlier life held is void from now on.

        Args:
            seat: Where the node's name is kept; see `services.seat`.
            peer_address: Where other nodes can ask it for what it has staged; empty: nowhere.

        Returns:
            The node's incarnation, for `heartbeat`.

        Raises:
            InUse: A process at another seat lives under this name.
        """
        incarnation: int | None = await self._db.fetchval(
            "SELECT register_instance($1, $2, $3, $4, $5, $6)",
            instance_id,
            host,
            version,
            seat,
            peer_address,
            timedelta(seconds=dead_after_s),
        )
        if incarnation is None:
            raise InUse(detail=f"instance {instance_id} lives elsewhere")
        return incarnation

    async def heartbeat(self, instance_id: str, incarnation: int, version: str | None = None) -> bool:
        """Say that a node lives; False: another process has started under its name, or it was declared dead.

        Args:
            version: Of the oldest release that runs there; None: as it was said before.
        """
        alive: bool = await self._db.fetchval("SELECT heartbeat($1, $2, $3)", instance_id, incarnation, version)
        return alive

    async def leave(self, instance_id: str, incarnation: int) -> None:
        """Say that a node stops."""
        await self._db.fetchval("SELECT leave_instance($1, $2)", instance_id, incarnation)

    async def find_instance(self, instance_id: str) -> Instance | None:
        """What is known of a node; None: it never registered."""
        row = await self._db.fetchrow(
            """
            SELECT instance_id, incarnation, host, seat, peer_address, stopped_at IS NOT NULL AS stopped,
              fenced_at IS NOT NULL AS fenced, extract(epoch FROM clock() - heartbeat_at)::float8 AS silent_s
            FROM instances WHERE instance_id = $1
            """,
            instance_id,
        )
        return Instance(**row) if row else None

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
