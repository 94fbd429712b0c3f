"""SEARCH: what PostgreSQL can say about the messages of a mailbox.

Texts and patterns are folded the same way before they come here (`mime.text.fold`), so a search is a search for
octets. Results are exact at any time, also for messages that the indexer has not seen: the queue of the indexer is
searched by brute force in the same statement. A message whose stored body text is not whole comes back as `unsure`:
only its body can tell.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from msgspec import Struct

from sora._native.seqset import UidSet

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from datetime import datetime

    from sora.store.db import Database
    from sora.types import AccountId, MailboxId

_FACTS: Final = struct.Struct(">Iqqqqq")
_NO_DATE: Final = -(2**63)
MANY: Final = 500
"""Messages whose headers are read one by one sooner than the index is asked."""
FACTS_UIDS: Final = 100_000
"""Messages of one statement in `facts`: 4.4 MB."""
COLUMN_UIDS: Final = 20_000
TEXT_UIDS: Final = 10_000
"""Messages of one statement in `columns` and `texts`: what is unpacked at a time holds up other sessions."""


Column: TypeAlias = Literal["size", "internal_date", "saved_at", "sent_at"]
What: TypeAlias = Literal["base_subject", "subject", "envelope", "display_from", "display_to", "references"]
"""Texts of `message_texts()`."""


class Hits(Struct, frozen=True):
    """Answer of a text search.

    Attributes:
        sure: these match.
        unsure: these match, or their bodies hold more text than is kept: look at the body.
    """

    sure: UidSet
    unsure: UidSet


class Facts(Struct, frozen=True):
    """What never changes about a message; dates are seconds since 1970.

    Attributes:
        sent_at: of the Date header; None: it has none that can be read.
    """

    uid: int
    content_id: int
    internal_date: int
    sent_at: int | None
    saved_at: int
    size: int


class Search:
    """Searches inside one mailbox. Messages that are gone, or not in the given set, never come back."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def text(
        self, account_id: AccountId, mailbox_id: MailboxId, uids: UidSet, pattern: str, *, headers: bool, body: bool
    ) -> Hits:
        """Messages with a text in their headers, body text or either (BODY, TEXT; RFC 9051 §6.4.4).

        Args:
            pattern: folded; empty: everything matches.
        """
        if not uids or not pattern:
            return Hits(uids, UidSet.empty())
        rows = await self._db.fetch(
            "SELECT * FROM search_messages($1, $2, $3, $4, $5, $6, $7)",
            account_id, mailbox_id, *uids.bounds(), headers, body, pattern,
        )  # fmt: skip
        return Hits(
            UidSet.from_numbers(row["uid"] for row in rows if row["certain"]),
            UidSet.from_numbers(row["uid"] for row in rows if not row["certain"]),
        )

    async def header(
        self, account_id: AccountId, mailbox_id: MailboxId, uids: UidSet, field: str, pattern: str
    ) -> UidSet:
        """Messages with a header field that holds a text (HEADER, FROM, SUBJECT …).

        Args:
            field: name of the field, folded, without the colon.
            pattern: folded; empty: the field is there at all.
        """
        if not uids:
            return uids
        found: list[int] | None = await self._db.fetchval(
            "SELECT search_field($1, $2, $3, $4, $5, $6, $7)",
            account_id, mailbox_id, *uids.bounds(), field, pattern, len(uids) > MANY,
        )  # fmt: skip
        return UidSet.from_numbers(found or ())

    async def between(
        self,
        account_id: AccountId,
        mailbox_id: MailboxId,
        uids: UidSet,
        column: Column,
        low: datetime | int | None = None,
        high: datetime | int | None = None,
    ) -> UidSet:
        """Messages with *low* <= column < *high*; None: no bound. Forty times faster than to fetch the facts.

        Args:
            column: a date takes aware datetimes; messages without a Date header have no `sent_at` and never match.
        """
        if not uids:
            return uids
        found: list[int] | None = await self._db.fetchval(
            _BETWEEN[column], account_id, mailbox_id, *uids.bounds(), low, high
        )
        return UidSet.from_numbers(found or ())

    async def facts(self, account_id: AccountId, mailbox_id: MailboxId, uids: UidSet) -> list[Facts]:
        """Dates and sizes of messages, ascending by UID: SINCE, SENTBEFORE, LARGER and the keys of SORT."""
        found: list[Facts] = []
        for low, high in _spans(uids, FACTS_UIDS):
            packed: bytes | None = await self._db.fetchval(
                "SELECT message_columns($1, $2, $3, $4)", account_id, mailbox_id, low, high
            )
            for uid, content_id, internal, sent, saved, size in _FACTS.iter_unpack(packed or b""):
                if uid in uids:
                    found.append(Facts(uid, content_id, internal, None if sent == _NO_DATE else sent, saved, size))
        return found

    async def columns(self, account_id: AccountId, mailbox_id: MailboxId, uids: UidSet) -> AsyncGenerator[bytes, None]:
        """Packed facts for `columns.Columns`, chunk by chunk, also of messages between those that are asked for."""
        for low, high in _spans(uids, COLUMN_UIDS):
            packed: bytes | None = await self._db.fetchval(
                "SELECT message_columns($1, $2, $3, $4)", account_id, mailbox_id, low, high
            )
            if packed:
                yield packed

    async def texts(
        self, account_id: AccountId, mailbox_id: MailboxId, uids: UidSet, what: What
    ) -> AsyncGenerator[bytes, None]:
        """Packed texts for `columns.Texts`, chunk by chunk, ascending; of messages in between too, if they are many."""
        for low, high in _spans(uids, TEXT_UIDS):
            among = uids & UidSet.from_ranges([(low, high)])
            packed: bytes | None = await self._db.fetchval(
                "SELECT message_texts($1, $2, $3, $4, $5)", account_id, mailbox_id, *among.bounds(), what
            )
            if packed:
                yield packed


