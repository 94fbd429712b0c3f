"""SORT (RFC 5256), SORT=DISPLAY (RFC 5957) and ESORT (RFC 5267).

Every criterion becomes one number a message: dates and sizes come from the columns that the worker keeps, of a text its
rank among the texts of the others. Texts are compared as i;unicode-casemap says (RFC 5255 §4.3: I18NLEVEL=1), which
after folding is the order of their octets. Ties are in the order of the mailbox.
"""

from __future__ import annotations

import asyncio
from array import array
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from sora._native import columns as native
from sora._native.columns import Texts
from sora.mime.text import fold
from sora.protocols.imap import progress
from sora.protocols.imap.finding import contexts, filters, results
from sora.protocols.imap.finding.numbers import numbers_for, write_numbers
from sora.protocols.imap.finding.search import looked_at, matching, require_offered
from sora.protocols.imap.finding.searchmodseq import highest_found, note_enabling
from sora.protocols.imap.replies import BadCharset
from sora.wire.imap_sort import SortKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sora._native.seqset import UidSet
    from sora.protocols.imap.finding.texts import Key
    from sora.protocols.imap.replies import Reply
    from sora.protocols.imap.session import Session
    from sora.wire.imap_search import SearchKey
    from sora.wire.imap_sort import Criterion, Sort

IN_THREAD: Final = 20_000
"""More messages than this are ranked and sorted in a thread: some milliseconds in which the others go on."""

COLUMNS: Final[Mapping[SortKey, int]] = {
    SortKey.ARRIVAL: native.INTERNAL_DATE,
    SortKey.DATE: native.SORT_DATE,
    SortKey.SIZE: native.SIZE,
}
TEXTS: Final[Mapping[SortKey, Key]] = {
    SortKey.SUBJECT: "base_subject",
    SortKey.FROM: "from",
    SortKey.TO: "to",
    SortKey.CC: "cc",
    SortKey.DISPLAYFROM: "display_from",
    SortKey.DISPLAYTO: "display_to",
}


async def sort(s: Session, cmd: Sort) -> Reply | None:
    """Find, sort and answer.

    Raises:
        BadCharset: The texts are in a charset that is not known.
        BadSyntax: A RETURN option that is not offered.
    """
    wanted, returns = cmd.search, cmd.search.returns
    require_offered(s, wanted, returns or frozenset())
    with results.saving(s, returns):
        wanted = await filters.expand(s, wanted)
        if not wanted.charset_known:
            raise BadCharset
        note_enabling(s, wanted)
        chosen = looked_at(s, wanted.key)
        with progress.working(s, len(chosen.uids)):
            found = await in_order(s, await matching(s, wanted.key, chosen.uids), cmd.criteria)
        named = results.to_save(found, returns or frozenset(), wanted.partial)
        modseq = await highest_found(s, wanted, named)  # RFC 7162 §3.1.5
        if returns is not None:
            _answer(s, replace(cmd, search=wanted), list(found), returns, modseq)
            return chosen.reply
    await write_numbers(s, b"* SORT", numbers_for(s, found, uid=wanted.uid), modseq=modseq)
    return chosen.reply


def _answer(s: Session, cmd: Sort, found: list[int], returns: frozenset[str], modseq: int | None) -> None:
    """ESORT and CONTEXT=SORT (RFC 5267 §3.1, §4)."""
    wanted = cmd.search
    results.answer(s, found, returns, uid=wanted.uid, partial=wanted.partial, modseq=modseq)
    if "UPDATE" not in returns:
        return
    if any(criterion.key is SortKey.RELEVANCY for criterion in cmd.criteria):
        contexts.refuse(s, b"Scores are of the moment")
        return

    async def order(s: Session, uids: UidSet) -> list[int]:
        return list(await in_order(s, uids, cmd.criteria))

    s.results.contexts.begin(s, found, wanted.key, matching, order, uid=wanted.uid)


async def sorted_uids(s: Session, key: SearchKey, criteria: Sequence[Criterion]) -> list[int]:
    """UIDs of the messages for which a key holds, in the order of the criteria."""
    return list(await in_order(s, await matching(s, key, s.view.told.all_uids()), criteria))


async def in_order(s: Session, uids: UidSet, criteria: Sequence[Criterion]) -> array[int]:
    """UIDs in the order of the criteria; messages that are gone, though the client was not told, have no place."""
    if not uids:
        return native.expand(uids)
    columns = await s.server.columns.get(s, uids)
    uids = columns.present(uids)
    criteria = unique(criteria)
    # All columns before anything is waited for: meanwhile another session may have them forget what is gone.
    values = {c.key: columns.values(uids, COLUMNS[c.key]) for c in criteria if c.key in COLUMNS}
    for criterion in criteria:
        if criterion.key is SortKey.RELEVANCY:  # the highest comes first (RFC 6203 §6)
            values[criterion.key] = array("q", [-score for score in s.results.scores.of(uids)])
        elif criterion.key in TEXTS:
            values[criterion.key] = await ranks(s, uids, TEXTS[criterion.key])
    keys = [(values[criterion.key], criterion.reverse) for criterion in criteria]
    if len(uids) <= IN_THREAD:
        return native.sort_numbers(uids, keys)
    return await asyncio.to_thread(native.sort_numbers, uids, keys)


def unique(criteria: Sequence[Criterion]) -> list[Criterion]:
    """A key that comes again decides nothing."""
    first: dict[SortKey, Criterion] = {}
    for criterion in criteria:
        first.setdefault(criterion.key, criterion)
    return list(first.values())


async def ranks(s: Session, uids: UidSet, key: Key) -> array[int]:
    """For each message the place of its text among the different ones; 0: there is none."""
    texts = Texts()
    async with aclosing(s.server.texts.packed(s, uids, key)) as chunks:
        async for chunk in chunks:
            texts.add(chunk, fold)
            await s.breathe()
    return await ranked(texts, uids)


async def ranked(texts: Texts, uids: UidSet) -> array[int]:
    """`Texts.ranks`; of many messages in a thread."""
    if len(uids) <= IN_THREAD:
        return texts.ranks(uids)
    return await asyncio.to_thread(texts.ranks, uids)
