"""LMTP on the wire (RFC 2033 with RFC 5321): command lines, paths, message data, replies. Trace headers too.

One byte stream carries two languages, and mixing them up is how mail is smuggled. The rules that keep them apart:

- A command line ends in CRLF. One that ends in a bare LF is refused as a whole, so nothing can hide behind it.
- Message data ends in CRLF "." CRLF and in nothing else (RFC 5321 §4.1.1.4, §2.3.8). Bare CR and bare LF are data.
- Data goes through unchanged but for the one dot in front of a line that begins with a dot (§4.5.2).
- A chunk is as long as its BDAT command says (RFC 3030 §2), whatever octets are in it and whatever the reply is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax, LineTooLong
from sora.wire.xclient import parse_forward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

MAX_LINE: Final = 2048
"""Octets of a command line with its CRLF: RFC 5321 §4.5.3.1.4 says 512, and every extension adds to it."""

END_OF_DATA: Final = b"\r\n.\r\n"

MAX_HEADER: Final = 256 * 1024
"""Octets in which a mail loop is looked for."""


class BadArgument(BadSyntax):
    """The verb is known; its arguments are not right."""


class BadSender(BadSyntax):
    """MAIL FROM without a path that follows the grammar."""


class BadRecipient(BadSyntax):
    """RCPT TO without a path that follows the grammar."""


class UnknownParameter(BadSyntax):
    """An ESMTP parameter that was not advertised (RFC 5321 §4.1.1.11)."""


class Utf8Needed(BadSyntax):
    """An address outside ASCII without SMTPUTF8 (RFC 6531 §3.5)."""


# ------------------------------------------------------------------------------------------------ lines and data


class Scanner:
    """Cuts one connection's bytes into command lines and, when told so, message octets.

    `feed()` what arrived, then pull: `line()` for the next command line, or None when more bytes are needed. After
    `start_data()` or `start_chunk()` comes `take()`, until `receiving` is False.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._buffer = b""
        self._start = 0
        self._skipping = False
        self._data: _DataReader | _ChunkReader | None = None

    @property
    def receiving(self) -> bool:
        """True while the end of the message data or the chunk has not been seen."""
        return self._data is not None

    @property
    def buffered(self) -> int:
        """Octets received and not used yet."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Take received bytes."""
        self._buffer = self._buffer[self._start :] + data if self._start < len(self._buffer) else data
        self._start = 0

    def clear(self) -> None:
        """Forget everything that was received and not used: what stood behind STARTTLS (RFC 3207 §4.2)."""
        self._buffer, self._start = b"", 0
        self._skipping = False

    def line(self) -> bytes | None:
        """The next command line without its CRLF.

        Raises:
            LineTooLong: Once per such line; the rest of it is thrown away by later calls.
            BadSyntax: The line ends in a bare LF; it is gone.
        """
        if self._skipping and not self._skip():
            return None
        start = self._start
        end = self._buffer.find(b"\n", start, start + self._max_line)
        if end < 0:
            self._check_length()
            return None
        self._start = end + 1
        if self._buffer[end - 1 : end] != b"\r" or end == start:
            raise BadSyntax("Lines end in CRLF")
        return self._buffer[start : end - 1]

    def _skip(self) -> bool:
        """Drop the rest of an overlong line; True when its end was seen."""
        end = self._buffer.find(b"\n", self._start)
        self._start = end + 1 if end >= 0 else len(self._buffer)
        self._skipping = end < 0
        return not self._skipping

    def _check_length(self) -> None:
        if self.buffered >= self._max_line:
            self._start += self._max_line
            self._skipping = True
            raise LineTooLong

    def start_data(self) -> None:
        """What follows is message data up to CRLF "." CRLF."""
        self._data = _DataReader()

    def start_chunk(self, size: int) -> None:
        """What follows is a chunk of `size` octets (RFC 3030 §2)."""
        self._data = _ChunkReader(size) if size else None

    def take(self) -> bytes:
        """The message octets that have arrived, as they are to be stored."""
        if self._data is None:
            return b""
        data, self._buffer, self._start = self._buffer[self._start :], b"", 0
        octets, rest = self._data.feed(data)
        if rest is not None:
            self._data, self._buffer = None, rest
        return octets


