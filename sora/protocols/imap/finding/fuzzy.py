"""FUZZY (RFC 6203): messages that match, and those that nearly do, with a score of 1 to 100.

What matches exactly has 100. Texts that have similar words have less, the less the less they are alike. Flags, dates,
sizes and numbers match exactly or not at all, which §5 leaves to the server. A message's score is the mean of what the
FUZZY keys gave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora.mime.text import fold
from sora.protocols.imap.messagelimit import highest
from sora.wire import imap_search as keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from sora.protocols.imap.session import Session
    from sora.wire.imap_search import SearchKey

    Match = Callable[[Session, SearchKey, UidSet], Awaitable[UidSet]]

EXACT: Final = 100
LEAST: Final = 0.4
"""Likeness from which on a text is near: helo is 0.57 of hello and 0.43 of help."""
COMPARED: Final = 5000
"""Messages whose headers one key compares, the newest of those that do not match: 5,000 headers take 0.2 s."""
COMPARED_BODIES: Final = 1000
"""The same for BODY and TEXT: 1,000 bodies take 0.8 s."""
WORDS: Final = 16
"""Words of one text that are compared."""


class Scores:
    """Relevancy of messages, as the FUZZY keys of one search gave it."""

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: dict[int, tuple[int, int]] = {}

    def give(self, uids: Iterable[int], score: int) -> None:
        """One key gives a score to messages."""
        for uid in uids:
            total, count = self._given.get(uid, (0, 0))
            self._given[uid] = total + score, count + 1

    def of(self, uids: Iterable[int]) -> list[int]:
        """The scores of messages; who was found by no FUZZY key of its own has the highest."""
        found = []
        for uid in uids:
            total, count = self._given.get(uid, (EXACT, 1))
            found.append(round(total / count))
        return found


async def find(s: Session, key: SearchKey, within: UidSet, match: Match) -> UidSet:
    """Those of *within* for which a key holds, or nearly does."""
    match key:
        case keys.Fuzzy():
            return await find(s, key.key, within, match)
        case keys.And():
            for part in key.keys:
                within = await find(s, part, within, match)
            return within
        case keys.Or():
            return await find(s, key.left, within, match) | await find(s, key.right, within, match)
    exact = await match(s, key, within)
    s.results.scores.give(exact, EXACT)
    if not isinstance(key, keys.HeaderText | keys.BodyText) or not key.text:
        return exact
    limit = COMPARED if isinstance(key, keys.HeaderText) else COMPARED_BODIES
    near = await _near(s, key, highest(within - exact, limit))
    for uid, likeness in near.items():
        s.results.scores.give((uid,), score(likeness))
    return exact | UidSet.from_numbers(near)


async def _near(s: Session, key: keys.HeaderText | keys.BodyText, within: UidSet) -> dict[int, float]:
    view = s.view.view
    field, body = (fold(key.field), False) if isinstance(key, keys.HeaderText) else ("", True)
    return await s.node.store.similar.like(
        view.account_id, view.mailbox_id, within, words_of(key.text), LEAST, field=field, body=body,
        headers=not isinstance(key, keys.BodyText) or key.headers,
    )  # fmt: skip


def words_of(text: str) -> Sequence[str]:
    """Words that are compared one by one."""
    return fold(text).split()[:WORDS]


def score(likeness: float) -> int:
    """1 to 99 for what is near."""
    return min(EXACT - 1, 1 + round((EXACT - 2) * (likeness - LEAST) / (1 - LEAST)))
