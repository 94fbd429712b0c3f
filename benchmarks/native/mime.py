"""MIME structure and header fields beside line lists, regular expressions and the standard library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.cases import Case
from sora._native import mimefields, mimescan
from sora.mime.envelope import write_bodystructure
from tests.support import models_mime, models_mimefields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.models_mime import ModelPart

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


def cases(messages: int) -> Iterator[Case]:
    """Messages as they come, and one value of each kind of field."""
    for name, data in MESSAGES.items():
        yield Case(
            f"mimescan.scan {name}", lambda d=data: shape(mimescan.scan(d)), lambda d=data: shape(models_mime.scan(d))
        )
    data = MESSAGES["plain-4k"]
    part, model = mimescan.scan(data), models_mime.scan(data)
    for name in ("first", "last"):
        yield Case(
            f"mimescan.Part.{name}", lambda n=name: getattr(part, n)(b"subject"),
            lambda n=name: (_every(model, b"subject") or [None])[0 if n == "first" else -1],
        )  # fmt: skip
    yield Case("mimescan.Part.every", lambda: part.every(b"received"), lambda: _every(model, b"received"))
    yield Case(
        "mimescan.Part.fields",
        lambda: [value for _, value in part.fields()],
        lambda: [_value(r) for _, r in model.fields],
    )
    yield Case(
        "mimescan.Part.lines",
        lambda: [(n, data[a:z]) for n, a, z in part.lines()],
        lambda: models_mime.scan(data).fields,
    )
    yield Case("mimescan.Part.body_start", lambda: part.body_start, lambda: model.header_end)

    content_type = b'multipart/mixed; charset=utf-8; boundary="=_0123456789abcdef"; name="a \\"b\\".txt"'
    for name, value in (
        ("parse_content_type", content_type),
        ("parse_disposition", b'attachment; filename="report 2024.pdf"; size=12345'),
        ("parse_tokens", b"en, de (German), fr-CH"),
        ("parse_addresses", b", ".join(b'"Last, First" <first.last%d@example.com>' % n for n in range(100))),
        ("nstring", b'An ordinary "subject" of 70 octets, more or less, with two quotes in'),
        ("strip_extensions", write_bodystructure(mimescan.scan(MESSAGES["attachment-1m"]))),
    ):
        ours, plain = getattr(mimefields, name), getattr(models_mimefields, name)
        yield Case(f"mimefields.{name}", lambda f=ours, v=value: f(v), lambda f=plain, v=value: f(v))


def shape(part: mimescan.Part | ModelPart) -> tuple[object, ...]:
    """What both sides know of a part."""
    return part.header_start, part.header_end, part.body_end, part.kind, tuple(shape(child) for child in part.children)


def _value(raw: bytes) -> bytes:
    value = raw.partition(b":")[2].rstrip(b"\r\n").replace(b"\r\n", b"").replace(b"\t", b" ")
    return value.strip()


def _every(part: ModelPart, wanted: bytes) -> list[bytes]:
    return [_value(raw) for name, raw in part.fields if name == wanted]
