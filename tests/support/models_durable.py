"""A plain model of `publish`: the same steps, each through `os`, where a test can make it fail."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from mmap import mmap


class PublishModel:
    """One call; `errors` is what it returns."""

    def __init__(self, files: list[tuple[bytes, bytes, Sequence[bytes | mmap]]], directory: bytes, lock: bytes) -> None:
        self.files = files
        self.directory = directory
        self.lock = lock
        self.errors = [0] * len(files)
        self.fds: list[int] = []

    def run(self, mode: int) -> None:
        """All the steps."""
        keep: list[bytes] = []
        opened = 0
        try:
            for number, (temporary, _, pieces) in enumerate(self.files):
                if not self.attempt(number, partial(self.create, temporary, mode)):
                    break
                opened += 1
                if not self.attempt(number, partial(write, self.fds, pieces)):
                    break
            if not self.failed:
                for number, fd in enumerate(self.fds):
                    self.attempt(number, partial(os.fdatasync, fd))
            if not self.failed:
                self.link(mode)
            if not self.failed:
                if any(self.errors):
                    keep = [file[0] for file, error in zip(self.files, self.errors, strict=True) if error]
                else:
                    sync_directory(self.directory)
        finally:
            for fd in self.fds:
                os.close(fd)
            for temporary, _, _ in self.files[:opened]:
                if temporary not in keep:
                    os.unlink(temporary)

    @property
    def failed(self) -> bool:
        """The batch goes no further."""
        return any(error not in (0, errno.EEXIST) for error in self.errors)

    def attempt(self, number: int, step: Callable[[], object]) -> bool:
        """Note the error of a file; False if there is one."""
        try:
            step()
        except OSError as error:
            self.errors[number] = error.errno or errno.EIO
        return not self.errors[number]

    def create(self, path: bytes, mode: int) -> None:
        """A new file, open; a temporary name that is taken is a disk not to be trusted."""
        try:
            self.fds.append(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        except FileExistsError as error:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path) from error

    def link(self, mode: int) -> None:
        """Names, under the lock."""
        fd = os.open(self.lock, os.O_CREAT | os.O_RDWR, mode)
        with contextlib.closing(os.fdopen(fd, "rb+")):
            fcntl.flock(fd, fcntl.LOCK_SH)
            for number, (temporary, name, _) in enumerate(self.files):
                if not self.attempt(number, partial(os.link, temporary, name)) and self.failed:
                    return


def write(fds: list[int], pieces: Sequence[bytes | mmap]) -> None:
    """Every octet, in order, to the last of the files."""
    for piece in pieces:
        with memoryview(piece) as view:
            start = 0
            while start < len(view):
                start += os.write(fds[-1], view[start:])


def publish_model(
    files: list[tuple[bytes, bytes, Sequence[bytes | mmap]]], directory: bytes, lock: bytes, mode: int
) -> list[int]:
    """`publish`, step by step and file by file."""
    model = PublishModel(files, directory, lock)
    model.run(mode)
    return model.errors


def sync_directory(path: bytes) -> None:
    """The names in it are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directories_model(paths: list[bytes]) -> list[int]:
    """`sync_directories`, one after the other."""
    errors = []
    for path in paths:
        try:
            sync_directory(path)
        except OSError as error:
            errors.append(error.errno or errno.EIO)
        else:
            errors.append(0)
    return errors
