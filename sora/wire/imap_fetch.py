"""FETCH: its items and its grammar (RFC 9051 §6.4.5, RFC 3516, 7162, 8474, 8514, 8970).

`RFC822`, `RFC822.HEADER` and `RFC822.TEXT` are sections under another name, so a handler sees four kinds of item:
`Attribute`, `Section`, `Binary` and `Preview`. Each knows the `label` under which it is answered.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax
from sora.wire.imap_partial import parse_range
from sora.wire.imap_syntax import astring, parenthesised, whole

if TYPE_CHECKING:
    from sora._native.imapscan import Cursor
    from sora._native.seqset import SeqSet, UidSet

MAX_PATH: Final = 100
"""Part numbers in one section; no message that is parsed nests deeper."""


class Attribute(enum.Enum):
    """Items without arguments; the value is the label."""

    BODY = b"BODY"
    BODYSTRUCTURE = b"BODYSTRUCTURE"
    EMAILID = b"EMAILID"
    ENVELOPE = b"ENVELOPE"
    FLAGS = b"FLAGS"
    INTERNALDATE = b"INTERNALDATE"
    MODSEQ = b"MODSEQ"
    RFC822_SIZE = b"RFC822.SIZE"
    SAVEDATE = b"SAVEDATE"
    THREADID = b"THREADID"
    UID = b"UID"

    @property
    def label(self) -> bytes:
        """The name in the answer."""
        return self.value


class Section(Struct, frozen=True):
    """BODY[...], BODY.PEEK[...] and the RFC822 family.

    Attributes:
        path: part numbers; empty for the message itself.
        text: b"", b"HEADER", b"TEXT", b"MIME", b"HEADER.FIELDS" or b"HEADER.FIELDS.NOT".
        fields: header names as the client spelled them, for the last two.
        peek: does not set \\Seen.
        partial: first octet and number of octets, or None for all of it.
        label: the name in the answer, such as b"BODY[1.TEXT]<0>".
    """

    path: tuple[int, ...]
    text: bytes
    label: bytes
    fields: tuple[bytes, ...] = ()
    peek: bool = False
    partial: tuple[int, int] | None = None


class Binary(Struct, frozen=True):
    """BINARY[...], BINARY.PEEK[...] and BINARY.SIZE[...] (RFC 3516 §4.2).

    Attributes:
        size_only: BINARY.SIZE; implies *peek*.
    """

    path: tuple[int, ...]
    label: bytes
    peek: bool = False
    size_only: bool = False
    partial: tuple[int, int] | None = None


class Preview(Struct, frozen=True):
    """PREVIEW, or PREVIEW (LAZY) (RFC 8970 §3)."""

    lazy: bool = False
    label: bytes = b"PREVIEW"


FetchItem = Attribute | Section | Binary | Preview


class Fetch(Struct, frozen=True):
    """FETCH and UID FETCH; a UidSet in *messages* says which.

    Attributes:
        items: as asked for, each once; UID FETCH does not add UID here.
        changed_since: CHANGEDSINCE modseq, or None (RFC 7162 §3.1.4.1).
        vanished: VANISHED was asked for (RFC 7162 §3.2.6).
        partial: only the messages at these positions of the set (RFC 9394 §3.3), or None.
    """

    messages: SeqSet | UidSet
    items: tuple[FetchItem, ...]
    changed_since: int | None = None
    vanished: bool = False
    partial: tuple[int, int] | None = None


# Items that are a section under another name (RFC 3501 §6.4.5).
_RFC822: Final = {
    b"RFC822": Section((), b"", b"RFC822"),
    b"RFC822.HEADER": Section((), b"HEADER", b"RFC822.HEADER", peek=True),
    b"RFC822.TEXT": Section((), b"TEXT", b"RFC822.TEXT"),
}
_ATTRIBUTES: Final = {attribute.value: attribute for attribute in Attribute}
_FAST: Final = (Attribute.FLAGS, Attribute.INTERNALDATE, Attribute.RFC822_SIZE)
_MACROS: Final[dict[bytes, tuple[FetchItem, ...]]] = {
    b"FAST": _FAST,
    b"ALL": (*_FAST, Attribute.ENVELOPE),
    b"FULL": (*_FAST, Attribute.ENVELOPE, Attribute.BODY),
}
_FIELDS: Final = (b"HEADER.FIELDS", b"HEADER.FIELDS.NOT")
_DIGITS: Final = frozenset(b"0123456789")


@whole
def parse_fetch(cur: Cursor) -> Fetch:
    """`sequence-set SP (macro / fetch-att / "(" fetch-att *(SP fetch-att) ")") [SP fetch-modifiers]`."""
    messages = cur.sp().numset()
    items = _parse_items(cur.sp())
    changed_since, vanished, partial = _parse_modifiers(cur) if cur.skip(b" (") else (None, False, None)
    if vanished and (changed_since is None or not cur.uid):
        raise BadSyntax("VANISHED goes with UID FETCH and CHANGEDSINCE only")
    if partial is not None and not cur.uid:
        raise BadSyntax("PARTIAL goes with UID FETCH only")
    return Fetch(messages, items, changed_since, vanished, partial)


def _parse_items(cur: Cursor) -> tuple[FetchItem, ...]:
    if cur.peek() == ord("("):
        # A dict keeps the order and each item once: `(FLAGS FLAGS)` is answered with one FLAGS.
        return tuple(dict.fromkeys(parenthesised(cur, lambda cur: _parse_item(cur, cur.name()))))
    name = cur.name()
    return _MACROS.get(name) or (_parse_item(cur, name),)


def parse_item_list(cur: Cursor) -> tuple[FetchItem, ...]:
    """`fetch-att *(SP fetch-att) ")"` behind its "(", each once."""
    items = {_parse_item(cur, cur.name()): None}
    while not cur.skip(b")"):
        items[_parse_item(cur.sp(), cur.name())] = None
    return tuple(items)


def _parse_item(cur: Cursor, name: bytes) -> FetchItem:
    if name in (b"BODY", b"BODY.PEEK") and cur.peek() == ord("["):
        return _parse_section(cur, peek=name == b"BODY.PEEK")
    if name in (b"BINARY", b"BINARY.PEEK", b"BINARY.SIZE"):
        return _parse_binary(cur, name)
    if name == b"PREVIEW":
        return Preview(lazy=cur.skip(b" (LAZY)"))
    item = _ATTRIBUTES.get(name) or _RFC822.get(name)
    if item is None:
        raise BadSyntax("There is no such FETCH item")
    return item


def _parse_section(cur: Cursor, *, peek: bool) -> Section:
    """`"[" [section-spec] "]" ["<" number64 "." nz-number64 ">"]`."""
    path, text = _parse_section_spec(cur.expect(b"["))
    fields = tuple(parenthesised(cur.sp(), lambda cur: cur.astring())) if text in _FIELDS else ()
    cur.expect(b"]")
    partial = _parse_partial(cur)
    label = b"BODY[%s]%s" % (_write_spec(path, text, fields), _write_origin(partial))
    return Section(path, text, label, fields, peek, partial)


def _parse_section_spec(cur: Cursor) -> tuple[tuple[int, ...], bytes]:
    """`section-msgtext / (section-part ["." section-text])`, or nothing."""
    path: list[int] = []
    while cur.peek() in _DIGITS:
        path.append(cur.nz_number())
        if len(path) > MAX_PATH:
            raise BadSyntax("The part number is too long")
        if not cur.skip(b"."):
            return tuple(path), b""
    if not path and cur.peek() == ord("]"):
        return (), b""
    text = cur.name()
    if text not in (b"HEADER", b"TEXT", *_FIELDS) and not (text == b"MIME" and path):
        raise BadSyntax("There is no such section")
    return tuple(path), text


def _parse_binary(cur: Cursor, name: bytes) -> Binary:
    """`"BINARY" [".PEEK"] section-binary [partial]`, `"BINARY.SIZE" section-binary` (RFC 3516 §7)."""
    path, text = _parse_section_spec(cur.expect(b"["))
    if text:
        raise BadSyntax("BINARY takes part numbers only")
    cur.expect(b"]")
    size_only = name == b"BINARY.SIZE"
    partial = None if size_only else _parse_partial(cur)
    label = b"%s[%s]%s" % (b"BINARY.SIZE" if size_only else b"BINARY", _write_spec(path), _write_origin(partial))
    return Binary(path, label, name != b"BINARY", size_only, partial)


def _parse_partial(cur: Cursor) -> tuple[int, int] | None:
    if not cur.skip(b"<"):
        return None
    first = cur.number64()
    count = cur.expect(b".").number64()
    cur.expect(b">")
    if count == 0:
        raise BadSyntax("A partial fetch of no octets")
    return first, count


def _write_spec(path: tuple[int, ...], text: bytes = b"", fields: tuple[bytes, ...] = ()) -> bytes:
    words = [b"%d" % number for number in path]
    if text:
        words.append(text)
    names = b" (%s)" % b" ".join(map(astring, fields)) if fields else b""
    return b".".join(words) + names


def _write_origin(partial: tuple[int, int] | None) -> bytes:
    return b"" if partial is None else b"<%d>" % partial[0]


def _parse_modifiers(cur: Cursor) -> tuple[int | None, bool, tuple[int, int] | None]:
    """`fetch-modifier *(SP fetch-modifier) ")"` behind its "(" (RFC 7162 §7, RFC 9394 §4)."""
    changed_since: int | None = None
    vanished = False
    partial: tuple[int, int] | None = None
    while True:
        name = cur.keyword()
        if name == b"CHANGEDSINCE":
            changed_since = cur.sp().number64()
        elif name == b"VANISHED":
            vanished = True
        elif name == b"PARTIAL" and partial is None:
            partial = parse_range(cur.sp())
        else:
            raise BadSyntax("There is no such FETCH modifier")
        if cur.skip(b")"):
            return changed_since, vanished, partial
        cur.sp()
