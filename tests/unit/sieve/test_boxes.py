"""RFC 5490, RFC 8579, RFC 9042."""

from __future__ import annotations

from typing import Any

import pytest

from sora.sieve.interpreter import MOST_NAMES, NAMED
from sora.sieve.limits import Limits
from sora.sieve.questions import (
    IsDuplicate,
    ListContains,
    ListExists,
    MailboxesExist,
    MailboxIdsExist,
    Metadata,
    MetadataExists,
    SpecialUsesExist,
)
from tests.support.sieve import did, errors, execute, holds

ANSWERS: dict[Any, Any] = {
    MailboxesExist: lambda question: set(question.names) <= {"INBOX", "Work"},
    MailboxIdsExist: lambda question: set(question.ids) <= {"F1", "F2"},
    SpecialUsesExist: lambda question: (
        (question.mailbox, question.uses) in ((None, ("\\Junk",)), ("Work", ("\\Archive",)))
    ),
    Metadata: lambda question: {("INBOX", "/private/x"): "Value", ("", "/shared/y"): "12"}.get(
        (question.mailbox, question.entry)
    ),
    MetadataExists: lambda question: set(question.entries) <= {"/private/x", "/shared/y"},
}


@pytest.mark.parametrize(
    ("test", "extension", "result"),
    [
        ('mailboxexists "Work"', "mailbox", True),
        ('mailboxexists ["INBOX", "Work"]', "mailbox", True),
        ('mailboxexists ["INBOX", "Other"]', "mailbox", False),
        ('mailboxidexists "F1"', "mailboxid", True),
        ('mailboxidexists ["F1", "F3"]', "mailboxid", False),
        ('specialuse_exists "\\\\Junk"', "special-use", True),
        ('specialuse_exists "Work" "\\\\Archive"', "special-use", True),
        ('specialuse_exists "Work" ["\\\\Junk", "\\\\Archive"]', "special-use", False),
        ('metadata "INBOX" "/private/x" "value"', "mboxmetadata", True),
        ('metadata :contains "INBOX" "/private/x" "alu"', "mboxmetadata", True),
        ('metadata :contains "INBOX" "/private/z" ""', "mboxmetadata", False),
        ('metadataexists "INBOX" ["/private/x"]', "mboxmetadata", True),
        ('metadataexists "INBOX" ["/private/x", "/private/z"]', "mboxmetadata", False),
        ('servermetadata "/shared/y" "12"', "servermetadata", True),
        ('servermetadata :matches "/shared/z" "*"', "servermetadata", False),
        ('servermetadataexists "/shared/y"', "servermetadata", True),
    ],
)
def test_what_is_there(test: str, extension: str, result: bool) -> None:
    assert holds(test, extension, answers=ANSWERS) is result


def test_questions_name_the_mailbox() -> None:
    asked = []
    execute(
        'require "mboxmetadata"; if metadataexists "INBOX" ["/a", "/b"] {}',
        answers={MetadataExists: lambda question: asked.append(question) or True},
    )
    assert asked == [MetadataExists("INBOX", ("/a", "/b"))]


def test_count_of_an_annotation() -> None:
    assert holds('metadata :count "eq" "INBOX" "/private/z" "0"', "mboxmetadata", "relational", answers=ANSWERS)


def test_create() -> None:  # RFC 5490 §3.2
    assert did('require ["fileinto", "mailbox"]; fileinto :create "Partners";') == ["fileinto Partners create"]
    assert errors('require "fileinto"; fileinto :create "a";')[0] == '1:30 :create needs require "mailbox"'
    assert did('require ["fileinto", "mailbox"]; fileinto "A"; fileinto :create "A";') == ["fileinto A create"]


def test_specialuse() -> None:  # RFC 8579 §4
    assert did('require ["fileinto", "special-use"]; fileinto :specialuse "\\\\Junk" "Spam";') == [
        "fileinto Spam \\Junk"
    ]
    assert errors('require ["fileinto", "special-use"]; fileinto :specialuse "Junk" "Spam";') == [
        '1:38 "Junk" is no special use'
    ]
    script = 'require ["fileinto", "special-use", "mailbox"]; fileinto :specialuse "\\\\Archive" :create "Old";'
    assert did(script) == ["fileinto Old \\Archive create"]


def test_mailboxid() -> None:  # RFC 9042 §4, §4.1
    assert did('require ["fileinto", "mailboxid"]; fileinto :mailboxid "F6352ae03" "INBOX.harassment";') == [
        "fileinto INBOX.harassment F6352ae03"
    ]
    script = 'require ["fileinto", "mailboxid", "special-use"]; fileinto :mailboxid "F1" :specialuse "\\\\Junk" "a";'
    assert errors(script) == ["1:51 Only one of :specialuse and :mailboxid can be given (RFC 9042 §4)"]


def test_targets_that_differ_are_two() -> None:
    script = 'require ["fileinto", "special-use"]; fileinto "A"; fileinto :specialuse "\\\\Junk" "A"; fileinto "A";'
    assert did(script) == ["fileinto A", "fileinto A \\Junk"]


ASKING = [
    ('metadata "INBOX" "/private/x" "y"', "mboxmetadata"),
    ('servermetadata "/shared/y" "12"', "servermetadata"),
    ('metadataexists "INBOX" "/private/x"', "mboxmetadata"),
    ('servermetadataexists "/shared/y"', "servermetadata"),
    ('duplicate :uniqueid "x"', "duplicate"),
]


@pytest.mark.parametrize(("test", "extension"), ASKING)
def test_a_question_to_the_database_is_dear(test: str, extension: str) -> None:
    """A script of a megabyte may have tens of thousands of them."""
    script = f'require "{extension}"; ' + f"if {test} {{}}\n" * 20
    outcome = execute(script, answers={**ANSWERS, IsDuplicate: False}, limits=Limits(instructions=10_000))
    assert outcome.error.endswith("The script takes too long")


@pytest.mark.parametrize(
    ("test", "extension"),
    [
        ("mailboxexists", "mailbox"),
        ("mailboxidexists", "mailboxid"),
        ("specialuse_exists", "special-use"),
        ('metadataexists "INBOX"', "mboxmetadata"),
        ("servermetadataexists", "servermetadata"),
    ],
)
def test_a_test_asks_for_so_many_names_at_most(test: str, extension: str) -> None:
    """They are looked up without a pause."""
    for many, error in ((MOST_NAMES, ""), (MOST_NAMES + 1, f"A test asks for more than {MOST_NAMES} names")):
        names = ", ".join(f'"x{number}"' for number in range(many))
        outcome = execute(f'require "{extension}"; if {test} [{names}] {{}}', answers=ANSWERS)
        assert outcome.error.endswith(error)
        assert bool(outcome.error) == bool(error)
        assert outcome.spent >= many * NAMED or error


@pytest.mark.parametrize("test", ["valid_ext_list", 'header :list "subject"'])
def test_lists_are_looked_into_for_something(test: str) -> None:
    names = ", ".join(f'"x{number}"' for number in range(2000))
    outcome = execute(
        f'require "extlists"; if {test} [{names}] {{}}',
        answers={ListExists: True, ListContains: frozenset()},
        limits=Limits(instructions=2000 * NAMED),
    )
    assert outcome.error.endswith("The script takes too long")
