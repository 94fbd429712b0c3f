r"""FETCH.

FETCH works out a plan once: which columns of the rows it needs, whether it needs bodies, whether it sets \Seen. What is
in the view alone (UID, FLAGS) is answered without a statement. Rows come in chunks by UID; bodies are fetched a few
ahead of the one that is being written. A body that cannot be had now is left out and the command ends in
NO [UNAVAILABLE]: an empty literal would be kept by the client for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from sora._native.seqset import UidSet
from sora._native.viewcols import DATE_ITEM, FLAGS_ITEM, MADE_ITEM, NUMBER_ITEM, TEXT_ITEM, UID_ITEM, RowWriter
from sora.errors import BadSyntax, BlobDown, DatabaseReadOnly, Expunged
from sora.mime import message as mime
from sora.mime.envelope import encoding, strip_extensions
from sora.mime.text import decode_transfer
from sora.protocols.imap import events, messagelimit, objectids
from sora.protocols.imap.bodies import BODY_COLUMNS, Ahead, chunks_of
from sora.protocols.imap.enable import CONDSTORE, UIDONLY, switch_on
from sora.protocols.imap.flagging import change_flags
from sora.protocols.imap.replies import UnknownEncoding
from sora.protocols.imap.views.resync import changed_since
from sora.protocols.imap.views.selection import NO_UIDS, FlagEdit
from sora.types import SEEN, Rights
from sora.wire.imap_fetch import Attribute, Binary, Preview, Section
from sora.wire.imap_partial import page, range_size
from sora.wire.imap_responses import nstring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from sora.protocols.imap.replies import Reply
    from sora.protocols.imap.session import Session
    from sora.protocols.imap.views.selection import Selection
    from sora.wire.imap_fetch import Fetch, FetchItem

WRITE_SLICE: Final = 131072
"""A body leaves in slices of this size, so that a client that reads slowly holds one slice and not the whole."""
ROWS_AT_A_TIME: Final = 64
"""Written in one step: 0.1 ms of envelopes, 2 ms of header fields."""
FEW_PARTS: Final = 4
"""Parts of the header that are cut out of all those rows in one step; more are written one by one."""
PIECES_AT_A_TIME: Final = 64
"""Of one message; a command may name thousands of sections."""


class Row(Struct, frozen=True):
    """What one FETCH item needs of the database, and how it is written.

    Attributes:
        column: Column of the row.
        kind: How `RowWriter` writes it.
        made: What makes the text out of the row, where that is not the value itself.
    """

    column: str
    kind: int
    made: Callable[[Mapping[str, Any]], bytes] | None = None


def _preview(row: Mapping[str, Any]) -> bytes:
    """RFC 8970 §3.2: NIL where none could be made, which is not the same as a message without text."""
    text: str | None = row["preview"]
    return nstring(None if text is None else text.encode())


ROW_ITEMS: Final[Mapping[FetchItem, Row]] = {
    Attribute.INTERNALDATE: Row("internal_date", DATE_ITEM),
    Attribute.RFC822_SIZE: Row("size", NUMBER_ITEM),
    Attribute.ENVELOPE: Row("envelope", TEXT_ITEM),
    Attribute.BODYSTRUCTURE: Row("body_structure", TEXT_ITEM),
    Attribute.BODY: Row("body_structure", MADE_ITEM, lambda row: strip_extensions(row["body_structure"])),
    Attribute.EMAILID: Row("content_hash", MADE_ITEM, objectids.email_id),
    Attribute.THREADID: Row("thread_id", MADE_ITEM, objectids.thread_id),
    Attribute.SAVEDATE: Row("saved_at", DATE_ITEM),
    Preview(lazy=False): Row("preview", MADE_ITEM, _preview),
    Preview(lazy=True): Row("preview", MADE_ITEM, _preview),
}
HEADERS: Final = frozenset({b"HEADER", b"HEADER.FIELDS", b"HEADER.FIELDS.NOT"})
Octets = TypeVar("Octets", bytes, memoryview)
CODED: Final = frozenset({b"base64", b"quoted-printable"})
IDENTITY: Final = frozenset({b"7bit", b"8bit", b"binary"})
VIEW_ITEMS: Final = frozenset({Attribute.UID, Attribute.FLAGS, Attribute.MODSEQ})


class Plan(Struct, frozen=True):
    """A FETCH, worked out once for all its messages.

    Attributes:
        items: What is answered, in order.
        columns: Columns that the rows must have.
        parts: Items for which a body is needed.
        header_only: They are few and about the header of the message, which stands in the row unless it is very long.
        sets_seen: One of them has no PEEK.
    """

    items: tuple[FetchItem, ...]
    columns: tuple[str, ...]
    parts: tuple[Section | Binary, ...]
    header_only: bool
    sets_seen: bool


def plan_of(cmd: Fetch, enabled: AbstractSet[str] = frozenset()) -> Plan:
    """Work out what a FETCH needs.

    With CONDSTORE, flags come with their modseq (RFC 7162 §3.1.2.1).

    Raises:
        BadSyntax: An item of an extension that is not offered.
    """
    items = dict.fromkeys(cmd.items)
    if isinstance(cmd.messages, UidSet) and UIDONLY not in enabled:
        items = {Attribute.UID: None, **items}
    if cmd.changed_since is not None or (CONDSTORE in enabled and Attribute.FLAGS in items):
        items[Attribute.MODSEQ] = None
    columns: dict[str, None] = {}
    parts = tuple(item for item in items if isinstance(item, Section | Binary))
    for item in items:
        if item in ROW_ITEMS:
            columns[ROW_ITEMS[item].column] = None
        elif item not in VIEW_ITEMS and item not in parts:
            raise BadSyntax(f"{item.label.decode()} is not offered here")
    header_only = 0 < len(parts) <= FEW_PARTS and all(_is_header(part) for part in parts)
    if parts:
        columns |= dict.fromkeys((*BODY_COLUMNS, "header") if header_only else BODY_COLUMNS)
    return Plan(tuple(items), tuple(columns), parts, header_only, any(not part.peek for part in parts))


def _is_header(part: Section | Binary) -> bool:
    return isinstance(part, Section) and not part.path and part.text in HEADERS


async def fetch(s: Session, cmd: Fetch) -> Reply | None:
    """RFC 9051 §6.4.5, with the PARTIAL of RFC 9394 §3.3 and the limit of RFC 9738.

    Raises:
        Coded: PARTIAL asks for more messages than one command may answer.
        BlobDown: Some bodies could not be had; everything else was answered.
        Expunged: Some messages are gone for good; everything else was answered.
    """
    if cmd.changed_since is not None or Attribute.MODSEQ in cmd.items:
        switch_on(s, CONDSTORE)
    plan = plan_of(cmd, s.enabled)
    changed = await changed_since(s, cmd, s.uids(cmd.messages))
    chosen = messagelimit.cut(s, _page_of(s, changed, cmd.partial))
    uids = chosen.uids
    if not uids:
        return None
    if not plan.columns:
        await _from_view(s, uids, plan, cmd.changed_since or 0)
        return chosen.reply
    marked, before = NO_UIDS, s.view.told.highest_modseq
    if plan.sets_seen and not s.view.read_only and s.view.view.rights & Rights.SEEN:
        with contextlib.suppress(DatabaseReadOnly):  # since a moment ago; the client is told at the end
            marked = await _mark_while_reading(s, uids, plan)
    asked = Attribute.MODSEQ in plan.items
    stamps = await _stamps(s, uids if asked else marked, (cmd.changed_since or 0) if asked else before)
    answer = Answer(s.view, plan, marked, stamps, s.enabled)
    by_rows = not plan.parts or (plan.header_only and not marked)
    failed = await (_from_rows(s, uids, plan, answer) if by_rows else _with_bodies(s, uids, plan, answer))
    if marked:
        await events.seen(s, marked - UidSet.from_numbers(failed))
    if failed or answer.count < len(uids):
        chosen.tell(s)
    if failed:
        await _unmark_seen(s, marked & UidSet.from_numbers(failed))
        raise BlobDown("Some message bodies are temporarily unavailable")
    if answer.count < len(uids):
        raise Expunged("Some of the messages no longer exist")
    return chosen.reply


def _page_of(s: Session, uids: UidSet, partial: tuple[int, int] | None) -> UidSet:
    if partial is None:
        return uids
    if range_size(partial) > s.limits.imap_messages:
        raise messagelimit.too_many(s.limits.imap_messages)
    return page(uids, partial)


async def _stamps(s: Session, uids: UidSet, since: int) -> Mapping[int, int]:
    """Modseqs of messages that changed after `since`."""
    if not uids or CONDSTORE not in s.enabled:
        return {}
    selection = s.view
    known = await selection.view.modseqs.reach(since, selection.told.highest_modseq)
    selection.heard_modseqs(uids)
    return dict(zip(uids, memoryview(selection.modseqs_of(known, uids)).cast("q"), strict=True))


async def _from_view(s: Session, uids: UidSet, plan: Plan, since: int) -> None:
    """UID, FLAGS and MODSEQ: no statement at all, but for modseqs that nobody has asked for before.

    Args:
        since: All of `uids` changed after it.
    """
    selection = s.view
    modseqs = None
    if Attribute.MODSEQ in plan.items:
        known = await selection.view.modseqs.reach(since, selection.told.highest_modseq)
        modseqs = selection.modseqs_of(known, uids)
    chunks = selection.told.write_fetch_flags(
        uids, selection.names, Attribute.UID in plan.items, selection.recent_after,
        modseqs=modseqs, with_flags=Attribute.FLAGS in plan.items, uid_only=UIDONLY in s.enabled,
    )  # fmt: skip
    for chunk in chunks:
        s.write(chunk)
        await s.breathe()


class Answer:
    """Writes the answer for one message after the other.

    Attributes:
        count: Messages answered.
    """

    def __init__(
        self,
        selection: Selection,
        plan: Plan,
        marked: UidSet,
        stamps: Mapping[int, int],
        enabled: AbstractSet[str],
    ) -> None:
        self._told = selection.told
        self._names = selection.names
        self._recent_after = selection.recent_after
        self._plan = plan
        self._marked = marked
        self._scans = any(isinstance(item, Binary) or item.path or item.text for item in plan.parts)
        self._stamps = stamps
        self._uid_only = UIDONLY in enabled
        self._writer = RowWriter(
            self._told, map(self._row_item, plan.items), self._names, self._recent_after, self._uid_only
        )
        self.count = 0

    def lines(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """The answers for rows, where no body is needed."""
        self.count += len(rows)
        return self._writer.write(rows)

    def pieces(self, record: Mapping[str, Any], body: bytes) -> Iterator[bytes]:
        """The answer for a row and its body; long literals come as several pieces.

        A literal is cut out when it is its turn: a command may name so many sections that all of them together are a
        thousand times the message. What can be refused is refused before the first piece.

        Raises:
            UnknownEncoding: BINARY of a part whose encoding is not known.
        """
        uid = record["uid"]
        message = mime.parse(body) if self._scans else None
        for part in self._plan.parts:
            if isinstance(part, Binary) and message is not None:
                require_known_encoding(part, message)
        yield b"* %d UIDFETCH (" % uid if self._uid_only else b"* %d FETCH (" % self._told.seq(uid)
        for place, item in enumerate(self._plan.items):
            if place:
                yield b" "
            if isinstance(item, Section | Binary):
                yield from _part_pieces(item, body, message)
            else:
                yield self._writer.text(record, place)
        if uid in self._marked and Attribute.FLAGS not in self._plan.items:
            # RFC 9051 §6.4.5: the change that the fetch itself made
            yield b" FLAGS " + self._told.flags_text(uid, self._names, uid > self._recent_after)
            if self._stamps and Attribute.MODSEQ not in self._plan.items:
                yield b" MODSEQ (%d)" % self._stamps[uid]
        yield b")\r\n"
        self.count += 1

    def _row_item(self, item: FetchItem) -> tuple[int, bytes, str | Callable[[Mapping[str, Any]], bytes] | None]:
        """An item as `RowWriter` takes it."""
        if isinstance(item, Section | Binary):
            return MADE_ITEM, b"", lambda row: b"".join(_part_pieces(item, row["header"], mime.parse(row["header"])))
        if item is Attribute.MODSEQ:
            return MADE_ITEM, b"MODSEQ ", lambda row: b"(%d)" % self._stamps[row["uid"]]
        if item in VIEW_ITEMS:
            return (UID_ITEM if item is Attribute.UID else FLAGS_ITEM), item.label + b" ", None
        row = ROW_ITEMS[item]
        return row.kind, item.label + b" ", row.made or row.column


def _part_pieces(item: Section | Binary, body: bytes, message: mime.Message | None) -> Iterator[bytes]:
    """One BODY[...] or BINARY[...] item, with its label."""
    data = section_data(item, body, message) if isinstance(item, Section) else binary_data(item, body, message)
    yield item.label
    if isinstance(item, Binary) and item.size_only:
        yield b" %d" % len(data or b"")
    elif data is None:
        yield b" NIL"
    else:
        # literal8 is for clients that asked for BINARY, and they must take it only where NUL makes it necessary
        wants_literal8 = isinstance(item, Binary) and b"\0" in bytes(data)
        yield (b" ~{%d}\r\n" if wants_literal8 else b" {%d}\r\n") % len(data)
        for start in range(0, len(data), WRITE_SLICE):
            yield bytes(data[start : start + WRITE_SLICE])


def section_data(section: Section, body: bytes, message: mime.Message | None) -> bytes | memoryview | None:
    """Octets of a body section, not copied; None if there is no such part: the whole in its place would be kept.

    Args:
        message: The parsed body; may be None for the whole message.
    """
    if message is None or not (section.path or section.text):
        return _cut(body, section.partial)
    if section.text.startswith(b"HEADER.FIELDS"):
        if message.part(section.path) is None:
            return None
        exclude = section.text == b"HEADER.FIELDS.NOT"
        return _cut(message.header_fields(section.path, section.fields, exclude), section.partial)
    span = message.section(section.path, section.text)
    return None if span is None else _cut(memoryview(body)[span[0] : span[1]], section.partial)


def require_known_encoding(item: Binary, message: mime.Message) -> None:
    """Before the answer begins (RFC 3516 §4.3).

    Raises:
        UnknownEncoding: The part has a transfer encoding that is not known.
    """
    part = message.part(item.path) if item.path else None
    if part is not None and encoding(part).lower() not in CODED | IDENTITY:
        raise UnknownEncoding


def binary_data(item: Binary, body: bytes, message: mime.Message | None) -> bytes | None:
    """Octets of a part without its transfer encoding (RFC 3516 §4.3); None if there is no such part."""
    if message is None or not item.path:
        return _cut(body, item.partial)
    part, span = message.part(item.path), message.section(item.path)
    if part is None or span is None:
        return None
    data = body[span[0] : span[1]]
    name = encoding(part).lower()
    return _cut(decode_transfer(data, name) if name in CODED else data, item.partial)


def _cut(data: Octets, partial: tuple[int, int] | None) -> Octets:
    return data if partial is None else data[partial[0] : sum(partial)]


async def _from_rows(s: Session, uids: UidSet, plan: Plan, answer: Answer) -> list[int]:
    """Everything that stands in the rows; nothing can fail but for headers that are too long to stand there."""
    ahead = Ahead(s.node.bodies, s.view.view.account_id)
    async with chunks_of(s, uids, plan.columns) as chunks:
        async for rows in chunks:
            if plan.header_only and any(row["header"] is None for row in rows):
                await _write_bodies(s, rows, answer, ahead)
            else:
                for start in range(0, len(rows), ROWS_AT_A_TIME):
                    s.write(answer.lines(rows[start : start + ROWS_AT_A_TIME]))
                    await s.breathe()
    return ahead.failed


async def _with_bodies(s: Session, uids: UidSet, plan: Plan, answer: Answer) -> list[int]:
    """Rows with their bodies; those whose body cannot be had are left out, and their UIDs given back."""
    ahead = Ahead(s.node.bodies, s.view.view.account_id)
    async with chunks_of(s, uids, plan.columns) as chunks:
        async for rows in chunks:
            await _write_bodies(s, rows, answer, ahead)
    return ahead.failed


async def _write_bodies(s: Session, rows: Sequence[Mapping[str, Any]], answer: Answer, ahead: Ahead) -> None:
    async with ahead.over(rows) as bodies:
        async for row, body in bodies:
            await _write_gently(s, answer.pieces(row, body))


async def _write_gently(s: Session, pieces: Iterable[bytes]) -> None:
    """Write one message, and wait for the client to read it; of a large one, each slice."""
    begun = 0
    try:
        for begun, piece in enumerate(pieces, 1):
            s.write(piece)
            if len(piece) >= WRITE_SLICE or not begun % PIECES_AT_A_TIME:
                await s.flush()
    except Exception:
        if begun:
            s.abort()  # whatever is said now would be taken for the rest of a literal
        raise
    await s.breathe()


async def _mark_seen(s: Session, uids: UidSet) -> UidSet:
    r"""Set \Seen where it is missing, before the answer, which says so; returns the messages that were changed."""
    unseen = s.view.told.among(uids, SEEN, False)
    if unseen:
        await change_flags(s, unseen, FlagEdit((SEEN,)), tell=False)
    return unseen


async def _mark_while_reading(s: Session, uids: UidSet, plan: Plan) -> UidSet:
    """`_mark_seen`; of a few messages the rows come meanwhile, and are found later where they are kept.

    Both end here, whatever becomes of the other: a change that came to its end during the next command would be one
    that the client is never told of.
    """
    view = s.view.view
    rows = s.server.rows.get(view.account_id, view.mailbox_id, uids, plan.columns)
    marked, read = await asyncio.gather(_mark_seen(s, uids), rows, return_exceptions=True)
    if isinstance(marked, BaseException):
        raise marked
    if isinstance(read, BaseException):
        await _unmark_seen(s, marked)
        raise read
    return marked


async def _unmark_seen(s: Session, uids: UidSet) -> None:
    r"""A message that was not delivered to the client was not seen."""
    if uids:
        await change_flags(s, uids, FlagEdit(clear=(SEEN,)), tell=True)
