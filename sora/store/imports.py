"""What has come from another store already.

A batch of messages and the rows that say so are one transaction, so a run that is killed anywhere goes on with what is
missing: nothing comes twice, and nothing is left out.

**UIDs.** A folder keeps its UIDs if nothing was ever stored in the mailbox that it goes to. Then `uid_next` of the
mailbox is raised to the UID of each message before it is stored, and the mailbox gets the UIDVALIDITY of the source
when all are here. Whoever stores something in between takes a UID that the source knows another message by: from then
on messages come with new UIDs, and the mailbox does not get that UIDVALIDITY, or does not keep it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from sora.errors import Busy
from sora.store.mailboxes import canonical_name
from sora.types import AccountId, MailboxId, UidValidity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from asyncpg import Record

    from sora.store.copies import Pieces
    from sora.store.db import Connection, Database
    from sora.store.deliveries import Delivered, NewMessage
    from sora.store.messages import Messages

DAY_S: Final = 86_400
"""A UIDVALIDITY further in the future than this is not taken over: later ones of the same name must be greater."""
MAX_KEPT_UID: Final = 4_000_000_000
"""A source that has gone further leaves too few UIDs (2^32 in all) for what is still to come."""


class NewFolder(Struct, frozen=True):
    """A folder of the source.

    Attributes:
        key: As the source calls it.
        names: Of the mailbox, in the order in which they are tried: the first that no other folder of this import has.
        uidvalidity: 0: there is none, and UIDs are new.
    """

    key: bytes
    names: tuple[str, ...]
    uidvalidity: int = 0
    special_use: str | None = None


class Folder(Struct, frozen=True):
    """A folder on its way.

    Attributes:
        name: Of the mailbox, now.
        keeps_uids: So far.
        uid_next: Of the mailbox after the last batch.
        made: The mailbox was made for it just now.
    """

    account_id: AccountId
    folder_id: int
    name: str
    mailbox_id: MailboxId
    source_uidvalidity: int
    keeps_uids: bool
    uid_next: int
    finished: bool = False
    made: bool = False


class Incoming(Struct, frozen=True):
    """A message of a folder.

    Attributes:
        key: Names it in its folder; 16 octets.
        uid: In the source; 0: it has none.
    """

    key: bytes
    uid: int
    row: NewMessage


class Stored(Struct, frozen=True):
    """What became of a batch.

    Attributes:
        delivered: Of those that were stored; others were here already.
        folder: As it is now.
        lost_uids: The mailbox stopped keeping UIDs with this batch.
    """

    delivered: list[Delivered]
    folder: Folder
    lost_uids: bool = False


class Imports:
    """Rows of `imports` and of what belongs to it."""

    def __init__(self, db: Database, messages: Messages) -> None:
        self._db = db
        self._messages = messages

    async def open(self, account_id: AccountId, source: str) -> int:
        """Begin an import, or go on with it; the same source and account are the same import."""
        import_id: int = await self._db.fetchval(_OPEN, account_id, source[:1000])
        return import_id

    async def find(self, account_id: AccountId, source: str) -> int | None:
        """An import that was begun."""
        found: int | None = await self._db.fetchval(
            "SELECT import_id FROM imports WHERE account_id = $1 AND source = $2", account_id, source[:1000]
        )
        return found

    async def finish(self, account_id: AccountId, import_id: int) -> None:
        """A run has come to its end."""
        await self._db.execute(
            "UPDATE imports SET finished_at = clock() WHERE account_id = $1 AND import_id = $2", account_id, import_id
        )

    async def find_folder(self, account_id: AccountId, import_id: int, key: bytes) -> Folder | None:
        """A folder that was begun, if its mailbox is still there."""
        row = await self._db.fetchrow(_FOLDER, account_id, import_id, key)
        return None if row is None or not row["there"] else _folder(account_id, row)

    async def folder(self, account_id: AccountId, import_id: int, new: NewFolder) -> Folder:
        """Begin a folder, or go on with it; its mailbox is made if there is none.

        One whose mailbox was deleted meanwhile begins anew.

        Raises:
            InvalidName: No name that it could have.
            OverQuota: The account has as many mailboxes as it may.
        """
        async with self._db.transaction() as conn:
            await conn.execute("SELECT lock_accounts(ARRAY[$1::bigint])", account_id)
            row = await conn.fetchrow(_FOLDER, account_id, import_id, new.key)
            if row is not None and row["there"]:
                return _folder(account_id, row)
            if row is not None:
                await conn.execute(_FORGET_MESSAGES, account_id, row["folder_id"])
                await conn.execute(_FORGET_FOLDER, account_id, import_id, new.key)
            name = await self._free_name(conn, account_id, import_id, new.names)
            mailbox, made = await _mailbox(conn, account_id, name, new.special_use)
            keeps = _can_keep(mailbox, new.uidvalidity) and not await conn.fetchval(
                _WAS_THERE, account_id, mailbox["name"], new.uidvalidity, mailbox["mailbox_id"]
            )
            row = await conn.fetchrow(
                _NEW_FOLDER, account_id, import_id, new.key, mailbox["name"], mailbox["mailbox_id"],
                new.uidvalidity, keeps, mailbox["uid_next"],
            )  # fmt: skip
            assert row is not None, "an INSERT gives its row"
            return replace(_folder(account_id, row), made=made)

    async def _free_name(self, conn: Connection, account_id: AccountId, import_id: int, names: Sequence[str]) -> str:
        taken = {
            row["name"]
            for row in await conn.fetch(
                "SELECT name FROM import_folders WHERE account_id = $1 AND import_id = $2", account_id, import_id
            )
        }
        candidates = [canonical_name(name) for name in names]
        return next((name for name in candidates if name not in taken), candidates[-1])

    async def known(self, folder: Folder, keys: Collection[bytes]) -> set[bytes]:
        """Those of the messages that are here."""
        rows = await self._db.fetch(_KNOWN, folder.account_id, folder.folder_id, list(keys))
        return {row["source_key"] for row in rows}

    async def count(self, folder: Folder) -> int:
        """How many messages of a folder are here."""
        count: int = await self._db.fetchval(
            "SELECT count(*) FROM import_messages WHERE account_id = $1 AND folder_id = $2",
            folder.account_id, folder.folder_id,
        )  # fmt: skip
        return count

    async def store(
        self, folder: Folder, batch: Sequence[Incoming], instance_id: str, bodies: dict[bytes, Pieces] | None
    ) -> Stored:
        """Store messages whose bodies are staged, all or none, with the rows that say so.

        Args:
            batch: In the order of their UIDs in the source.
            bodies: Stored octets by key of the message, of which copies are kept until they are uploaded.

        Raises:
            NotFound: The mailbox is gone.
            OverQuota: They do not fit; nothing was stored.
            Busy: The journal has not reserved their UIDs yet.
            DatabaseDown: With `maybe_done` they may be here: the next call leaves out what is.
        """
        await self.reserve(folder, max((message.uid for message in batch), default=0) + len(batch))
        async with self._db.transaction() as conn:
            state = await self._lock(conn, folder)
            known = {row["source_key"] for row in await conn.fetch(
                _KNOWN, folder.account_id, folder.folder_id, [message.key for message in batch])}  # fmt: skip
            fresh = [message for message in batch if message.key not in known]
            now = replace(folder, keeps_uids=state["keeps_uids"], uid_next=state["expected"], finished=False)
            if not fresh:
                return Stored([], now)
            keeps = now.keeps_uids and state["uid_next"] == state["expected"] and _ascend(fresh, state["uid_next"])
            if now.keeps_uids and not keeps:
                await conn.execute(_RENEW, folder.account_id, folder.mailbox_id, folder.source_uidvalidity)
            delivered: list[Delivered] = []
            for run in _runs(fresh) if keeps else [fresh]:
                if keeps and run[0].uid:
                    await conn.execute(_RAISE, folder.account_id, folder.mailbox_id, run[0].uid)
                copies = None if bodies is None else [bodies[message.key] for message in run]
                rows = [message.row for message in run]
                delivered += await self._messages.deliver_on(conn, rows, instance_id, copies)
            await conn.execute(
                _NOTE, folder.account_id, folder.folder_id, [message.key for message in fresh],
                [row.uid for row in delivered],
            )  # fmt: skip
            uid_next = max(row.uid for row in delivered) + 1
            await conn.execute(_STEP, folder.account_id, folder.folder_id, keeps, uid_next)
        return Stored(delivered, replace(now, keeps_uids=keeps, uid_next=uid_next), now.keeps_uids and not keeps)

    async def reserve(self, folder: Folder, uid_next: int) -> None:
        """See to it that UIDs below `uid_next` may be given; only a folder that keeps its UIDs goes so far ahead.

        A database that is built anew from the journal gives UIDs from its reservation on, so nobody may pass that
        before the journal has a greater one (`schema/0025_journal.sql`). The wish is noted for the next segment.

        Raises:
            Busy: The journal has not reserved them yet.
        """
        wanted = min(uid_next, MAX_KEPT_UID + 1)
        if not folder.keeps_uids or wanted <= folder.uid_next:
            return
        if not await self._db.fetchval("SELECT reserve_uids($1, $2, $3)", folder.account_id, folder.mailbox_id, wanted):
            raise Busy(detail=f"{folder.name}: the journal has not reserved UIDs up to {wanted} yet")

    async def finish_folder(self, folder: Folder, uid_next: int) -> Folder:
        """All messages are here: the mailbox gets the UIDVALIDITY of the source, if it has kept the UIDs.

        Args:
            uid_next: Of the source: UIDs below it were given, perhaps to messages that are gone.

        Raises:
            Busy: The journal has not reserved these UIDs yet.
        """
        await self.reserve(folder, uid_next)
        async with self._db.transaction() as conn:
            state = await self._lock(conn, folder)
            next_uid = max(state["expected"], min(uid_next, MAX_KEPT_UID))
            keeps = state["keeps_uids"]
            taken = state["uid_next"] != state["expected"] and next_uid > state["expected"]
            if keeps and (taken or uid_next > MAX_KEPT_UID):
                keeps = False
                await conn.execute(_RENEW, folder.account_id, folder.mailbox_id, folder.source_uidvalidity)
            if keeps:
                await conn.execute(_RAISE, folder.account_id, folder.mailbox_id, next_uid)
                await conn.execute(_ADOPT, folder.account_id, folder.mailbox_id, folder.source_uidvalidity)
            await conn.execute(_FINISH, folder.account_id, folder.folder_id, keeps, next_uid)
        return replace(folder, keeps_uids=keeps, uid_next=next_uid, finished=True)

    async def _lock(self, conn: Connection, folder: Folder) -> Record:
        """The locks of a delivery, in its order, and what is known under them."""
        await conn.execute("SELECT set_config('lock_timeout', '10s', true)")
        await conn.execute("SELECT lock_quotas(ARRAY[$1::bigint])", folder.account_id)
        await conn.execute("SELECT lock_mailboxes(ARRAY[$1::bigint])", folder.mailbox_id)
        await conn.execute("SELECT require_mailbox($1, $2)", folder.account_id, folder.mailbox_id)
        row = await conn.fetchrow(_STATE, folder.account_id, folder.folder_id, folder.mailbox_id)
        assert row is not None, "the folder was begun"
        return row


def _runs(batch: Sequence[Incoming]) -> Iterator[list[Incoming]]:
    """Parts with UIDs one after the other; what has no UID goes on with the last part."""
    run: list[Incoming] = []
    for message in batch:
        if run and message.uid and message.uid != run[-1].uid + 1:
            yield run
            run = []
        run.append(message)
    yield run


def _ascend(batch: Sequence[Incoming], uid_next: int) -> bool:
    """Each message can have its own UID, if one of them does not need another's."""
    at = uid_next
    for message in batch:
        if message.uid and message.uid < at:
            return False
        at = max(at, message.uid) + 1
    return at <= MAX_KEPT_UID


