"""RFC 5173."""

from __future__ import annotations

import pytest

from sora.sieve.bodies import HTML_PIECE, MAX_BODY
from sora.sieve.limits import Limits
from tests.support.sieve import MAIL, did, execute, holds

TREE = b"""From: a@example.org\r
Content-Type: multipart/mixed; boundary=limit\r
\r
Prologue\r
--limit\r
Content-Type: text/plain; charset=iso-8859-1\r
Content-Transfer-Encoding: quoted-printable\r
\r
Gr=FC=DFe, MAKE MONEY FAST\r
--limit\r
Content-Type: text/html\r
Content-Transfer-Encoding: base64\r
\r
PHA+Y2xpY2sgPGI+aDwvYj5lcmU8L3A+PHNjcmlwdD5ldmlsPC9zY3JpcHQ+\r
--limit\r
Content-Type: application/octet-stream\r
\r
binary\r
--limit\r
Content-Type: message/rfc822\r
\r
From: inner@example.org\r
Subject: inside\r
\r
inner body\r
--limit--\r
Epilogue\r
"""


@pytest.mark.parametrize(
    ("test", "result"),
    [
        ('body :raw :contains "MAKE MONEY"', True),
        ('body :raw :contains "PHA+Y2"', True),
        ('body :raw :contains "From: a@"', False),
        ('body :raw :contains "Prologue"', True),
        ('body :contains "grüße"', True),
        ('body :contains "click here"', True),
        ('body :contains "evil"', False),
        ('body :contains "binary"', False),
        ('body :text :contains "make money"', True),
        ('body :contains "inner body"', True),
        ('body :content "text" :contains "<b>h</b>ere"', True),
        ('body :content "text/html" :contains "make money"', False),
        ('body :content "TEXT/HTML" :contains "click"', True),
        ('body :content ["image", "application"] :contains "binary"', True),
        ('body :content "application/octet-stream" "binary"', True),
        ('body :content "multipart" :contains "Prologue"', True),
        ('body :content "multipart" :contains "Epilogue"', True),
        ('body :content "multipart" :contains "make money"', False),
        ('body :content "message" :contains "inside"', True),
        ('body :content "message" :contains "inner body"', False),
        ('body :content "" :contains "binary"', True),
        ('body :content "image" :matches "*"', False),
        ('body :count "eq" :content "text" "3"', True),
        ('body :regex "m[a-z]+ey f(a|b)st"', True),
        ('body :matches "*make ????? fast*"', True),
    ],
)
def test_body(test: str, result: bool) -> None:
    assert holds(test, "body", "relational", "regex", mail=TREE) is result


def test_a_message_without_mime() -> None:
    assert holds('body :contains "anvil thing"', "body")
    assert holds('body :raw "Look, I\'m sorry about the whole anvil thing.\r\n"', "body")
    assert holds('body :is ""', "body", mail=b"Subject: x\r\n\r\n")


def test_match_variables_are_left_alone() -> None:  # §6
    script = """require ["body", "variables", "fileinto"];
        if string :matches "ab" "?*" {} if body :matches "Look*" { fileinto "${1}"; }"""
    assert did(script) == ["fileinto a"]


def test_a_body_is_decoded_once() -> None:
    spent = [
        execute('require "body";' + 'if body :contains "nothing" {}' * count, mail=MAIL + b"x" * 500_000).spent
        for count in (1, 2)
    ]
    assert spent[1] < spent[0] * 1.8


def test_what_is_looked_at_has_an_end() -> None:
    data = b"Subject: x\r\n\r\n" + b"x" * MAX_BODY + b"needle"
    assert not holds('body :contains "needle"', "body", mail=data, limits=Limits(instructions=10_000_000))
    assert holds('body :contains "needle"', "body", mail=data.replace(b"xxxxxxxneedle", b"needle"))


def test_long_html_is_read_in_pieces() -> None:
    html = b"<p>word</p>" * (HTML_PIECE // 5) + b"<p>nee<b>dle</b></p><script>hidden</script>"
    data = b"Content-Type: text/html\r\n\r\n" + html
    assert holds('body :contains "needle"', "body", mail=data)
    assert not holds('body :contains "hidden"', "body", mail=data)


def test_delimiters_belong_to_no_part() -> None:  # RFC 2046 §5.1.1
    assert not holds('body :content "multipart" :contains "limit"', "body", mail=TREE)
    assert holds('body :content "multipart" :contains ["Epilogue"]', "body", mail=TREE)
    assert holds('body :content "multipart" :matches "Prologue*"', "body", mail=TREE)
    without = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\none\r\n--x--"
    assert holds('body :content "multipart" :is ""', "body", mail=without)
    empty = b"Content-Type: multipart/mixed; boundary=x\r\n\r\nnothing but a prologue\r\n"
    assert holds('body :content "multipart" :contains "but a"', "body", mail=empty)
