# ruff: noqa: PYI021 (editors show these texts, and the extension has none to show)
"""IMAP command scanner (sans-IO) and the cursor that the grammar reads a command with.

    scanner.feed(data)
    match scanner.next():
        case None:            more bytes are needed
        case Command():       one whole command
        case NeedLiteral():   decide: accept(), stream() or discard()

A literal is decided before a byte of it is read. `next()` raises BadSyntax (no usable tag or name) or LineTooLong;
`scanner.tag` then is the tag to answer with, or None. Either way the next call goes on with the next command.
"""

from datetime import date, datetime
from typing import Self, final

from sora._native.seqset import SeqSet, UidSet

def encode_utf7(name: str) -> bytes:
    """Mailbox name to modified UTF-7 (RFC 3501 §5.1.3)."""

def decode_utf7(name: bytes) -> str:
    """Mailbox name from modified UTF-7 (RFC 3501 §5.1.3). Raises BadSyntax."""

@final
class NeedLiteral:
    """A literal is announced; nothing of it has been read."""

    @property
    def size(self) -> int: ...
    @property
    def synchronizing(self) -> bool:
        """True for `{n}`: the peer waits for a continuation; False for `{n+}` (RFC 7888)."""

    @property
    def binary(self) -> bool:
        """True for `~{n}` (literal8, RFC 3516)."""

@final
class Literal:
    """A literal inside a command.

    `data` is None if it was streamed or is still to come.
    """

    @property
    def size(self) -> int: ...
    @property
    def binary(self) -> bool: ...
    @property
    def data(self) -> bytes | None: ...

@final
class Command:
    """A command, whole or (from `Scanner.partial()`) up to a literal that is not yet read."""

    @property
    def tag(self) -> bytes: ...
    @property
    def name(self) -> bytes:
        """Upper case; `b"UID FETCH"` for the UID variants."""

    @property
    def uid(self) -> bool: ...
    @property
    def cursor(self) -> Cursor:
        """Stands behind the name; always the same object."""

@final
class Scanner:
    def __init__(self, max_line: int = 65536, utf8: bool = False) -> None: ...

    max_line: int
    """Octets that the lines of one command may have together; may change between two calls."""
    tag: bytes | None
    """Tag of the command that `next()` last returned, or refused; None if it had none."""

    utf8: bool
    """Mailbox names of the following commands are UTF-8 (UTF8=ACCEPT, IMAP4rev2)."""

    @property
    def buffered(self) -> int:
        """Bytes fed and not yet consumed."""

    @property
    def held(self) -> int:
        """Bytes of accepted literals in the command being read."""

    @property
    def remaining(self) -> int:
        """Bytes of the streamed literal that `take()` has not given out yet."""

    def feed(self, data: bytes | bytearray | memoryview) -> None: ...
    def next(self) -> Command | NeedLiteral | None: ...
    def partial(self) -> Command | None:
        """The command being read, up to the literal that was announced; None between commands."""

    def accept(self) -> None:
        """Read the announced literal into memory."""

    def stream(self) -> None:
        """The caller takes the announced literal by `take()`."""

    def take(self, n: int) -> bytes:
        """Up to *n* bytes of the streamed literal; empty if none is buffered."""

    def discard(self) -> None:
        """Give up the command being read, if there is one: the caller answers it now.

        A literal `{n+}` that is announced or being streamed is drained, never held, and so is the rest of the line.
        """

    def take_line(self, max_line: int = 65536) -> bytes | None:
        """One line without its end, outside of any command (AUTHENTICATE, DONE); None if it is not complete yet.

        Raises:
            LineTooLong: it is thrown away up to its end.
        """

    def clear(self) -> None:
        """Throw everything away that was received (STARTTLS)."""

@final
class Cursor:
    """Reads the arguments of a command, left to right. All methods raise BadSyntax with a reason."""

    uid: bool
    """numset() gives a UidSet."""

    utf8: bool

    def sp(self) -> Self:
        """One space; gives the cursor itself, for chaining."""

    def skip(self, text: bytes) -> bool:
        """Go past *text* (any case) if it stands here."""

    def expect(self, text: bytes) -> Self:
        """Go past *text* (any case), which must stand here."""

    def peek(self) -> int:
        """The next byte; -1 at the end."""

    def at_end(self) -> bool: ...
    def end(self) -> None:
        """Nothing may follow; spaces at the end of a command are gone already."""

    def at_literal(self) -> bool: ...
    def at_pending(self) -> bool:
        """A literal that is not read yet stands here (only in `Scanner.partial()`)."""

    def mark(self) -> int:
        """A position for `reset()`."""

    def reset(self, mark: int) -> None: ...
    def atom(self) -> bytes: ...
    def keyword(self) -> bytes:
        """An atom in upper case."""

    def name(self) -> bytes:
        """Letters, digits, `.`, `-` and `_` in upper case: item names that end at `[`, `(`, `<` or space."""

    def astring(self) -> bytes: ...
    def string(self) -> bytes:
        """Quoted or literal."""

    def nstring(self) -> bytes | None: ...
    def text(self) -> str:
        """An astring that must be UTF-8."""

    def literal(self) -> Literal:
        """A literal, whether its bytes are held or not."""

    def mailbox(self) -> str:
        """Mailbox name, decoded; INBOX in any case is `INBOX`."""

    def list_mailbox(self) -> str:
        """Pattern of LIST, decoded."""

    def number(self) -> int:
        """0 .. 4294967295."""

    def nz_number(self) -> int:
        """1 .. 4294967295."""

    def number64(self) -> int:
        """0 .. 9223372036854775807."""

    def numset(self) -> SeqSet | UidSet: ...
    def seqset(self) -> SeqSet: ...
    def uidset(self) -> UidSet: ...
    def flag(self) -> bytes:
        """System flags in their usual spelling, keywords as they come."""

    def flags(self) -> tuple[bytes, ...]:
        """`(\\Seen kw ...)`; \\Recent, which nobody may set, is dropped; each flag once."""

    def bare_flags(self) -> tuple[bytes, ...]:
        """`\\Seen kw ...` without parentheses, at least one."""

    def date(self) -> date:
        """`1-Feb-1994`, quoted or not."""

    def date_time(self) -> datetime:
        """`"17-Jul-1996 02:44:25 -0700"`, aware."""

    def rest(self) -> bytes:
        """Everything up to the end of this line."""
