"""What is searched for: one line for each criterion."""

from __future__ import annotations

from typing import Final


def _literal(text: str, charset: str = "utf-8") -> bytes:
    data = text.encode(charset)
    return b"{%d+}\r\n%b" % (len(data), data)


_KEYS: Final = rb"""
ALL
SEEN
UNSEEN
FLAGGED UNANSWERED
ANSWERED UNDELETED
DRAFT
UNDRAFT UNFLAGGED
DELETED
KEYWORD work
UNKEYWORD $Forwarded
KEYWORD nobody-set-this
NOT SEEN NOT FLAGGED
OR SEEN DELETED
OR (SEEN FLAGGED) (ANSWERED KEYWORD work)
NOT (OR SEEN FLAGGED)
1:10
5,7:9,*
UID 1:20
UID 100:* SEEN
NOT 10:*
BEFORE 1-Feb-2024
SINCE 1-Mar-2024 BEFORE 1-Apr-2024
ON 15-Jan-2024
NOT SINCE 15-Feb-2024
SENTBEFORE 1-Jan-2001
SENTSINCE 1-Jan-2001
SENTSINCE 1-Jan-2024 SENTBEFORE 3-Jan-2024
SENTON 1-Jan-2024
NOT SENTSINCE 1-Jan-1990
LARGER 5000
SMALLER 300
LARGER 300 SMALLER 600
FROM example.org
FROM "alice"
FROM "@"
TO "example.com"
TO person
CC "a@b"
CC ""
BCC group
SUBJECT test
SUBJECT "again"
SUBJECT ""
HEADER Content-Type multipart
HEADER Message-ID "<"
HEADER X-Long ""
HEADER X-Nowhere ""
HEADER Received localhost
HEADER Reply-To example
HEADER Subject "part"
BODY text
BODY "boundary"
BODY "the"
BODY "ABCDEF"
BODY "<br"
TEXT "example.org"
TEXT "multipart/mixed"
TEXT "unlikely words that nobody wrote"
NOT TEXT "a"
OR FROM alice SUBJECT date
SUBJECT message NOT BODY hello
OR (BODY hello) (TO "b@") SEEN
RECENT
OLD SEEN
""".strip().splitlines()

CRITERIA: Final = [
    *(b"SEARCH " + key for key in _KEYS),
    b"SEARCH CHARSET UTF-8 SUBJECT " + _literal("grüße"),
    b"SEARCH CHARSET UTF-8 SUBJECT " + _literal("ПРИВЕТ"),
    b"SEARCH CHARSET UTF-8 TEXT " + _literal("日本"),
    b"SEARCH CHARSET UTF-8 FROM " + _literal("ï"),
    b"SEARCH CHARSET UTF-8 BODY " + _literal("zéro"),
    b"SEARCH CHARSET ISO-8859-1 TEXT " + _literal("é", "latin-1"),
    b"SEARCH CHARSET ISO-8859-1 SUBJECT " + _literal("ö", "latin-1"),
    b"SEARCH CHARSET KOI8-R BODY " + _literal("ю", "koi8-r"),
    b"SEARCH CHARSET US-ASCII SUBJECT test",
    b"SEARCH CHARSET X-NOBODY SUBJECT test",
    b"UID SEARCH CHARSET UTF-8 OR SUBJECT %b BODY %b" % (_literal("é"), _literal("€")),
]
"""Commands, with literals in them."""
