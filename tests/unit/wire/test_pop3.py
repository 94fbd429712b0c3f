"""The grammar of POP3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.errors import BadSyntax, LineTooLong
from sora.wire import pop3


def lines(data: bytes, pieces: int, limit: int) -> list[bytes | None]:
    """What a scanner gives; None for a line that was too long."""
    scanner = pop3.Scanner(limit)
    found: list[bytes | None] = []
    for start in range(0, len(data), pieces):
        scanner.feed(data[start : start + pieces])
        while True:
            try:
                line = scanner.line()
            except LineTooLong:
                found.append(None)
                continue
            if line is None:
                break
            found.append(line)
    return found


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"xyz"])).map(b"".join), st.integers(1, 9))
def test_lines_are_the_same_in_any_pieces(data: bytes, pieces: int) -> None:
    expected = [
        None if len(line) + 1 > 6 else line.removesuffix(b"\r") for line in data.split(b"\n")[:-1]
    ]  # one octet of the limit is the LF
    rest = data.rpartition(b"\n")[2]
    if len(rest) > 6:
        expected.append(None)
    assert lines(data, pieces, 6) == expected


def test_the_limit_counts_the_line_end() -> None:
    assert lines(b"abcd\r\nabcde\r\nok\n", 100, 6) == [b"abcd", None, b"ok"]


def test_a_scanner_holds_no_overlong_line() -> None:
    scanner = pop3.Scanner(10)
    scanner.feed(b"x" * 1000)
    with pytest.raises(LineTooLong):
        scanner.line()
    scanner.feed(b"x" * 1000)
    assert scanner.line() is None
    scanner.feed(b"y\nok\n")
    assert len(scanner._buffer) == 5
    assert scanner.line() == b"ok"


def test_clear_forgets_the_rest_also_of_an_overlong_line() -> None:
    scanner = pop3.Scanner(4)
    scanner.feed(b"xxxxxxxx")
    with pytest.raises(LineTooLong):
        scanner.line()
    scanner.clear()
    scanner.feed(b"ok\n")
    assert scanner.line() == b"ok"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"STAT", pop3.Command("STAT", b"")),
        (b"top 1 2", pop3.Command("TOP", b"1 2")),
        (b"utf8", pop3.Command("UTF8", b"")),
        (b"PASS  two  spaces ", pop3.Command("PASS", b" two  spaces ")),
    ],
)
def test_parse_command(line: bytes, expected: pop3.Command) -> None:
    assert pop3.parse_command(line) == expected


@pytest.mark.parametrize("line", [b"", b" STAT", b"ST", b"STATS", b"ST-T", b"\xc3\xa4\xc3", b"STAT\0"])
def test_no_command(line: bytes) -> None:
    with pytest.raises(BadSyntax):
        pop3.parse_command(line)


def test_a_command_does_not_show_its_argument() -> None:
    assert "secret" not in repr(pop3.parse_command(b"PASS secret"))


@pytest.mark.parametrize("text", [b"", b"-1", b"1.0", b"x", b"1 2", b"12345678901", "١".encode()])
def test_no_number(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        pop3.parse_number(text)


def test_numbers() -> None:
    assert pop3.parse_number(b" 007 ") == 7
    assert pop3.parse_top(b" 1  20 ") == (1, 20)
    for text in (b"1", b"1 2 3", b"", b"1 -2"):
        with pytest.raises(BadSyntax):
            pop3.parse_top(text)


@pytest.mark.parametrize(
    ("language_range", "tag"),
    [
        (b"*", "i-default"), (b"i-default", "i-default"), (b"en", "en"), (b"EN-gb-oed", "en"),
        (b"de", None), (b"e", None), (b"", None), (b"english", None), (b"\xe4n", None), (b"*-en", None),
    ],
)  # fmt: skip
def test_find_language(language_range: bytes, tag: str | None) -> None:
    assert pop3.find_language(language_range) == tag


def test_parse_text() -> None:
    assert pop3.parse_text(" ä b ".encode()) == " ä b "
    for text in (b"", b"\xff"):
        with pytest.raises(BadSyntax):
            pop3.parse_text(text)


def test_status_lines_are_one_line() -> None:
    assert pop3.write_ok() == b"+OK\r\n"
    assert pop3.write_ok("a\r\n b") == b"+OK a b\r\n"
    assert pop3.write_error("ä" * 1000, "AUTH") == b"-ERR [AUTH] " + b"?" * 400 + b"\r\n"


@given(st.integers(0, 4500))
def test_listings(count: int) -> None:
    text = b"".join(pop3.write_listing(b"%d" % i for i in range(count)))
    assert text == b"".join(b"%d\r\n" % i for i in range(count)) + b".\r\n"


text = st.lists(st.sampled_from([b".", b"..", b"a", b"\n", b"\r\n", b"\r"])).map(b"".join)


def read(response: bytes) -> bytes:
    """What a client makes of a message to which LF ends a line."""
    assert response.endswith(b"\r\n.\r\n") or response == b".\r\n"
    found = []
    for line in response.split(b"\n"):
        if line == b".\r":
            return b"\n".join([*found, b""])
        found.append(line[1:] if line.startswith(b".") else line)
    raise AssertionError("no end")


@given(text, st.integers(1, 7))
def test_messages_arrive(data: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pop3, "SLICE", size)
        response = b"".join(pop3.write_message(data))
    assert read(response) == (data if data.endswith(b"\r\n") else data + b"\r\n")


@given(st.lists(st.sampled_from([b".", b"a", b"\n", b"\r\n"])).map(b"".join), st.integers(0, 4))
def test_top(data: bytes, count: int) -> None:
    end = pop3.top_end(data, count)
    head, blank, body = model_split(data)
    assert data[:end] == head + blank + b"".join(body.splitlines(keepends=True)[:count])
    response = b"".join(pop3.write_message(data, end))
    assert read(response).removesuffix(b"\r\n") == data[:end].removesuffix(b"\r\n")


def model_split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, blank line, body."""
    head = b""
    for line in data.split(b"\n"):
        if line in (b"", b"\r") and len(head) + len(line) < len(data):
            return head, line + b"\n", data[len(head) + len(line) + 1 :]
        head += line + b"\n"
    return data, b"", b""
