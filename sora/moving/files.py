"""Files of a directory that somebody else may write to.

An operator moves the mail of users who can put links into it: nothing here follows a link below the directory that was
named, or reads what is no plain file. Each step goes by the open directory, so a name cannot become a link in between.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sora._native.mimescan import Octets

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_SMALL: Final = 16 * 1024 * 1024
"""Octets of a file that is read whole, such as a list of names."""


class NotPlain(OSError):
    """A link, a pipe, a device: nothing that mail is kept in."""


def open_root(path: Path) -> int:
    """The directory that was named; it may be a link."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@contextlib.contextmanager
def directory(root: int, path: bytes) -> Iterator[int]:
    """A directory below another, level by level; the empty path is the other one itself.

    Raises:
        OSError: It is not there, or a link.
    """
    fd = os.dup(root)
    try:
        for name in path.split(b"/") if path else ():
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def open_file(parent: int, name: bytes) -> int:
    """A plain file in a directory.

    Raises:
        NotPlain: It is something else.
        OSError: It is not there.
    """
    fd = os.open(name, _READ, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotPlain(0, "not a plain file", os.fsdecode(name))
    return fd


def read_small(parent: int, name: bytes, limit: int = MAX_SMALL) -> bytes | None:
    """A file that is not large; None: it is not there, or nothing that may be read."""
    try:
        fd = open_file(parent, name)
    except OSError:
        return None
    with open(fd, "rb") as file:
        text = file.read(limit + 1)
    return text if len(text) <= limit else None


def subdirectories(fd: int) -> Iterator[tuple[bytes, bool]]:
    """Names of directories, and of links (True) that would lead to some."""
    with os.scandir(fd) as entries:
        found = []
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found.append((os.fsencode(entry.name), False))
            elif entry.is_symlink() and entry.is_dir():
                found.append((os.fsencode(entry.name), True))
    yield from sorted(found)


def make_target(path: Path, marker: bytes, about: bytes) -> int:
    """An export's directory: a new or empty one, or the one that the same export has begun.

    Raises:
        FileExistsError: It holds something else.
        OSError: It cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = open_root(path)
    try:
        found = read_small(fd, marker)
        if found is None and os.listdir(fd):
            raise FileExistsError(0, "the directory is not empty")
        if found is not None and found != about:
            raise FileExistsError(0, "the directory has an export of something else")
        if found is None:
            write_file(fd, marker, about)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_directory(root: int, path: bytes) -> int:
    """A directory below another, made where it is missing; open."""
    fd = os.dup(root)
    try:
        for name in path.split(b"/") if path else ():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=fd)
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def create(parent: int, name: bytes) -> int:
    """A new file, in place of one that a run which was cut short has left."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
    return os.open(name, _WRITE, 0o600, dir_fd=parent)


def scratch(parent: int) -> BinaryIO:
    """A file without a name on the disk of a directory."""
    name = b".%s.part" % secrets.token_hex(12).encode()
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    os.unlink(name, dir_fd=parent)
    return open(fd, "w+b")


def write_file(parent: int, name: bytes, *pieces: Octets, mtime: float | None = None) -> None:
    """A file that is whole under its name, or not there: written under another name, synced, renamed."""
    temporary = b".%s.part" % name[:200]
    fd = create(parent, temporary)
    with open(fd, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        if mtime is not None:
            os.utime(fd, (mtime, mtime))
        os.fsync(fd)
    os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
