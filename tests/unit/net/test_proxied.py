"""PROXY headers in front of real connections, on both event loops: plain, TLS, broken, missing, untrusted."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
import uvloop

from sora.net import proxied
from sora.net.connection import Connection, Connections
from sora.net.listener import Listener, open_tcp
from sora.net.proxied import ProxiedServer
from sora.net.tls import server_context
from tests.support.certificates import write_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client import Counter

V1: Final = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 24\r\n"
SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
ADDRESSES: Final = bytes([192, 0, 2, 7, 198, 51, 100, 1, 220, 4, 0, 24])
V2: Final = SIGNATURE + b"\x21\x11\x00\x0c" + ADDRESSES
V2_TLS: Final = SIGNATURE + b"\x21\x11\x00\x14" + ADDRESSES + b"\x20\x00\x05\x01\x00\x00\x00\x00"
V2_LOCAL: Final = SIGNATURE + b"\x20\x00\x00\x00"

Scenario = Callable[["Server"], Coroutine[Any, Any, None]]


class Teller(Connection):
    """Greets with who the client is, then echoes lines."""

    protocol = "teller"
    __slots__ = ("buffer",)

    def __init__(self, listener: Listener, connections: Connections) -> None:
        super().__init__(listener, connections)
        self.buffer = b""

    def received(self, data: bytes) -> None:
        self.buffer += data

    def discard_input(self) -> None:
        self.buffer = b""

    async def serve(self) -> None:
        self.write(f"{self.peer} {self.peer_port} {self.via or '-'} {'tls' if self.tls else 'plain'}\n".encode())
        while True:
            line, newline, rest = self.buffer.partition(b"\n")
            if not newline:
                await self.wait(5)
                continue
            self.buffer = rest
            self.write(line + b"\n")


class Server:
    """A listener for one scenario."""

    def __init__(self, folder: Path) -> None:
        self.listener = Listener(
            "teller",
            "127.0.0.1:0",
            tls=server_context(*write_certificate(folder)),
            trusted_networks=("127.0.0.0/8",),
            proxy_protocol=True,
        )
        self.connections = Connections()
        self.sessions: list[Teller] = []
        self.sock = open_tcp("127.0.0.1:0")
        self.served: ProxiedServer | None = None

    def having(self, **changes: Any) -> None:
        self.listener = msgspec.structs.replace(self.listener, **changes)

    def close(self) -> None:
        if self.served is not None:
            self.served.close()
        self.sock.close()

    def factory(self) -> Teller:
        self.sessions.append(Teller(self.listener, self.connections))
        return self.sessions[-1]

    async def connect(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.served is None:
            self.served = ProxiedServer(self.factory, self.sock.dup(), self.listener)
        reader, writer = await asyncio.open_connection(*self.sock.getsockname())
        writer.write(data)
        return reader, writer


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    """Runs a scenario against a server, on each kind of loop."""

    async def run(scenario: Scenario) -> None:
        server = Server(tmp_path)
        try:
            await scenario(server)
        finally:
            server.close()
            server.connections.abort()
            await server.connections.drained()
            await asyncio.sleep(0)

    def in_loop(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(run(scenario))

    return in_loop


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize(
    ("header", "greeting"),
    [
        (V1, b"192.0.2.7 56324 127.0.0.1 plain\n"),
        (V2, b"192.0.2.7 56324 127.0.0.1 plain\n"),
        (V2_TLS, b"192.0.2.7 56324 127.0.0.1 tls\n"),
    ],
)
def test_the_forwarded_address_is_the_peer(play: Callable[[Scenario], None], header: bytes, greeting: bytes) -> None:
    async def scenario(server: Server) -> None:
        reader, writer = await server.connect(header + b"first\nsecond\n")
        assert [await reader.readline() for _ in range(3)] == [greeting, b"first\n", b"second\n"]
        writer.close()

    play(scenario)


@pytest.mark.parametrize("proxied_by_us", [True, False])
def test_small_answers_are_not_held_back(play: Callable[[Scenario], None], proxied_by_us: bool) -> None:
    """Both loops set TCP_NODELAY themselves; without it a second small write waits 40 ms for a delayed ACK."""

    async def scenario(server: Server) -> None:
        loop = asyncio.get_running_loop()
        plain = None if proxied_by_us else await loop.create_server(server.factory, "127.0.0.1", 0)
        if plain is None:
            reader, writer = await server.connect(V1)
        else:
            reader, writer = await asyncio.open_connection(*plain.sockets[0].getsockname())
        await reader.readline()
        transport = server.sessions[0]._transport
        assert transport is not None
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        if plain is not None:
            plain.close()

    play(scenario)


@pytest.mark.parametrize("header", [V2_LOCAL, b"PROXY UNKNOWN\r\n"])
def test_without_addresses_the_connection_counts(play: Callable[[Scenario], None], header: bytes) -> None:
    async def scenario(server: Server) -> None:
        reader, writer = await server.connect(header)
        port = writer.get_extra_info("sockname")[1]
        assert await reader.readline() == b"127.0.0.1 %d - plain\n" % port
        writer.close()

    play(scenario)


@pytest.mark.parametrize("header", [V1, V2])
def test_octet_by_octet(play: Callable[[Scenario], None], header: bytes) -> None:
    async def scenario(server: Server) -> None:
        reader, writer = await server.connect()
        for i in range(len(header)):
            writer.write(header[i : i + 1])
            await asyncio.sleep(0.001)
        assert (await reader.readline()).startswith(b"192.0.2.7 ")
        writer.close()

    play(scenario)


def test_before_the_tls_handshake(play: Callable[[Scenario], None]) -> None:
    async def scenario(server: Server) -> None:
        server.having(implicit_tls=True)
        loop = asyncio.get_running_loop()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_context().wrap_bio(incoming, outgoing)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        # The ClientHello comes in one piece with the header, as a proxy that opens its connection late sends it.
        reader, writer = await server.connect(V2 + outgoing.read())
        received = b""
        deadline = loop.time() + 10
        while not received.endswith(b"\n") and loop.time() < deadline:
            incoming.write(await reader.read(65536))
            try:
                tls.do_handshake()
                writer.write(outgoing.read())
                received += tls.read(1000)
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
        assert received == b"192.0.2.7 56324 127.0.0.1 tls\n"
        writer.close()

    play(scenario)


@pytest.mark.parametrize(
    "data", [b"LHLO x\r\n", b"\x16\x03\x01\x02\x00", b"PROXY TCP4 nonsense\r\n", SIGNATURE + b"\x31"]
)
@pytest.mark.parametrize("implicit_tls", [False, True])
def test_anything_else_closes(play: Callable[[Scenario], None], data: bytes, implicit_tls: bool) -> None:
    async def scenario(server: Server) -> None:
        server.having(implicit_tls=implicit_tls)
        before = refused()._value.get()
        reader, writer = await server.connect(data)
        assert await ending(reader) == b""
        assert refused()._value.get() == before + 1
        writer.close()

    play(scenario)


def test_an_untrusted_peer_is_not_heard(play: Callable[[Scenario], None]) -> None:
    async def scenario(server: Server) -> None:
        server.having(trusted_networks=("192.0.2.0/24",))
        reader, writer = await server.connect(V1)
        assert await ending(reader) == b""
        writer.close()

    play(scenario)


def test_silence_closes(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(server: Server) -> None:
        monkeypatch.setattr(proxied, "PROXY_HEADER_S", 0.05)
        reader, writer = await server.connect(V1[:10])
        assert await ending(reader) == b""
        writer.close()

    play(scenario)


@pytest.mark.parametrize("reset", [False, True])
def test_a_peer_that_goes_is_let_go(play: Callable[[Scenario], None], reset: bool) -> None:
    async def scenario(server: Server) -> None:
        before = refused()._value.get()
        _, writer = await server.connect(V1[:10])
        while not server.sessions:
            await asyncio.sleep(0)
        if reset:
            writer.transport.abort()
        else:
            writer.close()
        while refused()._value.get() == before:
            await asyncio.sleep(0)
        assert server.sessions[0].peer == ""

    play(scenario)


def test_who_was_accepted_arrives_when_the_listener_closes(play: Callable[[Scenario], None]) -> None:
    async def scenario(server: Server) -> None:
        reader, writer = await server.connect(V1[:10])
        while not server.sessions:
            await asyncio.sleep(0)
        server.close()
        writer.write(V1[10:])
        assert (await reader.readline()).startswith(b"192.0.2.7 ")
        writer.close()

    play(scenario)


def test_a_failed_accept_is_tried_again(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDescriptor:
        """A listening socket that has none left for its first connection."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock, self.failures = sock, 0

        def accept(self) -> Any:
            self.failures += 1
            if self.failures == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.sock.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

    async def scenario(server: Server) -> None:
        monkeypatch.setattr(proxied, "ACCEPT_PAUSE_S", 0.01)
        server.served = ProxiedServer(server.factory, NoDescriptor(server.sock.dup()), server.listener)  # type: ignore[arg-type]
        reader, writer = await server.connect(V1)
        assert (await reader.readline()).startswith(b"192.0.2.7 ")
        writer.close()

    play(scenario)


def test_a_failed_handshake_is_counted(play: Callable[[Scenario], None]) -> None:
    async def scenario(server: Server) -> None:
        failures = proxied.metrics.tls_handshake_failures.labels("teller")
        before = failures._value.get()
        server.having(implicit_tls=True)
        reader, writer = await server.connect(V1 + b"this is no ClientHello, not at all\n")
        await ending(reader)
        while failures._value.get() == before:
            await asyncio.sleep(0)
        writer.close()

    play(scenario)


def test_forwarded_tls_leaves_half_close_possible(play: Callable[[Scenario], None]) -> None:
    async def scenario(server: Server) -> None:
        reader, writer = await server.connect(V2_TLS + b"last\n")
        writer.write_eof()
        assert (await reader.read()).splitlines()[1:] == [b"last"]
        writer.close()

    play(scenario)


def refused() -> Counter:
    return proxied.metrics.proxy_headers_refused.labels("teller")


async def ending(reader: asyncio.StreamReader) -> bytes:
    """What the server said before it closed; octets that it has not read make the close a reset."""
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        return b""
