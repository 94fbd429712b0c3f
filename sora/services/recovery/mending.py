"""Mending what `verify` finds, each kind of damage in steps between which a crash loses nothing.

The rule above all others: nothing is overwritten, moved or removed before a good copy of it was read from somewhere
else, and compared with its hash. What is wrong and has no good copy stays where it is, for a person.

A body is mended the way in which it came: its good octets are staged on this node, a row of pending_uploads says so
(from then on the cleaner leaves it alone), the object is put, the row is marked. A process that dies in between leaves
what the uploader of the node completes, or the next run. The table `KINDS` says what there is to find.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from sora.crashpoints import crash_point
from sora.errors import KeyUnavailable, NotFound
from sora.mime.digest import digest
from sora.services.key_objects import owner_of, parse, prefix_of
from sora.services.recovery.places import BAD, GOOD
from sora.services.uploads import Uploads
from sora.store.blobs import BlobRef
from sora.store.sealing import fingerprint
from sora.store.uploads import PendingUpload, PendingUploads
from sora.types import AccountId

if TYPE_CHECKING:
    from pathlib import Path

    from asyncpg import Record

    from sora.services.key_objects import KeyObject, KeyStore
    from sora.services.recovery.places import Found, Places
    from sora.store.blobs import BlobEntry, BlobStore
    from sora.store.db import Database
    from sora.store.keyring import Keyring
    from sora.store.upkeep import Upkeep
    from sora.store.verification import Body, Verification
    from sora.types import ContentId

KINDS: Final = {
    "mailbox missing": "messages name a mailbox that has no row",
    "mailbox": "its sequences, counters, flag planes or expunge log are not what its messages say",
    "content missing": "messages name a content that has no row",
    "object missing": "the row says that the body is in the object store, and it is not",
    "object unreadable": "the object store answers, and does not give this object",
    "object damaged": "the object has other octets than its row says",
    "not marked": "the object is there, but its row does not say so",
    "not queued": "the body is on this node and nobody uploads it",
    "body missing": "the body was never uploaded, and nobody is about to",
    "staged missing": "the upload waits for a staged file that is gone",
    "staged damaged": "a staged file has other octets than its name says",
    "staged without row": "no message is known for a staged file",
    "copy damaged": "the copy in the database has other octets than its row says",
    "cache damaged": "a cached file has other octets than its name says",
    "object without row": "no message is known for an object",
    "upload without row": "an upload waits whose message is gone",
    "content unused": "nobody uses a body, and the cleaner does not know",
    "body locked": "bodies of an account are sealed, and its key is not to be had",
    "journal": "what the journal has promised or written for a mailbox is not what its counters say",
    "key damaged": "the wrapped key of an account does not open",
    "key missing": "the object store has the key of an account, and the database has none",
    "key object damaged": "the key of an account in the object store is missing, or not that of the database",
}
"""What can be wrong."""

Outcome = tuple[str, str]
"""State of a finding (see `Finding`), and its detail."""

CONTENTLESS: Final = "message without content"
"""Of `check_mailbox`; no rebuild mends it."""
STRAYS_PAGE: Final = 1000
ELSEWHERE: Final = ("waits", "another node has it, and uploads it")
STRANDED: Final = (
    "waits",
    "its node is silent: start it, or `sora-admin uploads adopt` with its staging directory",
)
LOST: Final = ("lost", "no good copy is anywhere: restore the object from a backup of the bucket")


class Mending:
    """Mends.

    Args:
        rows: The statements.
        keys: Puts wrapped keys into the object store.
        grace: Bodies that nobody uses are kept so long.
    """

    def __init__(
        self,
        db: Database,
        rows: Verification,
        upkeep: Upkeep,
        places: Places,
        keys: KeyStore,
        instance_id: str,
        *,
        grace: timedelta,
    ) -> None:
        self._keys = keys
        self._grace = grace
        self._strays: tuple[AccountId, dict[ContentId, BlobRef]] | None = None
        self._rows = rows
        self._upkeep = upkeep
        self._places = places
        self._pending = PendingUploads(db, instance_id)
        self._uploads = Uploads(
            self._pending, places.staging, places.blobs, None, _NoBell(), sealers=places.sealers, keys=keys
        )

    async def body(self, body: Body) -> Outcome:
        """Bring a good copy to where the body belongs: into the object store.

        Raises:
            BlobDown: The object store is away.
        """
        ref = body.ref
        found = await self._places.good_copy(ref)
        if not found.where:
            if found.unclear:
                return "waits", found.unclear
            return ELSEWHERE if body.elsewhere else STRANDED if body.stranded else LOST
        await self._clear_staging(ref)
        if found.where == "the object store":
            await self._mark(ref)
            return "mended", "the object is right"
        return await self._send(ref, found)

    async def _send(self, ref: BlobRef, found: Found) -> Outcome:
        """A good copy goes the way of every body: through staging."""
        await self._places.staging.stage_many([(ref.account_id, ref.content_hash, found.stored)])
        crash_point("verify.staged")
        if not await self._rows.queue_again(ref):
            return "mended", "its row is gone meanwhile"
        crash_point("verify.queued")
        await self._uploads.upload(_pending(ref))
        crash_point("verify.uploaded")
        return "mended", f"from {found.where}"

    async def copy(self, ref: BlobRef) -> Outcome:
        """Make a damaged copy in the database anew; it goes if the object is right.

        Raises:
            BlobDown: The object store is away.
        """
        found = await self._places.good_copy(ref)
        if not found.where:
            return "waits", f"left as it is: {found.unclear or 'no better copy is here'}"
        if found.where == "the object store":
            await self._rows.replace_copy(ref, None)
            return "mended", "the object is right, the copy is not needed"
        await self._rows.replace_copy(ref, found.stored)
        return "mended", f"from {found.where}"

    async def cached(self, ref: BlobRef, path: Path) -> Outcome:
        """Put a damaged file of the cache aside, and a good one in its place.

        Raises:
            BlobDown: The object store is away.
        """
        cache = self._places.cache
        assert cache is not None, "a file of the cache was found"
        found = await self._places.good_copy(ref)
        if not found.where:
            return "waits", f"left as it is: {found.unclear or 'no better copy is here'}"
        await cache.put_aside(path)
        crash_point("verify.cache_cleared")
        await cache.put(ref, found.stored)
        return "mended", f"from {found.where}"

    async def not_marked(self, body: Body) -> Outcome:
        """The object is there: the row says so, if it is right.

        Raises:
            BlobDown: The object store is away.
        """
        if (await self._places.object(body.ref)).state != GOOD:
            return await self.body(body)
        await self._rows.mark_uploaded(body.ref)
        return "mended", "marked as uploaded"

    async def unused(self, ref: BlobRef) -> Outcome:
        """Tell the cleaner, who waits: if rows of messages were lost, it is all that is left of a mail."""
        await self._rows.tell_cleaner(ref, self._grace)
        return "mended", f"the cleanup will remove it in {self._grace.total_seconds() / 86400:g} days"

    async def lone_upload(self, account_id: int, content_id: int) -> Outcome:
        """Forget an upload for which there is no message."""
        await self._rows.drop_upload(account_id, content_id)
        return "mended", "forgotten; a staged file stays, and is put aside by the uploader"

    async def staged_leftover(self, account_id: AccountId, digest: bytes) -> Outcome:
        """A damaged file that nobody needs any more: its body is in the object store, and right."""
        await self._places.staging.quarantine(account_id, digest)
        return "mended", "put aside; the object is right"

    async def content(self, account_id: AccountId, content_id: ContentId) -> Outcome:
        """Make a content row anew from its body: what it says was read from the message in the first place.

        The hash of the body, which was in the row, is in the name of its object, or in the row of its upload.

        Raises:
            BlobDown: The object store is away.
        """
        refs = await self._rows.uploads_of(account_id, content_id)
        if (stray := (await self._strays_of(account_id)).get(content_id)) is not None:
            refs += [replace(stray, size=size) for size in await self._rows.sizes_of(account_id, content_id)]
        outcome = LOST
        for ref in refs:
            found = await self._places.good_copy(ref)
            if found.where:
                return await self._restore(ref, found)
            outcome = ("waits", found.unclear) if found.unclear else outcome
        return outcome

    async def _restore(self, ref: BlobRef, found: Found) -> Outcome:
        """The row of a body that was found; and its object, if it was found elsewhere."""
        plain = await self._places.open(ref, found.stored)
        assert plain is not None, "a good copy opens"
        uploaded = found.where == "the object store"
        if not await self._rows.restore_content(ref, await asyncio.to_thread(digest, plain), uploaded=uploaded):
            return "waits", "another content of the account has the same bytes"
        crash_point("verify.content_restored")
        if uploaded:
            return "mended", f"from object {ref.key}"
        await self._clear_staging(ref)
        return await self._send(ref, found)

    async def _strays_of(self, account_id: AccountId) -> dict[ContentId, BlobRef]:
        """Objects of an account that have no row, looked for once."""
        if self._strays is None or self._strays[0] != account_id:
            strays: dict[ContentId, BlobRef] = {}
            page: list[BlobRef] = []
            async for entry in self._places.blobs.list(f"{account_id:016x}/"):
                if (ref := BlobRef.of_entry(entry)) is not None:
                    page.append(ref)
                if len(page) == STRAYS_PAGE:
                    await self._add_strays(strays, page)
                    page = []
            await self._add_strays(strays, page)
            self._strays = account_id, strays
        return self._strays[1]

    async def _add_strays(self, strays: dict[ContentId, BlobRef], page: list[BlobRef]) -> None:
        for at in await self._upkeep.unknown(page):
            strays[page[at].content_id] = page[at]

    async def strange_file(self, path: Path) -> Outcome:
        """Put a damaged file of the cache aside that no row describes."""
        assert self._places.cache is not None, "a file of the cache was found"
        await self._places.cache.put_aside(path)
        return "mended", "put aside"

    async def stray(self, entry: BlobEntry) -> Outcome:
        """Note an object without a row, for the cleanup: it may be the only copy of a message, and is not touched."""
        await self._upkeep.note_orphans([entry], timedelta(0))
        return "waits", "kept; listed by `sora-admin cleanup orphans`, and removed if cleanup.orphan_grace is set"

    async def key(self, row: Record, keyring: Keyring) -> Outcome:
        """Take the wrapping of the key object, if that opens.

        Raises:
            BlobDown: The object store is away.
        """
        account_id = AccountId(row["account_id"])
        async for entry in self._places.blobs.list(prefix_of(account_id)):
            found = await _read_key(self._places.blobs, entry.key)
            if found is not None and _opens(keyring, account_id, found[0].key_id, found[1], row["fingerprint"]):
                await self._rows.replace_key(account_id, row["wrapped"], found[0].key_id, found[1])
                return "mended", f"from {entry.key}"
        if not _has_master(keyring, row["key_id"]):
            return "waits", f"master key {row['key_id']} is not in the keyring: put it back"
        return "lost", "no good copy is in the object store: restore the row from a backup of the database"

    async def keyless(self, key: str, keyring: Keyring) -> Outcome:
        """Give an account the key that the object store has of it, before a server makes another in its place.

        Raises:
            BlobDown: The object store is away.
        """
        found = await _read_key(self._places.blobs, key)
        if found is None or found[0].account_id != owner_of(key):
            return "waits", "the object is damaged, or of another account: look for an older version of it"
        what, wrapped = found
        if not _has_master(keyring, what.key_id):
            return "waits", f"master key {what.key_id} is not in the keyring: put it back"
        account_id, fingerprint_ = AccountId(what.account_id), bytes.fromhex(what.fingerprint)
        if not _opens(keyring, account_id, what.key_id, wrapped, fingerprint_):
            return "waits", f"it does not open by master key {what.key_id}"
        await self._rows.adopt_key(account_id, keyring.get(what.key_id), wrapped, fingerprint_)
        return "mended", "from the object store"

    async def key_object(self, row: Record, keyring: Keyring) -> Outcome:
        """Put the key into the object store again, in the place of whatever wrappings are there.

        Raises:
            BlobDown: The object store is away.
        """
        account_id = AccountId(row["account_id"])
        async for entry in self._places.blobs.list(prefix_of(account_id)):
            there = await _read_key(self._places.blobs, entry.key)
            if there is not None and there[0].fingerprint != row["fingerprint"].hex():
                return (
                    "waits",
                    f"{entry.key} is another data key, and may open bodies: save it, then remove it",
                )
        await self._rows.store_key_again(row["account_id"])
        crash_point("verify.key_unmarked")
        while await self._keys.store_pending():  # with others that wait
            pass
        return "mended", "from the database"

    async def homeless(self, account_id: int, mailbox_id: int) -> Outcome:
        """Make a mailbox for messages that have lost theirs, of a UIDVALIDITY of its own."""
        name = await self._rows.house(account_id, mailbox_id)
        crash_point("verify.housed")
        await self._rows.rebuild_mailbox(account_id, mailbox_id)
        return "mended", f"they are in {name}"

    async def promises(self, account_id: int, mailbox_id: int) -> Outcome:
        """Let the journal begin anew with a mailbox."""
        await self._rows.forget_promises(account_id, mailbox_id)
        return "mended", "the next segment has all of it"

    async def locked(self) -> Outcome:
        """Nobody can make a key."""
        return "waits", "restore its row of account_keys, or its object in the bucket, from a backup, and the keyring"

    async def mailbox(self, account_id: int, mailbox_id: int) -> Outcome:
        """Make everything derived anew, and look again."""
        await self._rows.rebuild_mailbox(account_id, mailbox_id)
        crash_point("verify.rebuilt")
        left = [row for row in await self._rows.check_mailbox(account_id, mailbox_id) if row["what"] != CONTENTLESS]
        if left:
            return "waits", f"rebuilt, and still: {', '.join(row['what'] for row in left)}"
        return "mended", "rebuilt from its messages"

    async def _clear_staging(self, ref: BlobRef) -> None:
        """A good copy is at hand: a staged file that is not right gives its name free."""
        if (await self._places.staged(ref)).state == BAD:
            await self._places.staging.quarantine(ref.account_id, ref.content_hash)
            crash_point("verify.put_aside")

    async def _mark(self, ref: BlobRef) -> None:
        """As the uploader does it, with the staged file, if any, under the lock of the row."""
        staging = self._places.staging
        await self._pending.done(_pending(ref), lambda: staging.retire(ref.account_id, ref.content_hash))


def _pending(ref: BlobRef) -> PendingUpload:
    return PendingUpload(
        ref.account_id, ref.content_id, ref.content_hash, ref.size, 0, datetime.now(UTC), uploaded=False
    )


class _NoBell:
    """One body at a time is handed to the uploader's steps; nobody rings."""

    async def wait(self, timeout: float | None = None) -> object:
        return None


