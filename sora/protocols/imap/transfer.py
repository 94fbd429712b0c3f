"""APPEND, COPY, MOVE and EXPUNGE: messages come, go and are doubled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora._native.seqset import UidSet
from sora.crashpoints import crash_point
from sora.errors import BadSyntax, Expunged, LimitExceeded, NotFound, OverQuota, Refused, TooBig
from sora.protocols.imap.replies import ReadOnly, Reply, TryCreate
from sora.services.delivery import AppendItem
from sora.wire import imap_commands as wire
from sora.wire import imap_responses as responses

if TYPE_CHECKING:
    from sora._native.imapscan import Command as Line
    from sora._native.imapscan import NeedLiteral
    from sora.protocols.imap.session import Session
    from sora.store.mailboxes import Mailbox, Target
    from sora.store.messages import CopyResult

MULTIAPPEND_BYTES: Final = 64 * 1024 * 1024
"""All messages of one APPEND, unless a single one may have more: committed together, they are held together."""
MULTIAPPEND_MESSAGES: Final = 1000
"""Small ones cost more than their octets."""


# ---------------------------------------------------------------------------------------------------- APPEND


def is_message(line: Line) -> bool:
    """The literal that an unfinished APPEND has announced is a message, and not the name of the mailbox."""
    mark = line.cursor.mark()
    try:
        return not line.cursor.sp().at_pending()
    except BadSyntax:
        return True  # check_message reads the same arguments, and says what is wrong with them
    finally:
        line.cursor.reset(mark)


class Appending(Struct):
    """An APPEND of which messages are still to come.

    Attributes:
        line: The command being read, one object from its first literal to its last.
        target: Where the messages shall go, and the room there when the first one was announced.
        messages: Announced so far.
        size: Their octets.
    """

    line: Line
    target: Target
    messages: int = 0
    size: int = 0


async def check_message(s: Session, line: Line, literal: NeedLiteral) -> None:
    """Decide about a message before a byte of it is read; once for each message of the command.

    The mailbox is looked up, and what precedes the message read, for the first one alone: the command is parsed as a
    whole when it is complete, and parsing it once for each message would cost the square of their number.

    Raises:
        TooBig: It is larger than the limit, or the messages of the command are together.
        TryCreate: There is no such mailbox.
        OverQuota: They do not fit.
    """
    limit = s.limits.message_size
    if literal.size > limit:
        raise TooBig(f"A message may have {limit} octets")
    if s.appending is None or s.appending.line is not line:
        mark = line.cursor.mark()
        cmd = wire.parse_append(line.cursor)
        line.cursor.reset(mark)
        s.appending = Appending(line, await _append_target(s, cmd.mailbox))
    appending = s.appending
    appending.messages += 1
    appending.size += literal.size
    if appending.messages > MULTIAPPEND_MESSAGES:
        raise LimitExceeded(f"One command may have {MULTIAPPEND_MESSAGES} messages")
    if appending.size > max(limit, MULTIAPPEND_BYTES):
        raise TooBig("The messages of this command are too big together")
    if not appending.target.has_room(appending.messages, appending.size):
        raise OverQuota


async def _append_target(s: Session, name: str) -> Target:
    target = await s.node.store.mailboxes.find_target(s.account_id, name)
    if target is None or target.mailbox.noselect:
        raise TryCreate
    return target


async def append(s: Session, cmd: wire.Append) -> Reply:
    """RFC 9051 §6.3.12, RFC 3502, and the APPENDUID of RFC 4315 §3: all messages or none.

    Raises:
        TryCreate: The mailbox is gone.
        OverQuota: They do not fit.
    """
    appending, s.appending = s.appending, None
    if appending is None or not cmd.items:
        raise BadSyntax("APPEND needs a message, as a literal")
    target = appending.target.mailbox
    items = [await _item(s, item) for item in cmd.items]
    try:
        result = await s.node.delivery.append(s.account_id, target.mailbox_id, items)
    except NotFound:
        raise TryCreate from None
    return Reply(code=responses.appenduid(result.uidvalidity, UidSet.from_numbers(result.uids)))


async def _item(s: Session, item: wire.AppendItem) -> AppendItem:
    data = item.data
    if not data:
        raise Refused("A message needs at least one octet")
    if not item.binary and b"\0" in data:
        raise BadSyntax("NUL in a message that is no literal8 (RFC 3516)")
    numbers = await s.server.keywords.of(s.account_id).numbers(item.flags)
    return AppendItem(data, tuple(numbers), item.internal_date)


async def target_of(s: Session, name: str) -> Mailbox:
    """The mailbox that messages shall go to.

    Raises:
        TryCreate: There is none, or it cannot hold messages.
    """
    mailbox = await s.node.store.mailboxes.find(s.account_id, name)
    if mailbox is None or mailbox.noselect:
        raise TryCreate
    return mailbox


# ---------------------------------------------------------------------------------------------------- COPY and MOVE


async def copy(s: Session, cmd: wire.Copy) -> Reply | None:
    """RFC 9051 §6.4.7: all messages or none."""
    view = s.view.view
    target = await target_of(s, cmd.mailbox)
    uids = await _still_there(s, cmd)
    if not uids:
        return None
    crash_point("copy.chosen")
    try:
        done = await s.node.store.messages.copy(s.account_id, view.mailbox_id, uids, target.mailbox_id)
    except NotFound:
        raise TryCreate from None
    crash_point("copy.committed")
    if not done.source_uids:
        return None
    s.node.changes.publish(s.account_id, target.mailbox_id, done.target_modseq)
    return Reply(code=_copyuid(done))


async def move(s: Session, cmd: wire.Move) -> None:
    """RFC 6851 §3.3: untagged COPYUID, then the expunges, then the tagged OK."""
    selection = s.view
    view = selection.view
    if selection.read_only:
        raise ReadOnly
    target = await target_of(s, cmd.mailbox)
    uids = await _still_there(s, cmd)
    if not uids:
        return
    crash_point("move.chosen")
    try:
        done = await s.node.store.messages.move(s.account_id, view.mailbox_id, uids, target.mailbox_id)
    except NotFound:
        raise TryCreate from None
    crash_point("move.committed")
    if not done.source_uids:
        return
    s.write(b"* OK [%s] Moved\r\n" % _copyuid(done))
    if target.mailbox_id != view.mailbox_id:  # else the same modseq brings the copies: only the database has it all
        view.expunged(done.source_modseq, done.source_uids)
    s.node.changes.publish(s.account_id, view.mailbox_id, done.source_modseq)
    s.node.changes.publish(s.account_id, target.mailbox_id, done.target_modseq)


async def _still_there(s: Session, cmd: wire.Copy | wire.Move) -> UidSet:
    """UIDs of the messages that the command names.

    Raises:
        Expunged: A sequence number stands for a message that is gone. UIDs that are gone are skipped.
    """
    view = s.view.view
    uids = s.uids(cmd.messages)
    if view.stale:
        await view.refresh()
    left = view.newest.present(uids)
    if len(left) < len(uids) and not isinstance(cmd.messages, UidSet):
        raise Expunged("Some of the messages no longer exist")
    return left


def _copyuid(done: CopyResult) -> bytes:
    """COPYUID (RFC 4315 §3): both sets ascending, so that they belong together pairwise."""
    source, target = UidSet.from_numbers(done.source_uids), UidSet.from_numbers(done.target_uids)
    return responses.copyuid(done.uidvalidity, source, target)


# ---------------------------------------------------------------------------------------------------- EXPUNGE


async def expunge(s: Session, cmd: wire.Expunge) -> None:
    r"""RFC 9051 §6.4.3 and UID EXPUNGE (§6.4.9): messages with \Deleted, of the UIDs given or of all.

    Raises:
        ReadOnly: The mailbox was opened by EXAMINE.
    """
    selection = s.view
    view = selection.view
    if selection.read_only:
        raise ReadOnly
    uids = None if cmd.uids is None else s.uids(cmd.uids)
    if uids is not None and not uids:
        return
    crash_point("expunge.chosen")
    done = await s.node.store.messages.expunge(s.account_id, view.mailbox_id, uids)
    crash_point("expunge.committed")
    if done.uids:
        view.expunged(done.modseq, done.uids)
        s.node.changes.publish(s.account_id, view.mailbox_id, done.modseq)
