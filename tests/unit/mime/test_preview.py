"""What a list of messages shows of a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.mime.digest import digest
from sora.mime.preview import LENGTH, preview

REPLY = """\
I agree with all of it.

On Thursday, 1 January 2026 at 10:00,
Somebody Else <somebody@example.org> wrote:

> Do you agree?
> Please answer.

--\x20
Jörg
Head of Everything
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (REPLY, "I agree with all of it."),
        ("Am 1. Januar schrieb Jörg:\n> ja?\nJa.", "Ja."),
        ("> ja?\nJa.\n> nein?\nNein.\n", "Ja. Nein."),
        ("First paragraph.\n\nHe said this:\n> this\nend", "First paragraph. end"),
        ("No introduction before\n> a quotation\n", "No introduction before"),
        ("> only\n> quoted\n", "> only > quoted"),
        ("--\nonly a signature", "-- only a signature"),
        ("text\n--\nsignature", "text"),
        ("text\n-- no signature", "text -- no signature"),
        ("look\n\n-----Original Message-----\nFrom: a@example.org\n", "look"),
        ("look\n---------- Forwarded message ---------\nFrom: a\n", "look"),
        ("==========\nNEWS\n* * *\nof today\n", "NEWS of today"),
        ("\u200b\u00ad\u034f \u200c news", "news"),
        ("a\u00adb", "ab"),
        ("\u200b\u200b", ""),
        ("a\nb\nc\nd\ne:\n> q", "a b"),
        ("x" * 300, "x" * LENGTH),
        ("word " * 38 + "a-long-one-at-the-end", "word " * 37 + "word"),
        ("> " + "q" * 9000 + "\nown", "> " + "q" * (LENGTH - 2)),
        ("\n" * 9000 + "late", "late"),
        ("", ""),
    ],
)
def test_preview(text: str, expected: str) -> None:
    assert preview(text) == expected


def test_of_html() -> None:
    html = (
        b"Content-Type: text/html; charset=utf-8\r\n\r\n<html><head><title>Shop</title><style>p {}</style></head>"
        b"<body><!-- hidden -->"
        b"<p>Dear <b>J\xc3\xb6rg</b>,</p><p>your&nbsp;order &amp; mine</p><script>x()</script></body>"
    )
    assert digest(html).preview == "Dear Jörg, your order & mine"


@given(st.text(st.sampled_from("ab >\n-:\u200b=."), max_size=400))
def test_short_one_line_and_empty_only_without_text(text: str) -> None:
    made = preview(text)
    assert len(made) <= LENGTH
    assert made == " ".join(made.split())
    assert bool(made) == bool(" ".join(text.replace("\u200b", "").split()))
    assert "\u200b" not in made
