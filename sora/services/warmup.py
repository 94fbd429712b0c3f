"""Warm-up of the local cache: who logs in will read the newest messages, so they are brought near before he asks.

It never competes: one body at a time in a process, none while a reader waits for one, none that is on this node
already, at most once in a while for each account, and not more accounts at a time than a small queue holds. Whoever
does not fit in is not warmed; nobody waits for any of this, and what fails is fetched when it is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from sora import log, metrics
from sora.errors import Unavailable
from sora.store.blobs import BlobRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.store.bodies import Bodies
    from sora.store.db import Database
    from sora.types import AccountId

_logger = log.get(__name__)

AGAIN_S: Final = 600.0
"""An account is warmed at most so often: clients open several connections, and come back."""
QUEUE: Final = 64
REMEMBERED: Final = 10_000
_NEWEST: Final = """
    SELECT c.account_id, c.content_id, c.content_hash, c.size FROM (
      SELECT i.content_id, i.uid FROM messages i
      WHERE i.account_id = $1 AND i.mailbox_id = (
          SELECT mailbox_id FROM mailboxes WHERE account_id = $1 AND name = 'INBOX' AND deleted_at IS NULL)
        AND i.expunged_at IS NULL
      ORDER BY i.uid DESC LIMIT $2) m
    CROSS JOIN LATERAL (
      SELECT * FROM message_contents x WHERE x.account_id = $1 AND x.content_id = m.content_id OFFSET 0) c
    WHERE c.uploaded_at IS NOT NULL
    ORDER BY m.uid DESC
"""


class Warmup:
    """The warm-up of a process.

    Args:
        messages: So many of the newest in INBOX; 0: it is off.
        max_bytes: And at most so many octets, larger messages are left out.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        db: Database,
        bodies: Bodies,
        *,
        messages: int,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._bodies = bodies
        self._messages = messages if bodies.cache is not None else 0
        self._max_bytes = max_bytes
        self._clock = clock
        self._last: OrderedDict[AccountId, float] = OrderedDict()
        self._waiting: OrderedDict[AccountId, None] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def login(self, account_id: AccountId) -> None:
        """Somebody logged in; returns at once."""
        now = self._clock()
        if not self._messages or len(self._waiting) >= QUEUE:
            return
        if now - self._last.get(account_id, -AGAIN_S) < AGAIN_S:
            return
        self._last[account_id] = now
        self._last.move_to_end(account_id)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        self._waiting[account_id] = None
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def idle(self) -> None:
        """Return when nothing is under way."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def close(self) -> None:
        """Give up."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _work(self) -> None:
        try:
            while self._waiting:
                account_id, _ = self._waiting.popitem(last=False)
                try:
                    await self._warm(account_id)
                except Unavailable as error:
                    _logger.info("cache not warmed", extra={"account_id": account_id, "detail": str(error)})
                except Exception:
                    _logger.exception("cache not warmed", extra={"account_id": account_id})
        finally:
            self._task = None

    async def _warm(self, account_id: AccountId) -> None:
        left = self._max_bytes
        for row in await self._db.fetch(_NEWEST, account_id, self._messages):
            ref = BlobRef(**row)
            if ref.size > left:
                continue
            left -= ref.size
            if await self._bodies.warm(ref):
                metrics.cache_warmed.inc()
