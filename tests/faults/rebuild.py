"""The database is lost and built anew from the bucket, and clients that knew the old one notice next to nothing.

    python -m tests.faults.rebuild --messages 20000 [--s3] [--crash rebuild.bodies:40] [--crash rebuild.filled]

A demo with encryption: three accounts, 20 folders, messages with flags and keywords. The last segment of the journal
is closed; 50 messages and 50 changes of flags come after it. mbsync and a client with QRESYNC learn all that. Then the
database goes, and with it the bodies of the last 17 of those 50: they never came into the bucket. `sora-admin import
s3` builds the database anew, killed on the way as often as asked, and new mail is delivered. What is compared: every
message that survives is there, the flags that both clients have of it, that no UID means another message than before,
those of lost messages included, and that both fetch nothing but what is new.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import imaplib
import json
import os
import random
import re
import shutil
import smtplib
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from sora import config as configuration
from sora.cli.admin import find_dsn
from sora.services.node import INSTANCE_FILE
from sora.store import keyring
from sora.store.blobs import BlobRef
from sora.store.bodies import open_blob_store
from sora.types import AccountId, ContentId
from tests.support.demo import PASSWORD, Demo
from tests.support.swift import SwiftServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ACCOUNTS: Final = 3
FOLDERS: Final = 20
LATE: Final = 50
LOST_FROM: Final = 33
"""Late messages from this number on are lost, the last ones of each INBOX among them: new mail comes there."""
NEW: Final = 20
KEYWORDS: Final = ("$Label1", "$Forwarded", "work", "later")
FLAGS: Final = (r"\Seen", r"\Answered", r"\Flagged", r"\Draft")
PATIENCE_S: Final = 600.0
_UID: Final = re.compile(rb"UID (\d+)")
_FLAGS: Final = re.compile(rb"FLAGS \(([^)]*)\)")
_ID: Final = re.compile(rb"Message-ID: <([^>]*)>", re.IGNORECASE)
_STATUS: Final = re.compile(rb"\[(UIDVALIDITY|HIGHESTMODSEQ|UIDNEXT) (\d+)\]")


@dataclass
class Folder:
    """What the client with QRESYNC knows of a folder.

    Attributes:
        messages: Message-ID and flags by UID.
    """

    uidvalidity: int = 0
    modseq: int = 0
    messages: dict[int, tuple[str, frozenset[str]]] = field(default_factory=dict)


@dataclass
class Findings:
    """What is wrong, and how much there was to look at."""

    problems: list[str] = field(default_factory=list)
    messages: int = 0
    fetched: int = 0
    told: int = 0
    lost: int = 0

    def expect(self, right: bool, text: str) -> None:
        if not right:
            self.problems.append(text)


def letter(name: str, octets: int = 600) -> bytes:
    """A mail that its Message-ID tells from all others."""
    body = f"This is {name}.\r\n" * (octets // 40)
    head = f"From: Ann <ann@example.com>\r\nTo: bob@example.com\r\nSubject: {name}\r\nMessage-ID: <{name}@x>\r\n"
    return f"{head}Date: Mon, 06 May 2024 09:08:09 +0200\r\n\r\n{body}".encode()


def user(number: int) -> str:
    return f"user{number % ACCOUNTS + 1}@example.com"


def folders_of(address: str) -> list[str]:
    """INBOX, and the account's share of the 20."""
    return [
        "INBOX" if number < ACCOUNTS else f"Folder {number:02}" for number in range(FOLDERS) if user(number) == address
    ]


@contextlib.contextmanager
def logged_in(demo: Demo, address: str) -> Iterator[imaplib.IMAP4]:
    client = imaplib.IMAP4("127.0.0.1", demo.ports["imap"], timeout=120)
    client.login(address, PASSWORD)
    try:
        yield client
    finally:
        with contextlib.suppress(OSError, imaplib.IMAP4.error):
            client.logout()


