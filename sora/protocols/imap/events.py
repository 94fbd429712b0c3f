"""What a command tells the scripts of mailboxes (RFC 6785 §2.2), before it is answered.

Messages come by APPEND (with MULTIAPPEND, CATENATE and REPLACE) or by COPY (with MOVE), and flags change by STORE and
by a FETCH that sets \\Seen. Only what really changed counts: a STORE of flags that were set already is no event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora.protocols.imap.views.selection import uids_of
from sora.store.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sora._native.viewcols import Snapshot
    from sora.protocols.imap.session import Session
    from sora.protocols.imap.views.selection import FlagEdit
    from sora.protocols.imap.views.view import FlagChange
    from sora.store.events import Cause
    from sora.types import AccountId, MailboxId

MAX_GROUPS: Final = 32
"""Rows that one STORE writes; more kinds of changes are told as one."""


async def arrived(s: Session, owner_id: AccountId, mailbox_id: MailboxId, cause: Cause, uids: Iterable[int]) -> None:
    """Messages have come into a mailbox."""
    if await _has_script(s, owner_id, mailbox_id):
        await _happened(s, owner_id, mailbox_id, cause, UidSet.from_numbers(uids))


async def flagged(s: Session, before: Snapshot, edit: FlagEdit, change: FlagChange) -> None:
    """Flags have changed in the selected mailbox.

    Args:
        before: The picture of the mailbox before.
    """
    view = s.view.view
    if not await _has_script(s, view.account_id, view.mailbox_id):
        return
    changed = uids_of((no, really) for no, _, really, _ in change.blocks)
    for uids, numbers in alike(before, edit, changed):
        names = " ".join(s.view.names[number].decode() for number in numbers if number in s.view.names)
        await _happened(s, view.account_id, view.mailbox_id, "FLAG", uids, names)


async def seen(s: Session, uids: UidSet) -> None:
    """A FETCH has set \\Seen."""
    view = s.view.view
    if await _has_script(s, view.account_id, view.mailbox_id):
        await _happened(s, view.account_id, view.mailbox_id, "FLAG", uids, "\\Seen")


def alike(before: Snapshot, edit: FlagEdit, changed: UidSet) -> list[tuple[UidSet, tuple[int, ...]]]:
    """Changed messages, by which of their flags have changed.

    Of a message that had other flags than the picture says, all that the command names count as changed.
    """
    cleared = set(before.flag_numbers()) if edit.replace else set(edit.clear)
    touched = dict.fromkeys(cleared - set(edit.set), True) | dict.fromkeys(edit.set, False)
    everything = changed, tuple(sorted(touched))
    groups: list[tuple[UidSet, tuple[int, ...]]] = [(before.present(changed), ())]
    for number, was_set in sorted(touched.items()):
        parts: list[tuple[UidSet, tuple[int, ...]]] = []
        for uids, numbers in groups:
            differ = before.among(uids, number, was_set)
            parts += [(differ, (*numbers, number)), (uids - differ, numbers)]
        groups = [part for part in parts if part[0]]
        if len(groups) > MAX_GROUPS:
            return [everything]
    groups.append((changed - before.present(changed), ()))
    return [(uids, numbers or everything[1]) for uids, numbers in groups if uids]


async def _has_script(s: Session, owner_id: AccountId, mailbox_id: MailboxId) -> bool:
    return await s.node.imapsieve.script_of(owner_id, mailbox_id) is not None


async def _happened(
    s: Session, owner_id: AccountId, mailbox_id: MailboxId, cause: Cause, uids: UidSet, changed_flags: str = ""
) -> None:
    named = await s.node.imapsieve.script_of(owner_id, mailbox_id)
    if named is None or not uids:
        return
    assert s.identity is not None
    event = Event(
        account_id=owner_id,
        mailbox_id=mailbox_id,
        script=named.name,
        everywhere=named.everywhere,
        cause=cause,
        uids=uids,
        actor_id=s.identity.account_id,
        login=s.identity.address,
        changed_flags=changed_flags,
    )
    await s.node.imapsieve.happened(event)
