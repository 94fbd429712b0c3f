"""Scores of FUZZY, and how much one key compares."""

from __future__ import annotations

import pytest

from sora.protocols.imap.finding.fuzzy import EXACT, LEAST, WORDS, Scores, score, words_of


def test_the_score_is_the_mean_of_what_the_keys_gave() -> None:
    scores = Scores()
    scores.give([1, 2], EXACT)
    scores.give([2, 3], 40)
    assert scores.of([3, 2, 1, 9]) == [40, 70, 100, 100]


@pytest.mark.parametrize(("likeness", "expected"), [(LEAST, 1), (0.7, 50), (0.99, 97), (1.0, 99)])
def test_what_is_only_like_it_has_less_than_what_is_the_same(likeness: float, expected: int) -> None:
    assert score(likeness) == expected


def test_few_words_are_compared() -> None:
    assert words_of("IMAP  Break") == ["IMAP", "BREAK"]
    assert len(words_of("word " * 1000)) == WORDS
