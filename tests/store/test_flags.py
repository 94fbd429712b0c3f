"""Flag changes that wait together are committed together, and fail alone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sora._native.seqset import UidSet
from sora._native.viewcols import Snapshot
from sora.errors import NotFound
from sora.types import FLAGGED, SEEN, AccountId, MailboxId
from tests.support.letters import NODE, new_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.store.db import Database
    from sora.store.flags import FlagChange
    from sora.store.store import Store


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


@contextlib.asynccontextmanager
async def held_elsewhere(dsn: str, *boxes: tuple[AccountId, MailboxId]) -> AsyncIterator[None]:
    """The locks of these mailboxes, as another process would hold them."""
    holder = await asyncpg.connect(dsn, server_settings={"search_path": "sora, public"})
    try:
        async with holder.transaction():
            await holder.execute("SELECT lock_mailboxes($1::bigint[])", [mailbox_id for _, mailbox_id in boxes])
            yield
    finally:
        await holder.close()


async def test_locked_mailboxes_hold_up_nobody_else(store: Store, dsn: str) -> None:
    """More changes than there are lanes, of more mailboxes than there are patient ones."""
    *locked, free = await boxes(store, 6)
    async with held_elsewhere(dsn, *locked):
        wait = [asyncio.ensure_future(store.messages.store_flags(*box, uids(1), [SEEN])) for box in locked * 4]
        for uid in (1, 2, 3):
            async with asyncio.timeout(2):
                await store.messages.store_flags(*free, uids(uid), [SEEN])
        assert not any(change.done() for change in wait)
    changes = await asyncio.gather(*wait)
    assert all(change.blocks for change in changes)
    for box in locked:
        assert await flagged(store, box) == {1: (SEEN,), 2: (), 3: ()}
    assert await flagged(store, free) == {1: (SEEN,), 2: (SEEN,), 3: (SEEN,)}


async def test_a_batch_steps_round_a_locked_mailbox(store: Store, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, free = await boxes(store, 2)
    async with held_elsewhere(dsn, locked):
        statements = Statements(store.db, monkeypatch)
        edits = [(free, 1), (locked, 1), (free, 2), (locked, 2)]
        asked = [asyncio.ensure_future(store.messages.store_flags(*box, uids(uid), [SEEN])) for box, uid in edits]
        async with asyncio.timeout(2):
            await asyncio.gather(asked[0], asked[2])
        assert statements.edits[0] == 4
        assert not asked[1].done()
    await asyncio.gather(*asked)
    assert await flagged(store, locked) == await flagged(store, free) == {1: (SEEN,), 2: (SEEN,), 3: ()}


async def test_who_waits_behind_a_gone_mailbox_is_answered(store: Store, dsn: str) -> None:
    (box,) = await boxes(store, 1)
    async with held_elsewhere(dsn, box):
        gone = asyncio.ensure_future(store.messages.store_flags(AccountId(999), box[1], uids(1), [SEEN]))
        waits = asyncio.ensure_future(store.messages.store_flags(*box, uids(1), [SEEN]))
        async with asyncio.timeout(2):
            await waiters(store, 1)
    with pytest.raises(NotFound):
        await gone
    assert (await waits).blocks
    assert (await store.messages.store_flags(*box, uids(2), [SEEN])).blocks, "nothing is left of the wait"


async def waiters(store: Store, count: int) -> None:
    """Until so many connections wait for an advisory lock."""
    sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while await store.db.fetchval(sql) < count:
        await asyncio.sleep(0)
