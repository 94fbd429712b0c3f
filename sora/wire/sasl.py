"""SASL messages: PLAIN (RFC 4616)."""

from __future__ import annotations

from msgspec import Struct

from sora.errors import BadSyntax


class Plain(Struct, frozen=True):
    """A PLAIN message.

    Attributes:
        authzid: Whom to act as; empty: the one who logs in.
        authcid: Who logs in.
    """

    authzid: str
    authcid: str
    password: str

    def __repr__(self) -> str:
        return f"Plain(authzid={self.authzid!r}, authcid={self.authcid!r}, password=...)"


def parse_plain(message: bytes) -> Plain:
    """`[authzid] NUL authcid NUL passwd`.

    Raises:
        BadSyntax: Not three parts of UTF-8, or no name.
    """
    try:
        parts = message.decode().split("\0")
    except UnicodeDecodeError:
        raise BadSyntax("The response is not UTF-8") from None
    if len(parts) != 3 or not parts[1]:
        raise BadSyntax("The response is not authzid NUL authcid NUL password")
    return Plain(*parts)
