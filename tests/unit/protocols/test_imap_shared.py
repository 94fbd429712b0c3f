"""Sessions in the mailboxes of others: rights that go while the notice is on its way, owners that end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sora.store.acl import Entry
from sora.types import ALL_RIGHTS, Rights
from tests.support.imap import ImapWorld

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session
    from sora.services.node import Node
    from tests.support.transcripts import Link

THEIRS = "Shared/alice@example.com/INBOX"


@pytest.fixture
async def world(node: Node) -> ImapWorld:
    """Bob has all rights in Alice's INBOX."""
    world = ImapWorld(node)
    await world.given("alice: INBOX=3")
    await world.given("bob: INBOX=0")
    await world.given("link 2: bob")
    await grant(world, ALL_RIGHTS)
    await node.changes.listening.wait()
    return world


async def grant(world: ImapWorld, rights: Rights) -> None:
    """As another node does it: this one hears nothing of it but the notice, and reads when it must."""
    alice, bob = world.accounts["alice"], world.accounts["bob"]
    inbox = (await world.node.store.mailboxes.get(alice, "INBOX")).mailbox_id
    modseq = await world.node.store.acl.set(alice, inbox, bob, Entry("bob@example.com", rights))
    assert modseq is not None
    world.node.changes.publish(alice, inbox, modseq)


async def command(link: Link, text: str) -> list[str]:
    """The lines that answer a command, as far as they come."""
    await link.send(f"t {text}\r\n".encode())
    lines = []
    while not lines or not lines[-1].startswith(("t ", "+ ")):
        lines.append((await link.read_line()).decode())
    return lines


@pytest.fixture
async def bob(world: ImapWorld) -> Link:
    link = await world.connect(2)
    assert (await command(link, f"SELECT {THEIRS}"))[-1].startswith("t OK")
    return link


NOT_YOURS = "* BYE [NOPERM] The selected mailbox is no longer yours to read"


async def test_a_url_in_the_selected_mailbox_takes_the_right_to_read_it_now(world: ImapWorld, bob: Link) -> None:
    await grant(world, ALL_RIGHTS & ~Rights.READ)
    lines = await command(bob, 'APPEND INBOX CATENATE (URL "/;UID=1")')
    assert lines[0] == NOT_YOURS
    assert lines[-1].startswith("t NO [BADURL /;UID=1]")
    assert len(await live(world, "bob")) == 0


@pytest.mark.parametrize("source", ["selected", f'mailboxes "{THEIRS}"'])
async def test_a_search_in_the_selected_mailbox_too(world: ImapWorld, bob: Link, source: str) -> None:
    await grant(world, ALL_RIGHTS & ~Rights.READ)
    assert await command(bob, f"ESEARCH IN ({source}) ALL") == [NOT_YOURS, "t NO [NOPERM] Permission denied"]


@pytest.mark.parametrize("right", [Rights.DELETE_MESSAGES, Rights.EXPUNGE])
async def test_a_message_is_replaced_with_the_rights_of_now(world: ImapWorld, bob: Link, right: Rights) -> None:
    await grant(world, ALL_RIGHTS & ~right)
    assert (await command(bob, "REPLACE 1 INBOX {5}"))[-1] == "t NO [NOPERM] Permission denied"
    assert await live(world, "alice") == [1, 2, 3]


async def live(world: ImapWorld, account: str) -> list[int]:
    account_id = world.accounts[account]
    inbox = await world.node.store.mailboxes.get(account_id, "INBOX")
    rows = await world.node.store.messages.list_messages(account_id, inbox.mailbox_id)
    return [row["uid"] for row in rows]


@pytest.mark.parametrize("waiting", ["NOOP", "IDLE", "NOTIFY SET (SELECTED (MessageNew MessageExpunge))"])
async def test_with_its_owner_a_mailbox_ends_for_all_who_have_it_selected(
    world: ImapWorld, bob: Link, waiting: str
) -> None:
    await command(bob, waiting)
    db = world.node.store.db
    await db.execute("UPDATE accounts SET deleted_at = now() WHERE account_id = $1", world.accounts["alice"])
    assert (await bob.read_line()).startswith(b"* BYE [UNAVAILABLE] ")


async def test_an_owner_that_ended_while_nobody_listened(world: ImapWorld, bob: Link) -> None:
    db = world.node.store.db
    await db.execute("ALTER TABLE accounts DISABLE TRIGGER account_changed")
    await db.execute("UPDATE accounts SET deleted_at = now() WHERE account_id = $1", world.accounts["alice"])
    await db.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = 'sora changes' AND datname = current_database()"
    )
    assert (await bob.read_line()).startswith(b"* BYE [UNAVAILABLE] ")


async def test_who_has_left_the_mailbox_is_not_ended_with_its_owner(world: ImapWorld, bob: Link) -> None:
    session: Session = bob.protocol  # type: ignore[assignment]
    assert session.guest_of == world.accounts["alice"]
    assert (await command(bob, "SELECT INBOX"))[-1].startswith("t OK")
    assert session.guest_of is None


async def test_what_a_deleted_account_has_shared_is_nobodys(world: ImapWorld, bob: Link) -> None:
    """Though the notice is late: whoever looks sees that the rights are gone."""
    db = world.node.store.db
    await db.execute("ALTER TABLE accounts DISABLE TRIGGER account_changed")
    await db.execute("UPDATE accounts SET deleted_at = now() WHERE account_id = $1", world.accounts["alice"])
    session: Session = bob.protocol  # type: ignore[assignment]
    await session.view.view.refresh()
    assert await command(bob, "FETCH 1 BODY[TEXT]") == [NOT_YOURS, "t NO [NOPERM] Permission denied"]
