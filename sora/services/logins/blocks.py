"""Blocks after failed logins hold on all nodes.

A login looks only into the memory of its node (`Failures`), and so costs no round trip. Here is what keeps that memory
the same everywhere: a block that begins is written to PostgreSQL by a task of its own, and the others read it when they
are notified, or `REFRESH_S` later if the notice is lost. A block that an administrator lifts travels the same way.

While PostgreSQL is away each node blocks for itself, and tells the others afterwards.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sora import log
from sora.errors import Unavailable
from sora.services.logins.failures import key_of
from sora.store.blocks import NewBlock

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.services.logins.failures import Failures
    from sora.store.blocks import AuthBlocks, BlockNews, Scope

REFRESH_S: Final = 10.0
MAX_UNTOLD: Final = 1000
"""Blocks that wait for PostgreSQL; what comes on top holds on this node alone."""

_log = log.get(__name__)


class SharedBlocks:
    """Tells the other nodes of blocks that begin here, and this node of theirs.

    Args:
        rows: Where all nodes look.
        failures: The memory of this node.
        refresh_s: How often the rows are looked at without a notice.
        clock: Monotonic seconds, those of `failures`.
    """

    def __init__(
        self,
        rows: AuthBlocks,
        failures: Failures,
        *,
        refresh_s: float = REFRESH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = rows
        self._failures = failures
        self._refresh_s = refresh_s
        self._clock = clock
        self._untold: dict[tuple[Scope, str, str], float] = {}
        self._seen = 0
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell and to read; PostgreSQL may be away."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop; a second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def begin(self, scope: Scope, site: str, login: str, block_s: float) -> None:
        """A block has begun on this node."""
        if len(self._untold) < MAX_UNTOLD:
            self._untold[scope, site, login] = self._clock() + block_s
            self._due.set()

    def wake(self, _payload: str = "") -> None:
        """There may be something new."""
        self._due.set()

    async def refresh(self) -> None:
        """Tell what is untold, and read what is new.

        Raises:
            Unavailable: PostgreSQL is away; what is untold stays so.
        """
        await self._tell()
        while news := await self._rows.read_news(self._seen):
            for item in news:
                self._take(item)
            self._seen = news[-1].seq

    # ------------------------------------------------------------------ inside

    async def _run(self) -> None:
        away = False
        while True:
            self._due.clear()
            try:
                await self.refresh()
                away = False
            except Unavailable as error:
                if not away:
                    _log.warning("blocks hold on this node alone", extra={"detail": str(error)})
                away = True
            except Exception:
                # A bug with one block must not end what keeps the nodes together until they are started again.
                _log.exception("blocks not shared")
                away = True
            await self._pause(away)

    async def _pause(self, away: bool) -> None:
        """Until something is due; what is untold because PostgreSQL is away waits its turn."""
        seconds = self._refresh_s * random.uniform(0.75, 1.25)
        if away:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._due.wait()
        except TimeoutError:
            return

    async def _tell(self) -> None:
        now = self._clock()
        untold, self._untold = self._untold, {}
        lasting = {key: until for key, until in untold.items() if until > now}
        if not lasting:
            return
        try:
            await self._rows.begin([NewBlock(*key, timedelta(seconds=until - now)) for key, until in lasting.items()])
        except Unavailable:
            self._untold = {**lasting, **self._untold}
            raise

    def _take(self, news: BlockNews) -> None:
        key = key_of(news.site, news.login if news.scope == "account" else None)
        if news.lifted:
            self._failures.clear(key)
        else:
            self._failures.block(key, self._clock(), news.left_s)
