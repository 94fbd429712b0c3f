"""SEARCH: its keys as a tree, and its grammar (RFC 9051 §6.4.4, RFC 5032, 7162, 8474, 8514, 9394, 6203).

The many keys of the wire become few kinds of node: `UNSEEN` is `HasFlag(rb"\\Seen", False)`, `NEW` is
`And((IsRecent(True), HasFlag(rb"\\Seen", False)))`, `FROM x` is `HeaderText("FROM", "x")`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from datetime import date

    from sora._native.seqset import SeqSet, UidSet

MAX_DEPTH = 50
MAX_KEYS = 5000


class DateField(enum.Enum):
    """Which date of a message a key looks at."""

    INTERNAL = "internal"
    SENT = "sent"
    SAVED = "saved"


class Relation(enum.Enum):
    """How the day of the message stands to the day given."""

    BEFORE = "before"
    ON = "on"
    SINCE = "since"


class All(Struct, frozen=True):
    """ALL: every message."""


class InSeqs(Struct, frozen=True):
    """A sequence set; may hold `*` or be `$`."""

    messages: SeqSet


class InUids(Struct, frozen=True):
    """UID and a set of them; may hold `*` or be `$`."""

    messages: UidSet


class HasFlag(Struct, frozen=True):
    """A system flag or keyword is set (*value*), or is not."""

    flag: bytes
    value: bool


class IsRecent(Struct, frozen=True):
    """RECENT, or OLD."""

    value: bool


class ByDate(Struct, frozen=True):
    """BEFORE, ON, SINCE, SENT..., SAVED...: the time of day and the zone are disregarded."""

    field: DateField
    relation: Relation
    day: date


class Within(Struct, frozen=True):
    """OLDER or YOUNGER than *seconds* by INTERNALDATE (RFC 5032)."""

    seconds: int
    older: bool


class BySize(Struct, frozen=True):
    """LARGER or SMALLER than *size* octets, both exclusive."""

    size: int
    larger: bool


class HeaderText(Struct, frozen=True):
    """A header field has *text* in it; empty text: the field exists.

    Attributes:
        field: upper case; FROM, TO, CC, BCC and SUBJECT come here too.
        shortcut: it was one of those five keys and not HEADER.
    """

    field: str
    text: str
    shortcut: bool = False


class BodyText(Struct, frozen=True):
    """BODY (*headers* False) or TEXT (*headers* True) has *text* in it."""

    text: str
    headers: bool


class ByModSeq(Struct, frozen=True):
    """MODSEQ: changed at or after *modseq* (RFC 7162 §3.1.5).

    Attributes:
        flag: the metadata entry `/flags/<flag>`, or b"" for any.
        scope: b"PRIV", b"SHARED", b"ALL" or b"".
    """

    modseq: int
    flag: bytes = b""
    scope: bytes = b""


class ByObjectId(Struct, frozen=True):
    """EMAILID, or THREADID (RFC 8474 §6)."""

    object_id: bytes
    thread: bool


class SaveDateSupported(Struct, frozen=True):
    """SAVEDATESUPPORTED (RFC 8514 §4.3)."""


class Fuzzy(Struct, frozen=True):
    """FUZZY before a key (RFC 6203)."""

    key: SearchKey


class Not(Struct, frozen=True):
    """The key does not hold."""

    key: SearchKey


class And(Struct, frozen=True):
    """All hold; two keys at least."""

    keys: tuple[SearchKey, ...]


class Or(Struct, frozen=True):
    """One of the two holds."""

    left: SearchKey
    right: SearchKey


SearchKey = (
    All
    | InSeqs
    | InUids
    | HasFlag
    | IsRecent
    | ByDate
    | Within
    | BySize
    | HeaderText
    | BodyText
    | ByModSeq
    | ByObjectId
    | SaveDateSupported
    | Fuzzy
    | Not
    | And
    | Or
)


class Search(Struct, frozen=True):
    """SEARCH and UID SEARCH.

    Attributes:
        key: several keys on the line are one `And`.
        uid: answer with UIDs.
        returns: None: the old `* SEARCH` answer; else ESEARCH with these of MIN MAX ALL COUNT SAVE PARTIAL
            (`RETURN ()` is ALL).
        partial: the range of PARTIAL, negative numbers counting from the end (RFC 9394), or None.
        charset: as given, upper case; without CHARSET it is UTF-8.
        charset_known: False: answer `NO [BADCHARSET (US-ASCII UTF-8)]`; the texts in *key* mean nothing.
        has_modseq: a MODSEQ key occurs, so the answer carries a MODSEQ.
    """

    key: SearchKey
    uid: bool = False
    returns: frozenset[str] | None = None
    partial: tuple[int, int] | None = None
    charset: str = "UTF-8"
    charset_known: bool = True
    has_modseq: bool = False
