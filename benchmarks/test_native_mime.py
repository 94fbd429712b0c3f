"""MIME: scan, envelope, structure and digest of typical messages.

python -m pytest benchmarks/test_native_mime.py -o addopts=
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sora._native.mimefields import parse_addresses, strip_extensions
from sora._native.mimescan import scan
from sora.mime.digest import digest
from sora.mime.envelope import write_bodystructure, write_envelope

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

HEADER = (
    b"Return-Path: <sender@example.com>\r\n"
    + b"Received: from a.example.com (a.example.com [192.0.2.1])\r\n\tby b.example.com with ESMTPS id 0123456789\r\n"
    b"\tfor <user@example.org>; Mon, 1 Jan 2024 10:00:00 +0000\r\n"
    * 4
    + b"From: =?utf-8?q?J=C3=B6rg?= Sender <sender@example.com>\r\nTo: User <user@example.org>, other@example.net\r\n"
    b"Subject: Re: [list] An ordinary subject\r\nDate: Mon, 1 Jan 2024 10:00:00 +0100\r\n"
    b"Message-ID: <0123456789abcdef@example.com>\r\nReferences: <a@example.com> <b@example.com>\r\n"
    b"MIME-Version: 1.0\r\n"
)
LINE = b"The quick brown fox jumps over the lazy dog, and this is a line of text.\r\n"
ALTERNATIVE = (
    b"Content-Type: multipart/alternative; boundary=alt\r\n\r\n--alt\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    + LINE * 30
    + b"\r\n--alt\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    + (b"<p>The quick <b>brown</b> fox &amp; the lazy dog.</p><br>=\r\n" * 60)
    + b"\r\n--alt--\r\n"
)
MESSAGES = {
    "plain-4k": HEADER + b"Content-Type: text/plain\r\n\r\n" + LINE * 45,
    "alternative-8k": HEADER + ALTERNATIVE,
    "attachment-1m": HEADER
    + b"Content-Type: multipart/mixed; boundary=mix\r\n\r\n--mix\r\n"
    + ALTERNATIVE
    + b"\r\n--mix\r\nContent-Type: application/pdf; name=a.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + (b"QUJD" * 19 + b"\r\n") * 13_000
    + b"\r\n--mix--\r\n",
}

messages = pytest.mark.parametrize("data", MESSAGES.values(), ids=MESSAGES)


@messages
def test_scan(benchmark: BenchmarkFixture, data: bytes) -> None:
    assert benchmark(scan, data).body_end == len(data)


@messages
def test_digest(benchmark: BenchmarkFixture, data: bytes) -> None:
    assert benchmark(digest, data).subject == "Re: [list] An ordinary subject"


def test_envelope(benchmark: BenchmarkFixture) -> None:
    assert benchmark(write_envelope, scan(MESSAGES["plain-4k"])).startswith(b'("Mon, 1 Jan')


def test_bodystructure(benchmark: BenchmarkFixture) -> None:
    assert benchmark(write_bodystructure, scan(MESSAGES["attachment-1m"])).startswith(b"(((")


def test_strip_extensions(benchmark: BenchmarkFixture) -> None:
    structure = write_bodystructure(scan(MESSAGES["attachment-1m"]))
    assert benchmark(strip_extensions, structure).endswith(b'"mixed")')


def test_addresses(benchmark: BenchmarkFixture) -> None:
    value = b"First Last <first.last@example.com>, " * 100
    assert len(benchmark(parse_addresses, value)) == 100
