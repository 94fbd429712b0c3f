"""PROXY headers of both versions, and what is none."""

from __future__ import annotations

import itertools
import socket
import struct
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sora.errors import BadSyntax
from sora.wire import proxyproto
from sora.wire.proxyproto import V2_SIGNATURE, Header, Tls

TCP4: Final = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 24\r\n"
V2_TCP4: Final = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + struct.pack(">HH", 56324, 24)
V2_TCP6: Final = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + struct.pack(">HH", 56324, 24)
)
FACTS: Final = Header("192.0.2.7", 56324, "198.51.100.1", 24)


def v2(block: bytes, *, command: int = 0x21, family: int = 0x11) -> bytes:
    return V2_SIGNATURE + bytes([command, family]) + struct.pack(">H", len(block)) + block


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + struct.pack(">H", len(value)) + value


def read(pieces: list[bytes]) -> tuple[Header, int] | None:
    """The header and its length; None while it is not whole."""
    reader, used = proxyproto.Reader(), 0
    for piece in pieces:
        used += reader.feed(piece)
    return None if reader.header is None else (reader.header, used)


def outcome(pieces: list[bytes]) -> object:
    try:
        return read(pieces)
    except BadSyntax:
        return BadSyntax


class TestVersion1:
    def test_tcp4(self) -> None:
        assert read([TCP4]) == (FACTS, len(TCP4))

    def test_tcp6(self) -> None:
        line = b"PROXY TCP6 2001:db8::7 2001:DB8:0:0::1 1 65535\r\n"
        assert read([line]) == (Header("2001:db8::7", 1, "2001:db8::1", 65535), len(line))

    @pytest.mark.parametrize("line", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n"])
    def test_unknown_tells_nothing(self, line: bytes) -> None:
        assert read([line]) == (Header(), len(line))

    def test_what_follows_is_not_touched(self) -> None:
        assert read([TCP4 + b"LHLO x\r\n"]) == (FACTS, len(TCP4))

    def test_nothing_is_used_behind_a_whole_header(self) -> None:
        reader = proxyproto.Reader()
        assert reader.feed(TCP4) == len(TCP4)
        assert reader.feed(b"LHLO x\r\n") == 0

    def test_longest_line(self) -> None:
        line = b"PROXY UNKNOWN ".ljust(105, b"f") + b"\r\n"
        assert read([line]) == (Header(), 107)
        with pytest.raises(BadSyntax, match="too long"):
            read([line[:-2] + b"f\r\n"])

    @pytest.mark.parametrize(
        "line",
        [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 24\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 56324\r\n",
            b"PROXY TCP4 192.0.2.7  198.51.100.1 56324 24\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 24 \r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.1 56324 24\r\n",
            b"PROXY TCP4 192.0.2.07 198.51.100.1 56324 24\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 56324 24\r\n",
            b"PROXY TCP6 192.0.2.7 198.51.100.1 56324 24\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 24\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1 024\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 24\r\n",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 1 24\r\n",
            b"PROXY UNKNOWNS\r\n",
            b"PROXY UNKNOWN\n",
            b"PROXY \r\n",
            b"proxy TCP4 192.0.2.7 198.51.100.1 1 24\r\n",
        ],
    )
    def test_broken(self, line: bytes) -> None:
        with pytest.raises(BadSyntax):
            read([line])


class TestVersion2:
    def test_tcp4(self) -> None:
        assert read([v2(V2_TCP4) + b"\x16\x03\x01"]) == (FACTS, 28)

    def test_tcp6(self) -> None:
        header = Header("2001:db8::7", 56324, "2001:db8::1", 24)
        assert read([v2(V2_TCP6, family=0x21)]) == (header, 52)

    def test_local_counts_for_nothing_whatever_it_carries(self) -> None:
        for block in (b"", V2_TCP4, b"\xff\xff\xff"):
            assert read([v2(block, command=0x20, family=0x11)]) == (Header(), 16 + len(block))

    def test_unspecified_family(self) -> None:
        assert read([v2(b"anything", family=0x00)]) == (Header(), 24)

    def test_unix_sockets_have_no_address(self) -> None:
        paths = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")
        assert read([v2(paths + tlv(5, b"id"), family=0x31)]) == (Header(tlvs=((5, b"id"),)), 16 + 216 + 5)
        with pytest.raises(BadSyntax, match="Truncated"):
            read([v2(paths[:-1], family=0x31)])

    def test_tls(self) -> None:
        facts = (
            b"\x07" + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x23, b"TLS_AES_128_GCM_SHA256") + tlv(0x22, b"b\xc3\xbc")
        )
        found = read([v2(V2_TCP4 + tlv(2, b"mail.example.com") + tlv(0x20, facts))])
        assert found is not None
        assert found[0].tls == Tls("TLSv1.3", "TLS_AES_128_GCM_SHA256", "bü", verified=True)
        assert found[0].tlvs == ((2, b"mail.example.com"), (0x20, facts))
        assert found[0].source == "192.0.2.7"

    @pytest.mark.parametrize(("client", "verify"), [(b"\x01", bytes(4)), (b"\x03", b"\0\0\0\x0a")])
    def test_certificate_missing_or_bad(self, client: bytes, verify: bytes) -> None:
        found = read([v2(V2_TCP4 + tlv(0x20, client + verify))])
        assert found is not None
        assert found[0].tls == Tls()

    def test_client_without_tls(self) -> None:
        found = read([v2(V2_TCP4 + tlv(0x20, b"\x00\0\0\0\x01"))])
        assert found is not None
        assert found[0].tls is None

    def test_checksum(self) -> None:
        # CRC32c of "123456789" is e3069283, whatever computes it.
        assert proxyproto._checksum(b"123456789", 9, 9) == bytes.fromhex("e3069283")
        whole = v2(V2_TCP4 + tlv(3, bytes(4)) + tlv(5, b"id"))
        right = proxyproto._checksum(whole, 31, 35)
        found = read([whole[:31] + right + whole[35:]])
        assert found is not None
        assert found[0].source == "192.0.2.7"
        with pytest.raises(BadSyntax, match="checksum"):
            read([whole])

    @pytest.mark.parametrize(
        "header",
        [
            v2(V2_TCP4, command=0x11),
            v2(V2_TCP4, command=0x31),
            v2(V2_TCP4, command=0x22),
            v2(V2_TCP4, family=0x12),
            v2(V2_TCP4, family=0x41),
            v2(V2_TCP4[:-1]),
            v2(V2_TCP6[:-1], family=0x21),
            v2(V2_TCP4 + b"\x05"),
            v2(V2_TCP4 + b"\x05\x00"),
            v2(V2_TCP4 + b"\x05\x00\x02a"),
            v2(V2_TCP4 + tlv(0x20, b"\x01\0\0\0")),
            v2(V2_TCP4 + tlv(0x20, b"\x01\0\0\0\0" + b"\x21\x00\x09TLS")),
            V2_SIGNATURE + b"\x21\x11" + struct.pack(">H", proxyproto.V2_MAX + 1),
        ],
    )
    def test_broken(self, header: bytes) -> None:
        with pytest.raises(BadSyntax):
            read([header])

    def test_longest(self) -> None:
        block = V2_TCP4 + tlv(0xE0, bytes(proxyproto.V2_MAX - len(V2_TCP4) - 3))
        assert read([v2(block)]) is not None


