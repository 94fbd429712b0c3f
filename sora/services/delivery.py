"""Taking mail in: LMTP deliveries and APPEND, staged, committed in batches, told to whoever waits.

The order is what makes a 250 true: every body is on disk in staging (written, synced, linked, directory synced), then
one database transaction makes it a message, then comes the reply, then the doorbell of the uploader.

**Lanes.** Few tasks do all of it. A lane that is free takes everything that waits, up to a number and a size, stages it
with one trip to the thread pool and commits it with one call. There is no timer: alone, a message is a batch of one and
waits for nobody; under load the batches grow by themselves, because the next one gathers while the last one syncs, and
whoever is about to hand in a message is let before it starts.

**Who fails.** A batch that the server refused (it answered with an SQLSTATE, so nothing was committed) is tried again
one by one, and only what is refused alone fails. If the answer was lost instead, the commit may have happened. Then the
witnesses decide: every message carries a key that its own transaction writes. They are read on a new connection, under
the locks that the delivery takes, so a backend that is still committing is waited for. What they show is there; what
they do not show is delivered again, once; if they cannot be read, the answer is a temporary failure. In no case is a
staged file removed: if the commit did happen, it is the only copy of the body.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, ParamSpec, Protocol, TypeVar

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from sora import log, metrics
from sora._native.mimescan import scan
from sora.crashpoints import crash_point
from sora.errors import Busy, DatabaseDown, KeyUnavailable, NotFound, Refused, SoraError, StagingFull, Unavailable
from sora.mime import digest as mime_digest
from sora.mime.text import fold
from sora.services.recipients import Recipient  # noqa: TC001 — msgspec reads the annotations at run time
from sora.store.account_keys import NoKeys
from sora.store.messages import NewMessage
from sora.store.sealing import Sealer, Unsealed
from sora.types import AccountId, MailboxId, Uid, UidValidity
from sora.wire import lmtp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from sora.services.changes import Changes
    from sora.store.account_keys import Sealers
    from sora.store.copies import Pieces
    from sora.store.diskfile import Octets
    from sora.store.messages import Delivered, Messages
    from sora.store.staging import Staging

_log = log.get(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
_Box = tuple[AccountId, "MailboxId | None"]

MAX_BATCH: Final = 64
"""Messages of one transaction: 32 gave 6,000 a second and 128 gave 8,000, at three times the delay."""
FULL_LANE: Final = 16
"""Units that wait before another lane opens beside one with a small batch."""
QUIET_TURNS: Final = 3
"""Turns of the event loop without a new unit before a batch starts: from the arrival of a message's last octets to its
unit it takes so many. A turn with nothing to do takes microseconds."""
STALLED_S: Final = 0.05
"""A batch that takes so long waits for a lock or for the disk: others need not wait with it."""
LARGE_BATCH_BYTES: Final = 1024 * 1024
"""A batch that nobody should wait for: its disk writes take longer than a call."""
MAX_BATCH_BYTES: Final = 32 * 1024 * 1024
"""Octets staged together; a larger message goes alone."""
KEYS_AT_ONCE: Final = 4
"""Keys of accounts that one message asks the database for at a time."""
MAX_HOPS: Final = 50
"""Received lines before a message counts as looping (RFC 5321 §6.3 asks for a large number)."""
INLINE_BYTES: Final = 256 * 1024
"""Hashing and parsing up to this size is done in the event loop, about a millisecond; more goes to a thread."""
ALONE_S: Final = 120.0
"""How long the units of a refused batch are tried one by one. Their lane takes nothing else meanwhile, and what they
staged is safe from the sweep for a bounded time only (`SETTLE_S` of the staging directory)."""
WITNESS_WAIT_S: Final = 10.0
"""How long the witnesses are asked for while PostgreSQL restarts, before the answer is "try again"."""


class MailLoop(Refused):
    """The message has been here before, or nearly everywhere."""

    default_text = "Mail loop"


class MailEnvelope(Struct, frozen=True):
    """An LMTP transaction.

    Attributes:
        sender: Reverse-path as written; empty for the null sender.
        recipients: In the order of their RCPT commands.
        hello: What the client called itself.
        peer: Its address, or `local`.
        tls: It came under TLS.
        utf8: SMTPUTF8 was used.
        id: Names the transaction in the log and in Received.
        peer_name: Host name of the peer, if a proxy told one.
    """

    sender: str
    recipients: tuple[Recipient, ...]
    hello: str
    peer: str
    tls: bool = False
    utf8: bool = False
    id: str = ""
    peer_name: str = ""


class AppendItem(Struct, frozen=True):
    """One message of an APPEND.

    Attributes:
        flags: Flag numbers.
        internal_date: None: now.
    """

    data: Octets
    flags: tuple[int, ...] = ()
    internal_date: datetime | None = None


class AppendResult(Struct, frozen=True):
    """APPENDUID (RFC 4315 §3): the UIDs in the order of the items."""

    uidvalidity: UidValidity
    uids: tuple[Uid, ...]


class Doorbell(Protocol):
    """Wakes the uploader."""

    def ring(self, content_ids: Iterable[int]) -> None: ...


class _Letter(Struct):
    """A message on its way: its row, and its bytes, the larger part of which accounts share."""

    row: NewMessage
    body: Unsealed

    @property
    def size(self) -> int:
        return self.row.size

    @property
    def pieces(self) -> Pieces:
        """The octets that are stored: in staging, and in the database where a copy is kept."""
        return self.body.seal()


class _Unit:
    """What is committed together or not at all: an LMTP message for one mailbox, or all messages of an APPEND."""

    __slots__ = ("done", "letters", "path", "result", "size")

    def __init__(self, path: str, letters: Sequence[_Letter]) -> None:
        self.path = path
        self.letters = letters
        self.size = sum(letter.size for letter in letters)
        self.done: asyncio.Future[list[Delivered] | SoraError] = asyncio.get_running_loop().create_future()
        self.result: list[Delivered] | SoraError | None = None

    @property
    def box(self) -> _Box:
        """Where it goes."""
        row = self.letters[0].row
        return row.account_id, row.mailbox_id

    def answer(self, result: list[Delivered] | SoraError) -> None:
        """Tell the waiting session, if it still waits."""
        self.result = self.result or result
        for letter in self.letters:
            letter.body.release()
        if not self.done.done():
            self.done.set_result(result)


class Lanes:
    """Takes units from a queue in batches, up to `count` batches at a time, oldest first.

    Whoever comes while a batch is under way waits for the next one, because a call costs as much as eight messages in
    it. Another lane opens only when as many as `FULL_LANE` wait, or one for `STALLED_S`, or the batch under way is a
    large one.
    """

    def __init__(
        self,
        commit: Callable[[list[_Unit]], Awaitable[None]],
        count: int,
        max_messages: int = MAX_BATCH,
        max_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        self._commit = commit
        self._count = count
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: deque[_Unit] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._large = 0

    def submit(self, unit: _Unit) -> None:
        """Queue a unit; its `done` has the answer."""
        self._waiting.append(unit)
        enough = self._busy == self._large or len(self._waiting) >= FULL_LANE
        if enough:
            self._open()
        elif len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(STALLED_S, self._unstall, unit)

    def _unstall(self, unit: _Unit) -> None:
        """Open another lane if `unit` is still the first that waits."""
        if self._waiting and self._waiting[0] is unit:
            self._open()

    def _open(self) -> None:
        if self._busy < self._count:
            self._busy += 1
            task = asyncio.get_running_loop().create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def drained(self) -> None:
        """Until nothing waits and nothing runs."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                if self._waiting:  # else another lane that gathered beside this one has taken all
                    await self._one(self._take())
        finally:
            # At once, not when the task is seen to be done: a unit that comes in between would wait for nobody.
            self._busy -= 1

    async def _gather(self) -> None:
        """Let sessions whose message is here hand it in."""
        quiet, count = 0, len(self._waiting)
        while quiet < QUIET_TURNS and count < self._max_messages:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == count else 0
            count = len(self._waiting)

    async def _one(self, batch: list[_Unit]) -> None:
        large = sum(unit.size for unit in batch) > LARGE_BATCH_BYTES
        self._large += large
        try:
            await self._commit(batch)
        except Exception:
            _log.exception("delivery batch failed")
        finally:
            self._large -= large
            # Only a bug or a cancelled lane leaves a unit without an answer, and then nothing is known of it.
            for unit in batch:
                unit.answer(Unavailable(detail="delivery ended without an answer"))

    def _take(self) -> list[_Unit]:
        """The oldest unit, whatever its size, and what fits beside it."""
        batch = [self._waiting.popleft()]
        messages, size = len(batch[0].letters), batch[0].size
        while self._waiting:
            unit = self._waiting[0]
            messages += len(unit.letters)
            size += unit.size
            if messages > self._max_messages or size > self._max_bytes:
                break
            batch.append(self._waiting.popleft())
        return batch


