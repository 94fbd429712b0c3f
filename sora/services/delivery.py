"""Taking mail in for all protocols: LMTP messages and APPEND become letters, and letters become messages.

Letters are written in `letters`, gather in `lanes` and are staged and committed in `commits`.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from msgspec import Struct

from sora import metrics
from sora.errors import NotFound, Refused, SoraError, Unavailable
from sora.services.commits import Commits, Doorbell
from sora.services.lanes import Unit
from sora.services.letters import AppendItem, Filed, Letters, MailEnvelope, box_of
from sora.sieve.mail import Mail
from sora.store.account_keys import NoKeys
from sora.store.deliveries import HELD
from sora.store.effects import Effects
from sora.types import ModSeq
from sora.wire import lmtp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sora.services.changes import Changes
    from sora.services.filters.carrying import Wish
    from sora.services.filters.filtering import Filters
    from sora.services.letters import Box, Desk, Incoming, Letter
    from sora.services.recipients import Recipient
    from sora.sieve.actions import Remembered
    from sora.store.account_keys import Sealers
    from sora.store.deliveries import Delivered
    from sora.store.diskfile import Octets
    from sora.store.messages import Messages
    from sora.store.outbound import Outgoing
    from sora.store.replacing import Replaced
    from sora.store.sealing import Sealer
    from sora.store.staging import Staging
    from sora.types import AccountId, MailboxId, Uid, UidValidity

__all__ = ["AppendItem", "AppendResult", "Delivery", "Doorbell", "Filed", "MailEnvelope", "MailLoop"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

FILTERED_AT_ONCE: Final = 16
"""Recipients of one message whose scripts run at a time."""
FILTERED_BYTES: Final = 64 << 20
"""Octets that they have before them together: each script may make versions of its own of a large message."""
KEYS_AT_ONCE: Final = 4
"""Keys of accounts that one message asks the database for at a time."""
MAX_HOPS: Final = 50
"""Received lines before a message counts as looping (RFC 5321 §6.3 asks for a large number)."""
INLINE_BYTES: Final = 256 * 1024
"""Hashing and parsing up to this size is done in the event loop, about a millisecond; more goes to a thread."""
SMALL_BYTES: Final = 16 * 1024
"""Up to this size nothing takes long, whatever is in it."""
MAX_STRUCTURE: Final = 4_000
"""Marks of things to parse in a larger message; one costs up to three microseconds, and most cost nothing."""


class MailLoop(Refused):
    """The message has been here before, or nearly everywhere."""

    default_text = "Mail loop"


class AppendResult(Struct, frozen=True):
    """APPENDUID (RFC 4315 §3): the UIDs in the order of the items.

    Attributes:
        modseq: of the commit that brought them, others' messages perhaps among them.
        replaced_modseq: Of the mailbox from which a message was taken away; 0: none was, or it is not known.
    """

    uidvalidity: UidValidity
    uids: tuple[Uid, ...]
    modseq: ModSeq
    replaced_modseq: ModSeq = ModSeq(0)


class Delivery:
    """Stores mail for all protocols of a worker.

    Args:
        messages: On the delivery connections, so that queries of sessions and deliveries do not wait for each other.
        instance_id: Names the staging directory in `pending_uploads`.
        sealers: How the bodies of an account are stored; by default encryption is off.
        host: Our name in Received.
        lanes: Batches at a time; one for each delivery connection.
        body_limit: Characters of body text kept for search; 0: none.
        copies: Keep a copy of each body in the database until it is uploaded.
        fenced: True while this node must take no mail: its name is used by another process.
        clock: The time of day.
        filters: What scripts do with LMTP messages; None: there are none.
    """

    def __init__(
        self,
        messages: Messages,
        staging: Staging,
        changes: Changes,
        doorbell: Doorbell,
        *,
        instance_id: str,
        host: str,
        sealers: Sealers | None = None,
        lanes: int = 2,
        body_limit: int = 65536,
        copies: bool = False,
        fenced: Callable[[], bool] = lambda: False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        filters: Filters | None = None,
    ) -> None:
        self.host = host
        self.filters = filters
        self._sealers = sealers or NoKeys()
        self._letters = Letters(body_limit, copies, clock)
        self._commits = Commits(
            messages,
            staging,
            changes,
            doorbell,
            instance_id=instance_id,
            lanes=lanes,
            copies=copies,
            fenced=fenced,
        )

    async def close(self) -> None:
        """Let what was taken be finished."""
        await self._commits.drained()

    # ------------------------------------------------------------------------------------------------ LMTP

    async def deliver(self, data: Octets, envelope: MailEnvelope) -> list[SoraError | None]:
        """Store one message for its recipients, each on its own.

        Recipients that share a mailbox share the message; mailboxes of one account share the body, stamped once.

        Args:
            data: As received, without trace headers; a large message may be the mapping of a file.

        Returns:
            One entry for each recipient, in order: None if stored, else why not.
        """
        started = time.perf_counter()
        header = lmtp.header_of(data[: lmtp.MAX_HEADER])
        if lmtp.count_received(header) > MAX_HOPS:
            return [MailLoop("Too many hops")] * len(envelope.recipients)
        been = lmtp.delivered_to(header)
        arrived = [one for one in dict.fromkeys(envelope.recipients) if one.address.casefold() not in been]
        failed, sealers = await self._sealers_of({recipient.account_id for recipient in arrived})
        plain: dict[AccountId, list[Recipient]] = {}
        filtered: list[Recipient] = []
        for recipient in arrived:
            if recipient.account_id not in sealers:
                continue
            if self.filters is not None and self.filters.applies(recipient):
                filtered.append(recipient)
            else:
                plain.setdefault(recipient.account_id, []).append(recipient)
        outcomes = await self._deliver_plain(data, envelope, plain, sealers, filtered)
        metrics.delivery_seconds.observe(time.perf_counter() - started)
        looped = MailLoop("The message was delivered here before")
        return [outcomes.get(recipient, failed.get(recipient.account_id, looped)) for recipient in envelope.recipients]

    async def _deliver_plain(
        self,
        data: Octets,
        envelope: MailEnvelope,
        accounts: dict[AccountId, list[Recipient]],
        sealers: dict[AccountId, Sealer],
        filtered: Sequence[Recipient],
    ) -> dict[Recipient, SoraError | None]:
        """Store it where no script runs; and beside that, see to those where one does."""
        inline = _is_quick((data,), len(sealers))
        units: dict[Box, Unit] = {}
        if accounts:
            own = {account_id: sealers[account_id] for account_id in accounts}
            letters = await _compute(inline, self._letters.of_lmtp, data, envelope, self.host, accounts, own)
            units = {box: Unit("lmtp", [letter]) for box, letter in letters.items()}
            for unit in units.values():
                self._commits.submit(unit)
        outcomes: dict[Recipient, SoraError | None] = {}
        if filtered:
            incoming = await _compute(inline, self._letters.incoming, data, envelope, self.host)
            at_once = max(1, min(FILTERED_AT_ONCE, FILTERED_BYTES // max(1, len(data))))
            for start in range(0, len(filtered), at_once):
                some = filtered[start : start + at_once]
                runs = (self._deliver_filtered(incoming, one, sealers[one.account_id]) for one in some)
                outcomes |= zip(some, await asyncio.gather(*runs), strict=True)
        stored = {box: _error(await unit.done) for box, unit in units.items()}
        plain = (recipient for members in accounts.values() for recipient in members)
        return outcomes | {recipient: stored[box_of(recipient)] for recipient in plain}

    async def _deliver_filtered(self, incoming: Incoming, recipient: Recipient, sealer: Sealer) -> SoraError | None:
        """Let the scripts of a recipient decide, and store what they want."""
        assert self.filters is not None
        desk = incoming.desk((recipient,), sealer)
        mail = Mail.stamped(desk.stamp, incoming.data)
        try:
            filtered = await self.filters.filter(
                mail, incoming.envelope, recipient, incoming.received_at, desk.effects_key
            )
        except SoraError as error:
            return error
        if not filtered.wishes and not filtered.has_effects:
            metrics.deliveries.labels("lmtp", "refused" if filtered.refused else "discarded").inc()
            return filtered.refused
        inline = _is_quick((incoming.data,), len({id(wish.mail) for wish in filtered.wishes}))
        letters = await _compute(inline, lambda: [_letter(desk, mail, *wish) for wish in enumerate(filtered.wishes)])
        effects = None
        if filtered.has_effects:
            effects = desk.effects(filtered.outgoing, filtered.remembered, filtered.replied)
        wanted = [letter.row.mailbox_id for letter in letters]
        unit = Unit("lmtp", letters, effects=effects)
        self._commits.submit(unit)
        failed = _error(await unit.done)
        if [letter.row.mailbox_id for letter in letters] != wanted:
            self.filters.trees.forget(recipient.account_id)  # one of the mailboxes is gone
        return failed or filtered.refused

    async def _sealers_of(
        self, accounts: Iterable[AccountId]
    ) -> tuple[dict[AccountId, SoraError], dict[AccountId, Sealer]]:
        """Why accounts can store nothing now, and the sealers of the others."""
        failed: dict[AccountId, SoraError] = {}
        sealers: dict[AccountId, Sealer] = {}

        async def find(account_id: AccountId) -> None:
            try:
                sealers[account_id] = await self._sealers.get(account_id)
            except (Unavailable, NotFound) as error:
                failed[account_id] = error

        missing = []
        for account_id in accounts:
            sealer = self._sealers.peek(account_id)
            if sealer is None:
                missing.append(account_id)
            else:
                sealers[account_id] = sealer
        for start in range(0, len(missing), KEYS_AT_ONCE):
            await asyncio.gather(*map(find, missing[start : start + KEYS_AT_ONCE]))
        return failed, sealers

    # ------------------------------------------------------------------------------------------------ APPEND

    async def append(
        self,
        account_id: AccountId,
        mailbox_id: MailboxId,
        items: Sequence[AppendItem],
        actor_id: AccountId | None = None,
        replaced: Replaced | None = None,
    ) -> AppendResult:
        """Store messages in one mailbox, all in one transaction or none (RFC 3502 §4).

        Args:
            actor_id: Who does it, if not the owner: \\Seen is then that one's.
            replaced: A message that is expunged in the same transaction (RFC 8508).

        Raises:
            NotFound: The mailbox is gone.
            Expunged: The message to replace is.
            OverQuota: They do not fit.
            Unavailable: Try again; if the connection to PostgreSQL broke, they may be there.
        """
        sealer = self._sealers.peek(account_id) or await self._sealers.get(account_id)
        inline = _is_quick([item.data for item in items])
        letters = await _compute(inline, self._letters.of_append, account_id, mailbox_id, items, sealer, actor_id)
        unit = Unit("append", letters, replaced)
        if replaced is None:
            self._commits.submit(unit)
        else:
            self._commits.submit_alone(unit)
        result = await unit.done
        if isinstance(result, SoraError):
            raise result
        uids = tuple(row.uid for row in result)
        return AppendResult(result[0].uidvalidity, uids, result[-1].modseq, result[0].replaced_modseq)

    # ------------------------------------------------------------------------------------------------ IMAPSIEVE

    async def file(
        self,
        account_id: AccountId,
        filed: Sequence[Filed],
        key: bytes,
        outgoing: Sequence[Outgoing] = (),
        remembered: Sequence[Remembered] = (),
    ) -> None:
        """Store what a script files and sends, all in one transaction or none.

        Args:
            key: What another try has in common with this one: whatever was done under it is not done again.
            outgoing: Their `letter` is a place in `filed`.

        Raises:
            NotFound: A mailbox is gone.
            OverQuota: They do not fit.
            Unavailable: Try again, with the same key.
        """
        sealer = self._sealers.peek(account_id) or await self._sealers.get(account_id)
        inline = _is_quick([item.data for item in filed])
        letters = await _compute(inline, self._letters.of_filed, account_id, filed, key, sealer)
        effects = None
        if outgoing or remembered:
            effects = Effects(
                account_id=account_id, key=key, sealer=sealer, outgoing=tuple(outgoing), remembered=tuple(remembered)
            )
        unit = Unit("imapsieve", letters, effects=effects)
        self._commits.submit(unit)
        error = _error(await unit.done)
        if error is not None:
            raise error


async def _compute(inline: bool, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Compute here, or else in a thread."""
    if inline:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def _letter(desk: Desk, mail: Mail, place: int, wish: Wish) -> Letter:
    """What a filter wants to be stored.

    Args:
        mail: The message as the filter got it.
    """
    if wish.made:
        return desk.copy(wish.mailbox_id, wish.mail.data, str(place), flags=wish.flags)
    data = None if wish.mail is mail else desk.below(wish.mail)
    if wish.mailbox_id == HELD:
        return desk.held(data)
    return desk.letter(wish.mailbox_id, data, flags=wish.flags)


def _is_quick(bodies: Sequence[Octets], times: int = 1) -> bool:
    """Whether hashing each body so many times, and parsing it, takes about a millisecond.

    Beyond a small size that is so only if little in it is parsed: parts, fields, addresses, encoded words.
    """
    size = sum(map(len, bodies))
    if size * times > INLINE_BYTES:
        return False
    return size <= SMALL_BYTES or sum(_structure(bytes(body)) for body in bodies) <= MAX_STRUCTURE


def _structure(data: bytes) -> int:
    """At least as many as it has parts, header fields, addresses and encoded words."""
    return sum(map(data.count, (b",", b";", b":", b"=?", b"\n--")))


def _error(result: list[Delivered] | SoraError) -> SoraError | None:
    return result if isinstance(result, SoraError) else None
