"""What the servers of one process share: configuration, database, bodies, delivery, login, changes, limits.

A worker makes one `Node` after the fork and hands it to every protocol. Opening one needs no database: a server whose
PostgreSQL is away starts, says "try again", and is well as soon as PostgreSQL is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sora.errors import ConfigError
from sora.net.connection import Connections
from sora.services.changes import Changes
from sora.services.commits import PATIENT_LANES
from sora.services.delivery import Delivery
from sora.services.filters import site_scripts
from sora.services.filters.filtering import Filters
from sora.services.filters.imapsieve import ImapSieve
from sora.services.filters.scriptnames import ScriptNames
from sora.services.filters.scripts import CompiledScripts, ScriptChecks
from sora.services.filters.trees import Trees
from sora.services.logins.auth import Auth
from sora.services.logins.blocks import SharedBlocks
from sora.services.logins.endings import CHANNEL as ENDINGS
from sora.services.logins.endings import Endings
from sora.services.logins.guesses import Guesses
from sora.services.logins.limits import Limits, LocalCounts
from sora.services.peers import Peers
from sora.services.recipients import Recipients
from sora.services.transfers import Transfers
from sora.services.warmup import Warmup
from sora.store.account_keys import CHANNEL as KEY_CHANNEL
from sora.store.account_keys import open_sealers
from sora.store.blocks import CHANNEL, AuthBlocks
from sora.store.bodies import Bodies, open_blob_store, open_cache, open_staging
from sora.store.copies import BodyCopies
from sora.store.db import Database
from sora.store.events import CHANNEL as SCRIPT_NAMES
from sora.store.keyring import open_keyring
from sora.store.scripts import CHANNEL as SCRIPT_CHANNEL
from sora.store.store import Store
from sora.types import AccountId

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.config import Config
    from sora.services.delivery import Doorbell
    from sora.services.logins.limits import Counts
    from sora.services.logins.remembered import Remembered
    from sora.store.account_keys import Sealers
    from sora.store.blobs import BlobStore
    from sora.store.bodies import Source
    from sora.store.cache import Cache
    from sora.store.staging import Staging

INSTANCE_FILE: Final = "instance"
_T = TypeVar("_T")


@dataclass(slots=True)
class Node:
    """The services of one process.

    Attributes:
        config: Replaced as a whole when a reload changes `live` keys: read a limit when it is needed.
        instance_id: Names this node's staging directory for ever, whatever the host is called.
        connections: Open connections of this process; give it to every `Connection`.
        store: SQL by noun; for queries.
        blobs: Object store.
        staging: Bodies on their way to the object store.
        bodies: Reads a body from wherever it is.
        delivery: LMTP and APPEND.
        filters: What scripts do with mail.
        transfers: COPY and MOVE.
        recipients: Whom LMTP delivers to.
        auth: Logins.
        changes: What happened to a mailbox, from and to the other processes.
        limits: How many connections an address and an account may hold.
        guesses: Failed logins, and what they cost the next one.
        counts: What the limits count with; outlives them.
        imapsieve: Scripts that run when a mailbox changes.
        warmup: Brings new mail near when somebody logs in.
    """

    config: Config
    instance_id: str
    connections: Connections
    store: Store
    blobs: BlobStore
    staging: Staging
    bodies: Bodies
    delivery: Delivery
    filters: Filters
    transfers: Transfers
    recipients: Recipients
    auth: Auth
    changes: Changes
    limits: Limits
    guesses: Guesses
    counts: Counts
    imapsieve: ImapSieve
    warmup: Warmup
    _databases: tuple[Database, ...]
    _closing: contextlib.AsyncExitStack
    _shared: dict[object, Any] = field(default_factory=dict)

    @classmethod
    async def open(
        cls,
        config: Config,
        *,
        dsn: str,
        doorbell: Doorbell,
        counts: Counts | None = None,
        remembered: Remembered | None = None,
        fenced: Callable[[], bool] = lambda: False,
    ) -> Node:
        """Put the services of a process together.

        Args:
            dsn: Of the primary.
            doorbell: Wakes the uploader.
            counts: Connections of all processes of the node; None: this one alone.
            remembered: Logins of all processes of the node; None: this one alone.
            fenced: True while this node must take no mail.

        Raises:
            ConfigError: A directory that cannot be used, an endpoint that cannot be.
        """
        async with contextlib.AsyncExitStack() as stack:
            staging, cache = _open_directories(config, stack)
            blobs = open_blob_store(config.object_store)
            stack.callback(blobs.close)
            queries = await _open_pool(stack, config, dsn, "sora", config.database.pool_size)
            deliveries = await _open_pool(stack, config, dsn, "sora delivery", _lanes(config))
            store = Store(queries)
            instance_id = own_instance_id(config)
            sealers = open_sealers(open_keyring(config), queries)
            bodies = assemble_bodies(config, stack, cache, staging, blobs, sealers, queries, instance_id)
            stack.push_async_callback(bodies.close)
            warmup = _warmup(config, queries, bodies)
            stack.push_async_callback(warmup.close)
            counts = LocalCounts() if counts is None else counts
            blocks = SharedBlocks(AuthBlocks(queries), counts.failures)
            stack.push_async_callback(blocks.close)
            changes = Changes(dsn)
            changes.hear(CHANNEL, blocks.wake)
            stack.push_async_callback(changes.close)
            filters = _filters(config, stack, store, changes)
            delivery = _delivery(config, deliveries, staging, sealers, changes, doorbell, instance_id, fenced, filters)
            stack.push_async_callback(delivery.close)
            limits = _limits(config, counts)
            guesses = _guesses(config, counts, limits, blocks)
            auth = _auth(config, store, remembered, guesses)
            stack.push_async_callback(auth.close)
            connections = Connections()
            endings = Endings(queries, connections, auth)
            stack.push_async_callback(endings.close)
            changes.hear(ENDINGS, endings.heard, endings.missed)
            _hear_of_keys(changes, sealers, bodies, connections, auth)
            recipients = _recipients(config, store, changes)
            imapsieve = _imapsieve(stack, store, changes)
            changes.start()
            blocks.start()
            node = cls(
                config=config,
                instance_id=instance_id,
                connections=connections,
                store=store,
                blobs=blobs,
                staging=staging,
                bodies=bodies,
                delivery=delivery,
                filters=filters,
                transfers=_transfers(config, store, staging, sealers, bodies, doorbell, instance_id, fenced),
                recipients=recipients,
                auth=auth,
                changes=changes,
                limits=limits,
                guesses=guesses,
                counts=counts,
                imapsieve=imapsieve,
                warmup=warmup,
                _databases=(queries, deliveries),
                _closing=stack.pop_all(),
            )
        imapsieve.begin(node)
        return node

    def shared(self, make: Callable[[Node], _T]) -> _T:
        """What `make(node)` gave the first time: a protocol's state that all its listeners have in common."""
        if make not in self._shared:
            self._shared[make] = make(self)
        made: _T = self._shared[make]
        return made

    def take_live(self, config: Config) -> None:
        """Go on with a configuration in which `live` keys have changed."""
        self.config = config
        for database in self._databases:
            database.set_read_only(wanted=config.database.read_only)
        self.filters.table = config.sieve
        self.limits = _limits(config, self.counts)
        self.guesses.limits, self.guesses.table = self.limits, config.limits

    async def close(self) -> None:
        """Finish what is in hand, and let go of everything in the reverse order."""
        await self._closing.aclose()


