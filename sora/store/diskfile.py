"""Files on the local disk, the way a store needs them: written whole or not at all, synced, read without a thread.

Every function here blocks, except `read_cached`, which gives up instead. Names that end in `.tmp` are files that are
being written; one that is old belongs to a process that died.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mmap import mmap
    from pathlib import Path

    Octets = bytes | mmap

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
TEMPORARY_SUFFIX: Final = ".tmp"

_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
_UNNAMED: Final = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_CLOEXEC
_NOWAIT: Final = getattr(os, "RWF_NOWAIT", None)


class WouldBlock(Exception):
    """The disk would have to be asked."""


def make_directory(path: Path) -> None:
    """Create `path` and what is missing above it, for this user only; the names are on disk afterwards."""
    for changed in make_directories(path):
        sync_directory(changed)


def make_directories(path: Path) -> list[Path]:
    """`make_directory` for a caller who syncs by himself: gives the directories with new names, the uppermost first."""
    if path.is_dir():
        return []
    changed = make_directories(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(DIRECTORY_MODE)
    return [*changed, path.parent]


def temporary(directory: Path) -> Path:
    """A name in `directory` that nobody else has, on this or any node."""
    return directory / f"{secrets.token_hex(12)}{TEMPORARY_SUFFIX}"


def write_new(path: Path, *pieces: Octets) -> int:
    """Create `path` with `pieces` in it and give the open file, not synced.

    Raises:
        OSError: Nothing is left of the file.
    """
    fd = os.open(path, _NEW, FILE_MODE)
    try:
        for piece in pieces:
            write_all(fd, piece)
    except BaseException:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd


def open_unnamed(directory: Path) -> int:
    """An empty file on the disk of `directory` that has no name and goes away when it is closed, whatever happens."""
    path = temporary(directory)
    fd = os.open(path, _UNNAMED, FILE_MODE)
    path.unlink()
    return fd


def write_all(fd: int, data: Octets) -> None:
    """Append all of `data` to an open file."""
    with memoryview(data) as view:
        start = 0
        while start < len(view):
            start += os.write(fd, view[start:])


def sync_directory(path: Path) -> None:
    """The names in a directory are on disk afterwards."""
    fd = os.open(path, _READ | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path: Path, offset: int = 0, length: int | None = None) -> bytes:
    """Octets of a file from `offset` on; shorter than `length` only at its end.

    Raises:
        OSError: FileNotFoundError among others.
    """
    fd = os.open(path, _READ)
    try:
        left = os.fstat(fd).st_size - offset
        return _read(fd, offset, left if length is None else min(length, left))
    finally:
        os.close(fd)


def _read(fd: int, offset: int, length: int) -> bytes:
    pieces: list[bytes] = []
    while length > 0 and (piece := os.pread(fd, length, offset)):
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_cached(path: Path, most: int) -> bytes:
    """A file of at most `most` octets out of the page cache, without waiting for the disk (preadv2 with RWF_NOWAIT).

    That takes 5 µs for 20 KB; a thread would take 30 to 100 µs to be asked. Only the look-up of the name may wait for
    the disk, the first time in a long while.

    Raises:
        WouldBlock: Some of it is not in memory, it is larger, it cannot be opened, or this system cannot tell.
        FileNotFoundError: No such file.
    """
    if _NOWAIT is None:
        raise WouldBlock
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise WouldBlock from error
    try:
        size = os.fstat(fd).st_size
        if size > most:
            raise WouldBlock
        buffer = bytearray(size)
        if os.preadv(fd, [buffer], 0, _NOWAIT) != size:
            raise WouldBlock
        return bytes(buffer)
    except OSError as error:
        raise WouldBlock from error
    finally:
        os.close(fd)


def remove_quarantined(directory: Path, prefix: str) -> int:
    """Remove files that were put aside as `<time>-<name>` and whose name begins with `prefix`; how many there were."""
    if not directory.is_dir():
        return 0
    found = [entry.path for entry in os.scandir(directory) if entry.name.partition("-")[2].startswith(prefix)]
    for path in found:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    sync_directory(directory)
    return len(found)


def find_quarantined(directory: Path, name: str) -> list[Path]:
    """Files that were put aside under a name, the newest first."""
    return sorted(directory.glob(f"*-{name}"), reverse=True)


def sweep_temporaries(directory: Path, older_than_s: float) -> int:
    """Remove what dead processes were writing; how many there were."""
    horizon = time.time() - older_than_s
    removed = 0
    for entry in list(os.scandir(directory)):
        if not entry.name.endswith(TEMPORARY_SUFFIX):
            continue
        with contextlib.suppress(FileNotFoundError):
            if entry.stat(follow_symlinks=False).st_mtime < horizon:
                os.unlink(entry)
                removed += 1
    return removed
