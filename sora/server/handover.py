"""What a supervisor hands to the program that takes its place: an upgrade without a moment in which nobody listens.

The supervisor executes the new release in its own process. The pid stays, and with it the children; sockets, shared
memory, the lock and the children's channels are inherited as descriptors. Their numbers, and everything else that the
successor must know, travel in a memory file: it holds secrets, so it has no name and is in no argument.

The two programs are of different releases. `FORMAT` is raised when an older one's state cannot be understood any more
or when memory is laid out in another way; an upgrade across that is refused before it begins.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from sora import config as configuration
from sora.config import Config
from sora.errors import ConfigError
from sora.server.control import ControlState  # noqa: TC001 (read by msgspec)
from sora.server.listeners import ListenersState  # noqa: TC001 (read by msgspec)
from sora.server.processes import ProcessState  # noqa: TC001 (read by msgspec)
from sora.server.shared import SharedState  # noqa: TC001 (read by msgspec)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FORMAT: Final = 1
SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD})
"""Held back while nobody handles them: their default is to kill the process."""


class Handover(Struct, frozen=True, kw_only=True):
    """The state of a supervisor.

    Attributes:
        path: Of the configuration file.
        config: What the children work with.
        started_mono: When the first program of this run started.
        workers: Number of worker slots.
        lock: Descriptor of the lock of the runtime directory.
        postgres: Pid of the embedded PostgreSQL.
        restarts: Deaths that nobody asked for, by role and slot.
    """

    path: str
    config: dict[str, Any]
    generation: int
    started_mono: float
    workers: int
    lock: int
    control: ControlState
    listeners: ListenersState
    shared: SharedState
    postgres: int | None
    restarts: list[tuple[str, int, int]]
    processes: list[ProcessState]
    format: int = FORMAT

    def descriptors(self) -> Iterator[int]:
        """Those that the successor must inherit."""
        yield self.lock
        yield from self.control.descriptors()
        yield from self.listeners.descriptors()
        yield from self.shared.descriptors()
        yield from (process.channel for process in self.processes)

    def known_config(self) -> Config:
        """The configuration that the children work with, as far as this release knows its keys."""
        known: dict[str, Any] = {}
        for key in configuration.keys():
            *tables, name = key.path.split(".")
            source: Any = self.config
            for table in tables:
                source = source.get(table) or {}
            if name in source:
                target = known
                for table in tables:
                    target = target.setdefault(table, {})
                target[name] = source[name]
        return msgspec.convert(known, Config)


def encode(state: Handover) -> bytes:
    """For `decode`."""
    return msgspec.json.encode(state)


def decode(data: bytes) -> Handover:
    """State from the bytes that a supervisor wrote, maybe one of another release.

    Raises:
        ConfigError: This release cannot go on with it.
    """
    try:
        found = msgspec.json.decode(data, type=_Format).format
        if found == FORMAT:
            return msgspec.json.decode(data, type=Handover)
    except msgspec.DecodeError as error:
        raise ConfigError("what was handed over cannot be read: a restart is needed", detail=str(error)) from error
    raise ConfigError(f"state of format {found}, but this release knows {FORMAT}: a restart is needed")


class _Format(Struct):
    format: int


def execute(command: Sequence[str], state: Handover) -> None:
    """Become another program; it gets the number of the descriptor of the state as its last argument.

    Raises:
        OSError: The program cannot be run, and nothing has changed.
    """
    letter = os.memfd_create("sora-handover", os.MFD_CLOEXEC)
    try:
        with open(letter, "wb", closefd=False) as file:
            file.write(encode(state))
        passed = [letter, *state.descriptors()]
        _set_inheritable(passed, True)
        try:
            os.execv(command[0], [*command, str(letter)])
        finally:
            _set_inheritable(passed, False)
    finally:
        os.close(letter)


def receive(letter: int) -> Handover:
    """The state that `execute` left for us; the descriptors are no longer inherited by whatever we run.

    Raises:
        ConfigError: See `decode`.
    """
    with open(letter, "rb") as file:
        file.seek(0)
        state = decode(file.read())
    _set_inheritable(state.descriptors(), False)
    return state


def _set_inheritable(descriptors: Iterable[int], inheritable: bool) -> None:
    for fd in descriptors:
        os.set_inheritable(fd, inheritable)
