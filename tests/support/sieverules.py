"""Tables of an RFC's rules, each with a script that shows it: `pytest --collect-only -m rfc` lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Struct

from tests.support.sieve import did, errors, execute, required

if TYPE_CHECKING:
    from collections.abc import Callable


class Rule(Struct, frozen=True):
    """One rule.

    Attributes:
        section: Where it stands; `example` behind it: the RFC shows this script.
        says: In a few words.
        check: Runs the script.
    """

    section: str
    says: str
    check: Callable[[], None]


def does(section: str, says: str, extensions: str, script: str, actions: list[str], **arguments: Any) -> Rule:
    """The script takes these actions."""

    def check() -> None:
        assert did(required(*extensions.split()) + script, **arguments) == actions

    return Rule(section, says, check)


def is_(section: str, says: str, extensions: str, test: str, result: bool, **arguments: Any) -> Rule:
    """The test has this result."""

    def check() -> None:
        outcome = execute(f"{required(*extensions.split())}if {test} {{ discard; }}", **arguments)
        assert not outcome.error, outcome.error
        assert [type(action).__name__ for action in outcome.actions] == ["Discard" if result else "Keep"]

    return Rule(section, says, check)


def refuses(section: str, says: str, extensions: str, script: str, text: str) -> Rule:
    """The script has an error with this text in it."""

    def check() -> None:
        found = errors(required(*extensions.split()) + script)
        assert any(text in error for error in found), found

    return Rule(section, says, check)


def fails(section: str, says: str, extensions: str, script: str, text: str, **arguments: Any) -> Rule:
    """The run ends with this error, and the message is kept."""

    def check() -> None:
        found = did(required(*extensions.split()) + script, **arguments)
        assert found[0].startswith("error: "), found
        assert text in found[0]
        assert found[-1].startswith("keep")

    return Rule(section, says, check)


def made(
    section: str, says: str, extensions: str, script: str, look: Callable[[Any], Any], value: Any, **arguments: Any
) -> Rule:
    """What *look* finds in the first action has this value."""

    def check() -> None:
        outcome = execute(required(*extensions.split()) + script, **arguments)
        assert not outcome.error, outcome.error
        assert look(outcome.actions[0]) == value

    return Rule(section, says, check)


def walk(rfc: str, *rules: Rule) -> Callable[[Rule], None]:
    """The test of all rules of an RFC."""
    rows = [
        pytest.param(rule, id=f"{rule.section} {rule.says}", marks=pytest.mark.rfc(rfc, rule.section, rule.says))
        for rule in rules
    ]

    @pytest.mark.parametrize("rule", rows)
    def test(rule: Rule) -> None:
        rule.check()

    return test
