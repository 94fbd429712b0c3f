"""Three days of the simulation: whoever breaks the clock, the cleanup or reconnection learns of it here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.faults import month
from tests.support.demo import Demo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(300)
def test_three_days(tmp_path: Path) -> None:
    settings = [f"--set={value}" for value in (*month.SETTINGS, "cleanup.grace_period=1d")]
    with Demo(tmp_path / "demo", "--accounts", "2", "--workers", "1", *settings) as demo:
        lived, sizes, wrong = asyncio.run(month.simulate(demo, 3, 26))
    assert wrong == []
    assert month.bloated(sizes) == []
    first, _, last = lived.samples
    assert last.staged == 0
    assert last.descriptors.keys() == first.descriptors.keys()
    for name, count in last.descriptors.items():
        assert count <= first.descriptors[name] + month.SLACK_FDS, name


def test_growth_and_bloat_are_seen() -> None:
    samples = [
        month.Sample(day, 1.0, 0, 0, 100, 50, 50, 1_000_000, {"worker 0": 50_000}, {"worker 0": 20})
        for day in range(1, 31)
    ]
    assert month.grown(samples) == []
    for sample in samples:
        sample.descriptors["worker 0"] += sample.day
        sample.memory_kb["worker 0"] += 1000 * sample.day
        sample.database_bytes += 10_000 * sample.day
    assert [found.split(":")[0] for found in month.grown(samples)] == [
        "octets of tables",
        "memory of worker 0, KB",
        "descriptors of worker 0",
    ]
    large = 2 * month.SMALL
    assert month.bloated({"a": (large, large), "b": (8192, 1024), "c": (1024, 8192)}) == []
    assert [found.split(":")[0] for found in month.bloated({"a": (3 * large, large), "b": (large, large)})] == ["a"]
    assert [found.split(":")[0] for found in month.bloated({"a": (9 * large, large)})] == ["a", "all tables"]
