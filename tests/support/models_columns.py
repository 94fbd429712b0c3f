"""Plain models of the columns, texts and sorts: dicts and `sorted`."""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, TypeAlias

from sora._native.columns import SENT_DATE, SORT_DATE
from sora.mime.text import fold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

RECORD = struct.Struct(">I5q")
HEAD = struct.Struct(">II")
NO_DATE = -(2**63)

Facts: TypeAlias = "Mapping[int, tuple[int, ...]]"
"""By UID: content id, internal date, sent date, saved date, size."""


def pack(facts: Facts) -> bytes:
    """As `message_columns()` writes them."""
    return b"".join(RECORD.pack(uid, *facts[uid]) for uid in sorted(facts))


def unpack(packed: bytes) -> dict[int, tuple[int, ...]]:
    """The facts again."""
    return {uid: tuple(rest) for uid, *rest in RECORD.iter_unpack(packed)}


def fact(facts: Facts, uid: int, column: int) -> int:
    """One fact; SORT_DATE is the sent date or else the internal date."""
    if column != SORT_DATE:
        return facts[uid][column]
    return facts[uid][SENT_DATE] if facts[uid][SENT_DATE] != NO_DATE else facts[uid][1]


def between(facts: Facts, within: Iterable[int], column: int, low: int | None, high: int | None) -> list[int]:
    """Messages with low <= fact < high."""
    found = []
    for uid in sorted(set(within) & facts.keys()):
        value = fact(facts, uid, column)
        if value != NO_DATE and (low is None or value >= low) and (high is None or value < high):
            found.append(uid)
    return found


def values(facts: Facts, uids: Iterable[int], column: int) -> array[int]:
    """One column."""
    return array("q", [fact(facts, uid, column) for uid in sorted(uids)])


def pack_texts(texts: Mapping[int, bytes]) -> bytes:
    """As `message_texts()` writes them."""
    return b"".join(HEAD.pack(uid, len(texts[uid])) + texts[uid] for uid in sorted(texts))


def ranks(texts: Mapping[int, bytes], uids: Iterable[int]) -> array[int]:
    """Place among the different texts, counted from 1; 0 for nothing."""
    folded = {uid: fold(text.decode("utf-8", "replace")) for uid, text in texts.items()}
    places = {text: place for place, text in enumerate(sorted({*folded.values()} - {""}), 1)}
    return array("q", [places.get(folded.get(uid, ""), 0) for uid in sorted(uids)])


def sort_numbers(numbers: Iterable[int], keys: Sequence[tuple[Sequence[int], bool]]) -> array[int]:
    """One stable sort a key, the least significant first."""
    order = sorted(numbers)
    place = {number: i for i, number in enumerate(order)}
    for values_of, reverse in reversed(keys):
        order.sort(key=by(values_of, place, -1 if reverse else 1))
    return array("I", order)


def by(values_of: Sequence[int], place: Mapping[int, int], sign: int) -> Callable[[int], int]:
    """A key function."""
    return lambda number: sign * values_of[place[number]]


def places(numbers: Iterable[int], everything: Iterable[int]) -> array[int]:
    """Sequence numbers; 0 for what is not there."""
    seq = {number: place for place, number in enumerate(sorted(everything), 1)}
    return array("I", [seq.get(number, 0) for number in numbers])


def write_numbers(numbers: Sequence[int], first: int, last: int) -> bytes:
    """With a space before each."""
    return b"".join(b" %d" % number for number in numbers[max(first, 0) : max(last, 0)])
