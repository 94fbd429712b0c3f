r"""What rights allow (RFC 4314 §4): which flags may be changed, and what is said of that.

\Seen belongs to each viewer of a shared mailbox, so the right s is none of the "shared flag rights" of §5.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.errors import NoPermission, NotFound
from sora.types import DELETED, SEEN, Rights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sora.protocols.imap.views.keywords import Keywords

RIGHT_OF: Final = {SEEN: Rights.SEEN, DELETED: Rights.DELETE_MESSAGES}
"""What it takes to change a flag; for those that are not here, w."""
ALL_FLAGS: Final = Rights.SEEN | Rights.WRITE | Rights.DELETE_MESSAGES
CHANGES: Final = Rights.INSERT | Rights.EXPUNGE | Rights.WRITE | Rights.DELETE_MESSAGES
"""Without any of them a mailbox is READ-ONLY (RFC 4314 §5.2)."""


def right_of(flag: int | None) -> Rights:
    """What it takes to change a flag; None: a keyword without a number."""
    return Rights.WRITE if flag is None else RIGHT_OF.get(flag, Rights.WRITE)


def allowed(rights: Rights, flags: Iterable[int]) -> tuple[int, ...]:
    """Those flags that may be changed."""
    return tuple(flag for flag in flags if rights & right_of(flag))


def allowed_names(rights: Rights, flags: Iterable[bytes], keywords: Keywords) -> tuple[bytes, ...]:
    """The same by name: before a keyword is registered that nobody may set."""
    return tuple(flag for flag in flags if rights & right_of(keywords.find(flag)))


def permanent_flags(rights: Rights, flags: Iterable[tuple[int, bytes]], *, read_only: bool) -> bytes:
    r"""The PERMANENTFLAGS line (RFC 9051 §7.1): none in EXAMINE, else what may be changed, and \* for new keywords.

    Args:
        flags: Numbers and names of FLAGS.
    """
    if read_only:
        return b"* OK [PERMANENTFLAGS ()] Read-only mailbox\r\n"
    names = [name for number, name in flags if rights & right_of(number)]
    names += [rb"\*"] if rights & Rights.WRITE else []
    return b"* OK [PERMANENTFLAGS (%s)] Flags permitted\r\n" % b" ".join(names)


def require(rights: Rights, needed: Rights) -> None:
    """Demand rights. Each command takes its own (RFC 4314 §4): a mailbox may be one to post to, and not be listed.

    Raises:
        NotFound: One is missing, and who may not even look must not learn that the mailbox exists (§6).
        NoPermission: One is missing.
    """
    if not needed & ~rights:
        return
    if not rights & Rights.LOOKUP:
        raise NotFound("No such mailbox")
    raise NoPermission


def require_selected(rights: Rights, needed: Rights) -> None:
    """Demand rights in the selected mailbox, of which the session knows that it exists.

    Raises:
        NoPermission: One is missing.
    """
    if needed & ~rights:
        raise NoPermission
