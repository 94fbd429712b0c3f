"""By which of their flags messages have changed: what `imap.changedflags` says (RFC 6785 §4.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from sora._native.seqset import UidSet
from sora._native.viewcols import Snapshot
from sora.protocols.imap.events import MAX_GROUPS, alike
from sora.protocols.imap.views.selection import FlagEdit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

FLAGS = st.sets(st.sampled_from([0, 1, 2, 3, 16, 17]))
MAILBOX = st.dictionaries(st.integers(1, 2100), FLAGS, max_size=12)
EDIT = st.one_of(
    st.builds(lambda some: FlagEdit(sorted(some)), FLAGS),
    st.builds(lambda some: FlagEdit(clear=sorted(some)), FLAGS),
    st.builds(lambda some: FlagEdit(sorted(some), replace=True), FLAGS),
    st.builds(lambda some, other: FlagEdit(sorted(some), sorted(other - some)), FLAGS, FLAGS),
)


def snapshot(mailbox: Mapping[int, AbstractSet[int]]) -> Snapshot:
    """A picture of messages with these flags."""
    planes: dict[tuple[int, int], int] = {}
    for uid, flags in mailbox.items():
        for number in (-1, *flags):
            planes[uid >> 10, number] = planes.get((uid >> 10, number), 0) | 1 << (1023 - (uid & 1023))
    records = (
        block.to_bytes(4) + number.to_bytes(2, signed=True) + b"\0\0\4\0" + bits.to_bytes(128)
        for (block, number), bits in planes.items()
    )
    return Snapshot.load(b"".join(records), 3000, 1)


def after(flags: AbstractSet[int], edit: FlagEdit) -> set[int]:
    return {*edit.set} | (set() if edit.replace else {*flags} - {*edit.clear})


@given(MAILBOX, EDIT)
def test_each_message_by_exactly_the_flags_that_changed(mailbox: dict[int, set[int]], edit: FlagEdit) -> None:
    expected = {uid: tuple(sorted(flags ^ after(flags, edit))) for uid, flags in mailbox.items()}
    changed = {uid: numbers for uid, numbers in expected.items() if numbers}
    groups = alike(snapshot(mailbox), edit, UidSet.from_numbers(changed))
    assert {uid: numbers for uids, numbers in groups for uid in uids} == changed
    assert len({numbers for _, numbers in groups}) == len(groups), "each kind of change once"


@given(MAILBOX, EDIT)
def test_of_what_the_picture_does_not_know_all_counts(mailbox: dict[int, set[int]], edit: FlagEdit) -> None:
    groups = alike(snapshot(mailbox), edit, UidSet.from_numbers([2500]))
    cleared = {number for flags in mailbox.values() for number in flags} if edit.replace else {*edit.clear}
    assert [(list(uids), numbers) for uids, numbers in groups] == [([2500], tuple(sorted({*edit.set} | cleared)))]


def test_many_kinds_of_changes_are_one() -> None:
    mailbox = {uid: {number for number in range(16, 24) if uid >> (number - 16) & 1} for uid in range(1, 256)}
    (group,) = alike(snapshot(mailbox), FlagEdit(replace=True), UidSet.from_numbers(mailbox))
    assert len(group[0]) == 255 > MAX_GROUPS
    assert group[1] == tuple(range(16, 24))
