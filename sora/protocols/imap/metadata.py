"""GETMETADATA and SETMETADATA (RFC 5464), and what LIST RETURN (METADATA ...) says (RFC 9590).

On a mailbox it takes l and one of r, s, w, i and p to read or set annotations (§3.3); on shared ones of somebody else
also w to set them, and a where one names a script (RFC 6785). Annotations of the server are everybody's to read, and
private ones everybody's own to set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.errors import NoPermission
from sora.protocols.imap import places
from sora.protocols.imap.replies import Coded, Reply
from sora.store.events import ENTRY
from sora.store.metadata import MAX_VALUE, SERVER, SERVER_MAILBOX, SHARED, Place, Wanted
from sora.types import Rights
from sora.wire import imap_metadata as wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sora.protocols.imap.session import Session
    from sora.store.mailboxes import ListedMailbox
    from sora.store.metadata import Entry

ANY: Final = Rights.READ | Rights.SEEN | Rights.WRITE | Rights.INSERT | Rights.POST


async def getmetadata(s: Session, cmd: wire.GetMetadata) -> Reply | None:
    """RFC 5464 §4.2.

    Raises:
        NotFound: There is no such mailbox.
        NoPermission: The session may neither read nor write it.
    """
    where = await _places_of(s, cmd.mailbox)
    found = await s.node.store.metadata.get(where, s.account_id, _wanted(cmd.asked))
    entries = [entry for place in where for entry in found.get(place, ())]
    values = _values(cmd.asked, entries)
    if values:
        s.write(wire.metadata_line(cmd.mailbox, values, utf8=s.utf8))
    longest = max((entry.size for entry in entries if entry.value is None), default=0)
    return Reply(code=b"METADATA LONGENTRIES %d" % longest) if longest else None


async def _places_of(s: Session, name: str) -> list[Place]:
    """Where the annotations that a name means are: of the server in two places."""
    if not name:
        return [SERVER, Place(s.account_id, SERVER_MAILBOX)]
    found = await places.find(s, name)
    if not found.mailbox.rights & ANY:
        raise NoPermission
    return [Place(found.place.owner_id, found.mailbox.mailbox_id)]


def _wanted(asked: wire.Asked) -> Wanted:
    return Wanted(tuple(entry.lower() for entry in asked.entries), asked.depth, asked.max_size)


def _values(asked: wire.Asked, entries: Iterable[Entry]) -> list[tuple[str, bytes | None]]:
    """Names as the client has spelled them, with their values; what was asked for by itself and is not there is NIL."""
    found = {entry.name: entry for entry in entries}
    values: list[tuple[str, bytes | None]] = []
    for spelled in asked.entries:
        entry = found.pop(spelled.lower(), None)
        if entry is None and not asked.depth:
            values.append((spelled, None))
        elif entry is not None and entry.value is not None:
            values.append((spelled, entry.value))
    return values + [(name, entry.value) for name, entry in found.items() if entry.value is not None]


async def setmetadata(s: Session, cmd: wire.SetMetadata) -> None:
    """RFC 5464 §4.3: all entries or none.

    Raises:
        NotFound: There is no such mailbox.
        NoPermission: An entry is not the session's to set.
        Coded: A value is too long, or there are too many.
    """
    if any(value is not None and len(value) > MAX_VALUE for value in cmd.values.values()):
        raise Coded(b"METADATA MAXSIZE %d" % MAX_VALUE, "A value is too long")
    shared = any(name.startswith(SHARED) for name in cmd.values)
    if not cmd.mailbox:
        if shared:
            raise NoPermission("Shared entries of the server are the administrator's to set")
        place = Place(s.account_id, SERVER_MAILBOX)
    else:
        found = await places.find(s, cmd.mailbox)
        if not found.mailbox.rights & (Rights.WRITE if shared else ANY):
            raise NoPermission
        if ENTRY in cmd.values and not found.mailbox.rights & Rights.ADMINISTER:
            raise NoPermission("A script acts for the owner: its name is for administrators of the mailbox to set")
        place = Place(found.place.owner_id, found.mailbox.mailbox_id)
    if not await s.node.store.metadata.set(place, s.account_id, cmd.values):
        raise Coded(b"METADATA TOOMANY", "Too many annotations")
    if ENTRY in cmd.values:
        s.node.imapsieve.names.forget(place.account_id)  # this session need not wait for the notice
    for heard_by in {s.account_id, place.account_id}:  # of a private entry who set it, of a shared one the owner
        s.did(heard_by, "metadata", found.place.name if cmd.mailbox else "")


async def lines_of(s: Session, boxes: Sequence[ListedMailbox], asked: wire.Asked) -> dict[str, bytes]:
    """METADATA responses of LIST by mailbox name; what may not be read is left out (RFC 9590 §3)."""
    where = {
        box.name: Place(box.owner_id or s.account_id, box.status.mailbox_id)
        for box in boxes
        if box.status is not None and box.rights & ANY
    }
    found = await s.node.store.metadata.get(list(where.values()), s.account_id, _wanted(asked))
    lines = ((name, _values(asked, found.get(place, ()))) for name, place in where.items())
    return {name: wire.metadata_line(name, values, utf8=s.utf8) for name, values in lines if values}
