"""Mail programs that keep a copy of a mailbox, where they are installed: what is here and what is there stay equal.

NeoMutt resynchronizes by CONDSTORE or QRESYNC, mbsync and OfflineIMAP by UIDs.
"""

from __future__ import annotations

import email
import imaplib
import os
import pty
import re
import shutil
import subprocess
import termios
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import demo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

USER = "user1@example.com"
BOX = "Programs"


def needs(program: str) -> pytest.MarkDecorator:
    """Skipped where it is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with demo.Demo(tmp_path_factory.mktemp("programs") / "sora", "--workers", "1", "--accounts", "1") as sora:
        yield sora.ports["imap"]


@pytest.fixture(autouse=True)
def mailbox(port: int) -> Iterator[None]:
    """Five messages in a new mailbox."""
    with session(port) as imap:
        ok(imap.create(BOX))
        for number in range(5):
            append(imap, number)
    yield
    with session(port) as imap:
        ok(imap.delete(BOX))


@contextmanager
def session(port: int) -> Iterator[imaplib.IMAP4]:
    with imaplib.IMAP4("127.0.0.1", port, timeout=20) as imap:
        ok(imap.login(USER, demo.PASSWORD))
        yield imap


def ok(answer: tuple[str, list[Any]]) -> list[Any]:
    assert answer[0] == "OK", answer
    return answer[1]


def letter(number: int) -> bytes:
    return (
        f"From: a@example.org\r\nTo: b@example.org\r\nSubject: number {number}\r\n"
        f"Message-ID: <n{number}@example.org>\r\n"
        f"Date: Mon, 01 Jan 2024 10:00:{number:02d} +0000\r\n\r\nText {number}\r\n"
    ).encode()


def append(imap: imaplib.IMAP4, number: int) -> None:
    ok(imap.append(BOX, "", "", letter(number)))


def on_server(port: int) -> dict[int, set[str]]:
    """Flags by the number in the subject."""
    with session(port) as imap:
        ok(imap.select(BOX, readonly=True))
        lines = ok(imap.fetch("1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])"))
        pairs = [line for line in lines if isinstance(line, tuple)]
    return {
        int(subject.split()[-1]): {flag.decode() for flag in imaplib.ParseFlags(head)} - {r"\Recent"}
        for head, subject in pairs
    }


def change(port: int) -> None:
    """While the program is away: one goes, one is flagged, one comes."""
    with session(port) as imap:
        ok(imap.select(BOX))
        ok(imap.store("2", "+FLAGS.SILENT", r"(\Deleted)"))
        ok(imap.expunge())
        ok(imap.store("3", "+FLAGS", r"(\Flagged \Seen)"))
        append(imap, 7)


def in_maildir(directory: Path) -> dict[int, set[str]]:
    """Flags, as letters, by the number in the subject."""
    found = {}
    for path in [*directory.glob("cur/*"), *directory.glob("new/*")]:
        subject = email.message_from_bytes(path.read_bytes())["Subject"]
        found[int(subject.split()[-1])] = set(path.name.partition(":2,")[2])
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------------------- NeoMutt


def neomutt(directory: Path, port: int, keys: str, *settings: str) -> str:
    """Run it on a terminal of its own, with keys pressed; gives its log of the protocol."""
    log = directory / "log"
    for old in directory.glob("log*"):
        old.unlink()
    (directory / "cache").mkdir(exist_ok=True)
    lines = [
        f"set imap_user='{USER}' imap_pass='{demo.PASSWORD}' folder='imap://127.0.0.1:{port}/' spoolfile='+{BOX}'",
        f"set header_cache='{directory}/cache' mbox_type=mbox ssl_starttls=no ssl_force_tls=no wait_key=no",
        "set quit=yes move=no confirmappend=no confirmcreate=no delete=yes mark_old=no sort=date",
        *(f"set {setting}" for setting in settings),
        f"push '{keys}<quit>'",
    ]
    (directory / "rc").write_text("\n".join(lines) + "\n")
    here, there = pty.openpty()
    termios.tcsetwinsize(there, (40, 120))
    try:
        process = subprocess.Popen(
            ["neomutt", "-n", "-F", str(directory / "rc"), "-d", "2", "-l", str(log)],
            stdin=there, stdout=there, stderr=there, start_new_session=True, env={**os.environ, "TERM": "vt100"},
        )  # fmt: skip
        os.close(there)
        too_long = Timer(40, process.kill)  # a question that no key answers
        too_long.start()
        drain(here)
        assert process.wait() == 0
        too_long.cancel()
    finally:
        os.close(here)
    return "".join(path.read_text(errors="replace") for path in directory.glob("log*"))


def drain(terminal: int) -> None:
    """What it draws, until it has gone."""
    try:
        while os.read(terminal, 65_536):
            pass
    except OSError:
        pass  # that is how a terminal says that nobody is left on it


@needs("neomutt")
@pytest.mark.parametrize("way", ["QRESYNC", "CONDSTORE", "neither"])
def test_neomutt_comes_back_to_a_changed_mailbox(way: str, tmp_path: Path, port: int) -> None:
    settings = (
        f"imap_qresync={'yes' if way == 'QRESYNC' else 'no'}",
        f"imap_condstore={'no' if way == 'neither' else 'yes'}",
    )
    neomutt(tmp_path, port, "", *settings)
    change(port)
    everything = f"<tag-pattern>~A<enter><tag-prefix><copy-message>{tmp_path}/all<enter>"
    flagged = f"<untag-pattern>~A<enter><tag-pattern>~F<enter><tag-prefix><copy-message>{tmp_path}/flagged<enter>"
    read = "<untag-pattern>~A<enter><tag-pattern>~s.number.0<enter><tag-prefix><set-flag>!"
    log = neomutt(tmp_path, port, everything + flagged + read, *settings)
    asked = re.search(r"\(CHANGEDSINCE \d+( VANISHED)?\)", log)
    assert (asked and asked[1]) == {"QRESYNC": " VANISHED", "CONDSTORE": None, "neither": None}[way], log
    assert bool(asked) is (way != "neither"), log
    subjects = [
        sorted(re.findall(rb"(?m)^Subject: number (\d)", (tmp_path / n).read_bytes())) for n in ("all", "flagged")
    ]
    assert subjects == [[b"0", b"2", b"3", b"4", b"7"], [b"3"]]
    assert r"\Flagged" in on_server(port)[0]


# -------------------------------------------------------------------------------------------------- two copies of all


@needs("mbsync")
def test_mbsync_carries_changes_both_ways(tmp_path: Path, port: int) -> None:
    local = tmp_path / "mail"
    local.mkdir()
    settings = tmp_path / "rc"
    settings.write_text(
        f"IMAPAccount a\nHost 127.0.0.1\nPort {port}\nUser {USER}\nPass {demo.PASSWORD}\nSSLType None\n\n"
        f"IMAPStore far\nAccount a\n\nMaildirStore near\nPath {local}/\nInbox {local}/INBOX\nSubFolders Verbatim\n\n"
        f"Channel c\nFar :far:\nNear :near:\nPatterns {BOX}\nCreate Both\nExpunge Both\nSync All\nSyncState *\n"
    )
    run("mbsync", "-c", str(settings), "c")
    assert in_maildir(local / BOX).keys() == {0, 1, 2, 3, 4}
    change(port)
    change_maildir(local / BOX)
    run("mbsync", "-c", str(settings), "c")
    assert on_server(port) == {0: {r"\Seen"}, 2: set(), 3: {r"\Flagged", r"\Seen"}, 7: set(), 9: set()}
    assert in_maildir(local / BOX) == {0: {"S"}, 2: set(), 3: {"F", "S"}, 7: set(), 9: set()}


def change_maildir(directory: Path) -> None:
    """One is read, one goes, one comes."""
    for path in [*directory.glob("cur/*"), *directory.glob("new/*")]:
        subject = email.message_from_bytes(path.read_bytes())["Subject"]
        if subject == "number 0":
            path.rename(directory / "cur" / f"{path.name.partition(':2,')[0]}:2,S")
        elif subject == "number 4":
            path.unlink()
    (directory / "new" / "1.2.three").write_bytes(letter(9).replace(b"\r\n", b"\n"))


@needs("offlineimap")
def test_offlineimap_carries_changes_both_ways(tmp_path: Path, port: int) -> None:
    local = tmp_path / "mail"
    local.mkdir()
    settings = tmp_path / "rc"
    settings.write_text(
        f"[general]\naccounts = a\nmetadata = {tmp_path}/meta\nui = quiet\n"
        f"[Account a]\nlocalrepository = l\nremoterepository = r\n"
        f"[Repository l]\ntype = Maildir\nlocalfolders = {local}\n"
        f"[Repository r]\ntype = IMAP\nremotehost = 127.0.0.1\nremoteport = {port}\nremoteuser = {USER}\n"
        f"remotepass = {demo.PASSWORD}\nssl = no\nstarttls = no\nfolderfilter = lambda name: name == '{BOX}'\n"
    )
    run("offlineimap", "-c", str(settings), "-o", "-1")
    assert in_maildir(local / BOX).keys() == {0, 1, 2, 3, 4}
    change(port)
    change_maildir(local / BOX)
    run("offlineimap", "-c", str(settings), "-o", "-1")
    assert on_server(port) == {0: {r"\Seen"}, 2: set(), 3: {r"\Flagged", r"\Seen"}, 7: set(), 9: set()}
    run("offlineimap", "-c", str(settings), "-o", "-1")
    assert in_maildir(local / BOX) == {0: {"S"}, 2: set(), 3: {"F", "S"}, 7: set(), 9: set()}
