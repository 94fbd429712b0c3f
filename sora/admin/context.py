"""What an admin operation works with, and the shape of the table's rows."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import msgspec.inspect
from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sora.config import Config
    from sora.errors import SoraError
    from sora.services.logins.passwords import HashCost
    from sora.store.blobs import BlobStore
    from sora.store.store import Store

SECRET: Final = {"secret": True}
"""Extra of a request field that never stands in argv: the command line reads it from standard input."""
SIZE: Final = {"kind": "size"}
"""Extra of a field in octets: the command line also takes `10GB`."""

FILE: Final = {"kind": "file"}
"""Extra of a field that is a whole text or message: the command line takes the name of a file, `-`: standard input."""
DIRECTORY: Final = {"kind": "directory"}
"""Extra of a field of texts by their names: the command line takes the name of a directory with `NAME.sieve` files."""

Address = Annotated[str, Meta(description="address, local@domain", min_length=3, max_length=320)]
MailboxName = Annotated[str, Meta(description="mailbox name, `/` between levels", min_length=1, max_length=1000)]
Password = Annotated[str, Meta(description="the password", max_length=1024, extra=SECRET)]


def _silent(text: str, done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(slots=True)
class AdminContext:
    """Handed to every operation. `store` and `blobs` connect when they are first used, not before.

    Attributes:
        dsn: of the primary; migrations use a connection of their own.
        cost: of new password hashes.
        progress: told of long work: what is in hand, how much is done, and how much there is.
    """

    config: Config
    dsn: str
    store: Store
    blobs: BlobStore
    cost: HashCost
    progress: Callable[[str, int, int], None] = _silent


class Done(Struct, frozen=True):
    """The answer of an operation that has nothing to show."""

    done: bool = True


class Operation:
    """One row of the table: an async function of (context[, request]) and how it is reached from outside.

    Args:
        name: `noun.verb`, or a bare noun; also the OpenAPI operation id.
        route: method and path template; names in braces are fields of the request.
        run: its docstring is the help text; the annotations of its second parameter and result are structs.
        positional: request fields that are given without `--name`, in order; None: all that must be given.
        errors: what it raises on purpose, for the API's documentation.
        failed: tells from the answer whether the command line ends with another code than 0.
        standalone: it needs no server and no database, and not even a configuration: *run* takes that, or None, and
            the request.
        brings_database: no server runs meanwhile, so the command line starts the PostgreSQL that a server would.
    """

    __slots__ = (
        "brings_database",
        "errors",
        "failed",
        "name",
        "positional",
        "request",
        "response",
        "route",
        "run",
        "standalone",
    )

    def __init__(
        self,
        name: str,
        route: str,
        run: Callable[..., Awaitable[Any]],
        *,
        positional: tuple[str, ...] | None = None,
        errors: tuple[type[SoraError], ...] = (),
        failed: Callable[[Any], int] = lambda answer: 0,
        standalone: bool = False,
        brings_database: bool = False,
    ) -> None:
        hints = typing.get_type_hints(run, include_extras=True)
        self.name = name
        self.route = route
        self.run = run
        self.errors = errors
        self.failed = failed
        self.standalone = standalone
        self.brings_database = brings_database
        self.request: type[Struct] | None = hints.get("req")
        self.positional = self._required() if positional is None else positional
        self.response: Any = hints["return"]

    @property
    def noun(self) -> str:
        """First word on the command line."""
        return self.name.partition(".")[0]

    @property
    def verb(self) -> str:
        """Second word, or empty."""
        return self.name.partition(".")[2]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]

    def fields(self) -> tuple[msgspec.inspect.Field, ...]:
        """Fields of the request in order of declaration."""
        if self.request is None:
            return ()
        info = msgspec.inspect.type_info(self.request)
        assert isinstance(info, msgspec.inspect.StructType)
        return info.fields

    def _required(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields() if field.required and not facts(field)[2].get("secret"))

    async def call(self, context: AdminContext | Config | None, request: Struct | None) -> Any:
        """Run it; if it is standalone, with the configuration instead of a context, or with neither."""
        return await (self.run(context) if request is None else self.run(context, request))


def facts(field: msgspec.inspect.Field) -> tuple[msgspec.inspect.Type, str, dict[str, Any]]:
    """The bare type, the description and the merged extras of a field; `X | None` is X."""
    kind, about = field.type, ""
    extra: dict[str, Any] = {}
    while True:
        if isinstance(kind, msgspec.inspect.Metadata):
            about = (kind.extra_json_schema or {}).get("description", about)
            extra = {**(kind.extra or {}), **extra}
            kind = kind.type
        elif isinstance(kind, msgspec.inspect.UnionType):
            kind = next(t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType))
        else:
            return kind, about, extra
