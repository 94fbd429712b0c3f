"""Runs beside other work, and their limits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from sora.errors import DatabaseDown
from sora.services.filters.runs import limits_of, run
from sora.sieve import interpreter
from sora.sieve.interpreter import Environment, Step, drive
from sora.sieve.limits import Limits
from sora.sieve.mail import Mail
from sora.sieve.questions import IsDuplicate
from sora.sieve.script import compile
from sora.tables import SieveTable

if TYPE_CHECKING:
    from sora.sieve.actions import Outcome
    from sora.sieve.questions import Ask

ENVIRONMENT = Environment(now=datetime(2026, 3, 1, tzinfo=UTC))
MAIL = Mail(b"Subject: x\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n")


async def no_answer(ask: Ask) -> Any:
    raise AssertionError(ask)


async def play(script: str, answer: Any = no_answer, **limits: int) -> Outcome:
    steps = [Step(compile(script.encode(), max_bytes=1 << 20), "s")]
    return await run("delivery", steps, MAIL, ENVIRONMENT, Limits(**limits), answer)


async def test_others_have_their_turn_after_each_slice() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    script = 'if header :is "Subject" "y" { stop; }' * 2000
    outcome = await play(script, slice=500)
    other.cancel()
    assert outcome.error == ""
    assert turns >= outcome.spent // 500 - 1 > 10


async def test_long_searches_are_made_in_a_thread_and_cost_what_they_take() -> None:
    script = (
        'require ["regex", "variables"]; set "a" "'
        + "ab" * 30_000
        + '";\n'
        + 'if string :regex "${a}" "x[ab]*y" {}\n' * 50
    )
    steps = [Step(compile(script.encode()), "s")]
    worst = drive(interpreter.run(steps, MAIL, ENVIRONMENT), no_answer).spent
    assert (await play(script)).spent < worst // 2


async def test_answers_may_take_their_time() -> None:
    asked = []

    async def answer(ask: Ask) -> bool:
        asked.append(ask)
        await asyncio.sleep(0)
        return True

    outcome = await play('require "duplicate"; if duplicate { discard; }', answer)
    assert asked == [IsDuplicate("", "<1@x>")]
    assert [type(action).__name__ for action in outcome.actions] == ["Discard"]


async def test_without_an_answer_nothing_is_decided() -> None:
    async def away(_: Ask) -> bool:
        raise DatabaseDown

    with pytest.raises(DatabaseDown):
        await play('require "duplicate"; if duplicate { discard; }', away)


def test_each_limit_is_a_key() -> None:
    table = SieveTable(
        max_instructions=1001,
        slice_instructions=101,
        max_redirects=2,
        max_actions=3,
        max_variable_size=4,
        max_variables=5,
        max_text=6,
        max_include_depth=7,
        max_includes=8,
        max_edited=9,
        max_made=10,
    )
    assert limits_of(table) == Limits(
        instructions=1001,
        slice=101,
        redirects=2,
        actions=3,
        variable_bytes=4,
        variables=5,
        text_characters=6,
        include_depth=7,
        includes=8,
        edited_bytes=9,
        made_bytes=10,
    )
    assert limits_of(SieveTable()) == Limits()
