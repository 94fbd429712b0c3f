"""From a delivery to EXISTS, with a thousand clients that wait: `python -m benchmarks.idle_latency [--write]`.

A server as a user runs it (`soractl demo`), or two of them on one database and one object store; clients in IDLE, in
NOTIFY of the selected mailbox, or in NOTIFY of mailboxes that are not selected, a part of them on one INBOX. Mail comes
by LMTP at a set pace. A latency is the time from the end of DATA to the client's EXISTS (or STATUS): commit, reply and
push are in it. With two nodes mail comes to the first, and those of the second are reported for themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop
from msgspec import Struct

from tests.support.demo import PASSWORD, Demo
from tests.support.postgres import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HOST: Final = "127.0.0.1"
RESULT: Final = Path(__file__).parent / "results" / "idle.md"
MODES: Final[Mapping[str, tuple[bytes, bytes]]] = {
    "IDLE": (b"INBOX", b"i IDLE"),
    "NOTIFY": (b"INBOX", b"i NOTIFY SET (SELECTED (MessageNew (UID) MessageExpunge FlagChange))"),
    "NOTIFY, another mailbox": (b"Archive", b"i NOTIFY SET (INBOXES (MessageNew MessageExpunge))"),
}
"""By name: what a client selects, and how it begins to wait."""
LETTER: Final = (
    b"Subject: bench %d of %d\r\nFrom: me@example.org\r\n\r\n" + b"A line of a message of ordinary size.\r\n" * 40
)
SETTLE_S: Final = 3.0
SHARED: Final = "user1@example.com"


class Scale(Struct, frozen=True):
    """How much of it.

    Attributes:
        shared: Clients on one INBOX; the others are two to an account.
        pace: Deliveries in a second, every fifth to the shared INBOX.
    """

    clients: int = 1000
    shared: int = 200
    pace: float = 10.0
    seconds: float = 60.0

    @property
    def accounts(self) -> int:
        """One that is shared, and the others'."""
        return 1 + (self.clients - self.shared + 1) // 2


class Waiter(asyncio.Protocol):
    """A client: logs in, selects, waits, and notes when it was told.

    Attributes:
        told: Times, in the order of what it was told.
    """

    def __init__(self, address: str, select: bytes, wait: bytes) -> None:
        login = b"l LOGIN %s %s" % (address.encode(), PASSWORD.encode())
        self._to_say = [login, b"s SELECT " + select, wait]
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.address = address
        self.told: list[float] = []
        self.waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio`."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer what is expected; EXISTS and STATUS count once the client waits."""
        now = time.perf_counter()
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            if self.waiting.done():
                if line.endswith(b" EXISTS") or line.startswith(b"* STATUS "):
                    self.told.append(now)
            elif line.startswith((b"* OK [CAPABILITY", b"l OK", b"s OK", b"i OK", b"+ ")):
                self._next()
            elif line[2:5] in (b"NO ", b"BAD") or line.startswith(b"* BYE"):
                self.waiting.set_exception(ConnectionError(f"{self.address}: {line!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio`."""
        if not self.waiting.done():
            self.waiting.set_exception(ConnectionError(f"{self.address}: the server has closed the connection"))

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        assert self._transport is not None
        if self._to_say:
            self._transport.write(self._to_say.pop(0) + b"\r\n")
        else:
            self.waiting.set_result(None)


class Delivered(Struct, frozen=True):
    """One delivery: to whom, when its DATA ended, when it was answered."""

    address: str
    sent: float
    replied: float


class Mail:
    """One LMTP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Mail:
        """Connect and say LHLO."""
        mail = cls(*await asyncio.open_connection(HOST, port))
        await mail._answer()
        await mail._say(b"LHLO bench")
        return mail

    async def deliver(self, address: str, number: int) -> Delivered:
        """One letter to one recipient."""
        await self._say(b"MAIL FROM:<me@example.org>")
        await self._say(b"RCPT TO:<%s>" % address.encode())
        await self._say(b"DATA")
        sent = time.perf_counter()
        await self._say(LETTER % (number, time.time_ns()) + b".")
        return Delivered(address, sent, time.perf_counter())

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def _say(self, line: bytes) -> None:
        self._writer.write(line + b"\r\n")
        await self._answer()

    async def _answer(self) -> None:
        while (line := await self._reader.readline())[3:4] == b"-":
            pass
        if line[:1] not in (b"2", b"3"):
            raise ConnectionError(f"LMTP: {line!r}")


async def wait_all(ports: Sequence[int], mode: str, scale: Scale) -> list[list[Waiter]]:
    """Clients that wait, by node; those of an account are dealt out to the nodes."""
    addresses = [SHARED] * scale.shared
    addresses += [f"user{2 + number // 2}@example.com" for number in range(scale.clients - scale.shared)]
    waiters: list[list[Waiter]] = [[] for _ in ports]
    some = asyncio.Semaphore(20)

    async def connect(node: int, address: str) -> None:
        async with some:
            make = lambda: Waiter(address, *MODES[mode])  # noqa: E731 (a factory)
            _, waiter = await asyncio.get_running_loop().create_connection(make, HOST, ports[node])
            waiters[node].append(waiter)
            await waiter.waiting

    await asyncio.gather(*(connect(number % len(ports), address) for number, address in enumerate(addresses)))
    return waiters


async def deliver_all(port: int, scale: Scale) -> list[Delivered]:
    """Mail at a set pace, whatever the answers take."""
    generator = random.Random(1)
    free = [await Mail.open(port) for _ in range(8)]
    everything: list[asyncio.Task[Delivered]] = []

    async def one(address: str, number: int) -> Delivered:
        mail = free.pop()
        try:
            return await mail.deliver(address, number)
        finally:
            free.append(mail)

    begun = time.perf_counter()
    for number in range(round(scale.pace * scale.seconds)):
        await asyncio.sleep(max(0.0, begun + number / scale.pace - time.perf_counter()))
        address = SHARED if number % 5 == 0 else f"user{generator.randint(2, scale.accounts)}@example.com"
        everything.append(asyncio.create_task(one(address, number)))
    done = await asyncio.gather(*everything)
    for mail in free:
        mail.close()
    return done


