"""From the name of a mailbox, as a session says it, to its owner and the owner's name for it.

What others share is below `Shared/<address of the owner>/`; everything else is the session's own. Where the right that
a command takes is missing and `l` too, a mailbox answers as one that does not exist (RFC 4314 §6), and an owner who
shares nothing as one whom there is not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import InvalidName, NoPermission, NotFound
from sora.protocols.imap import deleted
from sora.protocols.imap.patterns import DELIMITER, parents
from sora.protocols.imap.replies import Cannot
from sora.protocols.imap.rights import require
from sora.store.addresses import fold_address
from sora.store.mailboxes import canonical_name
from sora.types import AccountId, Rights

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session
    from sora.store.mailboxes import Mailbox

SHARED: Final = "Shared"
_ESCAPED: Final = re.compile(r"[/=%*]")
_ESCAPE: Final = re.compile(r"=([0-9A-F]{2})")


class Place(Struct, frozen=True):
    """Where a mailbox is, or could be.

    Attributes:
        owner_id: Whose mailbox it is.
        viewer_id: Whose session it is, if not the owner's.
        name: The owner's name for it.
        prefix: What stands before it in the session's names.
    """

    owner_id: AccountId
    viewer_id: AccountId | None
    name: str
    prefix: str = ""


class Found(Struct, frozen=True):
    """A mailbox that is there, and that the session may see."""

    place: Place
    mailbox: Mailbox


def is_shared(name: str) -> bool:
    """The name is one of the other users' namespace, or of what leads there."""
    return name == SHARED or name.startswith(SHARED + DELIMITER)


def prefix_of(address: str) -> str:
    """What stands before the names of an owner's mailboxes; `/` in an address is no level, `%` and `*` no wildcards."""
    escaped = _ESCAPED.sub(lambda match: f"={ord(match[0]):02X}", address)
    return f"{SHARED}{DELIMITER}{escaped}{DELIMITER}"


def owner_of(place: Place) -> str:
    """The address of the owner of a mailbox of somebody else."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), place.prefix.split(DELIMITER)[1])


async def place_of(s: Session, name: str) -> Place:
    """Where a name leads; the mailbox need not exist. No statement for a name of the session's own.

    Of deleted mail, which is not so, what is below the name is brought up to date.

    Raises:
        NotFound: There is no such owner.
        InvalidName: It leads to no mailbox, but to the namespace.
    """
    if not is_shared(name):
        if deleted.is_deleted(s, name):
            return Place(s.account_id, None, await deleted.refresh(s, name))
        return Place(s.account_id, None, name)
    address, below = _split(name)
    if not below:
        raise InvalidName("This name stands for what others share")
    owner_id = await s.node.store.acl.find_owner(address)
    if owner_id is None or owner_id == s.account_id:
        raise NotFound("No such mailbox")
    return Place(owner_id, s.account_id, below, prefix_of(address))


def as_listed(name: str) -> str:
    """The name as LIST says it, if it is a mailbox's: a subscription in another spelling would be of nothing.

    Raises:
        InvalidName: It could never be a mailbox's.
    """
    if not is_shared(name):
        return canonical_name(name)
    address, below = _split(name)
    return prefix_of(address) + canonical_name(below) if below else canonical_name(name)


def _split(name: str) -> tuple[str, str]:
    """Address of the owner and the owner's name for it; empty, where the name only leads there.

    Raises:
        InvalidName: No address is like that.
    """
    _, _, rest = name.partition(DELIMITER)
    escaped, _, below = rest.partition(DELIMITER)
    address = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), escaped)
    if not address.isprintable():
        raise InvalidName("There is no such address")
    return fold_address(address), below


async def find(s: Session, name: str, needed: Rights = Rights.LOOKUP) -> Found:
    """A mailbox that exists, for one who has the rights that it takes.

    Raises:
        NotFound: There is none, or a right is missing and the session may not see it.
        NoPermission: One of the rights is missing.
    """
    try:
        place = await place_of(s, name)
    except InvalidName:
        raise NotFound("No such mailbox") from None
    mailbox = await s.node.store.mailboxes.find(place.owner_id, place.name, s.account_id)
    if mailbox is None:
        raise NotFound("No such mailbox")
    require(mailbox.rights, needed)
    return Found(place, mailbox)


async def new_place(s: Session, name: str) -> Place:
    """Where a mailbox shall be made: it takes k in the one above (RFC 4314 §4); the owner alone makes one at the top.

    Raises:
        NoPermission: It is not there, or nor is the owner: who shares nothing is not to be told from nobody.
        InvalidName: It could never be a mailbox.
        Cannot: Deleted mail alone is there.
    """
    if deleted.is_deleted(s, name):
        raise Cannot("These names are for deleted mail")
    try:
        place = await place_of(s, name)
    except NotFound:
        raise NoPermission from None
    above = parents(canonical_name(place.name))
    if not above and place.viewer_id is None:
        return place
    rights = await s.node.store.acl.rights_above(place.owner_id, above, s.account_id)
    if rights is None and place.viewer_id is None:
        return place
    if rights is None or not rights & Rights.CREATE:
        raise NoPermission
    return place


async def look_again(s: Session) -> None:
    """Before the selected mailbox of somebody else is worked on: its rights as they are now.

    Raises:
        NoPermission: It may not be read any more; the session is told, and ends (RFC 4314 §5.1.1).
        Unavailable: Nobody can tell.
    """
    view = s.view.view
    if view.viewer_id is not None and view.stale:
        try:
            await view.refresh()
        except NotFound:
            return  # told at the end of the command
    if not view.rights & Rights.READ:
        s.bye(NOT_SHARED)
        raise NoPermission


NOT_SHARED: Final = b"[NOPERM] The selected mailbox is no longer yours to read"
