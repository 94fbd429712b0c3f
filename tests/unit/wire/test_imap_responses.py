"""Writers of responses and strings; strings are read back by the cursor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora._native.imapscan import Command, Cursor, NeedLiteral, Scanner
from sora._native.seqset import SeqSet, UidSet
from sora.wire import imap_responses as responses
from sora.wire.imap_syntax import MAX_QUOTED, astring, literal, nstring, quoted, string


def read_back(written: bytes) -> Cursor:
    scanner = Scanner(1 << 20)
    scanner.feed(b"a X " + written + b"\r\n")
    while isinstance(found := scanner.next(), NeedLiteral):
        scanner.accept()
    assert isinstance(found, Command)
    return found.cursor.sp()


texts = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"x"))


@given(texts, st.booleans())
def test_strings_are_read_as_they_were(text: bytes, utf8: bool) -> None:
    for write in (string, astring, nstring):
        cur = read_back(write(text, utf8=utf8))
        assert cur.astring() == text
        cur.end()
    assert string(text, utf8=utf8)[:1] in b'"{'


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (b"INBOX", b"INBOX"),
        (b"a]b", b"a]b"),
        (b"", b'""'),
        (b"a b", b'"a b"'),
        (b'a"\\', b'"a\\"\\\\"'),
        (b"nil", b'"nil"'),
        (b"a%", b'"a%"'),
        (b"\xc3\xa4", b"{2}\r\n\xc3\xa4"),
        (b"a\r\nb", b"{4}\r\na\r\nb"),
        (b"a\nb", b"{3}\r\na\nb"),
    ],
)
def test_astring(text: bytes, written: bytes) -> None:
    assert astring(text) == written


def test_choice_of_strings() -> None:
    assert nstring(None) == b"NIL"
    assert string(b"\xc3\xa4", utf8=True) == b'"\xc3\xa4"'
    assert string(b"\r", utf8=True) == literal(b"\r")
    assert string(b" " * MAX_QUOTED) == quoted(b" " * MAX_QUOTED)
    assert string(b" " * (MAX_QUOTED + 1)).startswith(b"{1025}\r\n")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_mailbox_names_are_read_as_they_were(name: str) -> None:
    assert read_back(responses.mailbox(name)).mailbox() == ("INBOX" if name.upper() == "INBOX" else name)


def test_mailbox() -> None:
    assert responses.mailbox("Entwürfe") == b"Entw&APw-rfe"
    assert responses.mailbox("Entwürfe", utf8=True) == b'"Entw\xc3\xbcrfe"'


def test_list_line() -> None:
    assert responses.list_line([rb"\HasChildren", rb"\Sent"], "a b") == b'* LIST (\\HasChildren \\Sent) "/" "a b"\r\n'
    assert responses.list_line([rb"\Noselect"], "") == b'* LIST (\\Noselect) "/" ""\r\n'
    assert responses.list_line([], "x", verb=b"LSUB", delimiter=None) == b"* LSUB () NIL x\r\n"
    assert responses.list_line([], "ü", delimiter="\\", utf8=True) == b'* LIST () "\\\\" "\xc3\xbc"\r\n'
    assert (
        responses.list_line([], "x", child_info=("SUBSCRIBED",)) == b'* LIST () "/" x ("CHILDINFO" ("SUBSCRIBED"))\r\n'
    )


def test_status_line() -> None:
    written = responses.status_line("ü", [("MESSAGES", b"3"), ("MAILBOXID", b"(F1)")])
    assert written == b"* STATUS &APw- (MESSAGES 3 MAILBOXID (F1))\r\n"


def test_search_line() -> None:
    assert responses.search_line([]) == b"* SEARCH\r\n"
    assert responses.search_line([], modseq=5) == b"* SEARCH\r\n"
    assert responses.search_line(SeqSet.parse(b"1:3,9")) == b"* SEARCH 1 2 3 9\r\n"
    assert responses.search_line([2, 5], modseq=917) == b"* SEARCH 2 5 (MODSEQ 917)\r\n"


def test_response_codes() -> None:
    assert responses.appenduid(38505, UidSet.parse(b"3955:3956")) == b"APPENDUID 38505 3955:3956"
    assert (
        responses.copyuid(9, UidSet.parse(b"304,319:320"), UidSet.parse(b"3956:3958"))
        == b"COPYUID 9 304,319:320 3956:3958"
    )
    assert responses.vanished_line(UidSet.parse(b"5:6")) == b"* VANISHED 5:6\r\n"
    assert responses.vanished_line(UidSet.parse(b"5"), earlier=True) == b"* VANISHED (EARLIER) 5\r\n"
    assert responses.flag_list([rb"\Seen", b"x"]) == b"(\\Seen x)"
