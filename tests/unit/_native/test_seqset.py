"""Sequence sets against their plain model."""

from __future__ import annotations

from operator import and_, or_, sub
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora._native.seqset import NumSet, SeqSet, UidSet
from sora.errors import BadSyntax
from tests.support import models_seqset as model

if TYPE_CHECKING:
    from collections.abc import Callable

MAX = model.MAX
numbers = st.frozensets(st.integers(1, 60))
part = st.one_of(st.integers(1, 60).map(str), st.just("*"))
texts = st.lists(st.one_of(part, st.tuples(part, part).map(":".join)), min_size=1, max_size=8).map(
    lambda parts: ",".join(parts).encode()
)


@given(texts, st.integers(0, 70))
def test_parse_and_resolve(text: bytes, largest: int) -> None:
    expected = model.resolve(text, largest)
    parsed = SeqSet.parse(text)
    assert parsed.has_star == (b"*" in text)
    resolved = parsed.resolve(largest)
    assert not resolved.has_star
    assert list(resolved) == sorted(expected)
    assert resolved.ranges() == model.ranges(expected)
    assert bytes(resolved) == model.text(expected)
    # What is written for a set that still has its star means the same.
    assert SeqSet.parse(bytes(parsed)).resolve(largest) == resolved
    assert SeqSet.parse(bytes(parsed)) == parsed


@given(st.text("0123456789:,*$ x", max_size=12).map(str.encode))
def test_parse_accepts_the_grammar_and_nothing_else(text: bytes) -> None:
    if model.is_valid(text):
        assert SeqSet.parse(text)
    else:
        with pytest.raises(BadSyntax):
            SeqSet.parse(text)


@pytest.mark.parametrize(
    "text", [b"0", b"0:1", b"1:0", b"01", b"4294967296", b"1:4294967296", b"1:", b":1", b"1,,2", b"$,1"]
)
def test_bad_numbers(text: bytes) -> None:
    with pytest.raises(BadSyntax, match="Invalid message set"):
        UidSet.parse(text)


def test_thirty_two_bits() -> None:
    whole = UidSet.from_ranges([(1, MAX)])
    assert len(whole) == MAX
    assert MAX in whole
    assert MAX + 1 not in whole
    assert bytes(UidSet.parse(b"4294967295,4294967294")) == b"4294967294:4294967295"
    assert (whole - UidSet.from_numbers([1, MAX])).ranges() == [(2, MAX - 1)]
    assert whole | UidSet.from_numbers([MAX]) == whole
    assert list(UidSet.from_ranges([(MAX - 1, MAX)])) == [MAX - 1, MAX]


@given(st.lists(st.integers(1, 60)))
def test_from_numbers(found: list[int]) -> None:
    made = UidSet.from_numbers(found)
    assert made.ranges() == model.ranges(found)
    assert len(made) == len(set(found))
    assert made.first == min(found, default=0)
    assert made.last == max(found, default=0)
    assert bool(made) == bool(found)
    assert [n for n in range(70) if n in made] == sorted(set(found))


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 20))))
def test_from_ranges(pairs: list[tuple[int, int]]) -> None:
    given_ranges = [(low, low + more) for low, more in pairs]
    expected = {n for low, high in given_ranges for n in range(low, high + 1)}
    made = SeqSet.from_ranges(given_ranges)
    assert made.ranges() == model.ranges(expected)
    assert made.bounds() == ([low for low, _ in made.ranges()], [high for _, high in made.ranges()])


@given(numbers, numbers, st.sampled_from([or_, and_, sub]))
def test_algebra(a: frozenset[int], z: frozenset[int], operation: Callable[[object, object], object]) -> None:
    expected = operation(a, z)
    made = operation(UidSet.from_numbers(a), UidSet.from_numbers(z))
    assert isinstance(made, UidSet)
    assert isinstance(expected, frozenset)
    assert made.ranges() == model.ranges(expected)


@given(numbers, numbers)
def test_equality_is_by_contents(a: frozenset[int], z: frozenset[int]) -> None:
    one, other = UidSet.from_numbers(a), UidSet.from_numbers(sorted(z, reverse=True))
    assert (one == other) == (a == z)
    assert (hash(one) == hash(other)) == (a == z)


@pytest.mark.parametrize("bad", [0, -1, MAX + 1])
def test_numbers_out_of_range(bad: int) -> None:
    with pytest.raises(ValueError, match="not a message number"):
        UidSet.from_numbers([bad])
    with pytest.raises(ValueError, match="not a message number"):
        UidSet.from_ranges([(1, bad)])


def test_a_range_ascends() -> None:
    with pytest.raises(ValueError, match="not a range"):
        UidSet.from_ranges([(5, 4)])


def test_sequence_numbers_and_uids_do_not_mix() -> None:
    seqs: NumSet = SeqSet.parse(b"1:3")
    uids: NumSet = UidSet.parse(b"1:3")
    assert seqs != uids
    for operation in (or_, and_, sub):
        with pytest.raises(TypeError):
            operation(seqs, uids)


def test_a_star_must_be_resolved_before_anything_is_counted() -> None:
    starred = SeqSet.parse(b"3,7:*")
    assert starred
    for use in (
        len,
        list,
        lambda s: s.ranges(),
        lambda s: s.bounds(),
        lambda s: 3 in s,
        lambda s: s.first,
        lambda s: s | s,
    ):
        with pytest.raises(ValueError, match="resolve"):
            use(starred)
    assert repr(starred) == "SeqSet(3,7:*)"


def test_star_in_an_empty_mailbox_is_nothing() -> None:
    assert SeqSet.parse(b"*").resolve(0) == SeqSet.empty()
    assert bytes(SeqSet.parse(b"*:*")) == b"*"


def test_saved_result() -> None:
    saved = UidSet.parse(b"$")
    assert saved.is_saved
    assert saved
    assert bytes(saved) == b"$"
    assert saved != UidSet.empty()
    assert not UidSet.empty().is_saved
    for use in (len, list, lambda s: s.resolve(3)):
        with pytest.raises(ValueError, match="saved result"):
            use(saved)
