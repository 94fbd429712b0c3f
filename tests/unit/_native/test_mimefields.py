"""Parameters, addresses and IMAP text: examples from the RFCs and from mail that breaks them."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora._native.mimefields import (
    nstring,
    parse_addresses,
    parse_content_type,
    parse_disposition,
    parse_tokens,
    strip_extensions,
)

if TYPE_CHECKING:
    from sora._native.mimefields import AddressTuple

NO_DOMAIN = b""
GROUP_END = (None, None, None, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"text/plain", (b"text", b"plain", [])),
        (b"Text/X-Y; CharSet=UTF-8", (b"Text", b"X-Y", [(b"CharSet", b"UTF-8")])),
        (b'a/b;x="a b\\"c\\\\"', (b"a", b"b", [(b"x", b'a b"c\\')])),
        (b"a (c) / (d) b (e) ; (f) x (g) = (h) y (i) ; z=1", (b"a", b"b", [(b"x", b"y"), (b"z", b"1")])),
        # RFC 2231 forms stay as they are sent
        (b"a/b; x*0*=u''%20; x*1=b", (b"a", b"b", [(b"x*0*", b"u''%20"), (b"x*1", b"b")])),
        # broken, but clear
        (b"a/b x=1; y=2", (b"a", b"b", [(b"y", b"2")])),
        (b"a/b; name=a b.txt ; y=2", (b"a", b"b", [(b"name", b"a b.txt"), (b"y", b"2")])),
        (b"a/b; name=a/b.txt", (b"a", b"b", [(b"name", b"a/b.txt")])),
        (b'a/b; x="open; y=2', (b"a", b"b", [(b"x", b"open; y=2")])),
        (b'a/b; "x;y"=1; z=2', (b"a", b"b", [(b"z", b"2")])),
        (b"a/b; ; x; =1; y=; z=2;", (b"a", b"b", [(b"y", b""), (b"z", b"2")])),
        (b'a/b; x="\xc3\xa4"', (b"a", b"b", [(b"x", b"\xc3\xa4")])),
        (b"a/b; x=1; x=2", (b"a", b"b", [(b"x", b"1"), (b"x", b"2")])),
        # no type
        (b"", None),
        (b"text", None),
        (b"text/", None),
        (b"/plain", None),
        (b"text plain", None),
        (b'"text"/plain', None),
        (b"(open text/plain", None),
    ],
)
def test_parse_content_type(value: bytes, expected: object) -> None:
    assert parse_content_type(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"attachment", (b"attachment", [])),
        (b" (c) inline ; size=3", (b"inline", [(b"size", b"3")])),
        (b"attachment filename=x", (b"attachment", [])),
        (b"", None),
        (b";filename=x", None),
    ],
)
def test_parse_disposition(value: bytes, expected: object) -> None:
    assert parse_disposition(value) == expected


def test_parse_tokens() -> None:
    assert parse_tokens(b" en, (c) de;fr  x-y,,") == [b"en", b"de", b"fr", b"x-y"]
    assert parse_tokens(b" (c)") == []


def plain(mailbox: bytes, host: bytes = NO_DOMAIN, name: bytes | None = None) -> AddressTuple:
    return name, None, mailbox, host


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", []),
        (b"a@b", [plain(b"a", b"b")]),
        (b"<a@b>", [plain(b"a", b"b")]),
        (b"A B <a@b>, c@d", [plain(b"a", b"b", b"A B"), plain(b"c", b"d")]),
        (b"J. R.  Smith <j@x.y>", [plain(b"j", b"x.y", b"J. R. Smith")]),
        (b'"q\\"x, y" <a@b>', [plain(b"a", b"b", b'q"x, y')]),
        (b'"A" "B" C <a@b>', [plain(b"a", b"b", b"A B C")]),
        (b"=?utf-8?q?a?= <a@b>", [plain(b"a", b"b", b"=?utf-8?q?a?=")]),
        (b"a@[1.2.3.4]", [plain(b"a", b"[1.2.3.4]")]),
        (b'"a b"@c.d, <"e, f"@g>', [plain(b"a b", b"c.d"), plain(b"e, f", b"g")]),
        # obsolete forms (RFC 5322 §4.4)
        (b"a . b @ c . d", [plain(b"a.b", b"c.d")]),
        (b"A <@a, @b:u@d>", [(b"A", b"@a,@b", b"u", b"d")]),
        (b",, a@b, ,", [plain(b"a", b"b")]),
        # comments: behind the address they name its owner
        (b"a@b (A (x) \\) B)", [plain(b"a", b"b", b"A (x) ) B")]),
        (b"(x) a@b", [plain(b"a", b"b")]),
        (b'"n" (c) <a@b>', [plain(b"a", b"b", b"n")]),
        (b"<a@b> (A)", [plain(b"a", b"b", b"A")]),
        (b"a (x)@b", [plain(b"a", b"b", b"x")]),
        # groups
        (b"g: a@b, C <c@d>;", [(None, None, b"g", None), plain(b"a", b"b"), plain(b"c", b"d", b"C"), GROUP_END]),
        (b"undisclosed recipients:;", [(None, None, b"undisclosed recipients", None), GROUP_END]),
        (b"g: a@b", [(None, None, b"g", None), plain(b"a", b"b"), GROUP_END]),
        (b"g:;, a@b", [(None, None, b"g", None), GROUP_END, plain(b"a", b"b")]),
        # broken
        (b"a", [plain(b"a")]),
        (b"A B", [plain(b"", name=b"A B")]),
        (b"<>", [plain(b"")]),
        (b"A <a>", [plain(b"a", name=b"A")]),
        (b"@b", [plain(b"", b"b")]),
        (b"a@", [plain(b"a")]),
        (b"a@b@c", [plain(b"a@b", b"c")]),
        (b"a@b c", [plain(b"a", b"b")]),
        (b"A b@c", [plain(b"b", b"c", b"A")]),
        (b"a@b <c@d>", [plain(b"c", b"d", b"a@b")]),
        (b"<a@b <c@d>", [plain(b"a", b"b"), plain(b"c", b"d")]),
        (b"<a@b, c@d", [plain(b"a", b"b"), plain(b"c", b"d")]),
        (b"a@b>, c@d", [plain(b"a", b"b"), plain(b"c", b"d")]),
        (b"a@b; c@d", [plain(b"a", b"b"), plain(b"c", b"d")]),
        (b"<a@b> rest, c@d", [plain(b"a", b"b"), plain(b"c", b"d")]),
        (b'"open <a@b>', [plain(b"", name=b"open <a@b>")]),
        (b"a@b (open", [plain(b"a", b"b", b"open")]),
        (b"\xc3\xa4 <a@b>", [plain(b"a", b"b", b"\xc3\xa4")]),
    ],
)
def test_parse_addresses(value: bytes, expected: list[AddressTuple]) -> None:
    assert parse_addresses(value) == expected


def test_addresses_end_at_the_limit() -> None:
    value = b"a@b, g: c@d, e@f;, h@i"
    found = parse_addresses(value)
    assert parse_addresses(value, 6) == parse_addresses(value, -1) == found
    assert parse_addresses(value, 2) == [*found[:2], (None, None, None, None)], "the group is closed"
    assert parse_addresses(value, 4) == [*found[:4], (None, None, None, None)]
    assert parse_addresses(value, 5) == found[:5]
    assert parse_addresses(value, 1) == found[:1]
    assert parse_addresses(value, 0) == []


@given(st.binary(max_size=80) | st.text('<>@,;:."()\\[] ab', max_size=40).map(str.encode))
def test_no_value_is_refused(value: bytes) -> None:
    parse_content_type(value)
    parse_disposition(value)
    assert all(parse_tokens(value))
    in_group = False
    for name, _, mailbox, host in parse_addresses(value):
        assert name != b""
        if host is None:  # the marks of groups alternate
            assert (mailbox is None) == in_group
            in_group = not in_group
    assert not in_group


@pytest.mark.parametrize("piece", [b"<", b"<@", b"a@b,", b"(", b'"\\', b"a:", b"a ", b".", b"[", b"<a@b> ", b"@"])
def test_addresses_take_linear_time(piece: bytes) -> None:
    started = time.process_time()
    parse_addresses(piece * (600_000 // len(piece)))
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, b"NIL"),
        (b"", b'""'),
        (b"a b", b'"a b"'),
        (b'a"b\\c', b'"a\\"b\\\\c"'),
        (b"\xc3\xa4", b"{2}\r\n\xc3\xa4"),
        (b"a\r\nb", b"{4}\r\na\r\nb"),
        (b"a\0b", b"{5}\r\na\xef\xbf\xbdb"),
        (b"\xff\0", b"{4}\r\n\xff\xef\xbf\xbd"),
        (b"a\tb\x7f", b'"a\tb\x7f"'),
    ],
)
def test_nstring(value: bytes | None, expected: bytes) -> None:
    assert nstring(value) == expected


@given(st.binary(max_size=60))
def test_nstring_is_one_imap_string(value: bytes) -> None:
    text = nstring(value)
    assert b"\0" not in text
    if text.startswith(b"{"):
        length, data = re.fullmatch(rb"\{(\d+)\}\r\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        assert int(length) == len(data)
        assert data == value.replace(b"\0", b"\xef\xbf\xbd")
    else:
        assert re.fullmatch(rb'"(?:[^"\\\r\n\x80-\xff]|\\["\\])*"', text)
        assert re.sub(rb"\\(.)", rb"\1", text[1:-1]) == value


LEAF = b'("image" "png" ("name" "a)(b") NIL NIL "base64" 12'
TEXT = b'("TEXT" "plain" NIL NIL {3}\r\n"(( "7bit" 12 1'
ENVELOPE = b'("d" "s(" ((NIL NIL "a" "b")) NIL NIL NIL NIL NIL NIL NIL)'
TAIL = b' NIL ("inline" ("x" "y")) ("en" "de") {2}\r\n))'


@pytest.mark.parametrize(
    ("structure", "body"),
    [
        (LEAF + TAIL + b")", LEAF + b")"),
        (TEXT + b" NIL NIL NIL NIL)", TEXT + b")"),
        (
            b"(" + TEXT + TAIL + b")" + LEAF + TAIL + b') "mixed" ("boundary" "b") NIL NIL NIL)',
            b"(" + TEXT + b")" + LEAF + b') "mixed")',
        ),
        (
            b'("message" "rfc822" NIL NIL NIL "7bit" 99 ' + ENVELOPE + b" " + TEXT + TAIL + b") 3 NIL NIL NIL NIL)",
            b'("message" "rfc822" NIL NIL NIL "7bit" 99 ' + ENVELOPE + b" " + TEXT + b") 3)",
        ),
        (b'("message" "partial" NIL NIL NIL "7bit" 9 NIL NIL NIL NIL)', b'("message" "partial" NIL NIL NIL "7bit" 9)'),
    ],
)
def test_strip_extensions(structure: bytes, body: bytes) -> None:
    assert strip_extensions(structure) == body
    assert strip_extensions(body) == body
