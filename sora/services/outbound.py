"""Sends the mail of the queue: every node's janitor does, each with its own connections to the smarthost.

A mail is claimed, sent, and then removed from the queue. Whoever dies in between leaves a claim that ends, or is ended
by the next process of the node (`recover`): every mail leaves at least once, and a second time only where the first try
was cut off after its end of data, when nobody can know.

Temporary failures pause that mail, longer and longer; what
is refused, or too old, goes back to its sender as a report (RFC 3464), which takes the mail's place in the queue in one
transaction. Nothing is ever reported about a report, or to the null sender.

While the smarthost is down nothing is claimed, so no mail is blamed for that; one connection is tried after ever longer
pauses. Only mail that is too old is looked after meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import uuid
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from sora import log, metrics
from sora.crashpoints import crash_point
from sora.errors import KeyUnavailable, Unavailable
from sora.mime.report import Report, write_report
from sora.services.delivery import MAX_HOPS
from sora.services.smarthost import Outcome, Parcel, SmarthostDown
from sora.store.outbound import Outgoing, Params, sealed
from sora.wire import lmtp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sora.services.smarthost import Smarthost
    from sora.store.account_keys import Sealers
    from sora.store.bodies import Bodies
    from sora.store.outbound import Claimed, Entry, Outbound
    from sora.tables import OutboundTable

_log = log.get(__name__)

LEASE_S: Final = 600.0
"""So long nobody else sends what a process has claimed that does not renew its claims. Longer than `NOTE_S`."""
RENEW_S: Final = 60.0
ATTEMPT_S: Final = 1200.0
BATCH: Final = 16
"""Mails that are claimed for each connection at a time."""
POLL_S: Final = 30.0
"""Queued mail is announced; this is for announcements that are lost, and for mail whose pause is over."""
FINISH_S: Final = 8.0
"""What is in hand when the process shall end may take so long; then it is cut off, and sent again by another."""
NOTE_S: Final = 300.0
BODY_PAUSE_S: Final = 60.0
"""Before a body that could not be had is asked for again."""
RETURNED_WHOLE: Final = 64 * 1024
"""Larger mail is returned without its body, even if RET=FULL asks for it (RFC 3461 §4.3 allows that)."""
EXPIRY_S: Final = 60.0
"""How often mail that is too old is looked for."""
LAST_TRY_S: Final = 3600.0
LARGE: Final = 4_000_000
"""Mail from this size on is sent one at a time: there are several copies of its octets in memory while it is sent."""


class Sending:
    """The queue of the cluster, worked off by this process.

    Args:
        smarthost: None: there is none, and mail waits.
        name: The claims of this process, `node/life/generation`; empty while the node may not work.
        hello: What we call ourselves in reports.
    """

    def __init__(
        self,
        queue: Outbound,
        bodies: Bodies,
        sealers: Sealers,
        smarthost: Smarthost | None,
        table: OutboundTable,
        *,
        name: Callable[[], str],
        hello: str,
    ) -> None:
        self._queue = queue
        self._smarthost = smarthost
        self._table = table
        self._name = name
        self._mailer = _Mailer(queue, bodies, sealers, smarthost, table, hello)
        self._backlog: deque[Claimed] = deque()
        self._held_mono = 0.0
        self._recovered = False
        self._noted: str | None = None
        self._expiry_mono = 0.0
        self._busy: dict[asyncio.Task[None], Claimed] = {}
        self._woken = asyncio.Event()

    def wake(self, _payload: str = "") -> None:
        """Something was queued."""
        self._woken.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Send until told to stop; what is in hand then is finished."""
        stop = asyncio.create_task(stopping.wait())
        stop.add_done_callback(lambda _: self._woken.set())
        renewal = asyncio.create_task(self._renew())
        try:
            while not stopping.is_set():
                self._woken.clear()
                try:
                    pause_s = await self._step()
                except Unavailable as error:
                    _log.warning("mail is not sent", extra={"detail": str(error)})
                    pause_s = min(POLL_S, max(1.0, self._wait_s()))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), pause_s)
        finally:
            stop.cancel()
            await self._finish()
            renewal.cancel()

    async def measure(self) -> None:
        """Show what waits."""
        backlog = await self._queue.backlog()
        metrics.outbound_pending.set(backlog.pending)
        metrics.outbound_failing.set(backlog.failing)
        metrics.outbound_oldest_seconds.set(backlog.oldest_s)

    # ------------------------------------------------------------------ inside

    def _wait_s(self) -> float:
        return self._smarthost.breaker.wait_s if self._smarthost else 0.0

    async def _step(self) -> float:
        """Begin what can be begun; seconds until there is more to do."""
        name = self._name()
        if not name:
            return 1.0
        if not self._recovered:
            if recovered := await self._queue.recover(name.partition("/")[0] + "/", name):
                _log.info("claims of a process that died were ended", extra={"mails": recovered})
            self._recovered = True
        reachable = self._smarthost is not None and await self._reachable(self._smarthost)
        await self._note(name)
        if self._smarthost is None or not reachable:
            await self._expire(name, 0.0)
            return min(POLL_S, self._wait_s() or POLL_S)
        await self._expire(name, LAST_TRY_S)
        await self._smarthost.tidy()
        while len(self._busy) < self._table.connections:
            mail = await self._next(name)
            if mail is None:
                return await self._until_due()
            self._begin(mail)
        return POLL_S

    async def _note(self, name: str) -> None:
        """Let those who look at the queue know why nothing leaves."""
        error = self._smarthost.breaker.error if self._smarthost is not None else ""
        if error != self._noted:
            await self._queue.note_smarthost(name.partition("/")[0], error)
            self._noted = error

    async def _reachable(self, smarthost: Smarthost) -> bool:
        """False while it is down; after the pause one connection finds out."""
        if not smarthost.breaker.open:
            return True
        await self._give_back()
        if smarthost.breaker.wait_s or self._busy:
            return False
        try:
            await smarthost.probe()
        except SmarthostDown:
            return False
        return True

    async def _next(self, name: str) -> Claimed | None:
        now = asyncio.get_running_loop().time()
        if self._backlog and now - self._held_mono > LEASE_S / 2:
            await self._give_back()  # who knows whose it is by now
        if not self._backlog:
            self._held_mono = now
            self._backlog.extend(await self._claim(name))
        return self._backlog.popleft() if self._backlog else None

    async def _claim(self, name: str, before: datetime | None = None) -> list[Claimed]:
        claimed = await self._queue.claim(
            name,
            BATCH * self._table.connections,
            lease_s=LEASE_S,
            hourly=self._table.hourly_limit,
            before=before,
        )
        if claimed:
            crash_point("outbound.claimed")
        return claimed

    async def _renew(self) -> None:
        """Keep what is in hand, however long that takes."""
        while True:
            await asyncio.sleep(RENEW_S)
            began = asyncio.get_running_loop().time()
            try:
                await self._queue.renew([*self._backlog, *self._busy.values()], LEASE_S)
            except Unavailable as error:
                _log.warning("claims are not renewed", extra={"detail": str(error)})
            else:
                self._held_mono = began

    async def _give_back(self) -> None:
        claimed, self._backlog = list(self._backlog), deque()
        if claimed:
            await self._queue.give_back(claimed)

    async def _until_due(self) -> float:
        due_s = await self._queue.next_due_s()
        return POLL_S if due_s is None else min(POLL_S, max(0.05, due_s))

    def _begin(self, mail: Claimed) -> None:
        task = asyncio.create_task(self._one(mail))
        self._busy[task] = mail
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._busy.pop(task, None)
        self._woken.set()

    async def _one(self, mail: Claimed) -> None:
        """Nothing that goes wrong with one mail is the others' affair; its claim ends by itself if need be."""
        try:
            await self._mailer.process(mail)
        except SmarthostDown:
            with contextlib.suppress(Unavailable):
                await self._queue.give_back([mail])
        except Unavailable as error:
            _log.warning("mail stays claimed for now", extra={**_fields(mail), "detail": str(error)})
        except Exception:
            _log.exception("mail cannot be worked on", extra=_fields(mail))
            with contextlib.suppress(Unavailable):
                await self._queue.failed(mail, "internal error", self._table.retry_longest)

    async def _expire(self, name: str, more_s: float) -> None:
        """Mail that is too old goes back: what could not be tried, or was kept waiting.

        Args:
            more_s: So much longer mail has, because what is due is tried once more.
        """
        now = asyncio.get_running_loop().time()
        if now < self._expiry_mono:
            return
        before = datetime.now(UTC) - timedelta(seconds=self._table.give_up + more_s)
        claimed = await self._claim(name, before)
        self._expiry_mono = now + (0.0 if claimed else EXPIRY_S)
        for mail in claimed:
            text = f"Too old: {self._why_waiting(mail)}"
            await self._mailer.give_up(mail, Outcome("refused", "4.4.7", text, remote=False))

    def _why_waiting(self, mail: Claimed) -> str:
        """Why a mail was not sent in all its time, as far as is known: what is now, and what it met itself."""
        if self._smarthost is None:
            now = "no smarthost is configured"
        elif self._smarthost.breaker.open:
            now = "the smarthost is down"
        else:
            return mail.last_error or "more mail waits than the smarthost takes"
        return f"{now}; before: {mail.last_error}" if mail.last_error else now

    async def _finish(self) -> None:
        if self._busy:
            await asyncio.wait(self._busy, timeout=FINISH_S)
        for task, mail in self._busy.items():
            task.cancel()
            self._backlog.append(mail)
        if self._busy:
            await asyncio.wait(self._busy)
        with contextlib.suppress(Unavailable):
            await self._give_back()
        if self._smarthost is not None:
            await self._smarthost.close()


