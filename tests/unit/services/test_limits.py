"""Connection slots: one step to take, once to give back, and correct over dead processes."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sora.errors import LimitExceeded
from sora.services.logins.limits import Limits, LocalCounts, SharedCounts
from sora.types import AccountId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=["local", "shared"])
def counts(request: pytest.FixtureRequest) -> Iterator[LocalCounts | SharedCounts]:
    if request.param == "local":
        yield LocalCounts()
        return
    shared = SharedCounts(buckets=8, columns=4)
    shared.attach()
    yield shared
    shared.close()


def test_the_limit_is_the_number_that_gets_in(counts: LocalCounts | SharedCounts) -> None:
    limits = Limits(per_address=3, counts=counts)
    slots = [limits.connect("192.0.2.1") for _ in range(3)]
    with pytest.raises(LimitExceeded, match="your address"):
        limits.connect("192.0.2.1")
    limits.connect("192.0.2.2")
    slots[0].release()
    limits.connect("192.0.2.1")


def test_release_counts_once(counts: LocalCounts | SharedCounts) -> None:
    limits = Limits(per_address=2, counts=counts)
    first = limits.connect("192.0.2.1")
    second = limits.connect("192.0.2.1")
    first.release()
    first.release()
    limits.connect("192.0.2.1")
    with pytest.raises(LimitExceeded):
        limits.connect("192.0.2.1")
    second.release()


def test_slot_is_a_context_manager_that_releases_on_errors(counts: LocalCounts | SharedCounts) -> None:
    limits = Limits(per_account=1, counts=counts)
    with pytest.raises(ZeroDivisionError), limits.login(AccountId(7)):
        _ = 1 / 0
    limits.login(AccountId(7))


def test_accounts_and_addresses_are_counted_apart(counts: LocalCounts | SharedCounts) -> None:
    limits = Limits(per_address=1, per_account=1, counts=counts)
    limits.connect("192.0.2.1")
    limits.login(AccountId(1))
    limits.login(AccountId(2))
    with pytest.raises(LimitExceeded, match="this account"):
        limits.login(AccountId(1))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.9.9.9", "unix", "", "fe80::1%eth0"])
def test_exempt_addresses_are_not_counted(address: str) -> None:
    limits = Limits(per_address=1, exempt_networks=["127.0.0.0/8", "::1/128", "fe80::/10"])
    for _ in range(5):
        limits.connect(address)


def test_zero_means_unlimited() -> None:
    limits = Limits(per_address=0, per_account=0)
    for _ in range(5):
        limits.connect("192.0.2.1")
        limits.login(AccountId(1))


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, together: bool) -> None:
    limits = Limits(per_address=1)
    limits.connect(one)
    if together:
        with pytest.raises(LimitExceeded):
            limits.connect(other)
    else:
        limits.connect(other)


def test_is_exempt_needs_an_address() -> None:
    limits = Limits(exempt_networks=["10.0.0.0/8"])
    assert limits.is_exempt("10.1.2.3")
    assert not limits.is_exempt("11.1.2.3")
    assert not limits.is_exempt("unix")


def test_new_limits_hold_for_the_next_connection_and_old_slots_still_count() -> None:
    counts = LocalCounts()
    first = Limits(per_address=1, counts=counts).connect("192.0.2.1")
    limits = Limits(per_address=2, exempt_networks=["198.51.100.0/24"], counts=counts)
    limits.connect("192.0.2.1")
    with pytest.raises(LimitExceeded):
        limits.connect("192.0.2.1")
    first.release()
    limits.connect("192.0.2.1")


def test_an_empty_key_costs_no_memory() -> None:
    counts = LocalCounts()
    limits = Limits(counts=counts)
    slots = [limits.connect(f"192.0.2.{i}") for i in range(100)]
    assert len(counts) == 100
    for slot in slots:
        slot.release()
    assert len(counts) == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=80), st.integers(1, 4))
def test_shared_counts_equal_local_counts(steps: list[tuple[str, bool]], limit: int) -> None:
    shared, local = SharedCounts(buckets=2, columns=2), LocalCounts()
    shared.attach()
    held: list[str] = []
    for key, take in steps:
        if take:
            taken = local.add(key, limit)
            assert shared.add(key, limit) == taken
            held += [key] if taken else []
        elif key in held:
            held.remove(key)
            local.remove(key)
            shared.remove(key)
    shared.close()


def test_a_full_bucket_lets_in() -> None:
    shared = SharedCounts(buckets=1, columns=1)
    shared.attach()
    keys = [str(i) for i in range(SharedCounts.BUCKET_ROWS + 1)]
    assert all(shared.add(key, 1) for key in keys)
    assert shared.add(keys[-1], 1)
    assert not shared.add(keys[0], 1)
    shared.remove(keys[-1])
    shared.remove(keys[-1])
    for key in keys[:-1]:
        shared.remove(key)
    assert all(shared.add(key, 1) for key in keys[:-1])
    shared.close()


def _in_child(job: Callable[[], None]) -> tuple[int, int]:
    """Run *job* in a forked process that then waits; gives its pid and a pipe that ends the wait when closed."""
    ready_read, ready_write = os.pipe()
    end_read, end_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(end_write)
            job()
            os.write(ready_write, b"+")
            os.read(end_read, 1)
        finally:
            os._exit(0)
    os.close(ready_write)
    os.close(end_read)
    assert os.read(ready_read, 1) == b"+"
    os.close(ready_read)
    return pid, end_write


def test_processes_share_one_limit_and_the_dead_hold_nothing() -> None:
    shared = SharedCounts(buckets=8, columns=3)

    def child() -> None:
        shared.attach()
        assert shared.add("k", 3)
        assert shared.add("k", 3)

    pid, end = _in_child(child)
    shared.attach()
    assert shared.add("k", 3)
    assert not shared.add("k", 3)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(end)
    assert shared.add("k", 3)
    assert shared.add("k", 3)
    assert not shared.add("k", 3)
    shared.close()


def test_a_column_is_taken_over_empty_and_their_number_is_bounded() -> None:
    shared = SharedCounts(buckets=8, columns=2)
    first, end_first = _in_child(lambda: (shared.attach(), shared.add("k", 9), None)[2])
    second, end_second = _in_child(shared.attach)
    with pytest.raises(LimitExceeded):
        shared.attach()
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    shared.attach()
    assert shared.add("k", 1)
    for end in (end_first, end_second):
        os.close(end)
    os.waitpid(second, 0)
    shared.close()


def test_a_successor_goes_on_with_the_same_numbers() -> None:
    first = SharedCounts(buckets=8, columns=3)
    first.attach()
    assert first.add("key", 1)
    handed = first.hand_over()
    second = SharedCounts(handed=replace(handed, fd=os.dup(handed.fd)))
    assert not _told_by_child(lambda: _attached_add(second, "key", 1))
    first.remove("key")
    assert _told_by_child(lambda: _attached_add(second, "key", 1))
    first.close()
    second.close()


def _attached_add(shared: SharedCounts, key: str, limit: int) -> bool:
    shared.attach()
    return shared.add(key, limit)


def _told_by_child(ask: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ask() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
