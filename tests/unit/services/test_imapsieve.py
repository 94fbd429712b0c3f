"""Scripts that run when a mailbox changes (RFC 6785): what they cost, what they send, and what becomes of their events.

What each command and each action does is said in `tests/transcripts/imap/imapsieve*.txt`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from sora import config as configuration
from sora import metrics
from sora._native.seqset import UidSet
from sora.errors import BlobDown, DatabaseDown, OverQuota
from sora.net.listener import Listener
from sora.protocols.imap import connection_factory
from sora.services.delivery import AppendItem
from sora.services.filters import imapsieve
from sora.services.filters.imapsieve import ImapSieve, url_of
from sora.services.filters.scriptnames import Named, ScriptNames
from sora.services.logins.auth import Identity
from sora.store import events
from sora.store.events import CHANNEL, ENTRY, Event
from sora.store.metadata import SERVER, Place
from sora.types import AccountId, MailboxId
from tests.support.filters import MAIL, FilterWorld
from tests.support.node import open_node
from tests.support.transcripts import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.node import Node
    from sora.store.blobs import BlobRef

URL = "sieve://sieve.example.com"
FLAG = 'require "imap4flags"; addflag "ran";'


class World(FilterWorld):
    """Accounts with scripts, and their IMAP sessions."""

    async def connect(self, name: str = "alice") -> Link:
        session = connection_factory(self.node, Listener("imap", "127.0.0.1:143"))()
        link = Link(session)
        await link.read_line()
        session.log_in(Identity(self.accounts[name], f"{name}@example.com"))
        return link

    async def bind(self, mailbox: str, script: str, name: str = "alice") -> None:
        """Give a mailbox a script of the same name."""
        await self.put(name, script, mailbox, active=False)
        await self.annotate(name, await self.number(mailbox, name), ENTRY, mailbox.encode())
        self.node.imapsieve.names.forget(self.accounts[name])

    async def number(self, mailbox: str, name: str = "alice") -> MailboxId:
        return (await self.node.store.mailboxes.get(self.accounts[name], mailbox)).mailbox_id

    async def events(self) -> list[Any]:
        """Rows of `imap_events`: how far each is, its UIDs aside, and how often it was claimed."""
        return [
            tuple(row)
            for row in await self.node.store.db.fetch(
                "SELECT cause, done_to, attempts FROM imap_events ORDER BY event_id"
            )
        ]

    async def flags(self, mailbox: str, name: str = "alice") -> list[tuple[str, ...]]:
        return [message.flags for message in (await self.boxes(name)).get(mailbox, [])]

    async def note(self, mailbox: str, *uids: int, script: str = "", **changes: Any) -> Event:
        """Write an event down, for nobody."""
        event = Event(
            account_id=self.accounts["alice"],
            mailbox_id=await self.number(mailbox),
            script=script or mailbox,
            everywhere=False,
            cause="COPY",
            uids=UidSet.from_numbers(uids),
            actor_id=self.accounts["alice"],
            login="alice@example.com",
        )
        event = replace(event, **changes)
        return replace(event, event_id=await self.node.store.events.add(event, 0.0))


async def ask(link: Link, command: str) -> list[str]:
    """Answers to a command; the tagged one is OK."""
    await link.send(f"a {command}\r\n".encode())
    lines = []
    while not (line := (await link.read_line()).decode()).startswith("a "):
        lines.append(line)
    assert line.startswith("a OK"), line
    return lines


@pytest.fixture
async def node(dsn: str, tmp_path: Path) -> AsyncIterator[Node]:
    async with open_node(dsn, tmp_path, sieve={"url": URL}) as node:
        await asyncio.wait_for(node.changes.listening.wait(), 10)
        yield node


@pytest.fixture
async def world(node: Node) -> World:
    world = World(node)
    await world.account("alice", "", "Work", "Log")
    await world.deliver()
    return world


# ---------------------------------------------------------------------------------------------------- what it costs


async def test_a_mailbox_without_a_script_costs_no_statement(world: World) -> None:
    await world.bind("Log", FLAG)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    counts = []
    for url in (URL, ""):
        config = world.node.config
        world.node.config = replace(config, sieve=replace(config.sieve, url=url))
        await ask(link, "COPY 1 Work")
        with world.counting() as statements:
            await ask(link, "COPY 1 Work")
            await ask(link, r"STORE 1 +FLAGS.SILENT (\Flagged)")
            await ask(link, r"STORE 1 -FLAGS.SILENT (\Flagged)")
            counts.append(len(statements))
        world.node.config = config
    assert counts[0] == counts[1] > 0
    await link.hang_up()


async def test_one_with_a_script_costs_one_and_the_answer_waits_for_no_script(world: World) -> None:
    await world.bind("Work", FLAG)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    for _ in range(imapsieve.RUNS):
        await world.node.imapsieve.turns.acquire()
    with world.counting() as statements:
        await ask(link, "COPY 1 Work")
    assert [sql.split(" (")[0] for sql in statements if "imap_events" in sql] == ["INSERT INTO imap_events"]
    assert await world.flags("Work") == [()]
    assert await world.events() == [("COPY", 0, 0)]
    for _ in range(imapsieve.RUNS):
        world.node.imapsieve.turns.release()
    await world.node.imapsieve.settled()
    assert await world.flags("Work") == [("ran",)]
    assert await world.events() == []
    await link.hang_up()


async def test_nothing_runs_where_no_managesieve_is_served(dsn: str, tmp_path: Path) -> None:
    async with open_node(dsn, tmp_path) as node:
        world = World(node)
        await world.account("alice", "", "Work")
        await world.deliver()
        await world.bind("Work", FLAG)
        link = await world.connect()
        assert "IMAPSIEVE" not in (await ask(link, "CAPABILITY"))[0]
        await ask(link, "SELECT INBOX")
        await ask(link, "COPY 1 Work")
        await node.imapsieve.settled()
        assert await world.flags("Work") == [()]
        await link.hang_up()


# ---------------------------------------------------------------------------------------------------- what it sends


async def test_redirect_is_queued_with_the_owner_as_sender(world: World) -> None:  # RFC 6785 §3.4, §5 example 1
    await world.bind(
        "Work",
        """require ["copy", "environment", "imapsieve"];
        if anyof (environment :is "imap.cause" "APPEND", environment :is "imap.cause" "COPY")  {
          if environment :is "imap.mailbox" "Work" { redirect :copy "actionitems@example.com"; }
        }""",
    )
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    await ask(link, "COPY 1 Work")
    await ask(link, "SELECT Work")
    await ask(link, r"STORE 1 +FLAGS.SILENT (\Flagged)")
    await world.node.imapsieve.settled()
    (mail,) = await world.queued()
    assert (mail.kind, mail.sender, mail.recipient) == ("redirect", "alice@example.com", "actionitems@example.com")
    assert mail.header == b"X-Sieve-Redirected-From: alice@example.com\r\n"
    assert mail.content_id is not None
    assert await world.flags("Work") == [(r"\flagged",)]
    await link.hang_up()


async def test_redirect_without_keep_marks_the_message(world: World) -> None:  # RFC 6785 §3.4
    await world.bind("Work", 'redirect "bob@example.net";')
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    await ask(link, "COPY 1 Work")
    await world.node.imapsieve.settled()
    assert [mail.recipient for mail in await world.queued()] == ["bob@example.net"]
    assert await world.flags("Work") == [(r"\deleted",)]
    await link.hang_up()


async def test_what_was_redirected_from_here_is_not_again(world: World) -> None:
    await world.bind("Work", 'redirect "bob@example.net";')
    link = await world.connect()
    mail = b"X-Sieve-Redirected-From: Alice@example.com\r\n" + MAIL
    await link.send(b"a APPEND Work {%d+}\r\n%s\r\n" % (len(mail), mail))
    assert (await link.read_line()).startswith(b"a OK")
    await world.node.imapsieve.settled()
    assert await world.queued() == []
    assert await world.flags("Work") == [()]
    await link.hang_up()


async def test_notify(world: World) -> None:  # RFC 6785 §3.6, §5 example 2
    await world.bind(
        "Work",
        r"""require ["enotify", "imap4flags", "variables", "environment", "imapsieve"];
        if environment :matches "imap.mailbox" "*" { set "mailbox" "${1}"; }
        if allof (hasflag "\\Flagged", environment :contains "imap.changedflags" "\\Flagged") {
          notify :message "Important message in ${mailbox}" "mailto:tim@example.com";
        }""",
    )
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    await ask(link, "COPY 1 Work")
    await ask(link, "SELECT Work")
    for command in (r"+FLAGS (\Seen)", r"+FLAGS (\Flagged)", r"+FLAGS (\Answered)", r"-FLAGS (\Flagged)"):
        await ask(link, f"STORE 1 {command}")
        await world.node.imapsieve.settled()
    (mail,) = await world.queued()
    assert (mail.kind, mail.recipient) == ("notify", "tim@example.com")
    assert mail.body is not None
    assert b"Important message in Work" in mail.body
    assert await world.flags("Work") == [(r"\answered", r"\seen")]
    await link.hang_up()


async def test_edited_versions_leave_and_the_message_stays(world: World) -> None:  # RFC 6785 §3.1, §3.7
    script = 'require ["editheader", "fileinto"]; addheader "X-A" "b"; fileinto "Log"; redirect "b@example.net"; keep;'
    await world.bind("Work", script)
    link = await world.connect()
    await link.send(b"a APPEND Work {%d+}\r\n%s\r\n" % (len(MAIL), MAIL))
    await link.read_line()
    await world.node.imapsieve.settled()
    boxes = await world.boxes()
    assert [message.octets for message in boxes["Work"]] == [MAIL]
    assert [message.octets for message in boxes["Log"]] == [b"X-A: b\r\n" + MAIL]
    (mail,) = await world.queued()
    hashes = "SELECT count(*) FROM message_contents WHERE content_id = $1 AND size = $2"
    assert await world.node.store.db.fetchval(hashes, mail.content_id, len(MAIL) + 8) == 1
    await link.hang_up()


async def test_discarded_mail_can_be_expunged_at_once(dsn: str, tmp_path: Path) -> None:  # RFC 6785 §2.2.4
    async with open_node(dsn, tmp_path, sieve={"url": URL, "expunge_discarded": True}) as node:
        world = World(node)
        await world.account("alice", "", "Work")
        await world.deliver()
        link = await world.connect()
        await ask(link, "SELECT INBOX")
        await ask(link, "COPY 1 Work")
        await ask(link, "SELECT Work")
        await ask(link, r"STORE 1 +FLAGS.SILENT (\Deleted)")
        await world.bind("Work", 'require "environment"; if environment "imap.cause" "COPY" { discard; }')
        await ask(link, "SELECT INBOX")
        await ask(link, "COPY 1 Work")
        await node.imapsieve.settled()
        assert await world.flags("Work") == [(r"\deleted",)], "no other message goes"
        await link.hang_up()


# ---------------------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ('require "fileinto"; fileinto "Not there";', 'line 1: fileinto "Not there": there is no such mailbox'),
        ('require "vacation"; discard;', "RFC 6785 §3.11"),
        ('require "envelope"; if envelope "from" "x" { discard; }', "RFC 6785 §4.6"),
        ('require ["ihave"]; error "stop here";', "stop here"),
        ("rubbish;", "rubbish"),
    ],
)
async def test_a_script_that_fails_leaves_the_message_and_is_told(
    script: str, says: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.bind("Work", script)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    with caplog.at_level(logging.WARNING):
        await ask(link, "COPY 1 Work")
        await world.node.imapsieve.settled()
    assert await world.flags("Work") == [()]
    assert await world.events() == []
    told = [record for record in caplog.records if record.message == "script failed"]
    assert [says in record.__dict__["error"] for record in told] == [True]
    await link.hang_up()


async def test_edited_versions_and_made_mail_have_room_for_so_much(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = """require ["editheader", "enotify", "environment", "fileinto"];
        if environment "imap.mailbox" "Work" { addheader "X-A" "b"; fileinto "Log"; }
        else { notify "mailto:a@example.net"; }"""
    async with open_node(dsn, tmp_path, sieve={"url": URL, "max_edited": len(MAIL), "max_made": 20}) as node:
        world = World(node)
        await world.account("alice", "", "Work", "Other", "Log")
        await world.deliver()
        for mailbox in ("Work", "Other"):
            await world.bind(mailbox, script)
        link = await world.connect()
        await ask(link, "SELECT INBOX")
        with caplog.at_level(logging.WARNING):
            await ask(link, "COPY 1 Work")
            await ask(link, "COPY 1 Other")
            await node.imapsieve.settled()
        assert set(await world.boxes()) == {"INBOX", "Work", "Other"}
        assert await world.queued() == []
        told = sorted(record.__dict__["error"] for record in caplog.records if record.message == "script failed")
        assert [text.partition("line ")[2][:30] for text in told] == [
            "3: The mail that is made has m",
            "2: The edited versions of this",
        ]
        await link.hang_up()


async def test_a_full_queue_leaves_the_message(dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_node(dsn, tmp_path, sieve={"url": URL, "max_queued": 1}) as node:
        world = World(node)
        await world.account("alice", "", "Work")
        await world.deliver()
        await world.bind("Work", 'redirect "a@example.net";')
        link = await world.connect()
        await ask(link, "SELECT INBOX")
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                await ask(link, "COPY 1 Work")
                await node.imapsieve.settled()
        assert len(await world.queued()) == 1
        assert await world.flags("Work") == [(r"\deleted",), ()]
        assert "too much mail" in caplog.records[-1].__dict__["error"]
        await link.hang_up()


async def test_over_quota_is_a_failure_and_nothing_is_half_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_arguments: Any, **_more: Any) -> None:
        raise OverQuota

    await world.bind("Work", 'require "fileinto"; fileinto "Log";')
    await world.deliver(MAIL + b"another\r\n")
    monkeypatch.setattr(world.node.delivery, "file", refuse)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    await ask(link, "COPY 1:2 Work")
    await world.node.imapsieve.settled()
    assert await world.flags("Work") == [(), ()]
    assert await world.events() == []
    await link.hang_up()


async def test_a_command_is_done_even_if_its_event_cannot_be_noted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_arguments: Any) -> int:
        raise DatabaseDown

    await world.bind("Work", FLAG)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    monkeypatch.setattr(world.node.store.events, "add", away)
    await ask(link, "COPY 1 Work")
    await world.node.imapsieve.settled()
    assert await world.flags("Work") == [("ran",)], "its script has run all the same"
    await link.hang_up()


async def test_what_is_away_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_arguments: Any) -> bytes:
        raise BlobDown

    await world.bind("Work", FLAG)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    with monkeypatch.context() as patch:
        patch.setattr(world.node.bodies, "get_now", lambda _ref: None)
        patch.setattr(world.node.bodies, "get", away)
        await ask(link, "COPY 1 Work")
        await world.node.imapsieve.settled()
    assert await world.events() == [("COPY", 0, 0)]
    assert await world.node.imapsieve.sweep() == 0, "not at once"
    await world.node.store.db.execute("UPDATE imap_events SET claimed_until = clock()")
    assert await world.node.imapsieve.sweep() == 1
    await world.node.imapsieve.settled()
    assert await world.flags("Work") == [("ran",)]
    assert await world.events() == []
    await link.hang_up()


async def test_another_try_finds_no_duplicate_of_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'require ["duplicate", "fileinto", "imap4flags"]; addflag "ran"; if duplicate { fileinto "Log"; }'
    await world.bind("Work", script)
    await world.node.delivery.append(
        world.accounts["alice"], await world.number("Work"), [AppendItem(MAIL), AppendItem(MAIL)]
    )
    await world.note("Work", 1)

    async def away(*_args: Any, **_named: Any) -> None:
        raise DatabaseDown

    with monkeypatch.context() as patch:
        patch.setattr(world.node.store.messages, "store_flags", away)
        await world.node.imapsieve.sweep()
        await world.node.imapsieve.settled()
    await world.node.store.db.execute("UPDATE imap_events SET claimed_until = clock()")
    assert await world.node.imapsieve.sweep() == 1
    await world.node.imapsieve.settled()
    assert await world.events() == []
    assert await world.flags("Log") == []
    await world.note("Work", 2)
    assert await world.node.imapsieve.sweep() == 1
    await world.node.imapsieve.settled()
    assert await world.flags("Log") == [("ran",)], "another message is one"


async def test_what_kills_its_process_again_and_again_is_given_up(world: World) -> None:
    await world.bind("Work", FLAG)
    await world.note("Work", 1)
    await world.node.store.db.execute("UPDATE imap_events SET attempts = $1", imapsieve.MAX_ATTEMPTS)
    await world.node.imapsieve.sweep()
    await world.node.imapsieve.settled()
    assert await world.events() == []


# ---------------------------------------------------------------------------------------------- more than can be done


async def test_many_changes_are_put_together_and_none_is_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CROWDED", 1)
    await world.bind("Work", FLAG)
    await world.node.delivery.append(
        world.accounts["alice"], await world.number("Work"), [AppendItem(MAIL) for _ in range(8)]
    )
    for _ in range(imapsieve.RUNS):
        await world.node.imapsieve.turns.acquire()
    link = await world.connect()
    await ask(link, "SELECT Work")
    for uid in ("1", "5:7", "3", "8", "6,2", "4"):
        await ask(link, rf"UID STORE {uid} +FLAGS.SILENT (\Flagged)")
    await ask(link, r"UID STORE 4 +FLAGS.SILENT (\Seen)")
    rows = await world.node.store.db.fetch(
        "SELECT changed_flags, lows, highs, attempts FROM imap_events ORDER BY event_id"
    )
    assert [tuple(row) for row in rows] == [
        (r"\Flagged", [1], [1], 0),
        (r"\Flagged", [2], [8], -1),
        (r"\Seen", [4], [4], -1),
    ]
    for _ in range(imapsieve.RUNS):
        world.node.imapsieve.turns.release()
    await world.node.imapsieve.settled()
    assert ["ran" in flags for flags in await world.flags("Work")] == [True, *[False] * 7]
    assert await world.node.imapsieve.sweep() == 2
    await world.node.imapsieve.settled()
    assert ["ran" in flags for flags in await world.flags("Work")] == [True] * 8
    assert await world.events() == []
    await link.hang_up()


@pytest.mark.parametrize(
    "other",
    [
        {"mailbox_id": 99}, {"script": "x"}, {"everywhere": True}, {"cause": "FLAG"}, {"changed_flags": "x"},
        {"actor_id": 99}, {"login": "x"}, {"uids": UidSet.from_numbers(range(1, 200, 2))},
    ],
)  # fmt: skip
async def test_only_what_is_alike_is_put_together(world: World, other: dict[str, Any]) -> None:
    event = await world.note("Work", 300)
    assert await world.node.store.events.join(replace(event, **other))
    assert await world.node.store.events.join(replace(event, uids=UidSet.from_numbers([302])))
    rows = await world.node.store.db.fetch("SELECT lows FROM imap_events ORDER BY event_id")
    assert len(rows) == 2
    assert rows[0][0] == [300, 302]


async def test_nothing_is_put_into_what_somebody_has_begun(world: World) -> None:
    await world.note("Work", 1)
    (begun,) = await world.node.store.events.claim(1, 60.0)
    assert begun.attempts == 0
    await world.node.store.events.release(begun)
    assert await world.node.store.events.join(begun)
    assert await world.events() == [("COPY", 0, 0), ("COPY", 0, -1)]


async def test_an_account_has_so_many_at_most_and_no_command_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "CROWDED", 1)
    monkeypatch.setattr(events, "MOST", 2)
    await world.bind("Work", FLAG)
    event = await world.note("Work", 1, changed_flags="x")
    assert await world.node.store.events.join(replace(event, changed_flags="y"))
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    before = metrics.imap_events.labels("dropped")._value.get()
    with caplog.at_level(logging.WARNING):
        assert await ask(link, "COPY 1 Work") == []
    assert len(await world.flags("Work")) == 1
    assert "too many changes of the account wait" in caplog.text
    assert metrics.imap_events.labels("dropped")._value.get() == before + 1
    assert len(await world.events()) == 2
    await world.account("bob", "", "Work")
    await world.node.store.events.add(replace(event, account_id=world.accounts["bob"]), 0.0)
    assert len(await world.events()) == 3, "others have room"
    await link.hang_up()


# ---------------------------------------------------------------------------------------------------- who dies


async def test_another_process_goes_on_behind_the_last_message(world: World) -> None:
    await world.bind("Work", FLAG)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    async with open_other(world) as other:
        for _ in range(imapsieve.RUNS):
            await world.node.imapsieve.turns.acquire()
        await ask(link, "COPY 1 Work")
        await ask(link, "COPY 1 Work")
        assert await other.sweep() == 0, "the claims hold"
        await world.node.store.db.execute("UPDATE imap_events SET claimed_until = clock(), done_to = 1")
        assert await other.sweep() == 2
        await other.settled()
        assert await world.flags("Work") == [(), ("ran",)], "the first one was done"
        assert await world.events() == []
    for _ in range(imapsieve.RUNS):
        world.node.imapsieve.turns.release()
    await world.node.imapsieve.settled()
    await link.hang_up()


class open_other:
    """Another process of the same database."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._other = ImapSieve(world.node.imapsieve.names)

    async def __aenter__(self) -> ImapSieve:
        self._other.begin(self._world.node)
        return self._other

    async def __aexit__(self, *_: object) -> None:
        await self._other.close()


