"""A message that waits on the disk: what goes in comes out, and the disk learns nothing."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sora.store.spool_cipher import PIECE, PlainSpool, SealedSpool, SpoolCipher

WORD = b"a peculiar word "


def spool(cipher: SpoolCipher, pieces: list[bytes], change: int = -1) -> tuple[bytes, bytes]:
    """The message as it comes out, and what stood in the file."""
    with tempfile.TemporaryFile() as file:
        for piece in pieces:
            for sealed in cipher.seal(piece):
                file.write(sealed)
        file.flush()
        if change >= 0:
            os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, change)[0] ^ 1]), change)
        file.seek(0)
        raw = file.read()
        mapping = cipher.map(file.fileno(), sum(map(len, pieces)))
    with mapping:
        return bytes(mapping[:]), raw


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=200) | st.integers(1, 3 * PIECE).map(bytes), min_size=1, max_size=5))
def test_what_goes_in_comes_out(pieces: list[bytes]) -> None:
    if any(pieces):
        for cipher in (PlainSpool(), SealedSpool()):
            assert spool(cipher, pieces)[0] == b"".join(pieces)


def test_the_disk_learns_nothing() -> None:
    pieces = [WORD * 100, WORD * 50_000]
    assert WORD in spool(PlainSpool(), pieces)[1]
    assert WORD not in spool(SealedSpool(), pieces)[1]
    assert spool(SealedSpool(), pieces)[1] != spool(SealedSpool(), pieces)[1], "a key for each message"


@pytest.mark.parametrize("place", [0, 1, 3, 4, 20, 100, 400])
def test_a_changed_file_is_refused(place: int) -> None:
    with pytest.raises(OSError, match="changed"):
        spool(SealedSpool(), [WORD * 10, WORD * 20], change=place)
