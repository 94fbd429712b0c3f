"""SEARCH: its keys as a tree, and its grammar (RFC 9051 §6.4.4, RFC 5032, 7162, 8474, 8514, 9394, 6203).

The many keys of the wire become few kinds of node: `UNSEEN` is `HasFlag(rb"\\Seen", False)`, `NEW` is
`And((IsRecent(True), HasFlag(rb"\\Seen", False)))`, `FROM x` is `HeaderText("FROM", "x")`.
"""

from __future__ import annotations

import enum
import re
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora._native.seqset import UidSet
from sora.errors import BadSyntax
from sora.types import MAX_UID
from sora.wire.imap_partial import parse_range
from sora.wire.imap_syntax import parenthesised, whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from sora._native.imapscan import Cursor
    from sora._native.seqset import SeqSet

MAX_DEPTH: Final = 50
"""Keys inside of keys."""
MAX_KEYS: Final = 5000
"""All keys of a command."""


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


class Filter(Struct, frozen=True):
    """FILTER: the keys that are stored under a name (RFC 5466)."""

    name: bytes


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
    | Filter
    | Not
    | And
    | Or
)


class Search(Struct, frozen=True):
    """SEARCH and UID SEARCH.

    Attributes:
        key: several keys on the line are one `And`.
        uid: answer with UIDs.
        returns: None: the old `* SEARCH` answer; else ESEARCH with these of MIN MAX ALL COUNT SAVE PARTIAL CONTEXT
            UPDATE RELEVANCY (`RETURN ()` is ALL).
        partial: the range of PARTIAL, negative numbers counting from the end (RFC 9394), or None.
        charset: as given, upper case; without CHARSET it is UTF-8.
        charset_given: there was a CHARSET.
        charset_known: False: answer `NO [BADCHARSET (US-ASCII UTF-8)]`; the texts in *key* mean nothing.
        has_modseq: a MODSEQ key occurs, so the answer carries a MODSEQ.
        has_fuzzy: a FUZZY key occurs, so there are scores.
        has_filter: a FILTER key occurs; its keys are to be put in its place.
    """

    key: SearchKey
    uid: bool = False
    returns: frozenset[str] | None = None
    partial: tuple[int, int] | None = None
    charset: str = "UTF-8"
    charset_given: bool = False
    charset_known: bool = True
    has_modseq: bool = False
    has_fuzzy: bool = False
    has_filter: bool = False


_NOT_CHARSETS: Final = frozenset(
    (
        "base64_codec bz2_codec hex_codec idna mbcs oem punycode quopri_codec raw_unicode_escape rot_13 tactis "
        "undefined unicode_escape uu_codec zlib_codec"
    ).split()
)
"""Codecs of Python that are no charsets of mail."""
_NO_ALIAS: Final = frozenset(
    (
        "cp720 cp737 cp856 cp874 cp875 cp1006 koi8_t koi8_u mac_arabic mac_croatian mac_farsi mac_romanian utf_8_sig"
    ).split()
)
_CHARSETS: Final = (frozenset(aliases.values()) | _NO_ALIAS) - _NOT_CHARSETS
"""Those that are. Python is asked for no other: it remembers for ever each name that it does not know."""
_UNSEARCHABLE: Final = re.compile("[\0\ud800-\udfff]")
"""What UTF-7 can encode and no stored text has."""
_RETURNS: Final = frozenset({"MIN", "MAX", "ALL", "COUNT", "SAVE", "CONTEXT", "UPDATE", "RELEVANCY"})
_NUMBERS: Final = frozenset(b"0123456789*$")


@whole
def parse_search(cur: Cursor) -> Search:
    """`[SP "RETURN" SP "(" ... ")"] SP ["CHARSET" SP charset SP] search-key *(SP search-key)`."""
    returns, partial = parse_returns(cur) if cur.skip(b" RETURN ") else (None, None)
    cur.sp()
    charset = None
    if cur.skip(b"CHARSET "):
        charset = cur.astring().decode("ascii", "replace").upper()
        cur.sp()
    return parse_criteria(cur, charset, returns, partial)


