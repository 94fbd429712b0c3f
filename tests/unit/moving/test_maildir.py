"""Maildirs on a disk: what is read, what is not followed, and what an export leaves."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sora.errors import Refused
from sora.formats.flags import Flags
from sora.moving import files, maildir_source
from sora.moving.maildir_sink import MaildirSink
from sora.moving.maildir_source import MaildirSource
from sora.moving.sink import SinkFolder, SinkMessage, SinkScript
from sora.moving.source import GONE
from sora.types import ANSWERED, SEEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sora.moving.source import SourceFolder, SourceMessage


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    """A maildir with a folder."""
    for path in ("", ".Work.&ANw-bung"):
        for part in ("cur", "new", "tmp"):
            (tmp_path / "mail" / path / part).mkdir(parents=True)
    return tmp_path / "mail"


def put(directory: Path, name: str, text: bytes = b"Subject: x\n\nbody\n") -> None:
    (directory / name).write_bytes(text)
    os.utime(directory / name, (1_000_000_000, 1_000_000_000))


@pytest.fixture
def opened(mail: Path) -> Iterator[MaildirSource]:
    source = MaildirSource(mail)
    yield source
    source.close()


def all_of(source: MaildirSource, folder: SourceFolder) -> list[SourceMessage]:
    return [message for window in source.messages(folder) for message in window]


def body(source: MaildirSource, folder: SourceFolder, message: SourceMessage) -> tuple[bytes, str]:
    pieces = list(source.pieces(folder, [message]))
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    return b"".join(piece.octets for piece in pieces), pieces[-1].problem


def test_messages_come_in_the_order_of_their_uids(mail: Path, opened: MaildirSource) -> None:
    put(mail / "cur", "b,S=17:2,Sa")
    put(mail / "cur", "a,S=17:2,R")
    put(mail / "new", "d")
    put(mail / "new", "c")
    (mail / "dovecot-uidlist").write_bytes(b"3 V77 N3 G00\n7 :a,S=17\n3 :b,S=17\n9 :gone\n")
    (mail / "dovecot-keywords").write_bytes(b"0 Later\n")
    inbox, work = opened.folders()
    assert (inbox.name, inbox.uidvalidity, inbox.messages) == ("INBOX", 77, 4)
    assert (work.name, work.uidvalidity) == ("Work/Übung", 0)
    messages = all_of(opened, inbox)
    assert [message.uid for message in messages] == [3, 7, 0, 0]
    assert [message.place for message in messages[2:]] == [b"new/c", b"new/d"]
    assert [message.flags for message in messages[:2]] == [Flags((SEEN,), ("Later",)), Flags((ANSWERED,))]
    assert messages[0].internal_date == datetime.fromtimestamp(1_000_000_000, UTC)
    assert opened.uid_next(inbox) == 10
    assert body(opened, inbox, messages[0]) == (b"Subject: x\r\n\r\nbody\r\n", "")


def test_a_file_that_was_renamed_is_found(mail: Path, opened: MaildirSource) -> None:
    for name in "ab":
        put(mail / "new", name)
    inbox = opened.folders()[0]
    first, second = all_of(opened, inbox)
    (mail / "new/a").rename(mail / "cur/a:2,S")
    (mail / "new/b").unlink()
    assert body(opened, inbox, first)[0].startswith(b"Subject")
    assert body(opened, inbox, second) == (b"", GONE)


def test_a_file_that_was_renamed_before_it_was_looked_at(
    mail: Path, opened: MaildirSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its date, and has the flags that it has now."""
    monkeypatch.setattr(maildir_source, "WINDOW", 1)
    for name in ("a:2,", "b:2,", "c:2,"):
        put(mail / "cur", name)
    (folder, *_) = opened.folders()
    windows = opened.messages(folder)
    found = next(windows)
    (mail / "cur" / "b:2,").rename(mail / "cur" / "b:2,S")
    (mail / "cur" / "c:2,").unlink()
    for window in windows:
        found += window
    assert [message.flags.system for message in found] == [(), (SEEN,), ()]
    when = datetime.fromtimestamp(1_000_000_000, UTC)
    assert [message.internal_date for message in found] == [when, when, None]
    assert body(opened, folder, found[1]) == (b"Subject: x\r\n\r\nbody\r\n", "")
    assert body(opened, folder, found[2])[1] == GONE


