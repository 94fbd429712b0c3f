"""SEARCH, SORT and THREAD on one large mailbox, Sora and Dovecot in turns, over sockets.

    python -m benchmarks.imap_finding [--messages 100000] [--rounds 9] [--directory DIR]

Both are whole servers on this machine, filled with the same messages over IMAP: a demo, and the installed Dovecot
(without one its column stays empty). A round asks one after the other, so that whatever else the machine does meets
both. `first` is the first time, with nothing in the worker's memory; the figure is the median of the rounds after it.
The table is written to benchmarks/results/finding.md.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.oracle import dovecot
from tests.support.demo import PASSWORD, Demo

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULT: Final = Path(__file__).parent / "results" / "finding.md"
WORDS: Final = "the of and to in mail list server report please find attached meeting regards thanks".split()
BATCH: Final = 200
SPACES: Final = bytes.maketrans(b"()", b"  ")
MONTHS: Final = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()

COMMANDS: Final = (
    # command, bar in ms
    ("SEARCH UNSEEN", 5), ("SEARCH SINCE 1-Nov-2023", 5), ("SEARCH SENTSINCE 1-Nov-2023", None),
    ("SEARCH LARGER 3000", None), ("SEARCH FROM s42@", None), ("SEARCH SUBJECT 4711", None), ("SEARCH TO user", None),
    ("SEARCH CC nobody", None), ("SEARCH HEADER X-Mailer rare", None), ('SEARCH TEXT "rareword"', 300),
    ('SEARCH BODY "rareword"', None), ('SEARCH UNSEEN TEXT "rareword"', None),
    ("SORT (DATE) UTF-8 ALL", 200), ("SORT (ARRIVAL) UTF-8 ALL", None), ("SORT (REVERSE SIZE) UTF-8 ALL", None),
    ("SORT (SUBJECT) UTF-8 ALL", None), ("SORT (FROM) UTF-8 ALL", None), ("SORT (REVERSE DATE) UTF-8 UNSEEN", None),
    ("THREAD REFERENCES UTF-8 ALL", 1500), ("THREAD REFS UTF-8 ALL", 1500), ("THREAD ORDEREDSUBJECT UTF-8 ALL", 1500),
)  # fmt: skip


def letters(count: int) -> Iterator[tuple[str, bytes]]:
    """INTERNALDATE and octets of messages over four years: two of three answer one of the last fifty."""
    source = random.Random(5)
    references: list[str] = []
    subjects: list[int] = []
    for number in range(count):
        own = f"<{number}.{source.getrandbits(64):x}@mail.example.org>"
        parent = number - source.randrange(1, 50) if number % 3 else -1
        known = [*references[parent].split()[-4:]] if parent >= 0 else []
        subjects.append(subjects[parent] if parent >= 0 else number)
        references.append(" ".join([*known, own]))
        day = number * 4 * 365 // count
        date = f"{day % 28 + 1:02}-{MONTHS[day // 28 % 12]}-{2020 + day // 336} {number % 24:02}:10:00 +0000"
        head = (
            f"From: Sender {number % 997} <s{number % 997}@example.org>\r\nTo: User <user1@example.com>\r\n"
            f"Subject: {'Re: ' if parent >= 0 else ''}Report {subjects[-1]} of the day\r\n"
            f"Date: {date.replace('-', ' ')}\r\nMessage-ID: {own}\r\n"
            + (f"References: {' '.join(known)}\r\n" if known else "")
            + f"X-Mailer: bench {number}\r\nReceived: from a by b with SMTP id {source.getrandbits(96):x}\r\n\r\n"
        )
        lines = [" ".join(source.choices(WORDS, k=12)) for _ in range(source.randrange(8, 24))]
        if number % 20_000 == 777:
            lines.append("here is the rareword that somebody looks for")
        yield date, (head + "\r\n".join(lines) + "\r\n").encode()


class Client:
    """A connection that is logged in."""

    def __init__(self, port: int, user: str, password: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb", buffering=1 << 20)
        self._file.readline()
        self.ask(f"LOGIN {user} {password}".encode())

    def ask(self, command: bytes) -> list[bytes]:
        """Untagged lines of the answer. Raises RuntimeError unless it is OK."""
        self.socket.sendall(b"x " + command + b"\r\n")
        lines = []
        while not (line := self._file.readline()).startswith(b"x "):
            if not line:
                raise RuntimeError("the server has hung up")
            lines.append(line)
        if not line.startswith(b"x OK"):
            raise RuntimeError(f"{command[:60]!r}: {line!r}")
        return lines

    def fill(self, count: int) -> None:
        """APPEND in batches; three of four messages are seen."""
        batch: list[bytes] = []
        for number, (date, data) in enumerate(letters(count)):
            flags = b"(\\Seen)" if number % 4 else b"()"
            batch.append(b'%s "%s" {%d+}\r\n%s' % (flags, date.encode(), len(data), data))
            if len(batch) == BATCH or number == count - 1:
                self.ask(b"APPEND INBOX " + b" ".join(batch))
                batch.clear()


def timed(client: Client, command: str) -> tuple[float, int]:
    """Milliseconds, and how many numbers were found."""
    started = time.perf_counter()
    lines = client.ask(command.encode())
    took = (time.perf_counter() - started) * 1000
    answers = [line for line in lines if line.startswith((b"* SEARCH", b"* SORT", b"* THREAD"))]
    return took, sum(len(line.translate(SPACES).split()) - 2 for line in answers)


def measure(clients: dict[str, Client], rounds: int) -> list[str]:
    """Lines of the table."""
    lines = []
    for command, bar in COMMANDS:
        times: dict[str, list[float]] = {name: [] for name in clients}
        found: dict[str, int] = {}
        for _ in range(rounds + 1):
            for name, client in clients.items():
                took, found[name] = timed(client, command)
                times[name].append(took)
        first = {name: f"{times[name][0]:.1f}" for name in clients}
        later = {name: statistics.median(times[name][1:]) for name in clients}
        ours, theirs = later["Sora"], later.get("Dovecot")
        ratio = f"{theirs / ours:.1f}" if theirs else ""
        other = f"{theirs:.1f} ({first['Dovecot']})" if theirs else ""
        lines.append(
            f"| `{command}` | {found['Sora']} | {ours:.1f} ({first['Sora']}) | {other} | {ratio} | {bar or ''} |"
        )
        print(lines[-1], flush=True)
        if len(set(found.values())) > 1:
            print(f"  found: {found}", flush=True)
    return lines


def main() -> None:
    """Fill, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--directory", type=Path, help="kept, and not filled again")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        directory = arguments.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(parents=True, exist_ok=True)
        demo = stack.enter_context(Demo(directory / "sora", "--accounts", "2"))
        clients = {"Sora": Client(demo.ports["imap"], "user1@example.com", PASSWORD)}
        if not dovecot.missing():
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            home.chmod(0o755)  # its processes run as other users
            other = stack.enter_context(dovecot.Dovecot(home / "dovecot"))
            clients["Dovecot"] = Client(other.port, dovecot.USER, dovecot.PASSWORD)
        for name, client in clients.items():
            started = time.perf_counter()
            if not client.ask(b"STATUS INBOX (MESSAGES)")[0].endswith(b"MESSAGES %d)\r\n" % arguments.messages):
                client.fill(arguments.messages)
            print(f"{name}: filled in {time.perf_counter() - started:.0f} s", flush=True)
            client.ask(b"SELECT INBOX")
        lines = measure(clients, arguments.rounds)
    version = f"Dovecot {dovecot.version()}, sdbox" if not dovecot.missing() else "no Dovecot"
    RESULT.write_text(
        f"# Finding in a mailbox of {arguments.messages:,} messages\n\n"
        f"`python -m benchmarks.imap_finding --messages {arguments.messages} --rounds {arguments.rounds}`; {version}; "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end. Milliseconds over a socket, median (and "
        f"the first time); ratio: Dovecot's median by ours.\n\n"
        "| command | found | Sora | Dovecot | ratio | bar |\n|---|---:|---:|---:|---:|---:|\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
