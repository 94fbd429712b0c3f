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
    assert await store.undelete.names(ann, "Deleted/", GRACE) == {"Work": True}


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


async def step(store: Store, ann: AccountId, *, plan: bool, size: int) -> tuple[MailboxId, bool]:
    row = await store.db.fetchrow(
        "SELECT * FROM refresh_deleted($1, 'INBOX', $2, $3, $4, $5)", ann, SHADOW, GRACE, plan, size
    )
    assert row is not None
    return row["mailbox_id"], row["more"]


async def test_many_in_steps(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, *range(1, 31))
    await expunge(store, ann, inbox, *range(1, 31))
    steps = []
    more = plan = True
    while more:
        shadow, more = await step(store, ann, plan=plan, size=12)
        steps.append(len(await live(store, ann, shadow)))
        plan = False
    assert steps == [12, 24, 30]
    assert list((await sources(store, shadow)).values()) == list(range(1, 31))


async def test_who_stops_between_two_steps_is_followed_by_the_next(
    store: Store, ann: AccountId, inbox: MailboxId
) -> None:
    """What was restored or trimmed between leaves no hole but in the UIDs, and what went between is shown too."""
    await put(store, ann, inbox, *range(1, 10))
    for uid in range(1, 9):
        await expunge(store, ann, inbox, uid)
    shadow, more = await step(store, ann, plan=True, size=2)
    assert more
    await restore(store, ann, inbox, uids=UidSet.parse(b"1,4,8"))
    await store.db.execute("SELECT trim_expunges($1, $2, 'infinity', 2)", ann, inbox)
    await expunge(store, ann, inbox, 9)
    assert await refresh(store, ann) == shadow
    assert await sources(store, shadow) == {3: 3, 5: 5, 6: 6, 7: 7, 9: 9}
    base = 1000 * inbox
    assert await live(store, ann, shadow) == {uid: base + uid for uid in (3, 5, 6, 7, 9)}


async def test_what_is_restored_between_two_steps_is_not_shown(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1, 2, 3)
    await expunge(store, ann, inbox, 1, 2, 3)
    shadow, _ = await step(store, ann, plan=True, size=1)
    await restore(store, ann, inbox, uids=UidSet.parse(b"3"))
    assert await step(store, ann, plan=False, size=5) == (shadow, False)
    assert await sources(store, shadow) == {1: 1, 2: 2}
    assert list(await live(store, ann, shadow)) == [1, 2]


