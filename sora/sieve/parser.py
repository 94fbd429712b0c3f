"""The generic grammar of Sieve (RFC 5228 §8.2): commands, tests and arguments, whatever their names are.

What a command means is decided in `checks`. The first error ends the reading: what follows it could be anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from msgspec import Struct

from sora.errors import BadScript
from sora.sieve.lexer import Kind, Lexer, Token

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NESTING: Final = 30
"""Blocks inside blocks, and likewise tests inside tests."""


class StringArgument(Struct, frozen=True):
    """One string."""

    line: int
    column: int
    text: str


class ListArgument(Struct, frozen=True):
    """A list of strings in brackets; not empty."""

    line: int
    column: int
    items: tuple[StringArgument, ...]


class NumberArgument(Struct, frozen=True):
    """A number."""

    line: int
    column: int
    number: int


class TagArgument(Struct, frozen=True):
    """A tag such as `:contains`, in lower case."""

    line: int
    column: int
    name: str


Argument = StringArgument | ListArgument | NumberArgument | TagArgument


class TestSource(Struct, frozen=True):
    """A test.

    Attributes:
        tests: Those that it applies to (`not`, `allof`, `anyof`).
        listed: They stand in parentheses.
    """

    __test__ = False  # pytest collects what is called Test…

    line: int
    column: int
    name: str
    arguments: tuple[Argument, ...]
    tests: tuple[TestSource, ...]
    listed: bool = False


class CommandSource(Struct, frozen=True):
    """A command.

    Attributes:
        block: None: it ends in a semicolon.
        listed: Its tests stand in parentheses.
    """

    line: int
    column: int
    name: str
    arguments: tuple[Argument, ...]
    tests: tuple[TestSource, ...]
    block: tuple[CommandSource, ...] | None
    listed: bool = False


def parse(source: str) -> tuple[CommandSource, ...]:
    """The commands of a script.

    Raises:
        BadScript: It does not follow the grammar, or nests too deep.
    """
    return _Parser(Lexer(source).tokens()).script()


class _Parser:
    def __init__(self, tokens: Iterator[Token]) -> None:
        self._tokens = tokens
        self._token = next(tokens)

    def script(self) -> tuple[CommandSource, ...]:
        commands = []
        while self._token.kind is not Kind.END:
            commands.append(self._command(0))
        return tuple(commands)

    def _command(self, depth: int) -> CommandSource:
        start = self._expect_word("a command")
        arguments = self._arguments()
        listed = self._at("(")
        tests = self._tests(0)
        block = self._block(depth) if self._at("{") else None
        if block is None and not self._skip(";"):
            self._fail(f'Expected ";" or a block after "{start.text}" and its arguments, but found {self._token}')
        return CommandSource(start.line, start.column, start.text, arguments, tests, block, listed)

    def _block(self, depth: int) -> tuple[CommandSource, ...]:
        if depth == MAX_NESTING:
            self._fail(f"Blocks nest deeper than {MAX_NESTING}")
        opening = self._next()
        commands = []
        while not self._skip("}"):
            if self._token.kind is Kind.END:
                raise BadScript([(opening.line, opening.column, "The block does not end")])
            commands.append(self._command(depth + 1))
        return tuple(commands)

    def _arguments(self) -> tuple[Argument, ...]:
        found: list[Argument] = []
        while (argument := self._argument()) is not None:
            found.append(argument)
        return tuple(found)

    def _argument(self) -> Argument | None:
        token = self._token
        match token.kind:
            case Kind.STRING:
                self._next()
                return StringArgument(token.line, token.column, token.text)
            case Kind.NUMBER:
                self._next()
                return NumberArgument(token.line, token.column, token.number)
            case Kind.TAG:
                self._next()
                return TagArgument(token.line, token.column, token.text)
        return self._list() if token.kind is Kind.MARK and token.text == "[" else None

    def _list(self) -> ListArgument:
        opening = self._next()
        items = [self._string()]
        while self._skip(","):
            items.append(self._string())
        if not self._skip("]"):
            self._fail(f'Expected "," or "]", but found {self._token}')
        return ListArgument(opening.line, opening.column, tuple(items))

    def _string(self) -> StringArgument:
        token = self._token
        if token.kind is not Kind.STRING:
            self._fail(f"Expected a string, but found {token}")
        self._next()
        return StringArgument(token.line, token.column, token.text)

    def _tests(self, depth: int) -> tuple[TestSource, ...]:
        """One test, a list of them in parentheses, or none."""
        if self._token.kind is Kind.WORD:
            return (self._test(depth),)
        if not self._skip("("):
            return ()
        tests = [self._test(depth)]
        while self._skip(","):
            tests.append(self._test(depth))
        if not self._skip(")"):
            self._fail(f'Expected "," or ")", but found {self._token}')
        return tuple(tests)

    def _test(self, depth: int) -> TestSource:
        if depth == MAX_NESTING:
            self._fail(f"Tests nest deeper than {MAX_NESTING}")
        start = self._expect_word("a test")
        arguments, listed = self._arguments(), self._at("(")
        return TestSource(start.line, start.column, start.text, arguments, self._tests(depth + 1), listed)

    def _expect_word(self, what: str) -> Token:
        if self._token.kind is not Kind.WORD:
            self._fail(f"Expected {what}, but found {self._token}")
        return self._next()

    def _at(self, mark: str) -> bool:
        return self._token.kind is Kind.MARK and self._token.text == mark

    def _skip(self, mark: str) -> bool:
        if self._at(mark):
            self._next()
            return True
        return False

    def _next(self) -> Token:
        token = self._token
        if token.kind is not Kind.END:
            self._token = next(self._tokens)
        return token

    def _fail(self, text: str) -> NoReturn:
        raise BadScript([(self._token.line, self._token.column, text)])
