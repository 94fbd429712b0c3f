"""mbox files: what is written is read again, whatever stands in the messages."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sora.errors import Refused
from sora.formats.mbox import Variant
from sora.moving import mbox_sink
from sora.moving.mbox_sink import MboxSink
from sora.moving.mbox_source import MboxSource
from sora.moving.sink import SinkFolder, SinkMessage, SinkScript
from sora.moving.source import CHANGED, FolderBroken

if TYPE_CHECKING:
    from sora.moving.source import SourceFolder, SourceMessage

FORMATS = pytest.mark.parametrize("variant", get_args(Variant))
WHEN = datetime(2015, 3, 4, 5, 6, 7, tzinfo=UTC)
LINES = st.sampled_from(
    [b"", b"text", b"From ann@example.com Tue Mar  4 05:06:07 2015", b">From there", b"From here", b"Status: RO", b" x"]
)
BODIES = st.lists(LINES, max_size=6).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
MESSAGES = st.lists(st.tuples(BODIES, st.sets(st.sampled_from([0, 1, 2, 3, 4, 16])).map(sorted).map(tuple)), max_size=6)


def read(source: MboxSource) -> list[tuple[SourceFolder, SourceMessage, bytes]]:
    found = []
    for folder in source.folders():
        for window in source.messages(folder):
            for message in window:
                pieces = list(source.pieces(folder, [message]))
                assert not pieces[-1].problem
                found.append((folder, message, b"".join(piece.octets for piece in pieces)))
    return found


@FORMATS
@settings(max_examples=60, deadline=None)
@given(messages=MESSAGES)
def test_what_is_written_is_read(variant: Variant, messages: list[tuple[bytes, tuple[int, ...]]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "out"
        sink = MboxSink(path, "account 1", variant)
        assert sink.begin(SinkFolder("Work/Übung", 7, 1, {16: "Later"}))
        given_bodies = []
        for uid, (text, flags) in enumerate(messages, 1):
            whole = b"Subject: %d\r\n\r\n%s" % (uid, text)
            given_bodies.append(whole)
            sink.put(SinkMessage(uid, flags, WHEN, len(whole)), whole)
        sink.end()
        sink.close()
        source = MboxSource(path, variant)
        found = read(source)
        source.close()
    assert [message.internal_date for _, message, _ in found] == [WHEN] * len(messages)
    bodies = [octets for _, _, octets in found]
    if variant == "mboxo":  # which `>From ` was quoted, nobody can tell
        bodies = [octets.replace(b">From ", b"From ") for octets in bodies]
        given_bodies = [octets.replace(b">From ", b"From ") for octets in given_bodies]
    assert bodies == given_bodies
    assert all(folder.name == "Work/Übung" for folder, _, _ in found)
    numbers = [message.flags.system for _, message, _ in found]
    assert numbers == [tuple(n for n in flags if n < 16) for _, flags in messages]
    assert [message.flags.keywords for _, message, _ in found] == [
        ("Later",) if 16 in flags else () for _, flags in messages
    ]


@FORMATS
@pytest.mark.parametrize(
    ("stored", "header", "body"),
    [
        (b"A: b\n\ntext\n", b"A: b\r\n", b"text\r\n"),
        (b"\r\ntext", b"", b"text\r\n"),
        (b"A: b", b"A: b\r\n", b""),
        (b"A: b\r\n\r\n", b"A: b\r\n", b""),
        (b"A: b\r\n\r\n\r\n\r\nx", b"A: b\r\n", b"\r\n\r\nx\r\n"),
        (b"\n\n", b"", b"\r\n"),
    ],
)
def test_headers_and_bodies_of_every_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: Variant, stored: bytes, header: bytes, body: bytes
) -> None:
    monkeypatch.setattr(mbox_sink, "SLICE", 8)
    sink = MboxSink(tmp_path / "out", "account 1", variant)
    sink.begin(SinkFolder("INBOX", 7, 1, {}))
    sink.put(SinkMessage(1, (), WHEN, len(stored)), stored)
    sink.put(SinkMessage(2, (), WHEN, 5), b"C: d\r\n\r\nFrom x\r\n>From y\r\nz\r\n")
    sink.end()
    sink.close()
    source = MboxSource(tmp_path / "out", variant)
    first, second = (octets for _, _, octets in read(source))
    source.close()
    assert first == header + b"\r\n" + body
    quoted = b">" if variant == "mboxo" else b""
    assert second == b"C: d\r\n\r\n" + quoted + b"From x\r\n>From y\r\nz\r\n"


def test_messages_that_are_alike_are_several(tmp_path: Path) -> None:
    one = b"From a Tue Mar  4 05:06:07 2015\nSubject: x\n\nbody\n\n"
    (tmp_path / "mail").write_bytes(one * 3)
    source = MboxSource(tmp_path / "mail")
    before = [message.key for _, message, _ in read(source)]
    source.close()
    assert len(set(before)) == 3
    (tmp_path / "mail").write_bytes(one.replace(b"Subject", b"Status: RO\nSubject") + one * 3)
    source = MboxSource(tmp_path / "mail")
    after = [message.key for _, message, _ in read(source)]
    source.close()
    assert after[:3] == before


@pytest.mark.parametrize("length", [0, 3, 4, 400])
def test_a_content_length_that_leads_nowhere_is_not_believed(tmp_path: Path, length: int) -> None:
    (tmp_path / "mail").write_bytes(
        b"From a Tue Mar  4 05:06:07 2015\nSubject: x\nContent-Length: %d\n\nbody\n\n"
        b"From b Tue Mar  4 05:06:07 2015\nSubject: y\n\nmore\n" % length
    )
    source = MboxSource(tmp_path / "mail", "mboxcl2")
    assert [octets for _, _, octets in read(source)] == [
        b"Subject: x\r\n\r\nbody\r\n",
        b"Subject: y\r\n\r\nmore\r\n",
    ]
    source.close()


def test_a_file_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "mail").write_bytes(b"From a Tue Mar  4 05:06:07 2015\nSubject: x\n\nno end of line")
    source = MboxSource(tmp_path / "mail")
    assert [octets for _, _, octets in read(source)] == [b"Subject: x\r\n\r\nno end of line"]
    source.close()


def test_a_directory_of_files(tmp_path: Path) -> None:
    (tmp_path / "Lists").mkdir()
    for name in ("inbox", "Lists/one.mbox", "empty"):
        (tmp_path / name).write_bytes(b"" if name == "empty" else b"From a Tue Mar  4 05:06:07 2015\nSubject: x\n\n\n")
    (tmp_path / "notes.txt").write_text("no mbox")
    (tmp_path / "link").symlink_to(tmp_path / "inbox")
    source = MboxSource(tmp_path)
    assert [folder.name for folder in source.folders()] == ["INBOX", "Lists/one", "empty"]
    assert source.notes() == ["notes.txt is no mbox"]
    assert source.problems() == ["link: a link is not followed"]
    source.close()


def test_what_cannot_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a note: whoever goes by the exit code would take the import for complete."""
    (tmp_path / "Lists").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"From a Tue Mar  4 05:06:07 2015\nSubject: x\n\n\n")
    real = os.open

    def refused(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path in (b"Lists", b"a"):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

    source = MboxSource(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refused)
        assert [folder.name for folder in source.folders()] == ["b"]
    assert sorted(source.problems()) == [
        "Lists: it cannot be read: Permission denied", "a: it cannot be read: Permission denied"
    ]  # fmt: skip
    (folder, *_) = source.folders()
    (tmp_path / "a").unlink()
    with pytest.raises(FolderBroken):
        list(source.messages(folder))
    source.close()


def test_directories_that_lie_too_deep_are_told(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["d"] * 20)
    path.mkdir(parents=True)
    (path / "box").write_bytes(b"")
    source = MboxSource(tmp_path)
    assert source.folders() == []
    assert [text.rpartition("/")[2] for text in source.problems()] == [
        "d: directories lie too deep in each other: the rest is left out"
    ]
    source.close()


def test_a_file_that_is_written_anew_meanwhile(tmp_path: Path) -> None:
    """No message gets the octets of another."""
    one, two = (b"From a Tue Mar  4 05:06:07 2015\nSubject: %s\n\n%s\n\n" % (c, c * 20) for c in (b"1", b"2"))
    (tmp_path / "box").write_bytes(one + two)
    source = MboxSource(tmp_path / "box")
    (folder,) = source.folders()
    (window,) = source.messages(folder)
    (tmp_path / "box").write_bytes(two)
    last = [piece for piece in source.pieces(folder, window) if piece.last]
    assert [piece.problem for piece in last] == [CHANGED, CHANGED]
    source.close()


FIRST = [b"From x y", b">From x y", b">>From x Tue Mar  4 05:06:07 2015", b"To: b\rStatus: c"]


@FORMATS
@pytest.mark.parametrize("first", FIRST)
def test_lines_of_a_header_that_look_like_others(tmp_path: Path, variant: Variant, first: bytes) -> None:
    whole = b"%s\r\nSubject: x\r\n\r\nbody\r\n" % first
    sink = MboxSink(tmp_path / "out", "account 1", variant)
    sink.begin(SinkFolder("Work", 7, 1, {}))
    sink.put(SinkMessage(1, (), WHEN, len(whole)), whole)
    sink.end()
    sink.close()
    source = MboxSource(tmp_path / "out", variant)
    quoted = b">" if variant == "mboxo" and first.startswith(b"From ") else b""  # nobody can tell which was
    assert [octets for _, _, octets in read(source)] == [quoted + whole]
    source.close()


def test_a_sender_sets_no_flags(tmp_path: Path) -> None:
    whole = b"X-Status: D\r\nX-Keywords: $Junk\r\nSubject: x\r\n\r\nbody\r\n"
    sink = MboxSink(tmp_path / "out", "account 1")
    sink.begin(SinkFolder("Work", 7, 1, {}))
    sink.put(SinkMessage(1, (0,), WHEN, len(whole)), whole)
    sink.end()
    sink.close()
    source = MboxSource(tmp_path / "out")
    ((_, message, _),) = read(source)
    assert (message.flags.system, message.flags.keywords) == ((0,), ())
    source.close()


def test_names_of_what_lies_beside_the_mailboxes(tmp_path: Path) -> None:
    """A folder is where no file has to be; subscriptions name what is there; no script takes the file of another."""
    sink = MboxSink(tmp_path / "out", "account 1")
    for name in ("subscriptions/a", ".b"):
        sink.begin(SinkFolder(name, 7, 1, {}))
        sink.end()
    long = "é" * 127
    scripts = [SinkScript("a/b", b"keep;", active=False), SinkScript("a_b", b"stop;", active=True),
               SinkScript(long, b"discard;", active=False)]  # fmt: skip
    sink.finish(["subscriptions/a", ".b", "c"], scripts)
    notes = sink.notes()
    assert "script a_b is called a_b (2) there" in notes
    assert len(notes) == 5
    sink.close()
    assert (tmp_path / "out" / "subscriptions").read_text() == "subscriptions_/a\n_.b\nc\n"
    assert (tmp_path / "out" / ".dovecot.sieve").read_bytes() == b"stop;"
    found = [path.read_bytes() for path in (tmp_path / "out" / "sieve").iterdir()]
    assert sorted(found) == [b"discard;", b"keep;", b"stop;"]


def test_a_single_file_goes_where_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "ann").write_bytes(b"From a Tue Mar  4 05:06:07 2015\nSubject: x\n\n\n")
    source = MboxSource(tmp_path / "ann", mailbox="INBOX")
    assert [folder.name for folder in source.folders()] == ["INBOX"]
    source.close()
    with pytest.raises(Refused):
        MboxSource(tmp_path / "missing")
    (tmp_path / "notes").write_text("no mbox")
    source = MboxSource(tmp_path / "notes")
    assert source.folders() == []
    assert source.problems() == ["notes is no mbox"]
    source.close()


