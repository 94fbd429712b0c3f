"""Who was promised what: the ledger of one cell of the matrix, and the judge who reads all mail at the end.

Nothing here is shared with the store: smtplib and imaplib talk to it, messages are made by `tests.support.ledger`, and
what must be found follows from the answers alone. For every message in every mailbox the books say one of three
things: it must be there exactly once, it must not be there, or nobody knows (an answer was lost), and then it may be
there once.

A client believes what it is told. After OK the thing is done. After NO it is not done, and the client repeats it
without a look. Only when the connection ended without an answer it connects again and looks.
"""

from __future__ import annotations

import imaplib
import re
import smtplib
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.support.demo import PASSWORD
from tests.support.ledger import PACE_S, TRANSIENT, message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PATIENCE_S: Final = 150.0
"""A client that is not served for so long is stuck. Nothing else depends on time."""
ANSWER_S: Final = 40.0
KEY: Final = re.compile(rb"^X-Ledger: (\S+)\r$", re.MULTILINE)
TRACE: Final = re.compile(rb"(?:(?:Return-Path|Delivered-To|Received): [^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)+")
"""What a delivery may put in front of a message (RFC 5321 §4.4)."""
SYSTEM: Final = frozenset({"\\Recent"})


class StuckError(Exception):
    """A client was not served, or the node did not come back."""


@dataclass(frozen=True)
class Found:
    """One message as it was read."""

    key: str
    flags: frozenset[str]
    body: bytes


@dataclass
class Verdict:
    """Mailbox and key of what went wrong; all empty when nothing did.

    Attributes:
        acknowledged: Messages that must be there, as the clients were told.
        found: Messages that were read.
        returned: There although it was expunged or moved away.
        flags: Not the flags that were promised.
        leftover: Objects that belong to no message.
    """

    acknowledged: int = 0
    found: int = 0
    lost: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    flags: set[str] = field(default_factory=set)
    leftover: set[str] = field(default_factory=set)

    @property
    def is_clean(self) -> bool:
        return not self.wrong

    @property
    def wrong(self) -> dict[str, list[str]]:
        """What went wrong, by kind."""
        kinds = ("lost", "doubled", "altered", "returned", "flags", "leftover")
        return {kind: sorted(keys) for kind in kinds if (keys := getattr(self, kind))}


