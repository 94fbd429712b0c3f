"""A login asks for the warm-up of the cache, a refused one does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.imap import ImapWorld
from tests.support.pop3 import Pop3World

if TYPE_CHECKING:
    from sora.services.node import Node


@pytest.fixture
def warmed(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    accounts: list[int] = []
    monkeypatch.setattr(node.warmup, "login", accounts.append)
    return accounts


async def test_imap(node: Node, warmed: list[int]) -> None:
    world = ImapWorld(node)
    for given in ("nobody:", "alice: INBOX=1"):
        await world.given(given)
    link = await world.connect(1)
    await link.send(b"a LOGIN alice@example.com wrong\r\n")
    assert b"NO" in await link.read_line()
    assert warmed == []
    await link.send(b"b LOGIN alice@example.com secret\r\n")
    assert b"OK" in await link.read_line()
    assert warmed == [(await node.store.accounts.get("alice@example.com")).account_id]


async def test_pop3(node: Node, warmed: list[int]) -> None:
    world = Pop3World(node)
    await world.open()
    await world.given("alice: 1")
    link = await world.connect(1)
    await link.send(b"USER alice@example.com\r\nPASS secret word\r\n")
    assert (await link.read_line()).startswith(b"+OK")
    assert (await link.read_line()).startswith(b"+OK")
    assert warmed == [(await node.store.accounts.get("alice@example.com")).account_id]
