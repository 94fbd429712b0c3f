"""Checks of scripts beside the loop."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from sora.errors import BadScript
from sora.services.filters import scripts
from sora.services.filters.answers import list_schemes
from sora.services.filters.scripts import AT_ONCE, MAX_NAMES, SWITCH_S, CompiledScripts, ScriptChecks, quota_of
from sora.services.filters.site_scripts import NONE, SiteScripts
from sora.sieve.script import Script, compile
from sora.store.scripts import Quota, StoredScript, version_of
from sora.tables import SieveTable
from sora.types import AccountId

if TYPE_CHECKING:
    from collections.abc import Callable


class Watched:
    """Where and how scripts are compiled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[bool, bool, float]] = []
        self.running = 0
        self.most = 0
        self._second = threading.Event()
        monkeypatch.setattr("sora.services.filters.scripts.compile", self.compile)

    def compile(self, source: bytes, *, max_bytes: int, max_nesting: int) -> Script:
        on_loop = threading.current_thread() is threading.main_thread()
        self.calls.append((on_loop, gc.isenabled(), sys.getswitchinterval()))
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running > 1:
            self._second.set()
        if not on_loop:
            self._second.wait(0.02)  # room for a second one, if there can be one
        try:
            return compile(source, max_bytes=max_bytes, max_nesting=max_nesting)
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


async def test_the_last_thread_that_leaves_brings_everything_back() -> None:
    before = gc.isenabled(), sys.getswitchinterval()
    with scripts._considerate:
        with scripts._considerate:
            pass
        assert not gc.isenabled()
        assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
    assert (gc.isenabled(), sys.getswitchinterval()) == before


async def test_two_queues_leave_the_process_as_it_was() -> None:
    before = gc.isenabled(), sys.getswitchinterval()
    some, others = ScriptChecks(), ScriptChecks()
    source = b"keep;\n" * 2000
    await asyncio.gather(*(one.check(source, 1 << 20) for one in (some, others) * 5))
    assert (gc.isenabled(), sys.getswitchinterval()) == before


@pytest.mark.parametrize("size", [10, AT_ONCE + 1])
async def test_what_is_too_large_is_wrong(size: int) -> None:
    with pytest.raises(BadScript, match=f"larger than {size - 1} octets"):
        await ScriptChecks().check(script(size), size - 1)


@pytest.mark.parametrize("size", [100, AT_ONCE + 1])
async def test_blocks_in_blocks_are_bounded_when_a_script_is_stored(size: int) -> None:
    """What was stored runs, though the bound is another one by now."""
    source = (b"if true {" * 4 + b"}" * 4).ljust(size)
    checks = ScriptChecks()
    assert await checks.check(source, size, 4) == ()
    with pytest.raises(BadScript, match="nest deeper than 3"):
        await checks.check(source, size, 3)
    assert (await checks.compile((b"if true {" * 99 + b"}" * 99).ljust(size))).commands


def test_the_quota_is_that_of_the_configuration() -> None:
    assert quota_of(SieveTable(max_scripts=1, max_script_size=2, max_storage=3)) == Quota(1, 2, 3)


def test_the_schemes_of_lists_are_announced() -> None:
    nobody: frozenset[str] = frozenset()
    assert list_schemes(NONE) == ["urn"]
    site = SiteScripts(lists={"TAG:example.com,2026:staff": nobody, "tag:x": nobody, "vips": nobody, "urn:a": nobody})
    assert list_schemes(site) == ["tag", "urn"]


class Accounts:
    """Scripts of accounts, and how often they were read."""

    def __init__(self) -> None:
        self.scripts: dict[tuple[int, str | None], StoredScript] = {}
        self.reads = 0

    def put(self, account_id: int, name: str, content: bytes, *, active: bool = True) -> None:
        stored = StoredScript(name, content, version_of(content))
        self.scripts[account_id, name] = stored
        if active:
            self.scripts[account_id, None] = stored

    async def find_active(self, account_id: int) -> StoredScript | None:
        return await self.find(account_id, None)

    async def find(self, account_id: int, name: str | None) -> StoredScript | None:
        self.reads += 1
        return self.scripts.get((account_id, name))


