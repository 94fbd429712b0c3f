"""The sequence numbers that a client remembers (RFC 7162 §3.2.5.2)."""

from __future__ import annotations

import pytest

from sora._native.seqset import SeqSet, UidSet
from sora._native.viewcols import Snapshot
from sora.protocols.imap.views.resync import MAX_MATCH, matching_up_to
from sora.protocols.imap.views.selection import uids_of


def mailbox(*uids: int) -> Snapshot:
    blocks: dict[int, bytearray] = {}
    for uid in uids:
        mask = blocks.setdefault(uid >> 10, bytearray(128))
        mask[(uid & 1023) >> 3] |= 0x80 >> (uid & 7)
    records = [no.to_bytes(4) + b"\xff\xff\0\0\4\0" + bytes(mask) for no, mask in blocks.items()]
    assert list(uids_of((no, bytes(mask)) for no, mask in blocks.items())) == sorted(uids)
    return Snapshot.load(b"".join(records), max(uids) + 1, 1)


@pytest.mark.parametrize(
    ("seqs", "uids", "sure"),
    [("1:3", "1,3,5", 5), ("1:3", "1,3,6", 3), ("2:3", "2:3", 0), ("1,3", "1,7", 1), ("1:4294967295",) * 2 + (0,)],
)
def test_the_last_uid_in_its_place(seqs: str, uids: str, sure: int) -> None:
    assert matching_up_to(mailbox(1, 3, 5, 6), SeqSet.parse(seqs.encode()), UidSet.parse(uids.encode())) == sure


def test_more_than_samples_are_not_looked_at() -> None:
    told = mailbox(*range(1, MAX_MATCH + 2))
    for count, sure in (MAX_MATCH, MAX_MATCH), (MAX_MATCH + 1, 0):
        text = b"1:%d" % count
        assert matching_up_to(told, SeqSet.parse(text), UidSet.parse(text)) == sure
