"""Search keys that the store answers: sizes and dates, headers and texts.

Where the stored text of a message is not whole, the body decides, so a result is exact whatever was indexed.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, date, datetime, time, timedelta
from email.utils import parsedate
from typing import TYPE_CHECKING, Final

from sora._native import columns as native
from sora._native.seqset import UidSet
from sora.errors import BlobDown
from sora.mime.digest import searchable
from sora.mime.text import fold
from sora.protocols.imap.bodies import BODY_COLUMNS, Ahead, chunks_of
from sora.wire.imap_search import BodyText, ByDate, BySize, DateField, HeaderText, Relation, Within

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sora.protocols.imap.session import Session
    from sora.store.search import Column

WIDEST_ZONE: Final = timedelta(hours=15)
"""No Date header is further from UTC; nearer than this to midnight, only the header knows the day."""
DAY: Final = timedelta(days=1)
LONGEST: Final = timedelta(days=366 * 1000)
"""Older than any message."""
FIRST: Final = datetime.min.replace(tzinfo=UTC)
LAST: Final = datetime.max.replace(tzinfo=UTC)
INLINE_BYTES: Final = 64 * 1024
"""Larger bodies are taken apart in a thread."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SECOND: Final = timedelta(seconds=1)
COLUMNS: Final[Mapping[Column, int]] = {
    "size": native.SIZE,
    "internal_date": native.INTERNAL_DATE,
    "saved_at": native.SAVED_DATE,
    "sent_at": native.SENT_DATE,
}

_ENVELOPE_DATE = re.compile(rb'\("((?:[^"\\]|\\.)*)"')


async def by_size(s: Session, key: BySize, within: UidSet) -> UidSet:
    """LARGER and SMALLER; both exclude the number itself."""
    if key.larger:
        return await _between(s, within, "size", key.size + 1, None)
    return await _between(s, within, "size", None, key.size)


async def by_age(s: Session, key: Within, within: UidSet) -> UidSet:
    """OLDER and YOUNGER (RFC 5032 §2), by INTERNALDATE; a message of just that age is both."""
    limit = datetime.now(UTC) - min(timedelta(seconds=key.seconds), LONGEST)
    if key.older:
        return await _between(s, within, "internal_date", None, limit + timedelta(microseconds=1))
    return await _between(s, within, "internal_date", limit, None)


async def by_date(s: Session, key: ByDate, within: UidSet) -> UidSet:
    """BEFORE, ON, SINCE and their SENT and SAVED forms: days are compared, without time and zone.

    INTERNALDATE is answered in UTC, so its day is the day in UTC. A Date header has the day that is written in it; it
    is looked at where its zone can make a difference.
    """
    if key.field is DateField.SENT:
        return await _by_sent_date(s, key, within)
    start = datetime.combine(key.day, time(), UTC)
    low = None if key.relation is Relation.BEFORE else start
    high = {Relation.BEFORE: start, Relation.SINCE: None, Relation.ON: _later(start, DAY)}[key.relation]
    return await _between(s, within, "saved_at" if key.field is DateField.SAVED else "internal_date", low, high)


async def _by_sent_date(s: Session, key: ByDate, within: UidSet) -> UidSet:
    """Far from midnight the moment decides, near to it the day that is written in the header."""
    start = datetime.combine(key.day, time(), UTC)
    end = _later(start, DAY if key.relation is Relation.ON else timedelta(0))
    near = await _between(s, within, "sent_at", _earlier(start, WIDEST_ZONE), _later(end, WIDEST_ZONE))
    days = await _written_days(s, near)
    found = UidSet.from_numbers(uid for uid, day in days.items() if _holds(key.relation, day, key.day))
    if key.relation is Relation.BEFORE:
        return found | await _between(s, within - near, "sent_at", None, start)
    if key.relation is Relation.SINCE:
        return found | await _between(s, within - near, "sent_at", end, None)
    return found


def _holds(relation: Relation, day: date, wanted: date) -> bool:
    if relation is Relation.BEFORE:
        return day < wanted
    return day >= wanted if relation is Relation.SINCE else day == wanted


