"""Annotations against a model: what was set is there, for whom it was set, as deep and as long as it was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sora.errors import NotFound
from sora.store import metadata
from sora.store.metadata import INFINITY, PRIVATE, SERVER, SERVER_MAILBOX, Place, Wanted
from sora.types import MailboxId

if TYPE_CHECKING:
    from sora.store.store import Store
    from sora.types import AccountId

NAMES = st.sampled_from(
    ["/private/a", "/private/a/b", "/private/a/b/c", "/private/ab", "/shared/a", "/shared/a/b", "/shared/b"]
)
ABOVE = st.sampled_from(["/private", "/private/a", "/private/a/b", "/shared", "/shared/a", "/shared/nothing"])
VALUES = st.one_of(st.none(), st.binary(max_size=12))


class House:
    """Two accounts and a mailbox of the first one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.accounts: list[AccountId] = []
        self.inbox = Place(SERVER.account_id, SERVER_MAILBOX)

    async def open(self) -> House:
        self.accounts = [await self.store.accounts.create(f"{name}@example.com") for name in ("ann", "bob")]
        box = await self.store.mailboxes.get(self.accounts[0], "INBOX")
        self.inbox = Place(self.accounts[0], box.mailbox_id)
        return self

    async def get(
        self, who: int, *entries: str, depth: int = 0, max_size: int | None = None
    ) -> dict[str, bytes | None]:
        found = await self.store.metadata.get([self.inbox], self.accounts[who], Wanted(entries, depth, max_size))
        return {entry.name: entry.value for entry in found.get(self.inbox, ())}


@pytest.fixture
async def house(store: Store) -> House:
    return await House(store).open()


def wanted(name: str, above: str, depth: int) -> bool:
    """The entry, or one so many levels below it."""
    if name == above:
        return True
    below = name.removeprefix(f"{above}/")
    return below != name and (depth == INFINITY or below.count("/") < depth)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 1), st.dictionaries(NAMES, VALUES, min_size=1, max_size=4)), max_size=6),
    asked=st.lists(ABOVE, min_size=1, max_size=3, unique=True),
    depth=st.sampled_from([0, 1, INFINITY]),
    max_size=st.one_of(st.none(), st.integers(0, 12)),
)
async def test_what_was_set_is_there(
    house: House,
    changes: list[tuple[int, dict[str, bytes | None]]],
    asked: list[str],
    depth: int,
    max_size: int | None,
) -> None:
    await house.store.db.execute("DELETE FROM metadata")
    model: dict[tuple[int, str], bytes] = {}
    for who, values in changes:
        assert await house.store.metadata.set(house.inbox, house.accounts[who], values)
        for name, value in values.items():
            key = (who if name.startswith(PRIVATE) else -1, name)
            model.pop(key, None)
            if value is not None:
                model[key] = value
    for who in (0, 1):
        expected = {
            name: value if max_size is None or len(value) <= max_size else None
            for (whose, name), value in model.items()
            if whose in (-1, who) and any(wanted(name, above, depth) for above in asked)
        }
        assert await house.get(who, *asked, depth=depth, max_size=max_size) == expected


async def test_too_many_and_too_much(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "MAX_ENTRIES", 3)
    monkeypatch.setattr(metadata, "MAX_BYTES", 10)
    ann, bob = house.accounts
    store = house.store.metadata
    assert await store.set(house.inbox, ann, {"/private/a": b"1", "/private/b": b"2", "/private/c": b"3"})
    assert not await store.set(house.inbox, ann, {"/private/d": b"4", "/private/a": b"9"})
    assert await house.get(0, "/private/a") == {"/private/a": b"1"}, "all or none"
    assert await store.set(house.inbox, ann, {"/private/d": b"4", "/private/a": None}), "one goes, one comes"
    assert await store.set(house.inbox, ann, {"/shared/a": b"1"}), "shared ones count by themselves"
    assert await store.set(house.inbox, bob, {"/private/a": b"1"}), "and so do those of each account"
    assert not await store.set(house.inbox, ann, {"/private/d": b"0123456789"})
    assert await store.set(house.inbox, ann, {"/private/d": b"01234567"})
    monkeypatch.setattr(metadata, "MAX_ENTRIES", 1)
    assert await store.set(house.inbox, ann, {"/private/d": b"0"}), "less in its place, where there are too many"
    assert await store.set(house.inbox, ann, {"/private/b": None})


async def test_who_hears_of_it(house: House) -> None:
    ann, bob = house.accounts
    await house.store.metadata.set(house.inbox, bob, {"/private/a": b"1", "/shared/b": b"2", "/shared/a": b"3"})
    await house.store.metadata.set(Place(bob, SERVER_MAILBOX), bob, {"/private/x": b"1"})
    await house.store.metadata.set(SERVER, SERVER.account_id, {"/shared/admin": b"mailto:a@b"})
    rows = await house.store.db.fetch(
        "SELECT account_id, mailbox_id, name, old_name FROM account_changes WHERE kind = 'metadata' ORDER BY 1, seq"
    )
    assert [tuple(row) for row in rows] == [
        (ann, house.inbox.mailbox_id, "INBOX", "/shared/a /shared/b"),
        (bob, house.inbox.mailbox_id, "INBOX", "/private/a"),
        (bob, None, "", "/private/x"),
    ]


async def test_what_is_gone_has_none(house: House) -> None:
    ann, bob = house.accounts
    box = await house.store.mailboxes.create(ann, "Box")
    place = Place(ann, box.mailbox_id)
    await house.store.metadata.set(place, ann, {"/shared/a": b"1"})
    await house.store.metadata.set(house.inbox, bob, {"/private/a": b"1"})
    await house.store.mailboxes.delete(ann, "Box")
    with pytest.raises(NotFound):
        await house.store.metadata.set(place, ann, {"/shared/a": b"2"})
    with pytest.raises(NotFound):
        await house.store.metadata.set(Place(ann, MailboxId(1 << 40)), ann, {"/shared/a": b"2"})
    await house.store.db.execute("DELETE FROM mailboxes WHERE mailbox_id = $1", box.mailbox_id)
    await house.store.db.execute("DELETE FROM subscriptions WHERE account_id = $1", bob)
    await house.store.db.execute("DELETE FROM mailboxes WHERE account_id = $1", bob)
    await house.store.db.execute("DELETE FROM accounts WHERE account_id = $1", bob)
    assert await house.store.db.fetchval("SELECT count(*) FROM metadata") == 0
