"""`sora-admin`: the table of operations as a command line.

Nothing here knows a single operation: nouns, verbs, options, help and the shape of the output all follow from the rows
of `admin/operations.py` and the structs they name.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 a dependency is down (try again).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import asyncpg
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sora import config as configuration
from sora import log, units
from sora.admin.context import AdminContext, facts
from sora.admin.operations import OPERATIONS
from sora.cli import completion
from sora.cli.progress import Watched
from sora.errors import DatabaseDown, DatabaseReadOnly, Refused, SoraError, Unavailable
from sora.server.embedded_pg import EmbeddedPostgres
from sora.services.logins.passwords import HashCost
from sora.store import migrate
from sora.store.bodies import open_blob_store
from sora.store.db import Database
from sora.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from typing import TextIO

    from msgspec import Struct

    from sora.admin.context import Operation
    from sora.config import Config

DONE: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
TRY_AGAIN: Final = 3
_WIDE: Final = 1000
"""Columns when the output is no terminal: a line that a script reads is never wrapped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `sora-admin`; gives the exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.operation is None:
        script = completion.render(parser, arguments.shell)
        if arguments.json:
            show({"shell": arguments.shell, "script": script}, as_json=True, out=sys.stdout)
        else:
            sys.stdout.write(script)
        return DONE
    operation: Operation = arguments.operation
    try:
        request = read_request(operation, arguments, sys.stdin)
    except UsageError as error:
        arguments.subparser.error(str(error))
    log.setup("text", "warning")
    try:
        answer = asyncio.run(_run(arguments.config, operation, request))
    except SoraError as error:
        for line in _lines(error):
            print(f"sora-admin: {line}", file=sys.stderr)
        return TRY_AGAIN if isinstance(error, Unavailable) else REFUSED
    except KeyboardInterrupt:
        return REFUSED
    show(answer, as_json=arguments.json, out=sys.stdout)
    return operation.failed(answer)


async def _run(path: str, operation: Operation, request: Struct | None) -> Any:
    if operation.standalone:
        return await operation.call(_configuration_if_any(path), request)
    config = configuration.load(path)
    async with contextlib.AsyncExitStack() as stack:
        if operation.brings_database:
            await stack.enter_async_context(own_database(config))
        context = await stack.enter_async_context(opened(config))
        try:
            return await operation.call(context, request)
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError) as error:
            raise Refused("The schema is missing or old: run `sora-admin migrate up`", detail=str(error)) from error
        except asyncpg.PostgresError as error:  # no right to make a schema, no extension pg_trgm
            raise Refused("PostgreSQL refuses", detail=str(error)) from error


def _configuration_if_any(path: str) -> Config | None:
    return configuration.load(path) if Path(path).exists() else None


@contextlib.asynccontextmanager
async def opened(config: Config) -> AsyncIterator[AdminContext]:
    """What operations work with. Nothing is connected before an operation needs it, so that `health` can tell of a
    PostgreSQL that is away, and `config dump` needs none.
    """
    dsn = find_dsn(config)
    db = await Database.open(dsn, min_size=0, max_size=4, application_name="sora-admin")
    try:
        blobs = open_blob_store(config.object_store)
        with Watched(sys.stderr) as watched:
            yield AdminContext(
                config=config, dsn=dsn, store=Store(db), blobs=blobs, cost=HashCost(), progress=watched.show
            )
    finally:
        await db.close()


@contextlib.asynccontextmanager
async def own_database(config: Config) -> AsyncIterator[None]:
    """The PostgreSQL that Sora runs itself, migrated, for as long as no server runs that would have started it."""
    if not config.database.embedded or await _answers(find_dsn(config)):
        yield
        return
    embedded = EmbeddedPostgres(config.database.embedded)
    await asyncio.to_thread(embedded.start)
    try:
        await migrate.up(embedded.dsn)
        yield
    finally:
        await asyncio.to_thread(embedded.stop)