class Latencies(Struct, frozen=True):
    """Milliseconds, sorted: from the end of DATA, and from its answer; and what nobody was told."""

    values: list[float]
    after_reply: list[float]
    missing: int


def at(share: float, values: Sequence[float]) -> float:
    """A percentile of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def latencies(waiters: Iterable[Waiter], delivered: Sequence[Delivered], shared: bool) -> Latencies:
    """What the clients of the shared INBOX, or of all others, saw.

    A client is told of several messages by one EXISTS where they come close together: each delivery takes the first
    time at or after its own.
    """
    by_address: dict[str, list[Delivered]] = {}
    for one in delivered:
        by_address.setdefault(one.address, []).append(one)
    values, after_reply, missing = [], [], 0
    for waiter in waiters:
        if (waiter.address == SHARED) is not shared:
            continue
        for one in sorted(by_address.get(waiter.address, ()), key=lambda one: one.sent):
            told = next((moment for moment in waiter.told if moment >= one.sent), None)
            if told is None:
                missing += 1
            else:
                values.append((told - one.sent) * 1000)
                after_reply.append(max(0.0, told - one.replied) * 1000)
    return Latencies(sorted(values), sorted(after_reply), missing)


async def measure(ports: Sequence[int], lmtp: int, mode: str, scale: Scale) -> list[str]:
    """One run; rows of the table."""
    waiters = await wait_all(ports, mode, scale)
    await asyncio.sleep(SETTLE_S)
    load = os.getloadavg()[0]
    delivered = await deliver_all(lmtp, scale)
    await asyncio.sleep(SETTLE_S)
    replies = sorted((one.replied - one.sent) * 1000 for one in delivered)
    rows = []
    for node, there in enumerate(waiters):
        for shared in (False, True):
            seen = latencies(there, delivered, shared)
            where = "one node" if len(ports) == 1 else ("the node of the delivery", "the other node")[node]
            what = "one INBOX" if shared else "own INBOX"
            cells = [mode, where, f"{what}, {sum((w.address == SHARED) is shared for w in there)} clients"]
            cells += [f"{len(seen.values)}", *(f"{at(share, seen.values):.1f}" for share in (0.5, 0.9, 0.99))]
            cells += [f"{seen.values[-1] if seen.values else 0:.1f}", f"{seen.missing}"]
            cells += [f"{at(0.5, some):.1f} / {at(0.99, some):.1f}" for some in (seen.after_reply, replies)]
            cells.append(f"{load:.1f}")
            rows.append(f"| {' | '.join(cells)} |")
    for waiter in (waiter for there in waiters for waiter in there):
        waiter.close()
    return rows


def run(nodes: int, modes: Sequence[str], scale: Scale) -> list[str]:
    """Start the server or servers, and measure each mode."""
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sora-idle-")))
        settings = [f"limits.connections_per_account={scale.clients}", "limits.login_delay=0"]
        if nodes > 1:
            cluster = Cluster(folder / "postgres")
            cluster.start()
            stack.callback(cluster.stop)
            dsn = cluster.dsn(asyncio.run(cluster.create()))
            settings += ["database.embedded=", f"database.primary={dsn}", f"object_store.path={folder / 'objects'}"]
            (folder / "objects").mkdir()
        arguments = [word for setting in settings for word in ("--set", setting)]
        demos = [
            stack.enter_context(Demo(folder / f"node{number}", "--accounts", str(scale.accounts), *arguments))
            for number in range(nodes)
        ]
        ports = [demo.ports["imap"] for demo in demos]
        for mode in modes:
            rows += uvloop.run(measure(ports, demos[0].ports["lmtp"], mode, scale))
            print(*rows[-2 * nodes :], sep="\n", flush=True)
    return rows


def head(scale: Scale) -> str:
    """What the table begins with."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return f"""# From a delivery to EXISTS

`python -m benchmarks.idle_latency --write`, {now}, commit {commit.stdout.strip()}, {os.cpu_count()} CPUs,
{platform.system()} {platform.release()}; clients, servers and PostgreSQL share them.

{scale.clients} clients wait, {scale.shared} of them on one INBOX and two on each of the others; {scale.pace:g}
deliveries a second for {scale.seconds:g} s, every fifth to that one INBOX. Milliseconds from the end of DATA to
EXISTS (or STATUS) at the client; `after reply` from LMTP's answer on, and `reply` that answer itself, 50th and 99th
percentile. The bars: p50 20 ms and p99 100 ms on one node, p50 50 ms on two. `load` is the load average of the minute
before, with everything else that the machine does.

| clients in | where | which | told | p50 | p90 | p99 | max | missing | after reply | reply | load |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, choices=(1, 2), help="default: both")
    parser.add_argument("--mode", choices=tuple(MODES), help="default: all")
    parser.add_argument("--clients", type=int, default=Scale().clients)
    parser.add_argument("--shared", type=int, default=Scale().shared)
    parser.add_argument("--seconds", type=float, default=Scale().seconds)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    given = parser.parse_args()
    scale = Scale(clients=given.clients, shared=given.shared, seconds=given.seconds)
    rows = []
    for nodes in (given.nodes,) if given.nodes else (1, 2):
        rows += run(nodes, (given.mode,) if given.mode else tuple(MODES), scale)
    text = head(scale) + "\n".join(rows) + "\n"
    if given.write:
        RESULT.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
