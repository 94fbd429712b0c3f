"""From what a script says to what it does: each test and command is looked up in a table, its arguments are sorted out,
and what remains is a tree of functions.

All errors of a script are collected, up to a limit, because people mend scripts by hand. A row of the tables
(`TestRow`, `CommandRow`) says which arguments there may be; its `build` function looks at their values once, when the
script is checked, and gives the function that runs for each message.
"""

from __future__ import annotations

import enum
import inspect
from collections import deque
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from msgspec import Struct

from sora.errors import BadScript
from sora.sieve.matching import COMPARATORS, RELATIONS, Keys, Match
from sora.sieve.texts import Template, Text, decode_encoded, template

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from sora._native.sievescan import Argument, Source
    from sora.sieve.interpreter import Run
    from sora.sieve.questions import Request

MAX_ERRORS: Final = 20
"""One mistake makes others; nobody reads more."""

Steps: TypeAlias = "Generator[Request, Any, Any]"
"""What a function that must ask for something gives; its value is the answer."""


class Shape(enum.Enum):
    """What kind of argument is wanted."""

    STRING = "a string"
    STRINGS = "a string or a list of strings"
    NUMBER = "a number"


STRING, STRINGS, NUMBER = Shape.STRING, Shape.STRINGS, Shape.NUMBER


class Tag(Struct, frozen=True):
    """One tagged argument.

    Attributes:
        name: With its colon.
        value: What follows it; None: nothing.
        group: Of the tags of one group only one may be given.
        extension: Must be required for it.
    """

    name: str
    value: Shape | None = None
    group: str = ""
    extension: str = ""


class How(enum.Enum):
    """Which tests a test or command applies to."""

    NONE = "takes no test"
    ONE = "needs one test"
    LIST = "needs a list of tests"


class Node(Struct, frozen=True, gc=False):
    """A test or command that can be run.

    Attributes:
        asks: `run` is a generator function: it may have to ask for something.
    """

    line: int
    name: str
    run: Callable[[Run], Any]
    asks: bool


class Bound(Struct, gc=False):
    """Arguments of one test or command, sorted out.

    Attributes:
        positional: In the order of the row; missing ones only if the row says so.
        tags: Name to value; True for a tag without.
        places: Name of a tag to its line and column.
        tests: Those that it applies to.
        block: What stands in braces.
    """

    line: int
    column: int
    name: str
    positional: Sequence[Text | tuple[Text, ...] | int]
    tags: Mapping[str, Any]
    places: Mapping[str, tuple[int, int]]
    tests: tuple[Node, ...] = ()
    block: tuple[Node, ...] = ()

    def text(self, place: int) -> Text:
        """A positional string."""
        value = self.positional[place]
        assert isinstance(value, (str, Template))
        return value

    def texts(self, place: int) -> tuple[Text, ...]:
        """A positional list of strings."""
        value = self.positional[place]
        assert isinstance(value, tuple)
        return value

    def number(self, place: int) -> int:
        """A positional number."""
        value = self.positional[place]
        assert isinstance(value, int)
        return value

    def chosen(self, *names: str) -> str:
        """Which of these tags was given; the empty string for none."""
        return next((name for name in names if name in self.tags), "")


class Row(Struct, frozen=True, kw_only=True):
    """A test or a command.

    Attributes:
        build: Checks the values and gives the function that runs; a generator function if it asks.
        extension: Must be required; several separated by spaces: one of them.
        positional: Shapes of the arguments.
        leading: How many of the first positional arguments may be missing.
        trailing: How many of the last ones.
        tags: Tagged arguments.
    """

    name: str
    build: Callable[[Checker, Bound], Callable[[Run], Any]]
    extension: str = ""
    positional: tuple[Shape, ...] = ()
    leading: int = 0
    trailing: int = 0
    tags: tuple[Tag, ...] = ()
    how: How = How.NONE


class TestRow(Row, frozen=True, kw_only=True):
    """A test."""

    __test__ = False


class CommandRow(Row, frozen=True, kw_only=True):
    """An action or control.

    Attributes:
        block: A block follows.
        after: It must come directly behind one of these commands (`else`).
        loop: `break` ends its block.
        outermost: It stands in no block (`require`).
    """

    block: bool = False
    after: tuple[str, ...] = ()
    loop: bool = False
    outermost: bool = False


class Language(Protocol):
    """What can be written: see `language`."""

    tests: Mapping[str, TestRow]
    commands: Mapping[str, CommandRow]
    extensions: frozenset[str]
    implied: Mapping[str, frozenset[str]]


