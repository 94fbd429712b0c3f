"""What filters cost a delivery: LMTP with a script of thirty rules active for every account against LMTP without.

    python -m benchmarks.filters [--rounds 15] [--messages 500] [--connections 16] [--size 8000] [--generator PATH]

One whole server on this machine. A round sends the same messages twice, once with the script active and once without,
the first of the two changing places, so that whatever else the machine does meets both; the figure is the median of the
rounds' ratios. Every fifth message is one that a rule files elsewhere, in a mailbox of its own; the rules that look at
bodies look at all the others.

The clients are part of both sides and share the machine with the server. A load generator that needs less of it can be
given with `--generator`: `mailbench`, by its scenario `lmtp_deliver`, whose messages are all kept in INBOX.

Beside it: how long one run of thirty rules takes on a message of 50 KB, all by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import socket
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from benchmarks.encryption import letter, send
from benchmarks.mailload import percentile
from benchmarks.sieve import measured, ordinary
from tests.support.demo import PASSWORD, Demo

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULT: Final = Path(__file__).parent / "results" / "filters.md"
ACCOUNTS: Final = 50
RULES: Final = 30
LISTS: Final = RULES // 3
FILED: Final = 5
"""One in so many messages is filed by a rule."""
GOAL: Final = 0.7
GOAL_MS: Final = 2.0
RUNS: Final = 2_000
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def script() -> bytes:
    """Thirty rules such as people write: by list, by subject, by words in the body."""
    rules = ['require ["fileinto", "mailbox", "imap4flags", "variables", "body"];']
    for number in range(LISTS):
        rules += [
            f'if header :contains "list-id" "<list{number}.example.org>" {{ fileinto :create "Lists/{number}"; }}',
            f'if header :matches "subject" "*[topic-{number}]*" {{ fileinto :create :flags "\\\\Seen" "Topics"; }}',
            f'if anyof (header :contains ["to", "cc"] "team{number}@", body :contains "keyword {number}") '
            f'{{ addflag "team{number}"; }}',
        ]
    return "\r\n".join(rules).encode() + b"\r\n"


def letters(count: int, size: int, source: random.Random) -> list[bytes]:
    """Mails, some of them from a list that a rule knows; nobody knows which."""
    mails = []
    for number in range(count):
        mail = letter(number, size, source)
        mails.append(of_list(source.randrange(LISTS), mail) if source.random() < 1 / FILED else mail)
    return mails


def of_list(number: int, mail: bytes) -> bytes:
    """Mail of a list that a rule files elsewhere."""
    return b"List-Id: <list%d.example.org>\r\n" % number + mail


def first_letters(source: random.Random) -> list[bytes]:
    """A mail of each list for everybody: afterwards the mailboxes are there."""
    return [of_list(number // ACCOUNTS, letter(number, 500, source)) for number in range(ACCOUNTS * LISTS)]


class Scripts:
    """A ManageSieve client for all accounts, one after the other over one connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._file: BinaryIO = self._socket.makefile("rb")
        self._answer()

    def put(self) -> None:
        """Store the script for everybody."""
        text = script()
        self._for_everybody(b'PUTSCRIPT "rules" {%d+}\r\n%b' % (len(text), text))

    def activate(self, name: str) -> None:
        """Make a script the active one of everybody; the empty name: none."""
        self._for_everybody(b'SETACTIVE "%b"' % name.encode())

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def _for_everybody(self, command: bytes) -> None:
        for number in range(1, ACCOUNTS + 1):
            plain = base64.b64encode(f"\0user{number}@example.com\0{PASSWORD}".encode())
            for line in (b'AUTHENTICATE "PLAIN" "%b"' % plain, command, b"UNAUTHENTICATE"):
                self._socket.sendall(line + b"\r\n")
                answer = self._answer()
                if not answer.startswith(b"OK"):
                    raise RuntimeError(answer.decode())

    def _answer(self) -> bytes:
        while (line := self._file.readline()).startswith(b'"'):
            pass
        return line


