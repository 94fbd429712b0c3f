"""Filters of deliveries, through LMTP and with a real database."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sora._native.seqset import UidSet
from sora.mime.text import decode_words
from sora.store.effects import reply_entry
from sora.types import DELETED
from tests.support.filters import MAIL, SENDER, FilterWorld, filter_world
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.node import Node

STORED = "250 2.0.0 Stored"


@pytest.fixture
async def world(node: Node) -> AsyncIterator[FilterWorld]:
    async with filter_world(node) as world:
        yield world


class Site:
    """Files of the site's scripts, and a node that has them."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.folder = folder / "site"
        self.folder.mkdir()
        self._dsn = dsn
        self._node_folder = folder

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    async def open(self, **table: object) -> AsyncIterator[FilterWorld]:
        async with open_node(self._dsn, self._node_folder, sieve=table) as node, filter_world(node) as world:
            yield world


@pytest.fixture
def site(dsn: str, tmp_path: Path) -> Site:
    return Site(dsn, tmp_path)


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
        rows = await world.node.store.db.fetch("SELECT count(*) AS n FROM message_contents")
        assert rows[0]["n"] == 1, "one body for both"

    async def test_without_a_script_nothing_is_asked(self, world: FilterWorld) -> None:
        await world.account("alice")
        await world.deliver()
        with world.counting() as statements:
            assert await world.deliver(MAIL + b"again\r\n") == [STORED]
        assert statements == []

    async def test_a_script_that_files_asks_nothing_either(self, world: FilterWorld) -> None:
        script = 'require ["fileinto", "imap4flags", "include"]; include "rules"; addflag "$Work"; fileinto "Work";'
        await world.account("alice", script, "Work")
        await world.put("alice", 'if header :is "Subject" "x" { discard; }', "rules", active=False)
        await world.deliver()
        with world.counting() as statements:
            assert await world.deliver(MAIL + b"again\r\n") == [STORED]
        assert statements == []
        assert [message.flags for message in (await world.boxes())["Work"]] == [("$work",), ("$work",)]

    async def test_discard(self, world: FilterWorld) -> None:
        await world.account("alice", "discard;")
        assert await world.deliver() == [STORED]
        assert await world.boxes() == {}

    async def test_create_makes_and_subscribes(self, world: FilterWorld) -> None:
        await world.account("alice", 'require ["fileinto", "mailbox"]; fileinto :create "Lists/Sora";')
        for number in range(2):
            assert await world.deliver(MAIL + b"%d\r\n" % number) == [STORED]
        assert len((await world.boxes())["Lists/Sora"]) == 2
        listed = {box.name: box.subscribed for box in await world.node.store.mailboxes.list(world.accounts["alice"])}
        assert listed["Lists/Sora"]

    @pytest.mark.parametrize("namespace", ["Deleted/", "Deleted", ""])
    async def test_not_among_deleted_mail(self, dsn: str, tmp_path: Path, namespace: str) -> None:
        """What shows deleted mail is no place for mail, and a mailbox of that name would hide it."""
        async with (
            open_node(dsn, tmp_path, cleanup={"deleted_namespace": namespace}) as node,
            filter_world(node) as world,
        ):
            account_id, mailboxes = await world.account("alice"), node.store.mailboxes
            await world.deliver()
            inbox = (await mailboxes.get(account_id, "INBOX")).mailbox_id
            first = UidSet.from_numbers([1])
            await node.store.messages.store_flags(account_id, inbox, first, [DELETED])
            await node.store.messages.expunge(account_id, inbox, first)
            await node.store.undelete.refresh(account_id, "INBOX", "Deleted/INBOX", timedelta(days=1))
            assert await mailboxes.find(account_id, "Deleted/INBOX") is not None
            tree = await node.store.trees.get(account_id)
            assert tree is not None
            assert "Deleted/INBOX" not in tree.mailboxes
            for name in ("Deleted/INBOX", "Deleted/Work", "Deletedly"):
                await world.put("alice", f'require ["fileinto", "mailbox"]; fileinto :create "{name}";')
                assert await world.deliver(MAIL + name.encode() + b"\r\n") == [STORED]
            boxes = {box.name for box in await mailboxes.list(account_id)}
            assert ("Deleted/Work" in boxes) is not bool(namespace)
            assert "Deletedly" in boxes
            assert len((await world.boxes())["INBOX"]) == (2 if namespace else 1)

    async def test_by_use_and_by_id(self, world: FilterWorld) -> None:
        account_id = await world.account("alice", "", "Work")
        work = await world.node.store.mailboxes.get(account_id, "Work")
        await world.put(
            "alice",
            'require ["fileinto", "special-use", "mailboxid", "copy"];'
            rf'fileinto :copy :specialuse "\\Junk" "INBOX"; fileinto :mailboxid "F{work.mailbox_id}" "INBOX";',
        )
        assert await world.deliver() == [STORED]
        assert set(await world.boxes()) == {"Junk", "Work"}

    async def test_use_that_nobody_has_falls_back_to_the_name(self, world: FilterWorld) -> None:
        script = r'require ["fileinto", "special-use", "mailbox"]; fileinto :create :specialuse "\\archive" "Old";'
        account_id = await world.account("alice", script)
        await world.node.store.mailboxes.delete(account_id, "Archive")
        assert await world.deliver() == [STORED]
        assert set(await world.boxes()) == {"Old"}
        made = await world.node.store.mailboxes.get(account_id, "Old")
        assert made.special_use == r"\Archive"

    async def test_one_mailbox_by_two_names_gets_it_once(self, world: FilterWorld) -> None:
        script = (
            'require ["fileinto", "special-use", "imap4flags"];'
            r'fileinto "Junk"; fileinto :flags "\\Seen" :specialuse "\\Junk" "INBOX";'
        )
        await world.account("alice", script)
        await world.deliver()
        assert await world.places() == {"Junk": (r"\seen",)}

    async def test_plus_detail_is_where_keep_files(self, world: FilterWorld) -> None:
        await world.account("alice", "keep;", "Lists")
        await world.deliver(MAIL, "alice+Lists@example.com")
        assert set(await world.boxes()) == {"Lists"}

    async def test_a_renamed_mailbox_is_another_one(self, world: FilterWorld) -> None:
        account_id = await world.account("alice", 'require "fileinto"; fileinto "Work";', "Work")
        await world.deliver()
        await world.node.store.mailboxes.rename(account_id, "Work", "Old")
        await world.node.store.mailboxes.create(account_id, "Work")
        await world.node.filters.trees.read(account_id)
        await world.deliver(MAIL + b"second\r\n")
        boxes = await world.boxes()
        assert len(boxes["Old"]) == len(boxes["Work"]) == 1