class Delivery:
    """Stores mail for all protocols of a worker.

    Args:
        messages: On the delivery connections, so that queries of sessions and deliveries do not wait for each other.
        instance_id: Names the staging directory in `pending_uploads`.
        sealers: How the bodies of an account are stored; by default encryption is off.
        host: Our name in Received.
        lanes: Batches at a time; one for each delivery connection.
        body_limit: Characters of body text kept for search; 0: none.
        copies: Keep a copy of each body in the database until it is uploaded.
        fenced: True while this node must take no mail: its name is used by another process.
        clock: The time of day.
    """

    def __init__(
        self,
        messages: Messages,
        staging: Staging,
        changes: Changes,
        doorbell: Doorbell,
        *,
        instance_id: str,
        host: str,
        sealers: Sealers | None = None,
        lanes: int = 2,
        body_limit: int = 65536,
        copies: bool = False,
        fenced: Callable[[], bool] = lambda: False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._messages = messages
        self._staging = staging
        self._changes = changes
        self._doorbell = doorbell
        self._instance_id = instance_id
        self._sealers = sealers or NoKeys()
        self.host = host
        self._body_limit = body_limit
        self._copies = copies
        self._fenced = fenced
        self._clock = clock
        self._lanes = Lanes(self._commit, lanes)

    async def close(self) -> None:
        """Let what was taken be finished."""
        await self._lanes.drained()

    # ------------------------------------------------------------------------------------------------ LMTP

    async def deliver(self, data: Octets, envelope: MailEnvelope) -> list[SoraError | None]:
        """Store one message for its recipients, each on its own.

        Recipients that share a mailbox share the message; mailboxes of one account share the body, stamped once.

        Args:
            data: As received, without trace headers; a large message may be the mapping of a file.

        Returns:
            One entry for each recipient, in order: None if stored, else why not.
        """
        started = time.perf_counter()
        header = lmtp.header_of(data[: lmtp.MAX_HEADER])
        if lmtp.count_received(header) > MAX_HOPS:
            return [MailLoop("Too many hops")] * len(envelope.recipients)
        been = lmtp.delivered_to(header)
        accounts: dict[AccountId, list[Recipient]] = {}
        for recipient in envelope.recipients:
            if recipient.address.casefold() not in been:
                accounts.setdefault(recipient.account_id, []).append(recipient)
        failed, sealers = await self._sealers_of(accounts)
        letters = await _off_loop(len(data) * len(sealers), self._lmtp_letters, data, envelope, accounts, sealers)
        units = {box: _Unit("lmtp", [letter]) for box, letter in letters.items()}
        for unit in units.values():
            self._lanes.submit(unit)
        outcomes = {box: _error(await unit.done) for box, unit in units.items()}
        metrics.delivery_seconds.observe(time.perf_counter() - started)
        looped = MailLoop("The message was delivered here before")
        return [
            outcomes.get(_box(recipient), failed.get(recipient.account_id, looped)) for recipient in envelope.recipients
        ]

    async def _sealers_of(
        self, accounts: Iterable[AccountId]
    ) -> tuple[dict[AccountId, SoraError], dict[AccountId, Sealer]]:
        """Why accounts can store nothing now, and the sealers of the others."""
        failed: dict[AccountId, SoraError] = {}
        sealers: dict[AccountId, Sealer] = {}

        async def find(account_id: AccountId) -> None:
            try:
                sealers[account_id] = await self._sealers.get(account_id)
            except (Unavailable, NotFound) as error:
                failed[account_id] = error

        missing = []
        for account_id in accounts:
            sealer = self._sealers.peek(account_id)
            if sealer is None:
                missing.append(account_id)
            else:
                sealers[account_id] = sealer
        for start in range(0, len(missing), KEYS_AT_ONCE):
            await asyncio.gather(*map(find, missing[start : start + KEYS_AT_ONCE]))
        return failed, sealers

    def _lmtp_letters(
        self,
        data: Octets,
        envelope: MailEnvelope,
        accounts: dict[AccountId, list[Recipient]],
        sealers: dict[AccountId, Sealer],
    ) -> dict[_Box, _Letter]:
        """One letter for each mailbox. Pure computation: large messages run it in a thread."""
        now = self._clock()
        trace = lmtp.Trace(
            sender=envelope.sender,
            hello=envelope.hello,
            peer=envelope.peer,
            host=self.host,
            tls=envelope.tls,
            utf8=envelope.utf8,
            id=envelope.id,
            received_at=now,
            peer_name=envelope.peer_name,
        )
        digest = mime_digest.digest(data, self._body_limit)
        received = hashlib.blake2b(data, digest_size=32)
        letters: dict[_Box, _Letter] = {}
        for account_id, sealer in sealers.items():
            members = accounts[account_id]
            stamp = lmtp.write_trace(trace, members[0].address, [recipient.text for recipient in members])
            row = NewMessage(
                account_id=account_id,
                mailbox_id=None,
                content_hash=sealer.hash((stamp, data)),
                size=len(stamp) + len(data),
                internal_date=now,
                digest=digest,
                trace=stamp,
                trace_text=_searchable(stamp),
                key=_dedupe_key(received, envelope.sender, account_id),
            )
            body = Unsealed(sealer, row.content_hash, (stamp, data), keep=self._copies)
            for recipient in members:
                letters[_box(recipient)] = _Letter(replace(row, mailbox_id=recipient.mailbox_id), body)
        return letters

    # ------------------------------------------------------------------------------------------------ APPEND

    async def append(self, account_id: AccountId, mailbox_id: MailboxId, items: Sequence[AppendItem]) -> AppendResult:
        """Store messages in one mailbox, all in one transaction or none (RFC 3502 §4).

        Raises:
            NotFound: The mailbox is gone.
            OverQuota: They do not fit.
            Unavailable: Try again; if the connection to PostgreSQL broke, they may be there.
        """
        sealer = self._sealers.peek(account_id) or await self._sealers.get(account_id)
        letters = await _off_loop(
            sum(len(item.data) for item in items), self._append_letters, account_id, mailbox_id, items, sealer
        )
        unit = _Unit("append", letters)
        self._lanes.submit(unit)
        result = await unit.done
        if isinstance(result, SoraError):
            raise result
        return AppendResult(result[0].uidvalidity, tuple(row.uid for row in result))

    def _append_letters(
        self, account_id: AccountId, mailbox_id: MailboxId, items: Sequence[AppendItem], sealer: Sealer
    ) -> list[_Letter]:
        now = self._clock()
        letters = []
        for item in items:
            digest = sealer.hash((item.data,))
            row = NewMessage(
                account_id=account_id,
                mailbox_id=mailbox_id,
                content_hash=digest,
                size=len(item.data),
                internal_date=item.internal_date or now,
                flags=item.flags,
                digest=mime_digest.digest(item.data, self._body_limit),
                append_id=uuid.uuid4(),
            )
            letters.append(_Letter(row, Unsealed(sealer, digest, (item.data,), keep=self._copies)))
        return letters

    # ------------------------------------------------------------------------------------------------ batches

    async def _commit(self, batch: list[_Unit]) -> None:
        """Stage and store a batch; every unit has its answer afterwards."""
        if self._fenced():
            self._refuse(batch, Unavailable(detail="another process uses the name of this node"))
            return
        try:
            await self._stage(batch)
        except (OSError, StagingFull) as error:
            if len(batch) > 1:
                # A large message may find no room where the small ones beside it do.
                for unit in batch:
                    await self._commit([unit])
                return
            _log.error("staging failed", extra={"error": str(error)})
            self._refuse(batch, error if isinstance(error, StagingFull) else Unavailable(detail=str(error)))
            return
        paths = {unit.path for unit in batch}
        if "lmtp" in paths:
            crash_point("lmtp.staged")
        if "append" in paths:
            crash_point("append.staged")
        await self._save(batch)

    async def _stage(self, batch: list[_Unit]) -> None:
        letters = {(a.row.account_id, a.row.content_hash): a for unit in batch for a in unit.letters}
        await self._staging.stage_many([(*key, letter.body) for key, letter in letters.items()])

    async def _save(self, units: list[_Unit], *, again: bool = True) -> None:
        """Commit staged units with one call.

        Args:
            again: A lost answer may be followed by a second attempt.
        """
        letters = [letter for unit in units for letter in unit.letters]
        rows = [letter.row for letter in letters]
        try:
            bodies = [letter.pieces for letter in letters] if self._copies else None
            delivered = await self._messages.deliver(rows, self._instance_id, bodies)
        except DatabaseDown as error:
            if not error.maybe_done:
                self._refuse(units, error)
                return
            await self._after_lost_answer(units, error, again)
        except (Refused, Busy, KeyUnavailable, asyncpg.PostgresError, asyncpg.DataError) as error:
            await self._after_refusal(units, error, again)
        else:
            metrics.delivery_batch.observe(len(rows))
            self._finish(units, delivered)

    async def _after_refusal(self, units: list[_Unit], error: Exception, again: bool) -> None:
        """Nothing of the batch is there, the server says so: each unit stands for itself.

        But where it was not even asked, because no connection was free, asking again for each only takes longer.
        """
        asked = not isinstance(error, Busy) or isinstance(error.__cause__, asyncpg.PostgresError)
        if len(units) > 1 and asked:
            await self._one_by_one(units, again)
            return
        if isinstance(error, NotFound) and _send_to_inbox(units[0]):
            await self._save(units, again=again)
            return
        if isinstance(error, SoraError):
            self._refuse(units, error)
            return
        # No mail is lost over a mistake of ours: the sender keeps it until this is mended.
        _log.error("delivery refused by the database", exc_info=error, extra={"path": units[0].path})
        self._refuse(units, Unavailable(detail=str(error)))

    async def _one_by_one(self, units: list[_Unit], again: bool) -> None:
        """Who meets a locked mailbox speaks for all that wait for it: they would wait as long, one after the other."""
        ends = time.monotonic() + ALONE_S
        locked: dict[_Box, Busy] = {}
        for unit in units:
            if time.monotonic() > ends:
                self._refuse([unit], Busy(detail="the batch took too long"))
            elif unit.box in locked:
                self._refuse([unit], locked[unit.box])
            else:
                await self._save([unit], again=again)
                if isinstance(unit.result, Busy):
                    locked[unit.box] = unit.result

    async def _after_lost_answer(self, units: list[_Unit], error: DatabaseDown, again: bool) -> None:
        """The connection broke after the call was sent: let the witnesses decide."""
        try:
            found = await self._witnesses([letter.row for unit in units for letter in unit.letters])
        except Unavailable as unknown:
            metrics.delivery_ambiguous.labels("unknown").inc(len(units))
            _log.error("delivery unknown: no witness could be read", extra={"units": len(units)})
            self._refuse(units, DatabaseDown(detail=str(unknown), maybe_done=True))
            return
        missing = []
        for unit in units:
            rows = [found.pop(0) for _ in unit.letters]
            known = [row for row in rows if row is not None]
            if len(known) == len(rows):
                metrics.delivery_ambiguous.labels("committed").inc()
                self._finish([unit], known)
            else:
                metrics.delivery_ambiguous.labels("absent").inc()
                missing.append(unit)
        if missing and again:
            await self._save(missing, again=False)
        else:
            self._refuse(missing, DatabaseDown(detail=str(error)))  # the witnesses are sure that it was not done

    async def _witnesses(self, rows: list[NewMessage]) -> list[Delivered | None]:
        """Read the witnesses, while PostgreSQL comes back for a moment.

        Raises:
            Unavailable: It did not.
        """
        deadline = time.monotonic() + WITNESS_WAIT_S
        pause = 0.05
        while True:
            try:
                return await self._messages.find_witnesses(rows)
            except Unavailable:
                if time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _finish(self, units: list[_Unit], delivered: list[Delivered]) -> None:
        """Committed: answer, then wake whoever waits for it."""
        paths = {unit.path for unit in units}
        if "lmtp" in paths:
            crash_point("lmtp.committed")
        if "append" in paths:
            crash_point("append.committed")
        start = 0
        for unit in units:
            rows = delivered[start : start + len(unit.letters)]
            start += len(rows)
            duplicates = sum(row.duplicate for row in rows)
            metrics.deliveries.labels(unit.path, "stored").inc(len(rows) - duplicates)
            if duplicates:
                metrics.delivery_duplicates.inc(duplicates)
                _log.info("delivery suppressed as a retry", extra={"account_id": unit.letters[0].row.account_id})
            unit.answer(rows)
        self._doorbell.ring(row.content_id for row in delivered if not row.duplicate)
        for row in delivered:
            self._changes.publish(row.account_id, row.mailbox_id, row.modseq)

    def _refuse(self, units: list[_Unit], error: SoraError) -> None:
        result = "refused" if isinstance(error, Refused) else "failed"
        for unit in units:
            metrics.deliveries.labels(unit.path, result).inc(len(unit.letters))
            unit.answer(error)


# ---------------------------------------------------------------------------------------------------- inside


async def _off_loop(size: int, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Compute here if `size` octets take little time, else in a thread."""
    if size <= INLINE_BYTES:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def _dedupe_key(received: hashlib.blake2b, sender: str, account_id: AccountId) -> bytes:
    """What a retry of a delivery has in common with the first try: bytes as received, MAIL FROM and recipient.

    The recipient counts as the account that it resolved to, and the database keeps the keys by mailbox: an MTA that
    repeats only one of two recipients of one mailbox repeats the same delivery.
    """
    state = received.copy()
    state.update(b"\0%d\0" % account_id + sender.encode())
    return state.digest()


def _searchable(stamp: bytes) -> str:
    """The text of trace fields as `Digest.header_text` has the others."""
    return fold(mime_digest.header_text(scan(stamp + b"\r\n")))


def _box(recipient: Recipient) -> _Box:
    return recipient.account_id, recipient.mailbox_id


def _send_to_inbox(unit: _Unit) -> bool:
    """Readdress a delivery whose `+detail` mailbox was deleted meanwhile; False if it goes to INBOX already."""
    if unit.path != "lmtp" or unit.letters[0].row.mailbox_id is None:
        return False
    unit.letters[0].row = replace(unit.letters[0].row, mailbox_id=None)
    return True


def _error(result: list[Delivered] | SoraError) -> SoraError | None:
    return result if isinstance(result, SoraError) else None
