"""Who must hear that a mailbox changed: sessions of this process at once, other processes a few milliseconds later.

A change is (account, mailbox, modseq). It says only "look": whoever hears it reads what is new from the database. The
mailbox `TREE` stands for what else an account has (names, subscriptions, rights, annotations), and the modseq is then
the last seq in `account_changes`. Those changes are rare, so the database itself announces them as they are committed
(`note_account_change`): no writer can forget to.

- `publish` wakes the watchers of this process directly.
- For the others, changes gather for `FLUSH_S` and go out as few NOTIFYs on a connection of their own, without waiting
  for the disk. NOTIFY inside the delivering transaction takes a lock over the whole database until that transaction is
  on disk: it cost a third of the throughput on a fast disk and three quarters on a slow one.
- One more connection listens. What this process sent itself comes back too and is known by its modseq: modseq order is
  commit order, so nothing older than what was heard can be news.
- Notices may get lost, with a connection or with a crash. So the watched mailboxes are asked for, all in one query,
  after each connect and every `POLL_S` or so. This runs on the connection that listens: one that is dead without saying
  so is found.

A mailbox is watched by `watch`; `watch_account` hears of all mailboxes of an account, and of its tree.

There are 16 channels, an account has one of them. Each process listens to all: it watches many accounts, and a LISTEN
for each first watcher would be a window in which a change is missed.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from sora import log, metrics
from sora.types import MailboxId, ModSeq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sora.types import AccountId

    Mailbox = tuple[AccountId, MailboxId]
    Callback = Callable[[AccountId, MailboxId, ModSeq], None]

_log = log.get(__name__)

TREE: Final = MailboxId(0)
"""No mailbox has this number: it stands for the names, subscriptions, rights and annotations of an account."""
GONE: Final = ModSeq(1 << 62)
"""Published when a mailbox is deleted: a modseq that none reaches, so all who watch it look, and find it gone.

It is not kept as what they were told: the mailbox may be restored, with its modseqs, while some still watch."""
BUCKETS: Final = 16
MAX_PAYLOAD: Final = 7999
"""PostgreSQL wants less than 8,000 bytes."""
FLUSH_S: Final = 0.007
POLL_S: Final = 20.0
STANDBY_POLL_S: Final = 3.0
"""A standby takes no LISTEN: all that is known of it is what is asked for."""
TIMEOUT_S: Final = 10.0
"""For one statement: what takes longer is a dead connection."""
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 5.0
NOTIFY: Final = "SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS t(channel, payload)"
_POLL: Final = """
    SELECT account_id, mailbox_id, highest_modseq FROM sora.poll_mailboxes($1, $2, $3)
    UNION ALL
    SELECT account_id, 0, change_seq FROM sora.poll_trees($4, $5)
"""
_BROKEN: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The last is what asyncpg says of a connection that broke in the middle of something and has not noticed yet."""


class _Watch:
    """Watchers of one mailbox and the newest modseq that they were told."""

    __slots__ = ("callbacks", "modseq")

    def __init__(self) -> None:
        self.callbacks: dict[object, Callback] = {}
        self.modseq = 0


class _AccountWatch:
    """Watchers of a whole account, and what they were told of each mailbox of it."""

    __slots__ = ("callbacks", "told")

    def __init__(self) -> None:
        self.callbacks: dict[object, Callback] = {}
        self.told: dict[MailboxId, ModSeq] = {}


