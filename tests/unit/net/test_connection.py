"""Connections over real sockets: waking, back-pressure, half-close, STARTTLS, drain."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from typing import TYPE_CHECKING

import pytest

from sora.errors import PeerGone
from sora.net.connection import READ_AHEAD, Connection, Connections
from sora.net.listener import Listener
from sora.net.tls import server_context
from tests.support.certificates import write_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Echo(Connection):
    """Answers every line in capitals; `TLS` starts TLS, `LOST` too, `WAIT` waits until told, `BIG` sends 8 MB."""

    protocol = "echo"
    __slots__ = ("buffer", "gate", "losing")

    def __init__(self, listener: Listener, connections: Connections) -> None:
        super().__init__(listener, connections)
        self.buffer = b""
        self.gate = asyncio.Event()
        self.losing = False

    def received(self, data: bytes) -> None:
        self.buffer += data

    def discard_input(self) -> None:
        self.buffer = b""

    async def flush(self) -> None:
        """While it is the others' turn the connection may be lost."""
        await super().flush()
        if self.losing:
            self.abort()
            while self in self._connections:
                await asyncio.sleep(0)

    async def serve(self) -> None:
        while not self.stopping:
            line, newline, rest = self.buffer.partition(b"\n")
            if not newline:
                await self.wait(5)
                continue
            self.buffer = rest
            await self.answer(line)
        self.write(b"BYE\n")

    async def answer(self, line: bytes) -> None:
        if line == b"TLS":
            self.write(b"GO\n")
            await self.start_tls()
        elif line == b"LOST":
            self.losing = True
            await self.start_tls()
        elif line == b"WAIT":
            await self.gate.wait()
        elif line == b"BIG":
            for _ in range(128):
                self.write(b"x" * 65536)
                await self.flush()
        else:
            self.write(line.upper() + b"\n")


class Server:
    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.connections = Connections()
        self.sessions: list[Echo] = []
        self.port = 0

    def factory(self) -> Echo:
        session = Echo(self.listener, self.connections)
        self.sessions.append(session)
        return session


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(Listener("echo", "127.0.0.1:0", tls=server_context(*write_certificate(tmp_path))))
    listening = await asyncio.get_running_loop().create_server(server.factory, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()
    server.connections.abort()
    await server.connections.drained()
    await asyncio.sleep(0)


async def connect(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port)


async def test_pipelined_lines_are_answered_in_order(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(b"one\ntwo\nthr")
    assert await reader.readline() == b"ONE\n"
    assert await reader.readline() == b"TWO\n"
    writer.write(b"ee\n")
    assert await reader.readline() == b"THREE\n"
    assert server.connections.count("echo") == 1
    writer.close()
    await writer.wait_closed()


async def test_a_half_closed_peer_gets_its_answers(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(b"one\ntwo\n")
    writer.write_eof()
    assert await reader.read() == b"ONE\nTWO\n"
    writer.close()
    await server.connections.drained()
    assert server.connections.count("echo") == 0


async def test_a_stop_lets_the_command_in_hand_finish(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(b"WAIT\nlate\n")
    while not server.sessions or server.sessions[0].buffer != b"late\n":
        await asyncio.sleep(0)
    server.connections.stop()
    server.sessions[0].gate.set()
    assert await reader.read() == b"BYE\n"
    writer.close()


async def test_a_busy_session_reads_ahead_only_so_far(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(b"WAIT\n")
    line = b"y" * 1023 + b"\n"
    for _ in range(32 * READ_AHEAD // len(line)):
        writer.write(line)
    session = server.sessions[0] if server.sessions else None
    while session is None or session._reading:
        await asyncio.sleep(0)
        session = server.sessions[0] if server.sessions else None
    assert len(session.buffer) <= READ_AHEAD + 262144  # the bound and one read of the transport
    session.gate.set()
    for _ in range(32 * READ_AHEAD // len(line)):
        assert await reader.readline() == line.upper()
    writer.close()


async def test_output_waits_for_a_slow_reader(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(b"BIG\n")
    while not server.sessions or server.sessions[0]._writable is None:
        await asyncio.sleep(0)
    assert server.sessions[0]._bytes_out < 128 * 65536
    assert len(await reader.readexactly(128 * 65536)) == 128 * 65536
    writer.close()


async def test_plaintext_behind_starttls_is_discarded(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(b"TLS\ninjected\n")
    assert await reader.readline() == b"GO\n"
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    await writer.start_tls(context)
    writer.write(b"secret\n")
    assert await reader.readline() == b"SECRET\n"
    assert server.sessions[0].tls
    writer.close()


async def test_a_handshake_that_begins_in_the_turn_of_others_is_not_lost(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client shakes hands as soon as it has the answer; what is thrown away is only what came before."""

    async def turn_of_others(_: Echo) -> None:
        await asyncio.sleep(0.2)

    monkeypatch.setattr(Echo, "breathe", turn_of_others)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await connect(server)
    writer.write(b"TLS\ninjected\n")
    assert await reader.readline() == b"GO\n"
    async with asyncio.timeout(5):
        await writer.start_tls(context)
        writer.write(b"secret\n")
        assert await reader.readline() == b"SECRET\n"
    writer.close()


CLIENT_HELLO = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"
"""The beginning of one."""


@pytest.mark.parametrize("text", [b"", CLIENT_HELLO])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_peer_that_leaves_within_the_handshake_is_forgotten(server: Server, text: bytes, reset: bool) -> None:
    reader, writer = await connect(server)
    writer.write(b"TLS\n")
    assert await reader.readline() == b"GO\n"
    writer.write(text)
    if reset:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()
    async with asyncio.timeout(5):
        await server.connections.drained()


async def test_a_connection_cut_within_the_handshake_is_forgotten(server: Server) -> None:
    """As at the end of a worker."""
    reader, writer = await connect(server)
    writer.write(b"TLS\n")
    assert await reader.readline() == b"GO\n"
    server.connections.abort()
    async with asyncio.timeout(5):
        await server.connections.drained()
        assert await reader.read() == b""
    writer.close()


async def test_no_handshake_on_a_connection_that_was_lost(server: Server) -> None:
    """The loop's TLS would not see the end, and wait for ever."""
    reader, writer = await connect(server)
    writer.write(b"one\n")
    assert await reader.readline() == b"ONE\n"
    task = server.sessions[0]._task
    assert task is not None
    writer.write(b"LOST\n")
    async with asyncio.timeout(5):
        await task
    writer.close()


async def test_a_failed_handshake_ends_the_session(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(b"TLS\n")
    assert await reader.readline() == b"GO\n"
    writer.write(b"this is not a ClientHello, not at all\n")
    await reader.read()
    await server.connections.drained()
    writer.close()


async def test_silence_ends_in_a_timeout(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(b"hello\n")
    await reader.readline()
    session = server.sessions[0]
    task = session._task
    assert task is not None
    waiter = session._waiter
    while waiter is None:
        await asyncio.sleep(0)
        waiter = session._waiter
    session._expire(waiter)
    assert await reader.read() == b""
    await task
    writer.close()


async def test_writing_to_a_lost_peer_raises(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(b"hello\n")
    await reader.readline()
    session = server.sessions[0]
    writer.transport.abort()
    await server.connections.drained()
    assert not session.alive
    with pytest.raises(PeerGone):
        await session.flush()
