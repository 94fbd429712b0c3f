"""What comes in by LMTP or APPEND becomes letters: rows for the database, and the octets that staging takes.

Pure computation: nothing waits here, and large messages have it done in a thread.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from sora._native.mimescan import scan
from sora.mime import digest as mime_digest
from sora.mime.text import fold
from sora.services.recipients import Recipient  # noqa: TC001
from sora.store.messages import NewMessage
from sora.store.sealing import Sealer, Unsealed
from sora.types import AccountId, MailboxId
from sora.wire import lmtp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sora.store.copies import Pieces
    from sora.store.diskfile import Octets

Box: TypeAlias = tuple[AccountId, MailboxId | None]
"""Where a letter goes; None: INBOX."""


class MailEnvelope(Struct, frozen=True):
    """An LMTP transaction.

    Attributes:
        sender: Reverse-path as written; empty for the null sender.
        recipients: In the order of their RCPT commands.
        hello: What the client called itself.
        peer: Its address, or `local`.
        tls: It came under TLS.
        utf8: SMTPUTF8 was used.
        id: Names the transaction in the log and in Received.
        peer_name: Host name of the peer, if a proxy told one.
    """

    sender: str
    recipients: tuple[Recipient, ...]
    hello: str
    peer: str
    tls: bool = False
    utf8: bool = False
    id: str = ""
    peer_name: str = ""


class AppendItem(Struct, frozen=True):
    """One message of an APPEND.

    Attributes:
        flags: Flag numbers.
        internal_date: None: now.
    """

    data: Octets
    flags: tuple[int, ...] = ()
    internal_date: datetime | None = None


class Letter(Struct):
    """A message on its way: its row, and its bytes, the larger part of which accounts share."""

    row: NewMessage
    body: Unsealed

    @property
    def size(self) -> int:
        return self.row.size

    @property
    def pieces(self) -> Pieces:
        """The octets that are stored: in staging, and in the database where a copy is kept."""
        return self.body.seal()


class Letters:
    """Writes letters.

    Args:
        body_limit: Characters of body text kept for search; 0: none.
        copies: The stored octets are asked for twice, by staging and by the database.
        clock: The time of day.
    """

    def __init__(self, body_limit: int, copies: bool, clock: Callable[[], datetime]) -> None:
        self._body_limit = body_limit
        self._copies = copies
        self._clock = clock

    def of_lmtp(
        self,
        data: Octets,
        envelope: MailEnvelope,
        host: str,
        accounts: dict[AccountId, list[Recipient]],
        sealers: dict[AccountId, Sealer],
    ) -> dict[Box, Letter]:
        """One letter for each mailbox."""
        now = self._clock()
        trace = lmtp.Trace(
            sender=envelope.sender,
            hello=envelope.hello,
            peer=envelope.peer,
            host=host,
            tls=envelope.tls,
            utf8=envelope.utf8,
            id=envelope.id,
            received_at=now,
            peer_name=envelope.peer_name,
        )
        digest = mime_digest.digest(data, self._body_limit)
        received = hashlib.blake2b(data, digest_size=32)
        letters: dict[Box, Letter] = {}
        for account_id, sealer in sealers.items():
            members = accounts[account_id]
            stamp = lmtp.write_trace(trace, members[0].address, [recipient.text for recipient in members])
            row = NewMessage(
                account_id=account_id,
                mailbox_id=None,
                content_hash=sealer.hash((stamp, data)),
                size=len(stamp) + len(data),
                internal_date=now,
                digest=digest,
                trace=stamp,
                trace_text=_searchable(stamp),
                key=_dedupe_key(received, envelope.sender, account_id),
            )
            body = Unsealed(sealer, row.content_hash, (stamp, data), keep=self._copies)
            for recipient in members:
                letters[box_of(recipient)] = Letter(replace(row, mailbox_id=recipient.mailbox_id), body)
        return letters

    def of_append(
        self,
        account_id: AccountId,
        mailbox_id: MailboxId,
        items: Sequence[AppendItem],
        sealer: Sealer,
        actor_id: AccountId | None = None,
    ) -> list[Letter]:
        """One letter for each message, in order."""
        now = self._clock()
        letters = []
        for item in items:
            digest = sealer.hash((item.data,))
            row = NewMessage(
                account_id=account_id,
                mailbox_id=mailbox_id,
                content_hash=digest,
                size=len(item.data),
                internal_date=item.internal_date or now,
                flags=item.flags,
                digest=mime_digest.digest(item.data, self._body_limit),
                append_id=uuid.uuid4(),
                actor_id=actor_id,
            )
            letters.append(Letter(row, Unsealed(sealer, digest, (item.data,), keep=self._copies)))
        return letters


def _dedupe_key(received: hashlib.blake2b, sender: str, account_id: AccountId) -> bytes:
    """What a retry of a delivery has in common with the first try: bytes as received, MAIL FROM and recipient.

    The recipient counts as the account that it resolved to, and the database keeps the keys by mailbox: an MTA that
    repeats only one of two recipients of one mailbox repeats the same delivery.
    """
    state = received.copy()
    state.update(b"\0%d\0" % account_id + sender.encode())
    return state.digest()


def _searchable(stamp: bytes) -> str:
    """The text of trace fields as `Digest.header_text` has the others."""
    return fold(mime_digest.header_text(scan(stamp + b"\r\n")))


def box_of(recipient: Recipient) -> Box:
    """Where the letter for a recipient goes."""
    return recipient.account_id, recipient.mailbox_id
