"""A message that waits on the disk while it arrives, under a key that never leaves this process.

The file has no name and is gone with the process, but its blocks are not: with encryption on they must tell nobody
anything. The key is made for one message and forgotten with it, so an account is not needed yet.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING, Final, Protocol

import nacl.bindings as sodium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.store.diskfile import Octets

_LENGTH: Final = struct.Struct("<I")
_MORE: Final = sodium.crypto_secretstream_xchacha20poly1305_ABYTES
PIECE: Final = 256 * 1024


class SpoolCipher(Protocol):
    """How the pieces of a message stand in its file.

    Attributes:
        in_memory: What `map` gives takes memory as long as it is used.
    """

    in_memory: bool

    def seal(self, data: Octets) -> Iterator[Octets]:
        """What is appended to the file for a piece."""

    def map(self, fd: int, size: int) -> mmap.mmap:
        """The whole message of `size` octets, which is not empty."""


class PlainSpool:
    """No encryption: the file is the message."""

    in_memory = False

    def seal(self, data: Octets) -> Iterator[Octets]:
        """See `SpoolCipher.seal`."""
        yield data

    def map(self, fd: int, size: int) -> mmap.mmap:
        """See `SpoolCipher.map`: pages of the file, which the kernel may drop and read again."""
        return mmap.mmap(fd, size, prot=mmap.PROT_READ)


class SealedSpool:
    """A secretstream under a key of its own, in records of a length and so many octets."""

    in_memory = True

    def __init__(self) -> None:
        self._key = sodium.crypto_secretstream_xchacha20poly1305_keygen()
        self._state = sodium.crypto_secretstream_xchacha20poly1305_state()
        self._header = sodium.crypto_secretstream_xchacha20poly1305_init_push(self._state, self._key)

    def seal(self, data: Octets) -> Iterator[Octets]:
        """See `SpoolCipher.seal`."""
        for start in range(0, len(data), PIECE):
            sealed = sodium.crypto_secretstream_xchacha20poly1305_push(self._state, bytes(data[start : start + PIECE]))
            yield _LENGTH.pack(len(sealed)) + sealed

    def map(self, fd: int, size: int) -> mmap.mmap:
        """See `SpoolCipher.map`: memory, as much as the message is long.

        Raises:
            OSError: The disk gave back something else than was written.
        """
        state = sodium.crypto_secretstream_xchacha20poly1305_state()
        sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, self._header, self._key)
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        place = 0
        while memory.tell() < size:
            (length,) = _LENGTH.unpack(_read(fd, place, _LENGTH.size))
            place += _LENGTH.size
            try:
                data, _ = sodium.crypto_secretstream_xchacha20poly1305_pull(state, _read(fd, place, length))
                memory.write(data)
            except (RuntimeError, ValueError) as error:
                raise OSError(f"the spool file was changed: {error}") from error
            place += length
        return memory


def _read(fd: int, place: int, length: int) -> bytes:
    data = os.pread(fd, length, place)
    if len(data) != length or length > PIECE + _MORE:
        raise OSError("the spool file was changed: a record is cut")
    return data