class Kept:
    """A cache of compiled scripts over accounts."""

    def __init__(self) -> None:
        self.accounts = Accounts()
        self.scripts = CompiledScripts(self.accounts, ScriptChecks())  # type: ignore[arg-type]

    async def active(self, account_id: int, number: int) -> tuple[str, Script] | None:
        return await self.scripts.active(AccountId(account_id), number)


class TestCompiledScripts:
    async def test_it_is_read_and_compiled_once(self, watched: Watched) -> None:
        kept = Kept()
        kept.accounts.put(1, "main", b"keep;")
        first, second = await kept.active(1, 1), await kept.active(1, 1)
        assert first is not None
        assert second is not None
        assert first == second
        assert first[0] == "main"
        assert first[1] is second[1]
        assert (kept.accounts.reads, len(watched.calls)) == (1, 1)

    async def test_names_that_nobody_has_are_not_all_remembered(self) -> None:
        """Annotations name scripts too, and an account can set another one as often as it likes."""
        kept = Kept()
        for number in range(3 * MAX_NAMES):
            assert await kept.scripts.named(AccountId(1), 1, f"no {number}") is None
        assert len(kept.scripts._known(AccountId(1), 1)) <= MAX_NAMES
        assert await kept.scripts.named(AccountId(1), 1, f"no {number}") is None
        assert kept.accounts.reads == 3 * MAX_NAMES

    async def test_another_number_means_to_read_it_again(self, watched: Watched) -> None:
        kept = Kept()
        kept.accounts.put(1, "main", b"keep;")
        await kept.active(1, 1)
        kept.accounts.put(1, "other", b"discard;")
        found = await kept.active(1, 2)
        assert found is not None
        assert found[0] == "other"
        assert (kept.accounts.reads, len(watched.calls)) == (2, 2)

    async def test_equal_texts_are_one(self, watched: Watched) -> None:
        kept = Kept()
        for account_id in (1, 2):
            kept.accounts.put(account_id, "main", b"keep;")
            await kept.active(account_id, 1)
        assert (kept.accounts.reads, len(watched.calls)) == (2, 1)

    async def test_that_there_is_none_is_remembered(self) -> None:
        kept = Kept()
        assert [await kept.active(1, 1), await kept.active(1, 1)] == [None, None]
        assert kept.accounts.reads == 1
        assert await kept.scripts.named(AccountId(1), 1, "x") is None

    async def test_by_name(self, watched: Watched) -> None:
        kept = Kept()
        kept.accounts.put(1, "rules", b"keep;", active=False)
        for _ in range(2):
            assert await kept.scripts.named(AccountId(1), 1, "rules") is not None
        assert (kept.accounts.reads, len(watched.calls)) == (1, 1)

    async def test_without_a_number_it_is_read_each_time(self, watched: Watched) -> None:
        kept = Kept()
        kept.accounts.put(1, "rules", b"keep;")
        for _ in range(2):
            await kept.scripts.named(AccountId(1), 0, "rules")
        assert (kept.accounts.reads, len(watched.calls)) == (2, 1)

    async def test_errors_are_told_each_time(self) -> None:
        kept = Kept()
        kept.accounts.put(1, "main", b"nonsense")
        for _ in range(2):
            with pytest.raises(BadScript):
                await kept.active(1, 1)

    async def test_a_large_one_is_compiled_in_a_thread(self, watched: Watched) -> None:
        kept = Kept()
        kept.accounts.put(1, "main", script(AT_ONCE + 1))
        await kept.active(1, 1)
        assert watched.calls[0][:2] == (False, False)

    async def test_room_for_some(self, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sora.services.filters.scripts.KEPT_BYTES", 3 * AT_ONCE)
        kept = Kept()
        for account_id in (1, 2):
            kept.accounts.put(account_id, "main", script(AT_ONCE + account_id))
            await kept.active(account_id, 1)
        await kept.active(1, 1)
        kept.accounts.put(3, "main", script(AT_ONCE + 3))
        await kept.active(3, 1)
        assert len(watched.calls) == 3
        await kept.active(1, 1)
        assert len(watched.calls) == 3, "it was used lately"
        await kept.active(2, 1)
        assert len(watched.calls) == 4, "it made room"

    async def test_one_that_is_larger_than_the_room_is_kept_alone(
        self, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sora.services.filters.scripts.KEPT_BYTES", 10)
        kept = Kept()
        kept.accounts.put(1, "main", script(100))
        for _ in range(3):
            await kept.active(1, 1)
        assert len(watched.calls) == 1
