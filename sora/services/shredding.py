"""Shredding an account: its data key is destroyed, and with it whatever was encrypted, wherever a copy of it may be.

The order is what makes it safe to die at any point:

1. In one transaction the wrapped key goes, a row says that the account was shredded, and the account is disabled. From
   here on nobody can get the key, nobody can make another one, and every process is told to forget it.
2. The wrapped keys in the object store go, every version of them; if it is away, later, and the rest goes first.
3. What the live tables say of the mail goes in batches: messages, texts for search, copies of bodies that wait for
   their upload, headers and previews. The rows of contents stay, blank: they are the queue by which the cleaner deletes
   the objects, which nobody can read any more.
4. The node removes its staged and cached files; the janitors of the others do the same within a minute.

Whatever was begun and not finished is taken up again, by the command or by the janitor. The janitor also looks for the
wrapped keys a second time after `SETTLED_S`: a request of a process that died may have arrived late.

What it cannot reach is told with the receipt (`HORIZON`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from sora import log
from sora.crashpoints import crash_point
from sora.errors import Unavailable
from sora.services.key_objects import prefix_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora.store.blobs import BlobStore
    from sora.store.shreddings import Shreddings
    from sora.types import AccountId

SETTLED_S: Final = 900.0
"""No request to the object store that was sent before the key was gone arrives later."""

HORIZON: Final = (
    "Copies of the wrapped key: backups and standbys of PostgreSQL, archived WAL, copies of the bucket made before. "
    "Who has one and the master key can open what was encrypted. To end that too: `sora-admin keys rotate`, then "
    "destroy the old master key, in the keyring and in every copy of it.",
    "What PostgreSQL knew of the mail (envelopes, headers, previews, search text): its backups, standbys and archived "
    "WAL until they expire, free space in its files until VACUUM has reused it.",
    "Objects: ciphertext stays in the bucket until the cleaner has deleted it, and in old versions and copies.",
    "Bodies stored before encryption was on were plain: they are deleted, but old versions and copies stay readable.",
    "File-system snapshots and swapped-out memory of the nodes are not reached.",
)
"""What stays readable elsewhere, and for how long."""

_log = log.get(__name__)


class Files(Protocol):
    """Bodies on the disk of this node."""

    async def remove_account(self, account_id: AccountId) -> int:
        """Remove every body of an account, what was put aside included; how many there were."""


class Shredding:
    """The steps.

    Args:
        files: Staging and cache of this node; empty where there are none.
        instance_id: Of this node; empty where there is none.
    """

    def __init__(self, shreddings: Shreddings, blobs: BlobStore, files: Sequence[Files], instance_id: str) -> None:
        self._shreddings = shreddings
        self._blobs = blobs
        self._files = files
        self._instance_id = instance_id

    async def shred(self, account_id: AccountId) -> None:
        """Begin, or go on, and do all that can be done from here.

        Raises:
            NoPermission: The account is under legal hold.
            NotFound: It has no key, and had none.
            Unavailable: A dependency is away; what was not done yet is done by the janitor.
        """
        await self._shreddings.begin(account_id)
        crash_point("shred.begun")
        _log.warning("account shredded", extra={"account_id": account_id})
        await self._remove(account_id)

    async def resume(self) -> int:
        """Go on with what was begun and not finished; how many accounts that were.

        Raises:
            Unavailable: A dependency is away.
        """
        unfinished = await self._shreddings.unfinished()
        failure: Unavailable | None = None
        for account_id in unfinished:
            try:
                await self._remove(account_id)
            except Unavailable as error:  # a mailbox that is locked for long: the other accounts need not wait for it
                _log.warning("shredding goes on later", extra={"account_id": account_id, "error": str(error)})
                failure = error
        if failure is not None:
            raise failure
        return len(unfinished)

    async def remove_local(self) -> int:
        """Remove the files of shredded accounts from this node; how many accounts that were.

        Raises:
            Unavailable: The database is away.
        """
        left = await self._shreddings.left_on_node(self._instance_id) if self._instance_id else []
        for account_id in left:
            await self._remove_files(account_id)
        return len(left)

    async def remove_dropped_keys(self) -> int:
        """Remove wrapped keys whose rows are gone from the object store; of how many accounts nothing can come back.

        Raises:
            Unavailable: A dependency is away.
        """
        settled = 0
        for account_id in await self._shreddings.dropped_keys():
            await self._remove_key_objects(account_id)
            settled += await self._shreddings.forget_dropped(account_id, timedelta(seconds=SETTLED_S))
        return settled

    async def _remove(self, account_id: AccountId) -> None:
        away: Unavailable | None = None
        try:
            await self._remove_key_objects(account_id)
        except Unavailable as error:  # headers and texts in plain need not wait for a key that is wrapped
            away = error
        crash_point("shred.keys_removed")
        while await self._shreddings.remove_rows(account_id):
            crash_point("shred.rows_removed")
        if self._instance_id:
            await self._remove_files(account_id)
        if away is not None:
            raise away
        await self._shreddings.finish(account_id)

    async def _remove_key_objects(self, account_id: AccountId) -> None:
        versions = await self._blobs.erase(prefix_of(account_id))
        if versions:
            _log.info("wrapped keys removed", extra={"account_id": account_id, "versions": versions})
            await self._shreddings.key_objects_removed(account_id, versions)

    async def _remove_files(self, account_id: AccountId) -> None:
        removed = sum([await files.remove_account(account_id) for files in self._files])
        crash_point("shred.files_removed")
        await self._shreddings.node_done(account_id, self._instance_id, removed)