def _can_keep(mailbox: Record, uidvalidity: int) -> bool:
    return bool(mailbox["uid_next"] == 1 and 0 < uidvalidity < time.time() + DAY_S)


async def _mailbox(conn: Connection, account_id: AccountId, name: str, special_use: str | None) -> tuple[Record, bool]:
    """The mailbox of that name, and whether it was made.

    What another empty mailbox of the account is used for goes to this one.
    """
    row = await conn.fetchrow(_MAILBOX, account_id, name)
    made = row is None or row["noselect"]
    if made:
        await conn.execute("SELECT FROM create_mailbox($1, $2)", account_id, name)
        row = await conn.fetchrow(_MAILBOX, account_id, name)
    assert row is not None, "it was made"
    if special_use is not None and await conn.fetchval(_FREE_USE, account_id, row["mailbox_id"], special_use):
        await conn.execute(_TAKE_USE, account_id, row["mailbox_id"], special_use)
    return row, bool(made)


def _folder(account_id: AccountId, row: Record) -> Folder:
    return Folder(
        account_id=account_id,
        folder_id=row["folder_id"],
        name=row["name"],
        mailbox_id=MailboxId(row["mailbox_id"]),
        source_uidvalidity=UidValidity(row["source_uidvalidity"]),
        keeps_uids=row["keeps_uids"],
        uid_next=row["uid_next"],
        finished=row["finished_at"] is not None,
    )


