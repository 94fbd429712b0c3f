"""The selected mailbox: what is true, and what each client has been told.

Two things are kept apart, and every sequence number in this package rests on it:

* A `MailboxView` holds the newest picture of one mailbox that this worker has. All sessions of the worker that select
  the mailbox share it; it is refreshed by one statement, however many of them ask.
* A `Selection` holds the picture that one client has been told. It is a reference to an older (or the same) version of
  the picture; versions share their blocks, so a session that lags behind costs only what differs.

The rules:

1. `MailboxView.newest` only moves forward. Modseq order is commit order inside a mailbox, so a refresh with a lower
   modseq than `newest` is old news, whatever order the answers arrive in.
2. A sequence number is always answered from `Selection.told`, never from `newest` and never by SQL: what
   the client means by it is what it was told, and a change by somebody else must not make it another message.
3. Only `Selection.sync` moves `told` over changes made by others, and it writes exactly what it moves over: expunges
   first, then EXISTS and RECENT, then new keywords, then flags. In
   any other order the client's count drifts.
4. Where a response may not renumber messages (RFC 9051 §7.5.1: during FETCH, STORE and SEARCH), `told` moves to a
   picture that keeps its own messages. New messages wait too then, because a count that includes them would be wrong
   by the expunges which are withheld.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from sora.errors import DatabaseReadOnly, NotFound, Unavailable
from sora.protocols.imap.views import modseqs
from sora.protocols.imap.views.modseqs import ModSeqColumn
from sora.protocols.imap.views.selection import EMPTY, Selection
from sora.services.changes import GONE
from sora.types import ALL_RIGHTS, MAX_UID, AccountId, MailboxId, ModSeq

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from sora._native.viewcols import Snapshot
    from sora.protocols.imap.views.keywords import KeywordRegistry, Keywords
    from sora.protocols.imap.views.selection import FlagEdit
    from sora.types import Rights

log = logging.getLogger(__name__)

NAMES: Final = 4096
"""Names of mailboxes that were selected lately; a name that means another mailbox now costs nothing but a delta."""

IDLE_VIEWS: Final = 64
"""Views kept without a session, so that a client which selects mailboxes in turn needs a delta and not a load."""

Key: TypeAlias = tuple[AccountId, MailboxId, AccountId | None]
"""Owner, mailbox, and the viewer if it is not the owner."""


class State(Protocol):
    """What `store.messages.state` and `.delta` give (one statement, one database snapshot)."""

    @property
    def uid_next(self) -> int: ...
    @property
    def highest_modseq(self) -> int: ...
    @property
    def message_count(self) -> int: ...
    @property
    def uidvalidity(self) -> int: ...
    @property
    def state(self) -> bytes | None: ...
    @property
    def rights(self) -> Rights: ...


class Opened(Protocol):
    """What `store.mailboxes.open` gives."""

    @property
    def mailbox_id(self) -> MailboxId: ...
    @property
    def recent_uid(self) -> int: ...
    @property
    def whole(self) -> bool: ...
    @property
    def state(self) -> State: ...


class FlagChange(Protocol):
    """What `store.messages.store_flags` gives.

    Attributes:
        blocks: Block number and three masks of messages: the change was applied to, really changed, refused.
    """

    @property
    def modseq(self) -> int: ...
    @property
    def blocks(self) -> Sequence[tuple[int, bytes, bytes, bytes]]: ...


class Messages(modseqs.Messages, Protocol):
    """The part of the message repository which a view needs."""

    async def state(self, account_id: AccountId, mailbox_id: MailboxId, viewer_id: AccountId | None, /) -> State: ...
    async def delta(
        self, account_id: AccountId, mailbox_id: MailboxId, since: ModSeq, viewer_id: AccountId | None, /
    ) -> State: ...


class Mailboxes(Protocol):
    """The part of the mailbox repository which a view needs."""

    async def open(
        self,
        account_id: AccountId,
        name: str,
        known: tuple[MailboxId, int] | None,
        viewer_id: AccountId | None,
        /,
        *,
        claim: bool,
    ) -> Opened: ...
    async def claim_recent(self, account_id: AccountId, mailbox_id: MailboxId, up_to: int, /) -> int: ...


class Changes(Protocol):
    """The change feed of the worker."""

    def watch(
        self, account_id: AccountId, mailbox_id: MailboxId, callback: Callable[[AccountId, MailboxId, ModSeq], None], /
    ) -> Callable[[], None]: ...


class MailboxView:
    """The newest picture of one mailbox, shared by the sessions of a worker that select it for the same viewer.

    Attributes:
        account_id: Whose mailbox it is.
        viewer_id: Whose \\Seen and rights these are, if not the owner's (shared mailboxes).
        newest: The picture.
        rights: What the viewer may do, as of the newest picture: a change of rights raises the modseq.
        modseqs: When its messages changed last; read only if somebody asks.
        keywords: Keyword names of the mailbox's account.
        gone: The mailbox was deleted under its sessions.
        claimed: Messages up to this UID were claimed as recent for sessions of this worker, or are just being so.
    """

    __slots__ = (
        "_flight",
        "_messages",
        "_next_flight",
        "_selections",
        "_signalled",
        "_tasks",
        "_unwatch",
        "account_id",
        "claimed",
        "gone",
        "keywords",
        "mailbox_id",
        "modseqs",
        "newest",
        "rights",
        "viewer_id",
    )

    def __init__(self, messages: Messages, keywords: Keywords, key: Key) -> None:
        self.account_id, self.mailbox_id, self.viewer_id = key
        self.rights = ALL_RIGHTS
        self.keywords = keywords
        self.newest: Snapshot = EMPTY
        self.modseqs = ModSeqColumn(messages, self.account_id, self.mailbox_id)
        self.gone = False
        self.claimed = 0
        self._messages = messages
        self._signalled = 0
        self._selections: set[Selection] = set()
        self._flight: asyncio.Task[None] | None = None
        self._next_flight: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unwatch: Callable[[], None] | None = None

    @property
    def key(self) -> Key:
        """What makes it another view than others."""
        return self.account_id, self.mailbox_id, self.viewer_id

    @property
    def stale(self) -> bool:
        """Somebody announced a change that `newest` does not hold yet."""
        return self._signalled > self.newest.highest_modseq

    def signal(self, _account_id: AccountId, _mailbox_id: MailboxId, modseq: ModSeq) -> None:
        """Take a notice from the change feed; clients in IDLE are served at once, others at their next command."""
        self._signalled = max(self._signalled, modseq)
        if self.stale and any(s.wake is not None for s in self._selections):
            self.spawn(self._refresh_for_idlers())

    async def refresh(self) -> None:
        """Bring `newest` up to everything committed before this call; callers share statements.

        A statement on its way may already have its database snapshot, older than the caller's reason to ask. So who
        comes while one is under way waits for the next, and all who wait share that one.

        Raises:
            NotFound: The mailbox is gone.
            Unavailable: The database is.
        """
        if self._flight is None:
            self._flight = self._start(self._fly())
            await asyncio.shield(self._flight)
            return
        if self._next_flight is None:
            self._next_flight = self._start(self._fly_after(self._flight))
        await asyncio.shield(self._next_flight)

    def expunged(self, modseq: int, uids: Iterable[int]) -> None:
        """A session of this worker has expunged messages.

        If nothing lies between `newest` and that change, `newest` is patched; else it is stale until the next refresh.
        """
        if modseq == self.newest.highest_modseq + 1:
            self.modseqs.expunged(modseq)
            self._patched(self.newest.patch_expunge(modseq, uids))
        else:
            self._signalled = max(self._signalled, modseq)

    def flagged(self, change: FlagChange, edit: FlagEdit) -> None:
        """A session of this worker has changed flags; see `expunged`.

        A STORE that changed nothing gives the modseq which somebody else's change has brought: that is no patch.
        """
        really = any(any(changed) for _, _, changed, _ in change.blocks)
        if really:
            self.modseqs.flagged(change.modseq, change.blocks)
        if really and change.modseq == self.newest.highest_modseq + 1:
            self._patched(edit.patch(self.newest, change.modseq, change.blocks))
        else:
            self._signalled = max(self._signalled, change.modseq)

    def deleted(self) -> None:
        """The mailbox is gone: idling sessions must say so, others find out at their next command."""
        self.gone = True
        self._wake()

    def _patched(self, newest: Snapshot) -> None:
        self.newest = newest
        self._wake()

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run something for the view in the background; the view keeps it alive."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def attach(self, selection: Selection) -> None:
        """Count a session in; the first one starts the watch."""
        self._selections.add(selection)

    def detach(self, selection: Selection) -> bool:
        """Count a session out; True if it was the last one."""
        self._selections.discard(selection)
        return not self._selections

    def watch(self, changes: Changes) -> None:
        """Begin to listen for changes; must come before the refresh that it completes."""
        if self._unwatch is None:
            self._unwatch = changes.watch(self.account_id, self.mailbox_id, self.signal)

    def unwatch(self) -> None:
        """Stop listening: `newest` may grow old until the next refresh."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        self.modseqs.rest()

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        # Those who wait see the error through their shield; if all of them went away, nobody needs it.
        task.add_done_callback(lambda t: t.cancelled() or t.exception())
        return task

    async def _fly(self) -> None:
        try:
            await self._read()
        finally:
            self._flight = None

    async def _fly_after(self, earlier: asyncio.Task[None]) -> None:
        await asyncio.wait((earlier,))
        self._flight, self._next_flight = self._next_flight, None
        await self._fly()

    async def _read(self) -> None:
        signalled = self._signalled
        try:
            if self.newest is EMPTY:
                await self._load()
            else:
                await self._apply_delta()
        except NotFound:
            self.gone = True
            self._wake()
            raise
        if signalled == GONE:  # it was deleted, and restored before anybody looked
            self._signalled = 0

    async def _load(self) -> None:
        await self.take(await self._messages.state(self.account_id, self.mailbox_id, self.viewer_id), whole=True)

    async def _apply_delta(self) -> None:
        since = ModSeq(self.newest.highest_modseq)
        state = await self._messages.delta(self.account_id, self.mailbox_id, since, self.viewer_id)
        await self.take(state, whole=False)

    async def take(self, state: State, *, whole: bool) -> None:
        """Learn what a statement gave.

        Args:
            whole: It is the whole picture; False: what changed since some picture that `newest` is or once was. What
                came in between is in it too, so it fits on every later one.
        """
        if state.highest_modseq >= self.newest.highest_modseq:
            self.rights = state.rights
        if state.highest_modseq <= self.newest.highest_modseq:
            return
        base = EMPTY if whole else self.newest
        snapshot = base.apply(state.state, state.uid_next, state.highest_modseq)
        if not whole and len(snapshot) != state.message_count:
            # The picture and the counters come from one database snapshot, so one of them is wrong: heal by a full
            # load instead of a BYE, and say so, because `check_mailbox` will find which.
            log.error(
                "mailbox picture disagrees with its counters, loading it again",
                extra={"mailbox_id": self.mailbox_id, "messages": len(snapshot), "counted": state.message_count},
            )
            await self._load()
            return
        await self._advance(snapshot)

    async def _advance(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the newest, once every keyword in it has a name."""
        if not self.keywords.names.keys() >= set(snapshot.flag_numbers()):
            await self.keywords.reload()
        if snapshot.highest_modseq > self.newest.highest_modseq:
            self.newest = snapshot
            self._wake()

    def _wake(self) -> None:
        for selection in self._selections:
            if selection.wake is not None:
                selection.wake()

    async def _refresh_for_idlers(self) -> None:
        try:
            await self.refresh()
        except NotFound:
            pass  # `gone` is set, and the idlers are awake to see it
        except Unavailable as e:
            log.warning("mailbox not refreshed: %s", e, extra={"mailbox_id": self.mailbox_id})


class Views:
    """The views of a worker: one for each selected mailbox, and a few that nobody has selected just now."""

    def __init__(
        self,
        messages: Messages,
        mailboxes: Mailboxes,
        changes: Changes,
        keywords: KeywordRegistry,
        *,
        idle: int = IDLE_VIEWS,
    ) -> None:
        self._messages = messages
        self._mailboxes = mailboxes
        self._changes = changes
        self._keywords = keywords
        self._idle_limit = idle
        self._active: dict[Key, MailboxView] = {}
        self._idle: OrderedDict[Key, MailboxView] = OrderedDict()
        self._names: OrderedDict[tuple[AccountId, str], MailboxId] = OrderedDict()

    async def select(
        self, account_id: AccountId, name: str, viewer_id: AccountId | None = None, *, read_only: bool
    ) -> Selection:
        """Open a mailbox for one session.

        One statement; another one where this worker has not listened to the mailbox yet, because what happens between
        the statement and the first watch is announced to nobody.

        Args:
            account_id: Whose mailbox it is.
            viewer_id: Whose session it is, if not the owner's. Such a session sees nothing as \\Recent.
            read_only: EXAMINE: flags stay as they are and \\Recent is not claimed.

        Raises:
            NotFound: There is no such mailbox, or it holds no messages.
            NoPermission: The viewer may not read it.
        """
        selection = self._rejoin(account_id, name, viewer_id, read_only)
        known = None if selection is None else (selection.view.mailbox_id, selection.view.newest.highest_modseq)
        try:
            opened = await self._open(account_id, name, known, viewer_id, claim=not read_only)
            if selection is None or selection.view.mailbox_id != opened.mailbox_id:
                if selection is not None:  # the name means another mailbox now
                    self.close(selection)
                selection = self._join(self._view((account_id, opened.mailbox_id, viewer_id)), read_only)
                await selection.view.take(opened.state, whole=opened.whole)
                await selection.view.refresh()
            else:
                await selection.view.take(opened.state, whole=opened.whole)
        except BaseException:
            if selection is not None:
                self.close(selection)
            raise
        self._name(account_id, name, opened.mailbox_id)
        selection.start(opened.state.uidvalidity, opened.recent_uid if viewer_id is None else MAX_UID)
        return selection

    async def _open(
        self,
        account_id: AccountId,
        name: str,
        known: tuple[MailboxId, int] | None,
        viewer_id: AccountId | None,
        *,
        claim: bool,
    ) -> Opened:
        """Where nothing can be claimed, the mailbox is opened all the same."""
        try:
            return await self._mailboxes.open(account_id, name, known, viewer_id, claim=claim)
        except DatabaseReadOnly:
            if not claim:
                raise
            return await self._mailboxes.open(account_id, name, known, viewer_id, claim=False)

    def _rejoin(
        self, account_id: AccountId, name: str, viewer_id: AccountId | None, read_only: bool
    ) -> Selection | None:
        """Join the view that this name meant lately, before the statement: then nothing is missed after it."""
        key = (account_id, self._names.get((account_id, name), MailboxId(0)), viewer_id)
        view = self._active.get(key) or self._idle.get(key)
        return None if view is None or view.gone or view.newest is EMPTY else self._join(view, read_only)

    def _view(self, key: Key) -> MailboxView:
        view = self._active.get(key) or self._idle.get(key)
        if view is None or view.gone:
            view = MailboxView(self._messages, self._keywords.of(key[0]), key)
        return view

    def _join(self, view: MailboxView, read_only: bool) -> Selection:
        key = view.key
        self._idle.pop(key, None)
        self._active[key] = view
        selection = Selection(view, read_only=read_only)
        view.attach(selection)
        view.watch(self._changes)
        return selection

    def _name(self, account_id: AccountId, name: str, mailbox_id: MailboxId) -> None:
        self._names[account_id, name] = mailbox_id
        self._names.move_to_end((account_id, name))
        if len(self._names) > NAMES:
            self._names.popitem(last=False)

    def close(self, selection: Selection) -> None:
        """A session leaves its mailbox."""
        view = selection.view
        if not view.detach(selection):
            return
        view.unwatch()
        key = view.key
        if self._active.get(key) is view:
            del self._active[key]
            self._keep(key, view)

    def deleted(self, account_id: AccountId, mailbox_id: MailboxId) -> None:
        """A session of this worker has deleted a mailbox."""
        for key in [key for key in self._idle if key[:2] == (account_id, mailbox_id)]:
            del self._idle[key]
        for key in [key for key in self._active if key[:2] == (account_id, mailbox_id)]:
            self._active.pop(key).deleted()

    def claim_later(self, view: MailboxView) -> None:
        """Note in the background that messages up to `newest` were shown as recent to somebody.

        Of all sessions that are told of a message at the same time, one claims it for all.
        """
        up_to = view.newest.uid_next - 1
        if up_to > view.claimed:
            view.claimed = up_to
            view.spawn(self._claim_quietly(view, up_to))

    def _keep(self, key: Key, view: MailboxView) -> None:
        if view.gone or view.newest is EMPTY:
            return
        self._idle[key] = view
        if len(self._idle) > self._idle_limit:
            self._idle.popitem(last=False)

    async def reread(self, account_id: AccountId, mailbox_id: MailboxId) -> None:
        """Refresh the views of a mailbox, so that a change of rights holds for every session of this worker at once."""
        views = [view for key, view in self._active.items() if key[:2] == (account_id, mailbox_id)]
        done = await asyncio.gather(*(view.refresh() for view in views), return_exceptions=True)
        for error in done:
            if isinstance(error, BaseException) and not isinstance(error, NotFound | Unavailable):
                raise error  # those two: the view is stale or gone, and looks again before it is used

    async def _claim_quietly(self, view: MailboxView, up_to: int) -> None:
        try:
            await self._mailboxes.claim_recent(view.account_id, view.mailbox_id, up_to)
        except (NotFound, Unavailable) as e:
            # A message is then recent for one more session, which RFC 3501 §2.3.2 allows.
            log.info("recent messages not claimed: %s", e, extra={"mailbox_id": view.mailbox_id})