class _Mailer:
    """What is done with one mail."""

    def __init__(
        self,
        queue: Outbound,
        bodies: Bodies,
        sealers: Sealers,
        smarthost: Smarthost | None,
        table: OutboundTable,
        hello: str,
    ) -> None:
        self._queue = queue
        self._bodies = bodies
        self._sealers = sealers
        self._smarthost = smarthost
        self._table = table
        self._hello = hello
        self._large = asyncio.Lock()

    async def process(self, mail: Claimed) -> None:
        """Try to send it, and note what came of it.

        Raises:
            SmarthostDown: It was not tried.
            Unavailable: What came of it could not be noted.
        """
        if mail.ref is not None and mail.ref.size >= LARGE:
            async with self._large:
                await self._process(mail)
        else:
            await self._process(mail)

    async def _process(self, mail: Claimed) -> None:
        assert self._smarthost is not None
        try:
            octets = await self._octets(mail)
        except KeyUnavailable as error:
            await self._later(mail, f"The key of the account: {error}")
            return
        except Unavailable as error:
            await self._later(mail, str(error))
            return
        outcome = _looping(mail, octets)
        if outcome is None:
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    outcome = await self._smarthost.send(_parcel(mail, octets))
            except TimeoutError:
                outcome = Outcome("deferred", "4.4.2", "The smarthost takes too long", remote=False)
        await self._conclude(mail, octets, outcome)

    async def give_up(self, mail: Claimed, outcome: Outcome) -> None:
        """Send it back without a further attempt."""
        try:
            octets = await self._octets(mail)
        except Unavailable:
            octets = b""
        await self._return(mail, octets, outcome)

    async def _conclude(self, mail: Claimed, octets: bytes, outcome: Outcome) -> None:
        if outcome.result == "sent":
            crash_point("outbound.sent")
            await _persist(lambda: self._sent(mail, octets, outcome))
        elif outcome.result == "refused":
            await self._return(mail, octets, outcome)
        elif mail.age_s >= self._table.give_up:
            stage = ": ".join(filter(None, ("Too old", outcome.stage)))
            await self._return(mail, octets, replace(outcome, result="refused", status="4.4.7", stage=stage))
        else:
            pause_s = self._pause_s(mail)
            await self._queue.failed(mail, outcome.told, pause_s)
            metrics.outbound_mails.labels(mail.kind, "deferred").inc()
            _log.warning("mail deferred", extra={**_fields(mail), "reply": outcome.told, "pause_s": round(pause_s)})
        crash_point("outbound.marked")

    def _pause_s(self, mail: Claimed) -> float:
        """Doubled by each failure, but not beyond the end of the mail's time."""
        pause_s = min(self._table.retry_longest, self._table.retry * 2.0 ** min(mail.attempts, 40))
        return max(1.0, min(pause_s * random.uniform(0.9, 1.1), self._table.give_up - mail.age_s))

    async def _sent(self, mail: Claimed, octets: bytes, outcome: Outcome) -> None:
        """Doing this twice does no harm."""
        wanted = "SUCCESS" in mail.params.notify.split(",")
        if outcome.relayed and wanted and mail.sender and mail.kind != "dsn":
            # RFC 3461 §5.2.2: nobody further on will say that it was delivered
            await self._queue.replace(mail, [await self._report(mail, octets, outcome, "relayed")])
        else:
            await self._queue.sent(mail)
        metrics.outbound_mails.labels(mail.kind, "sent").inc()
        _log.info("mail sent", extra={**_fields(mail), "reply": outcome.text})

    async def _later(self, mail: Claimed, error: str) -> None:
        """Its octets cannot be had: no fault of the mail, and nobody knows for how long."""
        if mail.age_s >= self._table.give_up:
            await self._return(mail, b"", Outcome("refused", "4.3.0", "The mail cannot be read", remote=False))
            return
        metrics.outbound_mails.labels(mail.kind, "unread").inc()
        _log.warning("mail cannot be read", extra={**_fields(mail), "detail": error})
        await self._queue.give_back([mail], BODY_PAUSE_S)

    async def _return(self, mail: Claimed, octets: bytes, outcome: Outcome) -> None:
        """It will not be sent: tell its sender, if he is to be told."""
        told = bool(mail.sender) and mail.kind != "dsn" and _wants_failure(mail.params)
        entries: list[Entry] = []
        if told:
            try:
                entries = [await self._report(mail, octets, outcome, "failed")]
            except KeyUnavailable:  # shredded: nothing of it is told to anybody
                told = False
        if await self._queue.replace(mail, entries):
            metrics.outbound_mails.labels(mail.kind, "returned" if told else "dropped").inc()
            _log.warning("mail given up", extra={**_fields(mail), "reply": outcome.told, "reported": told})

    async def _report(self, mail: Claimed, octets: bytes, outcome: Outcome, action: str) -> Entry:
        report = Report(
            action="relayed" if action == "relayed" else "failed",
            status=outcome.status,
            reporting=self._hello,
            sender=mail.sender,
            recipient=mail.recipient,
            original=mail.params.orcpt,
            envid=mail.params.envid,
            remote=self._smarthost.name if self._smarthost and outcome.remote else "",
            diagnostic=outcome.text,
            explained=outcome.told,
            arrived_at=mail.created_at,
            reported_at=datetime.now(UTC),
            unique=uuid.uuid4().hex,
        )
        whole = action == "failed" and mail.params.ret == "FULL" and len(octets) <= RETURNED_WHOLE
        dsn = Outgoing(
            kind="dsn",
            sender="",
            recipient=mail.sender,
            data=write_report(report, octets, whole=whole),
            smtputf8=not mail.sender.isascii(),
            params=Params(notify="NEVER"),
        )
        return sealed(mail.account_id, dsn, await self._sealers.get(mail.account_id))

    async def _octets(self, mail: Claimed) -> bytes:
        """The mail as it is to be sent."""
        if mail.ref is None:
            raise Unavailable(detail="its content is gone")
        if mail.body is None:
            return mail.header + without_return_path(await self._bodies.get(mail.ref))
        sealer = await self._sealers.reader(mail.ref, mail.body)
        data = sealer.open(mail.ref, mail.body)
        if data is None:
            raise Unavailable(detail="it does not match its hash")
        return mail.header + data


