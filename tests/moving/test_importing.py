"""Imports on a real database: what is here after each way in which they can end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from sora.admin import moving
from sora.crashpoints import POINTS
from sora.errors import Busy, NotFound, OverQuota, Refused, StagingFull
from sora.moving import maildir_source
from sora.moving.maildir_source import MaildirSource
from sora.moving.source import key_of
from sora.services.moving import importing
from sora.store.imports import Imports, NewFolder
from sora.store.staging import Staging
from tests.moving.house import ADDRESS, House, open_house
from tests.store.test_journal import writer
from tests.support.letters import letter, new_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.moving.importing import Report
    from sora.store.db import Database
    from sora.store.imports import Folder

IMPORT_POINTS = [point for point in POINTS if point.startswith("import.")]
ONCE = ("import.begun", "import.scripts_done")


@pytest.fixture
async def house(dsn: str, db: Database, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(dsn, db, tmp_path) as house:
        yield house


async def bring(house: House, *, dry_run: bool = False) -> Report:
    return await moving.import_maildir(house.context, moving.ImportMaildir(ADDRESS, str(house.mail), dry_run=dry_run))


async def test_everything_is_as_it_was(house: House) -> None:
    house.fill("", [2, 3, 9])
    house.fill(".Work.Übung", [5], uid_next=8)
    report = await bring(house)
    assert (report.messages, report.present, report.problems, report.notes) == (4, 0, [], [])
    assert [line.uids_kept for line in report.folders] == [True, True]
    rows = await house.rows("INBOX")
    assert [row.uid for row in rows] == [2, 3, 9]
    assert [row.flags for row in rows] == [(), (0,), (0,)]
    assert rows[0].internal_date == datetime.fromtimestamp(1_000_000_002, UTC)
    assert await house.uidvalidity("INBOX") == 77
    (status,) = (await house.store.mailboxes.status(house.ann, ["Work/Übung"])).values()
    assert status is not None
    assert (status.uid_next, status.uidvalidity) == (8, 77)


async def test_a_second_run_brings_what_is_new(house: House) -> None:
    house.fill("", [2, 3])
    await bring(house)
    house.fill("", [2, 3, 7])
    report = await bring(house)
    assert (report.messages, report.present, report.notes) == (1, 2, [])
    assert await house.uids("INBOX") == [2, 3, 7]
    assert await house.uidvalidity("INBOX") == 77


async def test_a_dry_run_changes_nothing(house: House) -> None:
    """Not a row of the database, no file, no object."""
    house.fill("", [2, 3])
    house.fill(".New", [1])
    (house.mail / "cur" / "k:2,a").write_text("Subject: k\n\n")
    (house.mail / "dovecot-keywords").write_text("0 word\n")
    (house.mail / "subscriptions").write_text("V\t2\n\nNew\n")
    (house.mail / "sieve").mkdir()
    (house.mail / "sieve" / "good.sieve").write_text("keep;")
    (house.mail / ".dovecot.sieve").symlink_to("sieve/good.sieve")
    before = await everything(house)
    report = await bring(house, dry_run=True)
    assert (report.messages, report.subscriptions, report.scripts) == (4, 1, 1)
    assert [line.uids_kept for line in report.folders] == [True, True]
    assert await everything(house) == before
    assert (await bring(house)).messages == 4
    house.fill("", [2, 3, 5])
    before = await everything(house)
    report = await bring(house, dry_run=True)
    assert (report.messages, report.present) == (1, 4)
    assert await everything(house) == before


async def everything(house: House) -> dict[str, object]:
    """Every row of every table, and the names of the files that the store has."""
    tables = await house.store.db.fetch(
        "SELECT c.relname AS name FROM pg_class c WHERE c.relnamespace = 'sora'::regnamespace AND c.relkind = 'r'"
    )
    found: dict[str, object] = {
        row["name"]: sorted(
            text["t"] for text in await house.store.db.fetch(f"SELECT x::text AS t FROM {row['name']} x")
        )
        for row in tables
    }
    places = (house.folder / name for name in ("objects", "staging"))
    found["files"] = sorted(str(path) for place in places for path in place.rglob("*.eml"))
    return found


async def test_uids_are_new_where_other_mail_is(house: House) -> None:
    await house.store.messages.deliver([new_message(house.ann)], "node-1")
    before = await house.uidvalidity("INBOX")
    house.fill("", [1, 5])
    report = await bring(house)
    assert await house.uids("INBOX") == [1, 2, 3]
    assert await house.uidvalidity("INBOX") == before
    assert report.notes == ["INBOX: UIDs are new, because the mailbox had mail from elsewhere"]


async def test_mail_that_comes_meanwhile_takes_no_uid_that_is_known(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message has UIDVALIDITY and UID of another one of the source."""
    monkeypatch.setattr(importing, "BATCH_MESSAGES", 2)
    house.fill("", [1, 2, 3, 4])
    before = await house.uidvalidity("INBOX")
    store, batches = Imports.store, []

    async def disturbed(self: Imports, *arguments: object) -> object:
        stored = await store(self, *arguments)  # type: ignore[arg-type]
        if not batches:
            await house.store.messages.deliver([new_message(house.ann)], "node-1")
        batches.append(stored)
        return stored

    monkeypatch.setattr(Imports, "store", disturbed)
    report = await bring(house)
    assert len(batches) == 2
    assert await house.uids("INBOX") == [1, 2, 3, 4, 5]
    assert await house.uidvalidity("INBOX") == before
    assert not report.folders[0].uids_kept
    assert "something else was stored there" in report.notes[0]


