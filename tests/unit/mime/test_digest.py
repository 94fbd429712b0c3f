"""What is kept about a message."""

from __future__ import annotations

import gc
import mmap
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora._native.mimescan import scan
from sora.mime.digest import (
    HEADER_LIMIT,
    Digest,
    base_subject,
    digest,
    message_ids,
    parse_date,
    searchable,
)
from sora.mime.message import parse
from sora.mime.preview import LENGTH

if TYPE_CHECKING:
    from pathlib import Path

MAIL = """\
From: =?utf-8?q?J=C3=B6rg?= <joerg@example.com>
To: Bob <bob@example.com>, carol@example.com
Cc: dave@example.com
Bcc: erin@example.com
Reply-To: replies@example.com
Subject: Re: [list] =?utf-8?b?w6TDtsO8?= (fwd)
Date: Tue, 2 Jan 2024 10:11:12 +0100
Message-ID: <1@x>
In-Reply-To: message of Monday <0@x> <other@x>
References: <r0@x> junk <"r1"@x>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b

preamble
--b
Content-Type: multipart/alternative; boundary=a

--a
Content-Type: text/html; charset=utf-8

<style>p {}</style><p>Hello <b>HTML</b></p>
--a
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Hello W=F6rld,
this   is text.
--a--
--b
Content-Type: application/octet-stream
Content-Transfer-Encoding: base64

c2VjcmV0
--b
Content-Type: text/plain; name=notes.txt
Content-Disposition: attachment
Content-Transfer-Encoding: base64

Tm90ZXM=
--b
Content-Type: message/rfc822

Subject: =?utf-8?q?Inn=C3=A9r?=

inner text
--b--
epilogue
"""


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


@pytest.fixture(scope="module")
def facts() -> Digest:
    return digest(crlf(MAIL))


def test_texts(facts: Digest) -> None:
    assert facts.subject == "Re: [list] äöü (fwd)"
    assert facts.base_subject == "äöü"
    assert facts.sender == "Jörg <joerg@example.com>"
    assert facts.to == "Bob <bob@example.com>, carol@example.com"
    assert (facts.cc, facts.bcc, facts.reply_to) == ("dave@example.com", "erin@example.com", "replies@example.com")
    assert (facts.display_from, facts.display_to) == ("Jörg", "Bob")


def test_threading(facts: Digest) -> None:
    assert (facts.message_id, facts.in_reply_to, facts.references) == ("<1@x>", "<0@x>", "<r0@x> <r1@x>")
    assert facts.sent_at == datetime(2024, 1, 2, 9, 11, 12, tzinfo=UTC)


def test_imap_texts_are_those_of_the_message(facts: Digest) -> None:
    assert facts.envelope.startswith(b'("Tue, 2 Jan 2024 10:11:12 +0100" "Re: [list] =?utf-8?b?w6TDtsO8?= (fwd)"')
    assert facts.body_structure.endswith(b' "mixed" ("boundary" "b") NIL NIL NIL)')


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"Subject: x\r\n\r\nbody\r\n", b"Subject: x\r\n\r\n"),
        (b"Subject: x\n y\n\nbody\n", b"Subject: x\n y\n\n"),
        (b"Subject: x\r\n", b"Subject: x\r\n"),
        (b"\r\nbody\r\n", b"\r\n"),
        (b"", b""),
    ],
)
def test_header_is_kept_octet_for_octet(data: bytes, expected: bytes) -> None:
    assert digest(data).header == expected == data[slice(*parse(data).section((), b"HEADER") or ())]


def test_a_header_is_kept_up_to_the_limit() -> None:
    longest = b"X: " + b"x" * (HEADER_LIMIT - 7) + b"\r\n\r\n"
    assert digest(longest + b"body").header == longest
    assert digest(b"x" + longest + b"body").header is None


def test_header_text_is_decoded_folded_and_has_a_line_for_each_field(facts: Digest) -> None:
    lines = facts.header_text.split("\n")
    assert lines[0] == "FROM: JO\u0308RG <JOERG@EXAMPLE.COM>"
    assert "SUBJECT: RE: [LIST] A\u0308O\u0308U\u0308 (FWD)" in lines
    own = [line for line in lines if not line.startswith(" ")]
    assert own[-2:] == ["CONTENT-TYPE: MULTIPART/MIXED; BOUNDARY=B", ""]


def test_header_text_has_the_fields_of_the_parts_behind_a_space(facts: Digest) -> None:
    lines = facts.header_text.split("\n")
    first = next(number for number, line in enumerate(lines) if line.startswith(" "))
    assert lines[first - 1] == "CONTENT-TYPE: MULTIPART/MIXED; BOUNDARY=B"
    assert " CONTENT-TYPE: MESSAGE/RFC822" in lines
    assert all(line.startswith(" ") for line in lines[first:-1])
    assert "INNE" not in facts.header_text