async def look_at_key(row: Record, keyring: Keyring, blobs: BlobStore) -> Outcome | None:
    """Kind and detail of what is wrong with a wrapped key; None: nothing, or it is about to be stored.

    Raises:
        BlobDown: The object store is away.
    """
    account_id = AccountId(row["account_id"])
    if not _opens(keyring, account_id, row["key_id"], row["wrapped"], row["fingerprint"]):
        return "key damaged", f"master key {row['key_id']}"
    if row["stored_at"] is None:
        return None
    found = await _read_key(blobs, f"{prefix_of(account_id)}{row['key_id']}.key")
    if found is None:
        return "key object damaged", "missing, or not to be read"
    if found[1] != row["wrapped"]:
        return "key object damaged", "another wrapping"
    return None


async def _read_key(blobs: BlobStore, key: str) -> tuple[KeyObject, bytes] | None:
    try:
        return parse(await blobs.get(key))
    except (NotFound, ValueError):  # msgspec's errors are ValueErrors
        return None


def _has_master(keyring: Keyring, key_id: str) -> bool:
    return any(key.id == key_id for key in keyring.keys)


def _opens(keyring: Keyring, account_id: AccountId, key_id: str, wrapped: bytes, print_: bytes) -> bool:
    """True if this is the data key with that fingerprint."""
    if not _has_master(keyring, key_id):
        return False
    try:
        return fingerprint(keyring.get(key_id).unwrap(account_id, wrapped)) == print_
    except KeyUnavailable:
        return False
