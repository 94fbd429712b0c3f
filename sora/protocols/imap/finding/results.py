"""What SEARCH and SORT found: how it is answered, and what of it `$` remembers (RFC 4731, 5182, 9394).

The results are UIDs throughout, because nothing that happens to a mailbox changes those. Sequence numbers are made of
them when something is written, from what the client has been told at that moment; so a message that was expunged leaves
`$` by itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora.errors import SoraError
from sora.protocols.imap.finding.contexts import Contexts, as_set, numbers_of
from sora.protocols.imap.finding.fuzzy import Scores
from sora.protocols.imap.replies import BAD, reply_to
from sora.protocols.imap.views.selection import NO_UIDS
from sora.wire import imap_esearch as wire

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sora.protocols.imap.session import Session

DATA: Final = frozenset({"MIN", "MAX", "ALL", "COUNT", "PARTIAL"})
"""Return options that name messages or count them."""


class Results:
    """What one session remembers of its searches in the selected mailbox.

    Attributes:
        saved: `$`; messages that are gone may still be in it.
        contexts: Results that are kept up to date.
        scores: Relevancy of what the search in hand has found.
    """

    __slots__ = ("contexts", "saved", "scores")

    def __init__(self) -> None:
        self.saved: UidSet = NO_UIDS
        self.contexts = Contexts()
        self.scores = Scores()


@contextmanager
def saving(s: Session, returns: Collection[str] | None) -> Iterator[None]:
    """A search with SAVE that ends in NO empties `$`; one that ends in BAD leaves it (RFC 5182 §2.1)."""
    try:
        yield
    except Exception as error:
        refused = not isinstance(error, SoraError) or reply_to(error).status is not BAD
        if refused and returns is not None and "SAVE" in returns:
            s.results.saved = NO_UIDS
        raise


def answer(
    s: Session,
    found: UidSet | Sequence[int],
    returns: frozenset[str],
    *,
    uid: bool,
    partial: tuple[int, int] | None = None,
    modseq: int | None = None,
    place: wire.Place | None = None,
) -> None:
    """Write the ESEARCH response, and remember what SAVE asks for.

    Args:
        found: UIDs, as a set for SEARCH, in their order for SORT.
        place: The mailbox, where the response must name it.
    """
    save(s, found, returns, partial)
    if returns == {"SAVE"}:  # RFC 5182 §1: nothing else was asked, so nothing is said
        return
    numbers = found if uid else numbers_of(s, found)
    scores = None
    if "RELEVANCY" in returns:
        scores = s.results.scores.of(found if partial is None else wire.page(found, partial))
    s.write(
        wire.esearch_line(
            s.tag, numbers, returns, uid=uid, partial=partial, modseq=modseq, scores=scores, place=place, utf8=s.utf8
        )
    )


def save(s: Session, found: UidSet | Sequence[int], returns: Collection[str], partial: tuple[int, int] | None) -> None:
    """Remember what SAVE asks for."""
    if "SAVE" in returns:
        s.results.saved = to_save(found, returns, partial)


def to_save(found: UidSet | Sequence[int], returns: Collection[str], partial: tuple[int, int] | None) -> UidSet:
    """The messages that `$` stands for after SAVE (RFC 5182 §2.4, RFC 9394 §3.2).

    ALL and COUNT, or none of the options, save all; else MIN, MAX and PARTIAL each save what they return.
    """
    asked = DATA.intersection(returns)
    if not asked or not asked.isdisjoint({"ALL", "COUNT"}) or not found:
        return as_set(found)
    saved = as_set(wire.page(found, partial)) if partial is not None else NO_UIDS
    if "MIN" in asked:
        saved |= UidSet.from_numbers([wire.first(found)])
    if "MAX" in asked:
        saved |= UidSet.from_numbers([wire.last(found)])
    return saved
