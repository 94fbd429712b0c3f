"""A message as IMAP sees it: parts by number, sections as spans of its octets.

Numbers follow RFC 3501 §6.4.5: a multipart's parts are 1, 2, …; a message that is no multipart has the one part 1,
which is its body; below a message/rfc822 part stand the numbers of the message inside. A section is a span, so that
BODY[...] is what was delivered, octet for octet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora._native.mimescan import MESSAGE, MULTIPART, scan
from sora.mime.envelope import strip_extensions, write_bodystructure, write_envelope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora._native.mimescan import Part


class Message:
    """A scanned message.

    Attributes:
        data: Its octets.
        root: The outermost part.
    """

    __slots__ = ("data", "root")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.root = scan(data)

    def envelope(self) -> bytes:
        """The ENVELOPE, ready to send."""
        return write_envelope(self.root)

    def bodystructure(self) -> bytes:
        """The BODYSTRUCTURE, ready to send."""
        return write_bodystructure(self.root)

    def body(self) -> bytes:
        """The BODY: the same without extension data."""
        return strip_extensions(self.bodystructure())

    def part(self, path: tuple[int, ...]) -> Part | None:
        """The part with these numbers; the root for none; None if there is no such part."""
        part, numbered = self.root, self.root
        for depth, number in enumerate(path):
            if depth and part.kind == MESSAGE:
                numbered = part.children[0]
            elif depth:
                numbered = part
            found = _child(numbered, number, is_message=not depth or part.kind == MESSAGE)
            if found is None:
                return None
            part = found
        return part

    def section(self, path: tuple[int, ...], text: bytes = b"") -> tuple[int, int] | None:
        """First octet of a section and the one behind its last.

        Args:
            text: b"" (the part's body, or the whole message for an empty path), b"HEADER", b"TEXT" or b"MIME".

        Returns:
            None if there is no such part, or none of its kind: HEADER and TEXT need a message.
        """
        if not path and not text:
            return 0, len(self.data)
        part = self.part(path)
        if part is None:
            return self._missing_part(path) if not text else None
        if text == b"MIME":
            return (part.header_start, part.header_end) if path else None
        if not text:
            return part.header_end, part.body_end
        message = self._message(path)
        if message is None:
            return None
        if text == b"HEADER":
            return message.header_start, message.header_end
        return message.header_end, message.body_end

    def header_fields(self, path: tuple[int, ...], names: Sequence[bytes], exclude: bool) -> bytes:
        """HEADER.FIELDS or, with *exclude*, HEADER.FIELDS.NOT, octet for octet, with the blank line if there is one.

        Args:
            path: Empty, or of a message/rfc822 part; for any other the result is empty.
        """
        message = self._message(path)
        if message is None:
            return b""
        wanted = {name.lower() for name in names}
        data = self.data
        kept = [data[start:end] for name, start, end in message.lines() if (name in wanted) != exclude]
        kept.append(data[message.fields_end : message.header_end])
        return b"".join(kept)

    def _message(self, path: tuple[int, ...]) -> Part | None:
        """The message whose HEADER and TEXT a path names; None if it names something else."""
        if not path:
            return self.root
        part = self.part(path)
        return part.children[0] if part is not None and part.kind == MESSAGE else None

    def _missing_part(self, path: tuple[int, ...]) -> tuple[int, int] | None:
        """The part that BODYSTRUCTURE makes up for a multipart without any: it is empty."""
        if path[-1] != 1:
            return None
        parent = self.part(path[:-1])
        if parent is not None and parent.kind == MESSAGE:
            parent = parent.children[0]
        if parent is None or parent.kind != MULTIPART or parent.children:
            return None
        return parent.body_end, parent.body_end


def _child(numbered: Part, number: int, *, is_message: bool) -> Part | None:
    """Part *number* of a multipart or message; a message that is no multipart is its own part 1."""
    if numbered.kind == MULTIPART:
        return numbered.children[number - 1] if 1 <= number <= len(numbered.children) else None
    return numbered if is_message and number == 1 else None


def parse(data: bytes) -> Message:
    """Scan a message; never raises, whatever the octets are."""
    return Message(data)
