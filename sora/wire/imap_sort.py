"""SORT and THREAD: their grammar (RFC 5256 §5, RFC 5267 §5, RFC 5957 §5)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax
from sora.wire.imap_search import Search, parse_criteria, parse_returns
from sora.wire.imap_syntax import parenthesised, whole

if TYPE_CHECKING:
    from sora._native.imapscan import Cursor

MAX_CRITERIA: Final = 32
"""More than there are, each of them in both directions."""


class SortKey(enum.Enum):
    """What messages are sorted by."""

    ARRIVAL = "arrival"
    CC = "cc"
    DATE = "date"
    DISPLAYFROM = "displayfrom"
    DISPLAYTO = "displayto"
    FROM = "from"
    RELEVANCY = "relevancy"
    SIZE = "size"
    SUBJECT = "subject"
    TO = "to"


class Algorithm(enum.Enum):
    """How messages become threads."""

    ORDEREDSUBJECT = "orderedsubject"
    REFERENCES = "references"
    REFS = "refs"


class Criterion(Struct, frozen=True):
    """One sort criterion; *reverse*: descending."""

    key: SortKey
    reverse: bool = False


class Sort(Struct, frozen=True):
    """SORT and UID SORT.

    Attributes:
        criteria: The most significant one first.
        search: Which messages.
    """

    criteria: tuple[Criterion, ...]
    search: Search


class Thread(Struct, frozen=True):
    """THREAD and UID THREAD."""

    algorithm: Algorithm
    search: Search


@whole
def parse_sort(cur: Cursor) -> Sort:
    """`[SP "RETURN" SP "(" ... ")"] SP sort-criteria SP charset 1*(SP search-key)` (RFC 5267 §5)."""
    returns, partial = parse_returns(cur) if cur.skip(b" RETURN ") else (None, None)
    criteria = tuple(parenthesised(cur.sp(), _parse_criterion))
    if len(criteria) > MAX_CRITERIA:
        raise BadSyntax("These are more sort criteria than there are")
    search = _parse_search(cur, returns, partial)
    scored = search.has_fuzzy or search.has_filter
    if not scored and any(criterion.key is SortKey.RELEVANCY for criterion in criteria):
        raise BadSyntax("RELEVANCY goes with FUZZY only")
    return Sort(criteria, search)


@whole
def parse_thread(cur: Cursor) -> Thread:
    """`SP thread-alg SP charset 1*(SP search-key)`."""
    name = cur.sp().keyword().decode()
    if name not in Algorithm.__members__:
        raise BadSyntax("There is no such threading algorithm")
    return Thread(Algorithm[name], _parse_search(cur))


def _parse_criterion(cur: Cursor) -> Criterion:
    """`["REVERSE" SP] sort-key`."""
    name = cur.keyword().decode()
    reverse = name == "REVERSE"
    if reverse:
        name = cur.sp().keyword().decode()
    if name not in SortKey.__members__:
        raise BadSyntax("There is no such sort key")
    return Criterion(SortKey[name], reverse)


def _parse_search(cur: Cursor, returns: frozenset[str] | None = None, partial: tuple[int, int] | None = None) -> Search:
    """The charset is not optional here."""
    charset = cur.sp().astring().decode("ascii", "replace").upper()
    cur.sp()
    return parse_criteria(cur, charset, returns, partial)
