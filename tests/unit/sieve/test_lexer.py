"""RFC 5228 §2.3-§2.4, §8.1."""

from __future__ import annotations

import pytest

from sora.errors import BadScript
from sora.sieve.lexer import MAX_NUMBER, Kind, Lexer


def tokens(source: str) -> list[tuple[str, str | int]]:
    return [
        (token.kind.name, token.number if token.kind is Kind.NUMBER else token.text)
        for token in Lexer(source).tokens()
        if token.kind is not Kind.END
    ]


def string(source: str) -> str:
    [(kind, text)] = tokens(source)
    assert kind == "STRING"
    assert isinstance(text, str)
    return text


def test_words_and_tags_are_in_lower_case() -> None:
    assert tokens("If :Contains _a1 {}") == [
        ("WORD", "if"), ("TAG", ":contains"), ("WORD", "_a1"), ("MARK", "{"), ("MARK", "}"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "number"),
    [("0", 0), ("100", 100), ("1K", 1024), ("2m", 2 << 20), ("4G", 4 << 30), (str(MAX_NUMBER), MAX_NUMBER)],
)
def test_numbers_have_units(written: str, number: int) -> None:
    assert tokens(written) == [("NUMBER", number)]


@pytest.mark.parametrize("written", [str(MAX_NUMBER + 1), "9" * 5000, "9007199254740992G"])
def test_numbers_have_an_end(written: str) -> None:
    with pytest.raises(BadScript, match="line 1, column 1: The number is too large"):
        tokens(written)


@pytest.mark.parametrize("written", ["10KB", "1_000", "5x"])
def test_what_is_no_number(written: str) -> None:
    with pytest.raises(BadScript, match="This is no number"):
        tokens(written)


def test_quoted_strings() -> None:
    assert string(r'"a \"quoted\" \\ \b"') == r'a "quoted" \ b'
    assert string('"two\nlines"') == "two\r\nlines"
    assert string('"two\r\nlines"') == "two\r\nlines"
    assert string('"' + "x\\\\" * 200_000 + '"') == "x\\" * 200_000


def test_multi_line_strings() -> None:
    assert string("text: # comment\nline\n..stuffed\n.\n") == "line\r\n.stuffed\r\n"
    assert string("TEXT:  \r\n.\r\n") == ""
    assert string("text:\n.foo\n.\n") == "foo\r\n"
    assert string("text:\nlast\n.") == "last\r\n"
    assert tokens('text:\na\n.\n; "b"')[1:] == [("MARK", ";"), ("STRING", "b")]


def test_comments_are_white_space() -> None:
    assert tokens("a # b\n/* c\n * d **/ e#") == [("WORD", "a"), ("WORD", "e")]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ('a\n  "b', "line 2, column 3: The string does not end"),
        ("a /* b", "line 1, column 3: The comment does not end"),
        ("text:\na\n", 'line 1, column 1: The text does not end: a line with "." alone is missing'),
        ("é", "line 1, column 1: Unexpected character 'é'"),
        ("a\x01", "line 1, column 2: Unexpected character"),
        ('"é" !', "line 1, column 5: Unexpected character '!'"),
    ],
)
def test_errors_have_a_place(source: str, error: str) -> None:
    with pytest.raises(BadScript) as caught:
        tokens(source)
    assert str(caught.value) == error


def test_places_count_from_one_in_characters() -> None:
    places = [(token.line, token.column) for token in Lexer('é"\n"'.replace("é", '"é" ') + "\r\nx").tokens()]
    assert places == [(1, 1), (1, 5), (3, 1), (3, 2)]
