"""What is searched for: one line for each criterion."""

from __future__ import annotations

from typing import Final

from tests.oracle.made import TEXTS


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
NOT NOT SEEN
NOT (NOT (NOT FLAGGED))
OR OR SEEN FLAGGED OR ANSWERED DRAFT
OR NOT SEEN NOT (FLAGGED NOT DRAFT)
(SEEN (FLAGGED (UNDELETED)))
OR (OR (SEEN KEYWORD work) (NOT FLAGGED DELETED)) (NOT (OR ANSWERED (DRAFT SEEN)))
NOT (OR (NOT SEEN) (NOT KEYWORD work))
OR 1:20 OR UID 50:60 100
NOT (1:100 SEEN) NOT (200:* FLAGGED)
UNKEYWORD nobody-set-this
KEYWORD WORK
KEYWORD $forwarded UNSEEN
NEW
NOT NEW
*
*:1
10:1
1,1,1:3
UID *
UID 99999
UID 99999:*
UID 20:10,1
NOT UID 1:*
seen undeleted
SINCE "1-Mar-2024"
ON "15-Jan-2024"
BEFORE 1-Jan-1970
SINCE 31-Dec-2099
SINCE 1-jan-2024 NOT ON 2-JAN-2024
OR BEFORE 10-Jan-2024 SINCE 20-Apr-2024
NOT (SINCE 1-Feb-2024 BEFORE 1-Mar-2024)
SENTON 31-Dec-2023
SENTON 2-Jan-2024
SENTBEFORE 1-Jan-2024 SENTSINCE 1-Dec-2023
OLDER 3600
YOUNGER 3600
NOT OLDER 86400
LARGER 0
SMALLER 1
NOT LARGER 1000
OR SMALLER 200 LARGER 20000
LARGER 4294967295
HEADER From example
HEADER TO "example.com"
HEADER date 2024
HEADER Content-Transfer-Encoding base64
HEADER Content-Transfer-Encoding ""
HEADER MIME-Version 1.0
HEADER Content-Disposition attachment
HEADER Subject ""
HEADER X-Mailer ""
NOT HEADER Message-ID ""
HEADER Received ""
HEADER References "@"
HEADER In-Reply-To "<"
HEADER Content-Type "charset=koi8-r"
HEADER Comments "Gr"
HEADER Keywords plain
HEADER X-Note "split"
SUBJECT "re: alpha"
SUBJECT ALPHA
SUBJECT "[list]"
SUBJECT "a\"b"
SUBJECT "  "
FROM "Zoe, the first"
FROM ALICE@EXAMPLE.ORG
TO "undisclosed"
CC alice
BODY "XXXX"
BODY "Hello World"
BODY "hello  world"
TEXT "Content-Type"
TEXT "ReAdEr@ExAmPlE.oRg"
TEXT ""
BODY ""
NOT BODY ""
OR TEXT "charset" NOT TEXT "example"
NOT (BODY text NOT SUBJECT test) SEEN
FROM example SUBJECT alpha NOT BODY xx
""".strip().splitlines()


def _charsets() -> list[bytes]:
    """Subject and text of each charset: asked in that charset, in UTF-8, in the other case, and in part."""
    found = []
    for charset, (subject, text) in TEXTS.items():
        name = charset.encode()
        found += [
            b"SEARCH CHARSET %b SUBJECT %b" % (name, _literal(subject, charset)),
            b"SEARCH CHARSET %b BODY %b" % (name.upper(), _literal(text, charset)),
            b"SEARCH CHARSET UTF-8 SUBJECT " + _literal(subject.upper()),
            b"SEARCH CHARSET UTF-8 TEXT " + _literal(text.lower()[1:]),
            b"UID SEARCH CHARSET UTF-8 OR SUBJECT %b NOT TEXT %b" % (_literal(subject[1:4]), _literal(text[:3])),
        ]
    return found


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
    *_charsets(),
    b"SEARCH CHARSET UTF-8 FROM " + _literal("überweisung"),
    b"SEARCH CHARSET UTF-8 FROM " + _literal("JOSÉ"),
    b"SEARCH CHARSET KOI8-R TO " + _literal("привет", "koi8-r"),
    b"SEARCH CHARSET UTF-8 HEADER Comments " + _literal("grüße aus köln"),
    b"SEARCH CHARSET ISO-8859-1 HEADER COMMENTS " + _literal("GRÜSSE", "latin-1"),
    b"SEARCH CHARSET UTF-8 HEADER X-Note " + _literal("split € sign"),
    b"SEARCH CHARSET UTF-8 HEADER Keywords " + _literal("résumé"),
    b"SEARCH CHARSET UTF-8 SUBJECT " + _literal("äRGER"),
    b"SEARCH CHARSET UTF-8 SUBJECT " + _literal("a\u0308rger"),
    b"SEARCH CHARSET UTF-8 BODY " + _literal("nai\u0308ve cafe\u0301"),
    b"SEARCH CHARSET UTF-8 SUBJECT " + _literal("ａｌｐｈａ"),
    b"SEARCH CHARSET UTF-8 BODY " + _literal("\ufb01"),
    b"SEARCH CHARSET UTF-8 SUBJECT {3+}\r\n\xff\xfe\xfd",
    b"SEARCH CHARSET US-ASCII SUBJECT {2+}\r\n\xc3\xa4",
    b"SEARCH CHARSET utf-8 SUBJECT alpha",
    b'SEARCH CHARSET "UTF-8" SUBJECT alpha',
    b"SEARCH CHARSET UTF-8 ALL",
]
"""Commands, with literals in them."""

SORT_KEYS: Final = (b"ARRIVAL", b"CC", b"DATE", b"FROM", b"SIZE", b"SUBJECT", b"TO", b"DISPLAYFROM", b"DISPLAYTO")
SORTS: Final = [
    *(b"SORT (%b) UTF-8 ALL" % key for key in SORT_KEYS),
    *(b"SORT (REVERSE %b) US-ASCII ALL" % key for key in SORT_KEYS),
    *(
        b"SORT (%b) UTF-8 %b" % (keys, what)
        for keys in (
            b"SUBJECT DATE", b"SUBJECT REVERSE DATE", b"REVERSE SUBJECT FROM", b"FROM SUBJECT", b"TO REVERSE ARRIVAL",
            b"CC REVERSE SIZE", b"REVERSE DATE SUBJECT", b"SIZE REVERSE SUBJECT", b"DISPLAYFROM SUBJECT",
            b"REVERSE DISPLAYTO DATE", b"DATE REVERSE ARRIVAL", b"REVERSE FROM REVERSE TO REVERSE SUBJECT",
            b"SUBJECT FROM TO CC DATE SIZE ARRIVAL", b"ARRIVAL REVERSE DATE",
        )
        for what in (b"ALL", b"UNSEEN", b"1:200 NOT FLAGGED")
    ),
    b"SORT (SUBJECT) UTF-8 SUBJECT " + _literal("ä"),
    b"SORT (REVERSE SUBJECT DATE) KOI8-R TEXT " + _literal("чаю", "koi8-r"),
    b"SORT (FROM) ISO-8859-1 TEXT " + _literal("grüßen", "latin-1"),
    b"UID SORT (SUBJECT) UTF-8 SEEN",
    b"UID SORT (REVERSE DISPLAYFROM) UTF-8 UID 20:90",
    b"SORT (DATE) X-NOBODY ALL",
    b"SORT (DATE) UTF-8 KEYWORD nobody-set-this",
    b"SORT (NONSENSE) UTF-8 ALL",
    b"SORT () UTF-8 ALL",
]  # fmt: skip
"""SORT commands (RFC 5256 §3, RFC 5957)."""

THREADINGS: Final = (b"ORDEREDSUBJECT", b"REFERENCES", b"REFS")
THREAD_SETS: Final = (b"ALL", b"UNSEEN", b"1:80", b"NOT SEEN NOT FLAGGED", b"KEYWORD nobody-set-this")
