"""The control socket: one JSON object per line in each direction, on a UNIX socket that only its owner reaches.

A request is `{"verb": "status"}`, an answer what the verb gives or `{"error": "one line"}`. A verb may answer later (a
reload is done when the new generation is ready); the connection waits. A socket's path has 107 octets, so both sides
reach it through a descriptor of its directory, however long that path is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import orjson
from msgspec import Struct

from sora import log
from sora.errors import SoraError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from sora.server.reactor import Reactor

    Answer = Callable[[Mapping[str, Any]], None]
    Verb = Callable[[Mapping[str, Any], Answer], None]

_logger = log.get(__name__)

REST_S: Final = 1.0
SOCKET: Final = "control.sock"
LONGEST_REQUEST: Final = 65536
SEND_TIMEOUT_S: Final = 2.0


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """`path` by way of a descriptor of its directory: short enough for any socket call."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class ClientState(Struct, frozen=True):
    """One connection for a successor.

    Attributes:
        waiting: Requests whose answer the successor gives.
        begun: What came of the next request.
    """

    socket: int
    waiting: int
    begun: bytes


class ControlState(Struct, frozen=True):
    """The control socket for a successor.

    Attributes:
        socket: The listening one.
        clients: All of them: one that connected a moment ago has yet to ask.
    """

    socket: int
    clients: list[ClientState]

    def descriptors(self) -> tuple[int, ...]:
        """Those that the successor must inherit."""
        return (self.socket, *(client.socket for client in self.clients))


class ControlServer:
    """The supervisor's end.

    Args:
        path: Replaced if it is there; whoever calls holds the lock of the directory.
        verbs: By name. A verb gets the request and a function to answer with, once, now or later.
        handed: Go on with these sockets instead.
    """

    def __init__(
        self, path: Path, reactor: Reactor, verbs: Mapping[str, Verb], handed: ControlState | None = None
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._verbs = verbs
        self._clients: set[_Client] = set()
        self._socket = _open(path) if handed is None else socket.socket(fileno=handed.socket)
        self._socket.setblocking(False)
        reactor.watch(self._socket, self._accept)
        for client in handed.clients if handed is not None else ():
            self._meet(socket.socket(fileno=client.socket), client.waiting, client.begun)

    def hand_over(self) -> ControlState:
        """For the program that this process is about to run."""
        return ControlState(self._socket.fileno(), [client.hand_over() for client in self._clients])

    def answer_waiting(self, answer: Mapping[str, Any]) -> None:
        """Answer every client that still waits, whatever it asked."""
        for client in tuple(self._clients):
            while client.waiting:
                client.answer(answer)

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptors, no memory: whoever asks can wait, the mail must go on
            _logger.warning("control connection not accepted", extra={"detail": str(error)})
            self._reactor.unwatch(self._socket)
            self._reactor.after(REST_S, self._watch_again)
            return
        if not _may_control(sock):
            sock.close()
            return
        self._meet(sock)

    def _watch_again(self) -> None:
        if self._socket.fileno() >= 0:
            self._reactor.watch(self._socket, self._accept)

    def _meet(self, sock: socket.socket, waiting: int = 0, begun: bytes = b"") -> None:
        sock.setblocking(False)
        client = _Client(sock, self._request, self._gone, waiting, begun)
        self._clients.add(client)
        self._reactor.watch(sock, client.readable)

    def _request(self, client: _Client, line: bytes) -> None:
        client.waiting += 1
        try:
            request = orjson.loads(line)
            verb = self._verbs[request["verb"]]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            client.answer({"error": f"a request is an object with a verb of: {', '.join(self._verbs)}"})
            return
        try:
            verb(request, client.answer)
        except SoraError as error:
            client.answer({"error": str(error)})

    def _gone(self, client: _Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._reactor.unwatch(client.socket)
            client.socket.close()

    def close(self, *, unlink: bool = True) -> None:
        """Hang up on everybody; a forked child closes without removing the name."""
        for client in tuple(self._clients):
            client.socket.close()
        self._clients.clear()
        self._socket.close()
        if unlink:
            self._path.unlink(missing_ok=True)


class _Client:
    """One connection of `soractl`.

    Attributes:
        waiting: Requests without an answer.
    """

    def __init__(
        self,
        sock: socket.socket,
        request: Callable[[_Client, bytes], None],
        gone: Callable[[_Client], None],
        waiting: int,
        begun: bytes,
    ) -> None:
        self.socket = sock
        self.waiting = waiting
        self._request = request
        self._gone = gone
        self._buffer = begun

    def hand_over(self) -> ClientState:
        """For the program that this process is about to run."""
        return ClientState(self.socket.fileno(), self.waiting, self._buffer)

    def readable(self) -> None:
        """Take what came and pass whole lines on."""
        try:
            data = self.socket.recv(LONGEST_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        if not data or len(self._buffer) > LONGEST_REQUEST:
            self._gone(self)
            return
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._request(self, line)

    def answer(self, answer: Mapping[str, Any]) -> None:
        """Send the answer; a client that does not read is dropped, one that hung up is no error."""
        self.waiting -= 1
        try:
            # An answer is far smaller than the socket's buffer: this blocks for a client that asks and never reads.
            self.socket.settimeout(SEND_TIMEOUT_S)
            self.socket.sendall(orjson.dumps(answer) + b"\n")
            self.socket.setblocking(False)
        except OSError as error:
            _logger.debug("control client gone", extra={"detail": str(error)})
            self._gone(self)


def _open(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with short_path(path) as name:
        sock.bind(name)
    path.chmod(0o600)
    sock.listen(16)
    return sock


def _may_control(sock: socket.socket) -> bool:
    """True for our own user and root, whatever the mode of the file became."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid in (0, os.geteuid())


def call(path: Path, verb: str, *, timeout_s: float | None = 10.0, **request: Any) -> dict[str, Any]:
    """Ask the supervisor, and wait for its answer.

    Raises:
        Unavailable: Nobody listens, or no answer came.
    """
    try:
        with short_path(path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(name)
            sock.sendall(orjson.dumps({"verb": verb, **request}) + b"\n")
            line = sock.makefile("rb").readline()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise Unavailable("Sora is not running", detail=str(path)) from error
    except OSError as error:
        raise Unavailable("Sora does not answer", detail=str(error)) from error
    if not line.endswith(b"\n"):
        raise Unavailable("Sora hung up without an answer", detail=str(path))
    answer: dict[str, Any] = orjson.loads(line)
    return answer
