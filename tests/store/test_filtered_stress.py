"""Two nodes get the same mail several times over, and lose answers: everything happens once, whatever the order."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from sora.errors import DatabaseDown, SoraError
from tests.store.test_delivery import CHECK, answer_lost, as_it_is, never_arrived
from tests.store.test_filtered_delivery import Filtered
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sora.types import AccountId, MailboxId

MAILS = 12
TRIES = 3
SENDERS = 3
STEPS = (as_it_is, as_it_is, answer_lost, never_arrived)


class Mail:
    """One message for one recipient, and what his filter makes of it, whenever it comes."""

    def __init__(self, chance: random.Random, number: int, accounts: dict[AccountId, list[MailboxId | None]]) -> None:
        self.data = b"Subject: %d\r\n\r\n" % number
        self.account_id = chance.choice(list(accounts))
        self.mailboxes = chance.sample(accounts[self.account_id], chance.randrange(3))
        self.to = [f"{number}.{n}@y" for n in range(chance.randrange(3))]
        self.sender = chance.choice(["", *(f"s{n}@x" for n in range(SENDERS))])

    async def deliver(self, world: Filtered) -> None:
        """Until the answer is no temporary failure, as an MTA does."""
        while True:
            result: object = await world.filter(
                self.account_id, *self.mailboxes, to=self.to, answer=self.sender, data=self.data
            )
            if not isinstance(result, SoraError):
                return
            assert isinstance(result, DatabaseDown), result


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(3))
async def test_everything_happens_once(dsn: str, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with open_node(dsn, tmp_path / "one") as one, open_node(dsn, tmp_path / "two") as two:
        worlds = [Filtered(one, dsn), Filtered(two, dsn)]
        accounts: dict[AccountId, list[MailboxId | None]] = {}
        for name in ("ann", "ben"):
            account_id = await worlds[0].account(name)
            accounts[account_id] = [None, *await worlds[0].boxes(account_id, "A", "B")]
        for world in worlds:
            world.disturb(*(randomly(chance) for _ in range(MAILS)))
        mails = [Mail(chance, number, accounts) for number in range(MAILS)]
        tries = [mail.deliver(chance.choice(worlds)) for mail in mails for _ in range(TRIES)]
        chance.shuffle(tries)
        await asyncio.gather(*tries)
        queued = await worlds[0].queued()
        assert sorted(to for kind, to in queued if kind == "redirect") == sorted(to for mail in mails for to in mail.to)
        answered = await one.store.db.fetch("SELECT account_id, recipient FROM outbound_queue WHERE kind = 'vacation'")
        wanted = {(mail.account_id, mail.sender) for mail in mails if mail.sender}
        assert sorted(map(tuple, answered)) == sorted(wanted)
        for account_id, mailboxes in accounts.items():
            for mailbox_id in mailboxes:
                there = sum(mailbox_id in mail.mailboxes for mail in mails if mail.account_id == account_id)
                place = mailbox_id or await worlds[0].inbox(account_id)
                sql = "SELECT count(*) FROM messages WHERE account_id = $1 AND mailbox_id = $2"
                assert await worlds[0].value(sql, account_id, place) == there
                assert await one.store.db.fetch(CHECK, account_id, place) == []
        sql = """SELECT count(*) FROM outbound_queue o WHERE content_id IS NOT NULL AND NOT EXISTS (
                   SELECT FROM message_contents c WHERE c.account_id = o.account_id AND c.content_id = o.content_id)"""
        assert await worlds[0].value(sql) == 0


def randomly(chance: random.Random) -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]:
    """One of the steps, chosen when the test begins, so that a seed always means the same."""
    return chance.choice(STEPS)
