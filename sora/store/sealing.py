"""Bodies as they are stored: sealed with a key of their account, or plain.

An account has one data key of 32 random octets. From it come, by keyed BLAKE2b, a key for content hashes and a key for
bodies, and from the latter a key for each body by its content hash. So equal mail of two accounts has nothing in common
that a reader of the object store could see, and inside an account it is still stored once.

A sealed body begins with a header, in little-endian octets:

| offset | length | field                                                                               |
|--------|--------|-------------------------------------------------------------------------------------|
| 0      | 8      | magic, `93 "SORA" 0d 0a 1a`                                                         |
| 8      | 1      | version, 1                                                                          |
| 9      | 1      | flags: 1 = in chunks, 2 = compressed by zstd                                        |
| 10     | 2      | zero                                                                                |
| 12     | 8      | octets of the plain body                                                            |
| 20     | 8      | octets of the whole sealed body, by which a torn file is known without any key      |
| 28     | 24     | nonce, or the header of the secretstream                                            |

What follows is XChaCha20-Poly1305: one message up to `ONE_SHOT` octets of plain body, else a secretstream in chunks of
`CHUNK`, the last marked as such. Header, account id and content hash are authenticated with it: a body that was moved
to another account or row, cut or changed in any bit is refused. The content id is not part of that, because staging
and cache do not know it, and what is written to staging is uploaded as it is: a body is encrypted once.

A body is compressed first, if that makes it smaller, and never together with another one. The length of a sealed body
tells how long the mail is and how well it compresses; nothing is padded.

**Plain bodies** of rows from before encryption was turned on keep their plain hash, and are taken as long as length and
hash are those of the row. A plain mail may begin with the magic, sent by who knows whom: then the seal does not open,
and length and hash decide as for any other.
"""

from __future__ import annotations

import hashlib
import io
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import nacl.bindings as sodium
import zstandard
from msgspec import Struct
from nacl.exceptions import CryptoError

from sora.errors import KeyUnavailable
from sora.store.blobs import HASH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sora.store.blobs import BlobRef
    from sora.store.diskfile import Octets
    from sora.types import AccountId

KEY_BYTES: Final = 32
ONE_SHOT: Final = 256 * 1024
"""Octets of plain body sealed as one message; the more a reader must hold before he knows that they are genuine."""
CHUNK: Final = 64 * 1024
LEVEL: Final = 1
"""Of zstd: mail is mostly text and base64, where the higher levels cost several times as much for a few parts in a
hundred."""

_MAGIC: Final = b"\x93SORA\r\n\x1a"
_VERSION: Final = 1
_STREAM: Final = 1
_ZSTD: Final = 2
_HEADER: Final = struct.Struct("<8sBBHQQ24s")
_ACCOUNT: Final = struct.Struct("<q")
_CHUNK_MORE: Final = sodium.crypto_secretstream_xchacha20poly1305_ABYTES
_ONE_SHOT_MORE: Final = sodium.crypto_aead_xchacha20poly1305_ietf_ABYTES
_NONCE: Final = sodium.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_FINAL: Final = sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL
_MESSAGE: Final = sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE

HEADER_BYTES: Final = _HEADER.size


class Header(Struct, frozen=True):
    """What a sealed body says of itself; it is not to be believed before the seal has opened.

    Attributes:
        size: Octets of the plain body.
        total: Octets of the sealed body.
        raw: The header as it is stored.
    """

    flags: int
    size: int
    total: int
    nonce: bytes
    raw: bytes

    @property
    def stream(self) -> bool:
        """True if the body is in chunks."""
        return bool(self.flags & _STREAM)

    @property
    def compressed(self) -> bool:
        """True if the body was compressed before it was sealed."""
        return bool(self.flags & _ZSTD)


def parse_header(stored: Octets) -> Header | None:
    """The header at the beginning of `stored`; None if there is none that this release knows."""
    raw = bytes(stored[:HEADER_BYTES])
    if len(raw) < HEADER_BYTES or not raw.startswith(_MAGIC):
        return None
    _, version, flags, zero, size, total, nonce = _HEADER.unpack(raw)
    if version != _VERSION or flags & ~(_STREAM | _ZSTD) or zero:
        return None
    return Header(flags, size, total, nonce, raw)