def parse_criteria(
    cur: Cursor, charset: str | None, returns: frozenset[str] | None = None, partial: tuple[int, int] | None = None
) -> Search:
    """`search-key *(SP search-key)`, the end of SEARCH, SORT and THREAD alike.

    Args:
        charset: Of the texts, in upper case; None: not given, so it is UTF-8.
    """
    given, charset = charset is not None, charset or "UTF-8"
    keys = _Keys(cur, charset)
    key = keys.parse_program()
    if returns is not None and "RELEVANCY" in returns and not (keys.has_fuzzy or keys.has_filter):
        raise BadSyntax("RELEVANCY goes with FUZZY only")
    known = keys.codec is not None
    return Search(
        key, cur.uid, returns, partial, charset, given, known, keys.has_modseq, keys.has_fuzzy, keys.has_filter
    )


def parse_returns(cur: Cursor) -> tuple[frozenset[str], tuple[int, int] | None]:
    """`"(" [search-return-opt *(SP search-return-opt)] ")"` (RFC 4731 §3.1, RFC 5182, 5267, 6203, 9394)."""
    partial: tuple[int, int] | None = None

    def parse_one(cur: Cursor) -> str:
        nonlocal partial
        name = cur.keyword().decode()
        if name == "PARTIAL":
            if partial is not None:
                raise BadSyntax("There may be one PARTIAL")
            partial = parse_range(cur.sp())
        elif name not in _RETURNS:
            raise BadSyntax("There is no such RETURN option")
        return name

    returns = frozenset(parenthesised(cur, parse_one, empty=True))
    if {"ALL", "PARTIAL"} <= returns:
        raise BadSyntax("PARTIAL does not go with ALL")
    return returns or frozenset({"ALL"}), partial


def _codec(charset: str) -> str | None:
    """Python's name for a charset, misnomers such as `utf8` included; None for one that is not known."""
    name = normalize_encoding(charset).lower()
    name = aliases.get(name, name)
    return name if name in _CHARSETS else None


class _Keys:
    """Reads search keys; bounds how deep they nest and how many they are."""

    def __init__(self, cur: Cursor, charset: str) -> None:
        self.cur = cur
        self.has_modseq = False
        self.has_fuzzy = False
        self.has_filter = False
        self.codec = _codec(charset)
        self._keys = 0
        self._depth = 0

    def parse_program(self) -> SearchKey:
        """`search-key *(SP search-key)`."""
        keys = [self.parse_key()]
        while self.cur.peek() == ord(" "):
            self.cur.sp()
            keys.append(self.parse_key())
        return keys[0] if len(keys) == 1 else And(tuple(keys))

    def parse_key(self) -> SearchKey:
        """One search-key (RFC 9051 §9)."""
        self._keys += 1
        if self._keys > MAX_KEYS or self._depth > MAX_DEPTH:
            raise BadSyntax("The search has too many keys, or they nest too deep")
        self._depth += 1
        try:
            return self._parse_key()
        finally:
            self._depth -= 1

    def _parse_key(self) -> SearchKey:
        if self.cur.skip(b"("):
            key = self.parse_program()
            self.cur.expect(b")")
            return key
        if self.cur.peek() in _NUMBERS:
            return InSeqs(self.cur.seqset())
        name = self.cur.keyword()
        if name in _PLAIN:
            return _PLAIN[name]
        if name not in _WITH_ARGUMENTS:
            raise BadSyntax("There is no such search key")
        self.cur.sp()
        return _WITH_ARGUMENTS[name](self)

    def text(self) -> str:
        """An astring in the charset of the command."""
        try:
            text = self.cur.astring().decode(self.codec or "latin-1")
        except UnicodeDecodeError as e:
            raise BadSyntax("A search text is not in the charset of the command") from e
        if _UNSEARCHABLE.search(text):
            raise BadSyntax("A search text has a character that no message can have")
        return text

    def modseq(self) -> SearchKey:
        """`[entry-name SP entry-type-req SP] mod-sequence-valzer` (RFC 7162 §7)."""
        self.has_modseq = True
        flag, scope = b"", b""
        if self.cur.peek() == ord('"'):
            entry = self.cur.string()
            if not entry.lower().startswith(b"/flags/"):
                raise BadSyntax("There is no such metadata entry")
            flag = entry[len(b"/flags/") :]
            scope = self.cur.sp().keyword()
            if scope not in (b"PRIV", b"SHARED", b"ALL"):
                raise BadSyntax("There is no such type of metadata entry")
            self.cur.sp()
        return ByModSeq(self.cur.number64(), flag, scope)

    def fuzzy(self) -> SearchKey:
        """`search-key` (RFC 6203 §7)."""
        self.has_fuzzy = True
        return Fuzzy(self.parse_key())

    def filter(self) -> SearchKey:
        """`filter-name`: an atom without "/" (RFC 5466 §4)."""
        self.has_filter = True
        name = self.cur.atom()
        if b"/" in name or b"]" in name:
            raise BadSyntax("That is no name of a filter")
        return Filter(name)

    def header(self) -> SearchKey:
        """`header-fld-name SP astring`."""
        field = self.cur.astring().decode("ascii", "replace").upper()
        self.cur.sp()
        return HeaderText(field, self.text())

    def either(self) -> SearchKey:
        """`search-key SP search-key`."""
        left = self.parse_key()
        self.cur.sp()
        return Or(left, self.parse_key())


