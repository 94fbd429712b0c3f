"""Flag changes that wait together are committed together, and fail alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from sora._native.seqset import UidSet
from sora._native.viewcols import Snapshot
from sora.errors import NotFound
from sora.types import FLAGGED, SEEN, MailboxId
from tests.support.letters import NODE, new_message

if TYPE_CHECKING:
    import pytest

    from sora.store.db import Database
    from sora.store.flags import FlagChange
    from sora.store.store import Store
    from sora.types import AccountId


class Statements:
    """Stands between the store and its database, and writes down what goes through."""

    def __init__(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.edits: list[int] = []
        self.begun = asyncio.Event()
        self._fetch = db.fetch
        monkeypatch.setattr(db, "fetch", self.fetch)

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        if "store_flags" in sql:
            self.edits.append(len(args[0]) if isinstance(args[0], list) else 1)
            self.begun.set()
        return await self._fetch(sql, *args)


async def boxes(store: Store, count: int) -> list[tuple[AccountId, MailboxId]]:
    """INBOXes of so many accounts, each with three messages."""
    found = []
    for number in range(count):
        account_id = await store.accounts.create(f"user{number}@example.com")
        mailbox = await store.mailboxes.get(account_id, "INBOX")
        await store.messages.deliver([new_message(account_id, None, None) for _ in range(3)], NODE)
        found.append((account_id, mailbox.mailbox_id))
    return found


async def flagged(store: Store, box: tuple[AccountId, MailboxId]) -> dict[int, tuple[int, ...]]:
    state = await store.messages.state(*box)
    snapshot = Snapshot.load(state.state, state.uid_next, state.highest_modseq)
    return {uid: snapshot.flags(uid) for uid in snapshot.all_uids()}


def uids(*numbers: int) -> UidSet:
    return UidSet.from_numbers(numbers)


async def test_what_waits_goes_out_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = await boxes(store, 2)
    statements = Statements(store.db, monkeypatch)
    changes: tuple[FlagChange, ...] = await asyncio.gather(
        store.messages.store_flags(*second, uids(1), [SEEN]),
        store.messages.store_flags(*second, uids(1, 3), [], [SEEN]),
        store.messages.store_flags(*first, uids(2), [FLAGGED]),
        store.messages.store_flags(*second, uids(2), [SEEN, FLAGGED]),
        store.messages.store_flags(*second, uids(2), [FLAGGED], [], True),
    )
    assert statements.edits == [1, 4] or statements.edits == [5]
    assert await flagged(store, first) == {1: (), 2: (FLAGGED,), 3: ()}
    assert await flagged(store, second) == {1: (), 2: (FLAGGED,), 3: ()}
    in_second = [change.modseq for change in changes if change is not changes[2]]
    assert in_second == list(range(in_second[0], in_second[0] + 4)), "in the order in which they were asked for"
    assert changes[2].blocks[0][0] == 0


async def test_a_gone_mailbox_fails_alone(store: Store) -> None:
    (account_id, mailbox_id), other = await boxes(store, 2)
    results = await asyncio.gather(
        store.messages.store_flags(*other, uids(1), [SEEN]),
        store.messages.store_flags(account_id, MailboxId(999_999), uids(1), [SEEN]),
        store.messages.store_flags(account_id, mailbox_id, uids(1), [SEEN]),
        return_exceptions=True,
    )
    assert isinstance(results[1], NotFound)
    assert [await flagged(store, box) for box in ((account_id, mailbox_id), other)] == [{1: (SEEN,), 2: (), 3: ()}] * 2


async def test_a_locked_mailbox_does_not_hold_up_what_comes_later(
    store: Store, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, free = await boxes(store, 2)
    statements = Statements(store.db, monkeypatch)
    holder = await asyncpg.connect(dsn, server_settings={"search_path": "sora, public"})
    try:
        async with holder.transaction():
            await holder.execute("SELECT lock_mailboxes(ARRAY[$1::bigint])", locked[1])
            waits = asyncio.ensure_future(store.messages.store_flags(*locked, uids(1), [SEEN]))
            await statements.begun.wait()
            await store.messages.store_flags(*free, uids(1), [SEEN])
            assert not waits.done()
    finally:
        await holder.close()
    await waits
    assert await flagged(store, locked) == {1: (SEEN,), 2: (), 3: ()}
