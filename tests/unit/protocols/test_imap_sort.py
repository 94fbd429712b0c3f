"""SORT and the caches behind it on a real store: against a plain model, while messages come and go."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sora._native.seqset import UidSet
from sora.mime.digest import digest
from sora.mime.text import fold
from sora.protocols.imap.finding.sort import sorted_uids
from sora.protocols.imap.finding.texts import TextCache
from sora.protocols.imap.views.columns import ColumnCache
from sora.wire.imap_search import All, InUids
from sora.wire.imap_sort import Criterion, SortKey
from tests.support.findings import note
from tests.support.imap import FIRST_DATE, ImapWorld

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora.protocols.imap.session import Session
    from sora.services.node import Node

NAMES = ("Zoe <anna@b.example>", "bob@a.example", "=?utf-8?q?=C3=A4?= <Bob@x.example>", "")
SUBJECTS = ("", "a", "Re: A", "b (fwd)", "[x] b", "=?utf-8?q?=C3=A4?=")
KEYS = [key for key in SortKey if key is not SortKey.RELEVANCY]  # that one goes with FUZZY
DATES = ("", "1 1:00:00", "2 1:00:00", "2 2:00:00")


def random_letter(chance: random.Random) -> bytes:
    fields = {field: name for field in ("From", "To", "Cc") if (name := chance.choice(NAMES))}
    return note(chance.choice(SUBJECTS), date=chance.choice(DATES), body=chance.randrange(1, 4), **fields)


def random_criteria(chance: random.Random) -> list[Criterion]:
    return [Criterion(chance.choice(KEYS), chance.random() < 0.5) for _ in range(chance.randrange(1, 4))]


class Mail:
    """One message of the model."""

    def __init__(self, uid: int, data: bytes, number: int) -> None:
        facts = digest(data)
        self.uid = uid
        arrived = FIRST_DATE + timedelta(days=number)
        self.key: dict[SortKey, Any] = {
            SortKey.ARRIVAL: arrived,
            SortKey.DATE: facts.sent_at or arrived,
            SortKey.SIZE: len(data),
            SortKey.SUBJECT: fold(facts.base_subject),
            SortKey.DISPLAYFROM: fold(facts.display_from),
            SortKey.DISPLAYTO: fold(facts.display_to),
            SortKey.FROM: fold(mailbox_of(facts.sender)),
            SortKey.TO: fold(mailbox_of(facts.to)),
            SortKey.CC: fold(mailbox_of(facts.cc)),
        }


def mailbox_of(shown: str) -> str:
    """`Name <mailbox@host>`, or the address alone."""
    return shown.rpartition("<")[2].partition("@")[0]


def expected(mails: Sequence[Mail], wanted: Sequence[Criterion]) -> list[int]:
    order = sorted(mails, key=lambda mail: mail.uid)
    for criterion in reversed(wanted):
        if criterion.reverse:  # ties stay as they are: `reverse` of `sort` keeps them too
            order.sort(key=lambda mail, key=criterion.key: mail.key[key], reverse=True)  # type: ignore[misc]
        else:
            order.sort(key=lambda mail, key=criterion.key: mail.key[key])  # type: ignore[misc]
    return [mail.uid for mail in order]


async def select(world: ImapWorld, number: int) -> Session:
    link = await world.connect(number)
    session = world.sessions[-1]
    await link.send(b"s SELECT INBOX\r\n")
    while not (await link.read_line()).startswith(b"s OK"):
        pass
    return session


class Play:
    """Two clients of one mailbox, and what is in it."""

    def __init__(self, node: Node, seed: int) -> None:
        self.world = ImapWorld(node)
        self.chance = random.Random(seed)
        self.sessions: list[Session] = []
        self.mails: list[Mail] = []
        self.gone: set[int] = set()

    async def start(self) -> None:
        await self.world.given("alice: INBOX=0")
        await self.deliver(self.chance.randrange(4))
        for number in (1, 2):
            self.sessions.append(await select(self.world, number))

    async def deliver(self, count: int) -> None:
        for _ in range(count):
            data = random_letter(self.chance)
            number = len(self.mails)
            self.mails.append(Mail(await self.world.append("alice", "INBOX", data), data, number))

    async def expunge(self, count: int) -> None:
        uids = self.chance.sample([mail.uid for mail in self.mails], min(count, len(self.mails)))
        view = self.sessions[0].view.view
        store = self.world.node.store.messages
        await store.expunge(view.account_id, view.mailbox_id, UidSet.from_numbers(uids), only_deleted=False)
        self.gone.update(uids)

    async def look(self) -> None:
        """Each client sorts what it knows, one of them behind the other."""
        for session in self.sessions:
            if self.chance.random() < 0.7:
                await session.bring_up_to_date()
            wanted = random_criteria(self.chance)
            found = await sorted_uids(session, All(), wanted)
            known = set(session.view.told.all_uids())
            assert known - self.gone <= set(found) <= known
            left = [mail for mail in self.mails if mail.uid in set(found)]
            assert (wanted, found) == (wanted, expected(left, wanted)), [(m.uid, m.key) for m in left]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kept", [1 << 20, 0])
async def test_sort_is_the_plain_sort(node: Node, seed: int, kept: int) -> None:
    """Whatever comes, goes and was asked before; with caches, and with caches that keep nothing."""
    play = Play(node, seed)
    await play.start()
    server = play.sessions[0].server
    for session in play.sessions:
        assert session.server.node is node
        session.server.columns = ColumnCache(node.store.search, kept)
        session.server.texts = TextCache(node.store.search, kept)
    for _ in range(6):
        await play.deliver(play.chance.randrange(3))
        await play.look()
        await play.expunge(play.chance.randrange(2))
        await play.look()
    assert kept or (server.columns.size_bytes, server.texts.size_bytes) == (0, 0)


async def test_what_was_read_is_not_read_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(node, 1)
    await play.start()
    await play.deliver(20)
    session = play.sessions[0]
    await session.bring_up_to_date()
    asked: list[tuple[str, int]] = []

    def counted(name: str) -> None:
        plain = getattr(node.store.search, name)

        def call(account_id: int, mailbox_id: int, uids: UidSet, *what: str) -> Any:
            asked.append((name, len(uids)))
            return plain(account_id, mailbox_id, uids, *what)

        monkeypatch.setattr(node.store.search, name, call)

    counted("columns")
    counted("texts")
    wanted = [Criterion(SortKey.SUBJECT), Criterion(SortKey.DATE)]
    everything = len(session.view.told)
    await sorted_uids(session, All(), wanted)
    await sorted_uids(session, All(), wanted)
    assert asked == [("columns", everything), ("texts", everything)]
    asked.clear()
    await play.deliver(2)
    await session.bring_up_to_date()
    await sorted_uids(session, All(), wanted)
    assert asked == [("columns", 2), ("texts", 2)]
    asked.clear()
    few = InUids(UidSet.from_numbers([play.mails[0].uid, play.mails[3].uid]))
    await sorted_uids(session, few, [Criterion(SortKey.FROM)])
    assert asked == [("texts", 2)]
    asked.clear()
    await sorted_uids(session, All(), [Criterion(SortKey.FROM)])
    assert asked == [("texts", everything + 2)]
