"""LMTP: nothing but CRLF.CRLF ends message data, wherever the network cuts it (RFC 5321 §4.1.1.4)."""

from __future__ import annotations

from itertools import product

import pytest

from sora.wire.lmtp import Scanner

BREAKS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\n\r",
    b"\0\r\n",
    b"\r\0\n",
    b"\r\n\0",
    b"\n\0",
    b"\0",
    b"\x0b",
    b"\x85",
    b"",
)
"""What somewhere was taken for the end of a line."""
DOTS = (b".", b"\0.", b".\0", b". ", b".\t", b"\xef\xbc\x8e")
FORGED = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<other@example.com>\r\nDATA\r\nSubject: forged\r\n"
SEQUENCES = [
    (before, dot, after)
    for before, dot, after in product(BREAKS, DOTS, BREAKS)
    # these two do end the data: CRLF "." CRLF, and the same with a CR before that is the text's own
    if not (dot == b"." and before.endswith(b"\r\n") and after.startswith(b"\r\n"))
]


def read(pieces: list[bytes]) -> tuple[bytes, bool, bytes | None]:
    """The data, whether more is expected, and the command behind it."""
    scanner = Scanner()
    scanner.start_data()
    data = b""
    for piece in pieces:
        scanner.feed(piece)
        data += scanner.take()
    receiving = scanner.receiving
    return data, receiving, None if receiving else scanner.line()


def unstuffed(data: bytes) -> bytes:
    """RFC 5321 §4.5.2, on all of it: a dot after CRLF goes."""
    return data.replace(b"\r\n.", b"\r\n")


@pytest.mark.parametrize("before", BREAKS, ids=repr)
def test_no_other_sequence_ends_the_data(before: bytes) -> None:
    """Every one of them is content, kept as it came; in one piece, in two cut anywhere in it, octet by octet."""
    for first, dot, after in SEQUENCES:
        if first != before:
            continue
        sequence = first + dot + after
        sent = b"Subject: x\r\n\r\ntext" + sequence + FORGED
        expected = unstuffed(sent)
        whole = sent + b"\r\n.\r\n"
        start = sent.index(FORGED) - len(sequence)
        cuts = [[whole], [whole[at : at + 1] for at in range(len(whole))]]
        cuts += [[whole[:at], whole[at:]] for at in range(start, start + len(sequence) + 2)]
        for pieces in cuts:
            data, receiving, line = read([*pieces, b"NOOP\r\n"])
            assert not receiving, sequence
            assert data == expected + b"\r\n", sequence
            assert line == b"NOOP", sequence


@pytest.mark.parametrize("at", range(1, 5))
def test_the_one_that_ends_it_ends_it_wherever_it_is_cut(at: bytes) -> None:
    end = b"\r\n.\r\n"
    assert read([b"text" + end[:at], end[at:] + b"NOOP\r\n"]) == (b"text\r\n", False, b"NOOP")


def test_data_may_begin_with_its_end() -> None:
    assert read([b".\r\nNOOP\r\n"]) == (b"", False, b"NOOP")
