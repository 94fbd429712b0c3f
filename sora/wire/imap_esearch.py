"""ESEARCH responses: what SEARCH, SORT and ESEARCH answer with RETURN options (RFC 4731, 5267, 6203, 7377, 9394).

Results come as a set, in mailbox order, or as a list in the order of SORT. Both are written as a sequence-set; of a
list only neighbours that ascend by one become a range, so that expanding the ranges gives the list again (RFC 5267
§3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from sora._native.seqset import NumSet
from sora.wire import imap_partial
from sora.wire.imap_responses import mailbox as mailbox_name
from sora.wire.imap_syntax import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Results: TypeAlias = "NumSet | Sequence[int]"


class Place(Struct, frozen=True):
    """The mailbox that an ESEARCH response is about (RFC 7377 §2.1)."""

    mailbox: str
    uidvalidity: int


def esearch_line(
    tag: bytes,
    found: Results,
    returns: Iterable[str],
    *,
    uid: bool,
    partial: tuple[int, int] | None = None,
    modseq: int | None = None,
    scores: Sequence[int] | None = None,
    place: Place | None = None,
    utf8: bool = False,
) -> bytes:
    """What was asked for and nothing else; MIN, MAX and ALL of nothing are left out.

    Args:
        returns: of MIN MAX COUNT ALL PARTIAL; the other options ask for no data of their own.
        partial: the range of PARTIAL (RFC 9394 §3.1).
        scores: RELEVANCY of the messages that the response names, in its order (RFC 6203 §4).
        utf8: mailbox names are UTF-8.
    """
    asked = frozenset(returns)
    words = [_head(tag, uid, place, utf8)]
    if found:
        words += [b"MIN %d" % first(found)] if "MIN" in asked else []
        words += [b"MAX %d" % last(found)] if "MAX" in asked else []
        words += [b"ALL " + set_text(found)] if "ALL" in asked else []
    if "COUNT" in asked:
        words.append(b"COUNT %d" % len(found))
    if partial is not None:
        words.append(b"PARTIAL (%d:%d %s)" % (*partial, set_text(page(found, partial)) or b"NIL"))
    if scores is not None:
        words.append(b"RELEVANCY (%s)" % b" ".join([b"%d" % score for score in scores]))
    if modseq is not None and found:
        words.append(b"MODSEQ %d" % modseq)
    return b" ".join(words) + b"\r\n"


def update_line(
    tag: bytes,
    what: bytes,
    changes: Iterable[tuple[int, Results]],
    *,
    uid: bool,
    place: Place | None = None,
    utf8: bool = False,
) -> bytes:
    """ADDTO or REMOVEFROM (RFC 5267 §4.3.3, §4.3.4).

    Args:
        what: b"ADDTO" or b"REMOVEFROM".
        changes: context position and results, in the order in which the client must apply them; position 0: wherever
            mailbox order puts them.
    """
    pairs = b" ".join([b"%d %s" % (position, set_text(numbers)) for position, numbers in changes])
    return b"%s %s (%s)\r\n" % (_head(tag, uid, place, utf8), what, pairs)


def _head(tag: bytes, uid: bool, place: Place | None, utf8: bool) -> bytes:
    where = b""
    if place is not None:
        where = b" MAILBOX %s UIDVALIDITY %d" % (mailbox_name(place.mailbox, utf8=utf8), place.uidvalidity)
    return b"* ESEARCH (TAG %s%s)%s" % (quoted(tag), where, b" UID" if uid else b"")


def first(found: Results) -> int:
    """The lowest result, in the order of the results."""
    return found.first if isinstance(found, NumSet) else found[0]


def last(found: Results) -> int:
    """The highest result, in the order of the results."""
    return found.last if isinstance(found, NumSet) else found[-1]


def page(found: Results, partial: tuple[int, int]) -> Results:
    """Those at the positions of *partial*, both ends included; negative ones count from the end (RFC 9394 §3.1)."""
    if isinstance(found, NumSet):
        return imap_partial.page(found, partial)
    low, high = imap_partial.positions(partial, len(found))
    return found[low - 1 : max(high, low - 1)]


def set_text(found: Results) -> bytes:
    """A sequence-set; empty for no results."""
    if isinstance(found, NumSet):
        return bytes(found)
    runs: list[list[int]] = []
    for number in found:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return b",".join([b"%d" % low if low == high else b"%d:%d" % (low, high) for low, high in runs])


def as_list(found: Results) -> Sequence[int]:
    """The results one by one, in their order."""
    return list(found) if isinstance(found, NumSet) else found
