"""Bringing the schema of a database to this release: `schema/NNNN_topic.sql`, forward only.

Each file runs in one transaction together with its row in `sora.schema_migrations`, so a file that fails leaves
nothing, and the next run goes on where this one stopped. One process at a time: a session-level advisory lock on a
connection of its own, and every transaction verifies that this very connection still holds it. DDL waits for other
people's locks only a moment, so that it cannot stand in front of a busy server's queue.

**Releases side by side.** A file only adds (expands): the release before goes on with the schema after it, so it is
applied while older nodes run, and an older release may be put back. What takes something away begins with the line
`-- contract: VERSION`, and is left out until no node that is heard of runs a release older than VERSION; the next `up`
applies it. A database that holds files which this release does not know is of a newer release, and good for this one
unless one of them contracts. Other text than this release has under the same name is refused in any case.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
from msgspec import Struct

from sora import log
from sora.errors import ConfigError
from sora.store.db import CONNECT_TIMEOUT_S, translated
from sora.store.leases import DEAD_AFTER_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from sora.store.db import Connection

SCHEMA: Final = Path(__file__).parent.parent / "schema"
LOCK: Final = (21320, 0)
"""Advisory lock of migrations; the list of all namespaces is in schema/0001_foundation.sql."""
LOCK_WAIT_S: Final = 300
DDL_LOCK_WAIT_S: Final = 10
MINIMUM_VERSION: Final = 15

_CONTRACT: Final = re.compile(r"-- contract: (\d+(?:\.\d+)*)\n")
_FILE_NAME: Final = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
_log = log.get(__name__)


class Step(Struct, frozen=True):
    """One file of the schema.

    Attributes:
        applied_at: None: not applied.
        known: False: the database has it, this release has not.
        contract: It takes away what releases older than this one need; empty: it only adds.
    """

    name: str
    applied_at: datetime | None = None
    known: bool = True
    contract: str = ""

    @property
    def applied(self) -> bool:
        """Whether the database has it."""
        return self.applied_at is not None


class Standing(Struct, frozen=True):
    """How a database and this release suit each other.

    Attributes:
        missing: Files that this release cannot do without.
        waiting: Files that take something away, and are not applied yet.
        ahead: Files of a newer release; this one can do with them.
    """

    missing: list[str]
    waiting: list[str]
    ahead: list[str]


class _File(Struct, frozen=True):
    name: str
    sql: str

    @property
    def contract(self) -> str:
        """The oldest release that can do without what the file takes away; empty: it takes nothing away."""
        found = _CONTRACT.match(self.sql)
        return found[1] if found else ""

    @property
    def checksum(self) -> bytes:
        return hashlib.blake2b(self.sql.encode(), digest_size=16).digest()


async def up(dsn: str, directory: Path = SCHEMA) -> list[str]:
    """Apply what is missing, in order.

    Returns:
        Names of the files that were applied now; `status` tells which of them wait.

    Raises:
        ConfigError: the database belongs to a newer release that this one cannot follow, or the server is too old.
        DatabaseDown: the server cannot be reached.
        Busy: another migration, or a lock that a file needs, was not free in time.
        asyncpg.PostgresError: a file failed; it left nothing, those before it stay.
    """
    files = _read(directory)
    applied = []
    async with _connect(dsn) as conn:
        await _require_version(conn)
        await _lock(conn)
        await _create_table(conn)
        _require_known(await _applied(conn), files, changes=True)
        for file in files:
            if file.contract and not await _is_free(conn, file.contract):
                _log.warning("migration waits until all nodes are upgraded", extra={"migration": file.name})
            elif await _apply(conn, file):
                applied.append(file.name)
                _log.info("migration applied", extra={"migration": file.name})
        await _after(conn)
    return applied


async def status(dsn: str, directory: Path = SCHEMA) -> list[Step]:
    """Every file, in order, with the time it was applied; last those that only the database knows."""
    files = _read(directory)
    async with _connect(dsn) as conn:
        rows = await _applied(conn)
    unknown = sorted(rows.keys() - {file.name for file in files})
    return [
        *(Step(file.name, rows[file.name][1] if file.name in rows else None, contract=file.contract) for file in files),
        *(Step(name, rows[name][1], known=False, contract=rows[name][2]) for name in unknown),
    ]


async def pending(dsn: str, directory: Path = SCHEMA) -> list[str]:
    """`Standing.missing` alone.

    Raises:
        ConfigError: See `standing`.
    """
    return (await standing(dsn, directory)).missing


async def standing(dsn: str, directory: Path = SCHEMA) -> Standing:
    """Compare the database with this release.

    Raises:
        ConfigError: the database belongs to a newer release that this one cannot follow, or to another one.
    """
    files = _read(directory)
    async with _connect(dsn) as conn:
        rows = await _applied(conn)
    _require_known(rows, files, changes=False)
    left = [file for file in files if file.name not in rows]
    return Standing(
        missing=[file.name for file in left if not file.contract],
        waiting=[file.name for file in left if file.contract],
        ahead=sorted(rows.keys() - {file.name for file in files}),
    )


def _read(directory: Path) -> list[_File]:
    names = sorted(path.name for path in directory.glob("*.sql"))
    odd = [name for name in names if not _FILE_NAME.fullmatch(name)]
    if odd or len({name[:4] for name in names}) != len(names) or not names:
        raise ConfigError(f"{directory}: not a directory of migrations", detail=" ".join(odd or names))
    return [_File(name, (directory / name).read_text()) for name in names]


@contextlib.asynccontextmanager
async def _connect(dsn: str) -> AsyncIterator[Connection]:
    """A connection of its own: no pool hands the lock on, no timeout of other work cuts a migration short."""
    settings = {"application_name": "sora migrate", "search_path": "sora, public", "statement_timeout": "0"}
    with translated(maybe_done=False):
        conn = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, server_settings=settings)
    try:
        with translated(maybe_done=False):
            yield conn
    finally:
        await conn.close(timeout=CONNECT_TIMEOUT_S)


async def _require_version(conn: Connection) -> None:
    version = conn.get_server_version()
    if version.major < MINIMUM_VERSION:
        raise ConfigError(f"PostgreSQL {version.major} is too old, {MINIMUM_VERSION} or later is needed")
    encoding = await conn.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise ConfigError(f"the encoding of the database is {encoding}, it must be UTF8")


async def _lock(conn: Connection) -> None:
    await conn.execute(f"SET lock_timeout = '{LOCK_WAIT_S}s'")
    await conn.execute("SELECT pg_advisory_lock($1, $2)", *LOCK)
    await conn.execute(f"SET lock_timeout = '{DDL_LOCK_WAIT_S}s'")


async def _require_lock(conn: Connection) -> None:
    """A pooler in between, or a reconnect, would give us a session without the lock."""
    held = await conn.fetchval(
        """
        SELECT EXISTS (
          SELECT FROM pg_locks
          WHERE locktype = 'advisory' AND classid = $1::int::oid AND objid = $2::int::oid AND objsubid = 2
            AND granted AND pid = pg_backend_pid()
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
        """,
        *LOCK,
    )
    if not held:
        raise ConfigError("the migration lock was lost; connect to PostgreSQL itself, not through a pooler")


async def _create_table(conn: Connection) -> None:
    async with conn.transaction():
        await _require_lock(conn)
        await conn.execute("CREATE SCHEMA IF NOT EXISTS sora")
        await conn.execute(
            """
            CREATE TABLE IF NOT EXISTS sora.schema_migrations (
              name text COLLATE "C" PRIMARY KEY,
              checksum bytea NOT NULL,
              applied_at timestamptz NOT NULL DEFAULT now(),
              contract text NOT NULL DEFAULT ''
            )
            """
        )


async def _is_free(conn: Connection, oldest: str) -> bool:
    """True if no node that is heard of runs an older release; one that does not say which is taken for old."""
    if await conn.fetchval("SELECT to_regclass('sora.instances') IS NULL"):
        return True
    rows = await conn.fetch(
        "SELECT version FROM sora.instances WHERE stopped_at IS NULL AND heartbeat_at > now() - $1::interval",
        timedelta(seconds=DEAD_AFTER_S),
    )
    return all(_version(row["version"]) >= _version(oldest) for row in rows)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0]))


async def _applied(conn: Connection) -> dict[str, tuple[bytes, datetime, str]]:
    if await conn.fetchval("SELECT to_regclass('sora.schema_migrations') IS NULL"):
        return {}
    rows = await conn.fetch("SELECT name, checksum, applied_at, contract FROM sora.schema_migrations")
    return {row["name"]: (row["checksum"], row["applied_at"], row["contract"]) for row in rows}


def _require_known(rows: dict[str, tuple[bytes, datetime, str]], files: Sequence[_File], *, changes: bool) -> None:
    """Refuse a database that this release cannot work with, or (`changes`) must not add to."""
    checksums = {file.name: file.checksum for file in files}
    unknown = sorted(rows.keys() - checksums.keys())
    for name in unknown:
        if rows[name][2]:
            raise ConfigError(
                f"the database belongs to a newer release: {name} took away what releases before {rows[name][2]} need;"
                " install that one, or restore the database"
            )
    if changes and unknown and any(file.name not in rows and not file.contract for file in files):
        raise ConfigError(f"the database belongs to a newer release: it has {unknown[-1]}")
    changed = sorted(name for name in rows.keys() & checksums.keys() if rows[name][0] != checksums[name])
    if changed:
        raise ConfigError(
            f"the database belongs to another release: its {changed[0]} differs (a demo's directory can be deleted)"
        )


async def _apply(conn: Connection, file: _File) -> bool:
    async with conn.transaction():
        await _require_lock(conn)
        if await conn.fetchval("SELECT EXISTS (SELECT FROM sora.schema_migrations WHERE name = $1)", file.name):
            return False
        await conn.execute(file.sql)
        await conn.execute(
            "INSERT INTO sora.schema_migrations (name, checksum, contract) VALUES ($1, $2, $3)",
            file.name,
            file.checksum,
            file.contract,
        )
    return True


async def _after(conn: Connection) -> None:
    """UIDVALIDITY must not come back after a restore of an old backup, and a restore is followed by a migration."""
    async with conn.transaction():
        await _require_lock(conn)
        await conn.execute("SELECT sora.raise_uidvalidity()")
