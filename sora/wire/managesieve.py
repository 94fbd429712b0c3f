r"""ManageSieve on the wire (RFC 5804 §4): commands with their strings and literals, and responses.

A command is one line of words, or more where literals stand in it:

    PUTSCRIPT "name" {31+}\r\n<31 octets>\r\n

`Scanner` gives its words once all of it is here. Literals come unasked (`{n+}`), so what is too large cannot be
refused before it is sent: it is counted, thrown away, and answered when the command has ended. `{n}`, which RFC 5804
leaves to servers, means the same here: the protocol has no continuation that a client could wait for.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax, LineTooLong, LiteralTooBig
from sora.wire import sasl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sora.errors import WireError

MAX_LINE: Final = 8192
"""Octets of a line with its end, without literals: two quoted strings of 1,024 octets, however they are escaped."""
MAX_QUOTED: Final = 1024
"""Octets between the quotes that everybody must understand (RFC 5804 §4, erratum 2655)."""
MAX_NUMBER: Final = 4_294_967_295
MAX_WORDS: Final = 16
"""No command has so many; what follows is not kept."""
MAX_EMPTY: Final = 4
"""Empty lines that are passed over before a command, of clients that end a literal once too often."""

_WORD: Final = re.compile(rb'([A-Za-z0-9_/.-]+)|"((?:[^"\\\r\n\0]|\\["\\])*)"')
_LITERAL: Final = re.compile(rb"\{(\d{1,10})\+?\}")
_LITERAL_AT_END: Final = re.compile(rb"\{(\d{1,10})\+?\}\Z")
_ESCAPED: Final = re.compile(rb'\\(["\\])')
_TAIL: Final = 16
_PLAIN: Final = re.compile(r'[^"\\\r\n\0]*')


class Word(Struct, frozen=True):
    """One argument, or the verb.

    Attributes:
        value: Without quotes; not necessarily UTF-8.
        string: It came as a string and not as an atom or number.
    """

    value: bytes
    string: bool


class Command(Struct, frozen=True):
    """A command.

    Attributes:
        verb: In capitals; whatever the client sent, so no label for a metric.
        arguments: What follows it.
    """

    verb: str
    arguments: tuple[Word, ...] = ()

    def __repr__(self) -> str:  # an AUTHENTICATE must not reach a log
        return f"Command({self.verb!r})"


class Scanner:
    """Cuts received bytes into commands; never holds more than a command may have and what came in one piece.

    Attributes:
        max_literal: Octets of all literals of a command.
        verb: Of the command that `words` gave last, or refused; empty: it has none.
    """

    __slots__ = (
        "_buffer", "_empty", "_error", "_held", "_literal", "_literals", "_remaining", "_searched", "_skipping",
        "_start", "_tail", "_words", "max_literal", "verb",
    )  # fmt: skip

    def __init__(self, max_literal: int) -> None:
        self.max_literal = max_literal
        self.verb = ""
        self.clear()

    def clear(self) -> None:
        """Forget what was received and not used (RFC 5804 §2.2: plaintext behind STARTTLS)."""
        self._buffer = b""
        self._start = self._searched = 0
        self._skipping = False  # the rest of a line that was too long
        self._tail = b""
        self._empty = 0
        self._begin()

    def _begin(self) -> None:
        self._words: list[Word] = []
        self._error: WireError | None = None
        self._literal: bytearray | None = None  # None inside a literal: it is thrown away
        self._remaining = -1  # octets of a literal; below 0: none
        self._literals = 0
        self._held = 0  # octets in literals of this command

    def feed(self, data: bytes) -> None:
        """Take received bytes."""
        self._searched -= self._start
        self._buffer = self._buffer[self._start :] + data
        self._start = 0

    def words(self) -> list[Word] | None:
        """The words of the next command, one at least; None: more bytes are needed. A few empty lines are passed over.

        Whatever comes without an end is an error soon, for errors are what a session loses patience with.

        Raises:
            BadSyntax: They make no command.
            LineTooLong: It is thrown away.
            LiteralTooBig: Its literals are larger than `max_literal`, and thrown away.
        """
        while True:
            if self._remaining >= 0:
                if not self._take_literal():
                    return None
                continue
            line = self._line()
            if line is None:
                return None
            if self._read_line(line):
                continue  # a literal follows
            words, error = self._words, self._error
            self._begin()
            if not words and error is None and self._empty < MAX_EMPTY:
                self._empty += 1
                continue
            self._empty = 0
            self.verb = verb_of(words)
            if not words and error is None:
                raise BadSyntax("Nothing but empty lines")
            if error is not None:
                raise error
            return words

    def _take_literal(self) -> bool:
        """Take octets of a literal; False: some are missing."""
        piece = self._buffer[self._start : self._start + self._remaining]
        self._start += len(piece)
        self._remaining -= len(piece)
        if self._literal is not None:
            self._literal += piece
        if self._remaining:
            return False
        self._searched = self._start
        self._remaining = -1
        if self._literal is not None:
            self._add(Word(bytes(self._literal), string=True))
            self._literal = None
        return True

    def _line(self) -> bytes | None:
        """The next line without its end; None: it is not here yet. One that is too long is the command's error."""
        end = self._buffer.find(b"\n", self._searched)
        if self._skipping or (end if end >= 0 else len(self._buffer)) - self._start >= MAX_LINE:
            # Its last octets count: they may announce a literal, which is not to be read as commands.
            self._tail = (self._tail + self._buffer[self._start : end if end >= 0 else None])[-_TAIL:]
            self._skipping = end < 0
            self._start = self._searched = len(self._buffer) if end < 0 else end + 1
            self._fail(LineTooLong())
            if end < 0:
                return None
            line, self._tail = self._tail, b""
            return line.removesuffix(b"\r")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = self._buffer[self._start : end]
        self._start = self._searched = end + 1
        return line.removesuffix(b"\r")

    def _read_line(self, line: bytes) -> bool:
        """Take the words of a line; True: a literal follows it."""
        at = 0
        first = not self._words
        while at < len(line) and self._error is None:
            if not (first and at == 0):
                if line[at : at + 1] != b" ":
                    self._fail(BadSyntax("There is no space between two words"))
                    break
                at += 1
            first = False
            match = _WORD.match(line, at)
            if match is None:
                break
            if match[1] is not None:
                self._add(Word(match[1], string=False))
            else:
                self._add_quoted(match[2])
            at = match.end()
        return self._read_literal(line, at)

    def _read_literal(self, line: bytes, at: int) -> bool:
        """Whether a line ends with the head of a literal; also where it has an error, or all that follows is lost."""
        match = _LITERAL.fullmatch(line, at)
        if match is None and at < len(line):
            self._fail(BadSyntax("Not a word or a string"))
            match = _LITERAL_AT_END.search(line)
        if match is None:
            return False
        self._literals += 1
        if self._literals > MAX_WORDS:
            self._fail(BadSyntax("Too many literals"))
            return False
        self._remaining = int(match[1])
        self._held += self._remaining
        if self._held > self.max_literal:
            self._fail(LiteralTooBig())
        self._literal = None if self._error is not None else bytearray()
        return True

    def _add_quoted(self, text: bytes) -> None:
        if b"\\" in text:
            text = _ESCAPED.sub(rb"\1", text)
        if len(text) > MAX_QUOTED:
            self._fail(BadSyntax("A quoted string has at most 1024 octets"))
        self._add(Word(text, string=True))

    def _add(self, word: Word) -> None:
        if len(self._words) < MAX_WORDS:
            self._words.append(word)

    def _fail(self, error: WireError) -> None:
        """Note the first error of a command; what it says matters only once the command has ended."""
        if self._error is None:
            self._error = error


