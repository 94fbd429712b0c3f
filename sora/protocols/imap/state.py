"""The states of an IMAP session (RFC 9051 §3)."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Flag):
    """Where a session is; a row of the command table may name several."""

    NOT_AUTHENTICATED = enum.auto()
    AUTHENTICATED = enum.auto()
    SELECTED = enum.auto()
    LOGOUT = enum.auto()


NOT_AUTHENTICATED: Final = State.NOT_AUTHENTICATED
AUTHENTICATED: Final = State.AUTHENTICATED
SELECTED: Final = State.SELECTED
LOGOUT: Final = State.LOGOUT
ANY: Final = NOT_AUTHENTICATED | AUTHENTICATED | SELECTED