_FLAG_KEYS: Final[dict[bytes, SearchKey]] = {
    prefix + flag[1:].upper(): HasFlag(flag, value)
    for flag in (rb"\Answered", rb"\Deleted", rb"\Draft", rb"\Flagged", rb"\Seen")
    for prefix, value in ((b"", True), (b"UN", False))
}
_PLAIN: Final[dict[bytes, SearchKey]] = {
    b"ALL": All(),
    b"RECENT": IsRecent(True),
    b"OLD": IsRecent(False),
    b"NEW": And((IsRecent(True), HasFlag(rb"\Seen", False))),
    b"SAVEDATESUPPORTED": SaveDateSupported(),
    **_FLAG_KEYS,
}


def _uids_between(first: int, last: int) -> UidSet:
    """UIDAFTER and UIDBEFORE (RFC 9738 §3.2); unlike `n:*` nothing is found beyond the last message."""
    return UidSet.from_ranges([(first, last)] if first <= last else ())


def _by_date(field: DateField, relation: Relation) -> Callable[[_Keys], SearchKey]:
    return lambda keys: ByDate(field, relation, keys.cur.date())


def _shortcut(field: str) -> Callable[[_Keys], SearchKey]:
    return lambda keys: HeaderText(field, keys.text(), shortcut=True)


_WITH_ARGUMENTS: Final[dict[bytes, Callable[[_Keys], SearchKey]]] = (
    {
        b"BODY": lambda keys: BodyText(keys.text(), headers=False),
        b"TEXT": lambda keys: BodyText(keys.text(), headers=True),
        b"HEADER": _Keys.header,
        b"KEYWORD": lambda keys: HasFlag(keys.cur.atom(), True),
        b"UNKEYWORD": lambda keys: HasFlag(keys.cur.atom(), False),
        b"LARGER": lambda keys: BySize(keys.cur.number64(), larger=True),
        b"SMALLER": lambda keys: BySize(keys.cur.number64(), larger=False),
        b"OLDER": lambda keys: Within(keys.cur.nz_number(), older=True),
        b"YOUNGER": lambda keys: Within(keys.cur.nz_number(), older=False),
        b"UID": lambda keys: InUids(keys.cur.uidset()),
        b"UIDAFTER": lambda keys: InUids(_uids_between(keys.cur.nz_number() + 1, MAX_UID)),
        b"UIDBEFORE": lambda keys: InUids(_uids_between(1, keys.cur.nz_number() - 1)),
        b"MODSEQ": _Keys.modseq,
        b"EMAILID": lambda keys: ByObjectId(keys.cur.astring(), thread=False),
        b"THREADID": lambda keys: ByObjectId(keys.cur.astring(), thread=True),
        b"FUZZY": _Keys.fuzzy,
        b"FILTER": _Keys.filter,
        b"NOT": lambda keys: Not(keys.parse_key()),
        b"OR": _Keys.either,
    }
    | {name.encode(): _shortcut(name) for name in ("BCC", "CC", "FROM", "SUBJECT", "TO")}
    | {
        prefix + relation.name.encode(): _by_date(field, relation)
        for prefix, field in ((b"", DateField.INTERNAL), (b"SENT", DateField.SENT), (b"SAVED", DateField.SAVED))
        for relation in Relation
    }
)
