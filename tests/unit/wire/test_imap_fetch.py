"""The grammar of FETCH."""

from __future__ import annotations

import pytest

from sora._native.imapscan import Command, Scanner
from sora._native.seqset import SeqSet, UidSet
from sora.errors import BadSyntax
from sora.wire.imap_fetch import MAX_PATH, Attribute, Binary, Fetch, FetchItem, Preview, Section, parse_fetch

FAST = (Attribute.FLAGS, Attribute.INTERNALDATE, Attribute.RFC822_SIZE)


def parse(arguments: bytes, name: bytes = b"FETCH") -> Fetch:
    scanner = Scanner()
    scanner.feed(b"a " + name + b" " + arguments + b"\r\n")
    command = scanner.next()
    assert isinstance(command, Command)
    return parse_fetch(command.cursor)


ITEMS: dict[bytes, tuple[FetchItem, ...]] = {
    b"fast": FAST,
    b"ALL": (*FAST, Attribute.ENVELOPE),
    b"FULL": (*FAST, Attribute.ENVELOPE, Attribute.BODY),
    b"flags": (Attribute.FLAGS,),
    b"(UID FLAGS uid)": (Attribute.UID, Attribute.FLAGS),
    b"(BODY BODYSTRUCTURE ENVELOPE INTERNALDATE)": (
        Attribute.BODY,
        Attribute.BODYSTRUCTURE,
        Attribute.ENVELOPE,
        Attribute.INTERNALDATE,
    ),
    b"(MODSEQ EMAILID THREADID SAVEDATE RFC822.SIZE)": (
        Attribute.MODSEQ,
        Attribute.EMAILID,
        Attribute.THREADID,
        Attribute.SAVEDATE,
        Attribute.RFC822_SIZE,
    ),
    b"RFC822": (Section((), b"", b"RFC822"),),
    b"rfc822.header": (Section((), b"HEADER", b"RFC822.HEADER", peek=True),),
    b"RFC822.TEXT": (Section((), b"TEXT", b"RFC822.TEXT"),),
    b"BODY[]": (Section((), b"", b"BODY[]"),),
    b"body.peek[]<0.100>": (Section((), b"", b"BODY[]<0>", peek=True, partial=(0, 100)),),
    b"BODY[]<4294967296.1>": (Section((), b"", b"BODY[]<4294967296>", partial=(4294967296, 1)),),
    b"BODY[1]": (Section((1,), b"", b"BODY[1]"),),
    b"BODY[text]": (Section((), b"TEXT", b"BODY[TEXT]"),),
    b"BODY[HEADER]": (Section((), b"HEADER", b"BODY[HEADER]"),),
    b"BODY.PEEK[1.2.3.mime]": (Section((1, 2, 3), b"MIME", b"BODY[1.2.3.MIME]", peek=True),),
    b'BODY[4.HEADER.FIELDS (Subject "x y")]<5.6>': (
        Section(
            (4,),
            b"HEADER.FIELDS",
            b'BODY[4.HEADER.FIELDS (Subject "x y")]<5>',
            (b"Subject", b"x y"),
            partial=(5, 6),
        ),
    ),
    b"(BODY.PEEK[HEADER.FIELDS.NOT (to)] FLAGS)": (
        Section((), b"HEADER.FIELDS.NOT", b"BODY[HEADER.FIELDS.NOT (to)]", (b"to",), peek=True),
        Attribute.FLAGS,
    ),
    b"BINARY[1.2]<3.4>": (Binary((1, 2), b"BINARY[1.2]<3>", partial=(3, 4)),),
    b"BINARY.PEEK[]": (Binary((), b"BINARY[]", peek=True),),
    b"binary.size[2]": (Binary((2,), b"BINARY.SIZE[2]", peek=True, size_only=True),),
    b"PREVIEW": (Preview(),),
    b"(PREVIEW (LAZY) UID)": (Preview(lazy=True), Attribute.UID),
}


@pytest.mark.parametrize("text", ITEMS, ids=repr)
def test_items(text: bytes) -> None:
    assert parse(b"1:* " + text) == Fetch(SeqSet.parse(b"1:*"), ITEMS[text])


def test_uid_fetch_and_modifiers() -> None:
    assert parse(b"5 FLAGS (CHANGEDSINCE 0 VANISHED)", b"UID FETCH") == Fetch(
        UidSet.parse(b"5"), (Attribute.FLAGS,), changed_since=0, vanished=True
    )
    assert parse(b"5 (FLAGS) (changedsince 12)").changed_since == 12


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"1",
        b"1 ",
        b"1 ()",
        b"1 FOO",
        b"1 (FAST)",
        b"1 (FLAGS",
        b"1 (FLAGS  UID)",
        b"1 FLAGS UID",
        b"x FLAGS",
        b"1 BODY[",
        b"1 BODY[0]",
        b"1 BODY[1.]",
        b"1 BODY[.1]",
        b"1 BODY[1TEXT]",
        b"1 BODY[MIME]",
        b"1 BODY[FOO]",
        b"1 BODY[1.2.FOO]",
        b"1 BODY[]<1>",
        b"1 BODY[]<1.0>",
        b"1 BODY[]<.5>",
        b"1 BODY[]<1.2",
        b"1 BODY[HEADER.FIELDS]",
        b"1 BODY[HEADER.FIELDS ()]",
        b"1 BODY[TEXT.1]",
        b"1 BODYSTRUCTURE[]",
        b"1 BODY.PEEK",
        b"1 BINARY",
        b"1 BINARY[TEXT]",
        b"1 BINARY[1.MIME]",
        b"1 BINARY.SIZE[1]<0.1>",
        b"1 RFC822.PEEK",
        b"1 PREVIEW (FAST)",
        b"1 FLAGS ()",
        b"1 FLAGS (FOO)",
        b"1 FLAGS (CHANGEDSINCE)",
        b"1 FLAGS (CHANGEDSINCE 1",
        b"1 FLAGS (CHANGEDSINCE 1 VANISHED)",
        b"1 BODY[]]",
    ],
    ids=repr,
)
def test_refuse(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse(text)


def test_vanished_needs_changedsince() -> None:
    with pytest.raises(BadSyntax, match="VANISHED"):
        parse(b"1 FLAGS (VANISHED)", b"UID FETCH")


def test_part_numbers_are_bounded() -> None:
    path = b".".join([b"1"] * MAX_PATH)
    assert parse(b"1 BODY[" + path + b"]").items[0].label == b"BODY[" + path + b"]"
    with pytest.raises(BadSyntax, match="too long"):
        parse(b"1 BODY[1." + path + b"]")


def test_attributes_are_answered_under_their_names() -> None:
    assert Attribute.RFC822_SIZE.label == b"RFC822.SIZE"
