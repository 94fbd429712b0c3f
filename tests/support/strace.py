"""What a process asks of the kernel, in order: strace, and a parser of what it writes.

With `-f` the calls of several threads are interleaved, and one that blocks is written in two parts; with `-y` every
descriptor has its path; with `-xx` all octets are in hexadecimal, so that no other escape has to be known.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CALLS: Final = (
    "read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg",
    "fsync", "fdatasync", "link", "linkat", "rename", "renameat", "renameat2",
)  # fmt: skip
INSTALLED: Final = shutil.which("strace") is not None

_LINE = re.compile(r"(\d+) +(.*)")
_BEGIN = re.compile(r"(\w+)\((.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_RESULT = re.compile(r"(.*)\) += (-?\d+)(.*)")
_UNFINISHED: Final = " <unfinished ...>"
_DESCRIPTOR = re.compile(r"(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Call:
    """One system call that has ended.

    Attributes:
        arguments: As strace writes them.
        result: -1 after an error.
        began: Number of the line at which it began; it had ended when line `ended` was written.
    """

    thread: int
    name: str
    arguments: str
    result: int
    began: int
    ended: int

    @cached_property
    def path(self) -> str:
        """Of the first descriptor: a file, or `socket:[NUMBER]`; empty: it has none."""
        found = _DESCRIPTOR.search(self.arguments)
        return _octets(found[1]).decode() if found else ""

    @cached_property
    def strings(self) -> list[bytes]:
        """Every string among the arguments: names of files, or what was read or written."""
        return [_octets(text) for text in _STRING.findall(self.arguments)]

    @cached_property
    def data(self) -> bytes:
        """What was really read or written."""
        return b"".join(self.strings)[: max(self.result, 0)]

    def is_before(self, other: Call) -> bool:
        """True if it had ended when the other one began."""
        return self.ended < other.began


def _octets(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def parse(lines: Iterable[str]) -> Iterator[Call]:
    """The calls in the order in which they ended; signals, exits and what never ended are passed over."""
    begun: dict[int, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        if not (found := _LINE.fullmatch(line.rstrip("\n"))):
            continue
        thread, text = int(found[1]), found[2]
        began = number
        if text.endswith(_UNFINISHED):
            begun[thread] = number, text.removesuffix(_UNFINISHED)
            continue
        if resumed := _RESUMED.fullmatch(text):
            began, first = begun.pop(thread)
            text = first + resumed[2]
        if (call := _BEGIN.fullmatch(text)) and (end := _RESULT.fullmatch(call[2])):
            yield Call(thread, call[1], end[1], int(end[2]), began, number)


class CannotTraceError(Exception):
    """The kernel does not let us look at that process."""


class Strace:
    """Looks at a process and its threads; a context manager, inside which everything is seen.

    Args:
        output: File for what strace writes.
        inject: Calls that are made to fail with EIO.
    """

    def __init__(self, pid: int, output: Path, *, inject: str = "") -> None:
        self._output = output
        self._command = [
            "strace", "-f", "-y", "-xx", "-s", "1000000", "-o", str(output), "-p", str(pid),
            "-e", f"trace={','.join(CALLS)}", *(["-e", f"inject={inject}:error=EIO"] if inject else []),
        ]  # fmt: skip

    def __enter__(self) -> Self:
        """Returns when every thread is attached.

        Raises:
            CannotTraceError: It may not be.
        """
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = self._process.stderr.readline()
        if "attached" not in said:
            self.__exit__()
            raise CannotTraceError(said.strip())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=15)

    def calls(self) -> list[Call]:
        """What was seen, after the end."""
        with self._output.open(encoding="ascii") as lines:
            return list(parse(lines))
