"""Headers in UTF-8 for clients that know only ASCII."""

from __future__ import annotations

import email
import email.policy
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sora.mime.downgrade import MAX_ADDRESSES, MAX_HEADER, NOBODY, downgrade
from sora.mime.text import decode_words


def header(field: str) -> bytes:
    """What a field becomes, between two that stay."""
    data = f"A: 1\r\n{field}\r\nZ: 2\r\n\r\nBödy\r\n".encode()
    shown = downgrade(data)
    head, blank, body = shown.partition(b"\r\n\r\n")
    assert (head[:6], head[-6:], blank, body) == (b"A: 1\r\n", b"\r\nZ: 2", b"\r\n\r\n", "Bödy\r\n".encode())
    return head[6:-6]


@pytest.mark.parametrize(
    "data",
    [
        b"Subject: plain\r\n\r\nbody\r\n",
        "Subject: plain\r\n\r\nkörper: ä\r\n".encode(),
        b"Subject: \xe4 in latin-1\r\n\r\nbody\r\n",
        "kein Feld ä\r\n\r\nbody\r\n".encode(),
        "\r\nnur Körper\r\n".encode(),
        b"To: " + b"<a@b.c>," * MAX_ADDRESSES + "ä <d@e.f>\r\n\r\n".encode(),
        b"Subject: " + "ä".encode() * MAX_HEADER + b"\r\n\r\n",
        b"",
    ],
)
def test_what_needs_nothing_is_the_same(data: bytes) -> None:
    assert downgrade(data) == data


def test_ascii_is_not_copied() -> None:
    data = b"Subject: x\r\n\r\n" + b"." * 1000
    assert downgrade(data) is data


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("Subject: Grüße", b"Subject: =?utf-8?b?R3LDvMOfZQ==?="),
        ("Subject: =?utf-8?q?Gr=C3=BC?= =?utf-8?q?=C3=9F?= é", b"Subject: =?utf-8?b?R3LDvMOfIMOp?="),
        ("Subject: a\r\n ü", b"Subject: =?utf-8?b?YSDDvA==?="),
        ("From: Änne <anne@example.com>", b"From: =?utf-8?b?w4RubmU=?= <anne@example.com>"),
        ("To: bob@example.com, Änne <a@b.c>", b"To: <bob@example.com>,\r\n =?utf-8?b?w4RubmU=?= <a@b.c>"),
        ('To: "O, Bob" <"b b"@x.y>, ä <a@b.c>', b'To: =?utf-8?b?TywgQm9i?= <"b b"@x.y>,\r\n =?utf-8?b?w6Q=?= <a@b.c>'),
        ("Cc: Ann <ann@bücher.example>", b"Cc: Ann <ann@xn--bcher-kva.example>"),
        ("To: Ünbekannt:;", b"To: =?utf-8?b?w5xuYmVrYW5udA==?=:;"),
        ("X-Note: ä", b"X-Note: =?utf-8?b?w6Q=?="),
        ("Content-Description: ä", b"Content-Description: =?utf-8?b?w6Q=?="),
        ("Cc: Ännes: ann@example.com, ö <o@x.y>;", b"Cc: <ann@example.com>,\r\n =?utf-8?b?w7Y=?= <o@x.y>"),
        (
            'Content-Disposition: attachment; filename="ä\\"b.txt"; size=3',
            b"Content-Disposition: attachment; filename*=utf-8''%C3%A4%22b.txt; size=3",
        ),
        ("Content-Type: text/plain; name=ä (ö)", b"Content-Type: text/plain; name*=utf-8''%C3%A4 (??)"),
    ],
)
def test_fields(field: str, shown: bytes) -> None:
    assert header(field) == shown


@pytest.mark.parametrize("field", ["Message-ID: <ä@b>", "Received: from ä by b", "References:\r\n <ä@b>", "Größe: 1"])
def test_what_has_no_form_is_left_out(field: str) -> None:
    """RFC 6858 §2.4."""
    assert downgrade(f"A: 1\r\n{field}\r\nZ: 2\r\n\r\nBödy\r\n".encode()) == "A: 1\r\nZ: 2\r\n\r\nBödy\r\n".encode()


