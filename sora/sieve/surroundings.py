"""What surrounds the message: `envelope` (RFC 5228 §5.4, RFC 6009), `environment` (RFC 5183), lists (RFC 6134).

And what surrounds the script: `ihave` and `error` (RFC 5463).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.sieve.checks import (
    ADDRESS_PART_TAGS,
    COMPARATOR_TAG,
    MATCH_TAGS,
    STRING,
    STRINGS,
    CommandRow,
    TestRow,
)
from sora.sieve.core import address_part
from sora.sieve.interpreter import NAMED
from sora.sieve.mail import Address, parse_address
from sora.sieve.questions import ListExists

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run

ADDRESSES: Final = frozenset({"from", "to", "orcpt"})
DSN_PARTS: Final = frozenset({"notify", "orcpt", "ret", "envid"})
"""Envelope parts of RFC 6009 §2."""
IMAP_ITEMS: Final = frozenset({"imap.user", "imap.email", "imap.cause", "imap.mailbox", "imap.changedflags"})
"""Items of RFC 6785 §4; they are empty where a message is delivered."""
BY_PARTS: Final = frozenset({"bytimeabsolute", "bytimerelative", "bymode", "bytrace"})
"""Envelope parts of RFC 6009 §5; they are empty where the message came without BY."""


def _envelope(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match, part = check.match(bound), address_part(bound)
    names, keys = bound.texts(0), check.keys(match, bound.texts(1), bound)
    for name in names:
        if isinstance(name, str) and not _is_known(check, name.lower()):
            check.error(bound, f'There is no envelope part "{name}"')

    def run(state: Run) -> Steps:
        if state.environment.imap:
            state.fail("A message in a mailbox has no envelope (RFC 6785 §4.6)")
        values = [
            value
            for name in state.texts(names)
            for raw in _envelope_part(state, name.lower())
            if (value := _part_of(name.lower(), raw, part)) is not None
        ]
        return (yield from state.any_match(match, values, keys))

    return run


def _is_known(check: Checker, name: str) -> bool:
    if name in DSN_PARTS:
        return check.has("envelope-dsn")
    if name in BY_PARTS:
        return check.has("envelope-deliverby")
    return name in ("from", "to", "auth")


def _envelope_part(state: Run, name: str) -> tuple[str, ...]:
    environment = state.environment
    match name:
        case "from":
            return () if environment.sender is None else (environment.sender,)
        case "to":
            return (environment.recipient,) if environment.recipient else ()
    return tuple(environment.envelope.get(name, ()))


def _part_of(name: str, raw: str, part: Callable[[Address], str | None]) -> str | None:
    """The null reverse-path is the empty string, whatever part of it is asked for (RFC 5228 §5.4)."""
    if name not in ADDRESSES or not raw:
        return raw
    kind, separator, rest = raw.partition(";")
    if name == "orcpt" and separator and kind.lower() != "rfc822":
        return raw  # an address of another kind has no parts
    text = rest if name == "orcpt" and separator else raw
    return part(parse_address(text) or Address(text, ""))


def _environment(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match = check.match(bound)
    name, keys = bound.text(0), check.keys(match, bound.texts(1), bound)

    def run(state: Run) -> Steps:
        item = state.text(name).lower()
        value = state.environment.items.get(item, "" if item in IMAP_ITEMS else None)
        if value is None and match.type != "count":
            return False  # an item that is not known matches nothing, not even the empty string (RFC 5183 §4)
        return (yield from state.any_match(match, [] if value is None else [value], keys))

    return run


_LEXICAL: Final = frozenset({"variables", "encoded-character"})


def _ihave(check: Checker, bound: Bound) -> Callable[[Run], bool]:
    """RFC 5463 §4: what is there is in force to the end of the block; what is not fails only where it is reached.

    `variables` and `encoded-character` change how strings are read, so that it is too late for them here.
    """
    names = [name for name in bound.texts(0) if isinstance(name, str)]
    if len(names) != len(bound.texts(0)):
        check.error(bound, '"ihave" takes constants')
    has_all = all(check.supports(name) and (name not in _LEXICAL or check.has(name)) for name in names)
    if has_all:
        check.require(names, bound)
    else:
        check.lenient = True
    return lambda _state: has_all


def _error(_check: Checker, bound: Bound) -> Callable[[Run], None]:
    text = bound.text(0)
    return lambda state: state.fail(state.text(text))


def _valid_ext_list(_check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    names = bound.texts(0)

    def run(state: Run) -> Steps:
        for name in state.texts(names):
            state.spend(NAMED)
            yield from state.rest()
            if not (yield ListExists(name)):
                return False
        return True

    return run


EXTENSIONS: Final = frozenset(
    {"envelope", "envelope-dsn", "envelope-deliverby", "environment", "ihave", "extlists", "imapsieve"}
)

TESTS: Final = (
    TestRow(
        name="envelope",
        build=_envelope,
        extension="envelope",
        positional=(STRINGS, STRINGS),
        tags=(*MATCH_TAGS, COMPARATOR_TAG, *ADDRESS_PART_TAGS),
    ),
    TestRow(
        name="environment",
        build=_environment,
        extension="environment",
        positional=(STRING, STRINGS),
        tags=(*MATCH_TAGS, COMPARATOR_TAG),
    ),
    TestRow(name="ihave", build=_ihave, extension="ihave", positional=(STRINGS,)),
    TestRow(name="valid_ext_list", build=_valid_ext_list, extension="extlists", positional=(STRINGS,)),
)

COMMANDS: Final = (CommandRow(name="error", build=_error, extension="ihave", positional=(STRING,)),)
