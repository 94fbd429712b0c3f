"""The http process: metrics and health."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from sora import log
from sora.errors import Unavailable
from sora.server import child as children
from sora.services.node import open_database

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from litestar import Litestar

    from sora.server.child import Child, Process
    from sora.store.db import Database

_logger = log.get(__name__)

PROBE_S: Final = 2.0
GRACEFUL_S: Final = 5


def run(child: Child) -> int:
    """Be the http process."""
    return children.run(child, _main)


async def _main(process: Process) -> None:
    child = process.child
    database = await open_database(child.config, child.dsn, "sora http")
    sockets = [sock.dup() for sock in child.listeners.of_http("metrics")]
    server = _server(build_app(process, database))
    server.on_started = process.ready
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets))
            await process.stopping.wait()
            server.should_exit = True
    finally:
        await database.close()


def build_app(process: Process, database: Database) -> Litestar:
    """The application of `servers.metrics`."""
    # Imported after the fork: no other process needs these tens of megabytes.
    from litestar import Litestar, Response, get
    from prometheus_client import CONTENT_TYPE_LATEST

    @get("/metrics")
    async def show_metrics() -> Response[bytes]:
        """All processes of this node, in the text format of Prometheus."""
        return Response(await asyncio.to_thread(collect), headers={"content-type": CONTENT_TYPE_LATEST})

    @get("/livez")
    async def live() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @get("/readyz")
    async def ready() -> Response[dict[str, str]]:
        """This node can serve: the database answers, and nobody told us to end."""
        state = {"postgresql": await _probe(database), "node": "draining" if process.stopping.is_set() else "ok"}
        good = set(state.values()) == {"ok"}
        return Response({"status": "ok" if good else "unavailable", **state}, status_code=200 if good else 503)

    return Litestar(route_handlers=[show_metrics, live, ready], openapi_config=None, logging_config=None, debug=False)


def collect() -> bytes:
    """The metrics of every process, added up."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


async def _probe(database: Database) -> str:
    try:
        await asyncio.wait_for(database.ping(), PROBE_S)
    except (Unavailable, TimeoutError):
        return "down"
    return "ok"


def _server(app: Litestar) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Signals are the child's business, not uvicorn's; and it says when it accepts."""

        on_started: Callable[[], None]

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.on_started()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

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