# Tags that many tests share.
MATCH_TAGS: Final = (
    Tag(":is", group="match"),
    Tag(":contains", group="match"),
    Tag(":matches", group="match"),
    Tag(":regex", group="match", extension="regex"),
    Tag(":count", STRING, group="match", extension="relational"),
    Tag(":value", STRING, group="match", extension="relational"),
    Tag(":list", group="match", extension="extlists"),
)
COMPARATOR_TAG: Final = Tag(":comparator", STRING)
ADDRESS_PART_TAGS: Final = (
    Tag(":all", group="part"),
    Tag(":localpart", group="part"),
    Tag(":domain", group="part"),
    Tag(":user", group="part", extension="subaddress"),
    Tag(":detail", group="part", extension="subaddress"),
)
_MATCH_NAMES: Final = tuple(tag.name for tag in MATCH_TAGS)
_PLAIN_MATCH: Final = Match()
INDEX_TAGS: Final = (Tag(":index", NUMBER, extension="index"), Tag(":last", extension="index"))


class Checker:
    """Checks one script.

    Attributes:
        required: Extensions that are in force at the present place.
        demanded: Those that `require` names.
        lenient: Behind an `ihave` that found something missing: what is not known fails when it is reached, and not
            before (RFC 5463 §4).
        loops: Names of the loops around the present place.
        warnings: Line, column and text.
    """

    def __init__(self, language: Language, allowed: frozenset[str]) -> None:
        self.language = language
        self.allowed = allowed
        self.required: frozenset[str] = frozenset()
        self.demanded: set[str] = set()
        self.lenient = False
        self.loops: list[str] = []
        self._tags_of: dict[str, Mapping[str, Tag]] = {}
        self._depth = -1
        self.errors: list[tuple[int, int, str]] = []
        self.warnings: list[tuple[int, int, str]] = []

    # ------------------------------------------------------------------ what build functions use

    def has(self, extension: str) -> bool:
        """The extension is in force here."""
        return extension in self.required

    def error(self, place: Bound | tuple[int, int], text: str) -> None:
        """Note an error of the script."""
        line, column = (place.line, place.column) if isinstance(place, Bound) else place
        self.errors.append((line, column, text))
        if len(self.errors) >= MAX_ERRORS:
            raise BadScript(self.errors)

    def warn(self, place: Bound | tuple[int, int], text: str) -> None:
        """Note what is allowed, but hardly meant."""
        line, column = (place.line, place.column) if isinstance(place, Bound) else place
        if len(self.warnings) < MAX_ERRORS:
            self.warnings.append((line, column, text))

    def require(self, names: Sequence[str], place: Bound) -> None:
        """Put extensions in force from here on."""
        for name in names:
            if not self.supports(name):
                self.error(place, f'Unsupported extension "{name}"')
            if name not in self.required:
                self.required |= {name, *self.language.implied.get(name, ())}

    def supports(self, name: str) -> bool:
        """The extension, or comparator (RFC 5228 §2.7.3), is offered to this script."""
        if name.startswith("comparator-"):
            return name.removeprefix("comparator-") in COMPARATORS
        return name in self.allowed

    def match(self, bound: Bound) -> Match:
        """The match type and comparator of a test."""
        if not bound.tags:
            return _PLAIN_MATCH
        kind = bound.chosen(*_MATCH_NAMES) or ":is"
        name = bound.tags.get(":comparator", "i;ascii-casemap")
        comparator = COMPARATORS.get(name) if isinstance(name, str) else None
        if comparator is None:
            self.error(bound.places[":comparator"], f'Unknown comparator "{name}"')
            comparator = COMPARATORS["i;ascii-casemap"]
        elif name == "i;unicode-casemap" and not self.has("comparator-i;unicode-casemap"):
            self.error(bound.places[":comparator"], f'"comparator-{name}" is not required')
        elif name == "i;ascii-numeric" and not self.has("comparator-i;ascii-numeric"):
            self.error(bound.places[":comparator"], f'"comparator-{name}" is not required')
        if not comparator.substrings and kind in (":contains", ":matches", ":regex"):
            self.error(bound.places[":comparator"], f"The comparator {name} cannot be used with {kind}")
        relation = bound.tags.get(kind, "") if kind in (":count", ":value") else ""
        if kind in (":count", ":value") and (not isinstance(relation, str) or relation.lower() not in RELATIONS):
            self.error(bound.places[kind], f'Unknown relation "{relation}"')
            relation = "eq"
        return Match(kind[1:], comparator, relation.lower() if isinstance(relation, str) else "eq")

    def keys(self, match: Match, texts: tuple[Text, ...], bound: Bound) -> Keys:
        """Keys that a match type compares with; constant ones are checked now."""
        keys = Keys(texts)
        if match.type not in ("matches", "regex"):
            return keys
        for key in texts:
            if isinstance(key, str):
                try:
                    match.check(key)
                except ValueError as error:
                    kind = "regular expression" if match.type == "regex" else "text with wildcards"
                    self.error(bound, f"Bad {kind}: {error}")
        return keys

    # ------------------------------------------------------------------ the tree

    def block(self, commands: Sequence[Source]) -> tuple[Node, ...]:
        """Check commands that follow each other; what an `ihave` in there brings ends with them."""
        nodes, before = [], ""
        required, lenient = self.required, self.lenient
        self._depth += 1
        for command in commands:
            node = self.command(command, before)
            if node is not None:
                nodes.append(node)
            before = command.name
        self._depth -= 1
        if self._depth >= 0:
            self.required, self.lenient = required, lenient
        return tuple(nodes)

    def command(self, source: Source, before: str) -> Node | None:
        """Check one command; None if it is wrong."""
        row = self.language.commands.get(source.name)
        if not self._known(row, source, "command"):
            return self._failing(source) if self.lenient else None
        assert row is not None
        errors = len(self.errors)
        if row.after and before not in row.after:
            self.error(_place(source), f'"{row.name}" must follow "{row.after[0]}"')
        if row.outermost and self._depth > 0:
            self.error(_place(source), f'"{row.name}" cannot stand in a block')
        bound = self._bind(row, source)
        if row.block != (source.block is not None):
            self.error(_place(source), f'"{row.name}" needs a block' if row.block else f'"{row.name}" takes no block')
        if source.block:
            self._inside(row, source.block, bound)
        return self._built(row, bound, source, errors)

    def _inside(self, row: CommandRow, block: Sequence[Source], bound: Bound) -> None:
        if row.loop:
            self.loops.append(str(bound.tags.get(":name", "")))
        bound.block = self.block(block)
        if row.loop:
            self.loops.pop()

    def test(self, source: Source) -> Node | None:
        """Check one test; None if it is wrong."""
        row = self.language.tests.get(source.name)
        if not self._known(row, source, "test"):
            return self._failing(source) if self.lenient else None
        assert row is not None
        errors = len(self.errors)
        return self._built(row, self._bind(row, source), source, errors)

    def _known(self, row: Row | None, source: Source, what: str) -> bool:
        if row is not None and (not row.extension or row.extension in self.required):
            return True
        extensions = row.extension.split() if row is not None else []
        if row is None or (extensions and not any(map(self.supports, extensions))):
            problem = f'Unknown {what} "{source.name}"'
        elif extensions and not any(map(self.has, extensions)):
            problem = f'The {what} "{row.name}" needs require "{extensions[0]}"'
        else:
            return True
        if not self.lenient:
            self.error(_place(source), problem)
        return False

    def _failing(self, source: Source) -> Node:
        text = f'"{source.name}" is not supported, or not in this form'

        def run(run: Run) -> None:
            run.fail(text)

        return Node(source.line, source.name, run, asks=False)

    def _built(self, row: Row, bound: Bound, source: Source, errors: int) -> Node | None:
        """Build a node of checked arguments; None if they were wrong.

        Args:
            errors: How many errors there were before it.
        """
        function = None
        if len(self.errors) == errors:  # one mistake gives no second message
            function = row.build(self, bound)
        if len(self.errors) > errors:
            if self.lenient:  # arguments of extensions that are missing
                del self.errors[errors:]
                return self._failing(source)
            return None
        assert function is not None
        code = (function.func if isinstance(function, partial) else function).__code__
        return Node(bound.line, bound.name, function, bool(code.co_flags & inspect.CO_GENERATOR))

    # ------------------------------------------------------------------ arguments

    def _bind(self, row: Row, source: Source) -> Bound:
        bound = Bound(source.line, source.column, row.name, (), _NO_TAGS, _NO_TAGS)
        errors = len(self.errors)
        rest = self._tags(row, source, bound) if source.arguments else ()
        if len(self.errors) == errors and (rest or row.positional):  # else an unknown tag's value would be an argument
            self._positional(row, rest, bound)
        if source.tests or row.how is not How.NONE:
            self._tests(row, source, bound)
        return bound

    def _tags(self, row: Row, source: Source, bound: Bound) -> Sequence[Argument]:
        """Take the tags and their values; what is left is positional."""
        for argument in source.arguments:
            if argument.is_tag:
                break
        else:
            return source.arguments
        known = self._known_tags(row)
        values: dict[str, Any] = {}
        places: dict[str, tuple[int, int]] = {}
        rest: list[Argument] = []
        arguments = deque(source.arguments)
        while arguments:
            argument = arguments.popleft()
            if not argument.is_tag:
                rest.append(argument)
                continue
            tag = known.get(str(argument.value))
            if tag is None or (tag.extension and not any(map(self.has, tag.extension.split()))):
                self._unknown_tag(row, tag, argument)
            else:
                if rest:
                    self.error(_place(argument), f"{argument.value} must stand before the other arguments")
                if tag.name in values:
                    self.error(_place(argument), f"{tag.name} is given twice")
                values[tag.name] = self._tag_value(tag, argument, arguments)
                places[tag.name] = _place(argument)
        bound.tags, bound.places = values, places
        groups: dict[str, list[str]] = {}
        for name in values if len(values) > 1 else ():
            groups.setdefault(known[name].group, []).append(name)
        for group, names in groups.items():
            if group and len(names) > 1:
                self.error(bound, f"Only one of {', '.join(names)} can be given")
        return rest

    def _unknown_tag(self, row: Row, tag: Tag | None, argument: Argument) -> None:
        if tag is None:
            self.error(_place(argument), f'"{row.name}" has no argument {argument.value}')
        else:
            self.error(_place(argument), f'{argument.value} needs require "{tag.extension.split()[0]}"')

    def _known_tags(self, row: Row) -> Mapping[str, Tag]:
        known = self._tags_of.get(row.name)
        if known is None:
            known = self._tags_of[row.name] = {tag.name: tag for tag in row.tags}
        return known

    def _tag_value(self, tag: Tag, argument: Argument, arguments: deque[Argument]) -> Any:
        if tag.value is None:
            return True
        value = self._value(tag.value, arguments.popleft()) if arguments else None
        if value is None:
            self.error(_place(argument), f"{tag.name} must be followed by {tag.value.value}")
            return _NOTHING[tag.value]
        return value

    def _positional(self, row: Row, rest: Sequence[Argument], bound: Bound) -> None:
        wanted = row.positional
        if not len(wanted) - row.leading - row.trailing <= len(rest) <= len(wanted):
            count = f"{len(wanted)} argument{'s' if len(wanted) != 1 else ''}" if wanted else "no arguments"
            self.error(bound, f'"{row.name}" takes {count}, but {len(rest)} are given')
            return
        shapes = wanted[: len(rest)] if row.trailing else wanted[len(wanted) - len(rest) :]
        found: list[Text | tuple[Text, ...] | int] = []
        for shape, argument in zip(shapes, rest, strict=True):
            value = self._value(shape, argument)
            if value is None:
                self.error(_place(argument), f'"{row.name}" wants {shape.value} here')
                value = _NOTHING[shape]
            found.append(value)
        bound.positional = found

    def _value(self, shape: Shape, argument: Argument) -> Text | tuple[Text, ...] | int | None:
        value = argument.value
        if argument.is_tag:
            return None
        if isinstance(value, str):
            text = self._text(argument)
            return None if shape is NUMBER else text if shape is STRING else (text,)
        if isinstance(value, tuple):
            return tuple(map(self._text, value)) if shape is STRINGS else None
        return value if shape is NUMBER else None

    def _text(self, argument: Argument) -> Text:
        text = argument.value
        assert isinstance(text, str)
        if "${" not in text:
            return text
        if self.has("encoded-character"):
            try:
                text = decode_encoded(text)
            except ValueError as error:
                self.error(_place(argument), str(error))
        if self.has("variables"):
            return template(text, lambda namespace: self._is_namespace(namespace, _place(argument)))
        return text

    def _is_namespace(self, namespace: str, place: tuple[int, int]) -> bool:
        """RFC 6609 §3.4.3 has the namespace `global`; `env` are the items of the environment."""
        env = namespace.partition(".")[0] == "env"  # names of items have dots themselves
        if (namespace == "global" and self.has("include")) or (env and self.has("environment")):
            return True
        self.warn(place, f'There is no namespace "{namespace}": the variable is always empty')
        return False

    def _tests(self, row: Row, source: Source, bound: Bound) -> None:
        how = How.NONE if not source.tests else How.LIST if source.listed else How.ONE
        if row.how is not how:
            self.error(bound, f'"{row.name}" {row.how.value}')
        if source.tests:
            bound.tests = tuple([node for node in map(self.test, source.tests) if node is not None])


_NO_TAGS: Final[Mapping[str, Any]] = MappingProxyType({})
_NOTHING: Final[Mapping[Shape, Any]] = {Shape.STRING: "", Shape.STRINGS: ("",), Shape.NUMBER: 0}
"""Stands for an argument that is wrong, so that the others can be checked."""


def _place(source: Any) -> tuple[int, int]:
    return source.line, source.column
