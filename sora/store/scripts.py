"""Sieve scripts of accounts, and which of them is active.

Whoever puts a script has checked it: nothing here looks inside. Every change raises the account's script version and
tells all processes (`CHANNEL`), see `schema/0021_sieve.sql`.

Changes of one account follow each other, because each begins with the lock of the account's row: so a quota is not
passed by two at a time, and the account always has one active script or none.
"""

from __future__ import annotations

import hashlib
import unicodedata
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import AlreadyExists, InUse, InvalidName, NotFound, OverQuota
from sora.types import AccountId  # noqa: TC001

if TYPE_CHECKING:
    from sora.store.db import Connection, Database

CHANNEL: Final = "sora_scripts"
"""Notified with the account's number, in hex, when any of its scripts has changed."""
MAX_NAME: Final = 512
"""Octets: 128 characters of any kind (RFC 5804 §1.6)."""


class TooManyScripts(OverQuota):
    """The account has as many scripts as it may."""

    default_text = "Too many scripts"


class ScriptTooLarge(OverQuota):
    """One script is larger than any may be."""

    default_text = "Script too large"


class ScriptsTooLarge(OverQuota):
    """All scripts of the account together would be larger than they may be."""

    default_text = "Scripts too large"


class ScriptActive(InUse):
    """The active script cannot be deleted (RFC 5804 §2.10)."""

    default_text = "The script is active"


class NoScript(NotFound):
    """There is none of this name."""

    default_text = "There is no script by that name"


class ScriptExists(AlreadyExists):
    """A script has the name that another one should get."""

    default_text = "A script by that name exists"


class Quota(Struct, frozen=True):
    """What an account may have.

    Attributes:
        scripts: How many.
        size: Octets of one.
        storage: Octets of all.
    """

    scripts: int
    size: int
    storage: int


class ScriptInfo(Struct, frozen=True):
    """A script without its text."""

    name: str
    size: int
    active: bool
    updated_at: datetime


class StoredScript(Struct, frozen=True):
    """A script.

    Attributes:
        version: Names the text: equal texts have equal versions.
    """

    name: str
    content: bytes
    version: bytes


def check_name(name: str) -> str:
    """A name as it is stored: in NFC, so that what looks equal is equal (RFC 5198 §2).

    Raises:
        InvalidName: Empty, too long, or with control characters or line separators (RFC 5804 §1.6).
    """
    name = unicodedata.normalize("NFC", name)
    if not name:
        raise InvalidName("A script needs a name")
    if any(_is_forbidden(c) for c in name):
        raise InvalidName("A name of a script has no control characters")
    if len(name.encode()) > MAX_NAME:
        raise InvalidName("The name of the script is too long")
    return name


def _is_forbidden(c: str) -> bool:
    return c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\u2029" or "\ud800" <= c <= "\udfff"


def version_of(content: bytes) -> bytes:
    """Names a text; the same on every node."""
    return hashlib.blake2b(content, digest_size=32).digest()