class _ChunkReader:
    """So many octets."""

    def __init__(self, size: int) -> None:
        self._left = size

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take a piece; the octets in it, and what follows the chunk or None if it goes on."""
        if len(data) < self._left:
            self._left -= len(data)
            return data, None
        return data[: self._left], data[self._left :]


class _DataReader:
    """Message data piece by piece: finds the end, and takes out stuffed dots.

    The carry starts as CRLF, because the CRLF of the DATA line is the beginning of the first line: a message that
    begins with "." CRLF is empty. Afterwards it holds the longest tail that could still become the end of data, so
    that neither the end nor a stuffed dot can be missed where two pieces meet.
    """

    def __init__(self) -> None:
        self._carry = b"\r\n"
        self._first = True

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take a piece; the octets in it, and what follows the end of data or None if it was not seen."""
        data = self._carry + data
        end = data.find(END_OF_DATA)
        if end >= 0:
            return self._unstuffed(data[: end + 2]), data[end + 5 :]
        carry = _unfinished(data)
        self._carry = data[len(data) - carry :]
        return self._unstuffed(data[: len(data) - carry]), None

    def _unstuffed(self, data: bytes) -> bytes:
        if not data:
            return data
        data = data.replace(b"\r\n.", b"\r\n")
        if self._first:
            data, self._first = data[2:], False
        return data


def _unfinished(data: bytes) -> int:
    """Length of the longest tail of `data` that END_OF_DATA could still grow from."""
    for length in (4, 3, 2, 1):
        if data.endswith(END_OF_DATA[:length]):
            return length
    return 0


# ------------------------------------------------------------------------------------------------ commands


class Path(Struct, frozen=True):
    """A reverse-path or forward-path (RFC 5321 §4.1.2), source route dropped.

    Attributes:
        text: The mailbox as it was written; empty for the null reverse-path `<>`.
        local: Its local part without quoting.
        domain: Its domain or address literal; empty for `<Postmaster>`.
    """

    text: str
    local: str
    domain: str

    @property
    def address(self) -> str:
        """`local@domain` to look up, quoting undone; `Postmaster` has no domain (§4.1.1.3)."""
        return f"{self.local}@{self.domain}" if self.domain else self.local


class Mail(Struct, frozen=True):
    """MAIL FROM.

    Attributes:
        sender: The reverse-path.
        size: Octets announced by SIZE= (RFC 1870 §6.1); 0 if not announced.
        utf8: SMTPUTF8 was given (RFC 6531 §3.4).
        body: `7BIT`, `8BITMIME` (RFC 6152 §2) or `BINARYMIME` (RFC 3030 §3).
    """

    sender: Path
    size: int = 0
    utf8: bool = False
    body: str = "7BIT"


class Rcpt(Struct, frozen=True):
    """RCPT TO.

    Attributes:
        path: The forward-path.
        forward: Fields that a Dovecot proxy hands on for this recipient (XRCPTFORWARD).
    """

    path: Path
    forward: tuple[tuple[str, str], ...] = ()


class Chunk(Struct, frozen=True):
    """BDAT (RFC 3030 §2).

    Attributes:
        size: Octets that follow the line.
        last: The message ends with them.
    """

    size: int
    last: bool = False


_COMMAND = re.compile(rb"([A-Za-z]+)(?: (.*))?", re.DOTALL)

# RFC 5321 §4.1.2, with UTF-8 as RFC 6531 §3.3 adds it. Wider than the grammar where real senders are: dots anywhere in
# a local part, underscores in a domain. A sender that cannot be written down would bounce mail that was accepted.
_ATEXT = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.\x80-\U0010ffff]"
_QUOTED = r'"(?:[ !#-\[\]-~\x80-\U0010ffff]|\\[ -~])*"'
_LABEL = r"[A-Za-z0-9_\x80-\U0010ffff](?:[A-Za-z0-9_\-\x80-\U0010ffff]*[A-Za-z0-9_\x80-\U0010ffff])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LITERAL = r"\[[!-Z^-~]+\]"
_PATH = re.compile(
    rf"<(?:@{_DOMAIN}(?:,@{_DOMAIN})*:)?(?P<text>(?P<local>{_ATEXT}+|{_QUOTED})@(?P<domain>{_DOMAIN}|{_LITERAL}))>"
)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")
_HELLO = re.compile(rb"[A-Za-z0-9._:\[\]-]{1,255}")
_NULL: Final = Path("", "", "")


def parse_command(line: bytes) -> tuple[str, bytes]:
    """Verb in upper case and arguments without surrounding spaces.

    Raises:
        BadSyntax: No verb.
    """
    match = _COMMAND.fullmatch(line)
    if match is None:
        raise BadSyntax("Not a command")
    return match[1].decode("ascii").upper(), (match[2] or b"").strip(b" ")


def parse_hello(arguments: bytes) -> str:
    """The client's name in LHLO: a domain or an address literal (RFC 2033 §4.1).

    Raises:
        BadArgument: It is missing, or cannot be written into a Received header.
    """
    if not _HELLO.fullmatch(arguments):
        raise BadArgument("LHLO needs a host name")
    return arguments.decode("ascii")


