"""Which script runs when a mailbox changes (RFC 6785 §2.3.1), known without a query.

Few mailboxes have one, and every COPY, APPEND and STORE asks. So a process reads the names of all of them when it
begins to listen, and after that only those of accounts that it is told about (`events.CHANNEL`). Where there are more
than `MAX_NAMES`, or while nobody is told of anything because the connection that listens is down, an account is asked
for instead.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora import log
from sora.errors import Unavailable
from sora.types import AccountId, MailboxId

if TYPE_CHECKING:
    from sora.store.events import Events

_log = log.get(__name__)

MAX_NAMES: Final = 50_000
"""Mailboxes with a name that a process remembers: some megabytes."""
MAX_ACCOUNTS: Final = 10_000
"""Accounts that are remembered where there are more; then all of them are asked for again."""
SERVER: Final = AccountId(0)
EVERYWHERE: Final = MailboxId(0)


class Named(Struct, frozen=True):
    """The script of a mailbox.

    Attributes:
        everywhere: The server's entry names it.
    """

    name: str
    everywhere: bool


class ScriptNames:
    """The names that a process knows.

    Args:
        listening: Set while notices come in.
    """

    def __init__(self, events: Events, listening: asyncio.Event, max_names: int = MAX_NAMES) -> None:
        self._events = events
        self._listening = listening
        self._max_names = max_names
        self._known: dict[AccountId, dict[MailboxId, str]] = {}
        self._complete = False
        self._unknown: set[AccountId] = set()  # of those that would be known
        self._forgotten = 0  # times that anything was
        self._reading: asyncio.Task[None] | None = None

    def peek(self, account_id: AccountId, mailbox_id: MailboxId) -> tuple[Named | None] | None:
        """The answer of `find`, if it is known; None: it is not."""
        if not self._listening.is_set():
            return None
        of_account, of_server = self._of(account_id), self._of(SERVER)
        if of_account is None or of_server is None:
            return None
        return (_chosen(of_account, of_server, mailbox_id),)

    async def find(self, account_id: AccountId, mailbox_id: MailboxId) -> Named | None:
        """The script of a mailbox: the entry of the mailbox counts if there is one, even if it is empty.

        Raises:
            Unavailable: The database does not say.
        """
        known = self.peek(account_id, mailbox_id)
        if known is not None:
            return known[0]
        of_account, of_server = await self._read(account_id), await self._read(SERVER)
        return _chosen(of_account, of_server, mailbox_id)

    def forget(self, account_id: AccountId) -> None:
        """The names of an account have changed."""
        self._forgotten += 1
        self._known.pop(account_id, None)
        self._unknown.add(account_id)

    def heard(self, payload: str) -> None:
        """A notice on `events.CHANNEL`."""
        self.forget(AccountId(int(payload, 16)))

    def missed(self) -> None:
        """Notices may have been lost: everything is read anew."""
        self._forget_all()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all())

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _forget_all(self) -> None:
        self._forgotten += 1
        self._known.clear()
        self._unknown.clear()
        self._complete = False

    def _of(self, account_id: AccountId) -> dict[MailboxId, str] | None:
        found = self._known.get(account_id)
        if found is None and self._complete and account_id not in self._unknown:
            return {}
        return found

    async def _read(self, account_id: AccountId) -> dict[MailboxId, str]:
        known = self._of(account_id) if self._listening.is_set() else None
        if known is not None:
            return known
        forgotten = self._forgotten
        found = await self._events.script_names(account_id)
        if forgotten == self._forgotten:  # or the answer may be older than what was told meanwhile
            if len(self._known) >= MAX_ACCOUNTS and not self._complete:
                self._known.clear()
            self._known[account_id] = found
            self._unknown.discard(account_id)
        return found

    async def _read_all(self) -> None:
        """Until nothing was told meanwhile, or not all of it can be kept."""
        forgotten = -1
        try:
            while forgotten != self._forgotten:
                forgotten = self._forgotten
                found = await self._events.all_script_names(self._max_names)
                if found is None:
                    return
            self._known, self._complete = found or {}, True
            self._unknown.clear()
        except Unavailable as error:
            _log.info("names of scripts not read", extra={"detail": str(error)})  # they are asked for one by one


def _chosen(of_account: dict[MailboxId, str], of_server: dict[MailboxId, str], mailbox_id: MailboxId) -> Named | None:
    """RFC 6785 §2.3.1: an entry that is there is used, whatever is in it."""
    name = of_account.get(mailbox_id)
    everywhere = name is None
    if name is None:
        name = of_server.get(EVERYWHERE)
    return Named(name, everywhere) if name else None