def _between_sql(column: str, kind: str) -> str:
    inner = f"""
      SELECT i.uid, i.content_id FROM messages i
      WHERE i.account_id = $1 AND i.mailbox_id = $2 AND i.uid BETWEEN r.lo AND r.hi AND i.expunged_at IS NULL
        AND ($5::{kind} IS NULL OR i.{column} >= $5) AND ($6::{kind} IS NULL OR i.{column} < $6)
      OFFSET 0"""
    return f"""
    SELECT array_agg(m.uid) FROM unnest($3::bigint[], $4::bigint[]) r(lo, hi) CROSS JOIN LATERAL ({inner}) m
    """


_BETWEEN: Final = {
    "size": _between_sql("size", "bigint"),
    "internal_date": _between_sql("internal_date", "timestamptz"),
    "saved_at": _between_sql("saved_at", "timestamptz"),
    "sent_at": """
    SELECT array_agg(m.uid) FROM unnest($3::bigint[], $4::bigint[]) r(lo, hi)
    CROSS JOIN LATERAL (
      SELECT i.uid, i.content_id FROM messages i
      WHERE i.account_id = $1 AND i.mailbox_id = $2 AND i.uid BETWEEN r.lo AND r.hi AND i.expunged_at IS NULL
      OFFSET 0) m
    CROSS JOIN LATERAL (
      SELECT i.sent_at FROM message_contents i WHERE i.account_id = $1 AND i.content_id = m.content_id OFFSET 0) c
    WHERE c.sent_at IS NOT NULL
      AND ($5::timestamptz IS NULL OR c.sent_at >= $5) AND ($6::timestamptz IS NULL OR c.sent_at < $6)
    """,
}


def _spans(uids: UidSet, most: int) -> Iterator[tuple[int, int]]:
    """From the first to the last UID of a set, in spans of at most *most* numbers that are not all empty."""
    low = high = 0
    for first, last in uids.ranges():
        while first <= last:
            if low and first - low >= most:
                yield low, high
                low = 0
            low = low or first
            high = min(last, low + most - 1)
            first = high + 1
    if low:
        yield low, high
