"""How long it takes to get deleted mail back: by `sora-admin`, and by an IMAP client below `Deleted/`.

    python -m benchmarks.undelete [--messages 5000]

A demo with a directory store. The messages of a mailbox differ in their texts and are written by APPEND; half of them
are flagged. They are expunged, looked at, copied back with one COPY, expunged again, and restored by the command. In
the end every one of them is there once, with its flag and its date.
"""

from __future__ import annotations

import argparse
import imaplib
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.demo import PASSWORD, Demo

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable, Iterator

RESULT: Final = Path(__file__).parent / "results" / "undelete.md"
BATCH: Final = 100
USER: Final = "user1@example.com"
BOX: Final = "Many"
LIMIT_S: Final = 10.0
DATE: Final = '"01-Feb-2024 10:00:00 +0000"'

Taken = list[tuple[str, float]]


def main() -> int:
    """Exit code: 0 if the folder is back within the limit, both ways, and complete."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.undelete", description=__doc__)
    parser.add_argument("--messages", type=int, default=5000)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="undelete-") as directory,
        Demo(Path(directory) / "sora", "--workers", "1", "--accounts", "1") as demo,
    ):
        taken, wrong = measure(demo, arguments.messages)
    held = dict(taken)
    holds = not wrong and max(held["COPY of all of them"], held["`messages restore`"]) <= LIMIT_S
    RESULT.write_text(
        "# Deleted mail comes back\n\n"
        f"`python -m benchmarks.undelete --messages {arguments.messages}`\n\n"
        f"One mailbox, directory store, 1 worker, 2 processors, load {load:.1f} before. The limit is {LIMIT_S:.0f} s"
        f" for the folder: it {'holds' if holds else 'does not hold'}.\n\n| what | seconds |\n|---|---|\n"
        + "".join(f"| {what} | {seconds:.2f} |\n" for what, seconds in taken)
        + f"\n- every message once, with its flag and date: {wrong or 'yes'}\n"
    )
    sys.stdout.write(RESULT.read_text())
    return int(not holds)


def measure(demo: Demo, messages: int) -> tuple[Taken, str]:
    """What took how long, and what is wrong at the end."""
    taken: Taken = []

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        taken.append((what, time.perf_counter() - begun))

    with imaplib.IMAP4("127.0.0.1", demo.ports["imap"], timeout=120) as imap:
        ok(imap.login(USER, PASSWORD))
        ok(imap.create(BOX))
        with timed("written by MULTIAPPEND"):
            for first in range(0, messages, BATCH):
                append(imap, range(first, min(first + BATCH, messages)))
        before = picture(imap)
        expunge(imap, timed, "EXPUNGE of all of them")
        with timed("first look at `Deleted/`"):
            ok(imap.select(f"Deleted/{BOX}", readonly=True))
        with timed("second look"):
            ok(imap.select(f"Deleted/{BOX}", readonly=True))
        with timed("LIST with STATUS of all of `Deleted/`"):
            ok(imap._simple_command("LIST", '"Deleted/"', "*", "RETURN", "(STATUS (MESSAGES))"))
        with timed("COPY of all of them"):
            ok(imap.copy("1:*", BOX))
        wrong = "" if picture(imap) == before else "not after COPY"
        expunge(imap, timed, "EXPUNGE of all of them again")
        with timed("`messages list-deleted --limit 10000`"):
            listed = demo.admin("messages", "list-deleted", USER, "--limit", "10000", "--json")
        assert listed.returncode == 0, listed.stderr
        with timed("`messages restore`"):
            done: subprocess.CompletedProcess[str] = demo.admin("messages", "restore", USER, BOX, "--json")
        assert done.returncode == 0, done.stderr
        return taken, wrong or ("" if picture(imap) == before else f"not after {done.stdout}")


def append(imap: imaplib.IMAP4, numbers: Iterable[int]) -> None:
    """Many in one command (RFC 3502), without waiting for leave (RFC 7888)."""
    parts = []
    for number in numbers:
        text = b"Subject: %d\r\n\r\ntext %d\r\n" % (number, number)
        flags = rb"(\Flagged)" if number % 2 else b"()"
        parts.append(b" %b %b {%d+}\r\n%b" % (flags, DATE.encode(), len(text), text))
    imap.send(b"x APPEND %b%b\r\n" % (BOX.encode(), b"".join(parts)))
    while not (line := imap.readline()).startswith(b"x "):
        pass
    assert line.startswith(b"x OK"), line


def expunge(imap: imaplib.IMAP4, timed: Any, what: str) -> None:
    ok(imap.select(BOX))
    ok(imap.store("1:*", "+FLAGS.SILENT", r"(\Deleted)"))
    with timed(what):
        ok(imap.expunge())


def picture(imap: imaplib.IMAP4) -> list[tuple[int, bool, bool]]:
    """Of each message its number, whether it is flagged, and whether the date is the old one."""
    ok(imap.select(BOX, readonly=True))
    lines = ok(imap.fetch("1:*", "(FLAGS INTERNALDATE BODY.PEEK[HEADER.FIELDS (SUBJECT)])"))
    return sorted(
        (int(line[1].split()[1]), rb"\Flagged" in line[0], DATE.encode() in line[0])
        for line in lines
        if isinstance(line, tuple)
    )


def ok(answer: tuple[str, list[Any]]) -> list[Any]:
    """The lines of an answer that is OK."""
    assert answer[0] == "OK", answer
    return answer[1]


if __name__ == "__main__":
    sys.exit(main())
