r"""What a client has made of the session by ENABLE: IMAP4rev2 (RFC 9051) and UTF8=ACCEPT (RFC 9755).

A client that has enabled neither speaks IMAP4rev1: names of mailboxes are in modified UTF-7, quoted strings are ASCII,
SEARCH is answered by SEARCH, messages may be \Recent. Nothing of that changes for it because others have moved on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.errors import InvalidName
from sora.store.mailboxes import INBOX, canonical_name
from sora.types import MAX_UID
from sora.wire import imap_responses as responses

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from sora.protocols.imap.session import Session

REV2: Final = "IMAP4rev2"
UTF8: Final = "UTF8=ACCEPT"
SPEAKS_UTF8: Final = frozenset({REV2, UTF8})
HEARS_CLOSED: Final = frozenset({REV2, "QRESYNC"})
"""Who is told that SELECT has closed a mailbox (RFC 9051 §7.1, RFC 7162 §3.2.11)."""


def adapt(s: Session) -> None:
    """After ENABLE, and when a mailbox was selected; what follows is read and written in the new way."""
    s.scanner.utf8 = not SPEAKS_UTF8.isdisjoint(s.enabled)
    if REV2 in s.enabled and s.selection is not None:
        s.selection.recent_after = MAX_UID  # no message is \Recent (RFC 9051 appendix E, 12)


def is_rev2(enabled: AbstractSet[str]) -> bool:
    """The client has enabled IMAP4rev2."""
    return REV2 in enabled


def tell_closed(s: Session) -> None:
    """Whatever is said from here on is not about the mailbox that was selected."""
    if s.selection is not None and not HEARS_CLOSED.isdisjoint(s.enabled):
        s.write(b"* OK [CLOSED] The mailbox before is closed\r\n")


def tell_selected(s: Session, name: str) -> None:
    """RFC 9051 §6.3.2: SELECT and EXAMINE give the mailbox's name."""
    if is_rev2(s.enabled):
        canonical = canonical_name(name)
        s.write(responses.list_line((), canonical, old_name=_if_other(name, canonical), utf8=True))


def tell_renamed(s: Session, old: str, new: str) -> None:
    """RFC 9051 §6.3.9.7: the new name of a mailbox, with the old one; INBOX keeps its own (§6.3.6)."""
    if is_rev2(s.enabled) and canonical_name(old) != INBOX:
        s.write(responses.list_line((), canonical_name(new), old_name=canonical_name(old), utf8=True))


def tell_normalised(s: Session, name: str, attributes: Iterable[bytes] = ()) -> None:
    """RFC 9051 §6.3.9.7: the name by which a mailbox is known, where the client has called it otherwise."""
    if not is_rev2(s.enabled):
        return
    try:
        canonical = canonical_name(name)
    except InvalidName:
        return  # the command has said so
    if canonical != name:
        s.write(responses.list_line(attributes, canonical, old_name=name, utf8=True))


def _if_other(name: str, canonical: str) -> str | None:
    return None if name == canonical else name
