"""Files that are on disk when a call returns, beside the same system calls from Python."""

from __future__ import annotations

import itertools
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cases import Case
from sora._native.durable import publish, sync_directories
from tests.support.models_durable import publish_model, sync_directories_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from mmap import mmap

    File = tuple[bytes, bytes, Sequence[bytes | mmap]]

BODY = b"x" * 4096
_places: list[tempfile.TemporaryDirectory[str]] = []
"""They live as long as the process."""


def cases(messages: int) -> Iterator[Case]:
    """Batches of one, and of as many as wait under load; each removes what it has made."""
    _places.append(tempfile.TemporaryDirectory(dir=".", prefix=".durable-"))
    root = Path(_places[-1].name).resolve()
    numbers = itertools.count()

    def batch(count: int, function: Callable[[list[File], bytes, bytes, int], list[int]]) -> list[int]:
        names = [f"{root}/{next(numbers)}".encode() for _ in range(count)]
        errors = function(
            [(name + b".tmp", name, (b"stamp", BODY)) for name in names], bytes(root), bytes(root / ".lock"), 0o600
        )
        for name in names:
            os.unlink(name)
        return errors

    for count in (1, 8):
        yield Case(
            f"durable.publish of {count}",
            partial(batch, count, publish),
            partial(batch, count, publish_model),
        )
    paths = [bytes(root / f"d{n}") for n in range(8)]
    for path in paths:
        os.mkdir(path)
    yield Case("durable.sync_directories", lambda: sync_directories(paths), lambda: sync_directories_model(paths))
