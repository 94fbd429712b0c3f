"""The janitor: says that this node lives, and does the cluster's housekeeping while it holds the lease for that."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import random
import socket
import time
from typing import TYPE_CHECKING, Final

from sora import log
from sora.errors import ConfigError, DatabaseReadOnly, InUse, NotFound, Unavailable
from sora.server import child as children
from sora.services.adoption import Adoption
from sora.services.changes import Changes
from sora.services.cleanup import Cleanup
from sora.services.indexing import STEP_ROWS, Indexing
from sora.services.key_objects import open_key_objects
from sora.services.node import (
    assemble_bodies,
    forget_all_bodies,
    forget_bodies,
    open_database,
    own_instance_id,
    own_peer_address,
)
from sora.services.outbound import Sending, own_hello
from sora.services.recovery.journal import Journal
from sora.services.seat import own_seat
from sora.services.shredding import Shredding
from sora.services.smarthost import Smarthost
from sora.store.account_keys import CHANNEL as KEY_CHANNEL
from sora.store.account_keys import open_sealers
from sora.store.bodies import open_blob_store, open_cache, open_staging
from sora.store.keyring import open_keyring
from sora.store.leases import Lease
from sora.store.marks import Marks
from sora.store.outbound import CHANNEL as OUTBOUND_CHANNEL
from sora.store.shreddings import Shreddings
from sora.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from sora.config import Config
    from sora.server.child import Child, Process
    from sora.server.scoreboard import Row
    from sora.services.shredding import Files
    from sora.store.account_keys import Sealers
    from sora.store.blobs import BlobStore
    from sora.store.cache import Cache
    from sora.store.db import Database
    from sora.store.staging import Staging

_logger = log.get(__name__)

LEASE: Final = "janitor"
LEASE_S: Final = 60.0
HEARTBEAT_S: Final = 15.0
"""A node that was silent for 60 s is taken for dead."""
UNHEARD_S: Final = 1.0
"""Pause after a heartbeat that nobody heard: POP3 logins of a node that is not registered are refused."""
LEAD_S: Final = 20.0
ADOPT_S: Final = 30.0
ADOPT_SHARE: Final = 20
INDEX_BUSY_S: Final = 0.05
INDEX_GATHER_S: Final = 5.0
"""Pause after a step that was not full: what comes meanwhile is moved together, and costs less."""
INDEX_IDLE_S: Final = 1.0
INDEX_LONG_S: Final = 5.0
INDEX_SHARE: Final = 8
"""A batch is followed by a pause so many times as long: mail that comes in goes first. SEARCH reads the queue too."""
SHRED_S: Final = 30.0
"""A shredded account's files are gone from every node soon after."""
MEASURE_S: Final = 30.0
"""The queue of mail that leaves is counted."""
JOURNAL_SHARE: Final = 0.6
"""Of `journal.interval`: a pass begins so soon after the one before that it has ended when the interval is over."""
JOURNAL_LEAST_S: Final = 0.2
JOURNAL_OFF_S: Final = 60.0
"""While it is off, what was noted for it is removed."""
READ_ONLY_S: Final = 3.0
"""Pause of everything while the database takes no changes."""
FIRST_CONTACT_S: Final = 5.0
FIRST_PASS_S: Final = 10.0
"""Before the first cleanup: a start has better things to do."""


def run(child: Child) -> int:
    """Be the janitor."""
    return children.run(child, _main, nice=children.BACKGROUND_NICE)


