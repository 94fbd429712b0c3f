"""`vacation` (RFC 5230) and `vacation-seconds` (RFC 6131): an answer while the owner is away."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from sora.sieve import compose
from sora.sieve.actions import Reject, Send
from sora.sieve.checks import NUMBER, STRING, STRINGS, CommandRow, Tag
from sora.sieve.fcc import FCC_TAGS, copy_of
from sora.sieve.mail import Mail, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run

DAY_S: Final = 86400
DEFAULT_DAYS: Final = 7
MAX_DAYS: Final = 90
"""Longer periods are cut (RFC 5230 §4.1)."""
_NOBODY: Final = re.compile(
    r"(mailer-daemon|listserv|majordomo|noreply|no-reply|postmaster|nobody|root|www-data|apache|owner-.*|.*-(request|owner"
    r"|bounces?)|bounces?)(\+.*)?",
    re.IGNORECASE,
)
"""Local parts behind which no person reads (RFC 5230 §4.6, RFC 3834 §2)."""
_ID: Final = re.compile("<[^<>\\s]+>")
_LIST_FIELDS: Final = (
    "List-Id",
    "List-Help",
    "List-Subscribe",
    "List-Unsubscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
)
_RECIPIENT_FIELDS: Final = ("To", "Cc", "Bcc", "Resent-To", "Resent-Cc", "Resent-Bcc")


def _vacation(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    reason, tags = bound.text(0), bound.tags
    seconds = _period(bound)
    sender = tags.get(":from")
    if isinstance(sender, str) and parse_address(sender) is None:
        check.error(bound, f'"{sender}" is no mail address')
    mime = ":mime" in tags
    if mime and isinstance(reason, str) and not _is_entity(reason):
        check.error(bound, "The text of :mime must begin with MIME header fields (RFC 5230 §4.3)")
    copy = copy_of(check, bound)
    written = _handle(str(tags.get(":subject", "")), str(sender or ""), str(reason), mime)

    def run(state: Run) -> Steps:
        if state.environment.imap:
            state.fail("vacation cannot be used here (RFC 6785 §3.11)")
        if "vacation" in state.state:
            state.fail("vacation is used twice (RFC 5230 §4)")
        state.state["vacation"] = True
        if any(isinstance(action, Reject) for action in state.actions):
            state.fail("The message is rejected, and cannot be answered (RFC 5429 §2.4)")
        if any(isinstance(action, Send) and action.kind == "vacation" for action in state.actions):
            return  # a script before this one answers already
        to = state.environment.sender
        addresses = [address.lower() for address in state.texts(tags.get(":addresses", ()))]
        why = yield from refusal(state, addresses)
        if why or not to:
            state.note(f"vacation: no answer, {why}")
            return
        own = state.text(sender) if sender is not None else state.environment.owner
        subject = state.text(tags[":subject"]) if ":subject" in tags else _subject(state)
        data = _answer(state, to, own, subject, state.text(reason), mime=mime)
        handle = state.text(tags[":handle"]) if ":handle" in tags else written
        filed = copy(state, data)
        period = _usual_period(state) if seconds is None else seconds
        state.act(Send("vacation", "", (to,), data, handle, period, filed), cancels_keep=False)

    return run


def _period(bound: Bound) -> int | None:
    """Seconds in which nobody is answered twice; None: the script does not say."""
    if ":seconds" in bound.tags:
        return min(int(bound.tags[":seconds"]), MAX_DAYS * DAY_S)
    if ":days" in bound.tags:
        return min(max(int(bound.tags[":days"]), 1), MAX_DAYS) * DAY_S
    return None


def _usual_period(state: Run) -> int:
    """What the site wants where a script does not say."""
    return int(getattr(state.environment.settings, "vacation_seconds", DEFAULT_DAYS * DAY_S))


def refusal(state: Run, addresses: list[str]) -> Steps:
    """Why a message is not answered (RFC 5230 §4.5, §4.6, RFC 3834 §2); empty: it is.

    Args:
        addresses: Further addresses of the owner, in lower case.
    """
    mail, environment = state.original, state.environment
    sender = parse_address(environment.sender or "")
    if sender is None:
        return "it has no sender"
    own = {environment.owner.lower(), environment.recipient.lower(), *environment.addresses, *addresses}
    if str(sender).lower() in own:
        return "it is from the owner"
    if _NOBODY.fullmatch(sender.local):
        return f'nobody reads "{sender}"'
    if any(state.has_field(mail.top, name) for name in _LIST_FIELDS):
        return "it came by a mailing list"
    if any(value.partition(";")[0].strip().lower() != "no" for value in mail.header("Auto-Submitted")):
        return "a program has sent it"
    if any(value.lower() in ("bulk", "junk", "list") for value in mail.header("Precedence")):
        return "it is bulk mail"
    if any(_suppresses(value) for value in mail.header("X-Auto-Response-Suppress")):
        return "it asks for no answer"
    for name in _RECIPIENT_FIELDS:
        for field in (yield from state.addresses(mail.top, name)):
            if any(str(address).lower() in own for address in field):
                return ""
    return "it is not addressed to the owner"


def _suppresses(value: str) -> bool:
    return bool({word.strip().lower() for word in value.split(",")} & {"oof", "all", "autoreply"})


def _subject(state: Run) -> str:
    """RFC 5230 §5.5: `Auto: ` and the subject of the message."""
    subjects = state.original.header("Subject")
    return f"Auto: {subjects[0]}" if subjects and subjects[0] else "Automated reply"


def _handle(subject: str, sender: str, reason: str, mime: bool) -> str:
    """Answers with the same arguments are the same answer (RFC 5230 §4.2), whatever is in their variables.

    Otherwise everybody would be answered to each letter where the answer quotes something of it.
    """
    return hashlib.blake2b(
        "\0".join((subject, sender, reason, str(mime))).encode("utf-8", "surrogateescape"), digest_size=16
    ).hexdigest()


def _answer(state: Run, to: str, sender: str, subject: str, reason: str, *, mime: bool) -> bytes:
    environment, original = state.environment, state.original
    fields = [
        ("Date", compose.date(environment.now)),
        ("From", sender),
        ("To", to),
        ("Subject", subject),
        ("Message-ID", f"<{environment.external_id}.v@{environment.owner.rpartition('@')[2] or 'localhost'}>"),
        *_thread(original),
        ("Auto-Submitted", "auto-replied (vacation)"),
        ("Precedence", "bulk"),
        ("X-Auto-Response-Suppress", "All"),
    ]
    return (compose.mime_message if mime else compose.text_message)(fields, reason)


def _thread(original: Mail) -> list[tuple[str, str]]:
    """In-Reply-To and References (RFC 5230 §5.8)."""
    ids = [value for value in original.header("Message-ID") if _ID.fullmatch(value)]
    if not ids:
        return []
    earlier = (original.header("References") or original.header("In-Reply-To") or [""])[0]
    return [("In-Reply-To", ids[0]), ("References", f"{earlier} {ids[0]}".strip()[-900:])]


def _is_entity(text: str) -> bool:
    return re.match(r"(?i)(content-|mime-version)[!-9;-~]*:", text) is not None


EXTENSIONS: Final = frozenset({"vacation", "vacation-seconds"})
TESTS: Final = ()
COMMANDS: Final = (
    CommandRow(
        name="vacation",
        build=_vacation,
        extension="vacation",
        positional=(STRING,),
        tags=(
            Tag(":days", NUMBER, group="period"),
            Tag(":seconds", NUMBER, group="period", extension="vacation-seconds"),
            Tag(":subject", STRING),
            Tag(":from", STRING),
            Tag(":addresses", STRINGS),
            Tag(":mime"),
            Tag(":handle", STRING),
            *FCC_TAGS,
        ),
    ),
)
