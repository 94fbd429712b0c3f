r"""Plays written conversations against a server's session, without sockets.

A transcript is a text file:

    # RFC 6851 §3.3                          a comment
    given alice: INBOX=3 Archive=0           what exists before; the words are the protocol's own
    C: a SELECT INBOX                        the client sends this line and CRLF
    S* a OK                                  the server sends any lines, then one that begins so
    C: b MOVE 1:2 Archive
    S: * OK [COPYUID <uidvalidity Archive> 1:2 1:2]     exactly this line; <...> is asked of the world
    S: * 1 EXPUNGE
    S~ b OK .*                               one line that matches this regular expression as a whole
    C< raw \x00 octets\r\n                   octets with Python escapes, no CRLF added
    C! tls                                   the client begins TLS here, or with `deflate`: to compress
    S< raw \xff octets                       exactly this line, with the same escapes
    S^                                       the server closes the connection

`C2:`, `S2:` and so on are the same on a second connection. Lines that name no connection are the first one's.
Whatever the server sent must have been expected when the transcript ends.

Every transcript is played three times: consecutive client lines in one piece, line by line, and octet by octet.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import zlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

MODES: Final = ("whole", "line", "byte")
ANSWER_S: Final = 10.0
"""How long a missing answer is waited for; a right server never takes it."""

_STEP = re.compile(r"([CS])(\d*)([:*~<^!])(?: (.*))?")
_PLACEHOLDER = re.compile(r"<([a-z][a-z0-9_]*(?: [^<>]*)?)>")


class Step(Struct, frozen=True):
    """One line of a transcript.

    Attributes:
        line: Line number in the file.
        kind: `given`, `send`, `raw`, `switch`, `exact`, `octets`, `until`, `match` or `close`.
        link: Number of the connection.
        text: What stands behind the mark.
    """

    line: int
    kind: str
    link: int
    text: str


_KINDS: Final = {
    "C:": "send", "C<": "raw", "C!": "switch", "S:": "exact", "S*": "until", "S~": "match", "S^": "close",
    "S<": "octets",
}  # fmt: skip


def parse(text: str) -> list[Step]:
    """Steps of a transcript.

    Raises:
        ValueError: A line is none of the forms above.
    """
    steps = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("given "):
            steps.append(Step(number, "given", 1, line[6:]))
            continue
        match = _STEP.fullmatch(line)
        kind = _KINDS.get(match[1] + match[3]) if match else None
        if match is None or kind is None:
            raise ValueError(f"line {number}: not a transcript line: {line!r}")
        steps.append(Step(number, kind, int(match[2] or 1), match[4] or ""))
    return steps


class World(Protocol):
    """What a protocol's tests supply."""

    async def given(self, text: str) -> None:
        """Make true what a `given` line says."""

    async def connect(self, number: int) -> Link:
        """Open connection `number`, up to where transcripts begin."""

    async def value(self, name: str) -> str:
        """What stands for `<name>`."""


