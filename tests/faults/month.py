"""A month in the life of a store, in minutes: the clock of the schema is moved on day by day, the processes are real.

    python -m tests.faults.month [--days 30] [--accounts 6] [--mail 40]

Each day mail is delivered, read, flagged, moved, expunged, trashes are emptied, drafts appended, mailboxes and an
account created and deleted; then the day ends when the uploader and the cleanup have nothing left to do. What lives is
the same amount each day, and everything that is removed is past its grace by day 10, so from then on nothing may grow:
neither the staging directory, nor tables, nor descriptors, nor memory of any process. At the end the books are compared
with what is found.

PostgreSQL's own housekeeping runs on its own clock, which is not moved: a VACUUM a day stands for it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import imaplib
import os
import shutil
import smtplib
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from sora import config as configuration
from sora.cli.admin import find_dsn
from tests.support.demo import PASSWORD, Demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST: Final = 10
"""From this day on nothing grows."""
WINDOW: Final = 5
"""Days whose medians are compared: one day's reading of a process is noise."""
SETTINGS: Final = (
    "cleanup.grace_period=3d",
    "cleanup.max_age_restriction=6d",
    "cleanup.log_retention=3d",
    "cleanup.orphan_grace=3d",
    "cleanup.wake_interval=1s",
    "cleanup.max_rows_per_second=20000",
    "search.retention=4d",
    "local_cache.capacity=1MB",
)
"""Times that end before day 10, and a cache that is full by then."""
OCTETS: Final = 12_000
"""Of a message: what is read in nine days is more than a process keeps of it in memory."""
KEPT: Final = 20
"""Messages that stay in each INBOX."""
PATIENCE_S: Final = 120.0
BLOAT: Final = 2.0
GROWTH: Final = 1.10
SLACK_KB: Final = 2048
"""Of a process: malloc's arenas breathe."""
SLACK_FDS: Final = 4
SMALL: Final = 1 << 20
"""Tables below this many octets are judged together: a table of one page is twice a table of half a page."""
RESULT: Final = Path(__file__).parents[2] / "benchmarks" / "results" / "month.md"


@dataclass
class Account:
    """A user's books: what must be in his mailboxes, by subject."""

    address: str
    inbox: list[str] = field(default_factory=list)
    archive: dict[str, int] = field(default_factory=dict)
    """Subject to the day on which it was delivered."""


@dataclass
class Sample:
    """The end of a day."""

    day: int
    seconds: float
    staged: int
    staged_bytes: int
    cache_bytes: int
    objects: int
    messages: int
    database_bytes: int
    memory_kb: dict[str, int]
    descriptors: dict[str, int]


