"""The message as a script sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora._native.mimescan import scan
from sora.sieve.mail import Mail, parse_address
from tests.support.sieve import MAIL

_pieces = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b":", b"A: b", b"Content-Type: text/x", b"x", b"\0"]
    ),
    max_size=12,
)


@given(pieces=_pieces)
def test_the_header_alone_is_the_header_of_the_whole(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    mail, whole = Mail(data), scan(data)
    assert mail.head == data[: whole.header_end]
    assert mail.top.fields() == whole.fields()
    assert mail.top.lines() == whole.lines()
    assert (mail.top.fields_end, mail.size, mail.data) == (whole.fields_end, len(data), data)


def test_another_head() -> None:
    mail = Mail(MAIL)
    other = mail.with_head(b"A: b\n\n")
    assert other.data == b"A: b\n\nLook, I'm sorry about the whole anvil thing.\r\n"
    assert other.size == len(other.data)
    assert other.header("a") == ["b"]
    assert other.root.header_end == 6
    assert other.with_head(mail.head).data == MAIL


def test_addresses() -> None:
    assert [str(address) for address in Mail(MAIL).addresses("to")] == [
        "roadrunner@acme.example.com",
        "bird@acme.example.com",
    ]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a.b@example.org", "a.b@example.org"),
        ('"a b"@example.org', '"a b"@example.org'),
        (r'"a\"b"@example.org', r'"a\"b"@example.org'),
        ('"a.b"@example.org', "a.b@example.org"),
        ('"a..b"@example.org', '"a..b"@example.org'),
    ],
)
def test_paths(text: str, path: str) -> None:
    address = parse_address(text)
    assert address is not None
    assert address.path == path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@example.org", "a@example.org"), (" <a@example.org> ", "a@example.org"),
        ("A B <a@example.org>", "a@example.org"),
        ("a", "None"), ("", "None"), ("@example.org", "None"), ("a@", "None"), ("a@b.c, d@e.f",
        "None"), ("x: a@b.c;", "None"),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"), ("a@[x> NOTIFY=NEVER]", "None"), ("a@[x>y]", "None"),
        ("a@" + "b" * 252, "a@" + "b" * 252), ("a@" + "b" * 253, "None"), ("é" * 127 + "@b", "None"),
        ("é@example.org", "é@example.org"), ('"a\r\nb"@example.org', "None"),
    ],
)  # fmt: skip
def test_parse_address(text: str, found: str) -> None:
    assert str(parse_address(text)) == found
