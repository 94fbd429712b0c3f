"""Scripts inside scripts (RFC 6609): `include`, `return`, `global`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.sieve.checks import STRING, STRINGS, CommandRow, Tag
from sora.sieve.interpreter import ASKED, Return
from sora.sieve.questions import IncludeScript
from sora.sieve.variables import NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run


def _include(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    name = bound.text(0)
    if not isinstance(name, str) or not name:
        check.error(bound, "The name of an included script is a constant (RFC 6609 §3.2)")
    personal = ":global" not in bound.tags
    once, optional = ":once" in bound.tags, ":optional" in bound.tags

    def run(state: Run) -> Steps:
        done: set[tuple[bool, str]] = state.state.setdefault("included", set())
        target = personal, str(name)
        if once and target in done:
            return
        chain: tuple[tuple[bool, str], ...] = state.state.get("including", ())
        _check_nesting(state, target, chain)
        done.add(target)
        state.spend(ASKED)
        script = yield IncludeScript(str(name), personal)
        if script is None:
            if not optional:
                state.fail(f'There is no script "{name}" to include, or it has errors')
            return
        yield from _run_inside(state, script, (*chain, target))

    return run


def _check_nesting(state: Run, target: tuple[bool, str], chain: tuple[tuple[bool, str], ...]) -> None:
    if target in chain:
        state.fail(f'The script "{target[1]}" includes itself')
    if len(chain) >= state.limits.include_depth:
        state.fail(f"Scripts are included deeper than {state.limits.include_depth}")
    state.state["includes"] = state.state.get("includes", 0) + 1
    if state.state["includes"] > state.limits.includes:
        state.fail(f"More than {state.limits.includes} scripts are included")


def _run_inside(state: Run, script: object, chain: tuple[tuple[bool, str], ...]) -> Steps:
    """Run an included script with variables of its own; match variables are its own too (RFC 6609 §3.4)."""
    saved = state.variables, state.captures, state.taken, state.part
    state.spend(20)
    saved_names, saved_chain = state.state.get("global names", frozenset()), state.state.get("including", ())
    state.variables, state.captures, state.taken, state.part = {}, (), False, None
    state.state |= {"global names": frozenset(), "including": chain}
    try:
        state.admit(script)  # type: ignore[arg-type]
        yield from state.block(script.commands)  # type: ignore[attr-defined]
    except Return:
        pass
    finally:
        state.variables, state.captures, state.taken, state.part = saved
        state.state |= {"global names": saved_names, "including": saved_chain}


def _return(_check: Checker, _bound: Bound) -> Callable[[Run], None]:
    def run(_state: Run) -> None:
        raise Return

    return run


def _global(check: Checker, bound: Bound) -> Callable[[Run], None]:
    if not check.has("variables"):
        check.error(bound, '"global" needs require "variables"')
    names = [name.lower() for name in bound.texts(0) if isinstance(name, str) and NAME.fullmatch(name)]
    if len(names) != len(bound.texts(0)):
        check.error(bound, "This is no name of a variable")

    def run(state: Run) -> None:
        state.spend(len(names))
        known: frozenset[str] = state.state.get("global names", frozenset())
        state.state["global names"] = known | set(names)
        for name in names:
            if len(state.globals) >= state.limits.variables:
                state.fail(f"More than {state.limits.variables} variables")
            state.globals.setdefault(name, "")

    return run


EXTENSIONS: Final = frozenset({"include"})
TESTS: Final = ()
COMMANDS: Final = (
    CommandRow(
        name="include",
        build=_include,
        extension="include",
        positional=(STRING,),
        tags=(
            Tag(":personal", group="location"),
            Tag(":global", group="location"),
            Tag(":once"),
            Tag(":optional"),
        ),
    ),
    CommandRow(name="return", build=_return, extension="include"),
    CommandRow(name="global", build=_global, extension="include", positional=(STRINGS,)),
)
