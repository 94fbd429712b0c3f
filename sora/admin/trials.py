"""What a script would do with a message: a run on which nothing depends, without a server or a database.

What a script asks the store is answered by the request: there is every mailbox, or none; nothing was seen before; lists
are empty. Scripts that it includes come with the request.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta, Struct

from sora.admin.context import DIRECTORY, FILE
from sora.config import Config  # noqa: TC001 — the table of operations reads the annotations
from sora.errors import BadScript
from sora.services.filters.runs import limits_of
from sora.sieve import interpreter, questions
from sora.sieve.actions import Discard, FileInto, Keep, Redirect, Reject, Send
from sora.sieve.interpreter import Environment, Step, drive
from sora.sieve.mail import Mail
from sora.sieve.script import compile
from sora.tables import SieveTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.sieve.actions import Action, Outcome, Remembered
    from sora.sieve.questions import Ask
    from sora.sieve.script import Script

ASKED: Final = "asked"
"""Stands for the number of the line where the script asked something: what it makes of the answer comes next."""
_UNITS: Final = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))
_WORDS: Final = {True: "yes", False: "no", None: "nothing"}


class TestScript(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={"sender": "from", "recipient": "to", "site": "global"},
):
    """Request of `sieve test`."""

    __test__ = False

    script: Annotated[str, Meta(description="the script", extra=FILE)]
    mail: Annotated[bytes, Meta(description="the message", extra=FILE)]
    sender: Annotated[
        str | None,
        Meta(description="reverse-path of the envelope, empty: the null sender; default: Return-Path or From"),
    ] = None
    recipient: Annotated[
        str | None, Meta(description="forward-path of the envelope; default: Delivered-To or the first in To")
    ] = None
    owner: Annotated[str | None, Meta(description="primary address of the account; default: the forward-path")] = None
    flags: Annotated[
        tuple[str, ...], Meta(description="flags that the message has already; give them after the files")
    ] = ()
    personal: Annotated[
        dict[str, str], Meta(description="scripts of the account that it may include", extra=DIRECTORY)
    ] = {}
    site: Annotated[dict[str, str], Meta(description="scripts of the site that it may include", extra=DIRECTORY)] = {}
    missing: Annotated[bool, Meta(description="the script finds no mailbox that it tests for")] = False
    duplicate: Annotated[bool, Meta(description="the message was seen before")] = False


class Taken(Struct, frozen=True):
    """One action; `edited`: it takes a changed copy of the message."""

    action: str
    target: str
    details: str
    edited: bool


class TraceLine(Struct, frozen=True):
    """What a script did on one of its lines, or asked."""

    line: str
    did: str


class Tested(Struct, frozen=True, rename={"sender": "from", "recipient": "to"}):
    """What `sieve test` found; `error`: why the script failed, the message is kept then."""

    error: str
    sender: str
    recipient: str
    instructions: int
    actions: list[Taken]
    trace: list[TraceLine]


async def test(config: Config | None, req: TestScript) -> Tested:
    """Show what a script does with a message, line by line; needs no server, and nothing is sent.

    Its bounds are those of the configuration, if there is one.
    """
    table = SieveTable() if config is None else config.sieve
    script = compile(req.script.encode(), max_bytes=table.max_script_size, max_nesting=table.max_nesting)
    mail = Mail(req.mail)
    environment = _environment(req, mail)
    notes: list[str] = []
    answers = _Answers(req, notes)
    running = interpreter.run([Step(script)], mail, environment, limits_of(table), notes=notes)
    outcome = drive(running, answers.to, time.thread_time)
    return Tested(
        outcome.error,
        environment.sender or "",
        environment.recipient,
        outcome.spent,
        list(_taken(outcome, mail)),
        [TraceLine(line, did) for line, _, did in (note.partition(": ") for note in notes)],
    )


def _environment(req: TestScript, mail: Mail) -> Environment:
    sender = _address_in(mail, "Return-Path", "From") if req.sender is None else req.sender
    recipient = _address_in(mail, "Delivered-To", "To") if req.recipient is None else req.recipient
    owner = recipient if req.owner is None else req.owner
    return Environment(
        now=datetime.now(UTC),
        sender=sender,
        recipient=recipient,
        owner=owner,
        addresses=frozenset(filter(None, (recipient.lower(), owner.lower()))),
        items={"name": "Sora", "phase": "during", "location": "MDA"},
        external_id="test",
        flags=req.flags,
    )


def _address_in(mail: Mail, *names: str) -> str:
    """The first address in the first of these fields that is there; `Return-Path: <>` has none."""
    for name in names:
        if mail.header(name):
            return next((address.path for address in mail.addresses(name) if address.domain), "")
    return ""


# ─────────────────────────────────────────────────────────────────────────────────────────── what a store would say


class _Answers:
    """Answers, and notes them between the lines of the trace."""

    def __init__(self, req: TestScript, notes: list[str]) -> None:
        self._req = req
        self._notes = notes

    def to(self, question: Ask) -> Any:
        answer, said = self._answer(question)
        self._notes.append(f"{ASKED}: {_question(question)}: {said}")
        return answer

    def _answer(self, question: Ask) -> tuple[Any, str]:
        """The answer, and what a person is told of it."""
        match question:
            case questions.IncludeScript():
                return self._included(question)
            case questions.IsDuplicate():
                answer: Any = self._req.duplicate
            case questions.ListContains():
                return frozenset(), "none of them"
            case questions.ListMembers():
                return (), "nobody"
            case questions.MetadataExists():
                answer = False
            case questions.Metadata():
                answer = None
            case _:
                answer = not self._req.missing
        return answer, _WORDS[answer]

    def _included(self, question: questions.IncludeScript) -> tuple[Script | None, str]:
        source = (self._req.personal if question.personal else self._req.site).get(question.name)
        if source is None:
            return None, "there is none"
        try:
            return compile(source.encode()), "here it is"
        except BadScript as error:
            return None, error.text


def _question(question: Ask) -> str:
    """As `mailboxes exist Junk, Trash`."""
    if isinstance(question, questions.IncludeScript):
        return f"include {'personal' if question.personal else 'global'} script {question.name}"
    name = "".join(f" {c.lower()}" if c.isupper() else c for c in type(question).__name__).strip()
    values = (getattr(question, field) for field in question.__struct_fields__)
    words = (", ".join(value) if isinstance(value, tuple) else str(value) for value in values if value)
    return " ".join((name, *words))


# ──────────────────────────────────────────────────────────────────────────────────────────── actions, in words


def _taken(outcome: Outcome, mail: Mail) -> Iterator[Taken]:
    for action in outcome.actions:
        name, target, details = _told(action)
        edited = getattr(action, "mail", mail).data != mail.data
        yield Taken(name, target, "; ".join(filter(None, details)), edited)
    for remembered in outcome.remembered:
        yield Taken("remember", remembered.unique_id, _remembered(remembered), edited=False)


def _told(action: Action) -> tuple[str, str, list[str]]:
    """What an action is called, where it goes, and what else it says."""
    match action:
        case Keep():
            return "keep", "INBOX", ["implicit" if action.implicit else "", _flags(action.flags)]
        case FileInto():
            wishes = ["created if missing" if action.create else "", action.special_use, _id(action.mailbox_id)]
            return "fileinto", action.mailbox, [*wishes, _flags(action.flags)]
        case Redirect():
            return "redirect", action.address, _smtp(action)
        case Reject():
            return "ereject" if action.extended else "reject", "", [action.reason]
        case Send():
            return action.kind, ", ".join(action.recipients), _sent(action)
        case Discard():
            return "discard", "", []


def _flags(flags: tuple[str, ...] | None) -> str:
    return f"flags {' '.join(flags)}" if flags else ""


def _id(mailbox_id: str) -> str:
    return f"id {mailbox_id}" if mailbox_id else ""


def _smtp(action: Redirect) -> list[str]:
    """What the next server is told (RFC 6009)."""
    by = "" if action.by_time is None else f"by {action.by_time} seconds, {action.by_mode.lower()}"
    trace = ", trace" if by and action.by_trace else ""
    return [
        f"notify {action.notify}" if action.notify else "",
        f"return {action.ret}" if action.ret else "",
        by + trace,
    ]


def _sent(action: Send) -> list[str]:
    subject = Mail(action.data).header("Subject")
    return [
        f'subject "{subject[0]}"' if subject else "",
        f"from {action.sender}" if action.sender else "",
        f"{len(action.data)} octets",
        f"not again within {_period(action.seconds)}" if action.seconds else "",
        f"copy in {action.copy.mailbox}" if action.copy else "",
    ]


def _remembered(remembered: Remembered) -> str:
    handle = f"handle {remembered.handle}; " if remembered.handle else ""
    return f"{handle}for {_period(remembered.seconds)}"


def _period(seconds: int) -> str:
    """In the largest unit that needs no fraction."""
    size, unit = next((size, unit) for size, unit in _UNITS if seconds % size == 0)
    count = seconds // size
    return f"{count} {unit[:-1] if count == 1 else unit}"