def test_body_text_is_every_text_and_the_headers_of_messages_inside(facts: Digest) -> None:
    for expected in ("HELLO HTML", "HELLO WO\u0308RLD,\r\nTHIS   IS TEXT.", "NOTES", "INNE\u0301R", "INNER TEXT"):
        assert expected in facts.body_text
    for hidden in ("SECRET", "C2VJ", "P {}", "PREAMBLE", "EPILOGUE", "BOUNDARY", "JOERG"):
        assert hidden not in facts.body_text
    assert not facts.body_truncated


def test_searchable_is_the_same_without_a_limit(facts: Digest) -> None:
    assert searchable(crlf(MAIL)) == (facts.header_text, facts.body_text)
    long = b"\r\n" + b"x" * 500_000
    assert digest(long).body_truncated
    assert searchable(long)[1] == "X" * 500_000


def test_reports_are_searched() -> None:
    report = b"Content-Type: message/Delivery-Status\r\n\r\nFinal-Recipient: rfc822; Gone@example.org\r\n"
    assert digest(report).body_text == "FINAL-RECIPIENT: RFC822; GONE@EXAMPLE.ORG\r\n"
    assert digest(report).preview == ""


def test_preview_prefers_the_plain_text(facts: Digest) -> None:
    assert facts.preview == "Hello Wörld, this is text."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Content-Type: text/html\n\n<p>a&amp;b</p>", "a&b"),
        ("Content-Type: image/png\n\nx", ""),
        ("Content-Disposition: attachment\n\nx", ""),
        ("\n" + "word " * 100, "word " * 39 + "word"),
        ("\n   \n", ""),
        ("Content-Type: multipart/mixed; boundary=b\n\n--b\n\n \n--b\n\nsecond\n--b--", "second"),
        ("Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\n\nforwarded\n--b--", ""),
        ("Content-Type: message/rfc822\n\n\nforwarded", "forwarded"),
    ],
)
def test_preview(text: str, expected: str) -> None:
    preview = digest(crlf(text)).preview
    assert preview == expected
    assert len(preview) <= LENGTH


@pytest.mark.parametrize(
    ("limit", "text", "truncated"), [(0, "", True), (4, "ABCD", True), (5, "ABCDE", False), (9, "ABCDE", False)]
)
def test_body_limit(limit: int, text: str, truncated: bool) -> None:
    facts = digest(b"\r\nabcde", limit)
    assert (facts.body_text, facts.body_truncated) == (text, truncated)


def test_body_limit_over_several_parts() -> None:
    data = crlf("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nabc\n--b\n\ndef\n--b--")
    assert digest(data, 7).body_text == "ABC\nDEF"
    assert not digest(data, 7).body_truncated
    for limit in range(7):
        facts = digest(data, limit)
        assert facts.body_text == "ABC\nDEF"[:limit].removesuffix("\n")
        assert facts.body_truncated


def test_nothing_to_index_is_not_truncated() -> None:
    assert not digest(b"Content-Type: image/png\r\n\r\nx", 0).body_truncated
    assert not digest(b"", 0).body_truncated


@pytest.mark.parametrize(
    ("subject", "base"),
    [
        ("", ""),
        ("plain", "plain"),
        ("Re: x", "x"),
        ("RE : x", "x"),
        ("re:x", "x"),
        ("Fw: x", "x"),
        ("Fwd: Re: FW: x", "x"),
        ("Re[2]: x", "x"),
        ("Re [2]: x", "x"),
        ("[list] Re: x", "x"),
        ("[a] [b] Re: [c] x", "x"),
        ("[list] x", "x"),
        ("x (fwd)", "x"),
        ("x (FWD) (fwd) ", "x"),
        ("[Fwd: x]", "x"),
        ("[Fwd: Re: [fwd: x] (fwd)]", "x"),
        ("a \t b", "a b"),
        # nothing but decoration
        ("[only]", "[only]"),
        ("[a] [b]", "[b]"),
        ("Re:", ""),
        ("Re: [x]", "[x]"),
        # words that only look like it
        ("Regarding: x", "Regarding: x"),
        ("Rex: y", "Rex: y"),
        ("x [y]", "x [y]"),
        ("x re: y", "x re: y"),
        ("[open Re: x", "[open Re: x"),
        ("(fwd)", ""),
    ],
)
def test_base_subject(subject: str, base: str) -> None:
    """RFC 5256 §2.1."""
    assert base_subject(subject) == base


