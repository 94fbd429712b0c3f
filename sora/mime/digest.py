"""What is kept about a message beside its octets, computed once when it arrives.

Envelope and structure are ready to send. The texts are decoded, so that search, sorting, threading and previews never
need the body again. `header_text` and `body_text` are folded as search keys are (`text.fold`); `body_text` is cut at a
limit, and `body_truncated` says whether it was: only then must a search look into the body itself.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora._native.mimescan import LEAF, MESSAGE, MULTIPART, OPAQUE, TEXT, scan
from sora.mime.address import addresses, display, display_name
from sora.mime.envelope import encoding, write_bodystructure, write_envelope
from sora.mime.preview import preview
from sora.mime.text import (
    collapse,
    decode_charset,
    decode_raw,
    decode_transfer,
    decode_words,
    fold,
    html_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora._native.mimescan import Octets, Part

BODY_LIMIT: Final = 262_144
"""Characters of body text."""
PREVIEW_SOURCE: Final = 65_536
"""Octets of a part that are looked at for the preview."""
MAX_REFERENCES: Final = 1_000
"""Message ids kept of References, the last ones: the parents nearest to the message."""
HEADER_LIMIT: Final = 65_536
"""Octets of a header that is kept beside the message."""
SORT_LENGTH: Final = 1_000
"""Characters of a subject that count for its base subject."""


class Digest(Struct, frozen=True):
    """Facts about a message.

    Attributes:
        envelope: IMAP ENVELOPE.
        body_structure: IMAP BODYSTRUCTURE.
        header: The octets of the header with the blank line; None if there are more than `HEADER_LIMIT`.
        sent_at: The Date field in UTC; None if there is none that can be read.
        message_id: With angle brackets, quoting undone (RFC 5256 §3); None if there is no valid one.
        in_reply_to: The first message id of In-Reply-To.
        references: Message ids of References in order, oldest first, separated by spaces.
        subject: Decoded.
        base_subject: RFC 5256 §2.1, not folded.
        sender: The From field, decoded, as are the next four.
        display_from: Name, or else address, of the first From address (RFC 5957 §3).
        display_to: The same of To.
        header_text: One `NAME: VALUE` and LF for each field, decoded and folded. Those of the parts inside follow,
            with a space in front: TEXT looks into them (RFC 9051 §6.4.4), HEADER and BODY do not.
        body_text: Text parts and the headers of messages inside, decoded and folded.
        body_truncated: True if `body_text` was cut at the limit.
        preview: The beginning of the first text that is no attachment, on one line.
    """

    envelope: bytes
    body_structure: bytes
    header: bytes | None
    sent_at: datetime | None
    message_id: str | None
    in_reply_to: str | None
    references: str
    subject: str
    base_subject: str
    sender: str
    to: str
    cc: str
    bcc: str
    reply_to: str
    display_from: str
    display_to: str
    header_text: str
    body_text: str
    body_truncated: bool
    preview: str


def digest(data: Octets, limit: int = BODY_LIMIT) -> Digest:
    """The facts about a message; never raises, whatever the octets are.

    Args:
        data: A large message may be the mapping of a file; only what is needed of it is copied.
        limit: Characters of `body_text`.
    """
    root = scan(data)
    author, to = addresses(root, b"from"), addresses(root, b"to")
    subject = decode_words(root.last(b"subject") or b"")
    date = root.last(b"date")
    decoded: dict[int, str] = {}
    body, whole = _searchable(root, data, limit, decoded)
    return Digest(
        envelope=write_envelope(root),
        body_structure=write_bodystructure(root),
        header=bytes(data[: root.header_end]) if root.header_end <= HEADER_LIMIT else None,
        sent_at=parse_date(date) if date else None,
        message_id=next(iter(message_ids(root.last(b"message-id"))), None),
        in_reply_to=next(iter(message_ids(root.last(b"in-reply-to"))), None),
        references=" ".join(message_ids(root.last(b"references"))[-MAX_REFERENCES:]),
        subject=subject,
        base_subject=base_subject(subject),
        sender=display(author),
        to=display(to),
        cc=display(addresses(root, b"cc")),
        bcc=display(addresses(root, b"bcc")),
        reply_to=display(addresses(root, b"reply-to")),
        display_from=display_name(author),
        display_to=display_name(to),
        header_text=fold(_headers(root)),
        body_text=body,
        body_truncated=not whole,
        preview=_preview(root, data, decoded),
    )


def searchable(data: bytes) -> tuple[str, str]:
    """The whole header text and body text of a message, as SEARCH matches them, without a limit."""
    root = scan(data)
    return fold(_headers(root)), _searchable(root, data, len(data) * 4, {})[0]


def header_text(part: Part) -> str:
    """Every field of a header as `Name: value` and LF, decoded."""
    lines = [b"%b: %b\n" % field for field in part.fields()]
    block = b"".join(lines)
    if b"=?" not in block and block.isascii():
        return decode_raw(block)
    return "".join(map(decode_words, lines))


def _headers(root: Part) -> str:
    """The fields of a message, then the MIME header fields of its parts; those of messages inside are body text."""
    children = [child for part in _parts(root) if part.kind == MULTIPART for child in part.children]
    inside = "".join(map(header_text, children))
    return header_text(root) + "".join(f" {line}\n" for line in inside.split("\n")[:-1])


# ----------------------------------------------------------------------------------------------------------- body text


def _parts(root: Part) -> Iterator[Part]:
    """The part and all inside it, in the order of their octets."""
    waiting = [root]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(reversed(part.children))


def _searchable(root: Part, data: Octets, limit: int, decoded: dict[int, str]) -> tuple[str, bool]:
    """Folded text of the body up to *limit* characters, and whether that is all of it.

    Args:
        decoded: Takes the text of each part that was decoded whole, by the start of its body.
    """
    out: list[str] = []
    room, whole = limit, True
    for part in _parts(root):
        if part.kind == MESSAGE:
            text = fold(header_text(part.children[0]))
        elif _is_text(part) and part.body_end > part.header_end:
            if room <= 0:
                whole = False
                break
            text, whole = _part_text(part, data, room)
            if whole:
                decoded[part.header_end] = text
            text = fold(text)
        else:
            continue
        out.append(text)
        room -= len(text) + 1
        if room < -1 or not whole:
            break
    text = "\n".join(out)
    return text[:limit], whole and len(text) <= limit


def _is_text(part: Part) -> bool:
    """There is text in it for SEARCH: reports (`message/delivery-status` and the like) name addresses and codes."""
    return part.kind == TEXT or (part.kind == LEAF and part.type.lower() == b"message")


def _part_text(part: Part, data: Octets, characters: int) -> tuple[str, bool]:
    """Text of a part, and whether it is all of it; enough octets are decoded for as many characters, not all."""
    octets = characters * 6 + 1024
    raw = data[part.header_end : min(part.body_end, part.header_end + octets)]
    charset = next((value for name, value in part.params if name.lower().rstrip(b"*") == b"charset"), b"")
    text = decode_charset(decode_transfer(raw, encoding(part)), charset)
    if part.subtype.lower() in (b"html", b"xhtml+xml"):
        text = html_text(text)
    return text, part.header_end + octets >= part.body_end


def _preview(root: Part, data: Octets, decoded: dict[int, str]) -> str:
    """The beginning of the message for a list of messages: of the plain text, or else of the HTML."""
    html = None
    for part in _parts(root):
        if part.kind in (MESSAGE, OPAQUE) and part is not root:
            break
        if part.kind != TEXT or _is_attachment(part):
            continue
        if part.subtype.lower() == b"html":
            html = html or part
            continue
        text = _preview_of(part, data, decoded)
        if text:
            return text
    return _preview_of(html, data, decoded) if html is not None else ""


def _preview_of(part: Part, data: Octets, decoded: dict[int, str]) -> str:
    text = decoded.get(part.header_end)
    if text is None:
        text, _ = _part_text(part, data, PREVIEW_SOURCE // 6)
    return preview(text)


def _is_attachment(part: Part) -> bool:
    value = part.first(b"content-disposition")
    return value is not None and value.lstrip()[:10].lower() == b"attachment"


# ------------------------------------------------------------------------------------------------------------- threads

_MESSAGE_ID: Final = re.compile(rb"<([^<>@\x00-\x20]{1,998}@[^<>\x00-\x20]{1,998})>")
"""RFC 5322 §3.6.4; a quoted word in front of an id, as in `"your <x>" <a@b>`, is none."""
_QUOTED_PAIR: Final = re.compile(r"\\(.)")


def message_ids(value: bytes | None) -> list[str]:
    """Message ids of an unfolded field, with angle brackets; quoting is undone, so that equal ones are equal.

    RFC 5256 §3: `<"01KF8JCEOCBS0045PS"@xxx.yyy.com>` and the same without quotes are one id.
    """
    if not value:
        return []
    return [_unquoted(decode_raw(match[0])) for match in _MESSAGE_ID.finditer(value)]


def _unquoted(message_id: str) -> str:
    if '"' not in message_id:
        return message_id
    return _QUOTED_PAIR.sub(r"\1", message_id.replace('"', ""))


_TRAILER: Final = re.compile(r"(?:\(fwd\)|\s)\Z", re.IGNORECASE)
_BLOB: Final = re.compile(r"\[[^\[\]]*\]\s*")
_REFWD: Final = re.compile(r"(?:re|fwd?)\s*(?:\[[^\[\]]*\]\s*)?:", re.IGNORECASE)


def base_subject(subject: str) -> str:
    """The subject without what replies, forwards and lists add (RFC 5256 §2.1)."""
    text = collapse(subject[:SORT_LENGTH])
    while True:
        text = _without_trailers(text)
        text = _without_leaders(text)
        if text[:5].lower() != "[fwd:" or text[-1:] != "]":
            return text
        text = text[5:-1]


def _without_trailers(text: str) -> str:
    """Step 2: `(fwd)` and white space at the end."""
    while match := _TRAILER.search(text, max(0, len(text) - 5)):
        text = text[: match.start()]
    return text


def _without_leaders(text: str) -> str:
    """Steps 3 to 5: `Re:`, `Fwd:`, white space and `[blobs]` at the beginning, while anything is left."""
    while True:
        before = text
        text = text.lstrip()
        position = 0
        while blob := _BLOB.match(text, position):
            position = blob.end()
        if leader := _REFWD.match(text, position):
            text = text[leader.end() :]
        elif (blob := _BLOB.match(text)) and blob.end() < len(text):
            text = text[blob.end() :]
        if text == before:
            return text


# ---------------------------------------------------------------------------------------------------------------- date

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ZONES: Final = {
    "ut": 0, "utc": 0, "gmt": 0, "z": 0,
    "est": -300, "edt": -240, "cst": -360, "cdt": -300, "mst": -420, "mdt": -360, "pst": -480, "pdt": -420,
    "cet": 60, "cest": 120, "met": 60, "mest": 120, "bst": 60, "jst": 540,
}  # fmt: skip
_TIME: Final = r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2}))?"
_ZONE: Final = r"(?P<zone>[+-]\d{4}|[A-Za-z]{1,5})?"
_DATE: Final = re.compile(
    rf"(?:[A-Za-z]{{3,9}}\.?,?\s*)?(?P<day>\d{{1,2}})[\s-]+(?P<month>[A-Za-z]{{3}})[a-z]*\.?[\s,-]+(?P<year>\d{{2,4}})"
    rf"(?:,?\s+{_TIME}\s*{_ZONE})?"
)
"""RFC 5322 §3.3 and §4.3, and what clocks and scripts make of it."""
_ASCTIME: Final = re.compile(
    rf"[A-Za-z]{{3}},?\s+(?P<month>[A-Za-z]{{3}})\s+(?P<day>\d{{1,2}})\s+{_TIME}\s+{_ZONE}\s*(?P<year>\d{{4}})"
)
_COMMENT: Final = re.compile(r"\([^()]*\)")


def parse_date(value: bytes) -> datetime | None:
    """An unfolded Date field in UTC; None if it is no date.

    A missing time is midnight, a zone that nobody knows is UTC (RFC 5256 §3, RFC 5322 §4.3).
    """
    text = _COMMENT.sub(" ", value[:200].decode("latin-1")).strip()
    match = _DATE.match(text) or _ASCTIME.match(text)
    if match is None or match["month"].lower() not in _MONTHS:
        return None
    month = _MONTHS.index(match["month"].lower()) + 1
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    try:
        local = datetime(
            _year(match["year"]), month, int(match["day"]), hour, minute, min(second, 59), tzinfo=UTC
        )  # a leap second is the one before
        return local - timedelta(minutes=_offset(match["zone"] or ""))
    except (ValueError, OverflowError):
        return None


def _year(text: str) -> int:
    """RFC 5322 §4.3: two digits are 1950 to 2049, three count from 1900."""
    year = int(text)
    if len(text) == 2:
        return year + (2000 if year < 50 else 1900)
    return year + 1900 if len(text) == 3 else year


def _offset(zone: str) -> int:
    """Minutes east of Greenwich."""
    if zone[:1] in ("+", "-"):
        minutes = int(zone[1:3]) * 60 + int(zone[3:5])
        return -minutes if zone[0] == "-" else minutes
    return _ZONES.get(zone.lower(), 0)
