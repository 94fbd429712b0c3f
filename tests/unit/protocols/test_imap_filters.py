"""Filters for all, which only an administrator makes, and one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora.store.metadata import SERVER, SERVER_MAILBOX, Place
from tests.support import transcripts
from tests.support.imap import ImapWorld

if TYPE_CHECKING:
    from sora.services.node import Node

SHARED = "/shared/filters/values/both"
PRIVATE = "/private/filters/values/both"
ASK = "given alice: INBOX=3\nC: s SELECT INBOX\nS* s OK\nC: a SEARCH FILTER both\nS: * SEARCH {}\nS* a OK\n"


async def test_ones_own_filter_goes_before_the_one_for_all(node: Node) -> None:
    world = ImapWorld(node)
    await world.given("alice: INBOX=0")
    account_id = world.accounts["alice"]
    await node.store.metadata.set(SERVER, account_id, {SHARED: b"1"})
    await transcripts.Player(world, "line", "shared").play(transcripts.parse(ASK.format("1")))
    own = Place(account_id, SERVER_MAILBOX)
    await node.store.metadata.set(own, account_id, {PRIVATE: b"2:3"})
    await transcripts.Player(world, "line", "both").play(
        transcripts.parse(ASK.format("2 3").replace("INBOX=3", "INBOX=0"))
    )
    await node.store.metadata.set(own, account_id, {PRIVATE: None})
    await transcripts.Player(world, "line", "shared again").play(
        transcripts.parse(ASK.format("1").replace("INBOX=3", "INBOX=0"))
    )
