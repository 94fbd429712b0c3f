"""The mailbox tree on a real database: RFC 3501 and 9051 §6.3, keywords, \\Recent."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from sora.errors import AlreadyExists, InvalidName, LimitExceeded, NoPermission, NotFound, OverQuota
from sora.store.mailboxes import MAX_LEVELS, canonical_name
from sora.types import AccountId, MailboxId, UidValidity

if TYPE_CHECKING:
    from sora.store.mailboxes import ListedMailbox
    from sora.store.store import Store


async def put_messages(store: Store, account_id: AccountId, mailbox_id: MailboxId, *uids: int) -> None:
    """Rows without contents: enough for what triggers count."""
    await store.db.execute(
        """
        INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size)
        SELECT $1, $2, u, u, s.highest_modseq + 1, now(), 100
        FROM unnest($3::bigint[]) u, mailbox_stats s WHERE s.account_id = $1 AND s.mailbox_id = $2
        """,
        account_id,
        mailbox_id,
        list(uids),
    )


async def names(store: Store, account_id: AccountId) -> list[str]:
    return [box.name for box in await store.mailboxes.list(account_id) if box.exists]


async def line(store: Store, account_id: AccountId, name: str) -> ListedMailbox:
    return next(box for box in await store.mailboxes.list(account_id) if box.name == name)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("inbox", "INBOX"),
        ("Inbox/Sub", "INBOX/Sub"),
        ("inboxes", "inboxes"),
        ("Work/inbox", "Work/inbox"),
        ("Work/", "Work"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("a%b*c", "a%b*c"),
        ("\u0131nbox", "\u0131nbox"),
        ("x" * 255, "x" * 255),
    ],
)
def test_canonical_name(given: str, stored: str) -> None:
    assert canonical_name(given) == stored
    assert canonical_name(stored) == stored


@pytest.mark.parametrize(
    "bad",
    [
        "", "/", "/a", "a//b", "a//", ".", "a/../b", "a\0b", "a\nb", "a\x7f", "a\x85b", "a\u2028b", "\udc80",
        "x" * 256, "é" * 128, "/".join(["a"] * (MAX_LEVELS + 1)), "/".join(["x" * 200] * 6),
    ],
)  # fmt: skip
def test_names_that_cannot_be(bad: str) -> None:
    with pytest.raises(InvalidName):
        canonical_name(bad)


def test_a_name_beyond_all_bounds_costs_nothing() -> None:
    """NFC takes a quarter of an hour for a literal full of combining marks."""
    started = time.thread_time()
    with pytest.raises(InvalidName):
        canonical_name("a" + "\u0300\u0316" * 20_000)
    assert time.thread_time() - started < 0.1


@pytest.mark.parametrize(
    "good", ["a\u0300", "ﬁ", "x" * 255, "/".join(["y" * 30] * MAX_LEVELS), "a b", "\\", '"', "Ünï/ß"]
)
async def test_the_database_agrees_about_names(store: Store, ann: AccountId, good: str) -> None:
    created = await store.mailboxes.create(ann, good)
    assert created.name == canonical_name(good)
    assert (await store.mailboxes.get(ann, good)).mailbox_id == created.mailbox_id


# ── look-ups ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_find_and_get(store: Store, ann: AccountId) -> None:
    inbox = await store.mailboxes.get(ann, "iNbOx")
    assert (inbox.name, inbox.special_use, inbox.noselect, inbox.recent_uid) == ("INBOX", None, False, 0)
    assert inbox.uidvalidity > 0
    assert (await store.mailboxes.get(ann, "Sent")).special_use == "\\Sent"
    assert await store.mailboxes.find(ann, "sent") is None
    assert await store.mailboxes.find(ann, "a\0b") is None
    with pytest.raises(NotFound):
        await store.mailboxes.get(ann, "Nowhere")


async def test_mailboxes_of_others_are_not_found(store: Store, ann: AccountId) -> None:
    bob = await store.accounts.create("bob@example.com")
    await store.mailboxes.create(bob, "Secret")
    assert await store.mailboxes.find(ann, "Secret") is None
    assert "Secret" not in await names(store, ann)


async def test_list_has_children_and_subscriptions_without_mailboxes(store: Store, ann: AccountId) -> None:
    await store.mailboxes.create(ann, "Work/2024/May")
    await store.mailboxes.create(ann, "Work-2")
    await store.mailboxes.subscribe(ann, "Gone/Sub")
    assert await names(store, ann) == [
        "Archive", "Drafts", "INBOX", "Junk", "Sent", "Trash", "Work", "Work-2", "Work/2024", "Work/2024/May",
    ]  # fmt: skip
    children = {box.name: box.has_children for box in await store.mailboxes.list(ann)}
    assert [name for name, has in children.items() if has] == ["Work", "Work/2024"]
    gone = await line(store, ann, "Gone/Sub")
    assert (gone.exists, gone.subscribed, gone.noselect, gone.status) == (False, True, True, None)


# ── create, delete, rename ───────────────────────────────────────────────────────────────────────────────────────────


async def test_create(store: Store, ann: AccountId) -> None:
    created = await store.mailboxes.create(ann, "Work/", "\\Flagged")
    assert created == await store.mailboxes.get(ann, "Work")
    assert created.special_use == "\\Flagged"
    for taken in ("Work", "inbox", "Sent"):
        with pytest.raises(AlreadyExists):
            await store.mailboxes.create(ann, taken)
    with pytest.raises(NotFound):
        await store.mailboxes.create(AccountId(999_999), "Work")


async def test_create_of_the_same_name_at_once(store: Store, ann: AccountId) -> None:
    results = await asyncio.gather(*(store.mailboxes.create(ann, "X/Y") for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(result, AlreadyExists) for result in results) == 3


async def test_the_number_of_mailboxes_is_bounded(store: Store, ann: AccountId) -> None:
    await store.db.execute("UPDATE accounts SET quota_mailboxes = 7")
    await store.mailboxes.create(ann, "seventh")
    with pytest.raises(OverQuota):
        await store.mailboxes.create(ann, "eighth")


async def test_a_recreated_mailbox_has_a_greater_uidvalidity(store: Store, ann: AccountId) -> None:
    first = await store.mailboxes.create(ann, "Work")
    assert await store.mailboxes.delete(ann, "Work") == first.mailbox_id
    second = await store.mailboxes.create(ann, "Work")
    assert second.uidvalidity > first.uidvalidity
    assert second.mailbox_id != first.mailbox_id


async def test_delete_leaves_a_name_above_children(store: Store, ann: AccountId) -> None:
    await store.mailboxes.create(ann, "Work/Sub")
    await store.mailboxes.delete(ann, "Work")
    work = await store.mailboxes.get(ann, "Work")
    assert work.noselect
    assert (await line(store, ann, "Work")).has_children
    with pytest.raises(NoPermission):
        await store.mailboxes.delete(ann, "Work")
    again = await store.mailboxes.create(ann, "Work")
    assert not (await store.mailboxes.get(ann, "Work")).noselect
    assert again.uidvalidity > 0
    await store.mailboxes.delete(ann, "Work/Sub")
    await store.mailboxes.delete(ann, "Work")
    assert await store.mailboxes.find(ann, "Work") is None


async def test_what_cannot_be_deleted(store: Store, ann: AccountId) -> None:
    with pytest.raises(NoPermission):
        await store.mailboxes.delete(ann, "inbox")
    with pytest.raises(NotFound):
        await store.mailboxes.delete(ann, "Nowhere")


async def test_a_subscription_outlives_its_mailbox(store: Store, ann: AccountId) -> None:
    await store.mailboxes.delete(ann, "Sent")
    sent = await line(store, ann, "Sent")
    assert (sent.exists, sent.subscribed) == (False, True)
    assert await store.mailboxes.unsubscribe(ann, "Sent")
    assert not await store.mailboxes.unsubscribe(ann, "Sent")
    assert "Sent" not in [box.name for box in await store.mailboxes.list(ann)]
    await store.mailboxes.subscribe(ann, "inbox")
    with pytest.raises(InvalidName):
        await store.mailboxes.subscribe(ann, "a//b")


async def test_rename_takes_the_children_along(store: Store, ann: AccountId) -> None:
    old = await store.mailboxes.create(ann, "Work/a/b")
    await store.mailboxes.create(ann, "Work-2")
    renamed = await store.mailboxes.rename(ann, "Work", "New/Place")
    assert renamed.name == "New/Place"
    listed = await names(store, ann)
    assert [n for n in listed if n.startswith(("New", "Work"))] == [
        "New", "New/Place", "New/Place/a", "New/Place/a/b", "Work-2",
    ]  # fmt: skip
    moved = await store.mailboxes.get(ann, "New/Place/a/b")
    assert (moved.mailbox_id, moved.uidvalidity) == (old.mailbox_id, old.uidvalidity)


async def test_rename_refusals(store: Store, ann: AccountId) -> None:
    await store.mailboxes.create(ann, "Work")
    with pytest.raises(NotFound):
        await store.mailboxes.rename(ann, "Nowhere", "X")
    for taken in ("Sent", "INBOX", "Work"):
        with pytest.raises(AlreadyExists):
            await store.mailboxes.rename(ann, "Work", taken)
    with pytest.raises(NoPermission):
        await store.mailboxes.rename(ann, "Work", "Work/below")
    with pytest.raises(InvalidName):
        await store.mailboxes.rename(ann, "Work", "a//b")


async def test_rename_of_inbox_moves_the_messages_only(store: Store, ann: AccountId) -> None:
    inbox = await store.mailboxes.get(ann, "INBOX")
    await store.mailboxes.create(ann, "INBOX/Sub")
    await put_messages(store, ann, inbox.mailbox_id, 1, 2, 5)
    target = await store.mailboxes.rename(ann, "inbox", "Old")
    still = await store.mailboxes.get(ann, "INBOX")
    assert still.mailbox_id == inbox.mailbox_id
    assert target.mailbox_id != inbox.mailbox_id
    counts = await store.mailboxes.status(ann, ["INBOX", "Old"])
    assert {name: found and found.messages for name, found in counts.items()} == {"INBOX": 0, "Old": 3}
    assert await store.mailboxes.find(ann, "INBOX/Sub") is not None


# ── status and recent ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_status_of_many_in_one_call(store: Store, ann: AccountId) -> None:
    inbox = await store.mailboxes.get(ann, "INBOX")
    await store.mailboxes.create(ann, "P/Q")
    await store.mailboxes.delete(ann, "P")
    await put_messages(store, ann, inbox.mailbox_id, 1, 2, 7)
    counts = await store.mailboxes.status(ann, ["inbox", "Sent", "Nowhere", "a//b", "P"])
    assert list(counts) == ["inbox", "Sent", "Nowhere", "a//b", "P"]
    found = counts["inbox"]
    assert found is not None
    assert (found.messages, found.unseen, found.deleted, found.size, found.uid_next) == (3, 3, 0, 300, 8)
    assert found.uidvalidity == inbox.uidvalidity
    assert found.highest_modseq > 1
    assert found.recent is None
    assert counts["Sent"] is not None
    assert counts["Sent"].messages == 0
    assert [counts[name] for name in ("Nowhere", "a//b", "P")] == [None] * 3
    listed = await line(store, ann, "INBOX")
    assert listed.status == found
    assert isinstance(found.uidvalidity, int)
    assert UidValidity(found.uidvalidity) == inbox.uidvalidity


@pytest.mark.parametrize("claimed", [0, 1, 1022, 1023, 1024, 1025, 2999, 3000])
async def test_recent_counts_across_blocks(store: Store, ann: AccountId, claimed: int) -> None:
    inbox = await store.mailboxes.get(ann, "INBOX")
    await put_messages(store, ann, inbox.mailbox_id, *range(1, 3001, 2))
    if claimed:
        await store.mailboxes.claim_recent(ann, inbox.mailbox_id, claimed)
    [found] = (await store.mailboxes.status(ann, ["INBOX"], recent=True)).values()
    assert found is not None
    assert found.recent == sum(uid > claimed for uid in range(1, 3001, 2))


async def test_claim_recent_moves_forward_only(store: Store, ann: AccountId) -> None:
    inbox = await store.mailboxes.get(ann, "INBOX")
    claims = [await store.mailboxes.claim_recent(ann, inbox.mailbox_id, up_to) for up_to in (5, 9, 7, 9)]
    assert claims == [0, 5, 9, 9]
    assert (await store.mailboxes.get(ann, "INBOX")).recent_uid == 9
    with pytest.raises(NotFound):
        await store.mailboxes.claim_recent(ann, MailboxId(999_999), 1)


async def test_only_one_of_many_sessions_is_the_first(store: Store, ann: AccountId) -> None:
    inbox = await store.mailboxes.get(ann, "INBOX")
    await store.mailboxes.claim_recent(ann, inbox.mailbox_id, 1)
    claims = await asyncio.gather(*(store.mailboxes.claim_recent(ann, inbox.mailbox_id, 10) for _ in range(8)))
    assert sorted(claims) == [1] + [10] * 7


# ── keywords ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_keywords_keep_their_first_spelling(store: Store, ann: AccountId) -> None:
    assert await store.mailboxes.list_keywords(ann) == {}
    assert await store.mailboxes.register_keywords(ann, ["$Junk", "Work", "WORK"]) == {"$Junk": 16, "Work": 17}
    assert await store.mailboxes.register_keywords(ann, ["work", "new"]) == {"Work": 17, "new": 18}
    assert await store.mailboxes.list_keywords(ann) == {16: "$Junk", 17: "Work", 18: "new"}
    bob = await store.accounts.create("bob@example.com")
    assert await store.mailboxes.list_keywords(bob) == {}


async def test_keywords_are_bounded(store: Store, ann: AccountId) -> None:
    await store.mailboxes.register_keywords(ann, [f"k{i}" for i in range(1000)])
    with pytest.raises(LimitExceeded):
        await store.mailboxes.register_keywords(ann, ["k0", "more"])
    assert await store.mailboxes.register_keywords(ann, ["K0"]) == {"k0": 16}
    assert len(await store.mailboxes.list_keywords(ann)) == 1000


async def test_keywords_registered_at_once_get_one_number_each(store: Store, ann: AccountId) -> None:
    results = await asyncio.gather(*(store.mailboxes.register_keywords(ann, [f"k{i % 4}"]) for i in range(12)))
    numbers = {name: number for result in results for name, number in result.items()}
    assert sorted(numbers.values()) == [16, 17, 18, 19]
    assert await store.mailboxes.list_keywords(ann) == {number: name for name, number in numbers.items()}
