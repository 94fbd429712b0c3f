"""RFC 5228 §8.2."""

from __future__ import annotations

import pytest

from sora.errors import BadScript
from sora.sieve.parser import MAX_NESTING, ListArgument, NumberArgument, StringArgument, TagArgument, parse


def error(source: str) -> str:
    with pytest.raises(BadScript) as caught:
        parse(source)
    return str(caught.value)


def test_commands_have_arguments_tests_and_blocks() -> None:
    [command] = parse('if header :is ["a", "b"] "c" 1K { stop; }')
    [test] = command.tests
    assert (command.name, test.name, command.listed) == ("if", "header", False)
    assert test.arguments == (
        TagArgument(1, 11, ":is"),
        ListArgument(1, 15, (StringArgument(1, 16, "a"), StringArgument(1, 21, "b"))),
        StringArgument(1, 26, "c"),
        NumberArgument(1, 30, 1024),
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
def test_errors_have_a_place(source: str, text: str) -> None:
    assert error(source) == text


def test_blocks_nest_so_deep() -> None:
    deepest = "if true {" * MAX_NESTING + "}" * MAX_NESTING
    assert parse(deepest)
    assert "Blocks nest deeper than 30" in error("if true {" + deepest + "}")


def test_tests_nest_so_deep() -> None:
    assert parse("if " + "not " * (MAX_NESTING - 1) + "true {}")
    assert "Tests nest deeper than 30" in error("if " + "not " * MAX_NESTING + "true {}")
    assert "Tests nest deeper than 30" in error("if " + "anyof(" * 100_000)
