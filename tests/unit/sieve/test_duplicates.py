"""RFC 7352."""

from __future__ import annotations

import pytest

from sora.sieve.actions import Remembered
from sora.sieve.duplicates import DEFAULT_S, LONGEST_S
from sora.sieve.questions import IsDuplicate
from tests.support.sieve import did, errors, execute, mail

ID = "<1@desert.example.org>"


@pytest.mark.parametrize(
    ("tags", "entry"),
    [
        ("", ("", ID, DEFAULT_S)),
        (':header "subject"', ("", "I have a present for you", DEFAULT_S)),
        (':uniqueid "x"', ("", "x", DEFAULT_S)),
        (':handle "h" :seconds 60', ("h", ID, 60)),
        (":seconds 999999999", ("", ID, LONGEST_S)),
    ],
)
def test_what_is_tracked(tags: str, entry: tuple[str, str, int]) -> None:
    asked = []
    script = f'require "duplicate"; if duplicate {tags} {{ discard; }}'
    outcome = execute(script, answers={IsDuplicate: lambda question: asked.append(question) or False})
    assert asked == [IsDuplicate(entry[0], entry[1])]
    assert outcome.remembered == (Remembered(*entry),)
    assert len(outcome.actions) == 1


def test_a_duplicate_is_noted_again_only_with_last() -> None:  # §3.2
    answers = {IsDuplicate: True}
    script = 'require "duplicate"; if duplicate {} {{ discard; }}'
    outcome = execute(script.format("", "{ discard; }"), answers=answers)
    assert outcome.remembered == ()
    assert did(script.format("", ""), answers=answers) == ["discard"]
    assert execute(script.format(":last", ""), answers=answers).remembered == (
        Remembered("", ID, DEFAULT_S, again=True),
    )


def test_without_an_id_nothing_is_a_duplicate() -> None:
    script = 'require ["duplicate"]; if duplicate { discard; }'
    outcome = execute(script, mail=mail(Subject="x"), answers={IsDuplicate: True})
    assert outcome.remembered == ()
    assert did(script, mail=mail(Subject="x"), answers={IsDuplicate: True}) == ["keep"]


def test_one_test_twice_is_noted_once() -> None:
    script = 'require "duplicate"; if duplicate {} if duplicate {}'
    assert len(execute(script, answers={IsDuplicate: False}).remembered) == 1


def test_a_script_that_fails_notes_nothing() -> None:  # §3.1: only if the script ends successfully
    script = 'require ["duplicate", "ihave"]; if duplicate {} error "x";'
    assert execute(script, answers={IsDuplicate: False}).remembered == ()


def test_mistakes() -> None:
    assert errors('require "duplicate"; if duplicate :header "a" :uniqueid "b" {}') == [
        "1:25 Only one of :header, :uniqueid can be given"
    ]


def test_example() -> None:  # §6, with variables
    script = """require ["duplicate", "variables", "imap4flags", "fileinto"];
        if header :matches "message-id" "*" { if duplicate :uniqueid "${0}" { setflag "\\\\seen"; } }
        if duplicate :header "X-Event-ID" :handle "notifier" { discard; }"""
    assert did(script, answers={IsDuplicate: lambda question: question.unique_id == ID}) == ["keep (\\Seen)"]


def test_any_text_is_an_id() -> None:  # RFC 7352 §3
    script = 'require "duplicate"; if duplicate :uniqueid "" { discard; }'
    assert did(script, answers={IsDuplicate: lambda question: question.unique_id == ""}) == ["discard"]
    assert [one.unique_id for one in execute(script, answers={IsDuplicate: False}).remembered] == [""]


def test_no_time_at_all() -> None:  # RFC 7352 §3: false, whatever was there before
    script = 'require "duplicate"; if duplicate :seconds 0 { discard; }'
    assert did(script, answers={IsDuplicate: True}) == ["keep"]
    assert execute(script, answers={IsDuplicate: False}).remembered == ()
