"""The journal's octets and their meaning, without a database."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.store import journal
from sora.store.journal import (
    LIVE,
    Account,
    AccountState,
    BadJournal,
    Builder,
    CredentialFacts,
    Frame,
    Gone,
    KeywordFacts,
    MailboxFacts,
    MailFacts,
    Messages,
    Outbound,
    Page,
    Plane,
    Reason,
    Scripts,
)
from sora.store.sealing import AccountKey
from sora.types import AccountId, MailboxId

frames = st.lists(
    st.builds(
        Frame,
        account_id=st.integers(0, 2**62).map(AccountId),
        group=st.integers(0, 2**63),
        part=st.integers(0, 2**32 - 1),
        last=st.booleans(),
        sealed=st.booleans(),
        payload=st.binary(max_size=200),
    ),
    max_size=8,
)


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}q", *values)


def plane(block: int, flag: int, *uids: int, viewer: int = 0) -> Plane:
    bits = bytearray(128)
    for uid in uids:
        assert uid >> 10 == block
        bits[(uid & 1023) >> 3] |= 0x80 >> (uid & 7)
    return Plane(block, flag, viewer, bytes(bits))


def messages(*uids: int, content: int = 100) -> Messages:
    count = len(uids)
    same = [numbers(*[n] * count) for n in (3000, 5, 6, 7, 0)]
    return Messages(numbers(*uids), numbers(*[content + uid for uid in uids]), bytes(32) * count, *same)


def page(since: int = 0, **more: object) -> Page:
    facts: dict[str, object] = {"uid_next": 9, "highest_modseq": 9, "uid_reserved": 100, "modseq_reserved": 100}
    facts |= {"first_block": 0, "last_block": 4194303} | more
    return Page(mailbox_id=7, since=since, **facts)  # type: ignore[arg-type]


@given(frames, st.integers(0, 2**63))
def test_objects_come_back_as_they_were(written: list[Frame], seq: int) -> None:
    builder = Builder(seq)
    sizes = [builder.add(frame) for frame in written]
    data = builder.finish()
    assert len(data) == len(builder) == 24 + sum(sizes) + 32
    assert journal.parse(data) == (seq, written)


@given(frames, st.data())
def test_what_is_cut_or_changed_is_refused(written: list[Frame], data: st.DataObject) -> None:
    builder = Builder(5)
    for frame in written:
        builder.add(frame)
    whole = builder.finish()
    at = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BadJournal):
        journal.parse(whole[:at])
    with pytest.raises(BadJournal):
        journal.parse(whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :])


def test_another_version_is_refused_by_name() -> None:
    data = bytearray(Builder(5).finish())
    data[8] = 2
    data[-32:] = journal._digest(bytes(data[:-32]))
    with pytest.raises(BadJournal, match="version 2"):
        journal.parse(bytes(data))


@pytest.mark.parametrize(
    "record",
    [
        Account(
            "ann@example.com",
            3,
            credentials=(CredentialFacts("password", "", "$argon2id$…"),),
            keywords=(KeywordFacts(16, "x"),),
        ),
        Outbound(0, (MailFacts(5, "redirect", "", "bo@example.com", 7, body=b"body", body_hash=b"h"),)),
        Scripts(),
        Gone(Reason.SHREDDED),
        page(3, blocks=(0,), planes=(plane(0, 0, 1),), messages=messages(1, 2)),
    ],
)
def test_records_come_back_as_they_were(record: journal.Record) -> None:
    assert journal.unpack(journal.pack([journal.encode(record)])) == [record]


def test_what_is_no_record_is_refused() -> None:
    for payload in (b"", b"\x00" * 40, journal.zlib.compress(b"\x81\xa1t\xa3???")):
        with pytest.raises(BadJournal):
            journal.unpack(payload)


def test_keys_sort_as_numbers_and_come_back() -> None:
    assert journal.segment_key(9) < journal.segment_key(10) < journal.segment_key(2**60) < journal.snapshot_key(1, 2, 0)
    assert journal.parse_segment_key(journal.segment_key(77)) == 77
    assert journal.parse_snapshot_key(journal.snapshot_key(3, 9, 12)) == (3, 9, 12)
    assert journal.parse_segment_key(journal.snapshot_key(3, 9, 12)) is None
    assert journal.parse_snapshot_key(journal.segment_key(77)) is None


def test_only_groups_with_all_their_parts_count() -> None:
    def frame(account: int, group: int, part: int, *, last: bool) -> Frame:
        return Frame(AccountId(account), group, part, last=last, sealed=False, payload=b"")

    found = journal.finished_groups(
        [
            frame(1, 5, 0, last=False), frame(1, 5, 1, last=True),
            frame(2, 5, 0, last=False),                                # its writer died
            frame(3, 5, 1, last=True),                                 # its beginning is missing
            frame(2, 6, 0, last=True),
        ]
    )  # fmt: skip
    assert found == {(1, 5), (2, 6)}


def test_a_sealed_record_opens_in_its_place_alone() -> None:
    key = AccountKey(AccountId(7), bytes(range(32)))
    context = journal.frame_context(7, 5, 0, last=False)
    sealed = key.seal_record(context, b"secret")
    assert b"secret" not in sealed
    assert key.open_record(context, sealed) == b"secret"
    for other in (
        journal.frame_context(7, 5, 1, last=False),
        journal.frame_context(7, 6, 0, last=False),
        journal.frame_context(7, 5, 0, last=True),
    ):
        assert key.open_record(other, sealed) is None
    assert AccountKey(AccountId(8), bytes(range(32))).open_record(context, sealed) is None
    assert AccountKey(AccountId(7), bytes(32)).open_record(context, sealed) is None
    for cut in range(len(sealed)):
        assert key.open_record(context, sealed[:cut]) is None


def test_a_page_from_zero_replaces_its_blocks_and_no_others() -> None:
    state = journal.MailboxState()
    live = (plane(0, LIVE, 1, 2), plane(1, LIVE, 1024))
    state.apply(page(blocks=(0, 1), planes=live, messages=messages(1, 2, 1024), uid_next=1025))
    state.apply(page(blocks=(0,), planes=(plane(0, LIVE, 2),), messages=messages(2), last_block=0, uid_next=1030))
    assert sorted(state.messages) == [2, 1024]
    assert [state.is_live(uid) for uid in (1, 2, 1024, 1029)] == [False, True, True, False]
    assert state.covered == {0: 1030, 1: 1025}
    assert state.uid_next == 1030


def test_a_page_that_goes_on_keeps_the_rows_and_replaces_the_planes() -> None:
    state = journal.MailboxState()
    planes = (plane(0, LIVE, 1, 2), plane(0, 0, 1, 2), plane(0, 0, 2, viewer=9), plane(3, LIVE, 3072))
    state.apply(page(blocks=(0, 3), planes=planes, messages=messages(1, 2, 3072)))
    later = (plane(0, LIVE, 2, 3), plane(0, 1, 3))
    state.apply(page(5, blocks=(0,), planes=later, messages=messages(1, 3), uid_reserved=50))
    assert sorted(state.messages) == [1, 2, 3, 3072]
    assert not state.is_live(1)
    assert state.is_live(3072)
    assert state.has_flag(3, 1)
    assert not state.has_flag(2, 0)
    assert not state.has_flag(2, 0, viewer_id=9)
    assert state.uid_reserved == 100, "a promise is kept"


def test_repeating_changes_nothing() -> None:
    once, twice = AccountState(), AccountState()
    records: list[journal.Record] = [
        Account("ann@example.com", 3, mailboxes=(MailboxFacts(7, "INBOX", 1),)),
        page(blocks=(0,), planes=(plane(0, LIVE, 1),), messages=messages(1)),
        Outbound(0, (MailFacts(5, "dsn", "", "x@y", 1, body=b""),)),
        Outbound(1, (MailFacts(6, "dsn", "", "x@y", 1, body=b""),)),
        page(5, blocks=(0,), planes=(plane(0, LIVE, 1, 2),), messages=messages(2)),
    ]
    for record in records:
        once.apply(record)
    for record in [*records, *records]:
        twice.apply(record)
    assert once.account == twice.account
    assert once.outbound.keys() == twice.outbound.keys() == {5, 6}
    assert vars(once.mailboxes[MailboxId(7)]) == vars(twice.mailboxes[MailboxId(7)])


def test_a_mailbox_that_the_account_has_no_more_is_gone_and_so_is_an_account() -> None:
    state = AccountState()
    state.apply(Account("ann@example.com", 3, mailboxes=(MailboxFacts(7, "INBOX", 1), MailboxFacts(8, "x", 1))))
    state.apply(page(blocks=(0,), planes=(plane(0, LIVE, 1),), messages=messages(1)))
    state.apply(Account("ann@example.com", 3, mailboxes=(MailboxFacts(8, "x", 1),)))
    assert not state.mailboxes
    state.apply(Gone(Reason.PURGED))
    assert state.account is None
    assert state.gone is Reason.PURGED


def test_rows_come_back_by_name() -> None:
    (row,) = messages(5)
    assert (row.uid, row.content_id, row.size, row.modseq, row.internal_date, row.saved_at, row.expunged_at) == (
        5, 105, 3000, 5, 6, 7, 0,
    )  # fmt: skip
    assert row.content_hash == bytes(32)
