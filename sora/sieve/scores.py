"""`spamtest`, `spamtestplus` and `virustest` (RFC 5235): what a scanner wrote into a header field, as a number.

Which field that is, and how its value is to be read, is a setting of the site (`ScoreHeader`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.sieve.checks import COMPARATOR_TAG, MATCH_TAGS, STRING, CommandRow, Tag, TestRow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run


class ScoreHeader(Struct, frozen=True):
    """Where a score stands.

    Attributes:
        name: Of the field.
        pattern: Regular expression; its first group is the score. Empty: the first number of the value, or with `texts`
            all of it.
        maximum: The score that means the worst, or larger; for scores that are numbers.
        texts: Result for a score that is a word, in lower case; used instead of `maximum`.
    """

    name: str
    pattern: str = ""
    maximum: float = 10.0
    texts: Mapping[str, int] = {}


_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")


def score(header: ScoreHeader | None, state: Run, worst: int) -> int:
    """The result from 0 (not tested) to `worst`."""
    values = state.mail.header(header.name) if header is not None else []
    if header is None or not values:
        return 0
    if header.texts and not header.pattern:
        return min(header.texts.get(values[0].strip().lower(), 0), worst)
    found = re.search(header.pattern, values[0]) if header.pattern else _NUMBER.search(values[0])
    if found is None:
        return 0
    text = (found[1] if found.re.groups else found[0]) or ""
    if header.texts:
        return min(header.texts.get(text.strip().lower(), 0), worst)
    return _scaled(text, header.maximum, worst)


def _scaled(text: str, maximum: float, worst: int) -> int:
    """1 is clean; in between the score counts by its share of the maximum (RFC 5235 §2)."""
    number = _NUMBER.search(text)
    if number is None:
        return 0
    share = min(max(float(number[0]) / maximum, 0.0), 1.0) if maximum > 0 else 0.0
    return 1 + int(share * (worst - 1))


def _spamtest(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match, value = check.match(bound), check.keys(check.match(bound), (bound.text(0),), bound)
    percent = ":percent" in bound.tags

    def run(state: Run) -> Steps:
        settings = state.environment.settings
        header = getattr(settings, "spam_header", None)
        if percent:  # RFC 5235 §2.3: 0 to 100, and whether it was tested is asked by :count
            known = score(header, state, 101)
            values = [str(known - 1)] if known else []
            return (yield from state.any_match(match, values or (["0"] if match.type != "count" else []), value))
        known = score(header, state, 10)
        return (yield from state.any_match(match, [str(known)] if known or match.type != "count" else [], value))

    return run


def _virustest(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match, value = check.match(bound), check.keys(check.match(bound), (bound.text(0),), bound)

    def run(state: Run) -> Steps:
        known = score(getattr(state.environment.settings, "virus_header", None), state, 5)
        return (yield from state.any_match(match, [str(known)] if known or match.type != "count" else [], value))

    return run


EXTENSIONS: Final = frozenset({"spamtest", "spamtestplus", "virustest"})
COMMANDS: Final[tuple[CommandRow, ...]] = ()
TESTS: Final = (
    TestRow(
        name="spamtest",
        build=_spamtest,
        extension="spamtest spamtestplus",
        positional=(STRING,),
        tags=(*MATCH_TAGS, COMPARATOR_TAG, Tag(":percent", extension="spamtestplus")),
    ),
    TestRow(
        name="virustest",
        build=_virustest,
        extension="virustest",
        positional=(STRING,),
        tags=(*MATCH_TAGS, COMPARATOR_TAG),
    ),
)