async def _persist(note: Callable[[], Awaitable[None]]) -> None:
    """Note that a mail was sent; if PostgreSQL is away, when it is back: nobody else knows, and it would be sent again.

    Raises:
        Unavailable: It took too long.
    """
    pause_s = 0.1
    until = asyncio.get_running_loop().time() + NOTE_S
    while True:
        try:
            return await note()
        except Unavailable as error:
            if asyncio.get_running_loop().time() + pause_s > until:
                raise
            _log.warning("a mail that was sent cannot be noted", extra={"detail": str(error)})
        await asyncio.sleep(pause_s)
        pause_s = min(5.0, 2 * pause_s)


def _parcel(mail: Claimed, octets: bytes) -> Parcel:
    by_at = mail.params.by_at
    return Parcel(
        sender=mail.sender,
        recipient=mail.recipient,
        data=_network_lines(octets),
        smtputf8=mail.smtputf8 or not (mail.sender + mail.recipient).isascii(),
        params=mail.params,
        by_s=None if by_at is None else round((by_at - datetime.now(UTC)).total_seconds()),
    )


def _network_lines(octets: bytes) -> bytes:
    """With CRLF alone: a bare CR or LF may end the data for whoever comes next (SMTP smuggling)."""
    if octets.count(b"\r\n") == octets.count(b"\n") == octets.count(b"\r") and octets.endswith(b"\n"):
        return octets
    lines = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return lines if lines.endswith(b"\r\n") else lines + b"\r\n"


