"""Which subjects say that a message answers or forwards another (RFC 5256 §2.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.mime.digest import base_subject
from sora.mime.thread import is_reply

REPLIES = (
    "Re: a", "RE : a", "re[2]: a", "Fwd: a", "FW: a", "[list] Re: a", "Re: [list] a", "a (fwd)", "a (FWD) ", "[fwd: a]",
    "[Fwd: [Fwd: Re: a]]", "Re:", "(fwd)", "[fwd:]", "re: re", "Re: a a (fwd)", "[x:y] Re [z:]: a",
)  # fmt: skip
OTHERS = (
    "", " ", "a", "a: b", "[list] a", "[list: x] a", "[a] [b]", "  a  b ", "re", "reply: a", "a (fwd) b", "[re: a",
    "fwd a", "[x: y]",
)  # fmt: skip


@pytest.mark.parametrize("subject", REPLIES)
def test_replies_and_forwards(subject: str) -> None:
    assert is_reply(subject)


@pytest.mark.parametrize("subject", OTHERS)
def test_others(subject: str) -> None:
    assert not is_reply(subject)


@given(st.lists(st.sampled_from(["re:", "fwd:", "[b:]", "[", "]", ":", " ", "a", "(fwd)", "[fwd:", "re"]), max_size=7))
def test_a_base_subject_is_no_reply_and_a_prefix_makes_one(parts: list[str]) -> None:
    subject = "".join(parts)
    base = base_subject(subject)
    assert not is_reply(base)
    assert is_reply("Re: " + subject)
    assert is_reply(subject + " (fwd)")
