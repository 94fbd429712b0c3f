"""Mail out of mbox files: one file, which is the INBOX or a folder of its name, or a directory of them.

A file is read once from its beginning to its end to find the messages: where each begins and ends, and a digest of it.
Nothing names a message in an mbox, so its octets do, and their number if several are alike: flags that somebody sets
meanwhile, or messages that come, change neither.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sora.errors import Refused
from sora.formats import mbox, names
from sora.formats.lines import ToCrlf
from sora.moving import files
from sora.moving.source import (
    CHANGED,
    GONE,
    PIECE_BYTES,
    WINDOW,
    FolderBroken,
    Piece,
    SourceFolder,
    SourceMessage,
    SourceScript,
    Told,
    key_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from sora.formats.mbox import Variant

MAX_LINE: Final = 64 * 1024
MAX_DEPTH: Final = 16
DIGEST: Final = 16
_SUFFIXES: Final = (".mbox", ".mbx")


class MboxSource(Told):
    """One mbox, or a directory with some in it.

    Args:
        path: A file or a directory.
        mailbox: Of a single file: where it goes; empty: as the file is called.
    """

    def __init__(self, path: Path, variant: Variant = "mboxrd", mailbox: str = "") -> None:
        super().__init__()
        self._variant = variant
        self._single = b""
        try:
            if path.is_dir():
                self._root = files.open_root(path)
            else:
                self._root = files.open_root(path.parent)
                self._single = os.fsencode(path.name)
                os.close(files.open_file(self._root, self._single))
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from error
        self._mailbox = mailbox
        self._table: tuple[bytes, sqlite3.Connection] | None = None

    def folders(self) -> list[SourceFolder]:
        """See `Source.folders`."""
        paths = [self._single] if self._single else sorted(self._below(b""))
        found = []
        for path in paths:
            shown = path.decode("utf-8", "replace")
            try:
                with files.directory(self._root, os.path.dirname(path)) as fd:
                    is_mbox = _is_mbox(fd, os.path.basename(path))
            except OSError as error:
                self._problems.append(f"{shown}: it cannot be read: {error.strerror}")
                continue
            if not is_mbox:
                told = self._problems if self._single else self._notes
                told.append(f"{shown} is no mbox")
                continue
            levels = (self._mailbox or _name(path)).split(names.DELIMITER)
            found.append(SourceFolder(key=path, name=names.name_of(levels), messages=0))
        return sorted(found, key=lambda folder: (folder.name != names.INBOX, folder.name.split(names.DELIMITER)))

    def _below(self, path: bytes) -> Iterator[bytes]:
        shown = path.decode("utf-8", "replace")
        if path.count(b"/") >= MAX_DEPTH:
            self._problems.append(f"{shown}: directories lie too deep in each other: the rest is left out")
            return
        try:
            with files.directory(self._root, path) as fd, os.scandir(fd) as entries:
                found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False), entry.is_symlink())
                         for entry in entries if not entry.name.startswith(".")]  # fmt: skip
        except OSError as error:
            self._problems.append(f"{shown}: it cannot be read: {error.strerror}")
            return
        for name, is_directory, is_link in found:
            below = b"/".join(filter(None, (path, name)))
            if is_link:
                self._problems.append(f"{below.decode('utf-8', 'replace')}: a link is not followed")
            elif is_directory:
                yield from self._below(below)
            else:
                yield below

    # ------------------------------------------------------------------------------------------------ messages

    def messages(self, folder: SourceFolder) -> Iterator[list[SourceMessage]]:
        """See `Source.messages`."""
        with self._open(folder) as file:
            rows = self._scanned(folder).execute("SELECT start, header, stop, key, date FROM message ORDER BY start")
            while window := rows.fetchmany(WINDOW):
                yield [_message(file, row) for row in window]

    def uid_next(self, folder: SourceFolder) -> int:
        """See `Source.uid_next`: there are no UIDs."""
        return 0

    def _scanned(self, folder: SourceFolder) -> sqlite3.Connection:
        if self._table is None or self._table[0] != folder.key:
            self._forget()
            with self._open(folder) as file:
                self._table = folder.key, self._scan(file)
        return self._table[1]

    def _scan(self, file: BinaryIO) -> sqlite3.Connection:
        table = sqlite3.connect("", isolation_level=None)
        table.execute("PRAGMA journal_mode = off")
        table.execute("PRAGMA cache_size = -4096")
        table.execute(
            "CREATE TABLE message (start INTEGER PRIMARY KEY, header INT, stop INT, digest BLOB, key BLOB, date REAL)"
        )
        table.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, n INT) WITHOUT ROWID")
        table.execute("BEGIN")
        for start, header, stop, digest, date in _scan(file, self._variant):
            (n,) = table.execute(
                "INSERT INTO seen VALUES (?, 1) ON CONFLICT (digest) DO UPDATE SET n = n + 1 RETURNING n", (digest,)
            ).fetchone()
            key = key_of(digest, b"%d" % n)
            table.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)", (start, header, stop, digest, key, date))
        table.execute("COMMIT")
        return table

    def pieces(self, folder: SourceFolder, messages: Sequence[SourceMessage]) -> Iterator[Piece]:
        """See `Source.pieces`."""
        table = self._scanned(folder)
        with self._open(folder) as file:
            for number, message in enumerate(messages):
                row = table.execute(
                    "SELECT header, stop, digest FROM message WHERE start = ?", (message.place,)
                ).fetchone()
                if row is None:
                    yield Piece(number, b"", last=True, problem=GONE)
                else:
                    yield from self._octets(number, file, *row)

    def _octets(self, number: int, file: BinaryIO, header: int, stop: int, digest: bytes) -> Iterator[Piece]:
        file.seek(header)
        convert = ToCrlf()
        top, rest = _header(file, stop)
        read = hashlib.blake2b(top.octets, digest_size=DIGEST)
        yield Piece(number, convert.feed(mbox.unquote_lines(top.octets, self._variant)))
        file.seek(rest)
        held: list[bytes] = []
        size = 0
        begins = True
        while file.tell() < stop:
            line = file.readline(min(MAX_LINE, stop - file.tell()))
            if not line:
                break
            read.update(line)
            held.append(mbox.unquote(line, self._variant) if begins else line)
            begins = line.endswith(b"\n")
            size += len(line)
            if size >= PIECE_BYTES:
                yield Piece(number, convert.feed(b"".join(held)))
                held, size = [], 0
        # Whoever expunges or delivers meanwhile writes the file anew, and other octets stand in this place.
        problem = "" if read.digest() == digest else CHANGED
        yield Piece(number, convert.feed(b"".join(held)), last=True, problem=problem)

    def _open(self, folder: SourceFolder) -> BinaryIO:
        try:
            with files.directory(self._root, os.path.dirname(folder.key)) as fd:
                return open(files.open_file(fd, os.path.basename(folder.key)), "rb")
        except OSError as error:
            raise FolderBroken(f"it cannot be read: {error.strerror}") from error

    # ------------------------------------------------------------------------------------------------ the rest

    def subscriptions(self) -> list[str]:
        """See `Source.subscriptions`: there are none."""
        return []

    def scripts(self) -> list[SourceScript]:
        """See `Source.scripts`: there are none."""
        return []

    def _forget(self) -> None:
        if self._table is not None:
            self._table[1].close()
            self._table = None

    def close(self) -> None:
        """See `Source.close`."""
        self._forget()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1


def _name(path: bytes) -> str:
    text = path.decode("utf-8", "replace")
    for suffix in _SUFFIXES:
        text = text.removesuffix(suffix)
    return text


def _is_mbox(fd: int, name: bytes) -> bool:
    """An empty file is an mbox without messages; a pipe is none."""
    try:
        with open(files.open_file(fd, name), "rb") as file:
            line = file.readline(512)
    except files.NotPlain:
        return False
    return not line or mbox.parse_from(line) is not None


def _header(file: BinaryIO, stop: int) -> tuple[mbox.Header, int]:
    """The header from here on, and where what follows it begins."""
    lines: list[bytes] = []
    size = 0
    while file.tell() < stop and size < mbox.MAX_HEADER:
        line = file.readline(min(MAX_LINE, stop - file.tell()))
        lines.append(line)
        size += len(line)
        if not line or line in (b"\n", b"\r\n"):
            break
    return mbox.parse_header(b"".join(lines)), file.tell()


def _scan(file: BinaryIO, variant: Variant) -> Iterator[tuple[int, int, int, bytes, float | None]]:
    """Where each message begins, its header begins and it ends, a digest of it, and the date of its separator."""
    size = os.fstat(file.fileno()).st_size
    start = 0
    while start < size:
        file.seek(start)
        separator = mbox.parse_from(file.readline(MAX_LINE))
        header = file.tell()
        top, rest = _header(file, size)
        stop, follows = _end(file, rest, size, top.content_length if variant == "mboxcl2" else None)
        digest = hashlib.blake2b(top.octets, digest_size=DIGEST)
        file.seek(rest)
        while file.tell() < stop:
            digest.update(file.read(min(PIECE_BYTES, stop - file.tell())))
        date = separator.date.timestamp() if separator is not None and separator.date is not None else None
        yield start, header, stop, digest.digest(), date
        start = follows


def _end(file: BinaryIO, rest: int, size: int, content_length: int | None) -> tuple[int, int]:
    """Where a message ends, without the empty line that parts it from the next, and where that one begins."""
    if content_length is not None and rest + content_length <= size:
        stop = rest + content_length
        file.seek(stop)
        following = file.readline(MAX_LINE)
        if following in (b"\n", b"\r\n"):
            at = file.tell()
            if at == size or mbox.parse_from(file.readline(MAX_LINE)) is not None:
                return stop, at
        if not following or mbox.parse_from(following) is not None:
            return stop, stop
    file.seek(rest)
    begins, empty = True, True
    blank = 0
    while True:
        at = file.tell()
        line = file.readline(MAX_LINE)
        if not line:
            return (at - blank if empty else at), at
        if begins and empty and line.startswith(b"From ") and mbox.parse_from(line) is not None:
            return max(rest, at - blank), at
        blank = len(line) if begins and line in (b"\n", b"\r\n") else 0
        empty = bool(blank)
        begins = line.endswith(b"\n")


def _message(file: BinaryIO, row: tuple[int, int, int, bytes, float | None]) -> SourceMessage:
    start, header, stop, key, date = row
    file.seek(header)
    top, _ = _header(file, stop)
    return SourceMessage(
        key=key,
        uid=0,
        flags=top.flags,
        internal_date=None if date is None else datetime.fromtimestamp(date, UTC),
        size=stop - header,
        place=start,
    )
