# ruff: noqa: PYI021 (editors show these texts, and the extension has none to show)
"""MIME structure in one pass over the bytes. Nothing raises, whatever the bytes are; time is linear in their number."""

from mmap import mmap
from typing import Final, TypeAlias

Octets: TypeAlias = bytes | mmap

LEAF: Final = 0
"""Anything but the following."""
TEXT: Final = 1
"""text/*, and what has no or no valid Content-Type."""
MULTIPART: Final = 2
"""With parts, or without any."""
MESSAGE: Final = 3
"""message/rfc822; its one child is the message inside."""
OPAQUE: Final = 4
"""A multipart or message beyond the limits, whose bytes were not looked into."""

class Part:
    """One part of a message.

    Attributes:
        header_start: Where the header begins; for the root 0.
        fields_end: Behind its last field, where the blank line begins if there is one.
        header_end: Behind the blank line; the body begins here.
        body_end: Behind the body; the line end before a boundary is the boundary's (RFC 2046 §5.1.1).
        header_lines: LFs in the header.
        body_lines: LFs in the body.
        type: As written; `text` if there is no valid Content-Type.
        params: Content-Type parameters as sent, in order.
    """

    header_start: Final[int]
    fields_end: Final[int]
    header_end: Final[int]
    body_end: Final[int]
    header_lines: Final[int]
    body_lines: Final[int]
    kind: Final[int]
    type: Final[bytes]
    subtype: Final[bytes]
    params: Final[list[tuple[bytes, bytes]]]
    children: Final[list[Part]]
    @property
    def body_start(self) -> int: ...
    def first(self, name: bytes) -> bytes | None:
        """Unfolded value of the first field of a name, which is given in lower case; None if there is none."""

    def last(self, name: bytes) -> bytes | None:
        """The same of the last field."""

    def every(self, name: bytes) -> list[bytes]:
        """The same of all of them, in order."""

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Name as written and unfolded value of every field, in order; CR, LF and NUL are gone from the values."""

    def lines(self) -> list[tuple[bytes, int, int]]:
        """Name in lower case, start and end of every field in the message; the name is empty for a line without."""

def scan(data: Octets, max_depth: int = 100, max_parts: int = 10_000) -> Part:
    """The part tree of a message.

    Args:
        max_depth: Multiparts and messages inside each other; deeper ones are `OPAQUE`.
        max_parts: No further boundaries are seen then, and no further messages opened.
    """
