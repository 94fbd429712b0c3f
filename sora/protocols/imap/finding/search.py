"""SEARCH (RFC 9051 §6.4.4): the cheap keys first, each on what the others have left.

A key is a set of UIDs within a set of UIDs. What the client's picture knows (numbers, UIDs, flags) is set arithmetic
and costs nothing; dates and sizes are one statement; texts are one statement on the search index and, where that cannot
decide, the body itself. Of keys that must all hold the cheapest is asked first and the next only about what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sora._native.columns import expand
from sora._native.seqset import UidSet
from sora.errors import BadSyntax
from sora.protocols.imap import messagelimit, objectids, progress
from sora.protocols.imap.enable import UIDONLY
from sora.protocols.imap.finding import filters, fuzzy, results, searchtext
from sora.protocols.imap.finding.fuzzy import Scores
from sora.protocols.imap.finding.numbers import write_numbers
from sora.protocols.imap.finding.searchmodseq import by_modseq, highest_found, note_enabling
from sora.protocols.imap.modes import UTF8, is_rev2
from sora.protocols.imap.replies import BadCharset
from sora.protocols.imap.views.selection import NO_UIDS
from sora.types import MAX_UID
from sora.wire import imap_search as keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sora.protocols.imap.replies import Reply
    from sora.protocols.imap.session import Session
    from sora.wire.imap_search import Search, SearchKey

RETURNED: Final = frozenset({"MIN", "MAX", "ALL", "COUNT", "SAVE", "PARTIAL", "CONTEXT", "UPDATE", "RELEVANCY"})
"""Return options that are offered (RFC 4731, 5182, 5267, 6203, 9394)."""

RESULT_OF_REV2: Final = frozenset({"ALL"})
"""What SEARCH without RETURN is answered with in IMAP4rev2 (RFC 9051 §6.4.4)."""

FREE, STATEMENT, TEXT = range(3)


async def search(s: Session, cmd: Search) -> Reply | None:
    """Find and answer.

    Raises:
        BadCharset: The texts are in a charset that is not known.
        BadSyntax: A key or option of an extension that is not offered.
    """
    require_offered(s, cmd, cmd.returns or frozenset())
    returns = RESULT_OF_REV2 if cmd.returns is None and is_rev2(s.enabled) else cmd.returns
    with results.saving(s, returns):
        cmd = await filters.expand(s, cmd)
        if not cmd.charset_known:
            raise BadCharset
        note_enabling(s, cmd)
        chosen = looked_at(s, cmd.key)
        with progress.working(s, len(chosen.uids)):
            found = await matching(s, cmd.key, chosen.uids)
        modseq = await highest_found(s, cmd, found)
        if returns is not None:
            results.answer(s, found, returns, uid=cmd.uid, partial=cmd.partial, modseq=modseq)
            if "UPDATE" in returns:
                s.results.contexts.begin(s, found, cmd.key, matching, uid=cmd.uid)
            return chosen.reply
    numbers = expand(found if cmd.uid else s.view.told.seqs(found))
    await write_numbers(s, b"* SEARCH", numbers, modseq=modseq)
    return chosen.reply


def require_offered(s: Session, cmd: Search, returns: frozenset[str]) -> None:
    """Look at charset and RETURN options before anything is done; what came before gives no scores.

    Raises:
        BadSyntax: An option is not offered, or updates under this tag are sent already; or CHARSET is no more.
    """
    if cmd.charset_given and UTF8 in s.enabled:
        raise BadSyntax("No CHARSET after ENABLE UTF8=ACCEPT: everything is UTF-8")
    if not returns <= RETURNED:
        raise BadSyntax("These RETURN options are not offered here")
    if "UPDATE" in returns:
        s.results.contexts.require_new(s.tag)
    s.results.scores = Scores()


def looked_at(s: Session, key: SearchKey) -> messagelimit.Cut:
    """The messages that a search is about (RFC 9738 §3.1); numbers that must hold narrow it beforehand."""
    scope = s.view.told.all_uids()
    if len(scope) > s.limits.imap_messages:
        for part in key.keys if isinstance(key, keys.And) else (key,):
            if isinstance(part, keys.InSeqs | keys.InUids):
                scope &= FREE_KEYS[type(part)](s, part)
    return messagelimit.cut(s, scope)


# ---------------------------------------------------------------------------------------------------- keys


async def matching(s: Session, key: SearchKey, within: UidSet) -> UidSet:
    """Those of `within` for which the key holds.

    Raises:
        BadSyntax: A key of an extension that is not offered.
    """
    if not within:
        return within
    await s.breathe()
    match key:
        case keys.Fuzzy():
            return await fuzzy.find(s, key.key, within, matching)
        case keys.Not():
            return within - await matching(s, key.key, within)
        case keys.Or():
            left = await matching(s, key.left, within)
            return left | await matching(s, key.right, within - left)
        case keys.And():
            for part in sorted(key.keys, key=cost):
                within = await matching(s, part, within)
            return within
    if (free := FREE_KEYS.get(type(key))) is not None:
        return within & free(s, key)
    if (asked := ASKED_KEYS.get(type(key))) is not None:
        return await asked[1](s, key, within)
    raise BadSyntax(f"The search key {type(key).__name__} is not offered here")


def cost(key: SearchKey) -> int:
    """How dear a key is: its dearest part."""
    match key:
        case keys.Not() | keys.Fuzzy():
            return cost(key.key)
        case keys.Or():
            return max(cost(key.left), cost(key.right))
        case keys.And():
            return max(cost(part) for part in key.keys)
    asked = ASKED_KEYS.get(type(key))
    return FREE if asked is None else asked[0]


def _all(s: Session, _key: keys.All | keys.SaveDateSupported) -> UidSet:
    return s.view.told.all_uids()


def _in_seqs(s: Session, key: keys.InSeqs) -> UidSet:
    """A number beyond the last message is on no message: it asks for nothing (RFC 9051 §6.4.4), it fetches nothing."""
    if key.messages.is_saved or UIDONLY in s.enabled:
        return s.uids(key.messages)
    return s.view.told.uids(key.messages)


def _in_uids(s: Session, key: keys.InUids) -> UidSet:
    return s.uids(key.messages)


def _has_flag(s: Session, key: keys.HasFlag) -> UidSet:
    """A keyword without a number is on no message."""
    number = s.view.view.keywords.find(key.flag)
    if number is not None:
        return s.view.told.with_flag(number, key.value)
    return NO_UIDS if key.value else s.view.told.all_uids()


def _is_recent(s: Session, key: keys.IsRecent) -> UidSet:
    told, after = s.view.told, s.view.recent_after
    recent = told.present(UidSet.from_ranges([(after + 1, MAX_UID)])) if after < MAX_UID else NO_UIDS
    return recent if key.value else told.all_uids() - recent


FREE_KEYS: Final[Mapping[type, Callable[[Session, Any], UidSet]]] = {
    keys.All: _all,
    keys.InSeqs: _in_seqs,
    keys.InUids: _in_uids,
    keys.HasFlag: _has_flag,
    keys.IsRecent: _is_recent,
    keys.SaveDateSupported: _all,
}
"""Keys that the client's picture answers."""

ASKED_KEYS: Final[Mapping[type, tuple[int, Callable[[Session, Any, UidSet], Awaitable[UidSet]]]]] = {
    keys.BySize: (STATEMENT, searchtext.by_size),
    keys.ByDate: (STATEMENT, searchtext.by_date),
    keys.Within: (STATEMENT, searchtext.by_age),
    keys.ByObjectId: (STATEMENT, objectids.by_object_id),
    keys.ByModSeq: (STATEMENT, by_modseq),
    keys.HeaderText: (TEXT, searchtext.by_header),
    keys.BodyText: (TEXT, searchtext.by_text),
}
"""Keys that need the store, and how dear they are."""
