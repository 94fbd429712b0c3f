"""Plain model of the sequence sets: a frozenset of numbers, slow and easy to believe."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX = 4294967295
_NUMBER = r"(?:[1-9][0-9]*|\*)"
_SET = re.compile(rf"{_NUMBER}(?::{_NUMBER})?(?:,{_NUMBER}(?::{_NUMBER})?)*")


def is_valid(text: bytes) -> bool:
    """RFC 9051 sequence-set, numbers up to 32 bits."""
    if text == b"$":
        return True
    plain = text.decode("latin-1")
    return bool(_SET.fullmatch(plain)) and all(int(n) <= MAX for n in re.findall(r"[0-9]+", plain))


def resolve(text: bytes, largest: int) -> frozenset[int]:
    """The numbers of a set; keep them small. `n:*` covers *largest* even if n is larger, and never goes beyond."""
    found: set[int] = set()
    for part in text.decode().split(","):
        first, _, last = part.partition(":")
        last = last or first
        if "*" in (first, last):
            if not largest:
                continue
            low = min([int(n) for n in (first, last) if n != "*"] + [largest])
            found.update(range(low, largest + 1))
        else:
            low, high = sorted((int(first), int(last)))
            found.update(range(low, high + 1))
    return frozenset(found)


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Maximal runs, ascending."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def text(numbers: Iterable[int]) -> bytes:
    """As it goes on the wire."""
    return b",".join(b"%d" % a if a == z else b"%d:%d" % (a, z) for a, z in ranges(numbers))