class TestFailures:
    """No mail is lost over a script; what it wanted besides is not done."""

    async def test_a_missing_mailbox(self, world: FilterWorld, caplog: pytest.LogCaptureFixture) -> None:
        script = """require ["fileinto", "copy", "imap4flags"]; setflag "\\\\Seen"; fileinto :copy "Work";
            redirect :copy "other@example.net"; fileinto "Missing";"""
        await world.account("alice", script, "Work")
        with caplog.at_level(logging.WARNING):
            assert await world.deliver() == [STORED]
        assert await world.places() == {"INBOX": ()}
        assert await world.queued() == []
        assert [record.error for record in caplog.records if record.message == "script failed"] == [  # type: ignore[attr-defined]
            'main, line 2: Mailbox "Missing": there is no such mailbox'
        ]

    async def test_an_error_while_it_runs(self, world: FilterWorld, caplog: pytest.LogCaptureFixture) -> None:
        script = 'require ["fileinto", "ihave"];\nfileinto "Work";\nerror "no more";'
        await world.account("alice", script, "Work")
        with caplog.at_level(logging.WARNING):
            assert await world.deliver() == [STORED]
        assert await world.places() == {"INBOX": ()}
        (record,) = [record for record in caplog.records if record.message == "script failed"]
        assert (record.account, record.error) == ("alice@example.com", "main, line 3: no more")  # type: ignore[attr-defined]

    async def test_a_stored_script_with_errors(self, world: FilterWorld, caplog: pytest.LogCaptureFixture) -> None:
        await world.account("alice", "nonsense here")
        with caplog.at_level(logging.WARNING):
            assert await world.deliver() == [STORED]
        assert set(await world.boxes()) == {"INBOX"}
        assert any(record.message == "script failed" for record in caplog.records)

    async def test_a_mailbox_that_is_deleted_in_the_last_moment(self, world: FilterWorld) -> None:
        account_id = await world.account("alice", 'require "fileinto"; fileinto "Work";', "Work")
        await world.deliver()
        tree = await world.node.filters.trees.read(account_id)
        await world.node.store.mailboxes.delete(account_id, "Work")
        world.node.filters.trees._keep(account_id, tree)  # the notice is still on its way
        assert await world.deliver(MAIL + b"second\r\n") == [STORED]
        assert set(await world.boxes()) == {"INBOX"}
        assert "Work" not in (await world.node.filters.trees.get(account_id))[0].mailboxes

    async def test_a_mailbox_that_was_just_made_is_found(self, world: FilterWorld) -> None:
        account_id = await world.account("alice", 'require "fileinto"; fileinto "New";')
        tree = await world.node.filters.trees.read(account_id)
        await world.node.store.mailboxes.create(account_id, "New")
        world.node.filters.trees._keep(account_id, tree)  # the notice is still on its way
        await world.deliver()
        assert set(await world.boxes()) == {"New"}

    async def test_when_the_database_does_not_answer_nothing_is_decided(
        self, world: FilterWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sora.errors import DatabaseDown

        await world.account("alice", 'require "duplicate"; if duplicate { discard; }')
        await world.deliver()

        async def away(*_: object) -> bool:
            raise DatabaseDown

        monkeypatch.setattr(type(world.node.store.filter_memory), "is_duplicate", away)
        (reply,) = await world.deliver(MAIL + b"second\r\n")
        assert reply.startswith("451 4.3.0 ")
        assert len((await world.boxes())["INBOX"]) == 1

    async def test_what_nobody_foresaw_is_one_recipients_matter(
        self, world: FilterWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A mistake of ours that some script finds leaves its mail in INBOX, and that of the others alone."""
        await world.account("alice", 'require "fileinto"; fileinto "Work";', "Work")
        await world.account("bob", "discard;")
        await world.account("carol")

        def broken(*_: object) -> None:
            raise RuntimeError("nobody foresaw this")

        monkeypatch.setattr("sora.services.filters.carrying.find_mailbox", broken)
        assert await world.deliver(MAIL, "alice", "bob", "carol") == [STORED] * 3
        assert [set(await world.boxes(name)) for name in ("alice", "bob", "carol")] == [{"INBOX"}, set(), {"INBOX"}]
        assert "nobody foresaw this" in caplog.text

    async def test_too_much_work(self, site: Site) -> None:
        async for world in site.open(max_instructions=1000):
            await world.account("alice", "keep;" + 'if header :contains "x" "y" { stop; }' * 400 + "discard;")
            assert await world.deliver() == [STORED]
            assert set(await world.boxes()) == {"INBOX"}


class TestSiteScripts:
    async def test_order_and_who_comes_next(self, site: Site) -> None:
        before = site.write("before/1.sieve", 'require ["fileinto", "copy"]; fileinto :copy "One";')
        site.write("before/2.sieve", 'if header :is "Subject" "stop" { discard; stop; }')
        after = site.write("after.sieve", 'require ["fileinto", "copy"]; fileinto :copy "After";')
        async for world in site.open(before=[before.rpartition("/")[0]], after=[after]):
            await world.account("alice", 'require "fileinto"; fileinto "Own";', "One", "Own", "After")
            await world.account("bob", "keep;", "One", "After")
            await world.account("carol", "", "One", "After")
            assert await world.deliver(MAIL, "alice", "bob", "carol") == [STORED] * 3
            assert set(await world.boxes("alice")) == {"One", "Own"}, "what was filed is not left to those after it"
            assert set(await world.boxes("bob")) == {"INBOX", "One", "After"}
            assert set(await world.boxes("carol")) == {"INBOX", "One", "After"}
            await world.deliver(b"Subject: stop\r\n\r\n", "bob")
            assert len((await world.boxes("bob"))["INBOX"]) == 1

    async def test_the_default_is_for_those_without_a_script(self, site: Site) -> None:
        default = site.write("default.sieve", 'require "fileinto"; fileinto "Default";')
        async for world in site.open(default=default):
            await world.account("alice", "keep;", "Default")
            await world.account("bob", "", "Default")
            await world.deliver(MAIL, "alice", "bob")
            assert set(await world.boxes("alice")) == {"INBOX"}
            assert set(await world.boxes("bob")) == {"Default"}

    async def test_what_comes_before_a_failure_holds(self, site: Site) -> None:
        before = site.write("before.sieve", 'require ["copy", "fileinto"]; fileinto :copy "Journal";')
        async for world in site.open(before=[before]):
            await world.account("alice", 'require "fileinto"; fileinto "Missing";', "Journal")
            await world.account("bob", 'require ["ihave", "fileinto"]; fileinto "Work"; error "x";', "Journal", "Work")
            await world.deliver(MAIL, "alice", "bob")
            assert set(await world.boxes("alice")) == {"INBOX", "Journal"}
            assert set(await world.boxes("bob")) == {"INBOX", "Journal"}

    async def test_include(self, site: Site) -> None:
        site.write("global/spam.sieve", 'require "fileinto"; fileinto "Global";')
        async for world in site.open(global_dir=str(site.folder / "global")):
            script = 'require "include"; include :global "spam"; include :personal "own"; include :optional "none";'
            await world.account("alice", script, "Global", "Personal")
            await world.put("alice", 'require "fileinto"; fileinto "Personal";', "own", active=False)
            await world.deliver()
            assert set(await world.boxes()) == {"Global", "Personal"}
            await world.put("alice", 'require "fileinto"; fileinto "Global";', "own", active=False)
            await world.deliver(MAIL + b"changed\r\n")
            assert len((await world.boxes())["Global"]) == 2
            assert len((await world.boxes())["Personal"]) == 1

    async def test_lists(self, site: Site) -> None:
        site.write("lists/friends.txt", "# ours\nsender@example.org\n\nOther@Example.org\n")
        script = """require ["extlists", "envelope", "fileinto", "copy", "variables"];
            if not valid_ext_list ["friends", "urn:sora:own-addresses"] { stop; }
            if valid_ext_list "strangers" { stop; }
            if envelope :list "from" "friends" { fileinto :copy "${0}"; }
            if address :list "to" "urn:sora:own-addresses" { fileinto :copy "Own"; }
            if address :list "from" "urn:sora:own-addresses" { discard; }
            redirect :list :copy "friends";"""
        async for world in site.open(list_dir=str(site.folder / "lists")):
            await world.account("alice", script, "sender@example.org", "Own")
            await world.deliver()
            assert set(await world.boxes()) == {"INBOX", "sender@example.org", "Own"}
            assert [mail.recipient for mail in await world.queued()] == ["other@example.org", "sender@example.org"]


class TestEnvironment:
    async def test_items(self, world: FilterWorld) -> None:
        names = ("domain", "host", "location", "name", "phase", "remote-host", "remote-ip", "version")
        script = 'require ["environment", "editheader", "variables"];' + "".join(
            f'if environment :matches "{name}" "*" {{ addheader :last "X-{name}" "${{1}}"; }}' for name in names
        )
        await world.account("alice", script)
        await world.deliver(before=["XCLIENT ADDR=192.0.2.7 NAME=out.example.net"])
        (message,) = (await world.boxes())["INBOX"]
        fields = dict(line.split(b": ", 1) for line in message.received.split(b"\r\n") if line.startswith(b"X-"))
        assert fields.pop(b"X-version")
        assert fields == {
            b"X-domain": b"example.com",
            b"X-host": b"store.example.com",
            b"X-location": b"MDA",
            b"X-name": b"Sora",
            b"X-phase": b"during",
            b"X-remote-host": b"out.example.net",
            b"X-remote-ip": b"192.0.2.7",
        }

    async def test_the_envelope_is_each_recipients_own(self, world: FilterWorld) -> None:
        script = """require ["envelope", "subaddress", "fileinto", "mailbox"];
            if envelope :is "from" "" { fileinto "Bounces"; }
            elsif envelope :detail "to" "lists" { fileinto "Lists"; }
            elsif envelope :is "to" "second@example.com" { fileinto "Second"; }"""
        account_id = await world.account("alice", script, "Bounces", "Lists", "Second")
        await world.node.store.domains.add_alias("second@example.com", account_id)
        await world.deliver(MAIL, "alice+lists@example.com", "second@example.com")
        assert set(await world.boxes()) == {"Lists", "Second"}
        await world.deliver(MAIL + b"bounce\r\n", sender="")
        assert set(await world.boxes()) == {"Lists", "Second", "Bounces"}

    async def test_the_script_sees_our_trace_fields(self, world: FilterWorld) -> None:
        script = """require ["fileinto", "date", "relational", "copy"];
            if header :is "Delivered-To" "alice@example.com" { fileinto :copy "One"; }
            if header :contains "Received" "by store.example.com with LMTP" { fileinto :copy "Two"; }
            if header :is "Return-Path" "<sender@example.org>" { fileinto :copy "Three"; }"""
        await world.account("alice", script, "One", "Two", "Three")
        await world.deliver()
        assert set(await world.boxes()) == {"INBOX", "One", "Two", "Three"}

    async def test_mailboxes_and_annotations(self, world: FilterWorld) -> None:
        account_id = await world.account("alice", "", "Work", "Spam")
        spam = await world.node.store.mailboxes.get(account_id, "Junk")
        work = await world.node.store.mailboxes.get(account_id, "Work")
        await world.annotate("alice", work.mailbox_id, "/private/comment", b"busy")
        await world.annotate("alice", 0, "/private/vacation", b"on")
        tests = {
            "a": 'mailboxexists "Work"',
            "b": 'not mailboxexists ["Work", "Missing"]',
            "c": f'mailboxidexists "F{spam.mailbox_id}"',
            "d": 'not mailboxidexists "F0"',
            "e": r'specialuse_exists "\\Junk"',
            "f": r'not specialuse_exists ["\\Junk", "\\Important"]',
            "g": r'specialuse_exists "Junk" "\\Junk"',
            "h": r'not specialuse_exists "Work" "\\Junk"',
            "i": 'metadata :is "Work" "/private/comment" "busy"',
            "j": 'not metadataexists "Work" ["/private/comment", "/private/other"]',
            "k": 'servermetadata :is "/private/vacation" "on"',
            "l": 'not servermetadataexists "/shared/comment"',
            "m": 'not metadata :contains "Missing" "/private/comment" ""',
        }
        script = 'require ["mailbox", "mailboxid", "special-use", "mboxmetadata", "servermetadata", "imap4flags"];'
        script += "".join(f'if {test} {{ addflag "{name}"; }}' for name, test in tests.items())
        await world.put("alice", script)
        await world.deliver()
        assert await world.places() == {"INBOX": tuple(tests)}

    async def test_scores(self, site: Site) -> None:
        script = """require ["spamtest", "spamtestplus", "virustest", "relational", "fileinto"];
            require "comparator-i;ascii-numeric";
            if virustest :value "eq" :comparator "i;ascii-numeric" "5" { discard; }
            elsif spamtest :percent :value "ge" :comparator "i;ascii-numeric" "50" { fileinto "Spam"; }"""
        async for world in site.open(
            spam_header="X-Spam-Score", spam_maximum=8.0, virus_header="X-Virus", virus_texts=["clean=1", "Infected=5"]
        ):
            await world.account("alice", script, "Spam")
            for header in (b"X-Spam-Score: 7.9", b"X-Spam-Score: 1", b"X-Virus: infected", b"X-Virus: clean"):
                await world.deliver(header + b"\r\n\r\n")
            boxes = await world.boxes()
            assert [message.received[:16] for message in boxes["Spam"]] == [b"X-Spam-Score: 7."]
            assert [message.received for message in boxes["INBOX"]] == [
                b"X-Spam-Score: 1\r\n\r\n",
                b"X-Virus: clean\r\n\r\n",
            ]


class TestEditing:
    async def test_the_stored_octets_are_the_edited_ones(self, world: FilterWorld) -> None:
        script = """require ["editheader", "fileinto", "copy"];
            fileinto :copy "Before"; addheader "X-New" "first"; addheader :last "X-Last" "last";
            deleteheader "Date"; keep;"""
        await world.account("alice", script, "Before")
        await world.deliver()
        boxes = await world.boxes()
        (before,), (after,) = boxes["Before"], boxes["INBOX"]
        assert before.received == MAIL
        head, body = MAIL.split(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Date")]
        assert after.received == b"\r\n".join([b"X-New: first", *lines, b"X-Last: last"]) + b"\r\n\r\n" + body
        assert after.octets[: -len(after.received)] == before.octets[: -len(MAIL)], "under the same trace fields"

    async def test_our_trace_fields_stay(self, world: FilterWorld) -> None:
        script = 'require "editheader"; deleteheader "Return-Path"; deleteheader "Delivered-To"; addheader "X-A" "b";'
        await world.account("alice", script)
        await world.deliver()
        (message,) = (await world.boxes())["INBOX"]
        assert message.octets.startswith(b"Return-Path: <sender@example.org>\r\nDelivered-To: alice@example.com\r\nRec")
        assert message.received == b"X-A: b\r\n" + MAIL
        assert message.octets.count(b"Delivered-To") == message.octets.count(b"Received:") == 1

    async def test_versions_have_room_for_so_many(self, site: Site, caplog: pytest.LogCaptureFixture) -> None:
        """Each is a copy of the message; what scripts of the site did before holds."""
        script = """require ["editheader", "fileinto", "copy"]; redirect :copy "a@example.net";
            addheader "X-A" "1"; fileinto :copy "One"; addheader "X-A" "2"; redirect "b@example.net";"""
        before = site.write("before.sieve", 'require ["fileinto", "copy"]; fileinto :copy "Journal";')
        async for world in site.open(max_edited=2000):
            await world.account("alice", script, "One")
            await world.deliver()
            assert set(await world.boxes()) == {"One"}
            assert len(await world.queued()) == 2
        async for world in site.open(before=[before], max_edited=600):
            await world.account("bob", script, "One", "Journal")
            await world.deliver(MAIL, "bob")
            assert set(await world.boxes("bob")) == {"INBOX", "Journal"}
            assert len(await world.queued()) == 2
            assert "line 2: The edited versions of this message" in caplog.records[-1].__dict__["error"]

    async def test_a_large_message_is_edited_for_one_at_a_time(
        self, world: FilterWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ("alice", "bob", "carol")
        for name in names:
            await world.account(name, "keep;")
        filters = world.node.delivery.filters
        assert filters is not None
        real, running, most = filters.filter, 0, 0

        async def watched(*args: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return await real(*args)

        monkeypatch.setattr(filters, "filter", watched)
        await world.deliver(MAIL, *names)
        assert most == 3
        most = 0
        monkeypatch.setattr("sora.services.delivery.FILTERED_BYTES", len(MAIL))
        await world.deliver(MAIL + b"more\r\n", *names)
        assert most == 1

    async def test_what_is_searched_is_what_is_stored(self, world: FilterWorld) -> None:
        script = 'require "editheader"; deleteheader "Subject"; addheader "Subject" "Changed";'
        await world.account("alice", script)
        await world.deliver()
        row = await world.node.store.db.fetchrow("SELECT subject, size FROM message_contents")
        assert row is not None
        assert row["subject"] == "Changed"
        assert row["size"] == len((await world.boxes())["INBOX"][0].octets)

    async def test_a_message_in_a_file(self, world: FilterWorld) -> None:
        """What is larger than is held in memory is mapped; its body is not copied to look at its header."""
        script = """require ["editheader", "fileinto", "copy", "body"]; fileinto :copy "As it came";
            if body :contains "0123456789abcde" { addheader "X-Large" "yes"; }"""
        await world.account("alice", script, "As it came")
        mail = MAIL + b"0123456789abcde\r\n" * 100_000 + b"last line\r\n"
        assert await world.deliver(mail) == [STORED]
        boxes = await world.boxes()
        assert boxes["As it came"][0].received == mail
        assert boxes["INBOX"][0].received == b"X-Large: yes\r\n" + mail


class TestRefusing:
    async def test_the_reply_has_the_reason(self, world: FilterWorld) -> None:
        await world.account("alice", 'require "ereject"; ereject text:\nNo mail\nto me\n.\n;')
        await world.account("bob")
        assert await world.deliver(MAIL, "alice", "bob") == ["550-5.7.1 No mail|5.7.1 to me", STORED]
        assert await world.boxes("alice") == {}
        assert set(await world.boxes("bob")) == {"INBOX"}

    async def test_a_reason_beyond_ascii_under_smtputf8(self, world: FilterWorld) -> None:
        await world.account("alice", 'require "reject"; reject "schön wär’s";')
        assert await world.deliver(parameters=" SMTPUTF8") == ["550 5.7.1 schön wär’s"]

    async def test_ereject_beyond_ascii_has_another_text(self, world: FilterWorld) -> None:
        await world.account("alice", 'require "ereject"; ereject "schön wär’s";')
        assert await world.deliver() == ["550 5.7.1 The recipient refused the message"]
        assert await world.queued() == []

    async def test_reject_beyond_ascii_sends_a_report(self, world: FilterWorld) -> None:
        await world.account("alice", 'require "reject"; reject "schön wär’s";')
        assert await world.deliver() == [STORED]
        assert await world.boxes() == {}
        (mail,) = await world.queued()
        assert (mail.kind, mail.sender, mail.recipient) == ("reject", "", SENDER)
        assert mail.body is not None
        for part in (
            b"From: alice@example.com\r\nTo: sender@example.org\r\n",
            b"report-type=disposition-notification",
            b"sch=C3=B6n w=C3=A4r=E2=80=99s",
            b"Final-Recipient: rfc822; alice@example.com\r\nOriginal-Message-ID: <1@example.org>\r\n"
            b"Disposition: automatic-action/MDN-sent-automatically; deleted\r\n",
            b"Subject: Hello\r\n",
        ):
            assert part in mail.body

    async def test_a_report_can_be_sent_by_everybody(self, world: FilterWorld) -> None:
        await world.account("alice", 'require "reject"; reject "schön";')
        await world.deliver(b"X-Odd: a\0b\xfc\r\n" + MAIL)
        (mail,) = await world.queued()
        assert mail.body is not None
        assert b"X-Odd: a?b?\r\n" in mail.body
        assert mail.body.isascii()

    @pytest.mark.parametrize("case", ["null sender", "automatic"])
    async def test_nobody_would_read_the_report(self, world: FilterWorld, case: str) -> None:
        await world.account("alice", 'require "reject"; reject "schön";')
        mail = b"Auto-Submitted: auto-generated\r\n" + MAIL if case == "automatic" else MAIL
        replies = await world.deliver(mail, sender=SENDER if case == "automatic" else "")
        assert replies == ["550 5.7.1 The recipient refused the message"]
        assert await world.queued() == []

    async def test_what_the_site_wanted_before_happens(self, site: Site) -> None:
        before = site.write("before.sieve", 'require ["copy", "fileinto"]; fileinto :copy "Journal";')
        async for world in site.open(before=[before]):
            await world.account("alice", 'require "reject"; reject "no";', "Journal")
            assert await world.deliver() == ["550 5.7.1 no"]
            assert set(await world.boxes()) == {"Journal"}


class TestSending:
    async def test_redirect_sends_what_is_stored(self, world: FilterWorld) -> None:
        await world.account("alice", 'require "copy"; redirect :copy "a@example.net"; redirect "b@example.net";')
        assert await world.deliver() == [STORED]
        assert await world.boxes() == {}
        first, second = await world.queued()
        assert (first.kind, first.sender, first.recipient) == ("redirect", SENDER, "a@example.net")
        assert second.recipient == "b@example.net"
        assert first.content_id == second.content_id
        assert first.content_id is not None
        assert first.header == b"X-Sieve-Redirected-From: alice@example.com\r\n"

    async def test_edited_and_not(self, world: FilterWorld) -> None:
        script = """require ["copy", "editheader"];
            redirect :copy "a@example.net"; addheader "X-Edited" "yes"; redirect :copy "b@example.net";"""
        await world.account("alice", script)
        await world.deliver()
        first, second = await world.queued()
        assert first.content_id != second.content_id
        sizes = await world.node.store.db.fetch("SELECT content_id, size FROM message_contents")
        known = {row["content_id"]: row["size"] for row in sizes}
        assert known[second.content_id] - known[first.content_id] == len("X-Edited: yes\r\n")

    async def test_the_owner_as_sender(self, site: Site) -> None:
        async for world in site.open(redirect_sender="owner"):
            await world.account("alice", 'redirect "a@example.net";')
            await world.deliver()
            await world.deliver(MAIL + b"bounce\r\n", sender="")
            assert [mail.sender for mail in await world.queued()] == ["alice@example.com", ""]

    async def test_what_was_redirected_before_stays(self, world: FilterWorld) -> None:
        await world.account("alice", 'redirect "a@example.net";')
        assert await world.deliver(b"X-Sieve-Redirected-From: Alice@Example.com\r\n" + MAIL) == [STORED]
        assert set(await world.boxes()) == {"INBOX"}
        assert await world.queued() == []

    @pytest.mark.parametrize(
        "disguise",
        ['deleteheader "X-Sieve-Redirected-From";', 'enclose :subject "s" "text";'],
    )
    async def test_a_script_cannot_hide_a_loop(self, world: FilterWorld, disguise: str) -> None:
        """Neither from itself, nor from whom it sends the message to."""
        script = f'require ["editheader", "enclose"]; {disguise} redirect "a@example.net";'
        await world.account("alice", script)
        mail = b"Received: from far\r\nDelivered-To: carol@example.com\r\nAuto-Submitted: auto-generated\r\n" + MAIL
        assert await world.deliver(b"X-Sieve-Redirected-From: alice@example.com\r\n" + mail) == [STORED]
        assert await world.queued() == []
        await world.deliver(b"X-Sieve-Redirected-From: bob@example.com\r\n" + mail)
        (queued,) = await world.queued()
        row = await world.node.store.db.fetchrow(
            "SELECT header FROM message_contents WHERE content_id = $1", queued.content_id
        )
        assert row is not None
        lines = row["header"].split(b"\r\n")
        for line in mail.split(b"\r\n")[:3]:
            assert line in lines
        assert b"X-Sieve-Redirected-From: bob@example.com" in lines
        assert lines.count(b"Delivered-To: alice@example.com") == 1

    async def test_a_retry_sends_nothing_twice(self, world: FilterWorld) -> None:
        await world.account("alice", 'require "copy"; redirect :copy "a@example.net";')
        for _ in range(2):
            assert await world.deliver() == [STORED]
        assert len((await world.boxes())["INBOX"]) == 1
        assert len(await world.queued()) == 1

    async def test_parameters(self, world: FilterWorld) -> None:
        script = """require ["redirect-dsn", "redirect-deliverby"]; redirect
            :notify "SUCCESS,FAILURE" :ret "HDRS" :bytimerelative 600 :bymode "NOTIFY" :bytrace "a@b.example";"""
        await world.account("alice", script)
        await world.deliver()
        row = await world.node.store.db.fetchrow(
            "SELECT params->>'notify' AS n, params->>'ret' AS r, params->>'by_mode' AS m,"
            " (params->>'by_at')::timestamptz - created_at AS t FROM outbound_queue"
        )
        assert row is not None
        assert (row["n"], row["r"], row["m"]) == ("SUCCESS,FAILURE", "HDRS", "NT")
        assert 590 < row["t"].total_seconds() < 610

    async def test_vacation_answers_once(self, world: FilterWorld) -> None:
        await world.account("alice", 'require ["vacation", "fcc", "mailbox"]; vacation :fcc "Sent" :create "Away.";')
        for number in range(2):
            assert await world.deliver(MAIL + b"%d\r\n" % number) == [STORED]
        (mail,) = await world.queued()
        assert (mail.kind, mail.sender, mail.recipient) == ("vacation", "", SENDER)
        assert mail.body is not None
        assert b"\r\nAway." in mail.body
        boxes = await world.boxes()
        assert len(boxes["INBOX"]) == 2
        assert [message.octets for message in boxes["Sent"]] == [mail.body]

    async def test_no_copy_of_a_reply_that_is_not_sent(
        self, world: FilterWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The forecast is that nobody answered, and somebody does meanwhile; all else happens as it would."""
        script = """require ["vacation", "fcc", "copy", "editheader"]; vacation :handle "h" :fcc "Sent" "Away.";
            addheader "X-Edited" "yes"; redirect :copy "a@example.net"; deleteheader "X-Edited";"""
        await world.account("alice", script)
        await world.account("bob", script)

        async def nobody(*_: object) -> bool:
            return False

        monkeypatch.setattr(type(world.node.store.filter_memory), "was_answered", nobody)
        mails = [MAIL.replace(b"alice", b"bob") + b"%d\r\n" % number for number in range(3)]
        replies = await asyncio.gather(*(world.deliver(mail, "bob", "alice") for mail in mails), world.deliver())
        assert replies == [[STORED, STORED]] * 3 + [[STORED]]
        for name, copies, messages in (("bob", 1, 3), ("alice", 1, 4)):
            boxes = await world.boxes(name)
            assert (len(boxes["Sent"]), len(boxes["INBOX"])) == (copies, messages)
        queued = await world.queued()
        assert sorted(mail.kind for mail in queued) == ["redirect"] * 7 + ["vacation"] * 2
        held = {mail.content_id for mail in queued if mail.kind == "redirect"}
        rows = await world.node.store.db.fetch("SELECT content_id, header FROM message_contents")
        headers = {row["content_id"]: row["header"] for row in rows}
        assert len(held) == 7
        assert all(b"X-Edited: yes" in headers[content_id] for content_id in held)

    async def test_vacation_periods_are_the_sites(self, site: Site) -> None:
        hour = 3600.0
        async for world in site.open(
            vacation_min_period=hour, vacation_max_period=5 * hour, vacation_default_period=2 * hour
        ):
            texts = {":days 30": 5, ":seconds 0": 1, ":seconds 10800": 3, "": 2}
            for number, tag in enumerate(texts):
                name = f"user{number}"
                script = f'require ["vacation", "vacation-seconds"]; vacation {tag} :handle "h" "Away.";'
                await world.account(name, script)
                await world.deliver(MAIL.replace(b"alice", name.encode()), name)
            rows = await world.node.store.db.fetch(
                "SELECT entry, extract(epoch FROM expires_at - clock())::int AS left FROM vacation_replies"
                " ORDER BY account_id"
            )
            assert {row["entry"] for row in rows} == {reply_entry("h", SENDER)}
            assert [round(row["left"] / hour) for row in rows] == list(texts.values())

    async def test_the_queue_of_an_account_has_room_for_so_much(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What would be redirected is kept (RFC 5228 §2.10.6); what is made besides is left out."""
        before = site.write("before.sieve", 'require "copy"; redirect :copy "site@example.net";')
        async for world in site.open(before=[before], max_queued=3):
            await world.account("alice", 'redirect "a@example.net";')
            await world.account("bob", 'require "vacation"; vacation "Away.";')
            for number in range(3):
                assert await world.deliver(MAIL + b"%d\r\n" % number) == [STORED]
            sent = [mail.recipient for mail in await world.queued()]
            assert sent == ["site@example.net", "a@example.net", "site@example.net"]
            assert len((await world.boxes())["INBOX"]) == 2
            said = [record.__dict__.get("error", "") for record in caplog.records]
            assert "redirect to a@example.net: too much mail of the account waits to be sent" in said
            await world.node.store.db.execute("DELETE FROM outbound_queue")
            assert await world.deliver(MAIL + b"again\r\n") == [STORED]
            assert len((await world.boxes())["INBOX"]) == 2, "there is room again"
            await world.node.store.db.execute("DELETE FROM outbound_queue")
            for number in range(4):
                sender = f"sender{number}@example.org"
                mail = MAIL.replace(b"alice", b"bob") + b"%d\r\n" % number
                assert await world.deliver(mail, "bob", sender=sender) == [STORED]
            assert [mail.kind for mail in await world.queued()] == ["redirect", "vacation", "redirect"]
            assert len((await world.boxes("bob"))["INBOX"]) == 4

    async def test_notify(self, world: FilterWorld) -> None:
        script = 'require "enotify"; notify :message "Mail for you" "mailto:phone@example.net";'
        await world.account("alice", script)
        await world.deliver()
        (mail,) = await world.queued()
        assert (mail.kind, mail.recipient) == ("notify", "phone@example.net")
        assert mail.body is not None
        assert decode_words(mail.body.split(b"Subject: ")[1].split(b"\r\n")[0]) == "Mail for you"
        assert set(await world.boxes()) == {"INBOX"}


class TestDuplicate:
    SCRIPT = 'require ["duplicate", "fileinto"]; if duplicate :seconds 1000 { fileinto "Again"; }'

    async def test_the_second_one_is(self, world: FilterWorld) -> None:
        await world.account("alice", self.SCRIPT, "Again")
        for number in range(2):
            await world.deliver(MAIL + b"%d\r\n" % number)
        assert {name: len(messages) for name, messages in (await world.boxes()).items()} == {"INBOX": 1, "Again": 1}

    async def test_a_retry_of_the_same_delivery_is_none(self, world: FilterWorld) -> None:
        await world.account("alice", 'require "duplicate"; if duplicate { discard; }')
        await world.deliver()
        await world.deliver()
        assert len((await world.boxes())["INBOX"]) == 1

    async def test_a_retry_goes_where_the_first_try_went(self, world: FilterWorld) -> None:
        await world.account("alice", self.SCRIPT, "Again")
        for _ in range(3):
            assert await world.deliver() == [STORED]
        assert set(await world.boxes()) == {"INBOX"}
        assert await world.deliver(MAIL + b"other octets\r\n") == [STORED]
        for _ in range(2):
            assert await world.deliver(MAIL + b"other octets\r\n") == [STORED]
        assert await world.deliver() == [STORED], "of the first one, when a duplicate is there"
        assert {name: len(messages) for name, messages in (await world.boxes()).items()} == {"INBOX": 1, "Again": 1}

    async def test_a_retry_of_a_duplicate_that_is_tracked_anew_is_one(self, world: FilterWorld) -> None:
        await world.account("alice", self.SCRIPT.replace(":seconds 1000", ":last"), "Again")
        await world.deliver()
        for _ in range(2):
            await world.deliver(MAIL + b"other octets\r\n")
        assert {name: len(messages) for name, messages in (await world.boxes()).items()} == {"INBOX": 1, "Again": 1}

    async def test_two_that_come_at_once_are_tried_again(self, world: FilterWorld) -> None:
        """Neither was known when the scripts ran, so neither is a duplicate later."""
        await world.account("alice", self.SCRIPT, "Again")
        memory = world.node.store.filter_memory
        both, real = asyncio.Barrier(2), memory.is_duplicate

        async def is_duplicate(*args: Any) -> bool:
            found = await real(*args)
            await both.wait()
            return found

        memory.is_duplicate = is_duplicate  # type: ignore[method-assign]
        mails = MAIL, MAIL + b"other octets\r\n"
        for _ in range(2):
            await asyncio.gather(*map(world.deliver, mails))
        assert {name: len(messages) for name, messages in (await world.boxes()).items()} == {"INBOX": 2}

    async def test_after_a_day_it_is_another_delivery(self, world: FilterWorld) -> None:
        """As `deliver()` has it, which files it again."""
        await world.account("alice", self.SCRIPT.replace(":seconds 1000", ""), "Again")
        await world.deliver()
        db = world.node.store.db
        await db.execute("UPDATE sieve_duplicates SET expires_at = expires_at - interval '24 h'")
        await db.execute("UPDATE recent_deliveries SET delivered_at = delivered_at - interval '24 h'")
        await world.deliver()
        assert {name: len(messages) for name, messages in (await world.boxes()).items()} == {"INBOX": 1, "Again": 1}

    async def test_the_site_bounds_the_memory(self, site: Site) -> None:
        async for world in site.open(duplicate_max_period=60.0):
            await world.account("alice", self.SCRIPT)
            await world.deliver()
            left = await world.node.store.db.fetchval(
                "SELECT extract(epoch FROM min(expires_at) - clock()) FROM sieve_duplicates"
            )
            assert 50 < left <= 60
