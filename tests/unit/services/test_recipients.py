"""Who is remembered between two RCPTs, and for how long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sora.errors import NotFound, OverQuota
from sora.services import recipients
from sora.services.recipients import REMEMBERED_S, Recipients
from sora.store import accounts
from sora.types import AccountId
from sora.wire import lmtp

if TYPE_CHECKING:
    from collections.abc import Sequence


class Accounts:
    """Answers from a dict, and keeps what it was asked."""

    def __init__(self) -> None:
        self.found: dict[str, accounts.Recipient] = {}
        self.asked: list[list[str]] = []

    async def find_recipients(self, addresses: Sequence[str]) -> list[accounts.Recipient | None]:
        self.asked.append(list(addresses))
        return [self.found.get(address) for address in addresses]


class World:
    def __init__(self) -> None:
        self.accounts = Accounts()
        self.now = 100.0
        store: Any = SimpleNamespace(accounts=self.accounts)
        self.recipients = Recipients(store, "example.com", clock=lambda: self.now)

    def add(self, name: str, **facts: Any) -> None:
        self.accounts.found[f"{name}@example.com"] = accounts.Recipient(AccountId(1), f"{name}@example.com", **facts)

    async def find(self, *names: str, size: int = 0) -> list[Any]:
        paths = [lmtp.parse_recipient(b"TO:<%s@example.com>" % name.encode(), utf8=False).path for name in names]
        return await self.recipients.find(paths, size)


@pytest.fixture
def world() -> World:
    return World()


async def test_who_was_found_is_not_asked_for_again_for_a_while(world: World) -> None:
    world.add("ann")
    world.add("bob")
    first = await world.find("ann")
    world.now += REMEMBERED_S - 0.1
    assert [found.address for found in await world.find("ann", "bob", "ann")] == [
        "ann@example.com", "bob@example.com", "ann@example.com"
    ]  # fmt: skip
    assert await world.find("ann") == first
    assert world.accounts.asked == [["ann@example.com"], ["bob@example.com"]]
    world.now += 0.1
    await world.find("ann", "bob")
    assert world.accounts.asked[2:] == [["ann@example.com"]], "being asked for does not keep it young"


async def test_refusals_and_quotas_are_asked_for_every_time(world: World) -> None:
    world.add("tight", room_bytes=10)
    world.add("full", over_quota=True)
    for _ in range(2):
        fits, full, nobody = await world.find("tight", "full", "nobody", size=10)
        assert fits.account_id == 1
        assert isinstance(full, OverQuota)
        assert isinstance(nobody, NotFound)
    (tight,) = await world.find("tight", size=11)
    assert isinstance(tight, OverQuota)
    assert len(world.accounts.asked) == 3


async def test_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipients, "MAX_REMEMBERED", 2)
    for name in ("ann", "bob", "eve"):
        world.add(name)
        await world.find(name)
    assert list(world.recipients._known) == ["eve@example.com"]


async def test_one_whose_scripts_have_changed_is_asked_for_again(world: World) -> None:
    world.add("ann", script=1)
    world.accounts.found["bob@example.com"] = accounts.Recipient(AccountId(2), "bob@example.com")
    assert [found.script for found in await world.find("ann", "bob")] == [1, 0]
    world.add("ann", script=2)
    assert [found.script for found in await world.find("ann", "bob")] == [1, 0]
    world.recipients.forget(AccountId(1))
    assert [found.script for found in await world.find("ann", "bob")] == [2, 0]
    assert world.accounts.asked == [["ann@example.com", "bob@example.com"], ["ann@example.com"]]
    world.recipients.forget_all()
    await world.find("ann", "bob")
    assert world.accounts.asked[2:] == [["ann@example.com", "bob@example.com"]]


@pytest.mark.parametrize("everybody", [False, True])
async def test_an_answer_that_may_be_older_than_the_notice_is_not_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch, everybody: bool
) -> None:
    world.add("ann", script=1)
    ask = world.accounts.find_recipients

    async def told_meanwhile(addresses: Sequence[str]) -> list[accounts.Recipient | None]:
        found = await ask(addresses)
        if everybody:
            world.recipients.forget_all()
        else:
            world.recipients.forget(AccountId(1))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(world.accounts, "find_recipients", told_meanwhile)
        await world.find("ann")
    world.add("ann", script=2)
    assert [found.script for found in await world.find("ann")] == [2]
