"""Columns, texts and sorts against their plain models."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora._native import columns as native
from sora._native.columns import CC_FIELD, FROM_FIELD, SORT_DATE, TO_FIELD, Columns, Texts
from sora._native.seqset import UidSet
from sora.mime.digest import digest
from sora.mime.text import fold
from tests.support import models_columns as model

if TYPE_CHECKING:
    from collections.abc import Sequence

uids = st.frozensets(st.integers(1, 40))
small = st.integers(-3, 3)
date = st.one_of(small, st.just(model.NO_DATE))
wide = st.integers(-(2**63) + 1, 2**63 - 1)
facts = st.dictionaries(st.integers(1, 40), st.tuples(wide, small, date, small, wide))
bound = st.one_of(st.none(), small)
word = st.text("abAB\\é ß\n", max_size=3).map(str.encode)


def columns_of(*parts: dict[int, tuple[int, ...]]) -> Columns:
    columns = Columns()
    for part in parts:
        columns.add(model.pack(part))
    return columns


@given(facts, facts, uids)
def test_what_was_added_in_any_order_is_there(first: model.Facts, second: model.Facts, asked: frozenset[int]) -> None:
    columns = columns_of(dict(first), {uid: first.get(uid, fact) for uid, fact in second.items()})
    expected = {**second, **first}
    wanted = UidSet.from_numbers(asked)
    assert len(columns) == len(expected)
    assert list(columns.present(wanted)) == sorted(asked & expected.keys())
    assert list(columns.missing(wanted)) == sorted(asked - expected.keys())
    for column in range(SORT_DATE + 1):
        there = UidSet.from_numbers(expected)
        assert columns.values(there, column) == model.values(expected, expected, column)


@given(facts, uids, st.integers(0, SORT_DATE), bound, bound)
def test_between(known: model.Facts, within: frozenset[int], column: int, low: int | None, high: int | None) -> None:
    found = columns_of(dict(known)).between(UidSet.from_numbers(within), column, low, high)
    assert list(found) == model.between(known, within, column, low, high)


@given(facts, uids)
def test_keep(known: model.Facts, kept: frozenset[int]) -> None:
    columns = columns_of(dict(known))
    columns.keep(UidSet.from_numbers(kept))
    left = {uid: fact for uid, fact in known.items() if uid in kept}
    assert len(columns) == len(left)
    assert columns.values(UidSet.from_numbers(left), SORT_DATE) == model.values(left, left, SORT_DATE)
    columns.add(model.pack(known))
    assert columns.values(UidSet.from_numbers(known), 0) == model.values(known, known, 0)


def test_memory_is_counted() -> None:
    columns = columns_of(dict.fromkeys(range(1, 1001), (1, 2, 3, 4, 5)))
    assert 44_000 <= columns.size_bytes < 60_000
    columns.keep(UidSet.from_ranges([(1, 10)]))
    assert columns.size_bytes == 440


def test_what_is_no_record_is_refused() -> None:
    record = model.pack({7: (1, 2, 3, 4, 5)})
    for broken in (record[:-1], record + record, record + b"x", model.pack({9: (1,) * 5}) + record):
        columns = Columns()
        with pytest.raises(ValueError, match="records"):
            columns.add(broken)
        assert len(columns) == 0
    columns = columns_of({7: (1, 2, 3, 4, 5)})
    with pytest.raises(KeyError):
        columns.values(UidSet.from_numbers([7, 8]), 0)
    for column in (-1, 6):
        with pytest.raises(ValueError, match="column"):
            columns.values(UidSet.from_numbers([7]), column)
        with pytest.raises(ValueError, match="column"):
            columns.between(UidSet.from_numbers([7]), column, None, None)


@given(st.dictionaries(st.integers(1, 40), word), uids)
def test_ranks(texts: dict[int, bytes], asked: frozenset[int]) -> None:
    ours = Texts()
    half = sorted(texts)[: len(texts) // 2]
    ours.add(model.pack_texts({uid: texts[uid] for uid in half}), fold)
    ours.add(model.pack_texts({uid: text for uid, text in texts.items() if uid not in half}), fold)
    assert len(ours) == len(texts)
    assert ours.ranks(UidSet.from_numbers(asked)) == model.ranks(texts, asked)


def test_many_long_texts() -> None:
    texts = {uid: b"%d" % (uid * 7919 % 10007) * (uid % 50) for uid in range(1, 5000)}
    ours = Texts()
    ours.add(model.pack_texts(texts), fold)
    assert ours.ranks(UidSet.from_numbers(texts)) == model.ranks(texts, texts)


@pytest.mark.parametrize(
    "packed", [b"123", b"\0\0\0\1\0\0\0\2a", b"\0\0\0\2\0\0\0\1a\0\0\0\2\0\0\0\1a", b"\0\0\0\1\xff\xff\xff\xffa"]
)
def test_what_are_no_texts_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="records"):
        Texts().add(packed, fold)
    with pytest.raises(ValueError, match="field"):
        native.first_mailboxes(b"", 6)
    with pytest.raises(ValueError, match="records"):
        native.first_mailboxes(packed, FROM_FIELD)


MAILBOXES: tuple[tuple[bytes, int, str], ...] = (
    (b"From: Ann <ann@a.example>, b@b.example\r\n", FROM_FIELD, "ann"),
    (b"From: Ann <ann@a.example>\r\nTo: Bob <bob@b.example>\r\nCc: c@c.example\r\n", TO_FIELD, "bob"),
    (b"From: Ann <ann@a.example>\r\nTo: Bob <bob@b.example>\r\nCc: c@c.example\r\n", CC_FIELD, "c"),
    (b"From: a@a.example\r\n", CC_FIELD, ""),
    (b'To: "a) (b" <"x y"@a.example>\r\n', TO_FIELD, "x y"),
    (b'To: "say \\"x\\"" <"q\\"u\\\\"@a.example>\r\n', TO_FIELD, 'q"u\\'),
    (b"To: Friends: a@a.example;\r\n", TO_FIELD, "Friends"),
    ("From: é <ñandu@a.example>\r\n".encode(), FROM_FIELD, "ñandu"),
    (b'Subject: ((("\r\nDate: )))\r\nTo: x@a.example\r\n', TO_FIELD, "x"),
    ('Subject: ünlaut "q" (\r\nTo: x@a.example\r\n'.encode(), TO_FIELD, "x"),
)


@pytest.mark.parametrize(("header", "field", "mailbox"), MAILBOXES)
def test_the_first_mailbox_of_an_envelope(header: bytes, field: int, mailbox: str) -> None:
    envelope = digest(header + b"\r\n").envelope
    packed = model.pack_texts({1: envelope, 3: b"", 9: envelope})
    expected = model.pack_texts({1: mailbox.encode(), 3: b"", 9: mailbox.encode()})
    assert native.first_mailboxes(packed, field) == expected


@given(st.binary(max_size=60), st.integers(0, 5))
def test_what_is_no_envelope_has_some_mailbox(envelope: bytes, field: int) -> None:
    found = native.first_mailboxes(model.pack_texts({3: envelope, 5: b""}), field)
    texts = Texts()
    texts.add(found, fold)
    assert len(texts) == 2
    assert found.endswith(model.pack_texts({5: b""}))


def test_a_line_of_a_text() -> None:
    lines = {1: b"a\nb\nc", 2: b"x\ny\n", 4: b"x", 5: b"\n\nb\nd", 6: "p\nq\né".encode()}
    for line in range(4):
        ours, part = Texts(), {uid: b"\n".join(text.split(b"\n")[line:]) for uid, text in lines.items()}
        ours.add(model.pack_texts(lines), fold, line)
        assert ours.ranks(UidSet.from_numbers(lines)) == model.ranks(part, lines)


@given(st.data(), uids, st.lists(st.booleans(), max_size=3))
def test_sort_numbers(data: st.DataObject, numbers: frozenset[int], directions: Sequence[bool]) -> None:
    kind = st.one_of(st.lists(small, min_size=40, max_size=40), st.lists(wide, min_size=40, max_size=40))
    keys = [(array("q", data.draw(kind)[: len(numbers)]), reverse) for reverse in directions]
    assert native.sort_numbers(UidSet.from_numbers(numbers), keys) == model.sort_numbers(numbers, keys)


def test_a_key_of_another_length_is_refused() -> None:
    for key in (array("q", [1]), array("i", [1, 2, 3])):
        with pytest.raises(ValueError, match="key"):
            native.sort_numbers(UidSet.from_numbers([1, 2, 3]), [(key, False)])


@given(uids, uids)
def test_places_and_expand(numbers: frozenset[int], everything: frozenset[int]) -> None:
    asked = native.expand(UidSet.from_numbers(numbers))
    assert list(asked) == sorted(numbers)
    assert native.places(asked, UidSet.from_numbers(everything)) == model.places(asked, everything)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=8), st.integers(-2, 9), st.integers(-2, 9))
def test_write_numbers(numbers: list[int], first: int, last: int) -> None:
    assert native.write_numbers(array("I", numbers), first, last) == model.write_numbers(numbers, first, last)


def test_other_arrays_are_refused() -> None:
    for wrong in (array("q", [1]), array("b", [1])):
        with pytest.raises(ValueError, match="array"):
            native.places(wrong, UidSet.from_numbers([1]))
        with pytest.raises(ValueError, match="array"):
            native.write_numbers(wrong, 0, 1)
