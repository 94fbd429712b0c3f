"""Strings with variables and encoded characters."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.sieve.texts import Template, Text, Variable, decode_encoded, template


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain", "plain"),
        ("${A}", Template((Variable("a"),))),
        ("a${b}c${01}", Template(("a", Variable("b"), "c", Variable("1")))),
        ("${known.X}", Template((Variable("known.x"),))),
        ("a${other.x}b", "ab"),
        ("${32768}${32769}", Template((Variable("32768"), "${32769}"))),
        ("${", "${"),
    ],
)
def test_template(text: str, found: Text) -> None:
    assert template(text, lambda namespace: namespace == "known") == found


@given(st.text(alphabet="${}:abhexunicode0 4", max_size=30))
def test_decoding_never_breaks(text: str) -> None:
    with suppress(ValueError):  # and nothing else
        assert isinstance(decode_encoded(text), str)
