"""Admin operations on Sieve scripts; `check` and `test` need neither a server nor a database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from sora.admin.context import FILE, Address, AdminContext, Done
from sora.errors import BadScript
from sora.services.scripts import quota_of
from sora.sieve import interpreter
from sora.sieve.actions import FileInto, Keep, Redirect, Reject, Send
from sora.sieve.interpreter import Environment, drive
from sora.sieve.mail import Mail
from sora.sieve.script import compile
from sora.store.scripts import ScriptInfo  # noqa: TC001 — the table of operations reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.sieve.actions import Action, Outcome
    from sora.sieve.interpreter import Ask

Name = Annotated[str, Meta(description="name of the script", min_length=1, max_length=512)]
Text = Annotated[str, Meta(description="the script", extra=FILE)]


class OneAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Request that names an account."""

    address: Address


class OneScript(Struct, frozen=True, forbid_unknown_fields=True):
    """Request that names a script of an account."""

    address: Address
    name: Name


class PutScript(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `sieve put`."""

    address: Address
    name: Name
    script: Text
    activate: Annotated[bool, Meta(description="make it the active one")] = False


class CheckScript(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `sieve check`."""

    script: Text


class TestScript(Struct, frozen=True, forbid_unknown_fields=True):
    """Request of `sieve test`."""

    __test__ = False

    script: Text
    mail: Annotated[bytes, Meta(description="the message", extra=FILE)]
    sender: Annotated[str, Meta(description="reverse-path of the envelope; empty: the null sender")] = ""
    recipient: Annotated[str, Meta(description="forward-path of the envelope")] = ""
    missing: Annotated[bool, Meta(description="mailboxes that the script asks for do not exist")] = False
    duplicate: Annotated[bool, Meta(description="the message was seen before")] = False


class ScriptText(Struct, frozen=True):
    """A script as it was put."""

    name: str
    script: str


class Problem(Struct, frozen=True):
    """What is wrong or odd at one place of a script."""

    kind: str
    line: int
    column: int
    text: str


class Checked(Struct, frozen=True):
    """What `sieve check` found; `requires`: extensions of the script."""

    valid: bool
    requires: list[str]
    problems: list[Problem]


class Taken(Struct, frozen=True):
    """One action; `edited`: it takes a changed copy of the message."""

    action: str
    target: str
    details: str
    edited: bool


class TraceLine(Struct, frozen=True):
    """What a script did on one of its lines."""

    line: str
    did: str


class Tested(Struct, frozen=True):
    """What `sieve test` found; `error`: why the script failed, the message is kept then."""

    error: str
    instructions: int
    actions: list[Taken]
    trace: list[TraceLine]


async def list_scripts(ctx: AdminContext, req: OneAccount) -> list[ScriptInfo]:
    """List the scripts of an account."""
    account = await ctx.store.accounts.get(req.address)
    return await ctx.store.scripts.list_scripts(account.account_id)


async def show(ctx: AdminContext, req: OneScript) -> ScriptText:
    """Show a script."""
    account = await ctx.store.accounts.get(req.address)
    script = await ctx.store.scripts.get(account.account_id, req.name)
    return ScriptText(script.name, script.content.decode("utf-8", "replace"))


async def put(ctx: AdminContext, req: PutScript) -> Done:
    """Store a script that has no errors, in place of the one of that name."""
    content = req.script.encode()
    compile(content, max_bytes=ctx.config.sieve.max_script_size)
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.scripts.put(account.account_id, req.name, content, quota_of(ctx.config.sieve))
    if req.activate:
        await ctx.store.scripts.set_active(account.account_id, req.name)
    return Done()


async def activate(ctx: AdminContext, req: OneScript) -> Done:
    """Make a script the active one of its account."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.scripts.set_active(account.account_id, req.name)
    return Done()


async def deactivate(ctx: AdminContext, req: OneAccount) -> Done:
    """Let no script of an account run; all of them stay."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.scripts.set_active(account.account_id, "")
    return Done()


async def delete(ctx: AdminContext, req: OneScript) -> Done:
    """Delete a script that is not active."""
    account = await ctx.store.accounts.get(req.address)
    await ctx.store.scripts.delete(account.account_id, req.name)
    return Done()


async def check(req: CheckScript) -> Checked:
    """Say what is wrong with a script; needs no server."""
    try:
        script = compile(req.script.encode())
    except BadScript as error:
        return Checked(False, [], _problems("error", error.errors))
    return Checked(True, sorted(script.required), _problems("warning", script.warnings))


def _problems(kind: str, places: tuple[tuple[int, int, str], ...]) -> list[Problem]:
    return [Problem(kind, line, column, text) for line, column, text in places]


async def test(req: TestScript) -> Tested:
    """Show what a script does with a message, line by line; needs no server, and nothing is sent."""
    script, mail = compile(req.script.encode()), Mail(req.mail)
    now = datetime.now(UTC)
    environment = Environment(
        now=now,
        sender=req.sender,
        recipient=req.recipient,
        owner=req.recipient,
        addresses=frozenset({req.recipient.lower()} if req.recipient else ()),
        items={"name": "Sora", "phase": "during", "location": "MDA"},
        external_id="test",
    )
    answers = _Answers(req)
    outcome = drive(interpreter.run([interpreter.Step(script)], mail, environment, trace=True), answers.to)
    trace = [*answers.asked, *_trace(outcome)]
    return Tested(outcome.error, outcome.spent, list(_taken(outcome, mail)), trace)


class _Answers:
    """What a store would say: there is every mailbox and list, unless the request denies it, and nothing in them."""

    def __init__(self, req: TestScript) -> None:
        self._there = not req.missing
        self._duplicate = req.duplicate
        self.asked: list[TraceLine] = []

    def to(self, question: Ask) -> Any:
        answer = self._answer(question)
        said = {True: "yes", False: "no", None: "nothing"}.get(answer, "none of them")
        self.asked.append(TraceLine("asked", f"{_question(question)}: {said}"))
        return answer

    def _answer(self, question: Ask) -> Any:
        match question:
            case interpreter.IsDuplicate():
                return self._duplicate
            case interpreter.ListContains():
                return frozenset()
            case interpreter.MetadataExists():
                return False
            case interpreter.IncludeScript() | interpreter.Metadata():
                return None
        return self._there


def _question(question: Ask) -> str:
    """As `mailboxes exist Junk, Trash`."""
    name = "".join(f" {c.lower()}" if c.isupper() else c for c in type(question).__name__).strip()
    values = (getattr(question, field) for field in question.__struct_fields__)
    words = (", ".join(value) if isinstance(value, tuple) else str(value) for value in values if value is not None)
    return f"{name} {' '.join(words)}"


def _trace(outcome: Outcome) -> Iterator[TraceLine]:
    for note in outcome.trace:
        line, _, did = note.partition(": ")
        yield TraceLine(line, did)


def _taken(outcome: Outcome, mail: Mail) -> Iterator[Taken]:
    for action in outcome.actions:
        target, details = _told(action)
        edited = getattr(action, "mail", mail).data != mail.data
        yield Taken(type(action).__name__.lower(), target, details, edited)


def _told(action: Action) -> tuple[str, str]:
    """Where an action goes, and what else it says."""
    match action:
        case Keep():
            details = ["nothing else was done"] if action.implicit else []
            return "INBOX", "; ".join([*details, *_flags(action.flags)])
        case FileInto():
            wishes = ["create" if action.create else "", action.special_use, action.mailbox_id]
            return action.mailbox, "; ".join([*filter(None, wishes), *_flags(action.flags)])
        case Redirect():
            return action.address, ""
        case Reject():
            return "", action.reason
        case Send():
            return ", ".join(action.recipients), f"{action.kind}, {len(action.data)} octets"
    return "", ""


def _flags(flags: tuple[str, ...] | None) -> list[str]:
    return [f"flags {' '.join(flags)}"] if flags else []