def parse_mail(arguments: bytes) -> Mail:
    """`FROM:<path> [parameters]` (RFC 5321 §4.1.1.2).

    Raises:
        BadSender, Utf8Needed, BadArgument, UnknownParameter: As named.
    """
    path, parameters = _split(arguments, b"FROM:", BadSender)
    values = {"SIZE": "0", "BODY": "7BIT"}
    seen = set()
    for name, value in parameters:
        if name not in _MAIL_PARAMETERS:
            raise UnknownParameter(f"Parameter {name} is not supported")
        if name in seen or not _MAIL_PARAMETERS[name].fullmatch(value.upper()):
            raise BadArgument(f"Bad value of {name}")
        seen.add(name)
        values[name] = value.upper()
    utf8 = "SMTPUTF8" in seen
    sender = _NULL if path == b"<>" else _parse_path(path, utf8, BadSender)
    return Mail(sender, int(values["SIZE"]), utf8, values["BODY"])


_MAIL_PARAMETERS: Final = {
    "SIZE": re.compile(r"[0-9]{1,20}"),
    "BODY": re.compile(r"7BIT|8BITMIME|BINARYMIME"),
    "SMTPUTF8": re.compile(r""),
}


def parse_recipient(arguments: bytes, utf8: bool, trusted: bool = False) -> Rcpt:
    """`TO:<path> [parameters]` (RFC 5321 §4.1.1.3).

    Args:
        trusted: The client may use XRCPTFORWARD, the only parameter there is.

    Raises:
        BadRecipient, Utf8Needed, BadArgument, UnknownParameter, BadAttribute: As named.
    """
    path, parameters = _split(arguments, b"TO:", BadRecipient)
    forward: tuple[tuple[str, str], ...] = ()
    for name, value in parameters:
        if name != "XRCPTFORWARD" or not trusted:
            raise UnknownParameter(f"Parameter {name} is not supported")
        if forward or not value:
            raise BadArgument("Bad value of XRCPTFORWARD")
        forward = parse_forward(value)
    if path.lower() == b"<postmaster>":
        local = path[1:-1].decode("ascii")
        return Rcpt(Path(local, local, ""), forward)
    return Rcpt(_parse_path(path, utf8, BadRecipient), forward)


def parse_chunk(arguments: bytes) -> Chunk:
    """`size [LAST]` (RFC 3030 §2).

    Raises:
        BadArgument: It cannot be said where the chunk ends.
    """
    match = _CHUNK.fullmatch(arguments)
    if match is None:
        raise BadArgument("BDAT needs a size")
    return Chunk(int(match[1]), match[2] is not None)


_CHUNK: Final = re.compile(rb"([0-9]{1,20})(?: +(LAST))?", re.IGNORECASE)


def _split(arguments: bytes, keyword: bytes, error: type[BadSyntax]) -> tuple[bytes, list[tuple[str, str]]]:
    """The path in its brackets, and the parameters with upper-case names."""
    if arguments[: len(keyword)].upper() != keyword:
        raise BadArgument(f"Expected {keyword.decode('ascii')}<address>")
    rest = arguments[len(keyword) :].lstrip(b" ")
    end = _path_end(rest)
    if end < 0:
        raise error("Addresses stand in <>")
    return rest[:end], _parameters(rest[end:])


def _path_end(text: bytes) -> int:
    """Where the path that `text` begins with ends, a ">" inside a quoted string aside; -1 if it does not."""
    match = _BRACKETS.match(text)
    return match.end() if match else -1


_BRACKETS: Final = re.compile(rb'<(?:[^">\\]|"(?:[^"\\]|\\.)*")*>', re.DOTALL)


def _parameters(text: bytes) -> list[tuple[str, str]]:
    if not text:
        return []
    if not text.startswith(b" ") or not text.isascii():
        raise BadArgument("Bad parameters")
    found = []
    for item in text.decode("ascii").split():
        match = _PARAMETER.fullmatch(item)
        if match is None:
            raise BadArgument("Bad parameters")
        found.append((match[1].upper(), match[2] or ""))
    return found


def _parse_path(path: bytes, utf8: bool, error: type[BadSyntax]) -> Path:
    if not path.isascii() and not utf8:
        raise Utf8Needed("The address needs SMTPUTF8")
    try:
        match = _PATH.fullmatch(path.decode("utf-8"))
    except UnicodeDecodeError as cause:
        raise error("The address is not UTF-8") from cause
    if match is None or any("\x80" <= character <= "\x9f" for character in match[0]):
        raise error("Bad address syntax")
    local = match["local"]
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return Path(match["text"], local, match["domain"])


