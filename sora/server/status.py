"""What `soractl status --json` shows, from what the supervisor knows of its processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sora.server.processes import Role, Running

FRESH_S: Final = 15.0
"""Numbers of a process that was silent for longer are not shown."""


def describe(
    state: str,
    supervisor: Mapping[str, Any],
    processes: Iterable[Running],
    roles: Sequence[Role],
    *,
    database_down: bool,
) -> dict[str, Any]:
    """The whole answer.

    Args:
        supervisor: Its own entry.
        processes: All of them, in any order.
        roles: In the order in which they are shown; processes of another role come last.
        database_down: An embedded PostgreSQL that does not run, whatever the uploader saw of it.
    """
    names = [role.name for role in roles]

    def order(running: Running) -> tuple[int, int, int]:
        role = running.slot.role.name
        return names.index(role) if role in names else len(names), running.slot.number, running.generation

    shown = sorted(processes, key=order)
    uploader = _fresh(shown, "uploader")
    return {
        "state": state,
        "supervisor": supervisor,
        "processes": [running.status(running.slot.restarts) for running in shown],
        "uploads": {
            "pending": uploader.row.get("uploads_pending") if uploader else None,
            "oldest_s": uploader.row.get("uploads_oldest_ms") / 1000 if uploader else None,
            **({"stranded": uploader.stranded} if uploader and uploader.stranded else {}),
        },
        "health": {
            "postgresql": "down" if database_down else _health(uploader, "postgresql"),
            "object_store": _health(uploader, "object_store"),
        },
    }


def _health(uploader: Running | None, dependency: str) -> str:
    return uploader.row.health(dependency) if uploader else "unknown"


def _fresh(processes: Iterable[Running], role: str) -> Running | None:
    """The process of a role, if its numbers can be believed."""
    now = time.monotonic()
    for running in processes:
        current = running is running.slot.current and running.ready
        if running.slot.role.name == role and current and running.silent_s(now) < FRESH_S:
            return running
    return None
