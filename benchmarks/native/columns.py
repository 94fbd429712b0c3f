"""Columns, texts and sorts beside dicts and `sorted`."""

from __future__ import annotations

import random
from array import array
from typing import TYPE_CHECKING

from benchmarks.cases import Case
from sora._native import columns as native
from sora._native.columns import FROM_FIELD, INTERNAL_DATE, SORT_DATE, Columns, Texts
from sora._native.seqset import UidSet
from sora.mime.digest import digest
from sora.mime.text import fold
from tests.support import models_columns as model

if TYPE_CHECKING:
    from collections.abc import Iterator


def cases(messages: int) -> Iterator[Case]:
    """A mailbox of some years: dates about a day out of order, one message of ten undated, subjects by threes."""
    chance = random.Random(2)
    facts = {
        uid: (uid, uid * 600, uid * 600 + chance.randrange(-86400, 86400) if uid % 10 else model.NO_DATE, uid, uid % 99)
        for uid in range(1, messages + 1)
    }
    packed, some = model.pack(facts), frozenset(range(1, messages, 3))
    columns = Columns()
    columns.add(packed)
    whole, wanted, middle = UidSet.from_numbers(facts), UidSet.from_numbers(some), messages * 300
    subjects = {uid: b"Re: the matter of number %d" % (uid // 3 * 7919 % messages) for uid in facts}
    packed_subjects = model.pack_texts(subjects)
    texts = Texts()
    texts.add(packed_subjects, fold)
    envelope = digest(
        b"From: Ann <ann@example.com>\r\nSubject: Hello\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    ).envelope
    envelopes = model.pack_texts(dict.fromkeys(facts, envelope))
    dates = model.values(facts, facts, SORT_DATE)
    order = model.sort_numbers(facts, [(dates, False)])

    def made() -> Columns:
        columns = Columns()
        columns.add(packed)
        return columns

    def kept() -> int:
        columns = made()
        columns.keep(wanted)
        return len(columns)

    def filled() -> int:
        texts = Texts()
        texts.add(packed_subjects, fold)
        return len(texts)

    yield Case("columns.Columns.add", lambda: len(made()), lambda: len(model.unpack(packed)), ("columns.Columns",))
    yield Case("columns.Columns.__len__", lambda: len(columns), lambda: len(facts))
    yield Case("columns.Columns.size_bytes", lambda: columns.size_bytes // messages, lambda: len(packed) // messages)
    yield Case("columns.Columns.present", lambda: len(columns.present(wanted)), lambda: len(some & facts.keys()))
    yield Case("columns.Columns.missing", lambda: len(columns.missing(wanted)), lambda: len(some - facts.keys()))
    yield Case(
        "columns.Columns.between", lambda: len(columns.between(whole, INTERNAL_DATE, middle, None)),
        lambda: len(model.between(facts, facts, INTERNAL_DATE, middle, None)),
    )  # fmt: skip
    yield Case(
        "columns.Columns.values", lambda: columns.values(wanted, SORT_DATE),
        lambda: model.values(facts, some, SORT_DATE),
    )  # fmt: skip
    yield Case("columns.Columns.keep", kept, lambda: len({uid: facts[uid] for uid in some}))
    yield Case(
        "columns.Texts.add", filled, lambda: len([fold(t.decode()) for t in subjects.values()]),
        ("columns.Texts",),
    )  # fmt: skip
    yield Case(
        "columns.first_mailboxes", lambda: native.first_mailboxes(envelopes, FROM_FIELD),
        lambda: model.pack_texts({uid: envelope.split(b'"')[7] for uid in facts}),
    )  # fmt: skip
    yield Case("columns.Texts.__len__", lambda: len(texts), lambda: len(subjects))
    yield Case("columns.Texts.ranks", lambda: texts.ranks(whole), lambda: model.ranks(subjects, facts))
    yield Case("columns.expand", lambda: native.expand(wanted), lambda: array("I", sorted(some)))
    yield Case(
        "columns.sort_numbers", lambda: native.sort_numbers(whole, [(dates, False)]),
        lambda: model.sort_numbers(facts, [(dates, False)]),
    )  # fmt: skip
    yield Case("columns.places", lambda: native.places(order, wanted), lambda: model.places(order, some))
    yield Case(
        "columns.write_numbers", lambda: native.write_numbers(order, 0, messages),
        lambda: model.write_numbers(order, 0, messages),
    )  # fmt: skip
