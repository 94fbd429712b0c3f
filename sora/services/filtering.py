"""The filter of a delivery: which scripts run for a recipient, and what becomes of the message.

Scripts of the site run before and after the recipient's own one, or the default one where that has none; each only if
the one before it left the message, implicitly or by `keep`. They run once for each recipient, because the envelope is
part of what they see, and they see the message as it will be stored, our trace fields at its top.

What they decide is carried out as far as it can be before anything is written: mailboxes are found or made, flags get
their numbers. The rest is a value (`Filtered`), which the delivery stores in one transaction. No mail is lost over a
script: one that fails leaves the message in INBOX, and so does a mailbox that is not there. Only where the database
does not answer is nothing decided, and the sender tries again.
"""

from __future__ import annotations

import importlib.metadata
import secrets
from collections.abc import Mapping  # noqa: TC003 — msgspec reads the annotations at run time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from sora import log, metrics
from sora.errors import AlreadyExists, BadScript, Refused, SoraError
from sora.services.answers import Answers
from sora.services.runs import limits_of, run
from sora.sieve.actions import Action, Discard, FileInto, Keep, Outcome, Redirect, Reject, Remembered, Send
from sora.sieve.interpreter import Environment, Step
from sora.sieve.mail import Mail  # noqa: TC001
from sora.sieve.scores import ScoreHeader
from sora.store.deliveries import HELD
from sora.store.effects import Replied
from sora.store.mailboxes import INBOX
from sora.store.outbound import Outgoing, Params
from sora.types import SYSTEM_FLAGS, MailboxId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from sora.services.letters import MailEnvelope
    from sora.services.recipients import Recipient
    from sora.services.scripts import CompiledScripts
    from sora.services.site_scripts import SiteScripts
    from sora.services.trees import Trees
    from sora.store.store import Store
    from sora.store.trees import Leaf
    from sora.tables import SieveTable
    from sora.types import AccountId

_log = log.get(__name__)

REDIRECTED_FROM: Final = "X-Sieve-Redirected-From"
_FLAG_NUMBERS: Final = {flag.decode().lower(): number for number, flag in SYSTEM_FLAGS.items()}
_BY_MODES: Final = {"NOTIFY": "N", "RETURN": "R"}


class Rejected(Refused):
    """A script has refused the message (RFC 5429)."""

    default_text = "The recipient refused the message"


class Settings(Struct, frozen=True):
    """What extensions want to know of the site (`Environment.settings`)."""

    spam_header: ScoreHeader | None = None
    virus_header: ScoreHeader | None = None


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


class Filters:
    """The filters of one process.

    Args:
        store: On the connections of queries.
        table: The configuration; replaced when `live` keys change.
        host: Our name.
    """

    def __init__(
        self,
        store: Store,
        trees: Trees,
        scripts: CompiledScripts,
        site: SiteScripts,
        table: SieveTable,
        *,
        host: str = "localhost",
    ) -> None:
        self.store = store
        self.trees = trees
        self.scripts = scripts
        self.site = site
        self.table = table
        self.host = host

    def applies(self, recipient: Recipient) -> bool:
        """Some script runs for this recipient."""
        return recipient.script != 0 or self.site.any

    def answers(self, account_id: AccountId, number: int) -> Answers:
        """What a run for an account asks; see `Answers`."""
        return Answers(account_id, number, store=self.store, trees=self.trees, scripts=self.scripts, site=self.site)

    def settings(self) -> Settings:
        """For `Environment`."""
        return settings_of(self.table)

    def items(self, location: str, phase: str) -> dict[str, str]:
        """Items of `environment` (RFC 5183 §4.1) that are the same for all."""
        domain = self.host.partition(".")[2]
        items = {"host": self.host, "location": location, "name": "Sora", "phase": phase, "version": VERSION}
        return {**items, "domain": domain} if domain else items

    async def filter(self, mail: Mail, envelope: MailEnvelope, recipient: Recipient, received_at: datetime) -> Filtered:
        """Run the scripts of a recipient, and find the places for what they want.

        Args:
            mail: As it would be stored.

        Raises:
            NotFound: The account is gone.
            Unavailable: Nothing can be decided now.
        """
        answers = self.answers(recipient.account_id, recipient.script)
        steps = await self._steps(recipient)
        environment = await self._environment(envelope, recipient, answers, received_at)
        outcome = await run("delivery", steps, mail, environment, limits_of(self.table), answers)
        if outcome.error:
            _tell(recipient, outcome.error)
        return await Carrying(self, mail, envelope, recipient, answers).out(outcome)

    async def _steps(self, recipient: Recipient) -> list[Step]:
        own = self.site.default
        if recipient.script:
            try:
                active = await self.scripts.active(recipient.account_id, recipient.script)
            except BadScript as error:
                _tell(recipient, str(error))
                active, own = None, None
            if active is not None:
                own = Step(active[1], active[0])
        return [*self.site.before, *((own,) if own is not None else ()), *self.site.after]

    async def _environment(
        self, envelope: MailEnvelope, recipient: Recipient, answers: Answers, received_at: datetime
    ) -> Environment:
        items = self.items("MDA", "during")
        if envelope.peer != "local":
            items["remote-ip"] = envelope.peer
        if envelope.peer_name:
            items["remote-host"] = envelope.peer_name
        mailbox = INBOX
        if recipient.mailbox_id is not None:
            leaf = await answers.mailbox_by_number(recipient.mailbox_id)
            mailbox = leaf.name if leaf is not None else INBOX
        return Environment(
            now=received_at.astimezone(),
            sender=envelope.sender,
            recipient=recipient.text,
            owner=recipient.address,
            addresses=(await answers.tree()).addresses,
            items=items,
            external_id=secrets.token_hex(12),
            mailbox=mailbox,
            settings=self.settings(),
        )


