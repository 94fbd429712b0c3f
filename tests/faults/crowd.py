"""A crowd of IMAP clients that check every reply and keep count of what became of them.

They share no code with the server: what is right is written here, in the octets of the protocol.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from tests.support.demo import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Semaphore

PATIENCE_S: Final = 20.0
"""Who has no answer after that is not answered."""
SHOWN: Final = 10
TLS_EVERY: Final = 4
"""One session of so many speaks TLS."""


class WrongReplyError(Exception):
    """An answer that the protocol does not allow here."""


FAULTS: Final = {
    ConnectionRefusedError: "refused",
    ConnectionError: "reset",
    ssl.SSLError: "reset",
    TimeoutError: "unanswered",
    EOFError: "unanswered",
    WrongReplyError: "wrong",
}
"""What a client meets, and what we call it; the first that fits."""


@dataclass
class Tally:
    """What became of sessions.

    Attributes:
        counts: By `served` and the names of faults.
        first: The first faults in detail.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count in what another process saw."""
        self.counts += other.counts
        self.first = (self.first + other.first)[:SHOWN]

    async def judge(self, session: Coroutine[None, None, None], good: str = "served") -> str:
        """Run a session and count it; gives what it was counted as."""
        try:
            await session
            name = good
        except tuple(FAULTS) as error:
            name = next(name for kind, name in FAULTS.items() if isinstance(error, kind))
            self.first = [*self.first, f"{name}: {error!r}"][:SHOWN]
        self.counts[name] += 1
        return name


class Client:
    """One connection, its greeting checked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, ports: Mapping[str, int], *, tls: bool) -> Self:
        """To the port for TLS, or to the other one."""
        context = ssl._create_unverified_context() if tls else None
        client = cls(*await asyncio.open_connection("127.0.0.1", ports["imaps" if tls else "imap"], ssl=context))
        try:
            if not (line := await client.line()).startswith(b"* OK "):
                raise WrongReplyError(f"{line!r} instead of a greeting")
        except BaseException:
            client.close()
            raise
        return client

    async def line(self) -> bytes:
        """The next line."""
        line = await self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(f"the connection ended after {line!r}")
        return line

    def send(self, line: bytes) -> None:
        """A line and its end."""
        self._writer.write(line + b"\r\n")

    async def ask(self, line: bytes, untagged: bytes = b"* ") -> None:
        """Send a command; it must end with OK, after untagged lines that begin so."""
        self.send(line)
        tag = line.split()[0] + b" "
        while not (answer := await self.line()).startswith(tag):
            if not answer.startswith(untagged):
                raise WrongReplyError(f"{answer!r} to {line!r}")
        if not answer.startswith(tag + b"OK "):
            raise WrongReplyError(f"{answer!r} to {line!r}")

    async def at_end(self) -> None:
        """The server closes, and says nothing more."""
        if rest := await self._reader.read():
            raise WrongReplyError(f"{rest!r} after the end")

    async def log_in(self, number: int, accounts: int) -> None:
        """As one of the accounts of a demo."""
        await self.ask(b"a LOGIN user%d@example.com %s" % (1 + number % accounts, PASSWORD.encode()))

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def visit(ports: Mapping[str, int], number: int, accounts: int) -> None:
    """Greeting, LOGIN, NOOP, LOGOUT, end of the connection.

    Raises:
        One of `FAULTS`.
    """
    async with asyncio.timeout(PATIENCE_S):
        client = await Client.connect(ports, tls=number % TLS_EVERY == 0)
        try:
            await client.log_in(number, accounts)
            await client.ask(b"b NOOP")
            await client.ask(b"c LOGOUT", b"* BYE ")
            await client.at_end()
        finally:
            client.close()


def visit_often(
    ports: Mapping[str, int],
    sessions: int,
    parallel: int,
    accounts: int,
    progress: Semaphore,
    tallies: SimpleQueue[Tally],
) -> None:
    """A process of the crowd: so many sessions, some at a time; `progress` is released after each."""
    tallies.put(asyncio.run(_visit_often(ports, sessions, parallel, accounts, progress)))


async def _visit_often(
    ports: Mapping[str, int], sessions: int, parallel: int, accounts: int, progress: Semaphore
) -> Tally:
    tally = Tally()
    numbers = iter(range(sessions))

    async def one_after_another() -> None:
        for number in numbers:
            await tally.judge(visit(ports, number, accounts))
            progress.release()

    await asyncio.gather(*(one_after_another() for _ in range(parallel)))
    return tally


class Idler:
    """A session in IDLE that stays until it is told to end, or says DONE itself.

    Attributes:
        said_goodbye_mono: When the server's BYE came.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.said_goodbye_mono: float | None = None

    @classmethod
    async def begin(cls, ports: Mapping[str, int], number: int, accounts: int) -> Self:
        """Log in, select INBOX, and IDLE; every second one under TLS."""
        async with asyncio.timeout(PATIENCE_S):
            client = await Client.connect(ports, tls=number % 2 == 0)
            await client.log_in(number, accounts)
            await client.ask(b"b SELECT INBOX")
            client.send(b"c IDLE")
            if not (line := await client.line()).startswith(b"+ "):
                raise WrongReplyError(f"{line!r} to IDLE")
        return cls(client)

    def done(self) -> None:
        """Say DONE: `stay` ends if the session is alive."""
        self._client.send(b"DONE")

    async def stay(self) -> None:
        """Until DONE is answered, or the server said goodbye and hung up.

        Raises:
            One of `FAULTS`: neither happened.
        """
        try:
            while not (line := await self._client.line()).startswith(b"c OK "):
                if line.startswith(b"* BYE "):
                    self.said_goodbye_mono = time.monotonic()
                elif not line.startswith(b"* "):
                    raise WrongReplyError(f"{line!r} in IDLE")
            if self.said_goodbye_mono is not None:
                await self._client.at_end()
        except EOFError:
            if self.said_goodbye_mono is None:
                raise
        finally:
            self._client.close()
