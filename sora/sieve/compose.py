"""Messages that a script makes: header fields in ASCII or encoded words, a body in UTF-8."""

from __future__ import annotations

import re
from email.header import Header
from email.utils import format_datetime, formataddr, getaddresses
from quopri import encodestring
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f]+")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_WITH_ADDRESSES: Final = frozenset({"from", "to", "cc", "reply-to", "sender"})
MAX_FIELD: Final = 998
"""Characters of a field taken over from another message."""


def field(name: str, value: str, limit: int = MAX_FIELD) -> bytes:
    """One header field with its line end; what is not ASCII becomes encoded words (RFC 2047).

    Args:
        limit: Characters of the value.
    """
    if name.lower() in _WITH_ADDRESSES:
        return address_field(name, value)
    text = _UNSAFE.sub(" ", value).strip()[:limit]
    encoded = Header(text, "us-ascii" if text.isascii() else "utf-8", 78, name, " ").encode(linesep="\r\n")
    return f"{name}: {encoded}\r\n".encode("ascii")


def address_field(name: str, value: str) -> bytes:
    """A field with addresses: only what is not ASCII in the names of people becomes encoded words (RFC 2047 §5)."""
    text = _UNSAFE.sub(" ", value).strip()[:MAX_FIELD]
    if text.isascii():
        return f"{name}: {text}\r\n".encode()
    found = [formataddr((person, address)) for person, address in getaddresses([text]) if address.isascii() and address]
    return f"{name}: {', '.join(found)}\r\n".encode("ascii")


def text_message(fields: Sequence[tuple[str, str]], body: str) -> bytes:
    """A message with a plain text."""
    return b"".join(field(name, value) for name, value in fields) + b"MIME-Version: 1.0\r\n" + text_entity(body)


def text_entity(body: str) -> bytes:
    """A plain text with its MIME header."""
    lines = _LINE_END.sub("\r\n", body)
    plain = lines.isascii() and all(len(line) <= 998 for line in lines.split("\r\n"))
    head = [
        b"Content-Type: text/plain; charset=utf-8\r\n",
        b"Content-Transfer-Encoding: %s\r\n\r\n" % (b"7bit" if plain else b"quoted-printable"),
    ]
    return b"".join(head) + (lines.encode() if plain else _quoted_printable(lines))


def mime_message(fields: Sequence[tuple[str, str]], entity: str) -> bytes:
    """A message whose MIME header and body the script wrote itself (`:mime`)."""
    head = [*(field(name, value) for name, value in fields), b"MIME-Version: 1.0\r\n"]
    return b"".join(head) + _LINE_END.sub("\r\n", entity).encode("utf-8", "surrogateescape")


def date(moment: datetime) -> str:
    """Value of a Date field."""
    return format_datetime(moment)


def _quoted_printable(text: str) -> bytes:
    octets = encodestring(_LINE_END.sub("\n", text).encode("utf-8", "surrogateescape"))
    return octets.replace(b"\n", b"\r\n")
