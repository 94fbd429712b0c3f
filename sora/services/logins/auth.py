"""Logins: who is this, and may they in.

A login costs one query and one argon2id computation the first time, and nothing for the next minute, on any process of
the node: what was verified is remembered (`Remembered`) under a keyed hash of name and password, together with the
version of the account's credentials. Rules:

- No verdict is kept about a wrong password, and no password: the key of the hash lives and dies with the processes.
- A remembered login is asked about again when it is `cache_ttl` seconds old, with one cheap query. A changed, removed,
  expired or disabled credential ends it there; a login with the new password ends it at once.
- Hashing happens in a few threads with a bounded queue. When the queue is full the answer is "try again", and upgrades
  of old hashes are left for a quieter time: a crowd that reconnects must not make itself slower.
- Equal logins that arrive together are one query and one computation.
- Unknown, disabled and deleted accounts cost the same computation and get the same answer as a wrong password.
- Failures are counted for all protocols together, and make the next attempts slow and then impossible (`Guesses`).
"""

from __future__ import annotations

import asyncio
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from sora import log, metrics
from sora.errors import AuthFailed, Busy, InvalidName, Refused, Unavailable
from sora.services.logins import passwords
from sora.services.logins.guesses import Blocked, Guesses
from sora.services.logins.remembered import Remembered, Verified
from sora.store.addresses import canonical_address, fold_address
from sora.types import AccountId  # noqa: TC001 — msgspec reads the annotation at run time

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import Counter

    from sora.store.accounts import Login

_LOGGED_CHARACTERS: Final = 320
_T = TypeVar("_T")
_log = log.get(__name__)


@functools.cache
def _count(protocol: str, result: str) -> Counter:
    """`labels` of a metric costs more than counting, so each child is looked up once."""
    return metrics.logins.labels(protocol=protocol, result=result)


class Identity(Struct, frozen=True):
    """Who logged in.

    Attributes:
        address: the account's primary address, whatever alias the client typed.
    """

    account_id: AccountId
    address: str


class Accounts(Protocol):
    """What is asked of `store.accounts`."""

    async def find_login(self, login: str) -> Login | None: ...
    async def get_login_version(self, account_id: AccountId, credential_id: int) -> int | None: ...
    async def upgrade_hash(self, credential_id: int, old: str, new: str) -> None: ...