def is_sealed(stored: Octets) -> bool:
    """True if `stored` looks like a sealed body that is whole; a plain mail may be made to look so."""
    return is_sealed_file(stored, len(stored))


def is_sealed_file(head: Octets, length: int) -> bool:
    """`is_sealed` of a file of so many octets that begins with `head`."""
    header = parse_header(head)
    return header is not None and header.total == length


def most_stored(size: int) -> int:
    """No body of `size` plain octets is longer than this when it is stored."""
    return _stream_total(size) if size > ONE_SHOT else HEADER_BYTES + size + _ONE_SHOT_MORE


def is_whole(stored: Octets, size: int) -> bool:
    """False if `stored` cannot be a body of `size` plain octets, because some of it is missing or too much."""
    if len(stored) == size:
        return True
    header = parse_header(stored)
    return header is not None and (header.size, header.total) == (size, len(stored))


class Unsealed:
    """A plain body that is sealed when it is stored, so that no more of them are held sealed than are stored at once.

    Args:
        keep: It is stored in several places, and is to be the same in all of them.
    """

    __slots__ = ("_digest", "_keep", "_pieces", "_sealed", "_sealer")

    def __init__(self, sealer: Sealer, digest: bytes, pieces: tuple[Octets, ...], *, keep: bool = False) -> None:
        self._sealer = sealer
        self._digest = digest
        self._pieces = pieces
        self._keep = keep
        self._sealed: tuple[Octets, ...] | None = None

    def seal(self) -> tuple[Octets, ...]:
        """What is stored."""
        if self._sealed is not None:
            return self._sealed
        sealed = tuple(self._sealer.seal(self._digest, self._pieces))
        if self._keep:
            self._sealed = sealed
        return sealed

    def seal_into(self, file: SealedFile) -> None:
        """Seal into a file, and let go of the plain body: what is stored is read from there. Blocks.

        Raises:
            StagingFull: There is no room; the plain body is still here.
        """
        self._sealer.seal_into(self._digest, self._pieces, file.write)
        self._sealed, self._pieces = (file.map(),), ()

    def release(self) -> None:
        """It is stored; what is sealed after this differs, and is as good."""
        self._sealed = None


class SealedFile(Protocol):
    """Where a large body is sealed into."""

    def write(self, data: Octets) -> None:
        """Append."""

    def map(self) -> Octets:
        """What was written."""


class Sealer(Protocol):
    """How the bodies of an account are named, stored and read."""

    def hash(self, pieces: Iterable[Octets]) -> bytes:
        """The content hash of a plain body, which may be in pieces."""

    def seal(self, digest: bytes, pieces: Sequence[Octets]) -> Sequence[Octets]:
        """What is stored of a plain body whose content hash is `digest`."""

    def seal_into(self, digest: bytes, pieces: Sequence[Octets], write: Callable[[Octets], None]) -> None:
        """The same, written piece by piece: no copy of the body is held."""

    def open_into(self, ref: BlobRef, stored: bytes, write: Callable[[Octets], object]) -> bool:
        """Write the plain body piece by piece; False: `stored` is not this body, and what was written is nothing.

        Raises:
            KeyUnavailable: See `open`.
        """

    def open(self, ref: BlobRef, stored: bytes) -> bytes | None:
        """The plain body, verified; None if `stored` is not this body.

        Raises:
            KeyUnavailable: It may be, but there is no key to tell.
        """

    def verify(self, ref: BlobRef, stored: bytes) -> bool:
        """True if `stored` is this body; it costs less than to open it.

        Raises:
            KeyUnavailable: See `open`.
        """


