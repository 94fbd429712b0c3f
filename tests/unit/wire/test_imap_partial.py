"""Pages of a result, against the plain way to cut them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sora._native.seqset import UidSet
from sora.wire.imap_partial import page, range_size

POSITIONS = st.integers(1, 40)


@given(st.sets(st.integers(1, 60)), POSITIONS, POSITIONS, st.booleans())
def test_a_page_is_a_slice(numbers: set[int], first: int, last: int, from_end: bool) -> None:
    low, high = sorted((first, last))
    ordered = sorted(numbers)
    kept = ordered[::-1][low - 1 : high][::-1] if from_end else ordered[low - 1 : high]
    partial = (-first, -last) if from_end else (first, last)
    assert list(page(UidSet.from_numbers(numbers), partial)) == kept
    assert range_size(partial) == high - low + 1
