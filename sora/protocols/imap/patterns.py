"""Patterns of LIST and LSUB (RFC 9051 §6.3.9): `*` stands for anything, `%` for anything without a delimiter.

The pattern is followed as a set of positions, held as the bits of one integer: a step for each character of the name
is a few operations on it, so a hostile pattern costs what a harmless one does.
"""

from __future__ import annotations

import re
from typing import Final

DELIMITER: Final = "/"
INBOX: Final = "INBOX"
LONGEST: Final = 2001
"""Positions of a pattern that the longest name could fill: 1,000 characters with a wildcard at every place."""

_WILDCARDS = re.compile(r"[*%]{2,}")


class Pattern:
    """One pattern, made ready for many names.

    Args:
        text: Decoded, the reference in front.
    """

    __slots__ = ("_inbox", "_plain")

    def __init__(self, text: str) -> None:
        text = _WILDCARDS.sub(lambda run: "*" if "*" in run[0] else "%", text)
        head, delimiter, rest = text.partition(DELIMITER)
        self._plain = _Steps(text)
        self._inbox = _Steps(head.upper() + delimiter + rest)

    def matches(self, name: str) -> bool:
        """True if the whole name matches; INBOX does in any case (RFC 9051 §5.1)."""
        if name == INBOX or name.startswith(INBOX + DELIMITER):
            return self._inbox.follow(name)
        return self._plain.follow(name)


class _Steps:
    """Where each character leads; bit `i` of a set of positions stands for the place before the pattern's `i`-th."""

    __slots__ = ("_anything", "_end", "_letters", "_level")

    def __init__(self, text: str) -> None:
        self._end = 1 << len(text)
        self._letters: dict[str, int] = {}
        if len(text) <= LONGEST:  # no name reaches the end of a longer one
            for i, character in enumerate(text):
                self._letters[character] = self._letters.get(character, 0) | 1 << i
        self._anything = self._letters.pop("*", 0)
        self._level = self._letters.pop("%", 0)

    def follow(self, name: str) -> bool:
        """The name leads from the first position to the last."""
        wildcards = self._anything | self._level
        at = 1 | (1 & wildcards) << 1
        for character in name:
            stay = self._anything if character == DELIMITER else wildcards
            at = at & stay | (at & self._letters.get(character, 0)) << 1
            at |= (at & wildcards) << 1  # a wildcard may stand for nothing; two never stand side by side
            if not at:
                return False
        return bool(at & self._end)


def parents(name: str) -> list[str]:
    """Names above a name, the nearest last."""
    parts = name.split(DELIMITER)
    return [DELIMITER.join(parts[:i]) for i in range(1, len(parts))]
