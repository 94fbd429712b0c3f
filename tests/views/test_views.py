"""Pictures of clients stay true: a slice of the seeds. More of them: `python -m tests.views --seconds N --seed S`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.views.run import play

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = range(12)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", SEEDS)
async def test_pictures_stay_true(dsn: str, tmp_path: Path, seed: int) -> None:
    outcome = await play(dsn, tmp_path, seed, chapters=4)
    assert outcome.commands >= 100
    assert outcome.compared >= 10
