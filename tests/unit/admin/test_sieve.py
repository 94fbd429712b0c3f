"""Admin operations on scripts: checks and trials without a server, the rest on a real store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sora.admin import sieve
from sora.admin.context import AdminContext
from sora.admin.operations import OPERATIONS
from sora.config import Config
from sora.errors import BadScript, InvalidName, NotFound
from sora.store.scripts import NoScript, ScriptActive, TooManyScripts
from sora.tables import SieveTable

if TYPE_CHECKING:
    from sora.store.store import Store

MAIL = b"From: bob@example.net\r\nTo: ann@example.com\r\nSubject: well hello\r\nMessage-ID: <a@b>\r\n\r\nbody\r\n"
ANN = "ann@example.com"


def tried(script: str, mail: bytes = MAIL, **options: Any) -> sieve.Tested:
    return asyncio.run(sieve.test(sieve.TestScript(script=script, mail=mail, **options)))


def actions(script: str, **options: Any) -> list[tuple[str, str, str, bool]]:
    return [msgspec.structs.astuple(action) for action in tried(script, **options).actions]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", [("keep", "INBOX", "nothing else was done", False)]),
        ("keep;", [("keep", "INBOX", "", False)]),
        ("discard;", [("discard", "", "", False)]),
        ('redirect "x@example.net";', [("redirect", "x@example.net", "", False)]),
        ('require "reject"; reject "no";', [("reject", "", "no", False)]),
        (
            'require ["fileinto", "mailbox", "imap4flags"]; fileinto :create :flags "\\\\Seen" "Work";',
            [("fileinto", "Work", r"create; flags \Seen", False)],
        ),
        (
            'require ["fileinto", "special-use"]; fileinto :specialuse "\\\\Junk" "Spam";',
            [("fileinto", "Spam", r"\Junk", False)],
        ),
        (
            'require ["imap4flags", "editheader"]; addheader "X-A" "b"; keep :flags ["a", "b"];',
            [("keep", "INBOX", "flags a b", True)],
        ),
        (
            'require ["fileinto", "copy"]; fileinto :copy "a"; fileinto "b";',
            [("fileinto", "a", "", False), ("fileinto", "b", "", False)],
        ),
    ],
)
def test_actions_are_told(script: str, expected: list[tuple[str, str, str, bool]]) -> None:
    assert actions(script) == expected


def test_a_vacation_says_to_whom() -> None:
    script = 'require "vacation"; vacation "gone";'
    (send, keep) = tried(script, sender="bob@example.net", recipient=ANN).actions
    assert (send.action, send.target, send.details.partition(",")[0]) == ("send", "bob@example.net", "vacation")
    assert keep.action == "keep"
    assert [action.action for action in tried(script).actions] == ["keep"], "nobody answers the null sender"


def test_the_envelope_is_that_of_the_options() -> None:
    script = (
        'require "envelope"; if envelope "from" "bob@example.net" { if envelope "to" "ann@example.com" {discard;} }'
    )
    assert [action[0] for action in actions(script, sender="bob@example.net", recipient=ANN)] == ["discard"]
    assert [action[0] for action in actions(script, sender="bob@example.net")] == ["keep"]


def test_the_trace_says_what_was_asked_and_what_was_done() -> None:
    script = 'require ["mailbox", "fileinto"];\nif mailboxexists ["A", "B"] {\n fileinto "A";\n}'
    trace = [(line.line, line.did) for line in tried(script).trace]
    assert trace == [("asked", "mailboxes exist A, B: yes"), ("2", "mailboxexists: true"), ("3", 'fileinto "A"')]
    trace = [(line.line, line.did) for line in tried(script, missing=True).trace]
    assert trace == [("asked", "mailboxes exist A, B: no"), ("2", "mailboxexists: false")]


@pytest.mark.parametrize(
    ("extension", "test", "there"),
    [
        ("duplicate", "duplicate", False),
        ("extlists", 'header :list "subject" "urn:a"', False),
        ("extlists", 'valid_ext_list "urn:a"', True),
        ("mboxmetadata", 'metadata "A" "/private/x" "y"', False),
        ("mboxmetadata", 'metadataexists "A" "/private/x"', False),
        ("special-use", 'specialuse_exists "\\\\Junk"', True),
        ("mailboxid", 'mailboxidexists "x"', True),
    ],
)
def test_every_question_has_an_answer(extension: str, test: str, there: bool) -> None:
    result = tried(f'require "{extension}"; if {test} {{ discard; }}')
    assert result.error == ""
    assert [action.action for action in result.actions] == ["discard" if there else "keep"]
    assert result.trace[0].line == "asked"


def test_one_seen_before() -> None:
    assert actions('require "duplicate"; if duplicate { discard; }', duplicate=True)[0][0] == "discard"


def test_a_script_that_fails_keeps_the_mail_and_says_why() -> None:
    result = tried('require "ihave";\nerror "no more";')
    assert result.error == "line 2: no more"
    assert [action.action for action in result.actions] == ["keep"]
    row = next(row for row in OPERATIONS if row.name == "sieve.test")
    assert row.failed(result) == 1
    assert row.failed(tried("keep;")) == 0


def test_errors_and_warnings_have_places() -> None:
    found = asyncio.run(sieve.check(sieve.CheckScript(script='keep\n:x;\nfileinto "a";')))
    assert not found.valid
    assert [(one.kind, one.line, one.column) for one in found.problems] == [("error", 2, 1), ("error", 3, 1)]
    row = next(row for row in OPERATIONS if row.name == "sieve.check")
    assert row.failed(found) == 1
    found = asyncio.run(sieve.check(sieve.CheckScript(script='require ["vacation", "copy"];')))
    assert (found.valid, found.requires, found.problems) == (True, ["copy", "vacation"], [])
    assert row.failed(found) == 0
    with pytest.raises(BadScript):
        tried("no")


@pytest.fixture
def context(store: Store) -> AdminContext:
    config = Config(sieve=SieveTable(max_scripts=2, max_script_size=100))
    return AdminContext(config=config, dsn="", store=store, blobs=None, cost=None)  # type: ignore[arg-type]


async def test_scripts_of_an_account(context: AdminContext) -> None:
    account = await context.store.accounts.create(ANN)
    await sieve.put(context, sieve.PutScript(ANN, "a", "keep; # ä"))
    await sieve.put(context, sieve.PutScript(ANN, "b", "discard;", activate=True))
    shown = await sieve.show(context, sieve.OneScript(ANN, "a"))
    assert (shown.name, shown.script) == ("a", "keep; # ä")

    async def listed() -> dict[str, bool]:
        return {one.name: one.active for one in await sieve.list_scripts(context, sieve.OneAccount(ANN))}

    assert await listed() == {"a": False, "b": True}
    await sieve.activate(context, sieve.OneScript(ANN, "a"))
    assert await listed() == {"a": True, "b": False}
    with pytest.raises(ScriptActive):
        await sieve.delete(context, sieve.OneScript(ANN, "a"))
    await sieve.deactivate(context, sieve.OneAccount(ANN))
    await sieve.delete(context, sieve.OneScript(ANN, "a"))
    assert await listed() == {"b": False}
    assert (await context.store.scripts.get(account, "b")).content == b"discard;"


async def test_refusals(context: AdminContext) -> None:
    await context.store.accounts.create(ANN)
    for call, error in (
        (sieve.put(context, sieve.PutScript(ANN, "a", "no")), BadScript),
        (sieve.put(context, sieve.PutScript(ANN, "a", "#" * 101)), BadScript),
        (sieve.put(context, sieve.PutScript(ANN, "a\n", "keep;")), InvalidName),
        (sieve.put(context, sieve.PutScript("bob@example.com", "a", "keep;")), NotFound),
        (sieve.show(context, sieve.OneScript(ANN, "a")), NoScript),
        (sieve.activate(context, sieve.OneScript(ANN, "a")), NoScript),
        (sieve.list_scripts(context, sieve.OneAccount("bob@example.com")), NotFound),
    ):
        with pytest.raises(error):
            await call
    for name in "ab":
        await sieve.put(context, sieve.PutScript(ANN, name, "keep;"))
    with pytest.raises(TooManyScripts):
        await sieve.put(context, sieve.PutScript(ANN, "c", "keep;"))
