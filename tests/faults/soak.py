"""Many sessions on one mailbox of a running Sora: `python -m tests.faults.soak --seconds 600 --sessions 20 --seed S`.

Two workers; each session says something at a fixed rate, chosen by the seed: STORE, EXPUNGE, APPEND, COPY, MOVE, FETCH,
SEARCH, IDLE, and now and then its connection breaks and it comes back, with QRESYNC where it has that. Each keeps the
strict picture of `tests.views`. At checkpoints all are quiet, and each picture is compared with what a fresh session
gets for SELECT and FETCH 1:* (UID FLAGS MODSEQ). Differences and broken rules are counted; there may be none.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop
from msgspec import Struct

from tests.support.demo import PASSWORD, Demo
from tests.support.imap import plain
from tests.views import run as acts
from tests.views.client import Bye, Client, StreamCarrier
from tests.views.picture import Wrong

if TYPE_CHECKING:
    from collections.abc import Awaitable

ADDRESS: Final = "user1@example.com"
RATE: Final = 5.0
"""Commands of a session in a second."""
PHASE_S: Final = 5.0
"""Between two checkpoints."""
PATIENCE_S: Final = 5.0
"""How long a notice may take from one worker to the other before it counts as lost."""
LARGE: Final = 150
"""Messages at which nothing is added any more."""
MODES: Final = ((), ("CONDSTORE",), ("QRESYNC",), ("IMAP4rev2",), ("QRESYNC", "IMAP4rev2"))
OPTIONS: Final = (
    "limits.connections_per_account=1000",
    "limits.connections_per_address=1000",
    "limits.login_failures_per_account=0",
)
WEIGHTS: Final = {
    acts.fetch: 12, acts.read: 4, acts.store: 20, acts.expunge: 2, acts.copy: 8, acts.move: 2, acts.append: 16,
    acts.search: 6, acts.noop: 8, acts.idle: 12, acts.drop: 2,
}  # fmt: skip
ADDING: Final = frozenset({acts.copy, acts.append})


class Result(Struct):
    """What came of it.

    Attributes:
        differences: Pictures that were not what a fresh session sees.
        late: Those that became so by the second NOOP or a later one: the notice came from the other worker.
        broken: What broke a rule, or ended a session.
    """

    commands: int = 0
    checkpoints: int = 0
    compared: int = 0
    differences: int = 0
    late: int = 0
    reconnects: int = 0
    resynced: int = 0
    least: int = 0
    most: int = 0
    broken: list[str] = []

    @property
    def clean(self) -> bool:
        """Nothing was wrong."""
        return not self.differences and not self.broken


class Visitor(acts.Run):
    """One session: its client, and what it does next."""

    def __init__(self, soak: Soak, number: int) -> None:
        self.rnd = random.Random(f"{soak.seed} {number}")
        self.books = None
        self.client = Client(f"s{number}x", soak.no_carrier)
        self.clients = [self.client]
        self.modes = {}
        self._soak = soak
        self._number = number
        self._letters = number * 1_000_000

    def next_letter(self) -> bytes:
        """A message that is not like the others."""
        self._letters += 1
        return plain(self._letters)

    async def begin(self) -> None:
        """The first connection."""
        offered = await self._soak.offered()
        possible = [modes for modes in MODES if set(modes) <= offered]
        self.modes[self.client.name] = possible[self._number % len(possible)]
        await self._connect()

    async def _connect(self) -> None:
        await self.client.reconnect(await self._soak.carrier())
        await self._soak.log_in(self.client)
        if modes := self.modes[self.client.name]:
            await self.client.enable(*modes)
        resync = "QRESYNC" in self.client.picture.enabled and "INBOX" in self.client.cache
        self._soak.result.resynced += resync
        assert await self.client.select("INBOX", resync=resync)
        await self.client.learn()

    async def _reconnect(self, client: Client) -> None:
        """The connection breaks; what was true a moment ago is remembered where QRESYNC can use it."""
        if "QRESYNC" in client.picture.enabled and self.rnd.random() < 0.8:
            await client.noop()
            client.remember()
        self._soak.result.reconnects += 1
        await self._connect()

    async def work(self, seconds: float) -> None:
        """Say something at each tick of its clock; whoever is late loses ticks and no command comes in bursts."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        tick = loop.time() + self.rnd.random() / RATE
        while tick < end:
            await asyncio.sleep(max(0.0, tick - loop.time()))
            tick = max(tick + 1 / RATE, loop.time())
            await self._guarded(self._act())

    async def _act(self) -> None:
        self._soak.result.commands += 1
        client = self.client
        if client.idling:
            await client.done()
            return
        await client.learn()
        names, weights = zip(*WEIGHTS.items(), strict=True)
        (act,) = self.rnd.choices(names, weights)
        if act in ADDING and len(client.picture) >= LARGE:
            act = acts.expunge
        await act(self, client)

    async def quiet(self) -> None:
        """Say nothing more, and hear what is left."""
        await self._guarded(self._quiet())

    async def _quiet(self) -> None:
        if self.client.idling:
            await self.client.done()
        await self.client.noop()

    async def compare(self, fresh: Client) -> None:
        """Hold the picture against that of a fresh session."""
        await self._guarded(self._compare(fresh))

    async def _compare(self, fresh: Client) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        late = False
        while (wrong := self._difference(fresh)) and loop.time() < deadline:
            late = True
            await self.client.noop()
        result = self._soak.result
        result.compared += 1
        result.late += late and not wrong
        if wrong:
            result.differences += 1
            raise Wrong(wrong)

    def _difference(self, fresh: Client) -> str:
        mine, true = self.client.picture, fresh.picture
        if mine.state() != true.state():
            return f"the picture is\n  {mine.state()}\nand should be\n  {true.state()}"
        if "CONDSTORE" in mine.enabled:
            # Flags that went and came back before they were told are no news, though their modseq is another.
            both = zip(mine.messages, true.messages, strict=True)
            if wrong := [(m.uid, m.modseq, t.modseq) for m, t in both if m.modseq > t.modseq]:
                return f"MODSEQ of (UID, known, true): {wrong}"
        return ""

    async def _guarded(self, work: Awaitable[None]) -> None:
        """Count what goes wrong, and go on with a new connection."""
        try:
            await work
        except (AssertionError, Bye) as error:
            self._soak.result.broken.append(str(self._with_talk(self.client, str(error))))
            self.client.cache.clear()
            await self._connect()


