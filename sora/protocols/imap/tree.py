"""What the mailboxes of an account are called and hold, as the NOTIFY sessions of a worker share it.

A notice of the change feed says that something happened; the first session that looks reads it, by one statement for
counters and two for names, and all others of the account have it then. Rules, as for a selected mailbox:

1. Counters only move forward: one of a lower modseq than what is known is old news.
2. What was heard is not forgotten while the database is away: it stays marked until it was read.
3. A session has a cursor into the log of changes of names. The log is short: a session that is further behind has lost
   changes, and must be told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from msgspec.structs import replace

from sora.services.changes import TREE
from sora.types import ModSeq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sora.store.mailboxes import ListedMailbox, Status
    from sora.store.trees import TreeChange
    from sora.types import AccountId, MailboxId

MAX_LOG: Final = 1000
"""Changes of names that a session may be behind: a client that has missed more does better with a LIST."""


class Mailboxes(Protocol):
    """The part of the mailbox repository which is needed here."""

    async def list(self, account_id: AccountId, /) -> Sequence[ListedMailbox]: ...
    async def status(self, account_id: AccountId, names: Sequence[str], /) -> Mapping[str, Status | None]: ...


class TreeChanges(Protocol):
    """The part of the repository of changes which is needed here."""

    async def seq(self, account_id: AccountId, /) -> ModSeq: ...
    async def changes(self, known: Mapping[AccountId, ModSeq], /) -> Sequence[TreeChange]: ...


class Feed(Protocol):
    """The change feed of the worker."""

    def watch_account(
        self, account_id: AccountId, callback: Callable[[AccountId, MailboxId, ModSeq], None], /
    ) -> Callable[[], None]: ...
    def learn(self, account_id: AccountId, known: Mapping[MailboxId, ModSeq], /) -> None: ...


class Tree:
    """The mailboxes of one account.

    Attributes:
        boxes: By name; subscriptions without a mailbox are among them.
        version: Counts the times that `boxes` changed.
        ending: Number of changes of names so far: where the cursor of a session that knows them all stands.
    """

    __slots__ = (
        "_changes", "_dirty", "_feed", "_flight", "_followers", "_log", "_mailboxes", "_names", "_seq", "_unwatch",
        "account_id", "boxes", "ending", "version",
    )  # fmt: skip

    def __init__(self, account_id: AccountId, mailboxes: Mailboxes, changes: TreeChanges, feed: Feed) -> None:
        self.account_id = account_id
        self.boxes: dict[str, ListedMailbox] = {}
        self.version = 0
        self.ending = 0
        self._mailboxes = mailboxes
        self._changes = changes
        self._feed = feed
        self._names: dict[MailboxId, str] = {}
        self._log: deque[TreeChange] = deque(maxlen=MAX_LOG)
        self._seq: ModSeq | None = None
        self._dirty: set[MailboxId] = {TREE}
        self._followers: dict[object, Callable[[], None]] = {}
        self._flight: asyncio.Task[None] | None = None
        self._unwatch = feed.watch_account(account_id, self._heard)

    @property
    def behind(self) -> bool:
        """Something was heard that was not read yet."""
        return bool(self._dirty)

    def follow(self, wake: Callable[[], None]) -> Callable[[], bool]:
        """Call `wake` when something was heard; returns what ends it, and says whether nobody is left."""
        token = object()
        self._followers[token] = wake

        def leave() -> bool:
            self._followers.pop(token, None)
            return not self._followers

        return leave

    def touch(self) -> None:
        """A name was changed a moment ago; the notice may still be on its way."""
        self._dirty.add(TREE)

    def close(self) -> None:
        """Stop listening."""
        self._unwatch()

    async def refresh(self) -> None:
        """Read what was heard before this call; callers share statements.

        Raises:
            Unavailable: The database is away; what was heard stays marked.
        """
        while self._dirty:
            if self._flight is None:
                self._flight = asyncio.get_running_loop().create_task(self._read())
                # Those who wait see the error through their shield; if all of them went away, nobody needs it.
                self._flight.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.shield(self._flight)

    def since(self, cursor: int) -> Iterator[TreeChange] | None:
        """Changes of names from a cursor on; None: some of them are not known any more."""
        missing = self.ending - cursor
        if missing > len(self._log):
            return None
        return islice(tuple(self._log), len(self._log) - missing, None)

    # ------------------------------------------------------------------ inside

    def _heard(self, _account_id: AccountId, mailbox_id: MailboxId, modseq: ModSeq) -> None:
        if modseq <= self._modseq_of(mailbox_id):
            return
        self._dirty.add(mailbox_id)
        for wake in tuple(self._followers.values()):
            wake()

    def _modseq_of(self, mailbox_id: MailboxId) -> int:
        """What was read already; -1: nothing."""
        if mailbox_id == TREE:
            return -1 if self._seq is None else self._seq
        box = self.boxes.get(self._names.get(mailbox_id, ""))
        return -1 if box is None or box.status is None else box.status.highest_modseq

    async def _read(self) -> None:
        dirty, self._dirty = self._dirty, set()
        try:
            if TREE in dirty or not dirty <= self._names.keys():
                await self._read_names()
            else:
                await self._read_counters([self._names[mailbox_id] for mailbox_id in dirty])
        except BaseException:
            self._dirty |= dirty
            raise
        finally:
            self._flight = None

    async def _read_counters(self, names: Sequence[str]) -> None:
        for name, status in (await self._mailboxes.status(self.account_id, names)).items():
            box = self.boxes.get(name)
            if status is None or box is None:
                self._dirty.add(TREE)  # the name means something else by now
            elif _later(status, box.status):
                self.boxes[name] = replace(box, status=status)
        self.version += 1

    async def _read_names(self) -> None:
        """The changes first: the list is then not older than they are."""
        changes: Sequence[TreeChange] = ()
        seq = self._seq
        if seq is None:
            seq = await self._changes.seq(self.account_id)
        else:
            changes = await self._changes.changes({self.account_id: seq})
        boxes = {box.name: box for box in await self._mailboxes.list(self.account_id)}
        for name, box in boxes.items():
            old = self.boxes.get(name)
            if old is not None and old.status is not None and not _later(box.status, old.status):
                boxes[name] = replace(box, status=old.status)
        self._append(seq, changes)
        self.boxes = boxes
        self._names = {box.status.mailbox_id: box.name for box in boxes.values() if box.status is not None}
        known = {box.status.mailbox_id: box.status.highest_modseq for box in boxes.values() if box.status is not None}
        self._feed.learn(self.account_id, known | {TREE: self._seq or ModSeq(0)})
        self.version += 1

    def _append(self, seq: ModSeq, changes: Sequence[TreeChange]) -> None:
        """Add to the log; a gap means that nobody's cursor leads anywhere any more."""
        if changes and changes[0].seq != seq + 1:
            self._log.clear()
            self.ending += 1
        self._log.extend(changes)
        self.ending += len(changes)
        self._seq = changes[-1].seq if changes else seq


def _later(status: Status | None, known: Status | None) -> bool:
    """`status` is not older than what is known of the same mailbox."""
    if status is None or known is None or status.mailbox_id != known.mailbox_id:
        return True
    return status.highest_modseq > known.highest_modseq


class Trees:
    """The trees of a worker: one for each account with a NOTIFY session."""

    def __init__(self, mailboxes: Mailboxes, changes: TreeChanges, feed: Feed) -> None:
        self._mailboxes = mailboxes
        self._changes = changes
        self._feed = feed
        self._trees: dict[AccountId, Tree] = {}

    def follow(self, account_id: AccountId, wake: Callable[[], None]) -> tuple[Tree, Callable[[], None]]:
        """The tree of an account, and what ends the interest in it."""
        tree = self._trees.get(account_id)
        if tree is None:
            tree = self._trees[account_id] = Tree(account_id, self._mailboxes, self._changes, self._feed)
        leave = tree.follow(wake)

        def end() -> None:
            if leave() and self._trees.get(account_id) is tree:
                del self._trees[account_id]
                tree.close()

        return tree, end
