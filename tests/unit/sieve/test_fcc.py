"""RFC 8580."""

from __future__ import annotations

import pytest

from tests.support.sieve import errors, execute

FCC = 'require ["fcc", "vacation", "enotify", "mailbox", "imap4flags", "special-use", "mailboxid"];'


@pytest.mark.parametrize("command", ['vacation {} "x";', 'notify {} "mailto:a@example.org";'])
def test_what_is_sent_is_filed(command: str) -> None:
    script = FCC + 'setflag "internal";' + command.format(':fcc "Sent" :specialuse "\\\\Sent"')
    [sent, _] = execute(script).actions
    copy = sent.copy  # type: ignore[union-attr]
    assert (copy.mailbox, copy.special_use, copy.flags) == ("Sent", "\\Sent", None)
    assert copy.mail.data == sent.data  # type: ignore[union-attr]


@pytest.mark.parametrize("tag", [":create", ':flags "a"', ':specialuse "\\\\Sent"', ':mailboxid "F"'])
def test_tags_of_fcc_need_it(tag: str) -> None:
    assert errors(FCC + f'vacation {tag} "x";') == [f"1:93 {tag.split()[0]} needs :fcc here"]


def test_fcc_must_be_required() -> None:
    assert errors('require "vacation"; vacation :fcc "Sent" "x";')[0] == '1:30 :fcc needs require "fcc"'
