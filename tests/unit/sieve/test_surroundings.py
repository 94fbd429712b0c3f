"""`envelope` (RFC 5228 §5.4, RFC 6009), `environment` (RFC 5183, RFC 6785), `ihave` (RFC 5463), lists (RFC 6134)."""

from __future__ import annotations

import pytest

from sora.sieve.questions import IncludeScript, ListContains, ListExists, ListMembers
from tests.support.sieve import compiled, did, errors, execute, holds


@pytest.mark.parametrize(
    ("test", "result"),
    [
        ('envelope :all :is "from" "coyote@desert.example.org"', True),
        ('envelope :domain "from" "desert.example.org"', True),
        ('envelope ["to", "from"] "roadrunner@acme.example.com"', True),
        ('envelope :localpart "TO" "roadrunner"', True),
        ('envelope "from" ""', False),
    ],
)
def test_envelope(test: str, result: bool) -> None:
    assert holds(test, "envelope") is result


def test_the_null_sender() -> None:
    for part in (":all", ":localpart", ":domain"):
        assert holds(f'envelope {part} "from" ""', "envelope", sender="")
        assert not holds(f'envelope {part} "from" ""', "envelope", sender=None)


def test_unknown_envelope_parts() -> None:
    assert errors('require "envelope"; if envelope "foo" "a" {}') == ['1:24 There is no envelope part "foo"']
    assert errors('require "envelope"; if envelope "notify" "a" {}') == ['1:24 There is no envelope part "notify"']
    assert errors('require "envelope"; if envelope "bymode" "a" {}') == ['1:24 There is no envelope part "bymode"']


def test_envelope_dsn() -> None:  # RFC 6009 §2
    parts = {"notify": ["SUCCESS", "FAILURE"], "orcpt": ["rfc822;Bob+x@example.org"], "ret": ["HDRS"], "envid": ["QQ1"]}
    arguments = {"envelope": parts}
    for test, result in (
        ('envelope "notify" "failure"', True),
        ('envelope "NOTIFY" "delay"', False),
        ('envelope "ret" "hdrs"', True),
        ('envelope "envid" "QQ1"', True),
        ('envelope :domain "orcpt" "example.org"', True),
        ('envelope "orcpt" "Bob+x@example.org"', True),
        ('envelope :localpart "ret" "hdrs"', True),
    ):
        assert holds(test, "envelope", "envelope-dsn", **arguments) is result, test
    assert not holds('envelope :matches "notify" "*"', "envelope", "envelope-dsn")


def test_an_original_recipient_of_another_kind() -> None:
    arguments = {"envelope": {"orcpt": ["x400;/C=de/"]}}
    assert holds('envelope :domain "orcpt" "x400;/C=de/"', "envelope", "envelope-dsn", **arguments)


def test_envelope_deliverby() -> None:  # RFC 6009 §5
    arguments = {"envelope": {"bymode": ["notify"], "bytimerelative": ["120"]}}
    assert holds('envelope "bymode" "NOTIFY"', "envelope", "envelope-deliverby", **arguments)
    assert holds(
        'envelope :value "gt" :comparator "i;ascii-numeric" "bytimerelative" "60"',
        "envelope", "envelope-deliverby", "relational", "comparator-i;ascii-numeric", **arguments,
    )  # fmt: skip
    assert not holds('envelope :matches "bytrace" "*"', "envelope", "envelope-deliverby", **arguments)


# ---------------------------------------------------------------------------------------------------- environment

ITEMS = {"location": "MDA", "phase": "during", "remote-ip": "192.0.2.7", "imap.cause": "APPEND", "empty": ""}


@pytest.mark.parametrize(
    ("test", "result"),
    [
        ('environment :matches "remote-ip" "192.0.2.*"', True),
        ('environment "Location" "mda"', True),
        ('environment "phase" "post"', False),
        ('environment "nothing" ""', False),
        ('environment :contains "nothing" ""', False),
        ('environment "empty" ""', True),
        ('environment :count "eq" "location" "1"', True),
        ('environment :count "eq" "nothing" "0"', True),
    ],
)
def test_environment(test: str, result: bool) -> None:
    assert holds(test, "environment", "relational", items=ITEMS) is result


def test_environment_as_variables() -> None:
    script = 'require ["environment", "variables", "fileinto"]; fileinto "<${env.location}${ENV.nothing}>";'
    assert did(script, items=ITEMS) == ["fileinto <MDA>"]


def test_an_item_with_dots_as_a_variable() -> None:
    script = 'require ["environment", "variables", "fileinto"]; fileinto "<${env.imap.cause}${env.imap.user}>";'
    assert did(script, items={"imap.cause": "COPY"}) == ["fileinto <COPY>"]
    assert compiled(script).warnings == ()


def test_imapsieve_example() -> None:  # RFC 6785 §5
    script = """require ["imapsieve", "environment", "imap4flags", "fileinto"];
        if environment :is "imap.cause" "APPEND" { fileinto "ActionItem"; }"""
    assert did(script, items=ITEMS, imap=True, flags=("\\Seen",)) == ["fileinto ActionItem (\\Seen)"]


@pytest.mark.parametrize("command", ['reject "no";', 'ereject "no";', 'vacation "away";'])
def test_what_imapsieve_forbids(command: str) -> None:  # RFC 6785 §3.11: its use
    outcome = execute(f'require "ihave"; if ihave "{command.split()[0]}" {{ {command} }}', imap=True)
    assert "RFC 6785 §3.11" in outcome.error
    assert [type(action).__name__ for action in outcome.actions] == ["Keep"]


