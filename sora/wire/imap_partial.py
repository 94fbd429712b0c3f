"""PARTIAL: a page of a result, counted from its beginning or from its end (RFC 9394)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sora._native.imapscan import Cursor
    from sora._native.seqset import NumSet

N = TypeVar("N", bound="NumSet")


def parse_range(cur: Cursor) -> tuple[int, int]:
    """`nz-number ":" nz-number`, or both with "-" in front (RFC 9394 §4: partial-range)."""
    sign = -1 if cur.skip(b"-") else 1
    first = cur.nz_number()
    cur.expect(b":-" if sign < 0 else b":")
    return sign * first, sign * cur.nz_number()


def range_size(partial: tuple[int, int]) -> int:
    """Positions of a range; 3:1 is the same as 1:3."""
    return abs(partial[1] - partial[0]) + 1


def positions(partial: tuple[int, int], count: int) -> tuple[int, int]:
    """The first and the last position of a range among *count* of them, from 1; the last one may be below the first."""
    low, high = sorted(abs(position) for position in partial)
    return (max(count - high + 1, 1), count - low + 1) if partial[0] < 0 else (low, high)


def page(numbers: N, partial: tuple[int, int]) -> N:
    """Those of *numbers* at the positions of *partial*; negative ones count from the end.

    It costs the number of ranges, not that of the numbers.
    """
    low, high = positions(partial, len(numbers))
    return type(numbers).from_ranges(_cut(numbers.ranges(), low, high))


def _cut(ranges: list[tuple[int, int]], low: int, high: int) -> list[tuple[int, int]]:
    found = []
    position = 1  # of the first number of the range in hand
    for first, last in ranges:
        size = last - first + 1
        if position > high:
            break
        if position + size > low:
            found.append((first + max(low - position, 0), min(last, first + high - position)))
        position += size
    return found