class Month:
    """The simulation.

    Args:
        mail: Messages for each account and day.
    """

    def __init__(self, demo: Demo, conn: asyncpg.Connection, mail: int) -> None:
        self.demo = demo
        self.conn = conn
        self.mail = mail
        self.accounts = [Account(address) for address in demo.ready["accounts"]]
        self.samples: list[Sample] = []
        self.day = 0
        self._short_lived = ""

    async def live(self, days: int) -> None:
        """So many days."""
        await self._begin()
        for day in range(1, days + 1):
            began = time.monotonic()
            self.day = day
            await self._dawn()
            for account in self.accounts:
                await asyncio.to_thread(self._live_a_day, account)
            await asyncio.to_thread(self._come_and_go)
            await self._dusk()
            self.samples.append(await self._sample(time.monotonic() - began))
            sys.stderr.write(f"{self.samples[-1]}\n")

    async def _begin(self) -> None:
        """An account under legal hold, and an object that nobody knows."""
        self._admin("accounts", "create", "held@example.com", "--password-stdin", input=PASSWORD)
        self._deliver("held@example.com", ["held"])
        with self._imap("held@example.com") as client:
            client.select("INBOX")
            client.store("1", "+FLAGS", r"(\Deleted)")
            client.expunge()
        self._admin("accounts", "hold", "held@example.com", "--reason", "simulation")
        digest = hashlib.blake2b(b"stray", digest_size=32).hexdigest()
        self.stray = self.demo.directory / "objects" / f"{99:016x}" / digest[:2] / f"{digest}-99999999.eml"
        self.stray.parent.mkdir(parents=True)
        self.stray.write_bytes(b"stray")

    async def _dawn(self) -> None:
        """A new day for everybody: connections that know the old one are cut."""
        name = await self.conn.fetchval("SELECT current_database()")
        await self.conn.execute(f"ALTER DATABASE {name} SET sora.clock_offset = '{self.day} days'")
        await self.conn.execute(f"SET sora.clock_offset = '{self.day} days'")
        await self.conn.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    def _live_a_day(self, account: Account) -> None:
        subjects = [f"day {self.day} number {number} for {account.address}" for number in range(self.mail)]
        self._deliver(account.address, subjects)
        account.inbox += subjects
        patiently(lambda: self._read(account))
        # what the retention has taken by tonight
        account.archive = {subject: day for subject, day in account.archive.items() if day > self.day - 6}

    def _read(self, account: Account) -> None:
        """Reads all, flags some, archives some, throws the others away but the newest."""
        with self._imap(account.address) as client:
            client.select("INBOX")
            uids = ok(client.uid("SEARCH", "ALL"))[0].split()
            for start in range(0, len(uids), 50):
                ok(client.uid("FETCH", b",".join(uids[start : start + 50]).decode(), "(FLAGS BODY[])"))
            for number, uid in enumerate(uids):
                if number % 3 == 0:
                    ok(client.uid("STORE", uid.decode(), "+FLAGS", r"(\Flagged $Important)"))
            gone = len(account.inbox) - KEPT
            if gone <= 0:
                return
            archived, trashed = uids[: gone // 4], uids[gone // 4 : gone]
            if archived:
                ok(client.uid("MOVE", b",".join(archived).decode(), "Archive"))
                for subject in account.inbox[: len(archived)]:
                    account.archive[subject] = int(subject.split()[1])
                del account.inbox[: len(archived)]
            ok(client.uid("MOVE", b",".join(trashed).decode(), "Trash"))
            del account.inbox[: len(trashed)]
            draft = b"Subject: draft\r\n\r\n" + os.urandom(300).hex().encode() + b"\r\n"
            ok(client.append("Drafts", r"(\Draft)", "", draft))
            for name in ("Trash", "Drafts"):
                client.select(name)
                ok(client.store("1:*", "+FLAGS", r"(\Deleted)"))
                ok(client.expunge())

    def _come_and_go(self) -> None:
        """A mailbox with a message in it for each account, for a day; and an account."""
        for account in self.accounts:

            def turn(address: str = account.address) -> None:
                with self._imap(address) as client:
                    client.delete(f"Project-{self.day - 1}")  # there is none on the first day
                    client.create(f"Project-{self.day}")
                    client.append(f"Project-{self.day}", "", "", b"Subject: plan\r\n\r\n%d\r\n" % self.day)

            patiently(turn)
        if self._short_lived:
            self._admin("accounts", "delete", self._short_lived)
        self._short_lived = f"guest{self.day}@example.com"
        self._admin("accounts", "create", self._short_lived, "--password-stdin", input=PASSWORD)
        self._deliver(self._short_lived, [f"welcome {number}" for number in range(5)])

    async def _dusk(self) -> None:
        """Wait until uploader, indexer and cleanup have nothing left, as they would over night."""
        idle = """
            SELECT (SELECT count(*) FROM sora.pending_uploads) + (SELECT count(*) FROM sora.search_queue)
              + (SELECT count(*) FROM sora.search_index WHERE indexed_at < sora.clock() - interval '4 d')
              + (SELECT count(*) FROM sora.message_expunges x JOIN sora.accounts a USING (account_id)
                 WHERE x.expunged_at < sora.clock() - interval '3 d' AND NOT a.legal_hold)
              + (SELECT count(*) FROM sora.mailboxes WHERE deleted_at < sora.clock() - interval '3 d')
              + (SELECT count(*) FROM sora.accounts WHERE deleted_at < sora.clock() - interval '3 d')
              + (SELECT count(*) FROM sora.purge_candidates)
              + (SELECT count(*) FROM sora.account_changes WHERE changed_at < sora.clock() - interval '3 d')
              + (SELECT count(*) FROM unnest(ARRAY['retention', 'journals', 'orphans']) p (phase)
                 WHERE NOT EXISTS (SELECT 1 FROM sora.cleanup_progress c WHERE c.phase = p.phase AND c.place = ''
                   AND c.finished_at > sora.clock() - interval '1 d'))
        """
        until = time.monotonic() + PATIENCE_S
        while left := await self.conn.fetchval(idle):
            if time.monotonic() > until:
                raise AssertionError(f"day {self.day}: {left} things are left to do")
            await asyncio.sleep(0.1)  # between two looks at the rows that the janitor is at work on
        await self.conn.execute("VACUUM ANALYZE")

    async def _sample(self, seconds: float) -> Sample:
        staging = list((self.demo.directory / "staging").rglob("*.eml"))
        processes = {
            f"{process['role']} {process['slot']}": process["pid"] for process in self.demo.status()["processes"]
        }
        processes["supervisor"] = self.demo.status()["supervisor"]["pid"]
        return Sample(
            day=self.day,
            seconds=seconds,
            staged=len(staging),
            staged_bytes=sum(path.stat().st_size for path in staging),
            cache_bytes=sum(p.stat().st_size for p in (self.demo.directory / "cache").rglob("*.eml")),
            objects=sum(1 for _ in (self.demo.directory / "objects").rglob("*.eml")),
            messages=await self.conn.fetchval("SELECT count(*) FROM sora.messages"),
            database_bytes=await self.conn.fetchval(
                "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c"
                " WHERE c.relnamespace = 'sora'::regnamespace AND c.relkind = 'r'"
            ),
            memory_kb={name: resident_kb(pid) for name, pid in processes.items()},
            descriptors={name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in processes.items()},
        )

    async def bloat(self) -> dict[str, tuple[int, int]]:
        """Octets of each table with its indexes, and those of a fresh copy."""
        await self.conn.execute("DROP SCHEMA IF EXISTS fresh CASCADE; CREATE SCHEMA fresh")
        found = {}
        for row in await self.conn.fetch(
            "SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'sora'::regnamespace AND relkind = 'r'"
        ):
            name = row["relname"]
            options = ", ".join(o for o in row["reloptions"] or () if o.startswith("fillfactor"))
            await self.conn.execute(f"CREATE TABLE fresh.{name} (LIKE sora.{name} INCLUDING ALL)")
            if options:
                await self.conn.execute(f"ALTER TABLE fresh.{name} SET ({options})")
            columns = await self.conn.fetchval(
                """
                SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
                WHERE attrelid = ('sora.' || $1)::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
                """,
                name,
            )
            await self.conn.execute(
                f"INSERT INTO fresh.{name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM sora.{name}"
            )
            sizes = await self.conn.fetchrow(
                f"SELECT pg_total_relation_size('sora.{name}'), pg_total_relation_size('fresh.{name}')"
            )
            found[name] = (sizes[0], sizes[1])
        await self.conn.execute("DROP SCHEMA fresh CASCADE")
        return found

    async def wrong(self) -> list[str]:
        """What the books say and the store does not, or the other way round; empty: all is well."""
        found: list[str] = []
        for account in self.accounts:
            for name, expected in (("INBOX", account.inbox), ("Archive", list(account.archive)), ("Trash", [])):
                there = await asyncio.to_thread(self._subjects, account.address, name)
                if sorted(there) != sorted(expected):
                    lost = set(expected) - set(there)
                    found.append(f"{account.address} {name}: {len(there)} of {len(expected)}, lost {sorted(lost)[:3]}")
        kept = await self.conn.fetchval(
            "SELECT count(*) FROM sora.messages JOIN sora.accounts USING (account_id)"
            " WHERE address = 'held@example.com'"
        )
        if kept != 1:
            found.append("the message under legal hold is gone")
        if self.stray.exists() and self.day > 8:
            found.append("the object without a row is still there")
        rows = await self.conn.fetch(
            "SELECT m.account_id, m.mailbox_id, c.what, c.detail FROM sora.mailboxes m"
            " CROSS JOIN LATERAL sora.check_mailbox(m.account_id, m.mailbox_id) c"
        )
        found += [f"check_mailbox: {dict(row)}" for row in rows]
        contents = await self.conn.fetchval("SELECT count(*) FROM sora.message_contents")
        objects = sum(1 for _ in (self.demo.directory / "objects").rglob("*.eml")) - self.stray.exists()
        if contents != objects:
            found.append(f"{contents} contents, {objects} objects")
        return found

    def _subjects(self, address: str, name: str) -> list[str]:
        with self._imap(address) as client:
            count = int(ok(client.select(name, readonly=True))[0])
            if not count:
                return []
            data = ok(client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])"))
            return [part[1].decode().split(":", 1)[1].strip() for part in data if isinstance(part, tuple)]

    def _deliver(self, address: str, subjects: list[str]) -> None:
        left = list(subjects)

        def deliver() -> None:
            with smtplib.LMTP("127.0.0.1", self.demo.ports["lmtp"], timeout=30) as mta:
                while left:
                    noise = hashlib.shake_128(left[0].encode()).hexdigest(OCTETS // 2)
                    lines = "\r\n".join(noise[at : at + 70] for at in range(0, len(noise), 70))
                    text = (
                        f"From: a@example.org\r\nSubject: {left[0]}\r\nMessage-ID: <{noise[:20]}@x>\r\n\r\n{lines}\r\n"
                    )
                    mta.sendmail("a@example.org", [address], text.encode())
                    del left[0]

        patiently(deliver)

    @contextmanager
    def _imap(self, address: str) -> Iterator[imaplib.IMAP4]:
        client = imaplib.IMAP4("127.0.0.1", self.demo.ports["imap"], timeout=30)
        try:
            client.login(address, PASSWORD)
            yield client
            client.logout()
        finally:
            with suppress(OSError):  # hung up already
                client.shutdown()

    def _admin(self, *arguments: str, input: str | None = None) -> None:
        def run() -> None:
            done = self.demo.admin(*arguments, input=input)
            if done.returncode == 3:
                raise ConnectionError(done.stderr)
            assert done.returncode == 0, done.stderr

        patiently(run)


def ok(answer: tuple[str, list[Any]]) -> list[Any]:
    """The data of an OK."""
    status, data = answer
    if status != "OK":
        raise imaplib.IMAP4.error(data)
    return data


def patiently(act: Callable[[], None]) -> None:
    """A client that tries again: connections to PostgreSQL were cut this morning.

    What it does must be such that it may be begun again.
    """
    for pause_s in (0.1, 0.2, 0.5, 1.0, 2.0):
        try:
            act()
        except (OSError, smtplib.SMTPException, imaplib.IMAP4.error) as error:
            sys.stderr.write(f"again: {error}\n")
            time.sleep(pause_s)  # as a mail program does before it tries again
        else:
            return
    act()


def resident_kb(pid: int) -> int:
    """Resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def grown(samples: list[Sample]) -> list[str]:
    """What is more at the end than on the first days that count; empty: nothing is."""
    early, late = samples[FIRST - 1 : FIRST - 1 + WINDOW], samples[-WINDOW:]
    found = []

    def compare(what: str, read: Callable[[Sample], float], slack: float) -> None:
        before, after = statistics.median(map(read, early)), statistics.median(map(read, late))
        if after > before * GROWTH + slack:
            found.append(f"{what}: {before:,.0f} to {after:,.0f}")

    compare("staged files", lambda s: s.staged, 5)
    compare("staged octets", lambda s: s.staged_bytes, 20_000)
    compare("cached octets", lambda s: s.cache_bytes, 0)
    compare("objects", lambda s: s.objects, 0)
    compare("rows of messages", lambda s: s.messages, 0)
    compare("octets of tables", lambda s: s.database_bytes, 0)
    for name in samples[-1].memory_kb:
        compare(f"memory of {name}, KB", lambda s, n=name: s.memory_kb[n], SLACK_KB)  # type: ignore[misc]
        compare(f"descriptors of {name}", lambda s, n=name: s.descriptors[n], SLACK_FDS)  # type: ignore[misc]
    return found


def bloated(sizes: dict[str, tuple[int, int]]) -> list[str]:
    """Tables that take twice what a fresh copy takes; the small ones as one."""
    judged = {name: pair for name, pair in sizes.items() if pair[1] >= SMALL}
    small = [pair for name, pair in sizes.items() if name not in judged]
    judged["all small tables"] = sum(p[0] for p in small), sum(p[1] for p in small)
    judged["all tables"] = sum(p[0] for p in sizes.values()), sum(p[1] for p in sizes.values())
    return [f"{name}: {now:,} of {fresh:,}" for name, (now, fresh) in judged.items() if now > BLOAT * fresh]


def report(month: Month, sizes: dict[str, tuple[int, int]], wrong: list[str], seconds: float) -> str:
    """Markdown."""
    names = list(month.samples[-1].memory_kb)
    lines = [
        "# A month of the store's time",
        "",
        f"`python -m tests.faults.month --days {len(month.samples)} --accounts {len(month.accounts)}"
        f" --mail {month.mail}`",
        "",
        f"{len(month.samples)} days in {seconds:.0f} s, {len(month.accounts)} accounts, {month.mail} messages for each"
        f" and day, {os.cpu_count()} processors; `{' '.join(SETTINGS)}`. At the end of each day uploader, indexer and"
        " cleanup have nothing left to do. Memory is resident KB / descriptors; a worker keeps up to 16 MiB of what was"
        " read. Queues are empty at the end of a day, so their fresh copies are too: small tables are judged as one.",
        "",
        f"| day | rows of messages | objects | staged | cache KB | tables KB | {' | '.join(names)} |",
        f"|{'---|' * (6 + len(names))}",
    ]
    for sample in month.samples:
        cells = [f"{sample.memory_kb[name]:,} / {sample.descriptors[name]}" for name in names]
        lines.append(
            f"| {sample.day} | {sample.messages:,} | {sample.objects:,} | {sample.staged}"
            f" | {sample.cache_bytes // 1024:,} | {sample.database_bytes // 1024:,} | {' | '.join(cells)} |"
        )
    lines += ["", "| table | KB | fresh copy | times |", "|---|---|---|---|"]
    for name, (now, fresh) in sorted(sizes.items(), key=lambda item: -item[1][0]):
        if now >= 128 * 1024:
            lines.append(f"| {name} | {now // 1024:,} | {fresh // 1024:,} | {now / fresh:.2f} |")
    total, total_fresh = sum(p[0] for p in sizes.values()), sum(p[1] for p in sizes.values())
    lines += [f"| all | {total // 1024:,} | {total_fresh // 1024:,} | {total / total_fresh:.2f} |", ""]
    growth = grown(month.samples) if len(month.samples) >= FIRST + WINDOW else ["too few days to tell"]
    for title, found in (
        (f"Growth from day {FIRST} on (medians of {WINDOW} days)", growth),
        ("Bloat of more than 2 times", bloated(sizes)),
        ("Books and caches that do not agree", wrong),
    ):
        lines.append(f"- {title}: {'; '.join(found) or 'none'}")
    return "\n".join([*lines, ""])


async def simulate(demo: Demo, days: int, mail: int) -> tuple[Month, dict[str, tuple[int, int]], list[str]]:
    """Everything."""
    conn = await asyncpg.connect(find_dsn(configuration.load(demo.config)))
    try:
        month = Month(demo, conn, mail)
        await month.live(days)
        return month, await month.bloat(), await month.wrong()
    finally:
        await conn.close()


def main() -> int:
    """Exit code 0 if nothing grew, nothing is bloated and the books agree."""
    parser = argparse.ArgumentParser(prog="tests.faults.month")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--accounts", type=int, default=6)
    parser.add_argument("--mail", type=int, default=40)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="month-", dir=arguments.dir))
    began = time.monotonic()
    try:
        settings = [f"--set={value}" for value in SETTINGS]
        with Demo(scratch / "demo", "--accounts", str(arguments.accounts), "--workers", "2", *settings) as demo:
            month, sizes, wrong = asyncio.run(simulate(demo, arguments.days, arguments.mail))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    text = report(month, sizes, wrong, time.monotonic() - began)
    arguments.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return int(bool(wrong or bloated(sizes) or (arguments.days >= FIRST + WINDOW and grown(month.samples))))


if __name__ == "__main__":
    raise SystemExit(main())
