"""`notify` (RFC 5435) by mail (RFC 5436): `mailto:` is the one method."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from msgspec import Struct

from sora.sieve import compose
from sora.sieve.actions import Send
from sora.sieve.checks import COMPARATOR_TAG, MATCH_TAGS, STRING, STRINGS, CommandRow, Tag, TestRow
from sora.sieve.fcc import FCC_TAGS, copy_of
from sora.sieve.mail import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker, Steps
    from sora.sieve.interpreter import Run

MAX_RECIPIENTS: Final = 8
"""Of one notification."""
_FORBIDDEN: Final = frozenset(
    {"from", "sender", "date", "message-id", "received", "return-path", "auto-submitted", "to", "subject", "body",
     "mime-version", "content-type", "content-transfer-encoding", "bcc", "dkim-signature"}
)  # fmt: skip
"""Fields that a URI must not set (RFC 5436 §2.3); those that it may set otherwise are read on their own."""
_IMPORTANCE: Final = {"1": ("High", "1 (Highest)"), "2": ("Normal", "3 (Normal)"), "3": ("Low", "5 (Lowest)")}


class MailTo(Struct, frozen=True):
    """A `mailto:` URI (RFC 6068).

    Attributes:
        fields: Further header fields, name and value.
    """

    recipients: tuple[str, ...]
    subject: str = ""
    body: str = ""
    fields: tuple[tuple[str, str], ...] = ()


def parse_mailto(uri: str) -> MailTo | None:
    """The parts of a URI; None if it is no `mailto:`, or reaches nobody or too many."""
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme.lower() != "mailto":
        return None
    path, _, query = rest.partition("?")
    recipients = [unquote(part) for part in path.split(",") if part]
    known: dict[str, str] = {}
    fields = []
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        name, value = unquote(name).lower(), unquote(value)
        if name == "to":
            recipients += [part.strip() for part in value.split(",")]
        elif name in ("subject", "body"):
            known[name] = value
        elif name not in _FORBIDDEN and name.isascii() and name.replace("-", "").isalnum():
            fields.append((name.title(), value))
    addresses = [address.path for text in recipients if (address := parse_address(text)) is not None]
    if not addresses or len(addresses) != len(recipients) or len(addresses) > MAX_RECIPIENTS:
        return None
    return MailTo(tuple(addresses), known.get("subject", ""), known.get("body", ""), tuple(fields))


def _notify(check: Checker, bound: Bound) -> Callable[[Run], None]:
    method, tags = bound.text(0), bound.tags
    if isinstance(method, str) and parse_mailto(method) is None:
        check.error(bound, f'"{method}" is no method of notification: mailto: is')
    importance = tags.get(":importance", "2")
    if isinstance(importance, str) and importance not in _IMPORTANCE:
        check.error(bound, ":importance is 1, 2 or 3")
    copy = copy_of(check, bound)

    def run(state: Run) -> None:
        target = parse_mailto(state.text(method))
        if target is None:
            state.fail(f'"{state.text(method)}" is no method of notification')
        if any(value.partition(";")[0].strip().lower() != "no" for value in state.original.header("Auto-Submitted")):
            state.note("notify: not for what a program has sent (RFC 5436 §2.7)")
            return
        message = state.text(tags[":message"]) if ":message" in tags else ""
        sender = _sender(state, state.text(tags[":from"]) if ":from" in tags else "")
        level = _IMPORTANCE.get(state.text(importance), _IMPORTANCE["2"])
        data = _notification(state, target, sender, message, level)
        action = Send("notify", state.environment.owner, target.recipients, data, copy=copy(state, data))
        state.act(action, cancels_keep=False)

    return run


def _sender(state: Run, wanted: str) -> str:
    """RFC 5436 §2.2: `:from` only if it is an address of the owner; else the owner's."""
    address = parse_address(wanted) if wanted else None
    own = {state.environment.owner.lower(), *state.environment.addresses}
    return wanted if address is not None and str(address).lower() in own else state.environment.owner


def _notification(state: Run, target: MailTo, sender: str, message: str, level: tuple[str, str]) -> bytes:
    """RFC 5436 §2.7."""
    environment, original = state.environment, state.original
    subjects = original.header("Subject")
    place = sum(isinstance(action, Send) for action in state.actions)
    fields = [
        ("Date", compose.date(environment.now)),
        ("From", sender),
        ("To", ", ".join(target.recipients)),
        ("Subject", message or target.subject or (subjects[0] if subjects else "New message")),
        ("Message-ID", f"<{environment.external_id}.n{place}@{environment.owner.rpartition('@')[2] or 'localhost'}>"),
        ("Auto-Submitted", f'auto-notified; owner-email="{_quotable(environment.owner)}"'),
        ("Importance", level[0]),
        ("X-Priority", level[1]),
        *target.fields,
    ]
    senders = original.header("From")
    body = target.body or f"From: {senders[0] if senders else ''}\r\nSubject: {subjects[0] if subjects else ''}\r\n"
    return compose.text_message(fields, body)


def _quotable(text: str) -> str:
    """For between quotes (RFC 3834 §5: a parameter; `@` cannot stand in a token)."""
    return re.sub(r'(["\\])', r"\\\1", text)


def _valid_notify_method(_check: Checker, bound: Bound) -> Callable[[Run], bool]:
    uris = bound.texts(0)
    return lambda state: all(parse_mailto(uri) is not None for uri in state.texts(uris))


def _notify_method_capability(check: Checker, bound: Bound) -> Callable[[Run], Steps]:
    match = check.match(bound)
    uri, name = bound.text(0), bound.text(1)
    keys = check.keys(match, bound.texts(2), bound)

    def run(state: Run) -> Steps:
        if parse_mailto(state.text(uri)) is None or state.text(name).lower() != "online":
            return False
        return (yield from state.any_match(match, ["maybe"], keys))  # RFC 5436 §2.8: mail cannot know

    return run


EXTENSIONS: Final = frozenset({"enotify"})
TESTS: Final = (
    TestRow(name="valid_notify_method", build=_valid_notify_method, extension="enotify", positional=(STRINGS,)),
    TestRow(
        name="notify_method_capability",
        build=_notify_method_capability,
        extension="enotify",
        positional=(STRING, STRING, STRINGS),
        tags=(*MATCH_TAGS, COMPARATOR_TAG),
    ),
)
COMMANDS: Final = (
    CommandRow(
        name="notify",
        build=_notify,
        extension="enotify",
        positional=(STRING,),
        tags=(
            Tag(":from", STRING),
            Tag(":importance", STRING),
            Tag(":options", STRINGS),
            Tag(":message", STRING),
            *FCC_TAGS,
        ),
    ),
)
