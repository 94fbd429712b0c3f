"""FETCH: its items and its grammar (RFC 9051 §6.4.5, RFC 3516, 7162, 8474, 8514, 8970).

`RFC822`, `RFC822.HEADER` and `RFC822.TEXT` are sections under another name, so a handler sees four kinds of item:
`Attribute`, `Section`, `Binary` and `Preview`. Each knows the `label` under which it is answered.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from sora._native.seqset import SeqSet, UidSet


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
    """

    messages: SeqSet | UidSet
    items: tuple[FetchItem, ...]
    changed_since: int | None = None
    vanished: bool = False
