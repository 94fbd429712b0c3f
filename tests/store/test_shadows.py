"""Mailboxes in which deleted mail is to be seen: what they show, and that they hold nothing back."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sora._native.seqset import UidSet
from sora.errors import NotFound
from tests.store.test_undelete import expunge, flags_of, live, put, restore

if TYPE_CHECKING:
    from sora.store.store import Store
    from sora.types import AccountId, MailboxId

GRACE = timedelta(days=14)
SHADOW = "Deleted/INBOX"


async def refresh(store: Store, account_id: AccountId, name: str = "INBOX") -> MailboxId | None:
    """Its id; None: there is none."""
    await store.undelete.refresh(account_id, name, f"Deleted/{name}", GRACE)
    found = await store.mailboxes.find(account_id, f"Deleted/{name}")
    return None if found is None else found.mailbox_id


async def sources(store: Store, shadow: MailboxId) -> dict[int, int]:
    rows = await store.db.fetch(
        "SELECT uid, source_uid FROM deleted_messages WHERE shadow_id = $1 ORDER BY uid", shadow
    )
    return {row["uid"]: row["source_uid"] for row in rows}


async def test_uids_are_given_in_the_order_of_expunging_and_stay(
    store: Store, ann: AccountId, inbox: MailboxId
) -> None:
    await put(store, ann, inbox, 1, 2, 3, 4, flags=(1, 3, 17))
    await expunge(store, ann, inbox, 3)
    await expunge(store, ann, inbox, 1)
    shadow = await refresh(store, ann)
    assert shadow is not None
    assert await sources(store, shadow) == {1: 3, 2: 1}
    assert await flags_of(store, ann, shadow, 2) == {1, 17}
    await expunge(store, ann, inbox, 2)
    assert await refresh(store, ann) == shadow
    assert await sources(store, shadow) == {1: 3, 2: 1, 3: 2}
    assert await live(store, ann, shadow) == {1: 1000 * inbox + 3, 2: 1000 * inbox + 1, 3: 1000 * inbox + 2}


async def test_nothing_new_writes_nothing(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1)
    assert await refresh(store, ann) is None
    await expunge(store, ann, inbox, 1)
    shadow = await refresh(store, ann)
    assert shadow is not None
    before = await store.messages.state(ann, shadow)
    await refresh(store, ann)
    assert await store.messages.state(ann, shadow) == before


async def test_what_is_restored_leaves_and_does_not_come_again(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1, 2)
    await expunge(store, ann, inbox, 1, 2)
    shadow = await refresh(store, ann)
    assert shadow is not None
    await restore(store, ann, inbox, uids=UidSet.parse(b"1"))
    await refresh(store, ann)
    assert await sources(store, shadow) == {2: 2}
    log = await store.messages.expunged_since(ann, shadow, 1)
    assert not log.complete  # nothing is kept of what left, not even the log
    assert await store.db.fetchval("SELECT count(*) FROM messages WHERE mailbox_id = $1", shadow) == 1


async def test_deleted_mailboxes_of_the_name_are_shown_too(store: Store, ann: AccountId) -> None:
    for uid in (1, 2):
        box = await store.mailboxes.create(ann, "Work")
        await put(store, ann, box.mailbox_id, uid)
        await store.mailboxes.delete(ann, "Work")
    shadow = await refresh(store, ann, "Work")
    assert shadow is not None
    assert sorted((await sources(store, shadow)).values()) == [1, 2]
    assert await store.undelete.names(ann, GRACE) == ["Work"]


async def test_it_counts_nowhere(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1, 2)
    await expunge(store, ann, inbox, 1)
    usage = await store.db.fetchrow("SELECT * FROM account_usage($1)", ann)
    names = [box.name for box in await store.mailboxes.list(ann)]
    seq = await store.trees.seq(ann)
    shadow = await refresh(store, ann)
    assert shadow is not None
    assert await store.db.fetchrow("SELECT * FROM account_usage($1)", ann) == usage
    domain = await store.db.fetchval("SELECT domain_id FROM accounts WHERE account_id = $1", ann)
    assert (await store.db.fetchrow("SELECT messages FROM domain_usage($1)", domain))["messages"] == 1
    assert [box.name for box in await store.mailboxes.list(ann)] == names
    assert await store.trees.seq(ann) == seq
    assert [m.uid async for page in store.undelete.messages(ann) for m in page] == [1]


async def test_no_delivery_and_no_grant_gets_in(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    bob = await store.accounts.create("bob@example.com")
    await put(store, ann, inbox, 1)
    await expunge(store, ann, inbox, 1)
    shadow = await refresh(store, ann)
    assert shadow is not None
    with pytest.raises(NotFound):
        await store.db.execute("SELECT require_mailboxes(ARRAY[$1::bigint], ARRAY[$2::bigint])", ann, shadow)
    for grantee in (ann, bob):
        with pytest.raises(NotFound):
            await store.db.execute("SELECT set_acl($1, $2, $3, false, 2047, '=')", ann, shadow, grantee)


async def test_a_mailbox_of_ones_own_has_the_name(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    own = await store.mailboxes.create(ann, SHADOW)
    await put(store, ann, inbox, 1)
    await expunge(store, ann, inbox, 1)
    assert await refresh(store, ann) == own.mailbox_id
    assert await live(store, ann, own.mailbox_id) == {}


async def test_past_the_grace_period_it_holds_no_body(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    """The janitor's order: the shadow first, then the source; then nobody needs the body."""
    await put(store, ann, inbox, 1, 2)
    await expunge(store, ann, inbox, 1)
    shadow = await refresh(store, ann)
    assert shadow is not None
    assert await store.db.fetch("SELECT * FROM select_outdated_shadows($1)", GRACE) == []
    (row,) = await store.db.fetch("SELECT * FROM select_outdated_shadows('0 s')")
    assert (row["account_id"], row["mailbox_id"]) == (ann, shadow)
    assert await store.db.fetchval("SELECT trim_shadow($1, $2, '0 s')", ann, shadow) == 1
    assert await store.db.fetchval("SELECT trim_shadow($1, $2, '0 s')", ann, shadow) == 0
    await store.db.execute("SELECT trim_expunges($1, $2, 'infinity')", ann, inbox)
    assert await store.db.fetchval("SELECT content_user($1, $2)", ann, 1000 * inbox + 1) is None
    assert await sources(store, shadow) == {}
    assert await live(store, ann, shadow) == {}


