"""Envelope, structure and digest of typical messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.native.mime import MESSAGES
from sora._native.mimescan import scan
from sora.mime.digest import digest
from sora.mime.envelope import write_bodystructure, write_envelope

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("data", MESSAGES.values(), ids=MESSAGES)
def test_digest(benchmark: BenchmarkFixture, data: bytes) -> None:
    assert benchmark(digest, data).subject == "Re: [list] An ordinary subject"


def test_envelope(benchmark: BenchmarkFixture) -> None:
    assert benchmark(write_envelope, scan(MESSAGES["plain-4k"])).startswith(b'("Mon, 1 Jan')


def test_bodystructure(benchmark: BenchmarkFixture) -> None:
    assert benchmark(write_bodystructure, scan(MESSAGES["attachment-1m"])).startswith(b"(((")
