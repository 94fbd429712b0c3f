"""The states of a session."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Flag):
    """RFC 5804 §2: before and after login."""

    STRANGER = enum.auto()
    KNOWN = enum.auto()


STRANGER: Final = State.STRANGER
KNOWN: Final = State.KNOWN
BOTH: Final = STRANGER | KNOWN
