"""DEFLATE streams against zlib by hand."""

from __future__ import annotations

import random
import zlib

import pytest

from sora.errors import BadSyntax
from sora.net.deflate import INFLATE_SLICE, Deflate


def compressed(data: bytes, *, level: int = 6, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush(flush)


def all_of(deflate: Deflate, data: bytes) -> bytes:
    plain = deflate.inflate(data)
    while deflate.more:
        plain += deflate.inflate(b"")
    return plain


def test_every_answer_can_be_read_at_once() -> None:
    """RFC 4978 §4: what was said must not stay in the compressor."""
    ours, theirs = Deflate(), zlib.decompressobj(-zlib.MAX_WBITS)
    for text in (b"* OK hello\r\n", b"", b"x" * 100_000, random.Random(1).randbytes(70_000)):
        assert theirs.decompress(ours.deflate(text)) == text
    assert not theirs.eof


def test_a_forgotten_compressor_continues_the_stream() -> None:
    """The peer's one decompressor reads what several compressors of ours wrote."""
    ours, theirs = Deflate(), zlib.decompressobj(-zlib.MAX_WBITS)
    for number in range(20):
        text = b"* %d FETCH (FLAGS (\\Seen))\r\n" % number * 50
        assert theirs.decompress(ours.deflate(text)) == text
        if number % 3 == 0:
            ours.forget()


def test_words_said_before_are_cheap_to_say_again() -> None:
    ours = Deflate()
    text = random.Random(2).randbytes(500)
    first, again = ours.deflate(text), ours.deflate(text)
    assert len(again) < 50 < len(first)


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_input_octet_by_octet(level: int) -> None:
    data = b"a LOGIN alice secret\r\n" * 100 + random.Random(3).randbytes(5000)
    ours = Deflate()
    stream = compressed(data, level=level)
    assert b"".join(all_of(ours, stream[i : i + 1]) for i in range(len(stream))) == data


def test_a_bomb_comes_in_slices() -> None:
    """100 MB in 100 kB: each step gives a slice, the rest waits compressed, nothing is lost."""
    size = 100 * 2**20
    bomb = compressed(b"\n" * size)
    ours = Deflate()
    total, longest, plain = 0, 0, ours.inflate(bomb)
    while plain:
        total, longest = total + len(plain), max(longest, len(plain))
        plain = ours.inflate(b"") if ours.more else b""
    assert (total, longest) == (size, INFLATE_SLICE)
    assert not ours.more


@pytest.mark.parametrize("size", [INFLATE_SLICE - 1, INFLATE_SLICE, INFLATE_SLICE + 1, INFLATE_SLICE + 258])
def test_nothing_stays_behind_at_the_end_of_a_slice(size: int) -> None:
    """zlib may have taken all input while a match is still half copied."""
    ours = Deflate()
    assert all_of(ours, compressed(b"x" * size)) == b"x" * size
    assert not ours.more


@pytest.mark.parametrize("stream", [b"\xff\xff\xff\xff", b"a NOOP\r\n", b"\x78\x9c" + b"\x00" * 20])
def test_what_is_no_stream_is_refused(stream: bytes) -> None:
    ours = Deflate()
    with pytest.raises(BadSyntax):
        all_of(ours, stream * 2)


def test_nothing_comes_after_the_end_of_a_stream() -> None:
    ours = Deflate()
    assert ours.inflate(compressed(b"a NOOP\r\n", flush=zlib.Z_FINISH)) == b"a NOOP\r\n"
    with pytest.raises(BadSyntax):
        ours.inflate(b"a NOOP\r\n")
