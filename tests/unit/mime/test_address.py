"""Addresses for people: decoded, groups as their members."""

from __future__ import annotations

import pytest

from sora._native.mimefields import parse_addresses
from sora._native.mimescan import scan
from sora.mime.address import MAX_ADDRESSES, addresses, display, display_name, write_addresses


@pytest.mark.parametrize(
    ("value", "text", "name"),
    [
        (b"", "", ""),
        (b"a@b", "a@b", "a@b"),
        (b"A B <a@b>, c@d", "A B <a@b>, c@d", "A B"),
        (b"=?utf-8?b?w6Q=?= <a@b>", "ä <a@b>", "ä"),
        (b"\xc3\xa4@\xc3\xa4", "ä@ä", "ä@ä"),
        (b"\xe4@b", "ä@b", "ä@b"),
        (b"g: a@b, C <c@d>;, e@f", "a@b, C <c@d>, e@f", "g"),
        (b"undisclosed-recipients:;", "", "undisclosed-recipients"),
        (b"only", "only", "only"),
        (b"Only A Name", "Only A Name", "Only A Name"),
        (b"<>", "", ""),
    ],
)
def test_display(value: bytes, text: str, name: str) -> None:
    found = parse_addresses(value)
    assert display(found) == text
    assert display_name(found) == name


def test_fields_that_come_twice_are_one_list() -> None:
    part = scan(b"To: a@b\r\nCc: c@d\r\nto: e@f\r\n\r\n")
    assert [address[2] for address in addresses(part, b"to")] == [b"a", b"e"]
    assert addresses(part, b"bcc") == []


def test_an_empty_list_is_nil() -> None:
    assert write_addresses([]) == b"NIL"
    assert write_addresses(parse_addresses(b"A <@r:a@b>")) == b'(("A" "@r" "a" "b"))'


@pytest.mark.parametrize("header", [b"To: " + b"a@b," * 5000, b"To: a@b, c@d\r\n" * 2500], ids=["one field", "many"])
def test_only_so_many_are_read(header: bytes) -> None:
    found = addresses(scan(header + b"\r\n\r\n"), b"to")
    assert len(found) == MAX_ADDRESSES
    assert write_addresses(found).count(b"(NIL NIL ") == MAX_ADDRESSES