def without_return_path(mail: bytes) -> bytes:
    """The mail without the field that its delivery here put on top (RFC 5321 §4.4: only the last delivery adds one)."""
    if mail[:12].lower() != b"return-path:":
        return mail
    end = mail.find(b"\n") + 1
    while end and mail[end : end + 1] in (b" ", b"\t"):
        end = mail.find(b"\n", end) + 1
    return mail[end:] if end else b""


def _looping(mail: Claimed, octets: bytes) -> Outcome | None:
    """Why it must not go on its way once more; None: it may.

    Every delivery notes for whom it was (Delivered-To) on top. Where the mail is to go it has been before, or it has
    been through too many hands.
    """
    if mail.kind != "redirect":
        return None
    header = lmtp.header_of(octets)
    if mail.recipient.casefold() in lmtp.delivered_to(header):
        return Outcome("refused", "5.4.6", f"Mail loop: it was delivered to {mail.recipient} before", remote=False)
    if lmtp.count_received(header) > MAX_HOPS:
        return Outcome("refused", "5.4.6", "Mail loop: too many hops", remote=False)
    return None


def _wants_failure(params: Params) -> bool:
    return not params.notify or "FAILURE" in params.notify.split(",")


def _fields(mail: Claimed) -> dict[str, object]:
    return {
        "queue_id": mail.queue_id,
        "account_id": mail.account_id,
        "kind": mail.kind,
        "recipient": mail.recipient,
        "attempts": mail.attempts,
    }


def own_hello(table: OutboundTable) -> str:
    """What this node calls itself: a name with a dot if the machine has one."""
    if table.hello:
        return table.hello
    name = socket.getfqdn()
    return name if name.isascii() and "." in name else socket.gethostname()
