"""Mail at a set pace: clients that deliver and fetch on a schedule, and what each answer took.

The schedule does not wait for the answers of other clients, and each client is late at most by its own last answer: a
server that stalls shows it in the percentiles.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final, Self

from tests.support.demo import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

HOST: Final = "127.0.0.1"
BODY: Final = b"".join(b"line %02d of a message of ordinary size, with words\r\n" % number for number in range(70))
PATIENCE_S: Final = 30.0


class Line:
    """One connection that speaks lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect and read the greeting."""
        line = cls(*await asyncio.open_connection(HOST, port))
        await line.read()
        return line

    async def read(self) -> bytes:
        """One line; the peer must not hang up."""
        async with asyncio.timeout(PATIENCE_S):
            got = await self._reader.readline()
        if not got:
            raise ConnectionResetError("the server has closed the connection")
        return got

    async def read_exactly(self, count: int) -> None:
        """Octets of a literal."""
        async with asyncio.timeout(PATIENCE_S):
            await self._reader.readexactly(count)

    async def write(self, data: bytes) -> None:
        """Send."""
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


class Deliverer:
    """An MTA with one connection."""

    def __init__(self, line: Line, recipients: Sequence[str]) -> None:
        self._line = line
        self._recipients = recipients
        self._count = 0

    @classmethod
    async def open(cls, ports: Mapping[str, int], recipients: Sequence[str]) -> Self:
        """Connect and say hello."""
        line = await Line.open(ports["lmtp"])
        await line.write(b"LHLO bench\r\n")
        while (await line.read())[3:4] == b"-":
            pass
        return cls(line, recipients)

    async def __call__(self) -> None:
        """Deliver one message; its body is new."""
        self._count += 1
        recipient = random.choice(self._recipients).encode()
        token = b"%d.%d" % (id(self), self._count)
        message = b"From: a@example.org\r\nSubject: load %s\r\nMessage-ID: <%s@bench>\r\n\r\n" % (token, token) + BODY
        await self._line.write(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<%s>\r\nDATA\r\n" % recipient)
        for expected in (b"250", b"250", b"354"):
            await self._expect(expected)
        await self._line.write(message + b".\r\n")
        await self._expect(b"250")

    async def _expect(self, code: bytes) -> None:
        line = await self._line.read()
        if not line.startswith(code):
            raise AssertionError(line)

    def close(self) -> None:
        """Hang up."""
        self._line.close()


class Fetcher:
    """A mail client that has INBOX open."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._uids: list[bytes] = []

    @classmethod
    async def open(cls, ports: Mapping[str, int], user: str) -> Self:
        """Log in and select."""
        client = cls(await Line.open(ports["imap"]))
        await client._command(b'LOGIN "%s" "%s"' % (user.encode(), PASSWORD.encode()))
        await client._command(b"SELECT INBOX")
        for line in await client._command(b"UID SEARCH ALL"):
            if line.startswith(b"* SEARCH"):
                client._uids = line.split()[2:]
        return client

    async def __call__(self) -> None:
        """Fetch flags, envelope and body of five messages."""
        chosen = b",".join(random.sample(self._uids, min(5, len(self._uids))))
        lines = await self._command(b"UID FETCH %s (FLAGS ENVELOPE BODY.PEEK[])" % chosen)
        if sum(b"FETCH (" in line for line in lines) < min(5, len(self._uids)):
            raise AssertionError(lines)

    async def _command(self, text: bytes) -> list[bytes]:
        """Untagged lines of the answer, without the literals."""
        await self._line.write(b"t " + text + b"\r\n")
        lines = []
        while not (line := await self._line.read()).startswith(b"t "):
            lines.append(line)
            if line.endswith(b"}\r\n"):
                await self._line.read_exactly(int(line[line.rindex(b"{") + 1 : -3]))
        if not line.startswith(b"t OK"):
            raise AssertionError(line)
        return lines

    def close(self) -> None:
        """Hang up."""
        self._line.close()


async def on_schedule(act: Callable[[], Awaitable[None]], per_s: float, until: float) -> list[float]:
    """Act so many times a second until a moment of the monotonic clock; seconds that each took."""
    took: list[float] = []
    due = time.monotonic() + random.uniform(0, 1 / per_s)
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        began = time.perf_counter()
        await act()
        took.append(time.perf_counter() - began)
        due = max(due + random.uniform(0.5, 1.5) / per_s, time.monotonic())
    return took


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not pass, by rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
