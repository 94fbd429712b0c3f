"""XCLIENT attributes, xtext, forwarded fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.wire import xclient
from sora.wire.xclient import BadAttribute, Client

NOBODY = Client()


def xtext(text: str) -> str:
    """A plain model of RFC 3461 §4."""
    return "".join(chr(o) if 33 <= o <= 126 and chr(o) not in "+=" else f"+{o:02X}" for o in text.encode())


def test_every_attribute() -> None:
    text = (
        b"NAME=mx.example.net ADDR=192.0.2.7 PORT=2525 PROTO=esmtp HELO=[192.0.2.7] LOGIN=al+20ice "
        b"DESTADDR=IPV6:2001:DB8::1 DESTPORT=24"
    )
    assert xclient.parse_xclient(text, NOBODY) == Client(
        name="mx.example.net",
        address="192.0.2.7",
        port=2525,
        protocol="ESMTP",
        hello="[192.0.2.7]",
        login="al ice",
        destination="2001:db8::1",
        destination_port=24,
    )
    assert {item.partition(b"=")[0].decode() for item in text.split()} == set(xclient.ATTRIBUTES)


def test_commands_add_up_and_take_back() -> None:
    client = xclient.parse_xclient(b"addr=IPv6:::1 port=7", NOBODY)
    client = xclient.parse_xclient(b"Name=a.example", client)
    assert client == Client(name="a.example", address="::1", port=7)
    assert xclient.parse_xclient(b"ADDR=[UNAVAILABLE] PORT=[TEMPUNAVAIL] NAME=[unavailable]", client) == NOBODY


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"ADDR",
        b"ADDR=",
        b"ADDR=here",
        b"ADDR=192.0.2.256",
        b"ADDR=fe80::1%eth0",
        b"ADDR=IPV6:fe80::1%+0D+0AX",
        b"DESTADDR=::g",
        b"PORT=0",
        b"PORT=65536",
        b"PORT=x",
        b"PORT=+D9+A1",
        b"DESTPORT=-1",
        b"PROTO=HTTP",
        b"NAME=a+20b",
        b"NAME=a+0D+0AX-Evil:+20b",
        b"HELO=(x)",
        b"LOGIN=a+0Ab",
        b"LOGIN=+FF",
        b"LOGIN=a=b",
        b"LOGIN=+4",
        b"SESSION=x",
        "NAME=ä".encode(),
    ],
)
def test_bad(text: bytes) -> None:
    with pytest.raises(BadAttribute):
        xclient.parse_xclient(text, NOBODY)


@given(st.text().filter(lambda text: "\0" not in text))
def test_xtext_round_trip(text: str) -> None:
    assert xclient.parse_xtext(xtext(text)) == text


@given(st.binary())
def test_nothing_but_badattribute(data: bytes) -> None:
    try:
        client = xclient.parse_xclient(data, NOBODY)
    except BadAttribute:
        return
    for value in (client.name, client.address, client.hello):
        assert not set(value) & set("\r\n\0 ")


def test_escapes_of_forwarded_fields() -> None:
    assert xclient.parse_forward(xtext("a=1\x01t2\x01r\x01n\x011\tb\tc=x=y")) == (
        ("a", "1\t2\r\n\x01"),
        ("b", ""),
        ("c", "x=y"),
    )
