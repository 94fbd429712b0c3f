"""The table of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from sora.errors import BadSyntax
from sora.protocols.managesieve import login, scripts
from sora.protocols.managesieve.replies import WrongState
from sora.protocols.managesieve.state import BOTH, KNOWN, STRANGER
from sora.wire.managesieve import parse_number, parse_octets, parse_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sora.protocols.managesieve.state import State
    from sora.wire.managesieve import Word

    Parse = Callable[[Word], Any]


class Verb(Struct, frozen=True):
    """One row.

    Attributes:
        run: Of the session and the arguments.
        states: Where it is allowed.
        takes: What each argument is read with.
        optional: How many of the last arguments may be missing.
    """

    run: Callable[..., Awaitable[None]]
    states: State
    takes: tuple[Parse, ...] = ()
    optional: int = 0

    def read(self, state: State, words: Sequence[Word]) -> list[Any]:
        """The arguments, or a refusal of what the row does not allow.

        Raises:
            WrongState: Not in this state.
            BadSyntax: Too few or too many arguments, or of the wrong kind.
        """
        if state not in self.states:
            raise WrongState
        if not len(self.takes) - self.optional <= len(words) <= len(self.takes):
            raise BadSyntax("Wrong number of arguments")
        return [parse(word) for parse, word in zip(self.takes, words, strict=False)]


VERBS: Final[Mapping[str, Verb]] = {
    "AUTHENTICATE": Verb(login.authenticate, STRANGER, (parse_text, parse_octets), optional=1),
    "STARTTLS": Verb(login.starttls, STRANGER),
    "CAPABILITY": Verb(login.capability, BOTH),
    "NOOP": Verb(login.noop, BOTH, (parse_text,), optional=1),
    "LOGOUT": Verb(login.logout, BOTH),
    "UNAUTHENTICATE": Verb(login.unauthenticate, KNOWN),
    "HAVESPACE": Verb(scripts.have_space, KNOWN, (parse_text, parse_number)),
    "PUTSCRIPT": Verb(scripts.put, KNOWN, (parse_text, parse_octets)),
    "CHECKSCRIPT": Verb(scripts.check, KNOWN, (parse_octets,)),
    "LISTSCRIPTS": Verb(scripts.list_scripts, KNOWN),
    "SETACTIVE": Verb(scripts.set_active, KNOWN, (parse_text,)),
    "GETSCRIPT": Verb(scripts.get, KNOWN, (parse_text,)),
    "DELETESCRIPT": Verb(scripts.delete, KNOWN, (parse_text,)),
    "RENAMESCRIPT": Verb(scripts.rename, KNOWN, (parse_text, parse_text)),
}