class Soak:
    """The whole of it.

    Args:
        port: Of IMAP, on 127.0.0.1.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.seed = seed
        self.result = Result(broken=[])
        self._port = port
        self._offered: set[str] = set()

    @property
    def no_carrier(self) -> StreamCarrier:
        """Before the first connection."""
        return _Nowhere()

    async def carrier(self) -> StreamCarrier:
        """A new connection."""
        return StreamCarrier(*await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20))

    async def log_in(self, client: Client) -> None:
        """Greeting and LOGIN."""
        await client.greeted()
        answer = await client.ask(f"LOGIN {ADDRESS} {PASSWORD}".encode())
        assert answer.status == b"OK", answer

    async def offered(self) -> set[str]:
        """What a logged-in session is offered."""
        if not self._offered:
            async with asyncio.timeout(30):
                client = await self._fresh()
                self._offered = set((await client.ask(b"CAPABILITY")).untagged[0].decode().split())
                await client.ask(b"CREATE Two")
                await client.close()
        return self._offered

    async def _fresh(self) -> Client:
        client = Client("fresh", await self.carrier())
        await self.log_in(client)
        return client

    async def run(self, seconds: float, sessions: int) -> Result:
        """Phases of work, each with a checkpoint at its end."""
        visitors = [Visitor(self, number) for number in range(sessions)]
        for visitor in visitors:
            await visitor.begin()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.gather(*(visitor.work(min(PHASE_S, left)) for visitor in visitors))
            await asyncio.gather(*(visitor.quiet() for visitor in visitors))
            fresh = await self._fresh()
            await self._picture(fresh, "INBOX")
            await asyncio.gather(*(visitor.compare(fresh) for visitor in visitors))
            await self._empty(fresh, "Two")
            await fresh.close()
            self.result.checkpoints += 1
        for visitor in visitors:
            await visitor.client.close()
        return self.result

    async def _picture(self, fresh: Client, mailbox: str) -> None:
        assert await fresh.select(mailbox)
        if len(fresh.picture):
            modseq = b" MODSEQ" if "CONDSTORE" in self._offered else b""
            answer = await fresh.ask(b"FETCH 1:* (UID FLAGS%b)" % modseq)
            assert answer.status == b"OK", answer
        count = len(fresh.picture)
        self.result.least = min(self.result.least, count) if self.result.checkpoints else count
        self.result.most = max(self.result.most, count)

    async def _empty(self, fresh: Client, mailbox: str) -> None:
        """What was copied and moved there is in the way."""
        assert await fresh.select(mailbox)
        if len(fresh.picture):
            await fresh.ask(rb"STORE 1:* +FLAGS.SILENT (\Deleted)")
            await fresh.ask(b"CLOSE")


class _Nowhere(StreamCarrier):
    """No connection yet."""

    def __init__(self) -> None:
        pass

    async def close(self) -> None:
        """There is nothing to close."""


def main() -> int:
    """Exit code: 0 if there was no difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory, Demo(Path(directory) / "demo", *options()) as demo:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            soak = Soak(demo.ports["imap"], arguments.seed)
            result = runner.run(soak.run(arguments.seconds, arguments.sessions))
        log = (demo.directory / "run" / "sora.log").read_text(errors="replace")
    tracebacks = sum("traceback" in line.lower() for line in log.splitlines())
    for text, count in collections.Counter(result.broken).most_common(5):
        sys.stdout.write(f"{count} x {text}\n\n")
    sys.stdout.write(
        f"{arguments.sessions} sessions, seed {arguments.seed}, {arguments.seconds:.0f} s: {result.commands} commands, "
        f"{result.reconnects} reconnects ({result.resynced} with QRESYNC), {result.least} to {result.most} messages, "
        f"{result.checkpoints} checkpoints, {result.compared} pictures compared, {result.late} true by a later NOOP, "
        f"{result.differences} differences, {len(result.broken)} broken rules, {tracebacks} tracebacks\n"
    )
    return int(not result.clean or tracebacks > 0)


def options() -> list[str]:
    """Arguments of the demo."""
    return ["--accounts", "2", "--workers", "2", *(word for option in OPTIONS for word in ("--set", option))]


if __name__ == "__main__":
    sys.exit(main())
