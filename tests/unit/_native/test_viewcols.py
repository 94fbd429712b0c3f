"""Snapshots against their plain model."""

from __future__ import annotations

import random
import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from sora._native.seqset import SeqSet, UidSet
from sora._native.viewcols import NO_RECENT, Snapshot
from sora.types import DELETED, SEEN
from tests.support import models_viewcols as model

NAMES = {16: b"$Junk", 17: b"work", 90: b"a", 5: b"five"}
# Few positions close to word and block borders, so that unions of them meet every case; 19 has no name.
UIDS = [1, 2, 3, 62, 63, 64, 65, 127, 128, 1022, 1023, 1024, 1025, 1087, 1088, 2047, 2048, 5000, 4294967295]
uids = st.frozensets(st.sampled_from(UIDS))
flags = st.frozensets(st.sampled_from([0, 1, 2, 3, 4, 5, 16, 17, 19, 90, 32767]), max_size=5)
mailboxes = st.dictionaries(st.sampled_from(UIDS), flags)


def snapshot(mailbox: model.Mailbox, seed: int = 0) -> Snapshot:
    found = model.records(mailbox)
    random.Random(seed).shuffle(found)
    return Snapshot.load(b"".join(found), max(mailbox, default=0) + 1, 7)


def contents(view: Snapshot) -> model.Mailbox:
    return {uid: frozenset(view.flags(uid)) for uid in view.all_uids()}


def check(view: Snapshot, mailbox: model.Mailbox) -> None:
    """Everything a snapshot says about itself agrees with the model."""
    order = sorted(mailbox)
    assert contents(view) == mailbox
    assert len(view) == len(mailbox)
    assert [view.uid(seq) for seq in range(1, len(mailbox) + 1)] == order
    assert [view.seq(uid) for uid in UIDS] == [model.seqs(mailbox).get(uid, 0) for uid in UIDS]
    unseen = model.unseen(mailbox)
    assert view.unseen == len(unseen)
    assert view.first_unseen() == (model.seqs(mailbox)[unseen[0]] if unseen else 0)
    assert view.flag_numbers() == tuple(sorted(set().union(*mailbox.values())))
    for flag in (0, 3, 16, 32767):
        having = [uid for uid in order if flag in mailbox[uid]]
        assert list(view.with_flag(flag)) == having
        assert list(view.with_flag(flag, False)) == [uid for uid in order if uid not in having]
        assert view.count_flag(flag) == len(having)


@given(mailboxes, st.integers())
def test_load(mailbox: model.Mailbox, seed: int) -> None:
    check(snapshot(mailbox, seed), mailbox)


@given(mailboxes, st.lists(st.integers(1, 12)), st.booleans())
def test_sets(mailbox: model.Mailbox, numbers: list[int], star: bool) -> None:
    view = snapshot(mailbox)
    order, seqs = sorted(mailbox), model.seqs(mailbox)
    text = b",".join([b"%d" % number for number in numbers] + ([b"2:*"] if star or not numbers else []))
    wanted = SeqSet.parse(text)
    expected = [uid for uid in order if seqs[uid] in wanted.resolve(len(order))]
    assert list(view.uids(wanted)) == expected
    by_uid = UidSet.parse(text)
    here = [uid for uid in order if uid in by_uid.resolve(max(order, default=0))]
    assert list(view.present(by_uid)) == here
    assert list(view.seqs(by_uid)) == [seqs[uid] for uid in here]


@given(mailboxes, uids)
def test_seqs_of_scattered_uids(mailbox: model.Mailbox, wanted: frozenset[int]) -> None:
    view = snapshot(mailbox)
    assert list(view.seqs(UidSet.from_numbers(wanted))) == sorted(
        seq for uid, seq in model.seqs(mailbox).items() if uid in wanted
    )


@given(mailboxes, mailboxes)
def test_diff(old: model.Mailbox, new: model.Mailbox) -> None:
    expected = model.diff(old, new)
    found = snapshot(old).diff(snapshot(new))
    assert found.expunged_seqs == expected.expunged_seqs
    assert list(found.vanished) == expected.vanished
    assert list(found.changed) == expected.changed
    assert list(found.arrived) == expected.arrived
    assert bool(found) == (old != new)


