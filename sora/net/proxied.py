"""Accepts connections that come through a proxy: the PROXY header first, then whatever a connection is.

What stands behind the header belongs to somebody else, perhaps to a TLS handshake that the event loop does itself. So
the header is taken off the bare socket, looked at with MSG_PEEK and received to the octet, and the loop gets the socket
afterwards. Until then there is no session: a peer that may not speak for others, that sends something else or that says
nothing is closed without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Final

from sora import log, metrics
from sora.errors import PeerGone, SoraError
from sora.wire.proxyproto import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.net.connection import Connection
    from sora.net.listener import Listener
    from sora.wire.proxyproto import Header

PROXY_HEADER_S: Final = 10.0
"""A proxy sends its header at once; a lost packet may cost seconds."""
HANDSHAKE_S: Final = 30.0
ACCEPTS: Final = 64
"""Connections accepted before the loop does something else."""
ACCEPT_PAUSE_S: Final = 1.0
"""After a failed accept (no file descriptor is free, say): the queue keeps who comes meanwhile."""
PEEK: Final = 4096

_log = log.get(__name__)


class Untrusted(SoraError):
    """The peer is in no trusted network, and so may not speak for others."""

    default_text = "The peer is not in trusted_networks"


class ProxiedServer:
    """Serves a listening socket whose connections begin with a PROXY header.

    Args:
        factory: Makes a `Connection`; called as soon as one is accepted.
        sock: Listening and non-blocking; ours from now on.
        listener: What it belongs to.
    """

    def __init__(self, factory: Callable[[], Connection], sock: socket.socket, listener: Listener) -> None:
        self._factory = factory
        self._sock = sock
        self._listener = listener
        self._arriving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._begin()

    def close(self) -> None:
        """Accept no more; who was accepted arrives."""
        if self._sock.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _begin(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("cannot accept", extra={"address": self._listener.address, "error": str(error)})
                self._loop.remove_reader(self._sock)
                self._pause = self._loop.call_later(ACCEPT_PAUSE_S, self._begin)
                return
            sock.setblocking(False)
            task = self._loop.create_task(self._arrive(self._factory(), sock, address[0]))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _arrive(self, connection: Connection, sock: socket.socket, peer: str) -> None:
        """Learn who the client is, then go on as if it had connected by itself."""
        with contextlib.ExitStack() as closing:
            closing.callback(sock.close)
            try:
                if not self._listener.trusts(peer):
                    raise Untrusted
                connection.header = await asyncio.wait_for(read_header(sock), PROXY_HEADER_S)
            except (SoraError, TimeoutError) as error:
                self._refuse(peer, error)
                return
            closing.pop_all()  # the loop closes it from here on
        await self._hand_over(connection, sock)

    async def _hand_over(self, connection: Connection, sock: socket.socket) -> None:
        context = self._listener.tls if self._listener.implicit_tls else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, sock, ssl=context, ssl_handshake_timeout=HANDSHAKE_S if context else None
            )
        except (OSError, ssl.SSLError):
            metrics.tls_handshake_failures.labels(self._listener.protocol).inc()

    def _refuse(self, peer: str, error: Exception) -> None:
        metrics.proxy_headers_refused.labels(self._listener.protocol).inc()
        fields = {"address": self._listener.address, "peer": peer, "error": str(error) or "nothing came"}
        _log.warning("no PROXY header", extra=fields)


async def read_header(sock: socket.socket) -> Header:
    """The header that a connection begins with, and no octet more.

    Raises:
        BadSyntax: Something else came.
        PeerGone: The peer closed before the header was whole.
    """
    reader = Reader()
    while reader.header is None:
        await _readable(sock)
        try:
            piece = sock.recv(PEEK, socket.MSG_PEEK)
            if not piece:
                raise PeerGone
            # What is received here was seen a moment ago, so it comes whole.
            sock.recv(reader.feed(piece))
        except BlockingIOError:
            continue
        except OSError as error:
            raise PeerGone(detail=str(error)) from error
    return reader.header


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
