"""LIST, LSUB and STATUS: values and parse functions, as in `imap_commands` (RFC 9051 §6.3.9, §6.3.11).

LIST may ask for the STATUS of what it lists (RFC 5819), so both read the same items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax
from sora.wire.imap_metadata import Asked, parse_asked
from sora.wire.imap_syntax import parenthesised, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora._native.imapscan import Cursor


class List(Struct, frozen=True):
    """LIST (RFC 9051 §6.3.9, RFC 5258, RFC 5819, RFC 6154).

    Attributes:
        reference: decoded; usually empty.
        patterns: decoded, with `*` and `%`.
        select: of SUBSCRIBED REMOTE RECURSIVEMATCH SPECIAL-USE.
        returns: of SUBSCRIBED CHILDREN SPECIAL-USE MYRIGHTS.
        status: items of RETURN (STATUS (...)), or None.
        metadata: entries of RETURN (METADATA (...)), or None (RFC 9590).
        extended: selection options, several patterns or RETURN were given.
    """

    reference: str
    patterns: tuple[str, ...]
    select: frozenset[str] = frozenset()
    returns: frozenset[str] = frozenset()
    status: tuple[str, ...] | None = None
    extended: bool = False
    metadata: Asked | None = None


class Lsub(Struct, frozen=True):
    """LSUB (RFC 3501 §6.3.9)."""

    reference: str
    pattern: str


class Status(Struct, frozen=True):
    """STATUS (RFC 9051 §6.3.11).

    Attributes:
        items: of MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN DELETED DELETED-STORAGE SIZE HIGHESTMODSEQ MAILBOXID
            APPENDLIMIT, each once, in the order asked.
    """

    mailbox: str
    items: tuple[str, ...]


_SELECT_OPTIONS: Final = frozenset({"SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"})
_RETURN_OPTIONS: Final = frozenset({"SUBSCRIBED", "CHILDREN", "SPECIAL-USE", "MYRIGHTS", "STATUS", "METADATA"})
_STATUS_ITEMS: Final = frozenset(
    (
        "MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN DELETED DELETED-STORAGE SIZE HIGHESTMODSEQ MAILBOXID APPENDLIMIT"
    ).split()
)


def _one_of(names: frozenset[str], what: str) -> Callable[[Cursor], str]:
    def parse_one(cur: Cursor) -> str:
        name = cur.keyword().decode()
        if name not in names:
            raise BadSyntax(f"There is no such {what}")
        return name

    return parse_one


_parse_select_option = _one_of(_SELECT_OPTIONS, "selection option of LIST")
_parse_return_option = _one_of(_RETURN_OPTIONS, "return option of LIST")
_parse_status_item = _one_of(_STATUS_ITEMS, "STATUS item")


def _parse_status_items(cur: Cursor) -> tuple[str, ...]:
    return tuple(dict.fromkeys(parenthesised(cur, _parse_status_item)))


@whole
def parse_list(cur: Cursor) -> List:
    """`SP [list-select-opts SP] mailbox SP mbox-or-pat [SP "RETURN" SP list-return-opts]` (RFC 5258 §6)."""
    extended = cur.sp().peek() == ord("(")
    select = frozenset(parenthesised(cur, _parse_select_option, empty=True)) if extended else frozenset()
    if "RECURSIVEMATCH" in select and not select & {"SUBSCRIBED", "SPECIAL-USE"}:
        raise BadSyntax("RECURSIVEMATCH needs another selection option")
    reference = (cur.sp() if extended else cur).mailbox()
    if cur.sp().peek() == ord("("):
        extended = True
        patterns = tuple(parenthesised(cur, lambda cur: cur.list_mailbox()))
    else:
        patterns = (cur.list_mailbox(),)
    if not cur.skip(b" RETURN "):
        return List(reference, patterns, select, extended=extended)
    returns, status, metadata = _parse_list_returns(cur)
    return List(reference, patterns, select, returns, status, extended=True, metadata=metadata)


def _parse_list_returns(cur: Cursor) -> tuple[frozenset[str], tuple[str, ...] | None, Asked | None]:
    """`"(" [return-option *(SP return-option)] ")"`, with lists of STATUS (RFC 5819) and METADATA (RFC 9590)."""
    status: tuple[str, ...] | None = None
    metadata: Asked | None = None

    def parse_one(cur: Cursor) -> str:
        nonlocal status, metadata
        name = _parse_return_option(cur)
        if name == "STATUS":
            status = _parse_status_items(cur.sp())
        elif name == "METADATA":
            metadata = parse_asked(cur)
        return name

    names = frozenset(parenthesised(cur, parse_one, empty=True))
    return names - {"STATUS", "METADATA"}, status, metadata


@whole
def parse_lsub(cur: Cursor) -> Lsub:
    """`SP mailbox SP list-mailbox`."""
    return Lsub(cur.sp().mailbox(), cur.sp().list_mailbox())


@whole
def parse_status(cur: Cursor) -> Status:
    """`SP mailbox SP "(" status-att *(SP status-att) ")"`."""
    return Status(cur.sp().mailbox(), _parse_status_items(cur.sp()))
