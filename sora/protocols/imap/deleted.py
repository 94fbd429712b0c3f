"""Deleted mail as its owner sees it: by folder, read-only, below a prefix of its own (`cleanup.deleted_namespace`).

`Deleted/INBOX` shows what was expunged from INBOX within the grace period and is in no other mailbox, with UIDs of its
own. COPY brings a message back; everything that would change one is refused for want of rights. Patterns find these
mailboxes only if they begin with the prefix, so that a client which fetches all there is does not fetch them.

They are ordinary mailboxes, made and brought up to date when one is named; see `schema/0023_undelete.sql`. A mailbox of
the account's own that has such a name is the one that is found.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sora.errors import InvalidName
from sora.protocols.imap.patterns import DELIMITER, parents
from sora.store.mailboxes import ListedMailbox, canonical_name
from sora.types import NO_RIGHTS, Rights, UidValidity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sora.protocols.imap.session import Session


def root_of(s: Session) -> str:
    """The prefix without its delimiter; empty: nobody sees deleted mail."""
    return s.node.config.cleanup.deleted_namespace.removesuffix(DELIMITER)


def is_deleted(s: Session, name: str) -> bool:
    """The name is one of this namespace, or of what leads there."""
    root = root_of(s)
    return bool(root) and (name == root or name.startswith(root + DELIMITER))


async def refresh(s: Session, name: str) -> str:
    """Bring the mailbox of a name below the prefix up to date, if it is one; the name as it is stored.

    Raises:
        Unavailable: The database is away, or somebody holds a lock for too long.
    """
    root = root_of(s)
    try:
        below = canonical_name(name.removeprefix(root).removeprefix(DELIMITER))
    except InvalidName:
        return name  # whoever looks for it finds nothing
    shadow = f"{root}{DELIMITER}{below}"
    await s.node.store.undelete.refresh(s.account_id, below, shadow, _grace(s))
    return shadow


async def listed(
    s: Session, patterns: Iterable[str], tree: Sequence[ListedMailbox], *, counted: bool
) -> list[ListedMailbox]:
    """What LIST shows beside the tree if a pattern begins with the prefix: where there is something to see.

    The mailbox that is selected is shown also when the last of it was restored.

    Args:
        patterns: With their reference in front.
        counted: Counters are wanted, so all of them are brought up to date.
    """
    root = root_of(s)
    if not root or not any(pattern.startswith(root) for pattern in patterns):
        return []
    known = {box.name for box in tree}
    selected = s.view.view.mailbox_id if s.selection is not None else None
    shown = await s.node.store.undelete.names(s.account_id, root + DELIMITER, _grace(s), selected)
    current = {f"{root}{DELIMITER}{name}": fresh for name, fresh in shown.items()}
    current = {name: fresh for name, fresh in current.items() if name not in known}
    above = {parent for name in current for parent in parents(name)} | ({root} if current else set())
    boxes = {name: _box(name, above) for name in current}
    boxes |= {name: _leads(name) for name in above - boxes.keys() - known}
    if counted:
        for name in (name for name, fresh in current.items() if not fresh):
            await refresh(s, name)
            await s.breathe()
        found = await s.node.store.mailboxes.status(s.account_id, list(current), s.account_id)
        for name, status in found.items():
            if status is not None:
                boxes[name] = replace(boxes[name], status=status, uidvalidity=status.uidvalidity)
    return list(boxes.values())


def _box(name: str, above: set[str]) -> ListedMailbox:
    rights = Rights.LOOKUP | Rights.READ | Rights.ADMINISTER
    return ListedMailbox(name, True, False, False, name in above, None, UidValidity(0), None, rights=rights)


def _leads(name: str) -> ListedMailbox:
    return ListedMailbox(name, False, True, False, True, None, UidValidity(0), None, rights=NO_RIGHTS, leads=True)


def _grace(s: Session) -> timedelta:
    return timedelta(seconds=s.node.config.cleanup.grace_period)
