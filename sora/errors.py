"""Every exception that Sora raises on purpose.

    SoraError
    ├─ WireError      the peer's bytes         BadSyntax  LineTooLong  LiteralTooBig
    ├─ Refused        valid, but declined      NotFound  AlreadyExists  NoPermission  OverQuota  TooBig
    │                                          InvalidName  Expunged  InUse  AuthFailed  LimitExceeded
    │                                          BadScript  ScriptFailed
    ├─ Unavailable    try again                DatabaseDown (DatabaseReadOnly)  BlobDown (KeyUnavailable)
    │                                          StagingFull  Busy
    ├─ PeerGone       the connection ended
    └─ ConfigError    start-up and reload

Lower floors raise these neutral errors; each protocol owns one table from class to reply. Anything else that
reaches a protocol is a bug: it is logged with its traceback, and the peer gets a fixed text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class SoraError(Exception):
    """Base of all.

    Attributes:
        text: One line that is safe to show to the peer.
        detail: More, for the log only.
    """

    default_text = "Error"

    def __init__(self, text: str = "", *, detail: str = "") -> None:
        self.text = text or self.default_text
        self.detail = detail
        super().__init__(f"{self.text} ({detail})" if detail else self.text)


class WireError(SoraError):
    """What the peer sent cannot be understood."""

    default_text = "Bad syntax"


class BadSyntax(WireError):
    """The bytes do not follow the grammar."""


class LineTooLong(WireError):
    """A line passed its limit before it ended."""

    default_text = "Line too long"


class LiteralTooBig(WireError):
    """A literal is announced that is larger than this command may carry."""

    default_text = "Literal too big"


class Refused(SoraError):
    """A well-formed request that is declined; asking again changes nothing."""

    default_text = "Refused"


class NotFound(Refused):
    """No such account, mailbox, message or object."""

    default_text = "Not found"


class AlreadyExists(Refused):
    """The name is taken."""

    default_text = "Already exists"


class NoPermission(Refused):
    """The caller may not do this."""

    default_text = "Permission denied"


class OverQuota(Refused):
    """The account or domain has no room left; nothing was stored."""

    default_text = "Quota exceeded"


class TooBig(Refused):
    """A message over the size limit."""

    default_text = "Message too big"


class InvalidName(Refused):
    """A mailbox name or address that cannot be."""

    default_text = "Invalid name"


class Expunged(Refused):
    """The message is gone for good."""

    default_text = "Message expunged"


class InUse(Refused):
    """Somebody else holds the lock, such as a POP3 maildrop."""

    default_text = "In use"


class AuthFailed(Refused):
    """Unknown name, wrong password or disabled account; the text never says which."""

    default_text = "Authentication failed"


class LimitExceeded(Refused):
    """A limit of the configuration was reached."""

    default_text = "Limit exceeded"


class BadScript(Refused):
    """A Sieve script that cannot be run.

    Attributes:
        errors: Line, column (both from 1) and what is wrong there, in the order of the script.
    """

    def __init__(self, errors: Sequence[tuple[int, int, str]] = ()) -> None:
        self.errors = tuple(errors)
        super().__init__("\r\n".join(f"line {line}, column {column}: {text}" for line, column, text in self.errors))


class ScriptFailed(Refused):
    """A Sieve script that was well-formed failed while it ran (RFC 5228 §2.10.6).

    Attributes:
        line: Of the command; 0: of none.
    """

    def __init__(self, text: str = "", line: int = 0) -> None:
        self.line = line
        super().__init__(text)


class Unavailable(SoraError):
    """A dependency is down or slow: the same request may succeed later."""

    default_text = "Temporarily unavailable"


class DatabaseDown(Unavailable):
    """PostgreSQL cannot be reached, or the connection was lost.

    Attributes:
        maybe_done: True if the statement may have been committed (the connection broke after it was sent).
    """

    def __init__(self, text: str = "", *, detail: str = "", maybe_done: bool = False) -> None:
        super().__init__(text, detail=detail)
        self.maybe_done = maybe_done


class DatabaseReadOnly(DatabaseDown):
    """PostgreSQL answers, and takes no changes: a standby, or somebody wants it so. Nothing was done."""

    default_text = "Read-only for maintenance, try again later"


class OutcomeUnknown(Unavailable):
    """The answer of PostgreSQL was lost: it was done, or it was not. Whoever asked has to look."""

    default_text = "It is not known whether this was done"


class BlobDown(Unavailable):
    """A message body cannot be had now."""

    default_text = "Message body temporarily unavailable"


class KeyUnavailable(BlobDown):
    """The data key of an account cannot be had: its master key is missing, or the account was shredded."""

    default_text = "Temporarily unavailable"


class StagingFull(Unavailable):
    """No room to stage a message."""

    default_text = "Insufficient storage, try again later"


class Busy(Unavailable):
    """Too much at once."""

    default_text = "Busy, try again later"


class PeerGone(SoraError):
    """The peer closed the connection, or fell silent for too long in the middle of a transfer."""

    default_text = "Connection closed"


class ConfigError(SoraError):
    """The configuration cannot be used; the text names the key."""

    default_text = "Configuration error"
