"""Completion of `soractl` and `sora-admin` in bash, zsh and fish, rendered from their parsers.

A parser is a tree of commands. The script of each shell finds its place in that tree by walking over the words before
the cursor: a command leads one level down, an option that takes a value skips the next word. At its place it offers
commands and options, or after an option with a value what that may be.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHELLS: Final = ("bash", "zsh", "fish")


class Option(Struct, frozen=True):
    """An option of one command.

    Attributes:
        value: What follows it: empty (nothing), `file`, `directory`, `words` or `any`.
        words: What `words` may be.
    """

    names: tuple[str, ...]
    about: str
    value: str = ""
    words: tuple[str, ...] = ()


class Command(Struct, frozen=True):
    """One place in the tree.

    Attributes:
        path: The commands that lead to it; empty at the top.
        commands: Those that may follow, with what they do; also the words that a positional argument may be.
    """

    path: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]

    @property
    def place(self) -> str:
        """The path as scripts keep it: every command with a slash before it."""
        return "".join(f"/{name}" for name in self.path)


def render(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that completes the program of `parser` in `shell`."""
    return _RENDERERS[shell](parser.prog, list(commands(parser)))


def commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command of a parser, itself first."""
    below: list[tuple[str, str]] = []
    options: list[Option] = []
    parsers: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            abouts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            parsers.update(action.choices)
            below += [(name, abouts.get(name, "")) for name in action.choices]
        elif action.option_strings:
            options.append(_option(action))
        elif action.choices is not None:
            below += [(str(choice), "") for choice in action.choices]
    yield Command(path, tuple(below), tuple(options))
    for name, inner in parsers.items():
        yield from commands(inner, (*path, name))


def _option(action: argparse.Action) -> Option:
    names, about = tuple(action.option_strings), (action.help or "") % vars(action)
    if action.nargs == 0:
        return Option(names, about)
    if action.choices is not None:
        return Option(names, about, "words", tuple(map(str, action.choices)))
    kinds = {"FILE": "file", "DIR": "directory"}
    return Option(names, about, kinds.get(str(action.metavar), "any"))


def _valued(tree: list[Command]) -> Iterator[tuple[str, Option]]:
    """Every option with a value, as `place name`."""
    for command in tree:
        for option in command.options:
            if option.value:
                yield from ((f"{command.place} {name}", option) for name in option.names)


def _words(command: Command) -> list[tuple[str, str]]:
    """What may stand at a place."""
    return [*command.commands, *((name, option.about) for option in command.options for name in option.names)]


def _quoted(text: str) -> str:
    """For bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# ---------------------------------------------------------------------- bash

_BASH: Final = """\
# bash completion for @prog@
@function@() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} place= number words=
    for ((number = 1; number < COMP_CWORD; number++)); do
        case "$place ${COMP_WORDS[number]}" in
            @valued@) ((number++)) ;;
            @commands@) place+=/${COMP_WORDS[number]} ;;
        esac
    done
    COMPREPLY=()
    case "$place $before" in
@values@
    esac
    case $place in
@places@
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F @function@ @prog@
"""
_BASH_VALUES: Final = {
    "file": 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;',
    "directory": 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$current"); return ;;',
    "any": "return ;;",
}


def _bash(prog: str, tree: list[Command]) -> str:
    values: dict[str, list[str]] = {}
    for place, option in _valued(tree):
        words = f'mapfile -t COMPREPLY < <(compgen -W {_quoted(" ".join(option.words))} -- "$current"); return ;;'
        values.setdefault(_BASH_VALUES.get(option.value, words), []).append(_quoted(place))
    cases = [f"        {'|'.join(places)}) {action}" for action, places in values.items()]
    places = [
        f"        {_quoted(command.place)}) words={_quoted(' '.join(name for name, _ in _words(command)))} ;;"
        for command in tree
    ]
    return _fill(_BASH, prog, tree, _quoted, cases, places)


# ---------------------------------------------------------------------- zsh

_ZSH: Final = """\
#compdef @prog@
@function@() {
    local place= before=$words[CURRENT-1]
    local -i number
    local -a candidates
    for ((number = 2; number < CURRENT; number++)); do
        case "$place $words[number]" in
            (@valued@) ((number++)) ;;
            (@commands@) place+=/$words[number] ;;
        esac
    done
    case "$place $before" in
@values@
    esac
    case $place in
@places@
    esac
    _describe -t commands @prog@ candidates
}
if [[ $funcstack[1] == @function@ ]]; then @function@ "$@"; else compdef @function@ @prog@; fi
"""
_ZSH_VALUES: Final = {"file": "_files; return ;;", "directory": "_files -/; return ;;", "any": "return ;;"}


def _zsh(prog: str, tree: list[Command]) -> str:
    values: dict[str, list[str]] = {}
    for place, option in _valued(tree):
        words = f"compadd -- {' '.join(map(_quoted, option.words))}; return ;;"
        values.setdefault(_ZSH_VALUES.get(option.value, words), []).append(_quoted(place))
    cases = [f"        ({'|'.join(places)}) {action}" for action, places in values.items()]
    places = []
    for command in tree:
        pairs = (_quoted(f"{name}:{about}" if about else name) for name, about in _words(command))
        places.append(f"        ({_quoted(command.place)}) candidates=({' '.join(pairs)}) ;;")
    return _fill(_ZSH, prog, tree, _quoted, cases, places)


# ---------------------------------------------------------------------- fish

_FISH: Final = """\
# fish completion for @prog@
function @function@_place
    set -l place ''
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
            continue
        end
        switch "$place $word"
            case @valued@
                set skip 1
            case @commands@
                set place $place/$word
        end
    end
    test "$place" = "$argv[1]"
end
complete -c @prog@ -f
@places@
"""
_FISH_VALUES: Final = {"file": " -r -F", "directory": " -x -a '(__fish_complete_directories)'", "any": " -x"}


def _fish(prog: str, tree: list[Command]) -> str:
    lines = []
    for command in tree:
        here = _fish_quoted(f"_{_identifier(prog)}_place '{command.place}'")
        start = f"complete -c {prog} -n {here}"
        lines += [f"{start} -a {_fish_quoted(name)} -d {_fish_quoted(about)}" for name, about in command.commands]
        for option in command.options:
            value = _FISH_VALUES.get(option.value, "")
            if option.words:
                value = f" -x -a {_fish_quoted(' '.join(option.words))}"
            names = "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in option.names)
            lines.append(f"{start}{names}{value} -d {_fish_quoted(option.about)}")
    return _fill(_FISH, prog, tree, _fish_quoted, [], lines)


def _fill(
    template: str,
    prog: str,
    tree: list[Command],
    quote: Callable[[str], str],
    values: list[str],
    places: list[str],
) -> str:
    """The template with its marks replaced."""
    joint = " " if template is _FISH else "|"
    valued = [quote(place) for place, _ in _valued(tree)]
    inner = [quote(f"{command.place[: command.place.rindex('/')]} {command.path[-1]}") for command in tree[1:]]
    for mark, text in {
        "@prog@": prog,
        "@function@": f"_{_identifier(prog)}",
        "@valued@": joint.join(valued) or quote("nothing at all"),
        "@commands@": joint.join(inner) or quote("nothing at all"),
        "@values@": "\n".join(values),
        "@places@": "\n".join(places),
    }.items():
        template = template.replace(mark, text)
    return template


def _identifier(prog: str) -> str:
    return prog.replace("-", "_")


_RENDERERS: Final[dict[str, Callable[[str, list[Command]], str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
