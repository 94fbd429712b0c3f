"""A server's side of one connection, as every protocol uses it.

`data_received` hands the bytes to the session's scanner and wakes one waiter; one coroutine, `serve`, pulls commands
from the scanner and answers them. Output gathers in a list and leaves at a sync point (`wait`, `flush`) or when it
passes a size. A stop is a request that the session notices between two commands, so nothing is cut.

Back-pressure goes both ways: `flush` and `breathe` wait while the peer does not read, and reading pauses while more
than `READ_AHEAD` octets wait for a busy session.

A worker's sessions share one loop. A session that never has to wait for anything (its commands are all here, its peer
reads fast) would keep the loop to itself, so its work is counted in steps: `flush` and `breathe` are one step each, and
after `TURN_STEPS` of them or `TURN_S` it is the others' turn.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from sora import log, metrics
from sora.errors import BadSyntax, PeerGone
from sora.net.deflate import Deflate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Counter, Gauge

    from sora.net.listener import Listener
    from sora.types import AccountId
    from sora.wire.proxyproto import Header

_logger = log.get(__name__)

WRITE_SLICE: Final = 65536
"""Octets gathered before they are handed to the transport."""
READ_AHEAD: Final = 262144
"""Octets accepted from a peer while its session is busy."""
STALLED_WRITE_S: Final = 300.0
"""A peer that reads nothing for so long is gone (RFC 5321 §4.5.3.2 asks for minutes)."""
TURN_STEPS: Final = 64
TURN_S: Final = 0.001
"""Work of one session before the others have their turn: 64 of the cheapest commands take about a millisecond."""
QUIET_S: Final = 2.0
"""A compressed session that is silent for so long gives its compressor back."""


@cache
def _gauge(protocol: str) -> Gauge:
    """`labels` of a metric costs more than counting, so each child is looked up once."""
    return metrics.connections.labels(protocol)


@cache
def _counter(protocol: str) -> Counter:
    return metrics.connections_total.labels(protocol)


class Connections:
    """The open connections of one worker."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._counts: dict[str, int] = {}
        self._empty: asyncio.Event = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._open))

    def count(self, protocol: str) -> int:
        """Open connections of one protocol."""
        return self._counts.get(protocol, 0)

    def add(self, connection: Connection) -> None:
        """Count a new connection."""
        protocol = connection.protocol
        self._open.add(connection)
        self._counts[protocol] = self._counts.get(protocol, 0) + 1
        self._empty.clear()
        _gauge(protocol).inc()
        _counter(protocol).inc()

    def discard(self, connection: Connection) -> None:
        """Forget a connection that ended; a second call does nothing."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._counts[connection.protocol] -= 1
        _gauge(connection.protocol).dec()
        if not self._open:
            self._empty.set()

    def stop(self) -> None:
        """Ask every session to end after the command in hand."""
        for connection in self:
            connection.stop()

    def stop_account(self, account_id: AccountId) -> None:
        """Ask the sessions of an account, and those in its mailboxes, to end after the command in hand."""
        for connection in self:
            if account_id in (connection.owner, connection.guest_of):
                connection.stop()

    def abort(self) -> None:
        """Cut every connection."""
        for connection in self:
            connection.abort()

    async def drained(self) -> None:
        """Until no connection is open."""
        await self._empty.wait()


class Connection(asyncio.Protocol):
    """One connection; a protocol derives from it and gives `serve`, `received` and `discard_input`.

    Attributes:
        listener: Where it came in.
        peer: IP address of the client, or `unix`; behind a proxy the address that it has forwarded.
        via: Address of the proxy that forwarded `peer`; empty without one.
        header: What a trusted proxy sent in front; None without one.
        tls: The client's connection is under TLS, here or, so a trusted proxy says, there.
        session: 12 hex digits that name the session in the log.
        stopping: True once the session is asked to end.
        at_eof: True once the peer will send no more.
        owner: The account that is logged in; None: nobody.
        guest_of: The other account whose mailbox is open; None: none is.
    """

    protocol: ClassVar[str] = ""
    __slots__ = (
        "_bytes_in", "_bytes_out", "_connections", "_deflate", "_gathered", "_lost", "_pending", "_pending_bytes",
        "_reading", "_signalled", "_started_mono", "_steps", "_task", "_transport", "_turn_end_mono",
        "_waiter", "_writable",
        "at_eof", "guest_of", "header", "listener", "owner", "peer", "peer_port", "session", "stopping", "tls", "via",
    )  # fmt: skip

    def __init__(self, listener: Listener, connections: Connections) -> None:
        self.listener = listener
        self.peer = ""
        self.peer_port = 0
        self.via = ""
        self.header: Header | None = None
        self.session = f"{random.getrandbits(48):012x}"
        self.tls = listener.implicit_tls
        self.stopping = False
        self.at_eof = False
        self.owner: AccountId | None = None
        self.guest_of: AccountId | None = None
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._gathered = 0
        self._signalled = False
        self._reading = True
        self._lost = False
        self._bytes_in = 0
        self._bytes_out = 0
        self._deflate: Deflate | None = None
        self._started_mono = time.monotonic()
        self._new_turn()

    # ------------------------------------------------------------------ what a protocol gives

    async def serve(self) -> None:
        """The whole session: greeting, commands, farewell. The connection is closed when it returns."""
        raise TypeError(f"{type(self).__name__} does not serve")

    def received(self, data: bytes) -> None:
        """Take bytes from the peer into the scanner."""
        raise TypeError(f"{type(self).__name__} does not read")

    def discard_input(self) -> None:
        """Throw away what the scanner holds (STARTTLS: plaintext sent behind the command is not trusted)."""
        raise TypeError(f"{type(self).__name__} does not read")

    def totals(self) -> dict[str, Any]:
        """Facts for the line that is logged at the end of the session."""
        return {}

    # ------------------------------------------------------------------ what a session calls

    @property
    def alive(self) -> bool:
        """False once the connection is lost."""
        return not self._lost

    def write(self, data: bytes) -> None:
        """Gather output; it leaves at the next `wait`, `flush` or when `WRITE_SLICE` is passed."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= WRITE_SLICE:
            self._send()

    async def flush(self) -> None:
        """Send what was gathered, and `breathe`.

        Raises:
            PeerGone: The connection is lost, or the peer reads nothing for `STALLED_WRITE_S`.
        """
        self._send()
        if self._lost:
            raise PeerGone
        await self.breathe()

    async def breathe(self) -> None:
        """Between two steps of long work: wait while the peer does not read, and let the others have their turn.

        Raises:
            PeerGone: As `flush`.
        """
        self._steps += 1
        if self._writable is not None:
            await self._drain()
        elif self._steps >= TURN_STEPS or time.monotonic() >= self._turn_end_mono:
            self._send()
            await asyncio.sleep(0)
        else:
            return
        self._new_turn()

    async def wait(self, timeout: float | None) -> None:
        """Until bytes arrive, `wake` or `stop` is called, or the peer closes; sends gathered output first.

        Raises:
            PeerGone: The connection is lost, or the peer's last byte was already announced.
            TimeoutError: Nothing happened for `timeout` seconds.
        """
        await self._drain()
        if self._deflate is not None and self._deflate.more and not self._signalled:
            self._inflate(b"")
        if not self._signalled:
            if self.at_eof:
                raise PeerGone
            self._resume_reading()
            await self._news(timeout)
            self._new_turn()
        else:
            await self.breathe()
        self._signalled = False
        self._gathered = 0
        self._resume_reading()
        if self._lost:
            raise PeerGone

    def wake(self) -> None:
        """End the session's `wait`, now or when it comes."""
        self._signalled = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def stop(self) -> None:
        """Ask the session to end after the command in hand."""
        self.stopping = True
        self.wake()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    async def start_tls(self) -> None:
        """Send what was gathered, drop whatever plaintext came after the command, and shake hands.

        While hands are shaken the loop's TLS has the transport, and keeps its end to itself: a lost connection is an
        error there, or a handshake that went well with nobody. One that was lost before would be waited for in vain.

        Raises:
            PeerGone: The handshake failed.
        """
        context = self.listener.tls
        transport = self._transport
        if context is None or transport is None:
            raise PeerGone(detail="no TLS here")
        if self._lost or transport.is_closing():
            raise PeerGone
        # First of all: the peer shakes hands as soon as it has read the answer, and `flush` may let others have a turn.
        transport.pause_reading()
        self.discard_input()
        self._gathered = 0
        self._signalled = False
        await self.flush()
        if self._lost or transport.is_closing():
            raise PeerGone
        try:
            self._transport = await asyncio.get_running_loop().start_tls(transport, self, context, server_side=True)
        except (OSError, ssl.SSLError) as error:
            metrics.tls_handshake_failures.labels(self.protocol).inc()
            transport.abort()
            self.connection_lost(error)
            raise PeerGone(detail=f"TLS handshake: {error}") from error
        if transport.is_closing():
            self.connection_lost(None)
            raise PeerGone(detail="TLS handshake: the peer is gone")
        self._reading = True
        self.tls = True

    @property
    def compressed(self) -> bool:
        """Both directions are compressed."""
        return self._deflate is not None

    async def start_compression(self) -> None:
        """Send what was gathered as it is; everything after it is DEFLATE, both ways (RFC 4978).

        The peer answers as soon as it has read the last plain octet, so nothing may happen between the two.
        """
        self._send()
        self._deflate = Deflate()
        await self._drain()

    async def stop_compression(self) -> None:
        """Send what was gathered; everything after it is plain, both ways. The rest of the peer's stream is dropped."""
        self._send()
        self._deflate = None
        await self._drain()

    # ------------------------------------------------------------------ what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the session."""
        transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self._transport = transport
        peername = transport.get_extra_info("peername")
        if isinstance(peername, tuple):
            self.peer, self.peer_port = peername[0], peername[1]
        else:
            self.peer = "unix"
        if self.header is not None:
            self._believe(self.header)
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def _believe(self, header: Header) -> None:
        """Go on as if the client had connected by itself."""
        self.tls = self.tls or header.tls is not None
        if header.source:
            self.via, self.peer, self.peer_port = self.peer, header.source, header.source_port

    def data_received(self, data: bytes) -> None:
        """Feed the scanner and wake the session; a busy session reads ahead only so far."""
        self._bytes_in += len(data)
        if self._deflate is None:
            self._take(data)
        else:
            self._inflate(data)
        if self._reading and self._transport is not None and not self._wants_more():
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Answer what was asked before the peer's half-close; TLS has no half-close."""
        self.at_eof = True
        self.wake()
        return self._transport is not None and self._transport.get_extra_info("ssl_object") is None

    def pause_writing(self) -> None:
        """The peer reads too slowly: `flush` waits from now on."""
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The peer has read."""
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake the session, whatever it waits for; a command in hand is finished, its answer goes nowhere."""
        self._lost = True
        self.at_eof = True
        self.resume_writing()
        self.wake()
        self._connections.discard(self)

    # ------------------------------------------------------------------ inside

    async def _run(self) -> None:
        log.bind(session=self.session, peer=self.peer, protocol=self.protocol)
        if self.via:
            log.bind(via=self.via)
        reason = "closed"
        try:
            await self.serve()
            await self.flush()
        except PeerGone as error:
            reason = error.detail or "peer gone"
        except TimeoutError:
            reason = "timeout"
        except Exception:
            reason = "error"
            _logger.exception("session failed")
        finally:
            self._send()
            if self._transport is not None:
                self._transport.close()
        _logger.info(
            "session ended",
            extra={
                "reason": reason,
                "tls": self.tls,
                "duration_s": round(time.monotonic() - self._started_mono, 3),
                "bytes_in": self._bytes_in,
                "bytes_out": self._bytes_out,
                **self.totals(),
            },
        )

    def _send(self) -> None:
        if not self._pending:
            return
        if not self._lost and self._transport is not None:
            data = b"".join(self._pending) if len(self._pending) > 1 else self._pending[0]
            if self._deflate is not None:
                data = self._deflate.deflate(data)
            self._transport.write(data)
            self._bytes_out += len(data)
        self._pending.clear()
        self._pending_bytes = 0

    async def _drain(self) -> None:
        """Send what was gathered, and wait while the peer does not read.

        Raises:
            PeerGone: The connection is lost, or the peer reads nothing for `STALLED_WRITE_S`.
        """
        self._send()
        if self._lost:
            raise PeerGone
        if self._writable is None:
            return
        try:
            await asyncio.wait_for(asyncio.shield(self._writable), STALLED_WRITE_S)
        except TimeoutError:
            self.abort()
            raise PeerGone(detail="the peer does not read") from None
        if self._lost:
            raise PeerGone

    async def _news(self, timeout: float | None) -> None:
        """Until `wake`.

        Raises:
            TimeoutError: Nothing happened for `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timers = [] if timeout is None else [loop.call_later(timeout, self._expire, waiter)]
        if self._deflate is not None:
            timers.append(loop.call_later(QUIET_S, self._deflate.forget))
        try:
            await waiter
        finally:
            self._waiter = None
            for timer in timers:
                timer.cancel()

    def _new_turn(self) -> None:
        self._steps = 0
        self._turn_end_mono = time.monotonic() + TURN_S

    def _take(self, data: bytes) -> None:
        self._gathered += len(data)
        self.received(data)
        self.wake()

    def _inflate(self, data: bytes) -> None:
        """Take one slice of what `data` stands for; a peer whose stream is broken cannot be talked to."""
        assert self._deflate is not None
        try:
            plain = self._deflate.inflate(data)
        except BadSyntax as error:
            _logger.info("compressed input is broken", extra={"detail": str(error)})
            self.abort()
            return
        if plain:
            self._take(plain)

    def _wants_more(self) -> bool:
        """The session should read on: it is not far behind, and nothing that was read is still compressed."""
        return self._gathered <= READ_AHEAD and not (self._deflate is not None and self._deflate.more)

    def _resume_reading(self) -> None:
        if not self._reading and self._transport is not None and not self._lost and self._wants_more():
            self._reading = True
            self._transport.resume_reading()

    @staticmethod
    def _expire(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(TimeoutError())
