"""Who is behind a forward-path, asked at RCPT.

Who was found is remembered for a few seconds, because mail comes in bursts and the answer is only a forecast: the
delivering transaction decides. It refuses an account or mailbox that is gone by then; an account that is disabled or an
alias that is moved meanwhile may get what was on its way for as long as `REMEMBERED_S`. Not remembered are refusals,
and accounts with a quota: their room changes with every message.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import NotFound, OverQuota, SoraError
from sora.types import AccountId, MailboxId  # noqa: TC001 — msgspec reads the annotations at run time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sora.store import accounts
    from sora.store.store import Store
    from sora.wire import lmtp

REMEMBERED_S: Final = 5.0
MAX_REMEMBERED: Final = 10_000
"""Addresses; when there are more, all are asked for again."""


class Recipient(Struct, frozen=True):
    """Whom a forward-path reaches.

    Attributes:
        text: The path as the client wrote it.
        address: The account's primary address, for Delivered-To.
        mailbox_id: None: INBOX, looked up in the delivering transaction, because RENAME may swap it.
        forward: What a proxy handed on for this recipient, names and values.
        script: Another number after every change of the account's Sieve scripts; 0: none is active.
    """

    text: str
    account_id: AccountId
    address: str
    mailbox_id: MailboxId | None = None
    forward: tuple[tuple[str, str], ...] = ()
    script: int = 0


class Recipients:
    """Looks up recipients for all LMTP sessions of a worker.

    Args:
        default_domain: Of `<Postmaster>`.
        clock: Monotonic seconds.
    """

    def __init__(self, store: Store, default_domain: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._default_domain = default_domain
        self._clock = clock
        self._known: dict[str, tuple[float, accounts.Recipient]] = {}
        self._forgotten = 0  # times that somebody was

    async def find(self, paths: Sequence[lmtp.Path], size: int = 0) -> list[Recipient | SoraError]:
        """Whom each forward-path reaches, or why nobody; one query at most, and one for each `+detail`.

        Args:
            size: Octets of the message, as far as the client told.

        Raises:
            Unavailable: Nothing can be looked up now.
        """
        addresses = [self._address(path) for path in paths]
        found = await self._find_accounts(addresses)
        return [await self._answer(path, found[address], size) for path, address in zip(paths, addresses, strict=True)]

    def forget(self, account_id: AccountId) -> None:
        """Ask for an account again when it gets mail next: its scripts have changed."""
        self._forgotten += 1
        for address in [address for address, (_, who) in self._known.items() if who.account_id == account_id]:
            del self._known[address]

    def forget_all(self) -> None:
        """Ask for everybody again."""
        self._forgotten += 1
        self._known.clear()

    def _address(self, path: lmtp.Path) -> str:
        """`<Postmaster>` needs no domain in the command (RFC 5321 §4.1.1.3): it means ours."""
        return path.address if path.domain else f"{path.local}@{self._default_domain}"

    async def _find_accounts(self, addresses: Iterable[str]) -> dict[str, accounts.Recipient | None]:
        now = self._clock()
        found: dict[str, accounts.Recipient | None] = {}
        for address in addresses:
            known = self._known.get(address)
            found[address] = known[1] if known is not None and now < known[0] else None
        unknown = [address for address, who in found.items() if who is None]
        if unknown:
            forgotten = self._forgotten
            for address, who in zip(unknown, await self._store.accounts.find_recipients(unknown), strict=True):
                found[address] = who
                if forgotten == self._forgotten:  # or the answer may be older than what was told meanwhile
                    self._remember(address, who, now)
        return found

    def _remember(self, address: str, who: accounts.Recipient | None, now: float) -> None:
        self._known.pop(address, None)
        if who is not None and who.room_bytes is None and not who.over_quota:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[address] = now + REMEMBERED_S, who

    async def _answer(self, path: lmtp.Path, who: accounts.Recipient | None, size: int) -> Recipient | SoraError:
        if who is None:
            return NotFound("No such user here")
        if who.over_quota:
            return OverQuota("Mailbox is full")
        if who.room_bytes is not None and size > who.room_bytes:
            return OverQuota("Mailbox has no room for this message")
        mailbox = await self._store.mailboxes.find(who.account_id, who.detail) if who.detail else None
        mailbox_id = mailbox.mailbox_id if mailbox is not None and not mailbox.noselect else None
        return Recipient(path.text, who.account_id, who.address, mailbox_id, script=who.script)
