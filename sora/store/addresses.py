"""Addresses and domain names: the one form in which they are stored and compared."""

from __future__ import annotations

import unicodedata
from typing import Final

from sora.errors import InvalidName

MAX_LOCAL_BYTES: Final = 64
MAX_DOMAIN_BYTES: Final = 255
MAX_LABEL_BYTES: Final = 63
_SPECIALS: Final = frozenset('"(),:;<>@[\\]')


def canonical_address(text: str) -> str:
    """The form in which addresses are stored and compared: NFC, lower case.

    Raises:
        InvalidName: no local part or domain, too long, or with blanks, quotes or control characters.
    """
    local, _, domain = fold_address(text).rpartition("@")
    if not local or _octets(local) > MAX_LOCAL_BYTES or not _SPECIALS.isdisjoint(local):
        raise InvalidName("Invalid address")
    if not all(c.isprintable() and not c.isspace() for c in local):
        raise InvalidName("Invalid address")
    return f"{local}@{canonical_domain(domain)}"


def canonical_domain(text: str) -> str:
    """Lower-case name of a domain; labels are letters of any script, digits, `_` and inner hyphens.

    Raises:
        InvalidName: it cannot be a domain.
    """
    name = fold_address(text).removesuffix(".")
    labels = name.split(".")
    if _octets(name) > MAX_DOMAIN_BYTES or not all(_is_label(label) for label in labels):
        raise InvalidName("Invalid domain")
    return name


def fold_address(text: str) -> str:
    """NFC and lower case, without any check: for look-ups, where what cannot be is simply not found."""
    return unicodedata.normalize("NFC", text.strip()).lower()


def split_detail(address: str) -> tuple[str, str]:
    """`ann+list@example.com` to (`ann@example.com`, `list`); without a detail the second is empty (RFC 5233 §4)."""
    local, _, domain = address.rpartition("@")
    base, plus, detail = local.partition("+")
    return (f"{base}@{domain}", detail) if plus and base else (address, "")


def _is_label(label: str) -> bool:
    if not 0 < _octets(label) <= MAX_LABEL_BYTES or label[0] == "-" or label[-1] == "-":
        return False
    return all(c.isalnum() or c in "-_" or unicodedata.category(c).startswith("M") for c in label)


def _octets(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InvalidName("Not valid text") from None
