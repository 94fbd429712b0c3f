"""RFC 5429."""

from __future__ import annotations

import pytest

from tests.support.sieve import did, errors, execute

REJECT = 'require ["reject", "ereject", "fileinto", "vacation", "enotify", "copy"];'


def test_reject_cancels_the_implicit_keep() -> None:
    assert did(REJECT + 'reject "I am on a diet";') == ["reject I am on a diet"]
    assert did(REJECT + 'ereject "no";') == ["ereject no"]


def test_the_text_may_be_long() -> None:  # §2.2.2
    script = 'require ["reject"];\nreject text:\nYour message is too big.\r\nTwo lines.\n.\n;'
    assert did(script) == ["reject Your message is too big.\r\nTwo lines.\r\n"]


@pytest.mark.parametrize(
    "other", ["keep;", 'fileinto "A";', 'redirect "a@b.c";', 'redirect :copy "a@b.c";', 'reject "x";', 'ereject "x";']
)
@pytest.mark.parametrize("verb", ["reject", "ereject"])
def test_what_does_not_go_together(verb: str, other: str) -> None:
    for script in (f'{verb} "no"; {other}', f'{other} {verb} "no";'):
        found = did(REJECT + script)
        assert found[0].startswith("error: script 1, line 1: The message is ")
        assert found[1:] == ["keep"]


def test_an_answer_does_not_go_together_either() -> None:
    for script in ('reject "no"; vacation "away";', 'vacation "away"; reject "no";'):
        assert execute(REJECT + script).error


def test_what_goes_together() -> None:
    assert did(REJECT + 'discard; reject "no";') == ["discard", "reject no"]
    assert did(REJECT + 'notify "mailto:a@example.org"; reject "no";') == ["notify a@example.org", "reject no"]


def test_what_scripts_before_did_stays() -> None:
    assert did(REJECT + 'fileinto :copy "Archive";', REJECT + 'reject "no";') == ["fileinto Archive", "reject no"]


def test_mistakes() -> None:
    assert errors('require "ereject"; reject "a";') == ['1:20 The command "reject" needs require "reject"']
