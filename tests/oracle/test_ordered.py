"""What the comparison of orders itself must get right."""

from __future__ import annotations

import pytest

from tests.oracle.client import Answer
from tests.oracle.ordered import forest, moved


def _ones(_: int) -> int:
    return 1


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], []),
        ([1, 2, 3, 4], [4, 1, 2, 3], [4]),
        ([5, 1, 2, 3, 4], [1, 2, 5, 3, 4], [5]),
        ([2, 1, 4, 3], [1, 2, 3, 4], [1, 3]),
    ],
)
def test_as_few_as_possible_are_taken_for_moved(ours: list[int], theirs: list[int], expected: list[int]) -> None:
    assert len(moved(ours, theirs, _ones)) == len(expected)
    kept = [[n for n in order if n not in moved(ours, theirs, _ones)] for order in (ours, theirs)]
    assert kept[0] == kept[1]


def test_the_light_ones_are_given_up_first() -> None:
    assert moved([1, 2], [2, 1], lambda n: 1 if n == 1 else 1000) == [1]
    assert moved([1, 2], [2, 1], lambda n: 1 if n == 2 else 1000) == [2]
    assert moved([1, 2, 3], [3, 1, 2], lambda n: 1000 if n == 3 else 1) == [1, 2]


def test_threads_are_read_as_they_are_written() -> None:
    answer = Answer(b"OK", b"", [b"* THREAD (2)(3 6 (4 23)(44 7 96))((5)(8 9))"])
    assert forest(answer) == [
        (2, []),
        (3, [(6, [(4, [(23, [])]), (44, [(7, [(96, [])])])])]),
        (None, [(5, []), (8, [(9, [])])]),
    ]
    assert forest(Answer(b"OK", b"", [b"* THREAD"])) == []
    assert forest(Answer(b"BAD", b"", [])) == b"BAD"
