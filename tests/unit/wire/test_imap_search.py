"""The grammar of SEARCH."""

from __future__ import annotations

import encodings
from datetime import date

import pytest

from sora._native.imapscan import Command, NeedLiteral, Scanner
from sora._native.seqset import SeqSet, UidSet
from sora.errors import BadSyntax
from sora.wire import imap_search as s
from sora.wire.imap_search import MAX_DEPTH, MAX_KEYS, DateField, Relation, Search, parse_search

SEEN = rb"\Seen"


def parse(arguments: bytes, name: bytes = b"SEARCH") -> Search:
    scanner = Scanner()
    scanner.feed(b"a " + name + b" " + arguments + b"\r\n")
    while isinstance(command := scanner.next(), NeedLiteral):
        scanner.accept()
    assert isinstance(command, Command)
    return parse_search(command.cursor)


KEYS: dict[bytes, s.SearchKey] = {
    b"ALL": s.All(),
    b"answered": s.HasFlag(rb"\Answered", True),
    b"UNANSWERED": s.HasFlag(rb"\Answered", False),
    b"DELETED": s.HasFlag(rb"\Deleted", True),
    b"UNDELETED": s.HasFlag(rb"\Deleted", False),
    b"DRAFT": s.HasFlag(rb"\Draft", True),
    b"UNDRAFT": s.HasFlag(rb"\Draft", False),
    b"FLAGGED": s.HasFlag(rb"\Flagged", True),
    b"UNFLAGGED": s.HasFlag(rb"\Flagged", False),
    b"SEEN": s.HasFlag(SEEN, True),
    b"UNSEEN": s.HasFlag(SEEN, False),
    b"RECENT": s.IsRecent(True),
    b"OLD": s.IsRecent(False),
    b"NEW": s.And((s.IsRecent(True), s.HasFlag(SEEN, False))),
    b"KEYWORD $Junk": s.HasFlag(b"$Junk", True),
    b"UNKEYWORD $Junk": s.HasFlag(b"$Junk", False),
    b"BEFORE 1-Feb-1994": s.ByDate(DateField.INTERNAL, Relation.BEFORE, date(1994, 2, 1)),
    b'ON "1-Feb-1994"': s.ByDate(DateField.INTERNAL, Relation.ON, date(1994, 2, 1)),
    b"since 1-feb-1994": s.ByDate(DateField.INTERNAL, Relation.SINCE, date(1994, 2, 1)),
    b"SENTBEFORE 1-Feb-1994": s.ByDate(DateField.SENT, Relation.BEFORE, date(1994, 2, 1)),
    b"SENTON 1-Feb-1994": s.ByDate(DateField.SENT, Relation.ON, date(1994, 2, 1)),
    b"SENTSINCE 1-Feb-1994": s.ByDate(DateField.SENT, Relation.SINCE, date(1994, 2, 1)),
    b"SAVEDBEFORE 1-Feb-1994": s.ByDate(DateField.SAVED, Relation.BEFORE, date(1994, 2, 1)),
    b"SAVEDON 1-Feb-1994": s.ByDate(DateField.SAVED, Relation.ON, date(1994, 2, 1)),
    b"SAVEDSINCE 1-Feb-1994": s.ByDate(DateField.SAVED, Relation.SINCE, date(1994, 2, 1)),
    b"SAVEDATESUPPORTED": s.SaveDateSupported(),
    b"OLDER 60": s.Within(60, older=True),
    b"YOUNGER 60": s.Within(60, older=False),
    b"LARGER 5000000000": s.BySize(5000000000, larger=True),
    b"SMALLER 0": s.BySize(0, larger=False),
    b"FROM joe": s.HeaderText("FROM", "joe", shortcut=True),
    b"TO joe": s.HeaderText("TO", "joe", shortcut=True),
    b"CC joe": s.HeaderText("CC", "joe", shortcut=True),
    b"BCC joe": s.HeaderText("BCC", "joe", shortcut=True),
    b'SUBJECT ""': s.HeaderText("SUBJECT", "", shortcut=True),
    b'HEADER x-Foo "a b"': s.HeaderText("X-FOO", "a b"),
    b"BODY {4+}\r\na\r\nb": s.BodyText("a\r\nb", headers=False),
    b"TEXT x": s.BodyText("x", headers=True),
    b"1:3,5": s.InSeqs(SeqSet.parse(b"1:3,5")),
    b"*": s.InSeqs(SeqSet.parse(b"*")),
    b"$": s.InSeqs(SeqSet.parse(b"$")),
    b"UID 4:*": s.InUids(UidSet.parse(b"4:*")),
    b"EMAILID M1-a": s.ByObjectId(b"M1-a", thread=False),
    b"THREADID T1": s.ByObjectId(b"T1", thread=True),
    b"FUZZY FROM x": s.Fuzzy(s.HeaderText("FROM", "x", shortcut=True)),
    b"FILTER on-the-road": s.Filter(b"on-the-road"),
    b"NOT SEEN": s.Not(s.HasFlag(SEEN, True)),
    b"OR ALL NOT ALL": s.Or(s.All(), s.Not(s.All())),
    b"(ALL)": s.All(),
    b"ALL (SEEN 1)": s.And((s.All(), s.And((s.HasFlag(SEEN, True), s.InSeqs(SeqSet.parse(b"1")))))),
}


