"""sora.store.effects: what filters remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sora.store.effects import duplicate_entry, reply_entry
from sora.types import AccountId

if TYPE_CHECKING:
    from sora.store.store import Store


async def remember(store: Store, table: str, account_id: int, entry: bytes, seconds: int) -> None:
    await store.db.execute(
        f"INSERT INTO {table} (account_id, entry, expires_at) VALUES ($1, $2, clock() + make_interval(secs => $3))",
        account_id,
        entry,
        seconds,
    )


async def test_an_id_is_tracked_for_its_handle_and_its_account_until_it_expires(store: Store) -> None:
    ann, ben = AccountId(1), AccountId(2)
    await remember(store, "sieve_duplicates", ann, duplicate_entry("", "<1@x>"), 60)
    await remember(store, "sieve_duplicates", ann, duplicate_entry("", "<2@x>"), -1)
    memory = store.filter_memory
    assert await memory.is_duplicate(ann, "", "<1@x>")
    assert not await memory.is_duplicate(ann, "h", "<1@x>")
    assert not await memory.is_duplicate(ann, "", "<2@x>")
    assert not await memory.is_duplicate(ben, "", "<1@x>")


async def test_a_sender_was_answered_in_whatever_case_it_is_written(store: Store) -> None:
    ann, ben = AccountId(1), AccountId(2)
    await remember(store, "vacation_replies", ann, reply_entry("h", "Bob@Example.ORG"), 60)
    await remember(store, "vacation_replies", ann, reply_entry("h", "old@example.org"), -1)
    memory = store.filter_memory
    assert await memory.was_answered(ann, "h", "bob@example.org")
    assert not await memory.was_answered(ann, "other", "bob@example.org")
    assert not await memory.was_answered(ann, "h", "old@example.org")
    assert not await memory.was_answered(ben, "h", "bob@example.org")


@pytest.mark.parametrize("texts", [("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", "")])
def test_no_two_pairs_have_one_entry(texts: tuple[str, str]) -> None:
    others = {("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", "")} - {texts}
    assert duplicate_entry(*texts) not in {duplicate_entry(*other) for other in others}


def test_octets_that_are_no_utf8_and_very_long_handles_make_entries_too() -> None:
    assert len(duplicate_entry("h" * 1_000_000, "\udcff")) == 16
