"""Processes for tests of the supervisor: they need no database, and say who they are.

The worker accepts on the listeners of its slots and answers every line with its slot, generation and pid; it obeys
`die` (SIGKILL) and `hang` (stops its event loop), shows the live key `recipients`, and after `key` the value of any.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, cast

import orjson

from sora import config as configuration
from sora.errors import ConfigError
from sora.server import child as children

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora.server.child import Child, Process


class Echo(asyncio.Protocol):
    """One connection of a fake worker."""

    def __init__(self, process: Process, connections: set[Echo]) -> None:
        self.process = process
        self.child = process.child
        self.connections = connections
        connections.add(self)  # from the accept on: see `Acceptor`
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's derives from nothing
        self.transport.write(b"hello\n")

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        for line in data.splitlines():
            if line == b"die":
                os.kill(os.getpid(), signal.SIGKILL)
            if line == b"hang":
                time.sleep(600)
            if line.startswith(b"key "):
                value = configuration.get(self.process.config, line[4:].decode())
                self.transport.write(orjson.dumps(value) + b"\n")
            elif line == b"recipients":
                self.transport.write(b"%d\n" % self.process.config.limits.recipients)
            else:
                self.transport.write(b"%d %d %d\n" % (self.child.slot, self.child.generation, os.getpid()))

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)


def run(child: Child) -> int:
    """Be a fake process of any role."""
    return children.run(child, _worker if child.role == "worker" else _idle)


async def _idle(process: Process) -> None:
    process.ready()
    await process.stopping.wait()


async def _worker(process: Process) -> None:
    if process.child.config.auth.default_domain == "fails.example":
        raise ConfigError("this does not work")
    loop = asyncio.get_running_loop()
    connections: set[Echo] = set()
    servers: dict[int, asyncio.AbstractServer] = {}

    async def serve(slots: Sequence[int]) -> None:
        for slot in set(servers) - set(slots):
            servers.pop(slot).close()
        for slot in set(slots) - set(servers):
            for _, sock in process.child.listeners.of_slot(slot):
                servers[slot] = await loop.create_server(lambda: Echo(process, connections), sock=sock.dup())

    process.on_serve = serve
    process.on_beat = lambda: process.child.row.set("imap", len(connections))
    await serve([process.child.slot])
    process.ready()
    await process.stopping.wait()
    for server in servers.values():
        server.close()
    while connections and not process.ending.is_set():
        await asyncio.wait([asyncio.ensure_future(process.ending.wait())], timeout=0.05)
    for connection in tuple(connections):
        if connection.transport is not None:
            connection.transport.close()