async def _main(process: Process) -> None:
    child = process.child
    async with contextlib.AsyncExitStack() as stack:
        database = await open_database(child.config, child.dsn, "sora janitor")
        stack.push_async_callback(database.close)
        process.on_live = lambda config: database.set_read_only(wanted=config.database.read_only)
        blobs = open_blob_store(child.config.object_store)
        stack.callback(blobs.close)
        store = Store(database)
        node = Registration(store, own_instance_id(child.config), child.node_row, config=child.config)
        stack.push_async_callback(node.leave)
        leader = Leadership(store, node.instance_id, child.node_row)
        stack.push_async_callback(leader.resign)
        # POP3 needs a registered node for its leases: register before anybody is told that we are ready.
        await _first(node.beat())
        process.ready()
        changes = Changes(child.dsn)
        stack.push_async_callback(changes.close)
        cleanup = Cleanup(database, blobs, child.config, publish=changes.publish)
        staging, cache = open_staging(child.config), open_cache(child.config)
        stack.callback(staging.close)
        files: list[Files] = [staging]
        if cache is not None:
            stack.callback(cache.close)
            files.append(cache)
        sealers = open_sealers(open_keyring(child.config), database)
        journal = _open_journal(child, database, blobs, sealers, leader)
        hello = await asyncio.to_thread(own_hello, child.config.outbound)  # may ask the DNS
        sending = _assemble_sending(child, stack, changes, store, node, (staging, cache, blobs), sealers, hello)
        changes.start(mailboxes=False)
        shredding = Shredding(Shreddings(database), blobs, files, node.instance_id)
        tasks = (
            _repeat(process, node.pause_s, node.beat),
            _index(process, leader, Indexing(database)),
            _clean(process, leader, cleanup),
            _adopt(process, leader, Adoption(database, node.instance_id, child.config.uploader.adopt_after)),
            _shred(process, leader, shredding),
            _journal(process, journal),
            sending.run(process.stopping),
            _repeat(process, lambda: MEASURE_S, sending.measure),
        )
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)


def _assemble_sending(
    child: Child,
    stack: contextlib.AsyncExitStack,
    changes: Changes,
    store: Store,
    node: Registration,
    places: tuple[Staging, Cache | None, BlobStore],
    sealers: Sealers,
    hello: str,
) -> Sending:
    """The queue of mail that leaves; keys that are destroyed meanwhile are forgotten."""
    config, (staging, cache, blobs) = child.config, places
    bodies = assemble_bodies(config, stack, cache, staging, blobs, sealers, store.db, node.instance_id)
    stack.push_async_callback(bodies.close)
    sending = Sending(
        store.outbound,
        bodies,
        sealers,
        _smarthost(config, hello),
        config.outbound,
        name=lambda: node.claim_name(child.generation),
        hello=hello,
    )
    changes.hear(OUTBOUND_CHANNEL, sending.wake, sending.wake)
    changes.hear(
        KEY_CHANNEL,
        lambda payload: forget_bodies(payload, sealers, bodies),
        lambda: forget_all_bodies(sealers, bodies),
    )
    return sending


def _open_journal(child: Child, database: Database, blobs: BlobStore, sealers: Sealers, leader: Leadership) -> Journal:
    keys = open_key_objects(open_keyring(child.config), database, blobs)
    return Journal(Marks(database), blobs, sealers, keys, leader.lease)


def _smarthost(config: Config, hello: str) -> Smarthost | None:
    """None if there is none. A certificate that cannot be read any more keeps mail waiting, and the rest going."""
    if not config.outbound.host:
        _logger.warning("no smarthost is configured: mail that filters send waits, see outbound.host")
        return None
    try:
        return Smarthost(config.outbound, hello)
    except ConfigError as error:
        _logger.error("no mail is sent", extra={"detail": str(error)})
        return None


