"""Long work, watched: a bar where somebody looks, a line now and then where nobody does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from typing import TextIO

LINE_EVERY_S: Final = 10.0


class Watched:
    """Shows progress; a context manager that clears the bar away. Writes nothing before the first `show`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bar: Progress | None = None
        self._last_mono = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, text: str, done: int, total: int) -> None:
        """So much is done, of so much; the text says what is in hand."""
        if self._out.isatty():
            self._show_bar(text, done, total)
        elif time.monotonic() - self._last_mono >= LINE_EVERY_S:
            self._last_mono = time.monotonic()
            self._out.write(f"{done} of {total}, {_plain(text)}\n")
            self._out.flush()

    def _show_bar(self, text: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=Console(file=self._out),
                transient=True,
            )
            self._bar.start()
            self._bar.add_task("")
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, description=_plain(text))


def _plain(text: str) -> str:
    """What a peer could have written cannot move the cursor of the reader."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:60]