@pytest.mark.parametrize("text", KEYS, ids=repr)
def test_keys(text: bytes) -> None:
    flags = {"has_fuzzy": b"FUZZY" in text, "has_filter": b"FILTER" in text}
    assert parse(text) == Search(KEYS[text], **flags)
    assert parse(text + b"  ") == Search(KEYS[text], **flags)
    assert parse(text, b"UID SEARCH") == Search(KEYS[text], uid=True, **flags)


def test_modseq() -> None:
    assert parse(b"MODSEQ 0") == Search(s.ByModSeq(0), has_modseq=True)
    assert parse(b'NOT MODSEQ "/flags/\\\\draft" all 620162338') == Search(
        s.Not(s.ByModSeq(620162338, rb"\draft", b"ALL")), has_modseq=True
    )


RETURNS: dict[bytes, tuple[frozenset[str] | None, tuple[int, int] | None]] = {
    b"ALL": (None, None),
    b"RETURN () ALL": (frozenset({"ALL"}), None),
    b"return (min Max COUNT save) ALL": (frozenset({"MIN", "MAX", "COUNT", "SAVE"}), None),
    b"RETURN (PARTIAL 1:500 COUNT) ALL": (frozenset({"PARTIAL", "COUNT"}), (1, 500)),
    b"RETURN (PARTIAL -1:-100) ALL": (frozenset({"PARTIAL"}), (-1, -100)),
    b"RETURN (CONTEXT UPDATE) ALL": (frozenset({"CONTEXT", "UPDATE"}), None),
}


@pytest.mark.parametrize("text", RETURNS, ids=repr)
def test_returns(text: bytes) -> None:
    found = parse(text)
    assert (found.returns, found.partial) == RETURNS[text]
    assert found.key == s.All()


def test_charset() -> None:
    assert parse(b"CHARSET iso-8859-1 SUBJECT {1+}\r\n\xfc") == Search(
        s.HeaderText("SUBJECT", "ü", shortcut=True), charset="ISO-8859-1", charset_given=True
    )
    assert not parse(b"SUBJECT x").charset_given
    assert parse(b"RETURN (ALL) CHARSET UTF-8 TEXT {2+}\r\n\xc3\xbc").key == s.BodyText("ü", headers=True)
    assert parse(b"TEXT {2+}\r\n\xc3\xbc").key == s.BodyText("ü", headers=True)
    assert parse(b"CHARSET Shift_JIS TEXT {2+}\r\n\x83\x41").key == s.BodyText("ア", headers=True)


@pytest.mark.parametrize("charset", [b"utf8", b"UTF_8", b"Latin1", b"cp1252"])
def test_misnomers_that_clients_send_are_known(charset: bytes) -> None:
    assert parse(b"CHARSET %s TEXT x" % charset).charset_known


@pytest.mark.parametrize("charset", [b"idna", b"unicode_escape", b"zip", b"rot13", b"undefined"])
def test_codecs_that_are_no_charsets_are_unknown(charset: bytes) -> None:
    assert not parse(b"CHARSET %s TEXT x" % charset).charset_known


