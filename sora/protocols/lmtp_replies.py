"""What LMTP answers: one table from errors to replies (RFC 5321 §4.2, RFC 3463), and the fixed replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora import errors
from sora.errors import BadSyntax, LimitExceeded, SoraError
from sora.services.delivery import MailLoop
from sora.services.filters.carrying import Rejected
from sora.wire import lmtp
from sora.wire.lmtp import Reply
from sora.wire.xclient import BadAttribute

if TYPE_CHECKING:
    from collections.abc import Mapping


class UnknownCommand(BadSyntax):
    """No row of the table has this verb."""

    default_text = "Unknown command"


class OutOfOrder(BadSyntax):
    """The verb is known, but not now (RFC 5321 §4.1.4)."""

    default_text = "Bad sequence of commands"


class TooSlow(LimitExceeded):
    """The octets of the message drip in."""

    default_text = "Message takes too long"


class TooManyRecipients(LimitExceeded):
    """This transaction has as many recipients as it may (RFC 5321 §4.5.3.1.10)."""

    default_text = "Too many recipients"


class NotAllowed(errors.NoPermission):
    """Whoever reaches an LMTP port can deliver, so strangers are sent away."""

    default_text = "You may not deliver here"


class NotTrusted(errors.NoPermission):
    """Only peers in `trusted_networks` may speak for others."""

    default_text = "You may not use this"


ERRORS: Final[Mapping[type[SoraError], tuple[int, str]]] = {
    # what the peer sent
    errors.WireError: (500, "5.5.2"),
    errors.LineTooLong: (500, "5.5.2"),
    UnknownCommand: (500, "5.5.1"),
    OutOfOrder: (503, "5.5.1"),
    lmtp.BadArgument: (501, "5.5.4"),
    lmtp.BadSender: (501, "5.1.7"),
    lmtp.BadRecipient: (501, "5.1.3"),
    lmtp.UnknownParameter: (555, "5.5.4"),
    lmtp.Utf8Needed: (553, "5.6.7"),
    BadAttribute: (501, "5.5.4"),
    # what is refused
    errors.Refused: (554, "5.0.0"),
    errors.NotFound: (550, "5.1.1"),
    errors.InvalidName: (550, "5.1.1"),
    errors.NoPermission: (550, "5.7.1"),
    NotAllowed: (554, "5.7.1"),
    NotTrusted: (550, "5.7.1"),
    errors.OverQuota: (552, "5.2.2"),
    errors.TooBig: (552, "5.3.4"),
    MailLoop: (554, "5.4.6"),
    Rejected: (550, "5.7.1"),
    errors.LimitExceeded: (421, "4.7.0"),
    TooSlow: (421, "4.4.2"),
    TooManyRecipients: (452, "4.5.3"),
    # what may pass
    errors.StagingFull: (452, "4.3.1"),
    errors.SoraError: (451, "4.3.0"),
}

GREETED: Final = Reply(250, "2.0.0", ("OK",))
SENDER_OK: Final = Reply(250, "2.1.0", ("Sender OK",))
RECIPIENT_OK: Final = Reply(250, "2.1.5", ("Recipient OK",))
STORED: Final = Reply(250, "2.0.0", ("Stored",))
GO_AHEAD: Final = Reply(354, "", ("End data with <CR><LF>.<CR><LF>",))
NO_MAIL: Final = Reply(503, "5.5.1", ("MAIL comes first",))
NO_RECIPIENTS: Final = Reply(503, "5.5.1", ("No valid recipients",))
NOT_VERIFIED: Final = Reply(252, "2.5.0", ("Cannot verify, send some mail",))
BYE: Final = Reply(221, "2.0.0", ("Bye",))
IDLE: Final = Reply(421, "4.4.2", ("Idle for too long",))
SHUTTING_DOWN: Final = Reply(421, "4.3.2", ("Server is going down, try again later",))
CHUNK_OK: Final = Reply(250, "2.0.0", ("Chunk OK",))
READY_FOR_TLS: Final = Reply(220, "2.0.0", ("Ready to start TLS",))
TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", ("Too many bad commands",))
INTERNAL_ERROR: Final = Reply(451, "4.3.0", ("Internal error, try again later",))


def reply_to(error: SoraError) -> Reply:
    """The reply for an error: the row of its class, or of its nearest ancestor."""
    code, status = next(ERRORS[ancestor] for ancestor in type(error).__mro__ if ancestor in ERRORS)
    return Reply(code, status, tuple(error.text.splitlines()) or ("",))
