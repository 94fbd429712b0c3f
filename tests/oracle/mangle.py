"""Broken mail out of whole mail, the same every time."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEED: Final = 3501
EACH: Final = 12
"""Messages made by each way of breaking them."""


def mangled(samples: Sequence[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Name and octets of broken messages; *samples* are what they are made of."""
    for mangler in MANGLERS:
        random_source = random.Random(f"{SEED} {mangler.__name__}")
        fit = [(name, data) for name, data in samples if 100 < len(data) < 20_000]
        if mangler in NEED_BOUNDARY:
            fit = [(name, data) for name, data in fit if b"boundary=" in data]
        for name, data in random_source.sample(fit, min(EACH, len(fit))):
            yield f"{mangler.__name__}({name})", mangler(data, random_source)


def truncated(data: bytes, source: random.Random) -> bytes:
    """Cut anywhere."""
    return data[: source.randrange(1, len(data))]


def truncated_in_header(data: bytes, source: random.Random) -> bytes:
    """Cut in its header."""
    return data[: source.randrange(1, _header_end(data) + 1)]


def without_last_boundary(data: bytes, _: random.Random) -> bytes:
    """The closing boundary lines are missing."""
    return re.sub(rb"(?m)^--[^\r\n]+--[ \t]*\r\n", b"", data)


def without_a_boundary(data: bytes, source: random.Random) -> bytes:
    """One of the lines that begin with dashes is missing."""
    lines = data.split(b"\r\n")
    dashed = [i for i, line in enumerate(lines) if line.startswith(b"--")]
    if dashed:
        del lines[source.choice(dashed)]
    return b"\r\n".join(lines)


def without_boundary_parameter(data: bytes, _: random.Random) -> bytes:
    """Nobody knows the boundary."""
    return re.sub(rb"(?i)boundary=", b"x-boundary=", data, count=1)


def changed_boundary(data: bytes, _: random.Random) -> bytes:
    """The header names another boundary, which begins like the real one."""
    return re.sub(rb'(?i)(boundary="?)([^"\r\n;]+?)([^"\r\n;])(?=["\r\n;])', rb"\1\2", data, count=1)


def doubled_fields(data: bytes, source: random.Random) -> bytes:
    """Some fields come twice, with something added."""
    end = _header_end(data)
    fields = re.findall(rb"[^\r\n]+\r\n(?:[ \t][^\r\n]*\r\n)*", data[:end])
    twice = [field[:-2] + b" again\r\n" if source.random() < 0.3 else b"" for field in fields]
    return data[:end] + b"".join(twice) + data[end:]


