"""Verified logins that all processes of a node remember together.

A table in shared memory that has no name, made before the fork: whoever verified a password first spares the other
processes the argon2id computation. Nobody takes a lock:

- A row carries a keyed tag over everything in it, so half a row (two writers at once, a process killed in the middle)
  is no row. The key is drawn when the table is made and is in no file; the table ends with the last process.
- A key has one bucket. A full bucket forgets the row that was written longest ago: a forgotten row costs one hash.
- Keys and tags are keyed hashes: no password, and nothing that could be tried against one, is in the memory.
- What nobody wrote to costs no memory, however often it is looked at: a look reads the file, because a look through the
  mapping would give every bucket its page, and each wrong password looks at another one.
"""

from __future__ import annotations

import hashlib
import hmac
import mmap
import os
import secrets
import struct
import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.types import AccountId

if TYPE_CHECKING:
    from collections.abc import Callable

ROW_BYTES: Final = 512
BUCKET_ROWS: Final = mmap.PAGESIZE // ROW_BYTES
_HEAD: Final = struct.Struct("<16s16sd")
"""Tag, key, when it was written."""
_LOGIN: Final = struct.Struct("<qqqdH")


class SharedMemory(Struct, frozen=True):
    """Memory of the node as it is handed to the program that this process executes.

    Attributes:
        fd: Of the memory file.
        shape: Numbers that say how the memory is laid out.
        secret: Key of the hashes in it.
    """

    fd: int
    shape: tuple[int, ...]
    secret: bytes


class Verified(Struct, frozen=True):
    """One login that was verified.

    Attributes:
        address: Primary address of the account.
        version: Of the account's credentials, when it was verified.
        checked_mono: When the database last said so.
    """

    account_id: AccountId
    address: str
    credential_id: int
    version: int
    checked_mono: float


class Remembered:
    """The table; what it gives back was put there by a process of this node.

    Args:
        buckets: Each is one page with room for eight rows; pages that nobody wrote to cost nothing.
        clock: Monotonic seconds, the same for all processes.
        handed: What `hand_over` gave in a process that became this one; the table goes on.
    """

    def __init__(
        self,
        *,
        buckets: int = 4096,
        clock: Callable[[], float] = time.monotonic,
        handed: SharedMemory | None = None,
    ) -> None:
        self._buckets = buckets if handed is None else handed.shape[0]
        self._clock = clock
        self._secret = secrets.token_bytes(32) if handed is None else handed.secret
        self._fd = os.memfd_create("sora-logins", os.MFD_CLOEXEC) if handed is None else handed.fd
        size = self._buckets * BUCKET_ROWS * ROW_BYTES
        os.ftruncate(self._fd, size)
        self._memory = mmap.mmap(self._fd, size)

    def __del__(self) -> None:
        os.close(self._fd)

    def hand_over(self) -> SharedMemory:
        """What this process needs to go on with the same table after it executed another program."""
        return SharedMemory(self._fd, (self._buckets,), self._secret)

    def key(self, name: str, secret: bytes) -> bytes:
        """What a login is remembered under."""
        return self._mac(b"login", b"%s\0%s" % (name.encode(), secret))

    def find(self, key: bytes) -> Verified | None:
        """A login that was verified."""
        value = self._get(key)
        if value is None:
            return None
        account_id, credential_id, version, checked_mono, length = _LOGIN.unpack_from(value)
        address = value[_LOGIN.size : _LOGIN.size + length].decode()
        return Verified(AccountId(account_id), address, credential_id, version, checked_mono)

    def keep(self, key: bytes, login: Verified) -> None:
        """Remember a login; the version that it was verified with is the account's newest from now on."""
        address = login.address.encode()
        numbers = (login.account_id, login.credential_id, login.version, login.checked_mono, len(address))
        self._put(key, _LOGIN.pack(*numbers) + address)
        self._put(self._account_key(login.account_id), login.version.to_bytes(8, "little", signed=True))

    def drop(self, key: bytes) -> None:
        """Forget a login."""
        for start in self._bucket(key):
            if self._memory[start + 16 : start + 32] == key:
                self._memory[start : start + 32] = bytes(32)

    def end(self, account_id: AccountId) -> None:
        """Forget every login of an account: whoever comes next is verified anew."""
        self.drop(self._account_key(account_id))

    def version(self, account_id: AccountId) -> int | None:
        """Version of an account's credentials that the last login was verified with."""
        value = self._get(self._account_key(account_id))
        return None if value is None else int.from_bytes(value[:8], "little", signed=True)

    def _account_key(self, account_id: AccountId) -> bytes:
        return self._mac(b"account", account_id.to_bytes(8, "little"))

    def _get(self, key: bytes) -> bytes | None:
        rows = os.pread(self._fd, BUCKET_ROWS * ROW_BYTES, self._bucket(key).start)
        for start in range(0, len(rows), ROW_BYTES):
            if rows[start + 16 : start + 32] == key:
                row = rows[start : start + ROW_BYTES]
                if hmac.compare_digest(row[:16], self._mac(b"row", row[16:])):
                    return row[_HEAD.size :]
        return None

    def _put(self, key: bytes, value: bytes) -> None:
        if len(value) > ROW_BYTES - _HEAD.size:
            return
        row = _HEAD.pack(bytes(16), key, self._clock()) + value
        row = row.ljust(ROW_BYTES, b"\0")
        start = self._row_for(key)
        self._memory[start : start + ROW_BYTES] = self._mac(b"row", row[16:]) + row[16:]

    def _row_for(self, key: bytes) -> int:
        """The row of a key, else a free one (they are the oldest of all), else the one written longest ago."""
        oldest, since = 0, float("inf")
        for start in self._bucket(key):
            _, found, written = _HEAD.unpack_from(self._memory, start)
            if found == key:
                return start
            if found == bytes(16):
                written = float("-inf")
            if written < since:
                oldest, since = start, written
        return oldest

    def _bucket(self, key: bytes) -> range:
        start = int.from_bytes(key[:8], "little") % self._buckets * BUCKET_ROWS * ROW_BYTES
        return range(start, start + BUCKET_ROWS * ROW_BYTES, ROW_BYTES)

    def _mac(self, purpose: bytes, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._secret, digest_size=16, person=purpose).digest()
