"""Rows that were read lately: a client that shows messages one by one asks for one row after the other.

Rows are kept by windows of neighbouring UIDs. The first miss in a window reads what was asked for; the second reads the
whole window, because a client that came twice comes again. What is kept of a message never changes, so nothing has to
be told of changes; a row that was purged meanwhile is forgotten with its window, after `KEPT_S`.

The octets that are kept are counted: a sender chooses how long the header of a message is and how many parts it has.
"""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sora._native.seqset import UidSet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sora.store.messages import Messages
    from sora.types import AccountId, MailboxId

WINDOW_UIDS: Final = 64
FEW: Final = 16
"""Requests for more messages than this are no browsing, and go to the database."""
WINDOWS: Final = 64
KEPT_BYTES: Final = 4 * 1024**2
"""Octets of all rows: 1,000 bytes of envelope and structure for each, as a message of two or three parts has them."""
KEPT_S: Final = 30.0

Row: TypeAlias = "Mapping[str, Any]"
_Key: TypeAlias = "tuple[MailboxId, tuple[str, ...], int]"


class _Window:
    """Rows of one window by UID."""

    __slots__ = ("read_mono", "rows", "size")

    def __init__(self, now: float) -> None:
        self.read_mono = now
        self.rows: dict[int, Row] = {}
        self.size = 0

    def add(self, row: Row) -> int:
        """Keep a row; returns by how many octets the window has grown."""
        earlier = self.rows.get(row["uid"])
        grown = _size(row) - (_size(earlier) if earlier is not None else 0)
        self.rows[row["uid"]] = row
        self.size += grown
        return grown


def _size(row: Row) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, bytes | str))


class RecentRows:
    """The rows of a worker.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, messages: Messages, *, clock: Callable[[], float] = monotonic) -> None:
        self._messages = messages
        self._clock = clock
        self._windows: OrderedDict[_Key, _Window] = OrderedDict()
        self._size = 0

    async def get(
        self, account_id: AccountId, mailbox_id: MailboxId, uids: UidSet, columns: Sequence[str]
    ) -> list[Row] | None:
        """Rows of a few messages in the order of their UIDs, those that exist; None: too many to be kept."""
        if len(uids) > FEW:
            return None
        names = tuple(columns)
        found = [self._find((mailbox_id, names, uid // WINDOW_UIDS), uid) for uid in uids]
        rows = [row for row in found if row is not None]
        if len(rows) == len(uids):
            return rows
        wanted = self._widened(mailbox_id, names, uids)
        rows = []
        async for chunk in self._messages.rows(account_id, mailbox_id, wanted, names):
            rows += chunk
        self._keep(mailbox_id, names, rows)
        return [row for row in rows if row["uid"] in uids]

    def _find(self, key: _Key, uid: int) -> Row | None:
        window = self._windows.get(key)
        if window is None:
            return None
        if self._clock() - window.read_mono > KEPT_S:
            self._forget(key)
            return None
        return window.rows.get(uid)

    def _widened(self, mailbox_id: MailboxId, names: tuple[str, ...], uids: UidSet) -> UidSet:
        """What to read: whole windows where something was read before."""
        known = {number for uid in uids if (mailbox_id, names, number := uid // WINDOW_UIDS) in self._windows}
        ranges = [(max(1, number * WINDOW_UIDS), (number + 1) * WINDOW_UIDS - 1) for number in known]
        return uids | UidSet.from_ranges(ranges) if ranges else uids

    def _keep(self, mailbox_id: MailboxId, names: tuple[str, ...], rows: Sequence[Row]) -> None:
        now = self._clock()
        for row in rows:
            key = (mailbox_id, names, row["uid"] // WINDOW_UIDS)
            window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = _Window(now)
            self._size += window.add(row)
            self._windows.move_to_end(key)
        while len(self._windows) > WINDOWS or self._size > KEPT_BYTES:
            self._forget(next(iter(self._windows)))

    def _forget(self, key: _Key) -> None:
        self._size -= self._windows.pop(key).size
