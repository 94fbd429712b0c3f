"""Everything on the node's disks is lost while mail waits for the object store: nothing of the mail is.

Run it: `python -m tests.faults.durability --messages 1000`. A demo with `uploader.durability = "database"` takes the
messages while the object store is away; staging and cache are emptied under it; every message is read over IMAP and
compared; the object store comes back, and every message is compared once more, in the bucket and over IMAP.
"""

from __future__ import annotations

import argparse
import imaplib
import json
import shutil
import smtplib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sora.store import keyring
from sora.store.sealing import is_sealed
from tests.support.demo import Demo

USER, PASSWORD = "user1@example.com", "demo"
LARGE = 700_000
"""Octets of every fiftieth message: more than goes with the call."""


def body_of(number: int) -> bytes:
    size = LARGE if number % 50 == 49 else 200 + number % 4000
    line = f"message {number} ".encode() * 4 + b"\r\n"
    return (line * (size // len(line) + 1))[:size] + b"\r\n"


def send(demo: Demo, count: int) -> None:
    """Deliver; returns when every message has its 250."""
    with smtplib.LMTP("127.0.0.1", demo.ports["lmtp"]) as lmtp:
        for number in range(count):
            head = f"Subject: number {number}\r\n\r\n".encode()
            refused = lmtp.sendmail("me@example.org", [USER], head + body_of(number))
            assert not refused, refused


def read(demo: Demo) -> dict[int, bytes]:
    """Bodies by the number in their subject."""
    found = {}
    with imaplib.IMAP4("127.0.0.1", demo.ports["imap"], timeout=60) as client:
        client.login(USER, PASSWORD)
        client.select("INBOX", readonly=True)
        uids = client.uid("SEARCH", "ALL")[1][0].split()
        for uid in uids:
            status, answer = client.uid("FETCH", uid, "(BODY.PEEK[])")
            if status == "OK" and isinstance(answer[0], tuple):
                head, _, body = answer[0][1].partition(b"\r\n\r\n")
                found[int(head.rpartition(b"Subject: number ")[2])] = body
    return found


def lost(found: dict[int, bytes], count: int) -> list[int]:
    return [number for number in range(count) if found.get(number) != body_of(number)]


def empty(directory: Path) -> int:
    """Remove every body below a directory; how many there were."""
    files = [path for path in directory.rglob("*.eml") if path.is_file()]
    for path in files:
        path.unlink()
    return len(files)


def uploads(demo: Demo) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(demo.admin("uploads", "status", "--json").stdout)
    return status


def drill(root: Path, count: int, *, encrypted: bool = False) -> dict[str, Any]:
    """The whole of it, in an empty directory; the figures."""
    store = root / "store"
    store.write_text("not a directory: the object store is away\n")
    settings = ["uploader.durability=database", f"object_store.path={store / 'objects'}"]
    if encrypted:
        keyring.add_key(root / "keyring.toml")
        settings.append(f"encryption.keyring_file={root / 'keyring.toml'}")
    with Demo(root / "demo", "--workers", "2", *(word for one in settings for word in ("--set", one))) as demo:
        send(demo, count)
        waiting = uploads(demo)
        removed = sum(empty(root / "demo" / name) for name in ("staging", "cache"))
        verified = json.loads(demo.admin("uploads", "verify", "--json").stdout)
        began = time.monotonic()
        first = lost(read(demo), count)
        read_s = time.monotonic() - began
        empty(root / "demo" / "cache")
        store.unlink()
        (store / "objects").mkdir(parents=True)
        began = time.monotonic()
        while (left := uploads(demo))["pending"] and time.monotonic() - began < 120:
            time.sleep(0.2)  # between two looks; what is still pending at the end is in the report
        upload_s = time.monotonic() - began
        empty(root / "demo" / "cache")
        second = lost(read(demo), count)
        objects = [path.read_bytes() for path in (store / "objects").rglob("*.eml")]
    return {
        "messages": count,
        "waiting": waiting["pending"],
        "copies": waiting["copies"],
        "files_removed": removed,
        "verified_in_the_database": verified["copied"],
        "lost_while_the_store_is_away": len(first),
        "read_s": round(read_s, 1),
        "pending_after": left["pending"],
        "copies_after": left["copies"],
        "upload_s": round(upload_s, 1),
        "objects": len(objects),
        "sealed": sum(map(is_sealed, objects)),
        "lost_after_upload": len(second),
    }


def main() -> int:
    """Print the figures; 1 if something was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--encrypted", action="store_true")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="sora-durability-"))
    try:
        figures = drill(root, arguments.messages, encrypted=arguments.encrypted)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return int(bool(figures["lost_while_the_store_is_away"] or figures["lost_after_upload"]))


if __name__ == "__main__":
    sys.exit(main())