PARTS = """\
A: 1
Content-Type: multipart/mixed; boundary=b

Prämbel
--b
Content-Type: multipart/alternative; boundary=c

--c
Content-Type: text/plain; charset=utf-8

Content-Description: ä is text here
--c
Content-Description: ä
X-Note: ö

--c--
--b
Content-Type: message/global
Content-Disposition: attachment; filename=ü.eml

Subject: ß

ß
--b
Content-Disposition: attachment; filename="ä.txt"
--b--
Nächwort
""".replace("\n", "\r\n")


def test_headers_of_parts_too_and_nothing_else() -> None:
    """RFC 6858 §2.2; a message inside is a body."""
    shown = PARTS.replace("Description: ä\r", "Description: =?utf-8?b?w6Q=?=\r").replace(
        "X-Note: ö", "X-Note: =?utf-8?b?w7Y=?="
    )
    shown = shown.replace("filename=ü.eml", "filename*=utf-8''%C3%BC.eml")
    shown = shown.replace('filename="ä.txt"', "filename*=utf-8''%C3%A4.txt\r\n")
    assert downgrade(PARTS.encode()) == shown.encode()
    assert downgrade(shown.encode()) == shown.encode()


def test_the_header_of_the_message_is_not_spared_for_its_parts() -> None:
    shown = downgrade(("Subject: ä\r\n" + PARTS).encode())
    assert shown.startswith(b"Subject: =?utf-8?b?w6Q=?=\r\nA: 1\r\n")
    assert b"filename*=utf-8''%C3%BC.eml" in shown


def test_parts_are_rewritten_up_to_a_limit() -> None:
    part = "--b\r\nContent-Description: " + "ä" * 1000 + "\r\n\r\n"
    data = ("Content-Type: multipart/mixed; boundary=b\r\n\r\n" + part * 40).encode()
    shown = downgrade(data)
    assert shown.count("ä".encode() * 1000) == 40 - MAX_HEADER // 2024
    assert shown.endswith(part.encode())


def test_an_address_without_a_form_in_ascii_is_nobody_with_its_name() -> None:
    shown = header("From: Jörg <jörg@example.com>")
    assert shown.endswith(b" <%b>" % NOBODY)
    assert decode_words(shown.partition(b" <")[0]) == "From: Jörg jörg@example.com"
    too_long = header(f"From: ann@{'ü' * 300}.example")
    assert too_long.endswith(b" <%b>" % NOBODY)


def test_bare_line_ends_stay_line_ends() -> None:
    assert downgrade("A: 1\nSubject: ü\n\n.\n".encode()) == b"A: 1\nSubject: =?utf-8?b?w7w=?=\r\n\n.\n"


@settings(max_examples=50)
@given(st.text(max_size=150))
def test_a_subject_is_read_back_and_no_line_is_too_long(text: str) -> None:
    text = " ".join(text.split()).replace("\0", "")
    data = f"Subject: ä {text}\r\n\r\n".encode("utf-8", "replace")
    shown = downgrade(data)
    assert shown.isascii()
    assert all(len(line) <= 85 for line in shown.split(b"\r\n"))
    assert decode_words(shown[9:-4].replace(b"\r\n", b"")) == decode_words(data[9:-4].strip())


@given(st.lists(st.sampled_from([b"From", b"Subject", b": ", b"\r\n", b"\n", b" ", "ä".encode(), b"\xe4", b"<", b'"',
                                 b"(", b"@", b",", b";", b"=", b"\\", b"Content-Type", b"\r", b"\0"])))  # fmt: skip
def test_anything_becomes_something_with_the_same_body(pieces: list[bytes]) -> None:
    data = b"X-A: 1\r\n" + b"".join(pieces) + b"\r\n\r\n" + "bödy".encode()
    shown = downgrade(data)
    assert shown.endswith("bödy".encode())
    assert len(email.message_from_bytes(shown, policy=email.policy.compat32).keys()) >= 1


@pytest.mark.parametrize("piece", ["(", '"', "\\", "=ä", "<", "ä=", "ä,", "a:", 'ä="', "a", "a ", "a;"])
@pytest.mark.parametrize("name", ["From", "Content-Type", "Subject"])
def test_a_hostile_header_takes_linear_time(name: str, piece: str) -> None:
    began = time.process_time()
    downgrade(f"{name}: ä{piece * (60_000 // len(piece.encode()))}\r\n\r\n".encode())
    assert time.process_time() - began < 2
