"""Parts by number and sections as spans (RFC 3501 §6.4.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sora.mime import message

if TYPE_CHECKING:
    from sora.mime.message import Message

# The example of RFC 3501 §6.4.5, with a text in part 4 and a multipart in 4.2.
NESTED = """\
From: outer
Content-Type: multipart/mixed; boundary=o

--o
Content-Type: text/plain

1
--o
Content-Type: application/octet-stream

2
--o
Content-Type: message/rfc822
X: m3

From: inner3
Content-Type: multipart/mixed; boundary=i

--i
Content-Type: text/plain

3.1
--i
Content-Type: application/octet-stream

3.2
--i--

--o
Content-Type: multipart/mixed; boundary=p

--p
Content-Type: image/gif

4.1
--p
Content-Type: message/rfc822

Subject: inner4.2

4.2.1
--p--
--o--
"""


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


@pytest.fixture
def nested() -> Message:
    return message.parse(crlf(NESTED))


def section(parsed: Message, path: tuple[int, ...], text: bytes = b"") -> bytes | None:
    span = parsed.section(path, text)
    return None if span is None else parsed.data[span[0] : span[1]]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((1,), b"1"),
        ((2,), b"2"),
        ((3, 1), b"3.1"),
        ((3, 2), b"3.2"),
        ((4, 1), b"4.1"),
        ((4, 2, 1), b"4.2.1"),
        ((0,), None),
        ((5,), None),
        ((1, 1), None),
        ((3, 3), None),
        ((4, 3), None),
        ((4, 2, 2), None),
        ((4, 2, 1, 1), None),
    ],
)
def test_bodies_of_parts(nested: Message, path: tuple[int, ...], expected: bytes | None) -> None:
    assert section(nested, path) == expected
    assert (nested.part(path) is None) == (expected is None)


def test_the_message(nested: Message) -> None:
    assert section(nested, ()) == nested.data
    header = section(nested, (), b"HEADER")
    assert header == b"From: outer\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n"
    assert header + section(nested, (), b"TEXT") == nested.data
    assert section(nested, (), b"MIME") is None
    assert nested.part(()) is nested.root


def test_messages_inside(nested: Message) -> None:
    assert section(nested, (3,), b"MIME") == b"Content-Type: message/rfc822\r\nX: m3\r\n\r\n"
    assert section(nested, (3,), b"HEADER").startswith(b"From: inner3\r\n")
    assert section(nested, (3,)) == section(nested, (3,), b"HEADER") + section(nested, (3,), b"TEXT")
    assert section(nested, (3,)).endswith(b"--i--\r\n")
    assert section(nested, (4, 2), b"HEADER") == b"Subject: inner4.2\r\n\r\n"
    assert section(nested, (4, 2), b"TEXT") == b"4.2.1"
    assert section(nested, (4, 2, 1), b"MIME") == b"Subject: inner4.2\r\n\r\n"


@pytest.mark.parametrize("path", [(1,), (4,), (3, 1), (4, 2, 1), (9,)])
def test_header_and_text_need_a_message(nested: Message, path: tuple[int, ...]) -> None:
    """Never the whole message instead: an unknown part is none."""
    assert section(nested, path, b"HEADER") is None
    assert section(nested, path, b"TEXT") is None
    assert nested.header_fields(path, [b"From"], exclude=False) == b""


def test_mime_headers(nested: Message) -> None:
    assert section(nested, (4, 1), b"MIME") == b"Content-Type: image/gif\r\n\r\n"
    assert section(nested, (9,), b"MIME") is None


def test_a_single_part_is_part_one() -> None:
    parsed = message.parse(b"Subject: x\r\n\r\nbody")
    assert section(parsed, (1,)) == b"body"
    assert section(parsed, (1,), b"MIME") == b"Subject: x\r\n\r\n"
    assert section(parsed, (2,)) is None
    assert section(parsed, (1, 1)) is None
    assert section(parsed, (1,), b"HEADER") is None


def test_a_message_that_is_a_message() -> None:
    parsed = message.parse(crlf("Content-Type: message/rfc822\n\nSubject: x\n\nbody"))
    assert section(parsed, (1,)) == b"Subject: x\r\n\r\nbody"
    assert section(parsed, (1,), b"HEADER") == b"Subject: x\r\n\r\n"
    assert section(parsed, (1, 1)) == b"body"
    assert section(parsed, (1, 1, 1)) is None


@pytest.mark.parametrize("head", ["", "; boundary=b"])
def test_a_multipart_without_parts_has_an_empty_one(head: str) -> None:
    """BODYSTRUCTURE must name a part, so it can be fetched."""
    parsed = message.parse(crlf(f"Content-Type: multipart/mixed{head}\n\nno parts"))
    assert section(parsed, (1,)) == b""
    assert section(parsed, (2,)) is None
    assert section(parsed, (1, 1)) is None
    assert section(parsed, (1,), b"MIME") is None
    assert section(parsed, (), b"TEXT") == b"no parts"


def test_a_multipart_without_parts_inside_a_message() -> None:
    parsed = message.parse(crlf("Content-Type: message/rfc822\n\nContent-Type: multipart/mixed\n\nx"))
    assert section(parsed, (1, 1)) == b""
    assert section(parsed, (1, 2)) is None


FIELDS = b"Subject: one\r\nX-A: 1\r\n folded\r\nno colon\r\nsubject : two\r\nTo: x\r\n\r\nbody"


@pytest.mark.parametrize(
    ("names", "exclude", "expected"),
    [
        ([b"SUBJECT"], False, b"Subject: one\r\nsubject : two\r\n\r\n"),
        ([b"x-a", b"to"], False, b"X-A: 1\r\n folded\r\nTo: x\r\n\r\n"),
        ([b"none"], False, b"\r\n"),
        ([b""], False, b"no colon\r\n\r\n"),
        ([b"Subject", b"X-A"], True, b"no colon\r\nTo: x\r\n\r\n"),
        ([], True, FIELDS[:-4]),
    ],
)
def test_header_fields(names: list[bytes], exclude: bool, expected: bytes) -> None:
    assert message.parse(FIELDS).header_fields((), names, exclude) == expected


def test_header_fields_of_a_message_inside(nested: Message) -> None:
    assert nested.header_fields((4, 2), [b"Subject"], exclude=False) == b"Subject: inner4.2\r\n\r\n"


def test_no_blank_line_is_made_up() -> None:
    """RFC 3501 §6.4.5: except a message without body and blank line."""
    assert message.parse(b"A: 1\r\nB: 2\r\n").header_fields((), [b"a"], exclude=False) == b"A: 1\r\n"


def test_body_is_bodystructure_without_extensions(nested: Message) -> None:
    assert nested.bodystructure().endswith(b' "mixed" ("boundary" "o") NIL NIL NIL)')
    assert nested.body().startswith(b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 1 0)("application"')
    assert nested.body().endswith(b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 5 0) 2) "mixed") "mixed")')


def test_the_empty_message() -> None:
    parsed = message.parse(b"")
    assert parsed.envelope() == b"(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)"
    assert parsed.bodystructure() == b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)'
    assert section(parsed, (1,)) == b""
