"""Sessions of accounts that are disabled or deleted end, on whatever node they are, and those in mailboxes they share.

The database announces it with the commit (`account_changed`). Where notices may have been lost, the accounts that are
logged in here are asked for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sora import log
from sora.errors import Unavailable
from sora.types import AccountId

if TYPE_CHECKING:
    from sora.net.connection import Connections
    from sora.services.logins.auth import Auth
    from sora.store.db import Database

_log = log.get(__name__)

CHANNEL: Final = "sora_endings"
_ENDED: Final = """
    SELECT i.account_id FROM unnest($1::bigint[]) i (account_id)
    WHERE NOT EXISTS (
      SELECT 1 FROM accounts a WHERE a.account_id = i.account_id AND a.deleted_at IS NULL AND NOT a.disabled)
"""


class Endings:
    """Ends the sessions of a process."""

    def __init__(self, db: Database, connections: Connections, auth: Auth) -> None:
        self._db = db
        self._connections = connections
        self._auth = auth
        self._checks: set[asyncio.Task[None]] = set()

    def heard(self, payload: str) -> None:
        """A notice: the account's number in hexadecimal."""
        try:
            self._end(AccountId(int(payload, 16)))
        except ValueError:
            _log.warning("notice not understood", extra={"channel": CHANNEL, "payload": payload[:100]})

    def missed(self) -> None:
        """Notices may have been lost: ask for everybody who is logged in."""
        task = asyncio.get_running_loop().create_task(self._check())
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def close(self) -> None:
        """Give up what is being asked."""
        for task in self._checks:
            task.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)

    async def _check(self) -> None:
        connections = list(self._connections)
        owners = {c.owner for c in connections} | {c.guest_of for c in connections}
        owners.discard(None)
        if not owners:
            return
        try:
            rows = await self._db.fetch(_ENDED, list(owners))
        except Unavailable as error:
            # The connection that listens shares the database's fate: it is made again, and this is called again.
            _log.warning("accounts not checked", extra={"detail": str(error)})
            return
        for row in rows:
            self._end(row["account_id"])

    def _end(self, account_id: AccountId) -> None:
        self._auth.end(account_id)
        self._connections.stop_account(account_id)
