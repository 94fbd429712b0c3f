"""The threading algorithms against their plain model, which follows RFC 5256 §3 word by word."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora._native.columns import expand
from sora._native.seqset import UidSet
from sora._native.threads import Threads, ordered_subject
from tests.support import models_columns
from tests.support import models_threads as model

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

names = st.sampled_from([f"<{letter}@x>" for letter in "abcdefgh"])
message = st.tuples(st.one_of(st.just(""), names), st.lists(names, max_size=4))
mailboxes = st.dictionaries(st.integers(1, 30), message, max_size=12)


class Box:
    """Some messages with dates, subjects and replies, as both sides want them."""

    def __init__(self, data: st.DataObject, ids: dict[int, tuple[str, list[str]]]) -> None:
        self.ids = ids
        self.uids = UidSet.from_numbers(ids)
        self.sent = {uid: data.draw(st.integers(0, 3)) for uid in sorted(ids)}
        self.arrived = {uid: data.draw(st.integers(0, 3)) for uid in sorted(ids)}
        self.subjects = {uid: data.draw(st.integers(0, 3)) for uid in sorted(ids)}
        self.replies = frozenset(uid for uid in ids if data.draw(st.booleans()))
        self.numbers = {uid: uid * 7 for uid in ids}

    def threads(self) -> Threads:
        threads = Threads(self.uids)
        half = sorted(self.ids)[len(self.ids) // 2 :]
        texts = model.pack(self.ids)
        threads.add(models_columns.pack_texts({uid: text for uid, text in texts.items() if uid not in half}))
        threads.add(models_columns.pack_texts({uid: texts[uid] for uid in half}))
        return threads


def column(values: Mapping[int, int], kind: str = "q") -> array[int]:
    return array(kind, [values[uid] for uid in sorted(values)])


@given(st.data(), mailboxes)
def test_references(data: st.DataObject, ids: dict[int, tuple[str, list[str]]]) -> None:
    box = Box(data, ids)
    ours = box.threads().references(
        column(box.sent), column(box.subjects), UidSet.from_numbers(box.replies), column(box.numbers, "I")
    )
    assert ours.decode() == model.references(box.ids, box.sent, box.subjects, box.replies, box.numbers)


@given(st.data(), mailboxes)
def test_only_the_doubtful_are_asked_about(data: st.DataObject, ids: dict[int, tuple[str, list[str]]]) -> None:
    box = Box(data, ids)
    threads = box.threads()
    doubtful = threads.doubtful(column(box.sent), column(box.subjects))
    asked = box.replies & frozenset(doubtful)
    assert model.references(box.ids, box.sent, box.subjects, asked, box.numbers) == model.references(
        box.ids, box.sent, box.subjects, box.replies, box.numbers
    )


@given(st.data(), mailboxes)
def test_refs(data: st.DataObject, ids: dict[int, tuple[str, list[str]]]) -> None:
    box = Box(data, ids)
    ours = box.threads().refs(column(box.sent), column(box.arrived), column(box.numbers, "I"))
    assert ours.decode() == model.refs(box.ids, box.sent, box.arrived, box.numbers)


@given(st.data(), mailboxes)
def test_ordered_subject(data: st.DataObject, ids: dict[int, tuple[str, list[str]]]) -> None:
    box = Box(data, ids)
    ours = ordered_subject(column(box.sent), column(box.subjects), column(box.numbers, "I"))
    assert ours.decode() == model.ordered_subject(box.sent, box.subjects, box.numbers)


def plain(ids: dict[int, tuple[str, list[str]]], **columns: Iterable[int]) -> str:
    """REFERENCES in the order of the mailbox, each message with a subject of its own."""
    n = len(ids)
    threads = Threads(UidSet.from_numbers(ids))
    threads.add(models_columns.pack_texts(model.pack(ids)))
    sent = array("q", columns.get("sent", range(n)))
    subjects = array("q", columns.get("subjects", range(1, n + 1)))
    replies = UidSet.from_numbers(columns.get("replies", ()))
    return threads.references(sent, subjects, replies, expand(UidSet.from_numbers(ids))).decode()


KNOWN: dict[str, tuple[dict[int, tuple[str, list[str]]], dict[str, Any], str]] = {
    "RFC 5256 §4: children and grandchildren": (
        {2: ("b", []), 3: ("c", []), 4: ("d", ["c", "f"]), 6: ("f", ["c"]), 7: ("g", ["c", "f", "x44"]),
         23: ("w", ["c", "f", "d"]), 44: ("x44", ["c", "f"]), 96: ("y", ["x44", "g"])},
        {}, "(2)(3 6 (4 23)(44 7 96))",
    ),
    "RFC 5256 §4: no common parent": ({3: ("c", ["a"]), 5: ("e", ["a"])}, {}, "((3)(5))"),
    "a parent that is not here, with one child": ({3: ("c", ["a"])}, {}, "(3)"),
    "a dummy between two messages": ({1: ("a", []), 2: ("c", ["a", "b"])}, {}, "(1 2)"),
    "the second message with an id does not have it": ({1: ("a", []), 2: ("a", []), 3: ("c", ["a"])}, {}, "(1 3)(2)"),
    "no loops": ({1: ("a", ["b"]), 2: ("b", ["a"])}, {}, "(2 1)"),
    "itself": ({1: ("a", ["a"])}, {}, "(1)"),
    "the last reference is the parent, whatever was said before": (
        {1: ("a", []), 2: ("b", []), 3: ("x", ["a", "c"]), 4: ("c", ["b"])}, {}, "(1)(2 4 3)",
    ),
    "a reply without references joins its subject": (
        {1: ("a", []), 2: ("b", [])}, {"subjects": [1, 1], "replies": [2]}, "(1 2)",
    ),
    "two of one subject": ({1: ("a", []), 2: ("b", [])}, {"subjects": [1, 1]}, "((1)(2))"),
    "no subject is not the same subject": ({1: ("a", []), 2: ("b", [])}, {"subjects": [0, 0]}, "(1)(2)"),
    "nobody": ({}, {}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_threads(name: str) -> None:
    ids, columns, expected = KNOWN[name]
    assert plain(ids, **columns) == expected


def test_a_line_of_replies_as_long_as_the_mailbox() -> None:
    n = 50_000
    ids = {uid: (str(uid), [str(uid - 1)] if uid > 1 else []) for uid in range(1, n + 1)}
    assert plain(ids) == "(" + " ".join(map(str, range(1, n + 1))) + ")"
    backwards = {uid: (str(uid), [str(uid + 1)]) for uid in range(1, n + 1)}
    assert plain(backwards) == "(" + " ".join(map(str, range(n, 0, -1))) + ")"


def test_others_are_passed_over() -> None:
    ids: dict[int, tuple[str, list[str]]] = {uid: (str(uid), [str(uid - 1)]) for uid in range(1, 10)}
    threads = Threads(UidSet.from_numbers([2, 3, 7, 50]))
    threads.add(models_columns.pack_texts(model.pack(ids)))
    assert threads.refs(array("q", range(4)), array("q", range(4)), array("I", [1, 2, 3, 4])) == b"(1 2)(3)(4)"


def test_what_is_not_right_is_refused() -> None:
    threads = Threads(UidSet.from_ranges([(1, 3)]))
    packed = models_columns.pack_texts({2: b"a\n"})
    threads.add(packed)
    for broken in (packed, packed[:-1], packed + packed):
        with pytest.raises(ValueError, match="records"):
            threads.add(broken)
    key, numbers, nobody = array("q", [0] * 3), array("I", [1, 2, 3]), UidSet.empty()
    for wrong in (array("q", [0] * 2), array("i", [0] * 3)):
        with pytest.raises(ValueError, match="key"):
            threads.refs(wrong, key, numbers)
        with pytest.raises(ValueError, match="key"):
            threads.refs(key, wrong, numbers)
        with pytest.raises(ValueError, match="key"):
            threads.references(key, wrong, nobody, numbers)
        with pytest.raises(ValueError, match="key"):
            ordered_subject(wrong, key, numbers)
    for rank in (-1, 2**31):
        with pytest.raises(ValueError, match="rank"):
            threads.references(key, array("q", [0, rank, 0]), nobody, numbers)
    with pytest.raises(ValueError, match="number"):
        threads.refs(key, key, array("I", [1]))
