"""Variables (RFC 5229): `set`, its modifiers, and the test `string`."""

from __future__ import annotations

import re
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, Final

from sora.sieve.checks import COMPARATOR_TAG, MATCH_TAGS, STRING, STRINGS, CommandRow, Tag, TestRow
from sora.sieve.interpreter import COPIED

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_LOWER: Final = str.maketrans(ascii_uppercase, ascii_lowercase)
"""What is not ASCII stays as it is (RFC 5229 §4.1)."""
_UPPER: Final = str.maketrans(ascii_lowercase, ascii_uppercase)
_WILDCARDS: Final = "\\*?"
_REGEX_SPECIALS: Final = "\\.[](){}*+?^$|"
_URL: Final = {octet: f"%{octet:02X}" for octet in range(256) if chr(octet) not in _UNRESERVED}
MODIFIED: Final = 16
"""Characters that a modifier changes in one instruction."""


def _quoted(specials: str) -> Callable[[str], str]:
    """A backslash before each of these; itself comes first."""

    def quoted(text: str) -> str:
        for character in specials:
            text = text.replace(character, f"\\{character}")
        return text

    return quoted


MODIFIERS: Final[dict[str, tuple[int, Callable[[str], str]]]] = {
    ":lower": (40, lambda text: text.translate(_LOWER)),
    ":upper": (40, lambda text: text.translate(_UPPER)),
    ":lowerfirst": (30, lambda text: text[:1].translate(_LOWER) + text[1:]),
    ":upperfirst": (30, lambda text: text[:1].translate(_UPPER) + text[1:]),
    ":quotewildcard": (20, _quoted(_WILDCARDS)),
    ":quoteregex": (20, _quoted(_REGEX_SPECIALS)),
    ":encodeurl": (15, lambda text: text.encode("utf-8", "surrogateescape").decode("latin-1").translate(_URL)),
    ":length": (10, lambda text: str(len(text))),
}
"""Precedence and what each does; the higher goes first, and of one precedence only one may be given (RFC 5229 §4.1)."""


def _set(check: Checker, bound: Bound) -> Callable[[Run], None]:
    name, value = bound.text(0), bound.text(1)
    if not isinstance(name, str) or not is_name(check, name):
        check.error(bound, "This is no name of a variable")
        return lambda _state: None
    chosen = [modifier for modifier in MODIFIERS if modifier in bound.tags]
    functions = [MODIFIERS[modifier][1] for modifier in chosen]
    lowered = name.lower()

    def run(state: Run) -> None:
        text = state.text(value)
        state.spend(len(text) // (MODIFIED if functions else COPIED))
        for function in functions:
            text = function(text)
        assign(state, lowered, text)

    return run


def is_name(check: Checker, name: str) -> bool:
    """It can be set here: a plain name, or one in the namespace `global` (RFC 6609 §3.4.3)."""
    namespace, dot, rest = name.rpartition(".")
    if dot:
        return namespace.lower() == "global" and check.has("include") and NAME.fullmatch(rest) is not None
    return NAME.fullmatch(name) is not None


def assign(state: Run, name: str, text: str) -> None:
    """Set a variable, its name in lower case; what is too long is cut (RFC 5229 §6)."""
    text = _cut(text, state.limits.variable_bytes)
    is_global = name.startswith("global.") or name in state.state.get("global names", ())
    scope = state.globals if is_global else state.variables
    name = name.removeprefix("global.")
    if name not in scope and len(scope) >= state.limits.variables:
        state.fail(f"More than {state.limits.variables} variables")
    scope[name] = text
    state.note(f'set {name} "{text}"')


def _cut(text: str, limit: int) -> str:
    if len(text) * 4 <= limit:
        return text
    octets = text.encode("utf-8", "surrogateescape")
    return text if len(octets) <= limit else octets[:limit].decode("utf-8", "ignore")


def _string(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match = check.match(bound)
    sources, keys = bound.texts(0), check.keys(match, bound.texts(1), bound)

    def run(state: Run) -> Steps:
        values = state.texts(sources)
        if match.type == "count":  # RFC 5229 §5: empty strings are not counted
            values = [value for value in values if value]
        return (yield from state.any_match(match, values, keys))

    return run


EXTENSIONS: Final = frozenset({"variables"})

COMMANDS: Final = (
    CommandRow(
        name="set",
        build=_set,
        extension="variables",
        positional=(STRING, STRING),
        tags=tuple(
            Tag(
                name,
                group=f"precedence {precedence}",
                extension={":quoteregex": "regex", ":encodeurl": "enotify"}.get(name, ""),
            )
            for name, (precedence, _) in MODIFIERS.items()
        ),
    ),
)

TESTS: Final = (
    TestRow(
        name="string",
        build=_string,
        extension="variables",
        positional=(STRINGS, STRINGS),
        tags=(*MATCH_TAGS, COMPARATOR_TAG),
    ),
)
