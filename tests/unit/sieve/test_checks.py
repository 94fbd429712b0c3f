"""Arguments (RFC 5228 §2.6, §2.7), `require` (§3.2), and how mistakes are told."""

from __future__ import annotations

import pytest

from tests.support.sieve import compiled, errors, required


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("foo;", ['1:1 Unknown command "foo"']),
        ("if foo {}", ['1:4 Unknown test "foo"']),
        ('fileinto "a";', ['1:1 The command "fileinto" needs require "fileinto"']),
        ("keep 1;", ['1:1 "keep" takes no arguments, but 1 are given']),
        ("redirect;", ['1:1 "redirect" takes 1 argument, but 0 are given']),
        ('redirect ["a@b.c"];', ['1:10 "redirect" wants a string here']),
        ("redirect 5;", ['1:10 "redirect" wants a string here']),
        ('if size "5" {}', ['1:9 "size" wants a number here']),
        ("if size :over :under 5 {}", ["1:4 Only one of :over, :under can be given"]),
        ("if size :over :over 5 {}", ["1:15 :over is given twice"]),
        ("if size :foo 5 {}", ['1:9 "size" has no argument :foo']),
        ('if header "a" :is "b" {}', ["1:15 :is must stand before the other arguments"]),
        ('if header :comparator "a" "b" {}', ['1:4 "header" takes 2 arguments, but 1 are given']),
        ('if header "a" "b" :comparator {}', [
            "1:19 :comparator must stand before the other arguments",
            "1:19 :comparator must be followed by a string",
        ]),
        ('if header :comparator "x" "a" "b" {}', ['1:11 Unknown comparator "x"']),
        ('if header :comparator "i;unicode-casemap" "a" "b" {}', ['1:11 '
        '"comparator-i;unicode-casemap" is not required']),
        ('if header :comparator "i;ascii-numeric" "a" "b" {}', ['1:11 "comparator-i;ascii-numeric" is not required']),
        ('if header :count "eq" "a" "b" {}', ['1:11 :count needs require "relational"']),
        ("if true;", ['1:1 "if" needs a block']),
        ("keep {}", ['1:1 "keep" takes no block']),
        ("if {}", ['1:1 "if" needs one test']),
        ("if (true) {}", ['1:1 "if" needs one test']),
        ("if not (true) {}", ['1:4 "not" needs one test']),
        ("if anyof true {}", ['1:4 "anyof" needs a list of tests']),
        ("if true true {}", None),
        ("keep true;", ['1:1 "keep" takes no test']),
        ("else {}", ['1:1 "else" must follow "if"']),
        ("if true {} keep; elsif true {}", ['1:18 "elsif" must follow "if"']),
        ("if true {} else {} else {}", ['1:20 "else" must follow "if"']),
        ('if true { require "copy"; }', ['1:11 "require" cannot stand in a block']),
        ('keep;\nrequire "copy";', ['2:1 "require" must come before all other commands']),
        ('require ["copy", "foo"];', ['1:1 Unsupported extension "foo"']),
        ('require "comparator-i;foo";', ['1:1 Unsupported extension "comparator-i;foo"']),
        ('if address "subject" "a" {}', ['1:4 The field "subject" has no addresses']),
    ],
)  # fmt: skip
def test_mistakes(script: str, found: list[str] | None) -> None:
    if found is None:
        assert errors(script)
    else:
        assert sorted(errors(script)) == sorted(found)


def test_numeric_has_no_substrings() -> None:
    script = required("comparator-i;ascii-numeric") + 'if header :contains :comparator "i;ascii-numeric" "a" "b" {}'
    assert errors(script) == ["2:21 The comparator i;ascii-numeric cannot be used with :contains"]


def test_all_mistakes_are_told_in_order() -> None:
    assert errors("foo;\nif bar { baz; }\nkeep :x;") == [
        '1:1 Unknown command "foo"',
        '2:4 Unknown test "bar"',
        '2:10 Unknown command "baz"',
        '3:6 "keep" has no argument :x',
    ]


def test_so_many_mistakes_and_no_more() -> None:
    assert len(errors("foo;" * 100)) == 20


def test_many_arguments_take_no_time_of_their_own() -> None:
    assert errors("keep " + '""' * 100_000 + ";") == ['1:1 "keep" takes no arguments, but 100000 are given']


def test_comparators_that_need_no_require() -> None:
    compiled('if header :comparator "i;octet" "a" "b" {} if header :comparator "i;ascii-casemap" "a" "b" {}')


def test_what_a_script_requires_is_known() -> None:
    assert compiled('require ["copy", "comparator-i;octet"]; keep;').required == {"copy", "comparator-i;octet"}
