"""Rows and bodies of a range of messages, each asked for a little before it is its turn."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from sora import log
from sora.errors import BlobDown
from sora.protocols.imap.progress import moved
from sora.store.blobs import BlobRef

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence

    from sora._native.seqset import UidSet
    from sora.protocols.imap.session import Session
    from sora.store.bodies import Bodies
    from sora.types import AccountId

_log = log.get(__name__)

AHEAD: Final = 4
"""Bodies on their way at a time: enough to hide the delay of an object store, few enough to be fair to others."""
AHEAD_BYTES: Final = 8 * 1024 * 1024
"""Octets on their way at a time; a larger body goes alone."""

BODY_COLUMNS: Final = ("content_id", "content_hash", "size")
"""What a row must have for its body to be found."""

Row: TypeAlias = "Mapping[str, Any]"
_Waiting: TypeAlias = "tuple[Row, asyncio.Task[bytes] | bytes]"


def chunks_of(s: Session, uids: UidSet, columns: Sequence[str]) -> aclosing[AsyncGenerator[list[Row], None]]:
    """Rows of the selected mailbox, some hundreds at a time; the next ones are on their way meanwhile."""
    return aclosing(_chunks_of(s, uids, columns))


async def _chunks_of(s: Session, uids: UidSet, columns: Sequence[str]) -> AsyncGenerator[list[Row], None]:
    view = s.view.view
    few = await s.server.rows.get(view.account_id, view.mailbox_id, uids, columns)
    if few is not None:
        if few:
            yield few
        return
    rows = s.node.store.messages.rows(view.account_id, view.mailbox_id, uids, columns)
    async with aclosing(cast("AsyncGenerator[list[Row], None]", rows)) as chunks:
        async for chunk in chunks:
            yield chunk
            moved(s, len(chunk))


class Ahead:
    """Fetches bodies a few ahead of their use, in the order of the rows.

    Attributes:
        failed: UIDs whose body could not be had.
    """

    def __init__(self, bodies: Bodies, account_id: AccountId) -> None:
        self.failed: list[int] = []
        self._bodies = bodies
        self._account_id = account_id

    @asynccontextmanager
    async def over(self, rows: Iterable[Row]) -> AsyncIterator[AsyncIterator[tuple[Row, bytes]]]:
        """Rows with their bodies; those whose body cannot be had are noted in `failed` instead.

        Args:
            rows: With `uid`, `content_id`, `content_hash` and `size`.
        """
        waiting: deque[_Waiting] = deque()
        try:
            yield self._each(iter(rows), waiting)
        finally:
            for _, body in waiting:
                if isinstance(body, asyncio.Task):
                    body.cancel()

    async def _each(self, rows: Iterator[Row], waiting: deque[_Waiting]) -> AsyncIterator[tuple[Row, bytes]]:
        while True:
            self._ask(rows, waiting)
            if not waiting:
                return
            row, coming = waiting[0]
            try:
                body = await coming if isinstance(coming, asyncio.Task) else coming
            except BlobDown as error:
                _log.warning("body unavailable", extra={"content_id": row["content_id"], "detail": str(error)})
                self.failed.append(row["uid"])
            else:
                yield row, body
            waiting.popleft()

    def _ask(self, rows: Iterator[Row], waiting: deque[_Waiting]) -> None:
        """Take what is at hand, start what fits."""
        loop = asyncio.get_running_loop()
        size = sum(row["size"] for row, _ in waiting)
        while len(waiting) < AHEAD and (not waiting or size < AHEAD_BYTES):
            if (row := next(rows, None)) is None:
                return
            size += row["size"]
            ref = BlobRef(self._account_id, row["content_id"], row["content_hash"], row["size"])
            body = row.get("header")  # asked for where it is all that is needed, and here unless it is very long
            if body is None:
                body = self._bodies.get_now(ref)
            waiting.append((row, loop.create_task(self._bodies.get(ref)) if body is None else body))
