"""Moving in and out at full size: `python -m tests.faults.moving --messages 20000 --folders 30`.

A Dovecot is filled with mail in a maildir. That is imported into one account of a running Sora, and over IMAP into
another; each import is killed twice on the way (SIGKILL, once between staging and commit) and started again. Then every
message of every folder is compared as an IMAP client sees it: UIDVALIDITY, UID, flags, keywords, INTERNALDATE, and the
octets. The first account is exported, killed on the way too, and what was written is given to another Dovecot and
compared again. Encryption is on, unless `--plain` says otherwise; some messages are as large as mail gets, and filters
stand beside the maildir.

Meanwhile somebody else reads mail: what that takes is told, before and during the imports. The memory of every process
is what the kernel counted. Ends with 1 if there is any difference, or a process needed too much.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import pwd
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from sora.store import keyring
from tests.moving import filling
from tests.moving.sieving import SieveDovecot, add_scripts
from tests.oracle import dovecot
from tests.oracle.dovecot import PASSWORD, USER, Dovecot
from tests.support.demo import PASSWORD as OURS
from tests.support.demo import Demo

if TYPE_CHECKING:
    import imapclient

MOST_MIB: Final = 150
BATCH: Final = 64
LARGE_BYTES: Final = 45_000_000
SCRIPTS: Final = {"main": 'if header :is "subject" "x" { discard; }\n', "away": "keep;\n"}
"""The first is active."""


def say(text: str) -> None:
    """A line for whoever runs it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Gauge:
    """The most memory that a process has needed: the kernel counts, this reads the count until there is none.

    Not `ru_maxrss`, which begins with what the process had that began this one.
    """

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._most_kib = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+) kB", self._status.read_text())
                self._most_kib = max(self._most_kib, int(found[1]) if found else 0)

    def stop(self) -> float:
        """In MiB."""
        self._stop.set()
        self._thread.join()
        return self._most_kib / 1024


