"""Strings of a script: constants, or texts with variables in them (RFC 5229 §3) to be filled in at every use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_MATCH_VARIABLE: Final = 2**15
"""A larger number names nothing (RFC 5229 §3.2 asks for 9 at least)."""

_VARIABLE: Final = re.compile(
    r"\$\{ (?: (?P<number>[0-9]+) | (?P<name>[A-Za-z_][A-Za-z0-9_]* (?:\.[A-Za-z_][A-Za-z0-9_]*)*) ) \}", re.VERBOSE
)
_ENCODED: Final = re.compile(
    r"\$\{ (?: [Hh][Ee][Xx]: (?P<hex> \s* [0-9A-Fa-f]{1,2} (?: \s+ [0-9A-Fa-f]{1,2} )* \s* )"
    r" | [Uu][Nn][Ii][Cc][Oo][Dd][Ee]: (?P<unicode> \s* [0-9A-Fa-f]+ (?: \s+ [0-9A-Fa-f]+ )* \s* ) ) \}",
    re.VERBOSE,
)


class Variable(Struct, frozen=True):
    """A reference to a variable.

    Attributes:
        name: In lower case, with its namespace; or the decimal number of a match variable.
    """

    name: str


class Template(Struct, frozen=True):
    """A text with variables."""

    parts: tuple[str | Variable, ...]


Text: TypeAlias = str | Template


def template(text: str, is_namespace: Callable[[str], bool]) -> Text:
    """The text of a script that requires `variables`.

    Args:
        is_namespace: Whether a namespace (in lower case) is known; references to others are empty.
    """
    parts: list[str | Variable] = []
    end = 0
    for match in _VARIABLE.finditer(text):
        name = _name(match, is_namespace)
        if name is None:
            continue
        parts += [text[end : match.start()], Variable(name) if name else ""]
        end = match.end()
    parts.append(text[end:])
    kept = tuple(part for part in parts if part != "")
    if any(isinstance(part, Variable) for part in kept):
        return Template(kept)
    return "".join(part for part in kept if isinstance(part, str))


def _name(match: re.Match[str], is_namespace: Callable[[str], bool]) -> str | None:
    """Name of a variable; empty: it can have no value; None: this is no reference."""
    if match["number"]:
        digits = match["number"].lstrip("0") or "0"
        return digits if len(digits) <= 5 and int(digits) <= MAX_MATCH_VARIABLE else None
    name = match["name"].lower()
    namespace = name.rpartition(".")[0]
    return name if not namespace or is_namespace(namespace) else ""


def decode_encoded(text: str) -> str:
    """Replace `${hex: …}` and `${unicode: …}` (RFC 5228 §2.4.2.4).

    Raises:
        ValueError: A number stands for no character; the text says which.
    """
    octets = bytearray()
    end = 0
    for match in _ENCODED.finditer(text):
        octets += text[end : match.start()].encode()
        if match["hex"] is not None:
            octets += bytes(int(pair, 16) for pair in match["hex"].split())
        else:
            octets += "".join(map(_character, match["unicode"].split())).encode()
        end = match.end()
    octets += text[end:].encode()
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise ValueError("The octets given by ${hex:} are not UTF-8") from None


def _character(digits: str) -> str:
    number = int(digits, 16) if len(digits.lstrip("0")) <= 6 else 0x110000
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        raise ValueError(f"${{unicode:{digits}}} is no Unicode character")
    return chr(number)