def test_a_mailbox_that_is_written_is_done(tmp_path: Path) -> None:
    for run in range(2):
        sink = MboxSink(tmp_path / "out", "account 1")
        assert sink.begin(SinkFolder("INBOX", 7, 1, {})) == (not run)
        if not run:
            sink.end()
        sink.close()


def test_a_mailbox_that_was_cut_short_is_written_anew(tmp_path: Path) -> None:
    letter = b"Subject: x\r\n\r\nbody\r\n"
    for run in range(2):
        sink = MboxSink(tmp_path / "out", "account 1")
        assert sink.begin(SinkFolder("INBOX", 7, 1, {}))
        sink.put(SinkMessage(1, (), WHEN, len(letter)), letter)
        if run:
            sink.end()
        sink.close()
    source = MboxSource(tmp_path / "out")
    assert [octets for _, _, octets in read(source)] == [letter]
    source.close()


def test_mailboxes_whose_files_would_be_one(tmp_path: Path) -> None:
    sink = MboxSink(tmp_path / "out", "account 1")
    mailboxes = [".a", "_.a", "b", "b.mbox/c", "x" * 250]
    for name in mailboxes:
        assert sink.begin(SinkFolder(name, 7, 1, {}))
        sink.put(SinkMessage(1, (), WHEN, 5), b"A: %s\r\n\r\n" % name.encode())
        sink.end()
    assert len(sink.notes()) == 4
    sink.close()
    source = MboxSource(tmp_path / "out")
    assert {octets for _, _, octets in read(source)} == {b"A: %s\r\n\r\n" % name.encode() for name in mailboxes}
    source.close()


def test_lines_that_are_longer_than_a_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From in the middle of a line is none, wherever the line is cut."""
    monkeypatch.setattr(mbox_sink, "SLICE", 8)
    for gap in range(40):
        letter = b"A: b\r\n\r\n" + b"x" * gap + b"From y From y From y From y\r\nFrom z\r\n"
        sink = MboxSink(tmp_path / str(gap), "account 1")
        sink.begin(SinkFolder("INBOX", 7, 1, {}))
        sink.put(SinkMessage(1, (), WHEN, len(letter)), letter)
        sink.end()
        sink.close()
        text = (tmp_path / str(gap) / "INBOX.mbox").read_bytes()
        assert text.count(b">From ") == (2 if gap == 0 else 1)
        source = MboxSource(tmp_path / str(gap))
        assert [octets for _, _, octets in read(source)] == [letter]
        source.close()