class Scripts:
    """Rows of `sieve_scripts`. Names are taken as clients send them, see `check_name`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def list_scripts(self, account_id: AccountId) -> list[ScriptInfo]:
        """All scripts in the order of their names."""
        rows = await self._db.fetch(
            "SELECT name, size, active, updated_at FROM sieve_scripts WHERE account_id = $1 ORDER BY name", account_id
        )
        return [ScriptInfo(**row) for row in rows]

    async def get(self, account_id: AccountId, name: str) -> StoredScript:
        """One script.

        Raises:
            NoScript: There is none of this name.
        """
        found = await self.find(account_id, name)
        if found is None:
            raise NoScript
        return found

    async def find(self, account_id: AccountId, name: str) -> StoredScript | None:
        """One script, as `include :personal` looks for it."""
        row = await self._db.fetchrow(
            "SELECT name, content, version FROM sieve_scripts WHERE account_id = $1 AND name = $2",
            account_id,
            check_name(name),
        )
        return None if row is None else StoredScript(**row)

    async def find_active(self, account_id: AccountId) -> StoredScript | None:
        """The script that runs at a delivery."""
        row = await self._db.fetchrow(
            "SELECT name, content, version FROM sieve_scripts WHERE account_id = $1 AND active", account_id
        )
        return None if row is None else StoredScript(**row)

    async def have_space(self, account_id: AccountId, name: str, size: int, quota: Quota) -> None:
        """Whether a script of that size could be put now (RFC 5804 §2.5).

        Raises:
            OverQuota: Not; its class says why.
        """
        row = await self._db.fetchrow(_USAGE, account_id, check_name(name))
        assert row is not None
        _check_quota(row["others"], row["bytes"], size, quota)

    async def put(self, account_id: AccountId, name: str, content: bytes, quota: Quota) -> None:
        """Store a script that was checked, in place of the one of that name; one that was active stays so.

        Raises:
            InvalidName: Not a name.
            OverQuota: It does not fit; its class says why.
            NotFound: No such account, or it was shredded.
        """
        name = check_name(name)
        async with self._db.transaction() as conn:
            await _lock(conn, account_id)
            row = await conn.fetchrow(_USAGE, account_id, name)
            _check_quota(row["others"], row["bytes"], len(content), quota)
            await conn.execute(_PUT, account_id, name, content, version_of(content))

    async def set_active(self, account_id: AccountId, name: str) -> None:
        """Make a script the active one, and no other; the empty name: none is (RFC 5804 §2.8).

        Raises:
            NoScript: There is none of this name; nothing has changed.
        """
        name = check_name(name) if name else ""
        async with self._db.transaction() as conn:
            await _lock(conn, account_id)
            # First: the index bears one active script, at every moment.
            await conn.execute(
                "UPDATE sieve_scripts SET active = false WHERE account_id = $1 AND active AND name <> $2",
                account_id,
                name,
            )
            if name and not await conn.fetchval(_ACTIVATE, account_id, name):
                raise NoScript

    async def rename(self, account_id: AccountId, name: str, to: str) -> None:
        """Give a script another name; one that was active stays so (RFC 5804 §2.11).

        Raises:
            NoScript: There is none of the old name.
            ScriptExists: There is one of the new name.
            InvalidName: Not a name.
        """
        name, to = check_name(name), check_name(to)
        async with self._db.transaction() as conn:
            await _lock(conn, account_id)
            names = {
                row["name"]
                for row in await conn.fetch(
                    "SELECT name FROM sieve_scripts WHERE account_id = $1 AND name = ANY ($2)", account_id, [name, to]
                )
            }
            if name not in names:
                raise NoScript
            if to in names:
                raise ScriptExists
            await conn.execute(
                "UPDATE sieve_scripts SET name = $3, updated_at = clock() WHERE account_id = $1 AND name = $2",
                account_id,
                name,
                to,
            )

    async def delete(self, account_id: AccountId, name: str) -> None:
        """Delete a script that is not active.

        Raises:
            NoScript: There is none of this name.
            ScriptActive: It is the active one.
        """
        name = check_name(name)
        async with self._db.transaction() as conn:
            await _lock(conn, account_id)
            active = await conn.fetchval(
                "SELECT active FROM sieve_scripts WHERE account_id = $1 AND name = $2", account_id, name
            )
            if active is None:
                raise NoScript
            if active:
                raise ScriptActive
            await conn.execute("DELETE FROM sieve_scripts WHERE account_id = $1 AND name = $2", account_id, name)


async def _lock(conn: Connection, account_id: AccountId) -> None:
    """Changes of one account follow each other; what was shredded gets no scripts any more.

    Raises:
        NotFound: No such account, or it was shredded.
    """
    if not await conn.fetchval("SELECT true FROM accounts WHERE account_id = $1 FOR NO KEY UPDATE", account_id):
        raise NotFound("No such account")
    # In a statement of its own: it sees what was committed while the lock was waited for.
    if await conn.fetchval("SELECT EXISTS (SELECT FROM shreddings WHERE account_id = $1)", account_id):
        raise NotFound("No such account", detail="it was shredded")


def _check_quota(others: int, stored: int, size: int, quota: Quota) -> None:
    if size > quota.size:
        raise ScriptTooLarge(f"A script has at most {quota.size} octets")
    if others + 1 > quota.scripts:
        raise TooManyScripts(f"An account has at most {quota.scripts} scripts")
    if stored + size > quota.storage:
        raise ScriptsTooLarge(f"All scripts of an account have at most {quota.storage} octets")


_USAGE: Final = """
    SELECT count(*) AS others, coalesce(sum(size), 0)::bigint AS bytes FROM sieve_scripts
    WHERE account_id = $1 AND name <> $2
"""
# The same text again changes nothing, and nobody need be told.
_PUT: Final = """
    INSERT INTO sieve_scripts AS s (account_id, name, content, version) VALUES ($1, $2, $3, $4)
    ON CONFLICT (account_id, name) DO UPDATE SET
      content = EXCLUDED.content, version = EXCLUDED.version, updated_at = clock()
    WHERE s.version <> EXCLUDED.version
"""
_ACTIVATE: Final = """
    WITH found AS (SELECT name, active FROM sieve_scripts WHERE account_id = $1 AND name = $2),
      changed AS (
        UPDATE sieve_scripts s SET active = true FROM found f
        WHERE s.account_id = $1 AND s.name = f.name AND NOT f.active)
    SELECT EXISTS (SELECT FROM found)
"""
