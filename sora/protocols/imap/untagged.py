"""In which words a session is told of a change: they depend on what its client has enabled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.protocols.imap.modes import is_rev2
from sora.wire.imap_responses import vanished_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from sora._native.viewcols import Diff

TELLS_UIDS: Final = frozenset({"QRESYNC", "UIDONLY"})
"""Who enabled one of these is told UIDs of what went, and never sees EXPUNGE (RFC 7162 §3.2.10, RFC 9586 §3.1)."""


def write_count(write: Callable[[bytes], None], count: int, recent: int, enabled: AbstractSet[str]) -> None:
    """EXISTS and, for IMAP4rev1, RECENT."""
    write(b"* %d EXISTS\r\n" % count if is_rev2(enabled) else b"* %d EXISTS\r\n* %d RECENT\r\n" % (count, recent))


def write_expunges(write: Callable[[bytes], None], diff: Diff, enabled: AbstractSet[str]) -> None:
    """EXPUNGE or VANISHED, for whatever reason messages went."""
    if TELLS_UIDS.isdisjoint(enabled):
        for seq in diff.expunged_seqs:
            write(b"* %d EXPUNGE\r\n" % seq)
    elif diff.vanished:
        write(vanished_line(diff.vanished))
