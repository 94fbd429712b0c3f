"""Reasons as replies; all else is in `test_filtering`, with a database."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sora.services.filters.carrying import REPLY_LINES, REPLY_WIDTH, Rejected, reply_text


def test_lines_stay_lines() -> None:
    assert reply_text("one\r\ntwo\n\n three ") == "one\ntwo\n\n three"


def test_what_would_be_another_reply_is_not() -> None:
    assert reply_text("no\x00\t250 yes\x1b") == "no  250 yes "


def test_a_reason_of_nothing() -> None:
    assert reply_text(" \r\n ") == Rejected.default_text


def test_long_lines_break_at_words() -> None:
    lines = reply_text("word " * 200).split("\n")
    assert all(line == " ".join(["word"] * len(line.split())) for line in lines)
    assert sum(len(line.split()) for line in lines) == 200


@given(st.text())
def test_every_reason_fits(reason: str) -> None:
    lines = reply_text(reason).split("\n")
    assert 1 <= len(lines) <= REPLY_LINES
    assert all(len(line.encode("utf-8", "replace")) <= REPLY_WIDTH for line in lines)
    assert all(character.isprintable() for line in lines for character in line)
