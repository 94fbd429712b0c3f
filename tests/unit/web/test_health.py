"""Health over HTTP; `/metrics` over several processes is in `test_metricfiles`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sora.web.health import build_app


async def get(app: Any, path: str, method: str = "GET") -> tuple[int, bytes]:
    """One request straight through ASGI."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "headers": [], "scheme": "http", "root_path": "",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 10)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize(
    ("state", "status", "word"),
    [
        ({"postgresql": "ok", "node": "ok"}, 200, "ok"),
        ({"postgresql": "down", "node": "ok"}, 503, "unavailable"),
        ({"postgresql": "ok", "node": "draining"}, 503, "unavailable"),
    ],
)
async def test_ready_only_if_everything_is(state: dict[str, str], status: int, word: str) -> None:
    import json

    async def readiness() -> dict[str, str]:
        return state

    answer, body = await get(build_app(readiness), "/readyz")
    assert answer == status
    assert json.loads(body) == {"status": word, **state}


async def test_alive_whatever_the_dependencies_do() -> None:
    async def readiness() -> dict[str, str]:
        raise AssertionError("nobody asked")

    app = build_app(readiness)
    assert await get(app, "/livez") == (200, b'{"status":"ok"}')
    assert (await get(app, "/"))[0] == 404
    assert (await get(app, "/livez", "POST"))[0] == 405
