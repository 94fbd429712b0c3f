"""What a supervisor hands to its successor; whole upgrades are in the integration tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sora import config as configuration
from sora.errors import ConfigError
from sora.server import handover
from sora.server.control import ClientState, ControlState
from sora.server.handover import Handover
from sora.server.listeners import Endpoint, ListenersState
from sora.server.processes import ProcessState
from sora.server.shared import SharedState
from sora.services.logins.remembered import SharedMemory

CONFIG: dict[str, Any] = {
    "database": {"primary": "postgresql:///sora"},
    "object_store": {"path": "objects"},
    "local_cache": {"capacity": 0},
    "uploader": {"staging_path": "staging"},
    "process": {"runtime_path": "run", "linger": "5s"},
    "limits": {"exempt_networks": ["192.0.2.0/24"]},
    "servers": {"imap": {"listen": ["127.0.0.1:143"]}},
}


def config() -> configuration.Config:
    return configuration.parse(CONFIG, base=Path("/srv"))


def state(first: int = 100, **changes: Any) -> Handover:
    """With descriptors from `first` on, each another one."""
    fds = iter(range(first, first + 100))
    whole = Handover(
        path="/etc/sora/sora.toml",
        config=msgspec.json.decode(msgspec.json.encode(config())),
        generation=3,
        started_mono=1.5,
        workers=2,
        lock=next(fds),
        control=ControlState(next(fds), [ClientState(next(fds), 1, b"\xff")]),
        listeners=ListenersState([(Endpoint("imap", "127.0.0.1:143"), [next(fds), next(fds)])], ["/run/lmtp"]),
        shared=SharedState(
            next(fds),
            0,
            (8, next(fds), next(fds)),
            SharedMemory(next(fds), (4, 2), b"\xff"),
            SharedMemory(next(fds), (4,), b""),
        ),
        postgres=7,
        restarts=[("worker", 0, 1)],
        processes=[ProcessState(9, "worker", 0, 3, 1, next(fds), 2.0, True, False, [0, 1])],
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def test_state_arrives_as_it_was() -> None:
    assert handover.decode(handover.encode(state())) == state()


def test_every_descriptor_is_named() -> None:
    assert sorted(state().descriptors()) == list(range(100, 111))


def test_state_of_another_format_or_none_at_all_is_refused() -> None:
    later = handover.encode(state(format=handover.FORMAT + 1))
    with pytest.raises(ConfigError, match=f"format {handover.FORMAT + 1}.*restart is needed"):
        handover.decode(later)
    for data in (b"", b"[]", b'{"format": 1}'):
        with pytest.raises(ConfigError, match="restart is needed"):
            handover.decode(data)


def test_the_configuration_is_read_as_far_as_it_is_known() -> None:
    assert state().known_config() == config()
    tables = msgspec.to_builtins(config())
    tables["limits"]["of_yesterday"] = 1
    tables["yesterday"] = {"key": 1}
    del tables["process"]["linger"]
    del tables["search"]
    known = state(config=tables).known_config()
    assert known.limits == config().limits
    assert known.process.linger == configuration.ProcessTable().linger
    assert known.search == configuration.SearchTable()


def test_a_program_that_cannot_be_run_changes_nothing(tmp_path: Path) -> None:
    pipes = [os.pipe() for _ in range(6)]
    spare = [fd for pipe in pipes for fd in pipe]
    before = len(os.listdir("/proc/self/fd"))
    fds = iter(spare)
    whole = state()
    whole = msgspec.structs.replace(
        whole,
        lock=next(fds),
        control=ControlState(next(fds), []),
        listeners=ListenersState([], []),
        shared=SharedState(
            next(fds), 0, (8, next(fds), next(fds)), SharedMemory(next(fds), (), b""), SharedMemory(next(fds), (), b"")
        ),
        processes=[],
    )
    with pytest.raises(FileNotFoundError):
        handover.execute([str(tmp_path / "nothing")], whole)
    assert not any(os.get_inheritable(fd) for fd in spare)
    assert len(os.listdir("/proc/self/fd")) == before
    for fd in spare:
        os.close(fd)


def test_the_letter_is_read_once_and_descriptors_are_ours_alone() -> None:
    """In a process of its own, which `execute` turns into another program."""
    program = """
import os, sys
from sora.server import handover
from tests.unit.server.test_handover import state
if len(sys.argv) == 1:
    for fd in range(100, 111):
        os.dup2(0, fd)
        os.set_inheritable(fd, False)
    handover.execute([sys.executable, "-c", os.environ["PROGRAM"]], state())
letter = int(sys.argv[1])
assert handover.receive(letter) == state()
assert not any(os.get_inheritable(fd) for fd in range(100, 111))
try:
    os.fstat(letter)
except OSError:
    print("good")
"""
    root = Path(__file__).parent.parent.parent.parent
    environment = {**os.environ, "PROGRAM": program, "PYTHONPATH": str(root)}

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.returncode) == ("good\n", 0), done.stderr
