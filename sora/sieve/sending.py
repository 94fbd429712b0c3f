"""`redirect` (RFC 5228 §4.2): to an address or to a list (RFC 6134), with what SMTP is told besides (RFC 6009)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sora.sieve.actions import Redirect
from sora.sieve.checks import NUMBER, STRING, CommandRow, Tag
from sora.sieve.core import COPY_TAG
from sora.sieve.mail import parse_address
from sora.sieve.questions import ListMembers

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker, Steps, TestRow
    from sora.sieve.interpreter import Run
    from sora.sieve.texts import Text

_NOTIFY: Final = re.compile(r"NEVER|(SUCCESS|FAILURE|DELAY)(,(SUCCESS|FAILURE|DELAY)){0,2}", re.IGNORECASE)
"""RFC 3461 §4.1."""
_RET: Final = re.compile("FULL|HDRS", re.IGNORECASE)
_MODE: Final = re.compile("NOTIFY|RETURN", re.IGNORECASE)
_ABSOLUTE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
ADDRESS: Final = 15
"""Instructions that it takes to read an address."""
MAX_BY_TIME: Final = 999_999_999
"""Seconds (RFC 2852 §4)."""


def _redirect(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    target, copy, to_list = bound.text(0), ":copy" in bound.tags, ":list" in bound.tags
    if not to_list and isinstance(target, str) and parse_address(target) is None:
        check.error(bound, f'"{target}" is no mail address')
    options = _options(check, bound)

    def run(state: Run) -> Steps:
        addresses = [state.text(target)]
        if to_list:
            addresses = yield ListMembers(addresses[0])
            if addresses is None:
                state.fail(f'There is no list "{state.text(target)}"')
        found = options(state)
        for text in addresses:
            state.spend(ADDRESS)
            address = parse_address(text)
            if address is None:
                state.fail(f'"{text}" is no mail address')
            state.act(Redirect(state.mail, address.path, **found), cancels_keep=not copy)

    return run


def _options(check: Checker, bound: Bound) -> Callable[[Run], dict[str, Any]]:
    """The fields of `Redirect` that tags give (RFC 6009 §4, §6)."""
    if not bound.tags:
        return _no_options
    notify, ret = _word(check, bound, ":notify", _NOTIFY), _word(check, bound, ":ret", _RET)
    mode = _word(check, bound, ":bymode", _MODE)
    relative: int | None = bound.tags.get(":bytimerelative")
    absolute: Text | None = bound.tags.get(":bytimeabsolute")
    trace = ":bytrace" in bound.tags
    if relative is None and absolute is None and bound.chosen(":bymode", ":bytrace"):
        check.error(bound, f"{bound.chosen(':bymode', ':bytrace')} needs :bytimerelative or :bytimeabsolute")
    if isinstance(absolute, str) and _moment(absolute) is None:
        check.error(bound, f'"{absolute}" is no date and time (RFC 3339)')

    def options(state: Run) -> dict[str, Any]:
        found: dict[str, Any] = {"notify": notify(state), "ret": ret(state)}
        if relative is not None or absolute is not None:
            seconds = relative if absolute is None else _seconds_until(state, state.text(absolute))
            found |= {"by_mode": mode(state) or "RETURN", "by_trace": trace}
            found["by_time"] = max(min(seconds or 0, MAX_BY_TIME), -MAX_BY_TIME)
        return found

    return options


def _no_options(_state: Run) -> dict[str, Any]:
    return {"notify": "", "ret": ""}


def _word(check: Checker, bound: Bound, tag: str, allowed: re.Pattern[str]) -> Callable[[Run], str]:
    """The value of a tag, which must be one of certain words; empty without the tag."""
    value: Text = bound.tags.get(tag, "")
    if isinstance(value, str) and tag in bound.tags and not allowed.fullmatch(value):
        check.error(bound, f'{tag} cannot be "{value}"')

    def word(state: Run) -> str:
        text = state.text(value)
        if text and not allowed.fullmatch(text):
            state.fail(f'{tag} cannot be "{text}"')
        return text.upper()

    return word


def _moment(text: str) -> datetime | None:
    if not _ABSOLUTE.fullmatch(text.upper()):
        return None
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:
        return None  # the 31st of February


def _seconds_until(state: Run, text: str) -> int:
    moment = _moment(text)
    if moment is None:
        state.fail(f'"{text}" is no date and time (RFC 3339)')
    return int((moment - state.environment.now).total_seconds())


EXTENSIONS: Final = frozenset({"redirect-dsn", "redirect-deliverby"})
TESTS: Final[tuple[TestRow, ...]] = ()
COMMANDS: Final = (
    CommandRow(
        name="redirect",
        build=_redirect,
        positional=(STRING,),
        tags=(
            COPY_TAG,
            Tag(":list", extension="extlists"),
            Tag(":notify", STRING, extension="redirect-dsn"),
            Tag(":ret", STRING, extension="redirect-dsn"),
            Tag(":bytimerelative", NUMBER, group="by time", extension="redirect-deliverby"),
            Tag(":bytimeabsolute", STRING, group="by time", extension="redirect-deliverby"),
            Tag(":bymode", STRING, extension="redirect-deliverby"),
            Tag(":bytrace", extension="redirect-deliverby"),
        ),
    ),
)
