"""SASL PLAIN."""

from __future__ import annotations

import pytest

from sora.errors import BadSyntax
from sora.wire.sasl import Plain, parse_plain


def test_plain() -> None:
    assert parse_plain(b"\0alice@example.com\0s\xc3\xa9cret") == Plain("", "alice@example.com", "sécret")
    assert parse_plain(b"bob\0alice\0x") == Plain("bob", "alice", "x")


@pytest.mark.parametrize("message", [b"", b"alice", b"\0alice", b"\0\0secret", b"a\0b\0c\0d", b"\0\xff\0x"])
def test_what_is_not_plain(message: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_plain(message)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Plain("", "alice", "secret"))