def test_base_subject_of_hostile_subjects_is_cheap() -> None:
    started = time.process_time()
    for piece in ("[a]", "re:", "(fwd)", "[fwd:", "[", " "):
        base_subject(piece * 100_000)
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Tue, 2 Jan 2024 10:11:12 +0100", datetime(2024, 1, 2, 9, 11, 12, tzinfo=UTC)),
        (b"2 Jan 2024 10:11 -0030", datetime(2024, 1, 2, 10, 41, tzinfo=UTC)),
        (b"Tue, 2 Jan 2024 10:11:12 GMT", datetime(2024, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (b"Tue, 2 Jan 2024 10:11:12 EST (comment)", datetime(2024, 1, 2, 15, 11, 12, tzinfo=UTC)),
        (b"Tue, 2 Jan 2024 10:11:12", datetime(2024, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (b"(c) Tue,2 Jan 2024 10:11:12 +0000", datetime(2024, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (b"Tuesday, 02-Jan-24 10:11:12 UT", datetime(2024, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (b"2 January 2024 10.11.12 +0000", datetime(2024, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (b"2 Jan 99 10:11:12 +0000", datetime(1999, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (b"2 Jan 49 10:11:12 +0000", datetime(2049, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (b"2 Jan 124 10:11:12 +0000", datetime(2024, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (b"Tue Jan  2 10:11:12 2024", datetime(2024, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (b"Tue Jan  2 10:11:12 CET 2024", datetime(2024, 1, 2, 9, 11, 12, tzinfo=UTC)),
        (b"31 Dec 2016 23:59:60 +0000", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (b"2 Jan 2024", datetime(2024, 1, 2, tzinfo=UTC)),
        (b"2 Jan 2024 10:11:12 XYZZY", datetime(2024, 1, 2, 10, 11, 12, tzinfo=UTC)),
        (b"1 Jan 0001 00:00:00 +0100", None),
        (b"31 Dec 9999 23:00:00 -0200", None),
        (b"30 Feb 2024 10:11:12 +0000", None),
        (b"2 Jan 2024 25:11:12 +0000", None),
        (b"2 Foo 2024 10:11:12 +0000", None),
        (b"0 Jan 2024 10:11:12 +0000", None),
        (b"yesterday", None),
        (b"\xff\0", None),
        (b"", None),
    ],
)
def test_parse_date(value: bytes, expected: datetime | None) -> None:
    assert parse_date(value) == expected


@given(st.text("0123456789 :+-,.()JanTueGMT", max_size=50))
def test_parse_date_takes_everything(value: str) -> None:
    parsed = parse_date(value.encode())
    assert parsed is None or parsed.tzinfo is UTC


def test_message_ids() -> None:
    assert message_ids(None) == []
    assert message_ids(b"<a@b>,<c@d> e <f g> <> <h") == ["<a@b>", "<c@d>"]
    assert message_ids(b'"your <x>" <a@b> <c@> <@d> <e@f>') == ["<a@b>", "<e@f>"]
    assert message_ids(rb'<"a\"b"@c>') == message_ids(rb'<"a\"b"@c>')
    assert message_ids(b'<"01KF"@x>') == message_ids(b"<01KF@x>")
    assert message_ids(b"<\xe4@x>") == ["<ä@x>"]


def test_an_invalid_message_id_is_none() -> None:
    facts = digest(b"Message-ID: no brackets\r\nIn-Reply-To: your mail of Monday\r\nReferences:\r\n\r\n")
    assert (facts.message_id, facts.in_reply_to, facts.references) == (None, None, "")


@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(lambda body: (MAIL + body).encode())))
def test_digest_takes_everything_and_can_be_stored(data: bytes) -> None:
    facts = digest(data)
    for name in Digest.__struct_fields__:
        value = getattr(facts, name)
        if isinstance(value, str):
            assert "\0" not in value
            value.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"Subject: " + b"=?utf-8?q?a?= " * 100_000,
        b"References: " + b"<a@b> " * 200_000,
        b"To: " + b"a@b, " * 100_000,
        b"From: a@b\r\n" * 50_000,
        b"Content-Type: text/html\r\n\r\n" + b"<" * 1_000_000,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 100_000,
        b"Content-Type: message/rfc822\r\n\r\n" * 30_000,
        b"Content-Type: text/plain;" + b"a=b;" * 100_000,
    ],
    ids=["words", "references", "to", "froms", "html", "parts", "messages", "parameters"],
)
def test_hostile_messages_cost_little(data: bytes) -> None:
    started = time.process_time()
    digest(data)
    assert time.process_time() - started < 4


@pytest.mark.parametrize(
    "data",
    [MAIL.encode(), b"Content-Type: message/rfc822\r\n\r\n", b"Content-Type: multipart/x; boundary=b\r\n\r\n--b\r\n"],
)
def test_a_tree_goes_with_its_last_user(data: bytes) -> None:
    gc.disable()
    try:
        before = sys.getrefcount(data)
        root = scan(data)
        assert sys.getrefcount(data) > before
        del root
        assert sys.getrefcount(data) == before
    finally:
        gc.enable()


def test_a_mapped_file_is_as_good_as_bytes(tmp_path: Path) -> None:
    data = MAIL.encode() + b"x" * 100_000
    path = tmp_path / "mail"
    path.write_bytes(data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert digest(mapped) == digest(data)
        root = scan(mapped)
        with pytest.raises(BufferError):
            mapped.close()  # the tree stands on it
        assert root.first(b"message-id") == b"<1@x>"
        del root


@pytest.mark.parametrize("data", ["text", None, 5])
def test_anything_else_is_a_mistake(data: object) -> None:
    with pytest.raises(TypeError):
        scan(data)  # type: ignore[arg-type]
