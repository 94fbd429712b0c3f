"""A TCP proxy that misbehaves on command, to stand between Sora and what it depends on.

It runs in a thread with a loop of its own, so that synchronous and asynchronous clients can both be tested. The mode is
switched at run time by `mode`; a connection looks at it when it is made and each time data passes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PIECE: Final = 16384
DROP: Final = 64
REPLY_503: Final = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
RESET: Final = struct.pack("ii", 1, 0)


class Fault(Enum):
    """What goes wrong."""

    OK = "ok"
    LATENCY = "each piece of data is late by `amount` milliseconds"
    THROTTLE = "data passes at `amount` octets a second"
    TRICKLE_REPLY = "the reply comes in drops, one each `amount` milliseconds"
    REFUSE = "connections are reset at once"
    UNAVAILABLE = "every request is answered 503, upstream hears nothing"
    RESET_REQUEST = "the connection is reset after `amount` octets of the request"
    TRUNCATE_REPLY = "the connection ends cleanly after `amount` octets of the reply"
    LOST_REPLY = "upstream does the work, its answer is replaced by a reset"
    BLACK_HOLE = "connections are accepted, nothing ever comes back"


@dataclass(frozen=True)
class Mode:
    """A fault and its number.

    Attributes:
        once: It happens to one request; then all is well.
    """

    fault: Fault = Fault.OK
    amount: int = 0
    once: bool = False


class FaultProxy:
    """Use it as a context manager; `port` is where it listens.

    Attributes:
        mode: Set it at any time.
        connections: How many were made to it.
        happened: How often each fault met a request.
    """

    def __init__(self, upstream_port: int) -> None:
        self.mode = Mode()
        self.connections = 0
        self.happened: Counter[Fault] = Counter()
        self.port = 0
        self._upstream_port = upstream_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faultproxy", daemon=True)
        self._clients: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @property
    def endpoint(self) -> str:
        """For clients that want a URL."""
        return f"http://127.0.0.1:{self.port}"

    def set(self, fault: Fault, amount: int = 0, *, once: bool = False) -> None:
        """Switch the mode; `once` goes with RESET_REQUEST."""
        self.mode = Mode(fault, amount, once)

    def cut(self) -> None:
        """Reset every open connection."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(5)

    async def _listen(self) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        # Connections inherit it: a proxy that is slow must not hide that behind megabytes of buffer.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._server = await asyncio.start_server(self._accepted, sock=listener, limit=PIECE)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _stop(self) -> None:
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # `cut` and `_stop` end a connection this way; there is nobody above to tell
        finally:
            self._clients.discard(task)
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self.mode.fault
        if fault in (Fault.REFUSE, Fault.UNAVAILABLE, Fault.BLACK_HOLE):
            self.happened[fault] += 1
        if fault is Fault.REFUSE:
            return
        if fault is Fault.UNAVAILABLE:
            await _answer_503(reader, writer)
            return
        if fault is Fault.BLACK_HOLE:
            await _swallow(reader)
            return
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        try:
            requests = asyncio.create_task(self._pump(reader, upstream_writer, self._on_request, drops=False))
            replies = asyncio.create_task(self._pump(upstream_reader, writer, self._on_reply, drops=True))
            try:
                await asyncio.wait((requests, replies), return_when=asyncio.FIRST_COMPLETED)
            finally:
                requests.cancel()
                replies.cancel()
                await asyncio.gather(requests, replies, return_exceptions=True)
        finally:
            _reset(upstream_writer)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        verdict: Callable[[bytes, int], Awaitable[bytes | None]],
        *,
        drops: bool,
    ) -> None:
        """Pass data on until either side ends, or the verdict on a piece is None (end here)."""
        passed = 0
        try:
            while data := await reader.read(DROP if drops and self.mode.fault is Fault.TRICKLE_REPLY else PIECE):
                allowed = await verdict(data, passed)
                passed += len(data)
                if allowed:
                    writer.write(allowed)
                    await writer.drain()
                if allowed is None or len(allowed) < len(data):
                    break
        except ConnectionError:
            return
        if self.mode.fault is Fault.TRUNCATE_REPLY:
            await _end(writer)

    async def _on_request(self, data: bytes, passed: int) -> bytes | None:
        await self._slow_down(data)
        if self.mode.fault is Fault.RESET_REQUEST and passed + len(data) > self.mode.amount:
            self.happened[Fault.RESET_REQUEST] += 1
            if self.mode.once:
                self.mode = Mode()
            return None
        return data

    async def _on_reply(self, data: bytes, passed: int) -> bytes | None:
        await self._slow_down(data)
        if self.mode.fault is Fault.LOST_REPLY:
            self.happened[Fault.LOST_REPLY] += 1
            return None
        if self.mode.fault is Fault.TRUNCATE_REPLY:
            self.happened[Fault.TRUNCATE_REPLY] += passed + len(data) > self.mode.amount
            return data[: max(0, self.mode.amount - passed)]
        if self.mode.fault is Fault.BLACK_HOLE:
            await asyncio.Event().wait()
        return data

    async def _slow_down(self, data: bytes) -> None:
        if self.mode.fault in (Fault.LATENCY, Fault.TRICKLE_REPLY):
            await asyncio.sleep(self.mode.amount / 1000)
        elif self.mode.fault is Fault.THROTTLE:
            await asyncio.sleep(len(data) / self.mode.amount)


async def _answer_503(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer, then read what the client still sends: closing on unread data would reset the answer away."""
    writer.write(REPLY_503)
    await _end(writer)
    await _swallow(reader)


async def _swallow(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(PIECE):
            pass
    except ConnectionError:
        return


async def _end(writer: asyncio.StreamWriter) -> None:
    """A clean end: everything written arrives, then the end of the stream."""
    await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN, unless the stream was ended already."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