async def test_a_later_run_gives_the_uidvalidity_up_if_it_must(house: House) -> None:
    house.fill("", [1, 2])
    await bring(house)
    await house.store.messages.deliver([new_message(house.ann)], "node-1")
    assert not (await bring(house)).notes
    assert await house.uidvalidity("INBOX") == 77
    house.fill("", [1, 2, 3])
    report = await bring(house)
    assert report.messages == 1
    assert await house.uids("INBOX") == [1, 2, 3, 4]
    assert await house.uidvalidity("INBOX") > 77
    assert not report.folders[0].uids_kept


async def test_a_uid_that_was_given_and_is_gone_is_not_given_again(house: House) -> None:
    house.fill("", [1, 2], uid_next=50)
    await bring(house)
    (delivered,) = await house.store.messages.deliver([new_message(house.ann)], "node-1")
    assert delivered.uid == 50
    await bring(house)
    assert await house.uidvalidity("INBOX") == 77


@pytest.mark.parametrize("uidvalidity", [0, 4_294_967_295])
async def test_a_uidvalidity_that_cannot_be_kept(house: House, uidvalidity: int) -> None:
    house.fill("", [5], uidvalidity=uidvalidity)
    report = await bring(house)
    assert not report.folders[0].uids_kept
    assert await house.uids("INBOX") == [1]
    assert await house.uidvalidity("INBOX") not in (0, 4_294_967_295)


@pytest.mark.parametrize(("uids", "uid_next"), [([1, 4_294_967_290], 0), ([1, 2], 4_294_967_295)])
async def test_a_source_that_has_used_up_its_uids(house: House, uids: list[int], uid_next: int) -> None:
    """There are UIDs left for what comes later."""
    house.fill("", uids, uid_next=uid_next)
    report = await bring(house)
    assert (report.messages, report.folders[0].uids_kept) == (2, False)
    assert await house.uids("INBOX") == [1, 2]
    (delivered,) = await house.store.messages.deliver([new_message(house.ann)], "node-1")
    assert delivered.uid < 5_000
    assert await house.uidvalidity("INBOX") != 77


