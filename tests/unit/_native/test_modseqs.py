"""Modseqs at every version, against the plain model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora._native.modseqs import ModSeqs
from sora._native.seqset import UidSet
from tests.support.models_modseqs import PlainModSeqs, changes, created
from tests.support.models_viewcols import bitmap

UIDS = st.one_of(st.integers(1, 40), st.integers(1010, 1040), st.integers(4094, 4099), st.just(4294967295))
STEPS = st.lists(
    st.tuples(st.sampled_from(("deliver", "change", "own", "pass")), st.sets(UIDS, max_size=6)), max_size=25
)


def built(steps: list[tuple[str, set[int]]], cuts: int) -> tuple[ModSeqs, PlainModSeqs, int]:
    """Both sides after the same history; every `cuts` steps what has gathered is added in one piece."""
    known, plain, modseq, top = ModSeqs(0, 0), PlainModSeqs(0), 0, 0
    came: dict[int, int] = {}
    journal: list[tuple[int, set[int]]] = []

    def flush() -> None:
        known.add(modseq, created(came), changes(journal))
        plain.add(modseq, came, journal)
        came.clear()
        journal.clear()

    for number, (step, uids) in enumerate(steps):
        modseq += 1
        if step == "deliver":
            came |= {uid: modseq for uid in uids if uid > top}
            top = max([top, *uids])
        elif step == "change" and uids:
            journal.append((modseq, uids))
        elif step == "own" and uids:
            modseq -= 1
            flush()
            modseq += 1
            known.add_change(modseq, [(no, bitmap(u for u in uids if u >> 10 == no)) for no in {u >> 10 for u in uids}])
            plain.add(modseq, {}, [(modseq, uids)])
        if number % cuts == 0:
            flush()
    flush()
    return known, plain, modseq


@given(STEPS, st.integers(1, 5), st.sets(UIDS, min_size=1), st.integers(0, 25), st.integers(0, 25))
def test_any_version(steps: list[tuple[str, set[int]]], cuts: int, uids: set[int], since: int, as_of: int) -> None:
    known, plain, modseq = built(steps, cuts)
    asked = UidSet.from_numbers(uids)
    assert known.highest == plain.highest == modseq
    assert list(memoryview(known.of(asked, as_of)).cast("q")) == plain.of(sorted(uids), as_of)
    assert known.last(asked, as_of) == plain.last(uids, as_of)
    assert list(known.newer(asked, since, as_of)) == plain.newer(sorted(uids), since, as_of)


def test_what_is_not_known_is_as_late_as_it_can_be() -> None:
    known = ModSeqs(5, 9, created({7: 8}), None)
    assert list(memoryview(known.of(UidSet.parse(b"3,7"), 9)).cast("q")) == [9, 8]
    assert (known.since, known.highest, known.entries) == (5, 9, 0)
    assert known.of(UidSet.empty(), 9) == b""
    assert known.last(UidSet.empty(), 9) == 0


@pytest.mark.parametrize(
    ("bad_created", "bad_changes"),
    [
        (created({1: 2})[:-1], None),
        (created({1: 2}) + created({1: 3}), None),
        (None, changes([(3, [1])])[:-1]),
        (None, changes([(3, [1])]) + changes([(2, [1])])),
        (None, b"\0" * 144),
    ],
)
def test_records_of_another_kind_are_refused(bad_created: bytes | None, bad_changes: bytes | None) -> None:
    with pytest.raises(ValueError, match=r"cut short|order|bitmap"):
        ModSeqs(0, 9, bad_created, bad_changes)


def test_it_never_goes_back() -> None:
    known = ModSeqs(0, 9)
    with pytest.raises(ValueError, match="go back"):
        known.add(8, None, None)
    with pytest.raises(ValueError, match="go back"):
        known.add_change(8, [])
    with pytest.raises(ValueError, match="1024 bits"):
        known.add_change(10, [(0, b"short")])
    known.add_change(10, [(0, bitmap([4]))])
    assert known.last(UidSet.parse(b"4"), 10) == 10
