"""Making units of mail true: staged, committed in one transaction, answered, told to whoever waits.

The order is what makes a 250 true: every body is on disk in staging (written, synced, linked, directory synced), then
one database transaction makes it a message, then comes the reply, then the doorbell of the uploader.

**Who waits.** A batch takes the mailboxes whose locks are free. Somebody else may hold one for long (a COPY of a
hundred thousand messages, a purge): units for it step aside, staged as they are, and wait in few tasks of their own,
each on a connection. All others are committed at once. A unit for several mailboxes waits for one of them at a time,
and holds none meanwhile.

**Who fails.** A batch that the server refused (it answered with an SQLSTATE, so nothing was committed) is tried again
one by one, and only what is refused alone fails. If the answer was lost instead, the commit may have happened. Then the
witnesses decide: every message carries a key that its own transaction writes. They are read on a new connection, under
the locks that the delivery takes, so a backend that is still committing is waited for. What they show is there; what
they do not show is delivered again, once; if they cannot be read, the answer is a temporary failure. In no case is a
staged file removed: if the commit did happen, it is the only copy of the body. A unit with effects (`store/effects.py`)
is always delivered again, once: its letters are known by their keys, and its effects by a witness of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from sora import log, metrics
from sora.crashpoints import crash_point
from sora.errors import Busy, DatabaseDown, KeyUnavailable, NotFound, Refused, SoraError, StagingFull, Unavailable
from sora.services.lanes import Lanes, take
from sora.store.deliveries import HELD
from sora.store.effects import AlreadyAnswered
from sora.store.outbound import CHANNEL
from sora.store.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sora.services.changes import Changes
    from sora.services.lanes import Unit
    from sora.services.letters import Box
    from sora.store.deliveries import Delivered, NewMessage
    from sora.store.effects import Applied
    from sora.store.messages import Messages
    from sora.store.staging import Staging
    from sora.types import MailboxId

_log = log.get(__name__)

PATIENT_LANES: Final = 2
"""Mailboxes held by others whose locks are waited for at a time, each on a connection beside those of the lanes."""
TURN_S: Final = 10.0
"""How long a locked mailbox waits for its turn to be waited for: as long as the lock itself is (`deliver` in the
schema). Whose turn has not come by then is tried once more without waiting."""
ALONE_S: Final = 120.0
"""How long the units of a refused batch are tried one by one. Their lane takes nothing else meanwhile, and what they
staged is safe from the sweep for a bounded time only (`SETTLE_S` of the staging directory)."""
WITNESS_WAIT_S: Final = 10.0
"""How long the witnesses are asked for while PostgreSQL restarts, before the answer is "try again"."""
FENCED: Final = "another process uses the name of this node"


class Doorbell(Protocol):
    """Wakes the uploader."""

    def ring(self, content_ids: Iterable[int]) -> None: ...


class _Attempt(Struct, frozen=True):
    """How units are committed.

    Attributes:
        patient: Wait for a mailbox that somebody else has locked.
        again: A lost answer may be followed by a second attempt.
        apart: Somebody waits for what is locked, and tries again himself.
    """

    patient: bool = False
    again: bool = True
    apart: bool = False


_FIRST: Final = _Attempt()
_PATIENT: Final = _Attempt(patient=True)
_APART: Final = _Attempt(apart=True)


class Commits:
    """Stages and stores units in batches, up to `lanes` batches at a time.

    Args:
        instance_id: Names the staging directory in `pending_uploads`.
        copies: Keep a copy of each body in the database until it is uploaded.
        fenced: True while this node must take no mail.
    """

    def __init__(
        self,
        messages: Messages,
        staging: Staging,
        changes: Changes,
        doorbell: Doorbell,
        *,
        instance_id: str,
        lanes: int,
        copies: bool,
        fenced: Callable[[], bool],
    ) -> None:
        self._messages = messages
        self._staging = staging
        self._changes = changes
        self._doorbell = doorbell
        self._instance_id = instance_id
        self._copies = copies
        self._fenced = fenced
        self._alone: set[asyncio.Task[None]] = set()
        self._lanes = Lanes(self._commit, lanes)
        self._patience: Patience[MailboxId, Unit] = Patience(
            self._wait_for_lock, PATIENT_LANES, TURN_S, self._look_again
        )

    def submit(self, unit: Unit) -> None:
        """Queue a unit; its `done` has the answer."""
        self._lanes.submit(unit)

    def submit_alone(self, unit: Unit) -> None:
        """The same for a unit that locks more than the mailbox it goes to, so that nobody waits with it."""
        task = asyncio.create_task(self._commit_alone(unit))
        self._alone.add(task)
        task.add_done_callback(self._alone.discard)

    async def drained(self) -> None:
        """Until every unit has its answer."""
        if self._alone:
            await asyncio.wait(self._alone)
        await self._lanes.drained()
        await self._patience.drained()

    # ------------------------------------------------------------------------------------------------ batches

    async def _commit_alone(self, unit: Unit) -> None:
        try:
            await self._commit([unit], _PATIENT)
        except Exception:
            _log.exception("delivery that replaces a message failed")
        finally:
            unit.answer(Unavailable(detail="delivery ended without an answer"))

    async def _commit(self, batch: list[Unit], attempt: _Attempt = _FIRST) -> None:
        """Stage and store a batch; every unit has its answer afterwards."""
        if self._fenced():
            self._refuse(batch, Unavailable(detail=FENCED))
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
        await self._save(batch, attempt)

    async def _stage(self, batch: list[Unit]) -> None:
        letters = {(a.row.account_id, a.row.content_hash): a for unit in batch for a in unit.letters}
        await self._staging.stage_many([(*key, letter.body) for key, letter in letters.items()])

    async def _save(self, units: list[Unit], attempt: _Attempt = _FIRST) -> None:
        """Commit staged units with one call; every one has its answer afterwards, or has stepped aside."""
        letters = [letter for unit in units for letter in unit.letters]
        rows = [letter.row for letter in letters]
        try:
            bodies = [letter.pieces for letter in letters] if self._copies else None
            if (replaced := units[0].replaced) is not None:  # it is alone
                delivered = await self._messages.replace(replaced, rows, self._instance_id, bodies)
            elif all(unit.plain for unit in units):
                delivered = await self._messages.deliver(rows, self._instance_id, bodies, patient=attempt.patient)
            else:
                shares = [unit.share for unit in units]
                delivered, applied = await self._messages.deliver_shares(
                    shares, self._instance_id, bodies, patient=attempt.patient
                )
                self._note_effects(applied)
        except DatabaseDown as error:
            if not error.maybe_done:
                self._refuse(units, error)
                return
            await self._after_lost_answer(units, error, attempt)
        except (Refused, Busy, KeyUnavailable, asyncpg.PostgresError, asyncpg.DataError) as error:
            await self._after_refusal(units, error, attempt)
        else:
            stored, there = self._without_locked(units, delivered, attempt)
            if stored:
                metrics.delivery_batch.observe(len(there))
                self._finish(stored, there)

    async def _after_refusal(self, units: list[Unit], error: Exception, attempt: _Attempt) -> None:
        """Nothing of the batch is there, the server says so: each unit stands for itself.

        But where it was not even asked, because no connection was free, or where all have waited for one mailbox,
        asking again for each only takes longer.
        """
        asked = isinstance(error.__cause__, asyncpg.PostgresError) and not attempt.patient
        if len(units) > 1 and (asked or not isinstance(error, Busy)):
            await self._one_by_one(units, attempt)
            return
        again = isinstance(error, AlreadyAnswered) and units[0].forget_copies()
        if again or (isinstance(error, NotFound) and _send_to_inbox(units[0], error)):
            await self._save(units, attempt)
            return
        if isinstance(error, SoraError):
            self._refuse(units, error)
            return
        # No mail is lost over a mistake of ours: the sender keeps it until this is mended.
        _log.error("delivery refused by the database", exc_info=error, extra={"path": units[0].path})
        self._refuse(units, Unavailable(detail=str(error)))

    async def _one_by_one(self, units: list[Unit], attempt: _Attempt) -> None:
        """Who waited for a lock in vain speaks for its mailbox: others would wait as long, one after the other."""
        ends = time.monotonic() + ALONE_S
        locked: dict[Box, Busy] = {}
        for unit in units:
            if time.monotonic() > ends:
                self._refuse([unit], Busy(detail="the batch took too long"))
            elif busy := next((locked[box] for box in unit.boxes if box in locked), None):
                self._refuse([unit], busy)
            else:
                await self._save([unit], attempt)
                if isinstance(unit.result, Busy) and len(unit.boxes) == 1:  # of several it is not known which
                    locked |= dict.fromkeys(unit.boxes, unit.result)

    async def _after_lost_answer(self, units: list[Unit], error: DatabaseDown, attempt: _Attempt) -> None:
        """The connection broke after the call was sent: let the witnesses decide.

        Not so for a unit with effects, whose witness no lock protects: saving it again waits for a backend that is
        still committing it, and repeats nothing that is there.
        """
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
            if unit.effects is not None:
                metrics.delivery_ambiguous.labels("repeated").inc()
                missing.append(unit)
            elif len(known) == len(rows):
                metrics.delivery_ambiguous.labels("committed").inc()
                self._finish([unit], known)
            else:
                metrics.delivery_ambiguous.labels("absent").inc()
                missing.append(unit)
        if missing and attempt.again:
            await self._save(missing, replace(attempt, again=False))
        else:
            # Of all but those with effects the witnesses are sure that it was not done.
            self._refuse(missing, DatabaseDown(detail=str(error)))

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

    # ------------------------------------------------------------------------------------------------ locked mailboxes

    def _without_locked(
        self, units: list[Unit], delivered: list[Delivered], attempt: _Attempt
    ) -> tuple[list[Unit], list[Delivered]]:
        """What was stored, units and rows; units whose mailbox somebody else holds step aside."""
        if not any(row.locked for row in delivered):
            return units, delivered
        stored, there, start = [], [], 0
        for unit in units:
            rows = delivered[start : start + len(unit.letters)]
            start += len(rows)
            locked = next((row for row in rows if row.locked), None)
            unit.locked = None if locked is None else (locked.account_id, locked.mailbox_id)
            if locked is None:
                stored.append(unit)
                there += rows
            elif unit.aside_since is None:
                unit.aside_since = time.monotonic()
                self._patience.add(locked.mailbox_id, unit)
            elif attempt.apart:
                pass  # see `_wait_apart`
            else:
                self._refuse([unit], Busy(detail="the mailbox is locked, and too many others are"))
        return stored, there

    async def _wait_for_lock(self, units: list[Unit], attempt: _Attempt = _PATIENT) -> None:
        """Commit units of one mailbox; the first batch that waits in vain speaks for all that are there."""
        wide = [unit for unit in units if attempt.patient and unit.is_wide]
        waiting, busy = deque(unit for unit in units if unit not in wide), None
        try:
            for unit in wide:
                await self._wait_apart(unit)
            while waiting:
                batch = take(waiting)
                busy = busy or self._overdue(batch)
                if busy is not None:
                    self._refuse(batch, busy)
                    continue
                await self._save(batch, attempt)
                busy = next((unit.result for unit in batch if isinstance(unit.result, Busy)), None)
        except Exception:
            _log.exception("delivery to a locked mailbox failed")
        finally:
            for unit in units:
                unit.answer(Unavailable(detail="delivery ended without an answer"))

    async def _wait_apart(self, unit: Unit) -> None:
        """Commit a unit for several mailboxes.

        It waits for one of them at a time and holds none meanwhile: the others are as usable as if it were not there.
        """
        while unit.result is None:
            if busy := self._overdue([unit]):
                self._refuse([unit], busy)
                return
            if unit.locked is not None:
                try:
                    await self._messages.wait_for_lock(*unit.locked)
                except Unavailable as error:
                    self._refuse([unit], error)
                    return
            await self._save([unit], _APART)
            if unit.locked is None:
                return  # it has its answer

    async def _look_again(self, units: list[Unit]) -> None:
        """Their turn to wait has not come for a long time: commit them if the lock happens to be free by now."""
        await self._wait_for_lock(units, _FIRST)

    def _overdue(self, units: list[Unit]) -> SoraError | None:
        """Why units that waited aside cannot be stored any more."""
        if self._fenced():
            return Unavailable(detail=FENCED)
        since = min(unit.aside_since or 0.0 for unit in units)
        return Busy(detail="waited too long for a locked mailbox") if time.monotonic() - since > ALONE_S else None

    # ------------------------------------------------------------------------------------------------ answers

    def _finish(self, units: list[Unit], delivered: list[Delivered]) -> None:
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
            messages = [row for row in rows if row.mailbox_id != HELD]
            duplicates = sum(row.duplicate for row in messages)
            metrics.deliveries.labels(unit.path, "stored").inc(len(messages) - duplicates)
            if duplicates:
                metrics.delivery_duplicates.inc(duplicates)
                _log.info("delivery suppressed as a retry", extra={"account_id": rows[0].account_id})
            unit.answer(rows)
        self._doorbell.ring(row.content_id for row in delivered if not row.duplicate)
        for row in delivered:
            if row.mailbox_id != HELD:
                self._changes.publish(row.account_id, row.mailbox_id, row.modseq)

    def _note_effects(self, applied: Iterable[Applied | None]) -> None:
        """Committed: count them, and wake those who send."""
        there = [one for one in applied if one is not None]
        for one in there:
            metrics.delivery_effects.labels("applied" if one.first else "repeated").inc()
            metrics.delivery_answered.inc(one.answered)
        if any(one.queued for one in there):
            self._changes.ring(CHANNEL)

    def _refuse(self, units: list[Unit], error: SoraError) -> None:
        result = "refused" if isinstance(error, Refused) else "failed"
        for unit in units:
            metrics.deliveries.labels(unit.path, result).inc(len(unit.letters))
            unit.answer(error)


def _send_to_inbox(unit: Unit, error: NotFound) -> bool:
    """Readdress what was going to mailboxes that were deleted meanwhile; False if that changes nothing.

    Args:
        error: Names them, as `<account>/<mailbox>`, in the detail of the server's error; if not, all are meant.
    """
    if unit.path != "lmtp":
        return False
    missing = str(getattr(error.__cause__, "detail", None) or "").split()
    changed = False
    for letter in unit.letters:
        row = letter.row
        if row.mailbox_id is not None and (not missing or f"{row.account_id}/{row.mailbox_id}" in missing):
            letter.row = replace(row, mailbox_id=None)
            changed = True
    return changed
