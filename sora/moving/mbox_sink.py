"""Mail into mbox files, one for each mailbox. A file has its name only when all of the mailbox is in it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, BinaryIO, Final

from sora.errors import Refused
from sora.formats import mbox, names
from sora.formats.lines import to_lf
from sora.moving import files
from sora.moving.maildir_sink import MARKER, write_scripts
from sora.moving.source import Told
from sora.types import FIRST_KEYWORD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sora._native.mimescan import Octets
    from sora.formats.mbox import Variant
    from sora.moving.sink import SinkFolder, SinkMessage, SinkScript

SUFFIX: Final = ".mbox"
SUBSCRIPTIONS: Final = "subscriptions"
MAX_LEVEL: Final = 230
"""Octets of a level: a file name has 255, and this one gets a number and two endings."""
SLICE: Final = 1024 * 1024
"""Octets that are converted together."""
_PART: Final = b".%s.part"
_RETURN_PATH: Final = re.compile(rb"(?im)^return-path:[ \t]*<([^>\r\n]*)>")
_END: Final = re.compile(rb"(?:\A|\n)\r?\n")
"""The empty line that ends a header, with the end of the line before it."""
_CRLF: Final = re.compile(rb"\r\n")
_LINES: Final = re.compile(rb"(?m)^>*From ")


class MboxSink(Told):
    """A directory of mbox files.

    Args:
        path: New, empty, or begun by the same export.
        about: Names the export.
    """

    def __init__(self, path: Path, about: str, variant: Variant = "mboxrd") -> None:
        super().__init__()
        self._variant = variant
        try:
            self._root = files.make_target(path, MARKER, f"{about} {variant}\n".encode())
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from error
        self._folder = -1
        self._name = b""
        self._file: BinaryIO | None = None
        self._keywords: dict[int, str] = {}
        self._called: dict[str, str] = {}
        self._taken: set[str] = set()

    def begin(self, folder: SinkFolder) -> bool:
        """See `Sink.begin`; a mailbox that was cut short is written from its beginning."""
        path = self._path(folder.name)
        self._folder = files.make_directory(self._root, os.path.dirname(path).encode())
        self._name = os.path.basename(path).encode()
        if _exists(self._folder, self._name):
            self._notes.append(f"{folder.name}: its file is there from an earlier run; what came since is not in it")
            self._leave()
            return False
        self._file = open(files.create(self._folder, _PART % self._name), "wb")
        self._keywords = folder.keywords
        return True

    def _path(self, name: str) -> str:
        """The file of a mailbox; one that would be another's, or a directory of others, gets another name.

        Mailboxes come in the same order in every run, so a run that goes on finds the same names.
        """
        levels = [_level(level) for level in name.split(names.DELIMITER)]
        if levels[0] == SUBSCRIPTIONS and len(levels) > 1:  # a directory would be where that file is
            levels[0] += "_"
        chosen = names.unlike(names.DELIMITER.join(levels), self._taken)
        if chosen != name:
            self._notes.append(f"{name} is called {chosen} there")
            self._called[name] = chosen
        self._taken.add(chosen)
        return f"{chosen}{SUFFIX}"

    def has(self, message: SinkMessage) -> bool:
        """See `Sink.has`: a file is there as a whole or not."""
        return False

    def scratch(self) -> BinaryIO:
        """See `Sink.scratch`."""
        return files.scratch(self._root)

    def put(self, message: SinkMessage, data: Octets | None) -> None:
        """See `Sink.put`."""
        assert self._file is not None
        assert data is not None, "nothing is there already"
        end = _END.search(data)
        header = to_lf(data[:] if end is None else data[: end.start() + end[0].count(b"\n") - 1])
        sender = _sender(header)
        header = mbox.parse_header(header).octets  # a sender's `X-Status: D` would be a flag to whoever reads this
        start = len(data) if end is None else end.end()
        keywords = [self._keywords[number] for number in message.flags if number in self._keywords]
        system = [number for number in message.flags if number < FIRST_KEYWORD]
        self._file.write(mbox.write_from(sender, message.internal_date))
        self._file.write(self._quoted(header))
        if header and not header.endswith(b"\n"):
            self._file.write(b"\n")
        self._file.write(mbox.write_flags(system, keywords))
        torn = start < len(data) and data[-1:] != b"\n"
        if self._variant == "mboxcl2":
            length = len(data) - start - sum(1 for _ in _CRLF.finditer(data, start)) + torn
            self._file.write(b"Content-Length: %d\n" % length)
        self._file.write(b"\n")
        for text, begins in _slices(data, start):
            line, end_of_line, rest = (b"", b"", text) if begins else text.partition(b"\n")
            self._file.write(line + end_of_line + self._quoted(rest))
        self._file.write(b"\n\n" if torn else b"\n")

    def _quoted(self, text: bytes) -> bytes:
        if self._variant == "mboxcl2" or b"From " not in text:
            return text
        return _LINES.sub(lambda match: mbox.quote(match[0], self._variant), text)

    def end(self) -> None:
        """See `Sink.end`."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        os.rename(_PART % self._name, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)
        self._leave()

    def finish(self, subscriptions: Sequence[str], scripts: Sequence[SinkScript]) -> None:
        """See `Sink.finish`."""
        called = "".join(f"{self._called.get(name, name)}\n" for name in subscriptions)
        files.write_file(self._root, SUBSCRIPTIONS.encode(), called.encode())
        self._notes += write_scripts(self._root, scripts)
        os.fsync(self._root)

    def _leave(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._folder >= 0:
            os.close(self._folder)
        self._file, self._folder = None, -1

    def close(self) -> None:
        """See `Sink.close`."""
        self._leave()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1


def _exists(parent: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _slices(data: Octets, start: int) -> Iterator[tuple[bytes, bool]]:
    """The octets from `start` on with LF, and whether a slice begins a line; cut within a line only if that is long."""
    begins = True
    while start < len(data):
        stop = data.find(b"\n", start + SLICE, start + 2 * SLICE) + 1 or min(start + 2 * SLICE, len(data))
        if data[stop - 1 : stop + 1] == b"\r\n":
            stop -= 1
        yield to_lf(data[start:stop]), begins
        begins = data[stop - 1 : stop] == b"\n"
        start = stop


def _level(level: str) -> str:
    """Neither hidden nor what the file of another mailbox could be called, nor too long for a file name."""
    level = f"_{level}" if level.startswith(".") else level
    level = f"{level}_" if level.endswith(SUFFIX) else level
    while len(level.encode()) > MAX_LEVEL:
        level = level[:-1]
    return level


def _sender(header: bytes) -> str:
    match = _RETURN_PATH.search(header)
    return match[1].decode("ascii", "replace") if match else ""