class Auth:
    """Verifies passwords for all protocols of a process.

    Args:
        accounts: the repository.
        default_domain: a bare `user1` logs in as `user1@default_domain`; empty: bare names are unknown.
        cost: of new hashes; a hash made with another cost is replaced at login.
        hash_workers: threads that hash.
        max_queue: computations that may wait or run before logins are put off.
        cache_ttl: seconds before a remembered login is asked about again.
        remembered: shared with the other processes of the node; None: of this one alone.
        guesses: counts failures; None: with figures that do not change.
        clock: monotonic seconds, those of `remembered`.
    """

    def __init__(
        self,
        accounts: Accounts,
        *,
        default_domain: str = "",
        cost: passwords.HashCost | None = None,
        hash_workers: int = 2,
        max_queue: int = 128,
        cache_ttl: float = 60.0,
        remembered: Remembered | None = None,
        guesses: Guesses | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = accounts
        self._default_domain = default_domain.lower()
        self._cost = cost or passwords.HashCost()
        self._threads = ThreadPoolExecutor(hash_workers, thread_name_prefix="sora-hash")
        self._max_queue = max_queue
        self._jobs = 0
        self._ttl = cache_ttl
        self._remembered = remembered or Remembered(clock=clock)
        self._guesses = guesses or Guesses(clock=clock)
        self._clock = clock
        self._flights: dict[bytes, asyncio.Task[Identity]] = {}
        self._upgrades: set[asyncio.Task[None]] = set()

    async def login(self, login: str, password: str, *, peer: str, protocol: str) -> Identity:
        """Verify a password.

        Args:
            login: an address of the account, primary or alias, in any case; or a bare name.
            peer: address of the client, for the log.
            protocol: name of the server, for log and metrics.

        Raises:
            AuthFailed: one text, whatever the reason.
            Unavailable: PostgreSQL is away, or too many passwords wait to be hashed (`Busy`).
        """
        try:
            async with self._guesses.attempt(peer, lambda: _counted_login(login, self._default_domain)):
                identity = await self._login(login, password)
        except AuthFailed as error:
            _count(protocol, "blocked" if isinstance(error, Blocked) else "refused").inc()
            _log.info(
                "login refused", extra={"login": login[:_LOGGED_CHARACTERS], "peer": peer, "detail": error.detail}
            )
            raise
        except Unavailable:
            _count(protocol, "unavailable").inc()
            raise
        _count(protocol, "ok").inc()
        return identity

    def end(self, account_id: AccountId) -> None:
        """Remember no login of an account any more."""
        self._remembered.end(account_id)

    async def close(self) -> None:
        """Let running computations finish and end the threads."""
        if self._upgrades:
            await asyncio.wait(self._upgrades)
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)

    async def _login(self, login: str, password: str) -> Identity:
        try:
            name = canonical_login(login, self._default_domain)
            secret = passwords.canonical_password(password)
        except InvalidName as error:
            await self._hash(functools.partial(passwords.find_match, b"-", (), self._cost))
            raise AuthFailed(detail=error.text) from None
        key = self._remembered.key(name, secret)
        if (identity := await self._recall(key)) is not None:
            return identity
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._verify(key, name, secret))
            self._flights[key] = flight
            flight.add_done_callback(functools.partial(self._landed, key))
        return await asyncio.shield(flight)  # one impatient client must not end the login of another

    def _landed(self, key: bytes, flight: asyncio.Task[Identity]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # its waiters may all have gone

    async def _recall(self, key: bytes) -> Identity | None:
        """A remembered login that still holds."""
        known = self._remembered.find(key)
        if known is None:
            return None
        now = self._clock()
        if now - known.checked_mono < self._ttl:
            version = self._remembered.version(known.account_id)
        else:
            version = await self._accounts.get_login_version(known.account_id, known.credential_id)
            if version == known.version:
                self._remembered.keep(key, replace(known, checked_mono=now))
        if version != known.version:
            self._remembered.drop(key)
            return None
        return Identity(known.account_id, known.address)

    async def _verify(self, key: bytes, name: str, secret: bytes) -> Identity:
        now = self._clock()
        found = await self._accounts.find_login(name)
        hashes = [credential.hash for credential in found.credentials] if found else []
        match = await self._hash(functools.partial(passwords.find_match, secret, hashes, self._cost))
        if found is None or match is None:
            raise AuthFailed(detail="wrong password" if found else "no such active account")
        identity = Identity(found.account_id, found.address)
        credential_id = found.credentials[match].credential_id
        self._remembered.keep(key, Verified(found.account_id, found.address, credential_id, found.version, now))
        if passwords.needs_upgrade(hashes[match], self._cost):
            self._start_upgrade(credential_id, hashes[match], secret)
        return identity

    async def _hash(self, job: Callable[[], _T]) -> _T:
        if self._jobs >= self._max_queue:
            raise Busy("Too many logins at once, try again later", detail=f"{self._jobs} password hashes are waiting")
        self._jobs += 1
        try:
            metrics.password_hashes.inc()
            return await asyncio.get_running_loop().run_in_executor(self._threads, job)
        finally:
            self._jobs -= 1

    def _start_upgrade(self, credential_id: int, old: str, secret: bytes) -> None:
        if self._jobs:
            return  # somebody waits for a login; the next quiet one upgrades
        task = asyncio.create_task(self._upgrade(credential_id, old, secret))
        self._upgrades.add(task)
        task.add_done_callback(self._upgrades.discard)

    async def _upgrade(self, credential_id: int, old: str, secret: bytes) -> None:
        try:
            new = await self._hash(functools.partial(passwords.hash_password, secret.decode(), self._cost))
            await self._accounts.upgrade_hash(credential_id, old, new)
        except (Unavailable, Refused) as error:
            _log.warning("password hash not upgraded", extra={"credential_id": credential_id, "detail": str(error)})


@functools.lru_cache(maxsize=4096)
def canonical_login(login: str, default_domain: str) -> str:
    """The one form in which a login is looked up, cached and counted.

    Raises:
        InvalidName: it cannot be an address, or is a bare name without a default domain.
    """
    name = fold_address(login)
    if "@" not in name and default_domain:
        name = f"{name}@{default_domain}"
    return canonical_address(name)


def _counted_login(login: str, default_domain: str) -> str:
    """What failures of a login are counted under: its canonical form, and one form for all that have none."""
    try:
        return canonical_login(login, default_domain)
    except InvalidName:
        return ""
