"""Checks of scripts beside the loop."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from sora.errors import BadScript
from sora.services.scripts import AT_ONCE, SWITCH_S, ScriptChecks, quota_of
from sora.sieve.script import Script, compile
from sora.store.scripts import Quota
from sora.tables import SieveTable

if TYPE_CHECKING:
    from collections.abc import Callable


class Watched:
    """Where and how scripts are compiled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[bool, bool, float]] = []
        self.running = 0
        self.most = 0
        self._second = threading.Event()
        monkeypatch.setattr("sora.services.scripts.compile", self.compile)

    def compile(self, source: bytes, *, max_bytes: int) -> Script:
        on_loop = threading.current_thread() is threading.main_thread()
        self.calls.append((on_loop, gc.isenabled(), sys.getswitchinterval()))
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running > 1:
            self._second.set()
        if not on_loop:
            self._second.wait(0.02)  # room for a second one, if there can be one
        try:
            return compile(source, max_bytes=max_bytes)
        finally:
            self.running -= 1


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def script(size: int) -> bytes:
    return b"keep;".ljust(size)


async def test_a_small_script_is_checked_where_it_is(watched: Watched) -> None:
    assert await ScriptChecks().check(script(AT_ONCE), 1 << 20) == ()
    assert [call[:2] for call in watched.calls] == [(True, True)]


async def test_others_go_to_a_thread_which_leaves_the_process_to_the_rest(watched: Watched) -> None:
    before = sys.getswitchinterval()
    await ScriptChecks().check(script(AT_ONCE + 1), 1 << 20)
    assert watched.calls == [(False, False, pytest.approx(SWITCH_S))]
    assert gc.isenabled()
    assert sys.getswitchinterval() == before


@pytest.mark.parametrize("make", [script, lambda size: b"no".ljust(size)], ids=["good", "bad"])
async def test_one_at_a_time_and_all_is_as_before(watched: Watched, make: Callable[[int], bytes]) -> None:
    checks = ScriptChecks()
    source = make(AT_ONCE + 1)
    found = await asyncio.gather(*(checks.check(source, 1 << 20) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in found] == [tuple if make is script else BadScript] * 5
    assert watched.most == 1
    assert gc.isenabled()


@pytest.mark.parametrize("size", [10, AT_ONCE + 1])
async def test_what_is_too_large_is_wrong(size: int) -> None:
    with pytest.raises(BadScript, match=f"larger than {size - 1} octets"):
        await ScriptChecks().check(script(size), size - 1)


def test_the_quota_is_that_of_the_configuration() -> None:
    assert quota_of(SieveTable(max_scripts=1, max_script_size=2, max_storage=3)) == Quota(1, 2, 3)
