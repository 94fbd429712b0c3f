"""From an exception to the refusal: one table of response codes, and the refusals that only ManageSieve knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora import errors
from sora.errors import BadSyntax, SoraError
from sora.store import scripts
from sora.wire import managesieve as wire
from sora.wire.managesieve import Code

if TYPE_CHECKING:
    from collections.abc import Mapping


class WrongState(BadSyntax):
    """The verb is known, but not in this state (RFC 5804 §2)."""

    default_text = "Not in this state"


class PrivacyRequired(errors.NoPermission):
    """Passwords are not taken without TLS."""

    default_text = "Use TLS first"


CODES: Final[Mapping[type[SoraError], Code]] = {
    errors.SoraError: Code.TRY_LATER,
    errors.WireError: Code.NONE,
    errors.LiteralTooBig: Code.MAX_SIZE,
    errors.BadScript: Code.NONE,
    errors.Refused: Code.NONE,
    PrivacyRequired: Code.ENCRYPT_NEEDED,
    errors.LimitExceeded: Code.TRY_LATER,
    errors.Unavailable: Code.TRY_LATER,
    errors.OverQuota: Code.QUOTA,
    scripts.TooManyScripts: Code.MAX_SCRIPTS,
    scripts.ScriptTooLarge: Code.MAX_SIZE,
    scripts.ScriptsTooLarge: Code.QUOTA,
    scripts.NoScript: Code.NON_EXISTENT,
    scripts.ScriptExists: Code.ALREADY_EXISTS,
    scripts.ScriptActive: Code.ACTIVE,
}
"""Response code of each error (RFC 5804 §1.3)."""


def reply_to(error: SoraError) -> bytes:
    """The reply for an error: the code of its class, or of its nearest ancestor."""
    return wire.write_no(error.text, code_of(error))


def code_of(error: SoraError) -> Code:
    """The response code for an error."""
    return next(CODES[ancestor] for ancestor in type(error).__mro__ if ancestor in CODES)
