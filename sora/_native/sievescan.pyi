# ruff: noqa: PYI021 (editors show these texts, and the extension has none to show)
"""Tokens and generic grammar of Sieve (RFC 5228 §8): commands, tests and arguments, whatever their names are.

Line ends are CRLF or LF; lines and columns count from 1, columns in characters. The first error ends the reading.
"""

from typing import final

@final
class Argument:
    """One argument of a command or test."""

    def __init__(
        self, line: int, column: int, value: str | int | tuple[Argument, ...], is_tag: bool = False
    ) -> None: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def is_tag(self) -> bool: ...
    @property
    def value(self) -> str | int | tuple[Argument, ...]:
        """Text of a string (line ends CRLF) or tag (lower case, with its colon), number, or strings of a list."""

@final
class Source:
    """A command or a test as it is written."""

    def __init__(
        self,
        line: int,
        column: int,
        name: str,
        arguments: tuple[Argument, ...] = (),
        tests: tuple[Source, ...] = (),
        listed: bool = False,
        block: tuple[Source, ...] | None = None,
    ) -> None: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def name(self) -> str:
        """In lower case."""

    @property
    def arguments(self) -> tuple[Argument, ...]: ...
    @property
    def tests(self) -> tuple[Source, ...]:
        """Those that it applies to."""

    @property
    def listed(self) -> bool:
        """Its tests stand in parentheses."""

    @property
    def block(self) -> tuple[Source, ...] | None:
        """None where the command ends in a semicolon, and for a test."""

def parse(source: str, nesting: int = 30) -> tuple[Source, ...]:
    """The commands of a script, without NUL.

    Args:
        nesting: Blocks inside blocks, and likewise tests inside tests.

    Raises:
        BadScript: It does not follow the grammar, or nests too deep.
    """

def tokens(source: str) -> list[tuple[str, int, int, str | int]]:
    """Kind (WORD, TAG, NUMBER, STRING, MARK, END), line, column and value of every token.

    Raises:
        BadScript: Something is no token.
    """
