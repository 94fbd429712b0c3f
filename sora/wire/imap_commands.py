"""IMAP commands: one value and one parse function each, and the table of all.

A parse function takes the cursor behind the command's name, reads to the end of the command and raises BadSyntax
with a reason. FETCH and SEARCH have modules of their own.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from datetime import datetime

    from sora._native.seqset import SeqSet, UidSet


class NoArguments(Struct, frozen=True):
    """Base of the commands that take none."""


class Capability(NoArguments, frozen=True):
    """CAPABILITY (RFC 9051 §6.1.1)."""


class Noop(NoArguments, frozen=True):
    """NOOP (RFC 9051 §6.1.2)."""


class Logout(NoArguments, frozen=True):
    """LOGOUT (RFC 9051 §6.1.3)."""


class StartTls(NoArguments, frozen=True):
    """STARTTLS (RFC 9051 §6.2.1)."""


class Namespace(NoArguments, frozen=True):
    """NAMESPACE (RFC 9051 §6.3.10)."""


class Check(NoArguments, frozen=True):
    """CHECK (RFC 3501 §6.4.1)."""


class Close(NoArguments, frozen=True):
    """CLOSE (RFC 9051 §6.4.1)."""


class Unselect(NoArguments, frozen=True):
    """UNSELECT (RFC 9051 §6.4.2)."""


class Idle(NoArguments, frozen=True):
    """IDLE (RFC 9051 §6.3.13); DONE comes as a line of its own."""


class Authenticate(Struct, frozen=True):
    """AUTHENTICATE (RFC 9051 §6.2.2).

    Attributes:
        mechanism: upper case.
        initial: decoded initial response; None if there is none (RFC 4959).
    """

    mechanism: str
    initial: bytes | None = None

    def __repr__(self) -> str:
        return f"Authenticate(mechanism={self.mechanism!r}, initial=...)"


class Login(Struct, frozen=True):
    """LOGIN (RFC 9051 §6.2.3)."""

    login: str
    password: str

    def __repr__(self) -> str:
        return f"Login(login={self.login!r}, password=...)"


class Enable(Struct, frozen=True):
    """ENABLE (RFC 9051 §6.3.1); names in upper case."""

    capabilities: tuple[str, ...]


class Id(Struct, frozen=True):
    """ID (RFC 2971); None for ID NIL, field names in lower case."""

    fields: dict[str, str | None] | None


class QResync(Struct, frozen=True):
    """The QRESYNC parameter of SELECT (RFC 7162 §3.2.5).

    Attributes:
        known_uids: what the client has; None: everything below its UIDNEXT.
        match: known sequence numbers and their UIDs, pairwise, or None.
    """

    uidvalidity: int
    modseq: int
    known_uids: UidSet | None = None
    match: tuple[SeqSet, UidSet] | None = None


class Select(Struct, frozen=True):
    """SELECT (RFC 9051 §6.3.2) and EXAMINE (§6.3.3)."""

    mailbox: str
    read_only: bool = False
    condstore: bool = False
    qresync: QResync | None = None


class Create(Struct, frozen=True):
    """CREATE (RFC 9051 §6.3.4), with USE attributes such as rb"\\Sent" (RFC 6154 §3).

    Attributes:
        mailbox: without the delimiter that may have stood at its end.
    """

    mailbox: str
    special_use: tuple[bytes, ...] = ()


class Delete(Struct, frozen=True):
    """DELETE (RFC 9051 §6.3.5)."""

    mailbox: str


class Rename(Struct, frozen=True):
    """RENAME (RFC 9051 §6.3.6)."""

    source: str
    target: str


class Subscribe(Struct, frozen=True):
    """SUBSCRIBE (RFC 9051 §6.3.7)."""

    mailbox: str


class Unsubscribe(Struct, frozen=True):
    """UNSUBSCRIBE (RFC 9051 §6.3.8)."""

    mailbox: str


class List(Struct, frozen=True):
    """LIST (RFC 9051 §6.3.9, RFC 5258, RFC 5819, RFC 6154).

    Attributes:
        reference: decoded; usually empty.
        patterns: decoded, with `*` and `%`.
        select: of SUBSCRIBED REMOTE RECURSIVEMATCH SPECIAL-USE.
        returns: of SUBSCRIBED CHILDREN SPECIAL-USE MYRIGHTS.
        status: items of RETURN (STATUS (...)), or None.
        extended: selection options, several patterns or RETURN were given.
    """

    reference: str
    patterns: tuple[str, ...]
    select: frozenset[str] = frozenset()
    returns: frozenset[str] = frozenset()
    status: tuple[str, ...] | None = None
    extended: bool = False


class Lsub(Struct, frozen=True):
    """LSUB (RFC 3501 §6.3.9)."""

    reference: str
    pattern: str


class Status(Struct, frozen=True):
    """STATUS (RFC 9051 §6.3.11).

    Attributes:
        items: of MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN DELETED SIZE HIGHESTMODSEQ MAILBOXID APPENDLIMIT,
            each once, in the order asked.
    """

    mailbox: str
    items: tuple[str, ...]


class AppendItem(Struct, frozen=True):
    """One message of APPEND.

    Attributes:
        internal_date: aware, or None for now.
        size: octets announced.
        binary: sent as literal8 (RFC 3516): NUL allowed.
        utf8: sent as `UTF8 (~{n}...)` (RFC 6855 §4).
        data: None if the literal is streamed or not read yet.
    """

    flags: tuple[bytes, ...]
    internal_date: datetime | None
    size: int
    binary: bool = False
    utf8: bool = False
    data: bytes | None = None


class Append(Struct, frozen=True):
    """APPEND (RFC 9051 §6.3.12), one message or several (RFC 3502)."""

    mailbox: str
    items: tuple[AppendItem, ...]


class Expunge(Struct, frozen=True):
    """EXPUNGE (RFC 9051 §6.4.3), and UID EXPUNGE (§6.4.9) with *uids*."""

    uids: UidSet | None = None


class StoreMode(enum.Enum):
    """What STORE does with its flags."""

    REPLACE = b""
    ADD = b"+"
    REMOVE = b"-"


class Store(Struct, frozen=True):
    """STORE and UID STORE (RFC 9051 §6.4.6).

    Attributes:
        unchanged_since: modseq, 0 is a value of its own; None if not given (RFC 7162 §3.1.3).
    """

    messages: SeqSet | UidSet
    mode: StoreMode
    flags: tuple[bytes, ...]
    silent: bool = False
    unchanged_since: int | None = None


class Copy(Struct, frozen=True):
    """COPY and UID COPY (RFC 9051 §6.4.7)."""

    messages: SeqSet | UidSet
    mailbox: str


class Move(Struct, frozen=True):
    """MOVE and UID MOVE (RFC 9051 §6.4.8)."""

    messages: SeqSet | UidSet
    mailbox: str
