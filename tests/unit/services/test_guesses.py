"""Guessing passwords: delays, blocks, who is exempt, and who is not hurt."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from sora.errors import AuthFailed, DatabaseDown
from sora.services.logins import passwords
from sora.services.logins.auth import Auth
from sora.services.logins.failures import Failures
from sora.services.logins.guesses import Blocked, Guesses
from sora.services.logins.limits import Limits
from sora.services.logins.passwords import HashCost
from sora.store.accounts import Login, LoginCredential
from sora.tables import LimitsTable
from sora.types import AccountId

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = "192.0.2.1"
THERE = "198.51.100.1"


class World:
    """Guesses whose time passes by sleeping alone."""

    def __init__(self, failures: Failures | None = None, **figures: float) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        table = LimitsTable(**figures)  # type: ignore[arg-type]
        self.guesses = Guesses(
            failures or Failures(),
            limits=Limits(exempt_networks=["10.0.0.0/8"]),
            table=table,
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def try_once(self, right: bool, peer: str = HERE, account: str = "ann@example.com") -> None:
        async with self.guesses.attempt(peer, lambda: account):
            if not right:
                raise AuthFailed

    async def fail(self, times: int = 1, peer: str = HERE, accounts: Iterable[str] = ("ann@example.com",)) -> None:
        names = list(accounts)
        for i in range(times):
            with pytest.raises(AuthFailed) as failure:
                await self.try_once(False, peer, names[i % len(names)])
            assert not isinstance(failure.value, Blocked)


async def test_delays_double_up_to_the_longest() -> None:
    world = World()
    await world.fail(9)
    assert world.slept == [0.5, 1, 2, 4, 8, 8, 8, 8]


async def test_a_right_password_is_delayed_too_and_forgets_the_failures() -> None:
    world = World()
    await world.fail(2)
    await world.try_once(True)
    assert world.slept == [0.5, 1]
    await world.try_once(True)
    await world.fail(1)
    assert len(world.slept) == 2


async def test_the_tenth_failure_blocks_the_account_here_and_only_here() -> None:
    world = World()
    await world.fail(10)
    naps = len(world.slept)
    with pytest.raises(Blocked) as failure:
        await world.try_once(True)
    assert failure.value.text == AuthFailed().text
    assert len(world.slept) == naps
    await world.try_once(True, peer=THERE)
    await world.try_once(True, account="bob@example.com")


async def test_a_block_ends_by_itself_however_often_it_was_tried() -> None:
    world = World(login_block=600.0)
    await world.fail(10)
    for _ in range(20):
        world.now += 29.9
        with pytest.raises(Blocked):
            await world.try_once(False)
    world.now += 2.1
    await world.try_once(True)


async def test_failures_are_forgotten_with_time() -> None:
    world = World(login_failure_window=900.0)
    for _ in range(30):
        await world.fail(1)
        world.now += 90
    await world.try_once(True)


async def test_spraying_over_many_accounts_is_delayed_and_blocks_the_address() -> None:
    world = World(login_failures_per_address=20, login_failure_window=10.0**9)
    await world.fail(20, accounts=[f"user{i}@example.com" for i in range(20)])
    assert world.slept[0] == 0.5
    assert max(world.slept) == 8
    with pytest.raises(Blocked):
        await world.try_once(True, account="somebody.else@example.com")
    await world.try_once(True, peer=THERE)


async def test_a_success_does_not_wash_the_address() -> None:
    world = World(login_failures_per_address=6, login_failures_per_account=0, login_failure_window=10.0**9)
    for i in range(6):
        await world.fail(1, accounts=[f"user{i}@example.com"])
        if i < 5:
            await world.try_once(True, account="mallory@example.com")
    with pytest.raises(Blocked):
        await world.try_once(True, account="mallory@example.com")


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3", "unix", ""])
async def test_exempt_peers_are_neither_delayed_nor_blocked(peer: str) -> None:
    world = World()
    await world.fail(50, peer=peer)
    await world.try_once(True, peer=peer)
    assert world.slept == []


async def test_zero_turns_a_count_off() -> None:
    world = World(login_failures_per_account=0, login_failures_per_address=0)
    await world.fail(300)
    assert world.slept == []


async def test_a_customer_s_ipv6_network_is_one_address() -> None:
    world = World()
    for i in range(10):
        await world.fail(1, peer=f"2001:db8::{i}")
    with pytest.raises(Blocked):
        await world.try_once(True, peer="2001:db8::ffff")
    await world.try_once(True, peer="2001:db8:0:1::1")


async def test_only_wrong_passwords_count() -> None:
    world = World(login_failures_per_account=1)
    for _ in range(5):
        with pytest.raises(DatabaseDown):
            async with world.guesses.attempt(HERE, lambda: "ann@example.com"):
                raise DatabaseDown
    await world.try_once(True)


async def test_a_right_guess_behind_too_many_wrong_ones_side_by_side_is_refused() -> None:
    world = World(login_failures_per_account=3)
    gate = asyncio.Event()

    async def guess(right: bool) -> None:
        async with world.guesses.attempt(HERE, lambda: "ann@example.com"):
            await gate.wait()
            if not right:
                raise AuthFailed

    guesses = [asyncio.create_task(guess(right)) for right in (False, False, False, True)]
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*guesses, return_exceptions=True)
    assert isinstance(results[3], Blocked)
    assert world.slept == []


async def test_few_may_wait_and_the_others_are_refused_without_counting() -> None:
    world = World(delayed_logins_per_address=2, delayed_logins=3)
    for peer in (HERE, THERE):
        await world.fail(1, peer=peer)
    gate, sleeping = asyncio.Event(), 0

    async def sleep(seconds: float) -> None:
        nonlocal sleeping
        sleeping += 1
        await gate.wait()

    world.guesses._sleep = sleep
    waiting = [asyncio.create_task(world.try_once(True)) for _ in range(2)]
    waiting.append(asyncio.create_task(world.try_once(True, THERE)))
    await asyncio.sleep(0)
    assert sleeping == 3
    for peer in (HERE, THERE):
        with pytest.raises(Blocked):
            await world.try_once(True, peer)
    waiting[0].cancel()
    await asyncio.sleep(0)
    again = asyncio.create_task(world.try_once(True))
    await asyncio.sleep(0)
    assert sleeping == 4
    gate.set()
    await asyncio.gather(*waiting[1:], again)
    assert world.guesses._waiting == {}


async def test_whoever_waited_into_a_block_is_refused() -> None:
    world = World(login_failures_per_account=2)
    await world.fail(1)
    gate = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await gate.wait()

    world.guesses._sleep = sleep
    waiting = asyncio.create_task(world.try_once(True))
    await asyncio.sleep(0)
    world.guesses._failures.add(f"{HERE} ann@example.com", world.now, 0.0, limit=2, block_s=60.0)
    gate.set()
    with pytest.raises(Blocked):
        await waiting


async def test_the_figures_may_change_at_any_time() -> None:
    world = World()
    await world.fail(3)
    world.guesses.table = LimitsTable(login_delay=0.25)
    await world.fail(1)
    assert world.slept[-1] == 0.25
    world.guesses.limits = Limits(exempt_networks=["192.0.2.0/24"])
    await world.fail(20)
    assert len(world.slept) == 3


async def test_the_beginning_of_a_block_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with caplog.at_level(logging.INFO, "sora.services.logins.guesses"):
        await world.fail(10)
        with pytest.raises(Blocked):
            await world.try_once(True)
    assert [(r.getMessage(), r.scope, r.site) for r in caplog.records] == [  # type: ignore[attr-defined]
        ("logins blocked", "account", HERE)
    ]


async def test_the_beginning_of_a_block_is_told() -> None:
    world = World(login_failures_per_account=3, login_failures_per_address=4, login_block=60.0)
    told: list[tuple[str, str, str, float]] = []
    world.guesses.on_block = lambda *block: told.append(block)
    await world.fail(3, peer="2001:db8::1")
    await world.fail(1, peer="2001:db8::2", accounts=["bob@example.com"])
    assert told == [
        ("account", "2001:db8::/64", "ann@example.com", 60.0),
        ("address", "2001:db8::/64", "", 60.0),
    ]


class OneAccount:
    """Ann, and nobody else."""

    hash = passwords.hash_password("right", HashCost(memory_kib=64, passes=1))

    async def find_login(self, login: str) -> Login | None:
        credentials = (LoginCredential(1, self.hash),)
        return Login(AccountId(1), login, 1, credentials) if login == "ann@example.com" else None

    async def get_login_version(self, account_id: AccountId, credential_id: int) -> int | None:
        return 1

    async def upgrade_hash(self, credential_id: int, old: str, new: str) -> None:
        raise AssertionError("nothing to upgrade")


def auth_of(world: World) -> Auth:
    cost = HashCost(memory_kib=64, passes=1)
    return Auth(OneAccount(), default_domain="example.com", cost=cost, guesses=world.guesses, clock=lambda: world.now)


SPELLINGS = ["ann@example.com", "ANN@example.com", "Ann", "ann@EXAMPLE.com", " ann@example.com "]


async def test_every_spelling_and_every_protocol_counts_as_one() -> None:
    world = World(login_failures_per_account=5)
    auth = auth_of(world)
    for name, protocol in zip(SPELLINGS, ("imap", "pop3", "managesieve", "imap", "pop3"), strict=True):
        with pytest.raises(AuthFailed, match="wrong password"):
            await auth.login(name, "wrong", peer=HERE, protocol=protocol)
    for name in SPELLINGS:
        with pytest.raises(Blocked, match="account blocked"):
            await auth.login(name, "right", peer=HERE, protocol="pop3")
    assert (await auth.login("ann", "right", peer=THERE, protocol="imap")).account_id == 1
    await auth.close()


async def test_a_detail_is_another_login_and_opens_nothing() -> None:
    world = World(login_failures_per_account=5, login_failures_per_address=8)
    auth = auth_of(world)
    for i in range(8):
        with pytest.raises(AuthFailed):
            await auth.login(f"ann+{i}@example.com", "right", peer=HERE, protocol="imap")
    with pytest.raises(Blocked, match="address blocked"):
        await auth.login("ann@example.com", "right", peer=HERE, protocol="imap")
    await auth.close()


@pytest.mark.parametrize("name", ["nobody@example.com", "", "@", "\udc80", "x" * 400 + "@example.com"])
async def test_whoever_does_not_exist_is_delayed_and_blocked_like_the_others(name: str) -> None:
    worlds = World(login_failures_per_account=4), World(login_failures_per_account=4)
    for world, login in zip(worlds, (name, "ann@example.com"), strict=True):
        auth = auth_of(world)
        for _ in range(4):
            with pytest.raises(AuthFailed):
                await auth.login(login, "wrong", peer=HERE, protocol="imap")
        with pytest.raises(Blocked):
            await auth.login(login, "right", peer=HERE, protocol="imap")
        await auth.close()
    assert worlds[0].slept == worlds[1].slept != []


async def test_names_that_cannot_be_count_as_one() -> None:
    world = World(login_failures_per_account=3)
    auth = auth_of(world)
    for name in ("@", "\udc80", "a b@c"):
        with pytest.raises(AuthFailed):
            await auth.login(name, "wrong", peer=HERE, protocol="imap")
    with pytest.raises(Blocked):
        await auth.login("a@b@c", "wrong", peer=HERE, protocol="imap")
    await auth.close()


async def test_a_remembered_login_is_refused_while_it_is_blocked() -> None:
    """Or a success would tell a guesser which password is the right one."""
    world = World(login_failures_per_account=3)
    auth = auth_of(world)
    await auth.login("ann", "right", peer=HERE, protocol="imap")
    for _ in range(3):
        with pytest.raises(AuthFailed):
            await auth.login("ann", "wrong", peer=HERE, protocol="imap")
    with pytest.raises(Blocked):
        await auth.login("ann", "right", peer=HERE, protocol="imap")
    await auth.close()


async def test_the_workers_of_a_node_count_together() -> None:
    failures = Failures()
    one, two = World(failures), World(failures)
    await one.fail(5)
    await two.fail(5)
    with pytest.raises(Blocked):
        await one.try_once(True)
