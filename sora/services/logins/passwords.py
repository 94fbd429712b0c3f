"""Hashes of passwords: which kinds are stored, how each is verified, when one is due for an upgrade.

Passwords that people choose are hashed with argon2id. App passwords are 100 random bits that Sora made itself;
nobody guesses those, so one salted BLAKE2b is enough, and an account with many of them costs a failed login no more
than an account with none.

Everything here is CPU work and blocks: callers on an event loop go through `Auth`, which has threads for it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import unicodedata
from typing import TYPE_CHECKING, Final

import argon2
from msgspec import Struct

from sora.errors import InvalidName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_PASSWORD_BYTES: Final = 1024
"""Longer ones are refused before they are hashed: the time of argon2 grows with the length of its input."""


class HashCost(Struct, frozen=True):
    """Parameters of argon2id; the defaults are OWASP's minimum (19 MiB, two passes, one lane)."""

    memory_kib: int = 19 * 1024
    passes: int = 2
    lanes: int = 1


def canonical_password(password: str) -> bytes:
    """One form for what is stored and what is typed: NFC, UTF-8.

    Raises:
        InvalidName: it is empty, too long, or holds a NUL or half a character (RFC 4616 §2 forbids NUL).
    """
    try:
        data = unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        raise InvalidName("Password is not valid text") from None
    if not data or len(data) > MAX_PASSWORD_BYTES or b"\0" in data:
        raise InvalidName("Password is empty, too long or holds a NUL")
    return data


def hash_password(password: str, cost: HashCost | None = None) -> str:
    """A new argon2id hash with a salt of its own, in the usual `$argon2id$…` form."""
    return _hasher(cost or HashCost()).hash(canonical_password(password))


def new_app_password() -> str:
    """100 random bits as five groups of four letters and digits, easy to type on a telephone."""
    text = base64.b32encode(secrets.token_bytes(13)).decode().lower()[:20]
    return "-".join(text[i : i + 4] for i in range(0, 20, 4))


def hash_app_password(password: str) -> str:
    """The stored form of what `new_app_password` gave: `$blake2b$salt$digest`, both in hex."""
    salt = secrets.token_bytes(16)
    return f"$blake2b${salt.hex()}${_blake2b(canonical_password(password), salt)}"


def find_match(password: bytes, hashes: Sequence[str], cost: HashCost) -> int | None:
    """Position of the hash that *password* fits, or None.

    At least one argon2id computation is made whatever *hashes* holds, so that the time does not tell an unknown
    account from a wrong password.

    Args:
        password: from `canonical_password`.
        hashes: of one account; unknown kinds never match.
    """
    slow = sorted(range(len(hashes)), key=lambda i: hashes[i].startswith("$argon2"))
    for i in slow:
        if verify(password, hashes[i]):
            return i
    if not any(text.startswith("$argon2") for text in hashes):
        _hasher(cost).hash(password)
    return None


def verify(password: bytes, stored: str) -> bool:
    """Does *password* fit *stored*? A kind that is not in the table, or a damaged hash, fits nothing."""
    kind = stored.split("$", 2)[1] if stored.startswith("$") else ""
    check = KINDS.get(kind)
    return check is not None and check(password, stored)


def needs_upgrade(stored: str, cost: HashCost) -> bool:
    """True for an argon2 hash made with other parameters than *cost*; app passwords stay as they are."""
    return stored.startswith("$argon2") and _hasher(cost).check_needs_rehash(stored)


def _verify_argon2(password: bytes, stored: str) -> bool:
    try:
        return argon2.PasswordHasher().verify(stored, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def _verify_blake2b(password: bytes, stored: str) -> bool:
    try:
        _, _, salt, digest = stored.split("$")
        return hmac.compare_digest(_blake2b(password, bytes.fromhex(salt)), digest)
    except ValueError:
        return False


def _blake2b(password: bytes, salt: bytes) -> str:
    return hashlib.blake2b(password, salt=salt, digest_size=32, person=b"sora-app").hexdigest()


def _hasher(cost: HashCost) -> argon2.PasswordHasher:
    return argon2.PasswordHasher(time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes)


KINDS: Final[Mapping[str, Callable[[bytes, str], bool]]] = {
    "argon2id": _verify_argon2,
    "argon2i": _verify_argon2,
    "argon2d": _verify_argon2,
    "blake2b": _verify_blake2b,
}
