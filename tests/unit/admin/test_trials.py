"""What a script would do with a message, as `sora-admin sieve test` tells it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from sora.admin import trials
from sora.admin.operations import OPERATIONS
from sora.errors import BadScript

MAIL = b"From: bob@example.net\r\nTo: ann@example.com\r\nSubject: well hello\r\nMessage-ID: <a@b>\r\n\r\nbody\r\n"
ANN = "ann@example.com"
BOB = "bob@example.net"


def tried(script: str, mail: bytes = MAIL, **options: Any) -> trials.Tested:
    return asyncio.run(trials.test(None, trials.TestScript(script=script, mail=mail, **options)))


def actions(script: str, **options: Any) -> list[tuple[str, str, str, bool]]:
    return [msgspec.structs.astuple(action) for action in tried(script, **options).actions]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", [("keep", "INBOX", "implicit", False)]),
        ("keep;", [("keep", "INBOX", "", False)]),
        ("discard;", [("discard", "", "", False)]),
        ('redirect "x@example.net";', [("redirect", "x@example.net", "", False)]),
        (
            'require "redirect-dsn"; redirect :notify "failure" :ret "HDRS" "x@example.net";',
            [("redirect", "x@example.net", "notify FAILURE; return HDRS", False)],
        ),
        (
            'require "redirect-deliverby"; redirect :bytimerelative 600 :bymode "return" :bytrace "x@example.net";',
            [("redirect", "x@example.net", "by 600 seconds, return, trace", False)],
        ),
        ('require "reject"; reject "no";', [("reject", "", "no", False)]),
        ('require "ereject"; ereject "no";', [("ereject", "", "no", False)]),
        (
            'require ["fileinto", "mailbox", "imap4flags"]; fileinto :create :flags "\\\\Seen" "Work";',
            [("fileinto", "Work", r"created if missing; flags \Seen", False)],
        ),
        (
            'require ["fileinto", "special-use"]; fileinto :specialuse "\\\\Junk" "Spam";',
            [("fileinto", "Spam", r"\Junk", False)],
        ),
        (
            'require ["fileinto", "mailboxid"]; fileinto :mailboxid "F1" "Spam";',
            [("fileinto", "Spam", "id F1", False)],
        ),
        (
            'require ["imap4flags"]; keep; setflag "x";',
            [("keep", "INBOX", "", False)],
        ),
        (
            'require "duplicate"; if duplicate :handle "h" :seconds 7200 { discard; }',
            [("keep", "INBOX", "implicit", False), ("remember", "<a@b>", "handle h; for 2 hours", False)],
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


def test_mail_that_is_sent_is_told() -> None:
    script = 'require ["vacation", "fcc"]; vacation :days 1 :subject "Away" :fcc "Sent" "gone";'
    (answer, keep) = tried(script, sender=BOB, recipient=ANN).actions
    assert (answer.action, answer.target, keep.action) == ("vacation", BOB, "keep")
    subject, size, again, copy = answer.details.split("; ")
    assert (subject, again, copy) == ('subject "Away"', "not again within 1 day", "copy in Sent")
    assert size.endswith(" octets")
    assert [action.action for action in tried(script, sender="").actions] == ["keep"], "nobody answers the null sender"
    (note, _) = tried('require "enotify"; notify :message "new" "mailto:x@example.net";').actions
    assert (note.action, note.target) == ("notify", "x@example.net")
    assert note.details.startswith(f'subject "new"; from {ANN}; ')


@pytest.mark.parametrize(
    ("head", "options", "sender", "recipient"),
    [
        (b"", {}, BOB, ANN),
        (b"Return-Path: <a@example.org>\r\nDelivered-To: c@example.com\r\n", {}, "a@example.org", "c@example.com"),
        (b"Return-Path: <>\r\n", {}, "", ANN),
        (b"", {"sender": "", "recipient": "c@example.com"}, "", "c@example.com"),
        (b"", {"sender": "a@example.org", "owner": "o@example.com"}, "a@example.org", ANN),
    ],
)
def test_the_envelope_is_that_of_the_options_or_the_message(
    head: bytes, options: dict[str, str], sender: str, recipient: str
) -> None:
    script = f'require "envelope"; if allof (envelope "from" "{sender}", envelope "to" "{recipient}") {{ discard; }}'
    result = tried(script, head + MAIL, **options)
    assert (result.sender, result.recipient) == (sender, recipient)
    assert [action.action for action in result.actions] == ["discard"]


def test_a_message_without_addresses_has_an_empty_envelope() -> None:
    result = tried("keep;", b"Subject: x\r\n\r\n")
    assert (result.sender, result.recipient) == ("", "")


def test_the_owner_is_who_answers() -> None:
    script = 'require "vacation"; vacation "gone";'
    options = {"sender": BOB, "recipient": "list@example.com"}
    assert [action.action for action in tried(script, **options).actions] == ["keep"], "it is not addressed to her"
    assert [action.action for action in tried(script, **options, owner=ANN).actions] == ["vacation", "keep"]


def test_the_message_may_have_flags() -> None:
    script = 'require "imap4flags"; if hasflag "x" { addflag "y"; }'
    assert actions(script, flags=("x",)) == [("keep", "INBOX", "implicit; flags x y", False)]
    assert actions(script) == [("keep", "INBOX", "implicit", False)]


def test_scripts_are_included_from_where_they_are_given() -> None:
    script = 'require "include"; include "a"; include :global "a";'
    texts: dict[str, Any] = {"personal": {"a": 'redirect "p@example.net";'}, "site": {"a": 'redirect "g@example.net";'}}
    result = tried(script, **texts)
    assert [action.target for action in result.actions] == ["p@example.net", "g@example.net"]
    assert [line.did for line in result.trace if line.line == "asked"] == [
        "include personal script a: here it is",
        "include global script a: here it is",
    ]
    assert tried(script, personal=texts["personal"]).error == (
        'line 1: There is no script "a" to include, or it has errors'
    )
    broken = tried(script, personal={"a": "\nno;"})
    assert [line.did for line in broken.trace] == ['include personal script a: line 2, column 1: Unknown command "no"']


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
        ("servermetadata", 'servermetadata "/private/x" "y"', False),
        ("special-use", 'specialuse_exists "A" "\\\\Junk"', True),
        ("mboxmetadata", 'metadata "A" "/private/x" "y"', False),
        ("mboxmetadata", 'metadataexists "A" "/private/x"', False),
        ("special-use", 'specialuse_exists "\\\\Junk"', True),
        ("mailboxid", 'mailboxidexists "x"', True),
    ],
)
def test_every_question_has_an_answer(extension: str, test: str, there: bool) -> None:
    result = tried(f'require "{extension}"; if {test} {{ discard; }}')
    assert result.error == ""
    assert result.actions[0].action == ("discard" if there else "keep")
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


def test_errors_of_the_script_are_no_answer() -> None:
    with pytest.raises(BadScript):
        tried("no")


def test_a_list_to_redirect_to_is_empty() -> None:
    result = tried('require ["extlists", "copy"]; redirect :copy :list "urn:a";')
    assert (result.error, [line.did for line in result.trace]) == ("", ["list members urn:a: nobody"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 second"), (90, "90 seconds"), (60, "1 minute"), (7200, "2 hours"), (86400, "1 day"), (604800, "7 days")],
)
def test_periods_are_readable(seconds: int, text: str) -> None:
    script = f'require "vacation-seconds"; vacation :seconds {seconds} "gone";'
    (answer, _) = tried(script).actions
    assert f"not again within {text}" in answer.details.split("; ")
