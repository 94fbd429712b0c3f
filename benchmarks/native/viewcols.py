"""Snapshots of a mailbox beside a dict from UID to flags."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from benchmarks.cases import Case
from sora._native.seqset import SeqSet, UidSet
from sora._native.viewcols import (
    DATE_ITEM,
    FLAGS_ITEM,
    NO_RECENT,
    NUMBER_ITEM,
    TEXT_ITEM,
    UID_ITEM,
    RowWriter,
    Snapshot,
)
from sora.types import SEEN
from tests.support import models_viewcols as model

if TYPE_CHECKING:
    from collections.abc import Iterator

DATE: Final = datetime(2026, 1, 5, 4, 3, 2, tzinfo=UTC)
NAMES = {16: b"$Junk", 17: b"$Forwarded"}


def mailbox(messages: int) -> model.Mailbox:
    """Three of four messages seen, one of a hundred with a keyword, one UID of twenty expunged."""
    chance = random.Random(1)
    return {
        uid: frozenset({SEEN} if chance.random() < 0.75 else ()) | frozenset({16} if chance.random() < 0.01 else ())
        for uid in range(1, messages * 20 // 19 + 1)
        if uid % 20
    }


def cases(messages: int) -> Iterator[Case]:
    """The mailbox, and a version of it with one flag more and one message less."""
    box = mailbox(messages)
    state = b"".join(model.records(box))
    view = Snapshot.load(state, messages * 2, 7)
    touched, gone = messages // 2 // 20 * 20 + 1, messages // 3 // 20 * 20 + 1
    changed = box | {touched: box[touched] | {17}}
    newer = {uid: flags for uid, flags in changed.items() if uid != gone}
    bits = [(touched >> 10, model.bitmap([touched]))]
    flagged = view.patch_flags(8, bits, [17], [], False)
    delta = b"".join(model.records(newer, {touched >> 10, gone >> 10}))
    later = view.apply(delta, messages * 2, 9)
    order = list(box)
    seqs = model.seqs(box)
    some = SeqSet.from_numbers(range(1, messages, 7))
    some_uids = UidSet.from_numbers(range(1, messages, 7))
    wanted = frozenset(some_uids)

    yield Case(
        "viewcols.Snapshot.load", lambda: len(Snapshot.load(state, messages * 2, 7)), lambda: len(model.load(state))
    )
    yield Case(
        "viewcols.Snapshot.apply", lambda: len(view.apply(delta, messages * 2, 9)), lambda: len(_apply(box, delta))
    )
    yield Case(
        "viewcols.Snapshot.patch_flags", lambda: view.patch_flags(8, bits, [17], [], False).flags(touched),
        lambda: tuple(sorted((box | {touched: box[touched] | {17}})[touched])),
    )  # fmt: skip
    yield Case(
        "viewcols.Snapshot.patch_expunge", lambda: len(view.patch_expunge(9, [gone])),
        lambda: len({uid: flags for uid, flags in box.items() if uid != gone}),
    )  # fmt: skip
    yield Case("viewcols.Snapshot.__len__", lambda: len(view), lambda: len(box))
    yield Case(
        "viewcols.Snapshot.seq of 1,000", lambda: list(map(view.seq, order[:1000])), lambda: _seqs(box, order[:1000])
    )
    yield Case(
        "viewcols.Snapshot.uid of 1,000", lambda: [view.uid(n) for n in range(1, 1001)], lambda: sorted(box)[:1000]
    )
    yield Case("viewcols.Snapshot.uids", lambda: list(view.uids(some)), lambda: [order[n - 1] for n in some])
    yield Case(
        "viewcols.Snapshot.seqs", lambda: list(view.seqs(some_uids)),
        lambda: [seq for uid, seq in model.seqs(box).items() if uid in wanted],
    )  # fmt: skip
    yield Case("viewcols.Snapshot.present", lambda: list(view.present(some_uids)), lambda: sorted(wanted & box.keys()))
    yield Case("viewcols.Snapshot.all_uids", lambda: view.all_uids().ranges(), lambda: model.ranges_of(box))
    yield Case("viewcols.Snapshot.with_flag", lambda: list(view.with_flag(SEEN, False)), lambda: model.unseen(box))
    yield Case(
        "viewcols.Snapshot.count_flag", lambda: view.count_flag(16), lambda: sum(16 in flags for flags in box.values())
    )
    yield Case("viewcols.Snapshot.first_unseen", view.first_unseen, lambda: seqs[model.unseen(box)[0]])
    yield Case(
        "viewcols.Snapshot.flags", lambda: [view.flags(uid) for uid in order[:1000]],
        lambda: [tuple(sorted(box[uid])) for uid in order[:1000]],
    )  # fmt: skip
    yield Case(
        "viewcols.Snapshot.flag_numbers", view.flag_numbers, lambda: tuple(sorted(frozenset().union(*box.values())))
    )
    yield Case(
        "viewcols.Snapshot.diff", lambda: list(view.diff(flagged).changed), lambda: model.diff(box, changed).changed
    )
    yield Case(
        "viewcols.Snapshot.hold_expunges", lambda: view.hold_expunges(later).flags(touched),
        lambda: tuple(sorted({uid: newer.get(uid, flags) for uid, flags in box.items()}[touched])),
    )  # fmt: skip
    yield Case(
        "viewcols.Snapshot.flags_text", lambda: [view.flags_text(uid, NAMES, False) for uid in order[:1000]],
        lambda: [model.flags_text(box[uid], NAMES, False) for uid in order[:1000]],
    )  # fmt: skip
    everything = SeqSet.parse(b"1:*")
    yield Case(
        "viewcols.Snapshot.write_fetch_flags",
        lambda: b"".join(view.write_fetch_flags(everything, NAMES, True, NO_RECENT)),
        lambda: b"".join(_fetch(box)),
    )
    yield Case(
        "viewcols.Snapshot.unseen", lambda: view.unseen, lambda: len(model.unseen(box)),
        covers=("viewcols.Snapshot.uid_next", "viewcols.Snapshot.highest_modseq", "viewcols.Snapshot.size_bytes"),
    )  # fmt: skip
    yield Case(
        "viewcols.Snapshot.among", lambda: list(view.among(some_uids, SEEN, False)),
        lambda: [uid for uid in sorted(wanted & box.keys()) if SEEN not in box[uid]],
    )  # fmt: skip
    yield from _row_cases(view, box)
    difference = view.diff(later)
    plain = model.diff(box, newer)
    yield Case("viewcols.Diff.__bool__", lambda: bool(difference), lambda: bool(plain.vanished or plain.changed))
    yield Case(
        "viewcols.Diff of one of each",
        lambda: (lambda d: (d.expunged_seqs, list(d.vanished), list(d.changed), list(d.arrived)))(view.diff(later)),
        lambda: (lambda d: (d.expunged_seqs, d.vanished, d.changed, d.arrived))(model.diff(box, newer)),
        covers=tuple(f"viewcols.Diff.{name}" for name in ("expunged_seqs", "vanished", "changed", "arrived")),
    )


def _row_cases(view: Snapshot, box: model.Mailbox) -> Iterator[Case]:
    """FETCH of what stands in the rows, for the first 1,000 messages."""
    rows = [{"uid": uid, "size": 2000 + uid, "date": DATE, "envelope": b"(NIL)"} for uid in sorted(box)[:1000]]
    items = [
        (FLAGS_ITEM, b"FLAGS ", None), (UID_ITEM, b"UID ", None), (NUMBER_ITEM, b"RFC822.SIZE ", "size"),
        (DATE_ITEM, b"INTERNALDATE ", "date"), (TEXT_ITEM, b"ENVELOPE ", "envelope"),
    ]  # fmt: skip
    writer = RowWriter(view, items, NAMES, NO_RECENT)
    yield Case(
        "viewcols.RowWriter.write of 1,000", lambda: writer.write(rows), lambda: b"".join(_row_lines(box, rows)),
        covers=("viewcols.RowWriter", "viewcols.RowWriter.__init__"),
    )  # fmt: skip
    yield Case(
        "viewcols.RowWriter.text of 1,000", lambda: [writer.text(row, 3) for row in rows],
        lambda: [_date(row["date"]) for row in rows],
    )  # fmt: skip


def _row_lines(box: model.Mailbox, rows: list[dict[str, Any]]) -> Iterator[bytes]:
    for seq, row in enumerate(rows, 1):
        yield b"* %d FETCH (FLAGS %s UID %d RFC822.SIZE %d %s ENVELOPE %s)\r\n" % (
            seq, model.flags_text(box[row["uid"]], NAMES, False), row["uid"], row["size"], _date(row["date"]),
            row["envelope"],
        )  # fmt: skip


def _date(moment: datetime) -> bytes:
    return f'INTERNALDATE "{moment.day:2}-{moment:%b-%Y %H:%M:%S} +0000"'.encode()


def _seqs(box: model.Mailbox, uids: list[int]) -> list[int]:
    numbers = model.seqs(box)
    return [numbers[uid] for uid in uids]


def _apply(box: model.Mailbox, delta: bytes) -> model.Mailbox:
    named = {int.from_bytes(delta[at : at + 4], "big") for at in range(0, len(delta), 138)}
    kept = {uid: flags for uid, flags in box.items() if uid >> 10 not in named}
    return dict(sorted((kept | model.load(delta)).items()))


def _fetch(box: model.Mailbox) -> Iterator[bytes]:
    for seq, (uid, flags) in enumerate(sorted(box.items()), 1):
        yield b"* %d FETCH (UID %d FLAGS %s)\r\n" % (seq, uid, model.flags_text(flags, NAMES, uid > NO_RECENT))