class Carrying:
    """Carries out what the scripts of one recipient decided, except for writing it down."""

    def __init__(
        self, filters: Filters, mail: Mail, envelope: MailEnvelope, recipient: Recipient, answers: Answers
    ) -> None:
        self._filters = filters
        self._mail = mail
        self._envelope = envelope
        self._recipient = recipient
        self._answers = answers
        self._wishes: dict[Any, Wish] = {}
        self._outgoing: list[Outgoing] = []
        self._replied: list[Replied] = []
        self._refused: SoraError | None = None

    async def out(self, outcome: Outcome) -> Filtered:
        """All of it."""
        for action in outcome.actions:
            metrics.sieve_actions.labels(type(action).__name__.lower()).inc()
            await _ACTIONS[type(action)](self, action)
        return Filtered(
            tuple(self._wishes.values()),
            tuple(self._outgoing),
            outcome.remembered,
            tuple(self._replied),
            self._refused,
        )

    async def _keep(self, action: Keep) -> None:
        await self._store(self._recipient.mailbox_id, action.mail, action.flags)

    async def _file(self, action: FileInto) -> None:
        await self._store(await self._place(action), action.mail, action.flags)

    async def _store(self, mailbox_id: MailboxId | None, mail: Mail, flags: tuple[str, ...] | None) -> None:
        """A message is stored in a mailbox once, with the flags that were given last (RFC 5228 §2.10.3)."""
        numbers = await flag_numbers(self._answers, self._filters.store, flags or ())
        known = self._wishes.get(mailbox_id)
        self._wishes[mailbox_id] = replace(known, flags=numbers) if known else Wish(mailbox_id, mail, numbers)

    async def _place(self, action: FileInto) -> MailboxId | None:
        """Where a message is filed; INBOX if the mailbox is not there and cannot be made."""
        leaf, error = await find_mailbox(self._answers, self._filters.store, action)
        if leaf is None:
            _tell(self._recipient, f'fileinto "{action.mailbox}": {error}')
            return None
        return None if leaf.name == INBOX else leaf.mailbox_id

    async def _discard(self, _action: Discard) -> None:
        return

    async def _reject(self, action: Reject) -> None:
        self._refused = Rejected(action.reason)

    async def _redirect(self, action: Redirect) -> None:
        owner = self._recipient.address
        if owner.lower() in (value.lower() for value in action.mail.header(REDIRECTED_FROM)):
            _tell(self._recipient, f"redirect to {action.address}: the message was redirected from here before")
            await self._store(None, action.mail, None)
            return
        sender = self._envelope.sender
        if sender and self._filters.table.redirect_sender == "owner":
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
                params=params_of(action),
            )
        )

    async def _send(self, action: Send) -> None:
        seconds = self._period(action.seconds) if action.kind == "vacation" else 0
        sent = 0
        for address in action.recipients:
            if seconds and await self._was_answered(action.handle, address):
                continue
            if seconds:
                self._replied.append(Replied(action.handle, address, seconds, len(self._outgoing)))
            utf8 = not (action.sender + address).isascii()
            self._outgoing.append(
                Outgoing(kind=action.kind, sender=action.sender, recipient=address, data=action.data, smtputf8=utf8)  # type: ignore[arg-type]
            )
            sent += 1
        if sent and action.copy is not None:
            place = await self._place(action.copy)
            numbers = await flag_numbers(self._answers, self._filters.store, action.copy.flags or ())
            self._wishes[("made", len(self._wishes))] = Wish(place, action.copy.mail, numbers, made=True)

    async def _was_answered(self, handle: str, address: str) -> bool:
        memory = self._filters.store.filter_memory
        return await memory.was_answered(self._recipient.account_id, handle, address)

    def _period(self, seconds: int) -> int:
        table = self._filters.table
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
    use = action.special_use or None
    try:
        made = await store.mailboxes.create(account_id, action.mailbox, use)
    except AlreadyExists:
        raise
    except Refused:
        if use is None:
            raise
        made = await store.mailboxes.create(account_id, action.mailbox)  # not with a use that we do not know
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


def settings_of(table: SieveTable) -> Settings:
    """Where scores stand, by the configuration."""
    return Settings(
        _header(table.spam_header, table.spam_pattern, table.spam_maximum, table.spam_texts),
        _header(table.virus_header, table.virus_pattern, table.virus_maximum, table.virus_texts),
    )


def _header(name: str, pattern: str, maximum: float, texts: tuple[str, ...]) -> ScoreHeader | None:
    if not name:
        return None
    words = (text.rpartition("=") for text in texts)
    return ScoreHeader(name, pattern, maximum, {word.strip().lower(): int(number) for word, _, number in words})


def params_of(action: Redirect) -> Params:
    """RFC 6009 §4 and §6, as SMTP wants it."""
    by_at = None
    if action.by_time is not None:
        by_at = datetime.now().astimezone() + timedelta(seconds=action.by_time)
    mode = _BY_MODES.get(action.by_mode, "R") + ("T" if action.by_trace else "") if by_at else ""
    return Params(notify=action.notify, ret=action.ret, by_at=by_at, by_mode=mode)


def _tell(recipient: Recipient, error: str) -> None:
    """Whoever runs the site can see what went wrong; the message is in INBOX."""
    metrics.sieve_errors.inc()
    _log.warning("script failed", extra={"account": recipient.address, "recipient": recipient.text, "error": error})


def _version() -> str:
    """Of the installed package; empty in a source tree that was not installed."""
    try:
        return importlib.metadata.version("sora-mail")
    except importlib.metadata.PackageNotFoundError:
        return ""


VERSION: Final = _version()
