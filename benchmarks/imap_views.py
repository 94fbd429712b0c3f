"""What a client asks about a whole mailbox and about what is new in it, Sora and Dovecot in turns, over sockets.

    python -m benchmarks.imap_views [--messages 100000] [--rounds 9]

Both are whole servers on this machine with the same mailbox; see `imap_finding`. Each command is asked on a connection
that has selected the mailbox anew: `first` is when nobody had it selected before, so nothing of it is in a worker's
memory but what every SELECT reads. The table is written to benchmarks/results/views.md.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.imap_finding import Client
from tests.oracle import dovecot
from tests.support.demo import PASSWORD, Demo

RESULT: Final = Path(__file__).parent / "results" / "views.md"
APPENDED: Final = 1000
"""Messages that are sent; the rest are copies of them."""
CHANGES: Final = 200
"""STOREs of some neighbours, so that modseqs differ."""
COMMANDS: Final = (
    # command, bar in ms; {since} is the modseq before the last ten changes
    ("FETCH 1:* (UID FLAGS)", None), ("FETCH 1:* (UID FLAGS MODSEQ)", 100), ("UID FETCH 1:* (MODSEQ)", None),
    ("UID FETCH 1:* (FLAGS) (CHANGEDSINCE {since})", None), ("SEARCH MODSEQ {since}", None),
    ("UID FETCH 1:* (FLAGS) (CHANGEDSINCE {since} VANISHED)", None),
    ("SELECT INBOX (QRESYNC ({validity} {since}))", None), ("SELECT INBOX (QRESYNC ({validity} {start}))", None),
    ("UID STORE 500 (UNCHANGEDSINCE 1) +FLAGS.SILENT (\\Seen)", None),
)  # fmt: skip


class Box:
    """A server with the mailbox.

    Attributes:
        words: What stands in the commands for this server.
    """

    def __init__(self, name: str, port: int, user: str, password: str) -> None:
        self.name = name
        self._login = port, user, password
        self.words: dict[str, int] = {}

    def connect(self) -> Client:
        """A client that knows of modseqs and has selected the mailbox."""
        client = Client(*self._login)
        client.ask(b"ENABLE QRESYNC")
        for line in client.ask(b"SELECT INBOX"):
            for code in (b"HIGHESTMODSEQ", b"UIDVALIDITY"):
                if b"[" + code in line:
                    self.words[code.decode()] = int(line.split(code)[1].split(b"]")[0])
        return client

    def fill(self, count: int) -> None:
        """So many messages, some of which have changed since, and some of which are gone."""
        client = Client(*self._login)
        client.fill(APPENDED)
        client.ask(b"SELECT INBOX")
        for _ in range(count // APPENDED - 1):
            client.ask(b"UID COPY 1:%d INBOX" % APPENDED)
        source = random.Random(3)
        for number in range(CHANGES):
            if number in (0, CHANGES - 10):
                self.connect().socket.close()
                self.words["since" if number else "start"] = self.words["HIGHESTMODSEQ"]
            uid = source.randrange(APPENDED, count - 20)
            flag = rb"(\Deleted)" if number % 10 == 9 else rb"(\Flagged)"
            client.ask(b"UID STORE %d:%d +FLAGS.SILENT %s" % (uid, uid + number % 20, flag))
            if number % 50 == 49:
                client.ask(b"EXPUNGE")

    def ask(self, command: str) -> tuple[float, int]:
        """Milliseconds and lines of the answer, on a connection of its own."""
        client = self.connect()
        words = self.words | {"validity": self.words["UIDVALIDITY"]}
        started = time.perf_counter()
        client.socket.sendall(b"x " + command.format(**words).encode() + b"\r\n")
        answer = bytearray()
        while not (answer.endswith(b"\r\n") and answer.rfind(b"\r\nx OK", -200) >= 0) and answer[:4] != b"x OK":
            answer += client.socket.recv(1 << 20)
        took = (time.perf_counter() - started) * 1000
        client.socket.close()
        return took, answer.count(b"\n") - 1


def measure(boxes: list[Box], rounds: int) -> list[str]:
    """Lines of the table."""
    lines = []
    for command, bar in COMMANDS:
        times: dict[str, list[float]] = {box.name: [] for box in boxes}
        answered: dict[str, int] = {}
        for _ in range(rounds + 1):
            for box in boxes:
                took, answered[box.name] = box.ask(command)
                times[box.name].append(took)
        later = {name: statistics.median(took[1:]) for name, took in times.items()}
        cells = [f"{later[box.name]:.1f} ({times[box.name][0]:.1f})" for box in boxes]
        ratio = f"{later['Dovecot'] / later['Sora']:.1f}" if "Dovecot" in later else ""
        cells += [""] * (2 - len(cells))
        lines.append(f"| `{command}` | {answered['Sora']} | {' | '.join(cells)} | {ratio} | {bar or ''} |")
        print(lines[-1], answered, flush=True)
    return lines


def main() -> None:
    """Fill, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        demo = stack.enter_context(Demo(directory / "sora", "--accounts", "2"))
        boxes = [Box("Sora", demo.ports["imap"], "user1@example.com", PASSWORD)]
        if not dovecot.missing():
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            home.chmod(0o755)  # its processes run as other users
            other = stack.enter_context(dovecot.Dovecot(home / "dovecot"))
            boxes.append(Box("Dovecot", other.port, dovecot.USER, dovecot.PASSWORD))
        for box in boxes:
            started = time.perf_counter()
            box.fill(arguments.messages)
            print(f"{box.name}: filled in {time.perf_counter() - started:.0f} s", flush=True)
        lines = measure(boxes, arguments.rounds)
    version = f"Dovecot {dovecot.version()}, sdbox" if not dovecot.missing() else "no Dovecot"
    RESULT.write_text(
        f"# Views of a mailbox of {arguments.messages:,} messages\n\n"
        f"`python -m benchmarks.imap_views --messages {arguments.messages} --rounds {arguments.rounds}`; {version}; "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end. Milliseconds over a socket, median (and "
        "the first time), each on a connection that has just selected the mailbox; ratio: Dovecot's median by ours.\n\n"
        "| command | lines | Sora | Dovecot | ratio | bar |\n|---|---:|---:|---:|---:|---:|\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