class Link:
    """The client's end of a session that has no socket.

    Args:
        protocol: The server's side, not connected yet.
        address: Where the client is.
    """

    def __init__(self, protocol: asyncio.Protocol, address: str = "127.0.0.1") -> None:
        self.protocol = protocol
        self.transport = MemoryTransport(self, address)
        self.output = bytearray()
        self.closed = False
        self._news = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()
        self._compress: Callable[[bytes], bytes] = bytes
        self._decompress: Callable[[bytes], bytes] = bytes
        protocol.connection_made(self.transport)

    async def send(self, data: bytes) -> None:
        """Hand octets to the server as one piece, once it reads."""
        await asyncio.wait_for(self._readable.wait(), ANSWER_S)
        if not self.closed:
            self.protocol.data_received(self._compress(data))
            await asyncio.sleep(0)  # the server looks at this piece before the next one comes

    async def read_line(self) -> bytes:
        """The next line of the server, without CRLF.

        Raises:
            AssertionError: It closed the connection or says nothing.
        """
        while b"\n" not in self.output:
            assert not self.closed, f"connection closed; unread: {bytes(self.output)!r}"
            await self._change()
        line, _, rest = bytes(self.output).partition(b"\n")
        self.output[:] = rest
        assert line.endswith(b"\r"), f"bare LF in {line!r}"
        return line[:-1]

    async def read_octets(self, count: int) -> bytes:
        """So many octets of the server: a literal."""
        while len(self.output) < count:
            assert not self.closed, f"connection closed; unread: {bytes(self.output)!r}"
            await self._change()
        data = bytes(self.output[:count])
        del self.output[:count]
        return data

    async def read_close(self) -> None:
        """Wait until the server has closed the connection."""
        while not self.closed:
            await self._change()

    async def switch(self, to: str) -> None:
        """Compress both ways from here on (RFC 4978); TLS needs a `SocketLink`."""
        assert to == "deflate", to
        deflate, inflate = zlib.compressobj(wbits=-15), zlib.decompressobj(-15)
        self._compress = lambda data: deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)
        self._decompress = inflate.decompress

    async def hang_up(self) -> None:
        """Cut the connection from the client's side and let the session end."""
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(None)

    def pause(self, paused: bool) -> None:
        """The server stops or resumes reading."""
        if paused:
            self._readable.clear()
        else:
            self._readable.set()

    def wrote(self, data: bytes) -> None:
        """The server sent something."""
        self.output += self._decompress(data)
        self._news.set()

    def server_closed(self) -> None:
        """The server ended the connection."""
        if not self.closed:
            self.closed = True
            self._news.set()
            self._readable.set()
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    async def _change(self) -> None:
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), ANSWER_S)
        except TimeoutError:
            raise AssertionError(f"no answer; unread: {bytes(self.output)!r}") from None


class SocketLink(Link):
    """The client's end of a session behind a real socket, which can shake hands for TLS.

    Args:
        protocol: The server's side, not connected yet.
        tls: TLS from the first octet.
    """

    def __init__(self, protocol: asyncio.Protocol, *, tls: ssl.SSLContext | None = None) -> None:
        self.protocol = protocol
        self.output = bytearray()
        self.closed = False
        self._news = asyncio.Event()
        self._server_tls = tls
        self._server: asyncio.Server | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self.protocol, "127.0.0.1", 0, ssl=self._server_tls)
        port = self._server.sockets[0].getsockname()[1]
        context = None if self._server_tls is None else _trusting()
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while data := await self._reader.read(65_536):
            self.wrote(data)
        self.closed = True
        self._news.set()

    def wrote(self, data: bytes) -> None:
        """The server sent something."""
        self.output += data
        self._news.set()

    async def send(self, data: bytes) -> None:
        """Hand octets to the server."""
        self._writer.write(data)
        await self._writer.drain()

    async def switch(self, to: str) -> None:
        """Shake hands."""
        assert to == "tls", to
        await self._stop_reading()
        await asyncio.wait_for(self._writer.start_tls(_trusting()), ANSWER_S)
        self._reading = asyncio.create_task(self._read())

    async def hang_up(self) -> None:
        """Cut the connection."""
        self.closed = True
        await self._stop_reading()
        self._writer.transport.abort()
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _stop_reading(self) -> None:
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.wait((self._reading,))


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class MemoryTransport(asyncio.Transport):
    """A transport whose far end is a `Link`."""

    def __init__(self, link: Link, address: str) -> None:
        super().__init__({"peername": (address, 54321)})
        self._link = link

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._link.wrote(bytes(data))

    def is_closing(self) -> bool:
        return self._link.closed

    def close(self) -> None:
        self._link.server_closed()

    def abort(self) -> None:
        self._link.server_closed()

    def pause_reading(self) -> None:
        self._link.pause(True)

    def resume_reading(self) -> None:
        self._link.pause(False)