@given(mailboxes, mailboxes)
def test_hold_expunges(old: model.Mailbox, new: model.Mailbox) -> None:
    older = Snapshot.load(b"".join(model.records(old)), 10, 7)
    held = older.hold_expunges(Snapshot.load(b"".join(model.records(new)), 20, 9))
    check(held, {uid: new.get(uid, flags) for uid, flags in old.items()})
    assert (held.uid_next, held.highest_modseq) == (10, 7)
    assert not older.diff(held).vanished


@given(mailboxes, uids)
def test_patch_expunge(mailbox: model.Mailbox, gone: frozenset[int]) -> None:
    view = snapshot(mailbox)
    left = {uid: flags for uid, flags in mailbox.items() if uid not in gone}
    after = view.patch_expunge(8, UidSet.from_numbers(gone))
    check(after, left)
    assert after.highest_modseq == 8
    check(view.patch_expunge(8, sorted(gone)), left)
    check(view, mailbox)


@given(mailboxes, mailboxes, st.frozensets(st.sampled_from([0, 1, 2, 3, 4, 4194303])))
def test_apply_replaces_the_blocks_it_names(old: model.Mailbox, new: model.Mailbox, blocks: frozenset[int]) -> None:
    view = snapshot(old)
    after = view.apply(b"".join(model.records(new, blocks)), 99, 12)
    merged = {uid: flags for uid, flags in old.items() if uid >> 10 not in blocks}
    merged |= {uid: flags for uid, flags in new.items() if uid >> 10 in blocks}
    check(after, merged)
    assert (after.uid_next, after.highest_modseq) == (99, 12)
    check(view, old)


@given(
    mailboxes, uids, st.lists(st.sampled_from([0, 3, 5, 16, 77])), st.lists(st.sampled_from([1, 2, 17])), st.booleans()
)
def test_patch_flags(
    mailbox: model.Mailbox, chosen: frozenset[int], to_set: list[int], clear: list[int], replace: bool
) -> None:
    view = snapshot(mailbox)
    blocks = sorted({uid >> 10 for uid in mailbox})
    applied = [(no, model.bitmap(uid for uid in chosen if uid >> 10 == no)) for no in reversed(blocks)]
    after = view.patch_flags(9, applied, to_set, clear, replace)
    kept = {uid: frozenset() if replace else flags - set(clear) for uid, flags in mailbox.items()}
    check(after, {uid: kept[uid] | set(to_set) if uid in chosen else flags for uid, flags in mailbox.items()})
    assert after.highest_modseq == 9
    check(view, mailbox)


def test_patch_takes_the_bitmap_as_the_database_sends_it() -> None:
    view = snapshot({1: frozenset(), 2: frozenset()})
    raw = struct.pack(">i", 1024) + model.bitmap([2])
    assert list(view.patch_flags(8, [(0, raw)], [SEEN], [], False).with_flag(SEEN)) == [2]


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        ([(1, bytes(128))], "no block"),
        ([(-1, bytes(128))], "no block"),
        ([(1 << 32, bytes(128))], "no block"),
        ([(0, bytes(127))], "not a bitmap"),
        ([(0, bytes(128))] * 2, "twice"),
    ],
)
def test_patch_of_another_mailbox_is_refused(blocks: list[tuple[int, bytes]], why: str) -> None:
    view = snapshot({1: frozenset({SEEN})})
    with pytest.raises(ValueError, match=why):
        view.patch_flags(8, blocks, [DELETED], [], False)
    check(view, {1: frozenset({SEEN})})


@pytest.mark.parametrize(
    "state",
    [
        b"x",
        model.record(0, -1, [1])[:-1],
        model.record(0, -2, [1]),
        model.record(4194304, -1, [1]),
        struct.pack(">ihi", 0, -1, 512) + bytes(128),
        model.record(0, -1, [1]) * 2,
    ],
)
def test_a_broken_state_is_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="mailbox state"):
        Snapshot.load(state, 2, 1)


