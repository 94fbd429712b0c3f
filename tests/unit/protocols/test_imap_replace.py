"""REPLACE is one change: whoever looks sees the old message or the new one, and nobody both or none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sora._native.seqset import UidSet
from sora.errors import DatabaseDown, Expunged, OverQuota
from sora.services.delivery import AppendItem
from sora.store.replacing import Replaced
from sora.types import Uid
from tests.support.imap import ImapWorld, plain

if TYPE_CHECKING:
    from sora.services.node import Node
    from sora.types import AccountId, MailboxId


async def place(node: Node, messages: int = 1) -> tuple[ImapWorld, AccountId, MailboxId]:
    world = ImapWorld(node)
    await world.given(f"alice: INBOX={messages}")
    account_id = world.accounts["alice"]
    return world, account_id, (await node.store.mailboxes.get(account_id, "INBOX")).mailbox_id


async def live(node: Node, account_id: AccountId, mailbox_id: MailboxId) -> list[int]:
    return [row["uid"] for row in await node.store.messages.list_messages(account_id, mailbox_id)]


async def test_of_many_who_replace_a_message_one_succeeds(node: Node) -> None:
    _, account_id, mailbox_id = await place(node)
    old = Replaced(account_id, mailbox_id, Uid(1), len(plain(1)))
    results = await asyncio.gather(
        *(node.delivery.append(account_id, mailbox_id, [AppendItem(plain(n))], replaced=old) for n in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Expunged) for result in results) == 4
    assert await live(node, account_id, mailbox_id) == [2]


async def test_with_deliveries_and_moves_beside_it_nothing_is_lost(node: Node) -> None:
    world, account_id, mailbox_id = await place(node, 4)
    await world.given("alice: Other=0")
    other = (await node.store.mailboxes.get(account_id, "Other")).mailbox_id
    olds = [Replaced(account_id, mailbox_id, Uid(uid), 1) for uid in (1, 2)]
    await asyncio.gather(
        *(node.delivery.append(account_id, other, [AppendItem(plain(9))], replaced=old) for old in olds),
        *(node.delivery.append(account_id, mailbox_id, [AppendItem(plain(n))]) for n in range(4)),
        node.store.messages.move(account_id, mailbox_id, UidSet.from_numbers([3, 4]), other),
        node.store.messages.copy(account_id, other, UidSet.from_numbers([1, 2]), mailbox_id),
    )
    assert len(await live(node, account_id, other)) == 4
    found = await live(node, account_id, mailbox_id)
    assert not {1, 2, 3, 4} & set(found)
    assert len(found) >= 4


async def test_what_cannot_be_stored_takes_nothing_away(node: Node) -> None:
    world, account_id, mailbox_id = await place(node, 2)
    await world.given(f"quota alice: bytes={2 * len(plain(1)) + 5}")
    old = Replaced(account_id, mailbox_id, Uid(1), len(plain(1)))
    with pytest.raises(OverQuota):
        await node.delivery.append(account_id, mailbox_id, [AppendItem(plain(1) * 3)], replaced=old)
    assert await live(node, account_id, mailbox_id) == [1, 2]
    done = await node.delivery.append(account_id, mailbox_id, [AppendItem(plain(7))], replaced=old)
    assert done.replaced_modseq
    assert await live(node, account_id, mailbox_id) == [2, 3]


@pytest.mark.parametrize("committed", [True, False])
async def test_a_lost_answer_is_found_out(node: Node, monkeypatch: pytest.MonkeyPatch, committed: bool) -> None:
    """The commit's answer is lost: what was done is not done again, and what was not is."""
    _, account_id, mailbox_id = await place(node)
    messages = node.delivery._commits._messages
    replace, calls = messages.replace, []

    async def cut(*args: object) -> object:
        calls.append(args)
        if len(calls) > 1:
            return await replace(*args)
        if committed:
            await replace(*args)
        raise DatabaseDown(maybe_done=True)

    monkeypatch.setattr(messages, "replace", cut)
    old = Replaced(account_id, mailbox_id, Uid(1), 1)
    done = await node.delivery.append(account_id, mailbox_id, [AppendItem(plain(2))], replaced=old)
    assert len(calls) == (1 if committed else 2)
    assert await live(node, account_id, mailbox_id) == [2]
    assert bool(done.replaced_modseq) is not committed


async def test_large_bodies_are_put_together_and_replaced(node: Node) -> None:
    """What is copied goes to a file as what is sent does, slice by slice."""
    world, account_id, mailbox_id = await place(node)
    big = b"Subject: big\r\n\r\n" + b"0123456789abcdef" * 40_000
    uid = (await node.delivery.append(account_id, mailbox_id, [AppendItem(big)])).uids[0]
    link = await world.connect(1)
    await link.send(b"a SELECT INBOX\r\n")
    while not (await link.read_line()).startswith(b"a "):
        pass
    urls = b" ".join([b'URL "/INBOX/;UID=%d/;SECTION=TEXT"' % uid] * 4)
    await link.send(b"b REPLACE %d INBOX CATENATE (TEXT {4+}\r\na:b\r %s)\r\n" % (uid, urls))
    lines = []
    while not (lines and lines[-1].startswith(b"b ")):
        lines.append(await link.read_line())
    assert lines[-1] == b"b OK REPLACE completed", lines
    rows = [
        row
        async for c in node.store.messages.rows(account_id, mailbox_id, UidSet.from_numbers([3]), ["size"])
        for row in c
    ]
    assert rows[0]["size"] == 4 + 4 * 640_000
    assert await live(node, account_id, mailbox_id) == [1, 3]
    await link.hang_up()
