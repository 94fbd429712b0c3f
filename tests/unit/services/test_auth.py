"""Logins: what is remembered, for how long, and what a crowd costs."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sora.errors import AuthFailed, Busy, DatabaseDown, InvalidName, Unavailable
from sora.services.logins import passwords
from sora.services.logins.auth import Auth, canonical_login
from sora.services.logins.passwords import HashCost
from sora.services.logins.remembered import Remembered
from sora.store.accounts import Login, LoginCredential
from sora.types import AccountId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHEAP = HashCost(memory_kib=64, passes=1)


class FakeAccounts:
    """Logins by address, counting the queries; `down` breaks them."""

    def __init__(self) -> None:
        self.logins: dict[str, Login] = {}
        self.queries: list[str] = []
        self.upgraded: list[tuple[int, str, str]] = []
        self.down = False

    def put(self, address: str, account_id: int, version: int, *hashes: str) -> None:
        credentials = tuple(LoginCredential(i, text) for i, text in enumerate(hashes, 10))
        self.logins[address] = Login(AccountId(account_id), address, version, credentials)

    def _ask(self, what: str) -> None:
        self.queries.append(what)
        if self.down:
            raise DatabaseDown

    async def find_login(self, login: str) -> Login | None:
        self._ask(f"find {login}")
        return self.logins.get(login)

    async def get_login_version(self, account_id: AccountId, credential_id: int) -> int | None:
        self._ask(f"version {account_id} {credential_id}")
        for found in self.logins.values():
            if found.account_id == account_id and any(c.credential_id == credential_id for c in found.credentials):
                return found.version
        return None

    async def upgrade_hash(self, credential_id: int, old: str, new: str) -> None:
        self._ask(f"upgrade {credential_id}")
        self.upgraded.append((credential_id, old, new))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def accounts() -> FakeAccounts:
    fake = FakeAccounts()
    fake.put("ann@example.com", 1, 5, passwords.hash_password("right", CHEAP))
    return fake


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def auth(accounts: FakeAccounts, clock: Clock) -> AsyncIterator[Auth]:
    service = Auth(accounts, default_domain="Example.com", cost=CHEAP, clock=clock, max_queue=4)
    yield service
    await service.close()


async def login(auth: Auth, name: str = "ann@example.com", password: str = "right") -> tuple[int, str]:
    found = await auth.login(name, password, peer="192.0.2.1", protocol="imap")
    return found.account_id, found.address


def count_hashes(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    threads: list[threading.Thread] = []
    original = passwords.find_match

    def find_match(*args: Any) -> int | None:
        threads.append(threading.current_thread())
        return original(*args)

    monkeypatch.setattr(passwords, "find_match", find_match)
    return threads


async def test_the_second_login_costs_nothing(auth: Auth, accounts: FakeAccounts, monkeypatch: Any) -> None:
    hashes = count_hashes(monkeypatch)
    assert await login(auth) == (1, "ann@example.com")
    assert await login(auth) == (1, "ann@example.com")
    assert accounts.queries == ["find ann@example.com"]
    assert len(hashes) == 1
    assert hashes[0] is not threading.main_thread()


@pytest.mark.parametrize("name", ["ann", "ANN", "Ann@EXAMPLE.com", " ann@example.com "])
async def test_every_spelling_of_a_login_is_one(auth: Auth, accounts: FakeAccounts, name: str) -> None:
    await login(auth)
    assert await login(auth, name) == (1, "ann@example.com")
    assert len(accounts.queries) == 1


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ann@example.com", "wrong"),
        ("bob@example.com", "right"),
        ("", "right"),
        ("@", "right"),
        ("ann@example.com", ""),
        ("ann@example.com", "a\0b"),
        ("ann\0@example.com", "right"),
        ("\udc80@example.com", "right"),
        ("a" * 321 + "@example.com", "right"),
        ("ann@example.com", "x" * 2000),
    ],
)
async def test_every_failure_has_one_text_and_costs_one_hash(
    auth: Auth, name: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = count_hashes(monkeypatch)
    with pytest.raises(AuthFailed) as failure:
        await login(auth, name, password)
    assert failure.value.text == "Authentication failed"
    assert len(hashes) == 1


async def test_a_wrong_password_is_never_remembered(auth: Auth, accounts: FakeAccounts) -> None:
    for _ in range(2):
        with pytest.raises(AuthFailed):
            await login(auth, password="wrong")
    assert len(accounts.queries) == 2
    accounts.put("ann@example.com", 1, 6, passwords.hash_password("wrong", CHEAP))
    assert await login(auth, password="wrong") == (1, "ann@example.com")


async def test_revalidation_is_one_cheap_query_a_minute(
    auth: Auth, accounts: FakeAccounts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = count_hashes(monkeypatch)
    await login(auth)
    clock.now += 59.9
    await login(auth)
    clock.now += 0.1
    await login(auth)
    clock.now += 59.9
    await login(auth)
    assert accounts.queries == ["find ann@example.com", "version 1 10"]
    assert len(hashes) == 1


@pytest.mark.parametrize("change", ["password", "disabled"])
async def test_a_changed_or_disabled_credential_ends_at_revalidation(
    auth: Auth, accounts: FakeAccounts, clock: Clock, change: str
) -> None:
    await login(auth)
    if change == "disabled":
        accounts.logins.clear()
    else:
        accounts.put("ann@example.com", 1, 6, passwords.hash_password("new", CHEAP))
    clock.now += 60
    with pytest.raises(AuthFailed):
        await login(auth)
    with pytest.raises(AuthFailed):
        await login(auth)


async def test_a_login_with_the_new_password_ends_the_old_one_at_once(auth: Auth, accounts: FakeAccounts) -> None:
    await login(auth)
    accounts.put("ann@example.com", 1, 6, passwords.hash_password("new", CHEAP))
    await login(auth, password="new")
    with pytest.raises(AuthFailed):
        await login(auth)


async def test_two_passwords_of_one_account_are_remembered_side_by_side(auth: Auth, accounts: FakeAccounts) -> None:
    main, app = passwords.hash_password("main", CHEAP), passwords.hash_app_password("app")
    accounts.put("ann@example.com", 1, 6, main, app)
    for password in ("main", "app", "main", "app"):
        await login(auth, password=password)
    assert len(accounts.queries) == 2


async def test_database_down_is_not_a_wrong_password(auth: Auth, accounts: FakeAccounts, clock: Clock) -> None:
    accounts.down = True
    with pytest.raises(Unavailable):
        await login(auth)
    accounts.down = False
    await login(auth)
    accounts.down = True
    clock.now += 60
    with pytest.raises(Unavailable):
        await login(auth)
    accounts.down = False
    assert await login(auth) == (1, "ann@example.com")


async def test_equal_logins_together_are_one_query_and_one_hash(
    auth: Auth, accounts: FakeAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = count_hashes(monkeypatch)
    found = await asyncio.gather(*(login(auth) for _ in range(20)))
    assert set(found) == {(1, "ann@example.com")}
    assert len(accounts.queries) == 1
    assert len(hashes) == 1


async def test_one_client_that_hangs_up_does_not_end_the_login_of_another(auth: Auth) -> None:
    first = asyncio.create_task(login(auth))
    second = asyncio.create_task(login(auth))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    assert await second == (1, "ann@example.com")
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_full_queue_puts_logins_off(
    auth: Auth, accounts: FakeAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    original = passwords.find_match

    def slow(*args: Any) -> int | None:
        gate.wait(10)
        return original(*args)

    monkeypatch.setattr(passwords, "find_match", slow)
    waiting = [asyncio.create_task(login(auth, f"user{i}@example.com", "x")) for i in range(4)]
    while len(accounts.queries) < 4:
        await asyncio.sleep(0)
    with pytest.raises(Busy):
        await login(auth)
    gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, AuthFailed) for result in results)
    assert await login(auth) == (1, "ann@example.com")


async def test_another_process_knows_what_was_verified(
    accounts: FakeAccounts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = count_hashes(monkeypatch)
    shared = Remembered(clock=clock)
    one, two = (Auth(accounts, cost=CHEAP, remembered=shared, clock=clock) for _ in range(2))
    await login(one)
    assert await login(two) == (1, "ann@example.com")
    assert len(hashes) == 1
    accounts.put("ann@example.com", 1, 6, passwords.hash_password("new", CHEAP))
    await login(one, password="new")
    with pytest.raises(AuthFailed):
        await login(two)
    await one.close()
    await two.close()


async def test_an_old_hash_is_upgraded_after_the_login(accounts: FakeAccounts) -> None:
    auth = Auth(accounts, cost=HashCost(memory_kib=128, passes=1))
    await login(auth)
    await auth.close()
    [(credential_id, old, new)] = accounts.upgraded
    assert credential_id == 10
    assert old == accounts.logins["ann@example.com"].credentials[0].hash
    assert "m=128," in new
    assert passwords.verify(b"right", new)


async def test_a_failed_upgrade_does_not_hurt_the_login(accounts: FakeAccounts, monkeypatch: Any) -> None:
    async def broken(*args: object) -> None:
        raise DatabaseDown

    monkeypatch.setattr(accounts, "upgrade_hash", broken)
    auth = Auth(accounts, cost=HashCost(memory_kib=128, passes=1))
    assert await login(auth) == (1, "ann@example.com")
    await auth.close()


async def test_the_password_is_nowhere_in_the_service(auth: Auth, accounts: FakeAccounts) -> None:
    accounts.put("ann@example.com", 1, 5, passwords.hash_password("rarest-secret", CHEAP))
    await login(auth, password="rarest-secret")
    assert "rarest-secret" not in repr(vars(auth))
    assert b"ann@example.com" in bytes(auth._remembered._memory)
    assert b"rarest-secret" not in bytes(auth._remembered._memory)


@pytest.mark.parametrize(
    ("login_name", "domain", "canonical"),
    [
        ("User1", "example.com", "user1@example.com"),
        ("User1@Other.org", "example.com", "user1@other.org"),
        ("ÄPFEL@example.com", "", "äpfel@example.com"),
    ],
)
def test_canonical_login(login_name: str, domain: str, canonical: str) -> None:
    assert canonical_login(login_name, domain) == canonical


@pytest.mark.parametrize("bad", ["", "user1", "@", "a@", "@b", "a\n@b", "a\x7f@b", "a@b@c"])
def test_logins_that_cannot_be(bad: str) -> None:
    with pytest.raises(InvalidName):
        canonical_login(bad, "")