class Registration:
    """This node's row in `instances`.

    A node is registered once for each life of its supervisor: what an earlier life held is void then. The incarnation
    is kept in shared memory, so that a janitor that died and came back does not void what the workers hold.

    A heartbeat that is refused means that the node was taken for dead, or that its name was taken. It registers anew;
    what others adopted meanwhile is theirs, and the staged files of that are removed or queued by the next sweep of the
    uploader. If the name is used by a process at another seat, the node is fenced: it takes no mail and uploads
    nothing, until that process is gone. What it has staged stays.
    """

    def __init__(self, store: Store, instance_id: str, row: Row, *, config: Config | None = None) -> None:
        self.instance_id = instance_id
        self._leases = store.leases
        self._row = row
        self._seat = own_seat(config) if config else ""
        self._peer_address = own_peer_address(config) if config else ""
        self._heard = False
        self._linger_s = config.process.linger if config else 0.0
        self._since_mono = time.monotonic()

    def pause_s(self) -> float:
        """How long to wait before the next heartbeat."""
        return HEARTBEAT_S if self._heard else UNHEARD_S

    def claim_name(self, generation: int) -> str:
        """By which this process claims what the whole cluster may work on; empty: it must not."""
        incarnation = self._row.get("incarnation")
        if not incarnation or self._row.get("fenced"):
            return ""
        return f"{self.instance_id}/{incarnation}/{generation}"

    async def beat(self) -> None:
        """Say that the node lives.

        Raises:
            Unavailable: Nobody heard it.
        """
        self._heard = False
        await self._beat()
        self._heard = True

    async def leave(self) -> None:
        """Say that the node stops; if only this process does, the next heartbeat takes it back."""
        if self._row.get("incarnation") and not self._row.get("fenced"):
            with contextlib.suppress(Unavailable):
                await self._leases.leave(self.instance_id, self._row.get("incarnation"))

    def _oldest_version(self) -> str | None:
        """Of what runs on this node: after an upgrade workers of the release before stay until their sessions end."""
        old = time.monotonic() - self._since_mono <= self._linger_s
        return None if old else _version()

    async def _beat(self) -> None:
        incarnation = self._row.get("incarnation")
        if incarnation and not self._row.get("fenced"):
            if await self._leases.heartbeat(self.instance_id, incarnation, self._oldest_version()):
                return
            _logger.error("this node was taken for dead, or its name is used", extra={"instance_id": self.instance_id})
        try:
            incarnation = await self._leases.register(
                self.instance_id,
                host=socket.gethostname(),
                version=_version(),
                seat=self._seat,
                peer_address=self._peer_address,
            )
        except InUse:
            self._row.set("fenced", 1)
            _logger.error("another process uses the name of this node", extra={"instance_id": self.instance_id})
            return
        self._row.set("incarnation", incarnation)
        self._row.set("fenced", 0)


def _version() -> str:
    """Of the installed package; empty in a source tree that was not installed."""
    try:
        return importlib.metadata.version("sora-mail")
    except importlib.metadata.PackageNotFoundError:
        return ""


