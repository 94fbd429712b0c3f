"""What a run cannot know itself, and gives to whoever drives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable


class Pause(Struct, frozen=True):
    """A slice is used up, and the answer is not looked at; or there is work that may last too long for one.

    Attributes:
        work: Can be called in another thread, and lets this one run meanwhile; the answer is its result and the CPU
            seconds that it took (None: it is charged for as if it were the dearest of its kind).
    """

    work: Callable[[], Any] | None = None


class Ask(Struct, frozen=True):
    """Base of questions; each says what the answer is."""


class IncludeScript(Ask, frozen=True):
    """A script (RFC 6609 §3.2); the answer is a `Script`, or None if there is none."""

    name: str
    personal: bool


class ListContains(Ask, frozen=True):
    """Which of the values are in an external list (RFC 6134 §2.2); the answer is a set of them, None: no such list."""

    list: str
    values: tuple[str, ...]


class ListMembers(Ask, frozen=True):
    """The members of an external list (RFC 6134 §2.3); the answer is a sequence of addresses, None: no such list."""

    list: str


class ListExists(Ask, frozen=True):
    """Whether there is an external list of that name."""

    list: str


class MailboxesExist(Ask, frozen=True):
    """Whether all of these are mailboxes that mail can be filed into (RFC 5490 §3.1)."""

    names: tuple[str, ...]


class MailboxIdsExist(Ask, frozen=True):
    """Whether all of these are ids of such mailboxes (RFC 9042 §3)."""

    ids: tuple[str, ...]


class SpecialUsesExist(Ask, frozen=True):
    """Whether there is a mailbox for each of these uses, or one mailbox has all of them (RFC 8579 §3).

    Attributes:
        mailbox: None: any.
    """

    mailbox: str | None
    uses: tuple[str, ...]


class Metadata(Ask, frozen=True):
    """Value of an annotation (RFC 5464); None: there is none. An empty name of a mailbox means the server."""

    mailbox: str
    entry: str


class MetadataExists(Ask, frozen=True):
    """Whether there are all of these annotations."""

    mailbox: str
    entries: tuple[str, ...]


class IsDuplicate(Ask, frozen=True):
    """Whether an id is tracked (RFC 7352)."""

    handle: str
    unique_id: str


Request = Pause | Ask
