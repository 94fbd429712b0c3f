"""ACL (RFC 4314): commands in, responses out.

Letters of rights are `lrswipkxtea`. The letters `c` and `d` of RFC 2086 stand for `kx` and `te`: they are taken for
both, and said beside any of them (§2.1.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax
from sora.types import NO_RIGHTS, Rights
from sora.wire.imap_responses import mailbox
from sora.wire.imap_syntax import astring, whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sora._native.imapscan import Cursor

LETTERS: Final = dict(zip("lrswipkxtea", Rights, strict=True))
_CREATE: Final = Rights.CREATE | Rights.DELETE_MAILBOX
_DELETE: Final = Rights.DELETE_MESSAGES | Rights.EXPUNGE
_READ: Final = LETTERS | {"c": _CREATE, "d": _DELETE}
_WRITTEN: Final = tuple((letter, _READ[letter]) for letter in "lrswipkxtecda")
MODES: Final = frozenset("+-")


class SetAcl(Struct, frozen=True):
    """SETACL (RFC 4314 §3.1).

    Attributes:
        negative: the identifier began with a dash (§2), which is not part of it here.
        mode: `=`, `+` or `-`.
    """

    mailbox: str
    identifier: str
    negative: bool
    mode: str
    rights: Rights


class DeleteAcl(Struct, frozen=True):
    """DELETEACL (RFC 4314 §3.2)."""

    mailbox: str
    identifier: str
    negative: bool


class GetAcl(Struct, frozen=True):
    """GETACL (RFC 4314 §3.3)."""

    mailbox: str


class ListRights(Struct, frozen=True):
    """LISTRIGHTS (RFC 4314 §3.4).

    Attributes:
        spelled: the identifier as it came, which the answer repeats.
    """

    mailbox: str
    identifier: str
    negative: bool
    spelled: str


class MyRights(Struct, frozen=True):
    """MYRIGHTS (RFC 4314 §3.5)."""

    mailbox: str


@whole
def parse_setacl(cur: Cursor) -> SetAcl:
    """`SP mailbox SP identifier SP mod-rights`."""
    name = cur.sp().mailbox()
    identifier, negative, _ = _parse_identifier(cur)
    text = cur.sp().astring().decode("ascii", "replace")
    mode = text[0] if text[:1] in MODES and text else "="
    return SetAcl(name, identifier, negative, mode, parse_rights(text.removeprefix(mode)))


@whole
def parse_deleteacl(cur: Cursor) -> DeleteAcl:
    """`SP mailbox SP identifier`."""
    name = cur.sp().mailbox()
    identifier, negative, _ = _parse_identifier(cur)
    return DeleteAcl(name, identifier, negative)


@whole
def parse_getacl(cur: Cursor) -> GetAcl:
    """`SP mailbox`."""
    return GetAcl(cur.sp().mailbox())


@whole
def parse_listrights(cur: Cursor) -> ListRights:
    """`SP mailbox SP identifier`."""
    name = cur.sp().mailbox()
    return ListRights(name, *_parse_identifier(cur))


@whole
def parse_myrights(cur: Cursor) -> MyRights:
    """`SP mailbox`."""
    return MyRights(cur.sp().mailbox())


def _parse_identifier(cur: Cursor) -> tuple[str, bool, str]:
    """Without its dash, whether it had one, and with it."""
    spelled = cur.sp().text()
    identifier = spelled.removeprefix("-").strip()
    if not identifier or not identifier.isprintable():
        raise BadSyntax("This cannot be an identifier")
    return identifier, spelled.startswith("-"), spelled


def parse_rights(text: str) -> Rights:
    """Rights from their letters.

    Raises:
        BadSyntax: One of them is none (§3.1: never to be ignored).
    """
    rights = NO_RIGHTS
    for letter in text:
        if letter.isupper():
            raise BadSyntax("Uppercase rights are not allowed")
        if letter not in _READ:
            raise BadSyntax(f"The {letter} right is not supported")
        rights |= _READ[letter]
    return rights


def write_rights(rights: Rights) -> bytes:
    """The letters of rights."""
    return "".join(letter for letter, members in _WRITTEN if rights & members).encode()


def acl_line(name: str, entries: Iterable[tuple[str, Rights]], *, utf8: bool = False) -> bytes:
    """ACL (RFC 4314 §3.6)."""
    words = [mailbox(name, utf8=utf8)]
    for identifier, rights in entries:
        words += [astring(identifier.encode(), utf8=utf8), astring(write_rights(rights))]
    return b"* ACL %s\r\n" % b" ".join(words)


def listrights_line(name: str, identifier: str, always: Rights, *, utf8: bool = False) -> bytes:
    """LISTRIGHTS (RFC 4314 §3.7): each right can be given by itself, but for those that the identifier always has."""
    optional = [letter.encode() for letter, members in _WRITTEN if not always & members]
    words = [mailbox(name, utf8=utf8), astring(identifier.encode(), utf8=utf8), astring(write_rights(always))]
    return b"* LISTRIGHTS %s\r\n" % b" ".join([*words, *optional])


def myrights_line(name: str, rights: Rights, *, utf8: bool = False) -> bytes:
    """MYRIGHTS (RFC 4314 §3.8)."""
    return b"* MYRIGHTS %s %s\r\n" % (mailbox(name, utf8=utf8), astring(write_rights(rights)))