class Player:
    """Plays one transcript in one mode."""

    def __init__(self, world: World, mode: str, name: str = "transcript") -> None:
        self._world = world
        self._mode = mode
        self._name = name
        self._links: dict[int, Link] = {}
        self._gathered = b""
        self._gathered_for = 0

    async def play(self, steps: list[Step]) -> None:
        """Play every step, then see that nothing more was said.

        Raises:
            AssertionError: The server said something else; the text names the line.
        """
        step = None
        try:
            for step in steps:
                await self._play(step)
            await self._send_gathered()
            for number, link in self._links.items():
                assert not link.output, f"connection {number}: unexpected {bytes(link.output)!r}"
        except AssertionError as e:
            where = f"{self._name}:{step.line if step else 0} ({self._mode})"
            raise AssertionError(f"{where}: {e}") from None
        finally:
            for link in self._links.values():
                await link.hang_up()

    async def _play(self, step: Step) -> None:
        if step.kind == "given":
            await self._world.given(step.text)
        elif step.kind in ("send", "raw"):
            await self._gather(step)
        else:
            await self._send_gathered()
            link = await self._link(step.link)
            await _STEPS[step.kind](self, link, step.text)

    async def _link(self, number: int) -> Link:
        if number not in self._links:
            self._links[number] = await self._world.connect(number)
        return self._links[number]

    async def _gather(self, step: Step) -> None:
        if step.link != self._gathered_for:
            await self._send_gathered()
        self._gathered_for = step.link
        text = await self._fill(step.text)
        data = _unescape(text) if step.kind == "raw" else text.encode() + b"\r\n"
        self._gathered += data
        if self._mode == "line":
            await self._send_gathered()

    async def _send_gathered(self) -> None:
        data, self._gathered = self._gathered, b""
        if not data:
            return
        link = await self._link(self._gathered_for)
        for piece in pieces(data, self._mode):
            await link.send(piece)

    async def _fill(self, text: str, escape: Callable[[str], str] = str) -> str:
        for match in reversed(list(_PLACEHOLDER.finditer(text))):
            value = await self._world.value(match[1])
            text = text[: match.start()] + escape(value) + text[match.end() :]
        return text

    async def _exact(self, link: Link, text: str) -> None:
        line = await link.read_line()
        expected = (await self._fill(text)).encode()  # of what is there once the server has spoken
        assert line == expected, f"expected {expected!r}, got {line!r}"

    async def _octets(self, link: Link, text: str) -> None:
        line = await link.read_line()
        expected = _unescape(await self._fill(text))
        assert line == expected, f"expected {expected!r}, got {line!r}"

    async def _until(self, link: Link, text: str) -> None:
        expected = (await self._fill(text)).encode()
        seen = []
        while True:
            try:
                line = await link.read_line()
            except AssertionError as e:
                raise AssertionError(f"expected {expected!r} after {seen!r}: {e}") from None
            if line.startswith(expected):
                return
            seen.append(line)

    async def _match(self, link: Link, text: str) -> None:
        line = await link.read_line()
        pattern = (await self._fill(text, re.escape)).encode()
        assert re.fullmatch(pattern, line), f"expected a match of {pattern!r}, got {line!r}"

    async def _close(self, link: Link, text: str) -> None:
        await link.read_close()

    async def _switch(self, link: Link, text: str) -> None:
        await link.switch(text)


_STEPS: Final[dict[str, Callable[[Player, Link, str], Awaitable[None]]]] = {
    "exact": Player._exact,
    "octets": Player._octets,
    "until": Player._until,
    "match": Player._match,
    "close": Player._close,
    "switch": Player._switch,
}


def pieces(data: bytes, mode: str) -> Iterator[bytes]:
    """The pieces in which a mode sends octets: `line` gets one line at a time already."""
    if mode != "byte":
        yield data
        return
    for i in range(len(data)):
        yield data[i : i + 1]


def _unescape(text: str) -> bytes:
    """Python's escapes; what is outside of Latin-1 goes as UTF-8."""
    return re.sub(
        rb"\\(x[0-9a-fA-F]{2}|[rnt0\\])",
        lambda m: (
            bytes([int(m[1][1:], 16)])
            if m[1][:1] == b"x"
            else {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}[m[1]]
        ),
        text.encode(),
    )


def parameters(folder: Path) -> list[Any]:
    """`(path, mode)` for every transcript of a folder, as parameters of a test."""
    import pytest

    return [
        pytest.param(path, mode, id=f"{path.stem}-{mode}") for path in sorted(folder.glob("*.txt")) for mode in MODES
    ]


async def play(path: Path, world: World, mode: str) -> None:
    """Play one file."""
    await Player(world, mode, path.name).play(parse(path.read_text(encoding="utf-8")))
