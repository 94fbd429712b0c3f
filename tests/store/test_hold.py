"""Legal hold: what it shows, what it writes down, and that it waits for what is being removed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sora.admin import accounts as operations
from sora.admin.accounts import HoldAccount, ListAccounts, OneAccount, ReleaseAccount
from sora.admin.context import AdminContext
from sora.errors import NoPermission, NotFound

if TYPE_CHECKING:
    from sora.store.db import Database
    from sora.store.store import Store

ANN = "ann@example.com"


@pytest.fixture
async def context(store: Store) -> AdminContext:
    await store.accounts.create(ANN)
    return AdminContext(config=None, dsn="", store=store, blobs=None, cost=None)  # type: ignore[arg-type]


async def test_a_hold_is_shown_and_released(context: AdminContext, caplog: pytest.LogCaptureFixture) -> None:
    held = await operations.hold(context, HoldAccount(ANN, reason="case 7"))
    assert (held.legal_hold, held.hold_reason) == (True, "case 7")
    assert held.held_at is not None
    assert (await operations.show(context, OneAccount(ANN))).legal_hold
    assert [account.legal_hold for account in await operations.list_accounts(context, ListAccounts())] == [True]
    free = await operations.release(context, ReleaseAccount(ANN))
    assert (free.legal_hold, free.hold_reason, free.held_at) == (False, "", None)
    assert [record.message for record in caplog.records] == ["legal hold put", "legal hold released"]


async def test_every_change_of_a_hold_is_written_down(context: AdminContext, store: Store) -> None:
    first = await operations.hold(context, HoldAccount(ANN, reason="case 7"))
    second = await operations.hold(context, HoldAccount(ANN, reason="case 8"))
    assert second.held_at == first.held_at, "held since the first"
    await operations.release(context, ReleaseAccount(ANN, reason="settled"))
    rows = await store.db.fetch("SELECT address, held, reason, actor FROM legal_hold_log ORDER BY entry_id")
    assert [tuple(row)[:3] for row in rows] == [(ANN, True, "case 7"), (ANN, True, "case 8"), (ANN, False, "settled")]
    assert all(row["actor"] for row in rows)


async def test_a_deleted_account_can_be_held(context: AdminContext, store: Store) -> None:
    deleted = await store.accounts.get(ANN)
    await store.accounts.delete(deleted.account_id)
    with pytest.raises(NotFound):
        await operations.hold(context, HoldAccount(ANN))
    assert (await operations.hold(context, HoldAccount(ANN, deleted=True))).legal_hold
    [listed] = await operations.list_accounts(context, ListAccounts(deleted=True))
    assert listed.legal_hold
    assert listed.deleted_at is not None


async def test_an_account_that_the_cleanup_has_begun_with_comes_back_whole(store: Store, db: Database) -> None:
    account_id = await store.accounts.create(ANN)
    await store.mailboxes.delete(account_id, "Junk")
    await store.accounts.delete(account_id)
    purge = ("SELECT purge_account($1, interval '0')", account_id)
    assert await db.fetchval(*purge) == 5
    await store.accounts.restore(account_id)
    names = [box.name for box in await store.mailboxes.list(account_id) if not box.noselect]
    assert names == ["Archive", "Drafts", "INBOX", "Sent", "Trash"], "without the one that the user had deleted"
    assert await db.fetchval(*purge) == 0
    for row in await db.fetch("SELECT mailbox_id FROM mailboxes WHERE account_id = $1", account_id):
        removed = await db.fetchval("SELECT purge_mailbox($1, $2, interval '1 h')", account_id, row["mailbox_id"])
        assert removed == 0


async def test_the_cleanup_waits_for_a_restore(store: Store, db: Database) -> None:
    account_id = await store.accounts.create(ANN)
    await store.accounts.delete(account_id)
    async with db.transaction() as restoring:
        await restoring.execute("UPDATE accounts SET deleted_at = NULL WHERE account_id = $1", account_id)
        purging = asyncio.create_task(db.fetchval("SELECT purge_account($1, interval '0')", account_id))
        while not await db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0)
    assert await purging == 0
    assert await db.fetchval("SELECT count(*) FROM mailboxes WHERE deleted_at IS NOT NULL") == 0


async def test_a_restore_waits_for_the_cleanup(store: Store, db: Database) -> None:
    """The mailboxes that were being deleted at that moment come back too, and stay."""
    account_id = await store.accounts.create(ANN)
    await store.accounts.delete(account_id)
    async with db.transaction() as cleaner:
        assert await cleaner.fetchval("SELECT purge_account($1, interval '0')", account_id) == 6
        restoring = asyncio.create_task(store.accounts.restore(account_id))
        while not await db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0)
    await restoring
    assert await db.fetchval("SELECT count(*) FROM mailboxes WHERE deleted_at IS NOT NULL") == 0


async def test_an_account_that_is_just_going_cannot_be_restored(store: Store, db: Database) -> None:
    account_id = await store.accounts.create(ANN)
    await store.accounts.delete(account_id)
    await db.execute("DELETE FROM mailboxes WHERE account_id = $1", account_id)
    purge = ("SELECT purge_account($1, interval '0')", account_id)
    while await db.fetchval("SELECT EXISTS (SELECT FROM account_changes)"):
        await db.fetchval(*purge)
    async with db.transaction() as cleaner:
        assert await cleaner.fetchval(*purge) == 1
        restoring = asyncio.create_task(store.accounts.restore(account_id))
        while not await db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await restoring


async def test_a_shredded_account_cannot_be_held(store: Store, db: Database) -> None:
    """Its mail is unreadable already: a hold would only keep the rest of it half removed."""
    account_id = await store.accounts.create(ANN)
    await db.execute("SELECT create_account_key($1, 'k1', '\\x01', '\\x02', '\\x03')", account_id)
    async with db.transaction() as shredder:
        await shredder.execute("SELECT begin_shredding($1)", account_id)
        holding = asyncio.create_task(store.accounts.set_hold(account_id, True, "case", "test"))
        while not await db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0)
    with pytest.raises(NoPermission):
        await holding
    assert not await db.fetchval("SELECT account_held($1)", account_id)


async def test_a_hold_waits_for_what_is_being_removed(store: Store, db: Database) -> None:
    """Who was told "not held" may finish; afterwards it is held for everybody."""
    account_id = await store.accounts.create(ANN)
    async with db.transaction() as cleaner:
        assert not await cleaner.fetchval("SELECT account_held($1)", account_id)
        holding = asyncio.create_task(store.accounts.set_hold(account_id, True, "", "test"))
        while not await db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0)
        # the account's own life goes on meanwhile
        assert await db.fetchval("SELECT create_mailbox($1, 'new') IS NOT NULL", account_id)
        assert not await cleaner.fetchval("SELECT account_held($1)", account_id)
    assert await holding
    assert await db.fetchval("SELECT account_held($1)", account_id)
    assert not await db.fetchval("SELECT account_held(0)")


async def test_who_asks_while_a_hold_is_being_put_waits_for_it(store: Store, db: Database) -> None:
    account_id = await store.accounts.create(ANN)
    async with db.transaction() as holder:
        await holder.execute("SELECT set_legal_hold($1, true, '', 'test')", account_id)
        asking = asyncio.create_task(db.fetchval("SELECT account_held($1)", account_id))
        while not await db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0)
    assert await asking
