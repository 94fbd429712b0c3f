"""The grammar of ManageSieve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.errors import BadSyntax, LineTooLong, LiteralTooBig, WireError
from sora.wire import managesieve as wire
from sora.wire.managesieve import MAX_EMPTY, MAX_WORDS, Code, Scanner, Word

LIMIT = 40


def commands(data: bytes, pieces: int = 1 << 20, limit: int = LIMIT) -> list[list[Word] | type[WireError]]:
    """What a scanner gives, errors as their classes."""
    scanner = Scanner(limit)
    found: list[list[Word] | type[WireError]] = []
    for start in range(0, len(data), pieces):
        scanner.feed(data[start : start + pieces])
        while True:
            try:
                words = scanner.words()
            except WireError as error:
                found.append(type(error))
                continue
            if words is None:
                break
            found.append(words)
    return found


def atom(value: bytes) -> Word:
    return Word(value, string=False)


def string(value: bytes) -> Word:
    return Word(value, string=True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"NOOP\r\n", [atom(b"NOOP")]),
        (b"NOOP\n", [atom(b"NOOP")]),
        (b"NOOP \r\n", [atom(b"NOOP")]),
        (b'a "b" 12\r\n', [atom(b"a"), string(b"b"), atom(b"12")]),
        (b'a ""\r\n', [atom(b"a"), string(b"")]),
        (b'a "\\"\\\\"\r\n', [atom(b"a"), string(b'"\\')]),
        (b"a {3+}\r\n\r\n\0\r\n", [atom(b"a"), string(b"\r\n\0")]),
        (b"a {0+}\r\n\r\n", [atom(b"a"), string(b"")]),
        (b"a {1}\r\nx {2+}\r\nyz 5\r\n", [atom(b"a"), string(b"x"), string(b"yz"), atom(b"5")]),
        (b"{4+}\r\nabcd\r\n", [string(b"abcd")]),
        (b'"\xff\xfe"\r\n', [string(b"\xff\xfe")]),
        (b'a "{5+}"\r\n', [atom(b"a"), string(b"{5+}")]),
    ],
)
def test_words(data: bytes, expected: list[Word]) -> None:
    assert commands(b"\r\n" + data + b"next\r\n") == [expected, [atom(b"next")]]


@pytest.mark.parametrize(
    "line",
    [
        b"a  b", b" a", b'a"b"', b'a "b"c', b'a "b""c"', b'a "b', b'a "\\n"', b"a 'b'", b"a (b)", b"a {b+}", b"a {+}",
        b"a {3+}b", b"a {3++}", b'a "\0"', b'a "\r"', b"\0", b"a {99999999999+}", b"a \xc3\xa4",
    ],
)  # fmt: skip
def test_what_is_no_command_is_one_error_and_nothing_else(line: bytes) -> None:
    assert commands(line + b"\r\nnext\r\n") == [BadSyntax, [atom(b"next")]]


@pytest.mark.parametrize(
    "head", [b"a ! {4+}", b'a "b {4+}', b"a  {4+}", b"x" * 9000 + b" {4+}", b'"' + b"y" * 8190 + b'" {4}']
)
def test_a_literal_behind_an_error_is_no_command(head: bytes) -> None:
    for pieces in (1, 3, 1 << 20):
        (error, following) = commands(head + b"\r\nevil\r\nnext\r\n", pieces)
        assert error in (BadSyntax, LineTooLong)
        assert following == [atom(b"next")]


@pytest.mark.parametrize("data", [b"a {41+}\r\n" + b"x" * 41, b"a {40+}\r\n" + b"x" * 40 + b" {1+}\r\ny"])
def test_literals_have_a_limit_together(data: bytes) -> None:
    assert commands(data + b"\r\nnext\r\n") == [LiteralTooBig, [atom(b"next")]]
    fits = data.replace(b"41", b"40").replace(b" {1+}", b" {0+}").replace(b"y", b"")
    (found,) = commands(fits.replace(b"x" * 41, b"x" * 40) + b"\r\n")
    assert isinstance(found, list)
    assert found[1] == string(b"x" * 40)


def test_a_few_empty_lines_are_passed_over() -> None:
    empty = b"\r\n" * MAX_EMPTY
    assert commands(empty + b"a\r\n" + empty + b"b\r\n") == [[atom(b"a")], [atom(b"b")]]
    assert commands(empty + b"\n\nb\n" + empty + b"c\n") == [BadSyntax, [atom(b"b")], [atom(b"c")]]


def test_a_command_has_so_many_literals() -> None:
    head = b"a" + b" {1+}\r\nx" * MAX_WORDS
    for pieces in (1, 1 << 20):
        ((_, *found), following) = commands(head + b"\r\nnext\r\n", pieces)
        assert found == [string(b"x")] * (MAX_WORDS - 1)
        assert following == [atom(b"next")]
        assert commands(head + b" {1+}\r\nnext\r\n", pieces) == [BadSyntax, [atom(b"next")]]


def test_a_scanner_holds_nothing_of_what_is_too_big() -> None:
    scanner = Scanner(10)
    scanner.feed(b"PUTSCRIPT {1000000000+}\r\n")
    assert scanner.words() is None
    for _ in range(100):
        scanner.feed(b"x" * 10_000)
        assert scanner.words() is None
        assert scanner._literal is None
        assert len(scanner._buffer) == 10_000
    for _ in range(100):
        scanner = Scanner(10)
        scanner.feed(b"x" * 100_000)
        assert scanner.words() is None
        scanner.feed(b"")
        assert len(scanner._buffer) == 0


def test_a_refusal_has_the_verb_that_it_refuses() -> None:
    scanner = Scanner(10)
    scanner.feed(b'putscript "a" {11+}\r\n01234567890\r\n"x" y\r\n')
    with pytest.raises(LiteralTooBig):
        scanner.words()
    assert scanner.verb == "PUTSCRIPT"
    assert scanner.words() == [string(b"x"), atom(b"y")]
    assert scanner.verb == ""


def test_more_words_than_any_command_has_are_not_kept() -> None:
    (found,) = commands(b" ".join([b"a"] * 4000) + b"\r\n")
    assert isinstance(found, list)
    assert len(found) == wire.MAX_WORDS


def test_a_quoted_string_has_a_limit_without_its_escapes() -> None:
    assert commands(b'a "' + b'\\"' * 1024 + b'"\r\n') == [[atom(b"a"), string(b'"' * 1024)]]
    assert commands(b'a "' + b"x" * 1025 + b'"\r\n') == [BadSyntax]


@pytest.mark.parametrize("before", [b"a", b'a "b', b"a {3+}\r\nx", b"a {99+}\r\nx", b"x" * 9000, b"a ! {3+}\r\n"])
def test_clear_forgets_everything(before: bytes) -> None:
    scanner = Scanner(LIMIT)
    scanner.feed(before)
    assert scanner.words() is None
    scanner.clear()
    scanner.feed(b"NOOP\r\n")
    assert scanner.words() == [atom(b"NOOP")]


PARTS = st.sampled_from(
    [
        b"a",
        b" ",
        b'"',
        b"\\",
        b"\r\n",
        b"\n",
        b"{3+}\r\n",
        b"{3}",
        b"{90+}\r\n",
        b"{0+}\r\n",
        b"abc",
        b"\r",
        b"\0",
        b"7",
    ]
)


@given(st.lists(PARTS, max_size=40).map(b"".join), st.integers(1, 9))
def test_commands_are_the_same_in_any_pieces(data: bytes, pieces: int) -> None:
    assert commands(data, pieces) == commands(data)


@given(st.lists(st.binary(max_size=12), max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_what_was_written_is_read(values: list[bytes], synchronizing: list[bool]) -> None:
    line = b"verb"
    for value, plus in zip(values, synchronizing, strict=False):
        line += b" {%d%b}\r\n%b" % (len(value), b"" if plus else b"+", value)
    assert commands(line + b"\r\n") == [[atom(b"verb"), *map(string, values)]]


@given(st.text(max_size=30))
def test_a_string_can_be_read_back(text: str) -> None:
    """Quoted where a client can read that, else a literal of a server."""
    written = wire.write_string(text)
    (found,) = commands(written + b"\r\n", limit=1000)
    assert found == [string(text.encode("utf-8", "replace"))]
    assert written.startswith(b"{") == any(c in text for c in "\r\n\0")


def test_long_strings_are_literals() -> None:
    assert wire.write_string("x" * 1024) == b'"' + b"x" * 1024 + b'"'
    assert wire.write_string("x" * 1025) == b"{1025}\r\n" + b"x" * 1025
    assert wire.write_string("ä" * 513).startswith(b"{1026}\r\n")
    assert wire.write_string("\ud800") == b'"?"'


def test_arguments() -> None:
    assert wire.parse_text(string("ä".encode())) == "ä"
    assert wire.parse_octets(string(b"\xff")) == b"\xff"
    assert wire.parse_number(atom(b"4294967295")) == 4294967295
    assert wire.parse_number(atom(b"007")) == 7
    assert wire.parse_response([string(b"eA==")]) == b"eA=="
    for parse, word in (
        (wire.parse_text, atom(b"a")),
        (wire.parse_text, string(b"\xff")),
        (wire.parse_octets, atom(b"a")),
        (wire.parse_number, string(b"1")),
        (wire.parse_number, atom(b"4294967296")),
        (wire.parse_number, atom(b"00000000001")),
        (wire.parse_number, atom(b"-1")),
        (wire.parse_number, atom(b"x")),
    ):
        with pytest.raises(BadSyntax):
            parse(word)
    for words in ([], [atom(b"a")], [string(b"a"), string(b"b")]):
        with pytest.raises(BadSyntax):
            wire.parse_response(words)


def test_a_command_does_not_show_its_arguments() -> None:
    command = wire.parse_command([atom(b"authenticate"), string(b"PLAIN"), string(b"c2VjcmV0")])
    assert repr(command) == "Command('AUTHENTICATE')"
    with pytest.raises(BadSyntax):
        wire.parse_command([string(b"NOOP")])


def test_responses() -> None:
    """RFC 5804 §1.2, §1.3."""
    assert wire.write_ok() == b"OK\r\n"
    assert wire.write_ok("Done", Code.TAG, "a b") == b'OK (TAG "a b") "Done"\r\n'
    assert wire.write_ok(code=Code.SASL, value="cnNwYXV0aD1l") == b'OK (SASL "cnNwYXV0aD1l")\r\n'
    assert wire.write_no("Quota exceeded", Code.MAX_SIZE) == b'NO (QUOTA/MAXSIZE) "Quota exceeded"\r\n'
    assert wire.write_no("a\r\nb") == b"NO {4}\r\na\r\nb\r\n"
    assert wire.write_bye("Moved", Code.REFERRAL, "sieve://b.example.com") == (
        b'BYE (REFERRAL "sieve://b.example.com") "Moved"\r\n'
    )
    assert wire.write_scripts([("a", False), ('"', True)]) == b'"a"\r\n"\\"" ACTIVE\r\n'
    assert wire.write_capabilities([("A", "b c"), ("D", None), ("E", "")]) == b'"A" "b c"\r\n"D"\r\n"E" ""\r\n'
    assert wire.write_challenge(b"") == b'""\r\n'
    assert wire.write_challenge(b"User") == b'"VXNlcg=="\r\n'
