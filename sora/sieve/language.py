"""Everything that can be written in a script: the rows of all modules, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.sieve import (
    bodies,
    boxes,
    core,
    dates,
    duplicates,
    editing,
    fcc,
    flags,
    include,
    mimeparts,
    notify,
    refusing,
    scores,
    sending,
    surroundings,
    vacation,
    variables,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sora.sieve.checks import CommandRow, TestRow

_FAMILIES: Final = (
    core,
    sending,
    variables,
    flags,
    include,
    surroundings,
    dates,
    boxes,
    duplicates,
    editing,
    refusing,
    scores,
    bodies,
    fcc,
    vacation,
    notify,
    mimeparts,
)

TESTS: Final[Mapping[str, TestRow]] = {row.name: row for family in _FAMILIES for row in family.TESTS}
COMMANDS: Final[Mapping[str, CommandRow]] = {row.name: row for family in _FAMILIES for row in family.COMMANDS}
EXTENSIONS: Final[frozenset[str]] = frozenset({"regex"}).union(*(family.EXTENSIONS for family in _FAMILIES))
"""What can be required; comparators by `comparator-NAME`. The tag of `regex` stands with the other match types."""
IMPLIED: Final[Mapping[str, frozenset[str]]] = {"vacation-seconds": frozenset({"vacation"})}
"""What requiring one extension puts in force besides (RFC 6131 §2)."""


class Language:
    """The tables as `checks` wants them."""

    tests = TESTS
    commands = COMMANDS
    extensions = EXTENSIONS
    implied = IMPLIED