async def test_uids_beyond_what_the_journal_has_reserved(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The import asks for them and waits for the next segment; who does not ask is refused."""
    pen = await writer(house.store, house.context.blobs)  # type: ignore[arg-type]
    assert await pen.step()
    inbox = await house.store.mailboxes.get(house.ann, "INBOX")
    house.fill("", [1, 2, 3_000_000], uid_next=5_000_000)
    asked: list[int] = []
    reserve = Imports.reserve

    async def reserved(self: Imports, folder: Folder, uid_next: int) -> None:
        asked.append(uid_next)
        try:
            await reserve(self, folder, uid_next)
        except Busy:
            await pen.step()
            raise

    monkeypatch.setattr(Imports, "reserve", reserved)
    report = await bring(house)
    assert (report.messages, report.notes, report.problems) == (3, [], [])
    assert await house.uids("INBOX") == [1, 2, 3_000_000]
    assert await house.uidvalidity("INBOX") == 77
    assert asked[0] == 5_000_000
    row = await house.store.db.fetchrow(
        "SELECT uid_next, uid_reserved FROM mailbox_stats WHERE mailbox_id = $1", inbox.mailbox_id
    )
    assert row is not None
    assert row["uid_next"] == 5_000_000 < row["uid_reserved"]


async def test_two_messages_with_one_uid(house: House) -> None:
    house.fill("", [1, 2])
    path = house.mail / "dovecot-uidlist"
    path.write_text(path.read_text().replace("\n2 ", "\n1 "))
    report = await bring(house)
    assert (report.messages, report.folders[0].uids_kept) == (2, False)
    assert await house.uids("INBOX") == [1, 2]


async def test_a_special_use_goes_to_the_folder_that_has_mail(house: House) -> None:
    imports = Imports(house.store.db, house.store.messages)
    import_id = await imports.open(house.ann, "test")

    async def uses() -> dict[str, str]:
        found = await house.store.mailboxes.list(house.ann)
        return {mailbox.special_use: mailbox.name for mailbox in found if mailbox.special_use}

    await imports.folder(house.ann, import_id, NewFolder(b"1", ("Sent Items",), 77, "\\Sent"))
    assert (await uses())["\\Sent"] == "Sent Items"
    drafts = await house.store.mailboxes.get(house.ann, "Drafts")
    await house.store.messages.deliver([new_message(house.ann, mailbox_id=drafts.mailbox_id)], "node-1")
    await imports.folder(house.ann, import_id, NewFolder(b"2", ("Entwürfe",), 77, "\\Drafts"))
    assert (await uses())["\\Drafts"] == "Drafts"
    assert len(await uses()) == 5


async def test_a_mailbox_that_is_only_a_name_becomes_one(house: House) -> None:
    await house.store.mailboxes.create(house.ann, "Work/Below")
    await house.store.mailboxes.delete(house.ann, "Work")
    house.fill(".Work", [4])
    assert (await bring(house)).messages == 1
    assert await house.uids("Work") == [4]


async def test_a_mailbox_that_is_deleted_while_mail_comes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.fill(".Work", [4])
    house.fill(".Zoo", [4])
    begin = Imports.folder

    async def deleted(self: Imports, *arguments: object) -> object:
        folder = await begin(self, *arguments)  # type: ignore[arg-type]
        if folder.name == "Work":
            await house.store.mailboxes.delete(house.ann, "Work")
        return folder

    with monkeypatch.context() as patched:
        patched.setattr(Imports, "folder", deleted)
        report = await bring(house)
    assert report.problems == ["Work: the mailbox was deleted while mail came to it"]
    assert await house.uids("Zoo") == [4]
    assert (await bring(house)).messages == 1


async def test_a_mailbox_that_cannot_be_made(house: House) -> None:
    for name in (".A", ".B"):
        house.fill(name, [1])
    count = len(await house.store.mailboxes.list(house.ann))
    await house.store.accounts.set_quota(house.ann, quota_bytes=None, quota_messages=None, quota_mailboxes=count + 1)
    report = await bring(house)
    assert len(report.problems) == 1
    assert report.messages == 1


async def test_keywords_that_are_too_many_stay_behind(house: House) -> None:
    await house.store.mailboxes.register_keywords(house.ann, [f"k{number}" for number in range(999)])
    house.fill("", [1])
    for number, letters in enumerate(("a", "b", "c")):
        (house.mail / "cur" / f"k{number}:2,{letters}").write_text("Subject: k\n\n")
    (house.mail / "dovecot-keywords").write_text("0 new\n1 K5\n2 newer\n")
    report = await bring(house)
    assert report.messages == 4
    assert any("one too many" in note for note in report.notes)
    assert [len(row.flags) for row in await house.rows("INBOX")] == [1, 1, 1, 0]


async def test_a_mailbox_that_was_deleted_comes_again_with_another_uidvalidity(house: House) -> None:
    house.fill("", [])
    house.fill(".Work", [3])
    await bring(house)
    await house.store.mailboxes.delete(house.ann, "Work")
    report = await bring(house)
    assert report.messages == 1
    assert await house.uids("Work") == [1]
    assert await house.uidvalidity("Work") != 77


async def test_a_mailbox_that_was_renamed_is_still_the_same(house: House) -> None:
    house.fill(".Work", [3])
    await bring(house)
    await house.store.mailboxes.rename(house.ann, "Work", "Play")
    house.fill(".Work", [3, 4])
    assert (await bring(house)).messages == 1
    assert await house.uids("Play") == [3, 4]
    with pytest.raises(NotFound):
        await house.store.mailboxes.get(house.ann, "Work")


async def test_a_full_account_stops_and_goes_on(house: House) -> None:
    house.fill("", list(range(1, 200)))
    await house.store.accounts.set_quota(house.ann, quota_bytes=None, quota_messages=100)
    with pytest.raises(OverQuota):
        await bring(house)
    there = len(await house.uids("INBOX"))
    assert 0 < there <= 100
    await house.store.accounts.set_quota(house.ann, quota_bytes=None, quota_messages=None)
    report = await bring(house)
    assert (report.messages, report.present) == (199 - there, there)
    assert await house.uids("INBOX") == list(range(1, 200))
    assert await house.uidvalidity("INBOX") == 77


async def test_large_messages_come_by_way_of_a_file(house: House) -> None:
    house.fill("", [1, 2, 3], size=3_000_000)
    house.fill("", [1, 2, 3, 4])
    assert (await bring(house)).messages == 4
    assert [row.body.size > 3_000_000 for row in await house.rows("INBOX")] == [True, True, True, False]
    too_big = await moving.import_maildir(
        house.context, moving.ImportMaildir(ADDRESS, str(house.mail), max_message_size=100)
    )
    assert too_big.messages == 0
    house.fill(".Other", [9], size=200)
    too_big = await moving.import_maildir(
        house.context, moving.ImportMaildir(ADDRESS, str(house.mail), max_message_size=100)
    )
    assert moving.failed(too_big) == 1
    assert "larger than 100 octets" in too_big.problems[0]


async def test_bodies_that_are_there_are_shared(house: House) -> None:
    house.fill("", [1])
    text = (house.mail / "cur").iterdir().__next__().read_bytes()
    for name in (".A", ".B"):
        (house.make_folder(name) / "cur" / "x").write_bytes(text)
    await bring(house)
    assert await house.store.db.fetchval("SELECT count(*) FROM message_contents") == 1
    assert len(list((house.folder / "staging").glob("*.eml"))) == 1


async def test_keywords_names_and_scripts(house: House) -> None:
    house.fill("", [1])
    (house.mail / "cur" / "k:2,Fab").write_text("Subject: k\n\n")
    (house.mail / "dovecot-keywords").write_text("0 NIL\n1 a(b\n")
    house.make_folder(".a&AAo-b")
    (house.mail / "subscriptions").write_text("V\t2\n\na\nINBOX\n")
    (house.mail / "sieve").mkdir()
    (house.mail / "sieve" / "good.sieve").write_text("keep;")
    (house.mail / "sieve" / "bad.sieve").write_text("frobnicate;")
    (house.mail / ".dovecot.sieve").symlink_to("sieve/good.sieve")
    told = ["keyword NIL is NIL_ here", "keyword a(b is a_b here"]
    assert (await bring(house, dry_run=True)).notes == told
    report = await bring(house)
    assert report.notes == told
    assert set((await house.store.mailboxes.list_keywords(house.ann)).values()) == {"NIL_", "a_b"}
    assert await house.store.mailboxes.find(house.ann, "a_b") is not None
    assert report.subscriptions == 2
    assert [script.active for script in await house.store.scripts.list_scripts(house.ann)] == [True]
    assert len(report.problems) == 1
    assert "script bad" in report.problems[0]
    (house.mail / "sieve" / "good.sieve").write_text("stop;")
    again = await bring(house)
    assert len(again.notes) == 1, "keywords are told of messages that come"
    assert "stays" in again.notes[0]
    kept = await house.store.scripts.find(house.ann, "good")
    assert kept is not None
    assert kept.content == b"keep;"


async def test_a_dry_run_tells_what_is_too_large(house: House) -> None:
    house.fill("", [2, 3])
    (house.mail / "cur" / "large:2,").write_text("Subject: large\n\n" + "x" * 5000)
    large = moving.ImportMaildir(ADDRESS, str(house.mail), max_message_size=4000, dry_run=True)
    looked = await moving.import_maildir(house.context, large)
    large = moving.ImportMaildir(ADDRESS, str(house.mail), max_message_size=4000)
    came = await moving.import_maildir(house.context, large)
    assert looked.problems == came.problems == ["INBOX: cur/large:2,: larger than 4000 octets"]
    assert (looked.messages, came.messages) == (2, 2)


async def test_folders_that_would_be_one_stay_apart(house: House) -> None:
    for name in (".a&AAo-b", ".a_b"):
        house.fill(name, [1])
    report = await bring(house)
    assert {line.mailbox for line in report.folders} == {"a_b", "a_b (2)"}
    assert "two folders would be" in report.notes[0]
    assert (await bring(house)).messages == 0


async def test_folders_that_a_namespace_would_hide_get_another_name(house: House) -> None:
    """What lies below `Deleted/` and `Shared/` is something else, and nobody would see the mail."""
    for name in (".Deleted", ".Deleted.old", ".Deleted Items", ".Shared.x"):
        house.fill(name, [1])
    (house.mail / "subscriptions").write_text("V\t2\n\nDeleted\nDeleted\tgone\n")
    report = await bring(house)
    assert sorted(line.mailbox for line in report.folders) == [
        "Deleted (2)", "Deleted (2)/old", "Deleted Items", "Shared (2)/x"
    ]  # fmt: skip
    assert len([note for note in report.notes if "stands for something else" in note]) == 3
    listed = {mailbox.name for mailbox in await house.store.mailboxes.list(house.ann) if mailbox.subscribed}
    assert {"Deleted (2)", "Deleted (2)/gone"} <= listed
    assert (await bring(house)).messages == 0


async def test_a_folder_that_comes_later_shares_no_mailbox(house: House) -> None:
    """Its name is that of one that came before, in other octets."""
    house.fill(".&AOk-", [1])
    assert (await bring(house)).messages == 1
    house.fill(".\u00e9", [1])
    report = await bring(house)
    assert (report.messages, report.present) == (1, 1)
    assert (await house.uids("\u00e9"), await house.uids("\u00e9 (2)")) == ([1], [1])


async def test_a_source_whose_uids_mean_something_else_now(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where messages are known by UIDs alone nothing tells which are here: none comes twice."""
    house.fill("", [1, 2])
    source = MaildirSource(house.mail)
    real = source.folders
    monkeypatch.setattr(MaildirSource, "folders", lambda self: [replace(one, by_uid=True) for one in real()])
    monkeypatch.setattr(maildir_source, "key_of", lambda base: key_of(b"%d" % real()[0].uidvalidity, base))
    assert (await bring(house)).messages == 2
    assert (await bring(house)).present == 2
    house.fill("", [1, 2], uidvalidity=78)
    for dry_run in (True, False):
        report = await bring(house, dry_run=dry_run)
        assert report.messages == 0
        assert "another UIDVALIDITY" in report.problems[0]
    assert await house.uids("INBOX") == [1, 2]
    source.close()


async def test_a_folder_that_cannot_be_read_stops_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and comes with the next run; nothing of it is lost silently."""
    for name in ("", ".Bad", ".Work"):
        house.fill(name, [3])
    real, away = os.open, []

    def refused(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == b"cur" and dir_fd is not None and os.readlink(f"/proc/self/fd/{dir_fd}").endswith(".Bad"):
            away.append(path)
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refused)
        assert (await bring(house, dry_run=True)).problems == ["Bad: it cannot be read: Permission denied"]
        report = await bring(house)
    assert away
    assert report.problems == ["Bad: it cannot be read: Permission denied"]
    assert report.messages == 2
    assert (await bring(house)).messages == 1
    assert await house.uids("Bad") == [3]
    assert await house.uidvalidity("Bad") == 77


@pytest.mark.parametrize(
    ("text", "problem", "uids"),
    [
        (b"garbage\n", "its first line is none; UIDs are new", [1, 2]),
        (b"3 V77 N9 G0\n5 :1000000005.M5.vm\n\0\0\0\n", "1 lines are none", [5, 6]),
    ],
)
async def test_a_uidlist_that_is_damaged_is_told(house: House, text: bytes, problem: str, uids: list[int]) -> None:
    house.fill("", [5, 8])
    (house.mail / "dovecot-uidlist").write_bytes(text)
    report = await bring(house)
    assert report.messages == 2
    assert len(report.problems) == 1
    assert problem in report.problems[0]
    assert await house.uids("INBOX") == uids


async def test_empty_files_and_what_cannot_be_read_are_told(house: House) -> None:
    house.fill("", [1])
    (house.mail / "cur" / "empty").touch()
    os.mkfifo(house.mail / "cur" / "pipe")
    report = await bring(house)
    assert report.messages == 1
    assert len(report.problems) == 2
    assert moving.failed(report) == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("point", IMPORT_POINTS)
async def test_killed_anywhere_it_goes_on(house: House, point: str) -> None:
    """A process of its own dies by SIGKILL; the next run leaves nothing out, and brings nothing twice."""
    for name in ("", ".Work", ".Work.More"):
        house.fill(name, list(range(3, 60, 3)))
    (house.mail / "subscriptions").write_text("V\t2\n\nWork\n")
    command = [sys.executable, "-m", "sora.cli.admin", "--config", str(house.config_path)]
    process = await asyncio.create_subprocess_exec(
        *command, "import", "maildir", ADDRESS, str(house.mail),
        env={**os.environ, "SORA_CRASH_AT": point if point in ONCE else f"{point}:2"},
    )  # fmt: skip
    assert await process.wait() == -signal.SIGKILL
    report = await bring(house)
    assert not report.problems
    assert report.messages + report.present == 57
    for name in ("INBOX", "Work", "Work/More"):
        assert await house.uids(name) == list(range(3, 60, 3))
        assert await house.uidvalidity(name) == 77
    assert (await bring(house)).messages == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("export.")])
async def test_an_export_that_was_killed_goes_on(house: House, point: str) -> None:
    house.fill("", list(range(1, 500, 2)))
    house.fill(".Work", [4])
    await bring(house)
    target = house.folder / "out"
    command = [sys.executable, "-m", "sora.cli.admin", "--config", str(house.config_path)]
    process = await asyncio.create_subprocess_exec(
        *command,
        "export",
        "maildir",
        ADDRESS,
        str(target),
        env={**os.environ, "SORA_CRASH_AT": f"{point}:{4 if point == 'export.mailbox_done' else 2}"},
    )
    assert await process.wait() == -signal.SIGKILL
    report = await moving.export_maildir(house.context, moving.ExportMaildir(ADDRESS, str(target)))
    assert report.messages + report.present == 251
    assert report.present > 0
    assert len(list((target / "cur").iterdir())) == 250
    lines = (target / "dovecot-uidlist").read_text().splitlines()
    assert lines[0].startswith("3 V77 N500 G")
    assert [int(line.split()[0]) for line in lines[1:]] == list(range(1, 500, 2))


async def test_who_imports_at_the_same_time_brings_nothing_twice(house: House) -> None:
    house.fill("", list(range(1, 150)))
    reports = await asyncio.gather(*(bring(house) for _ in range(3)))
    assert sum(report.messages for report in reports) == 149
    assert await house.uids("INBOX") == list(range(1, 150))


async def test_what_is_away_is_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.fill("", [1, 2])
    tries: list[object] = []
    real = Staging.stage_many

    async def full_once(self: Staging, items: object) -> None:
        tries.append(items)
        if len(tries) == 1:
            raise StagingFull
        await real(self, items)  # type: ignore[arg-type]

    monkeypatch.setattr(Staging, "stage_many", full_once)
    assert (await bring(house)).messages == 2
    assert len(tries) == 2


async def test_an_account_that_is_not_there(house: House) -> None:
    with pytest.raises(NotFound):
        await moving.import_maildir(house.context, moving.ImportMaildir("bob@example.com", str(house.folder)))
    with pytest.raises(Refused):
        await bring(house)


async def test_mbox_comes_and_goes(house: House, tmp_path: Path) -> None:
    (tmp_path / "box").write_bytes(
        b"From a Tue Mar  4 05:06:07 2015\nStatus: RO\nX-Keywords: Later\n"
        + letter(body="From x").replace(b"\r\n", b"\n")
    )
    request = moving.ImportMbox(ADDRESS, str(tmp_path / "box"), mailbox="Old/mail")
    assert (await moving.import_mbox(house.context, request)).messages == 1
    assert (await moving.import_mbox(house.context, request)).present == 1
    (row,) = await house.rows("Old/mail")
    assert row.internal_date == datetime(2015, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert row.flags[0] == 0
    assert row.flags[1] >= 16
    out = moving.ExportMbox(ADDRESS, str(tmp_path / "out"))
    assert (await moving.export_mbox(house.context, out)).messages == 1
    text = (tmp_path / "out" / "Old" / "mail.mbox").read_bytes()
    assert b"X-Keywords: Later\n" in text
    assert b"\nFrom x" not in text
    assert (await moving.export_mbox(house.context, out)).messages == 0
