"""What a script decides to do with a message. Values: whoever runs the script carries them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sora.sieve.mail import Mail


class Keep(Struct, frozen=True):
    """File into the mailbox where the message was going anyway: INBOX, or the one it is in (IMAPSIEVE).

    Attributes:
        mail: The message as it is stored.
        flags: None: those that it has, or none.
        implicit: No action asked for it; the script merely left it.
    """

    mail: Mail
    flags: tuple[str, ...] | None = None
    implicit: bool = False


class FileInto(Struct, frozen=True):
    """File into a mailbox (RFC 5228 §4.1).

    Attributes:
        mailbox: Name, in UTF-8.
        create: Make it if it is not there (RFC 5490 §3.2).
        special_use: Prefer the mailbox with this use, `\\Junk` … (RFC 8579); empty: by name.
        mailbox_id: Prefer the mailbox with this id (RFC 9042); empty: by name.
        where: Script and line that want it, for whoever is told that it cannot be.
    """

    mail: Mail
    mailbox: str
    flags: tuple[str, ...] | None = None
    create: bool = False
    special_use: str = ""
    mailbox_id: str = ""
    where: str = ""


class Discard(Struct, frozen=True):
    """Throw the message away, silently (RFC 5228 §4.4)."""


class Redirect(Struct, frozen=True):
    """Send the message on (RFC 5228 §4.2).

    Attributes:
        notify: NOTIFY for the DSN extension (RFC 6009 §4); empty: that of the message.
        ret: RET, `FULL` or `HDRS`; empty: that of the message.
        by_time: DELIVERBY, seconds from now; None: not given.
        by_mode: `NOTIFY` or `RETURN`.
        by_trace: Trace the delivery by time.
    """

    mail: Mail
    address: str
    notify: str = ""
    ret: str = ""
    by_time: int | None = None
    by_mode: str = ""
    by_trace: bool = False


class Reject(Struct, frozen=True):
    """Refuse the message (RFC 5429).

    Attributes:
        extended: `ereject`: at the SMTP level if that can be.
    """

    reason: str
    extended: bool = False


class Send(Struct, frozen=True):
    """Send a message that the script made: a vacation reply or a notification.

    Attributes:
        kind: `vacation` or `notify`.
        sender: Reverse-path; empty for the null sender.
        recipients: Forward-paths.
        data: The whole message.
        handle: What a reply is remembered by (RFC 5230 §4.2): no second one to the recipient within `seconds`.
        seconds: 0: it is not remembered.
        copy: Also filed here (`:fcc`, RFC 8580); None: not.
    """

    kind: str
    sender: str
    recipients: tuple[str, ...]
    data: bytes
    handle: str = ""
    seconds: int = 0
    copy: FileInto | None = None


Action = Keep | FileInto | Discard | Redirect | Reject | Send


class Remembered(Struct, frozen=True):
    """A message id that `duplicate` (RFC 7352) tracks, to be noted once the delivery has succeeded.

    Attributes:
        seconds: For how long.
        again: It was tracked before, and only its time begins anew (`:last`).
    """

    handle: str
    unique_id: str
    seconds: int
    again: bool = False


class Outcome(Struct, frozen=True):
    """What became of a message.

    Attributes:
        actions: In the order of the scripts.
        remembered: See `Remembered`.
        error: Why a script failed, with its name and line; the message is kept then. Empty: none did.
        trace: What was done line by line, if it was asked for.
        spent: Instructions.
    """

    actions: tuple[Action, ...]
    remembered: tuple[Remembered, ...] = ()
    error: str = ""
    trace: tuple[str, ...] = ()
    spent: int = 0


# --------------------------------------------------------------------------------------------------- what is the same


def same_as(action: Action) -> tuple[str, ...] | None:
    """Actions with the same key do the same thing; None: this one is like no other."""
    match action:
        case Keep():
            return ("keep",)
        case FileInto():
            return ("fileinto", mailbox_key(action.mailbox), action.special_use.lower(), action.mailbox_id)
        case Redirect():
            local, _, domain = action.address.rpartition("@")
            return ("redirect", local, domain.lower())
        case Discard():
            return ("discard",)
    return None


def mailbox_key(name: str) -> str:
    """What is equal for names of the same mailbox: INBOX is it in any case (RFC 9051 §5.1)."""
    return "INBOX" if name.upper() == "INBOX" else name


def merged(first: Action, second: Action) -> Action:
    """The flags that were given last hold; the message is the one that was stored first."""
    match first, second:
        case FileInto(), FileInto():
            return replace(first, flags=second.flags, create=first.create or second.create)
        case Keep(), Keep():
            return replace(first, flags=second.flags, implicit=first.implicit and second.implicit)
    return first


def kept_once(actions: Sequence[Action], mailbox: str) -> Iterator[Action]:
    """Filing into the mailbox where the message is kept anyway is the same as keeping it."""
    stored = [action for action in actions if _is_keep(action, mailbox)]
    for action in actions:
        if not _is_keep(action, mailbox) or (len(stored) == 1 and isinstance(action, Keep)):
            yield action
        elif action is stored[0]:
            last = stored[-1]
            yield Keep(action.mail, last.flags, all(isinstance(one, Keep) and one.implicit for one in stored))


def _is_keep(action: Action, mailbox: str) -> TypeGuard[Keep | FileInto]:
    if isinstance(action, FileInto):
        named = not action.special_use and not action.mailbox_id
        return named and mailbox_key(action.mailbox) == mailbox_key(mailbox)
    return isinstance(action, Keep)


def told(action: Action) -> str:
    """What a trace says of an action."""
    match action:
        case FileInto():
            return f'"{action.mailbox}"'
        case Redirect():
            return f'"{action.address}"'
        case Reject():
            return f'"{action.reason}"'
        case Send():
            return f"{action.kind} to {', '.join(action.recipients)}"
        case Keep() if action.flags:
            return " ".join(action.flags)
        case Discard() | Keep():
            return ""
