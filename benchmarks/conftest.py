"""Sizes of the benchmarks: `make bench ARGS="--native-messages 10000 --sql-messages 5000 --pair-seconds 0.1"`."""

from __future__ import annotations

import pytest

from benchmarks.native import all_cases


def pytest_addoption(parser: pytest.Parser) -> None:
    """Sizes, and the time that a pair may take."""
    group = parser.getgroup("sora benchmarks")
    group.addoption("--native-messages", type=int, default=100_000, help="messages of the native functions' mailbox")
    group.addoption("--sql-messages", type=int, default=20_000, help="messages of the SQL functions' mailbox")
    group.addoption(
        "--pair-seconds", type=float, default=0.4, help="about so long for each pair, three rounds at least"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A benchmark waits for the disk as long as that takes; only one that hangs is stopped."""
    for item in items:
        item.add_marker(pytest.mark.timeout(600))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each native case is a test."""
    if "case" in metafunc.fixturenames:
        cases = all_cases(metafunc.config.getoption("--native-messages"))
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])