async def test_what_changes_elsewhere_changes_what_is_shown(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    """A message is deleted while it is nowhere else: moved to the Trash, expunged there, and restored from there."""
    trash = (await store.mailboxes.get(ann, "Trash")).mailbox_id
    await put(store, ann, inbox, 1, 2)
    await expunge(store, ann, inbox, 2)
    shadow = await refresh(store, ann)
    assert shadow is not None
    await store.db.execute("SELECT * FROM move_messages($1, $2, $1, $3, '{1}', '{1}')", ann, inbox, trash)
    await refresh(store, ann)
    assert list((await sources(store, shadow)).values()) == [2]
    await expunge(store, ann, trash, 1)
    await refresh(store, ann)
    assert list((await sources(store, shadow)).values()) == [2, 1]
    assert (await restore(store, ann, trash))[0] == [2]
    await refresh(store, ann)
    assert list((await sources(store, shadow)).values()) == [2]


async def test_flags_are_no_reason_to_look_again(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1, 2)
    await expunge(store, ann, inbox, 1)
    mark = "SELECT deleted_mark($1, $2)"
    before = await store.db.fetchval(mark, ann, GRACE)
    await store.messages.store_flags(ann, inbox, UidSet.from_numbers([2]), [0])
    await refresh(store, ann)
    assert await store.db.fetchval(mark, ann, GRACE) == before
    assert await store.undelete.names(ann, "Deleted/", GRACE) == {"INBOX": True}
    assert await store.db.fetchval(mark, ann, timedelta(days=13)) != before
    await put(store, ann, inbox, 3)
    assert await store.db.fetchval(mark, ann, GRACE) != before
    assert await store.undelete.names(ann, "Deleted/", GRACE) == {"INBOX": False}


async def test_names_of_mailboxes_that_have_nothing_to_show(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    """What was moved is not deleted; nor is there anything when all was restored, but for who looks at it."""
    trash = (await store.mailboxes.get(ann, "Trash")).mailbox_id
    await put(store, ann, inbox, 1)
    await store.db.execute("SELECT * FROM move_messages($1, $2, $1, $3, '{1}', '{1}')", ann, inbox, trash)
    assert await store.undelete.names(ann, "Deleted/", GRACE) == {}
    assert await refresh(store, ann) is None
    await expunge(store, ann, trash, 1)
    assert list(await store.undelete.names(ann, "Deleted/", GRACE)) == ["INBOX", "Trash"]
    shadow = await refresh(store, ann)
    assert shadow is not None
    await restore(store, ann, inbox)
    assert await store.undelete.names(ann, "Deleted/", GRACE) == {}
    assert await refresh(store, ann) == shadow
    assert await live(store, ann, shadow) == {}
    assert await store.undelete.names(ann, "Deleted/", GRACE) == {}
    assert await store.undelete.names(ann, "Deleted/", GRACE, shadow) == {"INBOX": True}
    assert await store.undelete.names(ann, "Deleted/", GRACE, inbox) == {}


async def test_past_the_grace_period_it_is_shown_no_longer_though_nothing_else_happened(
    store: Store, ann: AccountId, inbox: MailboxId
) -> None:
    await put(store, ann, inbox, 1, 2)
    await expunge(store, ann, inbox, 1)
    shadow = await refresh(store, ann)
    assert shadow is not None
    async with store.db.transaction() as conn:
        await conn.execute("SET LOCAL sora.clock_offset = '15 days'")
        await conn.fetch("SELECT * FROM refresh_deleted($1, 'INBOX', $2, $3)", ann, SHADOW, GRACE)
    assert await sources(store, shadow) == {}
    assert await live(store, ann, shadow) == {}


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
        ("SELECT sora.restore_messages($1, $2, $2, '{2}')", {1: 1, 3: 3}),
        ("DELETE FROM sora.messages WHERE account_id = $1 AND mailbox_id = $2 AND uid = 2", {1: 1, 3: 3}),
        ("SELECT $1::bigint, $2::bigint", {1: 1, 2: 2, 3: 3}),
    ],
    ids=["restored", "trimmed", "nothing"],
)
async def test_what_changes_before_the_locks_are_there(
    dsn: str, store: Store, ann: AccountId, inbox: MailboxId, change: str, shown: dict[int, int]
) -> None:
    await put(store, ann, inbox, 1, 2, 3)
    await expunge(store, ann, inbox, 1)
    made = await refresh(store, ann)
    for uid in (2, 3):
        await expunge(store, ann, inbox, uid)
    holder = await asyncpg.connect(dsn)
    try:
        async with holder.transaction():
            await holder.execute("SELECT sora.lock_mailboxes($1::bigint[])", [made])
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


async def test_mail_that_comes_in_waits_for_no_refresh_nor_a_refresh_for_mail(
    store: Store, ann: AccountId, inbox: MailboxId, dsn: str
) -> None:
    """While one is under way, not committed: deliveries into its source, new mailboxes, and other shadows go on."""
    await put(store, ann, inbox, *range(1, 11))
    await expunge(store, ann, inbox, *range(1, 10))
    work = (await store.mailboxes.create(ann, "Work")).mailbox_id
    await put(store, ann, work, 1)
    await expunge(store, ann, work, 1)
    other = await asyncpg.connect(dsn, server_settings={"search_path": "sora, public"})
    try:
        for plan in (True, False):  # the one that makes it, and the one that goes on with it
            async with other.transaction():
                row = await other.fetchrow(
                    "SELECT * FROM refresh_deleted($1, 'INBOX', $2, $3, $4, 4)", ann, SHADOW, GRACE, plan
                )
                assert row is not None
                assert row["more"]
                async with asyncio.timeout(5):
                    assert await store.db.fetchval("SELECT try_lock_mailbox($1)", inbox)
                    await put(store, ann, inbox, 11 + plan)
                    await expunge(store, ann, inbox, 11 + plan)
                    await store.mailboxes.create(ann, f"New {plan}")
                    await refresh(store, ann, "Work")
        async with other.transaction():
            await other.execute("SELECT lock_mailboxes($1)", [inbox, work])
            await other.execute("SELECT lock_accounts($1)", [ann])
            async with asyncio.timeout(5):
                shadow = await refresh(store, ann)
    finally:
        await other.close()
    assert shadow is not None
    assert list((await sources(store, shadow)).values()) == [*range(1, 10), 12, 11]
    assert list(await live(store, ann, shadow)) == list(range(1, 12))


