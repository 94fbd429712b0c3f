"""The data keys of accounts: made at first use, unwrapped once, forgotten when they are shredded.

A process keeps the keys of the accounts that it works for, a bounded number of them, and asks the database again after
`FRESH_S`: a key that is gone from there is gone here. A notification (`CHANNEL`) makes that at once.

A master key that is missing, or another one than the data key was wrapped with, is an error for that account alone:
`KeyUnavailable`, which every protocol turns into "try again". The mail is all there when the key is back.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from sora import log, metrics
from sora.errors import ConfigError, KeyUnavailable, NotFound
from sora.store.sealing import KEY_BYTES, PLAIN, AccountKey, fingerprint, is_sealed
from sora.types import AccountId  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncpg import Record

    from sora.store.blobs import BlobRef
    from sora.store.db import Database
    from sora.store.keyring import Keyring, MasterKey
    from sora.store.sealing import Sealer

CHANNEL: Final = "sora_keys"
"""Of PostgreSQL's NOTIFY; the payload is the id of an account in hexadecimal whose key is gone."""
FRESH_S: Final = 60.0
KEPT: Final = 10_000
"""Keys in the memory of a process, a few hundred octets each."""
QUIET_S: Final = 60.0
"""How often the log says that the key of one account cannot be had."""

_log = log.get(__name__)


class Sealers(Protocol):
    """Where the sealer of an account comes from."""

    def peek(self, account_id: AccountId) -> Sealer | None:
        """The sealer for new bodies, if it is at hand; None: use `get`."""

    async def get(self, account_id: AccountId) -> Sealer:
        """The sealer for new bodies; a key is made if the account has none.

        Raises:
            KeyUnavailable: The account's key cannot be had.
            Unavailable: PostgreSQL is away.
        """

    async def fetch_many(self, account_ids: Sequence[AccountId]) -> None:
        """Have the keys of many accounts at hand, by one question; what can be said of each, `get` says.

        Raises:
            Unavailable: PostgreSQL is away.
        """

    def peek_reader(self, ref: BlobRef, stored: bytes) -> Sealer | None:
        """What opens `stored`, if it is at hand; None: use `reader`."""

    async def reader(self, ref: BlobRef, stored: bytes) -> Sealer:
        """What opens `stored`; no key is made for that.

        Raises:
            KeyUnavailable: `stored` is sealed, and the account's key cannot be had.
            Unavailable: PostgreSQL is away.
        """

    def forget(self, account_id: AccountId) -> None:
        """The account's key is gone."""

    def forget_all(self) -> None:
        """Keys may be gone, and nobody knows which."""


class NoKeys:
    """Encryption is off: bodies are plain."""

    def peek(self, account_id: AccountId) -> Sealer:
        """See `Sealers.peek`."""
        return PLAIN

    async def get(self, account_id: AccountId) -> Sealer:
        """See `Sealers.get`."""
        return PLAIN

    async def fetch_many(self, account_ids: Sequence[AccountId]) -> None:
        """See `Sealers.fetch_many`."""

    def peek_reader(self, ref: BlobRef, stored: bytes) -> Sealer:
        """See `Sealers.peek_reader`."""
        return PLAIN

    async def reader(self, ref: BlobRef, stored: bytes) -> Sealer:
        """See `Sealers.reader`."""
        return PLAIN

    def forget(self, account_id: AccountId) -> None:
        """See `Sealers.forget`."""

    def forget_all(self) -> None:
        """See `Sealers.forget_all`."""


class _Kept(Struct):
    """A key in memory, and when the database was last asked about it."""

    key: AccountKey
    seen_mono: float


