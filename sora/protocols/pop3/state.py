"""The states of a session."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Flag):
    """RFC 1939 §3; the UPDATE state is the inside of QUIT."""

    AUTHORIZATION = enum.auto()
    TRANSACTION = enum.auto()


AUTHORIZATION: Final = State.AUTHORIZATION
TRANSACTION: Final = State.TRANSACTION
BOTH: Final = AUTHORIZATION | TRANSACTION
