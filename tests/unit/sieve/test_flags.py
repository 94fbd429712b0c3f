"""RFC 5232."""

from __future__ import annotations

import pytest

from sora.sieve.flags import split_flags
from sora.sieve.script import compile
from tests.support.sieve import did, errors, execute, required

FLAGS = required("imap4flags", "fileinto", "variables", "relational", "comparator-i;ascii-numeric")


def flags(commands: str) -> list[str]:
    return did(FLAGS + commands + " keep;")


@pytest.mark.parametrize(
    ("commands", "kept"),
    [
        ('setflag "\\\\Deleted";', "keep (\\Deleted)"),
        ('setflag ["\\\\Deleted", "\\\\Flagged"];', "keep (\\Deleted \\Flagged)"),
        ('setflag "\\\\deleted \\\\FLAGGED $Label  $label";', "keep (\\Deleted \\Flagged $Label)"),
        ('addflag "\\\\Deleted"; addflag ["\\\\Answered", "\\\\Deleted"];', "keep (\\Deleted \\Answered)"),
        ('addflag "a b c"; removeflag ["B", "d"];', "keep (a c)"),
        ('addflag "a"; setflag "";', "keep ()"),
        ("", "keep"),
        ('setflag "\\\\Recent \\\\Foo a(b ok";', "keep (ok)"),
        ('setflag "v" "a b"; addflag "v" "c"; removeflag "v" "a"; setflag "${v}";', "keep (b c)"),
    ],
)
def test_actions(commands: str, kept: str) -> None:
    assert flags(commands) == [kept]


def test_flags_that_are_none_are_told() -> None:
    script = compile(b'require "imap4flags"; setflag "\\\\Foo bar";\nkeep :flags "a\\\\b";')
    assert script.warnings == (
        (1, 23, '"\\Foo" is no flag, and is left out'),
        (2, 1, '"a\\b" is no flag, and is left out'),
    )


def test_flags_argument() -> None:
    assert flags('setflag "a"; fileinto :flags "b c" "X"; keep :flags ""; fileinto "Y"; stop;') == [
        "fileinto X (b c)", "keep ()", "fileinto Y (a)",
    ]  # fmt: skip


def test_the_implicit_keep_has_the_flags() -> None:
    assert did(FLAGS + 'addflag "\\\\Seen";') == ["keep (\\Seen)"]


def test_the_flags_that_were_given_last_hold() -> None:
    assert did(FLAGS + 'fileinto :flags "a" "X"; fileinto :flags "b" "X";') == ["fileinto X (b)"]
    assert did(FLAGS + 'fileinto :flags "a" "X"; fileinto "X";') == ["fileinto X"]
    assert did(FLAGS + 'keep :flags "a"; fileinto "inbox";') == ["keep"]
    assert did(FLAGS + 'keep; addflag "b"; keep;') == ["keep (b)"]


@pytest.mark.parametrize(
    ("test", "result"),
    [  # §4, with A and B in the internal variable
        ('hasflag ["B", "A"]', True),
        ('hasflag "b"', True),
        ('hasflag "b a"', True),
        ('hasflag "c"', False),
        ('hasflag :contains "lab"', True),
        ('hasflag :contains "\\\\Se"', True),
        ('hasflag :contains "x"', False),
        ('hasflag :matches "*bel"', True),
        ('hasflag :count "ge" :comparator "i;ascii-numeric" "4"', True),
        ('hasflag :count "ge" :comparator "i;ascii-numeric" "5"', False),
        ('hasflag ""', False),
        ('hasflag "v" "x"', True),
        ('hasflag :count "eq" :comparator "i;ascii-numeric" ["v", "w"] "2"', True),
        ('hasflag ["w", "v"] "B"', False),
    ],
)
def test_hasflag(test: str, result: bool) -> None:
    script = (
        f'{FLAGS}setflag ["A B", "$label", "\\\\Seen"]; setflag "v" "x y"; if {test} {{ discard; stop; }} setflag "";'
    )
    assert did(script) == (["discard"] if result else ["keep ()"])


def test_variables_must_be_required() -> None:
    assert errors('require "imap4flags"; setflag "v" "x";') == ['1:23 A variable needs require "variables"']
    assert errors('require "imap4flags"; if hasflag "v" "x" {}') == ['1:26 A variable needs require "variables"']
    assert errors(FLAGS + 'setflag "a-b" "x";') == ["2:1 This is no name of a variable"]
    assert errors(FLAGS + 'if hasflag ["a", "1"] "x" {}') == ["2:4 This is no name of a variable"]


def test_flags_of_the_message_are_there_at_the_start() -> None:
    outcome = execute('require "imap4flags"; addflag "b";', flags=("\\Seen",), imap=True)
    assert outcome.actions[0].flags == ("\\Seen", "b")  # type: ignore[union-attr]


def test_example() -> None:  # §5, shortened
    script = """require ["fileinto", "imap4flags", "variables", "relational"];
        if size :over 10 { addflag "myflags" "\\\\Flagged"; }
        addflag "MyFlags" "$NotJunk";
        fileinto :flags "${MyFlags}" "box";"""
    assert did(script) == ["fileinto box (\\Flagged $NotJunk)"]


def test_split() -> None:
    assert split_flags(["a  b", "A \\seen", "\\Seen é {"]) == ("a", "b", "\\Seen")
