"""FETCH lines of rows against their plain model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora._native.seqset import UidSet
from sora._native.viewcols import (
    DATE_ITEM,
    FLAGS_ITEM,
    MADE_ITEM,
    NUMBER_ITEM,
    TEXT_ITEM,
    UID_ITEM,
    RowWriter,
    Snapshot,
)
from tests.support import models_viewcols as model

NAMES = {16: b"$Junk", 17: b"work"}
UIDS = [1, 2, 63, 64, 1023, 1024, 5000, 4294967295]
mailboxes = st.dictionaries(st.sampled_from(UIDS), st.frozensets(st.sampled_from([0, 1, 3, 4, 16, 17, 19])), min_size=1)
ITEMS = [
    (FLAGS_ITEM, b"FLAGS ", None),
    (UID_ITEM, b"UID ", None),
    (NUMBER_ITEM, b"RFC822.SIZE ", "size"),
    (DATE_ITEM, b"INTERNALDATE ", "date"),
    (TEXT_ITEM, b"ENVELOPE ", "envelope"),
    (MADE_ITEM, b"", lambda row: b"BODY (%d)" % len(row["envelope"])),
]


def snapshot(mailbox: model.Mailbox) -> Snapshot:
    return Snapshot.load(b"".join(model.records(mailbox)), max(mailbox) + 1, 7)


def date_text(moment: datetime) -> bytes:
    """`17-Jul-1996 02:44:25 +0000`, made of `Wed, 17 Jul 1996 02:44:25 +0000`."""
    day, month, rest = format_datetime(moment.astimezone(UTC))[5:].split(" ", 2)
    return f'"{int(day):2}-{month}-{rest}"'.encode()


def line(mailbox: model.Mailbox, row: dict[str, Any], recent_after: int) -> bytes:
    uid = row["uid"]
    flags = model.flags_text(mailbox[uid], NAMES, uid > recent_after)
    return b"* %d FETCH (FLAGS %s UID %d RFC822.SIZE %d INTERNALDATE %s ENVELOPE %s BODY (%d))\r\n" % (
        model.seqs(mailbox)[uid], flags, uid, row["size"], date_text(row["date"]), row["envelope"],
        len(row["envelope"]),
    )  # fmt: skip


@given(
    mailboxes,
    st.integers(0, 2**63 - 1),
    st.datetimes(datetime(1000, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])),
    st.binary(max_size=40_000),
    st.sampled_from([0, 64, 4294967295]),
)
def test_rows(mailbox: model.Mailbox, size: int, date: datetime, envelope: bytes, recent_after: int) -> None:
    rows = [{"uid": uid, "size": size, "date": date, "envelope": envelope} for uid in sorted(mailbox)]
    writer = RowWriter(snapshot(mailbox), ITEMS, NAMES, recent_after)
    written = b"".join(line(mailbox, row, recent_after) for row in rows)
    assert writer.write(rows) == written
    assert writer.write(rows) == written, "nothing is left of the last chunk"
    assert writer.text(rows[0], 2) == b"RFC822.SIZE %d" % size


def test_no_rows() -> None:
    writer = RowWriter(snapshot({1: frozenset()}), ITEMS, NAMES)
    assert writer.write([]) == b""
    by_uid = RowWriter(snapshot({7: frozenset()}), [(UID_ITEM, b"UID ", None)], NAMES, uid_only=True)
    assert by_uid.write([{"uid": 7}]) == b"* 7 UIDFETCH (UID 7)\r\n"
    assert RowWriter(snapshot({1: frozenset()}), [], NAMES).write([{"uid": 1}]) == b"* 1 FETCH ()\r\n"


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"uid": 2}, KeyError),
        ({"uid": 1}, KeyError),
        ({"uid": -1}, OverflowError),
        ({"uid": 1, "size": "1"}, TypeError),
        ({"uid": 1, "size": 1, "date": datetime(2000, 1, 1)}, ValueError),
        ({"uid": 1, "size": 1, "date": None}, ValueError),
        ({"uid": 1, "size": 1, "date": datetime(2000, 1, 1, tzinfo=UTC), "envelope": None}, TypeError),
    ],
)
def test_a_row_that_cannot_be_is_refused(row: dict[str, Any], error: type[Exception]) -> None:
    writer = RowWriter(snapshot({1: frozenset()}), ITEMS, NAMES)
    with pytest.raises(error):
        writer.write([row])


@given(mailboxes, st.sets(st.sampled_from(UIDS)), st.sampled_from([0, 3, 19]), st.booleans())
def test_among(mailbox: model.Mailbox, asked: set[int], flag: int, value: bool) -> None:
    wanted = [uid for uid in sorted(asked & mailbox.keys()) if (flag in mailbox[uid]) is value]
    assert list(snapshot(mailbox).among(UidSet.from_numbers(asked), flag, value)) == wanted
