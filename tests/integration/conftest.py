"""Fixtures of tests that run whole processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fakesora import FakeSora

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sora(tmp_path: Path) -> Iterator[FakeSora]:
    """A supervisor with two fake workers, an uploader and an http process."""
    with FakeSora(tmp_path) as sora:
        yield sora
