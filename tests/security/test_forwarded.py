"""Limits by address behind a proxy, on real sockets: what counts is the address of the PROXY header, and no other."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from sora.net.listener import Listener, open_tcp
from sora.net.proxied import ProxiedServer
from sora.protocols import imap, lmtp, managesieve, pop3
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sora.services.node import Node

    Connect = Callable[[bytes], Awaitable[tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]]]

FACTORIES: Final = {
    "imap": imap.connection_factory, "pop3": pop3.connection_factory, "lmtp": lmtp.connection_factory,
    "managesieve": managesieve.connection_factory,
}  # fmt: skip
WELCOME: Final = {"imap": b"* OK ", "pop3": b"+OK ", "lmtp": b"220 ", "managesieve": b'"IMPLEMENTATION" '}
REFUSAL: Final = {"imap": b"* BYE ", "pop3": b"-ERR ", "lmtp": b"421 4.7.0 ", "managesieve": b"BYE (TRYLATER) "}
WEBMAIL: Final = ("198.51.100.7", "198.51.100.255", "::ffff:198.51.100.7")
"""Inside the exempt network, the last of them written as an IPv6 address."""
SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL: Final = SIGNATURE + b"\x20\x00\x00\x00"
"""The proxy speaks for itself (a health check)."""
TLS: Final = SIGNATURE + b"\x21\x11\x00\x14" + bytes([192, 0, 2, 9, 198, 51, 100, 1, 0, 25, 0, 143])
TLS_YES: Final = TLS + b"\x20\x00\x05\x01\x00\x00\x00\x00"
TLS_NO: Final = TLS + b"\x20\x00\x05\x00\x00\x00\x00\x00"


def header(address: str) -> bytes:
    """Version 1, from a client with this address."""
    family, other = ("TCP6", "::1") if ":" in address else ("TCP4", "127.0.0.1")
    return f"PROXY {family} {address} {other} 40000 143\r\n".encode()


@pytest.fixture
async def node(dsn: str, tmp_path: Path) -> AsyncIterator[Node]:
    """One connection an address, but for webmail. The proxy, which is this machine, is not exempt."""
    limits = {"connections_per_address": 1, "exempt_networks": ["198.51.100.0/24"]}
    async with open_node(dsn, tmp_path, limits=limits) as node:
        yield node


@asynccontextmanager
async def proxied(node: Node, protocol: str) -> AsyncIterator[Connect]:
    """Connects as a trusted proxy; gives the first line that comes back. All is closed at the end."""
    writers: list[asyncio.StreamWriter] = []
    sock = open_tcp("127.0.0.1:0")
    listener = Listener(protocol, "127.0.0.1:0", trusted_networks=("127.0.0.0/8",), proxy_protocol=True)
    server = ProxiedServer(FACTORIES[protocol](node, listener), sock, listener)

    async def connect(first: bytes) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*address)
        writers.append(writer)
        writer.write(first)
        return await reader.readline(), reader, writer

    address = sock.getsockname()[:2]
    try:
        yield connect
    finally:
        for writer in writers:
            writer.close()
        await node.connections.drained()
        server.close()


@pytest.mark.parametrize("protocol", FACTORIES)
async def test_an_exempt_address_that_was_forwarded_is_not_counted(node: Node, protocol: str) -> None:
    async with proxied(node, protocol) as connect:
        for address in WEBMAIL * 2:
            assert (await connect(header(address)))[0].startswith(WELCOME[protocol]), address


@pytest.mark.parametrize("protocol", FACTORIES)
async def test_another_address_that_was_forwarded_is_counted_by_itself(node: Node, protocol: str) -> None:
    """Not with the other clients of the same proxy; the place is free again when the client has gone."""
    async with proxied(node, protocol) as connect:
        greeting, reader, writer = await connect(header("203.0.113.5"))
        assert greeting.startswith(WELCOME[protocol])
        refusal, refused, _ = await connect(header("203.0.113.5"))
        assert refusal.startswith(REFUSAL[protocol])
        assert await refused.read() == b""
        assert (await connect(header("203.0.113.6")))[0].startswith(WELCOME[protocol])
        writer.write_eof()
        await reader.read()
        assert (await connect(header("203.0.113.5")))[0].startswith(WELCOME[protocol])


@pytest.mark.parametrize("protocol", FACTORIES)
async def test_a_proxy_is_not_exempt_because_its_clients_are(node: Node, protocol: str) -> None:
    """What it says for itself counts under its own address, whoever it has spoken for before."""
    async with proxied(node, protocol) as connect:
        assert (await connect(header(WEBMAIL[0])))[0].startswith(WELCOME[protocol])
        assert (await connect(LOCAL))[0].startswith(WELCOME[protocol])
        assert (await connect(LOCAL))[0].startswith(REFUSAL[protocol])


async def test_an_exempt_proxy_does_not_exempt_its_clients(node: Node) -> None:
    """The default exempts loopback, where a proxy of the same machine is."""
    limits = msgspec.structs.replace(node.config.limits, exempt_networks=("127.0.0.0/8",))
    node.take_live(msgspec.structs.replace(node.config, limits=limits))
    async with proxied(node, "imap") as connect:
        assert (await connect(header("203.0.113.5")))[0].startswith(b"* OK ")
        assert (await connect(header("203.0.113.5")))[0].startswith(b"* BYE ")
        for _ in range(3):
            assert (await connect(LOCAL))[0].startswith(b"* OK ")


async def test_only_tls_that_was_forwarded_counts_as_tls(node: Node) -> None:
    """With passwords for TLS only, who came to the proxy without it may not log in, whatever the header's form."""
    auth = msgspec.structs.replace(node.config.auth, allow_cleartext=False)
    node.take_live(msgspec.structs.replace(node.config, auth=auth))
    async with proxied(node, "imap") as connect:
        for first, private in ((TLS_YES, True), (TLS_NO, False), (header("203.0.113.5"), False), (LOCAL, False)):
            greeting, reader, writer = await connect(first)
            assert greeting.startswith(b"* OK ")
            assert (b"AUTH=PLAIN" in greeting) == private, first
            writer.write(b'a LOGIN "nobody@example.com" "x"\r\n')
            answer = await reader.readline()
            assert answer.startswith(b"a NO [AUTHENTICATIONFAILED]" if private else b"a NO [PRIVACYREQUIRED]")
            writer.write_eof()
            await reader.read()
