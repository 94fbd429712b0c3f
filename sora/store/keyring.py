"""The keyring: master keys in a file that only root, or the user that Sora runs as, may read.

A TOML file with one table for each key, made and changed by `sora-admin keys rotate`:

    [[key]]
    id = "20260314-5f0c"                                 # letters, digits, `-` and `_`
    created = 2026-03-14T09:26:53Z
    key = "q7v1…"                                        # 32 random octets in base64
    waiting = true                                       # optional: decrypts, and does not encrypt yet

A master key wraps the data keys of accounts and nothing else. The newest that does not wait encrypts, all decrypt. A
key may leave the file when no data key is wrapped by it any more (`sora-admin keys list`).

A wrapped key is a version octet, a nonce and the data key under XChaCha20-Poly1305, with the account, the purpose and
the id of the master key authenticated: it opens for the account that it was wrapped for, and for no other.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nacl.bindings as sodium
from msgspec import Struct
from msgspec.structs import replace
from nacl.exceptions import CryptoError

from sora.errors import ConfigError, KeyUnavailable, NotFound
from sora.store import diskfile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sora.config import Config
    from sora.types import AccountId

MASTER_BYTES: Final = 32
FORBIDDEN_MODE: Final = 0o077
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FIELDS: Final = frozenset({"id", "created", "key", "waiting"})
_VERSION: Final = b"\x01"
_NONCE: Final = sodium.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_PURPOSE: Final = b"sora account key"
_ABOUT: Final = """\
# Master keys of Sora. Who has this file and the database or the bucket can read all mail; who loses it, none.
# Keep it readable by its owner alone, keep a copy in a safe place apart from the backups, and give every node the same.
# `sora-admin keys rotate` adds a key, `sora-admin keys list` tells which are still needed.
"""


class MasterKey(Struct, frozen=True):
    """One key of the keyring.

    Attributes:
        waiting: It decrypts only, until every node has it.
    """

    id: str
    created_at: datetime
    secret: bytes
    waiting: bool = False

    def __repr__(self) -> str:
        """Never the secret: this may stand in a traceback."""
        return f"MasterKey({self.id!r})"

    @property
    def fingerprint(self) -> bytes:
        """Sixteen octets that name the key and tell nothing of it."""
        return _derive(self.secret, b"sora master id")[:16]

    def wrap(self, account_id: AccountId, key: bytes) -> bytes:
        """A data key for the database."""
        nonce = sodium.randombytes(_NONCE)
        sealed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
            key, self._context(account_id), nonce, self._wrapping_key()
        )
        return _VERSION + nonce + sealed

    def unwrap(self, account_id: AccountId, wrapped: bytes) -> bytes:
        """The data key.

        Raises:
            KeyUnavailable: It was wrapped by another key or for another account, or it is damaged.
        """
        nonce, sealed = wrapped[1 : 1 + _NONCE], wrapped[1 + _NONCE :]
        try:
            if wrapped[:1] != _VERSION:
                raise ValueError("unknown version")
            return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, self._context(account_id), nonce, self._wrapping_key()
            )
        except (CryptoError, ValueError, TypeError) as error:
            raise KeyUnavailable(
                detail=f"the data key of account {account_id} does not open with master key {self.id}"
            ) from error

    def _context(self, account_id: AccountId) -> bytes:
        return b"\0".join((_PURPOSE, b"%d" % account_id, self.id.encode()))

    def _wrapping_key(self) -> bytes:
        return _derive(self.secret, b"sora wrap")


class Keyring:
    """The master keys of a file, as it is now or was when it was last needed.

    Args:
        service_uid: Whose file it may be besides ours and root's: the user that Sora runs as.

    Raises:
        ConfigError: The file is missing, readable by others, or not a keyring.
    """

    def __init__(self, path: str | Path, *, service_uid: int = 0) -> None:
        self._path = Path(path)
        self._service_uid = service_uid
        self._keys: dict[str, MasterKey] = {}
        self._seen: tuple[int, ...] = ()
        self._read()

    @property
    def keys(self) -> tuple[MasterKey, ...]:
        """All keys, the oldest first."""
        return tuple(self._keys.values())

    def newest(self) -> MasterKey:
        """The key that encrypts; the file is looked at anew.

        Raises:
            ConfigError: The file has changed and cannot be used.
        """
        self.refresh()
        return [key for key in self.keys if not key.waiting][-1]

    def get(self, key_id: str) -> MasterKey:
        """A key by its id; an unknown one is looked for in the file, if that has changed.

        Raises:
            NotFound: It is not there.
        """
        if key_id not in self._keys:
            with contextlib.suppress(ConfigError):
                self.refresh()
        if key_id not in self._keys:
            raise NotFound(f"No master key {key_id} in {self._path}")
        return self._keys[key_id]

    def refresh(self) -> None:
        """Read the file again, if it is another one than was read.

        Raises:
            ConfigError: It cannot be used; the keys stay as they were.
        """
        try:
            found = self._path.stat()
        except OSError as error:
            raise ConfigError(f"encryption.keyring_file: {self._path}: {error.strerror}") from error
        if _mark(found) != self._seen:
            self._read()

    def _read(self) -> None:
        keys, self._seen = _load(self._path, self._service_uid)
        self._keys = {key.id: key for key in keys}


def service_uid(config: Config) -> int:
    """The user that Sora runs as, to whom its staged mail belongs; root where it has not run yet."""
    try:
        return Path(config.uploader.staging_path).stat().st_uid
    except OSError:
        return 0


def open_keyring(config: Config) -> Keyring | None:
    """The keyring that the configuration names; None: encryption is off.

    Raises:
        ConfigError: See `Keyring`.
    """
    path = config.encryption.keyring_file
    return Keyring(path, service_uid=service_uid(config)) if path else None


def exists(path: str | Path) -> bool:
    """There is a keyring file."""
    return Path(path).exists()


def add_key(path: str | Path, *, waiting: bool = False, service_uid: int = 0) -> MasterKey:
    """Make a master key and write it to the file, which is made if it is missing.

    Args:
        waiting: See `MasterKey`; the first key of a file never waits.
        service_uid: See `Keyring`; root gives a new file to this user.

    Raises:
        ConfigError: The file is not a keyring, or cannot be written.
    """
    with _changing(Path(path), service_uid) as keys:
        now = datetime.now(UTC).replace(microsecond=0)
        key = MasterKey(
            id=f"{now:%Y%m%d}-{secrets.token_hex(2)}",
            created_at=max([now, *(key.created_at for key in keys)]),
            secret=secrets.token_bytes(MASTER_BYTES),
            waiting=bool(keys),
        )
        keys.append(key)
    if waiting or not key.waiting:
        return key
    # Only now: whoever reads the file between its rename and the sync of its directory must not wrap with this key yet.
    return _activate(path, [key.id], service_uid)[0]


def activate(path: str | Path, *, service_uid: int = 0) -> list[MasterKey]:
    """Let the keys that wait encrypt; which they were.

    Raises:
        ConfigError: The file is not a keyring, or cannot be written.
    """
    waiting = [key for key in _load(Path(path), service_uid)[0] if key.waiting]
    if waiting:
        _activate(path, [key.id for key in waiting], service_uid)
    return waiting


def _activate(path: str | Path, key_ids: Sequence[str], service_uid: int) -> list[MasterKey]:
    """Those keys as they are then."""
    with _changing(Path(path), service_uid) as keys:
        keys[:] = [replace(key, waiting=key.waiting and key.id not in key_ids) for key in keys]
    return [key for key in keys if key.id in key_ids]


@contextlib.contextmanager
def _changing(path: Path, service_uid: int) -> Iterator[list[MasterKey]]:
    """The keys of the file, to be changed and written back: whole or not at all, one writer at a time."""
    try:
        with _locked(path.parent):
            _remove_left(path)
            keys = list(_load(path, service_uid)[0]) if path.exists() else []
            yield keys
            _write(path, keys, service_uid)
    except OSError as error:
        raise ConfigError(f"encryption.keyring_file: {error.filename or path}: {error.strerror}") from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(path: Path, keys: Sequence[MasterKey], service_uid: int) -> None:
    temporary = path.with_name(f"{_temporary_prefix(path)}{secrets.token_hex(12)}{diskfile.TEMPORARY_SUFFIX}")
    fd = diskfile.write_new(temporary, dump(keys).encode())
    try:
        if path.exists():
            owner = path.stat()
            os.fchown(fd, owner.st_uid, owner.st_gid)
        elif os.geteuid() == 0:
            os.fchown(fd, service_uid, -1)
        os.fsync(fd)
        temporary.replace(path)
        diskfile.sync_directory(path.parent)
    finally:
        os.close(fd)
        temporary.unlink(missing_ok=True)


def _remove_left(path: Path) -> None:
    """What writers that were killed left behind: it holds every key. Call it with the lock held."""
    for left in list(path.parent.iterdir()):
        if left.name.startswith(_temporary_prefix(path)) and left.name.endswith(diskfile.TEMPORARY_SUFFIX):
            left.unlink()


def _temporary_prefix(path: Path) -> str:
    return f".{path.name}-"


def dump(keys: Sequence[MasterKey]) -> str:
    """The text of a keyring file."""
    parts = [_ABOUT]
    for key in keys:
        lines = (
            "[[key]]",
            f'id = "{key.id}"',
            f"created = {key.created_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            f'key = "{base64.b64encode(key.secret).decode()}"',
            *(("waiting = true",) if key.waiting else ()),
        )
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _load(path: Path, service_uid: int) -> tuple[list[MasterKey], tuple[int, ...]]:
    """The keys, the oldest first, and what tells this file from a later one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            _check_access(path, found, service_uid)
            data = os.read(fd, found.st_size + 1)
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise ConfigError(
            f"encryption.keyring_file: {path}: no such file; `sora-admin keys rotate` makes one"
        ) from error
    except OSError as error:
        raise ConfigError(f"encryption.keyring_file: {path}: {error.strerror}") from error
    try:
        return _parse(data.decode()), _mark(found)
    except (ValueError, TypeError) as error:  # of TOML and UTF-8 too
        raise ConfigError(f"encryption.keyring_file: {path}: {error}") from error


