"""CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE, LIST, LSUB, STATUS, NAMESPACE: the mailbox tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from sora.errors import BadSyntax, LimitExceeded, NotFound, Unavailable
from sora.protocols.imap import deleted, metadata, modes
from sora.protocols.imap.enable import CONDSTORE, switch_on
from sora.protocols.imap.objectids import mailbox_id
from sora.protocols.imap.patterns import INBOX, Pattern, parents
from sora.protocols.imap.places import SHARED, as_listed, find, new_place, place_of
from sora.protocols.imap.replies import Cannot, Reply, UseAttribute
from sora.protocols.imap.rights import require
from sora.protocols.imap.shared import own_name, tree_of
from sora.services.changes import GONE
from sora.store.mailboxes import ListedMailbox
from sora.types import Rights, UidValidity
from sora.wire import imap_responses as responses
from sora.wire.imap_acl import myrights_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sora.protocols.imap.session import Session
    from sora.store.mailboxes import Status
    from sora.wire import imap_commands as wire
    from sora.wire import imap_list

SPECIAL_USES: Final = frozenset({rb"\Archive", rb"\Drafts", rb"\Flagged", rb"\Junk", rb"\Sent", rb"\Trash"})
MAX_PATTERNS: Final = 100
"""Patterns of one LIST; each is followed through every name."""


async def create(s: Session, cmd: wire.Create) -> Reply:
    """RFC 9051 §6.3.4, and the MAILBOXID of RFC 8474 §4.1; missing parents are created too.

    Raises:
        UseAttribute: A special use that is not one mailbox's to have (RFC 6154 §3).
    """
    if len(cmd.special_use) > 1 or not SPECIAL_USES.issuperset(cmd.special_use):
        raise UseAttribute("A mailbox may have one special use of " + b" ".join(sorted(SPECIAL_USES)).decode())
    special_use = cmd.special_use[0].decode() if cmd.special_use else None
    place = await new_place(s, cmd.mailbox)
    created = await s.node.store.mailboxes.create(place.owner_id, place.name, special_use)
    modes.tell_normalised(s, cmd.mailbox)
    s.did(place.owner_id, "create", place.name)
    return Reply(code=b"MAILBOXID " + mailbox_id(created.mailbox_id))


async def delete(s: Session, cmd: wire.Delete) -> None:
    """RFC 9051 §6.3.5. Sessions that have it selected end with BYE (RFC 2180 §3.3); this one just leaves it."""
    place = (await find(s, cmd.mailbox, Rights.DELETE_MAILBOX)).place
    mailbox_id = await s.node.store.mailboxes.delete(place.owner_id, place.name)
    s.did(place.owner_id, "delete", place.name)
    if s.selection is not None and s.view.view.mailbox_id == mailbox_id:
        s.unselect()
    s.server.views.deleted(place.owner_id, mailbox_id)
    s.publish(place.owner_id, mailbox_id, GONE)
    modes.tell_normalised(s, cmd.mailbox, [rb"\NonExistent"])


async def rename(s: Session, cmd: wire.Rename) -> None:
    """RFC 9051 §6.3.6; of INBOX only the messages go, which those who have it selected must hear."""
    boxes = s.node.store.mailboxes
    source, target = (await find(s, cmd.source, Rights.DELETE_MAILBOX)).place, await new_place(s, cmd.target)
    if source.owner_id != target.owner_id:
        raise Cannot("A mailbox stays with its owner")
    await boxes.rename(source.owner_id, source.name, target.name)
    modes.tell_renamed(s, cmd.source, cmd.target)
    s.did(target.owner_id, "rename", target.name)
    if source.name.upper() != INBOX:
        return
    try:
        inbox = (await boxes.status(source.owner_id, [INBOX]))[INBOX]
    except Unavailable:
        return  # it is done; the others find out by their polls
    if inbox is not None:
        s.publish(source.owner_id, inbox.mailbox_id, inbox.highest_modseq)


async def subscribe(s: Session, cmd: wire.Subscribe) -> None:
    """RFC 9051 §6.3.7, which lets a server verify that the mailbox exists: a client hears of a misspelt name at once.

    The subscription is a name all the same, and outlives the mailbox.

    Raises:
        NotFound: There is no such mailbox.
        Cannot: It is one of deleted mail, which no client shall fetch with all others.
    """
    if deleted.is_deleted(s, cmd.mailbox):
        raise Cannot("Deleted mail cannot be subscribed to")
    await find(s, cmd.mailbox)
    name = as_listed(cmd.mailbox)
    await s.node.store.mailboxes.subscribe(s.account_id, name)
    s.did(s.account_id, "subscribe", name)


async def unsubscribe(s: Session, cmd: wire.Unsubscribe) -> None:
    """RFC 9051 §6.3.8."""
    name = as_listed(cmd.mailbox)
    await s.node.store.mailboxes.unsubscribe(s.account_id, name)
    s.did(s.account_id, "unsubscribe", name)


async def namespace(s: Session, _cmd: wire.Namespace) -> None:
    """RFC 2342: what is the session's own, deleted mail apart, and what others share with it.

    What is shared belongs to a user, so there is no namespace of the third kind.
    """
    root = deleted.root_of(s)
    own = b'("%s/" "/")' % root.encode() if root else b""
    s.write(b'* NAMESPACE (("" "/")%s) (("%s/" "/")) NIL\r\n' % (own, SHARED.encode()))


# ---------------------------------------------------------------------------------------------------- LIST


async def list_(s: Session, cmd: imap_list.List) -> None:
    """RFC 9051 §6.3.9, with the options of RFC 5258, 5819 and 6154."""
    _require_offered(s, cmd.status or ())
    if cmd.patterns == ("",) and not cmd.extended:
        s.write(responses.list_line([rb"\Noselect"], ""))  # asks for the delimiter alone
        return
    if len(cmd.patterns) > MAX_PATTERNS:
        raise LimitExceeded(f"A LIST may have {MAX_PATTERNS} patterns")
    tree = await tree_of(s, unseen="UNSEEN" in (cmd.status or ()))
    texts = [cmd.reference + pattern for pattern in cmd.patterns]
    tree += await deleted.listed(s, texts, tree, counted=bool(cmd.status))
    patterns = [Pattern(text) for text in texts]
    listed = []
    for box in tree:
        if _matches(patterns, box.name):
            listed.append(box)
        await s.breathe()
    below = _chosen_below(tree, listed, patterns, cmd.select) if "RECURSIVEMATCH" in cmd.select else {}
    chosen = {box.name: box for box in listed if _passes(box, cmd.select)} | below
    counts = await _list_counts(s, list(chosen.values()), cmd.status or ())
    annotations = await metadata.lines_of(s, list(chosen.values()), cmd.metadata) if cmd.metadata is not None else {}
    for name in sorted(chosen, key=str.encode):
        box = chosen[name]
        s.write(_list_line(box, cmd, child_info=name in below, utf8=s.utf8))
        if "MYRIGHTS" in cmd.returns and box.exists:  # RFC 8440 §3
            s.write(myrights_line(box.name, box.rights, utf8=s.utf8))
        found = counts.get(box.name) if box.rights & Rights.READ else None
        if cmd.status is not None and found is not None and _passes(box, cmd.select):
            s.write(_status_line(s, found.name, found, cmd.status))
        s.write(annotations.get(name, b""))
        await s.breathe()


def _passes(box: ListedMailbox, options: frozenset[str]) -> bool:
    """A name passes the selection options; one that is only subscribed is listed by SUBSCRIBED alone."""
    if "SUBSCRIBED" in options and not box.subscribed:
        return False
    if "SPECIAL-USE" in options and box.special_use is None:
        return False
    return box.exists or box.leads or "SUBSCRIBED" in options


def _matches(patterns: Iterable[Pattern], name: str) -> bool:
    return any(pattern.matches(name) for pattern in patterns)


def _chosen_below(
    tree: Iterable[ListedMailbox], listed: Iterable[ListedMailbox], patterns: Sequence[Pattern], options: frozenset[str]
) -> dict[str, ListedMailbox]:
    """RECURSIVEMATCH (RFC 5258 §3): names that match and have one below them which passes, but does not match itself.

    A subscription may stand below a name that is none at all.
    """
    known = {box.name: box for box in listed}
    above = {parent for box in tree if box.name not in known and _passes(box, options) for parent in parents(box.name)}
    return {name: known.get(name) or _no_mailbox(name) for name in above if _matches(patterns, name)}


def _no_mailbox(name: str) -> ListedMailbox:
    return ListedMailbox(name, False, False, False, False, None, UidValidity(0), None)


def _list_line(box: ListedMailbox, cmd: imap_list.List, *, child_info: bool, utf8: bool) -> bytes:
    attributes = [rb"\HasChildren" if box.has_children else rb"\HasNoChildren"]
    if not (box.exists or box.leads):
        attributes.append(rb"\NonExistent")
    elif box.noselect:
        attributes.append(rb"\Noselect")
    if box.special_use is not None:
        attributes.append(box.special_use.encode())
    if box.subscribed and ("SUBSCRIBED" in cmd.returns or "SUBSCRIBED" in cmd.select):
        attributes.append(rb"\Subscribed")
    options = [option for option in ("SUBSCRIBED", "SPECIAL-USE") if child_info and option in cmd.select]
    return responses.list_line(attributes, box.name, child_info=options, utf8=utf8)


async def _list_counts(
    s: Session, chosen: Sequence[ListedMailbox], items: Sequence[str]
) -> Mapping[str, Status | None]:
    """Counters for LIST-STATUS: they came with the tree, but for those that must be counted."""
    extras = _extras(items)
    if any(extras.values()):
        found: dict[str, Status | None] = {}
        for owner_id in {box.owner_id for box in chosen}:
            boxes = {own_name(box): box.name for box in chosen if box.owner_id == owner_id and box.status is not None}
            counted = await s.node.store.mailboxes.status(owner_id or s.account_id, [*boxes], s.account_id, **extras)
            found |= {boxes[name]: status and replace(status, name=boxes[name]) for name, status in counted.items()}
        return found
    return {box.name: box.status for box in chosen if not box.noselect}


async def lsub(s: Session, cmd: imap_list.Lsub) -> None:
    """RFC 3501 §6.3.9: subscribed names; with `%` also a parent of one, which is \\Noselect then."""
    pattern = Pattern(cmd.reference + cmd.pattern)
    subscribed = [box.name for box in await tree_of(s) if box.subscribed]
    names: dict[str, Sequence[bytes]] = {name: () for name in subscribed if pattern.matches(name)}
    if cmd.pattern.endswith("%"):
        above = {parent for name in subscribed if name not in names for parent in parents(name)}
        names = {parent: (rb"\Noselect",) for parent in above if pattern.matches(parent)} | names
    for name in sorted(names):
        s.write(responses.list_line(names[name], name, verb=b"LSUB", utf8=s.utf8))


# ---------------------------------------------------------------------------------------------------- STATUS


STATUS_ITEMS: Final[Mapping[str, Callable[[Status], bytes]]] = {
    "MESSAGES": lambda found: b"%d" % found.messages,
    "RECENT": lambda found: b"%d" % (found.recent or 0),
    "UIDNEXT": lambda found: b"%d" % found.uid_next,
    "UIDVALIDITY": lambda found: b"%d" % found.uidvalidity,
    "UNSEEN": lambda found: b"%d" % found.unseen,
    "DELETED": lambda found: b"%d" % found.deleted,
    "DELETED-STORAGE": lambda found: b"%d" % (found.deleted_size or 0),
    "SIZE": lambda found: b"%d" % found.size,
    "MAILBOXID": lambda found: mailbox_id(found.mailbox_id),
}


EXTENSION_ITEMS: Final[Mapping[str, str]] = {"HIGHESTMODSEQ": "CONDSTORE", "MAILBOXID": "OBJECTID"}
"""Items that a client may only ask for where the extension is announced."""


async def status(s: Session, cmd: imap_list.Status) -> None:
    """RFC 9051 §6.3.11.

    Raises:
        NotFound: There is no such mailbox, or it holds no messages.
        BadSyntax: An item of an extension that is not offered.
    """
    _require_offered(s, cmd.items)
    place = await place_of(s, cmd.mailbox)
    counts = await s.node.store.mailboxes.status(place.owner_id, [place.name], s.account_id, **_extras(cmd.items))
    found = counts[place.name]
    if found is None:
        raise NotFound("No such mailbox")
    require(found.rights, Rights.READ)
    s.write(_status_line(s, place.prefix + found.name, found, cmd.items))


def _require_offered(s: Session, items: Iterable[str]) -> None:
    for item in items:
        if item in EXTENSION_ITEMS and not s.offers(EXTENSION_ITEMS[item]):
            raise BadSyntax(f"{item} is not offered here")
        if item == "HIGHESTMODSEQ":
            switch_on(s, CONDSTORE)  # RFC 7162 §3.1.7


def _extras(items: Iterable[str]) -> dict[str, bool]:
    """Counters that nobody keeps."""
    return {"recent": "RECENT" in items, "deleted_size": "DELETED-STORAGE" in items}


def _status_line(s: Session, name: str, found: Status, items: Iterable[str]) -> bytes:
    own = {
        "APPENDLIMIT": lambda _found: b"%d" % s.limits.message_size,
        "HIGHESTMODSEQ": lambda found: b"%d" % _highest_modseq(s, found),
    }
    values = ((item, (own.get(item) or STATUS_ITEMS[item])(found)) for item in items)
    return responses.status_line(name, values, utf8=s.utf8)


def _highest_modseq(s: Session, found: Status) -> int:
    """Of the selected mailbox no more than the client has been told of: it would take that for the state it has."""
    if s.selection is not None and s.view.view.mailbox_id == found.mailbox_id:
        return min(found.highest_modseq, s.view.told.highest_modseq)
    return found.highest_modseq