def test_flags_without_a_live_message_are_nothing() -> None:
    """Flags of expunged messages may linger in the database; there is no UID 0 either."""
    state = (
        model.record(0, -1, [0, 5])
        + model.record(0, 0, [0, 4, 5, 6])
        + model.record(0, 2, [6])
        + model.record(3, 0, [3072])
    )
    check(Snapshot.load(state, 9, 1), {5: frozenset({0})})


def test_nothing() -> None:
    view = Snapshot.load(None, 1, 0)
    check(view, {})
    assert view.uids(SeqSet.parse(b"1:*")) == UidSet.empty()
    assert list(view.write_fetch_flags(SeqSet.parse(b"1:*"), {}, True)) == []
    with pytest.raises(IndexError):
        view.uid(1)
    with pytest.raises(KeyError):
        view.flags(1)
    assert [view.seq(uid) for uid in (-1, 0, 1, 1 << 32)] == [0, 0, 0, 0]


def test_more_planes_than_bits_in_a_word() -> None:
    mailbox = {uid: frozenset({16 + uid, 500}) for uid in range(1, 201)}
    names = {number: b"k%d" % number for number in range(16, 600)}
    view = snapshot(mailbox)
    assert contents(view) == mailbox
    text = b"".join(view.write_fetch_flags(SeqSet.parse(b"1:*"), names, True))
    assert text == b"".join(model.fetch_line(mailbox, uid, names, True, NO_RECENT) for uid in mailbox)


@given(mailboxes, uids, st.booleans(), st.sampled_from([0, 63, 1024, NO_RECENT]), st.integers(1, 4), st.booleans())
def test_write_fetch_flags(
    mailbox: model.Mailbox, chosen: frozenset[int], with_uid: bool, recent_after: int, chunk: int, by_uid: bool
) -> None:
    view = snapshot(mailbox)
    messages = UidSet.from_numbers(chosen) if by_uid else view.seqs(UidSet.from_numbers(chosen))
    chunks = list(view.write_fetch_flags(messages, NAMES, with_uid, recent_after, chunk))
    expected = [
        model.fetch_line(mailbox, uid, NAMES, with_uid, recent_after) for uid in sorted(chosen & mailbox.keys())
    ]
    assert b"".join(chunks) == b"".join(expected)
    assert [piece.count(b"\r\n") for piece in chunks] == [
        len(expected[i : i + chunk]) for i in range(0, len(expected), chunk)
    ]


@given(mailboxes, uids, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2**63 - 1))
def test_write_fetch_modseqs(
    mailbox: model.Mailbox, chosen: frozenset[int], with_uid: bool, with_flags: bool, uid_only: bool, modseq: int
) -> None:
    here = sorted(chosen & mailbox.keys())
    modseqs = array("q", [max(modseq - uid, 1) for uid in here])
    chunks = snapshot(mailbox).write_fetch_flags(
        UidSet.from_numbers(here), NAMES, with_uid, 64, 3,
        modseqs=modseqs.tobytes(), with_flags=with_flags, uid_only=uid_only,
    )  # fmt: skip
    assert b"".join(chunks) == b"".join(
        model.fetch_line(mailbox, uid, NAMES, with_uid, 64, modseq=one, with_flags=with_flags, uid_only=uid_only)
        for uid, one in zip(here, modseqs, strict=True)
    )


def test_each_message_needs_a_modseq_and_each_line_an_item() -> None:
    view = snapshot({1: frozenset(), 2: frozenset()})
    lines = view.write_fetch_flags(SeqSet.parse(b"1:2"), {}, True, modseqs=array("q", [7]).tobytes())
    with pytest.raises(ValueError, match="without a modseq"):
        list(lines)
    with pytest.raises(ValueError, match="nothing to write"):
        view.write_fetch_flags(SeqSet.parse(b"1"), {}, False, with_flags=False)


