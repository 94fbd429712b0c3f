"""The listening sockets: opened once by the supervisor, kept for its life, inherited by every child.

Each TCP address gets as many SO_REUSEPORT sockets as there are worker slots. The kernel spreads connections evenly over
them, and a connection that waits in a socket's queue survives whoever was to accept it: neither a reload nor a killed
worker resets it, because the socket itself is never closed. UNIX sockets and sockets from the service manager are one
each and shared by all slots.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from sora.config import split_address
from sora.errors import ConfigError
from sora.net.listener import open_tcp, open_unix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sora.config import Config

HTTP_SERVERS = ("metrics", "http_api", "peers")
"""Served by the http process, not by the workers."""


class Endpoint(Struct, frozen=True):
    """One address of one server.

    Attributes:
        server: Name of its table, such as `imap`.
        address: `host:port` or `unix:PATH`, as configured.
        implicit_tls: From `tls_listen`.
    """

    server: str
    address: str
    implicit_tls: bool = False

    @property
    def name(self) -> str:
        """`imap`, or `imaps` with implicit TLS."""
        return f"{self.server}s" if self.implicit_tls else self.server


def endpoints(config: Config) -> Iterator[Endpoint]:
    """Every address of every enabled server."""
    for server, table in config.servers.items():
        yield from (Endpoint(server, address) for address in table.listen)
        yield from (Endpoint(server, address, True) for address in table.tls_listen)


class ListenersState(Struct, frozen=True):
    """Open sockets for a successor.

    Attributes:
        sockets: Descriptors of each endpoint, in the order of the slots.
        files: UNIX sockets that we made, to be removed at the end.
    """

    sockets: list[tuple[Endpoint, list[int]]]
    files: list[str]

    def descriptors(self) -> Iterator[int]:
        """Those that the successor must inherit."""
        return (fd for _, fds in self.sockets for fd in fds)


class Listeners:
    """The sockets of every endpoint: one per slot, or one for all."""

    def __init__(self) -> None:
        self._sockets: dict[Endpoint, list[socket.socket]] = {}
        self._files: list[str] = []

    @classmethod
    def open(cls, config: Config, slots: int, inherited: Iterable[socket.socket] = ()) -> Listeners:
        """Open everything that the configuration names.

        Args:
            inherited: From the service manager; taken instead of opening the same address.

        Raises:
            ConfigError: An address that cannot be had, or an inherited socket that nothing names.
        """
        given = {_bound_to(sock): sock for sock in inherited}
        listeners = cls()
        try:
            for endpoint in endpoints(config):
                sock = given.pop(_canonical(endpoint.address), None)
                listeners._sockets[endpoint] = [sock] if sock is not None else _open(endpoint, slots)
                if sock is None and endpoint.address.startswith("unix:"):
                    listeners._files.append(endpoint.address.removeprefix("unix:"))
        except BaseException:
            listeners.close()
            raise
        for address, sock in given.items():
            sock.close()
            listeners.close()
            raise ConfigError(f"the service manager gave a socket at {address}, which no server listens on")
        return listeners

    @classmethod
    def take_over(cls, state: ListenersState) -> Listeners:
        """Go on with sockets that are open."""
        listeners = cls()
        listeners._sockets = {endpoint: [socket.socket(fileno=fd) for fd in fds] for endpoint, fds in state.sockets}
        listeners._files = list(state.files)
        return listeners

    def hand_over(self) -> ListenersState:
        """For the program that this process is about to run."""
        sockets = [(endpoint, [sock.fileno() for sock in socks]) for endpoint, socks in self._sockets.items()]
        return ListenersState(sockets, list(self._files))

    def of_slot(self, slot: int) -> Iterator[tuple[Endpoint, socket.socket]]:
        """What the worker of a slot serves."""
        for endpoint, sockets in self._sockets.items():
            if endpoint.server not in HTTP_SERVERS:
                yield endpoint, sockets[slot % len(sockets)]

    def of_http(self, server: str) -> Sequence[socket.socket]:
        """The sockets of a server of the http process, all of which it serves."""
        return [sock for endpoint, sockets in self._sockets.items() if endpoint.server == server for sock in sockets]

    def ports(self) -> dict[str, int]:
        """TCP port by name, `imap`, `imaps`, …; the first address of each."""
        ports: dict[str, int] = {}
        for endpoint, sockets in self._sockets.items():
            if sockets[0].family != socket.AF_UNIX:
                ports.setdefault(endpoint.name, sockets[0].getsockname()[1])
        return ports

    def close(self) -> None:
        """Close all, and remove the files of UNIX sockets that we made."""
        for sockets in self._sockets.values():
            for sock in sockets:
                sock.close()
        self._sockets.clear()
        for path in self._files:
            Path(path).unlink(missing_ok=True)
        self._files.clear()


def _open(endpoint: Endpoint, slots: int) -> list[socket.socket]:
    try:
        if endpoint.address.startswith("unix:"):
            return [open_unix(endpoint.address.removeprefix("unix:"))]
        return _open_tcp(endpoint.address, 1 if endpoint.server in HTTP_SERVERS else slots)
    except OSError as error:
        why = "already in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise ConfigError(f"servers.{endpoint.server}: cannot listen on {endpoint.address}: {why}") from error


def _open_tcp(address: str, count: int) -> list[socket.socket]:
    """SO_REUSEPORT sockets; port 0 is the same free port for all."""
    _refuse_shared(address)
    sockets = [open_tcp(address)]
    try:
        host, _ = split_address(address)
        port = sockets[0].getsockname()[1]
        same = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        while len(sockets) < count:
            sockets.append(open_tcp(same))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _refuse_shared(address: str) -> None:
    """Raise EADDRINUSE if somebody listens there: with SO_REUSEPORT we would silently take half of his connections."""
    host, port = split_address(address)
    family, kind, protocol, _, sockaddr = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(sockaddr)


def _canonical(address: str) -> str:
    """The form of an address by which configured and inherited sockets are matched."""
    if address.startswith("unix:"):
        return address
    host, port = split_address(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bound_to(sock: socket.socket) -> str:
    name = sock.getsockname()
    if isinstance(name, str | bytes):
        return f"unix:{os.fsdecode(name)}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
