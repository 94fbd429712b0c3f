"""A worker: every mail protocol of one slot, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import socket
from typing import TYPE_CHECKING, Final, Protocol

from sora import log
from sora.errors import DatabaseReadOnly, Unavailable
from sora.net.listener import BACKLOG, Listener
from sora.net.proxied import ProxiedServer
from sora.net.tls import server_context
from sora.server import child as children
from sora.server.scoreboard import PROTOCOLS
from sora.services.node import Node

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from sora.config import Config
    from sora.net.connection import Connection, Connections
    from sora.server.child import Child, Process
    from sora.server.listeners import Endpoint

_logger = log.get(__name__)

SERVERS: Final = {
    "imap": "sora.protocols.imap",
    "lmtp": "sora.protocols.lmtp",
    "managesieve": "sora.protocols.managesieve",
    "pop3": "sora.protocols.pop3",
}
"""Module of each server; it has `connection_factory(node, listener)`."""

FIRST_CONTACT_S: Final = 5.0
HANDSHAKE_TIMEOUT_S: Final = 30.0
ABORT_GRACE_S: Final = 2.0
YOUNG_POLL_S: Final = 0.02


def preload() -> None:
    """Import in the supervisor what every worker needs."""
    for module in SERVERS.values():
        importlib.import_module(module)


def run(child: Child) -> int:
    """Be a worker."""
    child.counts.attach()
    return children.run(child, _main)


async def _main(process: Process) -> None:
    child = process.child
    node = await Node.open(
        child.config,
        dsn=child.dsn,
        doorbell=child.doorbell,
        counts=child.counts,
        remembered=child.remembered,
        fenced=lambda: bool(child.node_row.get("fenced")),
    )
    try:
        acceptor = Acceptor(process, node)
        process.on_live = node.take_live
        process.on_serve = acceptor.serve
        process.on_beat = lambda: _count(process, node, acceptor)
        await _first_contact(node)
        await acceptor.serve((child.slot,))
        process.ready()
        await process.stopping.wait()
        acceptor.close()
        await _let_go(process, node, acceptor)
    finally:
        await node.close()


def _count(process: Process, node: Node, acceptor: Acceptor) -> None:
    """Write the connection counts to the scoreboard."""
    acceptor.forget_old()
    for protocol in PROTOCOLS:
        process.child.row.set(protocol, node.connections.count(protocol))


async def _first_contact(node: Node) -> None:
    """Reach the database once, so that the first client does not wait for a connection; if it is away, so be it."""
    try:
        await asyncio.wait_for(node.store.db.ping(), FIRST_CONTACT_S)
    except DatabaseReadOnly as error:
        _logger.warning("started read-only", extra={"detail": str(error)})
    except (Unavailable, TimeoutError) as error:
        _logger.warning("started without the database", extra={"detail": str(error)})


async def _let_go(process: Process, node: Node, acceptor: Acceptor) -> None:
    """Let the sessions end: by themselves while they may linger, then asked, then cut."""
    connections = node.connections
    await _first_of(_all_gone(connections, acceptor), process.ending.wait())
    connections.stop()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(connections.drained(), process.config.process.drain_timeout)
        return
    _logger.warning("cutting sessions that do not end", extra={"connections": len(connections)})
    connections.abort()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(connections.drained(), ABORT_GRACE_S)


async def _all_gone(connections: Connections, acceptor: Acceptor) -> None:
    """Until no connection is open, nor on its way to be."""
    await connections.drained()
    while acceptor.young():
        await asyncio.sleep(YOUNG_POLL_S)
        await connections.drained()


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class Server(Protocol):
    """Accepts on one socket until it is closed."""

    def close(self) -> None: ...


class Acceptor:
    """Accepts connections on the listeners of one or more slots.

    Between the accept and `connection_made` lies a turn of the event loop, or a whole TLS handshake. A worker that
    counted only what was made would end in between and reset a client that it has accepted: such connections are
    `young`, and waited for.
    """

    def __init__(self, process: Process, node: Node) -> None:
        self._child = process.child
        self._factories: dict[Endpoint, Callable[[], Connection]] = {}
        endpoints = [endpoint for endpoint, _ in self._child.listeners.of_slot(0)]
        self._listeners = {endpoint: _listener(node.config, endpoint) for endpoint in endpoints}
        for endpoint, listener in self._listeners.items():
            module = importlib.import_module(SERVERS[endpoint.server])
            self._factories[endpoint] = module.connection_factory(node, listener)
        self._servers: dict[int, list[Server]] = {}
        self._young: list[tuple[float, Connection]] = []
        self._closed = False

    async def serve(self, slots: Sequence[int]) -> None:
        """Accept on the listeners of exactly these slots."""
        for slot in set(self._servers) - set(slots):
            for server in self._servers.pop(slot):
                server.close()
        for slot in slots:
            if slot not in self._servers and not self._closed:
                self._servers[slot] = await self._serve_slot(slot)
        if self._closed:
            self.close()

    def close(self) -> None:
        """Stop accepting. The sockets stay open in the supervisor; what waits in their queues waits for the next."""
        self._closed = True
        for servers in self._servers.values():
            for server in servers:
                server.close()
        self._servers.clear()

    def young(self) -> int:
        """How many accepted connections are not made yet; one whose handshake takes too long has failed."""
        self.forget_old()
        return len(self._young)

    def forget_old(self) -> None:
        """Drop what was made or has failed."""
        now = asyncio.get_running_loop().time()
        self._young = [(until, connection) for until, connection in self._young if not connection.peer and now < until]

    def _accept(self, endpoint: Endpoint) -> Connection:
        connection = self._factories[endpoint]()
        patience_s = HANDSHAKE_TIMEOUT_S if endpoint.implicit_tls else HANDSHAKE_TIMEOUT_S / 10
        self._young.append((asyncio.get_running_loop().time() + patience_s, connection))
        return connection

    async def _serve_slot(self, slot: int) -> list[Server]:
        """Servers on the sockets of a slot, less those that are shared by all slots and served already."""
        served = {sock.fileno() for other in self._servers for _, sock in self._child.listeners.of_slot(other)}
        return [
            await self._serve_socket(endpoint, sock)
            for endpoint, sock in self._child.listeners.of_slot(slot)
            if sock.fileno() not in served
        ]

    async def _serve_socket(self, endpoint: Endpoint, sock: socket.socket) -> Server:
        loop = asyncio.get_running_loop()
        factory = functools.partial(self._accept, endpoint)
        if sock.family == socket.AF_UNIX:
            return await loop.create_unix_server(factory, sock=sock.dup(), backlog=BACKLOG)
        listener = self._listeners[endpoint]
        if listener.proxy_protocol:
            return ProxiedServer(factory, sock.dup(), listener)
        tls = listener.tls if endpoint.implicit_tls else None
        return await loop.create_server(
            factory,
            sock=sock.dup(),
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls else None,
        )


def _tls(config: Config, endpoint: Endpoint) -> ssl.SSLContext | None:
    """The certificate of a server, read anew by each generation."""
    table = getattr(config.servers, endpoint.server)
    return server_context(table.tls_cert, table.tls_key) if table.tls_cert else None


def _listener(config: Config, endpoint: Endpoint) -> Listener:
    table = getattr(config.servers, endpoint.server)
    return Listener(
        protocol=endpoint.server,
        address=endpoint.address,
        tls=_tls(config, endpoint),
        implicit_tls=endpoint.implicit_tls,
        trusted_networks=table.trusted_networks,
        proxy_protocol=table.proxy_protocol,
    )
