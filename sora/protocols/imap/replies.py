"""From an exception to the tagged response: one table, and the few refusals that only IMAP knows.

Lower floors raise the neutral errors of `sora.errors`. A handler that knows more (COPY to a mailbox that could be
created) raises one of the subclasses here; the table is searched along the class's ancestors, so the nearest row wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora import errors
from sora.wire.imap_notify import EVENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

OK: Final = b"OK"
NO: Final = b"NO"
BAD: Final = b"BAD"


class Reply(Struct, frozen=True):
    """A tagged response.

    Attributes:
        status: OK, NO or BAD.
        text: For people; empty: the session writes `<command> completed`.
        code: Response code without its brackets, or empty (RFC 9051 §7.1).
    """

    status: bytes = OK
    text: bytes = b""
    code: bytes = b""


ANSWERED: Final = Reply()
"""The handler has written the tagged response itself."""


class Coded(errors.Refused):
    """A refusal whose response code says more than the class does.

    Attributes:
        code: Without its brackets.
    """

    def __init__(self, code: bytes = b"", text: str = "") -> None:
        super().__init__(text)
        self.code = code


class TryCreate(errors.NotFound):
    """The target mailbox does not exist, but could be created (RFC 9051 §7.1)."""

    default_text = "No such mailbox; create it first"


class ReadOnly(errors.Refused):
    """The mailbox was opened by EXAMINE."""

    default_text = "Mailbox is read-only"


class UidRequired(errors.BadSyntax):
    """A message number from a client that has enabled UIDONLY (RFC 9586 §3.1)."""

    default_text = "Message numbers are not allowed once UIDONLY is enabled"


class PrivacyRequired(errors.Refused):
    """Passwords are not taken in cleartext (RFC 5530 §3)."""

    default_text = "Use TLS before you log in"


class CompressionActive(errors.Refused):
    """COMPRESS for the second time (RFC 4978 §3)."""

    default_text = "DEFLATE is active already"


class BadCharset(errors.Refused):
    """SEARCH in a charset that is not known (RFC 9051 §6.4.4)."""

    default_text = "Unknown charset"


class Cannot(errors.Refused):
    """The operation is not possible, whoever asks and when (RFC 5530 §3)."""

    default_text = "Not possible"


class ClientBug(errors.BadSyntax):
    """What no client has a reason to ask for (RFC 5530 §3)."""

    default_text = "That makes no sense"


class FilterCharset(errors.BadSyntax):
    """FILTER in a search whose charset is not UTF-8 (RFC 5466 §3.1)."""

    default_text = "Filters are in UTF-8"


class TooFew(errors.Refused):
    """UIDBATCHES with smaller batches than the server makes (RFC 10022)."""

    default_text = "The batches are too small"


class TooMany(errors.Refused):
    """UIDBATCHES for more messages than one command may ask for (RFC 10022)."""

    default_text = "Too many batches"


class UseAttribute(errors.Refused):
    """CREATE with a special use that cannot be had (RFC 6154 §3)."""

    default_text = "Special use not supported"


class BadEvent(errors.Refused):
    """NOTIFY for an event that is not supported (RFC 5465 §3.1)."""

    default_text = "Event not supported"


class NotificationOverflow(errors.Refused):
    """NOTIFY for more mailboxes than a session may watch (RFC 5465 §3.1)."""

    default_text = "Too many mailboxes to watch"


class UnknownEncoding(errors.Refused):
    """BINARY of a part whose Content-Transfer-Encoding is not known (RFC 3516 §4.3)."""

    default_text = "Unknown Content-Transfer-Encoding"


ERRORS: Final[Mapping[type[errors.SoraError], tuple[bytes, bytes]]] = {
    errors.BadSyntax: (BAD, b""),
    ClientBug: (BAD, b"CLIENTBUG"),
    FilterCharset: (BAD, b"BADCHARSET (US-ASCII UTF-8)"),
    UidRequired: (BAD, b"UIDREQUIRED"),
    errors.LineTooLong: (BAD, b"TOOBIG"),
    errors.LiteralTooBig: (BAD, b"TOOBIG"),
    errors.WireError: (BAD, b""),
    errors.NotFound: (NO, b"NONEXISTENT"),
    TryCreate: (NO, b"TRYCREATE"),
    errors.AlreadyExists: (NO, b"ALREADYEXISTS"),
    errors.NoPermission: (NO, b"NOPERM"),
    errors.OverQuota: (NO, b"OVERQUOTA"),
    errors.TooBig: (NO, b"TOOBIG"),
    errors.InvalidName: (NO, b"CANNOT"),
    errors.Expunged: (NO, b"EXPUNGEISSUED"),
    errors.InUse: (NO, b"INUSE"),
    errors.AuthFailed: (NO, b"AUTHENTICATIONFAILED"),
    errors.LimitExceeded: (NO, b"LIMIT"),
    ReadOnly: (NO, b""),
    PrivacyRequired: (NO, b"PRIVACYREQUIRED"),
    CompressionActive: (NO, b"COMPRESSIONACTIVE"),
    BadCharset: (NO, b"BADCHARSET (US-ASCII UTF-8)"),
    Cannot: (NO, b"CANNOT"),
    TooFew: (NO, b"TOOFEW"),
    TooMany: (NO, b"TOOMANY"),
    UseAttribute: (NO, b"USEATTR"),
    BadEvent: (NO, b"BADEVENT (%s)" % " ".join(EVENTS).encode()),
    NotificationOverflow: (NO, b"NOTIFICATIONOVERFLOW"),
    UnknownEncoding: (NO, b"UNKNOWN-CTE"),
    Coded: (NO, b""),
    errors.Refused: (NO, b""),
    errors.Unavailable: (NO, b"UNAVAILABLE"),
    errors.SoraError: (NO, b"SERVERBUG"),
}

IDLE_TOO_LONG: Final = b"[UNAVAILABLE] Autologout; idle for too long"
GOING_DOWN: Final = b"[UNAVAILABLE] Server is going down, connect again"
OUTCOME_UNKNOWN: Final = b"[UNAVAILABLE] It is not known whether the command was carried out, connect again and look"
SERVER_BUG: Final = Reply(NO, b"Internal error", b"SERVERBUG")


def reply_to(error: errors.SoraError) -> Reply:
    """The response for an error: the row of its class, or of its nearest ancestor."""
    status, code = next(ERRORS[c] for c in type(error).__mro__ if c in ERRORS)
    return Reply(status, printable(error.text), error.code if isinstance(error, Coded) else code)


def printable(text: str) -> bytes:
    """One line of printable US-ASCII, as `resp-text` wants it; never empty."""
    line = " ".join(text.split())
    return "".join(c if " " <= c <= "~" else "?" for c in line).encode() or b"-"