def fill(demo: Demo, address: str, count: int) -> None:
    """So many messages with flags and keywords, spread over the folders; some are expunged again."""
    chance = random.Random(address)
    boxes = folders_of(address)
    with logged_in(demo, address) as client:
        for box in boxes[1:]:
            client.create(f'"{box}"')
        for number in range(count):
            flags = " ".join(chance.sample(FLAGS, chance.randrange(3)) + chance.sample(KEYWORDS, chance.randrange(2)))
            name = f"{address.partition('@')[0]}-{number}"
            status, answer = client.append(
                f'"{boxes[number % len(boxes)]}"', f"({flags})", None, letter(name, chance.randrange(200, 4000))
            )
            assert status == "OK", answer
        for box in boxes:
            client.select(f'"{box}"')
            client.store("2:3", "+FLAGS.SILENT", r"(\Deleted)")
            client.expunge()
            client.store("1:2", "+FLAGS.SILENT", "(work)")


def come_late(demo: Demo, count: int) -> None:
    """Messages and changes of flags that no segment knows."""
    for number in range(count):
        address = user(number)
        boxes = folders_of(address)
        turn, place = divmod(number // ACCOUNTS, len(boxes))
        box = boxes[place]
        with logged_in(demo, address) as client:
            status, answer = client.append(f'"{box}"', r"(\Flagged)", None, letter(f"late-{number}"))
            assert status == "OK", answer
            client.select(f'"{box}"')
            client.store(str(turn + 1), "+FLAGS.SILENT", r"(\Answered later)")


def is_lost(name: str) -> bool:
    """Its body never came into the bucket."""
    kind, _, number = name.partition("@")[0].partition("-")
    return kind == "late" and int(number) >= LOST_FROM


async def lost_bodies(config: configuration.Config) -> list[BlobRef]:
    """Where they would be."""
    conn = await asyncpg.connect(find_dsn(config))
    try:
        rows = await conn.fetch("SELECT account_id, content_id, content_hash, subject FROM sora.message_contents")
    finally:
        await conn.close()
    return [
        BlobRef(AccountId(row["account_id"]), ContentId(row["content_id"]), row["content_hash"], 0)
        for row in rows
        if is_lost(row["subject"])
    ]


async def lose_bodies(config: configuration.Config, bodies: Sequence[BlobRef]) -> None:
    """They are nowhere: not in the bucket, and this node has lost its disk."""
    blobs = open_blob_store(config.object_store)
    try:
        for body in bodies:
            await blobs.erase(body.key)
        left = {entry.key async for entry in blobs.list()}
    finally:
        blobs.close()
    assert not left & {body.key for body in bodies}
    for directory in (config.local_cache.path, config.uploader.staging_path):
        for path in Path(directory).rglob("*"):
            if path.is_file() and path.suffix != ".lock" and path.name != INSTANCE_FILE:
                path.unlink()


def deliver(demo: Demo, count: int) -> None:
    """New mail."""
    with smtplib.LMTP("127.0.0.1", demo.ports["lmtp"]) as lmtp:
        for number in range(count):
            refused = lmtp.sendmail("me@example.org", [user(number)], letter(f"new-{number}"))
            assert not refused, refused


# ── the client with QRESYNC ──────────────────────────────────────────────────────────────────────────────────────────


def parsed(answers: Sequence[object]) -> dict[int, tuple[str, frozenset[str]]]:
    """UIDs with Message-ID (empty: not told) and flags of FETCH responses."""
    found = {}
    head = b""
    for answer in answers:
        text = b" ".join(part for part in answer if isinstance(part, bytes)) if isinstance(answer, tuple) else answer
        if not isinstance(text, bytes):
            continue
        head = head + text
        if isinstance(answer, tuple):
            continue  # what follows the literal comes next
        if (uid := _UID.search(head)) and (flags := _FLAGS.search(head)):
            name = _ID.search(head)
            told = frozenset(flag.decode() for flag in flags[1].split() if flag != rb"\Recent")
            found[int(uid[1])] = (name[1].decode() if name else "", told)
        head = b""
    return found


def codes(client: imaplib.IMAP4, answers: list[bytes | None]) -> dict[str, int]:
    """Response codes of a SELECT."""
    text = b" ".join(part for part in [*client.untagged_responses.get("OK", []), *answers] if part)
    found = {match[1].decode(): int(match[2]) for match in _STATUS.finditer(text)}
    for name in ("UIDVALIDITY", "HIGHESTMODSEQ", "UIDNEXT"):
        if client.untagged_responses.get(name):
            found[name] = int(client.untagged_responses[name][-1])
    return found


def select(client: imaplib.IMAP4, box: str, more: str = "") -> dict[str, int]:
    """Select a folder; the untagged responses stay in the client."""
    client.untagged_responses.clear()
    client.is_readonly = False
    status, answers = client._simple_command("SELECT", f'"{box}"{more}')  # type: ignore[attr-defined]
    assert status == "OK", answers
    client.state = "SELECTED"
    return codes(client, answers)


def resynchronize(client: imaplib.IMAP4, box: str, known: Folder) -> tuple[set[int], int]:
    """Learn what has changed (RFC 7162 §3.2.5); the UIDs that must be fetched, and how many flags were told."""
    more = ""
    if known.uidvalidity:
        uids = f" {compact(known.messages)}" if known.messages else ""
        more = f" (QRESYNC ({known.uidvalidity} {known.modseq}{uids}))"
    told = select(client, box, more)
    fetches = parsed(client.untagged_responses.get("FETCH", []))
    vanished = client.untagged_responses.get("VANISHED", [])
    if told["UIDVALIDITY"] != known.uidvalidity:
        known.messages = {}
        fetches = {}
    for line in vanished:
        for low, high in ranges((line or b"").decode().rpartition(" ")[2]):
            known.messages = {uid: row for uid, row in known.messages.items() if not low <= uid <= high}
    for uid, (_, flags) in fetches.items():
        if uid in known.messages:
            known.messages[uid] = (known.messages[uid][0], flags)
    first = max(known.messages, default=0) + 1
    status, answers = client.uid("FETCH", f"{first}:*", "(UID FLAGS BODY.PEEK[HEADER.FIELDS (Message-ID)])")
    assert status == "OK", answers
    fresh = {uid: row for uid, row in parsed(answers).items() if uid >= first}
    known.messages |= fresh
    known.uidvalidity, known.modseq = told["UIDVALIDITY"], told["HIGHESTMODSEQ"]
    return set(fresh), len(fetches)


def ranges(text: str) -> list[tuple[int, int]]:
    """Of a UID set."""
    found = []
    for part in filter(None, text.split(",")):
        low, _, high = part.partition(":")
        found.append((int(low), int(high or low)))
    return found


def compact(uids: Mapping[int, object]) -> str:
    """A UID set, as short as may be."""
    parts: list[list[int]] = []
    for uid in sorted(uids):
        if parts and parts[-1][1] == uid - 1:
            parts[-1][1] = uid
        else:
            parts.append([uid, uid])
    return ",".join(str(low) if low == high else f"{low}:{high}" for low, high in parts)


def truth(client: imaplib.IMAP4, box: str) -> dict[int, tuple[str, frozenset[str]]]:
    """What the server has now."""
    select(client, box)
    status, answers = client.uid("FETCH", "1:*", "(UID FLAGS BODY.PEEK[HEADER.FIELDS (Message-ID)])")
    assert status == "OK", answers
    return parsed(answers)


Knowledge = dict[tuple[str, str], Folder]


def learn(demo: Demo, knowledge: Knowledge) -> dict[tuple[str, str], tuple[set[int], int]]:
    """Synchronize all folders of all accounts."""
    found = {}
    for number in range(ACCOUNTS):
        with logged_in(demo, user(number)) as client:
            client.enable("QRESYNC")
            for box in folders_of(user(number)):
                known = knowledge.setdefault((user(number), box), Folder())
                found[user(number), box] = resynchronize(client, box, known)
    return found


# ── mbsync ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def mbsync(demo: Demo, root: Path) -> None:
    """Bring every account's maildir up to date, both ways."""
    for number in range(ACCOUNTS):
        local = root / user(number)
        local.mkdir(parents=True, exist_ok=True)
        settings = local / "rc"
        settings.write_text(
            f"IMAPAccount a\nHost 127.0.0.1\nPort {demo.ports['imap']}\nUser {user(number)}\nPass {PASSWORD}\n"
            f"SSLType None\n\nIMAPStore far\nAccount a\n\nMaildirStore near\nPath {local}/mail/\n"
            f"Inbox {local}/mail/INBOX\nSubFolders Verbatim\n\nChannel c\nFar :far:\nNear :near:\nPatterns *\n"
            "Create Both\nExpunge Both\nSync All\nSyncState *\n"
        )
        (local / "mail").mkdir(exist_ok=True)
        done = subprocess.run(["mbsync", "-q", "-c", str(settings), "c"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


Maildirs = dict[tuple[str, str], dict[str, tuple[str, str]]]


def maildirs(root: Path) -> Maildirs:
    """Message-ID to the name of its file without flags, and its flags, by account and folder."""
    found: Maildirs = {}
    for number in range(ACCOUNTS):
        for box in folders_of(user(number)):
            rows = found.setdefault((user(number), box), {})
            for part in ("cur", "new"):
                for path in (root / user(number) / "mail" / box / part).iterdir():
                    match = _ID.search(path.read_bytes()[:2000])
                    assert match, path
                    name, _, flags = path.name.partition(":2,")
                    assert match[1].decode() not in rows, f"twice: {path}"
                    rows[match[1].decode()] = (name.partition(",")[0], flags)
    return found


LETTERS: Final = {
    r"\Seen": "S",
    r"\Answered": "R",
    r"\Flagged": "F",
    r"\Draft": "D",
    r"\Deleted": "T",
    "$Forwarded": "P",
}


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────────


def wait_for(what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def figures(demo: Demo, *arguments: str) -> dict[str, object]:
    done = demo.admin(*arguments, "--json")
    assert done.stdout, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def uploaded(demo: Demo) -> bool:
    return figures(demo, "stats")["pending_uploads"] == 0


def journaled(demo: Demo, since: float) -> bool:
    """All that was there `since` is in a segment."""
    age = figures(demo, "journal", "status")["age_s"]
    return isinstance(age, float) and age < time.time() - since


def lose_database(demo: Demo) -> None:
    """The cluster is gone."""
    shutil.rmtree(demo.directory / "postgresql")


def import_s3(demo: Demo, crashes: Sequence[str] = ()) -> dict[str, object]:
    """Build it anew; killed at each of the crash points, one after the other."""
    command = [sys.executable, "-m", "sora.cli.admin", "--config", demo.config, "import", "s3", "--json"]
    for crash in crashes:
        killed = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "SORA_CRASH_AT": crash}
        )
        assert killed.returncode == -9, (killed.returncode, killed.stderr)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    report: dict[str, object] = json.loads(done.stdout)
    return report


def compare(
    demo: Demo, root: Path, before: Knowledge, knowledge: Knowledge, old_files: Maildirs, findings: Findings
) -> None:
    """Both clients after the rebuild, and what the server says."""
    learned = learn(demo, knowledge)
    mbsync(demo, root)
    files = maildirs(root)
    for (address, box), known in knowledge.items():
        where = f"{address} {box}"
        was = before[address, box]
        with logged_in(demo, address) as client:
            there = truth(client, box)
        findings.messages += len(there)
        fresh, told = learned[address, box]
        findings.fetched += len(fresh)
        findings.told += told
        findings.expect(known.uidvalidity == was.uidvalidity, f"{where}: another UIDVALIDITY")
        # Who comes back much later would miss what happens until then.
        findings.expect(known.modseq > was.modseq, f"{where}: modseqs are given out again")
        findings.expect(known.messages == there, f"{where}: the client with QRESYNC has another picture")
        for uid, (name, _) in was.messages.items():
            if is_lost(name):
                findings.lost += 1
                findings.expect(uid not in there, f"{where}: UID {uid} of a lost message was given out again")
                continue
            findings.expect(uid in there, f"{where}: UID {uid} ({name}) is gone")
            findings.expect(uid not in there or there[uid][0] == name, f"{where}: UID {uid} is another message")
        for uid in fresh:
            findings.expect(there[uid][0].startswith("new-"), f"{where}: {there[uid][0]} is to be fetched twice")
        mine, old = files[address, box], old_files[address, box]
        findings.expect(set(mine) == {name for name, _ in there.values()}, f"{where}: mbsync has other messages")
        for name, (file, _) in old.items():
            if is_lost(name):
                findings.expect(name not in mine, f"{where}: mbsync still has {name}")
                continue
            findings.expect(mine.get(name, ("",))[0] == file, f"{where}: mbsync fetched {name} twice")
        for name, flags in there.values():
            letters = "".join(sorted(LETTERS[flag] for flag in flags if flag in LETTERS))
            findings.expect(name not in mine or mine[name][1] == letters, f"{where}: mbsync has other flags of {name}")


def right_flags(state: Knowledge, before: Knowledge, knowledge: Knowledge, findings: Findings) -> None:
    """Flags are those of the last segment; of what came later, those that came with it."""
    for place, known in knowledge.items():
        for uid, (name, flags) in known.messages.items():
            if uid in state[place].messages:
                expected = state[place].messages[uid][1]
            elif uid in before[place].messages:
                expected = frozenset({r"\Flagged"})
            else:
                expected = frozenset()
            findings.expect(flags == expected, f"{place}: {name} has {sorted(flags)}")


def copy(knowledge: Knowledge) -> Knowledge:
    return {place: Folder(known.uidvalidity, known.modseq, dict(known.messages)) for place, known in knowledge.items()}


def run(directory: Path, messages: int, crashes: Sequence[str] = (), *, server: SwiftServer | None = None) -> Findings:
    """All of it; with an S3 server, or in directories."""
    keys = directory / "keyring.toml"
    keyring.add_key(keys)
    settings = ["--accounts", str(ACCOUNTS), "--workers", "1", "--set", f"encryption.keyring_file={keys}"]
    if server is not None:
        settings += in_bucket(server)
    demo = Demo(directory / "demo", *settings, "--set", "journal.interval=1s")
    findings = Findings()
    knowledge: Knowledge = {}
    with demo:
        with ThreadPoolExecutor(ACCOUNTS) as pool:
            list(pool.map(lambda number: fill(demo, user(number), messages // ACCOUNTS), range(ACCOUNTS)))
        wait_for("uploads", lambda: uploaded(demo))
    demo = Demo(directory / "demo", *settings, "--set", "journal.interval=1h")
    with demo:
        began = time.time()
        wait_for("journal", lambda: journaled(demo, began))
        learn(demo, knowledge)
        state = copy(knowledge)
        come_late(demo, LATE)
        wait_for("uploads", lambda: uploaded(demo))
        learn(demo, knowledge)
        mbsync(demo, directory / "mbsync")
        old_files = maildirs(directory / "mbsync")
        before = copy(knowledge)
        config = configuration.load(Path(demo.config))
        bodies = asyncio.run(lost_bodies(config))
    lose_database(demo)
    asyncio.run(lose_bodies(config, bodies))
    began = time.monotonic()
    report = import_s3(demo, crashes)
    sys.stderr.write(f"built anew in {time.monotonic() - began:.1f} s: {report}\n")
    with demo:
        deliver(demo, NEW)
        compare(demo, directory / "mbsync", before, knowledge, old_files, findings)
    right_flags(state, before, knowledge, findings)
    findings.expect(findings.lost == len(bodies) == LATE - LOST_FROM, f"{findings.lost} messages were to be lost")
    findings.expect(findings.fetched == NEW, f"{findings.fetched} messages were fetched, {NEW} are new")
    return findings


def in_bucket(server: SwiftServer) -> list[str]:
    """Settings of an object store on an S3 server; the demo makes the bucket."""
    values = {
        "kind": "s3",
        "endpoint": server.endpoint,
        "bucket": "rebuild",
        "access_key": server.access_key,
        "secret_key": server.secret_key,
    }
    return [word for name, value in values.items() for word in ("--set", f"object_store.{name}={value}")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--directory", type=Path, help="work here, and leave it")
    parser.add_argument(
        "--crash", action="append", default=[], help="kill the import at this crash point, `rebuild.bodies:20`"
    )
    parser.add_argument("--s3", action="store_true", help="bodies are on an S3 server, not in a directory")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = arguments.directory
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sora-rebuild-")))
        directory.mkdir(exist_ok=True)
        server = None
        if arguments.s3:
            server = SwiftServer(directory / "swift")
            server.start()
            stack.callback(server.kill)
        findings = run(directory, arguments.messages, arguments.crash, server=server)
    sys.stdout.write("".join(f"WRONG {line}\n" for line in findings.problems[:50]))
    sys.stdout.write(
        f"{findings.messages} messages, {findings.told} flags told again, {findings.fetched} fetched,"
        f" {findings.lost} lost with the node, {len(findings.problems)} wrong\n"
    )
    return int(bool(findings.problems))


if __name__ == "__main__":
    sys.exit(main())
