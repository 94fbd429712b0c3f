"""ENVELOPE and BODYSTRUCTURE (RFC 3501 §7.4.2); the corpus test checks whole messages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.mime import message

CORPUS: Final = Path(__file__).parents[2] / "corpus"


def envelope(header: bytes) -> list[bytes]:
    """The ten fields, as text."""
    parsed, _ = read_value(message.parse(header + b"\r\n").envelope(), 0)
    assert isinstance(parsed, list)
    return [write(value) for value in parsed]


def structure(text: str) -> bytes:
    return message.parse(text.replace("\n", "\r\n").encode()).bodystructure()


Value = bytes | None | list["Value"]


def read_value(text: bytes, position: int) -> tuple[Value, int]:
    """An IMAP value and where it ends; fails on anything that is none."""
    if text.startswith(b"(", position):
        position += 1
        values: list[Value] = []
        while not text.startswith(b")", position):
            if values and text.startswith(b" ", position):
                position += 1
            value, position = read_value(text, position)
            values.append(value)
        return values, position + 1
    match = re.compile(rb'"((?:[^"\\\r\n\0\x80-\xff]|\\["\\])*)"').match(text, position)
    if match:
        return re.sub(rb"\\(.)", rb"\1", match[1]), match.end()
    match = re.compile(rb"\{(\d+)\}\r\n").match(text, position)
    if match:
        data = text[match.end() : match.end() + int(match[1])]
        assert len(data) == int(match[1])
        assert b"\0" not in data
        return data, match.end() + len(data)
    match = re.compile(rb"NIL|\d+").match(text, position)
    assert match, text[position : position + 40]
    return (None if match[0] == b"NIL" else match[0]), match.end()


def write(value: Value) -> bytes:
    if value is None:
        return b"NIL"
    if isinstance(value, list):
        return b"(" + b" ".join(map(write, value)) + b")"
    return value


def test_fields_in_order() -> None:
    fields = envelope(
        b"Message-ID: <m>\r\nIn-Reply-To: <i>\r\nBcc: b@x\r\nCc: c@x\r\nTo: t@x\r\nReply-To: r@x\r\nSender: s@x\r\n"
        b"From: f@x\r\nSubject: subject\r\nDate: date\r\n"
    )
    assert fields == [
        b"date", b"subject", b"((NIL NIL f x))", b"((NIL NIL s x))", b"((NIL NIL r x))", b"((NIL NIL t x))",
        b"((NIL NIL c x))", b"((NIL NIL b x))", b"<i>", b"<m>",
    ]  # fmt: skip


@pytest.mark.parametrize("empty", [b"", b"Sender:\r\nReply-To: \r\n", b"Sender: (none)\r\n"])
def test_sender_and_reply_to_default_to_from(empty: bytes) -> None:
    fields = envelope(b"From: F <f@x>\r\n" + empty)
    assert fields[2:5] == [b"((F NIL f x))"] * 3


def test_without_from_there_is_no_default() -> None:
    assert envelope(b"To: t@x\r\n")[2:5] == [b"NIL"] * 3


def test_groups_have_no_host_and_broken_addresses_do() -> None:
    assert envelope(b"To: g: a@b;, plain, <>\r\n")[5] == (
        b"((NIL NIL g NIL) (NIL NIL a b) (NIL NIL NIL NIL) (NIL NIL plain MISSING_DOMAIN)"
        b" (NIL NIL MISSING_MAILBOX MISSING_DOMAIN))"
    )


def test_address_fields_that_come_twice_are_one_list_and_of_others_the_last_counts() -> None:
    fields = envelope(b"From: a@x\r\nSubject: 1\r\nFrom: b@x\r\nSubject: 2\r\nDate: 1\r\nDate: 2\r\n")
    assert fields[:3] == [b"2", b"2", b"((NIL NIL a x) (NIL NIL b x))"]


def test_values_stay_as_they_were_sent() -> None:
    fields = envelope(b"Subject: =?utf-8?q?a?=\r\n\t=?utf-8?q?b?=\r\nFrom: =?utf-8?q?=C3=A4?= <a@b>\r\n")
    assert fields[1:3] == [b"=?utf-8?q?a?= =?utf-8?q?b?=", b"((=?utf-8?q?=C3=A4?= NIL a b))"]


def test_empty_is_not_missing() -> None:
    assert message.parse(b"Subject:\r\nDate: \r\n").envelope().startswith(b'("" "" NIL')


def test_octets_that_cannot_be_quoted_come_as_literals() -> None:
    text = message.parse(b'Subject: \xc3\xa4\r\nFrom: "a\xff" <b@c>\r\nMessage-ID: <a\0b>\r\n').envelope()
    assert text == b'(NIL {2}\r\n\xc3\xa4 (({2}\r\na\xff NIL "b" "c")) (({2}\r\na\xff NIL "b" "c")) ' + (
        b'(({2}\r\na\xff NIL "b" "c")) NIL NIL NIL NIL {7}\r\n<a\xef\xbf\xbdb>)'
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\nabc", b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 3 0 NIL NIL NIL NIL)'),
        ("\na\nb\n", b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 6 2 NIL NIL NIL NIL)'),
        (
            "Content-Type: TEXT/HTML; Name=x; CharSet=y\n\n",
            b'("TEXT" "HTML" ("Name" "x" "CharSet" "y") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)',
        ),
        (
            "Content-Type: image/png\nContent-ID: <i>\nContent-Description: d e\n"
            "Content-Transfer-Encoding: (c) BASE64\nContent-MD5: m\n"
            "Content-Disposition: attachment; filename*0=a; filename*1=b\n"
            "Content-Language: en, de\nContent-Location: http://l\n\nabcd",
            b'("image" "png" NIL "<i>" "d e" "BASE64" 4 "m" ("attachment" ("filename*0" "a" "filename*1" "b"))'
            b' ("en" "de") "http://l")',
        ),
        (
            "Content-Type: image/png\nContent-Disposition: inline\nContent-Language: en\n\n",
            b'("image" "png" NIL NIL NIL "7bit" 0 NIL ("inline" NIL) ("en") NIL)',
        ),
        (
            "Content-Type: image/png\nContent-Disposition: ;x=y\nContent-Language: ,\nContent-Transfer-Encoding:\n\n",
            b'("image" "png" NIL NIL NIL "7bit" 0 NIL NIL NIL NIL)',
        ),
        (
            "Content-Type: message/rfc822\n\nSubject: s\n\nb",
            b'("message" "rfc822" NIL NIL NIL "7bit" 15 (NIL "s" NIL NIL NIL NIL NIL NIL NIL NIL)'
            b' ("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 1 0 NIL NIL NIL NIL) 2 NIL NIL NIL NIL)',
        ),
        (
            "Content-Type: multipart/mixed; boundary=b\nContent-Disposition: inline\nContent-Language: en\n"
            "Content-Location: l\n\n--b\n\nx\n--b--",
            b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 1 0 NIL NIL NIL NIL) "mixed" ("boundary" "b")'
            b' ("inline" NIL) ("en") "l")',
        ),
        (
            "Content-Type: multipart/mixed\n\nx",
            b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL) "mixed" NIL NIL NIL NIL)',
        ),
    ],
)
def test_structures(text: str, expected: bytes) -> None:
    assert structure(text) == expected


def test_what_is_too_deep_is_an_opaque_attachment() -> None:
    text = structure("Content-Type: message/rfc822\n\n" * 120)
    assert text.count(b'"message" "rfc822"') == 100
    assert b'("application" "octet-stream" NIL NIL NIL "7bit" ' in text


def check_body(value: Value) -> None:
    """The grammar of `body` (RFC 3501 §9)."""
    assert isinstance(value, list)
    if isinstance(value[0], list):
        count = next(i for i, item in enumerate(value) if not isinstance(item, list))
        for child in value[:count]:
            check_body(child)
        assert len(value) == count + 5
        assert value[count]
        return
    kind, subtype = (part.lower() for part in value[:2])  # type: ignore[union-attr]
    assert isinstance(value[6], bytes)
    assert value[6].isdigit()
    extra = 1 if kind == b"text" else 3 if (kind, subtype) == (b"message", b"rfc822") else 0
    assert len(value) == 7 + extra + 4
    if extra == 3:
        assert len(value[7]) == 10  # type: ignore[arg-type]
        check_body(value[8])


header_text = st.sampled_from(
    [
        b"Content-Type: ", b"Content-Disposition: ", b"Content-Language: ", b"From: ", b"To: ", b"Subject: ",
        b"text/plain", b"multipart/mixed; boundary=b", b"message/rfc822", b'; name="', b'"', b"\\", b"(", b")",
        b"<", b">", b"@", b",", b";", b":", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b"\xff", b"\xc3\xa4", b" ",
        b"\t", b"--b", b"--b--", b"a",
    ]
)  # fmt: skip


@given(st.one_of(st.lists(header_text, max_size=40).map(b"".join), st.binary(max_size=200)))
def test_output_is_valid_imap_for_any_octets(data: bytes) -> None:
    parsed = message.parse(data)
    for text in (parsed.envelope(), parsed.bodystructure(), parsed.body()):
        _, end = read_value(text, 0)
        assert end == len(text)
    check_body(read_value(parsed.bodystructure(), 0)[0])
    fields = read_value(parsed.envelope(), 0)[0]
    assert isinstance(fields, list)
    assert len(fields) == 10


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.eml")), ids=lambda path: path.stem)
def test_corpus(path: Path) -> None:
    """Messages of every shape against texts that were compared with another server's, and with the RFC."""
    parsed = message.parse(path.read_bytes())
    expected = path.with_suffix(".expected").read_bytes()
    assert parsed.envelope() + b"\n" + parsed.bodystructure() + b"\n" + parsed.body() + b"\n" == expected
