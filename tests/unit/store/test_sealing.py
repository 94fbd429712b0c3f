"""Sealed bodies: what opens, and everything that must not."""

from __future__ import annotations

import mmap
import random
import tempfile
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sora.errors import KeyUnavailable
from sora.store import sealing
from sora.store.blobs import BlobRef, content_hash
from sora.store.sealing import CHUNK, HEADER_BYTES, ONE_SHOT, PLAIN, AccountKey
from sora.types import AccountId, ContentId

KEY = AccountKey(AccountId(7), bytes(range(32)))
TEXT = b"The quick brown fox jumps over the lazy dog.\r\n"


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def text(size: int) -> bytes:
    return (TEXT * (size // len(TEXT) + 1))[:size]


def ref_of(data: bytes, key: sealing.Sealer = KEY, account_id: int = 7) -> BlobRef:
    return BlobRef(AccountId(account_id), ContentId(1), key.hash((data,)), len(data))


def sealed(data: bytes, key: sealing.Sealer = KEY) -> bytes:
    return b"".join(key.seal(key.hash((data,)), (data,)))


BOUNDS = (
    0, 1, 2, 63, 64, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, CHUNK - 1, CHUNK, CHUNK + 1,
    ONE_SHOT - 1, ONE_SHOT, ONE_SHOT + 1, ONE_SHOT + CHUNK - 1, ONE_SHOT + CHUNK, ONE_SHOT + CHUNK + 1, 3_000_000,
)  # fmt: skip


@pytest.mark.parametrize("size", BOUNDS)
@pytest.mark.parametrize("make", [noise, text])
def test_a_sealed_body_opens(make: object, size: int) -> None:
    data = noise(size) if make is noise else text(size)
    stored = sealed(data)
    ref = ref_of(data)
    header = sealing.parse_header(stored)
    assert header is not None
    assert (header.size, header.total, header.stream) == (size, len(stored), size > ONE_SHOT)
    if make is text and size > 100:
        assert header.compressed
    assert sealing.is_sealed(stored)
    assert sealing.is_whole(stored, size)
    assert KEY.open(ref, stored) == data
    assert KEY.verify(ref, stored)
    for word in (data[10:30],) if size > 60 else ():
        assert word not in stored


def test_compressed_only_if_that_is_smaller() -> None:
    assert len(sealed(noise(5000))) == HEADER_BYTES + 5000 + 16
    assert len(sealed(text(5000))) < 500
    assert len(sealed(noise(ONE_SHOT + 1))) == HEADER_BYTES + ONE_SHOT + 1 + 5 * 17
    assert len(sealed(text(ONE_SHOT * 4))) < 5000


def test_pieces_and_mappings_are_as_good_as_one_string() -> None:
    for size in (1000, ONE_SHOT + 12345):
        data = text(size)
        digest = KEY.hash((data[:10], b"", data[10:]))
        assert digest == KEY.hash((data,))
        with tempfile.TemporaryFile() as file:
            file.write(data[10:])
            file.flush()
            mapping = mmap.mmap(file.fileno(), size - 10, prot=mmap.PROT_READ)
            stored = b"".join(KEY.seal(digest, (data[:10], mapping)))
        assert KEY.open(ref_of(data), stored) == data


def test_two_seals_of_a_body_differ_and_both_open() -> None:
    for data in (text(1000), text(ONE_SHOT + 1)):
        first, second = sealed(data), sealed(data)
        assert first != second
        assert len(first) == len(second)
        assert KEY.open(ref_of(data), first) == KEY.open(ref_of(data), second) == data


@pytest.mark.parametrize("data", [b"", b"x", text(300), noise(300)])
def test_every_flipped_bit_is_refused(data: bytes) -> None:
    stored = sealed(data)
    ref = ref_of(data)
    for place in range(len(stored)):
        for bit in (1, 128):
            broken = bytearray(stored)
            broken[place] ^= bit
            assert KEY.open(ref, bytes(broken)) is None, place
            assert not KEY.verify(ref, bytes(broken)), place


def test_every_part_of_a_stream_counts() -> None:
    data = noise(ONE_SHOT + 2 * CHUNK + 5)
    stored, ref = sealed(data), ref_of(data)
    step = CHUNK + 17
    places = [*range(HEADER_BYTES), *range(HEADER_BYTES, len(stored), 9973), len(stored) - 1]
    for place in places:
        broken = bytearray(stored)
        broken[place] ^= 4
        assert KEY.open(ref, bytes(broken)) is None, place
        assert not KEY.verify(ref, bytes(broken)), place
    chunks = [stored[start : start + step] for start in range(HEADER_BYTES, len(stored), step)]
    swapped = stored[:HEADER_BYTES] + b"".join([chunks[1], chunks[0], *chunks[2:]])
    assert KEY.open(ref, swapped) is None


def test_a_stream_that_ends_early_or_goes_on_is_refused_even_with_a_header_that_fits() -> None:
    """Who writes to the object store cannot drop the last chunks: the header is authenticated, and so is the end."""
    data = noise(ONE_SHOT + 2 * CHUNK)
    stored = sealed(data)
    header = sealing.parse_header(stored)
    assert header is not None
    shorter = data[: ONE_SHOT + CHUNK]
    cut = stored[: -(CHUNK + 17)]
    raw = sealing._HEADER.pack(b"\x93SORA\r\n\x1a", 1, header.flags, 0, len(shorter), len(cut), header.nonce)
    assert KEY.open(replace(ref_of(data), size=len(shorter)), raw + cut[HEADER_BYTES:]) is None
    assert KEY.open(ref_of(data), stored + stored[-(CHUNK + 17) :]) is None


@pytest.mark.parametrize("data", [b"", b"Hello.", noise(ONE_SHOT + 1)])
def test_a_header_alone_that_anybody_can_write_is_no_stream(data: bytes) -> None:
    """No chunk is genuine because none was looked at."""
    for flags in (1, 3):
        forged = sealing._HEADER.pack(b"\x93SORA\r\n\x1a", 1, flags, 0, len(data), HEADER_BYTES, bytes(24))
        assert not KEY.verify(ref_of(data), forged)
        assert KEY.open(ref_of(data), forged) is None


@pytest.mark.parametrize("size", [300, ONE_SHOT + CHUNK + 1])
def test_a_torn_body_is_known_by_its_length_and_refused(size: int) -> None:
    data = noise(size)
    stored, ref = sealed(data), ref_of(data)
    lengths = range(len(stored)) if size == 300 else [0, 1, HEADER_BYTES, len(stored) // 2, len(stored) - 1]
    for length in lengths:
        torn = stored[:length]
        assert not sealing.is_whole(torn, size) or length == size
        assert not sealing.is_sealed(torn)
        assert KEY.open(ref, torn) is None
        assert not KEY.verify(ref, torn)
    assert not sealing.is_whole(stored + b"x", size)
    assert KEY.open(ref, stored + b"x") is None


@pytest.mark.parametrize("size", [300, ONE_SHOT + 1])
def test_wrong_account_hash_size_or_key_is_refused(size: int) -> None:
    data = text(size)
    stored, ref = sealed(data), ref_of(data)
    other = AccountKey(AccountId(7), bytes(range(1, 33)))
    twin = AccountKey(AccountId(8), bytes(range(32)))
    assert other.open(ref, stored) is None
    assert twin.open(replace(ref, account_id=AccountId(8)), stored) is None
    assert KEY.open(replace(ref, account_id=AccountId(8)), stored) is None
    assert KEY.open(replace(ref, content_hash=KEY.hash((b"other",))), stored) is None
    assert KEY.open(replace(ref, size=size - 1), stored) is None
    assert KEY.open(replace(ref, content_id=ContentId(99)), stored) == data, "the row's number is no part of the seal"


def test_equal_mail_of_two_accounts_does_not_show() -> None:
    other = AccountKey(AccountId(8), bytes(range(1, 33)))
    data = text(500)
    assert KEY.hash((data,)) != other.hash((data,)) != content_hash(data)
    assert KEY.hash((data,)) == AccountKey(AccountId(8), bytes(range(32))).hash((data,)), "the key alone decides"
    assert KEY.fingerprint != other.fingerprint
    assert len(KEY.fingerprint) == 8


def test_a_data_key_has_its_length() -> None:
    with pytest.raises(ValueError, match="32 octets"):
        AccountKey(AccountId(1), b"short")


@pytest.mark.parametrize("data", [b"", text(300), noise(ONE_SHOT + 5)])
def test_plain_bodies_of_plain_rows_are_taken(data: bytes) -> None:
    ref = ref_of(data, PLAIN)
    assert ref.content_hash == content_hash(data)
    assert b"".join(PLAIN.seal(ref.content_hash, (data,))) == data
    for key in (KEY, PLAIN):
        assert key.open(ref, data) == data
        assert key.verify(ref, data)
        assert key.open(ref, data + b"x") is None
        assert key.open(ref, data[:-1] + b"\0") is None
    if data:
        assert KEY.open(ref_of(data), data) is None, "a plain body in the place of a sealed one"


def test_magic_inside_plain_mail_confuses_nobody() -> None:
    """A mail that is a sealed body to look at, with every field right, stored before encryption and after."""
    inner = sealed(text(300))
    size = len(inner)
    forged = sealing._HEADER.pack(b"\x93SORA\r\n\x1a", 1, 0, 0, size, size, bytes(24)) + inner[HEADER_BYTES:]
    for mail in (inner, forged, forged[:HEADER_BYTES], b"\x93SORA\r\n\x1a", b"\x93SORA\r\n\x1a" + b"\xff" * 60):
        plain = ref_of(mail, PLAIN)
        assert sealing.is_whole(mail, len(mail))
        assert KEY.open(plain, mail) == mail
        assert PLAIN.open(plain, mail) == mail
        stored = sealed(mail)
        assert KEY.open(ref_of(mail), stored) == mail
        assert KEY.open(ref_of(mail), mail) is None


def test_without_encryption_a_sealed_body_is_no_corrupt_one() -> None:
    data = text(300)
    stored = sealed(data)
    with pytest.raises(KeyUnavailable):
        PLAIN.open(ref_of(data), stored)
    with pytest.raises(KeyUnavailable):
        PLAIN.verify(ref_of(data), stored)
    assert PLAIN.open(ref_of(data), stored[:-1]) is None


@pytest.mark.parametrize("place", [8, 9, 10])
def test_what_this_release_does_not_know_is_not_sealed(place: int) -> None:
    stored = bytearray(sealed(text(300)))
    stored[place] |= 64
    assert sealing.parse_header(bytes(stored)) is None
    assert not sealing.is_sealed(bytes(stored))


def test_threads_share_a_key() -> None:
    failed = []

    def work(seed: int) -> None:
        for round_ in range(20):
            data = text(2000 + seed) + noise(1000, seed * 100 + round_)
            if KEY.open(ref_of(data), sealed(data)) != data:
                failed.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.binary(max_size=300) | st.builds(text, st.integers(0, 2 * ONE_SHOT)), min_size=1, max_size=4),
    key=st.binary(min_size=32, max_size=32),
    account_id=st.integers(1, 2**62),
)
def test_any_pieces_round_trip(pieces: list[bytes], key: bytes, account_id: int) -> None:
    sealer = AccountKey(AccountId(account_id), key)
    data = b"".join(pieces)
    digest = sealer.hash(pieces)
    ref = BlobRef(AccountId(account_id), ContentId(1), digest, len(data))
    stored = b"".join(sealer.seal(digest, pieces))
    assert sealer.open(ref, stored) == data
    assert sealer.verify(ref, stored)


@settings(max_examples=200, deadline=None)
@given(
    stored=st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: b"\x93SORA\r\n\x1a\x01\x00\0\0" + rest)
)
def test_any_octets_are_read_without_an_error(stored: bytes) -> None:
    ref = ref_of(TEXT)
    assert KEY.open(ref, stored) is None
    assert KEY.open(replace(ref, size=len(stored), content_hash=content_hash(stored)), stored) == stored