@given(mailboxes, st.booleans())
def test_flags_text(mailbox: model.Mailbox, recent: bool) -> None:
    view = snapshot(mailbox)
    for uid, flags in mailbox.items():
        assert view.flags_text(uid, NAMES, recent) == model.flags_text(flags, NAMES, recent)


def test_a_star_is_the_last_message() -> None:
    view = snapshot({3: frozenset(), 70: frozenset(), 2000: frozenset()})
    assert list(view.uids(SeqSet.parse(b"*"))) == [2000]
    assert list(view.present(UidSet.parse(b"3000:*"))) == [2000]
    assert list(view.write_fetch_flags(UidSet.parse(b"*"), {}, False)) == [b"* 3 FETCH (FLAGS ())\r\n"]


def test_a_chunk_holds_something() -> None:
    with pytest.raises(ValueError, match="chunk"):
        snapshot({}).write_fetch_flags(SeqSet.parse(b"1"), {}, True, chunk=0)


def test_versions_share_what_did_not_change() -> None:
    """A hundred versions that each change one block of a hundred need little more than one version."""
    mailbox = {uid: frozenset({SEEN}) for uid in range(1, 102_400)}
    view = snapshot(mailbox)
    size = view.size_bytes
    assert size < 100_000
    versions = [view]
    for no in range(100):
        versions.append(versions[-1].patch_flags(no, [(no, b"\xff" * 128)], [DELETED], [], False))
    assert len(versions[-1].with_flag(DELETED)) == len(mailbox)
    assert not view.with_flag(DELETED)
    assert versions[50].count_flag(DELETED) == 50 * 1024 - 1
    assert len(versions[10].diff(versions[60]).changed) == 50 * 1024
    del versions[1:]
    assert view.count_flag(SEEN) == len(mailbox)


class History(RuleBasedStateMachine):
    """Versions derived from versions in any order: none may change under its holders' feet."""

    versions = Bundle("versions")

    @rule(target=versions, mailbox=mailboxes)
    def load(self, mailbox: model.Mailbox) -> tuple[Snapshot, model.Mailbox]:
        return snapshot(mailbox), mailbox

    @rule(target=versions, version=versions, gone=uids)
    def expunge(self, version: tuple[Snapshot, model.Mailbox], gone: frozenset[int]) -> tuple[Snapshot, model.Mailbox]:
        view, mailbox = version
        left = {uid: flags for uid, flags in mailbox.items() if uid not in gone}
        return view.patch_expunge(view.highest_modseq + 1, UidSet.from_numbers(gone)), left

    @rule(target=versions, version=versions, new=mailboxes, block=st.sampled_from([0, 1, 2]))
    def delta(
        self, version: tuple[Snapshot, model.Mailbox], new: model.Mailbox, block: int
    ) -> tuple[Snapshot, model.Mailbox]:
        view, mailbox = version
        merged = {uid: flags for uid, flags in mailbox.items() if uid >> 10 != block}
        merged |= {uid: flags for uid, flags in new.items() if uid >> 10 == block}
        return view.apply(b"".join(model.records(new, [block])), 1, view.highest_modseq + 1), merged

    @rule(target=versions, old=versions, new=versions)
    def hold(
        self, old: tuple[Snapshot, model.Mailbox], new: tuple[Snapshot, model.Mailbox]
    ) -> tuple[Snapshot, model.Mailbox]:
        held = {uid: new[1].get(uid, flags) for uid, flags in old[1].items()}
        return old[0].hold_expunges(new[0]), held

    @rule(version=consumes(versions))
    def drop(self, version: tuple[Snapshot, model.Mailbox]) -> None:
        check(*version)

    @rule(version=versions, other=versions)
    def look(self, version: tuple[Snapshot, model.Mailbox], other: tuple[Snapshot, model.Mailbox]) -> None:
        assert contents(version[0]) == version[1]
        assert version[0].diff(other[0]).expunged_seqs == model.diff(version[1], other[1]).expunged_seqs


History.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestHistory = History.TestCase
