"""What every source of mail gives, whatever it is."""

from __future__ import annotations

import hashlib
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from sora.errors import Refused
from sora.formats.flags import Flags  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WINDOW: Final = 500
"""Messages that are looked at together."""
PIECE_BYTES: Final = 256 * 1024
"""Octets of a message that are read together."""
KEY_BYTES: Final = 16
GONE: Final = "gone"
"""Problem of a message that is not there any more: somebody has expunged it."""
CHANGED: Final = "it has changed while it was read: the next run brings it"


class FolderBroken(Refused):
    """A folder cannot be read, or no further; the others may be."""


class SourceFolder(Struct, frozen=True):
    """A folder.

    Attributes:
        key: As the source calls it.
        name: As a mailbox name.
        uidvalidity: 0: messages have no UIDs.
        uid_next: Above every UID that was given; 0: not known.
        messages: How many there are; an estimate.
        special_use: `\\Sent` …, if the source says so.
        by_uid: Messages are known by their UIDs alone: under another UIDVALIDITY none of them is.
    """

    key: bytes
    name: str
    uidvalidity: int = 0
    uid_next: int = 0
    messages: int = 0
    special_use: str | None = None
    by_uid: bool = False


class SourceMessage(Struct, frozen=True):
    """A message, without its octets.

    Attributes:
        key: Names it in its folder for ever, see `key_of`.
        uid: 0: it has none.
        size: Octets; an estimate.
        place: What the source finds it by.
    """

    key: bytes
    uid: int
    flags: Flags
    internal_date: datetime | None
    size: int
    place: bytes | int


class Piece(Struct, frozen=True):
    """Octets of a message, with CRLF; `problem`: why there are none, or no more.

    Attributes:
        number: Of the message, in the order in which they were asked for.
        last: The message is whole.
    """

    number: int
    octets: bytes
    last: bool = False
    problem: str = ""


class SourceScript(Struct, frozen=True):
    """A Sieve script."""

    name: str
    content: bytes
    active: bool


class Source(Protocol):
    """Where mail comes from. The methods block."""

    def folders(self) -> list[SourceFolder]:
        """All folders, INBOX first, parents before children."""

    def messages(self, folder: SourceFolder) -> Iterator[list[SourceMessage]]:
        """Messages in the order of their UIDs, at most `WINDOW` at a time."""

    def uid_next(self, folder: SourceFolder) -> int:
        """Above every UID that was given in the folder, when all its messages have been listed."""

    def pieces(self, folder: SourceFolder, messages: Sequence[SourceMessage]) -> Iterator[Piece]:
        """The octets of messages, one after the other, in the order given."""

    def subscriptions(self) -> list[str]:
        """Mailbox names that are subscribed to."""

    def scripts(self) -> list[SourceScript]:
        """Sieve scripts."""

    def problems(self) -> list[str]:
        """What cannot be read, and was passed over; told once."""

    def notes(self) -> list[str]:
        """What was left out on purpose; told once."""

    def close(self) -> None:
        """Let go of everything."""


class Told:
    """What is told of a source or a sink, once."""

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._notes: list[str] = []

    def problems(self) -> list[str]:
        """See `Source.problems`."""
        found, self._problems = self._problems, []
        return found

    def notes(self) -> list[str]:
        """See `Source.notes` and `Sink.notes`."""
        found, self._notes = self._notes, []
        return found


def key_of(*parts: bytes) -> bytes:
    """A digest that names a message."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=KEY_BYTES).digest()