@pytest.mark.parametrize("size", BOUNDS)
@pytest.mark.parametrize("make", [noise, text])
@pytest.mark.parametrize("key", [KEY, PLAIN])
def test_piece_by_piece_it_is_the_same(make: object, size: int, key: sealing.Sealer) -> None:
    data = noise(size) if make is noise else text(size)
    ref = ref_of(data, key)
    written: list[bytes] = []
    key.seal_into(ref.content_hash, (data[: size // 3], data[size // 3 :]), lambda piece: written.append(bytes(piece)))
    stored = b"".join(written)
    assert key.open(ref, stored) == data
    assert len(stored) == len(sealed(data, key))
    opened: list[bytes] = []
    assert key.open_into(ref, stored, opened.append)
    assert b"".join(opened) == data


@pytest.mark.parametrize("make", [noise, text])
@pytest.mark.parametrize("size", [1000, ONE_SHOT + 1, 3_000_000])
def test_piece_by_piece_nothing_else_opens(make: object, size: int) -> None:
    data = noise(size) if make is noise else text(size)
    ref = ref_of(data)
    stored = sealed(data)
    other = ref_of(data[:-1] + b"!")
    for place in (0, HEADER_BYTES, len(stored) // 2, len(stored) - 1):
        wrong = stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :]
        assert not KEY.open_into(ref, wrong, len)
    assert not KEY.open_into(ref, stored[:-1], len)
    assert not KEY.open_into(ref, b"", len)
    assert not KEY.open_into(other, stored, len)
    assert KEY.open_into(ref_of(data, PLAIN), data, len), "a body from before encryption was on"
    with pytest.raises(KeyUnavailable):
        PLAIN.open_into(ref, stored, len)


def test_a_body_that_is_sealed_into_a_file_is_stored_from_there() -> None:
    data = text(3_000_000)

    class File:
        def __init__(self) -> None:
            self.octets = bytearray()

        def write(self, octets: object) -> None:
            self.octets += octets  # type: ignore[arg-type]

        def map(self) -> bytes:
            return bytes(self.octets)

    body = sealing.Unsealed(KEY, KEY.hash((data,)), (data,))
    file = File()
    body.seal_into(file)
    assert body.seal() == (file.map(),)
    assert KEY.open(ref_of(data), file.map()) == data
