"""What goes into a delivery and comes out of it: the values, and the arguments of `deliver()`."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID  # noqa: TC003

from msgspec import Struct

from sora.store.copies import INLINE_BYTES
from sora.types import AccountId, ContentId, MailboxId, ModSeq, Uid, UidValidity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncpg import Record

    from sora.mime.digest import Digest
    from sora.store.copies import Pieces
    from sora.store.effects import Content, Effects

HELD: Final = MailboxId(-1)
"""The mailbox of a held letter: its body is kept for mail that leaves, and there is no message of it."""


class NewMessage(Struct, frozen=True, kw_only=True):
    """One message for one mailbox.

    Attributes:
        mailbox_id: None: INBOX, looked up inside the transaction, because RENAME of INBOX may be under way; or `HELD`.
        content_hash: BLAKE2b-256 of the stored octets.
        flags: flag numbers; keywords are registered before.
        key: LMTP: what a retry of the same delivery has in common; a second delivery with it is suppressed for 24 h.
        trace: the header fields at the top of the stored octets that `digest` does not know of.
        trace_text: the same as text for search.
        append_id: APPEND: a number of its own, by which a commit whose answer was lost is found again.
        actor_id: APPEND to a mailbox of somebody else: who does it.
    """

    account_id: AccountId
    mailbox_id: MailboxId | None
    content_hash: bytes
    size: int
    internal_date: datetime
    digest: Digest
    flags: tuple[int, ...] = ()
    key: bytes | None = None
    trace: bytes = b""
    trace_text: str = ""
    append_id: UUID | None = None
    actor_id: AccountId | None = None


class Delivered(Struct, frozen=True):
    """What became of one `NewMessage`.

    Attributes:
        uid: 0: it is not stored, or held.
        modseq: of the message, and of the mailbox after it.
        duplicate: nothing was stored; the fields tell of the message that was there.
        locked: nothing was stored and there is no UID: somebody else holds the lock of the mailbox or of its quota.
        replaced_modseq: of the mailbox that has lost a message to it; 0: none has, or it is not known any more.
    """

    account_id: AccountId
    mailbox_id: MailboxId
    uid: Uid
    modseq: ModSeq
    uidvalidity: UidValidity
    content_id: ContentId
    duplicate: bool = False
    locked: bool = False
    replaced_modseq: ModSeq = ModSeq(0)


class Share(Struct, frozen=True):
    """What is stored together or not at all, among others in one call.

    Attributes:
        effects: what happens in the same transaction, once.
    """

    messages: tuple[NewMessage, ...]
    effects: Effects | None = None


# One message over quota fails the call, so that a batch stays "all or none" in one round trip.
DELIVER: Final = f"""
    SELECT d.*, CASE WHEN d.over_quota THEN fail('SR001', 'Over quota', d.account_id::text)::text END
    FROM deliver({", ".join(f"${i}" for i in range(1, 33))}, p_patient => $33, p_actor_id => $34, p_unit => $35) d
    ORDER BY d.ord
"""
DELIVER_COPIED: Final = DELIVER.replace("$35)", "$35, p_body => $36)")
LOCKS_FREE: Final = """
    SELECT set_config('lock_timeout', '10s', true), lock_quotas(ARRAY[$1::bigint]), lock_mailboxes(ARRAY[$2::bigint])
"""
FIND_DELIVERIES: Final = """
    SELECT f.*, m.created_modseq AS modseq FROM find_deliveries($1, $2, $3) f
    LEFT JOIN messages m ON m.account_id = f.account_id AND m.mailbox_id = f.mailbox_id AND m.uid = f.uid
"""
FIND_APPENDS: Final = """
    SELECT f.*, $1 AS account_id, m.content_id, m.created_modseq AS modseq FROM find_appends($1, $2, $3) f
    LEFT JOIN messages m ON m.account_id = $1 AND m.mailbox_id = f.mailbox_id AND m.uid = f.uid