def eight_bit(data: bytes, source: random.Random) -> bytes:
    """Octets above 127 anywhere."""
    changed = bytearray(data)
    for _ in range(max(3, len(data) // 100)):
        at = source.randrange(len(data))
        if changed[at] not in b"\r\n":
            changed[at] = source.randrange(128, 256)
    return bytes(changed)


def utf8_header(data: bytes, source: random.Random) -> bytes:
    """Raw UTF-8 in header fields (RFC 6532)."""
    word = source.choice(["Grüße", "日本語", "Привет", "naïve ☃", "עברית"]).encode()
    return b"Subject: %b\r\nFrom: %b <x@example.org>\r\n" % (word, word) + data


def bare_lf(data: bytes, source: random.Random) -> bytes:
    """Some lines, or all of them, end without CR."""
    share = source.choice([1.0, 0.3])
    return re.sub(rb"\r\n", lambda _: b"\n" if source.random() < share else b"\r\n", data)


def bare_cr(data: bytes, source: random.Random) -> bytes:
    """Lone CRs here and there."""
    changed = bytearray(data)
    for _ in range(4):
        changed.insert(source.randrange(len(changed)), 13)
    return re.sub(rb"\r+\n", b"\r\n", bytes(changed))


def long_lines(data: bytes, source: random.Random) -> bytes:
    """Far more than 998 octets on a line of the header and of the body."""
    end = _header_end(data)
    word = b"x" * source.randrange(2_000, 20_000)
    return b"X-Long: %b\r\nReferences: <%b@x>\r\n" % (word, word) + data[:end] + data[end:] + word + b"\r\n"


def within_message(data: bytes, source: random.Random) -> bytes:
    """As message/rfc822, inside another, several times."""
    for _ in range(source.randrange(1, 5)):
        data = b"Subject: outer\r\nFrom: a@example.org\r\nContent-Type: message/rfc822\r\n\r\n" + data
    return data


def within_multipart(data: bytes, source: random.Random) -> bytes:
    """As an attachment, with a boundary that the inner one may begin with."""
    boundary = source.choice([b"=", b"x", b"----", b"B 1", b"boundary"])
    return (
        b'From: a@example.org\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="%b"\r\n\r\n'
        b"--%b\r\n\r\ntext\r\n--%b\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment; "
        b'filename="m.eml"\r\n\r\n%b\r\n--%b--\r\nepilogue\r\n' % (boundary, boundary, boundary, data, boundary)
    )


def digest(data: bytes, source: random.Random) -> bytes:
    """In a digest, where a part without type is a message (RFC 2046 §5.1.5)."""
    end = source.choice([b"--d--\r\n", b""])
    header = b"Subject: d\r\nContent-Type: multipart/digest; boundary=d\r\n\r\n"
    return header + b"--d\r\n\r\n%b\r\n" % data * 2 + end


def broken_base64(data: bytes, source: random.Random) -> bytes:
    """A part in base64 that is none in some place."""
    text = source.choice([b"QUJD!REVG\r\nR0hJ", b"QUJDR", b"QUJDRA=\r\n", b"QUJD=REVG====", b"====", b"", b"\xff\xfe"])
    return _part_of(data, b"Content-Transfer-Encoding: base64", text)


def broken_quoted_printable(data: bytes, source: random.Random) -> bytes:
    """Quoted-printable with what must not be in it."""
    text = source.choice([b"a=ZZb", b"a=4", b"a=", b"a= \r\nb", b"=c3=a9 \t\r\nx", b"=\r\n=\r\n="])
    return _part_of(data, b"Content-Transfer-Encoding: quoted-printable", text)


def odd_encoding(data: bytes, source: random.Random) -> bytes:
    """An encoding that nobody knows, or knows otherwise."""
    name = source.choice([b"x-uuencode", b"BASE64", b"8-bit", b"", b'"base64"', b"base64 (c)", b"7bit; x", b"binary"])
    return _part_of(data, b"Content-Transfer-Encoding: " + name, b"QUJDREVG")


def odd_charset(data: bytes, source: random.Random) -> bytes:
    """A charset that nobody knows, or in quotes, or empty."""
    name = source.choice([b"x-nobody", b'""', b'"utf-8"', b"iso-8859-15", b"koi8-r", b"unknown-8bit", b"''", b"="])
    return _part_of(data, b"Content-Type: text/plain; charset=" + name, b"\xa4\xe9\xc0 z\xc3\xa9ro")


def odd_type(data: bytes, source: random.Random) -> bytes:
    """A Content-Type that the grammar does not know."""
    name = source.choice(
        [
            b"text", b"text/", b"/plain", b"", b"text/plain;", b"text/plain; =x", b"text/plain; a",
            b"TEXT / PLAIN; A=b",
            b"text/plain; charset=us-ascii charset=utf-8", b'text/plain; name="a\\"b"', b"text/plain (c); x=(d)y",
            b"multipart/mixed", b"message/rfc822", b"message/partial; id=x; number=1", b'a b/c; d="e', b"multipart/",
        ]
    )  # fmt: skip
    return _part_of(data, b"Content-Type: " + name, b"text of it\r\n\r\nmore")


def odd_addresses(data: bytes, source: random.Random) -> bytes:
    """Address lists that RFC 5322 does not know."""
    lists = [
        b"a@b, , c@d", b"<>", b"a", b"a b c <d@e>", b"group: a@b, c@d;", b"group:;", b'"unclosed <a@b>',
        b"a@b (comment",
        b"<@r1,@r2:a@b>", b"a.b.@c", b'"q\\"q" <"l p"@[127.0.0.1]>', b"a@b c@d", b"undisclosed-recipients:", b"<a@b",
        b"a@b>", b"=?utf-8?q?a=2C?= <a@b>", b"J. Doe <j@d>", b"x: y: z@w;;", b",", b"@", b"a@", b"@b", b"<a@b> name",
    ]  # fmt: skip
    fields = [b"%b: %b\r\n" % (name, source.choice(lists)) for name in (b"From", b"To", b"Cc", b"Bcc", b"Reply-To")]
    return b"".join(fields) + b"Sender: " + source.choice(lists) + b"\r\n" + data[_header_end(data) :]


def odd_dates(data: bytes, source: random.Random) -> bytes:
    """Dates as bad clocks write them."""
    value = source.choice(
        [
            b"Mon, 1 Jan 24 10:00 GMT", b"1 Jan 2024 10:00:00 EST", b"yesterday", b"Mon, 32 Jan 2024 10:00:00 +0000",
            b"Mon Jan  1 10:00:00 2024", b"2024-01-01T10:00:00Z", b"Mon, 1 Jan 2024", b"",
            b"Mon, 1 Jan 2024 25:61:00 +0000",
            b"Sun, 31 Dec 2023 23:30:00 -1200", b"Tue, 2 Jan 2024 00:10:00 +1400", b"Thu, 1 Jan 1970 00:00:00 +0000",
        ]
    )  # fmt: skip
    return b"Subject: date\r\nDate: " + value + b"\r\n" + re.sub(rb"(?im)^date:", b"X-Date:", data)


def parameters(data: bytes, source: random.Random) -> bytes:
    """Parameters in pieces and charsets (RFC 2231), and broken ones."""
    value = source.choice(
        [
            b"attachment; filename*=utf-8''%e2%82%ac.txt", b'attachment; filename*0="a"; filename*1="b.txt"',
            b"attachment; filename*1=b; filename*0=a", b"inline; filename=a b.txt", b"; filename=x",
            b"attachment; filename",
            b"attachment; filename*0*=iso-8859-1'en'%e9; filename*1=b", b'attachment; filename="', b"",
        ]
    )  # fmt: skip
    others = (
        b"Content-Language: de, (c) en-US\r\nContent-ID: <x@y>\r\nContent-Description: =?utf-8?q?=c3=a9?=\r\n"
        b"Content-MD5: Q2hlY2s=\r\nContent-Location: a\r\n b"
    )
    return _part_of(data, b"Content-Disposition: %b\r\n%b" % (value, others), b"x")


def junk_in_header(data: bytes, source: random.Random) -> bytes:
    """Lines that are no fields, anywhere in the header."""
    lines = data[: _header_end(data)].split(b"\r\n")
    for junk in (b"no colon here", b": no name", b" continuation of nothing", b"Space : before", b"Empty:", b">From x"):
        lines.insert(source.randrange(len(lines)), junk)
    return b"\r\n".join(lines) + data[_header_end(data) :]


def no_blank_line(data: bytes, _: random.Random) -> bytes:
    """Header and body are not parted."""
    return data.replace(b"\r\n\r\n", b"\r\n")


def empty_parts(data: bytes, source: random.Random) -> bytes:
    """Boundaries that follow each other."""
    lines = data.split(b"\r\n")
    for at in [i for i, line in enumerate(lines) if line.startswith(b"--")][::-1]:
        lines[at:at] = [lines[at]] * source.randrange(3)
    return b"\r\n".join(lines)


def _part_of(data: bytes, header: bytes, text: bytes) -> bytes:
    """A multipart of a text with that header and of the message's own body."""
    body = data[_header_end(data) :].lstrip(b"\r\n")[:500]
    return (
        b"From: Alice <a@example.org>\r\nTo: b@example.org\r\nSubject: part\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/mixed; boundary=oracle\r\n\r\n--oracle\r\n%b\r\n\r\n%b\r\n"
        b"--oracle\r\n\r\n%b\r\n--oracle--\r\n" % (header, text, body)
    )


def _header_end(data: bytes) -> int:
    """Where the blank line begins; the end if there is none."""
    at = data.find(b"\r\n\r\n")
    return len(data) if at < 0 else at + 2


MANGLERS: Final = (
    truncated, truncated_in_header, without_last_boundary, without_a_boundary, without_boundary_parameter,
    changed_boundary, doubled_fields, eight_bit, utf8_header, bare_lf, bare_cr, long_lines, within_message,
    within_multipart, digest, broken_base64, broken_quoted_printable, odd_encoding, odd_charset, odd_type,
    odd_addresses, odd_dates, parameters, junk_in_header, no_blank_line, empty_parts,
)  # fmt: skip
NEED_BOUNDARY: Final = frozenset(
    (without_last_boundary, without_a_boundary, without_boundary_parameter, changed_boundary, empty_parts)
)