async def test_a_body_that_is_being_shown_is_in_use(store: Store, ann: AccountId, inbox: MailboxId, dsn: str) -> None:
    """The source is trimmed and its body about to go, between the look at it and the commit."""
    await put(store, ann, inbox, 1, 2)
    await expunge(store, ann, inbox, 1, 2)
    bodies = [1000 * inbox + 1, 1000 * inbox + 2]
    purge = "SELECT content_id FROM begin_purges($1, $2)"
    other = await asyncpg.connect(dsn, server_settings={"search_path": "sora, public"})
    try:
        async with other.transaction():
            await other.fetch("SELECT * FROM refresh_deleted($1, 'INBOX', $2, $3, true, 1)", ann, SHADOW, GRACE)
            assert await store.db.fetchval("SELECT trim_expunges($1, $2, 'infinity')", ann, inbox) == 2
            gone = await store.db.fetch(purge, [ann, ann], bodies)
        assert [row["content_id"] for row in gone] == bodies[1:]
    finally:
        await other.close()
    assert await store.db.fetch(purge, [ann], bodies[:1]) == []
    shadow = await refresh(store, ann)  # what is trimmed is not deleted mail any more
    assert shadow is not None
    assert await sources(store, shadow) == {}
    assert [row["content_id"] for row in await store.db.fetch(purge, [ann], bodies[:1])] == bodies[:1]


async def test_a_plan_that_changes_between_two_steps(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    """Another session looks when something was restored, and more went: each message once, in the order of going."""
    await put(store, ann, inbox, *range(1, 13))
    for uid in range(1, 9):
        await expunge(store, ann, inbox, uid)
    await step(store, ann, plan=True, size=3)
    await restore(store, ann, inbox, uids=UidSet.parse(b"2,6"))
    await expunge(store, ann, inbox, 9, 10)
    await step(store, ann, plan=True, size=2)
    await restore(store, ann, inbox, uids=UidSet.parse(b"8,10"))
    while (await step(store, ann, plan=False, size=2))[1]:
        pass
    shadow, _ = await step(store, ann, plan=True, size=2)
    shown = await sources(store, shadow)
    assert list(shown.values()) == [1, 3, 4, 5, 7, 9]
    assert list(await live(store, ann, shadow)) == list(shown)


async def test_many_look_while_the_owner_expunges_and_another_brings_back(
    store: Store, ann: AccountId, inbox: MailboxId
) -> None:
    """However they fall: in the end each is in INBOX or in the shadow, and no UID has ever meant two messages."""
    await put(store, ann, inbox, *range(1, 61))
    meant: dict[int, int] = {}

    async def owner() -> None:
        for uid in range(1, 61):
            await expunge(store, ann, inbox, uid)

    async def looker() -> None:
        for _ in range(12):
            shadow = await refresh(store, ann)
            if shadow is not None:
                for uid, body in (await live(store, ann, shadow)).items():
                    assert meant.setdefault(uid, body) == body

    async def other() -> None:
        for _ in range(6):
            shadow = await refresh(store, ann)
            shown = [] if shadow is None else list(await live(store, ann, shadow))
            if shadow is not None and shown:
                await store.messages.copy(ann, shadow, UidSet.from_numbers(shown[:2]), inbox)

    await asyncio.gather(owner(), looker(), looker(), other())
    await looker()
    shadow = await refresh(store, ann)
    assert shadow is not None
    there, gone = (await live(store, ann, inbox)).values(), (await live(store, ann, shadow)).values()
    assert sorted({*there, *gone}) == [1000 * inbox + uid for uid in range(1, 61)]
    assert not {*there} & {*gone}