def _check_access(path: Path, found: os.stat_result, service_uid: int) -> None:
    """A key that others can read, or could have written, is none."""
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"encryption.keyring_file: {path}: not a file")
    if stat.S_IMODE(found.st_mode) & FORBIDDEN_MODE:
        raise ConfigError(f"encryption.keyring_file: {path}: others than its owner may use it; run `chmod 600 {path}`")
    if found.st_uid not in (0, os.geteuid(), service_uid):
        raise ConfigError(f"encryption.keyring_file: {path}: it belongs to user {found.st_uid}, not to us or root")


def _parse(text: str) -> list[MasterKey]:
    tables = tomllib.loads(text)
    entries = tables.pop("key", [])
    if tables:
        raise ValueError(f"unknown: {', '.join(tables)}")
    if not isinstance(entries, list) or not entries:
        raise ValueError("there is no [[key]] in it")
    keys = [_parse_key(entry) for entry in entries]
    if len({key.id for key in keys}) < len(keys):
        raise ValueError("two keys have the same id")
    if all(key.waiting for key in keys):
        raise ValueError("every key is waiting: none may encrypt")
    return sorted(keys, key=lambda key: key.created_at)


def _parse_key(entry: Any) -> MasterKey:
    """One table; no message of an error holds a part of a secret."""
    if not isinstance(entry, dict) or not {"id", "created", "key"} <= entry.keys() <= _FIELDS:
        raise ValueError("a [[key]] has id, created, key, and perhaps waiting")
    key_id, created, encoded = entry["id"], entry["created"], entry["key"]
    if not isinstance(key_id, str) or not _ID.fullmatch(key_id):
        raise ValueError("an id is made of letters, digits, `-` and `_`")
    if not isinstance(created, datetime) or created.tzinfo is None:
        raise ValueError(f"key {key_id}: created is a time such as 2026-03-14T09:26:53Z")
    try:
        secret = base64.b64decode(encoded, validate=True)
    except (binascii.Error, TypeError, ValueError):
        secret = b""
    if len(secret) != MASTER_BYTES:
        raise ValueError(f"key {key_id}: the key is not {MASTER_BYTES} octets in base64")
    if not isinstance(entry.get("waiting", False), bool):
        raise ValueError(f"key {key_id}: waiting is true or false")
    return MasterKey(key_id, created, secret, entry.get("waiting", False))


def _mark(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _derive(key: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=key, digest_size=32, person=purpose).digest()
