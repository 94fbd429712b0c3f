"""What a filter does besides storing letters: mail that leaves, and what it remembers of messages and senders.

Effects are part of the delivery's own transaction, and happen once however often the delivery is tried: a row of
`recent_deliveries` with mailbox 0 is their witness. Handles, ids and addresses are kept as hashes, for a script makes
them as long as it likes.

A delivery that is tried again is no duplicate of itself (RFC 7352 §3): beside an id that was new to it stands an entry
of its own, so that its script decides as it did the first time, and all that it files is there already. Such an entry
is kept as long as the witnesses of deliveries are.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from sora.errors import Refused
from sora.sieve.actions import Remembered  # noqa: TC001 — msgspec reads the annotations at run time
from sora.store.outbound import Entry, Outgoing, columns, referring, sealed
from sora.store.sealing import Sealer  # noqa: TC001
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sora.store.db import Connection, Database


RETRIED_S: Final = 86_400
"""So long a delivery is known that is tried again, as `deliver()` and `apply_effects()` do."""


class AlreadyAnswered(Refused):
    """Somebody has answered meanwhile, and the copy of a reply that will not be sent must not be stored."""


class Replied(Struct, frozen=True):
    """The memory of a vacation reply (RFC 5230 §4.2), which decides whether the reply is sent.

    Attributes:
        address: Who gets it.
        seconds: For how long nobody gets a second one.
        outgoing: The place of the reply in `Effects.outgoing`; it is dropped if somebody answered meanwhile.
        copy: The place of its copy (`:fcc`) among the letters of the unit; None: there is none.
    """

    handle: str
    address: str
    seconds: int
    outgoing: int
    copy: int | None = None


class Effects(Struct, frozen=True, kw_only=True):
    """Of one delivery to one recipient.

    Attributes:
        key: What a retry of it has in common with the first try, see `Letters`: effects with the same key happen once.
        sealer: Seals the mail that the filter wrote itself.
        outgoing: Their `letter` is the place of a held letter of the same unit.
    """

    account_id: AccountId
    key: bytes
    sealer: Sealer
    outgoing: tuple[Outgoing, ...] = ()
    remembered: tuple[Remembered, ...] = ()
    replied: tuple[Replied, ...] = ()

    @property
    def copies(self) -> frozenset[int]:
        """Places of the letters that are copies of replies."""
        return frozenset(entry.copy for entry in self.replied if entry.copy is not None)

    def without_copies(self) -> Effects:
        """The same for a unit from which those letters were taken out."""
        gone = self.copies

        def moved(mail: Outgoing) -> Outgoing:
            return (
                mail if mail.letter is None else replace(mail, letter=mail.letter - sum(x < mail.letter for x in gone))
            )

        replied = tuple(replace(entry, copy=None) for entry in self.replied)
        return replace(self, outgoing=tuple(map(moved, self.outgoing)), replied=replied)


Content: TypeAlias = tuple[ContentId, int]
"""Of a letter: its number, and its octets."""


class Applied(Struct, frozen=True):
    """What became of effects.

    Attributes:
        first: False: they had happened before, and nothing was done.
        queued: Mails that leave now.
        answered: Replies that do not, because their address got one meanwhile.
    """

    first: bool
    queued: int
    answered: int


class FilterMemory:
    """What filters ask while they run; what they decide is written by the delivery."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def is_duplicate(self, account_id: AccountId, handle: str, unique_id: str, delivery: bytes = b"") -> bool:
        """Whether an id is tracked (RFC 7352 §3), and was so when this delivery was tried first.

        Args:
            delivery: `Effects.key` of what asks; empty: it is tried once.

        Raises:
            Unavailable: The database does not say.
        """
        found: bool = await self._db.fetchval(
            """
            SELECT EXISTS (
              SELECT FROM sieve_duplicates WHERE account_id = $1 AND entry = $2 AND expires_at > clock())
            AND NOT EXISTS (
              SELECT FROM sieve_duplicates WHERE account_id = $1 AND entry = $3 AND expires_at > clock())
            """,
            account_id,
            duplicate_entry(handle, unique_id),
            first_entry(handle, unique_id, delivery),
        )
        return found

    async def was_answered(self, account_id: AccountId, handle: str, address: str) -> bool:
        """Whether a sender had this vacation reply lately (RFC 5230 §4.2): a forecast, the delivery decides.

        Raises:
            Unavailable: The database does not say.
        """
        found: bool = await self._db.fetchval(
            """
            SELECT EXISTS (
              SELECT FROM vacation_replies WHERE account_id = $1 AND entry = $2 AND expires_at > clock())
            """,
            account_id,
            reply_entry(handle, address),
        )
        return found


