"""STORE: flags are set and cleared, on condition if the client wants (RFC 7162 §3.1.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora._native.seqset import UidSet
from sora._native.viewcols import Snapshot  # noqa: TC001 — msgspec reads the annotations at run time
from sora.errors import Expunged, LimitExceeded, NoPermission
from sora.protocols.imap import events, messagelimit
from sora.protocols.imap.enable import CONDSTORE, switch_on
from sora.protocols.imap.replies import NO, OK, Reply
from sora.protocols.imap.rights import ALL_FLAGS, allowed, allowed_names
from sora.protocols.imap.views.selection import NO_UIDS, FlagEdit, uids_of
from sora.store.flags import FlagChange  # noqa: TC001
from sora.wire.imap_commands import StoreMode

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session
    from sora.wire import imap_commands as wire

MAX_KEYWORDS: Final = 64
"""Keywords of one message: each costs its block another plane of bits."""


class Stored(Struct, frozen=True):
    """What became of a flag change.

    Attributes:
        left: Messages that were still there.
        failed: Those of them that had changed since the client looked.
        before: The picture of the mailbox before.
        change: What the database said.
    """

    left: int
    failed: UidSet
    before: Snapshot
    change: FlagChange


async def store(s: Session, cmd: wire.Store) -> Reply | None:
    """RFC 9051 §6.4.6, with the limit of RFC 9738.

    Messages that changed meanwhile are named in the number space of the command (RFC 7162 §3.1.3).

    Raises:
        ReadOnly: The mailbox was opened by EXAMINE.
        NoPermission: None of the flags is the session's to change; if some are, they are changed (RFC 4314 §4).
        Expunged: Some of the numbers stand for messages that are gone; the others were changed.
        LimitExceeded: Too many keywords.
    """
    if cmd.unchanged_since is not None:
        switch_on(s, CONDSTORE)
    chosen = messagelimit.cut(s, s.uids(cmd.messages))
    uids = chosen.uids
    s.view.require_writable()
    edit = await _edit_of(s, cmd)
    if not uids:
        return None
    done = await change_flags(s, uids, edit, tell=not cmd.silent, unchanged_since=cmd.unchanged_since)
    await events.flagged(s, done.before, edit, done.change)
    by_uid = isinstance(cmd.messages, UidSet)
    gone = done.left < len(uids) and not by_uid
    if done.failed or gone:
        chosen.tell(s)
    if done.failed:
        code = b"MODIFIED " + bytes(done.failed if by_uid else s.view.told.seqs(done.failed))
        text = b"Some of the messages no longer exist" if gone else b"Conditional STORE failed"
        return Reply(NO if gone else OK, text, code)
    if gone:
        raise Expunged("Some of the messages no longer exist")
    return chosen.reply


async def _edit_of(s: Session, cmd: wire.Store) -> FlagEdit:
    """Flag names to numbers; keywords that are new are registered, but not by taking them away."""
    keywords, rights = s.view.view.keywords, s.view.view.rights
    flags = allowed_names(rights, cmd.flags, keywords)
    replaced = allowed(rights, keywords.names) if cmd.mode is StoreMode.REPLACE else ()
    if not flags and not replaced and (cmd.flags or cmd.mode is StoreMode.REPLACE):
        raise NoPermission
    if cmd.mode is StoreMode.REMOVE:
        return FlagEdit(clear=keywords.known(flags))
    if sum(not flag.startswith(b"\\") for flag in flags) > MAX_KEYWORDS:
        raise LimitExceeded(f"A message may have {MAX_KEYWORDS} keywords")
    numbers = await keywords.numbers(flags)
    if rights & ALL_FLAGS == ALL_FLAGS:
        return FlagEdit(numbers, replace=cmd.mode is StoreMode.REPLACE)
    return FlagEdit(numbers, sorted(set(replaced) - set(numbers)))  # the others stay as they are


async def change_flags(
    s: Session, uids: UidSet, edit: FlagEdit, *, tell: bool, unchanged_since: int | None = None
) -> Stored:
    """Change flags in the database, in the shared picture and in the client's.

    Args:
        tell: The client hears the flags of all of `uids` at the end of the command; else it knows them by itself.
        unchanged_since: Messages that changed later are left alone.
    """
    selection = s.view
    view = selection.view
    before = view.newest
    change = await s.node.store.messages.store_flags(
        view.account_id, view.mailbox_id, uids, edit.set, edit.clear, edit.replace, unchanged_since,
        viewer_id=view.viewer_id,
    )  # fmt: skip
    failed = NO_UIDS
    if unchanged_since is not None:
        failed = uids_of((no, refused) for no, _, _, refused in change.blocks)
        if failed:
            view.modseqs.doubt(failed, unchanged_since)
        selection.tell_modseqs(uids - failed)  # with .SILENT too, and if nothing has changed
    selection.changed(change, edit, uids - failed if tell else NO_UIDS)
    s.publish(view.account_id, view.mailbox_id, change.modseq)
    applied = sum(int.from_bytes(applied).bit_count() for _, applied, _, _ in change.blocks)
    return Stored(applied + len(failed), failed, before, change)
