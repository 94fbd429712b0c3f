"""One of the two servers, as the comparison sees it: scripts go in, mail goes in, mailboxes come out."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct

from tests.oracle.client import Client, fetched, parse
from tests.oracle.filters.talks import Lmtp, ManageSieve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.oracle.filters.mail import Letter
    from tests.oracle.filters.scripts import Case

MAILBOXES: Final = (b"Work", b"Lists", b"Lists/Sieve", b"&AMk-t&AOk-")
"""That everybody has besides INBOX and those with a special use; the last one is `Été`."""
ANNOTATION: Final = b'SETMETADATA INBOX (/private/comment "about the inbox")'
SPARE: Final = "user1"
"""Second recipient of mail that has two; has no script."""

LANES: Final = 4
"""Accounts that are served at the same time."""
LOST: Final = "lost"
"""Stands for a reply that did not come."""


class Stored(Struct, frozen=True):
    """A message in a mailbox.

    Attributes:
        flags: In lower case, without `\\Recent`.
    """

    mailbox: str
    flags: frozenset[str]
    data: bytes


class Side:
    """A server with accounts `LOCAL@example.com`.

    Args:
        ports: Of `imap`, `lmtp` and `managesieve`.
        logins: Pattern of the name to log in with.
    """

    def __init__(self, ports: Mapping[str, int], logins: str, password: str) -> None:
        self._ports = ports
        self._logins = logins
        self._password = password
        self._lmtps: SimpleQueue[Lmtp] = SimpleQueue()
        for _ in range(LANES):
            self._lmtps.put(Lmtp(ports["lmtp"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while not self._lmtps.empty():
            self._lmtps.get().__exit__()

    def prepare(self, local: str) -> None:
        """Make the mailboxes of an account."""
        with self._imap(local) as imap:
            for mailbox in MAILBOXES:
                imap.ok(b'CREATE "%b"' % mailbox)
            imap.ok(ANNOTATION)

    def put(self, local: str, case: Case) -> str:
        """Store a script and make it the active one; why it was refused, or nothing."""
        with ManageSieve(self._ports["managesieve"], self._logins % local, self._password) as sieve:
            for name, text in case.others(local):
                if refusal := sieve.put(name, text):
                    return f"{name}: {refusal}"
            if refusal := sieve.put("main", case.text(local)):
                return refusal
            status, text = sieve.ask(b'SETACTIVE "main"')
            return "" if status == b"OK" else f"not active: {text}"

    def deliver(self, local: str, letter: Letter) -> str:
        """Deliver to an account: the reply; `LOST` if the server ended the connection instead."""
        address = f"{local}@example.com"
        recipient = f"{local}+{letter.detail}@example.com" if letter.detail else address
        sender = letter.sender.replace("me@example.com", address)
        recipients = [recipient, f"{SPARE}@example.com"] if letter.besides else [recipient]
        lmtp = self._lmtps.get()
        try:
            return lmtp.deliver(sender, recipients, letter.to(address), letter.parameters)[0]
        except ConnectionResetError:
            lmtp.__exit__()
            lmtp = Lmtp(self._ports["lmtp"])
            return LOST
        finally:
            self._lmtps.put(lmtp)

    def read(self, local: str) -> tuple[list[Stored], frozenset[str]]:
        """Everything that is stored, and the names of all mailboxes."""
        with self._imap(local) as imap:
            names = [_listed(line) for line in imap.ok(b'LIST "" "*"') if b"\\noselect" not in line.lower()]
            stored = []
            for name in names:
                imap.select(b'"%b"' % name)
                for line in imap.ok(b"FETCH 1:* (FLAGS BODY.PEEK[])") if self._filled(imap, name) else ():
                    row = fetched(line)
                    if row is not None:
                        stored.append(_stored(name, row[1]))
            return stored, frozenset(_decoded(name) for name in names)

    @staticmethod
    def _filled(imap: Client, name: bytes) -> bool:
        return b"MESSAGES 0)" not in imap.ok(b'STATUS "%b" (MESSAGES)' % name)[0]

    def settle(self) -> None:
        """Until all that scripts send has been sent: when Pigeonhole replies, it has."""

    def _imap(self, local: str) -> Client:
        return Client(self._ports["imap"], self._logins % local, self._password)


def _listed(line: bytes) -> bytes:
    """The name in a LIST response."""
    flags, _, rest = line.removeprefix(b"* LIST ").partition(b") ")
    assert flags.startswith(b"("), line
    values = parse(b"(" + rest + b")")
    assert isinstance(values, list)
    assert isinstance(values[1], bytes)
    return values[1]


def _stored(name: bytes, items: Mapping[bytes, object]) -> Stored:
    flags, data = items[b"FLAGS"], items[b"BODY[]"]
    assert isinstance(flags, list)
    assert isinstance(data, bytes)
    words = frozenset(flag.decode().lower() for flag in flags) - {"\\recent"}
    return Stored(_decoded(name), words, data)


def _decoded(name: bytes) -> str:
    """From modified UTF-7 (RFC 3501 §5.1.3), in the little that these names need of it."""
    text = name.decode("ascii")
    pieces = text.split("&")
    out = pieces[0]
    for piece in pieces[1:]:
        code, _, rest = piece.partition("-")
        out += (f"+{code.replace(',', '/')}-".encode().decode("utf-7") if code else "&") + rest
    return out
