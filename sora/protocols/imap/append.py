"""APPEND and REPLACE: messages come, one or several to a command, as literals or put together of what is here.

Each message is decided about when it is announced, and taken in as it arrives: what is large goes to a spool file, as
in LMTP, so that a connection holds little of it in memory. They are stored when the command is whole, all or none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora.errors import BadSyntax, InvalidName, LimitExceeded, NotFound, OverQuota, Refused, SoraError, TooBig
from sora.protocols.imap import events
from sora.protocols.imap.catenate import Urls
from sora.protocols.imap.messagelimit import save_limit, too_many
from sora.protocols.imap.places import Place, place_of
from sora.protocols.imap.replaced import forget, old_message
from sora.protocols.imap.replies import Reply, TryCreate
from sora.protocols.imap.rights import allowed_names, require
from sora.protocols.imap.transfer import known
from sora.services import intake
from sora.services.delivery import AppendItem
from sora.services.intake import Intake
from sora.types import Rights
from sora.wire import imap_append as wire
from sora.wire import imap_responses as responses
from sora.wire.imap_append import Reader, Step, Url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora._native.imapscan import Command as Line
    from sora._native.imapscan import NeedLiteral
    from sora._native.seqset import SeqSet
    from sora.protocols.imap.session import Session
    from sora.services.delivery import AppendResult
    from sora.store.diskfile import Octets
    from sora.store.mailboxes import Target
    from sora.store.replacing import Replaced
    from sora.types import AccountId

MULTIAPPEND_BYTES: Final = 64 * 1024 * 1024
"""All messages of one APPEND, unless a single one may have more: they are committed together."""
MULTIAPPEND_MESSAGES: Final = 1000
"""Small ones cost more than their octets."""


class Appending:
    """An APPEND or REPLACE of which messages are still to come.

    Attributes:
        line: The command being read, one object from its first literal to its last; None: it had none.
        reader: Of its arguments.
        place: Whose mailbox they go to.
        target: Where the messages shall go, and the room there when the first one was announced.
        replaced: The message that goes with them (REPLACE).
        error: Why they cannot be stored; None while they can.
    """

    __slots__ = (
        "_count", "_held", "_in_turn", "_intake", "_is_list", "_limit", "_message_size", "_messages_limit", "_parts",
        "_size", "_staging", "_taken", "_urls", "error", "line", "place", "reader", "replaced", "target",
    )  # fmt: skip

    def __init__(self, s: Session, line: Line | None) -> None:
        self.line = line
        self.reader = None if line is None else Reader(line.cursor, replaces=line.name != b"APPEND")
        self.place: Place | None = None
        self.target: Target | None = None
        self.replaced: Replaced | None = None
        self.error: SoraError | None = None
        self._staging = s.node.staging
        self._limit = s.limits.message_size
        self._messages_limit = save_limit(s)
        self._count = 0  # messages begun
        self._size = 0  # their octets, and those that are announced
        self._message_size = 0  # of the one in hand
        self._parts = 0  # of it, that have been taken
        self._is_list = False
        self._held = 0
        self._intake: Intake | None = None
        self._taken: list[Intake] = []
        self._urls = Urls()
        self._in_turn = False

    async def find(self, s: Session, mailbox: str, messages: SeqSet | UidSet | None) -> None:
        """Where the messages go, and what they replace; asked for once.

        The room is asked for when the first message is announced, and again when they are committed.

        Raises:
            TryCreate: There is no such mailbox.
            SoraError: As `old_message`.
        """
        self.place, self.target = await _target(s, mailbox)
        if messages is not None:
            self.replaced = await old_message(s, messages)

    def begin(self, *, is_list: bool) -> None:
        """A message begins.

        Raises:
            Coded, LimitExceeded: It is one too many.
            Unavailable: There was no room for one before it.
        """
        if self._count >= self._messages_limit:
            raise too_many(self._messages_limit)
        self._count += 1
        if self._count > MULTIAPPEND_MESSAGES:
            raise LimitExceeded(f"One command may have {MULTIAPPEND_MESSAGES} messages")
        self._message_size = self._parts = 0
        self._is_list = is_list
        # Those that are held already leave less for it, but a small one is not worth a file.
        self._intake = Intake(self._staging, self._limit, max(intake.SLICE, intake.IN_MEMORY - self._held))

    def announce(self, size: int) -> None:
        """Count octets that shall be added to the message in hand.

        Raises:
            TooBig: It is too large, or the messages are together.
            OverQuota: They do not fit.
            Unavailable: There was no room for a message before it.
        """
        assert self.target is not None, "the mailbox is known before the message"
        self._size += size
        self._message_size += size
        self._parts += 1
        if self._message_size > self._limit:
            raise TooBig(f"A message may have {self._limit} octets")
        if self._size > max(self._limit, MULTIAPPEND_BYTES):
            raise TooBig("The messages of this command are too big together")
        count, total = self._count, self._size
        if self.replaced is not None and self.place is not None and self.replaced.account_id == self.place.owner_id:
            count, total = count - 1, total - self.replaced.size  # RFC 8508 §3.4: what counts is the difference
        if not self.target.has_room(count, total):
            raise OverQuota
        if self.error is not None:
            raise self.error

    async def take(self, s: Session, step: Step | Url) -> None:
        """Something that the reader has met.

        Raises:
            SoraError: As `begin` and `announce`, or the URL leads nowhere.
        """
        if isinstance(step, Url):
            await self._copy(s, step.url)
        elif step is Step.END:
            await self.finish()
        else:
            self.begin(is_list=step is Step.BEGIN)

    async def take_rest(self, s: Session, items: Sequence[wire.AppendItem]) -> None:
        """The URLs behind the last literal of the command, and of messages that have none."""
        for number, item in enumerate(items, 1):
            if number < self._count or (number == self._count and self._intake is None):
                continue
            if number > self._count:
                self.begin(is_list=True)
            for part in item.parts[self._parts :]:
                assert isinstance(part, Url), "a literal is announced when it comes"
                await self._copy(s, part.url)
            await self.finish()

    async def _copy(self, s: Session, url: bytes) -> None:
        """Octets that are here already; they go to the file in slices, like those that come."""
        assert self._intake is not None, "a URL is part of a message"
        octets = await self._urls.octets(s, url)
        self.announce(len(octets))
        for start in range(0, len(octets), intake.SLICE):
            self._intake.add(bytes(octets[start : start + intake.SLICE]))
            await self._intake.settle()

    async def receive(self, s: Session, *, binary: bool) -> None:
        """Take in the message that was announced last; the scanner streams it.

        Raises:
            PeerGone: The rest of it does not come.
        """
        self._urls.forget()
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
        if not self._is_list:
            await self.finish()

    async def finish(self) -> None:
        """The message in hand is whole."""
        taken = self._intake
        assert taken is not None, "a message is begun before it is whole"
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
        self._urls.forget()
        if self._in_turn:
            self._in_turn = False
            self._staging.mapped.release()


async def decide(s: Session, line: Line, literal: NeedLiteral) -> Appending | None:
    """Decide about a literal before a byte of it is read; None: it is no octets of a message.

    What precedes the literal is read from where the one before it ended: to parse the command once for each message
    would cost the square of their number.

    Raises:
        BadSyntax: The command is wrong already.
        SoraError: As `Appending.find`, `take` and `announce`.
    """
    appending = s.appending
    if appending is None or appending.line is not line:
        appending = s.appending = Appending(s, line)
    reader = appending.reader
    assert reader is not None, "there is a line"
    steps, is_message = reader.advance()
    if is_message and literal.size > s.limits.message_size:
        raise TooBig(f"A message may have {s.limits.message_size} octets")
    if appending.target is None and reader.mailbox is not None:
        await appending.find(s, reader.mailbox, reader.messages)
    for step in steps:
        await appending.take(s, step)
    if not is_message:
        return None
    appending.announce(literal.size)
    return appending


async def _target(s: Session, name: str) -> tuple[Place, Target]:
    try:
        place = await place_of(s, name)
    except (NotFound, InvalidName):
        raise TryCreate from None
    target = await s.node.store.mailboxes.find_target(place.owner_id, place.name, s.account_id)
    if target is None or target.mailbox.noselect:
        raise TryCreate
    try:
        require(target.mailbox.rights, Rights.INSERT)
    except NotFound:
        raise TryCreate from None
    return place, target


async def append(s: Session, cmd: wire.Append) -> Reply:
    """RFC 9051 §6.3.12, RFC 3502, RFC 4469, and the APPENDUID of RFC 4315 §3: all messages or none.

    Raises:
        TryCreate: The mailbox is gone.
        OverQuota: They do not fit.
        OutcomeUnknown: They may be there.
    """
    appending = _taken(s)
    try:
        result = await _store(s, cmd, appending)
    finally:
        appending.close()
    return Reply(code=_appenduid(result))


async def replace(s: Session, cmd: wire.Replace) -> None:
    """RFC 8508 §3: the new message is there and the old one gone, in one transaction, or nothing has happened.

    The client hears of the new UID before the old message goes (§4.3).

    Raises:
        Expunged: The old message is gone.
        SoraError: As `append` and `old_message`.
    """
    appending = _taken(s)
    try:
        result = await _store(s, cmd, appending)
    finally:
        appending.close()
    assert appending.replaced is not None, "it was found before anything was stored"
    s.write(b"* OK [%s] Replacement stored\r\n" % _appenduid(result))
    await forget(s, appending.replaced, result.replaced_modseq)


def _taken(s: Session) -> Appending:
    """What has come with the literals of the command, if it had any."""
    appending, s.appending = s.appending, None
    return appending or Appending(s, None)


def _appenduid(result: AppendResult) -> bytes:
    return responses.appenduid(result.uidvalidity, UidSet.from_numbers(result.uids))


async def _store(s: Session, cmd: wire.Append | wire.Replace, appending: Appending) -> AppendResult:
    if appending.target is None:
        await appending.find(s, cmd.mailbox, cmd.messages if isinstance(cmd, wire.Replace) else None)
    await appending.take_rest(s, cmd.items)
    if appending.error is not None:
        raise appending.error
    assert appending.place is not None
    assert appending.target is not None
    owner_id, mailbox = appending.place.owner_id, appending.target.mailbox
    items = [
        await _item(s, owner_id, mailbox.rights, item, data)
        for item, data in zip(cmd.items, await appending.messages(), strict=True)
    ]
    try:
        result = await known(
            s.node.delivery.append(owner_id, mailbox.mailbox_id, items, appending.place.viewer_id, appending.replaced)
        )
    except NotFound:
        raise TryCreate from None
    if s.notifying is not None:
        s.notifying.wrote(mailbox.mailbox_id, result.modseq, result.uids)
    await events.arrived(s, owner_id, mailbox.mailbox_id, "APPEND", result.uids)
    return result


async def _item(s: Session, owner_id: AccountId, rights: Rights, item: wire.AppendItem, data: Octets) -> AppendItem:
    if not data:
        raise Refused("A message needs at least one octet")
    keywords = s.server.keywords.of(owner_id)
    numbers = await keywords.numbers(allowed_names(rights, item.flags, keywords))
    return AppendItem(data, tuple(numbers), item.internal_date)
