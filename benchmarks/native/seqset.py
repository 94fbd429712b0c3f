"""Sets of numbers beside frozensets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.cases import Case
from sora._native.seqset import SeqSet, UidSet
from tests.support import models_seqset as model

if TYPE_CHECKING:
    from collections.abc import Iterator


def cases(messages: int) -> Iterator[Case]:
    """Two sets, of every second and of every third number."""
    odd, thirds = range(1, messages, 2), range(1, messages, 3)
    text = model.text(odd)
    pairs = model.ranges(thirds)
    ours, other = SeqSet.parse(text), SeqSet.from_numbers(thirds)
    plain, plain_other = frozenset(odd), frozenset(thirds)
    same = SeqSet.parse(text)
    middle = messages // 2
    probes = range(1, messages, 97)
    yield Case("seqset.NumSet.parse", lambda: list(SeqSet.parse(text)), lambda: sorted(model.resolve(text, messages)))
    yield Case(
        "seqset.SeqSet parse a:z", lambda: len(SeqSet.parse(b"1:5000")), lambda: len(model.resolve(b"1:5000", 1))
    )
    yield Case(
        "seqset.UidSet parse a:z", lambda: len(UidSet.parse(b"1:5000")), lambda: len(model.resolve(b"1:5000", 1))
    )
    yield Case(
        "seqset.NumSet.resolve", lambda: len(SeqSet.parse(b"1,5:*").resolve(middle)),
        lambda: len(model.resolve(b"1,5:*", middle)),
    )  # fmt: skip
    yield Case("seqset.NumSet.from_ranges", lambda: len(SeqSet.from_ranges(pairs)), lambda: _spread(pairs))
    yield Case("seqset.NumSet.from_numbers", lambda: len(SeqSet.from_numbers(thirds)), lambda: len(frozenset(thirds)))
    yield Case("seqset.NumSet.empty", lambda: len(SeqSet.empty()), lambda: len(frozenset()))
    yield Case("seqset.NumSet.ranges", ours.ranges, lambda: model.ranges(plain))
    yield Case("seqset.NumSet.bounds", ours.bounds, lambda: tuple(map(list, zip(*model.ranges(plain), strict=True))))
    yield Case("seqset.NumSet.__contains__", lambda: [n in ours for n in probes], lambda: [n in plain for n in probes])
    yield Case("seqset.NumSet.__len__", lambda: len(ours), lambda: len(plain))
    yield Case("seqset.NumSet.__bool__", lambda: bool(ours), lambda: bool(plain))
    yield Case("seqset.NumSet.__iter__", lambda: list(ours), lambda: sorted(plain))
    yield Case("seqset.NumSet.__bytes__", lambda: bytes(ours), lambda: model.text(plain))
    yield Case("seqset.NumSet.__or__", lambda: len(ours | other), lambda: len(plain | plain_other))
    yield Case("seqset.NumSet.__and__", lambda: len(ours & other), lambda: len(plain & plain_other))
    yield Case("seqset.NumSet.__sub__", lambda: len(ours - other), lambda: len(plain - plain_other))
    yield Case("seqset.NumSet.__hash__", lambda: hash(ours) == hash(same), lambda: hash(frozenset(odd)) == hash(plain))
    yield Case(
        "seqset.NumSet.first and last", lambda: (ours.first, ours.last), lambda: (min(plain), max(plain)),
        covers=("seqset.NumSet.first", "seqset.NumSet.last"),
    )  # fmt: skip
    star = SeqSet.parse(b"1:*")
    yield Case(
        "seqset.NumSet.has_star", lambda: (star.has_star, star.is_saved), lambda: (b"*" in b"1:*", b"1:*" == b"$"),
        covers=("seqset.NumSet.is_saved",),
    )  # fmt: skip


def _spread(pairs: list[tuple[int, int]]) -> int:
    found: set[int] = set()
    for low, high in pairs:
        found.update(range(low, high + 1))
    return len(found)
