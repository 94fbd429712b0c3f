"""Flags of the message (RFC 5232): `setflag`, `addflag`, `removeflag`, `hasflag`, and `:flags` of what files it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.sieve.checks import COMPARATOR_TAG, MATCH_TAGS, STRINGS, CommandRow, Tag, TestRow
from sora.sieve.matching import Keys
from sora.sieve.variables import assign, is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run
    from sora.sieve.texts import Text

FLAGS_TAG: Final = Tag(":flags", STRINGS, extension="imap4flags")
SYSTEM_FLAGS: Final = {flag.lower(): flag for flag in ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft")}
MAX_FLAGS: Final = 4096
"""Characters of all flags of a message."""
FLAG: Final = 4
"""Characters of flags that one instruction looks at."""
_ATOM_SPECIALS: Final = frozenset('(){%*"\\] ')


def split_flags(texts: Iterable[str]) -> tuple[str, ...]:
    """Flags out of strings that hold several (RFC 5232 §2), each once; what cannot be a flag is left out."""
    found: dict[str, str] = {}
    for text in texts:
        for word in text.split():
            flag = SYSTEM_FLAGS.get(word.lower(), word)
            if flag.lower() in SYSTEM_FLAGS or _is_keyword(flag):
                found.setdefault(flag.lower(), flag)
    return tuple(found.values())


def _split(state: Run, texts: Sequence[str]) -> tuple[str, ...]:
    """The same at the price of it, for as much text as may be."""
    _measure(state, texts)
    return split_flags(texts)


def _measure(state: Run, texts: Sequence[str]) -> None:
    length = sum(map(len, texts))
    if length > MAX_FLAGS:
        state.fail(f"Flags of more than {MAX_FLAGS} characters")
    state.spend(length // FLAG)


def _is_keyword(text: str) -> bool:
    return bool(text) and all("!" <= character <= "~" and character not in _ATOM_SPECIALS for character in text)


def flags_of(check: Checker, bound: Bound) -> Callable[[Run], tuple[str, ...] | None]:
    """The flags that a message is filed with: those of `:flags`, else the internal variable."""
    texts: Sequence[Text] | None = bound.tags.get(":flags")
    if texts is None:
        return lambda state: state.flags
    _warn_of(check, bound, texts)
    return lambda state: _split(state, state.texts(texts))


def _changes(
    change: Callable[[tuple[str, ...], tuple[str, ...]], tuple[str, ...]],
) -> Callable[[Checker, Bound], Callable[[Run], None]]:
    def build(check: Checker, bound: Bound) -> Callable[[Run], None]:
        name = _variable(check, bound)
        texts = bound.texts(len(bound.positional) - 1)
        _warn_of(check, bound, texts)

        def run(state: Run) -> None:
            flags = _split(state, state.texts(texts))
            if name:
                assign(state, name, " ".join(change(_split(state, [state.variable(name)]), flags)))
            else:
                state.flags = change(state.flags or (), flags)
                _measure(state, state.flags)
                state.note(f"flags are {' '.join(state.flags) or 'none'}")

        return run

    return build


def _warn_of(check: Checker, bound: Bound, texts: Iterable[Text]) -> None:
    """Flags that are none are left out without an error (RFC 5232 §2); whoever writes a script is told."""
    for word in (word for text in texts if isinstance(text, str) for word in text.split()):
        if not split_flags([word]):
            check.warn(bound, f'"{word}" is no flag, and is left out')


def _variable(check: Checker, bound: Bound) -> str:
    """Name of the variable that is given as first of two arguments; empty: the internal one."""
    if len(bound.positional) < 2:
        return ""
    names = bound.texts(0)
    if not check.has("variables"):
        check.error(bound, 'A variable needs require "variables"')
    elif len(names) != 1 or not isinstance(names[0], str) or not is_name(check, names[0]):
        check.error(bound, "This is no name of a variable")
    else:
        return names[0].lower()
    return ""


def _added(flags: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return split_flags((*flags, *more))


def _removed(flags: tuple[str, ...], fewer: tuple[str, ...]) -> tuple[str, ...]:
    gone = {flag.lower() for flag in fewer}
    return tuple(flag for flag in flags if flag.lower() not in gone)


def _hasflag(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match = check.match(bound)
    names = [name for name in bound.texts(0) if isinstance(name, str)] if len(bound.positional) == 2 else []
    if names and not check.has("variables"):
        check.error(bound, 'A variable needs require "variables"')
    elif not all(is_name(check, name) for name in names):
        check.error(bound, "This is no name of a variable")
    keys = check.keys(match, bound.texts(len(bound.positional) - 1), bound)

    def run(state: Run) -> Steps:
        values = _split(state, [state.variable(name.lower()) for name in names]) if names else state.flags or ()
        wanted = state.texts(keys.texts)
        if match.type in ("is", "contains"):  # a key may be a list of flags, as a value is (RFC 5232 §4)
            wanted = [word for key in wanted for word in key.split() or [key]]
        return (yield from state.any_match(match, values, Keys(tuple(wanted))))

    return run


EXTENSIONS: Final = frozenset({"imap4flags"})

COMMANDS: Final = tuple(
    CommandRow(name=name, build=_changes(change), extension="imap4flags", positional=(STRINGS, STRINGS), leading=1)
    for name, change in (("setflag", lambda _, flags: flags), ("addflag", _added), ("removeflag", _removed))
)

TESTS: Final = (
    TestRow(
        name="hasflag",
        build=_hasflag,
        extension="imap4flags",
        positional=(STRINGS, STRINGS),
        leading=1,
        tags=(*MATCH_TAGS, COMPARATOR_TAG),
    ),
)
