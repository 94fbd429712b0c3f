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
from sora.services.letters import AppendItem, Letters, MailEnvelope, box_of
from sora.store.account_keys import NoKeys
from sora.types import ModSeq
from sora.wire import lmtp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sora.services.changes import Changes
    from sora.services.recipients import Recipient
    from sora.store.account_keys import Sealers
    from sora.store.deliveries import Delivered
    from sora.store.diskfile import Octets
    from sora.store.messages import Messages
    from sora.store.replacing import Replaced
    from sora.store.sealing import Sealer
    from sora.store.staging import Staging
    from sora.types import AccountId, MailboxId, Uid, UidValidity

__all__ = ["AppendItem", "AppendResult", "Delivery", "Doorbell", "MailEnvelope", "MailLoop"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

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
    ) -> None:
        self.host = host
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
        accounts: dict[AccountId, list[Recipient]] = {}
        for recipient in envelope.recipients:
            if recipient.address.casefold() not in been:
                accounts.setdefault(recipient.account_id, []).append(recipient)
        failed, sealers = await self._sealers_of(accounts)
        inline = _is_quick((data,), len(sealers))
        letters = await _compute(inline, self._letters.of_lmtp, data, envelope, self.host, accounts, sealers)
        units = {box: Unit("lmtp", [letter]) for box, letter in letters.items()}
        for unit in units.values():
            self._commits.submit(unit)
        outcomes = {box: _error(await unit.done) for box, unit in units.items()}
        metrics.delivery_seconds.observe(time.perf_counter() - started)
        looped = MailLoop("The message was delivered here before")
        return [
            outcomes.get(box_of(recipient), failed.get(recipient.account_id, looped))
            for recipient in envelope.recipients
        ]

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


async def _compute(inline: bool, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Compute here, or else in a thread."""
    if inline:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


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
