"""Deleted messages and mailboxes come back, with everything that was theirs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sora._native.seqset import UidSet
from sora.admin import undelete
from sora.admin.context import AdminContext
from sora.errors import AlreadyExists, InvalidName, NotFound, OverQuota
from sora.store.undelete import EVER

if TYPE_CHECKING:
    from sora.store.store import Store
    from sora.types import AccountId, MailboxId

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


async def put(
    store: Store, account_id: AccountId, mailbox_id: MailboxId, *uids: int, flags: tuple[int, ...] = (), body: int = 0
) -> None:
    """Rows of messages that differ in their bodies, or all share one, with what a listing shows of them."""
    await store.db.execute(
        """
        WITH new AS (
          INSERT INTO message_contents (account_id, content_id, content_hash, size, thread_id, subject, sender,
            envelope, body_structure)
          SELECT DISTINCT $1::bigint, 1000 * $2 + coalesce(nullif($5, 0), u), decode(lpad(to_hex(1000 * $2 + coalesce(
            nullif($5, 0), u)), 64, '0'), 'hex'), 100, 1, 'Subject ' || u, 'eve@example.net', ''::bytea, ''::bytea
          FROM unnest($3::bigint[]) u ON CONFLICT DO NOTHING)
        INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size,
          initial_flags)
        SELECT $1, $2, u, 1000 * $2 + coalesce(nullif($5, 0), u), s.highest_modseq + 1, $6, 100, $4
        FROM unnest($3::bigint[]) u, mailbox_stats s WHERE s.account_id = $1 AND s.mailbox_id = $2
        """,
        account_id, mailbox_id, list(uids), list(flags) or None, body, WHEN,
    )  # fmt: skip


async def live(store: Store, account_id: AccountId, mailbox_id: MailboxId) -> dict[int, int]:
    """Content ids by UID of what is to be seen; the mailbox is in order besides."""
    assert await store.db.fetch("SELECT * FROM check_mailbox($1, $2)", account_id, mailbox_id) == []
    rows = await store.db.fetch(
        """
        SELECT uid, content_id FROM messages WHERE account_id = $1 AND mailbox_id = $2 AND expunged_at IS NULL
        ORDER BY uid
        """,
        account_id, mailbox_id,
    )  # fmt: skip
    return {row["uid"]: row["content_id"] for row in rows}


async def flags_of(store: Store, account_id: AccountId, mailbox_id: MailboxId, uid: int) -> set[int]:
    rows = await store.db.fetch(
        """
        SELECT flag_no FROM message_flags WHERE account_id = $1 AND mailbox_id = $2
        AND block_no = ($3::bigint >> 10)::int AND get_bit(bits, ($3::bigint & 1023)::int) = 1
        """,
        account_id, mailbox_id, uid,
    )  # fmt: skip
    return {row["flag_no"] for row in rows}


async def expunge(store: Store, account_id: AccountId, mailbox_id: MailboxId, *uids: int) -> None:
    await store.messages.expunge(account_id, mailbox_id, UidSet.from_numbers(uids), only_deleted=False)


async def restore(
    store: Store,
    account_id: AccountId,
    mailbox_id: MailboxId,
    to: MailboxId | None = None,
    *,
    uids: UidSet | None = None,
    since: datetime = EVER,
    again: bool = False,
) -> tuple[list[int], int]:
    """New UIDs, and how many were skipped."""
    steps = [
        step
        async for step in store.undelete.restore(
            account_id, mailbox_id, to or mailbox_id, uids=uids, since=since, again=again
        )
    ]
    return [uid for step in steps for uid in step.uids], sum(step.skipped for step in steps)


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_restored_message_is_a_new_one_with_all_that_the_old_one_had(
    store: Store, ann: AccountId, inbox: MailboxId
) -> None:
    await put(store, ann, inbox, 1, 2, 3, flags=(0, 3, 17))
    await expunge(store, ann, inbox, 1, 3)
    assert await restore(store, ann, inbox) == ([4, 5], 0)
    base = 1000 * inbox
    assert await live(store, ann, inbox) == {2: base + 2, 4: base + 1, 5: base + 3}
    assert await flags_of(store, ann, inbox, 4) == {0, 17}
    row = await store.db.fetchrow("SELECT internal_date, size FROM messages WHERE mailbox_id = $1 AND uid = 4", inbox)
    assert row is not None
    assert (row["internal_date"], row["size"]) == (WHEN, 100)


async def test_sessions_hear_of_it(dsn: str, store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1)
    await expunge(store, ann, inbox, 1)
    heard: asyncio.Queue[str] = asyncio.Queue()
    conn = await asyncpg.connect(dsn)
    try:
        await conn.add_listener(f"sora_{ann % 16}", lambda *args: heard.put_nowait(str(args[-1])))
        await restore(store, ann, inbox)
        state = await store.messages.state(ann, inbox)
        assert await heard.get() == f"{ann:x}.{inbox:x}.{state.highest_modseq:x}"
    finally:
        await conn.close()


async def test_everybody_has_seen_what_they_had_seen(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    bob = await store.accounts.create("bob@example.com")
    await put(store, ann, inbox, 1, 2)
    await store.messages.store_flags(ann, inbox, UidSet.from_numbers([2]), [0], viewer_id=bob)
    await expunge(store, ann, inbox, 1, 2)
    assert await restore(store, ann, inbox) == ([3, 4], 0)
    assert (await store.messages.state(ann, inbox)).unseen_count == 2
    assert (await store.messages.state(ann, inbox, bob)).unseen_count == 1


async def test_twice_makes_no_second_copy_unless_asked(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1, 2)
    await expunge(store, ann, inbox, 1, 2)
    assert await restore(store, ann, inbox) == ([3, 4], 0)
    assert await restore(store, ann, inbox) == ([], 2)
    assert await restore(store, ann, inbox, again=True) == ([5, 6], 0)


async def test_what_was_moved_stays_where_it_is(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    trash = (await store.mailboxes.get(ann, "Trash")).mailbox_id
    await put(store, ann, inbox, 1, 2)
    await store.db.execute("SELECT * FROM move_messages($1, $2, $1, $3, '{1}', '{2}')", ann, inbox, trash)
    assert await restore(store, ann, inbox) == ([], 2)
    await expunge(store, ann, trash, 1, 2)
    assert await restore(store, ann, inbox) == ([3, 4], 0)
    assert await restore(store, ann, trash) == ([], 2)


async def test_one_message_that_went_twice_comes_once(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1, body=7)
    await put(store, ann, inbox, 5, flags=(1,), body=7)
    await expunge(store, ann, inbox, 1)
    await expunge(store, ann, inbox, 5)
    assert await restore(store, ann, inbox) == ([6], 1)
    assert await flags_of(store, ann, inbox, 6) == {1}


async def test_some_of_them(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, *range(1, 10))
    await expunge(store, ann, inbox, *range(1, 10))
    assert await restore(store, ann, inbox, uids=UidSet.parse(b"2:3,8")) == ([10, 11, 12], 0)
    base = 1000 * inbox
    assert await live(store, ann, inbox) == {10: base + 2, 11: base + 3, 12: base + 8}
    assert await restore(store, ann, inbox, uids=UidSet.parse(b"500")) == ([], 0)


async def test_what_went_lately(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1, 2)
    async with store.db.transaction() as conn:
        await conn.execute("SET LOCAL sora.clock_offset = '-2 days'")
        await conn.fetch("SELECT * FROM expunge($1, $2, '{1}', '{1}', false)", ann, inbox)
    await expunge(store, ann, inbox, 2)
    since = datetime.now(UTC) - timedelta(days=1)
    assert [m.uid async for page in store.undelete.messages(ann, since=since) for m in page] == [2]
    assert await restore(store, ann, inbox, since=since) == ([3], 0)


async def test_what_does_not_fit_stays_away(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1, 2, 3)
    await expunge(store, ann, inbox, 1, 2)
    await store.accounts.set_quota(ann, quota_bytes=250, quota_messages=None)
    with pytest.raises(OverQuota):
        await restore(store, ann, inbox)
    assert list(await live(store, ann, inbox)) == [3]
    assert await restore(store, ann, inbox, uids=UidSet.parse(b"1")) == ([4], 0)


async def test_purged_ones_are_gone(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1, 2, 3)
    await expunge(store, ann, inbox, 1, 2, 3)
    await store.db.execute("SELECT trim_expunges($1, $2, now() + interval '1 d', 2)", ann, inbox)
    assert [m.uid async for page in store.undelete.messages(ann) for m in page] == [3]
    assert await restore(store, ann, inbox) == ([4], 0)
    assert await live(store, ann, inbox) == {4: 1000 * inbox + 3}


async def test_many_come_in_steps(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, *range(1, 2501))
    await expunge(store, ann, inbox, *range(1, 2501))
    pages = [len(page) async for page in store.undelete.messages(ann)]
    assert pages == [1000, 1000, 500]
    steps = [len(step.uids) async for step in store.undelete.restore(ann, inbox, inbox)]
    assert steps == [1000, 1000, 500]
    assert list(await live(store, ann, inbox)) == list(range(2501, 5001))


# ── mailboxes ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_messages_of_a_deleted_mailbox_are_listed_with_it(store: Store, ann: AccountId) -> None:
    box = await store.mailboxes.create(ann, "Work")
    await put(store, ann, box.mailbox_id, 1, 2)
    await expunge(store, ann, box.mailbox_id, 1)
    await store.mailboxes.delete(ann, "Work")
    found = [m async for page in store.undelete.messages(ann, "Work") for m in page]
    assert [(m.name, m.uid, m.kept, m.subject, m.sender) for m in found] == [
        ("Work", 1, False, "Subject 1", "eve@example.net"),
        ("Work", 2, False, "Subject 2", "eve@example.net"),
    ]
    assert [m async for page in store.undelete.messages(ann, "INBOX") for m in page] == []


async def test_a_mailbox_comes_back_as_it_was(store: Store, ann: AccountId) -> None:
    box = await store.mailboxes.create(ann, "Work/Plans", special_use="\\Important")
    await put(store, ann, box.mailbox_id, 1, 2, flags=(1,))
    await store.mailboxes.delete(ann, "Work/Plans")
    await store.mailboxes.delete(ann, "Work")
    names = {box.name for box in await store.mailboxes.list(ann)}
    (gone, _) = reversed(await store.undelete.mailboxes(ann))
    assert (gone.name, gone.message_count, gone.total_size) == ("Work/Plans", 2, 200)
    back = await store.undelete.restore_mailbox(ann, gone.mailbox_id)
    assert (back.mailbox_id, back.name, back.uidvalidity, back.message_count) == (
        box.mailbox_id, "Work/Plans", box.uidvalidity, 2,
    )  # fmt: skip
    assert (await store.mailboxes.get(ann, "Work/Plans")).special_use == "\\Important"
    assert not (await store.mailboxes.get(ann, "Work")).noselect
    assert {box.name for box in await store.mailboxes.list(ann)} == names | {"Work", "Work/Plans"}
    assert list(await live(store, ann, box.mailbox_id)) == [1, 2]
    assert await flags_of(store, ann, box.mailbox_id, 2) == {1}
    assert [change.kind for change in await store.trees.changes({ann: (await store.trees.seq(ann)) - 1})] == ["restore"]
    with pytest.raises(NotFound):
        await store.undelete.restore_mailbox(ann, gone.mailbox_id)


async def test_a_name_that_is_taken(store: Store, ann: AccountId) -> None:
    old = await store.mailboxes.create(ann, "Work", special_use="\\Important")
    await store.mailboxes.delete(ann, "Work")
    await store.mailboxes.create(ann, "Work", special_use="\\Important")
    with pytest.raises(AlreadyExists):
        await store.undelete.restore_mailbox(ann, old.mailbox_id)
    assert (await store.undelete.restore_mailbox(ann, old.mailbox_id, "Old work")).name == "Old work"
    assert (await store.mailboxes.get(ann, "Old work")).special_use is None
    assert await store.undelete.mailboxes(ann) == []


async def test_what_deletion_left_makes_room(store: Store, ann: AccountId) -> None:
    box = await store.mailboxes.create(ann, "Work")
    await store.mailboxes.create(ann, "Work/Plans")
    await store.mailboxes.delete(ann, "Work")
    assert (await store.mailboxes.get(ann, "Work")).noselect
    await store.undelete.restore_mailbox(ann, box.mailbox_id)
    there = await store.mailboxes.get(ann, "Work")
    assert (there.mailbox_id, there.noselect) == (box.mailbox_id, False)


async def test_a_mailbox_that_does_not_fit(store: Store, ann: AccountId) -> None:
    box = await store.mailboxes.create(ann, "Work")
    await put(store, ann, box.mailbox_id, 1, 2)
    await store.mailboxes.delete(ann, "Work")
    count = len([box for box in await store.mailboxes.list(ann) if box.exists])
    await store.accounts.set_quota(ann, quota_bytes=199, quota_messages=None)
    with pytest.raises(OverQuota):
        await store.undelete.restore_mailbox(ann, box.mailbox_id)
    await store.accounts.set_quota(ann, quota_bytes=200, quota_messages=None, quota_mailboxes=count)
    with pytest.raises(OverQuota):
        await store.undelete.restore_mailbox(ann, box.mailbox_id)
    await store.accounts.set_quota(ann, quota_bytes=200, quota_messages=None, quota_mailboxes=count + 1)
    assert (await store.undelete.restore_mailbox(ann, box.mailbox_id)).message_count == 2


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ctx(store: Store) -> AdminContext:
    context = AdminContext.__new__(AdminContext)
    context.store = store
    return context


async def test_restore_makes_the_mailbox_again(ctx: AdminContext, store: Store, ann: AccountId) -> None:
    """Two mailboxes had the name; both gave something."""
    for uid in (1, 2):
        box = await store.mailboxes.create(ann, "Work")
        await put(store, ann, box.mailbox_id, uid)
        await store.mailboxes.delete(ann, "Work")
    answer = await undelete.restore_messages(ctx, undelete.Restore("ann@example.com", "Work"))
    assert (answer.mailbox, answer.restored, answer.skipped) == ("Work", 2, 0)
    assert (await store.mailboxes.get(ann, "Work")).mailbox_id != box.mailbox_id
    again = await undelete.restore_messages(ctx, undelete.Restore("ann@example.com", "Work"))
    assert (again.restored, again.skipped) == (0, 2)


async def test_restore_into_another_mailbox(ctx: AdminContext, store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await put(store, ann, inbox, 1, 2, 3)
    await expunge(store, ann, inbox, 1, 2, 3)
    request = undelete.Restore("ann@example.com", "INBOX", uids="2:*", into="Found again")
    assert (await undelete.restore_messages(ctx, request)).restored == 2
    there = await store.mailboxes.get(ann, "Found again")
    assert list(await live(store, ann, there.mailbox_id)) == [1, 2]


async def test_a_full_account_is_told_how_far_it_came(
    ctx: AdminContext, store: Store, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that fit are kept, the one that does not leaves nothing, and it goes on from there."""
    monkeypatch.setattr("sora.store.undelete.PAGE", 3)
    await put(store, ann, inbox, *range(1, 9))
    await expunge(store, ann, inbox, *range(1, 9))
    await store.accounts.set_quota(ann, quota_bytes=500, quota_messages=None)
    with pytest.raises(OverQuota, match="3 messages are back"):
        await undelete.restore_messages(ctx, undelete.Restore("ann@example.com", "INBOX"))
    assert list(await live(store, ann, inbox)) == [9, 10, 11]
    await store.accounts.set_quota(ann, quota_bytes=800, quota_messages=None)
    answer = await undelete.restore_messages(ctx, undelete.Restore("ann@example.com", "INBOX"))
    assert (answer.restored, answer.skipped) == (5, 3)
    assert len(await live(store, ann, inbox)) == 8


