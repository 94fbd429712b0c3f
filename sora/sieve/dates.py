"""Dates (RFC 5260): `date`, `currentdate`, and `index` with its tags, which stand in `checks`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, parsedate_tz
from typing import TYPE_CHECKING, Final

from sora.sieve.checks import COMPARATOR_TAG, INDEX_TAGS, MATCH_TAGS, STRING, STRINGS, Tag, TestRow
from sora.sieve.core import picker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run

_ZONE: Final = re.compile(r"([+-])([0-9]{2})([0-5][0-9])")
PARSING: Final = 10
"""Instructions that it takes to read a date."""
_JULIAN_BASE: Final = datetime(1858, 11, 17, tzinfo=UTC).date()
"""Day 0 of the modified Julian calendar."""


def _zone_text(moment: datetime) -> str:
    minutes = int((moment.utcoffset() or timedelta()).total_seconds()) // 60
    sign = "-" if minutes < 0 else "+"
    return f"{sign}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"


PARTS: Final[Mapping[str, Callable[[datetime], str]]] = {
    "year": lambda moment: f"{moment.year:04}",
    "month": lambda moment: f"{moment.month:02}",
    "day": lambda moment: f"{moment.day:02}",
    "date": lambda moment: f"{moment.year:04}-{moment.month:02}-{moment.day:02}",
    "julian": lambda moment: str((moment.date() - _JULIAN_BASE).days),
    "hour": lambda moment: f"{moment.hour:02}",
    "minute": lambda moment: f"{moment.minute:02}",
    "second": lambda moment: f"{moment.second:02}",
    "time": lambda moment: f"{moment.hour:02}:{moment.minute:02}:{moment.second:02}",
    "iso8601": lambda moment: moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
    "std11": format_datetime,
    "zone": _zone_text,
    "weekday": lambda moment: str((moment.weekday() + 1) % 7),
}
"""RFC 5260 §4.2."""


def parse_zone(text: str) -> timezone | None:
    """`+hhmm` or `-hhmm`; None: it is none."""
    match = _ZONE.fullmatch(text)
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(offset if match[1] == "+" else -offset) if offset < timedelta(hours=24) else None


def parse_moment(value: str) -> datetime | None:
    """The date of a header field, behind its last semicolon if it has one (Received); None: there is none."""
    parsed = parsedate_tz(value.rpartition(";")[2].strip())
    if parsed is None:
        return None
    try:
        return datetime(*parsed[:6], tzinfo=timezone(timedelta(seconds=parsed[9] or 0)))
    except (ValueError, OverflowError):
        return None  # the 31st of February


def _zoned(check: Checker, bound: Bound) -> Callable[[Run, datetime], datetime]:
    """What puts a moment into the time zone that the test wants."""
    zone = bound.tags.get(":zone")
    if isinstance(zone, str) and parse_zone(zone) is None:
        check.error(bound, f'"{zone}" is no time zone such as "+0100"')
    if ":originalzone" in bound.tags:
        return lambda _state, moment: moment

    def into(state: Run, moment: datetime) -> datetime:
        wanted = state.environment.now.tzinfo if zone is None else parse_zone(state.text(zone))
        if wanted is None:
            state.fail('A time zone looks like "+0100"')
        try:
            return moment.astimezone(wanted)
        except OverflowError:
            return moment  # the year 9999, or 1

    return into


def _date(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match, pick, zoned = check.match(bound), picker(check, bound), _zoned(check, bound)
    name, part, keys = bound.text(0), bound.text(1), check.keys(match, bound.texts(2), bound)
    _check_part(check, bound, part)

    def run(state: Run) -> Steps:
        written = PARTS.get(state.text(part).lower())
        values = yield from state.fields(state.mail.top, state.text(name))
        moments = [parse_moment(value) for value in (pick(values) if ":index" in bound.tags else values[:1])]
        state.spend(PARSING * len(moments))
        found = [written(zoned(state, moment)) for moment in moments if moment is not None and written is not None]
        return (yield from state.any_match(match, found, keys))

    return run


def _currentdate(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match, zoned = check.match(bound), _zoned(check, bound)
    part, keys = bound.text(0), check.keys(match, bound.texts(1), bound)
    _check_part(check, bound, part)

    def run(state: Run) -> Steps:
        written = PARTS.get(state.text(part).lower())
        values = [] if written is None else [written(zoned(state, state.environment.now))]
        return (yield from state.any_match(match, values, keys))

    return run


def _check_part(check: Checker, bound: Bound, part: object) -> None:
    if isinstance(part, str) and part.lower() not in PARTS:
        check.warn(bound, f'There is no date part "{part}": the test is never true')


_ZONE_TAG: Final = Tag(":zone", STRING, group="zone")

EXTENSIONS: Final = frozenset({"date", "index"})
COMMANDS: Final = ()
TESTS: Final = (
    TestRow(
        name="date",
        build=_date,
        extension="date",
        positional=(STRING, STRING, STRINGS),
        tags=(*MATCH_TAGS, COMPARATOR_TAG, *INDEX_TAGS, _ZONE_TAG, Tag(":originalzone", group="zone")),
    ),
    TestRow(
        name="currentdate",
        build=_currentdate,
        extension="date",
        positional=(STRING, STRINGS),
        tags=(*MATCH_TAGS, COMPARATOR_TAG, _ZONE_TAG),
    ),
)
