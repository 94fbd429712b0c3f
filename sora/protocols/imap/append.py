"""APPEND: messages come, one or several to a command.

Each message is decided about when it is announced, and taken in as it arrives: what is large goes to a spool file, as
in LMTP, so that a connection holds little of it in memory. They are stored when the command is whole, all or none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora.errors import BadSyntax, InvalidName, LimitExceeded, NotFound, OverQuota, Refused, SoraError, TooBig
from sora.protocols.imap.messagelimit import save_limit, too_many
from sora.protocols.imap.places import Place, place_of
from sora.protocols.imap.replies import Reply, TryCreate
from sora.protocols.imap.rights import allowed_names, require
from sora.protocols.imap.transfer import known
from sora.services import intake
from sora.services.delivery import AppendItem
from sora.services.intake import Intake
from sora.types import Rights
from sora.wire import imap_commands as wire
from sora.wire import imap_responses as responses

if TYPE_CHECKING:
    from sora._native.imapscan import Command as Line
    from sora._native.imapscan import NeedLiteral
    from sora.protocols.imap.session import Session
    from sora.store.diskfile import Octets
    from sora.store.mailboxes import Target
    from sora.store.staging import Staging

MULTIAPPEND_BYTES: Final = 64 * 1024 * 1024
"""All messages of one APPEND, unless a single one may have more: they are committed together."""
MULTIAPPEND_MESSAGES: Final = 1000
"""Small ones cost more than their octets."""


class Appending:
    """An APPEND of which messages are still to come.

    Attributes:
        line: The command being read, one object from its first literal to its last.
        place: Whose mailbox they go to.
        target: Where the messages shall go, and the room there when the first one was announced.
        count: Messages announced so far.
        size: Their octets.
        error: Why they cannot be stored; None while they can.
    """

    __slots__ = (
        "_held", "_in_turn", "_intake", "_staging", "_taken", "count", "error", "line", "place", "size", "target",
    )  # fmt: skip

    def __init__(self, line: Line, place: Place, target: Target, staging: Staging) -> None:
        self.line = line
        self.place = place
        self.target = target
        self.count = 0
        self.size = 0
        self.error: SoraError | None = None
        self._staging = staging
        self._held = 0
        self._intake: Intake | None = None
        self._taken: list[Intake] = []
        self._in_turn = False

    def announce(self, size: int, limit: int) -> None:
        """Count a message of *size* octets.

        Raises:
            LimitExceeded: It is one too many.
            TooBig: It is larger than *limit*, or the messages are together.
            OverQuota: They do not fit.
            Unavailable: There was no room for one before it.
        """
        self.count += 1
        self.size += size
        if self.count > MULTIAPPEND_MESSAGES:
            raise LimitExceeded(f"One command may have {MULTIAPPEND_MESSAGES} messages")
        if self.size > max(limit, MULTIAPPEND_BYTES):
            raise TooBig("The messages of this command are too big together")
        if not self.target.has_room(self.count, self.size):
            raise OverQuota
        if self.error is not None:
            raise self.error
        # Those that are held already leave less for it, but a small one is not worth a file.
        in_memory = max(intake.SLICE, intake.IN_MEMORY - self._held)
        self._intake = Intake(self._staging, size, in_memory)

    async def receive(self, s: Session, *, binary: bool) -> None:
        """Take in the message that was announced last; the scanner streams it.

        Raises:
            PeerGone: The rest of it does not come.
        """
        assert self._intake is not None, "a message is announced before it is received"
        while s.scanner.remaining:
            octets = s.scanner.take(s.scanner.remaining)
            if not octets:
                await s.more()
                continue
            if not binary and b"\0" in octets:
                self._intake.fail(BadSyntax("NUL in a message that is no literal8 (RFC 3516)"))
            self._intake.add(octets)
            await self._intake.settle()
        await self._finish(self._intake)

    async def _finish(self, taken: Intake) -> None:
        try:
            await taken.complete()
        except SoraError as error:
            self.error = self.error or error
            taken.close()
        else:
            self._taken.append(taken)
            self._held += taken.held
        self._intake = None

    async def messages(self) -> list[Octets]:
        """The messages, in order, in memory or mapped; it may be asked once, and `close` ends it.

        Those that take memory while they are stored wait for their turn, all of a command together: a command that
        waited for a second turn might wait for itself.

        Raises:
            Unavailable: The disk failed.
        """
        if any(taken.needs_turn for taken in self._taken):
            await self._staging.mapped.acquire()
            self._in_turn = True
        return [await taken.finish(in_turn=True) for taken in self._taken]

    def close(self) -> None:
        """Let go of everything."""
        for taken in (self._intake, *self._taken):
            if taken is not None:
                taken.close()
        self._intake, self._taken = None, []
        if self._in_turn:
            self._in_turn = False
            self._staging.mapped.release()


def is_message(line: Line) -> bool:
    """The literal that an unfinished APPEND has announced is a message, and not the name of the mailbox."""
    mark = line.cursor.mark()
    try:
        return not line.cursor.sp().at_pending()
    except BadSyntax:
        return True  # check_message reads the same arguments, and says what is wrong with them
    finally:
        line.cursor.reset(mark)


async def check_message(s: Session, line: Line, literal: NeedLiteral) -> Appending:
    """Decide about a message before a byte of it is read; once for each message of the command.

    The mailbox is looked up, and what precedes the message read, for the first one alone: the command is parsed as a
    whole when it is complete, and parsing it once for each message would cost the square of their number.

    Raises:
        TryCreate: There is no such mailbox.
        SoraError: As `Appending.announce`.
    """
    limit = s.limits.message_size
    if s.appending is not None and s.appending.line is line and s.appending.count >= (few := save_limit(s)):
        raise too_many(few)
    if literal.size > limit:
        raise TooBig(f"A message may have {limit} octets")
    if s.appending is None or s.appending.line is not line:
        mark = line.cursor.mark()
        cmd = wire.parse_append(line.cursor)
        line.cursor.reset(mark)
        s.appending = Appending(line, *await _target(s, cmd.mailbox), s.node.staging)
    s.appending.announce(literal.size, limit)
    return s.appending


async def _target(s: Session, name: str) -> tuple[Place, Target]:
    try:
        place = await place_of(s, name)
    except (NotFound, InvalidName):
        raise TryCreate from None
    target = await s.node.store.mailboxes.find_target(place.owner_id, place.name, s.account_id)
    if target is None or target.mailbox.noselect or not target.mailbox.rights & Rights.LOOKUP:
        raise TryCreate
    require(target.mailbox.rights, Rights.INSERT)
    return place, target


async def append(s: Session, cmd: wire.Append) -> Reply:
    """RFC 9051 §6.3.12, RFC 3502, and the APPENDUID of RFC 4315 §3: all messages or none.

    Raises:
        TryCreate: The mailbox is gone.
        OverQuota: They do not fit.
        OutcomeUnknown: They may be there.
    """
    appending, s.appending = s.appending, None
    if appending is None:
        raise BadSyntax("APPEND needs a message, as a literal")
    try:
        return await _store(s, cmd, appending)
    finally:
        appending.close()


async def _store(s: Session, cmd: wire.Append, appending: Appending) -> Reply:
    if not cmd.items:
        raise BadSyntax("APPEND needs a message, as a literal")
    if appending.error is not None:
        raise appending.error
    items = [
        await _item(s, appending, item, data) for item, data in zip(cmd.items, await appending.messages(), strict=True)
    ]
    try:
        result = await known(
            s.node.delivery.append(
                appending.place.owner_id, appending.target.mailbox.mailbox_id, items, appending.place.viewer_id
            )
        )
    except NotFound:
        raise TryCreate from None
    if s.notifying is not None:
        s.notifying.wrote(appending.target.mailbox.mailbox_id, result.modseq, result.uids)
    return Reply(code=responses.appenduid(result.uidvalidity, UidSet.from_numbers(result.uids)))


async def _item(s: Session, appending: Appending, item: wire.AppendItem, data: Octets) -> AppendItem:
    if not data:
        raise Refused("A message needs at least one octet")
    keywords = s.server.keywords.of(appending.place.owner_id)
    numbers = await keywords.numbers(allowed_names(appending.target.mailbox.rights, item.flags, keywords))
    return AppendItem(data, tuple(numbers), item.internal_date)
