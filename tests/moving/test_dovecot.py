"""With a real Dovecot: its maildir in, over IMAP in, and out again to another one."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from imapclient.exceptions import IMAPClientError

from sora.admin import moving
from sora.errors import Refused, Unavailable
from sora.moving import imap_source
from sora.moving.imap_source import ImapSource
from sora.services.moving.offline import opened
from sora.store.exports import Exports
from sora.types import SYSTEM_FLAGS
from tests.moving import filling
from tests.moving.house import ADDRESS, House, open_house
from tests.moving.sieving import SieveDovecot, add_scripts
from tests.oracle import dovecot
from tests.oracle.dovecot import PASSWORD, USER, Dovecot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sora.store.db import Database

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(bool(dovecot.missing()), reason=dovecot.missing() or "Dovecot is here"),
]

MESSAGES, FOLDERS = 300, 8


@pytest.fixture(scope="module")
def server() -> Iterator[SieveDovecot]:
    """A Dovecot with mail in a maildir; not below a directory that root alone may enter."""
    with TemporaryDirectory() as directory, SieveDovecot(Path(directory)) as server:
        with filling.connect(server.port, USER, PASSWORD) as client:
            filling.fill(client, MESSAGES, FOLDERS, seed=5)
        yield server


@pytest.fixture(scope="module")
def theirs(server: Dovecot) -> dict[str, filling.Folder]:
    """What a client sees of it."""
    with filling.connect(server.port, USER, PASSWORD) as client:
        return {name: filling.look(client, name) for name in filling.listed(client)}


@pytest.fixture
async def house(dsn: str, db: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(dsn, db, tmp_path) as house:
        yield house


async def ours(house: House, name: str) -> filling.Folder:
    """The same as a client would see it here."""
    mailbox = await house.store.mailboxes.get(house.ann, name)
    (status,) = (await house.store.mailboxes.status(house.ann, [name])).values()
    assert status is not None
    keywords = await house.store.mailboxes.list_keywords(house.ann)
    rows = await Exports(house.store.db).rows(house.ann, mailbox.mailbox_id, 0)
    messages = {}
    async with opened(house.context.config, house.context.dsn, house.store.db, house.context.blobs) as offline:
        for row in rows:
            flags = sorted(SYSTEM_FLAGS[n] if n < 16 else keywords[n].encode() for n in row.flags)
            body = hashlib.blake2b(await offline.bodies.get(row.body)).digest()
            messages[row.uid] = filling.Seen(row.uid, tuple(flags), row.internal_date, body)
    return filling.Folder(mailbox.uidvalidity, status.uid_next, messages)


async def assert_same(house: House, theirs: dict[str, filling.Folder]) -> None:
    for name, folder in theirs.items():
        assert filling.differences(await ours(house, name), folder) == [], name


def imap_request(server: Dovecot, **more: object) -> moving.ImportImap:
    return moving.ImportImap(ADDRESS, "127.0.0.1", USER, PASSWORD, port=server.port, security="none", **more)  # type: ignore[arg-type]


async def test_its_maildir_comes_as_it_is_and_goes_out_again(
    house: House, server: Dovecot, theirs: dict[str, filling.Folder]
) -> None:
    path = server.directory / "home" / USER / "Maildir"
    report = await moving.import_maildir(house.context, moving.ImportMaildir(ADDRESS, str(path)))
    assert (report.problems, report.notes) == ([], [])
    assert report.messages == sum(len(folder.messages) for folder in theirs.values())
    await assert_same(house, theirs)
    with TemporaryDirectory() as directory, Dovecot(Path(directory), "maildir:~/Maildir") as other:
        target = other.directory / "home" / USER / "Maildir"
        exported = await moving.export_maildir(house.context, moving.ExportMaildir(ADDRESS, str(target)))
        assert (exported.messages, exported.problems) == (report.messages, [])
        if os.getuid() == 0:
            owner = pwd.getpwnam("mail")
            for place in (target.parent, *target.parent.rglob("*")):
                os.chown(place, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
        with filling.connect(other.port, USER, PASSWORD) as client:
            for name, folder in theirs.items():
                assert filling.differences(filling.look(client, name), folder) == [], name
            subscribed = filling.subscribed(client)
    with filling.connect(server.port, USER, PASSWORD) as client:
        assert filling.subscribed(client) <= subscribed


async def test_over_imap_it_comes_as_it_is(
    house: House, server: Dovecot, theirs: dict[str, filling.Folder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap_source, "TOGETHER_BYTES", 20_000)
    monkeypatch.setattr(imap_source, "PART_BYTES", 10_000)  # so that some come in parts
    monkeypatch.setattr(imap_source, "LIST_RANGE", 7)
    report = await moving.import_imap(house.context, imap_request(server))
    assert report.problems == []
    assert report.notes == ["not brought: rights that others have; filters, for which --sieve-port is needed"]
    await assert_same(house, theirs)
    again = await moving.import_imap(house.context, imap_request(server))
    assert (again.messages, again.present) == (0, report.messages)


async def test_a_connection_that_breaks_is_made_again(
    house: House, server: Dovecot, theirs: dict[str, filling.Folder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every twentieth answer ends the connection."""
    connect, asked = ImapSource._connect, []

    def broken(self: ImapSource) -> object:
        client = connect(self)
        fetch = client.fetch

        def breaking(*arguments: object) -> object:
            asked.append(arguments)
            if len(asked) % 20 == 0:
                raise ConnectionResetError("cut")
            return fetch(*arguments)

        client.fetch = breaking
        return client

    monkeypatch.setattr(ImapSource, "_connect", broken)
    monkeypatch.setattr(imap_source.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(imap_source, "TOGETHER", 5)
    report = await moving.import_imap(house.context, imap_request(server))
    assert len(asked) > 60
    assert report.problems == []
    await assert_same(house, theirs)


async def test_filters_come_by_managesieve(house: House, server: SieveDovecot) -> None:
    home = server.directory / "home" / USER
    scripts = {"main": 'if header :is "subject" "x" { discard; }\n', 'od"d \\ one': "keep;\n"}
    add_scripts(home, scripts)
    try:
        dry = await moving.import_imap(house.context, imap_request(server, sieve_port=server.sieve_port, dry_run=True))
        assert dry.scripts == 2
        assert await house.store.scripts.list_scripts(house.ann) == []
        report = await moving.import_imap(house.context, imap_request(server, sieve_port=server.sieve_port))
    finally:
        (home / ".dovecot.sieve").unlink()
        shutil.rmtree(home / "sieve")
    assert (report.problems, report.notes) == ([], ["not brought: rights that others have"])
    found = {script.name: script for script in await house.store.scripts.list_scripts(house.ann)}
    assert {name: script.active for name, script in found.items()} == {name: name == "main" for name in scripts}
    for name, text in scripts.items():
        script = await house.store.scripts.find(house.ann, name)
        assert script is not None
        assert script.content.decode().replace("\r\n", "\n") == text


async def test_filters_that_cannot_be_had_stop_nothing(house: House, server: SieveDovecot) -> None:
    report = await moving.import_imap(house.context, imap_request(server, sieve_port=1))
    assert len(report.problems) == 1
    assert report.problems[0].startswith("filters: ")
    assert report.messages > 0


async def test_a_message_that_the_server_does_not_give_stops_nothing(
    house: House, server: SieveDovecot, theirs: dict[str, filling.Folder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One FETCH of a message is refused, and one folder cannot be opened."""
    connect = ImapSource._connect

    def broken(self: ImapSource) -> object:
        client = connect(self)
        fetch, select = client.fetch, client.select_folder

        def refusing(messages: list[int], items: list[str]) -> object:
            if 5 in messages and "BODY.PEEK" in items[0]:
                raise IMAPClientError("fetch failed: broken on the disk")
            return fetch(messages, items)

        def closed(name: str, readonly: bool = False) -> object:
            if name == "Sent":
                raise IMAPClientError("select failed: no permission")
            return select(name, readonly=readonly)

        client.fetch, client.select_folder = refusing, closed
        return client

    monkeypatch.setattr(ImapSource, "_connect", broken)
    report = await moving.import_imap(house.context, imap_request(server))
    missing = [name for name, folder in theirs.items() if 5 in folder.messages and name != "Sent"]
    assert len(report.problems) == len(missing) + 1
    assert sum("no permission" in problem for problem in report.problems) == 1
    assert sum("broken on the disk" in problem for problem in report.problems) == len(missing)
    assert report.messages == sum(len(f.messages) for name, f in theirs.items() if name != "Sent") - len(missing)


async def test_logins_that_are_refused(house: House, server: Dovecot) -> None:
    wrong = moving.ImportImap(ADDRESS, "127.0.0.1", USER, "wrong", port=server.port, security="none")
    with pytest.raises(Refused, match="refuses the login") as refused:
        await moving.import_imap(house.context, wrong)
    assert "b'" not in refused.value.detail


async def test_a_port_without_tls_is_told(house: House, server: Dovecot) -> None:
    wrong = moving.ImportImap(ADDRESS, "127.0.0.1", USER, PASSWORD, port=server.port)
    with pytest.raises(Refused, match=f"127.0.0.1:{server.port} speaks no TLS from the start"):
        await moving.import_imap(house.context, wrong)


async def test_a_server_that_sends_too_much_is_left(server: Dovecot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imap_source, "MOST_BYTES", 3000)
    monkeypatch.setattr(imap_source.time, "sleep", lambda seconds: None)
    source = ImapSource("127.0.0.1", server.port, USER, PASSWORD, "none")
    inbox = source.folders()[0]
    with pytest.raises(Unavailable) as caught:
        list(source.messages(inbox))
    assert "more than was asked for" in caught.value.detail
    source.close()


async def test_nothing_is_changed_over_there(house: House, server: Dovecot, theirs: dict[str, filling.Folder]) -> None:
    await moving.import_imap(house.context, imap_request(server))
    with filling.connect(server.port, USER, PASSWORD) as client:
        assert {name: filling.look(client, name) for name in filling.listed(client)} == theirs