class TestNoHeader:
    @pytest.mark.parametrize(
        "data", [b"L", b"PROXI", b"\x16\x03\x01", b"\r\nQ", b"PRO\n", V2_SIGNATURE[:-1] + b"\r", V2_SIGNATURE + b"\x11"]
    )
    def test_is_known_at_once(self, data: bytes) -> None:
        with pytest.raises(BadSyntax):
            read([data])

    @pytest.mark.parametrize("whole", [TCP4, v2(V2_TCP4)])
    def test_half_a_header_is_none_yet(self, whole: bytes) -> None:
        for size in range(len(whole)):
            assert read([whole[:size]]) is None

    @pytest.mark.parametrize("text", [b"", b"PROXY ", V2_SIGNATURE, v2(V2_TCP4) + b"x", v2(V2_TCP4)[:-1]])
    def test_parse_wants_it_whole(self, text: bytes) -> None:
        with pytest.raises(BadSyntax):
            proxyproto.parse(text)


headers = st.one_of(
    st.binary(max_size=80),
    st.binary(max_size=120).map(lambda tail: b"PROXY " + tail),
    st.binary(max_size=120).map(lambda tail: b"PROXY TCP4 1.2.3.4 5.6.7.8 " + tail),
    st.binary(max_size=60).map(lambda tail: V2_SIGNATURE + tail),
    st.builds(
        lambda command, family, address, tail: v2(address + tail, command=command, family=family),
        st.sampled_from([0x20, 0x21, 0x22]),
        st.sampled_from([0x00, 0x11, 0x21, 0x31, 0x12]),
        st.sampled_from([b"", V2_TCP4, V2_TCP6]),
        st.lists(st.builds(tlv, st.sampled_from([1, 2, 3, 0x20]), st.binary(max_size=20))).map(b"".join)
        | st.binary(max_size=20),
    ),
)


@given(st.tuples(headers, st.binary(max_size=8)).map(b"".join), st.lists(st.integers(0, 200), max_size=8))
@example(TCP4 + b"LHLO x\r\n", [6, 43])
@example(v2(V2_TCP4) + b"\x16\x03", [12, 13, 27])
def test_never_raises_but_badsyntax_and_cuts_change_nothing(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    octets = [data[i : i + 1] for i in range(len(data))]
    assert outcome([data]) == outcome(pieces) == outcome(octets)