_OPEN: Final = """
    INSERT INTO imports (account_id, source) VALUES ($1, $2)
    ON CONFLICT (account_id, source) DO UPDATE SET source = EXCLUDED.source RETURNING import_id
"""
_FOLDER: Final = """
    SELECT f.folder_id, coalesce(m.name, f.name) AS name, f.mailbox_id, f.source_uidvalidity, f.keeps_uids, f.uid_next,
      f.finished_at, m.mailbox_id IS NOT NULL AS there
    FROM import_folders f LEFT JOIN mailboxes m
      ON m.account_id = f.account_id AND m.mailbox_id = f.mailbox_id AND m.deleted_at IS NULL AND NOT m.noselect
    WHERE f.account_id = $1 AND f.import_id = $2 AND f.folder = $3
"""
_FORGET_MESSAGES: Final = "DELETE FROM import_messages WHERE account_id = $1 AND folder_id = $2"
_FORGET_FOLDER: Final = "DELETE FROM import_folders WHERE account_id = $1 AND import_id = $2 AND folder = $3"
_MAILBOX: Final = """
    SELECT m.mailbox_id, m.name, m.noselect, t.uid_next
    FROM mailboxes m JOIN mailbox_stats t USING (account_id, mailbox_id)
    WHERE m.account_id = $1 AND m.name = $2 AND m.deleted_at IS NULL
"""
# A mailbox of that name had this UIDVALIDITY before, and perhaps other messages.
_WAS_THERE: Final = """
    SELECT EXISTS (SELECT FROM mailboxes
                   WHERE account_id = $1 AND name = $2 AND uidvalidity = $3 AND mailbox_id <> $4)
"""
_NEW_FOLDER: Final = """
    INSERT INTO import_folders
      (account_id, import_id, folder, name, mailbox_id, source_uidvalidity, keeps_uids, uid_next)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *
"""
_FREE_USE: Final = """
    SELECT NOT EXISTS (
      SELECT FROM mailboxes m JOIN mailbox_stats t USING (account_id, mailbox_id)
      WHERE m.account_id = $1 AND m.mailbox_id <> $2 AND m.special_use = $3 AND m.deleted_at IS NULL AND t.uid_next > 1)
"""
_TAKE_USE: Final = """
    WITH changed AS (
      UPDATE mailboxes m SET special_use = CASE WHEN m.mailbox_id = $2 THEN $3 END
      WHERE m.account_id = $1 AND m.deleted_at IS NULL
        AND (m.mailbox_id = $2) <> (m.special_use IS NOT DISTINCT FROM $3)
      RETURNING m.mailbox_id, m.name)
    SELECT note_account_change($1, 'special_use', mailbox_id, name) FROM changed
"""
_KNOWN: Final = """
    SELECT source_key FROM import_messages WHERE account_id = $1 AND folder_id = $2 AND source_key = ANY ($3)
"""
_STATE: Final = """
    SELECT f.keeps_uids, f.uid_next AS expected, t.uid_next FROM import_folders f
    JOIN mailbox_stats t ON t.account_id = f.account_id AND t.mailbox_id = $3
    WHERE f.account_id = $1 AND f.folder_id = $2 FOR UPDATE OF f
"""
_RAISE: Final = """
    UPDATE mailbox_stats SET uid_next = $3 WHERE account_id = $1 AND mailbox_id = $2 AND uid_next < $3
"""
_RENEW: Final = """
    UPDATE mailboxes SET uidvalidity = nextval('uidvalidities')
    WHERE account_id = $1 AND mailbox_id = $2 AND uidvalidity = $3
"""
_ADOPT: Final = """
    UPDATE mailboxes SET uidvalidity = $3 WHERE account_id = $1 AND mailbox_id = $2 AND uidvalidity <> $3
"""
_NOTE: Final = """
    INSERT INTO import_messages (account_id, folder_id, source_key, uid)
    SELECT $1, $2, i.key, i.uid FROM unnest($3::bytea[], $4::bigint[]) i (key, uid)
"""
_STEP: Final = """
    UPDATE import_folders SET keeps_uids = $3, uid_next = $4, finished_at = NULL
    WHERE account_id = $1 AND folder_id = $2
"""
_FINISH: Final = """
    UPDATE import_folders SET keeps_uids = $3, uid_next = $4, finished_at = clock()
    WHERE account_id = $1 AND folder_id = $2
"""
