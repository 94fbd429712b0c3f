"""The http process: metrics and health."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from sora.errors import Unavailable
from sora.server import child as children
from sora.services.node import open_database

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from litestar import Litestar

    from sora.server.child import Child, Process
    from sora.store.db import Database

PROBE_S: Final = 2.0
GRACEFUL_S: Final = 5


def run(child: Child) -> int:
    """Be the http process."""
    return children.run(child, _main)


async def _main(process: Process) -> None:
    # Imported after the fork: no other process needs these tens of megabytes.
    from sora.web.health import build_app

    child = process.child
    database = await open_database(child.config, child.dsn, "sora http")

    async def readiness() -> dict[str, str]:
        draining = process.stopping.is_set()
        return {"postgresql": await _probe(database), "node": "draining" if draining else "ok"}

    sockets = [sock.dup() for sock in child.listeners.of_http("metrics")]
    server = _server(build_app(readiness), process.ready)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets))
            await process.stopping.wait()
            server.should_exit = True
    finally:
        await database.close()


async def _probe(database: Database) -> str:
    try:
        await asyncio.wait_for(database.ping(), PROBE_S)
    except (Unavailable, TimeoutError):
        return "down"
    return "ok"


def _server(app: Litestar, on_started: Callable[[], None]) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Signals are the child's business, not uvicorn's; and it says when it accepts."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_started()

    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=GRACEFUL_S,
        )
    )
