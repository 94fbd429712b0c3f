"""RFC 5293."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.sieve.editing import with_field, without_fields
from sora.sieve.mail import Mail
from tests.support.sieve import MAIL, did, errors, execute, mail, required

EDIT = required("editheader", "index", "variables", "relational", "comparator-i;ascii-numeric", "fileinto")


def edited(commands: str, data: bytes = MAIL) -> bytes:
    outcome = execute(EDIT + commands, mail=data)
    assert not outcome.error, outcome.error
    return outcome.actions[-1].mail.data  # type: ignore[union-attr]


def test_addheader() -> None:
    assert edited('addheader "X-Hello" "World";') == b"X-Hello: World\r\n" + MAIL
    assert edited('addheader :last "X-Hello" "World";') == MAIL.replace(
        b"X-Empty:\r\n", b"X-Empty:\r\nX-Hello: World\r\n"
    )


def test_values_are_made_safe() -> None:
    assert edited('addheader "A" "x\r\nEvil: y\n\n body";').startswith(b"A: x Evil: y body\r\nReturn-Path")
    assert edited('addheader "A" "  ";').startswith(b"A:\r\n")
    assert edited('addheader "A" "é";').startswith(b"A: =?utf-8?b?w6k=?=\r\n")
    lines = edited(f'addheader "A" "{"word " * 40}";').split(b"\r\n")
    assert lines[1].startswith(b" word")
    assert all(len(line) <= 78 for line in lines)
    assert Mail(edited(f'addheader "A" "{"word " * 40}";')).header("a") == [" ".join(["word"] * 40)]


def test_deleteheader() -> None:
    assert edited('deleteheader "x-caffeine";') == MAIL.replace(b"X-Caffeine: C8H10N4O2\r\n", b"")
    assert edited('deleteheader "nothing";') == MAIL
    assert edited('deleteheader "Received";') == MAIL  # §5: some must stay
    assert edited('addheader "Auto-Submitted" "no"; deleteheader "auto-submitted";').startswith(b"Auto-Submitted")


@pytest.mark.parametrize(
    ("command", "left"),
    [
        ('deleteheader "x";', []),
        ('deleteheader :index 1 "x";', ["b", "c"]),
        ('deleteheader :index 1 :last "x";', ["a", "b"]),
        ('deleteheader :index 9 "x";', ["a", "b", "c"]),
        ('deleteheader :contains "x" ["B", "c"];', ["a"]),
        ('deleteheader :index 2 "x" "a";', ["a", "b", "c"]),
        ('deleteheader :index 2 :matches "x" "?";', ["a", "c"]),
        ('deleteheader :value "gt" "x" "a";', ["a"]),
    ],
)
def test_which_are_deleted(command: str, left: list[str]) -> None:
    assert Mail(edited(command, mail(X=["a", "b", "c"]))).header("x") == left


def test_later_tests_and_actions_see_the_edits() -> None:  # §3
    script = (
        EDIT
        + """fileinto "before"; addheader "X-New" "1";
        if header "X-New" "1" { fileinto "after"; } deleteheader "X-New"; if not exists "x-new" { keep; }"""
    )
    before, after, kept = execute(script).actions
    assert before.mail.data == MAIL  # type: ignore[union-attr]
    assert after.mail.data == b"X-New: 1\r\n" + MAIL  # type: ignore[union-attr]
    assert kept.mail.data == MAIL  # type: ignore[union-attr]


def test_size_follows() -> None:
    assert did(EDIT + f'addheader "A" "b"; if size :over {len(MAIL) + 5} {{ discard; }}') == ["discard"]
    assert did(EDIT + f'addheader "A" "b"; if size :over {len(MAIL) + 6} {{ discard; }}') == ["keep"]


def test_the_failed_script_leaves_the_message() -> None:
    outcome = execute('require ["editheader", "ihave"]; addheader "A" "b"; error "x";')
    assert outcome.actions[0].mail.data == MAIL  # type: ignore[union-attr]


def test_names() -> None:
    assert errors('require "editheader"; addheader "a b" "c";') == ['1:23 "a b" is no name of a header field']
    assert errors('require "editheader"; deleteheader "a:";') == ['1:23 "a:" is no name of a header field']
    assert "no name of a header field" in execute(EDIT + 'set "a" ""; addheader "${a}" "b";').error


def test_a_header_has_an_end() -> None:
    script = EDIT + f'set "a" "{"x" * 8192}";' + 'addheader "A" "${a}";' * 200
    assert "The header grows beyond" in execute(script).error


def test_example() -> None:  # §4 with a variable
    assert edited(
        'if header :matches "subject" "*" { deleteheader "subject"; addheader "Subject" "[x] ${1}"; }'
    ).startswith(b"Subject: [x] I have a present for you\r\nReturn-Path")


_lines = st.lists(
    st.sampled_from([b"A: 1", b"B: two", b" folded", b"", b"no colon", b"a:", b"X", b"C: =?x?", b":", b"A: \xff"]),
    max_size=7,
)


@given(lines=_lines, end=st.sampled_from([b"\n", b"\r\n"]), closed=st.booleans(), last=st.booleans())
def test_an_added_field_is_there_and_nothing_else_changes(
    lines: list[bytes], end: bytes, closed: bool, last: bool
) -> None:
    data = end.join(lines) + (end if closed else b"")
    before = Mail(data)
    after = with_field(before, "X-New", "value", last=last)
    assert Mail(after.data).header("x-new") == after.header("x-new") == ["value"]
    names = [name for name, _ in after.top.fields()]
    old = [name for name, _ in before.top.fields()]
    assert names == ([*old, b"X-New"] if last or data[:1] == b" " else [b"X-New", *old])
    assert after.data[len(after.head) :] == data[len(before.head) :]
    again = without_fields(after, "x-new", {0})
    assert [name for name, _ in again.top.fields()] == old
    assert again.data[len(again.head) :] == data[len(before.head) :]
    assert len(after.data) == after.size


def test_what_is_not_ascii_is_encoded() -> None:  # RFC 5293 §4, RFC 2047
    long = "größer " * 40
    head = edited(f'addheader "X-Text" "{long}";').partition(b"Return-Path")[0]
    assert head.isascii()
    assert all(len(line) <= 78 for line in head.split(b"\r\n"))
    assert holds_after(f'addheader "X-Text" "{long}";', f'header :is "x-text" "{long.strip()}"')
    assert holds_after('addheader "To" "Bébé <bebe@example.org>";', 'address :contains "to" "bebe@example.org"')


def holds_after(command: str, test: str) -> bool:
    return did(f'require "editheader"; {command} if {test} {{ discard; }}') == ["discard"]
