"""The command scanner and the cursor beside regular expressions."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Case
from sora._native.imapscan import Command, NeedLiteral, Scanner, decode_utf7, encode_utf7
from sora._native.seqset import NumSet
from tests.support import models_cursor, models_imapscan
from tests.support.models_cursor import LITERAL, CursorModel, ScannerModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sora._native.imapscan import Cursor

COMMANDS = b"".join(
    b"a%d UID FETCH %d:* (FLAGS)\r\nb%d NOOP\r\nc%d STORE %d +FLAGS.SILENT (\\Seen)\r\n" % ((n,) * 5)
    for n in range(1, 334)
)
APPEND = b"a APPEND Sent (\\Seen) {%d+}\r\n%s\r\n" % (1000, b"x" * 1000)
ARGUMENTS: tuple[tuple[str, bytes], ...] = (
    ("atom", b"ATOM-of-20-characters"),
    ("keyword", b"changedsince"),
    ("name", b"body.peek"),
    ("astring", b'"a quoted \\"string\\" of some length"'),
    ("string", b'"a quoted string"'),
    ("nstring", b"NIL"),
    ("text", b'"Entw\xc3\xbcrfe"'),
    ("mailbox", b'"Archive/2024/Entw&APw-rfe"'),
    ("list_mailbox", b"Archive/%/*"),
    ("number", b"4294967295"),
    ("nz_number", b"4294967295"),
    ("number64", b"9223372036854775807"),
    ("numset", b"1,3:5,7,9:20,100:1000"),
    ("seqset", b"1,3:5,7,9:20,100:1000"),
    ("uidset", b"1,3:5,7,9:20,100:1000"),
    ("flag", rb"\Flagged"),
    ("flags", rb"(\Seen \Flagged $Forwarded keyword)"),
    ("bare_flags", rb"\Seen \Flagged $Forwarded keyword"),
    ("date", b"17-Jul-1996"),
    ("date_time", b'"17-Jul-1996 02:44:25 -0700"'),
    ("rest", b"everything up to the end of the line"),
    ("peek", b"x"),
    ("at_end", b"x"),
    ("at_literal", b"x"),
    ("at_pending", b"x"),
)


def command(text: bytes) -> Command:
    """One whole command."""
    scanner = Scanner()
    scanner.feed(text)
    while isinstance(found := scanner.next(), NeedLiteral):
        scanner.accept()
    assert isinstance(found, Command)
    return found


def cases(messages: int) -> Iterator[Case]:
    """Pipelined commands, a literal in every way, and one argument of each kind."""
    names = ["INBOX", "Archive/2024", "Entwürfe & mehr", "台北/日本語"] * 25
    encoded = [models_cursor.encode_utf7(name) for name in names]
    yield Case(
        "imapscan.encode_utf7 of 100",
        lambda: list(map(encode_utf7, names)),
        lambda: list(map(models_cursor.encode_utf7, names)),
    )
    yield Case(
        "imapscan.decode_utf7 of 100",
        lambda: list(map(decode_utf7, encoded)),
        lambda: list(map(models_cursor.decode_utf7, encoded)),
    )
    yield from _scanner()
    for name, text in ARGUMENTS:
        plain = "text_value" if name == "text" else name
        yield _read(name, text, name, plain)
    yield from _steps()


def _scanner() -> Iterator[Case]:
    yield Case(
        "imapscan.Scanner.next of 999 commands", lambda: _names(COMMANDS),
        lambda: [event[2] for event in models_imapscan.scan(COMMANDS, 65536, repeat("accept"))],
        covers=("imapscan.Scanner.__init__", "imapscan.Scanner.feed", "imapscan.Command"),
    )  # fmt: skip
    yield Case(
        "imapscan.Scanner.accept", lambda: command(APPEND).name, lambda: _model_events(APPEND, "accept")[-1][2],
        covers=("imapscan.NeedLiteral", "imapscan.NeedLiteral.size", "imapscan.NeedLiteral.synchronizing",
                "imapscan.NeedLiteral.binary", "imapscan.Literal"),
    )  # fmt: skip
    yield Case(
        "imapscan.Scanner.stream and take",
        _stream,
        lambda: len(_model_events(APPEND, "stream")[1][1]),
        covers=("imapscan.Scanner.take", "imapscan.Scanner.remaining"),
    )
    yield Case("imapscan.Scanner.discard", _discard, lambda: len(_model_events(APPEND, "discard")))
    yield Case("imapscan.Scanner.partial", _partial, lambda: APPEND.split(b" ")[1])
    yield Case("imapscan.Scanner.take_line of 999", lambda: _lines(Scanner()), lambda: _lines(ScannerModel()))
    yield Case("imapscan.Scanner.clear", lambda: _clear(Scanner()), lambda: _clear(ScannerModel()))
    scanner, found = Scanner(), command(APPEND)
    literal = found.cursor.sp().expect(b"Sent").sp().expect(rb"(\Seen)").sp().literal()
    model = _Fields()
    yield Case(
        "imapscan.Scanner.buffered",
        lambda: (scanner.buffered, scanner.held, scanner.utf8, scanner.max_line, scanner.tag),
        lambda: (model.buffered, model.held, model.utf8, model.max_line, model.tag),
        covers=tuple(f"imapscan.Scanner.{name}" for name in ("held", "utf8", "max_line", "tag")),
    )  # fmt: skip
    yield Case(
        "imapscan.Command.tag", lambda: (found.tag, found.name, found.uid), lambda: (b"a", model.name, model.uid),
        covers=("imapscan.Command.name", "imapscan.Command.uid", "imapscan.Command.cursor"),
    )  # fmt: skip
    yield Case(
        "imapscan.Literal.size", lambda: (literal.size, literal.binary, literal.data),
        lambda: (1000, False, b"x" * 1000),
        covers=("imapscan.Literal.binary", "imapscan.Literal.data"),
    )  # fmt: skip


class _Fields:
    """Plain attributes."""

    buffered, held, utf8, max_line, tag, name, uid = 0, 0, False, 65536, None, b"APPEND", False


def _names(data: bytes) -> list[bytes]:
    scanner = Scanner()
    scanner.feed(data)
    found = []
    while isinstance(one := scanner.next(), Command):
        found.append(one.name)
    return found


def _model_events(data: bytes, decision: str) -> list[Any]:
    return models_imapscan.scan(data, 65536, repeat(decision))


def _stream() -> int:
    scanner = Scanner()
    scanner.feed(APPEND)
    scanner.next()
    scanner.stream()
    size = len(scanner.take(scanner.remaining))
    scanner.next()
    return size


def _discard() -> int:
    scanner = Scanner()
    scanner.feed(APPEND)
    events = int(isinstance(scanner.next(), NeedLiteral))
    scanner.discard()
    return events + int(scanner.next() is not None)


def _partial() -> bytes:
    scanner = Scanner()
    scanner.feed(APPEND)
    scanner.next()
    found = scanner.partial()
    return found.name if found else b""


def _lines(scanner: Scanner | ScannerModel) -> list[bytes]:
    scanner.feed(COMMANDS)
    found = []
    while (line := scanner.take_line()) is not None:
        found.append(line)
    return found


def _clear(scanner: Scanner | ScannerModel) -> bytes | None:
    scanner.feed(COMMANDS)
    scanner.clear()
    return scanner.take_line()


def _read(name: str, text: bytes, method: str, plain: str) -> Case:
    found = command(b"a X " + text + b"\r\n").cursor
    start = found.sp().mark()
    read, model = getattr(found, method), CursorModel(b" " + text)
    read_model = getattr(model, plain)

    def ours() -> Any:
        found.reset(start)
        value = read()
        return value.ranges() if isinstance(value, NumSet) else value

    def theirs() -> Any:
        model.reset(1)
        return read_model()

    return Case(f"imapscan.Cursor.{name}", ours, theirs, covers=("imapscan.Cursor", "imapscan.Cursor.reset"))


def _steps() -> Iterator[Case]:
    found = command(b"a X {3+}\r\nabc (x)\r\n").cursor
    model = CursorModel(b" " + LITERAL + b" (x)", [b"abc"])
    start = found.mark()

    def both(name: str, step: Callable[[Any], Any], *covers: str) -> Case:
        def run(cursor: Cursor | CursorModel, mark: int) -> Any:
            cursor.reset(mark)
            return step(cursor)

        covered = tuple(f"imapscan.Cursor.{other}" for other in covers)
        return Case(f"imapscan.Cursor.{name}", lambda: run(found, start), lambda: run(model, 0), covers=covered)

    yield both("sp", lambda c: c.sp().mark() > 0)
    yield both("mark", lambda c: c.mark() == c.mark())
    yield both("skip", lambda c: c.skip(b" x"))
    yield both("expect", lambda c: c.expect(b" ").mark() > 0)
    yield both("literal", lambda c: getattr(found := c.sp().literal(), "data", found))
    yield both("end", lambda c: (c.sp().astring(), c.sp().expect(b"(x)").end()))
    yield both("uid", lambda c: (c.uid, c.utf8), "utf8")
