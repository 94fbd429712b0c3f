"""Mail in a Dovecot, made so that nothing of it is like the next: and what an IMAP client sees of a server."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import imapclient
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEM: Final = (rb"\Seen", rb"\Answered", rb"\Flagged", rb"\Draft", rb"\Deleted")
KEYWORDS: Final = (b"$Forwarded", b"$Junk", b"NonJunk", b"Later", b"$label1", b"nile")
WORDS: Final = "mail store letter post inbox draft reply forward Grüße ärger naïve folder quota".split()
FOLDERS: Final = ("INBOX", "Sent", "Work", "Work/Projects", "Work/Projects/Übung & Co", "Lists/p&q", "日本語")
BEGIN: Final = datetime(2015, 3, 4, 5, 6, 7, tzinfo=UTC)


class Seen(Struct, frozen=True):
    """A message as an IMAP client sees it."""

    uid: int
    flags: tuple[bytes, ...]
    date: datetime
    body: bytes


class Folder(Struct, frozen=True):
    """A folder as an IMAP client sees it; messages by UID."""

    uidvalidity: int
    uid_next: int
    messages: dict[int, Seen]


def connect(port: int, user: str, password: str) -> imapclient.IMAPClient:
    """A session without TLS, on this machine."""
    client = imapclient.IMAPClient("127.0.0.1", port=port, ssl=False, timeout=60)
    client.login(user, password)
    client.normalise_times = False
    return client


def folder_names(count: int) -> list[str]:
    """So many names, of every kind first."""
    return [*FOLDERS, *(f"Archive/{2000 + n}" for n in range(count))][:count]


def letter(rng: random.Random, number: int) -> bytes:
    """A message with lines of every length, one in fifty large."""
    lines = rng.randrange(1, 40) if rng.randrange(50) else rng.randrange(1000, 4000)
    text = "\r\n".join(" ".join(rng.choices(WORDS, k=rng.randrange(0, 14))) for _ in range(lines))
    return (
        f"From: Ann <ann{number}@example.com>\r\nTo: bob@example.com\r\nSubject: letter {number}\r\n"
        f"Message-ID: <{number}.{rng.randrange(10**9)}@example.com>\r\nMIME-Version: 1.0\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        f"From here\r\n>From there\r\n{text}\r\n"
    ).encode()


def fill(client: imapclient.IMAPClient, messages: int, folders: int, seed: int) -> None:
    """Folders with messages in them, of which some are expunged again, so that UIDs have gaps."""
    rng = random.Random(seed)
    names = folder_names(folders)
    for name in names:
        if name != "INBOX":
            client.create_folder(name)
        if rng.random() < 0.7:
            client.subscribe_folder(name)
    for index, name in enumerate(names):
        count = messages // folders + (index < messages % folders)
        for start in range(0, count, 100):
            batch = [_appended(rng, n) for n in range(start, min(count, start + 100))]
            client.multiappend(name, batch)
        client.select_folder(name)
        gone = [uid for uid in range(1, count + 1) if rng.random() < 0.05]
        if gone:
            client.delete_messages(gone)
            client.uid_expunge(gone)
        client.close_folder()


def _appended(rng: random.Random, number: int) -> dict[str, object]:
    flags = [flag for flag in SYSTEM[:4] if rng.random() < 0.3] + [word for word in KEYWORDS if rng.random() < 0.15]
    return {
        "msg": letter(rng, number),
        "flags": flags,
        "date": BEGIN + timedelta(seconds=rng.randrange(300_000_000)),
    }


def listed(client: imapclient.IMAPClient) -> set[str]:
    """Names of folders that can be selected."""
    return {name for flags, _, name in client.list_folders() if b"\\Noselect" not in flags}


def subscribed(client: imapclient.IMAPClient) -> set[str]:
    """Names that are subscribed to."""
    return {name for flags, _, name in client.list_sub_folders() if b"\\Noselect" not in flags}


def look(client: imapclient.IMAPClient, name: str) -> Folder:
    """Everything of a folder; of bodies a digest."""
    state = client.select_folder(name, readonly=True)
    messages = {seen.uid: seen for seen in _messages(client)} if state[b"EXISTS"] else {}
    return Folder(state[b"UIDVALIDITY"], state[b"UIDNEXT"], messages)


def _messages(client: imapclient.IMAPClient) -> Iterator[Seen]:
    uids = client.search("ALL")
    for start in range(0, len(uids), 200):
        found = client.fetch(uids[start : start + 200], ["FLAGS", "INTERNALDATE", "BODY.PEEK[]"])
        for uid, data in found.items():
            flags = sorted(flag for flag in data[b"FLAGS"] if flag != rb"\Recent")
            body = hashlib.blake2b(data[b"BODY[]"]).digest()
            yield Seen(uid, tuple(flags), data[b"INTERNALDATE"].astimezone(UTC), body)


def differences(ours: Folder, theirs: Folder) -> list[str]:
    """What is not the same."""
    found = []
    if ours.uidvalidity != theirs.uidvalidity:
        found.append(f"UIDVALIDITY {ours.uidvalidity} {theirs.uidvalidity}")
    if ours.uid_next < theirs.uid_next:
        found.append(f"UIDNEXT {ours.uid_next} {theirs.uid_next}")
    for uid in sorted(ours.messages.keys() | theirs.messages.keys()):
        mine, other = ours.messages.get(uid), theirs.messages.get(uid)
        if mine != other:
            found.append(f"UID {uid}: {mine} {other}")
    return found
