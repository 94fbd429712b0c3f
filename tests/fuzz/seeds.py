"""Where the fuzzer begins: real commands and messages of the other tests, and the words of each grammar."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sora.wire import imap_commands, imap_search, proxyproto
from tests.fuzz import sieve
from tests.support import models_viewcols

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS: Final = Path(__file__).parent.parent
FINDINGS: Final = Path(__file__).parent / "findings"


def findings(target: str) -> list[bytes]:
    """Inputs that broke something once: files named by the target, a dash and what it was."""
    return [path.read_bytes() for path in sorted(FINDINGS.glob(f"{target}-*"))]


def _transcripts(protocol: str) -> list[bytes]:
    """What the clients of the transcripts send, a file to a seed."""
    found = []
    for path in sorted((TESTS / "transcripts" / protocol).glob("*.txt")):
        lines = [line[3:] for line in path.read_text().splitlines() if line.startswith("C: ")]
        found.append("\r\n".join([*lines, ""]).encode())
    return found


def _imap() -> list[bytes]:
    fetch = b"a UID FETCH 1:*,3 (FLAGS BODY.PEEK[1.2.HEADER.FIELDS (To {2}\r\nCc)]<0.10> BINARY.SIZE[1])\r\n"
    append = b'b APPEND INBOX (\\Seen kw) "17-Jul-1996 02:44:25 -0700" {3+}\r\nabc UTF8 (~{2}\r\nxy)\r\n'
    search = b"c SEARCH RETURN (MIN ALL) CHARSET UTF-8 OR (SINCE 1-Feb-1994 NOT TEXT {3+}\r\nabc) UID 1:5\r\n"
    listing = b'd LIST (SUBSCRIBED) "" (a* "%&AOk-") RETURN (STATUS (MESSAGES SIZE) CHILDREN)\r\n'
    return [
        bytes([choice]) + text for choice in (2, 5) for text in (*_transcripts("imap"), fetch, append, search, listing)
    ]


def _mime() -> list[bytes]:
    return [path.read_bytes() for path in sorted((TESTS / "corpus").glob("*.eml")) if path.stat().st_size < 20_000]


def _lmtp() -> list[bytes]:
    path = b'MAIL FROM:<@a,@b:"q\\" x"@[IPv6:::1]> SIZE=1 BODY=BINARYMIME SMTPUTF8\r\n'
    xclient = b"XCLIENT ADDR=IPV6:::1 NAME=[UNAVAILABLE] LOGIN=a+20b PORT=1 PROTO=ESMTP\r\n"
    forward = b"RCPT TO:<a@b.c> XRCPTFORWARD=a=b+09c=+011d\r\n"
    return [*_transcripts("lmtp"), path, xclient, forward, b"BDAT 5 LAST\r\nabcdeQUIT\r\n"]


def _pop3() -> list[bytes]:
    return [*_transcripts("pop3"), *_mime()]


def _managesieve() -> list[bytes]:
    more = b'PUTSCRIPT {1}\r\na {3+}\r\nx\r\n\r\nHAVESPACE "\\"" 4294967295\r\n{2+}\r\nab 1\r\n"*"\r\n'
    return [*_transcripts("managesieve"), more]


def _proxy() -> list[bytes]:
    ssl = b"\x01\0\0\0\0" + b"".join(struct.pack(">BH", kind, 3) + b"abc" for kind in (0x21, 0x22, 0x23))
    tlvs = struct.pack(">BH", 0x20, len(ssl)) + ssl + struct.pack(">BH", 4, 2) + b"no"
    blocks = {0x11: bytes(range(12)), 0x21: bytes(range(36)), 0x31: bytes(216), 0x00: b""}
    second = [
        proxyproto.V2_SIGNATURE
        + bytes([0x21, family])
        + struct.pack(">H", len(block + tlvs))
        + block
        + tlvs
        + b"a NOOP"
        for family, block in blocks.items()
    ]
    first = [b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nx", b"PROXY TCP6 ::1 fe80::2 65535 0\r\n", b"PROXY UNKNOWN\r\nx"]
    return first + second


def _view() -> list[bytes]:
    mailbox = {uid: frozenset({uid % 5, 16 + uid % 3}) for uid in (*range(1, 30), 1023, 1024, 2050)}
    changed = {uid: flags | {20} for uid, flags in mailbox.items() if uid % 4}
    old, new = (b"".join(models_viewcols.records(state)) for state in (mailbox, changed))
    return [old + b"====" + new, b"====" + old, old + b"===="]


def _deflate() -> list[bytes]:
    found = []
    for level in (0, 1, 9):
        stream = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        found.append(stream.compress(b"a NOOP\r\n" * 40) + stream.flush(zlib.Z_SYNC_FLUSH) + stream.compress(b"x"))
    return [*found, random.Random(1).randbytes(100)]


def _work() -> list[bytes]:
    starts = (
        (0, _mime()),
        (1, [seed[1:] for seed in _imap()]),
        (2, _lmtp()),
        (3, _lmtp()),
        (4, _transcripts("pop3")),
        (5, _managesieve()),
    )
    return [bytes([choice, at, 3]) + text for choice, seeds in starts for text in seeds for at in (9, 60)]


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "imap": _imap,
    "mime": _mime,
    "lmtp": _lmtp,
    "pop3": _pop3,
    "managesieve": _managesieve,
    "proxy": _proxy,
    "sets": lambda: [b"1,3:5,*:7\n2:4", b"$\n1", b"4294967295:1,*\n*", b"1:1000\n5,6,7,900:*"],
    "view": _view,
    "deflate": _deflate,
    "work": _work,
    "sieve": sieve.seeds,
    "sievelexer": sieve.seeds,
    "sieveparser": lambda: [b"\x1e" + seed for seed in sieve.seeds()],
}
"""Inputs that are valid, or nearly, by target."""

_IMAP_WORDS: Final = [
    *imap_commands.PARSERS,
    *imap_search._WITH_ARGUMENTS,
    *b"{3} {3+} ~{3} {0} {0+} {4294967296+} {70000+} {18446744073709551616} (LAZY) (UTF8 $ * 1:* \\Seen".split(),
    *b"BODY[ BODY.PEEK[ BINARY[ HEADER.FIELDS.NOT <0.1> CHANGEDSINCE (VANISHED) CHARSET UTF-7 UTF-16 IDNA".split(),
    *(b"+AAA-", b"+2AA-", b"&AAA-", b"&2AA-", b"&AOk-", b'"\\"', b"29-Feb-1900", b"RETURN (", b"\xff\xfe", b"INBOX"),
]
_MIME_WORDS: Final = [
    *(b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Type: message/rfc822\r\n", b"\r\n\r\n", b"--b\r\n"),
    *(b"--b--\r\n", b"--", b"boundary*0=", b"boundary*1*=", b"=?utf-8?b?", b"=?utf-7?q?+AAA-?=", b"?=", b"(", b")"),
    *(b"Content-Disposition: attachment; filename*=utf-8''a", b"Content-Transfer-Encoding: base64\r\n", b'"', b"\\"),
    *(
        b"Date: ",
        b"From: a:b<c@d>,;",
        b"<@a,@b:c@d>",
        b"References: <a@b> ",
        b"<!--",
        b"<script>",
        b"&#0;",
        b"&#xd800;",
    ),
    *(b"charset=unicode-1-1-utf-7", b"charset=utf-16", b"&#xd800;", b"Subject: Re: [x] ", b"multipart/digest", b"\0"),
]
_LMTP_WORDS: Final = [
    *b"MAIL RCPT DATA BDAT LHLO XCLIENT RSET QUIT NOOP VRFY STARTTLS FROM:< TO:< LAST SIZE= BODY=8BITMIME".split(),
    *b"SMTPUTF8 XRCPTFORWARD= NAME= ADDR= PORT= LOGIN= [IPv6:::1] <postmaster> <> +01 +0D+0A +C2+85 \xc3\xa4".split(),
    *(b"\r\n.\r\n", b"\n.\n", b"\r.\r", b".\r\n", b"\r\n..", b"Received: x\r\n", b"Delivered-To: <a@b>\r\n", b"  "),
]
_PROXY_WORDS: Final = [
    proxyproto.V2_SIGNATURE,
    b"PROXY ",
    b"TCP4 ",
    b"\x21\x11\x00\x0c",
    b"\x20\x00",
    b"::",
    b"\x03\0\x04",
]
_POP3_WORDS: Final = [
    *b"USER PASS APOP STAT LIST RETR DELE TOP UIDL CAPA STLS AUTH UTF8 LANG QUIT RSET NOOP".split(),
    *(b"\r\n", b"\n", b"\r", b" ", b".", b"\r\n.\r\n", b"\n.\n", b"\r\n..", b"4294967296", b"*", b"en-GB", b"\xb2"),
]
_MANAGESIEVE_WORDS: Final = [
    *b"AUTHENTICATE STARTTLS CAPABILITY NOOP UNAUTHENTICATE HAVESPACE PUTSCRIPT CHECKSCRIPT LISTSCRIPTS".split(),
    b"SETACTIVE",
    *b'GETSCRIPT DELETESCRIPT RENAMESCRIPT "PLAIN" "LOGIN" "*" "=" "" {3+} {3} {0+} {70000+} {9999999999}'.split(),
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b'"',
        b"\\",
        b'\\"',
        b"4294967296",
        b"\xc3\xa4",
        b"\xff",
        b"\0",
        b"keep;",
        b'"a" "keep;"',
    ),
]

WORDS: Final[dict[str, list[bytes]]] = {
    "imap": _IMAP_WORDS,
    "mime": _MIME_WORDS,
    "lmtp": _LMTP_WORDS,
    "pop3": _POP3_WORDS,
    "managesieve": _MANAGESIEVE_WORDS,
    "proxy": _PROXY_WORDS,
    "sets": [b"*", b":", b",", b"$", b"4294967295", b"4294967296", b"0", b"\n", b"00"],
    "view": [
        b"====",
        struct.pack(">ihi", 0, -1, 1024),
        struct.pack(">ihi", 4194303, 16, 1024),
        bytes(128),
        b"\xff" * 128,
    ],
    "deflate": [b"\0\0\xff\xff", b"\x03\0", b"\xff" * 20],
    "work": [*_IMAP_WORDS[:20], *_MIME_WORDS, *_LMTP_WORDS],
    "sieve": [*sieve.WORDS, *_MIME_WORDS[:8]],
    "sievelexer": sieve.WORDS,
    "sieveparser": sieve.WORDS,
}
"""Words that a mutation puts in, by target."""
