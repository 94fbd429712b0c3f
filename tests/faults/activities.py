"""What the clients of a cell do, and what the node does for them meanwhile.

Every activity has a row in `ACTIVITIES`. `prepare` runs while all is well; `run` runs while the fault is inflicted, and
goes on until every client was told that its work is done.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import asyncpg

from tests.faults.books import Books, Client, Mta, Patience

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.bench import Bench

FLAGS: Final = "\\Flagged Work"
LATER: Final = '"01-Jan-2090 00:00:00 +0000"'
"""Such a message does not grow old while the clock of the store is moved on."""
LONG_AGO: Final = '"01-Jan-2001 00:00:00 +0000"'
TARGET: Final = "Target"
KEYS: Final = 8
JOURNAL: Final = 70
"""Flag changes that make the journal of a small mailbox worth compacting."""
CLAIM_S: Final = 6.0
"""Claims of uploads that were not ended for so long are ended by a day that passes at once."""
MONTH: Final = 32
"""Days: more than every retention of the bench."""


@dataclass
class Cell:
    """One run of an activity.

    Attributes:
        user: Its own account.
        doomed_users: Accounts of which nothing may be left.
        wrong_reads: Messages that were read with other octets than they have, during the fault.
    """

    bench: Bench
    user: str
    books: Books = field(default_factory=Books)
    doomed_users: list[str] = field(default_factory=list)
    clients: list[Client | Mta] = field(default_factory=list)
    wrong_reads: set[str] = field(default_factory=set)
    sql_errors: int = 0
    orphan: str = ""
    mark: int = 0

    def client(self) -> Client:
        """A mail client."""
        client = Client(self.bench.ports, self.user, self.books)
        self.clients.append(client)
        return client

    def mta(self, user: str = "") -> Mta:
        """Somebody who delivers."""
        mta = Mta(self.bench.ports, user or self.user, self.books if not user else Books())
        self.clients.append(mta)
        return mta

    @property
    def begun(self) -> bool:
        """Somebody was told that his work is done since `prepare`."""
        return self.books.changes > self.mark

    @property
    def refused(self) -> int:
        """Times that the server said no, or PostgreSQL did."""
        return self.sql_errors + sum(client.refused for client in self.clients)

    def close(self) -> None:
        """Hang up."""
        for client in self.clients:
            client.close()

    def until(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait for what the node does by itself; a PostgreSQL that is away is waited for too."""
        patience = Patience(what)
        while True:
            try:
                if is_so():
                    return
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                self.sql_errors += 1
            patience.pause()

    def until_uploaded(self, user: str = "") -> None:
        """Nothing of an account waits for its upload; a claim that nobody will end is ended by the clock."""
        quiet_mono = time.monotonic()

        def is_so() -> bool:
            nonlocal quiet_mono
            if not self.bench.pending(user or self.user):
                return True
            if time.monotonic() - quiet_mono > CLAIM_S and self.bench.is_claimed(user or self.user):
                self.bench.days_pass(1)
                quiet_mono = time.monotonic()
            return False

        self.until("uploads", is_so)


@dataclass(frozen=True)
class Activity:
    """A row.

    Attributes:
        needs_store: It does not end while the object store is away.
        statement: The one that commits its work.
        application: Who sends it.
    """

    prepare: Callable[[Cell], None]
    run: Callable[[Cell], None]
    statement: str
    application: str = ""
    needs_store: bool = False


def together(*works: Callable[[], None]) -> None:
    """Do all at a time; the first error is raised."""
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()


def nothing(cell: Cell) -> None:
    """There is nothing to prepare."""


