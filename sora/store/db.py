"""The pool of connections to PostgreSQL, and what its errors mean to the rest of Sora.

Statements are written against search_path `sora, public`. Every connection gives `bit` columns as raw bytes: bitmaps
are read in C, not bit by bit.

A failure becomes one of our own errors, so that nobody above this module looks at SQLSTATEs:

- the server cannot be reached, or the connection broke: `DatabaseDown`. `maybe_done` says whether the statement may
  have been committed nevertheless (its answer was lost), in which case the caller reads a witness before it replies;
- the server takes no changes, because it is a standby or was told so: `DatabaseReadOnly`, a `DatabaseDown`;
- the server is there but busy (lock timeout, deadlock, statement timeout, no free connection): `Busy`;
- our SQL functions declined: `NotFound`, `AlreadyExists`, `OverQuota` …;
- anything else stays an `asyncpg.PostgresError`: a bug.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from sora import log, metrics
from sora.errors import (
    AlreadyExists,
    Busy,
    DatabaseDown,
    DatabaseReadOnly,
    InUse,
    InvalidName,
    KeyUnavailable,
    LimitExceeded,
    NoPermission,
    NotFound,
    OverQuota,
    SoraError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

Connection: TypeAlias = "asyncpg.Connection"

CONNECT_TIMEOUT_S: Final = 5.0
ACQUIRE_TIMEOUT_S: Final = 10.0
STATEMENT_TIMEOUT_S: Final = 60.0
"""The server's own; the client waits a little longer, so that only a dead network ends in a cut connection."""
ROLLBACK_TIMEOUT_S: Final = 5.0
AT_HAND: Final = 4
"""Connections that are kept out of the pool between two statements: the pool makes a task to give one out and another
to take it back, which takes longer than a small statement."""

SETTINGS: Final = {
    "search_path": "sora, public",
    "jit": "off",  # plans of trigger functions cross its threshold by estimates alone
    "statement_timeout": f"{STATEMENT_TIMEOUT_S:.0f}s",
    # a forgotten transaction keeps an old snapshot, and the hot rows of mailbox_stats grow ninefold in a minute
    "idle_in_transaction_session_timeout": "60s",
}

# SQLSTATE, or its class, to our error. Texts are for the peer, so they say nothing of the server.
_DECLINED: Final[dict[str, tuple[type[SoraError], str]]] = {
    "P0002": (NotFound, "No such mailbox"),
    "23505": (AlreadyExists, "Already exists"),
    "SR001": (OverQuota, ""),
    "SR002": (InUse, "Lock lost"),
    "SR003": (InvalidName, ""),
    "SR004": (LimitExceeded, "Too many keywords"),
    "SR005": (NoPermission, "Not possible for this mailbox"),
    "SR006": (KeyUnavailable, ""),
    "55P03": (Busy, ""),  # lock_timeout
    "57014": (Busy, ""),  # statement_timeout
    "40P01": (Busy, ""),  # deadlock
    "40001": (Busy, ""),  # serialization failure
    "53300": (Busy, ""),  # too many connections
}
_RESERVATION: Final = "journal_reservation"
"""A constraint whose violation ends with the next segment of the journal, see schema/0025_journal.sql."""
_READ_ONLY: Final = "25006"
_DOWN: Final = frozenset(
    {
        "3D000",  # no such database: it is being restored, or the DSN is wrong
        "53100",  # disk full
        "53200",  # out of memory
        "58030",  # the server's disk fails
        "57P01",  # administrator ends the connection
        "57P02",  # crash of another backend
        "57P03",  # starting up or shutting down
        "57P05",  # idle session timeout
        "25P03",  # idle in transaction
    }
)
_DOWN_CLASSES: Final = ("08", "28")
"""Connection, and login: a password that is being changed."""
# The statement can have been committed when these arrive.
_AMBIGUOUS: Final = frozenset({"57P01", "57P02"})


_log = log.get(__name__)


