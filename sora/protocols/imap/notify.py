"""NOTIFY (RFC 5465): the client hears of what it has asked for, also between two commands.

Three things tell: the selected mailbox (`Session.bring_up_to_date`, which every command ends with), the counters of
other mailboxes, and the log of changes of names. The last two come from the account's `Tree`. What a session still owes
its client is never queued: counters are compared with those that were told last, and the log has a bounded length. So a
client that does not read costs nothing, and one that has missed too many names gets NOTIFICATIONOVERFLOW.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from sora import log
from sora._native.seqset import UidSet
from sora.errors import Refused, SoraError, Unavailable
from sora.protocols.imap import messages
from sora.protocols.imap.mailboxes import STATUS_ITEMS
from sora.protocols.imap.patterns import parents
from sora.protocols.imap.places import is_shared
from sora.protocols.imap.replies import BadEvent, NotificationOverflow
from sora.protocols.imap.state import LOGOUT
from sora.store.mailboxes import canonical_name
from sora.types import Rights
from sora.wire import imap_responses as responses
from sora.wire.imap_fetch import Binary, Fetch, Section
from sora.wire.imap_metadata import metadata_changed_line
from sora.wire.imap_notify import COUNTS, MESSAGE_EVENTS, SELECTED, UNSUPPORTED, Event, Filter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sora.protocols.imap.session import Session
    from sora.protocols.imap.tree import Happening, Tree
    from sora.store.mailboxes import ListedMailbox, Status
    from sora.store.trees import TreeChange
    from sora.types import AccountId, MailboxId
    from sora.wire.imap_fetch import FetchItem
    from sora.wire.imap_notify import Group, Notify

_log = log.get(__name__)

RETRY_S: Final = 2.0
"""Pause before the database is asked again, where it was away when something was to be told."""
OVERFLOW: Final = b"* OK [NOTIFICATIONOVERFLOW] Too many changes; nothing more is told until the next NOTIFY SET\r\n"
SUBSCRIPTIONS: Final = frozenset({"subscribe", "unsubscribe"})
EVENT_OF: Final = dict.fromkeys(SUBSCRIPTIONS, Event.SUBSCRIPTION_CHANGE) | {"metadata": Event.MAILBOX_METADATA_CHANGE}
"""By kind of change; all others are changes of names."""


async def notify(s: Session, cmd: Notify) -> None:
    """RFC 5465 §3.1: what was asked for before is forgotten; a refused command changes nothing.

    Raises:
        BadEvent: An event that is not supported.
        NotificationOverflow: More mailboxes than a session may watch.
        Unavailable: The mailboxes cannot be read now.
    """
    if any(group.events & UNSUPPORTED for group in cmd.groups):
        raise BadEvent
    interest = Interest(s, cmd.groups)
    try:
        await interest.begin(status=cmd.status)
    except BaseException:
        interest.close()
        raise
    if s.notifying is not None:
        s.notifying.close()
    s.notifying = interest
    if s.selection is not None:
        interest.apply_to_selection()


async def listen(s: Session) -> None:
    """Until the client says something; what happens meanwhile is told.

    Raises:
        TimeoutError: It says nothing for too long; news do not make it livelier.
    """
    assert s.notifying is not None
    end_mono = time.monotonic() + s.limits.imap_idle_timeout
    heard = s.octets_in
    while s.octets_in == heard and not s.stopping:
        await s.tell_news(hold=s.notifying.delayed)
        if LOGOUT in s.state:
            return
        left_s = end_mono - time.monotonic()
        try:
            await s.wait(min(left_s, RETRY_S) if s.notifying.behind else left_s)
        except TimeoutError:
            if time.monotonic() >= end_mono:
                raise


class Watched(Struct, frozen=True):
    """A group of events of mailboxes that are not selected, with names to be looked up: there may be many of both."""

    filter: Filter
    events: Event
    names: frozenset[str]


class Interest:
    """What one session wants to hear, and what it was told.

    Attributes:
        delayed: Between commands messages are not renumbered (SELECTED-DELAYED).
        pushes: There are events of the selected mailbox.
    """

    __slots__ = (
        "_cursor", "_end", "_groups", "_listed", "_own_modseqs", "_own_names", "_own_uids", "_selected", "_session",
        "_told", "_tree", "_version", "_wanted",
    )  # fmt: skip

    def __init__(self, session: Session, groups: Iterable[Group]) -> None:
        self._session = session
        self._selected = next((group for group in groups if group.filter in SELECTED), None)
        self._groups = tuple(_canonical(group) for group in groups if group.filter not in SELECTED and group.events)
        self._tree: Tree | None = None
        self._end: Callable[[], None] | None = None
        self._told: dict[MailboxId, Status] = {}
        self._cursor = 0
        self._version = 0
        self._listed = -1
        self._wanted: list[tuple[str, Event]] = []
        self._own_names: set[tuple[AccountId, str, str]] = set()
        self._own_modseqs: set[tuple[MailboxId, int]] = set()
        self._own_uids: set[tuple[MailboxId, int]] = set()

    @property
    def delayed(self) -> bool:
        """See the class."""
        return self._selected is not None and self._selected.filter is Filter.SELECTED_DELAYED

    @property
    def pushes(self) -> bool:
        """See the class."""
        return self._selected is not None and bool(self._selected.events)

    @property
    def behind(self) -> bool:
        """Something is to be told that could not be read."""
        selection = self._session.selection
        return (self._tree is not None and self._tree.behind) or (
            self.pushes and selection is not None and selection.view.stale
        )

    async def begin(self, *, status: bool) -> None:
        """Know what is there now: later changes are told.

        Args:
            status: Tell it too.
        """
        if not self._groups:
            return
        s = self._session
        self._tree, self._end = s.server.trees.follow(s.account_id, s.wake)
        await self._tree.refresh()
        watched = [(box, events) for box, events in self._watched() if events & MESSAGE_EVENTS]
        if len(watched) > s.limits.notify_mailboxes:
            raise NotificationOverflow
        self._cursor, self._version = self._tree.ending, self._tree.version
        for box, events in watched:
            if not box.rights & Rights.READ:  # RFC 5465 §3.1
                s.write(responses.list_line([rb"\NoAccess", *_attributes(box)], box.name, utf8=s.utf8))
            elif box.status is not None:
                self._told[box.status.mailbox_id] = box.status
                if status and box.status.mailbox_id != self._selected_id():
                    self._write_status(box.status, self._first_items(events))
                    await s.breathe()

    def close(self) -> None:
        """Hear no more."""
        if self._end is not None:
            self._end()
        self._tree = self._end = None

    def apply_to_selection(self) -> None:
        """The selected mailbox is told of in these words from now on."""
        selection = self._session.selection
        assert selection is not None
        events = Event.NONE if self._selected is None else self._selected.events
        selection.tells_counts = bool(events & COUNTS)
        selection.tells_flags = bool(events & Event.FLAG_CHANGE)
        selection.tells_uids = True
        selection.wake = self._session.wake if events else None

    # ------------------------------------------------------------------ what this client did itself

    def did(self, owner_id: AccountId, kind: str, name: str) -> None:
        """This client has changed a name, as `account_changes` says it: it need not be told (RFC 5465 §5)."""
        if self._tree is not None:
            self._own_names.add((owner_id, kind, _canonical_name(name)))
            self._tree.touch()

    def wrote(self, mailbox_id: MailboxId, modseq: int | None, uids: Iterable[int] = ()) -> None:
        """This client has changed a mailbox."""
        self._own_uids.update((mailbox_id, uid) for uid in uids)
        if modseq is not None and self._tree is not None:
            self._own_modseqs.add((mailbox_id, modseq))

    def forget_own(self) -> None:
        """What the client did was compared with everything that is known; later changes are not its own."""
        self._own_names.clear()
        self._own_modseqs.clear()
        self._own_uids.clear()

    # ------------------------------------------------------------------ telling

    async def tell(self) -> None:
        """Tell of names and of mailboxes that are not selected."""
        tree = self._tree
        if tree is None:
            self.forget_own()
            return
        try:
            await tree.refresh()
        except Unavailable as error:
            _log.info("mailboxes not refreshed", extra={"detail": str(error)})
            return
        happenings = tree.since(self._cursor)
        if happenings is None:
            self._overflow()
            return
        self._cursor = tree.ending
        for happening in self._foreign(happenings):
            self._tell_happening(happening)
            await self._session.breathe()
        if self._tree is tree and self._version != tree.version:
            self._version = tree.version
            await self._tell_counters()
        self.forget_own()

    async def tell_arrived(self, first_uid: int) -> None:
        """The FETCH for new messages of the selected mailbox (RFC 5465 §5.2), but not for the client's own.

        What cannot be had is left out: the client has the EXISTS and may ask for the rest.
        """
        s = self._session
        if self._selected is None or not self._selected.fetch:
            return
        view = s.view
        arrived = view.told.present(UidSet.from_ranges([(first_uid, view.told.uid_next)]))
        own = [uid for uid in arrived if (view.view.mailbox_id, uid) in self._own_uids]
        foreign = arrived - UidSet.from_numbers(own)
        if not foreign:
            return
        try:
            await messages.fetch(s, Fetch(foreign, tuple(map(_peeking, self._selected.fetch))))
        except (Refused, Unavailable) as error:
            _log.info("new messages not told in full", extra={"detail": str(error)})

    def _overflow(self) -> None:
        """RFC 5465 §5.8: as if NOTIFY NONE had come."""
        self._session.write(OVERFLOW)
        self.close()
        self._groups, self._selected = (), None
        if self._session.selection is not None:
            self.apply_to_selection()

    def _foreign(self, happenings: Iterable[Happening]) -> Iterator[Happening]:
        """Without the client's own, and without the children of a renamed mailbox that is told (RFC 5465 §5.4)."""
        renamed: Happening | None = None
        for happening in happenings:
            if _is_child_of(happening, renamed):
                continue
            renamed = happening if happening.old_name is not None and self._wants(happening) else None
            if not self._is_own_change(happening.change):
                yield happening

    def _is_own_change(self, change: TreeChange) -> bool:
        """This client has made it, or it came with what this client made: the names above a new one."""
        if (change.account_id, change.kind, change.name) in self._own_names:
            return True
        return change.kind == "create" and any(
            owner_id == change.account_id and kind in ("create", "rename") and name.startswith(f"{change.name}/")
            for owner_id, kind, name in self._own_names
        )

    def _wants(self, happening: Happening) -> bool:
        """The client has asked for such changes of one of the names."""
        assert self._tree is not None
        if not happening.name:  # of the server: whatever mailboxes the events are about
            return any(group.events & Event.SERVER_METADATA_CHANGE for group in self._groups)
        event = EVENT_OF.get(happening.change.kind, Event.MAILBOX_NAME)
        events = self._events_of(happening.name, self._tree.boxes.get(happening.name))
        if happening.old_name is not None:
            events |= self._events_of(happening.old_name, None)
        return bool(events & event)

    def _tell_happening(self, happening: Happening) -> None:
        """LIST as it was after the event: what came later is told later, and must fit on it."""
        if not self._wants(happening):
            return
        assert self._tree is not None
        s, box, kind = self._session, self._tree.boxes.get(happening.name), happening.change.kind
        if kind == "metadata":
            entries = (happening.change.old_name or "").split()
            s.write(metadata_changed_line(happening.name, entries, utf8=s.utf8))
            return
        attributes = _attributes(box)
        if happening.lost:
            attributes = [rb"\NoAccess"]
        elif kind == "delete" and not (box is not None and box.noselect):
            attributes = [rb"\NonExistent"]
        elif rb"\NonExistent" in attributes and kind not in SUBSCRIPTIONS | {"delete"}:
            attributes = []
        if kind == "subscribe" or (kind != "unsubscribe" and box is not None and box.subscribed):
            attributes.append(rb"\Subscribed")
        s.write(responses.list_line(attributes, happening.name, old_name=happening.old_name, utf8=s.utf8))

    async def _tell_counters(self) -> None:
        """STATUS of each watched mailbox that is not what the client was told."""
        selected_id = self._selected_id()
        for box, events in self._watched():
            new = box.status
            if new is None or not events & MESSAGE_EVENTS or not box.rights & Rights.READ:
                continue
            old = self._told.get(new.mailbox_id)
            if old is new:
                continue
            self._told[new.mailbox_id] = new
            if new.mailbox_id != selected_id and not self._is_own(old, new):
                self._write_status(new, self._changed_items(old, new, events))
                await self._session.breathe()

    def _is_own(self, old: Status | None, new: Status) -> bool:
        """Nothing lies between the two but what this client did."""
        if old is None or not self._own_modseqs:
            return False
        modseqs = range(old.highest_modseq + 1, new.highest_modseq + 1)
        uids = range(old.uid_next, new.uid_next)
        return (
            len(modseqs) <= len(self._own_modseqs)
            and all((new.mailbox_id, modseq) in self._own_modseqs for modseq in modseqs)
            and all((new.mailbox_id, uid) in self._own_uids for uid in uids)
        )

    def _first_items(self, events: Event) -> tuple[str, ...]:
        """RFC 5465 §3.1."""
        items: tuple[str, ...] = ("MESSAGES", "UIDNEXT", "UIDVALIDITY", "UNSEEN")
        return (*items, "HIGHESTMODSEQ") if self._condstore or events & Event.FLAG_CHANGE else items

    def _changed_items(self, old: Status | None, new: Status, events: Event) -> tuple[str, ...]:
        """RFC 5465 §5.1 to §5.3; empty: nothing that the client wants to hear of.

        Without CONDSTORE a change of flags shows in the number of unseen messages or not at all.
        """
        modseq = ("HIGHESTMODSEQ",) if self._condstore else ()
        if old is None or (old.messages, old.uid_next) != (new.messages, new.uid_next):
            return ("MESSAGES", "UIDNEXT", "UIDVALIDITY", *modseq) if old is None else ("MESSAGES", "UIDNEXT", *modseq)
        if not events & Event.FLAG_CHANGE:
            return ()
        unseen = ("UNSEEN",) if old.unseen != new.unseen else ()
        return ("UIDVALIDITY", *unseen, *modseq) if unseen or modseq else ()

    @property
    def _condstore(self) -> bool:
        return "CONDSTORE" in self._session.enabled

    def _write_status(self, status: Status, items: tuple[str, ...]) -> None:
        if items:
            values = ((item, STATUS_ITEMS[item](status)) for item in items)
            self._session.write(responses.status_line(status.name, values, utf8=self._session.utf8))

    # ------------------------------------------------------------------ which mailboxes

    def _selected_id(self) -> MailboxId | None:
        selection = self._session.selection
        return None if selection is None else selection.view.mailbox_id

    def _watched(self) -> Iterator[tuple[ListedMailbox, Event]]:
        """Mailboxes with the events that are wanted of each."""
        tree = self._tree
        assert tree is not None
        boxes = tree.boxes
        if self._listed != tree.listed:  # a delivery must not be compared with every filter
            self._listed = tree.listed
            self._wanted = [
                (name, events)
                for name, box in boxes.items()
                if box.exists and not box.noselect and (events := self._events_of(name, box))
            ]
        for name, events in self._wanted:
            yield boxes[name], events

    def _events_of(self, name: str, box: ListedMailbox | None) -> Event:
        """All groups that a mailbox falls under (RFC 5465 §6)."""
        events = Event.NONE
        for group in self._groups:
            events |= _events_of(group, name, box)
        return events


