"""Messages: state of a mailbox, delivery, flags, expunge, copy and move, rows.

Each change is one call of one SQL function, hence one transaction under the mailbox's lock. What a lost connection
means is the caller's affair: `DatabaseDown.maybe_done` says that the change may have been committed. Only a delivery
leaves something behind by which that can be found out (`find_witnesses`); for all others the answer is "try again".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from sora.errors import NotFound
from sora.store.copies import add_parts
from sora.store.deliveries import (
    DELIVER,
    DELIVER_COPIED,
    FIND_APPENDS,
    FIND_DELIVERIES,
    HELD,
    LOCKS_FREE,
    arguments_of,
    delivered_of,
    sorted_copies,
    stored_effects,
    units_of,
    witness_of,
)
from sora.store.effects import AlreadyAnswered, apply
from sora.store.flags import FlagChange, FlagEdit, FlagLanes
from sora.store.replacing import take_away
from sora.types import ALL_RIGHTS, MAX_UID, AccountId, ContentId, MailboxId, ModSeq, Rights, Uid, UidValidity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from asyncpg import Record

    from sora._native.seqset import UidSet
    from sora.store.copies import Pieces
    from sora.store.db import Connection, Database
    from sora.store.deliveries import Delivered, NewMessage, Share
    from sora.store.effects import Applied
    from sora.store.leases import Lease
    from sora.store.replacing import Replaced

CHUNK_ROWS: Final = 500
"""Rows of one statement in `rows`: about a megabyte of envelopes and structures."""
NARROW_ROWS: Final = 2_000
"""The same where no such column is asked for."""
MAX_EXPUNGE: Final = 50_000
"""UIDs of one expunging statement; its row in the expunge log is an array of them."""


class MailboxState(Struct, frozen=True):
    """A mailbox in one database snapshot; `state` has the record format of `viewcols.Snapshot.load`.

    With a viewer, who is not the owner, \\Seen is the viewer's own.

    Attributes:
        state: all blocks, or in a delta the changed ones; None: there are none.
        rights: of the viewer, or of the owner if there is none.
    """

    uid_next: Uid
    highest_modseq: ModSeq
    message_count: int
    unseen_count: int
    state: bytes | None
    uidvalidity: UidValidity = UidValidity(0)
    deleted_count: int = 0
    total_size: int = 0
    expunge_floor: ModSeq = ModSeq(0)
    rights: Rights = ALL_RIGHTS


class ModSeqState(Struct, frozen=True):
    """What `_native.modseqs.ModSeqs` is made of, in one database snapshot.

    Attributes:
        created, changes: in the formats of the function; None: there are none.
    """

    highest_modseq: ModSeq
    created: bytes | None
    changes: bytes | None


class ExpungeLog(Struct, frozen=True):
    """What went from a mailbox after some modseq.

    Attributes:
        complete: False: the log does not reach back so far, and more went than `uids`.
    """

    complete: bool
    uids: list[Uid]


class Expunged(Struct, frozen=True):
    """Answer of `expunge`: the mailbox's modseq after it, and the UIDs that went, ascending."""

    modseq: ModSeq
    uids: list[Uid]


class CopyResult(Struct, frozen=True):
    """Answer of `copy` and `move`: COPYUID (RFC 4315 §3).

    Attributes:
        uidvalidity: of the target.
        source_uids: ascending; empty: nothing was copied.
        target_uids: in the order of `source_uids`.
        source_modseq: of the source mailbox after it.
        target_modseq: of the target mailbox after it.
    """

    uidvalidity: UidValidity
    source_uids: list[Uid]
    target_uids: list[Uid]
    source_modseq: ModSeq
    target_modseq: ModSeq


# Columns that `rows` can give, by the table they are in.
_MESSAGE_COLUMNS: Final = frozenset(
    {"uid", "size", "internal_date", "saved_at", "content_id", "created_modseq", "expunged_at"}
)
_CONTENT_COLUMNS: Final = frozenset(
    {
        "content_hash", "sent_at", "message_id", "in_reply_to", "reference_ids", "thread_id", "subject", "base_subject",
        "sender", "recipients", "cc", "bcc", "reply_to", "display_from", "display_to", "preview", "envelope",
        "body_structure", "header", "uploaded_at",
    }
)  # fmt: skip