class Changes:
    """Changes of mailboxes, from and to all processes.

    Args:
        dsn: Of the primary, without a pooler in transaction mode between: LISTEN needs a session.
        flush_s: How long outgoing notices gather.
        poll_s: How often the watched mailboxes are asked for.
    """

    def __init__(self, dsn: str, *, flush_s: float = FLUSH_S, poll_s: float = POLL_S) -> None:
        self._dsn = dsn
        self._flush_s = flush_s
        self._poll_s = poll_s
        self._watched: dict[Mailbox, _Watch] = {}
        self._accounts: dict[AccountId, _AccountWatch] = {}
        self._outgoing: dict[Mailbox, ModSeq] = {}
        self._rung: set[str] = set()
        self._buckets = BUCKETS
        self._due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._further: dict[str, list[tuple[Callable[[str], None], Callable[[], None]]]] = {}
        self.listening = asyncio.Event()
        """Set while notices of other processes come in."""

    def hear(self, channel: str, callback: Callable[[str], None], missed: Callable[[], None] = lambda: None) -> None:
        """Call `callback(payload)` for notices on a channel of somebody else; to be called before `start`.

        Args:
            missed: Called whenever notices may have been lost before now, and come from now on.
        """
        self._further.setdefault(channel, []).append((callback, missed))

    def start(self, *, listen: bool = True, mailboxes: bool = True) -> None:
        """Begin to send and, unless nobody here watches anything, to listen; PostgreSQL may be away.

        Args:
            mailboxes: False: nobody here watches mailboxes, only the channels of `hear`.
        """
        self._buckets = BUCKETS if mailboxes else 0
        runs = (self._send, self._listen) if listen else (self._send,)
        self._tasks = [asyncio.create_task(self._keep(run)) for run in runs]

    async def close(self) -> None:
        """Stop; what was not sent is lost, which the polls of the others make good. A second call does nothing."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def publish(self, account_id: AccountId, mailbox_id: MailboxId, modseq: ModSeq) -> None:
        """Tell everybody of a change that is committed."""
        mailbox = account_id, mailbox_id
        self._tell(mailbox, modseq)
        self._queue(mailbox, modseq)

    def ring(self, channel: str) -> None:
        """Send a notice without a payload, soon, to those who `hear` this channel; more than one at a time is one."""
        self._rung.add(channel)
        self._due.set()

    def watch(
        self, account_id: AccountId, mailbox_id: MailboxId, callback: Callback, modseq: ModSeq | None = None
    ) -> Callable[[], None]:
        """Call `callback(account_id, mailbox_id, modseq)` for every change from now on.

        Watch first, then read the mailbox: in the other order a change between the two is missed.

        Args:
            modseq: What the caller knows already; None: the first poll will call back once.

        Returns:
            A function that ends it; calling it again does nothing.
        """
        mailbox, token = (account_id, mailbox_id), object()
        watch = self._watched.setdefault(mailbox, _Watch())
        if not watch.callbacks:
            watch.modseq = modseq or 0
        watch.callbacks[token] = callback

        def unwatch() -> None:
            watch.callbacks.pop(token, None)
            if not watch.callbacks and self._watched.get(mailbox) is watch:
                del self._watched[mailbox]

        return unwatch

    def watch_account(self, account_id: AccountId, callback: Callback) -> Callable[[], None]:
        """Call `callback(account_id, mailbox_id, modseq)` for every change of a mailbox of an account, and of its tree.

        Watch first, then read the account, then say by `learn` what was read: a poll asks for no more than what is
        known.

        Returns:
            A function that ends it; calling it again does nothing.
        """
        token = object()
        watch = self._accounts.setdefault(account_id, _AccountWatch())
        watch.callbacks[token] = callback

        def unwatch() -> None:
            watch.callbacks.pop(token, None)
            if not watch.callbacks and self._accounts.get(account_id) is watch:
                del self._accounts[account_id]

        return unwatch

    def learn(self, account_id: AccountId, known: Mapping[MailboxId, ModSeq]) -> None:
        """What a watcher of the account has read: polls ask for later changes of these mailboxes, `TREE` among them.

        Of a mailbox that is known here the older modseq holds: another watcher may have heard more than this one has.
        """
        watch = self._accounts.get(account_id)
        if watch is not None:
            for mailbox_id, modseq in known.items():
                watch.told[mailbox_id] = min(modseq, watch.told.get(mailbox_id, modseq))

    # ------------------------------------------------------------------ inside

    def _queue(self, mailbox: Mailbox, modseq: ModSeq) -> None:
        if modseq > self._outgoing.get(mailbox, 0):
            self._outgoing[mailbox] = modseq
            self._due.set()

    def _tell(self, mailbox: Mailbox, modseq: ModSeq) -> None:
        """Wake the watchers here, unless this is no news to them."""
        watch = self._watched.get(mailbox)
        if watch is not None and modseq > watch.modseq:
            watch.modseq = modseq if modseq < GONE else 0
            self._call(watch.callbacks, mailbox, modseq)
        account = self._accounts.get(mailbox[0])
        if account is not None and modseq > account.told.get(mailbox[1], 0):
            if modseq < GONE:
                account.told[mailbox[1]] = modseq
            else:
                account.told.pop(mailbox[1], None)
            self._call(account.callbacks, mailbox, modseq)

    def _call(self, callbacks: Mapping[object, Callback], mailbox: Mailbox, modseq: ModSeq) -> None:
        for callback in tuple(callbacks.values()):
            try:
                callback(*mailbox, modseq)
            except Exception:
                # One watcher's bug must not keep the change from the others.
                _log.exception("watcher failed", extra={"account_id": mailbox[0], "mailbox_id": mailbox[1]})

    async def _keep(self, run: Callable[[asyncpg.Connection], Any]) -> None:
        """Run something on a connection of its own, again and again."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                connection = await self._connect()
                pause = FIRST_PAUSE_S
                try:
                    await run(connection)
                finally:
                    connection.terminate()
            except _BROKEN as error:
                metrics.database_errors.labels("changes").inc()
                _log.warning("connection for changes lost", extra={"role": run.__name__[1:], "error": str(error)})
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LAST_PAUSE_S)

    async def _connect(self) -> asyncpg.Connection:
        settings = {"application_name": "sora changes", "synchronous_commit": "off"}
        return await asyncpg.connect(self._dsn, timeout=TIMEOUT_S, command_timeout=TIMEOUT_S, server_settings=settings)

    async def _send(self, connection: asyncpg.Connection) -> None:
        """Send what gathers."""
        while True:
            await self._due.wait()
            await asyncio.sleep(self._flush_s)
            self._due.clear()
            outgoing, self._outgoing = self._outgoing, {}
            rung, self._rung = self._rung, set()
            channels, payloads = zip(*pack(outgoing), *((channel, "") for channel in rung), strict=True)
            try:
                await connection.execute(NOTIFY, channels, payloads)
            except BaseException:
                for channel in rung:
                    self.ring(channel)
                for mailbox, modseq in outgoing.items():
                    self._queue(mailbox, modseq)
                raise
            metrics.changes_published.inc(len(outgoing))

    async def _listen(self, connection: asyncpg.Connection) -> None:
        """Hear the others, and ask now and then for what was not heard."""
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        if _is_standby(connection):
            await self._follow(connection, lost)
            return
        for bucket in range(self._buckets):
            await connection.add_listener(_channel(bucket), self._heard)
        for channel, heard_by in self._further.items():
            await connection.add_listener(channel, self._heard_further)
            for _, missed in heard_by:
                missed()
        self.listening.set()
        try:
            while not lost.is_set():
                await self._poll(connection)
                await _wait(lost, self._poll_s * random.uniform(0.75, 1.25))
        finally:
            self.listening.clear()
        raise ConnectionError("closed by the server")

    async def _follow(self, connection: asyncpg.Connection, lost: asyncio.Event) -> None:
        """Ask a standby, until it is lost or has become the primary."""
        while not lost.is_set() and _is_standby(connection):
            for heard_by in self._further.values():
                for _, missed in heard_by:
                    missed()
            await self._poll(connection)
            await _wait(lost, min(self._poll_s, STANDBY_POLL_S))

    def _heard(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        try:
            changes = list(unpack(str(payload)))
        except ValueError:
            _log.warning("notice not understood", extra={"channel": channel, "payload": str(payload)[:100]})
            return
        metrics.changes_received.inc(len(changes))
        for mailbox, modseq in changes:
            self._tell(mailbox, modseq)

    def _heard_further(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        for callback, _ in self._further[channel]:
            callback(str(payload))

    async def _poll(self, connection: asyncpg.Connection) -> None:
        """Ask for what is watched and has changed, in one query; even if it is nothing: it finds a dead connection."""
        mailboxes, trees = self._known()
        columns = *_columns(mailboxes, 3), *_columns(trees, 2)
        for account_id, mailbox_id, modseq in await connection.fetch(_POLL, *columns):
            if modseq is not None:
                self._tell((account_id, mailbox_id), modseq)
            else:
                self._gone((account_id, mailbox_id))

    def _known(self) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
        """What is watched with the modseq that all its watchers were told; mailboxes and trees."""
        known = {mailbox: watch.modseq for mailbox, watch in self._watched.items()}
        for account_id, account in self._accounts.items():
            for mailbox_id, modseq in account.told.items():
                mailbox = account_id, mailbox_id
                known[mailbox] = min(modseq, known.get(mailbox, modseq))
        trees: list[tuple[int, int]] = [
            (account_id, seq) for (account_id, mailbox_id), seq in known.items() if mailbox_id == TREE
        ]
        return [(*mailbox, modseq) for mailbox, modseq in known.items() if mailbox[1] != TREE], trees

    def _gone(self, mailbox: Mailbox) -> None:
        """A mailbox is gone, one more thing that happened to it. Who looks will find out."""
        account = self._accounts.get(mailbox[0])
        if account is not None:
            account.told.pop(mailbox[1], None)
        watch = self._watched.get(mailbox)
        if watch is not None:
            watch.modseq = 0
            self._call(watch.callbacks, mailbox, GONE)


def _columns(rows: Iterable[tuple[int, ...]], width: int) -> Iterable[tuple[int, ...]]:
    return zip(*rows, strict=True) if rows else ((),) * width


def pack(changes: Mapping[Mailbox, ModSeq]) -> Iterator[tuple[str, str]]:
    """Channels and payloads: `account.mailbox.modseq` in hexadecimal, separated by spaces."""
    buckets: dict[int, list[str]] = {}
    for (account_id, mailbox_id), modseq in changes.items():
        buckets.setdefault(account_id % BUCKETS, []).append(f"{account_id:x}.{mailbox_id:x}.{modseq:x}")
    for bucket, items in buckets.items():
        for payload in _join(items):
            yield _channel(bucket), payload


def unpack(payload: str) -> Iterator[tuple[Mailbox, ModSeq]]:
    """The changes of a payload.

    Raises:
        ValueError: Somebody else uses our channel.
    """
    for item in payload.split():
        account_id, mailbox_id, modseq = (int(number, 16) for number in item.split("."))
        yield (account_id, mailbox_id), modseq  # type: ignore[misc]


def _channel(bucket: int) -> str:
    return f"sora_{bucket}"


def _join(items: Iterable[str]) -> Iterator[str]:
    """Items by spaces, each result short enough for one NOTIFY."""
    payload = ""
    for item in items:
        if payload and len(payload) + 1 + len(item) > MAX_PAYLOAD:
            yield payload
            payload = ""
        payload = f"{payload} {item}" if payload else item
    if payload:
        yield payload


def _is_standby(connection: asyncpg.Connection) -> bool:
    return getattr(connection.get_settings(), "in_hot_standby", "off") == "on"


async def _wait(event: asyncio.Event, timeout: float) -> None:
    """Until the event or the timeout."""
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return
