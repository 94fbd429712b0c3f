"""Patterns of LIST against their plain reading as a regular expression."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.protocols.imap.patterns import LONGEST, Pattern, parents


def matches(pattern: str, name: str) -> bool:
    return Pattern(pattern).matches(name)


def model(pattern: str, name: str) -> bool:
    parts = {"*": "(?s:.*)", "%": "[^/]*"}
    return re.fullmatch("".join(parts.get(c, re.escape(c)) for c in pattern), name) is not None


@given(st.text("ab/*%", max_size=6), st.text("ab/", max_size=6))
def test_patterns(pattern: str, name: str) -> None:
    assert matches(pattern, name) == model(pattern, name)


@pytest.mark.parametrize("pattern", ["inbox", "InB*", "i%x", "%", "*"])
def test_inbox_matches_in_any_case(pattern: str) -> None:
    assert matches(pattern, "INBOX")


def test_only_inbox_does() -> None:
    assert matches("inbox/Work", "INBOX/Work")
    assert matches("InBox/%", "INBOX/Work")
    assert not matches("inbox/work", "INBOX/Work")
    assert not matches("archive", "Archive")
    assert not matches("inboxes", "INBOXes")


def test_a_hostile_pattern_costs_little() -> None:
    started = time.process_time()
    pattern = Pattern("*a" * 900 + "b")
    for _ in range(100):
        assert not pattern.matches("a" * 1000)
    assert Pattern("*%" * 30_000 + "*").matches("a/b")
    assert not Pattern("*a" * 30_000).matches("a" * 1000)
    assert time.process_time() - started < 2


def test_the_longest_pattern_that_can_match_does() -> None:
    assert len("%a" * 1000 + "%") == LONGEST
    assert matches("%a" * 1000 + "%", "a" * 1000)


def test_parents() -> None:
    assert parents("a/b/c") == ["a", "a/b"]
    assert parents("a") == []