# ------------------------------------------------------------------------------------------------ replies


class Reply(Struct, frozen=True):
    """One reply (RFC 5321 §4.2) with its enhanced status code (RFC 2034 §4).

    Attributes:
        code: Three digits.
        status: `2.1.0` and the like; empty where RFC 2034 §4 wants none (greeting, LHLO, 354).
        lines: Text; more than one line makes a multi-line reply.
    """

    code: int
    status: str
    lines: tuple[str, ...]

    @property
    def permanent(self) -> bool:
        """True for 5xx."""
        return self.code >= 500


def write_reply(reply: Reply) -> bytes:
    """The reply as sent; every line carries code and status (RFC 2034 §4)."""
    status = f"{reply.status} " if reply.status else ""
    *first, last = reply.lines
    text = "".join(f"{reply.code}-{status}{line}\r\n" for line in first) + f"{reply.code} {status}{last}\r\n"
    return text.encode("utf-8")


# ------------------------------------------------------------------------------------------------ trace headers


class Trace(Struct, frozen=True):
    """What the trace headers of one message say, the recipient aside.

    Attributes:
        sender: Reverse-path as written; empty for the null sender.
        hello: What the client called itself in LHLO.
        peer: Its address, or `local` for a UNIX socket.
        peer_name: Its host name, if a proxy told one.
        host: Our own name.
        tls: The message came under TLS (RFC 8314 §4.3: `LMTPS`).
        utf8: SMTPUTF8 was used (RFC 6531 §4.3: `UTF8LMTP`).
        id: Unique in our logs.
        received_at: Aware.
    """

    sender: str
    hello: str
    peer: str
    host: str
    tls: bool
    utf8: bool
    id: str
    received_at: datetime
    peer_name: str = ""


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DELIVERED_TO: Final = re.compile(rb"^delivered-to[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


def write_trace(trace: Trace, delivered_to: str, recipients: Sequence[str]) -> bytes:
    """Return-Path, Delivered-To and Received for one account (RFC 5321 §4.4).

    Args:
        trace: Facts of the transaction.
        delivered_to: The account's address, by which a loop is known again.
        recipients: Its forward-paths. One is named in Received; several are not, so that no recipient learns of
            another (§7.6).
    """
    protocol = ("UTF8" if trace.utf8 else "") + ("LMTPS" if trace.tls else "LMTP")
    name = f"{trace.peer_name} " if trace.peer_name else ""
    peer = f"({name}[{_literal(trace.peer)}])" if trace.peer != "local" else "(local)"
    target = f"\r\n\tfor <{recipients[0]}>" if len(recipients) == 1 else ""
    return (
        f"Return-Path: <{trace.sender}>\r\n"
        f"Delivered-To: {delivered_to}\r\n"
        f"Received: from {trace.hello} {peer}\r\n"
        f"\tby {trace.host} with {protocol} id {trace.id}{target};\r\n"
        f"\t{write_date(trace.received_at)}\r\n"
    ).encode()


def _literal(address: str) -> str:
    """The inside of an address literal (RFC 5321 §4.1.3)."""
    return f"IPv6:{address}" if ":" in address else address


def write_date(moment: datetime) -> str:
    """`Mon, 2 Jan 2006 15:04:05 +0000` (RFC 5322 §3.3), whatever the locale."""
    day, month = _DAYS[moment.weekday()], _MONTHS[moment.month - 1]
    return f"{day}, {moment.day} {month} {moment:%Y %H:%M:%S %z}"


def header_of(data: bytes) -> bytes:
    """The header section: everything before the first empty line, at most MAX_HEADER octets.

    Hops add their lines at the top, so a loop shows itself in the part that is looked at.
    """
    if data.startswith((b"\r\n", b"\n")):
        return b""
    ends = (data.find(b"\n\r\n", 0, MAX_HEADER), data.find(b"\n\n", 0, MAX_HEADER))
    return data[: min((end + 1 for end in ends if end >= 0), default=MAX_HEADER)]


def count_received(header: bytes) -> int:
    """Received lines, which is the number of hops so far (RFC 5321 §6.3)."""
    lines = b"\n" + header.lower()
    return lines.count(b"\nreceived:") + lines.count(b"\nreceived ")


def delivered_to(header: bytes) -> frozenset[str]:
    """Every address in a Delivered-To line, case-folded."""
    if b"\ndelivered-to" not in b"\n" + header.lower():
        return frozenset()
    values = (value.strip(b" \t<>").decode("utf-8", "replace") for value in _DELIVERED_TO.findall(header))
    return frozenset(value.casefold() for value in values)
