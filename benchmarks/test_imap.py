"""Pipelined IMAP commands, scanned and parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.native.imapscan import COMMANDS
from sora._native.imapscan import Command, Scanner
from sora.wire.imap_commands import PARSERS

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def scan_and_parse() -> int:
    scanner = Scanner()
    scanner.feed(COMMANDS)
    count = 0
    while isinstance(command := scanner.next(), Command):
        PARSERS[command.name](command.cursor)
        count += 1
    return count


def test_scan_and_parse(benchmark: BenchmarkFixture) -> None:
    assert benchmark(scan_and_parse) == 999