def verb_of(words: Sequence[Word]) -> str:
    """What a command begins with, in capitals; empty: no verb."""
    return words[0].value.decode("ascii").upper() if words and not words[0].string else ""


def parse_command(words: Sequence[Word]) -> Command:
    """Verb and arguments.

    Raises:
        BadSyntax: It begins with a string.
    """
    verb = verb_of(words)
    if not verb:
        raise BadSyntax("Not a command")
    return Command(verb, tuple(words[1:]))


def parse_response(words: Sequence[Word]) -> bytes:
    """What a client answers to a SASL challenge: one string (RFC 5804 §2.1), not decoded.

    Raises:
        BadSyntax: Anything else.
    """
    if len(words) != 1 or not words[0].string:
        raise BadSyntax("The response is not a string")
    return words[0].value


def parse_text(word: Word) -> str:
    """A string in UTF-8.

    Raises:
        BadSyntax: It is none.
    """
    if not word.string:
        raise BadSyntax("A string is missing its quotes")
    try:
        return word.value.decode()
    except UnicodeDecodeError:
        raise BadSyntax("Not UTF-8") from None


def parse_octets(word: Word) -> bytes:
    """A string of any octets.

    Raises:
        BadSyntax: It is no string.
    """
    if not word.string:
        raise BadSyntax("A string is missing its quotes")
    return word.value


