"""A POP3 maildrop: the INBOX of an account as it was at login, under a lease that holds across nodes (RFC 1939 §4).

STAT, LIST and UIDL speak of this one snapshot, whatever arrives or is expunged elsewhere meanwhile. Marking changes
nothing that is stored; `remove_marked` does, in a transaction that requires the lease, so that a session which was
taken for dead removes nothing any more.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from typing import TYPE_CHECKING, Final

from sora import log
from sora._native.seqset import UidSet
from sora._native.viewcols import Snapshot
from sora.errors import DatabaseReadOnly, InUse, NotFound, Refused, Unavailable
from sora.store import leases
from sora.store.blobs import BlobRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.services.node import Node
    from sora.store.leases import Lease
    from sora.store.mailboxes import Mailbox
    from sora.types import AccountId

_log = log.get(__name__)

LEASE_S: Final = 60.0
"""A maildrop is free again so long after its process died."""
RENEW_S: Final = 20.0
"""How often its session calls `keep`."""
ROWS_AHEAD: Final = 256
"""Messages looked up with the one that is asked for: clients take them in order."""
BODIES_AHEAD: Final = 2
"""Bodies fetched behind one that had to be waited for, while it is sent."""
BODY_AHEAD_BYTES: Final = 1024**2
"""Larger ones are not: they would not stay in memory until they are asked for."""


class NoSuchMessage(NotFound):
    """Beyond the maildrop, or marked."""

    default_text = "No such message"


class TooSoon(Refused):
    """The account logged in a moment ago (RFC 2449 §6.5)."""

    default_text = "Log in less often"


class NoMaildrop(NotFound):
    """The account has no INBOX, which no client can mend (RFC 3206 §5)."""

    default_text = "This account has no maildrop"


class Maildrop:
    """The messages of an INBOX, numbered from 1; use `open`.

    Attributes:
        uidvalidity: Of the INBOX.
        marked: Numbers of the messages to be removed.

    While the database takes no changes there is no lease, and nothing can be marked: others may read the same.
    """

    def __init__(self, node: Node, account_id: AccountId, mailbox: Mailbox, lease: Lease | None) -> None:
        self.uidvalidity = mailbox.uidvalidity
        self.marked: set[int] = set()
        self._node = node
        self._account_id = account_id
        self._mailbox_id = mailbox.mailbox_id
        self._lease = lease
        self._renew_at_mono = time.monotonic() + RENEW_S
        self._uids = array("I")
        self._sizes = array("q")
        self._octets = 0
        self._refs: dict[int, BlobRef] = {}
        self._ahead: dict[int, asyncio.Task[None]] = {}

    @classmethod
    async def open(cls, node: Node, account_id: AccountId) -> Maildrop:
        """Take the lease and the snapshot.

        Raises:
            InUse: Another session has the maildrop.
            TooSoon: The last one was opened less than `limits.pop3_login_delay` ago, on any node.
            NoMaildrop: There is no INBOX.
            Unavailable: PostgreSQL is away.
        """
        try:
            mailbox = await node.store.mailboxes.get(account_id, "INBOX")
        except NotFound as error:
            raise NoMaildrop(detail=error.text) from None
        name = leases.maildrop(account_id)
        lease: Lease | None = None
        try:
            lease = await node.store.leases.acquire(name, node.instance_id, ttl_s=LEASE_S)
        except InUse as error:
            raise InUse("Another session has this maildrop", detail=error.detail) from None
        except DatabaseReadOnly as error:
            _log.info("maildrop opened without a lease", extra={"detail": str(error)})
        drop = cls(node, account_id, mailbox, lease)
        try:
            if lease is not None:
                await drop._begin_pause()
            await drop._load()
        except BaseException:
            await drop.close()
            raise
        return drop

    async def _begin_pause(self) -> None:
        """Take a lease that nobody renews: until it runs out, the next login comes too soon."""
        pause_s = self._node.config.limits.pop3_login_delay
        if not pause_s:
            return
        name = f"pop3-login/{self._account_id}"
        try:
            await self._node.store.leases.acquire(name, self._node.instance_id, ttl_s=pause_s)
        except InUse as error:
            raise TooSoon(detail=error.detail) from None

    async def _load(self) -> None:
        store = self._node.store
        state = await store.messages.state(self._account_id, self._mailbox_id)
        live = Snapshot.load(state.state, state.uid_next, state.highest_modseq).all_uids()
        if live:
            facts = await store.search.facts(self._account_id, self._mailbox_id, live)
            self._uids.extend(fact.uid for fact in facts)
            self._sizes.extend(fact.size for fact in facts)
            self._octets = sum(self._sizes)

    # ------------------------------------------------------------------ the snapshot

    def numbers(self) -> Iterator[int]:
        """Messages that are not marked, in order."""
        return (number for number in range(1, len(self._uids) + 1) if number not in self.marked)

    def check(self, number: int) -> int:
        """The number itself.

        Raises:
            NoSuchMessage: There is none, or it is marked.
        """
        if not 1 <= number <= len(self._uids) or number in self.marked:
            raise NoSuchMessage
        return number

    def mark(self, number: int) -> None:
        """Mark a message to be removed.

        Raises:
            NoSuchMessage: There is none, or it is marked.
            DatabaseReadOnly: It could not be removed.
        """
        self.check(number)
        if self._lease is None:
            raise DatabaseReadOnly
        self.marked.add(number)

    def uid(self, number: int) -> int:
        """UID of a message."""
        return self._uids[number - 1]

    def size(self, number: int) -> int:
        """Octets of a message."""
        return self._sizes[number - 1]

    def totals(self) -> tuple[int, int]:
        """Messages that are not marked, and their octets."""
        return len(self._uids) - len(self.marked), self._octets - sum(map(self.size, self.marked))

    # ------------------------------------------------------------------ bodies

    async def body(self, number: int) -> bytes:
        """A message's octets.

        Raises:
            NoSuchMessage: It was removed elsewhere and is not kept any more.
            Unavailable: Database or object store are away.
        """
        if number not in self._refs:
            await self._look_up(number)
        ref = self._refs.get(number)
        if ref is None:
            raise NoSuchMessage
        data = self._node.bodies.get_now(ref)
        if data is not None:
            return data
        for following in range(number + 1, number + 1 + BODIES_AHEAD):
            self._fetch_ahead(following)
        return await self._node.bodies.get(ref)

    def _fetch_ahead(self, number: int) -> None:
        """Bring a body into memory; who asks for it meanwhile waits for the same search."""
        ref = self._refs.get(number)
        if ref is None or number in self._ahead or number in self.marked or ref.size > BODY_AHEAD_BYTES:
            return
        task = asyncio.create_task(self._fetch(ref))
        self._ahead[number] = task
        task.add_done_callback(lambda _: self._ahead.pop(number, None))

    async def _fetch(self, ref: BlobRef) -> None:
        try:
            await self._node.bodies.get(ref)
        except Unavailable as error:
            _log.info("body not fetched ahead", extra={"detail": str(error)})  # whoever asks for it gets the error

    async def _look_up(self, number: int) -> None:
        """Find where the bodies of a message and of those behind it are."""
        ahead = self._uids[number - 1 : number - 1 + ROWS_AHEAD]
        numbers = {uid: number + i for i, uid in enumerate(ahead)}
        uids = UidSet.from_numbers(ahead)
        columns = ("content_id", "content_hash", "size")
        self._refs = {
            numbers[row["uid"]]: BlobRef(self._account_id, row["content_id"], row["content_hash"], row["size"])
            async for rows in self._node.store.messages.rows(self._account_id, self._mailbox_id, uids, columns)
            for row in rows
        }

    # ------------------------------------------------------------------ the lease

    async def keep(self) -> None:
        """Renew the lease if that is due. Losing it ends nothing here: `remove_marked` finds out."""
        now = time.monotonic()
        if self._lease is None or now < self._renew_at_mono:
            return
        self._renew_at_mono = now + RENEW_S
        try:
            if not await self._node.store.leases.renew(self._lease, ttl_s=LEASE_S):
                _log.warning("maildrop lease lost", extra={"lease": self._lease.name})
        except Unavailable as error:
            _log.warning("maildrop lease not renewed", extra={"detail": str(error)})

    async def close(self) -> None:
        """Give the lease back; if that cannot be done now, the maildrop is free when it runs out."""
        for task in self._ahead.values():
            task.cancel()
        if self._lease is None:
            return
        try:
            await self._node.store.leases.release(self._lease)
        except Unavailable as error:
            _log.warning("maildrop lease not released", extra={"detail": str(error)})

    async def remove_marked(self) -> None:
        """Remove the marked messages (RFC 1939 §6), unless the lease is lost.

        Raises:
            InUse: It is lost.
            Unavailable: PostgreSQL is away; perhaps it was done.
        """
        if not self.marked:
            return
        uids = UidSet.from_numbers(map(self.uid, self.marked))
        gone = await self._node.store.messages.expunge(
            self._account_id, self._mailbox_id, uids, only_deleted=False, lease=self._lease
        )
        self._node.changes.publish(self._account_id, self._mailbox_id, gone.modseq)
