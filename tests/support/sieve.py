"""Run a Sieve script on a message, and say in words what it did."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

from sora.errors import BadScript
from sora.sieve import interpreter
from sora.sieve.actions import Discard, FileInto, Keep, Outcome, Redirect, Reject, Send
from sora.sieve.interpreter import Environment, Step
from sora.sieve.mail import Mail
from sora.sieve.script import Script, compile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sora.sieve.actions import Action
    from sora.sieve.limits import Limits
    from sora.sieve.questions import Ask

NOW: Final = datetime(2024, 3, 5, 14, 30, 15, tzinfo=timezone(timedelta(hours=1)))
MAIL: Final = (
    b"Return-Path: <coyote@desert.example.org>\r\n"
    b"Received: from a.example by b.example; Tue, 5 Mar 2024 09:00:00 +0000\r\n"
    b"From: Wile E. Coyote <coyote@desert.example.org>\r\n"
    b"To: roadrunner@acme.example.com, Friends: bird@acme.example.com;\r\n"
    b'Cc: "Ken+sales" <ken+sales@example.org>\r\n'
    b"Date: Mon, 4 Mar 2024 23:10:00 -0800\r\n"
    b"Subject: I have a present for you\r\n"
    b"Message-ID: <1@desert.example.org>\r\n"
    b"X-Caffeine: C8H10N4O2\r\n"
    b"X-Empty:\r\n"
    b"\r\n"
    b"Look, I'm sorry about the whole anvil thing.\r\n"
)


def environment(**changes: Any) -> Environment:
    """The surroundings of a delivery to roadrunner@acme.example.com."""
    given: dict[str, Any] = {
        "now": NOW,
        "sender": "coyote@desert.example.org",
        "recipient": "roadrunner@acme.example.com",
        "owner": "roadrunner@acme.example.com",
        "addresses": frozenset({"bird@acme.example.com"}),
        "external_id": "random",
    }
    return Environment(**(given | changes))


def execute(
    *scripts: str,
    mail: bytes = MAIL,
    answers: Mapping[type[Ask], Any] | None = None,
    limits: Limits | None = None,
    trace: bool = False,
    **changes: Any,
) -> Outcome:
    """Run scripts one after the other.

    Args:
        answers: By kind of question: the answer, or a function that gives it. None is the answer to others.
        changes: To `environment`.
    """

    def answer(question: Ask) -> Any:
        found = (answers or {}).get(type(question))
        return found(question) if callable(found) else found

    steps = [Step(compile(script.encode()), f"script {number}") for number, script in enumerate(scripts, 1)]
    running = interpreter.run(steps, Mail(mail), environment(**changes), limits, notes=[] if trace else None)
    return interpreter.drive(running, answer)


def did(*scripts: str, **arguments: Any) -> list[str]:
    """The actions in words; the error of a script that failed comes first."""
    outcome = execute(*scripts, **arguments)
    return [*([f"error: {outcome.error}"] if outcome.error else []), *map(told, outcome.actions)]


def told(action: Action) -> str:
    """One action in words."""
    match action:
        case Keep():
            return "keep" + _flags(action.flags)
        case FileInto():
            extra = f" {action.special_use}{action.mailbox_id}".rstrip()
            return f"fileinto {action.mailbox}{extra}{' create' * action.create}{_flags(action.flags)}"
        case Redirect():
            return f"redirect {action.address}"
        case Reject():
            return f"{'e' * action.extended}reject {action.reason}"
        case Send():
            return f"{action.kind} {','.join(action.recipients)}"
        case Discard():
            return "discard"


def _flags(flags: tuple[str, ...] | None) -> str:
    return f" ({' '.join(flags)})" if flags is not None else ""


def holds(test: str, *extensions: str, **arguments: Any) -> bool:
    """Whether a test is true."""
    outcome = execute(f"{required(*extensions)}if {test} {{ discard; }}", **arguments)
    assert not outcome.error, outcome.error
    return outcome.actions == (Discard(),)


def required(*extensions: str) -> str:
    """The command that requires these extensions."""
    return f"require [{', '.join(map(_quoted, extensions))}];\n" if extensions else ""


def _quoted(text: str) -> str:
    return f'"{text}"'


def errors(script: str) -> list[str]:
    """What is wrong with a script, line by line."""
    try:
        compile(script.encode())
    except BadScript as error:
        return [f"{line}:{column} {text}" for line, column, text in error.errors]
    return []


def compiled(script: str) -> Script:
    """A script without errors."""
    return compile(script.encode())


def mail(**fields: str | list[str]) -> bytes:
    """A message with these header fields (`_` is `-`) and a body of one line."""
    lines = [
        f"{name.replace('_', '-')}: {value}\r\n"
        for name, values in fields.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return ("".join(lines) + "\r\nbody\r\n").encode()
