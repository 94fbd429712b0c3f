"""A checked script, ready to run; the same object serves any number of messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora._native.sievescan import parse
from sora.errors import BadScript
from sora.sieve.checks import Checker
from sora.sieve.language import EXTENSIONS, Language

if TYPE_CHECKING:
    from sora._native.sievescan import Source
    from sora.sieve.checks import Node

MAX_BYTES: Final = 1 << 20
"""Of a script, unless the configuration says otherwise."""
MAX_NESTING: Final = 30
"""Blocks inside blocks, and likewise tests inside tests, unless the configuration says otherwise."""
MOST_NESTING: Final = 100
"""What the configuration may say: running blocks takes frames of Python's own stack."""
_BOM: Final = "\ufeff"


class Script(Struct, frozen=True):
    """A script without errors.

    Attributes:
        required: Extensions that it requires.
        demanded: Those that it cannot do without: `require` names them, and not `ihave`.
        warnings: Line, column and text.
    """

    commands: tuple[Node, ...]
    required: frozenset[str]
    warnings: tuple[tuple[int, int, str], ...] = ()
    demanded: frozenset[str] = frozenset()


def compile(
    source: bytes,
    *,
    extensions: frozenset[str] = EXTENSIONS,
    max_bytes: int = MAX_BYTES,
    max_nesting: int = MAX_NESTING,
) -> Script:
    """Check a script.

    Args:
        extensions: What it may require.
        max_nesting: Blocks inside blocks; not above `MOST_NESTING`.

    Raises:
        BadScript: With all that is wrong, line by line.
    """
    if len(source) > max_bytes:
        raise BadScript([(1, 1, f"The script is larger than {max_bytes} octets")])
    commands = parse(_decoded(source), max_nesting)
    checker = Checker(Language(), extensions)
    _requires_first(commands, checker)
    nodes = checker.block(commands)
    if checker.errors:
        raise BadScript(sorted(checker.errors))
    return Script(nodes, frozenset(checker.required), tuple(checker.warnings), frozenset(checker.demanded))


def _decoded(source: bytes) -> str:
    try:
        text = source.decode("utf-8")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        column = error.start - source.rfind(b"\n", 0, error.start)
        raise BadScript([(line, column, "The script is not in UTF-8")]) from None
    if (place := text.find("\0")) >= 0:
        raise BadScript([(text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place), "NUL in the script")])
    return text.removeprefix(_BOM)


def _requires_first(commands: tuple[Source, ...], checker: Checker) -> None:
    """RFC 5228 §3.2: `require` comes before everything else."""
    begun = False
    for command in commands:
        if command.name != "require":
            begun = True
        elif begun:
            checker.error((command.line, command.column), '"require" must come before all other commands')
