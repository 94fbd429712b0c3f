"""Search keys that the store answers: sizes and dates, headers and texts.

Where the stored text of a message is not whole, the body decides, so a result is exact whatever was indexed.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, date, datetime, time, timedelta
from email.utils import parsedate
from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora.errors import BlobDown
from sora.mime.digest import searchable
from sora.mime.text import fold
from sora.protocols.imap.bodies import BODY_COLUMNS, Ahead, chunks_of
from sora.wire.imap_search import BodyText, ByDate, BySize, DateField, HeaderText, Relation, Within

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session
    from sora.store.search import Facts

WIDEST_ZONE_S: Final = 15 * 3600
"""No Date header is further from UTC; nearer than this to midnight, only the header knows the day."""
INLINE_BYTES: Final = 64 * 1024
"""Larger bodies are taken apart in a thread."""

_ENVELOPE_DATE = re.compile(rb'\("((?:[^"\\]|\\.)*)"')


async def by_size(s: Session, key: BySize, within: UidSet) -> UidSet:
    """LARGER and SMALLER; both exclude the number itself."""
    facts = await _facts(s, within)
    return UidSet.from_numbers(f.uid for f in facts if (f.size > key.size if key.larger else f.size < key.size))


async def by_age(s: Session, key: Within, within: UidSet) -> UidSet:
    """OLDER and YOUNGER (RFC 5032 §2), by INTERNALDATE."""
    limit = datetime.now(UTC).timestamp() - key.seconds
    facts = await _facts(s, within)
    if key.older:
        return UidSet.from_numbers(f.uid for f in facts if f.internal_date <= limit)
    return UidSet.from_numbers(f.uid for f in facts if f.internal_date >= limit)


async def by_date(s: Session, key: ByDate, within: UidSet) -> UidSet:
    """BEFORE, ON, SINCE and their SENT and SAVED forms: days are compared, without time and zone.

    INTERNALDATE is answered in UTC, so its day is the day in UTC. A Date header has the day that is written in it; it
    is looked at where its zone can make a difference.
    """
    facts = await _facts(s, within)
    if key.field is DateField.SENT:
        return await _by_sent_date(s, key, [(f.uid, f.sent_at) for f in facts if f.sent_at is not None])
    saved = key.field is DateField.SAVED
    start = _midnight(key.day)
    return UidSet.from_numbers(
        f.uid for f in facts if _holds(key.relation, (f.saved_at if saved else f.internal_date) - start)
    )


def _midnight(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp())


def _holds(relation: Relation, seconds: int) -> bool:
    """A moment so many seconds after the given day's midnight has the relation to that day."""
    if relation is Relation.BEFORE:
        return seconds < 0
    if relation is Relation.SINCE:
        return seconds >= 0
    return 0 <= seconds < 86400


async def _by_sent_date(s: Session, key: ByDate, sent: list[tuple[int, int]]) -> UidSet:
    start = _midnight(key.day)
    edges = (start, start + 86400) if key.relation is Relation.ON else (start,)
    near = UidSet.from_numbers(uid for uid, at in sent if any(abs(at - edge) < WIDEST_ZONE_S for edge in edges))
    days = await _written_days(s, near)
    found = []
    for uid, at in sent:
        day = days.get(uid)
        seconds = at - start if day is None else (day - key.day) // timedelta(seconds=1)
        if _holds(key.relation, seconds):
            found.append(uid)
    return UidSet.from_numbers(found)


async def _written_days(s: Session, uids: UidSet) -> dict[int, date]:
    """The day in the Date header, as it is written there."""
    if not uids:
        return {}
    days = {}
    async with chunks_of(s, uids, ["envelope"]) as chunks:
        async for rows in chunks:
            for row in rows:
                if (day := written_day(row["envelope"])) is not None:
                    days[row["uid"]] = day
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


async def _facts(s: Session, within: UidSet) -> list[Facts]:
    view = s.view.view
    return await s.node.store.search.facts(view.account_id, view.mailbox_id, within)
