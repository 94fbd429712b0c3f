"""Wrapped data keys as objects, beside the bodies: `keys/<account, 16 hex>/<id of the master key>.key`.

A bucket from which the database is built anew is worthless without them. So a key is there before the first body of its
account is, and after a rotation the new wrapping takes the place of the old one, of which no version stays.

A key is put with its row locked. Whoever shreds the account waits for that, so no key can appear in the bucket after it
was removed there; but for a request whose sender died, for which the janitor looks once more (`shredding.py`).
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from msgspec import Struct

from sora import log
from sora.crashpoints import crash_point
from sora.types import AccountId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from sora.store.blobs import BlobStore
    from sora.store.db import Database
    from sora.store.keyring import Keyring

KNOWN: Final = 100_000
"""Accounts of which a process remembers that their key is stored."""
BATCH: Final = 100
PUTS: Final = 8
"""Objects on their way at a time."""
_KEY: Final = re.compile(r"keys/([0-9a-f]{16})/[^/]+\.key")

_log = log.get(__name__)


class KeyObject(Struct, frozen=True):
    """What the object of a wrapped key says, in JSON.

    Attributes:
        wrapped: See `store/keyring.py`; in base64.
        fingerprint: Of the data key, in hexadecimal.
    """

    version: int
    account_id: int
    key_id: str
    wrapped: str
    fingerprint: str


def prefix_of(account_id: AccountId) -> str:
    """What the keys of an account's key objects begin with."""
    return f"keys/{account_id:016x}/"


def owner_of(key: str) -> AccountId | None:
    """Whose key an object is; None: it is no key object."""
    found = _KEY.fullmatch(key)
    return AccountId(int(found[1], 16)) if found else None


class KeyStore(Protocol):
    """Sees to it that the keys of accounts are in the object store."""

    async def ensure(self, account_id: AccountId) -> None:
        """Return when the account's key is there, if it has one.

        Raises:
            BlobDown: The object store is away.
            Unavailable: PostgreSQL is away.
        """

    async def ensure_many(self, account_ids: Sequence[AccountId]) -> None:
        """`ensure` for many accounts, which waits for the two dependencies a few times only.

        Raises:
            BlobDown: The object store is away.
            Unavailable: PostgreSQL is away.
        """

    async def store_pending(self) -> int:
        """Store keys that are new or were wrapped anew; how many there were.

        Raises:
            Unavailable: A dependency is away.
        """


class NoKeyObjects:
    """Encryption is off: there are no keys."""

    async def ensure(self, account_id: AccountId) -> None:
        """See `KeyStore.ensure`."""

    async def ensure_many(self, account_ids: Sequence[AccountId]) -> None:
        """See `KeyStore.ensure_many`."""

    async def store_pending(self) -> int:
        """See `KeyStore.store_pending`."""
        return 0


class KeyObjects:
    """Puts wrapped keys into the object store."""

    def __init__(self, db: Database, blobs: BlobStore, *, known: int = KNOWN) -> None:
        self._db = db
        self._blobs = blobs
        self._bound = known
        self._known: OrderedDict[AccountId, None] = OrderedDict()

    async def ensure(self, account_id: AccountId) -> None:
        """See `KeyStore.ensure`."""
        if account_id in self._known:
            return
        await self._store(account_id)
        self._remember([account_id])

    async def ensure_many(self, account_ids: Sequence[AccountId]) -> None:
        """See `KeyStore.ensure_many`."""
        due = [account_id for account_id in account_ids if account_id not in self._known]
        if not due:
            return
        async with self._db.transaction() as connection:
            rows = await connection.fetch(
                """
                SELECT account_id, key_id, wrapped, fingerprint FROM account_keys
                WHERE account_id = ANY ($1) AND stored_at IS NULL ORDER BY account_id FOR UPDATE
                """,
                due,
            )
            for start in range(0, len(rows), PUTS):
                puts = (self._put_object(row) for row in rows[start : start + PUTS])
                # All have ended before the rows are let go, or a key could appear behind the back of a shredder.
                for result in await asyncio.gather(*puts, return_exceptions=True):
                    if isinstance(result, BaseException):
                        raise result
            if rows:
                await connection.execute(
                    "UPDATE account_keys SET stored_at = clock() WHERE account_id = ANY ($1)",
                    [row["account_id"] for row in rows],
                )
        self._remember(due)

    def _remember(self, account_ids: Sequence[AccountId]) -> None:
        self._known.update(dict.fromkeys(account_ids))
        while len(self._known) > self._bound:
            self._known.popitem(last=False)

    async def store_pending(self) -> int:
        """See `KeyStore.store_pending`."""
        rows = await self._db.fetch("SELECT account_id FROM account_keys WHERE stored_at IS NULL LIMIT $1", BATCH)
        for row in rows:
            await self._store(AccountId(row["account_id"]))
        return len(rows)

    async def _store(self, account_id: AccountId) -> None:
        async with self._db.transaction() as connection:
            row = await connection.fetchrow(
                """
                SELECT account_id, key_id, wrapped, fingerprint, stored_at FROM account_keys
                WHERE account_id = $1 FOR UPDATE
                """,
                account_id,
            )
            if row is not None and row["stored_at"] is None:
                await self._put_object(row)
                await connection.execute(
                    "UPDATE account_keys SET stored_at = clock() WHERE account_id = $1", row["account_id"]
                )

    async def _put_object(self, row: Record) -> None:
        prefix = prefix_of(row["account_id"])
        key = f"{prefix}{row['key_id']}.key"
        await self._blobs.put(key, _content(row))
        crash_point("uploader.key_put")
        # Not before the new one is there; and before the row says so, so that a crash in between repeats it.
        for other in [entry.key async for entry in self._blobs.list(prefix) if entry.key != key]:
            await self._blobs.erase(other)
            _log.info("old wrapping of a key removed", extra={"account_id": row["account_id"], "object": other})


def _content(row: Record) -> bytes:
    content = KeyObject(
        version=1,
        account_id=row["account_id"],
        key_id=row["key_id"],
        wrapped=base64.b64encode(row["wrapped"]).decode(),
        fingerprint=row["fingerprint"].hex(),
    )
    return msgspec.json.encode(content) + b"\n"


def parse(content: bytes) -> tuple[KeyObject, bytes]:
    """The object of a wrapped key, and the wrapped key.

    Raises:
        ValueError: It is none.
    """
    found: KeyObject = msgspec.json.decode(content, type=KeyObject)
    if found.version != 1:
        raise ValueError(f"a key object of version {found.version}")
    return found, base64.b64decode(found.wrapped, validate=True)


def open_key_objects(keyring: Keyring | None, db: Database, blobs: BlobStore) -> KeyStore:
    """As the configuration wants it; no keyring: encryption is off."""
    return KeyObjects(db, blobs) if keyring else NoKeyObjects()
