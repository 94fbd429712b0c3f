"""THREAD (RFC 5256 §3): ORDEREDSUBJECT, REFERENCES, and REFS (draft-ietf-morg-inthread §3).

REFS is REFERENCES without its fifth step: no subject joins what References do not, and the threads are in the order in
which their latest messages arrived.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora._native import columns as native
from sora._native.columns import INTERNAL_DATE, SORT_DATE, Texts
from sora._native.seqset import UidSet
from sora._native.threads import Threads, ordered_subject
from sora.mime.text import fold
from sora.mime.thread import is_reply
from sora.protocols.imap import progress
from sora.protocols.imap.bodies import chunks_of
from sora.protocols.imap.finding import filters
from sora.protocols.imap.finding.numbers import numbers_for
from sora.protocols.imap.finding.search import looked_at, matching
from sora.protocols.imap.finding.searchmodseq import note_enabling
from sora.protocols.imap.finding.sort import ranked, ranks
from sora.protocols.imap.replies import BadCharset
from sora.wire.imap_sort import Algorithm

if TYPE_CHECKING:
    from array import array
    from collections.abc import Awaitable, Callable, Mapping

    from sora.protocols.imap.replies import Reply
    from sora.protocols.imap.session import Session
    from sora.wire.imap_sort import Thread

BYTES_PER_WRITE: Final = 65_536
BASE_SUBJECT_LINE: Final = 2
"""Of what `message_texts()` says about references."""


async def thread(s: Session, cmd: Thread) -> Reply | None:
    """Find, thread and answer.

    Raises:
        BadCharset: The texts are in a charset that is not known.
    """
    wanted = await filters.expand(s, cmd.search)
    if not wanted.charset_known:
        raise BadCharset
    note_enabling(s, wanted)
    chosen = looked_at(s, wanted.key)
    with progress.working(s, len(chosen.uids)):
        uids = await matching(s, wanted.key, chosen.uids)
        text = await threads_of(s, cmd.algorithm, uids, uid=cmd.search.uid) if uids else b""
    s.write(b"* THREAD " if text else b"* THREAD")
    for first in range(0, len(text), BYTES_PER_WRITE):
        s.write(text[first : first + BYTES_PER_WRITE])
        await s.breathe()
    s.write(b"\r\n")
    return chosen.reply


async def threads_of(s: Session, algorithm: Algorithm, uids: UidSet, *, uid: bool) -> bytes:
    """The threads of messages, as they are written; messages that are gone are in none."""
    columns = await s.server.columns.get(s, uids)
    uids = columns.present(uids)
    numbers = numbers_for(s, native.expand(uids), uid=uid)
    # At once: while this waits, another session may have the columns forget what is gone.
    sent, arrived = columns.values(uids, SORT_DATE), columns.values(uids, INTERNAL_DATE)
    return await _THREADERS[algorithm](s, _Found(uids, sent, arrived, numbers))


class _Found(Struct, frozen=True):
    """What is to be threaded; the arrays are parallel to the UIDs."""

    uids: UidSet
    sent: array[int]
    arrived: array[int]
    numbers: array[int]


async def _ordered_subject(s: Session, found: _Found) -> bytes:
    subjects = await ranks(s, found.uids, "base_subject")
    return await asyncio.to_thread(ordered_subject, found.sent, subjects, found.numbers)


async def _references(s: Session, found: _Found) -> bytes:
    texts = Texts()
    threads = await _linked(s, found.uids, texts)
    subjects = await ranked(texts, found.uids)
    replies = await _replies(s, threads.doubtful(found.sent, subjects))
    return await asyncio.to_thread(threads.references, found.sent, subjects, replies, found.numbers)


async def _refs(s: Session, found: _Found) -> bytes:
    threads = await _linked(s, found.uids)
    return await asyncio.to_thread(threads.refs, found.sent, found.arrived, found.numbers)


_THREADERS: Final[Mapping[Algorithm, Callable[[Session, _Found], Awaitable[bytes]]]] = {
    Algorithm.ORDEREDSUBJECT: _ordered_subject,
    Algorithm.REFERENCES: _references,
    Algorithm.REFS: _refs,
}


async def _linked(s: Session, uids: UidSet, subjects: Texts | None = None) -> Threads:
    """The links of messages; the texts, if given, take their base subjects."""
    threads = Threads(uids)
    async with aclosing(s.server.texts.packed(s, uids, "references")) as chunks:
        async for chunk in chunks:
            await asyncio.to_thread(threads.add, chunk)
            if subjects is not None:
                subjects.add(chunk, fold, BASE_SUBJECT_LINE)
            await s.breathe()
    return threads


async def _replies(s: Session, uids: UidSet) -> UidSet:
    """Those whose subject says that they are a reply or a forward."""
    found = []
    async with chunks_of(s, uids, ["subject"]) as chunks:
        async for rows in chunks:
            found += [row["uid"] for row in rows if is_reply(row["subject"] or "")]
            await s.breathe()
    return UidSet.from_numbers(found)
