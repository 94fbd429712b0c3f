"""mbox: messages behind `From ` lines in one file (RFC 4155 and the kinds that are in use).

- `mboxrd`: a line of a message that is `From `, or that behind `>`s, has one `>` more, which is taken away;
- `mboxo`: only `From ` itself is quoted, and nobody can tell which `>From ` was: nothing is taken away;
- `mboxcl2`: nothing is quoted, `Content-Length` says where a message ends. One that does not lead to the next `From `
  line is not believed, and the message read as the other kinds are.

Flags stand in the header: `Status` (R: seen, O: not recent), `X-Status` (A answered, F flagged, T draft, D deleted),
`X-Keywords`. These, and the counters that IMAP servers leave in an mbox, are none of the message.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from sora.formats.flags import Flags, of_names
from sora.types import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN

if TYPE_CHECKING:
    from collections.abc import Sequence

Variant = Literal["mboxrd", "mboxo", "mboxcl2"]

MAX_HEADER: Final = 256 * 1024
_OURS: Final = frozenset(
    {b"status", b"x-status", b"x-keywords", b"x-uid", b"x-imap", b"x-imapbase", b"content-length", b"x-mozilla-status",
     b"x-mozilla-status2", b"x-mozilla-keys"}
)  # fmt: skip
_LETTERS: Final = {"R": SEEN, "A": ANSWERED, "F": FLAGGED, "T": DRAFT, "D": DELETED}
_MONTHS: Final = {name: number for number, name in enumerate(
    "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}  # fmt: skip
_FROM: Final = re.compile(
    rb"From (?P<sender>.*?) ?(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[ ,]+)"
    rb"(?P<month>[A-Z][a-z]{2}) +(?P<day>\d{1,2}) +(?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?"
    rb"(?: +[A-Z]{3,4})? +(?:(?P<early>[-+]\d{4}) +)?(?P<year>\d{4})(?: +(?P<late>[-+]\d{4}))?"
)
QUOTED: Final = re.compile(rb">*From ")
_QUOTED_LINE: Final = re.compile(rb"(?m)^>(?=>*From )")
_FIELD: Final = re.compile(rb"[^\n]*(?:\n[ \t][^\n]*)*\n?")
"""A field with the lines that continue it. A CR alone ends no line: what follows it is no field of ours."""


class FromLine(Struct, frozen=True):
    """A separator; the date is in UTC unless it says otherwise."""

    sender: bytes
    date: datetime | None


class Header(Struct, frozen=True):
    """What is told of a message in its header.

    Attributes:
        octets: The header without those fields, with the line ends it had.
        content_length: None: it tells none.
        flags: None: it tells none at all.
    """

    octets: bytes
    flags: Flags
    content_length: int | None


def parse_from(line: bytes) -> FromLine | None:
    """A separator; None: a line that only begins so. A date that cannot be is none."""
    match = _FROM.match(line[:512])
    if match is None:
        return None
    zone = match["early"] or match["late"]
    try:
        date = datetime(
            int(match["year"]), _MONTHS.get(match["month"].decode(), 0), int(match["day"]), int(match["hour"]),
            int(match["minute"]), min(59, int(match["second"] or 0)), tzinfo=_zone(zone),
        ).astimezone(UTC)  # fmt: skip
    except (ValueError, OverflowError):  # or the year before the first, or after the last
        return FromLine(match["sender"], None)
    return FromLine(match["sender"], date)


def _zone(text: bytes | None) -> timezone:
    if not text:
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[3:5])
    return timezone(timedelta(minutes=-minutes if text.startswith(b"-") else minutes))


def unquote(line: bytes, variant: Variant) -> bytes:
    """A line of a message as it was before it was put into an mbox."""
    return line[1:] if variant == "mboxrd" and line.startswith(b">") and QUOTED.match(line) else line


def unquote_lines(text: bytes, variant: Variant) -> bytes:
    """Several lines, such as a header, as they were before."""
    return _QUOTED_LINE.sub(b"", text) if variant == "mboxrd" and b"From " in text else text


def quote(line: bytes, variant: Variant) -> bytes:
    """A line as it stands in an mbox."""
    if variant == "mboxrd" and QUOTED.match(line):
        return b">" + line
    return b">" + line if variant == "mboxo" and line.startswith(b"From ") else line


def parse_header(octets: bytes) -> Header:
    """Take the fields of the mailbox out of a header, which ends in an empty line or where it ends."""
    kept: list[bytes] = []
    letters, names, length = "", [], None
    for field in _FIELD.findall(octets):
        name, _, value = field.partition(b":")
        if name.strip().lower() not in _OURS:
            kept.append(field)
            continue
        text = value.strip().decode("utf-8", "replace")
        match name.strip().lower():
            case b"status" | b"x-status":
                letters += text.partition("\n")[0]
            case b"x-keywords" | b"x-mozilla-keys":
                names += text.split()
            case b"content-length" if text.isdigit() and len(text) < 16:
                length = int(text)
    system = tuple(sorted({_LETTERS[letter] for letter in letters if letter in _LETTERS}))
    return Header(b"".join(kept), replace(of_names(names), system=system), length)


def write_from(sender: str, date: datetime) -> bytes:
    """A separator, with the date in UTC as all readers take it."""
    plain = "".join(c for c in sender if "!" <= c <= "~") or "MAILER-DAEMON"
    return f"From {plain} {date.astimezone(UTC).strftime('%a %b %e %H:%M:%S %Y')}\n".encode()


def write_flags(system: Sequence[int], keywords: Sequence[str]) -> bytes:
    """The fields of the mailbox, with LF."""
    status = "RO" if SEEN in system else "O"
    more = "".join(letter for letter, number in _LETTERS.items() if number in system and number != SEEN)
    lines = [f"Status: {status}"]
    if more:
        lines.append(f"X-Status: {more}")
    if keywords:
        lines.append(f"X-Keywords: {' '.join(keywords)}")
    return ("\n".join(lines) + "\n").encode()
