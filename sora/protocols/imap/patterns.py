"""Patterns of LIST and LSUB (RFC 9051 §6.3.9): `*` stands for anything, `%` for anything without a delimiter.

The pattern is followed as a set of positions, one step for each character of the name, so a hostile pattern costs its
length times the name's length and never more.
"""

from __future__ import annotations

from typing import Final

DELIMITER: Final = "/"


def matches(pattern: str, name: str) -> bool:
    """True if the whole name matches; INBOX does in any case (RFC 9051 §5.1)."""
    if pattern == "*" or _follows(pattern, name):
        return True
    if name == "INBOX" or name.startswith("INBOX/"):
        head, delimiter, rest = pattern.partition(DELIMITER)
        return _follows(head.upper() + delimiter + rest, name)
    return False


def parents(name: str) -> list[str]:
    """Names above a name, the nearest last."""
    parts = name.split(DELIMITER)
    return [DELIMITER.join(parts[:i]) for i in range(1, len(parts))]


def _follows(pattern: str, name: str) -> bool:
    positions = _past_wildcards(pattern, {0})
    for character in name:
        positions = _past_wildcards(pattern, _step(pattern, positions, character))
        if not positions:
            return False
    return len(pattern) in positions


def _step(pattern: str, positions: set[int], character: str) -> set[int]:
    """Positions after one character: a wildcard stays, a letter goes on."""
    after = set()
    for i in positions:
        if i == len(pattern):
            continue
        if pattern[i] == "*" or (pattern[i] == "%" and character != DELIMITER):
            after.add(i)
        elif pattern[i] == character:
            after.add(i + 1)
    return after


def _past_wildcards(pattern: str, positions: set[int]) -> set[int]:
    """With the positions behind wildcards, which may stand for nothing."""
    todo = list(positions)
    while todo:
        i = todo.pop()
        if i < len(pattern) and pattern[i] in "*%" and i + 1 not in positions:
            positions.add(i + 1)
            todo.append(i + 1)
    return positions