def server_seconds(demo: Demo) -> dict[str, float]:
    """CPU time until now: of the workers, and of everything, PostgreSQL and ended processes too."""
    status = demo.status()
    workers = {process["pid"] for process in status["processes"] if process["role"] == "worker"}
    spent = {"workers": 0.0, "server": 0.0}
    family = {status["supervisor"]["pid"], status["supervisor"]["postgres_pid"]}
    parents = {pid: fields for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if (fields := _stat(pid))}
    while more := {pid for pid, fields in parents.items() if int(fields[1]) in family} - family:
        family |= more
    for pid in family & set(parents):
        seconds = sum(map(int, parents[pid][11:15])) / TICKS_PER_S
        spent["server"] += seconds
        spent["workers"] += seconds if pid in workers else 0.0
    return spent


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name; none: the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def generated(path: str, demo: Demo, count: int, connections: int, size: int) -> float:
    """Messages a second, by mailbench."""
    ports = demo.ports
    done = subprocess.run(
        [path, "lmtp_deliver", "--host", "127.0.0.1", "--imap-port", str(ports["imap"]), "--lmtp-port",
         str(ports["lmtp"]), "--user-pattern", "user%d@example.com", "--users", str(ACCOUNTS), "--password", PASSWORD,
         "--conns", str(connections), "--count", str(count), "--size", str(size), "--verify", "none", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    if not answer["ok"]:
        raise RuntimeError(done.stdout + done.stderr)
    rate: float = answer["results"][0]["ops_per_s"]
    return rate


class Turn(NamedTuple):
    """Messages a second, and milliseconds of CPU per message."""

    rate: float
    workers_ms: float
    server_ms: float


def turn(arguments: argparse.Namespace, demo: Demo, mails: list[bytes]) -> Turn:
    """Deliver the messages once."""
    before = server_seconds(demo)
    if arguments.generator:
        rate = generated(arguments.generator, demo, len(mails), arguments.connections, arguments.size)
    else:
        rate = asyncio.run(send(demo.ports["lmtp"], mails, arguments.connections))
    after = server_seconds(demo)
    return Turn(rate, *((after[who] - before[who]) / len(mails) * 1e3 for who in ("workers", "server")))


def rounds(arguments: argparse.Namespace, demo: Demo) -> Iterator[dict[str, Turn]]:
    """Turns by the name of the script that was active; the first round warms up, and makes the mailboxes."""
    source = random.Random(1)
    scripts = Scripts(demo.ports["managesieve"])
    scripts.put()
    scripts.activate("rules")
    asyncio.run(send(demo.ports["lmtp"], first_letters(source), arguments.connections))
    for number in range(arguments.rounds + 1):
        mails = letters(arguments.messages, arguments.size, source)
        turns = {}
        for name in ("", "rules") if number % 2 else ("rules", ""):
            scripts.activate(name)
            turns[name] = turn(arguments, demo, mails)
        if number:
            yield turns
    scripts.close()


def throughput(arguments: argparse.Namespace) -> Iterator[str]:
    """Rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        with Demo(Path(folder) / "demo", "--accounts", str(ACCOUNTS), *arguments.demo) as demo:
            found = list(rounds(arguments, demo))
            if demo.admin("mailboxes", "list", "user1@example.com", "--json").stdout.count("Lists/") < LISTS:
                raise RuntimeError("not every rule has filed something")
    ratios = sorted(turns["rules"].rate / turns[""].rate for turns in found)
    yield f"| messages/s, median of {len(found)} turns | {_medians(found, 'rate', '.0f')} |"
    yield f"| CPU of the workers per message | {_medians(found, 'workers_ms', '.2f')} ms |"
    yield f"| CPU of the server per message, PostgreSQL and uploads too | {_medians(found, 'server_ms', '.2f')} ms |"
    middle = statistics.median(ratios)
    yield f"| ratio of the pairs: median (goal {GOAL}), quartiles | {middle:.3f}, {_quartiles(ratios)} |"


def _medians(found: list[dict[str, Turn]], field: str, form: str) -> str:
    """Without and with the script."""
    values = (statistics.median(getattr(turns[name], field) for turns in found) for name in ("", "rules"))
    return " and ".join(format(value, form) for value in values)


def _quartiles(ratios: list[float]) -> str:
    first, _, third = statistics.quantiles(ratios, n=4)
    return f"{first:.3f} to {third:.3f}"


def one_run() -> str:
    """A row of the table."""
    compiled, data = ordinary()
    took = [measured(compiled, data).seconds * 1e3 for _ in range(RUNS)]
    return (
        f"| one run on {len(data)} octets, median and p99 of {RUNS} (goal {GOAL_MS} ms) | "
        f"{statistics.median(took):.2f} and {percentile(took, 0.99):.2f} ms |"
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--size", type=int, default=8000)
    parser.add_argument("--generator", default="", help="path of mailbench")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name} instead of printing")
    parser.add_argument("demo", nargs="*", help="further arguments for the demo, after --")
    arguments = parser.parse_args()
    by = "mailbench" if arguments.generator else "clients of its own"
    head = (
        "# What filters cost\n\n"
        f"`python -m benchmarks.filters`, {os.cpu_count()} cores at a load of {os.getloadavg()[0]:.0f}: "
        f"{arguments.messages} messages of {arguments.size} octets a turn over {arguments.connections} connections, "
        f"{ACCOUNTS} accounts, {RULES} rules, by {by}.\n\n"
    )
    head += "| | without and with |\n| --- | --- |\n"
    text = head + "\n".join([*throughput(arguments), one_run()]) + "\n"
    if arguments.write:
        RESULT.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
