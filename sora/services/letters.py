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
from sora.store.deliveries import HELD, NewMessage
from sora.store.effects import Effects
from sora.store.sealing import Sealer, Unsealed
from sora.types import AccountId, MailboxId
from sora.wire import lmtp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sora.mime.digest import Digest
    from sora.sieve.actions import Remembered
    from sora.sieve.mail import Mail
    from sora.store.copies import Pieces
    from sora.store.diskfile import Octets
    from sora.store.effects import Replied
    from sora.store.outbound import Outgoing

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


class Filed(Struct, frozen=True):
    """A message that a script files while it is in a mailbox already, or that is held for mail that leaves.

    Attributes:
        mailbox_id: Or `HELD`.
        flags: Flag numbers.
    """

    mailbox_id: MailboxId
    data: Octets
    flags: tuple[int, ...]
    internal_date: datetime


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
        incoming = self.incoming(data, envelope, host)
        letters: dict[Box, Letter] = {}
        for account_id, sealer in sealers.items():
            members = accounts[account_id]
            desk = incoming.desk(members, sealer)
            letter = desk.letter(None)
            for recipient in members:
                letters[box_of(recipient)] = Letter(replace(letter.row, mailbox_id=recipient.mailbox_id), letter.body)
        return letters

    def incoming(self, data: Octets, envelope: MailEnvelope, host: str) -> Incoming:
        """What an LMTP message is to all its recipients."""
        return Incoming(data, envelope, host, self._clock(), self._body_limit, self._copies)

    def of_filed(self, account_id: AccountId, filed: Sequence[Filed], key: bytes, sealer: Sealer) -> list[Letter]:
        """One letter for each message, in order.

        Args:
            key: What another try to file them has in common with this one.
        """
        letters = []
        for place, item in enumerate(filed):
            digest = sealer.hash((item.data,))
            row = NewMessage(
                account_id=account_id,
                mailbox_id=item.mailbox_id,
                content_hash=digest,
                size=len(item.data),
                internal_date=item.internal_date,
                flags=item.flags,
                digest=mime_digest.digest(item.data, self._body_limit),
                key=_derived(key, f"filed {place}"),
            )
            letters.append(Letter(row, Unsealed(sealer, digest, (item.data,), keep=self._copies)))
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


class Incoming:
    """An LMTP message, of which its recipients get letters. Its digest is computed when the first letter needs it.

    Args:
        received_at: For Received, and the internal date of all letters.
        copies: The stored octets are asked for twice.
    """

    def __init__(
        self, data: Octets, envelope: MailEnvelope, host: str, received_at: datetime, body_limit: int, copies: bool
    ) -> None:
        self.data = data
        self.envelope = envelope
        self.received_at = received_at
        self.copies = copies
        self._body_limit = body_limit
        self._trace = lmtp.Trace(
            sender=envelope.sender,
            hello=envelope.hello,
            peer=envelope.peer,
            host=host,
            tls=envelope.tls,
            utf8=envelope.utf8,
            id=envelope.id,
            received_at=received_at,
            peer_name=envelope.peer_name,
        )
        self._received = hashlib.blake2b(data, digest_size=32)
        self._digests: dict[bytes | None, Digest] = {}

    def desk(self, recipients: Sequence[Recipient], sealer: Sealer) -> Desk:
        """Where the letters of one account are written.

        Args:
            recipients: Of that account: all that have the same letters.
        """
        stamp = lmtp.write_trace(self._trace, recipients[0].address, [recipient.text for recipient in recipients])
        key = _dedupe_key(self._received, self.envelope.sender, recipients[0].account_id)
        return Desk(self, recipients, sealer, stamp, key)

    def digest_of(self, data: Octets | None) -> Digest:
        """What a body says: the message as received (None), or another version of it; the same octets once."""
        name = None if data is None else hashlib.blake2b(data, digest_size=32).digest()
        if name not in self._digests:
            self._digests[name] = mime_digest.digest(self.data if data is None else data, self._body_limit)
        return self._digests[name]


