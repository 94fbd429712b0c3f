"""IMAP commands: one value and one parse function each, and the table of all.

A parse function takes the cursor behind the command's name, reads to the end of the command and raises BadSyntax
with a reason. FETCH, SEARCH, LIST with LSUB and STATUS, and the quota commands have modules of their own.
"""

from __future__ import annotations

import enum
from base64 import b64decode
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from sora.errors import BadSyntax
from sora.wire.imap_acl import parse_deleteacl, parse_getacl, parse_listrights, parse_myrights, parse_setacl
from sora.wire.imap_append import parse_append, parse_replace
from sora.wire.imap_contexts import parse_cancelupdate, parse_uidbatches
from sora.wire.imap_fetch import parse_fetch
from sora.wire.imap_list import parse_list, parse_lsub, parse_status
from sora.wire.imap_metadata import parse_getmetadata, parse_setmetadata
from sora.wire.imap_multisearch import parse_esearch
from sora.wire.imap_quota import parse_getquota, parse_getquotaroot, parse_setquota
from sora.wire.imap_search import parse_search
from sora.wire.imap_sort import parse_sort, parse_thread
from sora.wire.imap_syntax import parenthesised, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora._native.imapscan import Cursor
    from sora._native.seqset import SeqSet, UidSet


V = TypeVar("V")


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


class Unauthenticate(NoArguments, frozen=True):
    """UNAUTHENTICATE (RFC 8437 §3)."""


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


class Compress(Struct, frozen=True):
    """COMPRESS (RFC 4978 §3); the algorithm in upper case."""

    algorithm: str


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


def _plain(value: V) -> Callable[[Cursor], V]:
    """The parse function of a command without arguments."""
    return whole(lambda _cur: value)


parse_capability: Final = _plain(Capability())
parse_noop: Final = _plain(Noop())
parse_logout: Final = _plain(Logout())
parse_starttls: Final = _plain(StartTls())
parse_namespace: Final = _plain(Namespace())
parse_check: Final = _plain(Check())
parse_close: Final = _plain(Close())
parse_unselect: Final = _plain(Unselect())
parse_idle: Final = _plain(Idle())
parse_unauthenticate: Final = _plain(Unauthenticate())


# --- before login ---


@whole
def parse_authenticate(cur: Cursor) -> Authenticate:
    """`SP auth-type [SP (base64 / "=")]`."""
    mechanism = cur.sp().keyword().decode()
    if cur.at_end():
        return Authenticate(mechanism)
    encoded = cur.sp().atom()
    try:
        return Authenticate(mechanism, b"" if encoded == b"=" else b64decode(encoded, validate=True))
    except ValueError as e:
        raise BadSyntax("The initial response is not base64") from e


@whole
def parse_login(cur: Cursor) -> Login:
    """`SP userid SP password`."""
    return Login(cur.sp().text(), cur.sp().text())


@whole
def parse_enable(cur: Cursor) -> Enable:
    """`1*(SP capability)`."""
    names = [cur.sp().keyword().decode()]
    while not cur.at_end():
        names.append(cur.sp().keyword().decode())
    return Enable(tuple(names))


@whole
def parse_compress(cur: Cursor) -> Compress:
    """`SP algorithm`."""
    return Compress(cur.sp().keyword().decode())


@whole
def parse_id(cur: Cursor) -> Id:
    """`SP (nil / "(" [string SP nstring *(SP string SP nstring)] ")")`."""

    def pair(cur: Cursor) -> tuple[str, str | None]:
        field = cur.string()
        value = cur.sp().nstring()
        return field.decode("utf-8", "replace").lower(), None if value is None else value.decode("utf-8", "replace")

    if cur.sp().skip(b"NIL"):
        return Id(None)
    return Id(dict(parenthesised(cur, pair, empty=True)))


# --- mailboxes ---


def _known(numbers: V) -> V:
    if getattr(numbers, "has_star", False) or getattr(numbers, "is_saved", False):
        raise BadSyntax("This set must consist of numbers")
    return numbers


def _parse_qresync(cur: Cursor) -> QResync:
    """`"(" uidvalidity SP mod-sequence-value [SP known-uids] [SP seq-match-data] ")"` (RFC 7162 §7)."""
    uidvalidity = cur.expect(b"(").nz_number()
    modseq = cur.sp().number64()
    uids: UidSet | None = None
    match: tuple[SeqSet, UidSet] | None = None
    if cur.skip(b" "):
        if cur.peek() != ord("("):
            uids = _known(cur.uidset())
        if cur.skip(b" (") if uids is not None else cur.skip(b"("):
            match = _known(cur.seqset()), _known(cur.sp().uidset())
            cur.expect(b")")
            if len(match[0]) != len(match[1]):
                raise BadSyntax("The sets of known messages are not of the same length")
    cur.expect(b")")
    return QResync(uidvalidity, modseq, uids, match)


def _parse_select(cur: Cursor, read_only: bool) -> Select:
    """`SP mailbox [SP "(" select-param *(SP select-param) ")"]`."""
    mailbox = cur.sp().mailbox()
    parameters: dict[bytes, Any] = {}

    def parse_parameter(cur: Cursor) -> None:
        name = cur.keyword()
        if name not in (b"CONDSTORE", b"QRESYNC") or name in parameters:
            raise BadSyntax("There is no such parameter of SELECT, or it comes twice")
        parameters[name] = _parse_qresync(cur.sp()) if name == b"QRESYNC" else True

    if cur.skip(b" "):
        parenthesised(cur, parse_parameter)
    return Select(mailbox, read_only, b"CONDSTORE" in parameters, parameters.get(b"QRESYNC"))


