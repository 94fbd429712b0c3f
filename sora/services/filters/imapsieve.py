"""Scripts that run when a mailbox changes (RFC 6785).

A command that changes a mailbox with a script writes an event down before it is answered with OK, and its script runs
after that, beside the session. So nobody waits for a script, and whoever was told OK has its script run: if the process
dies, another one goes on behind the last message that was done.

**What is guaranteed.** The command itself is done before, and no script can undo it: a script only adds copies and mail
that leaves, changes flags, and marks the message as deleted. For each message the script runs at least once. New
messages and mail are stored in one transaction under a key of event and message, so they are there once, however often
that is tried; flags follow. A script that fails leaves the message as it is.
Only of an account that has thousands of changes waiting, no two alike, further ones are dropped.

**Whose script.** The one that the owner of the mailbox has under that name, and it acts for the owner, whoever gave the
command: copies are filed in the owner's mailboxes. Only \\Seen is that of who gave it.

**No loops.** What a script does is no event (§6).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from sora import log, metrics
from sora._native.seqset import UidSet
from sora.config import is_wildcard, split_address
from sora.crashpoints import crash_point
from sora.errors import BadScript, NotFound, Unavailable
from sora.services.filters.imapruns import EventRun, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.config import Config
    from sora.services.filters.scriptnames import Named, ScriptNames
    from sora.services.node import Node
    from sora.sieve.script import Script
    from sora.store.events import Event, Owner, Subject
    from sora.types import AccountId, MailboxId

_log = log.get(__name__)

CLAIM_S: Final = 120.0
"""How long an event waits after its process has died."""
SWEEP_S: Final = 20.0
RETRY_S: Final = 30.0
"""Before the second try, where the database or a body was away; doubled each time."""
LONGEST_RETRY_S: Final = 3600.0
MAX_ATTEMPTS: Final = 16
"""Claims of an event: about ten hours of retries. A script that kills its process ends here too."""
RUNS: Final = 2
"""Messages that are worked on at a time, each with one connection."""
MAX_WAITING: Final = 1000
"""Events in the memory of a process; others wait in the database."""
CLAIMED_AT_ONCE: Final = 16
MANAGESIEVE_PORT: Final = 4190
CHUNK: Final = 16
"""Messages that are looked up in one statement."""


class ImapSieve:
    """The events of one process.

    Attributes:
        names: Which mailboxes have scripts.
        turns: Of the messages that are worked on.
    """

    _node: Node

    def __init__(self, names: ScriptNames) -> None:
        self.names = names
        self._configured: tuple[Config | None, str] = None, ""
        self._waiting: dict[AccountId, deque[Event]] = {}
        self._count = 0
        self._held: dict[tuple[int, int], Event] = {}  # claims, of what waits or is worked on
        self._workers: set[asyncio.Task[None]] = set()
        self.turns = asyncio.Semaphore(RUNS)
        self._sweeping: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def url(self) -> str:
        """Of the ManageSieve server that clients are told (§2.1); empty: there is none, and no script runs."""
        config = self._node.config
        if config is not self._configured[0]:
            self._configured = config, url_of(config, self._node.delivery.host)
        return self._configured[1]

    def begin(self, node: Node) -> None:
        """Work with the services of a node, and look for events that nobody works on."""
        self._node = node
        if self.url:
            self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Finish the messages in hand; other processes go on with the rest."""
        self._closing = True
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await self.settled()

    async def settled(self) -> None:
        """Until nothing waits here."""
        while self._workers:
            await asyncio.wait(tuple(self._workers))

    # ------------------------------------------------------------------ events

    async def script_of(self, account_id: AccountId, mailbox_id: MailboxId) -> Named | None:
        """The script of a mailbox; without a statement, but for what is said in `ScriptNames`."""
        if not self.url:
            return None
        known = self.names.peek(account_id, mailbox_id)
        if known is not None:
            return known[0]
        try:
            return await self.names.find(account_id, mailbox_id)
        except Unavailable as error:
            metrics.imap_events.labels("lost").inc()
            _log.error("script not looked for", extra={"account_id": account_id, "detail": str(error)})
            return None

    async def happened(self, event: Event) -> None:
        """Write an event down, and run its script as soon as may be.

        The command is done: if the event cannot be written down, its script runs all the same, unless we die. If too
        many wait it is dropped: a client need not wait for scripts that are slow, and none is refused because of them.
        """
        here = self._count < MAX_WAITING and not self._closing
        events = self._node.store.events
        try:
            event_id = await events.add(event, CLAIM_S if here else 0.0)
            event = replace(event, event_id=event_id)
            if not event_id:
                here = False  # whoever sweeps takes it
                if not await events.join(event):
                    self._dropped(event)
                    return
        except NotFound:
            return  # the account is gone
        except Exception as error:  # whatever it is: NO would be a lie
            if not here or not isinstance(error, Unavailable):
                self._lost(event, error)
                return
        crash_point("imapsieve.noted")
        if here:
            self._enqueue(event)

    async def sweep(self) -> int:
        """Take events over that nobody works on; how many."""
        claimed = await self._node.store.events.claim(CLAIMED_AT_ONCE, CLAIM_S)
        for event in claimed:
            self._enqueue(event)
        return len(claimed)

    async def renew(self) -> None:
        """What waits here long behind other events stays ours: a claim that ends counts as a death."""
        await self._node.store.events.renew(self._held.values(), CLAIM_S)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S * random.uniform(0.5, 1.0))
            try:
                await self.renew()
                while self._count < MAX_WAITING // 2 and await self.sweep() == CLAIMED_AT_ONCE:
                    pass
            except Unavailable as error:
                _log.info("events not looked for", extra={"detail": str(error)})

    def _dropped(self, event: Event) -> None:
        metrics.imap_events.labels("dropped").inc()
        about = {"account_id": event.account_id, "mailbox_id": event.mailbox_id, "script": event.script}
        _log.warning("script not run: too many changes of the account wait for one", extra=about)

    def _lost(self, event: Event, error: Exception) -> None:
        metrics.imap_events.labels("lost").inc()
        about = {"account_id": event.account_id, "script": event.script}
        _log.error("script not run: the event could not be noted", exc_info=error, extra=about)

    # ------------------------------------------------------------------ work

    def _enqueue(self, event: Event) -> None:
        """Events of an account follow each other."""
        self._count += 1
        if event.event_id:
            self._held[event.event_id, event.attempts] = event
        waiting = self._waiting.get(event.account_id)
        if waiting is not None:
            waiting.append(event)
            return
        self._waiting[event.account_id] = deque([event])
        task = asyncio.create_task(self._work(event.account_id))
        self._workers.add(task)
        task.add_done_callback(self._workers.discard)

    async def _work(self, account_id: AccountId) -> None:
        waiting = self._waiting[account_id]
        try:
            while waiting:
                event = waiting.popleft()
                self._count -= 1
                await self._guarded(event)
                self._held.pop((event.event_id, event.attempts), None)
        finally:
            del self._waiting[account_id]

    async def _guarded(self, event: Event) -> None:
        """Whatever becomes of one event, others go on."""
        about = {"account_id": event.account_id, "script": event.script, "event": event.event_id}
        try:
            await self._run(event)
        except Unavailable as error:
            _log.warning("script waits", extra={**about, "detail": str(error)})
            await self._later(event)
        except Exception:
            _log.exception("script failed", extra=about)
            await self._later(event)

    async def _later(self, event: Event) -> None:
        """Try again when what was away may be back; at some time no more."""
        if event.attempts >= MAX_ATTEMPTS:
            metrics.imap_events.labels("given up").inc()
            _log.error("script given up", extra={"account_id": event.account_id, "script": event.script})
            work = self._node.store.events.finish(event)
        else:
            pause_s = min(RETRY_S * 2**event.attempts, LONGEST_RETRY_S)
            work = self._node.store.events.release(event, pause_s)
        with contextlib.suppress(Unavailable):  # the claim ends by itself
            await work

    async def _run(self, event: Event) -> None:
        events = self._node.store.events
        if self._closing and event.event_id:
            await events.release(event)
            return
        if event.attempts > MAX_ATTEMPTS:
            await self._later(event)
            return
        found = await self._find(event)
        if found is not None and not await self._each(event, found):
            return
        if event.event_id:
            await events.finish(event)
        metrics.imap_events.labels("done").inc()

    async def _find(self, event: Event) -> EventRun | None:
        """What runs; None: nothing does."""
        owner = await self._node.store.events.owner(event.account_id)
        if owner is None:
            return None
        answers = self._node.filters.answers(event.account_id, owner.scripts)
        mailbox = await answers.mailbox_by_number(event.mailbox_id)
        if mailbox is None:
            return None
        try:
            script = await self._script(event, owner)
        except BadScript as error:
            tell(event, owner, str(error))
            return None
        if script is None:
            _log.info("no such script", extra={"account_id": event.account_id, "script": event.script})
            return None
        return EventRun(self._node, event, owner, answers, mailbox.name, script)

    async def _script(self, event: Event, owner: Owner) -> Script | None:
        """The owner's; for a name that the server gives to all mailboxes, else the site's own."""
        filters = self._node.filters
        script = await filters.scripts.named(event.account_id, owner.scripts, event.script)
        if script is None and event.everywhere:
            return filters.site.shared.get(event.script)
        return script

    async def _each(self, event: Event, run: EventRun) -> bool:
        """Run the script for one message after the other; False: somebody else goes on."""
        events = self._node.store.events
        done_to = 0
        for uids in _chunks(event.uids):
            if done_to and event.event_id and not await events.keep(event, done_to, CLAIM_S):
                return False
            for subject in await events.subjects(event.account_id, event.mailbox_id, uids, event.viewer_id):
                if self._closing:
                    await events.release(event)
                    return False
                async with self.turns:
                    acted = await self._one(event, run, subject)
                if acted and event.event_id and not await events.keep(event, subject.uid, CLAIM_S):
                    return False
            done_to = uids.last
        return True

    async def _one(self, event: Event, run: EventRun, subject: Subject) -> bool:
        """Run the script for a message; in the last try one that fails does not keep others from it."""
        try:
            return await run.one(subject)
        except Exception as error:
            if event.attempts < MAX_ATTEMPTS:
                raise
            metrics.imap_events.labels("given up").inc()
            about = {"account_id": event.account_id, "script": event.script, "uid": subject.uid}
            _log.error("script given up for a message", exc_info=error, extra=about)
            return False


def _chunks(uids: UidSet) -> Iterator[UidSet]:
    """So many as are looked up together; a COPY may have a million, and of a STORE they may be far apart."""
    numbers = iter(uids)
    while chunk := tuple(islice(numbers, CHUNK)):
        yield UidSet.from_numbers(chunk)


def url_of(config: Config, host: str) -> str:
    """Of the ManageSieve server that clients are told (RFC 6785 §2.1); empty: there is none."""
    if config.sieve.url:
        return config.sieve.url
    table = config.servers.managesieve
    if table is None or not table.enabled or not (table.listen or table.tls_listen):
        return ""
    first = (table.listen or table.tls_listen)[0]
    address, port = split_address(first)
    # An IPv6 address has brackets in a URL, and a bracket would end the response code CAPABILITY.
    name = host if is_wildcard((first,)) or ":" in address else address
    return f"sieve://{name}" if port == MANAGESIEVE_PORT else f"sieve://{name}:{port}"
