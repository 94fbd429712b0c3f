"""`reject` and `ereject` (RFC 5429)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.sieve.actions import Reject
from sora.sieve.checks import STRING, CommandRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker
    from sora.sieve.interpreter import Run


def _reject(*, extended: bool) -> Callable[[Checker, Bound], Callable[[Run], None]]:
    def build(_check: Checker, bound: Bound) -> Callable[[Run], None]:
        reason = bound.text(0)

        def run(state: Run) -> None:
            if state.environment.imap:
                state.fail("A message in a mailbox cannot be rejected (RFC 6785 §3.11)")
            state.act(Reject(state.text(reason), extended))

        return run

    return build


EXTENSIONS: Final = frozenset({"reject", "ereject"})
TESTS: Final = ()
COMMANDS: Final = (
    CommandRow(name="reject", build=_reject(extended=False), extension="reject", positional=(STRING,)),
    CommandRow(name="ereject", build=_reject(extended=True), extension="ereject", positional=(STRING,)),
)
