"""Addresses of header fields: as IMAP ENVELOPE wants them, and as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora._native.mimefields import nstring, parse_addresses
from sora.mime.text import decode_raw, decode_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora._native.mimefields import AddressTuple
    from sora._native.mimescan import Part

MAX_ADDRESSES: Final = 1_000
"""Entries of one field that are read, beginnings and ends of groups among them: nobody reads more, and a field of
megabytes would hold up everybody else while it is parsed. FETCH of the header gives the field as it is."""
NO_MAILBOX: Final = b"MISSING_MAILBOX"
NO_DOMAIN: Final = b"MISSING_DOMAIN"
"""Stand-ins of Dovecot's: NIL would mean a group (RFC 3501 §7.4.2)."""


def addresses(part: Part, name: bytes) -> list[AddressTuple]:
    """The addresses of a field, up to `MAX_ADDRESSES`.

    A field that comes twice counts as one list, as in Dovecot: otherwise a checked first From could hide a second one
    that the client shows.
    """
    values = part.every(name)
    if not values:
        return []
    return parse_addresses(values[0] if len(values) == 1 else b",".join(values), MAX_ADDRESSES)


def write_addresses(found: Sequence[AddressTuple]) -> bytes:
    """The address list of an ENVELOPE; NIL if it is empty."""
    return b"(" + b"".join(map(_write, found)) + b")" if found else b"NIL"


def _write(address: AddressTuple) -> bytes:
    name, route, mailbox, host = address
    if host is not None:
        mailbox, host = mailbox or NO_MAILBOX, host or NO_DOMAIN
    return b"(%b %b %b %b)" % (nstring(name), nstring(route), nstring(mailbox), nstring(host))


def display(found: Sequence[AddressTuple]) -> str:
    """`Name <mailbox@host>, …` in decoded text; groups are written as their members."""
    return ", ".join(filter(None, map(_display, found)))


def _display(address: AddressTuple) -> str:
    name, _, mailbox, host = address
    if host is None:
        return ""
    spec = _spec(mailbox, host)
    if not name:
        return spec
    text = decode_words(name)
    return f"{text} <{spec}>" if spec else text


def display_name(found: Sequence[AddressTuple]) -> str:
    """What SORT=DISPLAY compares (RFC 5957 §3): the first address's name, or mailbox@host, or the group's name."""
    if not found:
        return ""
    name, _, mailbox, host = found[0]
    if name:
        return decode_words(name)
    return _spec(mailbox, host)


def _spec(mailbox: bytes | None, host: bytes | None) -> str:
    """`mailbox@host`, or what there is of it."""
    return decode_raw(b"%b@%b" % (mailbox or b"", host) if host else mailbox or b"")
