"""ESEARCH, the search of several mailboxes (RFC 7377 §4)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from sora.errors import BadSyntax
from sora.wire.imap_search import Search, parse_search
from sora.wire.imap_syntax import parenthesised

if TYPE_CHECKING:
    from sora._native.imapscan import Cursor

MAX_NAMES: Final = 1000
"""Mailboxes that one command may name."""


class Scope(enum.Enum):
    """Which mailboxes a source means (RFC 5465 §6, RFC 7377 §2.2); the value is its name."""

    SELECTED = b"SELECTED"
    INBOXES = b"INBOXES"
    PERSONAL = b"PERSONAL"
    SUBSCRIBED = b"SUBSCRIBED"
    SUBTREE = b"SUBTREE"
    SUBTREE_ONE = b"SUBTREE-ONE"
    MAILBOXES = b"MAILBOXES"


class Source(Struct, frozen=True):
    """One filter-mailboxes; *names* of SUBTREE, SUBTREE-ONE and MAILBOXES."""

    scope: Scope
    names: tuple[str, ...] = ()


class MultiSearch(Struct, frozen=True):
    """ESEARCH.

    Attributes:
        sources: the selected mailbox alone if none are given.
        search: speaks of UIDs and has RETURN options always.
    """

    sources: tuple[Source, ...]
    search: Search


_SCOPES: Final = {scope.value: scope for scope in Scope}
_NAMED: Final = frozenset({Scope.SUBTREE, Scope.SUBTREE_ONE, Scope.MAILBOXES})


def parse_esearch(cur: Cursor) -> MultiSearch:
    """`[SP "IN" SP "(" source-mbox ")"] [search-return-opts] SP search-program`; no scope-option is defined."""
    sources = [Source(Scope.SELECTED)]
    if cur.skip(b" IN "):
        sources = parenthesised(cur, _parse_source)
        if sum(len(source.names) for source in sources) > MAX_NAMES:
            raise BadSyntax(f"ESEARCH may name {MAX_NAMES} mailboxes")
    search = parse_search(cur)
    returns = frozenset({"ALL"}) if search.returns is None else search.returns
    return MultiSearch(tuple(sources), replace(search, uid=True, returns=returns))


def _parse_source(cur: Cursor) -> Source:
    """`filter-mailboxes`."""
    scope = _SCOPES.get(cur.keyword())
    if scope is None:
        raise BadSyntax("There is no such source of mailboxes")
    if scope not in _NAMED:
        return Source(scope)
    if cur.sp().peek() == ord("("):
        return Source(scope, tuple(parenthesised(cur, lambda cur: cur.mailbox())))
    return Source(scope, (cur.mailbox(),))