def _recipients(config: Config, store: Store, changes: Changes) -> Recipients:
    """Who is asked for again as soon as scripts of theirs have changed."""
    recipients = Recipients(store, config.auth.default_domain)
    changes.hear(SCRIPT_CHANNEL, lambda payload: recipients.forget(AccountId(int(payload, 16))), recipients.forget_all)
    return recipients


def _imapsieve(stack: contextlib.AsyncExitStack, store: Store, changes: Changes) -> ImapSieve:
    """Who is told as soon as a mailbox gets or loses a script."""
    names = ScriptNames(store.events, changes.listening)
    changes.hear(SCRIPT_NAMES, names.heard, names.missed)
    stack.push_async_callback(names.close)
    imapsieve = ImapSieve(names)
    stack.push_async_callback(imapsieve.close)
    return imapsieve


def _hear_of_keys(changes: Changes, sealers: Sealers, bodies: Bodies, connections: Connections, auth: Auth) -> None:
    """What is to be forgotten as soon as a key is destroyed."""
    changes.hear(
        KEY_CHANNEL,
        lambda payload: _forget_account(payload, sealers, bodies, connections, auth),
        lambda: forget_all_bodies(sealers, bodies),
    )


def forget_bodies(payload: str, sealers: Sealers, bodies: Bodies) -> None:
    """The key of an account was destroyed: nothing of it is kept here."""
    account_id = AccountId(int(payload, 16))
    sealers.forget(account_id)
    bodies.forget_account(account_id)


def _forget_account(payload: str, sealers: Sealers, bodies: Bodies, connections: Connections, auth: Auth) -> None:
    """The same, and its sessions end."""
    forget_bodies(payload, sealers, bodies)
    account_id = AccountId(int(payload, 16))
    auth.end(account_id)
    connections.stop_account(account_id)


def forget_all_bodies(sealers: Sealers, bodies: Bodies) -> None:
    """Keys may have been destroyed while nobody here listened: ask again before anything is opened."""
    sealers.forget_all()
    bodies.forget_all()


async def open_database(config: Config, dsn: str, name: str) -> Database:
    """The pool of a process; connects when it is first used."""
    return await Database.open(
        dsn,
        min_size=0,
        max_size=config.database.pool_size,
        application_name=name,
        read_only=config.database.read_only,
    )


def own_instance_id(config: Config) -> str:
    """The name of this node's staging directory, kept inside it and made at first use.

    Raises:
        ConfigError: The directory cannot be written.
    """
    path = Path(config.uploader.staging_path) / INSTANCE_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_instance_file(path)
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"uploader.staging_path: {error.filename}: {error.strerror}") from error


