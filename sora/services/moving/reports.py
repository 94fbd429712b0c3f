"""What an import or an export has done, as an operator reads it."""

from __future__ import annotations

from msgspec import Struct

MAX_LINES = 200
MAX_LINE = 400


class Line(Struct, kw_only=True):
    """What became of one folder or mailbox; `present`: messages that an earlier run had moved."""

    mailbox: str
    messages: int = 0
    present: int = 0
    bytes: int = 0


class Moved(Struct, kw_only=True):
    """All of it.

    Attributes:
        notes: What is not as it was: new UIDs, other names.
        problems: What was left behind.
    """

    account: str
    dry_run: bool
    messages: int = 0
    present: int = 0
    bytes: int = 0
    seconds: float = 0.0
    subscriptions: int = 0
    scripts: int = 0
    notes: list[str] = []
    problems: list[str] = []

    def note(self, text: str) -> None:
        """Say what has changed on the way."""
        _add(self.notes, text)

    def problem(self, text: str) -> None:
        """Say what was left behind."""
        _add(self.problems, text)

    def count(self, line: Line) -> None:
        """A folder or mailbox is done."""
        self.messages += line.messages
        self.present += line.present
        self.bytes += line.bytes


def _add(lines: list[str], text: str) -> None:
    if len(lines) < MAX_LINES:
        lines.append("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:MAX_LINE])
    elif len(lines) == MAX_LINES:
        lines.append("…")
