"""The message as a script sees it: header fields decoded, in the order of the message, and edited copies of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sora._native.mimefields import parse_addresses
from sora._native.mimescan import scan
from sora.mime.address import MAX_ADDRESSES
from sora.mime.text import decode_raw, decode_words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from mmap import mmap

    from sora._native.mimescan import Part

    Octets = bytes | mmap

_DOT_STRING: Final = re.compile(r"[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+(?:\.[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+)*")
_TO_ESCAPE: Final = re.compile(r'(["\\])')
_DOMAIN: Final = re.compile(r"[^\s<>()\[\]:;@\\,\"]+|\[[!-;=?-Z^-~]+\]")
"""A name, or an address literal (RFC 5321 §4.1.3); what it is worth is for others to find out."""
MAX_PATH: Final = 254
"""Octets of an address (RFC 5321 §4.5.3.1.3)."""
_BLANK: Final = " \t\r\n"


class Address:
    """One address of a field, by its parts (RFC 5228 §2.7.4).

    Attributes:
        local: Local part, without quotes.
        domain: Empty if there is none.
    """

    __slots__ = ("domain", "local")

    def __init__(self, local: str, domain: str) -> None:
        self.local = local
        self.domain = domain

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local

    @property
    def is_valid(self) -> bool:
        """It has both parts; if not, no test of a part is true of it (RFC 5228 §2.7.4)."""
        return bool(self.local and self.domain)

    @property
    def path(self) -> str:
        """As SMTP wants it (RFC 5321 §4.1.2): a local part that is no dot-string is quoted."""
        local = self.local
        if not _DOT_STRING.fullmatch(local):
            local = '"' + _TO_ESCAPE.sub(r"\\\1", local) + '"'
        return f"{local}@{self.domain}"


class Mail:
    """One version of a message; editing gives another.

    Its header is looked at without the body, so that a large message costs no more than a small one where only fields
    are asked for, and versions with other headers share one body.

    Attributes:
        top: The header alone, as a part without a body.
        head: Octets of the header with the blank line.
        memo: What was found in this version, by whoever looked for it.
    """

    __slots__ = ("_data", "_root", "_tail", "head", "memo", "top")

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self._root: Part | None = None
        self.memo: dict[Any, Any] = {}
        self.top = scan(data[: _header_end(data)])
        self.head = data[: self.top.header_end]
        self._tail = memoryview(data)[self.top.header_end :]

    @classmethod
    def stamped(cls, stamp: bytes, data: Octets) -> Mail:
        """A message with fields before its header; a body of any size stays where it is."""
        end = _header_end(data)
        mail = cls(stamp + data[:end])
        if len(mail.head) != len(stamp) + end:
            return cls(stamp + data[:])  # something in the header ends it early
        mail._data, mail._tail = None, memoryview(data)[end:]
        return mail

    def with_head(self, head: bytes) -> Mail:
        """The same body under another header, which ends in its blank line."""
        mail = Mail(head)
        mail._data, mail._tail = None, self._tail
        return mail

    @property
    def data(self) -> bytes:
        """The octets of the message."""
        if self._data is None:
            self._data = b"".join((self.head, self._tail))
        return self._data

    @property
    def tail(self) -> memoryview:
        """The body."""
        return self._tail

    @property
    def root(self) -> Part:
        """The outermost part with all that is inside; scanned when it is first asked for."""
        if self._root is None:
            self._root = scan(self.data)
        return self._root

    @property
    def size(self) -> int:
        """Octets."""
        return len(self.head) + len(self._tail)

    def header(self, name: str) -> list[str]:
        """Values of all fields of a name, decoded (RFC 2047), without white space around them."""
        return header_of(self.top, name)

    def addresses(self, name: str) -> list[Address]:
        """The addresses of all fields of a name."""
        return [address for value in raw_header_of(self.top, name) for address in addresses_of(value)]


def _header_end(data: Octets) -> int:
    """Behind the first blank line; line ends as in the first line are looked for first, to pass over the body once."""
    if data[:2].startswith((b"\n", b"\r\n")):
        return data.find(b"\n") + 1
    first = data.find(b"\n")
    marks = [b"\n\r\n", b"\n\n"] if data[first - 1 : first] == b"\r" else [b"\n\n", b"\n\r\n"]
    end = len(data)
    for mark in marks:
        place = data.find(mark, 0, end)
        if place >= 0:
            end = place + len(mark)
    return end


def header_of(part: Part, name: str) -> list[str]:
    """See `Mail.header`; of any part."""
    return [field_of(value) for value in raw_header_of(part, name)]


def field_of(value: bytes) -> str:
    """An unfolded value of a field, decoded."""
    return decode_words(value).strip(_BLANK)


def raw_header_of(part: Part, name: str) -> Sequence[bytes]:
    """Unfolded values of all fields of a name, not decoded."""
    try:
        return part.every(name.lower().encode("ascii"))
    except UnicodeEncodeError:
        return ()  # no field has such a name


def addresses_of(value: bytes) -> list[Address]:
    """The addresses in the unfolded value of a field, groups as their members."""
    return [
        Address(decode_raw(mailbox or b""), decode_raw(host))
        for _, _, mailbox, host in parse_addresses(value, MAX_ADDRESSES)
        if host is not None  # not the beginning or end of a group
    ]


def parse_address(text: str) -> Address | None:
    """The one address that a text consists of, `<>` around it or not; None if it is none (RFC 5322 §3.4.1)."""
    if not text.isprintable():
        return None  # it ends up in SMTP commands
    found = parse_addresses(text.encode("utf-8", "surrogateescape"), 2)
    if len(found) != 1 or not found[0][2] or not found[0][3]:
        return None
    address = Address(decode_raw(found[0][2]), decode_raw(found[0][3]))
    if not _DOMAIN.fullmatch(address.domain) or len(address.path.encode("utf-8", "surrogateescape")) > MAX_PATH:
        return None
    return address
