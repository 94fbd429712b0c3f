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
from sora.types import FIRST_KEYWORD

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sora.formats.mbox import Variant
    from sora.moving.sink import SinkFolder, SinkMessage, SinkScript

SUFFIX: Final = ".mbox"
SLICE: Final = 1024 * 1024
"""Octets that are converted together."""
_PART: Final = b".%s.part"
_RETURN_PATH: Final = re.compile(rb"(?im)^return-path:[ \t]*<([^>\r\n]*)>")
_END: Final = re.compile(rb"(?:\A|\n)\r?\n")
"""The empty line that ends a header, with the end of the line before it."""
_LINES: Final = re.compile(rb"(?m)^>*From ")


class MboxSink:
    """A directory of mbox files.

    Args:
        path: New, empty, or begun by the same export.
        about: Names the export.
    """

    def __init__(self, path: Path, about: str, variant: Variant = "mboxrd") -> None:
        self._variant = variant
        try:
            self._root = files.make_target(path, MARKER, f"{about} {variant}\n".encode())
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from error
        self._folder = -1
        self._name = b""
        self._file: BinaryIO | None = None
        self._keywords: dict[int, str] = {}
        self._notes: list[str] = []

    def begin(self, folder: SinkFolder) -> bool:
        """See `Sink.begin`; a mailbox that was cut short is written from its beginning."""
        *above, last = [f"_{level}" if level.startswith(".") else level for level in folder.name.split(names.DELIMITER)]
        self._folder = files.make_directory(self._root, names.DELIMITER.join(above).encode())
        self._name = f"{last}{SUFFIX}".encode()
        if _exists(self._folder, self._name):
            self._leave()
            return False
        part = _PART % self._name
        self._file = open(
            os.open(
                part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._folder
            ),
            "wb",
        )
        self._keywords = folder.keywords
        return True

    def has(self, message: SinkMessage) -> bool:
        """See `Sink.has`: a file is there as a whole or not."""
        return False

    def put(self, message: SinkMessage, data: bytes | None) -> None:
        """See `Sink.put`."""
        assert self._file is not None
        assert data is not None, "nothing is there already"
        end = _END.search(data)
        header = to_lf(data if end is None else data[: end.start() + end[0].count(b"\n") - 1])
        start = len(data) if end is None else end.end()
        keywords = [self._keywords[number] for number in message.flags if number in self._keywords]
        system = [number for number in message.flags if number < FIRST_KEYWORD]
        self._file.write(mbox.write_from(_sender(header), message.internal_date))
        self._file.write(self._quoted(header))
        if header and not header.endswith(b"\n"):
            self._file.write(b"\n")
        self._file.write(mbox.write_flags(system, keywords))
        torn = start < len(data) and not data.endswith(b"\n")
        if self._variant == "mboxcl2":
            length = len(data) - start - data.count(b"\r\n", start) + torn
            self._file.write(b"Content-Length: %d\n" % length)
        self._file.write(b"\n")
        while start < len(data):  # in slices of whole lines
            stop = data.find(b"\n", start + SLICE) + 1 or len(data)
            self._file.write(self._quoted(to_lf(data[start:stop])))
            start = stop
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
        files.write_file(self._root, b"subscriptions", "".join(f"{name}\n" for name in subscriptions).encode())
        write_scripts(self._root, scripts)
        os.fsync(self._root)

    def notes(self) -> list[str]:
        """See `Sink.notes`."""
        found, self._notes = self._notes, []
        return found

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


def _sender(header: bytes) -> str:
    match = _RETURN_PATH.search(header)
    return match[1].decode("ascii", "replace") if match else ""
