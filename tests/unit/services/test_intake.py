"""Messages on their way in: what is held in memory, what goes to a file, what is only counted."""

from __future__ import annotations

import errno
import gc
import itertools
import mmap
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sora.errors import StagingFull, TooBig, Unavailable
from sora.services import intake
from sora.services.intake import Intake
from sora.store import diskfile
from sora.store.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 10_000


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Staging]:
    monkeypatch.setattr(intake, "IN_MEMORY", 1000)
    monkeypatch.setattr(intake, "SLICE", 100)
    staging = Staging(tmp_path, 10**9)
    yield staging
    staging.close()


def held(taker: Intake) -> int:
    return sum(map(len, taker._pieces))


async def fill(taker: Intake, pieces: list[bytes]) -> int:
    """Hand in the pieces; the most octets that were held after one."""
    most = 0
    for piece in pieces:
        taker.add(piece)
        await taker.settle()
        most = max(most, held(taker))
    return most


async def test_a_small_message_stays_in_memory(staging: Staging) -> None:
    taker = Intake(staging, LIMIT)
    await fill(taker, [b"a" * 600, b"", b"b" * 400])
    assert await taker.finish() == b"a" * 600 + b"b" * 400
    assert taker.size == 1000
    assert taker._spool is None


async def test_one_piece_is_not_copied(staging: Staging) -> None:
    taker = Intake(staging, LIMIT)
    piece = b"a" * 600
    await fill(taker, [piece])
    assert await taker.finish() is piece


async def test_nothing_is_a_message_too(staging: Staging) -> None:
    assert await Intake(staging, LIMIT).finish() == b""


async def test_a_large_message_is_held_in_a_file(staging: Staging, tmp_path: Path) -> None:
    taker = Intake(staging, LIMIT)
    pieces = [bytes([65 + i]) * 150 for i in range(20)]
    assert await fill(taker, pieces) <= 1000
    found = await taker.finish()
    assert isinstance(found, mmap.mmap)
    taker.close()
    assert found[:] == b"".join(pieces)
    assert list((tmp_path / "tmp").iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.binary(max_size=400), max_size=40))
async def test_any_pieces(staging: Staging, pieces: list[bytes]) -> None:
    taker = Intake(staging, 2000)
    most = await fill(taker, pieces)
    whole = b"".join(pieces)
    assert most <= 1000
    if len(whole) > 2000:
        with pytest.raises(TooBig):
            await taker.finish()
    else:
        assert (await taker.finish())[:] == whole
    taker.close()


async def test_too_big_is_counted_and_not_held(staging: Staging) -> None:
    taker = Intake(staging, LIMIT)
    await fill(taker, [b"x" * 1000] * 10)
    assert taker.error is None
    spool = taker._spool
    assert spool is not None
    await fill(taker, [b"x"])
    assert isinstance(taker.error, TooBig)
    assert taker._spool is None
    assert spool._fd == -1
    await fill(taker, [b"x" * 1000] * 10)
    assert held(taker) == 0
    assert taker.size == 20_001
    with pytest.raises(TooBig):
        await taker.finish()


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, StagingFull), (errno.EDQUOT, StagingFull), (errno.EMFILE, Unavailable)]
)
@pytest.mark.parametrize("where", ["open_unnamed", "write_all"])
async def test_a_disk_that_fails(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Unavailable], where: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(diskfile, where, fail)
    taker = Intake(staging, LIMIT)
    await fill(taker, [b"x" * 700] * 5)
    assert held(taker) == 0
    with pytest.raises(error):
        await taker.finish()


async def test_the_end_may_fail_too(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    taker = Intake(staging, LIMIT)
    await fill(taker, [b"x" * 1100, b"y"])

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(diskfile, "write_all", fail)
    with pytest.raises(StagingFull):
        await taker.finish()


async def test_files_are_let_go(staging: Staging) -> None:
    gc.collect()  # what earlier tests left is not let go of in between
    before = set(os.listdir("/proc/self/fd"))
    for size, _ in itertools.product((100, 5000), range(3)):
        taker = Intake(staging, LIMIT)
        await fill(taker, [b"x" * size])
        await taker.finish()
        taker.close()
        taker.close()
    assert set(os.listdir("/proc/self/fd")) <= before
