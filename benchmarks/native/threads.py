"""Threads beside the plain model of the RFC's steps."""

from __future__ import annotations

import random
from array import array
from typing import TYPE_CHECKING

from benchmarks.cases import Case
from sora._native.columns import expand
from sora._native.seqset import UidSet
from sora._native.threads import Threads, ordered_subject
from tests.support import models_columns
from tests.support import models_threads as model

if TYPE_CHECKING:
    from collections.abc import Iterator


def cases(messages: int) -> Iterator[Case]:
    """Two of three messages answer one of the last fifty, and name what that one answers."""
    chance = random.Random(3)
    ids: dict[int, tuple[str, list[str]]] = {}
    for uid in range(1, messages + 1):
        parent = uid - chance.randrange(1, 50)
        answers = [*ids[parent][1][-3:], ids[parent][0]] if parent > 0 and uid % 3 else []
        ids[uid] = (f"<{uid}.{uid * 7919}@mail.example.org>", answers)
    sent = {uid: uid + chance.randrange(-60, 60) for uid in ids}
    subjects = {uid: uid % (messages // 2) for uid in ids}
    numbers = {uid: uid for uid in ids}
    replies = frozenset(uid for uid in ids if uid % 3)
    packed, uids = models_columns.pack_texts(model.pack(ids)), UidSet.from_numbers(ids)
    key, ranks, written = array("q", sent.values()), array("q", subjects.values()), expand(uids)
    answering = UidSet.from_numbers(replies)
    threads = Threads(uids)
    threads.add(packed)

    def linked() -> int:
        threads = Threads(uids)
        threads.add(packed)
        return len(uids)

    yield Case(
        "threads.Threads.add", linked, lambda: bool(model.linked(ids)) * len(ids),
        ("threads.Threads", "threads.Threads.__init__"),
    )  # fmt: skip
    yield Case(
        "threads.Threads.doubtful", lambda: len(threads.doubtful(key, ranks)) > 0,
        lambda: len(model.linked(ids)) > 0,
    )  # fmt: skip
    yield Case(
        "threads.Threads.references", lambda: threads.references(key, ranks, answering, written),
        lambda: model.references(ids, sent, subjects, replies, numbers).encode(),
    )  # fmt: skip
    yield Case(
        "threads.Threads.refs", lambda: threads.refs(key, key, written),
        lambda: model.refs(ids, sent, sent, numbers).encode(),
    )  # fmt: skip
    yield Case(
        "threads.ordered_subject", lambda: ordered_subject(key, ranks, written),
        lambda: model.ordered_subject(sent, subjects, numbers).encode(),
    )  # fmt: skip