def _earlier(moment: datetime, by: timedelta) -> datetime:
    """So much earlier, or the first moment there is."""
    return moment - by if moment - FIRST > by else FIRST


def _later(moment: datetime, by: timedelta) -> datetime:
    """So much later, or the last moment there is."""
    return moment + by if LAST - moment > by else LAST


async def _written_days(s: Session, uids: UidSet) -> dict[int, date]:
    """The day in the Date header, as it is written there; where that cannot be read, the day of the moment in UTC."""
    if not uids:
        return {}
    days = {}
    async with chunks_of(s, uids, ["envelope", "sent_at"]) as chunks:
        async for rows in chunks:
            for row in rows:
                days[row["uid"]] = written_day(row["envelope"]) or row["sent_at"].date()
    return days


def written_day(envelope: bytes) -> date | None:
    """The day of the Date header in an ENVELOPE; None if it has none that can be read."""
    match = _ENVELOPE_DATE.match(envelope)
    if match is None:
        return None
    try:
        parsed = parsedate(match[1].decode("latin-1").replace("\\", ""))
        return date(*parsed[:3]) if parsed is not None else None
    except (ValueError, IndexError, TypeError):
        return None  # parsedate stumbles over some of what calls itself a date


# ---------------------------------------------------------------------------------------------------- texts


async def by_header(s: Session, key: HeaderText, within: UidSet) -> UidSet:
    """HEADER, and FROM, TO, CC, BCC and SUBJECT, which are headers too."""
    view = s.view.view
    return await s.node.store.search.header(view.account_id, view.mailbox_id, within, fold(key.field), fold(key.text))


async def by_text(s: Session, key: BodyText, within: UidSet) -> UidSet:
    """BODY and TEXT.

    Raises:
        BlobDown: A body that must decide cannot be had now; half a result would be a wrong one.
    """
    view = s.view.view
    pattern = fold(key.text)
    hits = await s.node.store.search.text(
        view.account_id, view.mailbox_id, within, pattern, headers=key.headers, body=True
    )
    return hits.sure | await _by_body(s, hits.unsure, pattern)


async def _by_body(s: Session, uids: UidSet, pattern: str) -> UidSet:
    """Messages whose whole body text holds the pattern; their headers were searched already."""
    if not uids:
        return uids
    ahead = Ahead(s.node.bodies, s.view.view.account_id)
    found = []
    async with chunks_of(s, uids, BODY_COLUMNS) as chunks:
        async for rows in chunks:
            async with ahead.over(rows) as bodies:
                async for row, body in bodies:
                    if await _body_holds(body, pattern):
                        found.append(row["uid"])
    if ahead.failed:
        raise BlobDown("Some message bodies are temporarily unavailable")
    return UidSet.from_numbers(found)


async def _body_holds(body: bytes, pattern: str) -> bool:
    if len(body) <= INLINE_BYTES:
        return _holds_text(body, pattern)
    return await asyncio.to_thread(_holds_text, body, pattern)


def _holds_text(body: bytes, pattern: str) -> bool:
    return pattern in searchable(body)[1]


async def _between(
    s: Session, within: UidSet, column: Column, low: datetime | int | None, high: datetime | int | None
) -> UidSet:
    """Messages with *low* <= column < *high*: from the columns of the worker, or by a statement."""
    cache, view = s.server.columns, s.view.view
    columns = cache.at_hand(s.view, within)
    if columns is None:
        if not cache.worth_reading(s.view, within):
            return await s.node.store.search.between(view.account_id, view.mailbox_id, within, column, low, high)
        columns = await cache.get(s, within)
    return columns.between(within, COLUMNS[column], _rounded(low, up=False), _rounded(high, up=True))


def _rounded(bound: datetime | int | None, *, up: bool) -> int | None:
    """Columns hold whole seconds, rounded down; a bound within a second takes in all of that second."""
    if not isinstance(bound, datetime):
        return bound
    return -((EPOCH - bound) // SECOND) if up else (bound - EPOCH) // SECOND
