"""UIDBATCHES (RFC 10022): ranges of UIDs that hold equally many messages each, the newest messages first.

The ranges lie side by side and the last one ends at UID 1, so that together they are the whole mailbox; their bounds
need not be messages. Everything is answered from the client's own picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.protocols.imap.replies import ClientBug, TooFew, TooMany
from sora.wire.imap_contexts import uidbatches_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora._native.viewcols import Snapshot
    from sora.protocols.imap.session import Session
    from sora.wire.imap_contexts import UidBatches

MAX_MESSAGES: Final = 1_000_000
"""Messages that the batches of one range may have together; at least 100,000 (RFC 10022)."""


async def uidbatches(s: Session, cmd: UidBatches) -> None:
    """RFC 10022 §3.1. `$` stays what it is.

    Raises:
        ClientBug: The range of batches is the wrong way round.
        TooFew: The batches are smaller than the server makes them.
        TooMany: The range asks for more messages than one command may.
    """
    first, last = cmd.batches or (1, None)
    if last is not None and last < first:
        raise ClientBug("The range of batches is the wrong way round")
    if cmd.size < s.limits.uid_batch:
        raise TooFew(f"A batch has at least {s.limits.uid_batch} messages")
    if last is not None and (last - first + 1) * cmd.size > MAX_MESSAGES:
        raise TooMany(f"The batches of a range have at most {MAX_MESSAGES} messages")
    s.write(uidbatches_line(s.tag, batches(s.view.told, cmd.size, first, last)))


def batches(told: Snapshot, size: int, first: int, last: int | None) -> Iterator[tuple[int, int]]:
    """The UIDs of batches *first* to *last*, high to low; those that do not exist are left out."""
    total = len(told)
    for number in range(first, min(last or total, -(-total // size)) + 1):
        above = total - (number - 1) * size
        below = above - size
        high = told.uid(above) if number == 1 else told.uid(above + 1) - 1
        yield high, told.uid(below + 1) if below > 0 else 1