def parse_number(word: Word) -> int:
    """A number of 32 bits.

    Raises:
        BadSyntax: It is none.
    """
    if word.string or not word.value.isdigit() or len(word.value) > 10 or int(word.value) > MAX_NUMBER:
        raise BadSyntax("Not a number")
    return int(word.value)


class Code(enum.StrEnum):
    """Response codes (RFC 5804 §1.3)."""

    NONE = ""
    AUTH_TOO_WEAK = "AUTH-TOO-WEAK"
    ENCRYPT_NEEDED = "ENCRYPT-NEEDED"
    QUOTA = "QUOTA"
    MAX_SCRIPTS = "QUOTA/MAXSCRIPTS"
    MAX_SIZE = "QUOTA/MAXSIZE"
    REFERRAL = "REFERRAL"
    SASL = "SASL"
    TRANSITION_NEEDED = "TRANSITION-NEEDED"
    TRY_LATER = "TRYLATER"
    ACTIVE = "ACTIVE"
    NON_EXISTENT = "NONEXISTENT"
    ALREADY_EXISTS = "ALREADYEXISTS"
    TAG = "TAG"
    WARNINGS = "WARNINGS"


def write_ok(text: str = "", code: Code = Code.NONE, value: str | None = None) -> bytes:
    """A positive response.

    Args:
        value: Of the response code (TAG, SASL).
    """
    return _response(b"OK", text, code, value)


def write_no(text: str, code: Code = Code.NONE, value: str | None = None) -> bytes:
    """A refusal."""
    return _response(b"NO", text, code, value)


def write_bye(text: str, code: Code = Code.NONE, value: str | None = None) -> bytes:
    """The last word; the connection is closed behind it. The value of REFERRAL is a `sieve://` URL."""
    return _response(b"BYE", text, code, value)


def _response(kind: bytes, text: str, code: Code, value: str | None) -> bytes:
    parts = [kind]
    if code:
        parts.append(b"(%b)" % b" ".join([code.encode(), *([] if value is None else [write_string(value)])]))
    if text:
        parts.append(write_string(text))
    return b" ".join(parts) + b"\r\n"


def write_string(text: str) -> bytes:
    """A string: quoted where that can be, else a literal (RFC 5804 §4)."""
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_QUOTED:
        if _PLAIN.fullmatch(text):
            return b'"%b"' % data
        if not any(c in text for c in "\r\n\0"):
            return b'"%b"' % data.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return write_literal(data)


def write_literal(data: bytes) -> bytes:
    """Octets as a literal of a server."""
    return b"{%d}\r\n%b" % (len(data), data)


def write_scripts(scripts: Iterable[tuple[str, bool]]) -> bytes:
    """Names of scripts, and which one is active (RFC 5804 §2.7)."""
    return b"".join(write_string(name) + (b" ACTIVE\r\n" if active else b"\r\n") for name, active in scripts)


def write_capabilities(capabilities: Iterable[tuple[str, str | None]]) -> bytes:
    """Names and values (RFC 5804 §1.7); None: it has no value."""
    return b"".join(
        write_string(name) + (b"\r\n" if value is None else b" " + write_string(value) + b"\r\n")
        for name, value in capabilities
    )


def write_challenge(challenge: bytes) -> bytes:
    """A SASL challenge (RFC 5804 §2.1)."""
    return write_string(sasl.encode_challenge(challenge).decode()) + b"\r\n"
