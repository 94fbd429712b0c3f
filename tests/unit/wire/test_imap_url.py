"""URLs of messages, as CATENATE has them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.errors import BadSyntax
from sora.wire.imap_fetch import Section
from sora.wire.imap_url import MessageUrl, parse_section, parse_url

WHOLE = Section((), b"", b"")


def part(path: tuple[int, ...], text: bytes = b"", fields: tuple[bytes, ...] = ()) -> Section:
    return Section(path, text, b"", fields, peek=True)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (b"/Drafts;UIDVALIDITY=385759045/;UID=20", MessageUrl("Drafts", 385759045, 20, WHOLE)),
        (b"/Drafts/;UID=20", MessageUrl("Drafts", None, 20, WHOLE)),
        (b"/a/b/;uid=20/;section=1.2.MIME", MessageUrl("a/b", None, 20, part((1, 2), b"MIME"))),
        (b"/inbox/;UID=1/;SECTION=HEADER", MessageUrl("INBOX", None, 1, part((), b"HEADER"))),
        (b"/Entw%C3%BCrfe/;UID=1", MessageUrl("Entwürfe", None, 1, WHOLE)),
        (b"/a%2Fb%3Bc/;UID=1", MessageUrl("a/b;c", None, 1, WHOLE)),
        (b";UID=20/;SECTION=1", MessageUrl(None, None, 20, part((1,)))),
        (b"/;UID=20", MessageUrl(None, None, 20, WHOLE)),
        (b"/a/;UID=1/;PARTIAL=5.10", MessageUrl("a", None, 1, WHOLE, (5, 10))),
        (b"/a/;UID=1/;SECTION=TEXT/;PARTIAL=5", MessageUrl("a", None, 1, part((), b"TEXT"), (5, None))),
        (
            b'/a/;UID=1/;SECTION=1.HEADER.FIELDS%20(To%20"From")',
            MessageUrl("a", None, 1, part((1,), b"HEADER.FIELDS", (b"To", b"From"))),
        ),
    ],
)
def test_urls(url: bytes, expected: MessageUrl) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        b"", b"/", b"/INBOX", b"/INBOX/", b";UID=", b";UID=0", b"/a/;UID=4294967296", b"//host/a/;UID=1",
        b"imap://host/a/;UID=1", b"/a;UIDVALIDITY=0/;UID=1", b"/a/;UID=1/", b"/a/;UID=1/;SECTION=", b"/%FF/;UID=1",
        b"/a%/;UID=1", b"/a/;UID=1/;PARTIAL=1.0", b"/a/;UID=1/;PARTIAL=-1", b"/a/;UID=1;URLAUTH=anonymous",
        b"/a/;UID=1/;PARTIAL=0/;SECTION=1", b"/a?TEXT%20x", b"a/;UID=1",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_message(url: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_url(url)


@pytest.mark.parametrize(
    "text",
    [
        b"MIME", b"1.", b".1", b"1HEADER", b"1.HEADER.FIELDS", b"HEADER (a)", b"0", b"1..2", b"HEADER.FIELDS ()",
        b"1 (a)", b"1." * 200 + b"1", b'HEADER.FIELDS (a"b)', b"HEADER.FIELDS (a  b)",
    ],
)  # fmt: skip
def test_what_is_no_section(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_section(text)


@given(st.binary(max_size=80))
def test_nothing_else_is_raised(tail: bytes) -> None:
    for url in (tail, b"/a/;UID=1" + tail, b"/a/;UID=1/;SECTION=" + tail):
        with suppress(BadSyntax):
            assert parse_url(url).uid >= 1