async def test_what_is_not_deleted_is_not_restored(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    """Nor what a shadow shows: UIDs that somebody else has brought back meanwhile, or that were never expunged."""
    await put(store, ann, inbox, 1, 2)
    await expunge(store, ann, inbox, 2)
    ask = "SELECT * FROM restore_messages($1, $2, $2, '{1,2,7}', true)"
    row = await store.db.fetchrow(ask, ann, inbox)
    assert row is not None
    assert (row["source_uids"], row["target_uids"], row["skipped"]) == ([2], [3], 0)


@pytest.mark.parametrize(
    "fields", [{"uids": "x"}, {"uids": "0"}, {"uids": "$"}, {"since": "soon"}, {"into": "a//b"}, {"mailbox": "a//b"}]
)
async def test_bad_words(ctx: AdminContext, ann: AccountId, fields: dict[str, str]) -> None:
    with pytest.raises(InvalidName):
        await undelete.restore_messages(
            ctx, undelete.Restore(**{"address": "ann@example.com", "mailbox": "INBOX", **fields})
        )


async def test_who_never_was(ctx: AdminContext, ann: AccountId) -> None:
    with pytest.raises(NotFound, match="Nowhere"):
        await undelete.restore_messages(ctx, undelete.Restore("ann@example.com", "Nowhere"))
    with pytest.raises(NotFound, match="Nowhere"):
        await undelete.restore_mailbox(ctx, undelete.RestoreMailbox("ann@example.com", "Nowhere"))


async def test_lists_and_the_mailbox_verb(ctx: AdminContext, store: Store, ann: AccountId, inbox: MailboxId) -> None:
    box = await store.mailboxes.create(ann, "Work")
    await put(store, ann, box.mailbox_id, 1)
    await put(store, ann, inbox, 1, 2)
    await expunge(store, ann, inbox, 1, 2)
    await store.mailboxes.delete(ann, "Work")
    listed = await undelete.list_messages(ctx, undelete.ListDeleted("ann@example.com", limit=2))
    assert [(line.mailbox, line.uid) for line in listed] == [("INBOX", 1), ("INBOX", 2)]
    (line,) = await undelete.list_mailboxes(ctx, undelete.DeletedMailboxes("ann@example.com"))
    assert (line.name, line.messages, line.id) == ("Work", 1, box.mailbox_id)
    with pytest.raises(NotFound):
        await undelete.restore_mailbox(ctx, undelete.RestoreMailbox("ann@example.com", "Work", id=line.id + 1))
    answer = await undelete.restore_mailbox(ctx, undelete.RestoreMailbox("ann@example.com", "Work", to="Play"))
    assert (answer.mailbox, answer.restored) == ("Play", 1)


async def test_pages_of_the_list(ctx: AdminContext, store: Store, ann: AccountId, inbox: MailboxId) -> None:
    """What `--after` goes on with is what one long list holds, each line once, wherever a page ends."""
    box = (await store.mailboxes.create(ann, "Work")).mailbox_id
    for mailbox_id in (inbox, box):
        await put(store, ann, mailbox_id, *range(1, 6))
        await expunge(store, ann, mailbox_id, *range(1, 6))
    whole = await undelete.list_messages(ctx, undelete.ListDeleted("ann@example.com"))
    assert len(whole) == 10
    for limit in (1, 3, 5, 9):
        found: list[undelete.DeletedMessage] = []
        while page := await undelete.list_messages(
            ctx, undelete.ListDeleted("ann@example.com", limit=limit, after=found[-1].place if found else "")
        ):
            assert len(page) <= limit
            found += page
        assert found == whole
    for wrong in ("1", "x.y", "1.2.3", "-1.2"):
        with pytest.raises(InvalidName):
            await undelete.list_messages(ctx, undelete.ListDeleted("ann@example.com", after=wrong))


async def test_a_mailbox_that_is_made_again_has_its_use(ctx: AdminContext, store: Store, ann: AccountId) -> None:
    """Unless another one has it by then."""
    for name in ("A/B/Starred", "Other"):
        box = await store.mailboxes.create(ann, name, special_use="\\Flagged")
        await put(store, ann, box.mailbox_id, 1)
        await store.mailboxes.delete(ann, name)
    await undelete.restore_messages(ctx, undelete.Restore("ann@example.com", "A/B/Starred"))
    assert (await store.mailboxes.get(ann, "A/B/Starred")).special_use == "\\Flagged"
    await undelete.restore_messages(ctx, undelete.Restore("ann@example.com", "Other"))
    assert (await store.mailboxes.get(ann, "Other")).special_use is None


async def test_who_knew_a_mailbox_that_comes_back_half_purged_is_told_what_is_left(
    store: Store, ann: AccountId
) -> None:
    box = await store.mailboxes.create(ann, "Work")
    await put(store, ann, box.mailbox_id, 1, 2, 3)
    known = (await store.messages.state(ann, box.mailbox_id)).highest_modseq
    await store.mailboxes.delete(ann, "Work")
    assert await store.db.fetchval("SELECT purge_mailbox($1, $2, '-1 s', 2)", ann, box.mailbox_id) == 2
    assert (await store.undelete.restore_mailbox(ann, box.mailbox_id)).message_count == 1
    assert list(await live(store, ann, box.mailbox_id)) == [3]
    assert (await store.messages.state(ann, box.mailbox_id)).highest_modseq > known
    assert not (await store.messages.expunged_since(ann, box.mailbox_id, known)).complete


async def test_a_purged_mailbox_and_those_of_accounts_that_are_deleted(store: Store, ann: AccountId) -> None:
    """An account comes back with its mailboxes, shadows included; what was purged does not."""
    work, gone = [(await store.mailboxes.create(ann, name)).mailbox_id for name in ("Work", "Gone")]
    await put(store, ann, work, 1, 2)
    await expunge(store, ann, work, 1)
    for name in ("Work", "Gone"):
        await store.mailboxes.delete(ann, name)
    while await store.db.fetchval("SELECT purge_mailbox($1, $2, '-1 s')", ann, gone):
        pass
    with pytest.raises(NotFound):
        await store.undelete.restore_mailbox(ann, gone)
    await store.undelete.refresh(ann, "Work", "Deleted/Work", timedelta(days=14))
    await store.accounts.delete(ann)
    with pytest.raises(NotFound):
        await store.undelete.restore_mailbox(ann, work)
    await store.undelete.refresh(ann, "Work", "Deleted/Work", timedelta(days=14))
    await store.accounts.restore(ann)
    assert (await store.undelete.restore_mailbox(ann, work)).message_count == 1
    shadow = await store.mailboxes.get(ann, "Deleted/Work")
    assert len(await live(store, ann, shadow.mailbox_id)) == 2
    await store.undelete.refresh(ann, "Work", "Deleted/Work", timedelta(days=14))
    assert len(await live(store, ann, shadow.mailbox_id)) == 1
    await store.accounts.delete(ann)
    for _ in range(30):
        await store.db.execute("SELECT purge_account($1, '-1 s')", ann)
        for row in await store.db.fetch("SELECT * FROM select_deleted_mailboxes('-1 s')"):
            await store.db.execute("SELECT purge_mailbox($1, $2, '-1 s')", ann, row["mailbox_id"])
        await store.db.execute("DELETE FROM message_contents WHERE account_id = $1", ann)
    for table in ("accounts", "mailboxes", "messages", "deleted_messages", "shadow_marks"):
        assert await store.db.fetchval(f"SELECT count(*) FROM {table} WHERE account_id = $1", ann) == 0


async def test_a_held_account_has_back_what_is_past_its_grace(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    """The cleanup takes nothing of it; once it is let go, the cleanup does."""
    work = (await store.mailboxes.create(ann, "Work")).mailbox_id
    for mailbox_id in (inbox, work):
        await put(store, ann, mailbox_id, 1, 2)
    async with store.db.transaction() as conn:
        await conn.execute("SET LOCAL sora.clock_offset = '-90 days'")
        await conn.fetch("SELECT * FROM expunge($1, $2, '{1}', '{2}', false)", ann, inbox)
        await conn.fetch("SELECT delete_mailbox($1, 'Work')", ann)
    await store.db.execute("SELECT set_legal_hold($1, true, 'suit', 'me')", ann)
    assert await store.db.fetchval("SELECT trim_expunges($1, $2, 'infinity')", ann, inbox) == 0
    assert await store.db.fetchval("SELECT purge_mailbox($1, $2, '14 days')", ann, work) == 0
    assert len([m async for page in store.undelete.messages(ann) for m in page]) == 4
    assert (await restore(store, ann, inbox, uids=UidSet.parse(b"1")))[0] == [3]
    await store.db.execute("SELECT set_legal_hold($1, false, '', 'me')", ann)
    assert await store.db.fetchval("SELECT trim_expunges($1, $2, 'infinity')", ann, inbox) == 2
    assert list(await live(store, ann, inbox)) == [3]
    assert (await store.undelete.restore_mailbox(ann, work)).message_count == 2