async def test_a_held_account_keeps_all(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1)
    await expunge(store, ann, inbox, 1)
    shadow = await refresh(store, ann)
    assert shadow is not None
    await store.db.execute("SELECT set_legal_hold($1, true, 'suit', 'me')", ann)
    assert await store.db.fetch("SELECT * FROM select_outdated_shadows('0 s')") == []
    assert await store.db.fetchval("SELECT trim_shadow($1, $2, '0 s')", ann, shadow) == 0


async def test_many_in_steps(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, *range(1, 31))
    await expunge(store, ann, inbox, *range(1, 31))
    steps = []
    more = True
    while more:
        row = await store.db.fetchrow("SELECT * FROM refresh_deleted($1, 'INBOX', $2, $3, 12)", ann, SHADOW, GRACE)
        assert row is not None
        more = row["more"]
        steps.append(len(await sources(store, row["mailbox_id"])))
    assert steps == [12, 24, 30]
    assert list((await sources(store, row["mailbox_id"])).values()) == list(range(1, 31))


async def test_two_who_look_at_once_see_the_same(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, *range(1, 101))
    await expunge(store, ann, inbox, *range(1, 101))
    shadow, other = await asyncio.gather(refresh(store, ann), refresh(store, ann))
    assert shadow == other
    assert shadow is not None
    assert list((await sources(store, shadow)).values()) == list(range(1, 101))


async def test_while_it_is_found_out_what_to_show_mail_comes_in(
    dsn: str, store: Store, ann: AccountId, inbox: MailboxId
) -> None:
    """It may last for seconds where much was deleted; only what is to be done takes the locks of the sources."""
    await put(store, ann, inbox, 1)
    await expunge(store, ann, inbox, 1)
    shadow = await refresh(store, ann)
    holder = await asyncpg.connect(dsn)
    try:
        async with holder.transaction():
            await holder.execute("SELECT sora.lock_mailboxes($1::bigint[])", [inbox])
            assert await asyncio.wait_for(refresh(store, ann), 5) == shadow
    finally:
        await holder.close()


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("SELECT sora.restore_messages($1, $2, $2, '{2}', '{2}')", {1: 1, 2: 3}),
        ("DELETE FROM sora.messages WHERE account_id = $1 AND mailbox_id = $2 AND uid = 2", {1: 1, 2: 3}),
        ("SELECT $1::bigint, $2::bigint", {1: 1, 2: 2, 3: 3}),
    ],
    ids=["restored", "trimmed", "nothing"],
)
async def test_what_changes_before_the_locks_are_there(
    dsn: str, store: Store, ann: AccountId, inbox: MailboxId, change: str, shown: dict[int, int]
) -> None:
    await put(store, ann, inbox, 1, 2, 3)
    for uid in (1, 2, 3):
        await expunge(store, ann, inbox, uid)
    holder = await asyncpg.connect(dsn)
    try:
        async with holder.transaction():
            await holder.execute("SELECT sora.lock_mailboxes($1::bigint[])", [inbox])
            refreshing = asyncio.create_task(refresh(store, ann))
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            async with asyncio.timeout(10):
                while not await store.db.fetchval(waiting):
                    await asyncio.sleep(0.01)
            await holder.execute(change, ann, inbox)
        shadow = await refreshing
    finally:
        await holder.close()
    assert shadow is not None
    assert await sources(store, shadow) == shown
    assert len(await live(store, ann, shadow)) == len(shown)


async def test_a_mailbox_called_as_the_prefix_has_no_part_in_it(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    """Somebody brought a mailbox `Deleted` along: views below it neither move with it nor hold it back."""
    await store.mailboxes.create(ann, "Deleted/Mine")
    await put(store, ann, inbox, 1)
    await expunge(store, ann, inbox, 1)
    shadow = await refresh(store, ann)
    assert shadow is not None
    await store.mailboxes.rename(ann, "Deleted", "Bin")
    names = {row["name"] for row in await store.db.fetch("SELECT name FROM mailboxes WHERE deleted_at IS NULL")}
    assert {"Bin", "Bin/Mine", "Deleted/INBOX"} <= names
    assert "Bin/INBOX" not in names
    await store.mailboxes.rename(ann, "Bin", "Deleted")
    await store.mailboxes.delete(ann, "Deleted/Mine")
    await store.mailboxes.delete(ann, "Deleted")
    assert await store.mailboxes.find(ann, "Deleted") is None
    assert await refresh(store, ann) == shadow
