"""Guessing passwords: how often, how fast, and when it ends for a while.

Failures are counted for an account at one client address, and for the address as a whole; never for an account alone,
so that nobody can lock somebody else out. Each failure makes the next attempt wait longer, and one too many blocks for
a while. Rules:

- What was too much before a password is verified is asked for again afterwards: attempts that run side by side get no
  further than attempts in a row.
- A blocked attempt is refused unseen, with the text of a wrong password, and does not make the block longer.
- Accounts that do not exist are counted like those that do.
- An attempt that waits costs memory, so few may: what comes above that is refused at once, and is no failure.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from sora import log, metrics
from sora.errors import AuthFailed
from sora.services.logins.failures import Failures, key_of
from sora.services.logins.limits import Limits
from sora.tables import LimitsTable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sora.store.blocks import Scope

_log = log.get(__name__)

FIRST_DELAY_S: Final = 0.5
STEPS: Final = 10
"""So many times a delay could double on the way to a block."""


class Blocked(AuthFailed):
    """Refused without a look at the password."""


class Guesses:
    """Failed logins, and what they cost the next attempt.

    Attributes:
        limits: Knows which addresses are one, and which are exempt.
        table: The figures.
        on_block: Called with scope, site, login and seconds when a block begins.

    Args:
        failures: Counts; None: of this process alone.
        clock: Monotonic seconds, the same for all processes.
        sleep: Like `asyncio.sleep`.
    """

    def __init__(
        self,
        failures: Failures | None = None,
        *,
        limits: Limits | None = None,
        table: LimitsTable | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.limits = limits or Limits()
        self.table = table or LimitsTable()
        self.on_block: Callable[[Scope, str, str, float], None] = lambda *_: None
        self._failures = failures or Failures()
        self._clock = clock
        self._sleep = sleep
        self._waiting: dict[str, int] = {}

    def attempt(self, peer: str, account: Callable[[], str]) -> _Attempt:
        """The verification of a password goes inside, with `async with`.

        Args:
            peer: Address of the client, the forwarded one behind a proxy.
            account: Gives the one form in which the login is looked up.
        """
        site = self.limits.site(peer)
        return _Attempt(self, None if site is None else _Keys(site, account()))

    async def begin(self, keys: _Keys) -> None:
        """Wait as long as the failures so far cost.

        Raises:
            Blocked: Too many failures, before or meanwhile.
        """
        delay_s = self._refuse_blocked(keys)
        if delay_s:
            await self._delay(keys, delay_s)
            self._refuse_blocked(keys)

    def succeed(self, keys: _Keys) -> None:
        """The password was right.

        Raises:
            Blocked: Attempts at its side were too many.
        """
        self._refuse_blocked(keys)
        self._failures.clear(keys.account)

    def fail(self, keys: _Keys) -> None:
        """Count a wrong password."""
        now, block_s = self._clock(), self.table.login_block
        for scope, key, limit in self._counted(keys):
            if self._failures.add(key, now, self._leak(limit), limit=limit, block_s=block_s):
                self.on_block(scope, keys.site, keys.login if scope == "account" else "", block_s)
                metrics.login_blocks.labels(scope).inc()
                _log.warning("logins blocked", extra={"scope": scope, "site": keys.site, "blocked_s": block_s})

    async def _delay(self, keys: _Keys, delay_s: float) -> None:
        waiting = self._waiting.get(keys.site, 0)
        if waiting >= self.table.delayed_logins_per_address or sum(self._waiting.values()) >= self.table.delayed_logins:
            raise Blocked(detail="too many delayed logins")
        self._waiting[keys.site] = waiting + 1
        try:
            await self._sleep(delay_s)
        finally:
            self._waiting[keys.site] -= 1
            if not self._waiting[keys.site]:
                del self._waiting[keys.site]

    def _refuse_blocked(self, keys: _Keys) -> float:
        """The delay that is due.

        Raises:
            Blocked: It is too late for that.
        """
        now, fullest = self._clock(), 0.0
        for scope, key, limit in self._counted(keys):
            standing = self._failures.standing(key, now, self._leak(limit))
            if standing.blocked_s:
                raise Blocked(detail=f"{scope} blocked for {standing.blocked_s:.0f} s")
            fullest = max(fullest, standing.level / limit)
        doublings = round(fullest * STEPS) - 1
        return min(self.table.login_delay, FIRST_DELAY_S * 2.0**doublings) if doublings >= 0 else 0.0

    def _counted(self, keys: _Keys) -> Iterator[tuple[Scope, str, int]]:
        """Scope, key and limit of what is counted."""
        if self.table.login_failures_per_account:
            yield "account", keys.account, self.table.login_failures_per_account
        if self.table.login_failures_per_address:
            yield "address", keys.address, self.table.login_failures_per_address

    def _leak(self, limit: int) -> float:
        return limit / max(1.0, self.table.login_failure_window)


class _Keys:
    """What one attempt is counted under.

    Attributes:
        site: The client's address or network.
        login: In canonical form.
        account: Key of the login at this address.
        address: Key of the address.
    """

    __slots__ = ("account", "address", "login", "site")

    def __init__(self, site: str, login: str) -> None:
        self.site = site
        self.login = login
        self.account = key_of(site, login)
        self.address = key_of(site)


class _Attempt:
    """Around the verification of one password; it counts as a failure if that raises `AuthFailed`.

    Attributes:
        keys: None: the client is exempt.
    """

    __slots__ = ("_guesses", "keys")

    def __init__(self, guesses: Guesses, keys: _Keys | None) -> None:
        self._guesses = guesses
        self.keys = keys

    async def __aenter__(self) -> None:
        if self.keys is not None:
            await self._guesses.begin(self.keys)

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self.keys is None:
            return
        if error is None:
            self._guesses.succeed(self.keys)
        elif isinstance(error, AuthFailed):
            self._guesses.fail(self.keys)
