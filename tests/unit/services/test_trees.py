"""What is kept of accounts' trees, and for how long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from sora.errors import NotFound
from sora.services.changes import TREE
from sora.services.filters import trees as services
from sora.services.filters.trees import KEPT_S, Trees
from sora.store.trees import Leaf, Tree
from sora.types import AccountId, MailboxId, ModSeq

if TYPE_CHECKING:
    from collections.abc import Callable

ALICE, BOB = AccountId(1), AccountId(2)


class Store:
    """Accounts' trees, and how often they were read."""

    def __init__(self) -> None:
        self.reads = 0
        self.seq = 1
        self.meanwhile: Callable[[], None] = lambda: None

    async def get(self, account_id: AccountId) -> Tree | None:
        self.reads += 1
        tree = None if account_id == 404 else tree_of(self.seq)
        self.meanwhile()
        return tree


class Changes:
    """Watchers of trees, who are told by hand."""

    def __init__(self) -> None:
        self.listening = asyncio.Event()
        self.listening.set()
        self.watchers: list[tuple[AccountId, Callable[..., None], int | None]] = []

    def watch(self, account_id: AccountId, mailbox_id: MailboxId, callback: Any, modseq: int | None = None) -> Any:
        assert mailbox_id == TREE
        watcher = account_id, callback, modseq
        self.watchers.append(watcher)
        return lambda: self.watchers.remove(watcher) if watcher in self.watchers else None

    def tell(self, account_id: AccountId, seq: int) -> None:
        for watched, callback, known in list(self.watchers):
            if watched == account_id and seq > (known or 0):
                callback(account_id, TREE, seq)


def tree_of(seq: int, mailboxes: int = 1) -> Tree:
    leaves = {f"m{number}": Leaf(MailboxId(number), f"m{number}") for number in range(mailboxes)}
    return Tree(ModSeq(seq), "a@example.com", frozenset({"a@example.com"}), leaves, {})


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.store = Store()
        self.changes = Changes()
        self.trees = Trees(self.store, self.changes, lambda: self.now)  # type: ignore[arg-type]

    async def reads(self, account_id: AccountId = ALICE) -> bool:
        """Whether asking for a tree reads it, which `get` says too."""
        before = self.store.reads
        _, fresh = await self.trees.get(account_id)
        assert fresh == (self.store.reads > before)
        return fresh


@pytest.fixture
def world() -> World:
    return World()


async def test_it_is_read_once(world: World) -> None:
    assert [await world.reads() for _ in range(3)] == [True, False, False]
    assert await world.reads(BOB)


async def test_a_change_of_it_is_heard(world: World) -> None:
    await world.reads()
    world.changes.tell(BOB, 2)
    world.changes.tell(ALICE, 1)
    assert not await world.reads(), "that was known, or somebody else's"
    world.changes.tell(ALICE, 2)
    assert await world.reads()


async def test_a_change_while_it_is_read(world: World) -> None:
    world.store.meanwhile = lambda: world.changes.tell(ALICE, 2)
    assert await world.reads()
    world.store.meanwhile = lambda: None
    assert await world.reads(), "what was read may be older than the change"
    assert not await world.reads()


async def test_it_is_not_kept_for_ever(world: World) -> None:
    await world.reads()
    world.now += KEPT_S - 1
    assert not await world.reads()
    world.now += 1
    assert await world.reads()


async def test_while_nothing_can_be_heard_it_is_read_each_time(world: World) -> None:
    await world.reads()
    world.changes.listening.clear()
    assert await world.reads()
    assert await world.reads()


async def test_who_is_not_there(world: World) -> None:
    with pytest.raises(NotFound):
        await world.trees.get(AccountId(404))
    assert world.changes.watchers == []


async def test_room_for_some(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_ACCOUNTS", 2)
    for number in (1, 2, 1, 3):
        await world.reads(AccountId(number))
    assert [await world.reads(AccountId(number)) for number in (3, 1)] == [False, False]
    assert await world.reads(BOB), "asked for the longest time ago"
    assert len(world.changes.watchers) == 2


async def test_room_for_names(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_NAMES", 3)
    for number in range(1, 6):
        await world.reads(AccountId(number))
    assert len(world.changes.watchers) == 3
    world.trees.close()
    assert world.changes.watchers == []
    assert await world.reads(AccountId(5))


async def test_two_who_ask_at_once_leave_one_watch(world: World) -> None:
    await asyncio.gather(world.trees.get(ALICE), world.trees.get(ALICE))
    assert len(world.changes.watchers) == 1
    world.trees.forget(ALICE)
    assert world.changes.watchers == []