def deliver(cell: Cell) -> None:
    """Two MTAs."""

    def work(name: str) -> None:
        mta = cell.mta()
        for number in range(KEYS // 2):
            mta.deliver(f"{name}-{number}")

    together(lambda: work("a"), lambda: work("b"))


def append(cell: Cell) -> None:
    """Two mail clients."""

    def work(name: str) -> None:
        client = cell.client()
        for number in range(KEYS // 2):
            client.append(f"{name}-{number}", flags=FLAGS)

    together(lambda: work("a"), lambda: work("b"))


def fill_inbox(cell: Cell) -> None:
    """Messages to do something with, and a place for them."""
    client = cell.client()
    client.create(TARGET)
    for number in range(KEYS):
        client.append(f"k-{number}", flags=FLAGS)


def _batches() -> list[list[str]]:
    """Keys of single messages, and at last two together."""
    return [[f"k-{number}"] for number in range(KEYS - 2)] + [[f"k-{KEYS - 2}", f"k-{KEYS - 1}"]]


def copy(cell: Cell) -> None:
    """All from INBOX to another mailbox."""
    client = cell.client()
    for keys in _batches():
        client.copy(keys, "INBOX", TARGET, FLAGS)


def move(cell: Cell) -> None:
    """The same, and INBOX is empty in the end."""
    client = cell.client()
    for keys in _batches():
        client.move(keys, "INBOX", TARGET, FLAGS)


def expunge(cell: Cell) -> None:
    """Every second batch."""
    client = cell.client()
    for keys in _batches()[::2]:
        client.expunge(keys, "INBOX")


def upload(cell: Cell) -> None:
    """Mail comes in, and goes to the object store."""
    deliver(cell)
    client = cell.client()
    for number in range(2):
        client.append(f"c-{number}", flags=FLAGS)
    cell.until_uploaded()


def reload(cell: Cell) -> None:
    """Mail comes in all the time; a reload must have been done in the end."""

    def reloads() -> None:
        cell.until("reload", lambda: cell.bench.is_up and not cell.bench.reload())

    together(lambda: deliver(cell), lambda: _append_few(cell), reloads)


def _append_few(cell: Cell) -> None:
    client = cell.client()
    for number in range(KEYS // 2):
        client.append(f"r-{number}", flags=FLAGS)


def prepare_cleanup(cell: Cell) -> None:
    """Everything that the janitor can find something to do for."""
    bench, client = cell.bench, cell.client()
    for number in range(4):
        client.append(f"live-{number}", flags=FLAGS, date=LATER)
        client.append(f"gone-{number}", date=LATER)
    client.flag("INBOX", JOURNAL)
    client.create("Doomed")
    for number in range(2):
        client.append(f"doomed-{number}", "Doomed", date=LATER)
        client.append(f"old-{number}", date=LONG_AGO)
        cell.books.doubt("INBOX", f"old-{number}")  # the store may expunge it when it is old enough
    cell.doomed_users.append(bench.new_user())
    for number in range(2):
        cell.mta(cell.doomed_users[0]).deliver(f"other-{number}")
    cell.until_uploaded()
    cell.until_uploaded(cell.doomed_users[0])
    cell.orphan = bench.plant_object(cell.user, b"Subject: nobody knows me\r\n\r\n")


def cleanup(cell: Cell) -> None:
    """Things go for many reasons; some come back with the same bytes while their old bodies are being removed."""
    bench, client = cell.bench, cell.client()
    client.expunge([f"gone-{number}" for number in range(4)], "INBOX")
    client.delete("Doomed", ["doomed-0", "doomed-1"])
    for number in range(2):
        client.append(f"gone-{number}", flags=FLAGS, date=LATER)
    cell.until("the account is deleted", lambda: bench.delete_account(cell.doomed_users[0]))
    since = _let_a_month_pass(cell)
    cell.until("the first round of the cleanup", lambda: _round_ended(cell, since))
    cell.until("the removal of an account", lambda: not bench.objects(cell.doomed_users[0]))
    for number in range(2):
        cell.books.withdraw("INBOX", f"old-{number}")
    _let_a_month_pass(cell)
    cell.until("the removal of an orphan", lambda: cell.orphan not in bench.objects(cell.user))


def _let_a_month_pass(cell: Cell) -> object:
    """The store's clock afterwards."""
    times: list[object] = []

    def done() -> bool:
        if not times:
            times.append(cell.bench.days_pass(MONTH))
        return True

    cell.until("the clock is moved", done)
    return times[0]


def _round_ended(cell: Cell, since: object) -> bool:
    """The janitor has looked at everything since then."""
    rows = cell.bench.sql(
        "SELECT count(*) AS n FROM cleanup_progress WHERE phase IN ('orphans', 'retention') AND finished_at > $1", since
    )
    return bool(rows[0]["n"] == 2)


ACTIVITIES: Final = {
    "lmtp": Activity(nothing, deliver, r"\bdeliver\("),
    "append": Activity(nothing, append, r"\bdeliver\("),
    "copy": Activity(fill_inbox, copy, r"\bcopy_messages\("),
    "move": Activity(fill_inbox, move, r"\bmove_messages\("),
    "expunge": Activity(fill_inbox, expunge, r"\bexpunge\("),
    "upload": Activity(nothing, upload, "^COMMIT", "uploader", needs_store=True),
    "cleanup": Activity(prepare_cleanup, cleanup, r"\bbegin_purges\(", "janitor", needs_store=True),
    "reload": Activity(nothing, reload, r"\bdeliver\("),
}
