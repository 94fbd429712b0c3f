"""Deliveries, rows, flags, expunge, copy and move on a real database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sora._native.seqset import UidSet
from sora._native.viewcols import Snapshot
from sora.errors import DatabaseDown, InUse, NotFound, OverQuota
from sora.store import deliveries as store_deliveries
from sora.store import messages as store_messages
from sora.store.db import Database
from sora.store.leases import Lease, maildrop
from sora.store.messages import Messages, _slices
from sora.types import ANSWERED, DELETED, FLAGGED, SEEN, AccountId, MailboxId
from tests.support.letters import NODE, WHEN, letter, new_message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sora.store.deliveries import NewMessage
    from sora.store.messages import FlagChange
    from sora.store.store import Store

GONE = MailboxId(999_999)


@pytest.fixture
async def sent(store: Store, ann: AccountId) -> MailboxId:
    return (await store.mailboxes.get(ann, "Sent")).mailbox_id


async def fill(store: Store, account_id: AccountId, count: int, mailbox_id: MailboxId | None = None) -> None:
    await store.messages.deliver([new_message(account_id, None, mailbox_id) for _ in range(count)], NODE)


async def view(store: Store, account_id: AccountId, mailbox_id: MailboxId) -> Snapshot:
    state = await store.messages.state(account_id, mailbox_id)
    snapshot = Snapshot.load(state.state, state.uid_next, state.highest_modseq)
    assert len(snapshot) == state.message_count
    return snapshot


async def flags(store: Store, account_id: AccountId, mailbox_id: MailboxId) -> dict[int, tuple[int, ...]]:
    snapshot = await view(store, account_id, mailbox_id)
    return {uid: snapshot.flags(uid) for uid in snapshot.all_uids()}


async def assert_sound(store: Store) -> None:
    """No cache of any mailbox disagrees with its messages."""
    wrong = await store.db.fetch("SELECT m.name, c.* FROM mailboxes m, check_mailbox(m.account_id, m.mailbox_id) c")
    assert wrong == []


def uids(*numbers: int) -> UidSet:
    return UidSet.from_numbers(numbers)


def masked(change: FlagChange, which: int) -> list[int]:
    """UIDs in one of the masks of a flag change."""
    found = []
    for block in change.blocks:
        mask = block[which]
        assert isinstance(mask, bytes)
        assert len(mask) == 128
        found += [block[0] * 1024 + bit for bit in range(1024) if mask[bit // 8] >> (7 - bit % 8) & 1]
    return sorted(found)


# ── state ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_state_of_an_empty_and_of_a_missing_mailbox(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    state = await store.messages.state(ann, inbox)
    assert (state.uid_next, state.message_count, state.unseen_count, state.state) == (1, 0, 0, None)
    assert state.uidvalidity == (await store.mailboxes.get(ann, "INBOX")).uidvalidity
    for account_id, mailbox_id in ((ann, GONE), (AccountId(9999), inbox)):
        with pytest.raises(NotFound):
            await store.messages.state(account_id, mailbox_id)
        with pytest.raises(NotFound):
            await store.messages.delta(account_id, mailbox_id, 1)


async def test_a_deleted_mailbox_is_gone_for_every_call(store: Store, ann: AccountId) -> None:
    work = (await store.mailboxes.create(ann, "Work")).mailbox_id
    inbox = (await store.mailboxes.get(ann, "INBOX")).mailbox_id
    await fill(store, ann, 1, work)
    await fill(store, ann, 1)
    await store.mailboxes.delete(ann, "Work")
    for call in (
        store.messages.state(ann, work),
        store.messages.delta(ann, work, 0),
        store.messages.store_flags(ann, work, uids(1), [SEEN]),
        store.messages.expunge(ann, work),
        store.messages.copy(ann, work, uids(1), inbox),
        store.messages.copy(ann, inbox, uids(1), work),
        store.messages.move(ann, inbox, uids(1), work),
        store.messages.deliver([new_message(ann, None, work)], NODE),
    ):
        with pytest.raises(NotFound):
            await call
    await assert_sound(store)


async def test_delta_leads_to_the_same_picture(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await fill(store, ann, 20)
    before = await view(store, ann, inbox)
    nothing = await store.messages.delta(ann, inbox, before.highest_modseq)
    assert (nothing.state, nothing.highest_modseq) == (None, before.highest_modseq)
    await store.messages.store_flags(ann, inbox, uids(3, 4), [SEEN, DELETED])
    await store.messages.expunge(ann, inbox, uids(4))
    await fill(store, ann, 2)
    delta = await store.messages.delta(ann, inbox, before.highest_modseq)
    after = before.apply(delta.state, delta.uid_next, delta.highest_modseq)
    fresh = await view(store, ann, inbox)
    assert list(after.all_uids()) == list(fresh.all_uids()) == [*range(1, 4), *range(5, 23)]
    assert after.flags(3) == fresh.flags(3) == (SEEN, DELETED)
    assert (after.uid_next, after.highest_modseq) == (fresh.uid_next, fresh.highest_modseq)


# ── delivery ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_batch_for_several_mailboxes_and_accounts(
    store: Store, ann: AccountId, inbox: MailboxId, sent: MailboxId
) -> None:
    bob = await store.accounts.create("bob@example.com")
    keyword = (await store.mailboxes.register_keywords(ann, ["$Work"]))["$Work"]
    data = letter("shared")
    batch = [
        new_message(ann, data),
        new_message(ann, None, sent, flags=(SEEN, keyword)),
        new_message(bob, data),
        new_message(ann, data, sent),
        new_message(ann, None, inbox),
    ]
    done = await store.messages.deliver(batch, NODE)
    bobs = (await store.mailboxes.get(bob, "INBOX")).mailbox_id
    assert [(d.account_id, d.mailbox_id, d.uid) for d in done] == [
        (ann, inbox, 1), (ann, sent, 1), (bob, bobs, 1), (ann, sent, 2), (ann, inbox, 2),
    ]  # fmt: skip
    assert done[0].content_id == done[3].content_id != done[2].content_id
    assert not any(d.duplicate for d in done)
    assert {d.uidvalidity for d in done if d.mailbox_id == sent} == {
        (await store.mailboxes.get(ann, "Sent")).uidvalidity
    }
    assert (await store.messages.state(ann, sent)).highest_modseq == done[1].modseq == done[3].modseq
    assert await flags(store, ann, sent) == {1: (SEEN, keyword), 2: ()}
    uploads = await store.db.fetch("SELECT account_id, content_hash, instance_id, size FROM pending_uploads")
    assert {(r["account_id"], r["content_hash"]) for r in uploads} == {(m.account_id, m.content_hash) for m in batch}
    assert {r["instance_id"] for r in uploads} == {NODE}
    await assert_sound(store)


async def test_every_fact_of_a_message_comes_back(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    data = letter("Re: Käse", "Grüße", headers="Cc: cc@x.org\r\nReferences: <a@x> <b@x>\r\nIn-Reply-To: <b@x>\r\n")
    message = new_message(ann, data)
    [done] = await store.messages.deliver([message], NODE)
    columns = [
        "size", "internal_date", "content_id", "content_hash", "envelope", "body_structure", "sent_at", "message_id",
        "in_reply_to", "reference_ids", "subject", "base_subject", "sender", "recipients", "cc", "preview",
        "display_from", "display_to", "header", "created_modseq", "expunged_at",
    ]  # fmt: skip
    [[row]] = [rows async for rows in store.messages.rows(ann, inbox, uids(1), columns)]
    assert list(row.keys()) == ["uid", *columns]
    facts = message.digest
    assert dict(row) == {
        "uid": 1, "size": len(data), "internal_date": WHEN, "content_id": done.content_id,
        "content_hash": message.content_hash, "envelope": facts.envelope, "body_structure": facts.body_structure,
        "sent_at": facts.sent_at, "message_id": facts.message_id, "in_reply_to": "<b@x>",
        "reference_ids": "<a@x> <b@x>", "subject": "Re: Käse", "base_subject": facts.base_subject,
        "sender": facts.sender, "recipients": facts.to, "cc": facts.cc, "preview": facts.preview,
        "display_from": facts.display_from, "display_to": facts.display_to,
        "header": data[: data.index(b"\r\n\r\n") + 4],
        "created_modseq": done.modseq, "expunged_at": None,
    }  # fmt: skip
    assert facts.sent_at is not None


async def test_a_batch_is_all_or_none(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    with pytest.raises(NotFound):
        await store.messages.deliver([new_message(ann), new_message(ann, None, GONE)], NODE)
    with pytest.raises(NotFound):
        await store.messages.deliver([new_message(ann), new_message(AccountId(9999))], NODE)
    bob = await store.accounts.create("bob@example.com", quota_messages=1)
    with pytest.raises(OverQuota):
        await store.messages.deliver([new_message(ann), new_message(bob), new_message(bob)], NODE)
    assert (await store.messages.state(ann, inbox)).message_count == 0
    assert await store.db.fetchval("SELECT count(*) FROM message_contents") == 0
    await store.messages.deliver([new_message(bob)], NODE)
    with pytest.raises(OverQuota):
        await store.messages.deliver([new_message(bob)], NODE)


async def test_a_retry_of_a_delivery_is_suppressed(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    message = new_message(ann, key=b"k" * 32)
    [first] = await store.messages.deliver([message], NODE)
    [again] = await store.messages.deliver([message], NODE)
    assert (again.uid, again.content_id, again.duplicate) == (first.uid, first.content_id, True)
    twice = await store.messages.deliver([replace(message, key=b"j" * 32)] * 2, NODE)
    assert [(d.uid, d.duplicate) for d in twice] == [(2, False), (2, True)]
    assert (await store.messages.state(ann, inbox)).message_count == 2


async def test_an_append_is_never_suppressed(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    message = new_message(ann, None, inbox, append=True)
    other = new_message(ann, None, inbox, append=True)
    same_bytes = replace(message, append_id=other.append_id)
    done = await store.messages.deliver([message, same_bytes], NODE)
    assert [(d.uid, d.duplicate) for d in done] == [(1, False), (2, False)]


@pytest.mark.parametrize("path", ["lmtp", "append"])
async def test_witnesses_tell_what_is_there(store: Store, ann: AccountId, inbox: MailboxId, path: str) -> None:
    bob = await store.accounts.create("bob@example.com")
    sent = (await store.mailboxes.get(ann, "Sent")).mailbox_id

    def message(account_id: AccountId, mailbox_id: MailboxId | None, key: bytes) -> NewMessage:
        return new_message(account_id, None, mailbox_id, key=key if path == "lmtp" else None, append=path == "append")

    stored = [message(ann, None, b"1"), message(ann, sent, b"2"), message(bob, None, b"3"), message(ann, sent, b"4")]
    done = await store.messages.deliver(stored, NODE)
    missing = [message(ann, sent, b"5"), message(bob, None, b"6")]
    asked = [missing[0], stored[2], stored[0], missing[1], stored[3], stored[1]]
    assert await store.messages.find_witnesses(asked) == [None, done[2], done[0], None, done[3], done[1]]
    assert await store.messages.find_witnesses(missing) == [None, None]
    assert await store.messages.find_witnesses([]) == []


async def test_a_witness_waits_for_a_commit_under_way(store: Store, ann: AccountId, dsn: str) -> None:
    message = new_message(ann, key=b"k" * 32)
    other = await Database.open(dsn, max_size=2)
    async with store.db.transaction() as conn:
        arguments = store_deliveries.arguments_of([message], NODE, patient=True)
        await conn.fetch(store_deliveries.DELIVER, *arguments)
        waiting = asyncio.create_task(Messages(other).find_witnesses([message]))
        while not await conn.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            assert not waiting.done()
    [found] = await waiting
    assert found is not None
    assert found.uid == 1
    await other.close()


async def test_a_lost_connection_says_that_it_may_be_done(store: Store, ann: AccountId) -> None:
    await store.db.execute(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
    )
    await store.db.execute("CREATE TRIGGER cut AFTER INSERT ON messages EXECUTE FUNCTION cut()")
    message = new_message(ann, key=b"k" * 32)
    with pytest.raises(DatabaseDown) as failure:
        await store.messages.deliver([message], NODE)
    assert failure.value.maybe_done
    assert await store.messages.find_witnesses([message]) == [None]


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def all_rows(store: Store, ann: AccountId, inbox: MailboxId, wanted: UidSet, columns: Iterable[str]) -> list[int]:
    return [row["uid"] async for rows in store.messages.rows(ann, inbox, wanted, list(columns)) for row in rows]


async def test_rows_come_in_order_in_chunks(
    store: Store, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_messages, "CHUNK_ROWS", 4)
    monkeypatch.setattr(store_messages, "NARROW_ROWS", 8)
    await fill(store, ann, 11)
    wanted = UidSet.from_ranges([(1, 6), (8, 8), (10, 4294967295)])
    chunks = [
        [row["uid"] for row in rows]
        async for rows in store.messages.rows(ann, inbox, UidSet.from_ranges([(1, 6), (8, 12)]), ["envelope"])
    ]
    assert chunks == [[1, 2, 3, 4], [5, 6, 8, 9], [10, 11]]
    narrow = [len(rows) async for rows in store.messages.rows(ann, inbox, uids(*range(1, 12)), ["uid", "size"])]
    assert narrow == [8, 3]
    assert await all_rows(store, ann, inbox, wanted & uids(*range(1, 13)), ["size"]) == [1, 2, 3, 4, 5, 6, 8, 10, 11]
    assert await all_rows(store, ann, inbox, UidSet.empty(), ["size"]) == []


async def test_rows_of_expunged_messages_are_still_there(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await fill(store, ann, 3)
    await store.messages.expunge(ann, inbox, uids(2), only_deleted=False)
    assert await all_rows(store, ann, inbox, uids(1, 2, 3), ["envelope"]) == [1, 2, 3]


async def test_rows_of_another_account_are_not(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    bob = await store.accounts.create("bob@example.com")
    await fill(store, ann, 1)
    assert await all_rows(store, bob, inbox, uids(1), ["size"]) == []


async def test_an_unknown_column_is_a_bug(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    with pytest.raises(ValueError, match="hash; DROP"):
        await all_rows(store, ann, inbox, uids(1), ["hash; DROP"])


async def test_a_reader_that_stops_early_leaves_nothing_running(
    store: Store, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_messages, "CHUNK_ROWS", 1)
    monkeypatch.setattr(store_messages, "NARROW_ROWS", 1)
    await fill(store, ann, 5)
    before = asyncio.all_tasks()
    reader = store.messages.rows(ann, inbox, uids(1, 2, 3, 4, 5), ["size"])
    assert len(await anext(reader)) == 1
    await reader.aclose()
    await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)
    assert await all_rows(store, ann, inbox, uids(1, 2), ["size"]) == [1, 2]


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 12)), max_size=8), st.integers(1, 9))
def test_slices_cut_a_set_without_losing_a_number(ranges: list[tuple[int, int]], size: int) -> None:
    wanted = UidSet.from_ranges([(low, low + more) for low, more in ranges])
    parts = [UidSet.from_ranges(zip(*part, strict=True)) for part in _slices(wanted, size)]
    assert [len(part) for part in parts[:-1]] == [size] * max(0, len(parts) - 1)
    assert [uid for part in parts for uid in part] == list(wanted)


async def test_list_messages_pages_live_ones(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await fill(store, ann, 5)
    await store.messages.expunge(ann, inbox, uids(2), only_deleted=False)
    rows = await store.messages.list_messages(ann, inbox, after=1, limit=2)
    assert [row["uid"] for row in rows] == [3, 4]
    assert rows[0]["sender"] == "Ann <ann@example.com>"
    assert rows[0]["uploaded_at"] is None


# ── flags ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_store_flags_sets_clears_and_replaces(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await fill(store, ann, 4)
    start = (await store.messages.state(ann, inbox)).highest_modseq
    first = await store.messages.store_flags(ann, inbox, uids(1, 2, 9), [SEEN, FLAGGED])
    assert first.modseq == start + 1
    assert (masked(first, 1), masked(first, 2), masked(first, 3)) == ([1, 2], [1, 2], [])
    same = await store.messages.store_flags(ann, inbox, uids(1, 2, 3), [SEEN])
    assert (same.modseq, masked(same, 1), masked(same, 2)) == (start + 2, [1, 2, 3], [3])
    nothing = await store.messages.store_flags(ann, inbox, uids(1), [SEEN])
    assert (nothing.modseq, masked(nothing, 2)) == (start + 2, [])
    await store.messages.store_flags(ann, inbox, uids(1), [], [SEEN])
    await store.messages.store_flags(ann, inbox, uids(2, 4), [ANSWERED], replace=True)
    assert await flags(store, ann, inbox) == {1: (FLAGGED,), 2: (ANSWERED,), 3: (SEEN,), 4: (ANSWERED,)}
    absent = await store.messages.store_flags(ann, inbox, uids(77), [SEEN])
    assert absent.blocks == []
    await assert_sound(store)


async def test_unchanged_since(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await fill(store, ann, 3)
    start = (await store.messages.state(ann, inbox)).highest_modseq
    await store.messages.store_flags(ann, inbox, uids(2), [FLAGGED])
    change = await store.messages.store_flags(ann, inbox, uids(1, 2, 3), [SEEN], unchanged_since=start)
    assert (masked(change, 1), masked(change, 3)) == ([1, 3], [2])
    never = await store.messages.store_flags(ann, inbox, uids(1), [DELETED], unchanged_since=0)
    assert (masked(never, 1), masked(never, 3)) == ([], [1])
    assert await flags(store, ann, inbox) == {1: (SEEN,), 2: (FLAGGED,), 3: (SEEN,)}


# ── expunge, copy, move ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_expunge(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await fill(store, ann, 6)
    start = (await store.messages.state(ann, inbox)).highest_modseq
    nothing = await store.messages.expunge(ann, inbox)
    assert (nothing.modseq, nothing.uids) == (start, [])
    await store.messages.store_flags(ann, inbox, uids(1, 2, 5), [DELETED])
    some = await store.messages.expunge(ann, inbox, uids(2, 3))
    assert (some.modseq, some.uids) == (start + 2, [2])
    rest = await store.messages.expunge(ann, inbox)
    assert (rest.modseq, rest.uids) == (start + 3, [1, 5])
    forced = await store.messages.expunge(ann, inbox, uids(3), only_deleted=False)
    assert forced.uids == [3]
    assert list(await flags(store, ann, inbox)) == [4, 6]
    await assert_sound(store)


async def test_a_large_expunge_is_cut(
    store: Store, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_messages, "MAX_EXPUNGE", 2)
    await fill(store, ann, 6)
    start = (await store.messages.state(ann, inbox)).highest_modseq
    done = await store.messages.expunge(ann, inbox, UidSet.from_ranges([(1, 5)]), only_deleted=False)
    assert (done.modseq, done.uids) == (start + 3, [1, 2, 3, 4, 5])


async def test_expunge_under_a_lease(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    await store.leases.register(NODE)
    lease = await store.leases.acquire(maildrop(ann), NODE)
    await fill(store, ann, 2)
    with pytest.raises(InUse):
        await store.messages.expunge(ann, inbox, uids(1), only_deleted=False, lease=Lease(lease.name, lease.token - 1))
    assert (await store.messages.expunge(ann, inbox, uids(1), only_deleted=False, lease=lease)).uids == [1]
    await store.leases.release(lease)
    with pytest.raises(InUse):
        await store.messages.expunge(ann, inbox, uids(2), only_deleted=False, lease=lease)
    assert list(await flags(store, ann, inbox)) == [2]


async def test_copy(store: Store, ann: AccountId, inbox: MailboxId, sent: MailboxId) -> None:
    await fill(store, ann, 3)
    await fill(store, ann, 1, sent)
    await store.messages.store_flags(ann, inbox, uids(1), [SEEN, FLAGGED])
    done = await store.messages.copy(ann, inbox, uids(1, 3, 9), sent)
    assert (done.source_uids, done.target_uids) == ([1, 3], [2, 3])
    assert done.uidvalidity == (await store.mailboxes.get(ann, "Sent")).uidvalidity
    assert done.target_modseq == (await store.messages.state(ann, sent)).highest_modseq
    assert await flags(store, ann, sent) == {1: (), 2: (SEEN, FLAGGED), 3: ()}
    assert list(await flags(store, ann, inbox)) == [1, 2, 3]
    into_itself = await store.messages.copy(ann, inbox, uids(1), inbox)
    assert (into_itself.source_uids, into_itself.target_uids) == ([1], [4])
    nothing = await store.messages.copy(ann, inbox, uids(77), sent)
    assert (nothing.source_uids, nothing.target_uids) == ([], [])
    await assert_sound(store)


async def test_copy_over_quota_copies_nothing(store: Store, ann: AccountId, inbox: MailboxId, sent: MailboxId) -> None:
    await fill(store, ann, 2)
    await store.accounts.set_quota(ann, quota_bytes=None, quota_messages=3)
    with pytest.raises(OverQuota):
        await store.messages.copy(ann, inbox, uids(1, 2), sent)
    assert await flags(store, ann, sent) == {}
    await store.messages.move(ann, inbox, uids(1, 2), sent)
    assert len(await flags(store, ann, sent)) == 2


async def test_move(store: Store, ann: AccountId, inbox: MailboxId, sent: MailboxId) -> None:
    await fill(store, ann, 3)
    await store.messages.store_flags(ann, inbox, uids(2), [SEEN])
    done = await store.messages.move(ann, inbox, uids(2, 3), sent)
    assert (done.source_uids, done.target_uids) == ([2, 3], [1, 2])
    assert done.source_modseq == (await store.messages.state(ann, inbox)).highest_modseq
    assert done.target_modseq == (await store.messages.state(ann, sent)).highest_modseq
    assert await flags(store, ann, inbox) == {1: ()}
    assert await flags(store, ann, sent) == {1: (SEEN,), 2: ()}
    await assert_sound(store)


async def test_opposite_moves_do_not_deadlock(store: Store, ann: AccountId, inbox: MailboxId, sent: MailboxId) -> None:
    await fill(store, ann, 20)
    await fill(store, ann, 20, sent)

    async def shuttle(source: MailboxId, target: MailboxId, first: int) -> int:
        moved = 0
        for uid in range(first, 21, 2):
            moved += len((await store.messages.move(ann, source, uids(uid), target)).source_uids)
        return moved

    ways = [(inbox, sent, 1), (inbox, sent, 2), (sent, inbox, 1), (sent, inbox, 2)]
    assert sum(await asyncio.gather(*(shuttle(*way) for way in ways))) == 40
    await assert_sound(store)


def test_messages_of_one_digest_share_it() -> None:
    message = new_message(AccountId(1))
    other = new_message(AccountId(1))
    digests, numbers = store_deliveries._share([message, other, replace(message, mailbox_id=MailboxId(4))])
    assert numbers == [1, 2, 1]
    assert digests == [message.digest, other.digest]
