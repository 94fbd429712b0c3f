"""Log lines."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest

from sora import log

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """Leave the root logger as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


async def test_lines_carry_the_fields_of_the_call_and_of_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("json", "info")

    async def session(name: str) -> None:
        log.bind(session=name)
        await asyncio.sleep(0)
        log.get("sora.test").info("hello %s", name, extra={"mailbox_id": 5})

    await asyncio.gather(session("a"), session("b"))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["session"], line["text"], line["mailbox_id"]) for line in lines] == [
        ("a", "hello a", 5),
        ("b", "hello b", 5),
    ]
    assert lines[0]["level"] == "info"
    assert lines[0]["at"].endswith("Z")


def test_a_traceback_stays_inside_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("json", "info")
    try:
        raise ValueError("broken\nover two lines")
    except ValueError:
        log.get("sora.test").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: broken" in json.loads(line)["traceback"]


def test_values_without_json_form_are_written_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("json", "info")
    log.get("sora.test").info("x", extra={"error": OSError("gone")})
    assert json.loads(capsys.readouterr().err)["error"] == "gone"


def test_text_form_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("text", "warning")
    log.get("sora.test").info("unseen")
    log.get("sora.test").warning("seen", extra={"uid": 7})
    assert capsys.readouterr().err.rstrip().endswith("WARNING sora.test seen uid=7")


@pytest.mark.parametrize("form", ["json", "text"])
def test_values_begin_no_line_and_steer_no_terminal(capsys: pytest.CaptureFixture[str], form: str) -> None:
    log.setup(form, "info")
    log.get("sora.test").info("login refused", extra={"login": "a\n\r\u2028\x85\x1b[2J\x9b2J\x00\x7fb"})
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 1
    assert written.rstrip("\n").isprintable()
