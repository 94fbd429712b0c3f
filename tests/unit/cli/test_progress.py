"""Progress of long work, where somebody looks and where nobody does."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from sora.cli import progress
from sora.cli.progress import Watched

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_short_work_writes_nothing_to_a_file() -> None:
    out = io.StringIO()
    with Watched(out) as watched:
        watched.show("INBOX", 1, 10)
    assert out.getvalue() == ""


def test_long_work_writes_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    out = io.StringIO()
    with Watched(out) as watched:
        watched.show("IN\x1b[2JBOX", 1, 10)
        watched.show("Sent", 2, 10)
    assert out.getvalue() == "1 of 10, IN\N{REPLACEMENT CHARACTER}[2JBOX\n2 of 10, Sent\n"


def test_a_terminal_gets_a_bar() -> None:
    out = Terminal()
    with Watched(out) as watched:
        watched.show("[bold]Sent", 3, 10)
    assert "3/10" in out.getvalue()
    assert "[bold]Sent" in out.getvalue()