def _peeking(item: FetchItem) -> FetchItem:
    r"""The item without \Seen: what the client did not ask for now, it has not read."""
    return replace(item, peek=True) if isinstance(item, Section | Binary) else item


def _canonical(group: Group) -> Watched:
    return Watched(group.filter, group.events, frozenset(map(_canonical_name, group.names)))


def _canonical_name(name: str) -> str:
    """Names that cannot be are no error: no mailbox will ever have them."""
    try:
        return canonical_name(name) if name else name
    except SoraError:
        return name


def _events_of(group: Watched, name: str, box: ListedMailbox | None) -> Event:
    """RFC 5465 §6.2 to §6.6. Filters may deliver to any mailbox, so INBOXES are all personal ones (§6.3)."""
    covered = True
    if group.filter is Filter.SUBSCRIBED and not (box is not None and box.subscribed):
        return group.events & Event.SUBSCRIPTION_CHANGE  # it may have been subscribed until now
    if group.filter is Filter.MAILBOXES:
        covered = name in group.names
    elif group.filter is Filter.SUBTREE:
        covered = not group.names.isdisjoint(("", name, *parents(name)))
    elif group.filter is not Filter.SUBSCRIBED:
        covered = not is_shared(name)
    return group.events if covered else Event.NONE


def _is_child_of(happening: Happening, renamed: Happening | None) -> bool:
    """The mailbox was renamed because one above it was; they stand behind it in the log."""
    if renamed is None or renamed.old_name is None or happening.old_name is None:
        return False
    below = happening.old_name.removeprefix(renamed.old_name)
    return below.startswith("/") and happening.name == renamed.name + below


def _attributes(box: ListedMailbox | None) -> list[bytes]:
    if box is None or not box.exists:
        return [rb"\NonExistent"]
    attributes = [rb"\HasChildren" if box.has_children else rb"\HasNoChildren"]
    attributes += [rb"\Noselect"] if box.noselect else []
    return attributes + ([box.special_use.encode()] if box.special_use is not None else [])
