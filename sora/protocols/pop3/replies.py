"""From an exception to the status line: one table of response codes, and the refusals that only POP3 knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora import errors
from sora.errors import BadSyntax, SoraError
from sora.services.maildrop import NoMaildrop, TooSoon
from sora.wire import pop3

if TYPE_CHECKING:
    from collections.abc import Mapping


class WrongState(BadSyntax):
    """The verb is known, but not in this state (RFC 1939 §3)."""

    default_text = "Not in this state"


class PrivacyRequired(errors.NoPermission):
    """Passwords are not taken without TLS."""

    default_text = "Use TLS first"


CODES: Final[Mapping[type[SoraError], str]] = {
    errors.WireError: "",
    errors.Refused: "",
    errors.AuthFailed: "AUTH",
    errors.InUse: "IN-USE",
    TooSoon: "LOGIN-DELAY",
    NoMaildrop: "SYS/PERM",
    errors.LimitExceeded: "SYS/TEMP",
    errors.Unavailable: "SYS/TEMP",
    errors.SoraError: "SYS/TEMP",
}
"""Response code of each error (RFC 2449 §8.1, RFC 3206 §4)."""


def reply_to(error: SoraError) -> bytes:
    """The reply for an error: the code of its class, or of its nearest ancestor."""
    return pop3.write_error(error.text, code_of(error))


def code_of(error: SoraError) -> str:
    """The response code for an error, without brackets; empty for none."""
    return next(CODES[ancestor] for ancestor in type(error).__mro__ if ancestor in CODES)
