"""Comparators (RFC 4790, RFC 5051) and match types (RFC 5228 §2.7, RFC 5231, the regex draft).

Nothing here backtracks: wildcards are found piece by piece, from left to right; regular expressions run in RE2. Each
`Decider` says beforehand what a comparison may cost, and long texts are looked at in pieces, so that whoever runs the
script can let others have their turn in between.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import re2
from msgspec import Struct

from sora.mime.text import fold

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from sora.sieve.texts import Text

_DIGITS: Final = re.compile("[0-9]*")
MAX_REGEX_BYTES: Final = 512 * 1024
"""Memory that one compiled expression may take."""
CACHED_PATTERNS: Final = 128
MAX_KEY: Final = 16 * 1024
"""Characters of a regular expression, or of a text with wildcards."""
MAX_DIGITS: Final = 4000
_HUGE: Final = int("9" * MAX_DIGITS)

MAX_KEPT: Final = 1024
"""Characters of the keys of a test whose deciders are kept."""

CHARACTERS: Final = 256
"""Of text that one instruction looks at."""
PIECE: Final = 64 * 1024
"""Characters that are folded or searched at a time."""
PATTERN: Final = 150
"""Instructions that it takes to make ready for a text with `?`."""
REGEX_WORK: Final = 50
"""Steps of a regular expression (characters times size of its program) in one instruction, at the worst."""
REGEX_PIECE: Final = 5_000_000
"""Steps at a time: a tenth of a second at the worst, and a millisecond if RE2 does not have to fall back."""
MIN_WINDOW: Final = 2048
"""Octets of a long text that an expression sees at a time; a match that is longer than half of it may be missed."""
MAX_PROGRAM: Final = 5000
"""Size of an expression's program."""


def ascii_casemap(text: str) -> bytes:
    """i;ascii-casemap (RFC 4790 §9.2)."""
    return text.encode("utf-8", "surrogatepass").upper()


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def numeric(text: str) -> float:
    """i;ascii-numeric (RFC 4790 §9.1): the digits at the beginning; a text without any is positive infinity."""
    digits = _DIGITS.match(text)
    assert digits is not None
    return _number(digits[0]) if digits[0] else float("inf")


def _number(digits: str) -> int:
    """Up to 4,000 digits: numbers beyond that are all the same to everybody."""
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= MAX_DIGITS else _HUGE


# What follows keeps the number of characters, so that a place in the folded text is one in the text itself.
def _ascii_upper(text: str) -> str:
    return text.upper() if text.isascii() else ascii_casemap(text).decode("utf-8", "surrogatepass")


def _same(text: str) -> str:
    return text


def _simple_fold(text: str) -> str:
    folded = text.casefold()
    if len(folded) == len(text):
        return folded
    return "".join(small if len(small := character.casefold()) == 1 else character for character in text)


class Comparator(Struct, frozen=True):
    """One comparator.

    Attributes:
        key: What is equal, and how texts are ordered.
        same_length: The same for wildcards, with a character for each character.
        fold_cost: Instructions for so many characters that are not ASCII.
        substrings: It can be used with `:contains` and `:matches`.
        nocase: Regular expressions ignore case.
    """

    name: str
    key: Callable[[str], Any]
    same_length: Callable[[str], str] = _same
    fold_cost: int = CHARACTERS
    substrings: bool = True
    nocase: bool = False

    def equal(self, left: str, right: str) -> bool:
        """`:is`."""
        return bool(self.key(left) == self.key(right))

    def compare(self, left: str, right: str) -> int:
        """-1, 0 or 1."""
        a, b = self.key(left), self.key(right)
        return int(a > b) - int(a < b)


COMPARATORS: Final[Mapping[str, Comparator]] = {
    comparator.name: comparator
    for comparator in (
        Comparator("i;octet", _octets),
        Comparator("i;ascii-casemap", ascii_casemap, _ascii_upper, nocase=True),
        Comparator("i;unicode-casemap", fold, _simple_fold, fold_cost=2, nocase=True),
        Comparator("i;ascii-numeric", numeric, substrings=False),
    )
}

