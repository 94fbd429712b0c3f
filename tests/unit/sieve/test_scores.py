"""RFC 5235."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sora.sieve.scores import ScoreHeader
from tests.support.sieve import holds, mail

ALL = ("spamtest", "spamtestplus", "virustest", "relational", "comparator-i;ascii-numeric")
SETTINGS = SimpleNamespace(
    spam_header=ScoreHeader("X-Score", maximum=5.0),
    virus_header=ScoreHeader("X-Virus", pattern="^(\\S+)", texts={"clean": 1, "infected": 5}),
)


def numbered(test: str, value: str) -> str:
    name, _, tags = test.partition(" ")
    return f'{name} {tags} :value "eq" :comparator "i;ascii-numeric" "{value}"'


@pytest.mark.parametrize(
    ("score", "value", "percent"),
    [
        ("-3", "1", "0"),
        ("0", "1", "0"),
        ("2.5 of 5", "5", "50"),
        ("5.0", "10", "100"),
        ("99", "10", "100"),
        ("none", "0", "0"),
    ],
)
def test_spamtest(score: str, value: str, percent: str) -> None:
    data = mail(X_Score=score)
    assert holds(numbered("spamtest", value), *ALL, mail=data, settings=SETTINGS)
    assert holds(numbered("spamtest :percent", percent), *ALL, mail=data, settings=SETTINGS)


def test_what_was_not_tested() -> None:
    data = mail(Subject="x")
    for test in ("spamtest", "spamtest :percent", "virustest"):
        assert holds(numbered(test, "0"), *ALL, mail=data, settings=SETTINGS)
        assert holds(numbered(test, "0"), *ALL, mail=data, settings=None)
        assert holds(f'{test} :count "eq" "0"', *ALL, mail=data, settings=SETTINGS)


@pytest.mark.parametrize(("text", "value"), [("Clean", "1"), ("infected by x", "5"), ("odd", "0"), ("", "0")])
def test_virustest(text: str, value: str) -> None:
    assert holds(numbered("virustest", value), *ALL, mail=mail(X_Virus=text), settings=SETTINGS)


def test_a_pattern_without_a_match_in_its_group() -> None:
    settings = SimpleNamespace(spam_header=ScoreHeader("X", pattern="(a)?b"))
    assert holds(numbered("spamtest", "0"), *ALL, mail=mail(X="b"), settings=settings)


def test_spamtestplus_is_enough() -> None:
    assert holds('spamtest "0"', "spamtestplus", settings=None)
    assert holds('spamtest :percent "0"', "spamtestplus", settings=None)