@pytest.mark.parametrize("name", ["reject", "ereject", "vacation", "vacation-seconds"])
def test_what_imapsieve_forbids_to_require(name: str) -> None:  # RFC 6785 §3.11: its appearance in "require"
    assert "RFC 6785 §3.11" in execute(f'require "{name}"; discard;', imap=True).error
    assert execute(f'require "{name}"; discard;').error == ""
    assert execute(f'require "ihave"; if not ihave "{name}" {{ keep; }} discard;', imap=True).error == ""


def test_what_imapsieve_forbids_holds_for_included_scripts() -> None:
    other = compiled('require "vacation"; discard;')
    included = {IncludeScript: other}
    assert "§3.11" in execute('require "include"; include "x";', imap=True, answers=included).error


def test_no_envelope_where_a_mailbox_changes() -> None:  # RFC 6785 §4.6
    script = 'require "envelope"; if envelope :all "from" "coyote@desert.example.org" { discard; }'
    assert "RFC 6785 §4.6" in execute(script, imap=True).error
    assert did(script) == ["discard"]


@pytest.mark.parametrize("item", ["user", "email", "cause", "mailbox", "changedflags"])
def test_items_of_imapsieve_are_empty_at_a_delivery(item: str) -> None:  # RFC 6785 §4.2, §4.5
    assert holds(f'environment "imap.{item}" ""', "environment", items={})
    assert not holds('environment "imap.other" ""', "environment", items={})


# ---------------------------------------------------------------------------------------------------- ihave


def test_ihave_example() -> None:  # RFC 5463 §4.3
    script = """require ["ihave"];
        if ihave ["frobnicate"] { frobnicate :hard "x"; }
        elsif ihave "fileinto" { fileinto "plain"; }
        else { error "nothing to do"; }"""
    assert did(script) == ["fileinto plain"]


def test_what_is_missing_fails_where_it_is_reached() -> None:
    script = 'require "ihave"; if not ihave "frobnicate" { keep; } else { frobnicate; }'
    assert did(script) == ["keep"]
    assert did('require "ihave"; if not ihave "frobnicate" { frobnicate "x"; }') == [
        'error: script 1, line 1: "frobnicate" is not supported, or not in this form', "keep",
    ]  # fmt: skip
    assert did('require "ihave"; if not ihave "frob" { redirect :frob "x" "a@b.c"; }')[0].startswith("error:")
    assert did('require "ihave"; if not ihave "frob" { if frob { keep; } }')[0].startswith("error:")


def test_ihave_ends_with_its_block() -> None:
    assert errors('require "ihave"; if true { if ihave "frob" { frob; } } frob;') == ['1:56 Unknown command "frob"']
    assert errors('require "ihave"; if true { if ihave "fileinto" { fileinto "A"; } } fileinto "B";') == [
        '1:68 The command "fileinto" needs require "fileinto"'
    ]
    assert did('require "ihave"; if ihave "fileinto" { fileinto "A"; } if true { fileinto "B"; }') == [
        "fileinto A", "fileinto B",
    ]  # fmt: skip


def test_extensions_of_the_text_come_too_late() -> None:
    assert not holds('ihave "variables"', "ihave")
    assert not holds('ihave ["copy", "encoded-character"]', "ihave")
    assert holds('ihave "variables"', "ihave", "variables")
    assert holds('ihave ["copy", "comparator-i;octet"]', "ihave")


def test_error() -> None:
    assert did('require "ihave"; error "so it ends";') == ["error: script 1, line 1: so it ends", "keep"]
    assert errors('error "x";') == ['1:1 The command "error" needs require "ihave"']


# ---------------------------------------------------------------------------------------------------- lists

BOOK = "urn:ietf:params:sieve:addrbook:default"


def members(question: ListContains) -> set[str] | None:
    return {"coyote@desert.example.org"} & set(question.values) if question.list == BOOK else None


def test_lists() -> None:  # RFC 6134 §2.2
    answers = {ListContains: members}
    assert holds(f'envelope :list "from" "{BOOK}"', "envelope", "extlists", answers=answers)
    assert not holds(f'address :list "to" "{BOOK}"', "extlists", answers=answers)
    assert execute('require "extlists"; if header :list "from" "other" {}', answers=answers).error.endswith(
        'There is no list "other"'
    )


def test_a_list_sets_the_match_variable() -> None:
    test = f'address :list ["to", "from"] "{BOOK}"'
    script = f'require ["extlists", "variables", "fileinto"]; if {test} {{ fileinto "${{0}}"; }}'
    assert did(script, answers={ListContains: members}) == ["fileinto coyote@desert.example.org"]


def test_valid_ext_list() -> None:  # RFC 6134 §2.4
    answers = {ListExists: lambda question: question.list == BOOK}
    assert holds(f'valid_ext_list "{BOOK}"', "extlists", answers=answers)
    assert not holds(f'valid_ext_list ["{BOOK}", "x"]', "extlists", answers=answers)


def test_redirect_to_a_list() -> None:  # RFC 6134 §2.3
    answers = {ListMembers: lambda question: ["a@example.org", "b@example.org"] if question.list == BOOK else None}
    script = f'require ["extlists", "copy"]; redirect :list "{BOOK}";'
    assert did(script, answers=answers) == ["redirect a@example.org", "redirect b@example.org"]
    assert did(script.replace(":list", ":copy :list"), answers=answers)[-1] == "keep"
    assert did('require "extlists"; redirect :list "x";', answers=answers)[0].startswith("error:")
    assert errors('redirect :list "x";')
