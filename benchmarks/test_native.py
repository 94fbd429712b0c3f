"""Every native function beside its plain model: `make bench`, table in results/native.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.sides import compare

if TYPE_CHECKING:
    import pytest
    from pytest_benchmark.fixture import BenchmarkFixture

    from benchmarks.cases import Case


def test_native(benchmark: BenchmarkFixture, pytestconfig: pytest.Config, case: Case) -> None:
    benchmark.group = f"native {case.name}"
    benchmark.extra_info["messages"] = pytestconfig.getoption("--native-messages")
    compare(benchmark, {"ours": case.ours, "plain": case.plain}, seconds=pytestconfig.getoption("--pair-seconds"))
