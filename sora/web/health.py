"""Metrics and health over HTTP: `/metrics`, `/livez`, `/readyz`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from litestar import Litestar, Response, get
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def build_app(readiness: Callable[[], Awaitable[dict[str, str]]]) -> Litestar:
    """The application of `servers.metrics`.

    Args:
        readiness: State by dependency; `ok` and `read-only` are good, anything else means that this node should get no
            traffic.
    """

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
        """This node can serve."""
        state = await readiness()
        good = set(state.values()) <= {"ok", "read-only"}  # elsewhere it is no better: the database is the same
        return Response({"status": "ok" if good else "unavailable", **state}, status_code=200 if good else 503)

    return Litestar(route_handlers=[show_metrics, live, ready], openapi_config=None, logging_config=None)


def collect() -> bytes:
    """The metrics of every process, added up."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
