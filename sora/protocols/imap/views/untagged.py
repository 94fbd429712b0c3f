"""In which words a session is told of a change: they depend on what its client has enabled.

The invariant of modseqs: none is ever told that is above the one up to which the session has been told everything
(`Selection.told.highest_modseq`), because a client takes the greatest it has seen for the state it has. A change that
must be told earlier (a STORE of its own while an EXPUNGE is held back) is told with a lower modseq, and again later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora._native.seqset import UidSet
from sora._native.viewcols import NO_RECENT
from sora.protocols.imap.modes import is_rev2
from sora.wire.imap_responses import vanished_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from sora._native.viewcols import Diff, Snapshot

TELLS_UIDS: Final = frozenset({"QRESYNC", "UIDONLY"})
"""Who enabled one of these is told UIDs of what went, and never sees EXPUNGE (RFC 7162 §3.2.10, RFC 9586 §3.1)."""
RANGES_PER_LINE: Final = 500
"""Of VANISHED: lines stay below 8 KiB or so, although clients must take any length."""


def write_count(write: Callable[[bytes], None], count: int, recent: int, enabled: AbstractSet[str]) -> None:
    """EXISTS and, for IMAP4rev1, RECENT."""
    write(b"* %d EXISTS\r\n" % count if is_rev2(enabled) else b"* %d EXISTS\r\n* %d RECENT\r\n" % (count, recent))


def write_expunges(write: Callable[[bytes], None], diff: Diff, enabled: AbstractSet[str]) -> None:
    """EXPUNGE or VANISHED, for whatever reason messages went."""
    if TELLS_UIDS.isdisjoint(enabled):
        for seq in diff.expunged_seqs:
            write(b"* %d EXPUNGE\r\n" % seq)
    else:
        write_vanished(write, diff.vanished)


def write_vanished(write: Callable[[bytes], None], uids: UidSet, *, earlier: bool = False) -> None:
    """VANISHED (RFC 7162 §3.2.10); nothing if nothing went."""
    ranges = uids.ranges()
    for start in range(0, len(ranges), RANGES_PER_LINE):
        write(vanished_line(UidSet.from_ranges(ranges[start : start + RANGES_PER_LINE]), earlier=earlier))


def flag_lines(
    picture: Snapshot,
    uids: UidSet,
    names: Mapping[int, bytes],
    enabled: AbstractSet[str],
    *,
    recent_after: int = NO_RECENT,
    modseqs: bytes | None = None,
    with_uid: bool = False,
    with_flags: bool = True,
) -> Iterator[bytes]:
    """FETCH responses that nobody asked for, about messages of `picture`.

    With CONDSTORE they carry UID and MODSEQ (RFC 7162 §3.2.4), with IMAP4rev2 UID (RFC 9051 appendix E, 21); with
    UIDONLY they are UIDFETCH, whose number says it.

    Args:
        modseqs: One for each of `uids`.
    """
    uid_only = "UIDONLY" in enabled
    with_uid = with_uid or modseqs is not None or is_rev2(enabled)
    return picture.write_fetch_flags(
        uids, names, with_uid and not uid_only, recent_after,
        modseqs=modseqs, with_flags=with_flags, uid_only=uid_only,
    )  # fmt: skip
