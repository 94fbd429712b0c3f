"""`duplicate` (RFC 7352): has a message of this id been here before?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.sieve.actions import Remembered
from sora.sieve.checks import NUMBER, STRING, Tag, TestRow
from sora.sieve.interpreter import ASKED
from sora.sieve.questions import IsDuplicate

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run

DEFAULT_S: Final = 7 * 86400
LONGEST_S: Final = 90 * 86400
"""What is asked for beyond it is cut (RFC 7352 §3)."""


def _duplicate(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    handle = bound.tags.get(":handle", "")
    header, unique = bound.tags.get(":header"), bound.tags.get(":uniqueid")
    seconds = min(bound.tags.get(":seconds", DEFAULT_S), LONGEST_S)
    last = ":last" in bound.tags

    def run(state: Run) -> Steps:
        if unique is not None:
            value: str | None = state.text(unique)
        else:
            name = "Message-ID" if header is None else state.text(header)
            values = yield from state.fields(state.mail.top, name)
            value = values[0] if values and values[0] else None
        if value is None or not seconds:
            return False  # nothing to go by, or nothing to remember: it is never a duplicate (RFC 7352 §3)
        name = state.text(handle)
        state.spend(ASKED)
        known: bool = yield IsDuplicate(name, value)
        entry = Remembered(name, value, seconds, again=known)
        if (not known or last) and entry not in state.remembered:
            state.remembered.append(entry)
        return known

    return run


EXTENSIONS: Final = frozenset({"duplicate"})
COMMANDS: Final = ()
TESTS: Final = (
    TestRow(
        name="duplicate",
        build=_duplicate,
        extension="duplicate",
        tags=(
            Tag(":handle", STRING),
            Tag(":header", STRING, group="id"),
            Tag(":uniqueid", STRING, group="id"),
            Tag(":seconds", NUMBER),
            Tag(":last"),
        ),
    ),
)