class Desk:
    """Writes the letters of one message to one account.

    Attributes:
        stamp: The trace fields of this delivery: Return-Path, Delivered-To, Received.
        effects_key: What a retry of this delivery to these recipients has in common with the first try.
    """

    def __init__(
        self, incoming: Incoming, recipients: Sequence[Recipient], sealer: Sealer, stamp: bytes, key: bytes
    ) -> None:
        self.stamp = stamp
        self.account_id = recipients[0].account_id
        self._incoming = incoming
        self._sealer = sealer
        self._key = key
        self.effects_key = _derived(key, "effects", *(recipient.text for recipient in recipients))
        self._bodies: dict[tuple[bytes, int | None], tuple[NewMessage, Unsealed]] = {}
        self._versions: dict[Mail, bytes] = {}
        self._held: dict[bytes, int] = {}  # content hashes, and the order in which they came

    def letter(
        self,
        mailbox_id: MailboxId | None,
        data: Octets | None = None,
        *,
        flags: tuple[int, ...] = (),
        stamp: bytes | None = None,
    ) -> Letter:
        """A letter for a mailbox; a second one with the same octets shares the body, whose hash is over all of them.

        Args:
            mailbox_id: None: INBOX.
            data: Another version of the message, beneath the stamp; None: as received.
            flags: Flag numbers; keywords are registered before.
            stamp: Other trace fields above it; None: those of this delivery.
        """
        row, body = self._body(self.stamp if stamp is None else stamp, data)
        return Letter(replace(row, mailbox_id=mailbox_id, flags=flags), body)

    def held(self, data: Octets | None = None, *, stamp: bytes | None = None) -> Letter:
        """A letter that is in no mailbox: only `Outgoing` refers to it. It costs nothing if another one has its octets.

        Every mail that leaves as it came needs one, even beside a letter for a mailbox: that may be suppressed as a
        retry of one that has been purged since, or of another recipient's. This one is there as long as its mail.
        """
        letter = self.letter(HELD, data, stamp=stamp)
        key = _derived(self.effects_key, "held", str(self._held.setdefault(letter.row.content_hash, len(self._held))))
        return Letter(replace(letter.row, key=key), letter.body)

    def copy(self, mailbox_id: MailboxId | None, data: bytes, role: str, *, flags: tuple[int, ...] = ()) -> Letter:
        """A letter of a mail that a filter has made (`:fcc`, RFC 8580).

        Args:
            role: Tells it from others of the same delivery when that is tried again, with another date in them.
        """
        letter = self.letter(mailbox_id, data, flags=flags, stamp=b"")
        return Letter(replace(letter.row, key=_derived(self.effects_key, "copy", role)), letter.body)

    def effects(
        self,
        outgoing: Sequence[Outgoing] = (),
        remembered: Sequence[Remembered] = (),
        replied: Sequence[Replied] = (),
    ) -> Effects:
        """What the filter does besides; the mail that leaves refers to held letters by their places in the unit."""
        return Effects(
            account_id=self.account_id,
            key=self.effects_key,
            sealer=self._sealer,
            outgoing=tuple(outgoing),
            remembered=tuple(remembered),
            replied=tuple(replied),
        )

    def below(self, mail: Mail) -> bytes:
        """The octets of an edited message below the stamp; the same object for the same version."""
        if mail not in self._versions:
            self._versions[mail] = below(mail, self.stamp)
        return self._versions[mail]

    def _body(self, stamp: bytes, data: Octets | None) -> tuple[NewMessage, Unsealed]:
        name = stamp, None if data is None else id(data)
        if name not in self._bodies:
            incoming = self._incoming
            pieces = (stamp, incoming.data if data is None else data)
            row = NewMessage(
                account_id=self.account_id,
                mailbox_id=None,
                content_hash=self._sealer.hash(pieces),
                size=sum(map(len, pieces)),
                internal_date=incoming.received_at,
                digest=incoming.digest_of(data),
                trace=stamp,
                trace_text=_searchable(stamp) if stamp else "",
                key=self._key,
            )
            self._bodies[name] = row, Unsealed(self._sealer, row.content_hash, pieces, keep=incoming.copies)
        return self._bodies[name]


def below(mail: Mail, stamp: bytes) -> bytes:
    """The octets of an edited message below its trace fields.

    Those stay at the top whatever a script adds above them, and what it deleted of them is there again: loops are known
    by them.
    """
    head = mail.head
    place = head.find(stamp)
    if place >= 0:
        head = head[:place] + head[place + len(stamp) :]
    else:
        for field in _fields_of(stamp):
            head = head.replace(field, b"", 1)
    return head + bytes(mail.tail)


def _fields_of(stamp: bytes) -> list[bytes]:
    """The fields of a header, each with its continuation lines."""
    fields: list[bytes] = []
    for line in stamp.splitlines(keepends=True):
        if line[:1] in (b" ", b"\t"):
            fields[-1] += line
        else:
            fields.append(line)
    return fields


def _derived(key: bytes, *texts: str) -> bytes:
    """Another key, which is the same whenever these are."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogateescape"), digest_size=32, key=key).digest()


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