@whole
def parse_select(cur: Cursor) -> Select:
    """SELECT."""
    return _parse_select(cur, read_only=False)


@whole
def parse_examine(cur: Cursor) -> Select:
    """EXAMINE."""
    return _parse_select(cur, read_only=True)


@whole
def parse_create(cur: Cursor) -> Create:
    """`SP mailbox [SP "(USE (" [use-attr *(SP use-attr)] "))"]` (RFC 6154 §6)."""

    def use_attribute(cur: Cursor) -> bytes:
        return b"\\" + cur.expect(b"\\").atom()

    mailbox = cur.sp().mailbox()
    if len(mailbox) > 1:
        mailbox = mailbox.removesuffix("/")
    uses: list[bytes] = []
    if cur.skip(b" (USE "):
        uses = parenthesised(cur, use_attribute, empty=True)
        cur.expect(b")")
    return Create(mailbox, tuple(uses))


@whole
def parse_delete(cur: Cursor) -> Delete:
    """`SP mailbox`."""
    return Delete(cur.sp().mailbox())


@whole
def parse_rename(cur: Cursor) -> Rename:
    """`SP mailbox SP mailbox`."""
    return Rename(cur.sp().mailbox(), cur.sp().mailbox())


@whole
def parse_subscribe(cur: Cursor) -> Subscribe:
    """`SP mailbox`."""
    return Subscribe(cur.sp().mailbox())


@whole
def parse_unsubscribe(cur: Cursor) -> Unsubscribe:
    """`SP mailbox`."""
    return Unsubscribe(cur.sp().mailbox())


# --- messages ---


@whole
def parse_expunge(cur: Cursor) -> Expunge:
    """Nothing; after UID: `SP sequence-set`."""
    return Expunge(cur.sp().uidset()) if cur.uid else Expunge()


@whole
def parse_store(cur: Cursor) -> Store:
    """`SP sequence-set [SP "(UNCHANGEDSINCE" SP modseq ")"] SP ["+" / "-"] "FLAGS" [".SILENT"] SP flags`."""
    messages = cur.sp().numset()
    unchanged_since: int | None = None
    if cur.sp().skip(b"(UNCHANGEDSINCE "):
        unchanged_since = cur.number64()
        cur.expect(b")").sp()
    mode = StoreMode.ADD if cur.skip(b"+") else StoreMode.REMOVE if cur.skip(b"-") else StoreMode.REPLACE
    cur.expect(b"FLAGS")
    silent = cur.skip(b".SILENT")
    flags = cur.flags() if cur.sp().peek() == ord("(") else cur.bare_flags()
    return Store(messages, mode, flags, silent, unchanged_since)


@whole
def parse_copy(cur: Cursor) -> Copy:
    """`SP sequence-set SP mailbox`."""
    return Copy(cur.sp().numset(), cur.sp().mailbox())


@whole
def parse_move(cur: Cursor) -> Move:
    """`SP sequence-set SP mailbox` (RFC 6851 §5)."""
    return Move(cur.sp().numset(), cur.sp().mailbox())


_BOTH: Final[dict[bytes, Callable[[Cursor], Any]]] = {
    b"EXPUNGE": parse_expunge,
    b"SEARCH": parse_search,
    b"SORT": parse_sort,
    b"THREAD": parse_thread,
    b"FETCH": parse_fetch,
    b"STORE": parse_store,
    b"COPY": parse_copy,
    b"MOVE": parse_move,
    b"REPLACE": parse_replace,
}

PARSERS: Final[dict[bytes, Callable[[Cursor], Any]]] = (
    {
        b"CAPABILITY": parse_capability,
        b"NOOP": parse_noop,
        b"LOGOUT": parse_logout,
        b"STARTTLS": parse_starttls,
        b"AUTHENTICATE": parse_authenticate,
        b"LOGIN": parse_login,
        b"ENABLE": parse_enable,
        b"ID": parse_id,
        b"COMPRESS": parse_compress,
        b"GETQUOTA": parse_getquota,
        b"GETQUOTAROOT": parse_getquotaroot,
        b"SETQUOTA": parse_setquota,
        b"GETMETADATA": parse_getmetadata,
        b"SETMETADATA": parse_setmetadata,
        b"SETACL": parse_setacl,
        b"DELETEACL": parse_deleteacl,
        b"GETACL": parse_getacl,
        b"LISTRIGHTS": parse_listrights,
        b"MYRIGHTS": parse_myrights,
        b"SELECT": parse_select,
        b"EXAMINE": parse_examine,
        b"CREATE": parse_create,
        b"DELETE": parse_delete,
        b"RENAME": parse_rename,
        b"SUBSCRIBE": parse_subscribe,
        b"UNSUBSCRIBE": parse_unsubscribe,
        b"LIST": parse_list,
        b"LSUB": parse_lsub,
        b"NAMESPACE": parse_namespace,
        b"STATUS": parse_status,
        b"APPEND": parse_append,
        b"ESEARCH": parse_esearch,
        b"CANCELUPDATE": parse_cancelupdate,
        b"UIDBATCHES": parse_uidbatches,
        b"CHECK": parse_check,
        b"CLOSE": parse_close,
        b"UNSELECT": parse_unselect,
        b"IDLE": parse_idle,
        b"UNAUTHENTICATE": parse_unauthenticate,
    }
    | _BOTH
    | {b"UID " + name: parse for name, parse in _BOTH.items()}
)
"""Parse function of every command, by the name that the scanner gives it."""
