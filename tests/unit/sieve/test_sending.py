"""`redirect` with RFC 6009."""

from __future__ import annotations

from typing import Any

import pytest

from sora.sieve.actions import Redirect
from sora.sieve.limits import Limits
from tests.support.sieve import did, errors, execute, required

REDIRECT = required("redirect-dsn", "redirect-deliverby", "copy", "variables")


def redirect(tags: str) -> dict[str, Any]:
    [action] = execute(f'{REDIRECT}redirect {tags} "elsewhere@example.com";').actions
    assert isinstance(action, Redirect)
    return {name: getattr(action, name) for name in ("notify", "ret", "by_time", "by_mode", "by_trace")}


PLAIN = {"notify": "", "ret": "", "by_time": None, "by_mode": "", "by_trace": False}


@pytest.mark.parametrize(
    ("tags", "changed"),
    [
        ("", {}),
        (':notify "NEVER"', {"notify": "NEVER"}),
        (':notify "success,Failure"', {"notify": "SUCCESS,FAILURE"}),
        (':ret "hdrs"', {"ret": "HDRS"}),
        (":bytimerelative 600", {"by_time": 600, "by_mode": "RETURN"}),
        (':bytimerelative 600 :bymode "notify" :bytrace', {"by_time": 600, "by_mode": "NOTIFY", "by_trace": True}),
        (':bytimeabsolute "2024-03-05T15:30:15+01:00"', {"by_time": 3600, "by_mode": "RETURN"}),
        (':bytimeabsolute "2024-03-05T13:30:10Z"', {"by_time": -5, "by_mode": "RETURN"}),
    ],
)
def test_tags(tags: str, changed: dict[str, Any]) -> None:
    assert redirect(tags) == PLAIN | changed


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        (':notify "NEVER,DELAY"', ':notify cannot be "NEVER,DELAY"'),
        (':ret "all"', ':ret cannot be "all"'),
        (':bytimerelative 1 :bymode "x"', ':bymode cannot be "x"'),
        (':bymode "notify"', ":bymode needs :bytimerelative or :bytimeabsolute"),
        (
            ':bytimerelative 1 :bytimeabsolute "2024-03-05T13:30:10Z"',
            "Only one of :bytimerelative, :bytimeabsolute can be given",
        ),
        (':bytimeabsolute "tomorrow"', '"tomorrow" is no date and time (RFC 3339)'),
        (':bytimeabsolute "2024-02-31T00:00:00Z"', '"2024-02-31T00:00:00Z" is no date and time (RFC 3339)'),
    ],
)
def test_mistakes(tags: str, error: str) -> None:
    assert errors(f'{REDIRECT}redirect {tags} "a@b.c";') == [f"2:1 {error}"]


def test_values_from_variables() -> None:
    script = REDIRECT + 'set "a" "{}"; redirect :{} "${{a}}" "a@b.c";'
    assert execute(script.format("NEVER", "notify")).actions[0].notify == "NEVER"  # type: ignore[union-attr]
    assert 'cannot be "x"' in execute(script.format("x", "notify")).error
    assert "no date and time" in execute(script.format("x", "bytimeabsolute")).error
    assert did(REDIRECT + 'set "a" "nobody"; redirect "${a}";')[0].endswith('"nobody" is no mail address')


def test_one_address_once() -> None:
    assert did('redirect "a@example.org"; redirect "<a@EXAMPLE.org>"; redirect "A@example.org";') == [
        "redirect a@example.org", "redirect A@example.org",
    ]  # fmt: skip


def test_so_many_redirections() -> None:
    script = "".join(f'redirect "a{number}@example.org";' for number in range(33))
    assert did(script) == ["error: script 1, line 1: More than 32 messages are sent", "keep"]
    assert len(did(script, limits=Limits(redirects=33))) == 33
    assert len(did('redirect "a@b.c";' * 40)) == 1