class Leadership:
    """The lease of the cluster's janitor. Its token is kept in shared memory, for the successor of a dead process."""

    def __init__(self, store: Store, instance_id: str, row: Row) -> None:
        self._leases = store.leases
        self._instance_id = instance_id
        self._row = row
        self._renew_at = 0.0
        self._asking = asyncio.Lock()

    async def held(self) -> bool:
        """True if we are the leader; takes or renews the lease when that is due.

        One at a time: of two that want the lease together one is refused, and must not make the other forget its token.

        Raises:
            Unavailable: It cannot be known.
        """
        async with self._asking:
            return await self._held()

    async def lease(self) -> Lease | None:
        """The lease if we are the leader, for what is done under it.

        Raises:
            Unavailable: It cannot be known.
        """
        return Lease(LEASE, self._row.get("lease_token")) if await self.held() else None

    async def _held(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now < self._renew_at:
            return bool(self._row.get("lease_token"))
        token = self._row.get("lease_token")
        if token and not await self._leases.renew(Lease(LEASE, token), ttl_s=LEASE_S):
            token = 0
        if not token:
            token = await self._acquire()
        self._row.set("lease_token", token)
        self._renew_at = now + LEAD_S * random.uniform(0.8, 1.0)
        return bool(token)

    async def _acquire(self) -> int:
        with contextlib.suppress(InUse, NotFound):
            lease = await self._leases.acquire(LEASE, self._instance_id, ttl_s=LEASE_S)
            _logger.info("leader of the housekeeping")
            return lease.token
        return 0

    async def resign(self) -> None:
        """Give the lease back, so that another node need not wait for its end."""
        token = self._row.get("lease_token")
        self._row.set("lease_token", 0)
        self._renew_at = 0.0
        if token:
            with contextlib.suppress(Unavailable):
                await self._leases.release(Lease(LEASE, token))


async def _first(contact: Coroutine[Any, Any, None]) -> None:
    try:
        await asyncio.wait_for(contact, FIRST_CONTACT_S)
    except (Unavailable, TimeoutError) as error:
        _logger.warning("started without the database", extra={"detail": str(error)})


async def _repeat(
    process: Process, pause_s: Callable[[], float], work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Work, pause, until the process is told to stop; a dependency that is away is met again after the pause."""
    resting = False
    while not process.stopping.is_set():
        least_s = 0.0
        try:
            await work()
            resting = False
        except DatabaseReadOnly as error:
            if not resting:
                _logger.warning("nothing is done while the database is read-only", extra={"detail": str(error)})
            resting, least_s = True, READ_ONLY_S
        except Unavailable as error:
            _logger.warning("will try again", extra={"detail": str(error)})
        await _pause(process, max(least_s, pause_s()))


async def _pause(process: Process, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.stopping.wait(), seconds * random.uniform(0.8, 1.2))


async def _index(process: Process, leader: Leadership, indexing: Indexing) -> None:
    """Batches while there is something, then ever rarer looks."""
    pause_s = INDEX_IDLE_S

    async def step() -> None:
        nonlocal pause_s
        leads = await leader.held()
        began = asyncio.get_running_loop().time()
        moved = await indexing.step() if leads else 0
        took_s = asyncio.get_running_loop().time() - began
        longer_s = min(INDEX_LONG_S, max(INDEX_IDLE_S, 1.5 * pause_s))
        gather_s = INDEX_BUSY_S if moved >= STEP_ROWS else INDEX_GATHER_S
        pause_s = max(gather_s, INDEX_SHARE * took_s) if moved else longer_s

    await _repeat(process, lambda: pause_s, step)


async def _adopt(process: Process, leader: Leadership, adoption: Adoption) -> None:
    """Look for dead nodes; what one of them left may be much to look through."""
    pause_s = ADOPT_S

    async def step() -> None:
        nonlocal pause_s
        began = asyncio.get_running_loop().time()
        if await leader.held():
            try:
                await adoption.step()
            except InUse as error:  # it is back, in the middle
                _logger.info("not dead after all", extra={"detail": str(error)})
        pause_s = max(ADOPT_S, ADOPT_SHARE * (asyncio.get_running_loop().time() - began))

    await _repeat(process, lambda: pause_s, step)


async def _shred(process: Process, leader: Leadership, shredding: Shredding) -> None:
    """What is left of shredded accounts: on this node its own files, in the cluster what was begun and not finished."""

    async def step() -> None:
        await shredding.remove_local()
        if await leader.held():
            await shredding.resume()
            await shredding.remove_dropped_keys()

    await _repeat(process, lambda: SHRED_S, step)


async def _journal(process: Process, journal: Journal) -> None:
    """A segment whenever something has changed; without a journal, what is noted for it goes."""
    pause_s = JOURNAL_LEAST_S

    async def step() -> None:
        nonlocal pause_s
        interval_s = process.config.journal.interval
        pause_s = interval_s * JOURNAL_SHARE or JOURNAL_OFF_S
        began = asyncio.get_running_loop().time()
        try:
            await (journal.step() if interval_s else journal.stop())
        except Unavailable:
            raise
        except Exception:
            # not worth the other tasks of this process
            _logger.exception("the journal was not written")
        pause_s = max(JOURNAL_LEAST_S, pause_s - (asyncio.get_running_loop().time() - began))

    await _repeat(process, lambda: pause_s, step)


async def _clean(process: Process, leader: Leadership, cleanup: Cleanup) -> None:
    async def go_on() -> bool:
        return not process.stopping.is_set() and await leader.held()

    await _pause(process, min(FIRST_PASS_S, process.config.cleanup.wake_interval))
    await _repeat(process, lambda: process.config.cleanup.wake_interval, lambda: cleanup.run(go_on))