def test_a_directory_that_cannot_be_read_or_lies_too_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "/".join(["d"] * 17)
    for path in ("", "Work", "Bad", "Bad/below", deep):
        (tmp_path / path / "cur").mkdir(parents=True)
    real = files.subdirectories

    def refused(fd: int) -> Iterator[tuple[bytes, bool]]:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/Bad"):
            raise PermissionError(13, "Permission denied")
        return real(fd)

    monkeypatch.setattr(files, "subdirectories", refused)
    source = MaildirSource(tmp_path)
    names = [folder.name for folder in source.folders()]
    assert names == ["INBOX", "Bad", "Work"]
    told = set(source.problems())
    assert "Bad: it cannot be read: Permission denied" in told
    assert f"{deep[:-2]}: directories lie too deep in each other: what is in there is left out" in told
    source.close()


def test_nothing_follows_a_link(tmp_path: Path, mail: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    put(secret, "x", b"Subject: secret\n\n")
    for part in ("cur", "new", "tmp"):
        (secret / part).mkdir()
    put(secret / "cur", "y", b"Subject: secret\n\n")
    (mail / "cur" / "link").symlink_to(secret / "x")
    (mail / "dovecot-uidlist").symlink_to(secret / "x")
    (mail / "subscriptions").symlink_to(secret / "x")
    (mail / ".Linked").symlink_to(secret)
    (mail / ".Half").mkdir()
    (mail / ".Half" / "cur").symlink_to(secret / "cur")
    os.mkfifo(mail / "new" / "pipe")
    (mail / "sieve").mkdir()
    (mail / "sieve" / "a.sieve").symlink_to(secret / "x")
    (mail / ".dovecot.sieve").symlink_to(secret / "x")
    source = MaildirSource(mail)
    found = {folder.name: all_of(source, folder) for folder in source.folders()}
    assert set(found) == {"INBOX", "Work/Übung"}
    inbox = source.folders()[0]
    answers = [body(source, inbox, message) for message in found["INBOX"]]
    assert [octets for octets, _ in answers] == [b"", b""]
    assert all(problem for _, problem in answers)
    assert source.subscriptions() == []
    assert source.scripts() == []
    assert len(source.problems()) == 4
    source.close()


def test_a_link_that_appears_between_looking_and_reading(tmp_path: Path, mail: Path, opened: MaildirSource) -> None:
    put(mail / "cur", "a")
    inbox = opened.folders()[0]
    (message,) = all_of(opened, inbox)
    (tmp_path / "other").mkdir()
    put(tmp_path / "other", "a", b"secret")
    (mail / "cur").rename(mail / "old")
    (mail / "cur").symlink_to(tmp_path / "other")
    octets, problem = body(opened, inbox, message)
    assert not octets
    assert problem


def test_folders_of_the_other_layout(tmp_path: Path) -> None:
    for path in ("", "Work", "Work/a.b", "Empty/below"):
        for part in ("cur", "new", "tmp"):
            (tmp_path / path / part).mkdir(parents=True)
    source = MaildirSource(tmp_path)
    assert [folder.name for folder in source.folders()] == ["INBOX", "Empty/below", "Work", "Work/a.b"]
    source.close()


def test_scripts(mail: Path, opened: MaildirSource) -> None:
    assert opened.scripts() == []
    (mail / "sieve").mkdir()
    put(mail / "sieve", "one.sieve", b"keep;")
    put(mail / "sieve", "two.sieve", b"stop;")
    (mail / ".dovecot.sieve").symlink_to("sieve/two.sieve")
    found = [(script.name, script.content, script.active) for script in opened.scripts()]
    assert found == [("one", b"keep;", False), ("two", b"stop;", True)]


def test_what_is_no_maildir(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(Refused):
            MaildirSource(path)


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def message(uid: int, *flags: int) -> SinkMessage:
    return SinkMessage(uid, flags, datetime.fromtimestamp(1_000_000_000 + uid, UTC), 5)


def test_an_export_that_goes_on_keeps_what_is_there(tmp_path: Path) -> None:
    folder = SinkFolder("Work", 77, 10, {16: "Later"})
    for run in range(2):
        sink = MaildirSink(tmp_path / "out", ["INBOX", "Work"], "account 1")
        assert sink.begin(folder)
        assert sink.has(message(3, 0)) == bool(run)
        sink.put(message(3, 0), None if run else b"three")
        assert not sink.has(message(7, 1, 16))
        if run:
            sink.put(message(7, 1, 16), b"seven")
            sink.end()
            sink.finish(["Work"], [SinkScript("a/b", b"keep;", active=True)])
        sink.close()
    work = tmp_path / "out" / ".Work"
    names = sorted(path.name for path in (work / "cur").iterdir())
    assert names == ["1000000003.U3V77.sora,S=5:2,S", "1000000007.U7V77.sora,S=5:2,Ra"]
    assert (work / "dovecot-uidlist").read_bytes().splitlines()[1:] == [
        b"3 :1000000003.U3V77.sora,S=5",
        b"7 :1000000007.U7V77.sora,S=5",
    ]
    assert (work / "cur" / names[1]).stat().st_mtime == 1_000_000_007
    assert (tmp_path / "out" / ".dovecot.sieve").read_bytes() == b"keep;"
    source = MaildirSource(tmp_path / "out")
    (found,) = source.folders()
    assert (found.name, found.uidvalidity, source.uid_next(found)) == ("Work", 77, 10)
    source.close()


def test_an_export_changes_flags_that_have_changed(tmp_path: Path) -> None:
    for flags in ((0,), (0, 1)):
        sink = MaildirSink(tmp_path, ["INBOX"], "account 1")
        sink.begin(SinkFolder("INBOX", 7, 2, {}))
        there = sink.has(message(1, *flags))
        sink.put(message(1, *flags), None if there else b"text.")
        sink.end()
        sink.close()
    assert [path.name for path in (tmp_path / "cur").iterdir()] == ["1000000001.U1V7.sora,S=5:2,RS"]


def test_an_export_that_goes_on_removes_what_was_expunged_meanwhile(tmp_path: Path) -> None:
    """Only what it has written itself."""
    for uids in ((1, 2, 3), (1, 3)):
        sink = MaildirSink(tmp_path, ["INBOX"], "account 1")
        sink.begin(SinkFolder("INBOX", 7, 4, {}))
        for uid in uids:
            sink.put(message(uid), None if sink.has(message(uid)) else b"text.")
        (tmp_path / "cur" / "1.M1.other:2,").touch()
        sink.end()
        sink.close()
    assert sorted(path.name for path in (tmp_path / "cur").iterdir()) == [
        "1.M1.other:2,", "1000000001.U1V7.sora,S=5:2,", "1000000003.U3V7.sora,S=5:2,"
    ]  # fmt: skip


def test_an_export_goes_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(Refused, match="not empty"):
        MaildirSink(tmp_path / "full", [], "account 1")
    MaildirSink(tmp_path / "mine", [], "account 1").close()
    with pytest.raises(Refused, match="something else"):
        MaildirSink(tmp_path / "mine", [], "account 2")


def test_names_that_cannot_be_directories(tmp_path: Path) -> None:
    sink = MaildirSink(tmp_path, ["INBOX", "a.b", "a_b", "cur"], "account 1")
    assert sink.layout == "fs"
    for name in ("INBOX", "a.b", "cur", ".hidden"):
        sink.begin(SinkFolder(name, 7, 1, {}))
        sink.end()
    assert len(sink.notes()) == 3
    sink.close()
    source = MaildirSource(tmp_path, "fs")
    assert [folder.name for folder in source.folders()] == ["INBOX", "_.hidden", "_cur", "a.b"]
    source.close()


TAKEN = ("subscriptions", "sieve", "dovecot-uidlist", "A/dovecot-keywords", "A/maildirfolder", "é" * 127, "é" * 126)


@pytest.mark.parametrize("names", [("INBOX", "a.b", "A", *TAKEN), ("INBOX", "A", "/".join(["x" * 200] * 4), *TAKEN)])
def test_names_that_files_have_and_names_that_are_too_long(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Every mailbox comes back, and the subscriptions name those that are there."""
    sink = MaildirSink(tmp_path, names, "account 1")
    for name in names:
        sink.begin(SinkFolder(name, 7, 2, {}))
        sink.put(message(1), b"text.")
        sink.end()
    sink.finish(names, [SinkScript("main", b"keep;", active=True)])
    sink.close()
    source = MaildirSource(tmp_path)
    folders = source.folders()
    assert len(folders) == len(names)
    assert {folder.name for folder in folders} == set(source.subscriptions())
    assert all(len(all_of(source, folder)) == 1 for folder in folders)
    assert [script.name for script in source.scripts()] == ["main"]
    source.close()


def test_keywords_without_a_letter_are_told(tmp_path: Path) -> None:
    sink = MaildirSink(tmp_path, ["INBOX"], "account 1")
    sink.begin(SinkFolder("INBOX", 7, 3, {number: f"k{number}" for number in range(16, 43)}))
    sink.put(message(1, 16, 41, 42), b"text.")
    sink.end()
    assert sink.notes() == ["INBOX: no letter left for the keyword k42"]
    sink.close()
    assert [path.name for path in (tmp_path / "cur").iterdir()] == ["1000000001.U1V7.sora,S=5:2,az"]
