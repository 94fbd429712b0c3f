"""A mailbox that was deleted and restored, for sessions that knew it before and those that come after."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sora.services.changes import GONE
from sora.services.delivery import AppendItem
from tests.support.imap import FIRST_DATE, ImapWorld, plain
from tests.support.node import open_node
from tests.unit.protocols.test_imap_session import Talk, connected

if TYPE_CHECKING:
    from pathlib import Path

    from sora.services.node import Node
    from sora.types import AccountId, MailboxId

WATCH = "NOTIFY SET (PERSONAL (MailboxName MessageNew MessageExpunge))"


@pytest.fixture
async def world(node: Node) -> ImapWorld:
    world = ImapWorld(node)
    await world.given("alice: INBOX=3 Box=2")
    await world.given("bob: INBOX=0")
    await node.changes.listening.wait()
    return world


async def bring_back(node: Node, account_id: AccountId) -> MailboxId:
    (box, *_) = await node.store.undelete.mailboxes(account_id)
    return (await node.store.undelete.restore_mailbox(account_id, box.mailbox_id)).mailbox_id


async def deliver(node: Node, account_id: AccountId, mailbox_id: MailboxId) -> None:
    await node.delivery.append(account_id, mailbox_id, [AppendItem(plain(9), (), FIRST_DATE)])


async def until(talk: Talk, wanted: bytes) -> None:
    async with asyncio.timeout(10):
        while wanted not in await talk.link.read_line():
            pass


async def test_who_comes_after_hears_its_news_though_an_old_session_lingers(world: ImapWorld, node: Node) -> None:
    """The old one had it selected, and says nothing since: it watches a mailbox that was told to be gone."""
    alice = world.accounts["alice"]
    async with connected(world) as old, connected(world) as other, connected(world) as new:
        await old.ask("SELECT Box")
        await other.ask("DELETE Box")
        box = await bring_back(node, alice)
        assert (await new.ask("SELECT Box"))[-1].startswith(b"OK [READ-WRITE]")
        await new.link.send(b"t IDLE\r\n")
        await until(new, b"+ idling")
        await deliver(node, alice, box)
        await until(new, b"3 EXISTS")
        await old.link.send(b"t NOOP\r\n")
        await until(old, b"* BYE [UNAVAILABLE] The selected mailbox was deleted")


async def test_one_that_was_not_told_goes_on(world: ImapWorld, node: Node, dsn: str, tmp_path: Path) -> None:
    """Deleted and restored by others while a session of this worker was silent: it has its mailbox as before."""
    alice = world.accounts["alice"]
    async with connected(world) as talk, open_node(dsn, tmp_path) as elsewhere:
        await talk.ask("SELECT Box")
        await elsewhere.store.mailboxes.delete(alice, "Box")
        box = await bring_back(elsewhere, alice)
        await deliver(elsewhere, alice, box)
        assert b"* 3 EXISTS" in await talk.ask("NOOP")


async def test_a_view_that_read_again_is_up_to_date(world: ImapWorld) -> None:
    """That it was gone once is no reason to read it before each command."""
    async with connected(world) as talk:
        await talk.ask("SELECT Box")
        view = talk.session.view.view
        view.signal(view.account_id, view.mailbox_id, GONE)
        assert view.stale
        await talk.ask("NOOP")
        assert not view.gone
        assert not view.stale


async def test_notify_tells_of_it_and_of_its_mail(world: ImapWorld, node: Node) -> None:
    alice = world.accounts["alice"]
    async with connected(world) as watcher, connected(world) as other:
        assert (await watcher.ask(WATCH))[-1].startswith(b"OK")
        await other.ask("DELETE Box")
        await until(watcher, rb"(\NonExistent)")
        box = await bring_back(node, alice)
        await until(watcher, b'"/" Box')
        await deliver(node, alice, box)
        await until(watcher, b"STATUS Box (MESSAGES 3")


async def test_it_is_what_it_was(world: ImapWorld, node: Node) -> None:
    """UIDVALIDITY, UIDs, rights of others, annotations, subscription, special use, and what a QRESYNC client knew."""
    alice = world.accounts["alice"]
    commands = [
        "CREATE Plans/Great/Old (USE (\\Flagged))", "APPEND Plans/Great/Old (\\Flagged) {3+}\r\nabc",
        "SUBSCRIBE Plans/Great/Old", "SETACL Plans/Great/Old bob@example.com lrs",
        'SETMETADATA Plans/Great/Old (/private/comment "mine" /shared/comment "ours")',
    ]  # fmt: skip
    questions = [
        "STATUS Plans/Great/Old (UIDVALIDITY UIDNEXT MESSAGES HIGHESTMODSEQ)", "GETACL Plans/Great/Old",
        "GETMETADATA Plans/Great/Old (/private/comment /shared/comment)", 'LIST (SUBSCRIBED) "" Plans/*',
        'LIST "" Plans/Great/Old RETURN (SPECIAL-USE SUBSCRIBED)',
    ]  # fmt: skip
    async with connected(world) as talk:
        for command in commands:
            assert (await talk.ask(command))[-1].startswith(b"OK"), command
        before = [await talk.ask(question) for question in questions]
        assert all(len(answer) == 2 for answer in before)
        for name in ("Plans/Great/Old", "Plans/Great", "Plans"):
            assert (await talk.ask(f"DELETE {name}"))[-1].startswith(b"OK")
        assert (await talk.ask('LIST "" Plans*')) == [b"OK LIST completed"]
        boxes = {box.name: box for box in await node.store.undelete.mailboxes(alice)}
        await node.store.undelete.restore_mailbox(alice, boxes["Plans/Great/Old"].mailbox_id)
        assert [await talk.ask(question) for question in questions] == before
        assert await talk.ask('LIST "" Plans*') == [
            rb'* LIST (\HasChildren) "/" Plans', rb'* LIST (\HasChildren) "/" Plans/Great',
            rb'* LIST (\HasNoChildren \Flagged) "/" Plans/Great/Old', b"OK LIST completed",
        ]  # fmt: skip
