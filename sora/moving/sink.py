"""What every place that mail is written to takes."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, BinaryIO, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora._native.mimescan import Octets


class SinkFolder(Struct, frozen=True):
    """A mailbox.

    Attributes:
        keywords: Name by flag number, of those that are in use.
    """

    name: str
    uidvalidity: int
    uid_next: int
    keywords: dict[int, str]


class SinkMessage(Struct, frozen=True):
    """A message without its octets; `flags` are numbers."""

    uid: int
    flags: tuple[int, ...]
    internal_date: datetime
    size: int


class SinkScript(Struct, frozen=True):
    """A Sieve script."""

    name: str
    content: bytes
    active: bool


class Sink(Protocol):
    """Where mail goes. The methods block."""

    def begin(self, folder: SinkFolder) -> bool:
        """Begin a mailbox, or go on with it; False: it is done already."""

    def has(self, message: SinkMessage) -> bool:
        """The message is there already; its flags are as they should be afterwards."""

    def scratch(self) -> BinaryIO:
        """An empty file without a name, for a body that is large."""

    def put(self, message: SinkMessage, data: Octets | None) -> None:
        """Write the next message of the mailbox, UIDs ascend; None: it is there already."""

    def end(self) -> None:
        """All messages of the mailbox are there."""

    def finish(self, subscriptions: Sequence[str], scripts: Sequence[SinkScript]) -> None:
        """All mailboxes are there; what belongs to none of them."""

    def notes(self) -> list[str]:
        """What could not be written as it is; told once."""

    def close(self) -> None:
        """Let go of everything."""
