"""Every native function beside its plain model: `make bench`, table in results/native.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.native import all_cases

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from benchmarks.cases import Case

CASES = all_cases(100_000)


@pytest.mark.parametrize("side", ["ours", "plain"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_native(benchmark: BenchmarkFixture, case: Case, side: str) -> None:
    benchmark.group = f"native {case.name}"
    benchmark.extra_info["side"] = side
    benchmark(getattr(case, side))
