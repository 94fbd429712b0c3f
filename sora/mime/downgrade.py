"""Headers in UTF-8 for a client that knows only ASCII (RFC 6858): a likeness that is made when it is asked for.

What is stored stays as it is. In the header of the message and in those of its parts:

- An address that has no form in ASCII becomes one that no mail reaches, with the true one as its name (§2.1); host
  names alone become A-labels.
- Parameters take the form of RFC 2231. §2.2 leaves them out, but then an attachment has lost its name.
- The subject becomes encoded words (§2.3), and so do other fields that are free text.
- What has no such form is left out (§2.4): an encoded word in a Message-ID would be another one.

Fields whose octets are no UTF-8 are older than all this and stay: nobody knows what they mean. So do headers and lists
too long to be rewritten while others wait. Bodies are not touched, and an attached message is a body: one with a header
in UTF-8 is message/global (RFC 6532 §3.7), which such a client saves as a file.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes

from sora._native.mimefields import parse_addresses
from sora._native.mimescan import MULTIPART, scan
from sora.mime.text import decode_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sora._native.mimescan import Part

MAX_HEADER: Final = 65_536
"""Octets that are rewritten in one message; the headers that come after them stay as they are."""
MAX_ADDRESSES: Final = 2_000
"""In one field; a longer list stays as it is, because rewriting it would keep other sessions waiting."""
NOBODY: Final = b"invalid@internationalized-address.invalid"
ADDRESSES: Final = frozenset({
    b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"resent-from", b"resent-sender", b"resent-reply-to",
    b"resent-to", b"resent-cc", b"resent-bcc", b"return-path", b"disposition-notification-to",
})  # fmt: skip
"""Fields that consist of addresses."""
TEXTS: Final = frozenset({
    b"subject", b"comments", b"content-description", b"organization", b"thread-topic",
})  # fmt: skip
"""Fields in which an encoded word may stand anywhere (RFC 2047 §5), and those whose name begins with X-."""
PARAMETERS: Final = frozenset({b"content-type", b"content-disposition"})
_WORD_OCTETS: Final = 45
"""Of text in one encoded word, which may have 75 characters (RFC 2047 §2)."""
_MAX_HOST: Final = 255
_MULTIPART: Final = re.compile(rb"(?i)multipart\s*/")
_BLANK_LINE: Final = re.compile(rb"(?:\A|\n)\r?\n")
_FIELD: Final = re.compile(rb"[^\n]+(?:\n[ \t][^\n]*)*\n?")
_FOLD: Final = re.compile(rb"\r?\n(?=[ \t])")
_PHRASE: Final = re.compile(r"[A-Za-z0-9 !#$%&'*+/=?^_`{|}~-]+")
_DOT_ATOM: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+")
# The name begins where no token is under way: else each octet of a long token would be tried as its beginning.
_TOKEN: Final = rb"[!#-&+.0-9A-Z^_`a-z{|}~-]"
_PARAMETER: Final = re.compile(rb"""(?<!%b)(%b++)=("(?:[^"\\]|\\.)*+"|[^\s";]++)""" % (_TOKEN, _TOKEN), re.DOTALL)
_NOT_ASCII: Final = re.compile(rb"[^\0-\x7f]")


def downgrade(data: bytes) -> bytes:
    """The message with headers in ASCII; the same object if it has no others."""
    if data.isascii():
        return data
    pieces: list[bytes] = []
    left, at = MAX_HEADER, 0
    for start, end in _headers(data):
        header = data[start:end]
        if header.isascii():
            continue
        left -= len(header)
        if left < 0:
            break
        pieces.append(data[at:start])
        pieces += (_field(match[0]) for match in _FIELD.finditer(header))
        at = end
    return b"".join([*pieces, data[at:]]) if pieces else data


def _headers(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the fields of the message and of its parts stand, in order; not those of messages inside."""
    blank = _BLANK_LINE.search(data)
    end = len(data) if blank is None else blank.start() + 1 if blank.start() else blank.end()
    yield 0, end
    if _MULTIPART.search(data, 0, end):
        yield from _part_headers(scan(data))


def _part_headers(part: Part) -> Iterator[tuple[int, int]]:
    if part.kind == MULTIPART:
        for child in part.children:
            yield child.header_start, child.fields_end
            yield from _part_headers(child)


def _field(field: bytes) -> bytes:
    """A field in ASCII; empty if it has no such form."""
    name, colon, rest = field.partition(b":")
    if field.isascii() or not colon or not _is_utf8(field):
        return field
    value, kind = _FOLD.sub(b"", rest).strip(), name.strip().lower()
    if kind in ADDRESSES and value.count(b",") + value.count(b"<") > MAX_ADDRESSES:
        return field
    if kind in ADDRESSES:
        value = b",\r\n ".join(_addresses(value)) or _words(decode_words(value).rstrip(" :;")) + b":;"
    elif kind in PARAMETERS:
        value = _NOT_ASCII.sub(b"?", _PARAMETER.sub(_parameter, value))
    elif kind in TEXTS or kind.startswith(b"x-"):
        value = _words(decode_words(value))
    else:
        return b""
    return b"%b: %b\r\n" % (name, value)


def _words(text: str) -> bytes:
    """Encoded words (RFC 2047 §2), none of which splits a character."""
    words = [b""]
    for character in text:
        octets = character.encode("utf-8", "replace")
        if len(words[-1]) + len(octets) > _WORD_OCTETS:
            words.append(b"")
        words[-1] += octets
    return b"\r\n ".join(b"=?utf-8?b?%b?=" % b64encode(word) for word in words)


def _addresses(value: bytes) -> Iterable[bytes]:
    """Each address; groups become their members."""
    for name, _, mailbox, host in parse_addresses(value):
        if host is None:
            continue
        text, spec = decode_words(name or b""), _spec(mailbox or b"", host)
        if spec is None:
            text = f"{text} {(mailbox or b'').decode()}@{host.decode()}".strip()
        label = text.encode() if _PHRASE.fullmatch(text) else _words(text) if text else b""
        yield b"%b <%b>" % (label, spec or NOBODY) if label else b"<%b>" % spec if spec else NOBODY


def _spec(mailbox: bytes, host: bytes) -> bytes | None:
    """The address in ASCII; None: there is no such form."""
    if not mailbox.isascii() or len(host) > _MAX_HOST:
        return None
    try:
        host = host if host.isascii() else host.decode().encode("idna")
    except UnicodeError:
        return None
    if not _DOT_ATOM.fullmatch(mailbox):
        mailbox = b'"%b"' % re.sub(rb'(["\\])', rb"\\\1", mailbox)
    return b"%b@%b" % (mailbox, host)


def _parameter(match: re.Match[bytes]) -> bytes:
    """RFC 2231 §4."""
    name, value = match[1], match[2]
    if value.isascii():
        return match[0]
    text = re.sub(rb"\\(.)", rb"\1", value[1:-1], flags=re.DOTALL) if value.startswith(b'"') else value
    return b"%b*=utf-8''%b" % (name, quote_from_bytes(text, safe="").encode())


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True