class AccountKeys:
    """The keys of accounts, out of `account_keys` and the keyring.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(
        self, db: Database, keyring: Keyring, *, kept: int = KEPT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._db = db
        self._keyring = keyring
        self._bound = kept
        self._clock = clock
        self._kept: OrderedDict[AccountId, _Kept] = OrderedDict()
        self._asking: dict[tuple[AccountId, bool], asyncio.Task[AccountKey | None]] = {}
        self._forgotten = 0
        self._told: OrderedDict[AccountId, float] = OrderedDict()

    def peek(self, account_id: AccountId) -> AccountKey | None:
        """See `Sealers.peek`."""
        kept = self._kept.get(account_id)
        if kept is None or self._clock() - kept.seen_mono >= FRESH_S:
            return None
        self._kept.move_to_end(account_id)
        return kept.key

    async def get(self, account_id: AccountId) -> AccountKey:
        """See `Sealers.get`."""
        key = self.peek(account_id) or await self._ask(account_id, make=True)
        assert key is not None, "asking with `make` gives a key or raises"
        return key

    async def fetch_many(self, account_ids: Sequence[AccountId]) -> None:
        """See `Sealers.fetch_many`."""
        due = [account_id for account_id in account_ids if self.peek(account_id) is None]
        if not due:
            return
        began, forgotten = self._clock(), self._forgotten
        rows = await self._db.fetch(
            "SELECT account_id, key_id, wrapped, fingerprint FROM account_keys WHERE account_id = ANY ($1)", due
        )
        for row in rows:
            try:
                key = self._unwrap(row["account_id"], row)
            except KeyUnavailable:
                continue  # whoever asks for it is told
            if forgotten == self._forgotten:
                self._keep(row["account_id"], _Kept(key, began))

    def peek_reader(self, ref: BlobRef, stored: bytes) -> Sealer | None:
        """See `Sealers.peek_reader`."""
        return self.peek(ref.account_id) if is_sealed(stored) else PLAIN

    async def reader(self, ref: BlobRef, stored: bytes) -> Sealer:
        """See `Sealers.reader`."""
        return self.peek_reader(ref, stored) or await self._ask(ref.account_id, make=False) or PLAIN

    def forget(self, account_id: AccountId) -> None:
        """See `Sealers.forget`."""
        self._kept.pop(account_id, None)
        self._forgotten += 1  # what is being asked for now may be older than this

    def forget_all(self) -> None:
        """See `Sealers.forget_all`."""
        self._kept.clear()
        self._forgotten += 1

    # ------------------------------------------------------------------ inside

    async def _ask(self, account_id: AccountId, *, make: bool) -> AccountKey | None:
        """Ask the database; all who wait for one key wait for one answer."""
        task = self._asking.get((account_id, make))
        if task is None:
            task = asyncio.create_task(self._fetch(account_id, make=make))
            self._asking[account_id, make] = task
            task.add_done_callback(lambda _: self._asking.pop((account_id, make)))
        # Shielded: one who goes away must not take the answer from the others.
        return await asyncio.shield(task)

    async def _fetch(self, account_id: AccountId, *, make: bool) -> AccountKey | None:
        began, forgotten = self._clock(), self._forgotten
        row = await self._db.fetchrow(
            "SELECT key_id, wrapped, fingerprint FROM account_keys WHERE account_id = $1", account_id
        )
        try:
            if row is None and make:
                row = await self._create(account_id)
            if row is None:
                self._kept.pop(account_id, None)
                return None
            key = self._unwrap(account_id, row)
        except KeyUnavailable as error:
            self._kept.pop(account_id, None)
            self._tell(account_id, error)
            raise
        if forgotten == self._forgotten:
            self._keep(account_id, _Kept(key, began))
        return key

    async def _create(self, account_id: AccountId) -> Record | None:
        """Make a key, unless another process was faster: then this is its key."""
        try:
            master = self._keyring.newest()
        except ConfigError as error:
            raise KeyUnavailable(detail=str(error)) from error
        secret = secrets.token_bytes(KEY_BYTES)
        return await self._db.fetchrow(
            "SELECT * FROM create_account_key($1, $2, $3, $4, $5)",
            account_id,
            master.id,
            master.fingerprint,
            master.wrap(account_id, secret),
            fingerprint(secret),
        )

    def _unwrap(self, account_id: AccountId, row: Record) -> AccountKey:
        kept = self._kept.get(account_id)
        if kept is not None and kept.key.fingerprint == row["fingerprint"]:
            return kept.key  # perhaps wrapped anew, but the same key
        try:
            master = self._keyring.get(row["key_id"])
        except NotFound as error:
            raise KeyUnavailable(
                detail=f"account {account_id} needs master key {row['key_id']}, which is not in the keyring"
            ) from error
        return AccountKey(account_id, master.unwrap(account_id, row["wrapped"]))

    def _keep(self, account_id: AccountId, kept: _Kept) -> None:
        self._kept[account_id] = kept
        self._kept.move_to_end(account_id)
        while len(self._kept) > self._bound:
            self._kept.popitem(last=False)

    def _tell(self, account_id: AccountId, error: KeyUnavailable) -> None:
        metrics.encryption_key_errors.inc()
        now = self._clock()
        if now - self._told.get(account_id, -QUIET_S) < QUIET_S:
            return
        self._told[account_id] = now
        while len(self._told) > self._bound:
            self._told.popitem(last=False)
        _log.error("the key of an account cannot be had", extra={"account_id": account_id, "error": str(error)})


def open_sealers(keyring: Keyring | None, db: Database) -> Sealers:
    """The keys as the configuration wants them; no keyring: encryption is off."""
    return AccountKeys(db, keyring) if keyring else NoKeys()


class StoredKey(Struct, frozen=True):
    """A wrapped data key, as its row has it.

    Attributes:
        stored: This very wrapping is in the object store.
    """

    account_id: AccountId
    key_id: str
    wrapped: bytes
    fingerprint: bytes
    created_at: datetime
    stored: bool


class MasterUse(Struct, frozen=True):
    """How many data keys a master key wraps."""

    key_id: str
    accounts: int
    unstored: int


class WrappedKeys:
    """The rows of `account_keys` and `master_keys`, for those who look after them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def register(self, masters: Sequence[MasterKey]) -> list[str]:
        """Note the master keys of a keyring; ids that are known with other octets."""
        wrong: list[str] | None = await self._db.fetchval(
            "SELECT register_master_keys($1, $2)", [key.id for key in masters], [key.fingerprint for key in masters]
        )
        return wrong or []

    async def uses(self) -> list[MasterUse]:
        """What each master key wraps, by id; those that wrap nothing are left out."""
        rows = await self._db.fetch(
            """
            SELECT key_id, count(*) AS accounts, count(*) FILTER (WHERE stored_at IS NULL) AS unstored
            FROM account_keys GROUP BY 1 ORDER BY 1
            """
        )
        return [MasterUse(**row) for row in rows]

    async def wrapped_by(self, key_id: str, after: int, limit: int) -> list[StoredKey]:
        """Keys that a master key wraps, by account, those behind `after`."""
        rows = await self._db.fetch(
            f"{_STORED_KEYS} WHERE key_id = $1 AND account_id > $2 ORDER BY account_id LIMIT $3", key_id, after, limit
        )
        return [StoredKey(**row) for row in rows]

    async def rewrap(self, keys: Sequence[tuple[StoredKey, bytes]], key_id: str) -> int:
        """Put new wrappings by master key `key_id` in place of those that were read; how many were replaced."""
        replaced: int = await self._db.fetchval(
            "SELECT rewrap_account_keys($1, $2, $3, $4)",
            [key.account_id for key, _ in keys],
            [key.wrapped for key, _ in keys],
            [wrapped for _, wrapped in keys],
            key_id,
        )
        return replaced


_STORED_KEYS: Final = """
    SELECT account_id, key_id, wrapped, fingerprint, created_at, stored_at IS NOT NULL AS stored FROM account_keys
"""
