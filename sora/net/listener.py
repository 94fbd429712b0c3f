"""What a protocol server needs to know of the listener that accepted a connection."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from sora.config import split_address

if TYPE_CHECKING:
    import ssl

BACKLOG = 4096


class Listener(Struct, frozen=True):
    """One listening address of one protocol.

    Attributes:
        protocol: `imap`, `pop3`, `lmtp`, …
        address: `host:port` or `unix:PATH`.
        tls: Context for STARTTLS or implicit TLS; None: no TLS here.
        implicit_tls: TLS from the first byte.
        trusted_networks: Peers whose forwarded facts are believed.
        proxy_protocol: Every TCP connection begins with a PROXY header, before the greeting and before TLS.
    """

    protocol: str
    address: str
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    trusted_networks: tuple[str, ...] = ()
    proxy_protocol: bool = False

    def trusts(self, peer: str) -> bool:
        """True if `peer` (an IP address) is in a trusted network."""
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        # A socket for both families shows IPv4 peers as ::ffff:192.0.2.1.
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in ipaddress.ip_network(network) for network in self.trusted_networks)


def open_tcp(address: str) -> socket.socket:
    """A listening SO_REUSEPORT socket at `host:port`.

    Raises:
        OSError: The address is in use or not ours.
    """
    host, port = split_address(address)
    family, kind, protocol, _, sockaddr = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(sockaddr)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def open_unix(path: str, mode: int = 0o660) -> socket.socket:
    """A listening UNIX socket; a socket file that nobody serves is replaced.

    Raises:
        OSError: Somebody listens there, or the directory cannot be written.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                with suppress(ConnectionRefusedError):
                    probe.connect(path)
                    raise OSError(98, "Address already in use", path)
            Path(path).unlink()
        listener.bind(path)
        Path(path).chmod(mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
