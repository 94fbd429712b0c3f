"""A proxy in front of a PostgreSQL on a UNIX socket, which loses answers and connections on command.

It takes the place of the server's socket while both run: the socket file is renamed, ours gets its name, and whoever
connects from then on goes through us; the end of the context undoes that. It reads the frames of the protocol (version
3), so it knows when the server has done what it was asked: an answer is lost after `ReadyForQuery` has come, which the
server sends when the transaction is committed, and before an octet of it was passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path

HEAD: Final = struct.Struct("!cI")
LENGTH: Final = struct.Struct("!I")
NO_TYPE: Final = b"\0"


@dataclass
class Loss:
    """Answers to lose.

    Attributes:
        statement: Searched in the text of statements.
        application: Searched in the `application_name` of the connection.
        left: So many times.
    """

    statement: re.Pattern[str]
    application: re.Pattern[str]
    left: int = 1


@dataclass
class _Session:
    """One connection.

    Attributes:
        statements: Text of prepared statements, by name.
        doomed: The answer that is on its way is to be lost.
    """

    application: str = ""
    statements: dict[bytes, str] = field(default_factory=dict)
    doomed: bool = False


class PostgresProxy:
    """Use it as a context manager around a time in which it stands in the way.

    Attributes:
        lost: Answers that were lost so far, by the statement's first words.
        refused: Connections that were cut or refused while the server was `gone`.
    """

    def __init__(self, socket: Path) -> None:
        self.lost: list[str] = []
        self.refused = 0
        self._path = socket
        self._real = socket.with_name(f"{socket.name}.real")
        self._loss: Loss | None = None
        self._is_gone = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pgproxy", daemon=True)
        self._clients: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._path.rename(self._real)
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def lose(self, statement: str, application: str = "", times: int = 1) -> None:
        """Lose the answer to the next statement that matches; it is carried out."""
        self._loss = Loss(re.compile(statement), re.compile(application), times)

    def vanish(self) -> None:
        """Cut every connection, and refuse new ones until `return_`."""
        self._is_gone = True
        self._call(self._cut())

    def return_(self) -> None:
        """Serve again."""
        self._is_gone = False

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._accepted, self._path)

    async def _leave(self) -> None:
        self._server.close()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the server has gone meanwhile, or has made itself another
            self._real.rename(self._path)
        await self._cut()

    async def _cut(self) -> None:
        clients = list(self._clients)
        self.refused += len(clients) * self._is_gone
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if self._is_gone:
                self.refused += 1
            else:
                await self._serve(reader, writer)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass  # one side ended, or `_cut` did: in either case the connection is over
        finally:
            self._clients.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._real)
        session = _Session()
        try:
            pumps = (
                asyncio.create_task(self._requests(session, reader, server_writer)),
                asyncio.create_task(self._answers(session, server_reader, writer)),
            )
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            server_writer.transport.abort()

    async def _requests(self, session: _Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, head, body = await _frame(reader, typed=False)  # on a UNIX socket nobody asks for TLS first
        words = body[4:].split(b"\0")
        session.application = dict(zip(words[::2], words[1::2], strict=False)).get(b"application_name", b"").decode()
        writer.write(head + body)
        while True:
            kind, head, body = await _frame(reader, typed=True)
            self._look(session, kind, body)
            writer.write(head + body)
            await writer.drain()

    def _look(self, session: _Session, kind: bytes, body: bytes) -> None:
        """Is this the statement whose answer shall be lost?"""
        text = None
        if kind == b"P":
            name, query, _ = body.split(b"\0", 2)
            session.statements[name] = query.decode()
        elif kind == b"B":
            _, name, _ = body.split(b"\0", 2)
            text = session.statements.get(name)
        elif kind == b"Q":
            text = body.rstrip(b"\0").decode()
        loss = self._loss
        if text is None or loss is None or not loss.left:
            return
        if loss.statement.search(text) and loss.application.search(session.application):
            loss.left -= 1
            session.doomed = True
            self.lost.append(" ".join(text.split())[:60])

    async def _answers(self, session: _Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            kind, head, body = await _frame(reader, typed=True)
            if session.doomed:
                if kind == b"Z":
                    return
                continue
            writer.write(head + body)
            await writer.drain()


async def _frame(reader: asyncio.StreamReader, *, typed: bool) -> tuple[bytes, bytes, bytes]:
    """Type, head as it came, and body of the next message."""
    head = await reader.readexactly(HEAD.size if typed else LENGTH.size)
    kind, length = HEAD.unpack(head) if typed else (NO_TYPE, LENGTH.unpack(head)[0])
    return kind, head, await reader.readexactly(length - LENGTH.size)
