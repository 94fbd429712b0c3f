"""FILTER (RFC 5466): searches that are stored under a name, as annotations of the server.

A filter's keys take the place of FILTER, as one group. Filters may name others; who names itself, or goes too deep, is
a filter that does not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from sora._native.imapscan import Command, NeedLiteral, Scanner
from sora.errors import BadSyntax, LimitExceeded, WireError
from sora.protocols.imap.finding.contexts import parts_of
from sora.protocols.imap.replies import Coded, FilterCharset
from sora.store.metadata import MAX_VALUE, SERVER, SERVER_MAILBOX, Place, Wanted
from sora.wire import imap_search as keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sora.protocols.imap.session import Session
    from sora.wire.imap_search import Search, SearchKey

VALUES: Final = ("/private/filters/values/", "/shared/filters/values/")
"""Where filters are; one's own goes before one for all (§3.1)."""
MAX_DEPTH: Final = 5
"""Filters inside of filters; at least 3 (§3.1)."""


async def expand(s: Session, cmd: Search) -> Search:
    """The search without FILTER keys. A statement for each level of filters.

    Raises:
        FilterCharset: The texts of filters are UTF-8, and the command says another charset.
        Coded: There is no such filter, or it is no search.
        BadSyntax: RELEVANCY, but no filter has FUZZY.
        LimitExceeded: The filters come to more keys than a search may have.
    """
    if not cmd.has_filter:
        return cmd
    if cmd.charset not in ("UTF-8", "US-ASCII"):
        raise FilterCharset
    searches: dict[bytes, Search] = {}
    wanted = _names(cmd.key)
    for _ in range(MAX_DEPTH):
        wanted -= searches.keys()
        if not wanted:
            break
        found = await _read(s, wanted)
        searches |= {name: _parse(name, found.get(name)) for name in wanted}
        wanted = {inner for name in wanted for inner in _names(searches[name].key)}
    whole = _Expansion(searches).of(cmd.key, ())
    has_fuzzy = any(isinstance(part, keys.Fuzzy) for part in parts_of(whole))
    if cmd.returns is not None and "RELEVANCY" in cmd.returns and not has_fuzzy:
        raise BadSyntax("RELEVANCY goes with FUZZY only")
    has_modseq = any(isinstance(part, keys.ByModSeq) for part in parts_of(whole))
    return replace(cmd, key=whole, has_filter=False, has_fuzzy=has_fuzzy, has_modseq=has_modseq)


def _names(key: SearchKey) -> set[bytes]:
    return {part.name for part in parts_of(key) if isinstance(part, keys.Filter)}


async def _read(s: Session, names: set[bytes]) -> Mapping[bytes, bytes]:
    """What is stored under names; one's own filter where there is one, else that for all."""
    places = [SERVER, Place(s.account_id, SERVER_MAILBOX)]
    entries = {prefix + name.decode().lower(): name for name in names for prefix in reversed(VALUES)}
    found = await s.node.store.metadata.get(places, s.account_id, Wanted(tuple(entries)))
    values = {entry.name: entry.value for place in places for entry in found.get(place, ())}
    return {name: value for entry, name in entries.items() if (value := values.get(entry)) is not None}


def _parse(name: bytes, value: bytes | None) -> Search:
    """The search that a filter holds; it may have literals."""
    scanner = Scanner(4 * MAX_VALUE)
    scanner.feed(b"f SEARCH CHARSET UTF-8 %s\r\n" % (value or b""))
    try:
        while isinstance(step := scanner.next(), NeedLiteral):
            scanner.accept()
        if value and isinstance(step, Command):
            search = keys.parse_search(step.cursor)
            if not scanner.buffered:
                return search
    except WireError:
        pass  # what is no search is no filter
    raise undefined(name)


def undefined(name: bytes) -> Coded:
    """No such filter, or none that can be used (§3.1)."""
    return Coded(b"UNDEFINED-FILTER " + name, "There is no such filter")


class _Expansion:
    """Puts filters in their places, and counts the keys."""

    def __init__(self, searches: Mapping[bytes, Search]) -> None:
        self._searches = searches
        self._count = 0

    def of(self, key: SearchKey, above: tuple[bytes, ...]) -> SearchKey:
        """The key without FILTER; *above*: the filters that it is in."""
        self._count += 1
        if self._count > keys.MAX_KEYS:
            raise LimitExceeded("The filters come to too many search keys")
        match key:
            case keys.Filter():
                if key.name in above or len(above) >= MAX_DEPTH or key.name not in self._searches:
                    raise undefined(key.name)
                return self.of(self._searches[key.name].key, (*above, key.name))
            case keys.Not():
                return keys.Not(self.of(key.key, above))
            case keys.Fuzzy():
                return keys.Fuzzy(self.of(key.key, above))
            case keys.And():
                return keys.And(tuple(self.of(part, above) for part in key.keys))
            case keys.Or():
                return keys.Or(self.of(key.left, above), self.of(key.right, above))
        return key