def test_python_remembers_no_charset_that_a_client_made_up() -> None:
    """Each name that Python looks for in vain stays in its cache, so clients could fill the memory."""
    before = len(encodings._cache)
    for number in range(50):
        assert not parse(b"CHARSET made-up-%d TEXT x" % number).charset_known
    assert len(encodings._cache) == before


@pytest.mark.parametrize("text", [b"+AAA-", b"a+2AA-", b"+3/8-"])
def test_characters_that_nothing_stored_can_have_are_refused(text: bytes) -> None:
    """NUL and lone surrogates, which PostgreSQL takes in no text."""
    with pytest.raises(BadSyntax):
        parse(b"CHARSET UTF-7 TEXT " + text)


def test_every_charset_decodes() -> None:
    for charset in s._CHARSETS:
        assert b"".decode(charset) == ""


def test_unknown_charset_is_no_syntax_error() -> None:
    """It is answered by NO [BADCHARSET], once the whole command is known to be well-formed."""
    found = parse(b"CHARSET x-klingon TEXT {1+}\r\n\xfc")
    assert not found.charset_known
    assert found.charset == "X-KLINGON"
    with pytest.raises(BadSyntax):
        parse(b"CHARSET x-klingon FOO")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"FOO",
        b"KEYWORD",
        b"KEYWORD \\Seen",
        b"BEFORE",
        b"BEFORE x",
        b"OLDER 0",
        b"LARGER x",
        b"FROM",
        b"FROM %",
        b"HEADER x",
        b"UID",
        b"UID x",
        b"NOT",
        b"OR ALL",
        b"()",
        b"(ALL",
        b"ALL)",
        b"(ALL )",
        b"0",
        b"1:",
        b"ALL  SEEN",
        b"SEEN(ALL)",
        b"MODSEQ",
        b"MODSEQ x",
        b'MODSEQ "/flags/a" 5',
        b'MODSEQ "/flags/a" FOO 5',
        b'MODSEQ "/foo" all 5',
        b"MODSEQ 9223372036854775808",
        b"RETURN",
        b"RETURN ALL",
        b"RETURN (FOO) ALL",
        b"RETURN (MIN)",
        b"RETURN (PARTIAL) ALL",
        b"RETURN (PARTIAL 0:1) ALL",
        b"RETURN (PARTIAL 1:-1) ALL",
        b"RETURN (ALL PARTIAL 1:2) ALL",
        b"RETURN (PARTIAL 1:2 PARTIAL 3:4) ALL",
        b"RETURN (RELEVANCY ALL) TEXT x",
        b"FILTER",
        b"FILTER a/b",
        b"FILTER a]",
        b'FILTER "a"',
        b"FUZZY",
        b"CHARSET",
        b"CHARSET UTF-8",
        b"CHARSET US-ASCII TEXT {1+}\r\n\xfc",
        b"TEXT {1+}\r\n\xfc",
        b"ALL x",
        b"CHARSET UTF-8 RETURN (MIN) ALL",
        b"SAVEDATESUPPORTEDX",
        b"SENTUNSEEN",
        b"UNRECENT",
    ],
    ids=repr,
)
def test_refuse(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse(text)


@pytest.mark.parametrize("prefix", [b"NOT ", b"(", b"FUZZY "])
def test_nesting_is_bounded(prefix: bytes) -> None:
    def nested(depth: int) -> bytes:
        return prefix * depth + b"ALL" + (b")" * depth if prefix == b"(" else b"")

    assert parse(nested(MAX_DEPTH))
    with pytest.raises(BadSyntax, match="nest"):
        parse(nested(MAX_DEPTH + 1))


def test_number_of_keys_is_bounded() -> None:
    found = parse(b" ".join([b"ALL"] * MAX_KEYS))
    assert isinstance(found.key, s.And)
    assert len(found.key.keys) == MAX_KEYS
    with pytest.raises(BadSyntax, match="too many"):
        parse(b" ".join([b"ALL"] * (MAX_KEYS + 1)))
