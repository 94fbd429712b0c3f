"""POP3 on the wire (RFC 1939, RFC 2449, RFC 6856): command lines, status lines, listings and messages.

Commands end in LF, with or without CR. A message is sent as it is stored: only what the protocol needs is added, a dot
before every line that begins with one, and CRLF at the end if it is missing. A line begins behind every LF, also behind
a bare one, because there are clients to which it ends a line: without the dot such a message ends in its middle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax, LineTooLong

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_LINE: Final = 512
"""Octets of a command line with its end: RFC 2449 §4 says 255, long passwords ask for more."""
SLICE: Final = 131_072
"""Octets of a message in one write."""
END: Final = b".\r\n"
LANGUAGES: Final[Mapping[str, str]] = {"i-default": "Default (English)", "en": "English"}
"""What LANG lists: tags and names. The first is what a session begins with (RFC 6856 §3)."""
_LISTING_LINES: Final = 2_000


class Command(Struct, frozen=True):
    """A command line.

    Attributes:
        verb: In capitals; whatever the client sent, so no label for a metric.
        argument: The rest of the line behind one space.
    """

    verb: str
    argument: bytes

    def __repr__(self) -> str:  # a PASS line must not reach a log
        return f"Command({self.verb!r})"


class Scanner:
    """Cuts received bytes into command lines; never holds more than a line's limit and what came in one piece.

    Attributes:
        max_line: Octets of a line with its end.
    """

    __slots__ = ("_buffer", "_skipping", "_start", "max_line")

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self.max_line = max_line
        self._buffer = b""
        self._start = 0
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Take received bytes."""
        self._buffer = self._buffer[self._start :] + data
        self._start = 0

    def clear(self) -> None:
        """Forget what was received and not used (RFC 2595 §4: plaintext behind STLS)."""
        self._buffer, self._start, self._skipping = b"", 0, False

    def line(self) -> bytes | None:
        """The next line without its end; None: more bytes are needed.

        Raises:
            LineTooLong: Once for such a line; the rest of it is thrown away.
        """
        while True:
            end = self._buffer.find(b"\n", self._start)
            whole = end >= 0
            length = (end + 1 if whole else len(self._buffer)) - self._start
            if self._skipping:
                self._start += length
                if not whole:
                    return None
                self._skipping = False
                continue
            if length > self.max_line:
                self._start += length
                self._skipping = not whole
                raise LineTooLong
            if not whole:
                return None
            line = self._buffer[self._start : end]
            self._start = end + 1
            return line.removesuffix(b"\r")


def parse_command(line: bytes) -> Command:
    """Verb and argument.

    Raises:
        BadSyntax: No verb of three or four letters or digits (RFC 1939 §3).
    """
    verb, _, argument = line.partition(b" ")
    if not 3 <= len(verb) <= 4 or not verb.isalnum():
        raise BadSyntax("Not a command")
    return Command(verb.decode().upper(), argument)


def parse_number(argument: bytes) -> int:
    """A message number or a number of lines.

    Raises:
        BadSyntax: Not a decimal number, or one beyond all messages.
    """
    text = argument.strip()
    if not text.isdigit() or len(text) > 10:
        raise BadSyntax("Not a number")
    return int(text)


def parse_top(argument: bytes) -> tuple[int, int]:
    """TOP's message number and number of lines (RFC 1939 §7).

    Raises:
        BadSyntax: Anything but two numbers.
    """
    words = argument.split()
    if len(words) != 2:
        raise BadSyntax("TOP needs a message number and a number of lines")
    return parse_number(words[0]), parse_number(words[1])


def parse_text(argument: bytes) -> str:
    """A name or password in UTF-8 (RFC 6856 §2.2); spaces count.

    Raises:
        BadSyntax: Nothing there, or not UTF-8.
    """
    if not argument:
        raise BadSyntax("Argument missing")
    try:
        return argument.decode()
    except UnicodeDecodeError:
        raise BadSyntax("Not UTF-8") from None


def find_language(language_range: bytes) -> str | None:
    """The tag that serves a language range best: the range itself, or less and less of it (RFC 4647 §3.4).

    `*` is the language that a session begins with.
    """
    if language_range == b"*":
        return next(iter(LANGUAGES))
    parts = language_range.decode("ascii", "replace").lower().split("-")
    candidates = ("-".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((tag for tag in candidates if tag in LANGUAGES), None)


def write_ok(text: str = "") -> bytes:
    """A positive status line."""
    return b"+OK%b\r\n" % _text(text)


def write_error(text: str, code: str = "") -> bytes:
    """A negative status line, with a response code of RFC 2449 §8 or RFC 3206 if it is given."""
    return b"-ERR%b%b\r\n" % (_text(f"[{code}]" if code else ""), _text(text))


def _text(text: str) -> bytes:
    """A space and text of one line; nothing for nothing."""
    line = " ".join(text.split())[:400]
    return b" " + line.encode("ascii", "replace") if line else b""


def write_unique_id(uidvalidity: int, uid: int) -> bytes:
    """UIDL's name of a message: never used again in this maildrop (RFC 1939 §7)."""
    return b"%x.%x" % (uidvalidity, uid)


def write_listing(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a multi-line response and its end, many in one piece."""
    gathered: list[bytes] = []
    for line in lines:
        gathered.append(line)
        if len(gathered) == _LISTING_LINES:
            yield b"\r\n".join(gathered) + b"\r\n"
            gathered.clear()
    gathered.append(END)
    yield b"\r\n".join(gathered)


def write_message(data: bytes, end: int | None = None) -> Iterator[bytes]:
    """A message as a multi-line response, in slices; the end is in the last one, so that a small one is one write.

    Args:
        end: Send only so many octets.
    """
    end = len(data) if end is None else end
    at_line_start = True
    for start in range(0, max(1, end), SLICE):
        piece = data[start : min(start + SLICE, end)]
        stuffed = piece.replace(b"\n.", b"\n..")
        if at_line_start and piece.startswith(b"."):
            stuffed = b"." + stuffed
        at_line_start = piece.endswith(b"\n")
        if start + SLICE < end:
            yield stuffed
        else:
            yield stuffed + (END if data.endswith(b"\r\n", 0, end) else b"\r\n" + END)


def top_end(data: bytes, lines: int) -> int:
    """Where TOP ends: behind the header, the blank line and so many lines of the body (RFC 1939 §7)."""
    position = _body_start(data)
    for _ in range(lines):
        newline = data.find(b"\n", position)
        if newline < 0:
            return len(data)
        position = newline + 1
    return position


def _body_start(data: bytes) -> int:
    """Behind the first blank line; the end if there is none."""
    position = 0
    while True:
        if data.startswith(b"\r\n", position):
            return position + 2
        if data.startswith(b"\n", position):
            return position + 1
        newline = data.find(b"\n", position)
        if newline < 0:
            return len(data)
        position = newline + 1