class Runs:
    """`sora-admin` in processes of its own.

    Attributes:
        most_mib: Memory that one of them needed at most.
        wrong: What was not as it should be.
    """

    def __init__(self, config: str) -> None:
        self._config = config
        self.most_mib = 0.0
        self.wrong: list[str] = []

    def run(self, *arguments: str, crash: str = "", stdin: str = "") -> dict[str, object]:
        """The answer; nothing if it is to die at a crash point."""
        command = [sys.executable, "-m", "sora.cli.admin", "--config", self._config, *arguments, "--json"]
        environment = {**os.environ, "SORA_CRASH_AT": crash}
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
        gauge = Gauge(process.pid)
        answer = process.stdout.read()
        process.stdout.close()
        process.wait()
        mib = gauge.stop()
        self.most_mib = max(self.most_mib, mib)
        about = f"{' '.join(arguments[:2])}{f' killed at {crash}' if crash else ''}"
        say(f"{about}: {time.monotonic() - began:.1f} s, {mib:.0f} MiB, ended with {process.returncode}")
        if process.returncode != (-signal.SIGKILL if crash else 0):
            self.wrong.append(f"{about}: ended with {process.returncode}")
        if mib > MOST_MIB:
            self.wrong.append(f"{about}: {mib:.0f} MiB")
        return {} if crash or not answer else dict(json.loads(answer))

    def bring(self, messages: int, *arguments: str, stdin: str = "") -> None:
        """An import that is killed twice, and a run that finds nothing more to do."""
        third = max(1, messages // 3 // BATCH)
        self.run(*arguments, crash=f"import.committed:{third}", stdin=stdin)
        self.run(*arguments, crash=f"import.staged:{third}", stdin=stdin)
        answer = self.run(*arguments, stdin=stdin)
        say(f"  {answer.get('messages')} came, {answer.get('present')} were there")
        self.wrong += [f"{arguments[1]}: {problem}" for problem in answer.get("problems", [])]  # type: ignore[attr-defined]
        notes: list[str] = answer.get("notes", [])  # type: ignore[assignment]
        self.wrong += [f"{arguments[1]}: {note}" for note in notes if not note.startswith("not brought: rights")]
        if answer.get("scripts") != len(SCRIPTS):
            self.wrong.append(f"{arguments[1]}: {answer.get('scripts')} filters")
        if self.run(*arguments, stdin=stdin).get("messages") != 0:
            self.wrong.append(f"{arguments[1]}: a further run brought something")

    def compare(self, about: str, port: int, user: str, password: str, theirs: dict[str, filling.Folder]) -> None:
        """Message by message."""
        count = 0
        with filling.connect(port, user, password) as client:
            for name, folder in theirs.items():
                found = filling.differences(filling.look(client, name), folder)
                self.wrong += [f"{about}: {name}: {line}" for line in found[:5]]
                count += len(folder.messages)
        say(f"{about}: {count} messages in {len(theirs)} folders compared")


class Reader:
    """Somebody who reads mail all the time; how long it takes."""

    def __init__(self, port: int) -> None:
        self._client = filling.connect(port, "user3@example.com", OURS)
        for number in range(20):
            self._client.append("INBOX", b"Subject: %d\r\n\r\nbody\r\n" % number)
        self._stop = threading.Event()
        self._taken: list[float] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.wait(0.05):
            began = time.monotonic()
            self._client.select_folder("INBOX")
            self._client.fetch(list(range(1, 21)), ["UID", "FLAGS", "ENVELOPE"])
            self._client.append("INBOX", b"Subject: more\r\n\r\nbody\r\n")
            self._taken.append(time.monotonic() - began)

    def take(self) -> str:
        """What was measured since the last time."""
        taken, self._taken = sorted(self._taken), []
        if not taken:
            return "nothing was read"
        p99 = taken[min(len(taken) - 1, len(taken) * 99 // 100)]
        return f"{len(taken)} rounds, median {statistics.median(taken) * 1000:.0f} ms, 99 of 100 {p99 * 1000:.0f} ms"

    def stop(self) -> None:
        """End, and log out."""
        self._stop.set()
        self._thread.join()
        self._client.logout()


def give_to_dovecot(directory: Path) -> None:
    """Files that root has written belong to the user that Dovecot reads mail as."""
    if os.getuid() != 0:
        return
    owner = pwd.getpwnam("mail")
    for path in (directory, *directory.rglob("*")):
        os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def add_large(client: imapclient.IMAPClient) -> None:
    """Messages of the largest size: of noise, which no compression makes smaller, in base64, and of text."""
    noise = base64.encodebytes(random.Random(1).randbytes(LARGE_BYTES * 3 // 4)).replace(b"\n", b"\r\n")
    for kind, body in (("application/octet-stream", noise), ("text/plain", b"All work and no play.\r\n" * 2_000_000)):
        head = f"Subject: large\r\nMIME-Version: 1.0\r\nContent-Type: {kind}\r\n\r\n".encode()
        client.append("INBOX", head + body[:LARGE_BYTES])


def compare_scripts(directory: Path) -> list[str]:
    """What an export has of the filters."""
    found = {path.stem: path.read_text() for path in (directory / "sieve").glob("*.sieve")}
    active = (directory / ".dovecot.sieve").readlink().stem
    return [] if (found, active) == (SCRIPTS, next(iter(SCRIPTS))) else [f"scripts: {found}, active {active}"]


def demo_of(root: Path, *, encrypted: bool) -> Demo:
    """Three accounts."""
    settings = ["limits.message_size=64MB"]
    if encrypted:
        keyring.add_key(root / "keyring.toml")
        settings.append(f"encryption.keyring_file={root / 'keyring.toml'}")
    return Demo(root / "ours", "--accounts", "3", *(word for setting in settings for word in ("--set", setting)))


def check(messages: int, folders: int, seed: int, *, encrypted: bool) -> list[str]:
    """All of it; what was wrong."""
    with (
        TemporaryDirectory(prefix="moving-") as name,
        SieveDovecot(Path(name) / "theirs") as server,
        demo_of(Path(name), encrypted=encrypted) as demo,
    ):
        Path(name).chmod(0o755)
        with filling.connect(server.port, USER, PASSWORD) as client:
            filling.fill(client, messages, folders, seed)
            add_large(client)
            add_scripts(server.directory / "home" / USER, SCRIPTS)
            theirs = {folder: filling.look(client, folder) for folder in sorted(filling.listed(client))}
            subscribed = filling.subscribed(client)
        count = sum(len(folder.messages) for folder in theirs.values())
        say(f"Dovecot has {count} messages in {len(theirs)} folders")
        runs, imap = Runs(demo.config), demo.ports["imap"]
        reader = Reader(imap)
        time.sleep(3)
        say(f"somebody else reads: {reader.take()}")
        path = str(server.directory / "home" / USER / "Maildir")
        runs.bring(count, "import", "maildir", "user1@example.com", path)
        say(f"during the import of a maildir: {reader.take()}")
        runs.compare("maildir", imap, "user1@example.com", OURS, theirs)
        reader.take()
        runs.bring(
            count, "import", "imap", "user2@example.com", "127.0.0.1", USER, "--port", str(server.port),
            "--security", "none", "--sieve-port", str(server.sieve_port), "--password-stdin", stdin=f"{PASSWORD}\n",
        )  # fmt: skip
        say(f"during the import over IMAP: {reader.take()}")
        reader.stop()
        runs.compare("imap", imap, "user2@example.com", OURS, theirs)
        for user in ("user1@example.com", "user2@example.com"):
            with filling.connect(imap, user, OURS) as client:
                if not subscribed <= filling.subscribed(client):
                    runs.wrong.append(f"{user}: subscriptions are missing")
        with Dovecot(Path(name) / "other", "maildir:~/Maildir") as other:
            target = other.directory / "home" / USER / "Maildir"
            export = ("export", "maildir", "user1@example.com", str(target))
            runs.run(*export, crash=f"export.page_written:{max(1, count // 500)}")
            answer = runs.run(*export)
            say(f"  {answer.get('messages')} written, {answer.get('present')} were there")
            give_to_dovecot(target.parent)
            runs.wrong += compare_scripts(target)
            runs.compare("export", other.port, USER, PASSWORD, theirs)
        say(f"no process needed more than {runs.most_mib:.0f} MiB")
        return runs.wrong


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--folders", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="without encryption")
    arguments = parser.parse_args()
    if dovecot.missing():
        parser.error(dovecot.missing())
    wrong = check(arguments.messages, arguments.folders, arguments.seed, encrypted=not arguments.plain)
    for line in wrong:
        say(f"WRONG {line}")
    say("nothing is wrong" if not wrong else f"{len(wrong)} things are wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
