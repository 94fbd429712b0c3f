"""RFC 5228 §2.2-§2.6 and §8: tokens and grammar, by themselves and beside the plain model."""

from __future__ import annotations

import pytest
from hypothesis import given

from sora._native.sievescan import Argument, Source, parse, tokens
from sora.errors import BadScript
from sora.sieve.script import MAX_NESTING
from tests.support import models_sieve as model
from tests.support.sievescripts import TOKENS, TREES

MAX_NUMBER = 2**63 - 1


def values(source: str) -> list[tuple[str, str | int]]:
    return [(kind, value) for kind, _, _, value in tokens(source) if kind != "END"]


def string(source: str) -> str:
    [(kind, text)] = values(source)
    assert kind == "STRING"
    assert isinstance(text, str)
    return text


def test_words_and_tags_are_in_lower_case() -> None:
    assert values("If :Contains _a1 {}") == [
        ("WORD", "if"), ("TAG", ":contains"), ("WORD", "_a1"), ("MARK", "{"), ("MARK", "}"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "number"),
    [("0", 0), ("100", 100), ("1K", 1024), ("2m", 2 << 20), ("4G", 4 << 30), (str(MAX_NUMBER), MAX_NUMBER)],
)
def test_numbers_have_units(written: str, number: int) -> None:
    assert values(written) == [("NUMBER", number)]


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
    assert values('text:\na\n.\n; "b"')[1:] == [("MARK", ";"), ("STRING", "b")]


def test_comments_are_white_space() -> None:
    assert values("a # b\n/* c\n * d **/ e#") == [("WORD", "a"), ("WORD", "e")]


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
    places = [(line, column) for _, line, column, _ in tokens('"é" "\n"\r\nx')]
    assert places == [(1, 1), (1, 5), (3, 1), (3, 2)]


# ------------------------------------------------------------------------------------------------------ grammar


def error(source: str) -> str:
    with pytest.raises(BadScript) as caught:
        parse(source)
    return str(caught.value)


def test_commands_have_arguments_tests_and_blocks() -> None:
    [command] = parse('if header :is ["a", "b"] "c" 1K { stop; }')
    [test] = command.tests
    assert (command.name, test.name, command.listed) == ("if", "header", False)
    assert test.arguments == (
        Argument(1, 11, ":is", True),
        Argument(1, 15, (Argument(1, 16, "a"), Argument(1, 21, "b"))),
        Argument(1, 26, "c"),
        Argument(1, 30, 1024),
    )
    assert command.block is not None
    assert [inner.name for inner in command.block] == ["stop"]


def test_lists_of_tests() -> None:
    [command] = parse("if allof (not false, anyof (true)) {}")
    [test] = command.tests
    assert test.listed
    assert [inner.name for inner in test.tests] == ["not", "anyof"]
    assert command.block == ()


def test_a_command_without_block_has_none() -> None:
    assert parse("keep;")[0].block is None
    assert parse("") == parse(" # nothing\n") == ()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("keep", 'line 1, column 5: Expected ";" or a block after "keep" and its arguments, but '
        'found the end of the script'),
        ("if true {\n keep;", "line 1, column 9: The block does not end"),
        ('redirect ["a" "b"];', 'line 1, column 15: Expected "," or "]", but found a string'),
        ("redirect [];", 'line 1, column 11: Expected a string, but found "]"'),
        ('redirect ["a",];', 'line 1, column 15: Expected a string, but found "]"'),
        ("if anyof (true]", 'line 1, column 15: Expected "," or ")", but found "]"'),
        ("if anyof () {}", 'line 1, column 11: Expected a test, but found ")"'),
        ('"a";', "line 1, column 1: Expected a command, but found a string"),
        ("}", 'line 1, column 1: Expected a command, but found "}"'),
        ("keep 1 2;;", 'line 1, column 10: Expected a command, but found ";"'),
    ],
)  # fmt: skip
def test_errors_of_grammar_have_a_place(source: str, text: str) -> None:
    assert error(source) == text


def test_blocks_nest_so_deep() -> None:
    deepest = "if true {" * MAX_NESTING + "}" * MAX_NESTING
    assert parse(deepest)
    assert "Blocks nest deeper than 30" in error("if true {" + deepest + "}")


def test_tests_nest_so_deep() -> None:
    assert parse("if " + "not " * (MAX_NESTING - 1) + "true {}")
    assert "Tests nest deeper than 30" in error("if " + "not " * MAX_NESTING + "true {}")
    assert "Tests nest deeper than 30" in error("if " + "anyof(" * 100_000)


def test_nesting_is_an_argument() -> None:
    assert parse("if true { if true {} }", 2)
    with pytest.raises(BadScript, match="Blocks nest deeper than 1"):
        parse("if true { if true {} }", 1)
    with pytest.raises(BadScript, match="Tests nest deeper than 1"):
        parse("if not true {}", 1)


def test_sources_are_values() -> None:
    made = Source(
        1, 1, "if", (), (Source(1, 4, "size", (Argument(1, 9, ":over", True), Argument(1, 15, 5))),), False, ()
    )
    [read] = parse("if size :over 5 {}")
    assert made == read
    assert repr(made) == repr(read)
    assert made != parse("if size :over 6 {}")[0]
    assert Argument(1, 1, "a") != Argument(1, 1, "a", True)


# ---------------------------------------------------------------------------------------------------- the model


def outcome(read: object, source: str) -> object:
    try:
        return read(source)  # type: ignore[operator]
    except BadScript as error:
        return error.errors


@given(source=TOKENS)
def test_tokens_are_those_of_the_model(source: str) -> None:
    assert outcome(tokens, source) == outcome(model.tokens, source)


@given(source=TREES)
def test_trees_are_those_of_the_model(source: str) -> None:
    assert outcome(parse, source) == outcome(model.parse, source)