class Plain:
    """No encryption: bodies are stored as they are."""

    def hash(self, pieces: Iterable[Octets]) -> bytes:
        """See `Sealer.hash`."""
        return _hash(b"", pieces)

    def seal(self, digest: bytes, pieces: Sequence[Octets]) -> Sequence[Octets]:
        """See `Sealer.seal`."""
        return pieces

    def seal_into(self, digest: bytes, pieces: Sequence[Octets], write: Callable[[Octets], None]) -> None:
        """See `Sealer.seal_into`."""
        for piece in pieces:
            write(piece)

    def open_into(self, ref: BlobRef, stored: bytes, write: Callable[[Octets], object]) -> bool:
        """See `Sealer.open_into`."""
        right = self.verify(ref, stored)
        if right:
            write(stored)
        return right

    def open(self, ref: BlobRef, stored: bytes) -> bytes | None:
        """See `Sealer.open`."""
        return stored if self.verify(ref, stored) else None

    def verify(self, ref: BlobRef, stored: bytes) -> bool:
        """See `Sealer.verify`."""
        if ref.matches(stored):
            return True
        header = parse_header(stored)
        if header is not None and (header.size, header.total) == (ref.size, len(stored)):
            raise KeyUnavailable(detail=f"a sealed body, and no key of account {ref.account_id}")
        return False


PLAIN: Final = Plain()


