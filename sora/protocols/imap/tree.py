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

from msgspec import Struct
from msgspec.structs import replace

from sora.protocols.imap.places import prefix_of
from sora.protocols.imap.shared import joined, own_name
from sora.services.changes import TREE
from sora.store.metadata import SHARED
from sora.types import ModSeq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sora.store.acl import SharedMailbox
    from sora.store.mailboxes import ListedMailbox, Status
    from sora.store.trees import TreeChange
    from sora.types import AccountId, MailboxId

MAX_LOG: Final = 1000
"""Changes of names that a session may be behind: a client that has missed more does better with a LIST."""


class Mailboxes(Protocol):
    """The part of the mailbox repository which is needed here."""

    async def list(self, account_id: AccountId, /) -> list[ListedMailbox]: ...
    async def status(
        self, account_id: AccountId, names: Sequence[str], actor_id: AccountId, /
    ) -> Mapping[str, Status | None]: ...


class Acl(Protocol):
    """The part of the repository of rights which is needed here."""

    async def list_shared(self, viewer_id: AccountId, /, *, unseen: bool) -> list[SharedMailbox]: ...


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


class Sources(Struct, frozen=True):
    """Where a tree has its knowledge from."""

    mailboxes: Mailboxes
    acl: Acl
    changes: TreeChanges
    feed: Feed


class Happening(Struct, frozen=True):
    """What happened to a name, as the account sees it.

    Attributes:
        change: As it was noted, with its owner's names.
        name: The name now.
        old_name: Of a rename: the name before.
        lost: The account may not see it any more.
    """

    change: TreeChange
    name: str
    old_name: str | None = None
    lost: bool = False


