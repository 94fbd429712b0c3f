"""What the http process says of its node."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from sora.server.httpd import _node_state
from sora.server.scoreboard import Scoreboard


def test_a_node_that_is_fenced_or_stops_should_get_no_traffic() -> None:
    row = Scoreboard(1).take()
    process: Any = SimpleNamespace(stopping=asyncio.Event(), child=SimpleNamespace(node_row=row))
    assert _node_state(process) == "ok"
    row.set("fenced", 1)
    assert _node_state(process) == "fenced"
    process.stopping.set()
    assert _node_state(process) == "draining"