RELATIONS: Final[Mapping[str, Callable[[int], bool]]] = {
    "gt": lambda order: order > 0,
    "ge": lambda order: order >= 0,
    "lt": lambda order: order < 0,
    "le": lambda order: order <= 0,
    "eq": lambda order: order == 0,
    "ne": lambda order: order != 0,
}
"""RFC 5231 §3, by what a comparison gives."""


class Work(Struct, frozen=True):
    """Work that may last too long for a slice; it can be done in another thread, and lets the others run meanwhile.

    Attributes:
        cost: Instructions, at the worst.
        least: Instructions, at the best.
    """

    function: Callable[[], Any]
    cost: int
    least: int


Pieces: TypeAlias = "Generator[int | Work, Any, Captures]"
"""The cost of the next piece of work, or work whose result is sent back; in the end the captures."""
Captures = tuple[str, ...] | None
"""Of a comparison that holds: the match variables that it sets, or none of them; None: it does not hold."""


class Match(Struct, frozen=True):
    """How values are compared with keys.

    Attributes:
        type: `is`, `contains`, `matches`, `regex`, `count`, `value` or `list`.
        relation: Of `count` and `value`; a name of `RELATIONS`.
    """

    type: str = "is"
    comparator: Comparator = COMPARATORS["i;ascii-casemap"]
    relation: str = ""

    def of(self, key: str) -> Decider:
        """What compares values with a key.

        Raises:
            ValueError: The key is no pattern.
        """
        return _DECIDERS[self.type](self, key)

    def key_cost(self, key: str) -> int:
        """Instructions that `of` takes."""
        if self.type == "regex":
            return 40 + len(key) // 4
        if self.type == "matches":
            return 1 + len(key) // 4 + sum("?" in piece for piece in key.split("*")) * PATTERN
        return 1 + len(key) // CHARACTERS

    def check(self, key: str) -> None:
        """See that a key can be used; takes less than `of`.

        Raises:
            ValueError: The key is no pattern.
        """
        if self.type == "regex":
            compile_regex(key, nocase=self.comparator.nocase)
        elif self.type == "matches" and len(key) > MAX_KEY:
            raise ValueError(f"it is longer than {MAX_KEY} characters")

    def folded(self, value: str) -> Any:
        """A value as deciders want it: once for all keys."""
        match self.type:
            case "regex":
                return _octets(value)
            case "matches":
                return self.comparator.same_length(_composed(value, self.comparator))
        return self.comparator.key(value)

    def fold_cost(self, value: str) -> int:
        """What `folded` takes."""
        return len(value) // (CHARACTERS if value.isascii() or self.type == "regex" else self.comparator.fold_cost)

    def fold_slowly(self, value: str) -> Generator[int, None, Any]:
        """The same as `folded` for a long text, in pieces; gives the cost of each, and the result at the end."""
        if self.comparator.name == "i;ascii-numeric" or self.type == "regex":
            yield 1
            return self.folded(value)
        pieces = []
        size = PIECE if self.comparator.fold_cost > 8 else PIECE // 16
        for start in range(0, max(len(value), 1), size):
            piece = value[start : start + size]
            yield self.fold_cost(piece)
            pieces.append(self.folded(piece))
        return (b"" if isinstance(pieces[0], bytes) else "").join(pieces)


def _composed(value: str, comparator: Comparator) -> str:
    """Wildcards see a letter and its accent as one character where the comparator does not tell them apart."""
    if comparator.name != "i;unicode-casemap" or value.isascii():
        return value
    return unicodedata.normalize("NFC", value)


class Keys(Struct, gc=False):
    """What a test compares values with.

    Attributes:
        texts: In the order of the script.
        deciders: Of texts that are the same in every run, once they were made; None: they have to be made.
        cost: Instructions that it takes to make them; so a script costs the same in every run.
    """

    texts: tuple[Text, ...]
    deciders: tuple[Decider, ...] | None = None
    cost: int = 0

    def keep(self, deciders: tuple[Decider, ...], cost: int) -> None:
        """Remember what was made; not of variables, and not what takes much memory."""
        small = sum(len(text) if isinstance(text, str) else MAX_KEPT for text in self.texts) < MAX_KEPT
        if small and not any(isinstance(decider, _Regex) for decider in deciders):
            self.deciders, self.cost = deciders, cost