@pytest.mark.parametrize("dies", ["imapsieve.stored", "imapsieve.flagged"])
async def test_a_second_try_doubles_nothing(world: World, dies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(point: str) -> None:
        if point == dies:
            raise asyncio.CancelledError

    await world.bind("Work", 'require "fileinto"; fileinto "Log"; redirect "bob@example.net";')
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    with monkeypatch.context() as patch:
        patch.setattr("sora.services.filters.imapruns.crash_point", die)
        await ask(link, "COPY 1 Work")
        await world.node.imapsieve.settled()
    assert len(await world.flags("Log")) == len(await world.queued()) == 1
    assert await world.flags("Work") == [(r"\deleted",) if dies == "imapsieve.flagged" else ()]
    assert await world.events() == [("COPY", 0, 0)]
    await world.node.store.db.execute("UPDATE imap_events SET claimed_until = clock()")
    assert await world.node.imapsieve.sweep() == 1
    await world.node.imapsieve.settled()
    assert len(await world.flags("Log")) == len(await world.queued()) == 1
    assert await world.flags("Work") == [(r"\deleted",)]
    assert await world.events() == []
    await link.hang_up()


async def test_who_has_lost_its_claim_stops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.bind("Work", FLAG)
    link = await world.connect()
    for number in range(2):
        await world.deliver(MAIL + b"%d\r\n" % number)
    await ask(link, "SELECT INBOX")
    real = world.node.store.events.keep

    async def lost(event: Event, done_to: int, claim_s: float) -> bool:
        await world.node.store.db.execute("UPDATE imap_events SET attempts = attempts + 1")
        return await real(event, done_to, claim_s)

    monkeypatch.setattr(world.node.store.events, "keep", lost)
    await ask(link, "COPY 1:3 Work")
    await world.node.imapsieve.settled()
    assert await world.flags("Work") == [("ran",), (), ()]
    assert await world.events() == [("COPY", 0, 1)]
    await link.hang_up()


async def test_a_process_that_ends_lets_others_go_on(world: World) -> None:
    await world.bind("Work", FLAG)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    await world.node.imapsieve.turns.acquire()
    await world.node.imapsieve.turns.acquire()
    await ask(link, "COPY 1 Work")
    await ask(link, "COPY 1 Work")
    closing = asyncio.create_task(world.node.imapsieve.close())
    await asyncio.sleep(0)
    world.node.imapsieve.turns.release()
    world.node.imapsieve.turns.release()
    await closing
    async with open_other(world) as other:
        await other.sweep()
        await other.settled()
    assert await world.flags("Work") == [("ran",), ("ran",)]
    assert await world.events() == []
    await link.hang_up()


async def test_what_does_not_fit_into_memory_waits_in_the_database(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imapsieve, "MAX_WAITING", 0)
    await world.bind("Work", FLAG)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    await ask(link, "COPY 1 Work")
    await world.node.imapsieve.settled()
    assert await world.events() == [("COPY", 0, -1)]
    assert await world.node.imapsieve.sweep() == 1
    await world.node.imapsieve.settled()
    assert await world.flags("Work") == [("ran",)]
    await link.hang_up()


async def test_gone_messages_mailboxes_scripts_and_accounts_end_their_events(world: World) -> None:
    await world.bind("Work", FLAG)
    await world.note("Work", 1, 2, 3)
    await world.note("Work", 1, script="no such script")
    await world.note("Work", 1, mailbox_id=MailboxId(12345))
    bob = await world.account("bob")
    await world.note("Work", 1, account_id=bob)
    await world.node.store.accounts.delete(bob)
    await world.node.imapsieve.sweep()
    await world.node.imapsieve.settled()
    assert await world.events() == []


async def test_a_large_copy_is_worked_on_in_pieces(world: World) -> None:
    await world.bind("Work", FLAG)
    for number in range(imapsieve.CHUNK + 4):
        await world.deliver(MAIL + b"%d\r\n" % number)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    await ask(link, "COPY 1:* Work")
    await world.node.imapsieve.settled()
    assert set(await world.flags("Work")) == {("ran",)}
    assert await world.events() == []
    await link.hang_up()


async def test_what_is_far_apart_is_looked_up_together(world: World) -> None:
    """A STORE of every other message costs no more statements than one of all."""
    await world.bind("Work", 'if header "subject" "nobody has this" { discard; }')
    for number in range(2 * imapsieve.CHUNK):
        await world.deliver(MAIL + b"%d\r\n" % number)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    await ask(link, "COPY 1:* Work")
    await world.node.imapsieve.settled()
    await ask(link, "SELECT Work")
    odd = ",".join(str(number) for number in range(1, 2 * imapsieve.CHUNK, 2))
    with world.counting() as statements:
        await ask(link, rf"STORE {odd} +FLAGS.SILENT (\Flagged)")
        await world.node.imapsieve.settled()
    assert sum("CROSS JOIN LATERAL" in sql for sql in statements) == 1
    assert await world.events() == []
    await link.hang_up()


async def test_what_waits_long_stays_with_who_has_it(world: World) -> None:
    """Each time that a claim ends counts as a death of a process, and some of them are the end of an event."""
    await world.bind("Work", FLAG)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    sieve = world.node.imapsieve
    for _ in range(imapsieve.RUNS):
        await sieve.turns.acquire()
    await ask(link, "COPY 1 Work")
    await ask(link, "COPY 1 Work")
    await world.note("Work", 1)
    await world.node.store.db.execute("UPDATE imap_events SET claimed_until = clock()")
    await sieve.renew()
    async with open_other(world) as other:
        assert await other.sweep() == 1, "the one that nobody has"
        for _ in range(imapsieve.RUNS):
            sieve.turns.release()
        await sieve.settled()
        await other.settled()
    assert await world.events() == []
    assert await world.flags("Work") == [("ran",), ("ran",)]
    assert sieve._held == {}
    await link.hang_up()


async def test_claims_are_renewed_now_and_then(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = asyncio.Event()

    async def renew() -> None:
        renewed.set()

    monkeypatch.setattr(imapsieve, "SWEEP_S", 0.01)
    async with open_other(world) as other:
        monkeypatch.setattr(other, "renew", renew)
        await asyncio.wait_for(renewed.wait(), 10)


async def test_who_comes_later_does_not_renew_what_others_have(world: World) -> None:
    await world.bind("Work", FLAG)
    await world.note("Work", 1)
    mine = (await world.node.store.events.claim(1, 0.0))[0]
    theirs = (await world.node.store.events.claim(1, 0.0))[0]
    await world.node.store.events.renew([mine], 100.0)
    assert [event.event_id for event in await world.node.store.events.claim(1, 0.0)] == [theirs.event_id]


async def test_a_message_that_cannot_be_read_does_not_keep_others_from_their_script(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world.node.bodies.get

    async def get(ref: BlobRef) -> bytes:
        if ref.size == bad:
            raise BlobDown
        return bytes(await real(ref))

    await world.bind("Work", FLAG)
    for text in (b"bad", b"good"):
        await world.deliver(MAIL + text * 9 + b"\r\n")
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    bad = await world.node.store.db.fetchval("SELECT size FROM messages WHERE uid = 2")
    monkeypatch.setattr(world.node.bodies, "get_now", lambda _ref: None)
    monkeypatch.setattr(world.node.bodies, "get", get)
    await ask(link, "COPY 1:3 Work")
    await world.node.imapsieve.settled()
    assert await world.flags("Work") == [("ran",), (), ()]
    await world.node.store.db.execute(
        "UPDATE imap_events SET claimed_until = clock(), attempts = $1", imapsieve.MAX_ATTEMPTS - 1
    )
    assert await world.node.imapsieve.sweep() == 1
    await world.node.imapsieve.settled()
    assert await world.flags("Work") == [("ran",), (), ("ran",)]
    assert await world.events() == []
    await link.hang_up()


# ---------------------------------------------------------------------------------------------------- whose script


@pytest.mark.parametrize("value", [b"a\0b", b"\xff", b"x" * 513, b"a\r\nb"])
async def test_what_no_script_is_called_names_none(world: World, value: bytes) -> None:
    await world.annotate("alice", await world.number("Work"), ENTRY, value)
    world.node.imapsieve.names.forget(world.accounts["alice"])
    assert await world.node.imapsieve.script_of(world.accounts["alice"], await world.number("Work")) is None


async def test_a_name_may_be_spelled_otherwise(world: World) -> None:
    """As ManageSieve's may (RFC 5198 §2)."""
    await world.annotate("alice", await world.number("Work"), ENTRY, "u\u0308".encode())
    world.node.imapsieve.names.forget(world.accounts["alice"])
    named = await world.node.imapsieve.script_of(world.accounts["alice"], await world.number("Work"))
    assert named == Named("\u00fc", everywhere=False)


async def test_the_name_of_the_server_also_means_scripts_of_the_site(dsn: str, tmp_path: Path) -> None:
    folder = tmp_path / "sieve"
    folder.mkdir()
    (folder / "site.sieve").write_text('require "imap4flags"; addflag "site";')
    async with open_node(dsn, tmp_path, sieve={"url": URL, "global_dir": str(folder)}) as node:
        world = World(node)
        await world.account("alice", "", "Work", "Log")
        await world.account("bob", "", "Work")
        await world.deliver(MAIL, "alice", "bob")
        await world.put("bob", 'require "imap4flags"; addflag "own";', "site", active=False)
        await node.store.metadata.set(SERVER, SERVER.account_id, {ENTRY: b"site"})
        await world.annotate("alice", await world.number("Log"), ENTRY, b"site")
        for name in ("alice", "bob"):
            link = await world.connect(name)
            await ask(link, "SELECT INBOX")
            await ask(link, "COPY 1 Work")
            if name == "alice":
                await ask(link, "COPY 1 Log")
            await link.hang_up()
        await node.imapsieve.settled()
        assert await world.flags("Work") == [("site",)]
        assert await world.flags("Work", "bob") == [("own",)], "the account's own one goes first"
        assert await world.flags("Log") == [()], "a mailbox names scripts of its owner"


async def test_a_changed_script_is_used_from_then_on(world: World) -> None:
    await world.bind("Work", FLAG)
    link = await world.connect()
    await ask(link, "SELECT INBOX")
    for number in range(2):
        await world.put("alice", f'require "imap4flags"; addflag "v{number}";', "Work", active=False)
        await ask(link, "COPY 1 Work")
        await world.node.imapsieve.settled()
    assert await world.flags("Work") == [("v0",), ("v1",)]
    await link.hang_up()


# ---------------------------------------------------------------------------------------------------- names


async def test_names_are_heard_of(world: World) -> None:
    names, account_id, work = world.node.imapsieve.names, world.accounts["alice"], await world.number("Work")
    heard: asyncio.Queue[str] = asyncio.Queue()
    world.node.changes.hear(CHANNEL, heard.put_nowait)
    assert await names.find(account_id, work) is None
    await world.annotate("alice", work, "/shared/comment", b"nobody is told")
    for value, found in ((b"one", Named("one", everywhere=False)), (b"", None)):
        await world.annotate("alice", work, ENTRY, value)
        assert await asyncio.wait_for(heard.get(), 10) == f"{account_id:x}"
        assert await names.find(account_id, work) == found
    await world.node.store.metadata.set(SERVER, SERVER.account_id, {ENTRY: b"two"})
    assert await asyncio.wait_for(heard.get(), 10) == "0"
    assert await names.find(account_id, work) is None
    await world.node.store.metadata.set(Place(account_id, work), account_id, {ENTRY: None})
    assert await asyncio.wait_for(heard.get(), 10) == f"{account_id:x}"
    assert await names.find(account_id, work) == Named("two", everywhere=True)
    assert heard.empty()


@pytest.mark.parametrize("most", [0, 100])
async def test_names_by_notices_and_by_looking(world: World, most: int) -> None:
    """All names are remembered, or those of accounts that were asked for; a notice ends that."""
    account_id, work, log = world.accounts["alice"], await world.number("Work"), await world.number("Log")
    listening = asyncio.Event()
    names = ScriptNames(world.node.store.events, listening, most)
    await world.annotate("alice", work, ENTRY, b"one")
    await world.node.store.metadata.set(SERVER, SERVER.account_id, {ENTRY: b"two"})
    with world.counting() as statements:
        assert names.peek(account_id, work) is None
        assert await names.find(account_id, work) == Named("one", everywhere=False)
        assert len(statements) == 2, "nothing is remembered while nobody listens"
        assert names.peek(account_id, work) is None
        listening.set()
        names.missed()
        assert names._reading is not None
        await names._reading
        statements.clear()
        assert await names.find(account_id, log) == Named("two", everywhere=True)
        assert len(statements) == (2 if most == 0 else 0)
        statements.clear()
        assert names.peek(account_id, work) == (Named("one", everywhere=False),)
        assert await names.find(account_id, log) == Named("two", everywhere=True)
        assert await names.find(AccountId(999), log) == Named("two", everywhere=True)
        assert len(statements) == (1 if most == 0 else 0)
    await world.annotate("alice", work, ENTRY, b"")
    names.heard(f"{account_id:x}")
    assert names.peek(account_id, work) is None
    assert await names.find(account_id, work) is None
    listening.clear()
    assert names.peek(account_id, work) is None
    await names.close()


async def test_a_notice_while_names_are_read_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    account_id, work = world.accounts["alice"], await world.number("Work")
    listening = asyncio.Event()
    listening.set()
    names = ScriptNames(world.node.store.events, listening)
    real = world.node.store.events.script_names

    async def slow(of: AccountId) -> dict[MailboxId, str]:
        found = await real(of)
        if of == account_id:
            names.forget(account_id)  # it comes before the answer is there
        return found

    with monkeypatch.context() as patch:
        patch.setattr(world.node.store.events, "script_names", slow)
        assert await names.find(account_id, work) is None
    assert names.peek(account_id, work) is None
    await names.close()


# ---------------------------------------------------------------------------------------------------- the URL


@pytest.mark.parametrize(
    ("table", "url"),
    [
        (None, ""),
        ({"listen": ["127.0.0.1:4190"], "enabled": False}, ""),
        ({"listen": ["127.0.0.1:4190"]}, "sieve://127.0.0.1"),
        ({"listen": ["10.0.0.1:4191"]}, "sieve://10.0.0.1:4191"),
        ({"listen": ["0.0.0.0:4190"]}, "sieve://mail.example.com"),
        ({"listen": ["[::]:4192"]}, "sieve://mail.example.com:4192"),
        ({"listen": ["[::1]:4190"]}, "sieve://mail.example.com"),
    ],
)
def test_url(table: dict[str, object] | None, url: str) -> None:
    config = configuration.Config()
    if table is not None:
        server = configuration.ServerTable(**{**table, "listen": tuple(table["listen"])})  # type: ignore[arg-type,call-overload]
        config = replace(config, servers=replace(config.servers, managesieve=server))
    assert url_of(config, "mail.example.com") == url
    configured = replace(config, sieve=replace(config.sieve, url="sieve://x.example"))
    assert url_of(configured, "mail.example.com") == "sieve://x.example"
