"""What others share with a session's account, as LIST shows it: below `Shared/<owner>/`, beside its own mailboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from sora.protocols.imap.patterns import DELIMITER, parents
from sora.protocols.imap.places import prefix_of
from sora.store.mailboxes import ListedMailbox
from sora.types import NO_RIGHTS, UidValidity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sora.protocols.imap.session import Session
    from sora.store.acl import SharedMailbox


async def tree_of(s: Session, *, unseen: bool = False) -> list[ListedMailbox]:
    """Everything that LIST and LSUB may show: the session's own mailboxes and subscriptions, and what it may look up.

    Args:
        unseen: The counters of shared mailboxes are wanted.
    """
    own, shared = await s.node.store.acl.list_all(s.account_id, unseen=unseen)
    return joined(own, shared) if shared else own


def joined(own: Sequence[ListedMailbox], shared: Iterable[SharedMailbox]) -> list[ListedMailbox]:
    """A subscription to a shared mailbox becomes that mailbox; names that only lead to one are there too."""
    tree = {box.name: box for box in own}
    listed = {prefix_of(box.owner) + box.name: box for box in shared}
    above = {parent for name in listed for parent in parents(name)}
    for name in above - listed.keys():
        subscribed = name in tree and tree[name].subscribed
        tree[name] = ListedMailbox(
            name, False, True, subscribed, True, None, UidValidity(0), None, rights=NO_RIGHTS, leads=True
        )
    for name, box in listed.items():
        subscribed = name in tree and tree[name].subscribed
        tree[name] = ListedMailbox(
            name=name,
            exists=True,
            noselect=box.noselect,
            subscribed=subscribed,
            has_children=name in above,
            special_use=None,  # the owner's Sent is nobody else's
            uidvalidity=box.status.uidvalidity,
            status=replace(box.status, name=name),
            rights=box.rights,
            owner_id=box.owner_id,
        )
    return [tree[name] for name in sorted(tree, key=str.encode)]


def own_name(box: ListedMailbox) -> str:
    """What the owner calls a mailbox of the tree."""
    return box.name if box.owner_id is None else box.name.split(DELIMITER, 2)[2]
