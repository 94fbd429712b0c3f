"""The PROXY protocol, versions 1 and 2, as a receiver reads it (HAProxy, doc/proxy-protocol.txt).

A proxy puts one header in front of everything else; behind it comes the client's own stream. The header must be told
apart from that stream to the octet, because the next octet may belong to a TLS handshake: `Reader` says how many octets
it has used. What cannot become a header any more is refused at once, so nobody waits for the rest of a ClientHello.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax

if TYPE_CHECKING:
    from collections.abc import Iterator

V1_PREFIX: Final = b"PROXY "
V1_MAX: Final = 107
"""Octets of the longest line of version 1, CRLF included (§2.1)."""
V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V2_FIXED: Final = 16
V2_MAX: Final = 16 * 1024
"""Octets behind the fixed part of version 2: a client certificate fits, and it is what memory is given to."""

TYPE_CRC32C: Final = 0x03
TYPE_SSL: Final = 0x20
SUBTYPE_SSL_VERSION: Final = 0x21
SUBTYPE_SSL_CN: Final = 0x22
SUBTYPE_SSL_CIPHER: Final = 0x23
CLIENT_SSL: Final = 0x01

_V1_TCP: Final = re.compile(rb"PROXY (TCP4|TCP6) ([0-9a-fA-F.:]+) ([0-9a-fA-F.:]+) (\d{1,5}) (\d{1,5})\r\n")
_UNSPEC: Final = 0x00
_UNIX_STREAM: Final = 0x31
_V2_ADDRESS: Final = {0x11: (4, IPv4Address), 0x21: (16, IPv6Address)}
"""Family and transport (§2.2): octets of one address, and its class. TCP over IPv4 and IPv6."""
_UNIX_ADDRESSES: Final = 216


class Tls(Struct, frozen=True):
    """What the proxy says of the client's TLS connection (§2.2.5).

    Attributes:
        version: `TLSv1.3` and the like; empty if not told.
        cipher: Name of the cipher; empty if not told.
        common_name: Of the client's certificate; empty without one.
        verified: The client showed a certificate and the proxy found it good.
    """

    version: str = ""
    cipher: str = ""
    common_name: str = ""
    verified: bool = False


class Header(Struct, frozen=True):
    """A PROXY header.

    Attributes:
        source: The client's IP address; empty where the header tells none (LOCAL, UNKNOWN, UNIX sockets): then the
            addresses of the connection itself count.
        source_port: The client's port.
        destination: The address that the client connected to; empty with `source`.
        destination_port: Its port.
        tls: None if the client came without TLS.
        tlvs: Types and values of version 2, as sent.
    """

    source: str = ""
    source_port: int = 0
    destination: str = ""
    destination_port: int = 0
    tls: Tls | None = None
    tlvs: tuple[tuple[int, bytes], ...] = ()


class Reader:
    """Reads one header from a stream in pieces.

    Attributes:
        header: None until it is whole.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self._data = b""

    def feed(self, data: bytes) -> int:
        """Take what arrived.

        Returns:
            How many octets of `data` belong to the header; all of them as long as it is not whole.

        Raises:
            BadSyntax: This is no PROXY header, and no more octets make it one.
        """
        if self.header is not None:
            return 0
        seen = len(self._data)
        self._data += data
        size = _size(self._data)
        if size is None or size > len(self._data):
            return len(data)
        text, self._data = self._data[:size], b""
        self.header = parse(text)
        return size - seen


def _size(data: bytes) -> int | None:
    """Octets of the header that `data` begins with; None: that cannot be said yet."""
    if V2_SIGNATURE.startswith(data[:12]):
        return _v2_size(data)
    if V1_PREFIX.startswith(data[:6]):
        end = data.find(b"\n", 0, V1_MAX)
        if end < 0 and len(data) >= V1_MAX:
            raise BadSyntax("PROXY line too long")
        return end + 1 if end >= 0 else None
    raise BadSyntax("No PROXY header")


def _v2_size(data: bytes) -> int | None:
    if len(data) > 12 and data[12] >> 4 != 2:
        raise BadSyntax("Unknown version of the PROXY protocol")
    if len(data) < V2_FIXED:
        return None
    size = int.from_bytes(data[14:16], "big")
    if size > V2_MAX:
        raise BadSyntax("PROXY header too long")
    return V2_FIXED + size


def parse(text: bytes) -> Header:
    """A whole header, and nothing behind it.

    Raises:
        BadSyntax: It breaks the rules of its version.
    """
    return _parse_v2(text) if text.startswith(V2_SIGNATURE) else _parse_v1(text)


# ------------------------------------------------------------------------------------------------ version 1