class Tree:
    """The mailboxes that one account can see, its own and those that others share with it.

    Attributes:
        boxes: By name; subscriptions without a mailbox are among them.
        version: Counts the times that `boxes` changed.
        listed: Counts the times that names, rights or subscriptions may have changed.
        ending: Number of happenings so far: where the cursor of a session that knows them all stands.
    """

    __slots__ = (
        "_dirty", "_early", "_flight", "_followers", "_log", "_names", "_prefixes", "_seqs", "_sources", "_unwatch",
        "account_id", "boxes", "ending", "listed", "version",
    )  # fmt: skip

    def __init__(self, account_id: AccountId, sources: Sources) -> None:
        self.account_id = account_id
        self.boxes: dict[str, ListedMailbox] = {}
        self.version = 0
        self.listed = 0
        self.ending = 0
        self._sources = sources
        self._names: dict[MailboxId, str] = {}
        self._log: deque[Happening] = deque(maxlen=MAX_LOG)
        self._dirty: set[MailboxId] = {TREE}
        self._early: dict[MailboxId, ModSeq] = {}
        self._followers: dict[object, Callable[[], None]] = {}
        self._flight: asyncio.Task[None] | None = None
        self._seqs: dict[AccountId, ModSeq] = {}
        self._prefixes: dict[AccountId, str] = {account_id: ""}
        self._unwatch: dict[AccountId, Callable[[], None]] = {}

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
        for unwatch in self._unwatch.values():
            unwatch()

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

    def since(self, cursor: int) -> Iterator[Happening] | None:
        """What happened to names from a cursor on; None: some of it is not known any more."""
        missing = self.ending - cursor
        if missing > len(self._log):
            return None
        return islice(tuple(self._log), len(self._log) - missing, None)

    # ------------------------------------------------------------------ inside

    def _heard(self, owner_id: AccountId, mailbox_id: MailboxId, modseq: ModSeq) -> None:
        if mailbox_id == TREE:
            news = modseq > self._seqs.get(owner_id, -1)
        else:
            box = self.boxes.get(self._names.get(mailbox_id, ""))
            # Of another owner's mailbox that is not known here nothing needs to be known, but the list that is being
            # read may have it as it was before.
            news = owner_id == self.account_id if box is None else modseq > _modseq(box)
            if box is None and self._flight is not None:
                self._early[mailbox_id] = max(modseq, self._early.get(mailbox_id, modseq))
        if news:
            self._dirty.add(mailbox_id)
            for wake in tuple(self._followers.values()):
                wake()

    async def _read(self) -> None:
        dirty, self._dirty = self._dirty, set()
        try:
            if TREE in dirty or not dirty <= self._names.keys():
                await self._read_names()
            else:
                await self._read_counters([self.boxes[self._names[mailbox_id]] for mailbox_id in dirty])
        except BaseException:
            self._dirty |= dirty
            raise
        finally:
            self._flight = None
            self._early.clear()

    async def _read_counters(self, boxes: Iterable[ListedMailbox]) -> None:
        """One statement for each owner."""
        by_owner: dict[AccountId, dict[str, ListedMailbox]] = {}
        for box in boxes:
            by_owner.setdefault(box.owner_id or self.account_id, {})[own_name(box)] = box
        for owner_id, asked in by_owner.items():
            found = await self._sources.mailboxes.status(owner_id, list(asked), self.account_id)
            for name, box in asked.items():
                self._learn_counters(box, found.get(name))
        self.version += 1

    def _learn_counters(self, box: ListedMailbox, status: Status | None) -> None:
        if status is None or status.mailbox_id != _id(box):
            self._dirty.add(TREE)  # the name means something else by now
        elif status.highest_modseq > _modseq(box):
            self.boxes[box.name] = replace(box, status=replace(status, name=box.name))

    async def _read_names(self) -> None:
        """The changes, and the list as it is after the last of them.

        A list that knew of a later change would tell of a new mailbox under a name whose rename is still to be told.
        """
        if not self._seqs:
            await self._begin([self.account_id])
        changes: list[TreeChange] = []
        later = await self._sources.changes.changes(self._seqs)
        while True:
            changes += later
            boxes = await self._list()
            if new := {box.owner_id or self.account_id for box in boxes.values()} - self._seqs.keys():
                await self._begin(new)
                later = []
                continue
            later = await self._sources.changes.changes(self._seqs | {c.account_id: c.seq for c in changes})
            if not later:
                break
        self._append(changes, self.boxes, boxes)
        self.boxes = boxes
        self._names = {box.status.mailbox_id: box.name for box in boxes.values() if box.status is not None}
        early = {name: modseq for id_, modseq in self._early.items() if (name := self._names.get(id_)) is not None}
        self._dirty |= {_id(boxes[name]) for name, modseq in early.items() if modseq > _modseq(boxes[name])}
        for owner_id, seq in self._seqs.items():
            known = {_id(box): _modseq(box) for box in boxes.values() if (box.owner_id or self.account_id) == owner_id}
            self._sources.feed.learn(owner_id, known | {TREE: seq})
        self.version += 1
        self.listed += 1

    async def _begin(self, owner_ids: Iterable[AccountId]) -> None:
        """Changes of these owners count from now on."""
        for owner_id in owner_ids:
            if owner_id not in self._unwatch:
                self._unwatch[owner_id] = self._sources.feed.watch_account(owner_id, self._heard)
            self._seqs[owner_id] = await self._sources.changes.seq(owner_id)

    async def _list(self) -> dict[str, ListedMailbox]:
        own = await self._sources.mailboxes.list(self.account_id)
        shared = await self._sources.acl.list_shared(self.account_id, unseen=True)
        self._prefixes |= {box.owner_id: prefix_of(box.owner) for box in shared}
        return {box.name: _newest(box, self.boxes.get(box.name)) for box in joined(own, shared)}

    def _append(
        self, changes: Sequence[TreeChange], before: Mapping[str, ListedMailbox], after: Mapping[str, ListedMailbox]
    ) -> None:
        """Add to the log; a gap means that nobody's cursor leads anywhere any more."""
        names = {_id(box): name for name, box in before.items()}, {_id(box): name for name, box in after.items()}
        looked_at: set[MailboxId | None] = set()  # rights are noted twice: of the owner and of who gets them
        for change in changes:
            if change.seq != self._seqs[change.account_id] + 1:
                self._log.clear()
                self.ending += 1
            self._seqs[change.account_id] = change.seq
            if change.kind == "acl":
                happening = None
                if change.mailbox_id not in looked_at:
                    happening = _of_rights(change, *(of.get(change.mailbox_id or TREE) for of in names))
                looked_at.add(change.mailbox_id)
            elif change.kind == "metadata":
                happening = self._of_annotations(change, *(of.get(change.mailbox_id or TREE) for of in names))
            else:
                happening = self._of_name(change, before, after)
            if happening is not None:
                self._log.append(happening)
                self.ending += 1

    def _of_name(
        self, change: TreeChange, before: Mapping[str, ListedMailbox], after: Mapping[str, ListedMailbox]
    ) -> Happening | None:
        """What others do to names shows where the account could see the mailbox before, or can now."""
        prefix = self._prefixes[change.account_id]
        name = prefix + (change.name or "")
        old_name = None if change.old_name is None else prefix + change.old_name
        if prefix and name not in before and name not in after:
            return None
        return Happening(change, name, old_name)

    def _of_annotations(self, change: TreeChange, old: str | None, new: str | None) -> Happening | None:
        """Of the server, whose name is empty, or of a mailbox that can be seen; what is private of others is theirs."""
        name = "" if change.mailbox_id is None else new or old
        if change.account_id != self.account_id:
            shared = [entry for entry in (change.old_name or "").split() if entry.startswith(SHARED)]
            if not name or not shared:
                return None
            change = replace(change, old_name=" ".join(shared))
        return None if name is None else Happening(change, name)


def _of_rights(change: TreeChange, old: str | None, new: str | None) -> Happening | None:
    """To gain `l` is as if the mailbox were created, to lose it as if it were deleted (RFC 5465 §5.4, §5.9)."""
    if (old is None) == (new is None):
        return None
    return Happening(change, new or old or "", lost=new is None)


def _id(box: ListedMailbox) -> MailboxId:
    return TREE if box.status is None else box.status.mailbox_id


def _modseq(box: ListedMailbox) -> ModSeq:
    return ModSeq(-1) if box.status is None else box.status.highest_modseq


def _newest(box: ListedMailbox, known: ListedMailbox | None) -> ListedMailbox:
    """Counters that are not newer than what is known of the same mailbox are old news."""
    if known is None or known.status is None or _id(box) != _id(known) or _modseq(box) > _modseq(known):
        return box
    return replace(box, status=known.status)


class Trees:
    """The trees of a worker: one for each account with a NOTIFY session."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._trees: dict[AccountId, Tree] = {}

    def follow(self, account_id: AccountId, wake: Callable[[], None]) -> tuple[Tree, Callable[[], None]]:
        """The tree of an account, and what ends the interest in it."""
        tree = self._trees.get(account_id)
        if tree is None:
            tree = self._trees[account_id] = Tree(account_id, self._sources)
        leave = tree.follow(wake)

        def end() -> None:
            if leave() and self._trees.get(account_id) is tree:
                del self._trees[account_id]
                tree.close()

        return tree, end
