"""NOTIFY and IDLE under faults: lost, doubled and late notices, a client that does not read, an account that ends."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sora.errors import DatabaseDown
from sora.protocols.imap import notify as module
from sora.protocols.imap import tree as tree_module
from sora.services.delivery import AppendItem
from tests.support.imap import FIRST_DATE, ImapWorld, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sora.protocols.imap.session import Session
    from sora.services.node import Node
    from sora.types import AccountId
    from tests.support.transcripts import Link

EVERYTHING = "NOTIFY SET (PERSONAL (MailboxName SubscriptionChange MessageNew MessageExpunge FlagChange))"
KILL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name = 'sora changes' AND datname = current_database()"
)
_NAME = r'(?:"([^"]*)"|(\S+?))'


@pytest.fixture
async def world(node: Node) -> ImapWorld:
    world = ImapWorld(node)
    await world.given("alice: INBOX=3 Box=1")
    await node.changes.listening.wait()
    return world


@asynccontextmanager
async def talking(world: ImapWorld, *commands: str) -> AsyncIterator[Link]:
    """A connection after these commands."""
    link = await world.connect(1)
    try:
        for command in commands:
            await link.send(f"t {command}\r\n".encode())
            while not (line := await link.read_line()).startswith((b"t ", b"+ ")):
                pass
            assert line.startswith((b"t OK", b"+ ")), line
        yield link
    finally:
        await link.hang_up()


def alice(world: ImapWorld) -> AccountId:
    return world.accounts["alice"]


async def kill_feed(node: Node) -> None:
    await node.store.db.fetchval(KILL)


def set_limits(node: Node, **changes: object) -> None:
    node.config = msgspec.structs.replace(node.config, limits=msgspec.structs.replace(node.config.limits, **changes))


# ------------------------------------------------------------------------------------------------ what is told is true


class Picture:
    """What a client knows that believes every LIST and STATUS."""

    def __init__(self) -> None:
        self.names: dict[str, bool] = {}
        self.counts: dict[str, tuple[int, int]] = {}

    def learn(self, line: bytes) -> None:
        text = line.decode()
        if listed := re.fullmatch(rf'\* LIST \((.*?)\) "/" {_NAME}(?: \("OLDNAME" \({_NAME}\)\))?', text):
            attributes, quoted, atom, old_quoted, old_atom = listed.groups()
            name, old = quoted or atom, old_quoted or old_atom
            if old is not None:
                self._rename(old, name)
            if r"\NonExistent" in attributes:
                self.names.pop(name, None)
                self.counts.pop(name, None)
            else:
                self.names[name] = r"\Subscribed" in attributes
        elif status := re.fullmatch(rf"\* STATUS {_NAME} \((.*)\)", text):
            quoted, atom, items = status.groups()
            values = dict(re.findall(r"(\w+) (\d+)", items))
            if "UIDNEXT" in values:
                self.count(quoted or atom, int(values["MESSAGES"]), int(values["UIDNEXT"]))
        else:
            raise AssertionError(f"unexpected: {text}")

    def count(self, name: str, messages: int, uid_next: int) -> None:
        _, before = self.counts.get(name, (0, 0))
        assert uid_next >= before, f"{name} went backwards"
        self.counts[name] = messages, uid_next

    def _rename(self, old: str, new: str) -> None:
        for name in [name for name in self.names if name == old or name.startswith(f"{old}/")]:
            self.names[new + name[len(old) :]] = self.names.pop(name)
            if name in self.counts:
                self.counts[new + name[len(old) :]] = self.counts.pop(name)


async def truth(world: ImapWorld) -> Picture:
    """What LIST and STATUS say now."""
    picture = Picture()
    for box in await world.node.store.mailboxes.list(alice(world)):
        if box.exists:
            picture.names[box.name] = box.subscribed
        if box.status is not None and not box.noselect:
            picture.counts[box.name] = box.status.messages, box.status.uid_next
    return picture


class Disorder:
    """Changes by another session, and what may happen to their notices."""

    def __init__(self, world: ImapWorld, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.made = 0
        self.sent: list[tuple[int, int]] = []

    async def step(self) -> None:
        await self.random.choice(
            [self._append, self._append, self._create, self._rename, self._delete, self._expunge, self._kill, self._lie]
        )()

    async def _boxes(self) -> list[Any]:
        tree = await self.world.node.store.mailboxes.list(alice(self.world))
        return [box for box in tree if box.exists and not box.noselect]

    async def _append(self) -> None:
        """Quietly, now and then: nobody is told."""
        box = self.random.choice(await self._boxes())
        item = AppendItem(plain(self.made), (), FIRST_DATE)
        node = self.world.node
        quiet, publish = self.random.random() < 0.3, node.changes.publish
        node.changes.publish = (lambda *_: None) if quiet else publish  # type: ignore[method-assign]
        try:
            done = await node.delivery.append(alice(self.world), box.status.mailbox_id, [item])
        finally:
            node.changes.publish = publish  # type: ignore[method-assign]
        self.sent.append((box.status.mailbox_id, done.modseq))

    async def _expunge(self) -> None:
        box = self.random.choice(await self._boxes())
        await self.world.node.store.db.execute(
            "SELECT expunge($1, $2, $3, $3, false)", alice(self.world), box.status.mailbox_id, [1]
        )

    async def _create(self) -> None:
        self.made += 1
        parent = self.random.choice(["", "Box/", "Deep/Er/"])
        await self.world.node.store.mailboxes.create(alice(self.world), f"{parent}New{self.made}")

    async def _rename(self) -> None:
        self.made += 1
        boxes = [box for box in await self._boxes() if box.name != "INBOX"]
        name = self.random.choice(boxes).name
        await self.world.node.store.mailboxes.rename(alice(self.world), name, f"Moved{self.made}")

    async def _delete(self) -> None:
        boxes = [box for box in await self._boxes() if box.name != "INBOX" and not box.has_children] or [None]
        if boxes == [None]:
            return
        await self.world.node.store.mailboxes.delete(alice(self.world), self.random.choice(boxes).name)

    async def _kill(self) -> None:
        await kill_feed(self.world.node)

    async def _lie(self) -> None:
        """Notices twice, late, and of what never was."""
        changes = self.world.node.changes
        for mailbox_id, modseq in self.random.sample(self.sent, min(3, len(self.sent))):
            changes.publish(alice(self.world), mailbox_id, modseq)  # type: ignore[arg-type]
        changes.publish(alice(self.world), 0, 1)  # type: ignore[arg-type]
        changes.publish(alice(self.world), 10**9, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_to_notices_the_client_ends_with_the_truth(world: ImapWorld, seed: int) -> None:
    world.node.changes._poll_s = 0.05
    await kill_feed(world.node)  # so that the next wait is that short
    disorder = Disorder(world, seed)
    async with talking(world, EVERYTHING) as link:
        picture = await truth(world)
        for _ in range(25):
            await disorder.step()
        expected = await truth(world)
        while (picture.names, picture.counts) != (expected.names, expected.counts):
            picture.learn(await link.read_line())


# --------------------------------------------------------------------------------------------------------- overflow


async def test_who_does_not_read_is_told_of_the_overflow_and_can_begin_anew(
    world: ImapWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "MAX_LOG", 3)
    boxes = world.node.store.mailboxes
    async with talking(world, "SELECT Box", EVERYTHING) as link:
        link.protocol.pause_writing()
        for number in range(6):
            await boxes.create(alice(world), f"Late{number}")
        async with talking(world, EVERYTHING) as other:  # it shares the tree, and reads
            await boxes.create(alice(world), "Last")
            while b'"/" Last' not in await other.read_line():
                pass
        link.protocol.resume_writing()
        while not (line := await link.read_line()).startswith(b"* OK [NOTIFICATIONOVERFLOW] "):
            assert line.startswith(b'* LIST (\\HasNoChildren) "/" Late'), line
        await boxes.create(alice(world), "Unheard")
        await world.append("alice", "Box", plain(1))
        await link.send(b"n NOOP\r\n")
        assert await link.read_line() == b"n OK NOOP completed"
        await link.send(b"n NOTIFY SET (SELECTED (MessageNew MessageExpunge)) (PERSONAL (MailboxName))\r\n")
        assert [await link.read_line() for _ in range(3)] == [
            b"* 2 EXISTS", b"* 2 RECENT", b"n OK NOTIFY completed",
        ]  # fmt: skip
        await boxes.create(alice(world), "Heard")
        assert await link.read_line() == b'* LIST (\\HasNoChildren) "/" Heard'


# ------------------------------------------------------------------------------------------------------------- faults


async def test_what_the_database_did_not_answer_is_asked_again(
    world: ImapWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    async with talking(world, EVERYTHING) as link:
        real, refused = world.node.store.mailboxes.status, asyncio.Event()

        async def away(*args: Any, **more: Any) -> Any:
            if not refused.is_set():
                refused.set()
                raise DatabaseDown
            return await real(*args, **more)

        monkeypatch.setattr(world.node.store.mailboxes, "status", away)
        await world.append("alice", "Box", plain(1))
        assert await link.read_line() == b"* STATUS Box (MESSAGES 2 UIDNEXT 3)"
        assert refused.is_set()


async def test_a_delivery_is_not_compared_with_every_filter(world: ImapWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    real, looked_at = module._events_of, []

    def counted(group: Any, name: str, box: Any) -> Any:
        looked_at.append(name)
        return real(group, name, box)

    events = "(MessageNew MessageExpunge MailboxName)"
    async with talking(world, f"NOTIFY SET (MAILBOXES (Box No1 No2) {events}) (SUBTREE (New No3) {events})") as link:
        monkeypatch.setattr(module, "_events_of", counted)
        await world.append("alice", "Box", plain(1))
        assert await link.read_line() == b"* STATUS Box (MESSAGES 2 UIDNEXT 3)"
        assert not looked_at
        await world.node.store.mailboxes.create(alice(world), "New/Below")
        assert await link.read_line() == rb'* LIST (\HasChildren) "/" New'
        assert await link.read_line() == rb'* LIST (\HasNoChildren) "/" New/Below'
        await world.append("alice", "New/Below", plain(1))
        while not (line := await link.read_line()).endswith(b"* STATUS New/Below (MESSAGES 1 UIDNEXT 2)"):
            assert b"New" in line


async def test_sessions_of_an_account_share_their_statements(world: ImapWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = world.node.store.mailboxes.status

    async def counted(*args: Any, **more: Any) -> Any:
        asked.append(args)
        return await real(*args, **more)

    async with talking(world, EVERYTHING) as one, talking(world, EVERYTHING) as two:
        monkeypatch.setattr(world.node.store.mailboxes, "status", counted)
        await world.append("alice", "Box", plain(1))
        for link in (one, two):
            assert await link.read_line() == b"* STATUS Box (MESSAGES 2 UIDNEXT 3)"
    assert len(asked) == 1


async def test_news_do_not_make_a_silent_client_livelier(world: ImapWorld) -> None:
    set_limits(world.node, imap_idle_timeout=0.3)
    async with talking(world, EVERYTHING) as link:
        while not (line := await link.read_line()).startswith(b"* BYE [UNAVAILABLE] Autologout"):
            assert line.startswith(b"* STATUS")
            await world.append("alice", "Box", plain(1))
        await link.read_close()


async def test_who_leaves_watches_nothing_any_more(world: ImapWorld) -> None:
    async with talking(world, EVERYTHING, "NOTIFY NONE"):
        assert not world.node.changes._accounts
    async with talking(world, EVERYTHING) as link:
        assert list(world.node.changes._accounts) == [alice(world)]
        await link.send(b"t UNAUTHENTICATE\r\n")
        await link.read_line()
        assert not world.node.changes._accounts
    async with talking(world, EVERYTHING):
        pass
    while world.node.changes._accounts:
        await asyncio.sleep(0)


# --------------------------------------------------------------------------------- the mailbox or the account goes away


@pytest.mark.parametrize("waiting", ["IDLE", "NOTIFY SET (SELECTED (MessageNew MessageExpunge))"])
async def test_a_selected_mailbox_that_is_renamed_stays_selected(world: ImapWorld, waiting: str) -> None:
    """As with Dovecot: the name is another one, the mailbox is the same."""
    async with talking(world, "SELECT Box", waiting) as link:
        await world.node.store.mailboxes.rename(alice(world), "Box", "Renamed")
        await world.append("alice", "Renamed", plain(2))
        assert await link.read_line() == b"* 2 EXISTS"


@pytest.mark.parametrize("waiting", ["IDLE", "NOTIFY SET (SELECTED (MessageNew MessageExpunge))"])
async def test_a_selected_mailbox_that_is_deleted_ends_the_session(world: ImapWorld, waiting: str) -> None:
    async with talking(world, "SELECT Box", waiting) as link, talking(world, "DELETE Box"):
        assert await link.read_line() == b"* BYE [UNAVAILABLE] The selected mailbox was deleted"


@pytest.mark.parametrize("waiting", ["IDLE", EVERYTHING, "NOOP"])
@pytest.mark.parametrize("how", ["disabled = true", "deleted_at = now()"])
async def test_sessions_of_an_account_that_ends_are_ended(world: ImapWorld, waiting: str, how: str) -> None:
    await world.given("bob: INBOX=0")
    async with talking(world, "SELECT INBOX", waiting) as link:
        await world.node.store.db.execute(f"UPDATE accounts SET {how} WHERE account_id = $1", world.accounts["bob"])
        await world.node.store.db.execute(f"UPDATE accounts SET {how} WHERE account_id = $1", alice(world))
        assert (await link.read_line()).startswith(b"* BYE [UNAVAILABLE] ")


async def test_an_account_that_ended_while_nobody_listened(world: ImapWorld) -> None:
    async with talking(world, "SELECT INBOX", "IDLE") as link:
        session: Session = link.protocol  # type: ignore[assignment]
        assert session.owner == alice(world)
        await world.node.store.db.execute("ALTER TABLE accounts DISABLE TRIGGER account_changed")
        await world.node.store.db.execute("UPDATE accounts SET disabled = true")
        await kill_feed(world.node)
        assert (await link.read_line()).startswith(b"* BYE [UNAVAILABLE] ")
