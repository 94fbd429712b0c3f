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
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from sora import log, metrics
from sora.errors import BadScript, NotFound, Unavailable
from sora.services.filters.answers import Answers
from sora.services.filters.carrying import Carrying, Filtered, NoPlace, Wish, tell
from sora.services.filters.runs import limits_of, run
from sora.sieve.actions import Keep
from sora.sieve.interpreter import Environment, Step
from sora.sieve.scores import ScoreHeader
from sora.store.mailboxes import INBOX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sora.services.filters.scripts import CompiledScripts
    from sora.services.filters.site_scripts import SiteScripts
    from sora.services.filters.trees import Trees
    from sora.services.letters import MailEnvelope
    from sora.services.recipients import Recipient
    from sora.sieve.actions import Outcome
    from sora.sieve.mail import Mail
    from sora.store.store import Store
    from sora.tables import SieveTable
    from sora.types import AccountId


_log = log.get(__name__)


class Settings(Struct, frozen=True):
    """What extensions want to know of the site (`Environment.settings`)."""

    spam_header: ScoreHeader | None = None
    virus_header: ScoreHeader | None = None
    vacation_seconds: int = 7 * 86400


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
        reserved: str = "",
    ) -> None:
        self.store = store
        self.trees = trees
        self.scripts = scripts
        self.site = site
        self.table = table
        self.host = host
        self._reserved = reserved

    def applies(self, recipient: Recipient) -> bool:
        """Some script runs for this recipient."""
        return recipient.script != 0 or self.site.any

    def answers(self, account_id: AccountId, number: int, delivery: bytes = b"") -> Answers:
        """What a run for an account asks; see `Answers`."""
        return Answers(
            account_id,
            number,
            store=self.store,
            trees=self.trees,
            scripts=self.scripts,
            site=self.site,
            reserved=self._reserved,
            delivery=delivery,
        )

    def settings(self) -> Settings:
        """For `Environment`."""
        return settings_of(self.table)

    def items(self, location: str, phase: str) -> dict[str, str]:
        """Items of `environment` (RFC 5183 §4.1) that are the same for all."""
        domain = self.host.partition(".")[2]
        items = {"host": self.host, "location": location, "name": "Sora", "phase": phase, "version": VERSION}
        return {**items, "domain": domain} if domain else items

    async def filter(
        self, mail: Mail, envelope: MailEnvelope, recipient: Recipient, received_at: datetime, delivery: bytes
    ) -> Filtered:
        """Run the scripts of a recipient, and find the places for what they want.

        Whatever goes wrong with them, the message is kept: its sender can mend nothing, and neither can those who get
        it besides.

        Args:
            mail: As it would be stored.
            delivery: What another try of this delivery has in common with it.

        Raises:
            NotFound: The account is gone.
            Unavailable: Nothing can be decided now.
        """
        try:
            return await self._filter(mail, envelope, recipient, received_at, delivery)
        except (NotFound, Unavailable):
            raise
        except Exception:
            metrics.sieve_errors.inc()
            _log.exception("filter failed", extra={"account": recipient.address, "recipient": recipient.text})
            return Filtered((Wish(recipient.mailbox_id, mail),))

    async def _filter(
        self, mail: Mail, envelope: MailEnvelope, recipient: Recipient, received_at: datetime, delivery: bytes
    ) -> Filtered:
        answers = self.answers(recipient.account_id, recipient.script, delivery)
        steps = await self._steps(recipient)
        environment = await self._environment(envelope, recipient, answers, received_at)
        limits = limits_of(self.table)

        async def result(steps: Sequence[Step], *, failed: bool = False) -> Filtered:
            outcome = await run("delivery", steps, mail, environment, limits, answers)
            if outcome.error:
                tell(recipient, outcome.error)
            carrying = Carrying(self.store, self.table, mail, envelope, recipient, answers, environment)
            return await carrying.out(_kept(outcome, mail) if failed else outcome, lenient=failed)

        try:
            return await result(steps)
        except NoPlace as error:
            # As if the script had failed where it ran: what those of the site want before it holds, nothing else does.
            tell(recipient, error.text)
            return await result(self.site.before, failed=True)

    async def _steps(self, recipient: Recipient) -> list[Step]:
        own = self.site.default
        if recipient.script:
            try:
                active = await self.scripts.active(recipient.account_id, recipient.script)
            except BadScript as error:
                tell(recipient, str(error))
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


def settings_of(table: SieveTable) -> Settings:
    """Where scores stand, by the configuration."""
    return Settings(
        _header(table.spam_header, table.spam_pattern, table.spam_maximum, table.spam_texts),
        _header(table.virus_header, table.virus_pattern, table.virus_maximum, table.virus_texts),
        int(table.vacation_default_period),
    )


def _header(name: str, pattern: str, maximum: float, texts: tuple[str, ...]) -> ScoreHeader | None:
    if not name:
        return None
    words = (text.rpartition("=") for text in texts)
    return ScoreHeader(name, pattern, maximum, {word.strip().lower(): int(number) for word, _, number in words})


def _kept(outcome: Outcome, mail: Mail) -> Outcome:
    """With the message in INBOX, whatever else there is."""
    if any(isinstance(action, Keep) for action in outcome.actions):
        return outcome
    return replace(outcome, actions=(*outcome.actions, Keep(mail, implicit=True)))


def _version() -> str:
    """Of the installed package; empty in a source tree that was not installed."""
    try:
        return importlib.metadata.version("sora-mail")
    except importlib.metadata.PackageNotFoundError:
        return ""


VERSION: Final = _version()
