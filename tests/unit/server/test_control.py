"""The control socket, both ends."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from sora.errors import ConfigError, Unavailable
from sora.server import control
from sora.server.control import ClientState, ControlServer, ControlState, call, short_path
from sora.server.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Ask = Callable[..., dict[str, Any]]


class Supervisor:
    """Verbs to call, on a thread of their own."""

    def __init__(self, path: Path) -> None:
        self.reactor = Reactor()
        self.later: list[Any] = []
        self.running = True
        self.server = ControlServer(
            path,
            self.reactor,
            {
                "echo": lambda request, answer: answer(dict(request)),
                "fail": self.fail,
                "later": lambda request, answer: self.later.append(answer),
                "now": self.now,
            },
        )
        self.thread = threading.Thread(target=self.loop)
        self.thread.start()

    def fail(self, request: object, answer: object) -> None:
        raise ConfigError("the key is wrong")

    def now(self, request: object, answer: Any) -> None:
        for waiting in self.later:
            waiting({"answered": "late"})
        answer({})

    def loop(self) -> None:
        self.reactor.every(0.01, lambda: None)
        while self.running:
            self.reactor.step()

    def stop(self) -> None:
        self.running = False
        self.thread.join()
        self.server.close()
        self.reactor.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Longer than a socket's path may be."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    return deep / "control.sock"


@pytest.fixture
def supervisor(path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(path)
    yield supervisor
    supervisor.stop()
    assert not path.exists()


def test_a_verb_gets_the_request_and_answers(supervisor: Supervisor, path: Path) -> None:
    assert call(path, "echo", colour="blue") == {"verb": "echo", "colour": "blue"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_our_own_errors_become_answers(supervisor: Supervisor, path: Path) -> None:
    assert call(path, "fail") == {"error": "the key is wrong"}
    assert "echo, fail" in call(path, "nonsense")["error"]


def test_a_verb_may_answer_later(supervisor: Supervisor, path: Path) -> None:
    answers: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: answers.append(call(path, "later")))
    waiting.start()
    while not answers:
        call(path, "now")
        waiting.join(0.01)
    assert answers == [{"answered": "late"}]


@pytest.mark.parametrize("line", [b"[]", b"{", b'{"verb": ["echo"]}', b'"echo"'])
def test_nonsense_gets_an_answer_and_the_next_request_works(supervisor: Supervisor, path: Path, line: bytes) -> None:
    with short_path(path) as name, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(name)
        sock.sendall(line + b'\n{"verb": "echo"}\n')
        file = sock.makefile("rb")
        assert "error" in orjson.loads(file.readline())
        assert orjson.loads(file.readline()) == {"verb": "echo"}


def test_an_endless_line_is_cut_off(supervisor: Supervisor, path: Path) -> None:
    with short_path(path) as name, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(name)
        with pytest.raises(ConnectionError):
            sock.sendall(b"x" * 10_000_000)
    assert call(path, "echo") == {"verb": "echo"}


def test_a_client_that_hangs_up_before_the_answer_is_no_error(supervisor: Supervisor, path: Path) -> None:
    with short_path(path) as name, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(name)
        sock.sendall(b'{"verb": "later"}\n')
    while not supervisor.later:
        call(path, "echo")
    assert call(path, "now") == {}
    assert call(path, "echo") == {"verb": "echo"}


def test_strangers_are_sent_away(supervisor: Supervisor, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_may_control", lambda sock: False)
    with pytest.raises(Unavailable):
        call(path, "echo")


def test_who_may_control() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert control._may_control(ours)


def test_nobody_there(path: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not running"):
        call(path, "echo")
    with pytest.raises(Unavailable, match="not running"):
        call(tmp_path / "no" / "directory", "echo")
    with short_path(path) as name, socket.socket(socket.AF_UNIX) as dead:
        dead.bind(name)
    with pytest.raises(Unavailable, match="not running"):
        call(path, "echo")


def test_an_old_socket_file_is_replaced(path: Path) -> None:
    with short_path(path) as name, socket.socket(socket.AF_UNIX) as dead:
        dead.bind(name)
    supervisor = Supervisor(path)
    try:
        assert call(path, "echo") == {"verb": "echo"}
    finally:
        supervisor.stop()


def test_a_short_path_leaves_no_descriptor_open(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with short_path(path):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_successor_goes_on_with_every_connection(path: Path) -> None:
    """One has yet to ask, one is in the middle of its request, one waits for its answer."""
    reactor = Reactor()
    reactor.every(0.01, lambda: None)
    verbs = {"echo": lambda request, answer: answer(dict(request)), "later": lambda request, answer: None}
    first = ControlServer(path, reactor, verbs)
    silent, asking, waiting = (socket.socket(socket.AF_UNIX) for _ in range(3))
    with silent, asking, waiting, short_path(path) as name:
        for sock, said in ((silent, b""), (asking, b'{"verb": "echo", '), (waiting, b'{"verb": "later"}\n')):
            sock.settimeout(0.0)
            sock.connect(name)
            sock.sendall(said)
        while sorted((c.waiting, c.begun) for c in first.hand_over().clients) != [
            (0, b""), (0, b'{"verb": "echo", '), (1, b""),
        ]:  # fmt: skip
            reactor.step()
        state = first.hand_over()
        clients = [ClientState(os.dup(client.socket), client.waiting, client.begun) for client in state.clients]
        state = ControlState(os.dup(state.socket), clients)
        assert state.descriptors() == (state.socket, *(client.socket for client in clients))
        reactor.close()
        first.close(unlink=False)

        reactor = Reactor()
        second = ControlServer(path, reactor, verbs, state)
        second.answer_waiting({"done": 1})
        assert waiting.recv(99) == b'{"done":1}\n'
        for sock, said, answer in (
            (asking, b'"n": 2}\n', b'{"verb":"echo","n":2}\n'),
            (silent, b'{"verb": "echo"}\n', b'{"verb":"echo"}\n'),
        ):
            sock.sendall(said)
            reactor.step()
            assert sock.recv(99) == answer
        second.close()
        reactor.close()
