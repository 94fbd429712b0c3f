"""Deleted mail by the programs that people get it back with: mbsync, NeoMutt, plain IMAP, and `sora-admin`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_mail_programs import in_maildir, letter, needs, neomutt, ok, run, session
from tests.support import demo

if TYPE_CHECKING:
    import imaplib
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

USER = "user1@example.com"
MANY = 5000


@pytest.fixture(scope="module")
def sora(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Demo]:
    with demo.Demo(tmp_path_factory.mktemp("deleted") / "sora", "--workers", "1", "--accounts", "1") as running:
        yield running


@pytest.fixture
def port(sora: demo.Demo) -> int:
    return sora.ports["imap"]


def fill(port: int, box: str) -> None:
    """Six messages, numbers 0 to 5; 1 and 4 are flagged."""
    with session(port) as imap:
        ok(imap.create(box))
        for number in range(6):
            text = letter(number).replace(b"@example.org>", b"@%b>" % box.encode())
            ok(imap.append(box, r"(\Flagged)" if number in {1, 4} else "", "", text))


def expunge(imap: imaplib.IMAP4, box: str, numbers: str) -> None:
    ok(imap.select(box))
    ok(imap.store(numbers, "+FLAGS.SILENT", r"(\Deleted)"))
    ok(imap.expunge())


def subjects(port: int, box: str) -> list[tuple[int, bool]]:
    """Number in the subject and whether it is flagged, in the order of the mailbox."""
    with session(port) as imap:
        ok(imap.select(f'"{box}"', readonly=True))
        lines = ok(imap.fetch("1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])"))
    return [(int(line[1].split()[-1]), rb"\Flagged" in line[0]) for line in lines if isinstance(line, tuple)]


def admin(sora: demo.Demo, *words: str) -> dict[str, Any]:
    done = sora.admin(*words, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def mbsync(directory: Path, port: int, *channel: str) -> None:
    settings = directory / "rc"
    settings.write_text(
        f"IMAPAccount a\nHost 127.0.0.1\nPort {port}\nUser {USER}\nPass {demo.PASSWORD}\nSSLType None\n\n"
        f"IMAPStore far\nAccount a\n\nMaildirStore near\nPath {directory}/mail/\nInbox {directory}/mail/INBOX\n"
        "SubFolders Verbatim\n\nChannel c\n" + "\n".join(channel) + "\nCreate Near\nExpunge Near\nSync All\n"
        "SyncState *\n"
    )
    (directory / "mail").mkdir(exist_ok=True)
    run("mbsync", "-c", str(settings), "c")


@needs("mbsync")
def test_mbsync_fetches_deleted_mail_only_where_it_is_told_to(tmp_path: Path, port: int, sora: demo.Demo) -> None:
    """All mailboxes, then one of deleted mail; after all was restored, all again: each message once, with its flags."""
    fill(port, "Synced")
    everything = ("Far :far:", "Near :near:", "Patterns *")
    mbsync(tmp_path, port, *everything)
    with session(port) as imap:
        expunge(imap, "Synced", "2,4:5")
    mbsync(tmp_path, port, *everything)
    local = tmp_path / "mail"
    assert in_maildir(local / "Synced").keys() == {0, 2, 5}
    assert not [path for path in local.rglob("*") if "Deleted" in path.name]

    gone = tmp_path / "gone"
    gone.mkdir()
    only = ("Far :far:Deleted/Synced", "Near :near:Synced")
    mbsync(gone, port, *only)
    assert in_maildir(gone / "mail" / "Synced") == {1: {"F"}, 3: set(), 4: {"F"}}

    answer = admin(sora, "messages", "restore", USER, "Synced")
    assert (answer["restored"], answer["skipped"]) == (3, 0)
    mbsync(gone, port, *only)
    assert in_maildir(gone / "mail" / "Synced") == {}
    mbsync(tmp_path, port, *everything)
    there = {0: set(), 1: {"F"}, 2: set(), 3: set(), 4: {"F"}, 5: set()}
    assert in_maildir(local / "Synced") == there
    assert len([*(local / "Synced").glob("cur/*"), *(local / "Synced").glob("new/*")]) == 6
    assert admin(sora, "messages", "restore", USER, "Synced")["restored"] == 0
    assert not [path for path in local.rglob("*") if "Deleted" in path.name]


@needs("neomutt")
def test_neomutt_copies_a_message_back(tmp_path: Path, port: int) -> None:
    fill(port, "Read")
    with session(port) as imap:
        expunge(imap, "Read", "2,4:5")
    keys = "<last-entry><copy-message>=Read<enter>"  # the youngest of 1, 3 and 4
    neomutt(tmp_path, port, keys, "spoolfile='+Deleted/Read'")
    assert subjects(port, "Read") == [(0, False), (2, False), (5, False), (4, True)]
    assert subjects(port, "Deleted/Read") == [(1, True), (3, False)]


@needs("neomutt")
def test_neomutt_copies_tagged_messages_back_to_the_inbox(tmp_path: Path, port: int) -> None:
    """Those of a pattern, and no others: the UIDs that it names are those that it was shown.

    A pattern that finds nothing tags nothing, and `<tag-prefix>` then means the message under the cursor.
    """
    with session(port) as imap:
        for number in range(6):
            text = letter(number).replace(b"@example.org>", b"@inbox>")
            ok(imap.append("INBOX", r"(\Flagged)" if number in {1, 4} else "", "", text))
        ok(imap.select("INBOX"))
        ok(imap.store("1:*", "+FLAGS.SILENT", r"(\Deleted)"))
        ok(imap.uid("EXPUNGE", "4:6"))
        ok(imap.expunge())
    assert subjects(port, "Deleted/INBOX") == [(n, n in {1, 4}) for n in (3, 4, 5, 0, 1, 2)]
    keys = '<tag-pattern>~s "number [15]"<enter><tag-prefix><copy-message>=INBOX<enter>'
    log = neomutt(tmp_path, port, keys, "spoolfile='+Deleted/INBOX'")
    assert re.findall(r"> a\d+ (UID COPY \S+)", log) == ["UID COPY 3,5"]
    assert sorted(subjects(port, "INBOX")) == [(1, True), (5, False)]
    assert subjects(port, "Deleted/INBOX") == [(3, False), (4, True), (0, False), (2, False)]
    keys = "<first-entry><tag-pattern>~s nowhere<enter><tag-prefix><copy-message>=INBOX<enter>"
    neomutt(tmp_path, port, keys, "spoolfile='+Deleted/INBOX'")
    assert sorted(subjects(port, "INBOX")) == [(0, False), (1, True), (5, False)], "the first by date"


def test_five_thousand_come_back_by_copy_and_by_the_command(port: int, sora: demo.Demo) -> None:
    """How long it takes is said by `python -m benchmarks.undelete`; this is that they all come, each once."""
    with session(port) as imap:
        ok(imap.create("Many"))
        text = b"Subject: number 1\r\n\r\ntext\r\n"
        for _ in range(10):
            ok(imap.append("Many", "", "", text + b"x" * _))
        ok(imap.select("Many"))
        while (count := int(ok(imap.status("Many", "(MESSAGES)"))[0].split()[-1].rstrip(b")"))) < MANY:
            ok(imap.copy(f"1:{min(count, MANY - count)}", "Many"))
            ok(imap.noop())
        expunge(imap, "Many", "1:*")
        # copies of one message are one: ten are to be seen, and to be restored
        ok(imap.select("Deleted/Many", readonly=True))
        assert int(ok(imap.status("Deleted/Many", "(MESSAGES)"))[0].split()[-1].rstrip(b")")) == 10
        assert admin(sora, "messages", "restore", USER, "Many") == {"mailbox": "Many", "restored": 10, "skipped": 4990}
        again = admin(sora, "messages", "restore", USER, "Many", "--again")
        assert again["restored"] == MANY
