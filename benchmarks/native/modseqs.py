"""Modseqs of a mailbox beside creations in a dict and a list of changes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from benchmarks.cases import Case
from sora._native.modseqs import ModSeqs
from sora._native.seqset import UidSet
from tests.support import models_modseqs as model
from tests.support.models_modseqs import PlainModSeqs
from tests.support.models_viewcols import bitmap

if TYPE_CHECKING:
    from collections.abc import Iterator


def cases(messages: int) -> Iterator[Case]:
    """Every message came by itself, and forty times some of them changed."""
    chance = random.Random(1)
    created = {uid: uid + 1 for uid in range(1, messages + 1)}
    top = messages + 1
    journal = [(top + n, sorted(chance.sample(range(1, messages + 1), 5))) for n in range(1, 41)]
    one, two = model.created(created), model.changes(journal)
    known, plain = ModSeqs(0, top + 40, one, two), PlainModSeqs(0)
    plain.add(top + 40, created, journal)
    everything, as_of = UidSet.from_ranges([(1, messages)]), top + 20
    blocks = [(0, bitmap([5, 6]))]

    def learn() -> int:
        made = ModSeqs(0, top, one)
        made.add(top + 40, None, two)
        made.add_change(top + 41, blocks)
        return made.highest

    def learn_plain() -> int:
        made = PlainModSeqs(0)
        made.add(top + 40, created, journal)
        made.add(top + 41, {}, [(top + 41, [5, 6])])
        return made.highest

    yield Case(
        "modseqs.ModSeqs.add", learn, learn_plain,
        covers=("modseqs.ModSeqs", "modseqs.ModSeqs.__init__", "modseqs.ModSeqs.add_change", "modseqs.ModSeqs.highest"),
    )  # fmt: skip
    yield Case(
        "modseqs.ModSeqs.of every message",
        lambda: list(memoryview(known.of(everything, as_of)).cast("q")),
        lambda: plain.of(range(1, messages + 1), as_of),
    )
    yield Case(
        "modseqs.ModSeqs.last of every message",
        lambda: known.last(everything, as_of),
        lambda: plain.last(range(1, messages + 1), as_of),
    )
    yield Case(
        "modseqs.ModSeqs.newer",
        lambda: list(known.newer(everything, top, as_of)),
        lambda: plain.newer(range(1, messages + 1), top, as_of),
    )
    yield Case("modseqs.ModSeqs.entries", lambda: known.entries > 0, lambda: len(plain.journal) > 0)
    yield Case("modseqs.ModSeqs.size_bytes", lambda: known.size_bytes // messages >= 12, lambda: len(created) > 0)
    yield Case("modseqs.ModSeqs.since", lambda: known.since, lambda: 0)