class Messages:
    """Messages of all mailboxes."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._flags = FlagLanes(db)

    # ── state ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def state(
        self, account_id: AccountId, mailbox_id: MailboxId, viewer_id: AccountId | None = None
    ) -> MailboxState:
        """Everything a session must know of a mailbox, in one row.

        Raises:
            NotFound: the mailbox is gone.
        """
        return _state(
            await self._db.fetchrow("SELECT * FROM mailbox_state($1, $2, $3)", account_id, mailbox_id, viewer_id)
        )

    async def delta(
        self, account_id: AccountId, mailbox_id: MailboxId, since: int, viewer_id: AccountId | None = None
    ) -> MailboxState:
        """The blocks that changed after modseq *since*, whole.

        Raises:
            NotFound: the mailbox is gone.
        """
        return _state(
            await self._db.fetchrow(
                "SELECT * FROM mailbox_delta($1, $2, $3, $4)", account_id, mailbox_id, since, viewer_id
            )
        )

    async def modseqs(self, account_id: AccountId, mailbox_id: MailboxId, since: int) -> ModSeqState:
        """Creations and flag changes after modseq *since*; 0: of all messages.

        Raises:
            NotFound: the mailbox is gone.
        """
        row = await self._since("SELECT * FROM modseqs($1, $2, $3)", account_id, mailbox_id, since)
        return ModSeqState(**row)

    async def expunged_since(self, account_id: AccountId, mailbox_id: MailboxId, since: int) -> ExpungeLog:
        """UIDs that were expunged after modseq *since* (RFC 7162 §3.2.5), ascending.

        Raises:
            NotFound: the mailbox is gone.
        """
        return ExpungeLog(
            **await self._since("SELECT * FROM expunged_since($1, $2, $3)", account_id, mailbox_id, since)
        )

    async def _since(self, sql: str, account_id: AccountId, mailbox_id: MailboxId, since: int) -> Record:
        row = await self._db.fetchrow(sql, account_id, mailbox_id, since)
        if row is None:
            raise NotFound("No such mailbox")
        return row

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def rows(
        self, account_id: AccountId, mailbox_id: MailboxId, uids: UidSet, columns: Sequence[str]
    ) -> AsyncIterator[list[Record]]:
        """Rows of messages, in chunks and in the order of their UIDs.

        The next chunk is on its way while the caller works on one. Messages that were expunged but are not purged yet
        are among them: a session may fetch what it has not been told to forget (RFC 9051 §5.5).

        Args:
            columns: any of the columns of `messages` and `message_contents`; `uid` is always there.

        Raises:
            ValueError: an unknown column.
        """
        sql = _select(columns)
        slices = _slices(uids, NARROW_ROWS if _MESSAGE_COLUMNS.issuperset(columns) else CHUNK_ROWS)
        pending = self._fetch_slice(sql, account_id, mailbox_id, next(slices, None))
        try:
            while pending is not None:
                rows = await pending
                pending = self._fetch_slice(sql, account_id, mailbox_id, next(slices, None))
                if rows:
                    yield rows
        finally:
            if pending is not None:
                pending.cancel()

    def _fetch_slice(
        self, sql: str, account_id: AccountId, mailbox_id: MailboxId, bounds: tuple[list[int], list[int]] | None
    ) -> asyncio.Task[list[Record]] | None:
        if bounds is None:
            return None
        return asyncio.create_task(self._db.fetch(sql, account_id, mailbox_id, *bounds))

    async def list_messages(
        self, account_id: AccountId, mailbox_id: MailboxId, *, after: int = 0, limit: int = 1000
    ) -> list[Record]:
        """Live messages behind a UID, for an administrator: uid, size, internal_date, sender, subject, uploaded_at."""
        return await self._db.fetch(
            """
            SELECT m.uid, m.size, m.internal_date, c.sender, c.subject, c.uploaded_at
            FROM messages m JOIN message_contents c USING (account_id, content_id)
            WHERE m.account_id = $1 AND m.mailbox_id = $2 AND m.uid > $3 AND m.expunged_at IS NULL
            ORDER BY m.uid LIMIT $4
            """,
            account_id, mailbox_id, after, limit,
        )  # fmt: skip

    # ── delivery ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def deliver(
        self,
        batch: Sequence[NewMessage],
        instance_id: str,
        bodies: Sequence[Pieces] | None = None,
        *,
        patient: bool = True,
    ) -> list[Delivered]:
        """Store messages, all or none, in one statement; with large bodies, in one transaction.

        Args:
            batch: at least one; bodies are staged on *instance_id* already.
            bodies: their stored octets, of which copies are kept until they are uploaded; None: none are.
            patient: wait for mailboxes that somebody else has locked; else their messages come back as `locked`, and
                only the others are stored. Messages of one mailbox have the same lot.


        Returns:
            One entry for each message, in order.

        Raises:
            NotFound: one of the mailboxes is gone; nothing was stored.
            OverQuota: one of the messages does not fit; nothing was stored.
            DatabaseDown: with `maybe_done`, ask `find_witnesses`.
        """
        arguments = arguments_of(batch, instance_id, patient=patient)
        if bodies is None:
            rows = await self._db.fetch(DELIVER, *arguments)
        else:
            rows = await self._deliver_copied(batch, arguments, bodies)
        return [delivered_of(row) for row in rows]

    async def deliver_shares(
        self,
        shares: Sequence[Share],
        instance_id: str,
        bodies: Sequence[Pieces] | None = None,
        *,
        patient: bool = True,
    ) -> tuple[list[Delivered], list[Applied | None]]:
        """Store messages of which some belong together, and do what filters want besides, in one transaction.

        Args:
            shares: in order; `bodies` has those of all their messages.
            patient: as for `deliver`; where one message of a share is locked, the others come back without a UID.

        Returns:
            One entry for each message, and what became of the effects of each share: None where there are none, or its
            messages are not stored.

        Raises:
            AlreadyAnswered: a share has the copy of a reply that is not to be sent; give it again without.
            SoraError: as `deliver`; nothing was stored and nothing has happened.
        """
        batch = [message for share in shares for message in share.messages]
        arguments = arguments_of(batch, instance_id, patient=patient, units=units_of(shares))
        if all(share.effects is None for share in shares):
            rows = (
                await self._db.fetch(DELIVER, *arguments)
                if bodies is None
                else await self._deliver_copied(batch, arguments, bodies)
            )
            return [delivered_of(row) for row in rows], [None] * len(shares)
        async with self._db.transaction() as conn:
            rows = await self._deliver_on(conn, batch, arguments, bodies) if batch else []
            delivered = [delivered_of(row) for row in rows]
            applied = await apply(conn, list(stored_effects(shares, delivered)))
            for share, done in zip(shares, applied, strict=True):
                if done is not None and done.answered and share.effects is not None and share.effects.copies:
                    raise AlreadyAnswered
        return delivered, applied

    async def replace(
        self,
        replaced: Replaced,
        batch: Sequence[NewMessage],
        instance_id: str,
        bodies: Sequence[Pieces] | None = None,
    ) -> list[Delivered]:
        """Store messages and expunge another one, all in one transaction or none (RFC 8508 §3); waits for locks.

        Raises:
            errors.Expunged: *replaced* is gone already; nothing was stored.
            SoraError: as `deliver`.
        """
        accounts, mailboxes = [m.account_id for m in batch], [m.mailbox_id for m in batch]
        async with self._db.transaction() as conn:
            modseq = await take_away(conn, replaced, accounts, mailboxes)
            rows = await self._deliver_on(conn, batch, arguments_of(batch, instance_id, patient=True), bodies)
        return [delivered_of(row, modseq) for row in rows]

    async def deliver_on(
        self,
        conn: Connection,
        batch: Sequence[NewMessage],
        instance_id: str,
        bodies: Sequence[Pieces] | None = None,
    ) -> list[Delivered]:
        """`deliver` as a part of the caller's transaction; waits for locks."""
        rows = await self._deliver_on(conn, batch, arguments_of(batch, instance_id, patient=True), bodies)
        return [delivered_of(row) for row in rows]

    async def _deliver_copied(
        self, batch: Sequence[NewMessage], arguments: Sequence[Any], bodies: Sequence[Pieces]
    ) -> list[Record]:
        """With a copy of each different body: small ones in the call, large ones part by part behind it."""
        large, inline = sorted_copies(batch, bodies)
        if not large:
            return await self._db.fetch(DELIVER_COPIED, *arguments, inline)
        async with self._db.transaction() as conn:
            return await self._deliver_on(conn, batch, arguments, bodies)

    async def _deliver_on(
        self, conn: Connection, batch: Sequence[NewMessage], arguments: Sequence[Any], bodies: Sequence[Pieces] | None
    ) -> list[Record]:
        """Inside a transaction, with copies if there are bodies."""
        if bodies is None:
            plain: list[Record] = await conn.fetch(DELIVER, *arguments)
            return plain
        large, inline = sorted_copies(batch, bodies)
        rows: list[Record] = await conn.fetch(DELIVER_COPIED, *arguments, inline)
        # Of the first message with a body nothing may be known, and of a second one, for another mailbox, all.
        contents = {
            (m.account_id, m.content_hash): ContentId(row["content_id"])
            for m, row in zip(batch, rows, strict=True)
            if row["content_id"] is not None  # None: locked, or a retry of what is expunged and purged
        }
        for i in sorted(large):
            content_id = contents.get((batch[i].account_id, batch[i].content_hash))
            if content_id is not None:
                await add_parts(conn, batch[i].account_id, content_id, bodies[i])
        return rows

    async def wait_for_lock(self, account_id: AccountId, mailbox_id: MailboxId) -> None:
        """Until the lock of a mailbox and of its quota, as `deliver` takes them, is free; nothing is held afterwards.

        Raises:
            Busy: it takes too long.
        """
        await self._db.execute(LOCKS_FREE, account_id, mailbox_id)

    async def find_witnesses(self, batch: Sequence[NewMessage]) -> list[Delivered | None]:
        """Which messages of a lost `deliver` are stored: the answer is final.

        The mailbox locks are taken first, so a backend that is still committing the call is waited for.

        Returns:
            One entry for each message, in order; None: not stored.
        """
        found: dict[int, Record] = {}
        lmtp = [(i, m) for i, m in enumerate(batch) if m.key is not None and m.mailbox_id != HELD]
        if lmtp:
            rows = await self._db.fetch(
                FIND_DELIVERIES,
                [m.account_id for _, m in lmtp],
                [m.mailbox_id for _, m in lmtp],
                [m.key for _, m in lmtp],
            )
            found |= {lmtp[row["ord"] - 1][0]: row for row in rows}
        places = {m.append_id: i for i, m in enumerate(batch) if m.append_id is not None}
        for account_id, mailbox_id in {(m.account_id, m.mailbox_id) for m in batch if m.append_id is not None}:
            rows = await self._db.fetch(FIND_APPENDS, account_id, mailbox_id, list(places))
            found |= {places[row["append_id"]]: row for row in rows}
        if not lmtp and not places:
            await self._db.fetchval("SELECT 1")  # nothing to ask, but the caller goes on when the server is there
        return [witness_of(message, found.get(i)) for i, message in enumerate(batch)]

    # ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def store_flags(
        self,
        account_id: AccountId,
        mailbox_id: MailboxId,
        uids: UidSet,
        set: Sequence[int],
        clear: Sequence[int] = (),
        replace: bool = False,
        unchanged_since: int | None = None,
        viewer_id: AccountId | None = None,
    ) -> FlagChange:
        """Set and clear flags; `replace`: clear every other one too (STORE, RFC 9051 §6.4.6).

        Args:
            uids: those that are gone are skipped.
            unchanged_since: leave messages alone that changed after this modseq (RFC 7162 §3.1.3); 0 is a value.
            viewer_id: one who is not the owner, and whose own \\Seen is meant.

        Raises:
            NotFound: the mailbox is gone.
        """
        lows, highs = uids.bounds()
        edit = FlagEdit(
            account_id, mailbox_id, lows, highs, list(set), list(clear), replace, unchanged_since, viewer_id
        )
        return await self._flags.store(edit)

    async def expunge(
        self,
        account_id: AccountId,
        mailbox_id: MailboxId,
        uids: UidSet | None = None,
        only_deleted: bool = True,
        lease: Lease | None = None,
    ) -> Expunged:
        """Remove messages (they can be restored within the grace period).

        Args:
            uids: None: the whole mailbox.
            only_deleted: only those with \\Deleted, as EXPUNGE and UID EXPUNGE want.
            lease: refuse unless this is still held (POP3 QUIT).

        Raises:
            NotFound: the mailbox is gone.
            InUse: the lease was lost; a part of a large set may be gone already.
        """
        modseq = ModSeq(0)
        gone: list[Uid] = []
        parts = [([1], [MAX_UID])] if uids is None else _slices(uids, MAX_EXPUNGE)
        for lows, highs in parts:
            row = await self._db.fetchrow(
                "SELECT * FROM expunge($1, $2, $3, $4, $5, $6, $7)",
                account_id, mailbox_id, lows, highs, only_deleted, lease and lease.name, lease and lease.token,
            )  # fmt: skip
            assert row is not None, "expunge() always answers with one row"
            modseq = ModSeq(row["modseq"])
            gone += row["uids"]
        return Expunged(modseq, gone)

    async def copy(
        self,
        account_id: AccountId,
        mailbox_id: MailboxId,
        uids: UidSet,
        to_mailbox_id: MailboxId,
        actor_id: AccountId | None = None,
        rights: Rights = ALL_RIGHTS,
    ) -> CopyResult:
        """Copy messages inside an account with flags and internal dates, all or none (RFC 9051 §6.4.7).

        Args:
            uids: those that are gone are skipped.
            actor_id: who does it, if not the owner: of \\Seen that one's is copied.
            rights: the actor's in the target; flags that they do not allow to set stay behind.

        Raises:
            NotFound: one of the mailboxes is gone.
            OverQuota: nothing was copied.
        """
        return await self._transfer("copy_messages", account_id, mailbox_id, uids, to_mailbox_id, actor_id, rights)

    async def move(
        self,
        account_id: AccountId,
        mailbox_id: MailboxId,
        uids: UidSet,
        to_mailbox_id: MailboxId,
        actor_id: AccountId | None = None,
        rights: Rights = ALL_RIGHTS,
    ) -> CopyResult:
        """Copy messages and expunge them here, in one transaction (RFC 6851 §3.3)."""
        return await self._transfer("move_messages", account_id, mailbox_id, uids, to_mailbox_id, actor_id, rights)

    async def _transfer(
        self,
        function: str,
        account_id: AccountId,
        mailbox_id: MailboxId,
        uids: UidSet,
        to_mailbox_id: MailboxId,
        actor_id: AccountId | None,
        rights: Rights,
    ) -> CopyResult:
        row = await self._db.fetchrow(
            f"SELECT * FROM {function}($1, $2, $1, $3, $4, $5, $6, p_rights => $7)",
            account_id, mailbox_id, to_mailbox_id, *uids.bounds(), actor_id, int(rights),
        )  # fmt: skip
        assert row is not None, "copy_messages() always answers with one row"
        return CopyResult(**row)