class AccountKey:
    """Seals and opens the bodies of one account.

    Args:
        key: The account's data key, `KEY_BYTES` octets.
    """

    __slots__ = ("_account", "_hash_key", "_record_key", "_seal_key", "account_id", "fingerprint")

    def __init__(self, account_id: AccountId, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a data key has {KEY_BYTES} octets, not {len(key)}")
        self.account_id = account_id
        self.fingerprint = fingerprint(key)
        self._account = _ACCOUNT.pack(account_id)
        self._hash_key = _derive(key, b"sora hash")
        self._seal_key = _derive(key, b"sora body")
        self._record_key = _derive(key, b"sora record")

    def hash(self, pieces: Iterable[Octets]) -> bytes:
        """See `Sealer.hash`."""
        return _hash(self._hash_key, pieces)

    def seal(self, digest: bytes, pieces: Sequence[Octets]) -> Sequence[Octets]:
        """See `Sealer.seal`; of a large body no more than one copy is made, the sealed one."""
        size = sum(map(len, pieces))
        if size <= ONE_SHOT:
            return self._seal_one(digest, pieces[0] if len(pieces) == 1 else b"".join(pieces), size)
        packed = _compressed(pieces, size)
        if packed is None:
            return list(self._seal_stream(digest, _chunks(pieces), size, size))
        return list(self._seal_stream(digest, _chunks(_drained(packed)), size, sum(map(len, packed))))

    def seal_into(self, digest: bytes, pieces: Sequence[Octets], write: Callable[[Octets], None]) -> None:
        """See `Sealer.seal_into`; a large body is compressed twice, at first to learn how long it becomes."""
        size = sum(map(len, pieces))
        if size <= ONE_SHOT:
            sealed: Iterable[Octets] = self.seal(digest, pieces)
        else:
            length = _packed_length(pieces, size)
            chunks = _chunks(pieces if length == size else _packed(pieces, size))
            sealed = self._seal_stream(digest, chunks, size, length)
        for piece in sealed:
            write(piece)

    def open(self, ref: BlobRef, stored: bytes) -> bytes | None:
        """See `Sealer.open`."""
        header = self._header(ref, stored)
        if header is not None:
            data = self._open_stream(ref, header, stored) if header.stream else self._open_one(ref, header, stored)
            if data is not None and len(data) == ref.size and self.hash((data,)) == ref.content_hash:
                return data
        return stored if ref.matches(stored) else None

    def open_into(self, ref: BlobRef, stored: bytes, write: Callable[[Octets], object]) -> bool:
        """See `Sealer.open_into`."""
        header = self._header(ref, stored)
        if header is not None and header.stream and len(stored) != ref.size:  # so it is no plain body either
            counted = _Counted(self._hash_key, write)
            if self._write_stream(ref, header, stored, counted):
                return counted.size == ref.size and counted.state.digest() == ref.content_hash
            return False
        data = self.open(ref, stored)
        if data is not None:
            write(data)
        return data is not None

    def verify(self, ref: BlobRef, stored: bytes) -> bool:
        """See `Sealer.verify`; a sealed body is neither decompressed nor hashed."""
        header = self._header(ref, stored)
        if header is not None:
            if header.stream:
                genuine = all(piece is not None for piece in self._pull(ref, header, stored))
            else:
                genuine = self._decrypt(ref, header, stored) is not None
            if genuine:
                return True
        return ref.matches(stored)

    def seal_record(self, context: bytes, data: bytes) -> bytes:
        """What is stored of a record that is no body: nonce and ciphertext. It opens with the same context alone.

        Args:
            context: Says where the record stands, and of what kind it is.
        """
        nonce = sodium.randombytes(_NONCE)
        return nonce + sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
            data, self._account + context, nonce, self._record_key
        )

    def open_record(self, context: bytes, stored: bytes) -> bytes | None:
        """A record; None if it is not what was sealed with this key in this place."""
        try:
            return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
                stored[_NONCE:], self._account + context, stored[:_NONCE], self._record_key
            )
        except (CryptoError, ValueError, TypeError):  # not genuine, or too short to be
            return None

    def _header(self, ref: BlobRef, stored: bytes) -> Header | None:
        """The header, if it fits the row and the length."""
        header = parse_header(stored)
        return header if header and (header.size, header.total) == (ref.size, len(stored)) else None

    def _object_key(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._seal_key, digest_size=KEY_BYTES, person=b"sora object").digest()

    def _seal_one(self, digest: bytes, data: Octets, size: int) -> tuple[bytes, bytes]:
        plain = data if isinstance(data, bytes) else bytes(data[:])
        packed = _contexts.compressor.compress(plain)
        flags = _ZSTD if len(packed) < size else 0
        nonce = sodium.randombytes(_NONCE)
        payload = packed if flags else plain
        raw = _HEADER.pack(_MAGIC, _VERSION, flags, 0, size, HEADER_BYTES + len(payload) + _ONE_SHOT_MORE, nonce)
        sealed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
            payload, raw + self._account + digest, nonce, self._object_key(digest)
        )
        return raw, sealed

    def _seal_stream(self, digest: bytes, chunks: Iterable[bytes], size: int, length: int) -> Iterator[bytes]:
        """Seal `length` octets; if these are not `size`, they are compressed."""
        state = sodium.crypto_secretstream_xchacha20poly1305_state()
        nonce = sodium.crypto_secretstream_xchacha20poly1305_init_push(state, self._object_key(digest))
        raw = _HEADER.pack(
            _MAGIC, _VERSION, _STREAM | (0 if length == size else _ZSTD), 0, size, _stream_total(length), nonce
        )
        yield raw
        context: bytes | None = raw + self._account + digest
        for chunk in chunks:
            length -= len(chunk)
            tag = _MESSAGE if length else _FINAL
            yield sodium.crypto_secretstream_xchacha20poly1305_push(state, chunk, context, tag)
            context = None
        if length:
            raise AssertionError("a body was compressed to another length than before")

    def _decrypt(self, ref: BlobRef, header: Header, stored: bytes) -> bytes | None:
        context = header.raw + _ACCOUNT.pack(ref.account_id) + ref.content_hash
        try:
            return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
                stored[HEADER_BYTES:], context, header.nonce, self._object_key(ref.content_hash)
            )
        except (CryptoError, ValueError, TypeError):  # not genuine, or too short to be
            return None

    def _open_one(self, ref: BlobRef, header: Header, stored: bytes) -> bytes | None:
        data = self._decrypt(ref, header, stored)
        if data is None or not header.compressed:
            return data
        return _contexts.decompressor.decompress(data)

    def _pull(self, ref: BlobRef, header: Header, stored: bytes) -> Iterator[bytes | None]:
        """The chunks as they were before they were sealed; None, and no more, where one is not genuine."""
        context: bytes | None = header.raw + _ACCOUNT.pack(ref.account_id) + ref.content_hash
        state = sodium.crypto_secretstream_xchacha20poly1305_state()
        sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, header.nonce, self._object_key(ref.content_hash))
        if len(stored) == HEADER_BYTES:  # a stream has a chunk; to look at none would prove nothing
            yield None
        for start in range(HEADER_BYTES, len(stored), CHUNK + _CHUNK_MORE):
            sealed = stored[start : start + CHUNK + _CHUNK_MORE]
            last = start + len(sealed) == len(stored)
            try:
                chunk, tag = sodium.crypto_secretstream_xchacha20poly1305_pull(state, sealed, context)
            except (CryptoError, RuntimeError, ValueError):
                yield None
                return
            if tag != (_FINAL if last else _MESSAGE):
                yield None
                return
            yield chunk
            context = None

    def _open_stream(self, ref: BlobRef, header: Header, stored: bytes) -> bytes | None:
        """Into a buffer that is handed over as it is: a body is not held twice."""
        out = io.BytesIO()
        unpack = _contexts.decompressor.decompressobj() if header.compressed else None
        for chunk in self._pull(ref, header, stored):
            if chunk is None:
                return None
            out.write(chunk if unpack is None else unpack.decompress(chunk))
        return out.getvalue()

    def _write_stream(self, ref: BlobRef, header: Header, stored: bytes, counted: _Counted) -> bool:
        write: Callable[[bytes], object] = counted.write
        if header.compressed:
            write = _contexts.decompressor.stream_writer(counted, write_size=CHUNK, closefd=False).write  # type: ignore[arg-type]
        for chunk in self._pull(ref, header, stored):
            if chunk is None:
                return False
            write(chunk)
        return True