"""


def arguments_of(
    batch: Sequence[NewMessage], instance_id: str, *, patient: bool, units: list[int] | None = None
) -> tuple[Any, ...]:
    """Of `deliver()`, but for the bodies."""
    digests, numbers = _share(batch)
    actors = [message.actor_id for message in batch]
    return (*_message_arrays(batch, numbers), *digest_arrays(digests), instance_id, patient, actors, units)


def units_of(shares: Sequence[Share]) -> list[int] | None:
    """For each message the number of its share; None: no share has several."""
    if all(len(share.messages) <= 1 for share in shares):
        return None
    return [number for number, share in enumerate(shares) for _ in share.messages]


def stored_effects(
    shares: Sequence[Share], delivered: Sequence[Delivered]
) -> Iterator[tuple[Effects, list[Content]] | None]:
    """For each share its effects and the contents of its messages, or None if nothing is to happen."""
    start = 0
    for share in shares:
        rows = delivered[start : start + len(share.messages)]
        start += len(rows)
        if share.effects is None or any(row.locked for row in rows):
            yield None
        else:
            sizes = [message.size for message in share.messages]
            yield share.effects, list(zip([row.content_id for row in rows], sizes, strict=True))


def delivered_of(row: Record, replaced_modseq: ModSeq = ModSeq(0)) -> Delivered:  # noqa: B008 — an int
    """What became of a message, by its row of `deliver()`."""
    return Delivered(
        account_id=AccountId(row["account_id"]),
        mailbox_id=MailboxId(row["mailbox_id"]),
        uid=Uid(row["uid"] or 0),
        modseq=ModSeq(row["modseq"] or 0),
        uidvalidity=UidValidity(row["uidvalidity"] or 0),
        content_id=ContentId(row["content_id"] or 0),
        duplicate=row["duplicate"],
        locked=row["locked"],
        replaced_modseq=replaced_modseq,
    )


def sorted_copies(batch: Sequence[NewMessage], bodies: Sequence[Pieces]) -> tuple[set[int], list[bytes | None]]:
    """Places of the large bodies, and the others as they go into the call; each different one once."""
    first = {(m.account_id, m.content_hash): i for i, m in reversed(list(enumerate(batch)))}
    large = {i for i in first.values() if sum(map(len, bodies[i])) > INLINE_BYTES}
    small = set(first.values()) - large
    return large, [b"".join(pieces) if i in small else None for i, pieces in enumerate(bodies)]


def _share(batch: Sequence[NewMessage]) -> tuple[list[Digest], list[int]]:
    """The different digests of a batch, and for each message the number (from 1) of its own."""
    places: dict[int, int] = {}
    digests: list[Digest] = []
    for message in batch:
        if id(message.digest) not in places:
            digests.append(message.digest)
            places[id(message.digest)] = len(digests)
    return digests, [places[id(message.digest)] for message in batch]


def _message_arrays(batch: Sequence[NewMessage], digests: list[int]) -> tuple[list[Any], ...]:
    return (
        [m.account_id for m in batch],
        [m.mailbox_id for m in batch],
        [m.content_hash for m in batch],
        [m.size for m in batch],
        [",".join(map(str, m.flags)) or None for m in batch],
        [m.internal_date for m in batch],
        [m.key for m in batch],
        [m.append_id for m in batch],
        digests,
        [m.trace for m in batch],
        [m.trace_text for m in batch],
    )


def digest_arrays(digests: Sequence[Digest]) -> tuple[list[Any], ...]:
    """A column of each fact that a content row keeps of a message, and the three of its text for the search."""
    return (
        [d.sent_at for d in digests],
        [d.message_id for d in digests],
        [d.in_reply_to for d in digests],
        [d.references or None for d in digests],
        [d.subject for d in digests],
        [d.base_subject for d in digests],
        [d.sender for d in digests],
        [d.to for d in digests],
        [d.cc for d in digests],
        [d.bcc for d in digests],
        [d.reply_to for d in digests],
        [d.display_from for d in digests],
        [d.display_to for d in digests],
        [d.preview for d in digests],
        [d.envelope for d in digests],
        [d.body_structure for d in digests],
        [d.header for d in digests],
        [d.header_text for d in digests],
        [d.body_text for d in digests],
        [d.body_truncated for d in digests],
    )


def witness_of(message: NewMessage, row: Record | None) -> Delivered | None:
    """What the witness tells of a message; None: it is not stored."""
    if row is None:
        return None
    return Delivered(
        account_id=message.account_id,
        mailbox_id=MailboxId(row["mailbox_id"]),
        uid=Uid(row["uid"]),
        modseq=ModSeq(row["modseq"] or 0),
        uidvalidity=UidValidity(row["uidvalidity"]),
        content_id=ContentId(row["content_id"] or 0),
    )