def _make_instance_file(path: Path) -> None:
    """Under another name first, then linked: of several processes one wins, and none reads half a name."""
    temporary = path.with_name(f"{INSTANCE_FILE}.{os.getpid()}")
    with temporary.open("w", encoding="ascii") as file:
        file.write(f"{uuid.uuid4()}\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _open_directories(config: Config, stack: contextlib.AsyncExitStack) -> tuple[Staging, Cache | None]:
    try:
        staging = open_staging(config)
        stack.callback(staging.close)
        cache = open_cache(config)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    if cache is not None:
        stack.callback(cache.close)
    return staging, cache


def _lanes(config: Config) -> int:
    """Connections for deliveries, those included on which one waits for a lock."""
    return config.database.delivery_connections + PATIENT_LANES


async def _open_pool(stack: contextlib.AsyncExitStack, config: Config, dsn: str, name: str, size: int) -> Database:
    database = await Database.open(
        dsn, min_size=0, max_size=size, application_name=name, read_only=config.database.read_only
    )
    stack.push_async_callback(database.close)
    return database


def _delivery(
    config: Config,
    deliveries: Database,
    staging: Staging,
    sealers: Sealers,
    changes: Changes,
    doorbell: Doorbell,
    instance_id: str,
    fenced: Callable[[], bool],
    filters: Filters,
) -> Delivery:
    """Deliveries on connections of their own: sessions' queries must not wait behind them."""
    return Delivery(
        Store(deliveries).messages,
        staging,
        changes,
        doorbell,
        instance_id=instance_id,
        host=socket.gethostname(),
        sealers=sealers,
        lanes=config.database.delivery_connections,
        body_limit=config.search.body_limit if config.search.index_bodies else 0,
        copies=config.uploader.durability == "database",
        fenced=fenced,
        filters=filters,
    )


def _filters(config: Config, stack: contextlib.AsyncExitStack, store: Store, changes: Changes) -> Filters:
    """What scripts ask goes over the connections for queries."""
    trees = Trees(store.trees, changes)
    stack.callback(trees.close)
    return Filters(
        store,
        trees,
        CompiledScripts(store.scripts, ScriptChecks()),
        site_scripts.load(config.sieve),
        config.sieve,
        host=socket.gethostname(),
        reserved=config.cleanup.deleted_namespace,
    )


def _transfers(
    config: Config,
    store: Store,
    staging: Staging,
    sealers: Sealers,
    bodies: Bodies,
    doorbell: Doorbell,
    instance_id: str,
    fenced: Callable[[], bool],
) -> Transfers:
    return Transfers(
        store,
        staging,
        sealers,
        bodies,
        doorbell,
        instance_id=instance_id,
        copies=config.uploader.durability == "database",
        fenced=fenced,
    )


def _guesses(config: Config, counts: Counts, limits: Limits, blocks: SharedBlocks) -> Guesses:
    guesses = Guesses(counts.failures, limits=limits, table=config.limits)
    guesses.on_block = blocks.begin
    return guesses


def _auth(config: Config, store: Store, remembered: Remembered | None, guesses: Guesses) -> Auth:
    return Auth(
        store.accounts,
        default_domain=config.auth.default_domain,
        hash_workers=config.auth.hash_workers,
        cache_ttl=config.auth.cache_ttl,
        remembered=remembered,
        guesses=guesses,
    )


def assemble_bodies(
    config: Config,
    stack: contextlib.AsyncExitStack,
    cache: Cache | None,
    staging: Staging,
    blobs: BlobStore,
    sealers: Sealers,
    database: Database,
    instance_id: str,
) -> Bodies:
    """With the sources that the configuration has; a node that answers others also asks them."""
    copies = BodyCopies(database)
    before: list[Source] = [copies] if config.uploader.durability == "database" else []
    after: list[Source] = [] if before else [copies]
    if own_peer_address(config):
        peers = Peers(database, instance_id)
        stack.callback(peers.close)
        before.append(peers)
    return Bodies(cache, staging, blobs, sealers, before=before, after=after)


def own_peer_address(config: Config) -> str:
    """Where other nodes ask this one for what it has staged; empty: it does not answer."""
    table = config.servers.peers
    if table is None or not table.enabled or not table.listen:
        return ""
    return table.advertise or table.listen[0]


def _warmup(config: Config, database: Database, bodies: Bodies) -> Warmup:
    """An object store that is a directory is as near as the cache: nothing to be gained."""
    table = config.local_cache
    messages = table.warm_up if config.object_store.kind == "s3" else 0
    return Warmup(database, bodies, messages=messages, max_bytes=table.warm_up_size)


def _limits(config: Config, counts: Counts) -> Limits:
    return Limits(
        per_address=config.limits.connections_per_address,
        per_account=config.limits.connections_per_account,
        exempt_networks=config.limits.exempt_networks,
        counts=counts,
    )
