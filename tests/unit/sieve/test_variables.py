"""RFC 5229."""

from __future__ import annotations

import pytest

from sora.sieve.limits import Limits
from sora.sieve.script import compile
from tests.support.sieve import did, errors, execute, holds, mail, required

VARIABLES = required("variables", "fileinto", "relational", "comparator-i;ascii-numeric", "enotify", "regex")


def value(commands: str, text: str = "${a}", **arguments: object) -> str:
    """What a text is after these commands."""
    [found] = did(f'{VARIABLES}{commands} fileinto "<{text}>";', **arguments)
    return found.removeprefix("fileinto <").removesuffix(">")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("&%${}!", "&%${}!"),
        ("${doh!}", "${doh!}"),
        ("${company}", "ACME"),
        ("${COMPANY}", "ACME"),
        ("${full", "${full"),
        ("${President, ${Company} Inc.}", "${President, ACME Inc.}"),
        ("$${company}", "$ACME"),
        ("${nothing}", ""),
        ("${a-b}", "${a-b}"),
        ("${9}", ""),
        ("${00}", ""),
        ("${99999999999}", "${99999999999}"),
        ("${foo.bar}", ""),
    ],
)
def test_expansion(text: str, expected: str) -> None:  # the examples of §3
    assert value('set "company" "ACME";', text) == expected


def test_strings_are_expanded_once() -> None:
    assert value('set "b" "x"; set "a" "$"; set "a" "${a}{b}";') == "${b}"


def test_without_require_nothing_is_expanded() -> None:
    assert did('require "fileinto"; fileinto "${a}";') == ["fileinto ${a}"]


def test_an_unknown_namespace() -> None:
    script = compile(b'require ["variables"]; redirect "${foo.bar}a@example.org";')
    assert script.warnings == ((1, 33, 'There is no namespace "foo": the variable is always empty'),)
    assert errors('require "variables"; set "foo.bar" "x";') == ["1:22 This is no name of a variable"]
    assert errors('require "variables"; set "0" "x";') == ["1:22 This is no name of a variable"]


@pytest.mark.parametrize(
    ("modifiers", "text", "expected"),
    [
        (":length", "jürgen", "6"),
        (":lower", "juMBlEd lETteRS", "jumbled letters"),
        (":upperfirst", "juMBlEd lETteRS", "JuMBlEd lETteRS"),
        (":upperfirst :lower", "juMBlEd lETteRS", "Jumbled letters"),
        (":lower :upperfirst", "juMBlEd lETteRS", "Jumbled letters"),
        (":quotewildcard", "Rock*", "Rock\\*"),
        (":quotewildcard :length", "a*", "3"),
        (":upper", "é", "é"),  # RFC 5229 §4.1: letters of ASCII only
        (":lowerfirst :upper", "abc", "aBC"),
        (":encodeurl", "Safe body&evil=evilbody", "Safe%20body%26evil%3Devilbody"),
        (":encodeurl", "é-._~", "%C3%A9-._~"),
        (":quoteregex", "a.b*(c)", "a\\.b\\*\\(c\\)"),
        (":length", "", "0"),
    ],
)
def test_modifiers(modifiers: str, text: str, expected: str) -> None:  # the examples of §4.1, RFC 5435 §6
    assert value(f'set {modifiers} "a" "{text}";') == expected


@pytest.mark.parametrize("pair", [":lower :upper", ":lowerfirst :upperfirst", ":quotewildcard :quoteregex"])
def test_modifiers_of_one_precedence(pair: str) -> None:
    assert "Only one of" in errors(f'{VARIABLES}set {pair} "a" "b";')[0]


def test_match_variables() -> None:  # the example of §3.2
    script = """require ["fileinto", "variables"];
        if header :matches "List-ID" "*<*@*" { fileinto "INBOX.lists.${2}"; stop; }
        if header :matches "Subject" "[*] *" { redirect "${1}@example.org"; }
        if address :matches ["To", "Cc"] ["coyote@**.com", "wile@**.com"] { fileinto "INBOX.business.${2}"; stop; }"""
    assert did(script, mail=mail(List_ID="Acme <list.acme@example.org>")) == ["fileinto INBOX.lists.list.acme"]
    assert did(script, mail=mail(Subject="[acme-users] [fwd] version 1.0 is out")) == [
        "redirect acme-users@example.org"
    ]
    assert did(script, mail=mail(To="coyote@ACME.Example.COM")) == ["fileinto INBOX.business.ACME.Example"]


def test_match_variables_stay_where_nothing_matches() -> None:
    assert value('if string :matches "ab" "a*" {} if string :matches "x" "y*" {}', "${0}-${1}") == "ab-b"
    assert value('if string :matches "ab" "?*" {} if string :is "x" "x" {}', "${1}") == "a"
    assert value('if string :matches "ab" "?*" {} if string :matches "xyz" "*" {}', "${1}${2}") == "xyz"


def test_the_first_value_that_matches_sets_them() -> None:
    assert value('if string :matches ["a", "b"] ["b*", "a*"] {}', "${0}") == "a"


def test_string() -> None:  # §5
    assert holds('string :is "a" ["b", "A"]', "variables")
    assert not holds('string :is "a" "b"', "variables")
    numeric = ("variables", "relational", "comparator-i;ascii-numeric")
    assert holds('string :count "eq" :comparator "i;ascii-numeric" ["a", "", "b"] "2"', *numeric)
    assert holds('string :value "gt" :comparator "i;ascii-numeric" "10" "9"', *numeric)


def test_variables_have_a_length() -> None:
    limits = Limits(variable_bytes=10)
    assert value('set "a" "0123456789012";', limits=limits) == "0123456789"
    assert value('set "a" "äöüäöüäöü";', limits=limits) == "äöüäö"


def test_variables_that_double_end_somewhere() -> None:
    script = VARIABLES + 'set "a" "0123456789";' + 'set "a" "${a}${a}";' * 1000
    outcome = execute(script)
    assert not outcome.error or "too long" in outcome.error
    script = VARIABLES + 'set "a" "${a}0123456789${a}";' * 20 + f'set "b" "{"${a}" * 10_000}";'
    assert "A text is longer than" in execute(script).error


def test_there_are_so_many_variables() -> None:
    script = VARIABLES + "".join(f'set "v{number}" "";' for number in range(257))
    assert execute(script).error == "script 1, line 2: More than 256 variables"


def test_a_number_of_another_namespace() -> None:
    assert value("", "${1.2}") == "${1.2}"


def test_set_example() -> None:  # §4
    assert value('set "honorific" "Mr"; set "a" "Dear ${HONORIFIC}";') == "Dear Mr"
