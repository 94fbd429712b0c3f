"""Every native function beside its plain model: `make bench`, table in results/native.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.sides import compare

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from benchmarks.cases import Case


@pytest.mark.timeout(120)
def test_native(benchmark: BenchmarkFixture, pytestconfig: pytest.Config, case: Case) -> None:
    benchmark.group = f"native {case.name}"
    benchmark.extra_info["messages"] = pytestconfig.getoption("--native-messages")
    compare(benchmark, {"ours": case.ours, "plain": case.plain}, seconds=pytestconfig.getoption("--pair-seconds"))