async def apply(conn: Connection, batch: Sequence[tuple[Effects, Sequence[Content]] | None]) -> list[Applied | None]:
    """Make effects true inside the transaction on `conn`, in one statement, behind that which stores their letters.

    Args:
        batch: Effects, and the contents of the letters of their unit, in order; None: nothing is to be done.

    Returns:
        One entry for each.

    Raises:
        NotFound: An account is gone.
    """
    given = [(place, *entry) for place, entry in enumerate(batch) if entry is not None]
    answers: list[Applied | None] = [None] * len(batch)
    if given:
        rows = await conn.fetch(_APPLY, *_arrays([effects for _, effects, _ in given], [ids for *_, ids in given]))
        for (place, *_), row in zip(given, rows, strict=True):
            answers[place] = Applied(row["applied"], row["queued"], row["answered"])
    return answers


_APPLY: Final = f"SELECT * FROM apply_effects({', '.join(f'${i}' for i in range(1, 21))}) ORDER BY ord"


def _arrays(batch: Sequence[Effects], contents: Sequence[Sequence[Content]]) -> tuple[list[Any], ...]:
    """Of `apply_effects()`."""
    duplicates = [
        (n, *row) for n, effects in enumerate(batch, 1) for entry in effects.remembered for row in _rows(effects, entry)
    ]
    replies = [(n, entry) for n, effects in enumerate(batch, 1) for entry in effects.replied]
    places = {(n, entry.outgoing): place for place, (n, entry) in enumerate(replies, 1)}
    mails = [
        (n, places.get((n, i)), _entry_of(effects, mail, ids))
        for n, (effects, ids) in enumerate(zip(batch, contents, strict=True), 1)
        for i, mail in enumerate(effects.outgoing)
    ]
    return (
        [effects.account_id for effects in batch],
        [effects.key for effects in batch],
        [n for n, _, _ in duplicates],
        [entry for _, entry, _ in duplicates],
        [seconds for *_, seconds in duplicates],
        [n for n, _ in replies],
        [reply_entry(entry.handle, entry.address) for _, entry in replies],
        [entry.seconds for _, entry in replies],
        [n for n, _, _ in mails],
        [place for _, place, _ in mails],
        *columns([entry for *_, entry in mails])[1:],
    )


def _rows(effects: Effects, entry: Remembered) -> Iterator[tuple[bytes, int]]:
    """Of `sieve_duplicates`, and for how many seconds."""
    yield duplicate_entry(entry.handle, entry.unique_id), entry.seconds
    if not entry.again:
        yield first_entry(entry.handle, entry.unique_id, effects.key), RETRIED_S


def _entry_of(effects: Effects, mail: Outgoing, contents: Sequence[Content]) -> Entry:
    if mail.letter is None:
        return sealed(effects.account_id, mail, effects.sealer)
    return referring(effects.account_id, mail, *contents[mail.letter])


def duplicate_entry(handle: str, unique_id: str) -> bytes:
    """What `sieve_duplicates` knows an id by: one without a handle is another one than with any (RFC 7352 §3.1)."""
    return _entry(handle, unique_id)


def first_entry(handle: str, unique_id: str, delivery: bytes) -> bytes:
    """What `sieve_duplicates` knows the delivery by to which an id was new."""
    return _entry(handle, unique_id, delivery.hex())


def reply_entry(handle: str, address: str) -> bytes:
    """What `vacation_replies` knows a reply by; mail addresses are compared without case."""
    return _entry(handle, address.lower())


def _entry(*texts: str) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogateescape")
        state.update(len(data).to_bytes(8, "big") + data)
    return state.digest()