class Database:
    """A pool of connections. Made by `open`, inside the loop that uses it.

    Attributes:
        read_only: No changes are taken, as the connection that was used last had heard from its server.
    """

    def __init__(self, pool: asyncpg.Pool, dsn: str, application_name: str) -> None:
        self._pool = pool
        self._dsn = dsn
        self._application_name = application_name
        self._called = application_name  # of connections as they are wanted now
        self.read_only = False
        self._at_hand: list[Connection] = []
        self._waiting = 0  # for the pool
        self._closing = False

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        min_size: int = 1,
        max_size: int = 10,
        application_name: str = "sora",
        read_only: bool = False,
    ) -> Database:
        """Open a pool; with min_size=0 the first connection is made when it is needed.

        Args:
            read_only: See `set_read_only`.

        Raises:
            DatabaseDown: no connection could be made.
        """
        with translated(maybe_done=False):
            pool = await asyncpg.create_pool(
                dsn,
                min_size=min_size,
                max_size=max_size,
                init=_prepare,
                reset=_keep,
                **_connect_arguments(application_name, read_only=read_only),
            )
        database = cls(pool, dsn, application_name)
        database.set_read_only(wanted=read_only)
        return database

    def set_read_only(self, *, wanted: bool) -> None:
        """Have the server refuse every change, or no longer; what is under way ends as it began.

        By connections of their own: to set it back on one that is open would also undo what the database's owner has
        set (`ALTER DATABASE`), which holds whatever is wanted here. They have another name, by which they are told
        apart and seen in pg_stat_activity.
        """
        called = f"{self._application_name} (read-only)" if wanted else self._application_name
        if called == self._called:
            return
        self._called = called
        self._pool.set_connect_args(self._dsn, **_connect_arguments(self._called, read_only=wanted))

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """All rows of one statement in a transaction of its own."""
        async with self.acquire() as conn:
            rows: list[asyncpg.Record] = await conn.fetch(sql, *args)
            return rows

    async def fetchrow(self, sql: str, *args: object) -> asyncpg.Record | None:
        """The first row, or None."""
        async with self.acquire() as conn:
            return await conn.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        """The first column of the first row, or None."""
        async with self.acquire() as conn:
            return await conn.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        """Run one statement; returns its command tag, such as `DELETE 2`."""
        async with self.acquire() as conn:
            tag: str = await conn.execute(sql, *args)
            return tag

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection without a transaction: every statement commits by itself.

        Raises:
            Busy: none became free in time.
            DatabaseDown: none could be made, or it broke.
        """
        async with self._connection() as conn:
            with translated(maybe_done=True):
                yield conn

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction (READ COMMITTED), committed at the end of the block.

        Raises:
            Busy, DatabaseDown: as `acquire`; before the commit nothing can be done, so only its own failure says
                `maybe_done`.
        """
        async with self._connection() as conn:
            transaction = conn.transaction()
            with translated(maybe_done=False):
                await transaction.start()
                try:
                    yield conn
                except BaseException:
                    await _roll_back(conn, transaction)
                    raise
            with translated(maybe_done=True):
                await transaction.commit()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        conn = await self._take()
        try:
            yield conn
        except BaseException as error:
            self._note_access(conn)
            if isinstance(error, DatabaseDown) and not _stays(error, conn):
                # asyncpg may still think that an operation is under way on it: nobody shall get this one again
                with contextlib.suppress(asyncpg.InterfaceError):  # the pool has taken it back and knows it is closed
                    conn.terminate()
            await self._give_back(conn)
            raise
        self._note_access(conn)
        enough = self._closing or self._waiting or len(self._at_hand) >= AT_HAND
        if enough or _is_closed(conn) or conn.is_in_transaction():
            await self._give_back(conn)
        else:
            self._at_hand.append(conn)

    async def _take(self) -> Connection:
        while True:
            conn = self._at_hand.pop() if self._at_hand else await self._borrow()
            if not _is_closed(conn):
                if _reported(conn, "application_name", self._called) == self._called:
                    return conn
                conn.terminate()  # from before `set_read_only`
            await self._give_back(conn)

    def _note_access(self, conn: Connection) -> None:
        """The server says of each connection whether it takes changes, and says so again when that changes."""
        if not _is_closed(conn):
            self.read_only = "on" in (
                _reported(conn, "default_transaction_read_only", "off"),
                _reported(conn, "in_hot_standby", "off"),
            )

    async def _borrow(self) -> Connection:
        """From the pool: a new one, or one that somebody gives back."""
        self._waiting += 1
        try:
            with translated(maybe_done=False):
                try:
                    return await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
                except TimeoutError:
                    # the pool's own waiting list, or a server that does not answer a connect
                    raise _count(Busy(detail="no database connection in time"), "pool") from None
        finally:
            self._waiting -= 1

    async def _give_back(self, conn: Connection) -> None:
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            # a connection that fails here is thrown away by the pool; what it was used for has its answer already
            await self._pool.release(conn, timeout=ROLLBACK_TIMEOUT_S)

    async def ping(self) -> None:
        """One round trip to a server that takes writes.

        Raises:
            DatabaseReadOnly: it takes none; a demoted primary still answers.
            DatabaseDown: it does not answer.
        """
        row = await self.fetchrow("SELECT current_setting('transaction_read_only') = 'on', pg_is_in_recovery()")
        assert row is not None, "a SELECT without FROM is one row"
        if row[0]:
            if self._called != self._application_name:
                raise DatabaseReadOnly(detail="database.read_only is set")
            standby, told = "the server is a standby", "default_transaction_read_only is on"
            raise DatabaseReadOnly(detail=standby if row[1] else told)

    async def close(self) -> None:
        """Close every connection, busy ones after a moment by force."""
        self._closing = True
        while self._at_hand:
            await self._give_back(self._at_hand.pop())
        try:
            async with asyncio.timeout(ROLLBACK_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


def _connect_arguments(application_name: str, *, read_only: bool) -> dict[str, Any]:
    settings = {**SETTINGS, "application_name": application_name}
    if read_only:
        settings["default_transaction_read_only"] = "on"
    return {
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": STATEMENT_TIMEOUT_S + 5,
        "server_settings": settings,
    }


@contextlib.contextmanager
def translated(*, maybe_done: bool) -> Iterator[None]:
    """Turn the errors of asyncpg into ours.

    Args:
        maybe_done: whether what runs inside can have been committed when the connection breaks.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _of_sqlstate(error, maybe_done) from error
    except (OSError, TimeoutError, asyncpg.InternalClientError) as error:
        # asyncpg gives ConnectionError for a broken socket, TimeoutError for command_timeout, and InternalClientError
        # for a connection that broke in the middle of an operation and has not noticed yet
        raise _down(error, maybe_done) from error
    except asyncpg.InterfaceError as error:
        # "connection is closed", "pool is closing", and what a connection says that the pool took back when it broke
        # while somebody held it and asked nothing: anything else is misuse
        if "clos" not in str(error) and "released back to the pool" not in str(error):
            raise
        raise _down(error, maybe_done) from error


def _is_closed(conn: Connection) -> bool:
    """True of a broken connection, also of one that the pool took back when it broke while nobody used it."""
    try:
        return bool(conn.is_closed())
    except asyncpg.InterfaceError:
        return True


def _reported(conn: Connection, name: str, default: str) -> str:
    """A setting as the server reports it by itself, without a round trip; a pooler in between may not."""
    return str(getattr(conn.get_settings(), name, default))


def _stays(error: DatabaseDown, conn: Connection) -> bool:
    """A refused change leaves a sound connection; but the next one may lead to the server that is primary now."""
    return isinstance(error, DatabaseReadOnly) and _reported(conn, "in_hot_standby", "off") == "off"


def _of_sqlstate(error: Exception, maybe_done: bool) -> Exception:
    state = getattr(error, "sqlstate", None) or ""
    if state == _READ_ONLY:
        return _count(DatabaseReadOnly(detail=str(error)), "read_only")
    if state.startswith(_DOWN_CLASSES) or state in _DOWN:
        # class 08 is also what asyncpg itself raises when the connection is lost in the middle
        return _down(error, maybe_done and (state.startswith("08") or state in _AMBIGUOUS))
    if getattr(error, "constraint_name", None) == _RESERVATION:
        metrics.journal_refusals.inc()
        return _count(Busy(detail=f"{_RESERVATION}: {error}"), "busy")
    if state in _DECLINED:
        kind, text = _DECLINED[state]
        if kind is Busy:
            metrics.database_errors.labels("busy").inc()
        return kind(text, detail=str(error))
    metrics.database_errors.labels("bug").inc()
    return error


def _down(error: Exception, maybe_done: bool) -> DatabaseDown:
    metrics.database_errors.labels("down").inc()
    return DatabaseDown(detail=f"{type(error).__name__}: {error}", maybe_done=maybe_done)


def _count(error: SoraError, kind: str) -> SoraError:
    metrics.database_errors.labels(kind).inc()
    return error


async def _roll_back(conn: Connection, transaction: Any) -> None:
    """Roll back in bounded time whatever state the task is in; a connection that cannot is cut."""
    try:
        async with asyncio.timeout(ROLLBACK_TIMEOUT_S):
            await transaction.rollback()
    except (asyncpg.PostgresError, OSError, TimeoutError):
        conn.terminate()
    except asyncpg.InterfaceError:
        _log.debug("rollback on a connection that is gone")


async def _prepare(conn: Connection) -> None:
    await conn.set_type_codec("bit", schema="pg_catalog", format="binary", encoder=_encode_bit, decoder=_decode_bit)


async def _keep(conn: Connection) -> None:
    """Nothing to undo: no statement of ours changes a session. Saves a round trip for each release."""


def _encode_bit(bits: bytes) -> bytes:
    return (len(bits) * 8).to_bytes(4, "big") + bits


def _decode_bit(data: bytes) -> bytes:
    return bytes(data[4:])
