"""The table of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax
from sora.protocols.pop3 import login, transaction
from sora.protocols.pop3.replies import WrongState
from sora.protocols.pop3.state import AUTHORIZATION, BOTH, TRANSACTION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sora.protocols.pop3.session import Session
    from sora.protocols.pop3.state import State


class Verb(Struct, frozen=True):
    """One row.

    Attributes:
        states: Where it is allowed.
        arguments: How many words may follow, at least and at most.
    """

    run: Callable[[Session, bytes], Awaitable[None]]
    states: State
    arguments: tuple[int, int] = (0, 0)

    def check(self, state: State, argument: bytes) -> None:
        """Refuse what the row does not allow.

        Raises:
            WrongState: Not in this state.
            BadSyntax: Too few or too many arguments.
        """
        if state not in self.states:
            raise WrongState
        least, most = self.arguments
        if not least <= len(argument.split()) <= most:
            raise BadSyntax("Wrong number of arguments")


ANY: Final = 1 << 16
"""Names and passwords may have spaces in them."""

VERBS: Final[Mapping[str, Verb]] = {
    "CAPA": Verb(login.capa, BOTH),
    "LANG": Verb(login.lang, BOTH, (0, 1)),
    "UTF8": Verb(login.utf8, AUTHORIZATION),
    "STLS": Verb(login.stls, AUTHORIZATION),
    "USER": Verb(login.user, AUTHORIZATION, (1, ANY)),
    "PASS": Verb(login.password, AUTHORIZATION, (0, ANY)),
    "AUTH": Verb(login.auth, AUTHORIZATION, (0, 2)),
    "STAT": Verb(transaction.stat, TRANSACTION),
    "LIST": Verb(transaction.list_sizes, TRANSACTION, (0, 1)),
    "UIDL": Verb(transaction.list_unique_ids, TRANSACTION, (0, 1)),
    "RETR": Verb(transaction.retrieve, TRANSACTION, (1, 1)),
    "TOP": Verb(transaction.top, TRANSACTION, (2, 2)),
    "DELE": Verb(transaction.delete, TRANSACTION, (1, 1)),
    "RSET": Verb(transaction.reset, TRANSACTION),
    "NOOP": Verb(transaction.noop, TRANSACTION),
    "QUIT": Verb(transaction.leave, BOTH),
}
