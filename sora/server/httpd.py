"""The http process: metrics and health, and what other nodes ask for."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sora.errors import DatabaseReadOnly, Unavailable
from sora.server import child as children
from sora.services.node import open_database, own_instance_id

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from litestar import Litestar

    from sora.server.child import Child, Process
    from sora.store.db import Database

PROBE_S: Final = 2.0
GRACEFUL_S: Final = 5
KEEP_ALIVE_S: Final = 60
"""Other nodes ask on connections that they keep."""


def run(child: Child) -> int:
    """Be the http process."""
    return children.run(child, _main)


async def _main(process: Process) -> None:
    # Imported after the fork: no other process needs these tens of megabytes.
    from sora.services.peers import Desk
    from sora.web.health import build_app
    from sora.web.peers import build_peer_app

    child = process.child
    config = child.config
    database = await open_database(config, child.dsn, "sora http")
    process.on_live = lambda config: database.set_read_only(wanted=config.database.read_only)

    async def readiness() -> dict[str, str]:
        return {"postgresql": await _probe(database), "node": _node_state(process)}

    desk = Desk(database, Path(config.uploader.staging_path), own_instance_id(config))
    apps = {"metrics": build_app(readiness), "peers": build_peer_app(desk)}
    starting = {name for name in apps if child.listeners.of_http(name)}

    def started(name: str) -> None:
        starting.discard(name)
        if not starting:
            process.ready()

    try:
        async with asyncio.TaskGroup() as group:
            servers = [_server(apps[name], partial(started, name)) for name in sorted(starting)]
            for name, server in zip(sorted(starting), servers, strict=True):
                group.create_task(server.serve([sock.dup() for sock in child.listeners.of_http(name)]))
            await process.stopping.wait()
            for server in servers:
                server.should_exit = True
    finally:
        await database.close()


def _node_state(process: Process) -> str:
    if process.stopping.is_set():
        return "draining"
    return "fenced" if process.child.node_row.get("fenced") else "ok"


async def _probe(database: Database) -> str:
    try:
        await asyncio.wait_for(database.ping(), PROBE_S)
    except DatabaseReadOnly:
        return "read-only"
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
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )
