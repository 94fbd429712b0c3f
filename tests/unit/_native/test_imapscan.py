"""The IMAP scanner against its plain model, and the cursor by cases."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sora._native.imapscan import Command, Cursor, NeedLiteral, Scanner, decode_utf7, encode_utf7
from sora._native.seqset import SeqSet, UidSet
from sora.errors import BadSyntax, LineTooLong, WireError
from tests.support import models_imapscan as model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_LINE = 40
FRAGMENTS = [
    b"a NOOP\r\n",
    b"t1 LOGIN {3}\r\nabc",
    b" {2+}\r\nxy",
    b"\r\n",
    b"\n",
    b" ",
    b"a ",
    b"b.1 uid fetch 1",
    b"UID",
    b"c UID \r\n",
    b"~{1+}\r\nz",
    b" {0}\r\n",
    b"+",
    b"+ NOOP\r\n",
    b"x" * 30,
    b"{",
    b"}",
    b"{5",
    b" {7+}\r\n",
    b"{2}\n",
    b'"',
    b"\\",
    b"\x80",
    b"(",
    b"d SELECT x\r\n",
    b"e]f ST]x",
    b"\r",
    b"{003+}\r\n123",
    b"\0",
    b"tag",
    b"e APPEND a {4}\r\n\r\n\r\n",
]


def arguments(cur: Cursor) -> tuple[object, ...]:
    """What stands behind the cursor: runs of bytes, and literals as (size, binary, data)."""
    found: list[object] = []
    run = b""
    while not cur.at_end():
        if cur.at_literal():
            found += [run] if run else []
            run = b""
            literal = cur.literal()
            found.append((literal.size, literal.binary, literal.data))
        else:
            byte = bytes([cur.peek()])
            assert cur.skip(byte)
            run += byte
    return tuple(found + ([run] if run else []))


def scan(pieces: Sequence[bytes], max_line: int, decisions: Iterator[str]) -> list[model.Event]:
    """Feed the pieces to a scanner, decide as told, and note what it gives."""
    scanner = Scanner(max_line)
    events: list[model.Event] = []
    for piece in pieces:
        scanner.feed(piece)
        while step(scanner, decisions, events):
            pass
    return joined(events)


def step(scanner: Scanner, decisions: Iterator[str], events: list[model.Event]) -> bool:
    """One call of next(); False if it wants more bytes."""
    if scanner.remaining:
        data = scanner.take(3)
        if data:
            events.append(("streamed", data))
        return bool(data)
    try:
        found = scanner.next()
    except WireError as e:
        events.append(("error", type(e).__name__, scanner.tag))
        return True
    if isinstance(found, Command):
        assert scanner.tag == found.tag
        events.append(("command", found.tag, found.name, found.uid, arguments(found.cursor)))
    elif isinstance(found, NeedLiteral):
        assert scanner.next() is found
        events.append(("need", found.size, found.synchronizing, found.binary))
        getattr(scanner, next(decisions))()
    return found is not None


def joined(events: list[model.Event]) -> list[model.Event]:
    """Streamed pieces of one literal as one event."""
    found: list[model.Event] = []
    for event in events:
        if event[0] == "streamed" and found and found[-1][0] == "streamed":
            before = found.pop()
            assert isinstance(before[1], bytes)
            assert isinstance(event[1], bytes)
            event = ("streamed", before[1] + event[1])
        found.append(event)
    return found


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    points = sorted({0, len(data), *(point for point in at if point < len(data))})
    return [data[a:z] for a, z in pairwise(points)]


@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(b"".join),
    st.lists(st.sampled_from(["accept", "stream", "discard"]), min_size=1, max_size=4),
    st.lists(st.integers(1, 200)),
)
@example(b"a X {3}\r\nabc {4+}\r\nabcd\r\nb NOOP\r\n", ["accept", "discard"], [])
@example(b"x" * 41 + b" {6+}\r\na X y\n\r\nb NOOP\r\n", ["accept"], [])
@example(b"? {6+}\r\na X y\n\r\nb NOOP\r\n", ["accept"], [])
def test_scan(data: bytes, policy: list[str], at: list[int]) -> None:
    """Equal to the model, whole, by line, by byte and cut anywhere."""

    def decisions() -> Iterator[str]:
        while True:
            yield from policy

    expected = model.scan(data, MAX_LINE, decisions())
    assert scan([data], MAX_LINE, decisions()) == expected
    assert scan(data.splitlines(keepends=True), MAX_LINE, decisions()) == expected
    assert scan([bytes([byte]) for byte in data], MAX_LINE, decisions()) == expected
    assert scan(cut(data, at), MAX_LINE, decisions()) == expected


@given(st.binary(max_size=200))
def test_scan_of_anything(data: bytes) -> None:
    def accept() -> Iterator[str]:
        while True:
            yield "accept"

    assert scan([data], MAX_LINE, accept()) == model.scan(data, MAX_LINE, accept())


# --- limits and states ---


def test_a_long_line_is_not_held() -> None:
    scanner = Scanner(100)
    scanner.feed(b"tag NOOP " + b"x" * 92)
    with pytest.raises(LineTooLong):
        scanner.next()
    assert scanner.tag == b"tag"
    for _ in range(10):
        scanner.feed(b"y" * 1000)
        assert scanner.next() is None
        assert scanner.buffered == 0
    scanner.feed(b"\r\nb NOOP\r\n")
    command = scanner.next()
    assert isinstance(command, Command)
    assert command.tag == b"b"


def test_the_limit_counts_the_text_of_all_lines_and_no_literal() -> None:
    scanner = Scanner(20)
    scanner.feed(b"a LOGIN {30+}\r\n" + b"x" * 30 + b" 12345\r\n")
    assert isinstance(scanner.next(), NeedLiteral)
    scanner.accept()
    command = scanner.next()
    assert isinstance(command, Command)
    scanner.feed(b"a LOGIN {30+}\r\n" + b"x" * 30 + b" 123456\r\n")
    assert isinstance(scanner.next(), NeedLiteral)
    scanner.accept()
    with pytest.raises(LineTooLong):
        scanner.next()
    assert scanner.tag == b"a"
    assert scanner.next() is None
    assert scanner.buffered == 0


def test_a_discarded_literal_is_not_held() -> None:
    scanner = Scanner()
    scanner.feed(b"a APPEND x {1000000+}\r\n")
    assert isinstance(scanner.next(), NeedLiteral)
    scanner.discard()
    for _ in range(10):
        scanner.feed(bytes(100_000))
        assert scanner.next() is None
        assert scanner.buffered == 0
    scanner.feed(b"\r\nb NOOP\r\n")
    assert isinstance(scanner.next(), Command)


def test_discard_in_the_middle_of_a_streamed_literal() -> None:
    scanner = Scanner()
    scanner.feed(b"a APPEND x {10}\r\n01234")
    assert isinstance(scanner.next(), NeedLiteral)
    scanner.stream()
    assert scanner.take(2) == b"01"
    scanner.discard()
    assert scanner.remaining == 0
    scanner.feed(b"56789 {3+}\r\nxyz\r\nb NOOP\r\n")
    command = scanner.next()
    assert isinstance(command, Command)
    assert command.tag == b"b"


def test_discard_between_a_literal_and_the_end_of_its_line() -> None:
    scanner = Scanner()
    scanner.feed(b"a X {1+}\r\n1")
    assert isinstance(scanner.next(), NeedLiteral)
    scanner.accept()
    assert scanner.next() is None
    scanner.discard()
    scanner.feed(b" b NOOP\r\nc NOOP\r\n")
    command = scanner.next()
    assert isinstance(command, Command)
    assert command.tag == b"c"


def test_discard_between_commands_does_nothing() -> None:
    scanner = Scanner()
    scanner.feed(b"a NOOP\r\nb NOOP\r\n")
    assert isinstance(scanner.next(), Command)
    scanner.discard()
    assert isinstance(scanner.next(), Command)


def test_size_beyond_all_bounds() -> None:
    scanner = Scanner()
    scanner.feed(b"a X {99999999999999999999999999+}\r\n")
    need = scanner.next()
    assert isinstance(need, NeedLiteral)
    assert need.size == 2**64 - 1


def test_held_counts_the_accepted_literals() -> None:
    scanner = Scanner()
    scanner.feed(b"a X {3+}\r\nabc {4+}\r\n")
    assert isinstance(scanner.next(), NeedLiteral)
    scanner.accept()
    assert isinstance(scanner.next(), NeedLiteral)
    assert scanner.held == 3
    scanner.accept()
    assert scanner.held == 7
    scanner.feed(b"defg\r\n")
    assert isinstance(scanner.next(), Command)
    assert scanner.held == 0


def test_an_accepted_literal_is_in_memory_once() -> None:
    """It leaves the buffer as it arrives."""
    scanner = Scanner()
    scanner.feed(b"a X {300000}\r\n")
    assert isinstance(scanner.next(), NeedLiteral)
    scanner.accept()
    for n in range(100):
        scanner.feed(bytes([65 + n % 26]) * 3000)
        assert scanner.next() is None
        assert scanner.buffered == 0
    scanner.feed(b"\r\n")
    command = scanner.next()
    assert isinstance(command, Command)
    data = command.cursor.sp().astring()
    assert data == b"".join(bytes([65 + n % 26]) * 3000 for n in range(100))


def test_a_literal_that_fits_no_memory_is_not_accepted() -> None:
    scanner = Scanner()
    scanner.feed(b"a X {9223372036854775807}\r\n")
    assert isinstance(scanner.next(), NeedLiteral)
    with pytest.raises(MemoryError):
        scanner.accept()
    scanner.discard()
    scanner.feed(b"b NOOP\r\n")
    assert isinstance(scanner.next(), Command)


def test_decisions_need_a_literal() -> None:
    scanner = Scanner()
    for decide in (scanner.accept, scanner.stream):
        with pytest.raises(RuntimeError):
            decide()
    with pytest.raises(RuntimeError):
        scanner.take(1)


def test_clear_forgets_what_was_pipelined() -> None:
    scanner = Scanner()
    scanner.feed(b"a STARTTLS\r\nb LOGIN {5}\r\n")
    assert isinstance(scanner.next(), Command)
    assert isinstance(scanner.next(), NeedLiteral)
    scanner.feed(b"evil")
    scanner.clear()
    assert scanner.buffered == 0
    assert scanner.partial() is None
    scanner.feed(b"c NOOP\r\n")
    command = scanner.next()
    assert isinstance(command, Command)
    assert command.tag == b"c"


def test_partial_of_a_command_full_of_literals_takes_linear_time() -> None:
    """It is asked for at each of them; 20,000 in one line of 120 kB took 2 s."""
    scanner = Scanner(max_line=200_000)
    scanner.feed(b"a LOGIN " + b"{0+}\r\n" * 20_000 + b"\r\n")
    started = time.thread_time()
    while isinstance(scanner.next(), NeedLiteral):
        assert scanner.partial() is not None
        scanner.accept()
    assert time.thread_time() - started < 0.5


def test_partial_grows_with_the_command() -> None:
    """APPEND decides about each message before it is read; the cursor goes on where it stood."""
    scanner = Scanner()
    assert scanner.partial() is None
    scanner.feed(b"a APPEND {5+}\r\nINBOX (\\Seen) {3}\r\n")
    assert isinstance(scanner.next(), NeedLiteral)
    first = scanner.partial()
    assert first is not None
    assert (first.tag, first.name) == (b"a", b"APPEND")
    assert first.cursor.sp().at_pending()
    scanner.accept()
    assert isinstance(scanner.next(), NeedLiteral)
    second = scanner.partial()
    assert second is first
    cur = second.cursor
    assert cur.mailbox() == "INBOX"
    assert cur.sp().flags() == (rb"\Seen",)
    assert cur.sp().at_pending()
    mark = cur.mark()
    assert cur.literal().data is None
    assert cur.at_end()
    cur.reset(mark)
    assert cur.at_pending()
    scanner.stream()
    scanner.feed(b"abc ~{2+}\r\n")
    assert scanner.take(10) == b"abc"
    assert isinstance(scanner.next(), NeedLiteral)
    assert scanner.partial() is first
    assert not cur.at_pending()
    assert cur.literal().size == 3
    assert cur.sp().at_pending()
    scanner.accept()
    scanner.feed(b"xy\r\n")
    assert scanner.next() is first
    literal = cur.literal()
    assert (literal.size, literal.binary, literal.data) == (2, True, b"xy")
    cur.end()


def test_take_line() -> None:
    scanner = Scanner()
    scanner.feed(b"a IDLE\r\nDO")
    assert isinstance(scanner.next(), Command)
    assert scanner.take_line() is None
    scanner.feed(b"NE\r\nx\ny")
    assert scanner.take_line() == b"DONE"
    assert scanner.take_line(1) == b"x"
    scanner.feed(b"123")
    with pytest.raises(LineTooLong):
        scanner.take_line(3)
    assert scanner.buffered == 0
    scanner.feed(b"456")
    assert scanner.take_line(3) is None
    scanner.feed(b"7\r\nok\r\n")
    assert scanner.take_line(3) == b"ok"
    scanner.feed(b"toolong\r\nok\r\n")
    with pytest.raises(LineTooLong):
        scanner.take_line(3)
    assert scanner.take_line(3) == b"ok"
    scanner.feed(b"a X {3}\r\n")
    assert isinstance(scanner.next(), NeedLiteral)
    with pytest.raises(RuntimeError):
        scanner.take_line()


def test_a_large_buffer_is_given_back_and_any_buffer_is_taken() -> None:
    scanner = Scanner()
    for data in (bytearray(b"a NOOP\r\n" * 10_000), memoryview(b"b NOOP\r\n")):
        scanner.feed(data)
    count = 0
    while scanner.next() is not None:
        count += 1
    assert count == 10_001
    assert scanner.buffered == 0


# --- cursor ---


def cursor(text: bytes, *literals: bytes, uid: bool = False, utf8: bool = False) -> Cursor:
    """A cursor on text; each `{}` in it becomes a literal."""
    scanner = Scanner(utf8=utf8)
    head = b"a UID X" if uid else b"a X"
    pieces = text.split(b"{}")
    for piece, literal in zip(pieces, literals, strict=False):
        head += piece + b"{%d+}\r\n%s" % (len(literal), literal)
    scanner.feed(head + pieces[len(literals)] + b"\r\n")
    while isinstance(found := scanner.next(), NeedLiteral):
        scanner.accept()
    assert isinstance(found, Command)
    return found.cursor


READ: list[tuple[bytes, Callable[[Cursor], object], object]] = [
    (b"foo bar", Cursor.atom, b"foo"),
    (b"foo]", Cursor.atom, b"foo"),
    (b"Foo.Bar-1[", Cursor.name, b"FOO.BAR-1"),
    (b"fetch", Cursor.keyword, b"FETCH"),
    (b"foo]+~", Cursor.astring, b"foo]+~"),
    (b'"a \\"b\\" \\\\c" x', Cursor.astring, b'a "b" \\c'),
    (b'""', Cursor.astring, b""),
    (b'"\xc3\xa4"', Cursor.text, "ä"),
    (b"nil", Cursor.nstring, None),
    (b"NIL)", Cursor.nstring, None),
    (b'"NIL"', Cursor.nstring, b"NIL"),
    (b"inBox", Cursor.mailbox, "INBOX"),
    (b"INBOX/x", Cursor.mailbox, "INBOX/x"),
    (b"inbox2", Cursor.mailbox, "inbox2"),
    (b'"a b&-c"', Cursor.mailbox, "a b&c"),
    (b"Entw&APw-rfe", Cursor.mailbox, "Entwürfe"),
    (b"~peter/%/*", Cursor.list_mailbox, "~peter/%/*"),
    (b'"*"', Cursor.list_mailbox, "*"),
    (b"0", Cursor.number, 0),
    (b"4294967295", Cursor.number, 4294967295),
    (b"1", Cursor.nz_number, 1),
    (b"9223372036854775807", Cursor.number64, 2**63 - 1),
    (b"1:3,*)", Cursor.numset, SeqSet.parse(b"1:3,*")),
    (b"1:3", Cursor.uidset, UidSet.parse(b"1:3")),
    (b"$", Cursor.seqset, SeqSet.parse(b"$")),
    (b"\\sEEN", Cursor.flag, rb"\Seen"),
    (b"$Forwarded", Cursor.flag, b"$Forwarded"),
    (b"()", Cursor.flags, ()),
    (b"(\\deleted foo \\recent \\Deleted Foo)", Cursor.flags, (rb"\Deleted", b"foo", b"Foo")),
    (b"\\Seen foo", Cursor.bare_flags, (rb"\Seen", b"foo")),
    (b"1-Feb-1994", Cursor.date, date(1994, 2, 1)),
    (b'"29-feb-2024"', Cursor.date, date(2024, 2, 29)),
    (
        b'"17-Jul-1996 02:44:25 -0700"',
        Cursor.date_time,
        datetime(1996, 7, 17, 2, 44, 25, tzinfo=timezone(timedelta(hours=-7))),
    ),
    (b'" 1-JAN-2000 23:59:60 +0000"', Cursor.date_time, datetime(2000, 1, 1, 23, 59, 59, tzinfo=UTC)),
    (
        b'"01-Jan-2000 00:00:00 +1345"',
        Cursor.date_time,
        datetime(2000, 1, 1, tzinfo=timezone(timedelta(hours=13, minutes=45))),
    ),
    (b"all of it", Cursor.rest, b"all of it"),
]


@pytest.mark.parametrize(("text", "read", "value"), READ, ids=[text.decode("latin-1") for text, _, _ in READ])
def test_read(text: bytes, read: Callable[[Cursor], object], value: object) -> None:
    assert read(cursor(b" " + text).sp()) == value


REFUSE: list[tuple[bytes, Callable[[Cursor], object]]] = [
    (b"", Cursor.atom),
    (b"(", Cursor.atom),
    (b"\xe4", Cursor.atom),
    (b"\x7f", Cursor.atom),
    (b"\t", Cursor.atom),
    (b'"x', Cursor.astring),
    (b'"x\\y"', Cursor.astring),
    (b'"x\\', Cursor.astring),
    (b'"\0"', Cursor.astring),
    (b'"\r"', Cursor.astring),
    (b"", Cursor.astring),
    (b"%", Cursor.astring),
    (b"foo", Cursor.string),
    (b"NILS", Cursor.nstring),
    (b'"\xff"', Cursor.text),
    (b"%", Cursor.mailbox),
    (b'"\xc3\xa4"', Cursor.mailbox),
    (b"&AGE-", Cursor.mailbox),
    (b"&", Cursor.mailbox),
    (b"{3", Cursor.list_mailbox),
    (b"(", Cursor.list_mailbox),
    (b"x", Cursor.number),
    (b"-1", Cursor.number),
    (b"4294967296", Cursor.number),
    (b"0", Cursor.nz_number),
    (b"9223372036854775808", Cursor.number64),
    (b"99999999999999999999", Cursor.number64),
    (b"x", Cursor.numset),
    (b"1:", Cursor.numset),
    (b"", Cursor.seqset),
    (b"0", Cursor.uidset),
    (b"\\Foo", Cursor.flag),
    (b"\\", Cursor.flag),
    (b"\\*", Cursor.flag),
    (b"", Cursor.bare_flags),
    (b"(\\Seen", Cursor.flags),
    (b"( )", Cursor.flags),
    (b"\\Seen", Cursor.flags),
    (b"30-Feb-1994", Cursor.date),
    (b"1-Foo-1994", Cursor.date),
    (b"1-Feb-94", Cursor.date),
    (b"1Feb1994", Cursor.date),
    (b"-Feb-1994", Cursor.date),
    (b"123-Feb-1994", Cursor.date),
    (b'"1-Feb-1994', Cursor.date),
    (b"1-Feb-0000", Cursor.date),
    (b"1-Feb--199", Cursor.date),
    (b"1-Feb-1994x", Cursor.date),
    (b'"17-Jul-1996 02:44:25"', Cursor.date_time),
    (b'"17-Jul-1996 24:44:25 +0000"', Cursor.date_time),
    (b'"1-Jul-1996 02:44:25 +0000"', Cursor.date_time),
    (b'"17-Jul-1996 02:44:25 0700"', Cursor.date_time),
    (b'"01-Jan-0001 00:00:00 +0100"', Cursor.date_time),
    (b'"17-Jul-1996 02:44:25 +9900"', Cursor.date_time),
    (b"17-Jul-1996 02:44:25 +0000", Cursor.date_time),
    (b'"17-Jul-1996 02:44:2 +0000"', Cursor.date_time),
    (b"x", Cursor.sp),
    (b"x", Cursor.end),
    (b"  x", Cursor.end),
    (b"x", Cursor.literal),
    (b"{3", Cursor.literal),
]


@pytest.mark.parametrize(("text", "read"), REFUSE, ids=[f"{text!r}-{read.__name__}" for text, read in REFUSE])
def test_refuse(text: bytes, read: Callable[[Cursor], object]) -> None:
    cur = cursor(b" " + text).sp() if text else cursor(b"")
    mark = cur.mark()
    with pytest.raises(BadSyntax) as caught:
        read(cur)
    assert caught.value.text != BadSyntax.default_text, "a reason is given"
    assert cur.mark() >= mark


def test_strings_as_literals() -> None:
    cur = cursor(b" {} {} {} {} {}", b"a\r\nb", b"inbox", b"%", b"", b"\xc3\xa4")
    assert cur.sp().astring() == b"a\r\nb"
    assert cur.sp().mailbox() == "INBOX"
    assert cur.sp().list_mailbox() == "%"
    assert cur.sp().nstring() == b""
    assert cur.sp().text() == "ä"
    cur.end()


@pytest.mark.parametrize("read", [Cursor.astring, Cursor.string, Cursor.nstring, Cursor.mailbox, Cursor.list_mailbox])
def test_literals_that_are_no_strings(read: Callable[[Cursor], object]) -> None:
    with pytest.raises(BadSyntax, match="NUL"):
        read(cursor(b" {}", b"a\0b").sp())
    with pytest.raises(BadSyntax, match="binary"):
        read(cursor(b" ~{}", b"ab").sp())
    scanner = Scanner()
    scanner.feed(b"a X {1+}\r\nx\r\n")
    assert isinstance(scanner.next(), NeedLiteral)
    scanner.stream()
    scanner.take(1)
    command = scanner.next()
    assert isinstance(command, Command)
    with pytest.raises(BadSyntax, match="cannot stand here"):
        read(command.cursor.sp())


def test_reset_goes_back_over_literals() -> None:
    cur = cursor(b" {} {}", b"one", b"two")
    mark = cur.sp().mark()
    for _ in range(2):
        assert cur.astring() == b"one"
        assert cur.sp().astring() == b"two"
        cur.end()
        cur.reset(mark)
    for bad in (-1, mark + 1):
        with pytest.raises(ValueError, match="mark"):
            cur.reset(bad)


def test_small_steps() -> None:
    cur = cursor(b" Abc  ")
    assert cur.peek() == ord(" ")
    assert not cur.skip(b" x")
    assert not cur.skip(b" abc   x")
    assert cur.skip(b" aBC")
    with pytest.raises(BadSyntax, match="RETURN is missing"):
        cur.expect(b"RETURN")
    assert cur.at_end()
    assert cur.peek() == -1
    cur.end()
    assert not cur.at_literal()


def test_the_uid_variant_reads_uids() -> None:
    assert cursor(b" 1:2", uid=True).sp().numset() == UidSet.parse(b"1:2")
    assert cursor(b" 1:2").sp().numset() == SeqSet.parse(b"1:2")


def test_utf8_names() -> None:
    """With UTF-8 enabled an ampersand is only itself (RFC 6855 §3)."""
    assert cursor(b' "Entw\xc3\xbcrfe&-"', utf8=True).sp().mailbox() == "Entwürfe&-"
    with pytest.raises(BadSyntax, match="not UTF-8"):
        cursor(b' "\xff"', utf8=True).sp().mailbox()


# --- modified UTF-7 ---


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("", b""),
        ("INBOX", b"INBOX"),
        ("a&b", b"a&-b"),
        ("~peter/mail/台北/日本語", b"~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
        ("\N{GRINNING FACE}", b"&2D3eAA-"),
        ("ü&ü", b"&APw-&-&APw-"),
    ],
)
def test_utf7(name: str, encoded: bytes) -> None:
    assert encode_utf7(name) == encoded
    assert decode_utf7(encoded) == name


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_utf7_round_trip(name: str) -> None:
    encoded = encode_utf7(name)
    assert encoded.isascii()
    assert decode_utf7(encoded) == name


@pytest.mark.parametrize(
    "encoded",
    [
        b"&",
        b"&U,BTFw",
        b"&AGE-",
        b"&U,BTFw-&ZeVnLIqe-",
        b"&APw",
        b"a\tb",
        b"\xc3\xa4",
        b"&2D0-",
        b"&APx-",
        b"&A-",
        b"&APw=-",
        b"&AP/-",
        b"x&AAA-",
        b"&%-",
    ],
)
def test_bad_utf7(encoded: bytes) -> None:
    with pytest.raises(BadSyntax, match="Mailbox name"):
        decode_utf7(encoded)


@given(st.binary(max_size=20).map(lambda data: b"&" + data))
def test_utf7_has_one_spelling(encoded: bytes) -> None:
    try:
        name = decode_utf7(encoded)
    except BadSyntax:
        return
    assert encode_utf7(name) == encoded
