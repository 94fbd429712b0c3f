# ruff: noqa: PYI021 (editors show these texts, and the extension has none to show)
"""The small grammars of MIME header fields, and values as IMAP text. Values come unfolded. Nothing raises."""

from typing import TypeAlias

Params: TypeAlias = list[tuple[bytes, bytes]]
AddressTuple: TypeAlias = tuple[bytes | None, bytes | None, bytes | None, bytes | None]

def parse_content_type(value: bytes) -> tuple[bytes, bytes, Params] | None:
    """Type, subtype and parameters as sent (RFC 2045 §5.1); None if there is no `type/subtype`."""

def parse_disposition(value: bytes) -> tuple[bytes, Params] | None:
    """Kind and parameters of a Content-Disposition (RFC 2183 §2); None if it names no kind."""

def parse_tokens(value: bytes) -> list[bytes]:
    """Tokens of a value such as Content-Language (RFC 3282); comments and what separates them are skipped."""

def parse_addresses(value: bytes, limit: int = -1) -> list[AddressTuple]:
    """Name, route, mailbox and host of every address of a list (RFC 5322 §3.4, §4.4), in order.

    If `limit` is not negative, no more is read than gives so many entries; a group that is open there is closed.

    A missing mailbox or host is empty. A group begins with (None, None, name, None) and ends with four None.
    """

def nstring(value: bytes | None) -> bytes:
    """NIL, a quoted string, or a literal for what has CR, LF or octets above 127; NUL becomes U+FFFD."""

def strip_extensions(structure: bytes) -> bytes:
    """BODY from a BODYSTRUCTURE that Sora wrote (RFC 3501 §7.4.2)."""
