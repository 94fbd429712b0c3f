"""Filters of deliveries, through LMTP and with a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.filters import MAIL, FilterWorld, filter_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.services.node import Node

STORED = "250 2.0.0 Stored"


@pytest.fixture
async def world(node: Node) -> AsyncIterator[FilterWorld]:
    async with filter_world(node) as world:
        yield world


class TestFiling:
    async def test_a_message_goes_where_the_script_wants(self, world: FilterWorld) -> None:
        await world.account("alice", 'require "fileinto"; fileinto "Work";', "Work")
        assert await world.deliver() == [STORED]
        boxes = await world.boxes()
        assert list(boxes) == ["Work"]
        assert boxes["Work"][0].received == MAIL
        assert boxes["Work"][0].octets.startswith(b"Return-Path: <sender@example.org>\r\nDelivered-To: alice@example")

    async def test_several_places_and_flags(self, world: FilterWorld) -> None:
        script = r"""require ["fileinto", "imap4flags", "copy"];
            fileinto :copy :flags ["\\Seen", "$Work"] "Work"; addflag "\\Flagged"; keep;"""
        await world.account("alice", script, "Work")
        assert await world.deliver() == [STORED]
        assert await world.places() == {"INBOX": (r"\flagged",), "Work": ("$work", r"\seen")}