class Decider:
    """Compares values with one key."""

    __slots__ = ("key", "match")

    def __init__(self, match: Match, key: str) -> None:
        self.match = match
        self.key: Any = match.comparator.key(key)

    def cost(self, length: int) -> int:
        """Instructions that a value of this length may take."""
        return length // CHARACTERS

    def decide(self, value: str, folded: Any) -> Captures:
        """Whether a value matches: its captures, if there are any, or None where it does not."""
        return () if folded == self.key else None

    def decide_slowly(self, value: str, folded: Any) -> Pieces:
        """The same for a costly value, in pieces."""
        yield self.cost(len(value))
        return self.decide(value, folded)


class _Contains(Decider):
    __slots__ = ()

    def decide(self, value: str, folded: Any) -> Captures:
        return () if self.key in folded else None

    def decide_slowly(self, value: str, folded: Any) -> Pieces:
        step = max(PIECE, len(self.key))
        for start in range(0, len(folded), step):
            piece = folded[start : start + step + len(self.key)]
            yield len(piece) // CHARACTERS
            if self.key in piece:
                return ()
        return None


class _Value(Decider):
    __slots__ = ("_holds",)

    def __init__(self, match: Match, key: str) -> None:
        super().__init__(match, key)
        self._holds = RELATIONS[match.relation]

    def decide(self, value: str, folded: Any) -> Captures:
        order = int(folded > self.key) - int(folded < self.key)
        return () if self._holds(order) else None


class _Matches(Decider):
    r"""`*` and `?` of RFC 5228 §2.7.1; `*` takes as little as it can (RFC 5229 §3.2), `\` makes the next one plain.

    `?` is an octet where the comparator knows no characters, which those of RFC 5228 do not: what is no ASCII is then
    looked at as octets. It shows with `?` only.
    """

    __slots__ = ("_least", "_marks", "_octets", "_pieces")

    def __init__(self, match: Match, key: str) -> None:
        match.check(key)
        self.match = match
        self._octets = "?" in key and match.comparator.name != "i;unicode-casemap"
        self._pieces = _glob(_wide(key) if self._octets else key, match.comparator.name)
        self._least = sum(piece.length for piece in self._pieces)
        self._marks = sum(piece.length for piece in self._pieces if piece.pattern is not None)

    def cost(self, length: int) -> int:
        return length // CHARACTERS + len(self._pieces) + length * self._marks // 1000

    def decide(self, value: str, folded: Any) -> Captures:
        if self._octets and not value.isascii():
            wide = _wide(value)
            spans = self._spans(self.match.comparator.same_length(wide))
            return None if spans is None else (value, *(_narrow(wide[start:end]) for start, end in spans))
        if len(folded) < self._least:
            return None
        if len(folded) != len(value):
            value = _composed(value, self.match.comparator)
        spans = self._spans(folded)
        return None if spans is None else (value, *(value[start:end] for start, end in spans))

    def _spans(self, folded: str) -> list[tuple[int, int]] | None:
        """Where the wildcards stand: the first piece at the beginning, the last one at the end, others where they fit
        first."""
        first, *others = self._pieces
        spans: list[tuple[int, int]] = []
        if not first.at(folded, 0, spans) or (not others and len(folded) != first.length):
            return None
        position = first.length
        for piece in others[:-1]:
            start = piece.find(folded, position)
            if start < 0:
                return None
            spans.append((position, start))
            piece.at(folded, start, spans)
            position = start + piece.length
        if others:
            start = len(folded) - others[-1].length
            if start < position:
                return None
            spans.append((position, start))
            if not others[-1].at(folded, start, spans):
                return None
        return spans


