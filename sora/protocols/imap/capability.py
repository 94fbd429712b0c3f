"""CAPABILITY: what is advertised, each name only in the state in which it works.

Names that belong to a command come from its row of the command table; this module holds those that belong to none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.protocols.imap.commands import ROWS
from sora.protocols.imap.state import AUTHENTICATED, NOT_AUTHENTICATED, SELECTED, State

if TYPE_CHECKING:
    from collections.abc import Iterator

REVISIONS: Final = ("IMAP4rev1",)

BEFORE_LOGIN: Final = ("LITERAL+", "SASL-IR", "ID", "ENABLE")
"""What a client may want to know of before it logs in; the rest is announced with the answer to the login."""

AFTER_LOGIN: Final = ("LITERAL+", "CHILDREN", "SPECIAL-USE")

_LOGGED_IN: Final = AUTHENTICATED | SELECTED


def capabilities(state: State, *, tls: bool, can_start_tls: bool, allow_cleartext: bool) -> bytes:
    """The names for one state of a session, separated by spaces.

    Args:
        tls: The connection is encrypted.
        can_start_tls: The listener has a certificate.
        allow_cleartext: Passwords are taken without TLS.
    """
    names = dict.fromkeys(_names(state, tls, can_start_tls, allow_cleartext))
    return " ".join(names).encode()


def _names(state: State, tls: bool, can_start_tls: bool, allow_cleartext: bool) -> Iterator[str]:
    yield from REVISIONS
    if state is NOT_AUTHENTICATED:
        yield from BEFORE_LOGIN
        if can_start_tls and not tls:
            yield "STARTTLS"
        yield "AUTH=PLAIN" if tls or allow_cleartext else "LOGINDISABLED"
        return
    yield from AFTER_LOGIN
    for row in ROWS:
        if row.capability and row.states & _LOGGED_IN:
            yield row.capability