def _parse_v1(line: bytes) -> Header:
    if line.endswith(b"\r\n") and (line == b"PROXY UNKNOWN\r\n" or line.startswith(b"PROXY UNKNOWN ")):
        return Header()
    match = _V1_TCP.fullmatch(line)
    if match is None:
        raise BadSyntax("Bad PROXY line")
    kind = IPv4Address if match[1] == b"TCP4" else IPv6Address
    try:
        source, destination = (str(kind(match[n].decode("ascii"))) for n in (2, 3))
    except AddressValueError as error:
        raise BadSyntax("Bad address in the PROXY line") from error
    return Header(source, _port(match[4]), destination, _port(match[5]))


def _port(text: bytes) -> int:
    port = int(text)
    if port > 65535 or (text.startswith(b"0") and text != b"0"):
        raise BadSyntax("Bad port in the PROXY line")
    return port


# ------------------------------------------------------------------------------------------------ version 2


def _parse_v2(data: bytes) -> Header:
    if len(data) < V2_FIXED or len(data) != _v2_size(data):
        raise BadSyntax("Bad length of the PROXY header")
    command, family, block = data[12] & 0x0F, data[13], data[V2_FIXED:]
    if command == 0 or (command == 1 and family == _UNSPEC):
        # LOCAL: the proxy speaks for itself, say in a health check; nothing in the block counts.
        return Header()
    if command != 1:
        raise BadSyntax("Unknown command of the PROXY protocol")
    if family == _UNIX_STREAM:
        _need(block, _UNIX_ADDRESSES)
        return _with_tlvs(Header(), data, V2_FIXED + _UNIX_ADDRESSES)
    if family not in _V2_ADDRESS:
        raise BadSyntax("Unknown address family of the PROXY protocol")
    width, kind = _V2_ADDRESS[family]
    _need(block, 2 * width + 4)
    ports = block[2 * width : 2 * width + 4]
    header = Header(
        source=str(kind(block[:width])),
        source_port=int.from_bytes(ports[:2], "big"),
        destination=str(kind(block[width : 2 * width])),
        destination_port=int.from_bytes(ports[2:], "big"),
    )
    return _with_tlvs(header, data, V2_FIXED + 2 * width + 4)


def _need(block: bytes, size: int) -> None:
    if len(block) < size:
        raise BadSyntax("Truncated PROXY header")


def _with_tlvs(header: Header, data: bytes, start: int) -> Header:
    tlvs = tuple((kind, data[at:end]) for kind, at, end in _tlvs(data, start))
    for kind, at, end in _tlvs(data, start):
        if kind == TYPE_CRC32C and data[at:end] != _checksum(data, at, end):
            raise BadSyntax("Bad checksum of the PROXY header")
    found = next((value for kind, value in tlvs if kind == TYPE_SSL), None)
    return Header(
        header.source,
        header.source_port,
        header.destination,
        header.destination_port,
        _parse_tls(found) if found is not None else None,
        tlvs,
    )


def _tlvs(data: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of each value from `start` to the end of `data`."""
    while start < len(data):
        at = start + 3
        end = at + int.from_bytes(data[start + 1 : at], "big")
        if at > len(data) or end > len(data):
            raise BadSyntax("Truncated value in the PROXY header")
        yield data[start], at, end
        start = end


def _parse_tls(value: bytes) -> Tls | None:
    """PP2_TYPE_SSL: a bit field, the outcome of the verification (0 is good), and values inside."""
    if len(value) < 5:
        raise BadSyntax("Truncated TLS facts in the PROXY header")
    inner = {kind: value[at:end].decode("utf-8", "replace") for kind, at, end in _tlvs(value, 5)}
    if not value[0] & CLIENT_SSL:
        return None
    name = inner.get(SUBTYPE_SSL_CN, "")
    return Tls(
        version=inner.get(SUBTYPE_SSL_VERSION, ""),
        cipher=inner.get(SUBTYPE_SSL_CIPHER, ""),
        common_name=name,
        verified=bool(value[0] & ~CLIENT_SSL) and not any(value[1:5]),
    )


def _checksum(data: bytes, start: int, end: int) -> bytes:
    """CRC32c over the header with the checksum itself taken as zeros (§2.2.3)."""
    crc = 0xFFFFFFFF
    for octet in data[:start] + bytes(end - start) + data[end:]:
        crc = (crc >> 8) ^ _CRC32C[(crc ^ octet) & 0xFF]
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "big")


def _crc32c_row(octet: int) -> int:
    for _ in range(8):
        octet = (octet >> 1) ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_CRC32C: Final = tuple(map(_crc32c_row, range(256)))