class Books:
    """What one account was promised.

    Attributes:
        changes: How many promises were made.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._sent: dict[str, bytes] = {}
        self._delivered: set[str] = set()
        self._must: dict[tuple[str, str], frozenset[str] | None] = {}
        self._must_not: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def send(self, key: str, mailbox: str = "INBOX", *, delivered: bool = False) -> bytes:
        """A message is about to be sent; its octets."""
        with self._lock:
            self._sent[key] = message(key)
            if delivered:
                self._delivered.add(key)
            self._must_not.discard((mailbox, key))
            return self._sent[key]

    def body(self, key: str) -> bytes:
        """What was sent."""
        return self._sent[key]

    def promise(self, mailbox: str, key: str, flags: Iterable[str] | None = None) -> None:
        """The server has said that it is there."""
        with self._lock:
            self._must_not.discard((mailbox, key))
            self._must[mailbox, key] = None if flags is None else frozenset(flags)
            self.changes += 1

    def doubt(self, mailbox: str, key: str) -> None:
        """Something is about to happen to it."""
        with self._lock:
            self._must.pop((mailbox, key), None)
            self._must_not.discard((mailbox, key))

    def withdraw(self, mailbox: str, key: str) -> None:
        """The server has said that it is gone."""
        with self._lock:
            self._must.pop((mailbox, key), None)
            self._must_not.add((mailbox, key))
            self.changes += 1

    def judge(self, mail: Mapping[str, list[Found]]) -> Verdict:
        """Compare with everything that was found, by mailbox."""
        verdict = Verdict(len(self._must), sum(map(len, mail.values())))
        places: dict[tuple[str, str], list[Found]] = {}
        for mailbox, messages in mail.items():
            for found in messages:
                places.setdefault((mailbox, found.key), []).append(found)
        for place, copies in places.items():
            name = "/".join(place)
            if len(copies) > 1:
                verdict.doubled.add(name)
            if not all(self._is_whole(copy) for copy in copies):
                verdict.altered.add(name)
            if place in self._must_not:
                verdict.returned.add(name)
            wanted = self._must.get(place)
            if wanted is not None and any(copy.flags - SYSTEM != wanted for copy in copies):
                verdict.flags.add(name)
        verdict.lost = {"/".join(place) for place in self._must.keys() - places.keys()}
        return verdict

    def _is_whole(self, found: Found) -> bool:
        sent = self._sent.get(found.key)
        if sent is None or not found.body.endswith(sent):
            return False
        before = found.body[: len(found.body) - len(sent)]
        return bool(TRACE.fullmatch(before)) if found.key in self._delivered else not before


class Patience:
    """How long a client goes on trying."""

    def __init__(self, what: str, seconds: float = PATIENCE_S) -> None:
        self._what = what
        self._until_mono = time.monotonic() + seconds

    def pause(self) -> None:
        """Between two tries.

        Raises:
            StuckError: It took too long.
        """
        if time.monotonic() > self._until_mono:
            raise StuckError(self._what)
        time.sleep(PACE_S)  # between two looks at another process, which has no way to say that it is done


class Mta:
    """Sends by LMTP: the same message again until it is accepted.

    Attributes:
        refused: Tries that failed, in whatever way.
    """

    def __init__(self, ports: Mapping[str, int], user: str, books: Books) -> None:
        self._ports = ports
        self._user = user
        self._books = books
        self._connection: smtplib.LMTP | None = None
        self.refused = 0

    def deliver(self, key: str) -> None:
        """Until it is acknowledged."""
        body = self._books.send(key, delivered=True)
        patience = Patience(f"LMTP {key}")
        while not self._try(body):
            patience.pause()
        self._books.promise("INBOX", key)

    def _try(self, body: bytes) -> bool:
        try:
            if self._connection is None:
                self._connection = smtplib.LMTP("127.0.0.1", self._ports["lmtp"], timeout=ANSWER_S)
            self._connection.sendmail("ledger@example.org", [self._user], body)
        except TRANSIENT:
            self.refused += 1
            self.close()
            return False
        return True

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Client:
    """A mail client of one account.

    Attributes:
        refused: Commands that were answered NO, or whose connection ended.
    """

    def __init__(self, ports: Mapping[str, int], user: str, books: Books) -> None:
        self._ports = ports
        self._user = user
        self._books = books
        self._imap: imaplib.IMAP4 | None = None
        self._selected = ""
        self.refused = 0

    def until_done(
        self, what: str, mailbox: str, do: Callable[[imaplib.IMAP4], bool], is_done: Callable[[imaplib.IMAP4], bool]
    ) -> None:
        """Repeat until the server says that it is done, or it shows.

        Args:
            mailbox: Selected for both.
            do: True after OK, False after NO.
            is_done: Asked where an answer was lost.
        """
        patience = Patience(what)
        unknown = False
        while True:
            try:
                imap = self.connect(mailbox)
                if unknown and is_done(imap):
                    return
                unknown = True
                if do(imap):
                    return
                unknown = False
                self.refused += 1
            except TRANSIENT:
                self.refused += 1
                self.close()
            patience.pause()

    def connect(self, mailbox: str = "") -> imaplib.IMAP4:
        """Logged in, and with the mailbox selected."""
        if self._imap is None:
            imap = imaplib.IMAP4("127.0.0.1", self._ports["imap"], timeout=ANSWER_S)
            try:
                imap.login(self._user, PASSWORD)
            except TRANSIENT:
                imap.shutdown()
                raise
            self._imap, self._selected = imap, ""
        if mailbox and mailbox != self._selected:
            status, _ = self._imap.select(mailbox)
            if status != "OK":
                raise imaplib.IMAP4.error(f"SELECT {mailbox}: {status}")
            self._selected = mailbox
        return self._imap

    def close(self) -> None:
        """Hang up."""
        imap, self._imap, self._selected = self._imap, None, ""
        if imap is not None:
            with suppress(*TRANSIENT):
                imap.shutdown()

    # ------------------------------------------------------------------ what it does

    def create(self, mailbox: str) -> None:
        """Make a mailbox; one that is there already is as good."""

        def do(imap: imaplib.IMAP4) -> bool:
            status, (text,) = imap.create(mailbox)
            return status == "OK" or b"ALREADYEXISTS" in text

        self.until_done(f"CREATE {mailbox}", "", do, lambda _: False)

    def delete(self, mailbox: str, keys: Iterable[str]) -> None:
        """Delete a mailbox with all that is in it."""
        keys = list(keys)
        for key in keys:
            self._books.doubt(mailbox, key)

        def do(imap: imaplib.IMAP4) -> bool:
            status, (text,) = imap.delete(mailbox)
            return status == "OK" or b"NONEXISTENT" in text

        self.until_done(f"DELETE {mailbox}", "", do, lambda _: False)
        for key in keys:
            self._books.withdraw(mailbox, key)

    def append(self, key: str, mailbox: str = "INBOX", flags: str = "", date: str = "") -> None:
        """APPEND, until it is acknowledged or there."""
        body = self._books.send(key, mailbox)
        self._books.doubt(mailbox, key)

        def do(imap: imaplib.IMAP4) -> bool:
            return imap.append(mailbox, f"({flags})" if flags else "", date, body)[0] == "OK"

        self.until_done(f"APPEND {key}", mailbox, do, lambda imap: bool(self.uids(imap, key)))
        self._books.promise(mailbox, key, flags.split())

    def copy(self, keys: list[str], source: str, target: str, flags: str) -> None:
        """UID COPY of messages that are in `source`."""
        for key in keys:
            self._books.doubt(target, key)

        def do(imap: imaplib.IMAP4) -> bool:
            uids = [uid for key in keys for uid in self.uids(imap, key)]
            return self._answer(imap, "COPY", ",".join(uids), target)

        def is_done(imap: imaplib.IMAP4) -> bool:
            return self._are_in(imap, keys, target, source)

        self.until_done(f"COPY {keys}", source, do, is_done)
        for key in keys:
            self._books.promise(target, key, flags.split())

    def move(self, keys: list[str], source: str, target: str, flags: str) -> None:
        """UID MOVE of messages that are in `source`."""
        for key in keys:
            self._books.doubt(source, key)
            self._books.doubt(target, key)

        def do(imap: imaplib.IMAP4) -> bool:
            uids = [uid for key in keys for uid in self.uids(imap, key)]
            return not uids or self._answer(imap, "MOVE", ",".join(uids), target)

        self.until_done(f"MOVE {keys}", source, do, lambda imap: not any(self.uids(imap, key) for key in keys))
        for key in keys:
            self._books.withdraw(source, key)
            self._books.promise(target, key, flags.split())

    def expunge(self, keys: list[str], mailbox: str) -> None:
        """STORE of Deleted, UID EXPUNGE."""
        for key in keys:
            self._books.doubt(mailbox, key)

        def do(imap: imaplib.IMAP4) -> bool:
            uids = ",".join(uid for key in keys for uid in self.uids(imap, key))
            if not uids:
                return True
            return self._answer(imap, "STORE", uids, "+FLAGS.SILENT", "(\\Deleted)") and self._answer(
                imap, "EXPUNGE", uids
            )

        self.until_done(f"EXPUNGE {keys}", mailbox, do, lambda imap: not any(self.uids(imap, key) for key in keys))
        for key in keys:
            self._books.withdraw(mailbox, key)

    def flag(self, mailbox: str, times: int) -> None:
        """So many flag changes of the first message that leave it as it was."""
        for number in range(times):
            sign = "-+"[number % 2 == 0]

            def do(imap: imaplib.IMAP4, sign: str = sign) -> bool:
                return self._answer(imap, "STORE", "1:*", f"{sign}FLAGS.SILENT", "(Noise)")

            self.until_done("STORE", mailbox, do, lambda _: False)

    def try_read(self, key: str, body: bytes, mailbox: str = "INBOX") -> bool | None:
        """Read one message once: True if it is what it must be, False if not, None if it was refused."""
        try:
            imap = self.connect(mailbox)
            uids = self.uids(imap, key)
            status, data = imap.uid("FETCH", ",".join(uids), "(BODY.PEEK[])")
        except TRANSIENT:
            self.close()
            return None
        if status != "OK":
            self.refused += 1
            return None
        bodies = [part[1] for part in data if isinstance(part, tuple)]
        return [part.endswith(body) for part in bodies] == [True] * len(uids)

    # ------------------------------------------------------------------ what it sees

    def uids(self, imap: imaplib.IMAP4, key: str) -> list[str]:
        """Of the selected mailbox, as it is now."""
        status, (found,) = imap.uid("SEARCH", "HEADER", "X-Ledger", key)
        if status != "OK":
            raise imaplib.IMAP4.error(f"SEARCH: {status}")
        return [uid.decode() for uid in (found or b"").split()]

    def read_all(self) -> dict[str, list[Found]]:
        """Every message of every mailbox, by mailbox.

        Raises:
            One of `TRANSIENT`.
        """
        imap = self.connect()
        status, lines = imap.list()
        assert status == "OK"
        names = [line.decode().rpartition(" ")[2].strip('"') for line in lines if isinstance(line, bytes)]
        return {name: self._read(self.connect(name)) for name in names}

    def _read(self, imap: imaplib.IMAP4) -> list[Found]:
        status, data = imap.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[])")
        if status != "OK":
            raise imaplib.IMAP4.error(f"FETCH: {status}")
        found = []
        for place, part in enumerate(data):
            if not isinstance(part, tuple):
                continue
            # FLAGS may stand in front of the literal or behind it.
            after = data[place + 1] if place + 1 < len(data) and isinstance(data[place + 1], bytes) else b""
            flags = re.search(rb"FLAGS \(([^)]*)\)", part[0] + after)
            key = KEY.search(part[1])
            assert flags, part[0]
            found.append(
                Found(key[1].decode() if key else f"?{part[1][:40]!r}", frozenset(flags[1].decode().split()), part[1])
            )
        return found

    def _answer(self, imap: imaplib.IMAP4, *words: str) -> bool:
        return imap.uid(*words)[0] == "OK"

    def _are_in(self, imap: imaplib.IMAP4, keys: list[str], target: str, source: str) -> bool:
        target_view = self.connect(target)
        there = [bool(self.uids(target_view, key)) for key in keys]
        self.connect(source)
        if any(there) != all(there):
            raise StuckError(f"a part of {keys} was copied")
        return all(there)
