"""Lexer and parser of Sieve (RFC 5228 §8) with one regular expression and plain recursion; slow and easy to believe."""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final, NoReturn

from msgspec import Struct

from sora._native.sievescan import Argument, Source
from sora.errors import BadScript

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NUMBER: Final = 2**63 - 1
"""RFC 5228 §2.4.1 asks for 31 bits at least; sizes of messages and dates want more."""
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}

_TOKEN: Final = re.compile(
    r"""
      (?P<space>   [ \t\r\n]+ | \#[^\n]* )
    | (?P<comment> /\* )
    | (?P<text>    [Tt][Ee][Xx][Tt]: [ \t]* (?: \#[^\n]* )? \r?\n )
    | (?P<word>    [A-Za-z_][A-Za-z0-9_]* )
    | (?P<tag>     : [A-Za-z_][A-Za-z0-9_]* )
    | (?P<number>  [0-9]+ [KMGkmg]? (?![A-Za-z0-9_]) )
    | (?P<quoted>  " [^"\\]* (?: \\. [^"\\]* )* " )
    | (?P<mark>    [()\[\]{},;] )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_END_OF_TEXT: Final = re.compile(r"^\.\r?(?:\n|\Z)", re.MULTILINE)
_LINE_END: Final = re.compile(r"\r?\n")


class Kind(enum.Enum):
    """What a token is."""

    WORD = "an identifier"
    TAG = "a tag"
    NUMBER = "a number"
    STRING = "a string"
    MARK = "punctuation"
    END = "the end of the script"


class Token(Struct, frozen=True):
    """One token.

    Attributes:
        text: Word and tag in lower case, the tag with its colon; string without quotes, its line ends CRLF; the mark.
        number: Value of a number, its unit applied.
    """

    kind: Kind
    line: int
    column: int
    text: str = ""
    number: int = 0

    def __str__(self) -> str:
        if self.kind in (Kind.WORD, Kind.TAG, Kind.MARK):
            return f'"{self.text}"'
        return f"number {self.number}" if self.kind is Kind.NUMBER else str(self.kind.value)


class Lexer:
    """Reads the tokens of one script."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._line, self._line_start, self._counted = 1, 0, 0

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of a character; it must not stand before one that was asked for earlier."""
        lines = self._source.count("\n", self._counted, offset)
        if lines:
            self._line += lines
            self._line_start = self._source.rindex("\n", self._counted, offset) + 1
        self._counted = offset
        return self._line, offset - self._line_start + 1

    def tokens(self) -> Iterator[Token]:
        """All tokens; the last one is of kind END.

        Raises:
            BadScript: Something is no token.
        """
        source, position = self._source, 0
        while position < len(source):
            match = _TOKEN.match(source, position)
            if match is None:
                self._refuse(position)
            start, position = position, match.end()
            kind = match.lastgroup
            if kind == "comment":
                position = self._behind_comment(start)
            elif kind == "text":
                end, position = self._text_end(start, position)
                yield self._token(Kind.STRING, start, _unstuffed(source[match.end() : end]))
            elif kind != "space":
                yield self._plain(str(kind), start, match[0])
        yield self._token(Kind.END, len(source))

    def _plain(self, kind: str, start: int, text: str) -> Token:
        match kind:
            case "word":
                return self._token(Kind.WORD, start, text.lower())
            case "tag":
                return self._token(Kind.TAG, start, text.lower())
            case "number":
                return self._number(start, text)
            case "quoted":
                return self._token(Kind.STRING, start, _LINE_END.sub("\r\n", _ESCAPED.sub(r"\1", text[1:-1])))
            case _:
                return self._token(Kind.MARK, start, text)

    def _token(self, kind: Kind, start: int, text: str = "", number: int = 0) -> Token:
        return Token(kind, *self.place(start), text, number)

    def _number(self, start: int, text: str) -> Token:
        unit = text[-1].upper() if text[-1].isalpha() else ""
        digits = text[: len(text) - len(unit)]
        number = int(digits) * _UNITS[unit] if len(digits) <= 20 else MAX_NUMBER + 1
        if number > MAX_NUMBER:
            self._fail(start, "The number is too large")
        return self._token(Kind.NUMBER, start, text, number)

    def _behind_comment(self, start: int) -> int:
        end = self._source.find("*/", start + 2)
        if end < 0:
            self._fail(start, "The comment does not end")
        return end + 2

    def _text_end(self, start: int, first: int) -> tuple[int, int]:
        """Where the lines of a multi-line string end, and where the script goes on."""
        match = _END_OF_TEXT.search(self._source, first)
        if match is None:
            self._fail(start, 'The text does not end: a line with "." alone is missing')
        return match.start(), match.end()

    def _refuse(self, position: int) -> NoReturn:
        character = self._source[position]
        if character == '"':
            self._fail(position, "The string does not end")
        if character in "0123456789":
            self._fail(position, "This is no number")
        self._fail(
            position, f"Unexpected character {character!r}" if character.isprintable() else "Unexpected character"
        )

    def _fail(self, position: int, text: str) -> NoReturn:
        raise BadScript([(*self.place(position), text)])


def _unstuffed(lines: str) -> str:
    """Multi-line text (RFC 5228 §2.4.2): a line that begins with a dot has one too many."""
    text = re.sub(r"^\.", "", lines, flags=re.MULTILINE)
    return _LINE_END.sub("\r\n", text)


def tokens(source: str) -> list[tuple[str, int, int, str | int]]:
    """What the native function gives."""
    return [
        (token.kind.name, token.line, token.column, token.number if token.kind is Kind.NUMBER else token.text)
        for token in Lexer(source).tokens()
    ]


def parse(source: str, nesting: int = 30) -> tuple[Source, ...]:
    """The commands of a script.

    Raises:
        BadScript: It does not follow the grammar, or nests too deep.
    """
    return _Parser(Lexer(source).tokens(), nesting).script()


class _Parser:
    def __init__(self, tokens: Iterator[Token], nesting: int) -> None:
        self._tokens = tokens
        self._nesting = nesting
        self._token = next(tokens)

    def script(self) -> tuple[Source, ...]:
        commands = []
        while self._token.kind is not Kind.END:
            commands.append(self._command(0))
        return tuple(commands)

    def _command(self, depth: int) -> Source:
        start = self._expect_word("a command")
        arguments = self._arguments()
        listed = self._at("(")
        tests = self._tests(0)
        block = self._block(depth) if self._at("{") else None
        if block is None and not self._skip(";"):
            self._fail(f'Expected ";" or a block after "{start.text}" and its arguments, but found {self._token}')
        return Source(start.line, start.column, start.text, arguments, tests, listed, block)

    def _block(self, depth: int) -> tuple[Source, ...]:
        if depth == self._nesting:
            self._fail(f"Blocks nest deeper than {self._nesting}")
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
                return Argument(token.line, token.column, token.text)
            case Kind.NUMBER:
                self._next()
                return Argument(token.line, token.column, token.number)
            case Kind.TAG:
                self._next()
                return Argument(token.line, token.column, token.text, is_tag=True)
        return self._list() if token.kind is Kind.MARK and token.text == "[" else None

    def _list(self) -> Argument:
        opening = self._next()
        items = [self._string()]
        while self._skip(","):
            items.append(self._string())
        if not self._skip("]"):
            self._fail(f'Expected "," or "]", but found {self._token}')
        return Argument(opening.line, opening.column, tuple(items))

    def _string(self) -> Argument:
        token = self._token
        if token.kind is not Kind.STRING:
            self._fail(f"Expected a string, but found {token}")
        self._next()
        return Argument(token.line, token.column, token.text)

    def _tests(self, depth: int) -> tuple[Source, ...]:
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

    def _test(self, depth: int) -> Source:
        if depth == self._nesting:
            self._fail(f"Tests nest deeper than {self._nesting}")
        start = self._expect_word("a test")
        arguments, listed = self._arguments(), self._at("(")
        return Source(start.line, start.column, start.text, arguments, self._tests(depth + 1), listed)

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
