"""The reader of Sieve scripts beside regular expressions and plain recursion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.cases import Case
from sora._native.sievescan import Argument, Source, parse, tokens
from tests.support import models_sieve as model

if TYPE_CHECKING:
    from collections.abc import Iterator

RULE = """# rule %d
if anyof (header :contains ["to", "cc"] "list%d@example.org", address :domain :is "from" "example%d.com") {
    fileinto :flags "\\\\Seen" "Lists/%d"; stop;
} elsif size :over 10M { discard; }
"""
_ATTRIBUTES = [
    *(f"sievescan.Source.{name}" for name in "__init__ line column name arguments tests listed block".split()),
    *(f"sievescan.Argument.{name}" for name in "__init__ line column is_tag value".split()),
    "sievescan.Source",
    "sievescan.Argument",
]


def cases(messages: int) -> Iterator[Case]:
    """A script with one rule for each hundred messages."""
    source = "".join(RULE % (number, number, number, number) for number in range(messages // 100))

    def walk(commands: tuple[Source, ...]) -> list[object]:
        found: list[object] = []
        for command in commands:
            found += [command.line, command.column, command.name, command.listed, len(command.tests)]
            found += [
                (argument.line, argument.column, argument.is_tag, argument.value)
                for argument in command.arguments
                if isinstance(argument, Argument)
            ]
            found += walk(command.tests) + walk(command.block or ())
        return found

    yield Case(
        "sievescan.parse", lambda: walk(parse(source)), lambda: walk(model.parse(source)),
        tuple(_ATTRIBUTES),
    )  # fmt: skip
    yield Case("sievescan.tokens", lambda: tokens(source), lambda: model.tokens(source))