class _Counted:
    """Hands on what is written, with its size and its hash."""

    def __init__(self, key: bytes, write: Callable[[Octets], object]) -> None:
        self.state = hashlib.blake2b(key=key, digest_size=HASH_BYTES)
        self.size = 0
        self._write = write

    def write(self, data: bytes) -> int:
        self.state.update(data)
        self.size += len(data)
        self._write(data)
        return len(data)


def fingerprint(key: bytes) -> bytes:
    """Eight octets that name a data key and tell nothing of it."""
    return _derive(key, b"sora fingerprint")[:8]


def _derive(key: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=key, digest_size=KEY_BYTES, person=purpose).digest()


def _hash(key: bytes, pieces: Iterable[Octets]) -> bytes:
    state = hashlib.blake2b(key=key, digest_size=HASH_BYTES)
    for piece in pieces:
        state.update(piece)
    return state.digest()


class _Contexts(threading.local):
    """Compressors of this thread: to make one costs more than to use it."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts: Final = _Contexts()


def _compressed(pieces: Sequence[Octets], size: int) -> deque[bytes] | None:
    """The body compressed; None if that makes it no smaller."""
    packed: deque[bytes] = deque()
    length = 0
    for piece in _packed(pieces, size):
        packed.append(piece)
        length += len(piece)
        if length >= size:
            return None
    return packed


def _packed(pieces: Sequence[Octets], size: int) -> Iterator[bytes]:
    """The body compressed, the same octets every time."""
    pack = _contexts.compressor.compressobj(size=size)
    for chunk in _chunks(pieces):
        yield pack.compress(chunk)
    yield pack.flush()


def _packed_length(pieces: Sequence[Octets], size: int) -> int:
    """How long the body is compressed; `size` if that makes it no smaller."""
    length = 0
    for piece in _packed(pieces, size):
        length += len(piece)
        if length >= size:
            return size
    return length


def _drained(packed: deque[bytes]) -> Iterator[bytes]:
    """Pieces that are let go of as soon as they are used."""
    while packed:
        yield packed.popleft()


def _chunks(pieces: Iterable[Octets]) -> Iterator[bytes]:
    """The same octets in chunks of `CHUNK`; the last may be shorter."""
    held = bytearray()
    for piece in pieces:
        start = 0
        while start < len(piece):
            step = min(CHUNK - len(held), len(piece) - start)
            held += piece[start : start + step]
            start += step
            if len(held) == CHUNK:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


def _stream_total(length: int) -> int:
    return HEADER_BYTES + length + _CHUNK_MORE * -(-length // CHUNK)
