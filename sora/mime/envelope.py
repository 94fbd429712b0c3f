"""ENVELOPE, BODYSTRUCTURE and BODY as IMAP text (RFC 3501 §7.4.2), computed once when a message arrives.

The text is ready to send: what cannot stand in a quoted string is a literal, and nothing has CR, LF or NUL in it
otherwise. Encoded words and RFC 2231 parameters stay as they were sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora._native.mimefields import nstring, parse_disposition, parse_tokens, strip_extensions
from sora._native.mimescan import MESSAGE, MULTIPART, OPAQUE, TEXT
from sora.mime.address import addresses, write_addresses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora._native.mimescan import Part

__all__ = ["strip_extensions", "write_bodystructure", "write_envelope"]

EMPTY_PART: Final = b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)'
"""What a multipart without parts is said to contain: the grammar needs one (as Dovecot)."""
DEFAULT_CHARSET: Final = b'"charset" "us-ascii"'


def write_envelope(part: Part) -> bytes:
    """The ENVELOPE of a message.

    Sender and Reply-To default to From (RFC 3501 §7.4.2). Of the other fields the last one counts, as in Dovecot.
    """
    author = write_addresses(addresses(part, b"from"))
    sender = write_addresses(addresses(part, b"sender"))
    reply_to = write_addresses(addresses(part, b"reply-to"))
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        nstring(part.last(b"date")),
        nstring(part.last(b"subject")),
        author,
        author if sender == b"NIL" else sender,
        author if reply_to == b"NIL" else reply_to,
        write_addresses(addresses(part, b"to")),
        write_addresses(addresses(part, b"cc")),
        write_addresses(addresses(part, b"bcc")),
        nstring(part.last(b"in-reply-to")),
        nstring(part.last(b"message-id")),
    )


def write_bodystructure(part: Part) -> bytes:
    """The BODYSTRUCTURE of a part, with everything inside it."""
    out: list[bytes] = []
    _body(part, out)
    return b"".join(out)


def _body(part: Part, out: list[bytes]) -> None:
    out.append(b"(")
    if part.kind == MULTIPART:
        _multipart(part, out)
    else:
        _single(part, out)
    out.append(b")")


def _multipart(part: Part, out: list[bytes]) -> None:
    for child in part.children:
        _body(child, out)
    if not part.children:
        out.append(EMPTY_PART)
    out += (b" ", nstring(part.subtype), b" ", _params(part.params), b" ")
    _tail(part, out)


def _single(part: Part, out: list[bytes]) -> None:
    """A leaf, a text or a message, with its size in octets and, for the last two, in lines."""
    if part.kind == OPAQUE:
        out.append(b'"application" "octet-stream" NIL')
    else:
        out += (nstring(part.type), b" ", nstring(part.subtype), b" ", _params(part.params, part.kind == TEXT))
    out += (
        b" ",
        nstring(part.first(b"content-id")),
        b" ",
        nstring(part.first(b"content-description")),
        b" ",
        nstring(encoding(part)),
        b" %d" % (part.body_end - part.header_end),
    )
    if part.kind == MESSAGE:
        inner = part.children[0]
        out += (b" ", write_envelope(inner), b" ")
        _body(inner, out)
    if part.kind in (MESSAGE, TEXT):
        out.append(b" %d" % part.body_lines)
    out += (b" ", nstring(part.first(b"content-md5")), b" ")
    _tail(part, out)


def _tail(part: Part, out: list[bytes]) -> None:
    """Disposition, language and location: the end of every body."""
    out += (
        _disposition(part.first(b"content-disposition")),
        b" ",
        _language(part.first(b"content-language")),
        b" ",
        nstring(part.first(b"content-location")),
    )


def encoding(part: Part) -> bytes:
    """Content-Transfer-Encoding as written; `7bit` if there is none (RFC 2045 §6.1)."""
    value = part.first(b"content-transfer-encoding")
    tokens = parse_tokens(value) if value else None
    return tokens[0] if tokens else b"7bit"


def _params(params: Sequence[tuple[bytes, bytes]], text: bool = False) -> bytes:
    """A parameter list; text without a charset says which one it has then (RFC 2046 §4.1.2)."""
    items = [b"%b %b" % (nstring(name), nstring(value)) for name, value in params]
    if text and not any(name.lower() == b"charset" for name, _ in params):
        items.append(DEFAULT_CHARSET)
    return b"(" + b" ".join(items) + b")" if items else b"NIL"


def _disposition(value: bytes | None) -> bytes:
    parsed = parse_disposition(value) if value else None
    if parsed is None:
        return b"NIL"
    return b"(%b %b)" % (nstring(parsed[0]), _params(parsed[1]))


def _language(value: bytes | None) -> bytes:
    tokens = parse_tokens(value) if value else None
    return b"(" + b" ".join(map(nstring, tokens)) + b")" if tokens else b"NIL"
