"""The rows of shreddings: which accounts were shredded, what was removed of them, which nodes are done."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import NoPermission, NotFound
from sora.types import AccountId

if TYPE_CHECKING:
    from datetime import timedelta

    from sora.store.db import Database

ROWS: Final = 2000
"""Rows of each kind that one statement removes."""


class Shredding(Struct, frozen=True):
    """An account whose data key was destroyed, and what was removed of it so far.

    Attributes:
        key_id: Of the master key that had wrapped the data key last.
        fingerprint: Of the data key.
        plain_bodies: Stored before the account had a key; they are deleted, but were never unreadable.
        key_objects: Wrapped keys in the object store, all versions counted.
        contents: Rows that were blanked; their objects are queued for deletion.
        texts: Rows of the search.
        copies: Uploads that waited, with the copies of bodies in the database.
        files: Staged and cached bodies on the nodes that are done.
        objects_left: Objects of bodies that the cleaner has not deleted yet.
        nodes_left: Nodes that have not removed their files yet.
    """

    account_id: AccountId
    address: str
    key_id: str
    fingerprint: bytes
    key_made_at: datetime
    requested_at: datetime
    finished_at: datetime | None
    plain_bodies: int
    key_objects: int
    messages: int
    contents: int
    texts: int
    copies: int
    files: int
    objects_left: int
    nodes_left: list[str]


class Shreddings:
    """What stands in `shreddings`, `shredded_nodes` and `dropped_keys`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def begin(self, account_id: AccountId) -> None:
        """Destroy the key of an account and disable it; a second call changes nothing.

        Raises:
            NoPermission: The account is under legal hold.
            NotFound: It has no key.
        """
        try:
            await self._db.execute("SELECT begin_shredding($1)", account_id)
        except NoPermission as error:
            raise NoPermission("The account is under legal hold") from error
        except NotFound as error:
            raise NotFound("The account has no key: nothing of it is encrypted") from error

    async def get(self, account_id: AccountId) -> Shredding:
        """One shredding.

        Raises:
            NotFound: The account was not shredded.
        """
        row = await self._db.fetchrow(
            """
            SELECT s.*, (SELECT count(*) FROM message_contents c WHERE c.account_id = s.account_id) AS objects_left,
              ARRAY(SELECT i.instance_id FROM instances i WHERE NOT EXISTS (
                SELECT 1 FROM shredded_nodes n WHERE n.account_id = s.account_id AND n.instance_id = i.instance_id)
                ORDER BY 1) AS nodes_left
            FROM shreddings s WHERE s.account_id = $1
            """,
            account_id,
        )
        if row is None:
            raise NotFound("The account was not shredded")
        return Shredding(**row)

    async def unfinished(self) -> list[AccountId]:
        """Accounts of which something is left, the oldest first."""
        rows = await self._db.fetch(
            "SELECT account_id FROM shreddings WHERE finished_at IS NULL ORDER BY requested_at LIMIT 100"
        )
        return [AccountId(row["account_id"]) for row in rows]

    async def remove_rows(self, account_id: AccountId) -> int:
        """Remove a batch of what the live tables say of an account; 0: nothing is left.

        Raises:
            Busy: A mailbox is locked for long; try again.
        """
        return int(await self._db.fetchval("SELECT shred_rows($1, $2)", account_id, ROWS))

    async def key_objects_removed(self, account_id: AccountId, versions: int) -> None:
        """Count removed objects."""
        await self._db.execute(
            "UPDATE shreddings SET key_objects = key_objects + $2 WHERE account_id = $1", account_id, versions
        )

    async def finish(self, account_id: AccountId) -> None:
        """Note that nothing is left but what other nodes and the cleaner have to do."""
        await self._db.execute(
            "UPDATE shreddings SET finished_at = clock() WHERE account_id = $1 AND finished_at IS NULL", account_id
        )

    async def left_on_node(self, instance_id: str) -> list[AccountId]:
        """Shredded accounts whose files a node has not removed yet."""
        rows = await self._db.fetch(
            """
            SELECT account_id FROM shreddings s WHERE NOT EXISTS (
              SELECT 1 FROM shredded_nodes n WHERE n.account_id = s.account_id AND n.instance_id = $1)
            ORDER BY requested_at LIMIT 1000
            """,
            instance_id,
        )
        return [AccountId(row["account_id"]) for row in rows]

    async def node_done(self, account_id: AccountId, instance_id: str, files: int) -> None:
        """Note that a node has removed its files."""
        await self._db.execute(
            """
            WITH node AS (
              INSERT INTO shredded_nodes (account_id, instance_id) VALUES ($1, $2) ON CONFLICT DO NOTHING)
            UPDATE shreddings SET files = files + $3 WHERE account_id = $1
            """,
            account_id,
            instance_id,
            files,
        )

    async def dropped_keys(self) -> list[AccountId]:
        """Accounts whose wrapped keys must go from the object store."""
        rows = await self._db.fetch("SELECT account_id FROM dropped_keys ORDER BY dropped_at LIMIT 100")
        return [AccountId(row["account_id"]) for row in rows]

    async def forget_dropped(self, account_id: AccountId, settled: timedelta) -> bool:
        """Look for keys of an account no more, if it lost its key longer ago than `settled`; True if so."""
        row = await self._db.fetchval(
            """
            DELETE FROM dropped_keys WHERE account_id = $1 AND dropped_at < clock() - $2::interval RETURNING account_id
            """,
            account_id,
            settled,
        )
        return row is not None