def _wide(text: str) -> str:
    """A character for each octet."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("latin-1")


def _narrow(wide: str) -> str:
    """The text behind these octets; pieces of characters are replaced."""
    return wide.encode("latin-1").decode("utf-8", "replace")


class _Piece:
    """What stands between two `*`: plain characters and `?`.

    Attributes:
        pattern: If it has `?`.
    """

    __slots__ = ("length", "marks", "pattern", "text")

    def __init__(self, characters: list[str | None], same_length: Callable[[str], str]) -> None:
        self.length = len(characters)
        self.marks = [place for place, character in enumerate(characters) if character is None]
        self.text = same_length("".join(character or "?" for character in characters))
        self.pattern: re.Pattern[str] | None = None
        if self.marks:
            places = set(self.marks)
            self.pattern = re.compile(
                "".join("." if place in places else re.escape(char) for place, char in enumerate(self.text)), re.DOTALL
            )

    def at(self, folded: str, start: int, spans: list[tuple[int, int]]) -> bool:
        """Whether it stands here; notes what each `?` takes."""
        if self.pattern is None:
            return folded.startswith(self.text, start)
        spans += [(start + place, start + place + 1) for place in self.marks]
        return self.pattern.match(folded, start) is not None

    def find(self, folded: str, start: int) -> int:
        """Where it stands first; -1: nowhere."""
        if self.pattern is None:
            return folded.find(self.text, start)
        found = self.pattern.search(folded, start)
        return -1 if found is None else found.start()


@lru_cache(CACHED_PATTERNS)
def _glob(key: str, comparator: str) -> tuple[_Piece, ...]:
    pieces: list[list[str | None]] = [[]]
    characters = iter(_composed(key, COMPARATORS[comparator]))
    for character in characters:
        match character:
            case "*":
                pieces.append([])
            case "?":
                pieces[-1].append(None)
            case "\\":
                pieces[-1].append(next(characters, "\\"))
            case _:
                pieces[-1].append(character)
    return tuple(_Piece(piece, COMPARATORS[comparator].same_length) for piece in pieces)


class _Regex(Decider):
    __slots__ = ("_pattern", "_size")

    def __init__(self, match: Match, key: str) -> None:
        self.match = match
        self._pattern = compile_regex(key, nocase=match.comparator.nocase)
        self._size = int(self._pattern.programsize)

    def cost(self, length: int) -> int:
        return length // CHARACTERS + length * self._size // REGEX_WORK

    def decide(self, value: str, folded: Any) -> Captures:
        return self._captures(self._pattern.search(folded))

    def decide_slowly(self, value: str, folded: Any) -> Pieces:
        window = max(REGEX_PIECE // self._size, MIN_WINDOW)
        for start in range(0, max(len(folded) - window // 2, 1), window // 2):
            end = min(start + window, len(folded))
            search = partial(self._pattern.search, folded, start, end)
            found = yield Work(search, self.cost(end - start), (end - start) // CHARACTERS + 1)
            if found is not None:
                return self._captures(found)
        return None

    @staticmethod
    def _captures(found: Any) -> Captures:
        if found is None:
            return None
        return tuple((group or b"").decode("utf-8", "replace") for group in (found.group(0), *found.groups()))


_DECIDERS: Final[Mapping[str, Callable[[Match, str], Decider]]] = {
    "is": Decider,
    "contains": _Contains,
    "matches": _Matches,
    "regex": _Regex,
    "value": _Value,
}


@lru_cache(CACHED_PATTERNS)
def compile_regex(key: str, *, nocase: bool) -> Any:
    """A POSIX extended regular expression (draft-ietf-sieve-regex): the longest of the leftmost matches.

    A text is one line to it, whatever line ends are in there.

    Raises:
        ValueError: It is none, or takes too much memory.
    """
    if len(key) > MAX_KEY:
        raise ValueError(f"it is longer than {MAX_KEY} characters")
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not nocase
    options.max_mem = MAX_REGEX_BYTES
    options.posix_syntax = True
    options.perl_classes = True
    options.word_boundary = True
    options.one_line = True
    options.dot_nl = True
    options.longest_match = True
    try:
        pattern = re2.compile(key, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        raise ValueError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from None
    if pattern.programsize > MAX_PROGRAM:
        raise ValueError("it is too large")
    return pattern
