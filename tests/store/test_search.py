"""SEARCH on a real database: exact before and after indexing, exact about fields, honest about cut bodies."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from sora._native.seqset import UidSet
from sora.mime.text import fold
from sora.store import search as store_search
from sora.store.search import Facts, _spans
from tests.support.letters import NODE, WHEN, letter, new_message

if TYPE_CHECKING:
    from sora.store.store import Store
    from sora.types import AccountId, MailboxId

ALL = UidSet.from_ranges([(1, 100)])
LETTERS = [
    letter("Lunch on Friday", "Shall we meet at noon?"),
    letter("Invoice 4711", "The friday price is 100% final_offer."),
    letter("=?utf-8?q?K=C3=A4se?=", "Grüße aus Köln", headers="Cc: Friday Club <club@example.org>\r\nX-Empty:\r\n"),
    letter("ok", "subject: lunch"),
]


@pytest.fixture(params=["queued", "indexed", "mixed"])
async def filled(request: pytest.FixtureRequest, store: Store, ann: AccountId) -> None:
    """The letters as UIDs 1 to 4, in the queue of the indexer, in the index, or half and half."""
    for i, data in enumerate(LETTERS):
        await store.messages.deliver([new_message(ann, data)], NODE)
        if request.param == "indexed" or (request.param == "mixed" and i == 1):
            await store.db.fetchval("SELECT index_batch()")


async def text(
    store: Store, ann: AccountId, inbox: MailboxId, pattern: str, within: UidSet = ALL, **where: bool
) -> list[int]:
    hits = await store.search.text(
        ann, inbox, within, fold(pattern), headers=where.get("headers", False), body=where.get("body", False)
    )
    assert not hits.unsure
    return list(hits.sure)


TEXTS: tuple[tuple[str, list[int], list[int]], ...] = (
    # pattern, UIDs with it in their headers, in their bodies
    ("friday", [1, 3], [2]),
    ("FRIDAY", [1, 3], [2]),
    ("käse", [3], []),
    ("grüSSe", [], []),
    ("grüße", [], [3]),
    ("100%", [], [2]),
    ("l_o", [], [2]),
    ("l%o", [], []),
    ("ok", [4], []),
    ("o", [1, 2, 3, 4], [1, 2, 3]),
    ("lunch", [1], [4]),
    ("nowhere to be found", [], []),
    ("\\", [], []),
)
FIELDS: tuple[tuple[str, str, list[int]], ...] = (
    ("subject", "friday", [1]),
    ("SUBJECT", "käse", [3]),
    ("cc", "friday", [3]),
    ("from", "friday", []),
    ("to", "bob@", [1, 2, 3, 4]),
    ("x-empty", "", [3]),
    ("x-empty", "x", []),
    ("x-absent", "", []),
    ("subject", "k", [3, 4]),
    ("sub", "lunch", []),
    ("date", "2024", [1, 2, 3, 4]),
    ("subject", ": lunch", []),
    ("subject", "lunch on friday\nmessage", []),
)


@pytest.mark.usefixtures("filled")
async def test_text(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    for pattern, headers, body in TEXTS:
        assert (pattern, await text(store, ann, inbox, pattern, headers=True)) == (pattern, headers)
        assert (pattern, await text(store, ann, inbox, pattern, body=True)) == (pattern, body)
        both = await text(store, ann, inbox, pattern, headers=True, body=True)
        assert (pattern, both) == (pattern, sorted({*headers, *body}))


@pytest.mark.usefixtures("filled")
async def test_only_the_given_set_and_only_what_is_there(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    sent = (await store.mailboxes.get(ann, "Sent")).mailbox_id
    bob = await store.accounts.create("bob@example.com")
    await store.messages.deliver([new_message(ann, LETTERS[0], sent), new_message(bob, LETTERS[0])], NODE)
    within = UidSet.from_numbers([2, 3])
    for where in ({"headers": True}, {"headers": True, "body": True}):
        assert await text(store, ann, inbox, "friday", within, **where) == ([3] if len(where) == 1 else [2, 3])
    assert await text(store, ann, inbox, "friday", UidSet.empty(), headers=True) == []
    assert await text(store, ann, inbox, "", within, headers=True) == [2, 3]
    await store.messages.expunge(ann, inbox, UidSet.from_numbers([1, 2]), only_deleted=False)
    assert await text(store, ann, inbox, "friday", headers=True) == [3]
    assert await text(store, ann, inbox, "friday", headers=True, body=True) == [3]
    assert list(await store.search.header(ann, inbox, ALL, fold("subject"), "")) == [3, 4]


async def test_a_cut_body_is_unsure(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    data = letter("long", "x" * 50 + " needle")
    await store.messages.deliver(
        [new_message(ann, data, body_limit=20), new_message(ann, letter("needle", "no"))], NODE
    )
    hits = await store.search.text(ann, inbox, ALL, fold("needle"), headers=False, body=True)
    assert (list(hits.sure), list(hits.unsure)) == ([], [1])
    hits = await store.search.text(ann, inbox, ALL, fold("needle"), headers=True, body=True)
    assert (list(hits.sure), list(hits.unsure)) == ([2], [1])
    hits = await store.search.text(ann, inbox, ALL, fold("xxx"), headers=False, body=True)
    assert (list(hits.sure), list(hits.unsure)) == ([1], [])


@pytest.mark.usefixtures("filled")
async def test_header(store: Store, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch) -> None:
    for many in (0, 500):  # by the index, one by one
        monkeypatch.setattr(store_search, "MANY", many)
        for field, pattern, found in FIELDS:
            uids = await store.search.header(ann, inbox, ALL, fold(field), fold(pattern))
            assert (field, pattern, list(uids)) == (field, pattern, found)


async def test_a_field_that_comes_again(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    """Every line of the name counts, and only lines of that name."""
    headers = ("X-A: one\r\nX-B: two\r\nX-A: three\r\n", "X-B: three\r\nX-A: x-a: four\r\n", "X-AA: three\r\n")
    for text_of in headers:
        await store.messages.deliver([new_message(ann, letter("s", headers=text_of))], NODE)
    expected = {
        ("x-a", "one"): [1],
        ("x-a", "three"): [1],
        ("x-b", "three"): [2],
        ("x-a", ": four"): [2],
        ("x", "a"): [],
    }
    for indexed in (False, True):
        for (field, pattern), found in expected.items():
            for within in (ALL, UidSet.from_ranges([(1, 1000)])):  # message by message, and by the index
                uids = await store.search.header(ann, inbox, within, fold(field), fold(pattern))
                assert (field, pattern, list(uids)) == (field, pattern, found)
        if not indexed:
            await store.db.fetchval("SELECT index_batch()")


async def test_most_of_an_account_and_little_of_it_say_the_same(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    sent = (await store.mailboxes.get(ann, "Sent")).mailbox_id
    letters = [letter("needle"), letter("x", "needle"), letter("needle", "needle"), letter("x", "x")]
    await store.messages.deliver([new_message(ann, data) for data in letters], NODE)
    await store.db.fetchval("SELECT index_batch()")
    for others in (0, 40):
        await store.messages.deliver([new_message(ann, letter("needle"), sent) for _ in range(others)], NODE)
        most = await store.db.fetchval("SELECT is_most_of_account($1, $2, $3, $4)", ann, inbox, *ALL.bounds())
        assert most == (others == 0)
        assert await text(store, ann, inbox, "needle", headers=True, body=True) == [1, 2, 3]
        assert await text(store, ann, inbox, "needle", body=True) == [2, 3]
        assert await text(store, ann, inbox, "ee", headers=True, body=True) == [1, 2, 3]
        assert await text(store, ann, inbox, "ee", headers=True) == [1, 3]


async def test_facts(store: Store, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch) -> None:
    no_date = b"Subject: x\r\n\r\nx\r\n"
    done = await store.messages.deliver([new_message(ann), new_message(ann, no_date), new_message(ann)], NODE)
    found = await store.search.facts(ann, inbox, ALL)
    internal = int(WHEN.timestamp())
    assert [fact.uid for fact in found] == [1, 2, 3]
    assert found[1] == Facts(2, done[1].content_id, internal, None, found[1].saved_at, len(no_date))
    assert found[0].sent_at == internal
    assert found[0].saved_at >= internal
    monkeypatch.setattr(store_search, "FACTS_UIDS", 1)
    assert await store.search.facts(ann, inbox, UidSet.from_numbers([1, 3])) == [found[0], found[2]]
    assert await store.search.facts(ann, inbox, UidSet.empty()) == []


async def test_between(store: Store, ann: AccountId, inbox: MailboxId) -> None:
    no_date = b"Subject: x\r\n\r\nx\r\n"
    batch = [new_message(ann), new_message(ann, no_date), new_message(ann), new_message(ann)]
    batch = [structs.replace(message, internal_date=WHEN + timedelta(days=i)) for i, message in enumerate(batch)]
    await store.messages.deliver(batch, NODE)
    await store.messages.expunge(ann, inbox, UidSet.from_numbers([4]), only_deleted=False)

    async def between(column: Any, low: Any = None, high: Any = None, within: UidSet = ALL) -> list[int]:
        return list(await store.search.between(ann, inbox, within, column, low, high))

    day = timedelta(days=1)
    assert await between("internal_date", WHEN + day) == [2, 3]
    assert await between("internal_date", None, WHEN + day) == [1]
    assert await between("internal_date", WHEN, WHEN + 2 * day) == [1, 2]
    assert await between("internal_date", WHEN, WHEN + 2 * day, UidSet.from_numbers([2, 3])) == [2]
    assert await between("size", len(no_date), len(no_date) + 1) == [2]
    assert await between("size", len(no_date) + 1) == [1, 3]
    assert await between("sent_at") == [1, 3]
    assert await between("sent_at", WHEN, WHEN + day) == [1, 3]
    assert await between("sent_at", None, WHEN) == []
    assert await between("saved_at", WHEN) == [1, 2, 3]
    assert await between("saved_at", None, WHEN) == []
    assert await between("size", within=UidSet.empty()) == []


@pytest.mark.parametrize(
    ("ranges", "spans"),
    [
        ([], []),
        ([(5, 5)], [(5, 5)]),
        ([(1, 10)], [(1, 10)]),
        ([(1, 11)], [(1, 10), (11, 11)]),
        ([(3, 4), (9, 9), (13, 14)], [(3, 9), (13, 14)]),
        ([(3, 25)], [(3, 12), (13, 22), (23, 25)]),
        ([(1, 1), (1000, 1001)], [(1, 1), (1000, 1001)]),
        ([(8, 12), (17, 19)], [(8, 17), (18, 19)]),
    ],
)
def test_spans(ranges: list[tuple[int, int]], spans: list[tuple[int, int]]) -> None:
    assert list(_spans(UidSet.from_ranges(ranges), 10)) == spans
