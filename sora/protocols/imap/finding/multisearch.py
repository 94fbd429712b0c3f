"""ESEARCH (RFC 7377): one search in several mailboxes, none of which is selected for it.

Each mailbox is opened as EXAMINE opens it, looked at in the place of the selected one, and left. A mailbox that does
not exist, or that the session may not read, is passed over without a word: to tell the two apart would show what is
there.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sora.errors import BadSyntax, InvalidName, LimitExceeded, NoPermission, NotFound
from sora.protocols.imap import deleted, progress
from sora.protocols.imap.enable import CONDSTORE, switch_on
from sora.protocols.imap.finding import contexts, filters, results, search
from sora.protocols.imap.finding.searchmodseq import highest_found, note_enabling
from sora.protocols.imap.patterns import DELIMITER, INBOX
from sora.protocols.imap.places import is_shared, look_again, place_of
from sora.protocols.imap.replies import BadCharset
from sora.protocols.imap.shared import tree_of
from sora.wire.imap_esearch import Place
from sora.wire.imap_multisearch import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sora.protocols.imap.session import Session
    from sora.protocols.imap.views.selection import Selection
    from sora.store.mailboxes import ListedMailbox
    from sora.wire.imap_multisearch import MultiSearch, Source
    from sora.wire.imap_search import Search

MAX_MAILBOXES: Final = 1000
"""Searched by one command (RFC 7377 §2.4)."""


async def esearch(s: Session, cmd: MultiSearch) -> None:
    """RFC 7377 §2: a response for each mailbox in which something was found.

    Raises:
        BadSyntax: The options do not go with the sources, or nothing is selected where it must be.
        BadCharset: The texts are in a charset that is not known.
        LimitExceeded: These are too many mailboxes.
    """
    wanted, returns = cmd.search, cmd.search.returns or frozenset()
    search.require_offered(s, wanted, returns)
    _require_sense(s, cmd.sources, returns)
    if s.selection is not None:
        await look_again(s)
    note_enabling(s, wanted)
    with results.saving(s, returns):
        wanted = await filters.expand(s, wanted)
        if not wanted.charset_known:
            raise BadCharset
        if wanted.has_modseq:  # now: what is said to that is about the selected mailbox
            switch_on(s, CONDSTORE)
        tree = [box for box in await tree_of(s) if box.exists and not box.noselect]
        names = dict.fromkeys(name for source in cmd.sources for name in _of_source(source, tree))
        if len(names) > MAX_MAILBOXES:
            raise LimitExceeded(f"At most {MAX_MAILBOXES} mailboxes are searched at once")
        followed = any(source.scope is Scope.SELECTED for source in cmd.sources)
        with progress.working(s):
            if followed:
                await _answer(s, await _name_of(s, tree), wanted, returns)
            for name in names:
                followed |= await _search_in(s, name, wanted, returns, followed=followed)
    if "UPDATE" in returns and not followed:
        contexts.refuse(s, b"The selected mailbox was not searched")


def _require_sense(s: Session, sources: Sequence[Source], returns: frozenset[str]) -> None:
    scopes = {source.scope for source in sources}
    if s.selection is None and (Scope.SELECTED in scopes or "UPDATE" in returns):
        raise BadSyntax("No mailbox is selected")
    if "SAVE" in returns and scopes != {Scope.SELECTED}:
        raise BadSyntax("Only a search of the selected mailbox can be saved")


async def _search_in(s: Session, name: str, wanted: Search, returns: frozenset[str], *, followed: bool) -> bool:
    """Search one mailbox; True if it is the selected one.

    Args:
        followed: The selected one was searched already.
    """
    try:
        place = await place_of(s, name)
        selection = await s.server.views.select(place.owner_id, place.name, place.viewer_id, read_only=True)
    except (NotFound, NoPermission, InvalidName):
        return False
    try:
        selected = s.selection is not None and s.selection.view is selection.view
        if selected and not followed:  # what the client has been told of it is what counts
            await _answer(s, name, wanted, returns)
        elif not selected:
            with looking_at(s, selection):
                await _answer(s, name, wanted, returns - {"UPDATE"})
        return selected
    finally:
        s.server.views.close(selection)


async def _answer(s: Session, name: str, wanted: Search, returns: frozenset[str]) -> None:
    found = await search.matching(s, wanted.key, s.view.told.all_uids())
    place = Place(name, s.view.uidvalidity)
    if found:
        modseq = await highest_found(s, wanted, found)
        results.answer(s, found, returns, uid=True, partial=wanted.partial, modseq=modseq, place=place)
    else:  # RFC 7377 §2.1: not a word, also where COUNT was asked for
        results.save(s, found, returns, wanted.partial)
    if "UPDATE" in returns:
        s.results.contexts.begin(s, found, wanted.key, search.matching, uid=True, place=place)


@contextmanager
def looking_at(s: Session, selection: Selection) -> Iterator[None]:
    """Let a search look at another mailbox than the selected one; `$` is empty there."""
    before = s.selection, s.results
    s.selection, s.results = selection, results.Results()
    try:
        yield
    finally:
        s.selection, s.results = before


# ---------------------------------------------------------------------------------------------------- sources


async def _name_of(s: Session, tree: Sequence[ListedMailbox]) -> str:
    """What the selected mailbox is called now: it may have been renamed since.

    Raises:
        NotFound: It was deleted.
    """

    def called(boxes: Iterable[ListedMailbox]) -> str | None:
        wanted = s.view.view.mailbox_id
        return next((box.name for box in boxes if box.status is not None and box.status.mailbox_id == wanted), None)

    name = called(tree) or called(await deleted.listed(s, [deleted.root_of(s)], tree, counted=True))
    if name is not None:
        return name
    raise NotFound("The selected mailbox is gone")


def _of_source(source: Source, tree: Sequence[ListedMailbox]) -> Iterator[str]:
    """Names of a source; those that are not named by the client are of mailboxes that it may look up."""
    match source.scope:
        case Scope.MAILBOXES:
            yield from source.names
        case Scope.INBOXES:
            yield INBOX
        case Scope.PERSONAL:
            yield from (box.name for box in tree if not is_shared(box.name))
        case Scope.SUBSCRIBED:
            yield from (box.name for box in tree if box.subscribed)
        case Scope.SUBTREE | Scope.SUBTREE_ONE:
            for top in source.names:
                yield top
                yield from _below(top, tree, one_level=source.scope is Scope.SUBTREE_ONE)


def _below(top: str, tree: Iterable[ListedMailbox], *, one_level: bool) -> Iterator[str]:
    for box in tree:
        rest = box.name.removeprefix(top + DELIMITER)
        if rest != box.name and not (one_level and DELIMITER in rest):
            yield box.name