def _state(row: Record | None) -> MailboxState:
    if row is None:
        raise NotFound("No such mailbox")
    return read_state(row.values())


def read_state(values: Iterable[Any]) -> MailboxState:
    """The columns of `mailbox_state` and `mailbox_delta`, in their order."""
    columns = [*values]
    columns[-1] = Rights(columns[-1])
    return MailboxState(*columns)


def _select(columns: Sequence[str]) -> str:
    """Rows of the UIDs in $3 … $4 (ranges).

    Both LATERALs end in OFFSET 0: without it a generic plan reads the whole mailbox and filters, because the planner
    takes account and mailbox for independent and expects one row.
    """
    unknown = set(columns) - _MESSAGE_COLUMNS - _CONTENT_COLUMNS
    if unknown:
        raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
    names = ["uid", *(name for name in dict.fromkeys(columns) if name != "uid")]
    chosen = ", ".join(("m." if name in _MESSAGE_COLUMNS else "c.") + name for name in names)
    contents = ", ".join(name for name in names if name in _CONTENT_COLUMNS)
    join = (
        f"""
        CROSS JOIN LATERAL (
          SELECT {contents} FROM message_contents i
          WHERE i.account_id = $1 AND i.content_id = m.content_id OFFSET 0) c"""
        if contents
        else ""
    )
    return f"""
        SELECT {chosen} FROM unnest($3::bigint[], $4::bigint[]) r(lo, hi)
        CROSS JOIN LATERAL (
          SELECT * FROM messages i
          WHERE i.account_id = $1 AND i.mailbox_id = $2 AND i.uid BETWEEN r.lo AND r.hi OFFSET 0) m{join}
        ORDER BY m.uid"""


def _slices(uids: UidSet, size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Cut a set into bounds of at most *size* numbers each, ascending."""
    lows: list[int] = []
    highs: list[int] = []
    room = size
    for low, high in uids.ranges():
        while low <= high:
            end = min(high, low + room - 1)
            lows.append(low)
            highs.append(end)
            room -= end - low + 1
            low = end + 1
            if not room:
                yield lows, highs
                lows, highs, room = [], [], size
    if lows:
        yield lows, highs
