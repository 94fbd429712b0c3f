"""Carrying out what scripts decided about a delivery, up to where it is written down.

Mailboxes are found or made, flags get their numbers, mail that leaves is made ready. The rest is a value (`Filtered`)
that the delivery stores in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 — msgspec reads the annotations at run time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from sora import log, metrics
from sora.errors import AlreadyExists, Refused, SoraError
from sora.sieve.actions import Action, Discard, FileInto, Keep, Outcome, Redirect, Reject, Remembered, Send
from sora.sieve.disposition import Refusal, report
from sora.sieve.mail import Mail  # noqa: TC001
from sora.store.deliveries import HELD
from sora.store.effects import Replied
from sora.store.mailboxes import INBOX
from sora.store.outbound import Outgoing, Params
from sora.types import SYSTEM_FLAGS, MailboxId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from sora.services.filters.answers import Answers
    from sora.services.letters import MailEnvelope
    from sora.services.recipients import Recipient
    from sora.sieve.interpreter import Environment
    from sora.store.store import Store
    from sora.store.trees import Leaf
    from sora.tables import SieveTable
    from sora.types import AccountId

_log = log.get(__name__)

REDIRECTED_FROM: Final = "X-Sieve-Redirected-From"
FULL: Final = "too much mail of the account waits to be sent"
REPLY_WIDTH: Final = 400
"""Octets of a line of a reply; RFC 5321 §4.5.3.1.5 allows 512 with the code."""
REPLY_LINES: Final = 20
_FLAG_NUMBERS: Final = {flag.decode().lower(): number for number, flag in SYSTEM_FLAGS.items()}
_USES: Final = {use.lower(): use for use in (r"\Archive", r"\Drafts", r"\Flagged", r"\Junk", r"\Sent", r"\Trash")}
"""Special uses that a mailbox is made with; another one is only looked for."""
_BY_MODES: Final = {"NOTIFY": "N", "RETURN": "R"}


class Rejected(Refused):
    """A script has refused the message (RFC 5429)."""

    default_text = "The recipient refused the message"


class NoPlace(Refused):
    """A mailbox that a script wants is not there, and cannot be made; or the queue of the account is full."""


class QueueRoom:
    """What a run may still put into the queue of its account.

    Args:
        most: Mails of the account that may wait; 0: any number.
    """

    def __init__(self, store: Store, account_id: AccountId, most: int) -> None:
        self._store = store
        self._account_id = account_id
        self._most = most
        self._left: int | None = None

    async def take(self) -> bool:
        """One more mail; False: there is no room for it."""
        if not self._most:
            return True
        if self._left is None:
            self._left = await self._store.outbound.room(self._account_id, self._most)
        self._left -= 1
        return self._left >= 0


class Wish(Struct, frozen=True):
    """A letter to be written.

    Attributes:
        mailbox_id: None: INBOX; or `HELD`.
        mail: As it is stored.
        flags: Flag numbers.
        made: A script made it; it is no version of the message.
    """

    mailbox_id: MailboxId | None
    mail: Mail
    flags: tuple[int, ...] = ()
    made: bool = False


class Filtered(Struct, frozen=True):
    """What becomes of a message for one recipient.

    Attributes:
        outgoing: Their `letter` is a place in `wishes`.
        refused: Why it is not taken; what else there is happens all the same.
    """

    wishes: tuple[Wish, ...] = ()
    outgoing: tuple[Outgoing, ...] = ()
    remembered: tuple[Remembered, ...] = ()
    replied: tuple[Replied, ...] = ()
    refused: SoraError | None = None

    @property
    def has_effects(self) -> bool:
        """It does more than store letters."""
        return bool(self.outgoing or self.remembered or self.replied)


class Carrying:
    """Carries out what the scripts of one recipient decided, except for writing it down.

    Args:
        table: The configuration.
        environment: That the scripts ran in.
    """

    def __init__(
        self,
        store: Store,
        table: SieveTable,
        mail: Mail,
        envelope: MailEnvelope,
        recipient: Recipient,
        answers: Answers,
        environment: Environment,
    ) -> None:
        self._repositories = store
        self._table = table
        self._mail = mail
        self._envelope = envelope
        self._recipient = recipient
        self._answers = answers
        self._environment = environment
        self._wishes: dict[Any, Wish] = {}
        self._outgoing: list[Outgoing] = []
        self._replied: list[Replied] = []
        self._refused: SoraError | None = None
        self._lenient = False
        self._room = QueueRoom(store, recipient.account_id, table.max_queued)

    async def out(self, outcome: Outcome, *, lenient: bool = False) -> Filtered:
        """All of it.

        Args:
            lenient: What cannot be filed where it should be goes to INBOX.

        Raises:
            NoPlace: A mailbox is not there and cannot be made; nothing was carried out.
            Unavailable: Nothing can be decided now.
        """
        self._lenient = lenient
        for action in outcome.actions:
            metrics.sieve_actions.labels(type(action).__name__.lower()).inc()
            await _ACTIONS[type(action)](self, action)
        return Filtered(
            tuple(self._wishes.values()),
            tuple(self._outgoing),
            tuple(self._remembered(outcome)),
            tuple(self._replied),
            self._refused,
        )

    def _remembered(self, outcome: Outcome) -> Iterator[Remembered]:
        longest = int(self._table.duplicate_max_period)
        return (replace(entry, seconds=min(entry.seconds, longest)) for entry in outcome.remembered)

    async def _keep(self, action: Keep) -> None:
        await self._file_at(self._recipient.mailbox_id, action.mail, action.flags)

    async def _file(self, action: FileInto) -> None:
        await self._file_at(await self._place(action), action.mail, action.flags)

    async def _file_at(self, mailbox_id: MailboxId | None, mail: Mail, flags: tuple[str, ...] | None) -> None:
        """A message is stored in a mailbox once, with the flags that were given last (RFC 5228 §2.10.3)."""
        numbers = await flag_numbers(self._answers, self._repositories, flags or ())
        known = self._wishes.get(mailbox_id)
        self._wishes[mailbox_id] = replace(known, flags=numbers) if known else Wish(mailbox_id, mail, numbers)

    async def _place(self, action: FileInto) -> MailboxId | None:
        """Where a message is filed."""
        leaf, why = await find_mailbox(self._answers, self._repositories, action)
        if leaf is None:
            if self._lenient:
                return None
            raise NoPlace(f'{action.where}: Mailbox "{action.mailbox}": {why}')
        return None if leaf.name == INBOX else leaf.mailbox_id

    async def _discard(self, _action: Discard) -> None:
        return

    async def _reject(self, action: Reject) -> None:
        """By the reply, if it can hold the reason; else `reject` sends a report (RFC 5429 §2.1.2, §2.2)."""
        if action.reason.isascii() or self._envelope.utf8:
            self._refused = Rejected(reply_text(action.reason))
        elif action.extended or not self._may_report() or not await self._room.take():
            self._refused = Rejected()
        else:
            self._outgoing.append(
                Outgoing(kind="reject", sender="", recipient=self._envelope.sender, data=self._report(action))
            )

    def _may_report(self) -> bool:
        """Nobody reads a report about what a program has sent (RFC 3834 §2)."""
        automatic = (value.partition(";")[0].strip().lower() != "no" for value in self._mail.header("Auto-Submitted"))
        return bool(self._envelope.sender) and not any(automatic)

    def _report(self, action: Reject) -> bytes:
        refusal = Refusal(
            owner=self._recipient.address,
            recipient=self._recipient.text,
            sender=self._envelope.sender,
            reason=action.reason,
            host=self._environment.items.get("host", ""),
            external_id=self._environment.external_id,
            now=self._environment.now,
        )
        return report(refusal, self._mail)

    async def _redirect(self, action: Redirect) -> None:
        owner = self._recipient.address
        if owner.lower() in (value.lower() for value in action.mail.header(REDIRECTED_FROM)):
            tell(self._recipient, f"redirect to {action.address}: the message was redirected from here before")
            await self._file_at(None, action.mail, None)
            return
        if not await self._room.take():
            if not self._lenient:
                raise NoPlace(f"redirect to {action.address}: {FULL}")
            tell(self._recipient, f"redirect to {action.address}: {FULL}")
            return  # the message is kept
        sender = self._envelope.sender
        if sender and self._table.redirect_sender == "owner":
            sender = owner
        held = self._wishes.setdefault((HELD, id(action.mail)), Wish(HELD, action.mail))
        self._outgoing.append(
            Outgoing(
                kind="redirect",
                sender=sender,
                recipient=action.address,
                letter=list(self._wishes.values()).index(held),
                header=f"{REDIRECTED_FROM}: {owner}\r\n".encode(),
                smtputf8=self._envelope.utf8 or not action.address.isascii(),
                params=params_of(action, self._environment.now),
            )
        )

    async def _send(self, action: Send) -> None:
        seconds = self._period(action.seconds) if action.kind == "vacation" else 0
        sent = 0
        for address in action.recipients:
            if seconds and await self._was_answered(action.handle, address):
                continue
            if not await self._room.take():
                tell(self._recipient, f"{action.kind} to {address}: {FULL}")
                continue
            if seconds:
                self._replied.append(Replied(action.handle, address, seconds, len(self._outgoing)))
            utf8 = not (action.sender + address).isascii()
            self._outgoing.append(
                Outgoing(kind=action.kind, sender=action.sender, recipient=address, data=action.data, smtputf8=utf8)  # type: ignore[arg-type]
            )
            sent += 1
        if sent and action.copy is not None:
            leaf, why = await find_mailbox(self._answers, self._repositories, action.copy)
            if leaf is None:  # the mail is sent all the same
                tell(self._recipient, f'{action.copy.where}: fcc "{action.copy.mailbox}": {why}')
                return
            place = None if leaf.name == INBOX else leaf.mailbox_id
            numbers = await flag_numbers(self._answers, self._repositories, action.copy.flags or ())
            copy = len(self._wishes)
            self._wishes[("made", copy)] = Wish(place, action.copy.mail, numbers, made=True)
            if seconds:
                self._replied[-1] = replace(self._replied[-1], copy=copy)

    async def _was_answered(self, handle: str, address: str) -> bool:
        memory = self._repositories.filter_memory
        return await memory.was_answered(self._recipient.account_id, handle, address)

    def _period(self, seconds: int) -> int:
        table = self._table
        return int(min(max(seconds, table.vacation_min_period), table.vacation_max_period))


_ACTIONS: Final[Mapping[type[Action], Callable[[Carrying, Any], Awaitable[None]]]] = {
    Keep: Carrying._keep,
    FileInto: Carrying._file,
    Discard: Carrying._discard,
    Reject: Carrying._reject,
    Redirect: Carrying._redirect,
    Send: Carrying._send,
}


async def find_mailbox(answers: Answers, store: Store, action: FileInto) -> tuple[Leaf | None, str]:
    """The mailbox that an action means, made if it asks for that; or None and why there is none.

    A mailbox by id or by use is preferred to the one by name (RFC 9042 §4, RFC 8579 §4).
    """
    leaf = None
    if action.mailbox_id:
        leaf = await answers.mailbox_by_id(action.mailbox_id)
    if leaf is None and action.special_use:
        leaf = await answers.mailbox_by_use(action.special_use)
    leaf = leaf or await answers.mailbox(action.mailbox)
    if leaf is not None or not action.create:
        return leaf, "there is no such mailbox"
    if not answers.may_make(action.mailbox):
        return None, "these names are for deleted mail"
    try:
        await _create(answers.account_id, store, action)
    except AlreadyExists:
        pass  # somebody else was faster
    except Refused as error:
        return None, error.text
    await answers.read_again()
    return await answers.mailbox(action.mailbox), "it was made, and is gone"


async def _create(account_id: AccountId, store: Store, action: FileInto) -> None:
    """Make a mailbox and subscribe to it, because nobody would see it otherwise (RFC 5490 §3.2)."""
    made = await store.mailboxes.create(account_id, action.mailbox, _USES.get(action.special_use.lower()))
    await store.mailboxes.subscribe(account_id, made.name)


async def flag_numbers(answers: Answers, store: Store, flags: Iterable[str]) -> tuple[int, ...]:
    """Numbers of flags, registered where they are new; what cannot be a keyword of the account is left out."""
    found: dict[int, None] = {}
    keywords = []
    for flag in flags:
        number = _FLAG_NUMBERS.get(flag.lower())
        if number is not None:
            found[number] = None
        elif not flag.startswith("\\"):
            keywords.append(flag)
    if keywords:
        found |= dict.fromkeys(await _keyword_numbers(answers, store, keywords))
    return tuple(found)


async def _keyword_numbers(answers: Answers, store: Store, keywords: Sequence[str]) -> list[int]:
    known = (await answers.tree()).keywords
    unknown = [keyword for keyword in keywords if keyword.lower() not in known]
    if not unknown:
        return [known[keyword.lower()] for keyword in keywords]
    try:
        made = await store.mailboxes.register_keywords(answers.account_id, unknown)
    except Refused as error:
        fields = {"account_id": answers.account_id, "keywords": unknown, "error": str(error)}
        _log.warning("keywords of a script not registered", extra=fields)
        made = {}
    await answers.read_again()
    numbers = {**known, **{name.lower(): number for name, number in made.items()}}
    return [numbers[keyword.lower()] for keyword in keywords if keyword.lower() in numbers]


def reply_text(reason: str) -> str:
    """A reason as the lines of a reply: without control characters, none too long, and not too many."""
    lines: list[str] = []
    for line in reason.strip().splitlines():
        text = "".join(c if c.isprintable() else " " for c in line)
        while len(text.encode()) > REPLY_WIDTH:
            cut = len(text.encode()[:REPLY_WIDTH].decode("utf-8", "ignore"))
            cut = text.rfind(" ", 1, cut) if text.rfind(" ", 1, cut) > 0 else cut
            lines.append(text[:cut])
            text = text[cut:].lstrip()
        lines.append(text)
    return "\n".join(lines[:REPLY_LINES]) or Rejected.default_text


def params_of(action: Redirect, now: datetime) -> Params:
    """RFC 6009 §4 and §6, as SMTP wants it."""
    by_at = None if action.by_time is None else now + timedelta(seconds=action.by_time)
    mode = _BY_MODES.get(action.by_mode, "R") + ("T" if action.by_trace else "") if by_at else ""
    return Params(notify=action.notify, ret=action.ret, by_at=by_at, by_mode=mode)


def tell(recipient: Recipient, error: str) -> None:
    """Whoever runs the site can see what went wrong; the message is in INBOX."""
    metrics.sieve_errors.inc()
    _log.warning("script failed", extra={"account": recipient.address, "recipient": recipient.text, "error": error})
