"""Messages that a script makes."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest

from sora.sieve import compose


def test_fields() -> None:
    assert compose.field("Subject", "plain") == b"Subject: plain\r\n"
    assert compose.field("Subject", "a\r\nb\x00c") == b"Subject: a b c\r\n"
    assert compose.field("Subject", "ü").startswith(b"Subject: =?utf-8?")
    assert all(len(line) <= 78 for line in compose.field("Subject", "word " * 100).split(b"\r\n"))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a@example.org", b"From: a@example.org\r\n"),
        ("A <a@example.org>", b"From: A <a@example.org>\r\n"),
        ("Ä <a@example.org>", b"From: =?utf-8?b?w4Q=?= <a@example.org>\r\n"),
        ("Ä <ä@example.org>", b"From: \r\n"),
    ],
)
def test_addresses_are_never_encoded(value: str, written: bytes) -> None:
    assert compose.field("From", value) == written


@pytest.mark.parametrize("body", ["", "plain", "a\nb\rc\r\nd", "ü", "x" * 2000, ".\r\n..\r\n", "trailing \r\n", "=3D"])
def test_bodies(body: str) -> None:
    data = compose.text_message((("Subject", "s"),), body)
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))
    assert b"\n" not in data.replace(b"\r\n", b"")
    message = message_from_bytes(data, policy=policy.default)
    found = message.get_payload(decode=True)
    assert isinstance(found, bytes)
    expected = body.replace("\r\n", "\n").replace("\r", "\n")
    assert found.decode().replace("\r\n", "\n").rstrip("\n") == expected.rstrip("\n")
