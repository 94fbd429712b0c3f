"""Erasing an account at once and for good: deletion, the grace period, the key, rows, objects and files in one go.

What the cleanup would do after the grace period is done now, for this account alone: the key is destroyed first, where
there is one, so that what a later step leaves behind can be read by nobody. Every step may be repeated: an erasure that
was cut short is run again, and the cleanup of the janitor comes to the same end.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora import log
from sora.crashpoints import crash_point
from sora.errors import NoPermission, NotFound, Unavailable
from sora.services.shredding import HORIZON, Shredding
from sora.store.journal import snapshot_prefix
from sora.store.shreddings import Shreddings
from sora.store.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sora.services.shredding import Files
    from sora.store.accounts import Account
    from sora.store.blobs import BlobStore
    from sora.store.store import Store
    from sora.types import AccountId

_log = log.get(__name__)

AT_ONCE: Final = timedelta()
ROWS: Final = 2000
BODIES: Final = 500
DELETES: Final = 8
MORE: Final = (
    "The journal in the bucket: what its segments say of the account (addresses, folders, flags, scripts, no bodies) "
    "stays until a compaction has replaced them; with encryption on nobody can read it.",
    "An upload that was under way at this moment may still arrive in the bucket: the cleanup removes it as an orphan.",
    "Files of other nodes, if the account was not encrypted: their janitors remove them as orphans.",
)
"""What an erasure cannot reach beside what a destroyed key cannot (`HORIZON`)."""
BUSY_S: Final = 0.2
"""Pause before what somebody else has locked is tried again."""
TRIES: Final = 50


class Erased(Struct):
    """What is gone.

    Attributes:
        key_destroyed: It was encrypted, and what copies of its bodies there are can be opened by nobody.
        rows: Of messages, flags and journals.
        outbound: Mails that waited to leave; they are not sent.
        objects: Of the object store, with every version that it has kept.
        files: Staged and cached ones of this node.
        gone: Nothing of it is left in the database; False: the janitor does the rest, see `waits_for`.
        horizon: What stays readable elsewhere, and for how long.
    """

    address: str
    account_id: int
    key_destroyed: bool = False
    rows: int = 0
    outbound: int = 0
    bodies: int = 0
    objects: int = 0
    files: int = 0
    gone: bool = False
    waits_for: str = ""
    horizon: list[str] = []


class Erasing:
    """The steps.

    Args:
        files: Staging and cache of this node.
        instance_id: Of this node; empty where there is none.
    """

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        files: Sequence[Files],
        instance_id: str,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._files = files
        self._instance_id = instance_id
        self._upkeep = Upkeep(store.db)
        self._progress = progress

    async def erase(self, account: Account) -> Erased:
        """Everything of an account; it may be deleted already.

        Raises:
            NoPermission: It is under legal hold.
            Unavailable: A dependency is away; to be run again.
        """
        if account.legal_hold:
            raise NoPermission("The account is under legal hold")
        report = Erased(account.address, account.account_id, horizon=[*HORIZON, *MORE])
        account_id = account.account_id
        if account.deleted_at is None:
            await self._store.accounts.delete(account_id)
        crash_point("erase.deleted")
        _log.warning("account erased", extra={"account_id": account_id, "address": account.address})
        await self._shred(account_id, report)
        crash_point("erase.shredded")
        await self._purge_mailboxes(account_id, report)
        await self._purge_bodies(account_id, report)
        crash_point("erase.purged")
        report.objects += await self._blobs.erase(f"{account_id:016x}/")
        report.files += sum([await files.remove_account(account_id) for files in self._files])
        report.gone = await self._purge_account(account_id, report)
        report.objects += await self._blobs.erase(snapshot_prefix(account_id))
        return report

    async def _shred(self, account_id: AccountId, report: Erased) -> None:
        try:
            await Shredding(Shreddings(self._store.db), self._blobs, self._files, self._instance_id).shred(account_id)
        except NotFound:
            return  # it was never encrypted
        report.key_destroyed = True

    async def _purge_mailboxes(self, account_id: AccountId, report: Erased) -> None:
        await self._steps(lambda: self._upkeep.purge_account(account_id, AT_ONCE, ROWS))
        rows = await self._store.db.fetch("SELECT mailbox_id FROM mailboxes WHERE account_id = $1", account_id)
        for number, row in enumerate(rows):
            self._progress("mailboxes", number, len(rows))
            mailbox_id = row["mailbox_id"]
            report.rows += await self._steps(
                lambda m=mailbox_id: self._upkeep.purge_mailbox(account_id, m, AT_ONCE, ROWS)  # type: ignore[misc]
            )
        # Mail that waits to leave keeps its body, and so does a body that waits for its upload: nobody wants them now.
        async with self._store.db.transaction() as conn:
            if await conn.fetchval("SELECT account_held($1)", account_id):
                raise NoPermission("The account is under legal hold")
            report.outbound += len(await conn.fetch(_STOP_OUTBOUND, account_id))
            await conn.execute("DELETE FROM pending_uploads WHERE account_id = $1", account_id)

    async def _purge_bodies(self, account_id: AccountId, report: Erased) -> None:
        tries = TRIES
        while tries:
            rows = await self._store.db.fetch(_CONTENTS, account_id, BODIES)
            if not rows:
                return
            marked = await self._upkeep.begin_purges(rows)
            if not marked:
                tries -= 1
                await asyncio.sleep(BUSY_S)
                continue
            slots = asyncio.Semaphore(DELETES)

            async def delete(key: str, slots: asyncio.Semaphore = slots) -> None:
                async with slots:
                    await self._blobs.delete(key)

            await asyncio.gather(*(delete(ref.key) for ref in marked))
            report.bodies += await self._upkeep.finish_purges(marked)
            self._progress("bodies", report.bodies, report.bodies + len(rows))
        report.waits_for = "bodies that somebody else has in hand"

    async def _purge_account(self, account_id: AccountId, report: Erased) -> bool:
        await self._steps(lambda: self._upkeep.purge_account(account_id, AT_ONCE, ROWS))
        left = await self._store.db.fetchval("SELECT EXISTS (SELECT FROM accounts WHERE account_id = $1)", account_id)
        if left and not report.waits_for:
            report.waits_for = "uploads or mailboxes that somebody else has in hand"
        return not left

    async def _steps(self, step: Callable[[], Awaitable[int]]) -> int:
        """Until there is nothing more to do; what is locked is tried again for a while."""
        total, tries = 0, TRIES
        while tries:
            try:
                rows = await step()
            except Unavailable:
                tries -= 1
                if not tries:
                    raise
                await asyncio.sleep(BUSY_S)
                continue
            if not rows:
                break
            total += rows
        return total


_STOP_OUTBOUND: Final = "DELETE FROM outbound_queue WHERE account_id = $1 RETURNING queue_id"
_CONTENTS: Final = "SELECT account_id, content_id, content_hash FROM message_contents WHERE account_id = $1 LIMIT $2"