async def _answers(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


def find_dsn(config: Config) -> str:
    """DSN of the primary, or of the PostgreSQL that Sora runs itself; nobody answers there before its first start."""
    if config.database.primary:
        return config.database.primary
    embedded = EmbeddedPostgres(config.database.embedded)
    try:
        return embedded.dsn
    except OSError:
        return f"postgresql://sora@/sora?host={embedded.socket_directory}"


def _lines(error: SoraError) -> list[str]:
    """The reason: one line, but a script has one for each of its errors."""
    # A peer is not told what is away; an operator is.
    text = error.text
    if isinstance(error, DatabaseDown):
        text = "PostgreSQL is read-only" if isinstance(error, DatabaseReadOnly) else "PostgreSQL cannot be reached"
    if error.detail and error.detail != error.text:
        return [" ".join(f"{text}: {error.detail}".split())]
    return [" ".join(line.split()) for line in text.splitlines()]


class UsageError(Exception):
    """The arguments do not make a request."""


class _Parser(argparse.ArgumentParser):
    """Says what was wrong in one line, with the usage of the verb at hand above it."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def build_parser(operations: Iterable[Operation] = OPERATIONS) -> argparse.ArgumentParser:
    """The whole command line; also the source of the manual page."""
    parser = _Parser(
        prog="sora-admin",
        description="Administer a Sora mail store.",
        epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 a dependency is down (try again).",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", default="/etc/sora/sora.toml", help="default: %(default)s")
    nouns = parser.add_subparsers(metavar="NOUN", required=True, parser_class=_Parser)
    for noun, rows in itertools.groupby(operations, key=lambda operation: operation.noun):
        _add_noun(nouns, noun, list(rows))
    about = "Write a script that completes this command in a shell."
    shell = nouns.add_parser("completion", help=about, description=about, allow_abbrev=False)
    shell.set_defaults(operation=None)
    shell.add_argument("--json", action="store_true", help="write the answer as JSON")
    shell.add_argument("shell", choices=completion.SHELLS, help="for which shell")
    return parser


def _add_noun(nouns: Any, noun: str, operations: Sequence[Operation]) -> None:
    """One noun with its verbs, or the one operation that is only a noun."""
    if not operations[0].verb:
        _add_arguments(nouns.add_parser(noun, help=operations[0].summary, allow_abbrev=False), operations[0])
        return
    about = ", ".join(operation.verb for operation in operations)
    verbs = nouns.add_parser(noun, help=about, allow_abbrev=False).add_subparsers(
        metavar="VERB", required=True, parser_class=_Parser
    )
    for operation in operations:
        verb = verbs.add_parser(operation.verb, help=operation.summary, allow_abbrev=False)
        _add_arguments(verb, operation)


def _add_arguments(parser: argparse.ArgumentParser, operation: Operation) -> None:
    parser.description = operation.summary
    parser.set_defaults(operation=operation, subparser=parser)
    parser.add_argument("--json", action="store_true", help="write the answer as JSON")
    for field in operation.fields():
        _add_field(parser, field, positional=field.name in operation.positional)


def _add_field(parser: argparse.ArgumentParser, field: msgspec.inspect.Field, *, positional: bool) -> None:
    kind, about, extra = facts(field)
    option = "--" + field.encode_name.replace("_", "-")
    keywords: dict[str, Any] = {"help": about.replace("%", "%%"), "default": None}
    if extra.get("secret"):
        parser.add_argument(f"{option}-stdin", dest=f"{field.name}_stdin", action="store_true", help=_stdin_help(about))
        return
    if isinstance(kind, msgspec.inspect.BoolType):
        parser.add_argument(option, dest=field.name, action=argparse.BooleanOptionalAction, **keywords)
        return
    if isinstance(kind, msgspec.inspect.LiteralType):
        keywords["choices"] = [str(value) for value in kind.values]
    else:
        keywords["metavar"] = field.encode_name.upper()
    if extra.get("kind") == "file":
        keywords["help"] += ", a file; -: standard input"
    if extra.get("kind") == "directory":
        keywords["metavar"] = "DIR"
    if isinstance(kind, (msgspec.inspect.VarTupleType, msgspec.inspect.ListType)):
        keywords["nargs"] = "*"
    if positional:
        if not field.required and "nargs" not in keywords:
            keywords["nargs"] = "?"
        parser.add_argument(field.name, **keywords)
    else:
        parser.add_argument(option, dest=field.name, required=field.required, **keywords)


def _stdin_help(about: str) -> str:
    return f"read {about.replace('%', '%%')} from the first line of standard input"


def read_request(operation: Operation, arguments: argparse.Namespace, stdin: TextIO) -> Struct | None:
    """The request struct from parsed arguments.

    Raises:
        UsageError: a value does not fit its field, or a needed secret is not given.
    """
    if operation.request is None:
        return None
    values: dict[str, Any] = {}
    for field in operation.fields():
        kind, _, extra = facts(field)
        if extra.get("secret"):
            value: Any = _read_secret(field, getattr(arguments, f"{field.name}_stdin"), stdin)
        else:
            value = getattr(arguments, field.name)
        if value is not None and extra.get("kind") == "size":
            value = _size(field.name, value)
        if value is not None and extra.get("kind") == "file":
            value = _read_file(field.name, value, stdin, text=not isinstance(kind, msgspec.inspect.BytesType))
        if value is not None and extra.get("kind") == "directory":
            value = _read_directory(field.encode_name, value, stdin)
        if value is not None:
            values[field.encode_name] = value
    try:
        return msgspec.convert(values, operation.request, strict=False)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at ")
        name = where.strip("`").removeprefix("$.")
        raise UsageError(f"{name}: {problem}" if name else problem) from None


def _read_secret(field: msgspec.inspect.Field, from_stdin: bool, stdin: TextIO) -> str | None:
    """A secret from standard input, or asked for at a terminal; never from argv, where every user can read it."""
    if from_stdin:
        return stdin.readline().rstrip("\r\n")
    if not field.required:
        return None
    if not stdin.isatty():
        raise UsageError(f"give --{field.encode_name.replace('_', '-')}-stdin")
    typed = getpass.getpass(f"{field.encode_name}: ")
    if getpass.getpass("once more: ") != typed:
        raise UsageError(f"{field.encode_name}: the two differ")
    return typed


def _read_file(name: str, path: str, stdin: TextIO, *, text: bool) -> str | bytes:
    """A field that is given as the name of a file; `-` is standard input."""
    try:
        data = stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode() if text else data
    except OSError as error:
        raise UsageError(f"{name}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name}: {path}: not UTF-8") from None


def _read_directory(name: str, path: str, stdin: TextIO) -> dict[str, str | bytes]:
    """The texts of a directory and of those inside it: what is in `a/b.sieve` has the name `a/b`."""
    if not Path(path).is_dir():
        raise UsageError(f"{name}: {path}: not a directory")
    return {
        file.relative_to(path).with_suffix("").as_posix(): _read_file(name, str(file), stdin, text=True)
        for file in sorted(Path(path).rglob("*.sieve"))
    }


def _size(name: str, text: str) -> int:
    try:
        return units.parse_size(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def show(answer: Any, *, as_json: bool, out: TextIO) -> None:
    """Write an answer: JSON as it is, or a table for people.

    A list of structs becomes rows, one struct becomes lines of name and value; lists inside it follow as tables.
    """
    if as_json:
        out.write(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() + "\n")
        return
    console = Console(file=out, width=None if out.isatty() else _WIDE, highlight=False, soft_wrap=False)
    plain = msgspec.to_builtins(answer)
    if isinstance(plain, list):
        _show_rows(console, plain)
    else:
        _show_record(console, plain)


def _show_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    if not rows:
        console.print("none")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        right = all(isinstance(row[name], int) and not isinstance(row[name], bool) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    _print_table(console, table)


def _show_record(console: Console, record: dict[str, Any], title: str = "") -> None:
    table = Table(box=None, pad_edge=False, show_header=False, title=title or None, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    later: list[Callable[[], None]] = []
    for name, value in record.items():
        if isinstance(value, dict) and value:
            later.append(lambda n=name, v=value: _show_record(console, v, n))  # type: ignore[misc]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            later.append(lambda v=value: _show_rows(console, v))  # type: ignore[misc]
        elif isinstance(value, str) and "\n" in value:
            later.append(lambda n=name, v=value: _show_text(console, n, v))  # type: ignore[misc]
        else:
            table.add_row(name.replace("_", " "), _cell(value))
    if table.row_count or title:
        _print_table(console, table)
    for step in later:
        step()


def _show_text(console: Console, name: str, text: str) -> None:
    """A script or a header, as it stands."""
    console.print(Text(name.replace("_", " "), style="bold"))
    for line in text.replace("\r\n", "\n").rstrip("\n").split("\n"):
        console.file.write(_printable(line, keep="\t") + "\n")


def _print_table(console: Console, table: Table) -> None:
    """Without the blanks that fill the last column."""
    with console.capture() as capture:
        console.print(table)
    console.file.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def _cell(value: Any) -> Text:
    """Text of one value; what a peer could have written cannot move the cursor of the reader."""
    if value is None or value in ("", [], (), {}):
        return Text("-")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, list | tuple):
        items = [_printable(str(item)) for item in value]
        between = "\n" if any(" " in item for item in items) else ", "  # sentences have lines of their own
        return Text(between.join(items))
    return Text(_printable(str(value)))


def _printable(text: str, keep: str = "") -> str:
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


if __name__ == "__main__":
    sys.exit(main())
