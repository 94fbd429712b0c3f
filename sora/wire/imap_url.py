"""IMAP URLs that lead to a message or a part of one, relative to a session (RFC 5092, RFC 4469 §3).

    /Drafts;UIDVALIDITY=385759045/;UID=20/;SECTION=1.MIME/;PARTIAL=0.1024

`;UID=20` and `/;UID=20` alone are of the selected mailbox. A URL with a scheme or a server is somebody else's.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from sora.errors import BadSyntax
from sora.wire.imap_fetch import MAX_PATH, Section


class MessageUrl(Struct, frozen=True):
    """Where the octets are.

    Attributes:
        mailbox: None: the selected one.
        uidvalidity: None: whatever it is.
        section: with the PARTIAL of the URL (RFC 5550 §3.1) as its own; a count of None goes to the end.
    """

    mailbox: str | None
    uidvalidity: int | None
    uid: int
    section: Section
    partial: tuple[int, int | None] | None = None


_URL: Final = re.compile(
    rb"""
    (?: /(?P<mailbox>[^;/?\#][^;?\#]*?) (?: ;UIDVALIDITY=(?P<uidvalidity>[1-9][0-9]{0,9}) )? )?
    /? ;UID=(?P<uid>[1-9][0-9]{0,9})
    (?: /;SECTION=(?P<section>[^;?\#]+?) )?
    (?: /;PARTIAL=(?P<first>[0-9]{1,19}) (?: \. (?P<count>[1-9][0-9]{0,18}) )? )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SECTION: Final = re.compile(
    rb"(?P<path>[1-9][0-9]{0,8}(?:\.[1-9][0-9]{0,8})*)?"
    rb"(?P<dot>\.)?(?P<text>HEADER\.FIELDS(?:\.NOT)?|HEADER|TEXT|MIME)?(?: \((?P<fields>[^()\x00-\x1f\x7f]+)\))?",
    re.IGNORECASE,
)
_FIELD: Final = re.compile(rb'"([!-~]+)"|([!#-~]+)')
MAX_NUMBER: Final = (1 << 32) - 1


def parse_url(url: bytes) -> MessageUrl:
    """A URL of a message or a part of one.

    Raises:
        BadSyntax: It is none, or not one of this session.
    """
    match = _URL.fullmatch(url)
    if match is None or _ESCAPE.search(url):
        raise BadSyntax("Not the URL of a message here")
    uidvalidity = int(match["uidvalidity"]) if match["uidvalidity"] else None
    uid = int(match["uid"])
    if max(uid, uidvalidity or 0) > MAX_NUMBER:
        raise BadSyntax("A number in the URL is out of range")
    partial = None
    if match["first"] is not None:
        partial = int(match["first"]), int(match["count"]) if match["count"] else None
    section = parse_section(unquote_to_bytes(match["section"])) if match["section"] else Section((), b"", b"")
    return MessageUrl(_mailbox(match["mailbox"]), uidvalidity, uid, section, partial)


def _mailbox(encoded: bytes | None) -> str | None:
    if encoded is None:
        return None
    try:
        name = unquote_to_bytes(encoded).decode().removesuffix("/")
    except UnicodeDecodeError:
        raise BadSyntax("The mailbox of a URL is not UTF-8") from None
    return "INBOX" if name.upper() == "INBOX" else name


def parse_section(text: bytes) -> Section:
    """`section-spec` (RFC 9051 §9), as a value of its own.

    Raises:
        BadSyntax: There is no such section.
    """
    match = _SECTION.fullmatch(text)
    if match is None:
        raise BadSyntax("There is no such section")
    path = tuple(map(int, match["path"].split(b"."))) if match["path"] else ()
    name = (match["text"] or b"").upper()
    is_fields = name.startswith(b"HEADER.FIELDS")
    wrong = (
        bool(match["dot"]) != bool(path and name)
        or (not path and not name)
        or (name == b"MIME" and not path)
        or is_fields != (match["fields"] is not None)
        or len(path) > MAX_PATH
    )
    if wrong:
        raise BadSyntax("There is no such section")
    return Section(path, name, b"", _fields(match["fields"]) if is_fields else (), peek=True)


def _fields(text: bytes) -> tuple[bytes, ...]:
    names = []
    for word in text.split(b" "):
        match = _FIELD.fullmatch(word)
        if match is None:
            raise BadSyntax("There is no such section")
        names.append(match[1] or match[2])
    return tuple(names)
