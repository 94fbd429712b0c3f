"""How many messages one command works on (MESSAGELIMIT and SAVELIMIT, RFC 9738).

Of a larger set those with the highest UIDs are taken, and the answer names the lowest of them, so that the client knows
where to go on. What must be done as a whole (COPY, APPEND) is not done at all. EXPUNGE and CLOSE have no limit.

Inside one answer messages come in ascending order, as always.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from sora._native.seqset import UidSet
from sora.protocols.imap.replies import Coded, Reply

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session


class Cut(Struct, frozen=True):
    """What a command works on.

    Attributes:
        code: The response code if that is not all that was asked for, else empty.
    """

    uids: UidSet
    code: bytes = b""

    @property
    def reply(self) -> Reply | None:
        """The answer to a command that has done it."""
        return Reply(code=self.code) if self.code else None

    def tell(self, s: Session) -> None:
        """Say it before a tagged response that has a code of its own (§3.1)."""
        if self.code:
            s.write(b"* NO [%s] Not all messages were looked at\r\n" % self.code)


def cut(s: Session, uids: UidSet) -> Cut:
    """The messages with the highest UIDs, as many as one command may work on."""
    limit = s.limits.imap_messages
    if len(uids) <= limit:
        return Cut(uids)
    kept = highest(uids, limit)
    return Cut(kept, _code(limit, kept.first))


def require_few(s: Session, uids: UidSet) -> None:
    """Of a COPY.

    Raises:
        Coded: They are more than may be saved at a time.
    """
    limit = save_limit(s)
    if len(uids) > limit:
        raise too_many(limit, highest(uids, limit).first)


def save_limit(s: Session) -> int:
    """Messages of one COPY or APPEND."""
    return min(s.limits.imap_messages, s.limits.imap_saved_messages)


def highest(uids: UidSet, count: int) -> UidSet:
    """The last *count* of a set."""
    ranges: list[tuple[int, int]] = []
    for low, high in reversed(uids.ranges()):
        if not count:
            break
        low = max(low, high - count + 1)
        ranges.append((low, high))
        count -= high - low + 1
    return UidSet.from_ranges(reversed(ranges))


def too_many(limit: int, lowest: int | None = None) -> Coded:
    """The command would have to work on more messages than it may, and cannot be done by halves."""
    return Coded(_code(limit, lowest), f"One command may work on {limit} messages")


def _code(limit: int, lowest: int | None) -> bytes:
    return b"MESSAGELIMIT %d" % limit if lowest is None else b"MESSAGELIMIT %d %d" % (limit, lowest)
