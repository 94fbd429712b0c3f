"""RFC 2231."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.mime.parameters import decode_parameters


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ([(b"Name", b"plain")], [("name", "plain")]),
        ([(b"name", "bäh".encode())], [("name", "bäh")]),
        ([(b"name*", b"utf-8'en'%e2%82%ac%20rates")], [("name", "€ rates")]),
        ([(b"name*", b"iso-8859-1''%A3")], [("name", "£")]),
        ([(b"name*", b"no quotes")], [("name", "")]),
        ([(b"name*0", b"a"), (b"name*1", b"b%20"), (b"x", b"y")], [("name", "ab%20"), ("x", "y")]),
        ([(b"name*1", b"b"), (b"name*0", b"a")], [("name", "ab")]),
        ([(b"name*0*", b"utf-8''%C3"), (b"name*1*", b"%A4"), (b"name*2", b"%41")], [("name", "ä%41")]),
        ([(b"name*0", b"a"), (b"name*2", b"c")], [("name", "a")]),
        ([(b"name*1", b"without a beginning")], []),
        ([(b"name*01", b"no number")], [("name*01", "no number")]),
        ([(b"name", b"first"), (b"name", b"second")], [("name", "first")]),
        ([(b"*", b"odd")], [("*", "odd")]),
        ([], []),
    ],
)
def test_examples(written: list[tuple[bytes, bytes]], read: list[tuple[str, str]]) -> None:
    assert decode_parameters(written) == read


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=8), st.binary(max_size=20)), max_size=6))
def test_anything_can_be_read(params: list[tuple[bytes, bytes]]) -> None:
    for name, value in decode_parameters(params):
        assert isinstance(name, str)
        assert isinstance(value, str)
