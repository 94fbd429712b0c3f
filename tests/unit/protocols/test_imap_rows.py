"""Rows kept for clients that fetch one message after the other: what is asked of the database, and what never is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sora._native.seqset import UidSet
from sora.protocols.imap.views.rows import FEW, KEPT_BYTES, KEPT_S, WINDOW_UIDS, WINDOWS, RecentRows
from sora.types import AccountId, MailboxId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

ANN = AccountId(1)
COLUMNS = ("size", "envelope")


class Messages:
    """A mailbox with the UIDs of `there`; remembers what it was asked for."""

    def __init__(self) -> None:
        self.envelope = b""
        self.there = UidSet.from_ranges([(1, 100_000)])
        self.asked: list[str] = []

    async def rows(
        self, account_id: int, mailbox_id: int, uids: UidSet, columns: Sequence[str]
    ) -> AsyncIterator[list[dict[str, Any]]]:
        self.asked.append(bytes(uids).decode())
        values: dict[str, object] = {"mailbox": mailbox_id, **dict.fromkeys(columns, 1), "envelope": self.envelope}
        yield [{**values, "uid": uid} for uid in uids & self.there]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def messages() -> Messages:
    return Messages()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rows(messages: Messages, clock: Clock) -> RecentRows:
    return RecentRows(messages, clock=clock)  # type: ignore[arg-type]


async def get(rows: RecentRows, *uids: int, mailbox: int = 7, columns: Sequence[str] = COLUMNS) -> list[int] | None:
    found = await rows.get(ANN, MailboxId(mailbox), UidSet.from_numbers(uids), columns)
    return None if found is None else [row["uid"] for row in found]


async def test_the_second_miss_reads_the_window(rows: RecentRows, messages: Messages) -> None:
    assert await get(rows, 70) == [70]
    assert await get(rows, 72) == [72]
    assert await get(rows, 65, 127) == [65, 127]
    assert messages.asked == ["70", f"{WINDOW_UIDS}:{2 * WINDOW_UIDS - 1}"]


async def test_the_first_window_begins_with_one(rows: RecentRows, messages: Messages) -> None:
    await get(rows, 1)
    await get(rows, 2)
    assert messages.asked == ["1", f"1:{WINDOW_UIDS - 1}"]


async def test_the_same_again_costs_nothing(rows: RecentRows, messages: Messages) -> None:
    for _ in range(3):
        assert await get(rows, 70, 200) == [70, 200]
    assert messages.asked == ["70,200"]


async def test_many_are_left_to_the_database(rows: RecentRows, messages: Messages) -> None:
    assert await get(rows, *range(1, FEW + 2)) is None
    assert messages.asked == []


async def test_mailboxes_and_columns_are_kept_apart(rows: RecentRows, messages: Messages) -> None:
    await get(rows, 70)
    found = await rows.get(ANN, MailboxId(8), UidSet.from_numbers([70]), COLUMNS)
    assert found is not None
    assert found[0]["mailbox"] == 8
    await get(rows, 70, columns=("size",))
    assert messages.asked == ["70", "70", "70"]


async def test_a_message_that_came_later_is_found(rows: RecentRows, messages: Messages) -> None:
    messages.there = UidSet.from_ranges([(1, 71)])
    await get(rows, 70)
    assert await get(rows, 72) == []
    messages.there = UidSet.from_ranges([(1, 72)])
    assert await get(rows, 72) == [72]


async def test_what_was_purged_is_forgotten_in_time(rows: RecentRows, messages: Messages, clock: Clock) -> None:
    await get(rows, 70)
    messages.there = UidSet.empty()
    assert await get(rows, 70) == [70]
    clock.now = KEPT_S + 0.1
    assert await get(rows, 70) == []


async def test_the_memory_is_bounded(rows: RecentRows, messages: Messages) -> None:
    for number in range(WINDOWS + 1):
        await get(rows, number * WINDOW_UIDS + 1)
    messages.asked.clear()
    await get(rows, WINDOW_UIDS + 1)
    assert messages.asked == []
    await get(rows, 1)
    assert messages.asked == ["1"]


async def test_rows_are_kept_by_their_octets(rows: RecentRows, messages: Messages) -> None:
    """What is read again takes the place of what it was; what has left takes none."""
    messages.envelope = b"x" * (KEPT_BYTES // 4)
    for _ in range(5):
        for uid in (1, WINDOW_UIDS, 2 * WINDOW_UIDS, 3 * WINDOW_UIDS):
            await get(rows, uid)
    assert messages.asked == [str(uid) for uid in (1, WINDOW_UIDS, 2 * WINDOW_UIDS, 3 * WINDOW_UIDS)]
    messages.asked.clear()
    await get(rows, 4 * WINDOW_UIDS)
    await get(rows, WINDOW_UIDS)
    assert messages.asked == [str(4 * WINDOW_UIDS)]
    await get(rows, 1)
    assert messages.asked[1:] == ["1"]


async def test_rows_that_are_read_again_count_once(rows: RecentRows, messages: Messages, clock: Clock) -> None:
    messages.envelope = b"x" * (KEPT_BYTES // 4)
    messages.there = UidSet.from_numbers([1, 2])
    for _ in range(9):
        await get(rows, 1)
        await get(rows, 2, 3)  # the third is not there, so the window is read again
        clock.now += KEPT_S / 3
    messages.asked.clear()
    await get(rows, 1)
    await get(rows, 2)
    assert messages.asked == []


async def test_a_window_too_large_is_not_kept(rows: RecentRows, messages: Messages) -> None:
    """Nor is it read whole whenever another of its messages is asked for."""
    messages.envelope = b"x" * (KEPT_BYTES // WINDOW_UIDS + 1000)
    await get(rows, 70)
    assert await get(rows, 72) == [72]
    assert await get(rows, 73) == [73]
    assert messages.asked == ["70", f"{WINDOW_UIDS}:{2 * WINDOW_UIDS - 1}", "73"]
