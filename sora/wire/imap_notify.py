"""NOTIFY (RFC 5465 §8): which events of which mailboxes a client wants to hear of."""

from __future__ import annotations

import enum
import functools
import operator
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import BadSyntax
from sora.wire.imap_fetch import parse_item_list
from sora.wire.imap_syntax import parenthesised, whole

if TYPE_CHECKING:
    from sora._native.imapscan import Cursor
    from sora.wire.imap_fetch import FetchItem

MAX_NAMES: Final = 1000
"""Mailboxes that one command may name."""


class Filter(enum.Enum):
    """Which mailboxes a group of events is about; the value is the name."""

    SELECTED = b"SELECTED"
    SELECTED_DELAYED = b"SELECTED-DELAYED"
    INBOXES = b"INBOXES"
    PERSONAL = b"PERSONAL"
    SUBSCRIBED = b"SUBSCRIBED"
    SUBTREE = b"SUBTREE"
    MAILBOXES = b"MAILBOXES"


class Event(enum.Flag):
    """What can happen."""

    NONE = 0
    MESSAGE_NEW = enum.auto()
    MESSAGE_EXPUNGE = enum.auto()
    FLAG_CHANGE = enum.auto()
    ANNOTATION_CHANGE = enum.auto()
    MAILBOX_NAME = enum.auto()
    SUBSCRIPTION_CHANGE = enum.auto()
    MAILBOX_METADATA_CHANGE = enum.auto()
    SERVER_METADATA_CHANGE = enum.auto()
    UNHEARD_OF = enum.auto()


EVENTS: Final = {
    "MessageNew": Event.MESSAGE_NEW,
    "MessageExpunge": Event.MESSAGE_EXPUNGE,
    "FlagChange": Event.FLAG_CHANGE,
    "MailboxName": Event.MAILBOX_NAME,
    "SubscriptionChange": Event.SUBSCRIPTION_CHANGE,
    "MailboxMetadataChange": Event.MAILBOX_METADATA_CHANGE,
    "ServerMetadataChange": Event.SERVER_METADATA_CHANGE,
}
"""What is supported, as BADEVENT spells it; AnnotationChange is not, and nor is what nobody has heard of."""
SELECTED: Final = frozenset({Filter.SELECTED, Filter.SELECTED_DELAYED})
COUNTS: Final = Event.MESSAGE_NEW | Event.MESSAGE_EXPUNGE
MESSAGE_EVENTS: Final = COUNTS | Event.FLAG_CHANGE | Event.ANNOTATION_CHANGE
UNSUPPORTED: Final = Event.ANNOTATION_CHANGE | Event.UNHEARD_OF

_BY_NAME: Final = {name.upper().encode(): event for name, event in EVENTS.items()} | {
    b"ANNOTATIONCHANGE": Event.ANNOTATION_CHANGE
}
_FILTERS: Final = {filter_.value: filter_ for filter_ in Filter}
_WITH_NAMES: Final = frozenset({Filter.SUBTREE, Filter.MAILBOXES})


class Group(Struct, frozen=True):
    """One event group.

    Attributes:
        names: of SUBTREE and MAILBOXES, decoded.
        fetch: what is told of each new message of the selected mailbox.
    """

    filter: Filter
    events: Event
    names: tuple[str, ...] = ()
    fetch: tuple[FetchItem, ...] = ()


class Notify(Struct, frozen=True):
    """NOTIFY SET with its groups, or NOTIFY NONE without any (RFC 5465 §3.1).

    Attributes:
        status: the client wants a STATUS of each mailbox first.
    """

    groups: tuple[Group, ...] = ()
    status: bool = False


@whole
def parse_notify(cur: Cursor) -> Notify:
    """`SP ("NONE" / "SET" [SP "STATUS"] SP event-group *(SP event-group))`."""
    form = cur.sp().keyword()
    if form == b"NONE":
        return Notify()
    if form != b"SET":
        raise BadSyntax("NOTIFY takes SET or NONE")
    status = cur.sp().peek() != ord("(")
    if status:
        if cur.keyword() != b"STATUS":
            raise BadSyntax("NOTIFY SET takes STATUS and groups of events")
        cur.sp()
    groups = [_parse_group(cur)]
    while not cur.at_end():
        groups.append(_parse_group(cur.sp()))
    if sum(group.filter in SELECTED for group in groups) > 1:
        raise BadSyntax("SELECTED and SELECTED-DELAYED may be there once")
    if sum(len(group.names) for group in groups) > MAX_NAMES:
        raise BadSyntax(f"NOTIFY may name {MAX_NAMES} mailboxes")
    return Notify(tuple(groups), status)


def _parse_group(cur: Cursor) -> Group:
    """`"(" filter-mailboxes SP events ")"`."""
    filter_ = _FILTERS.get(cur.expect(b"(").keyword())
    if filter_ is None:
        raise BadSyntax("There is no such mailbox filter")
    names = _parse_names(cur.sp()) if filter_ in _WITH_NAMES else ()
    events, fetch = _parse_events(cur.sp())
    cur.expect(b")")
    selected = filter_ in SELECTED
    if fetch and not selected:
        raise BadSyntax("FETCH items go with SELECTED only")
    if selected and events & ~(MESSAGE_EVENTS | Event.UNHEARD_OF):
        raise BadSyntax("SELECTED goes with message events only")
    return Group(filter_, events, names, fetch)


def _parse_names(cur: Cursor) -> tuple[str, ...]:
    """`mailbox / "(" mailbox *(SP mailbox) ")"`."""
    if cur.peek() == ord("("):
        return tuple(parenthesised(cur, lambda cur: cur.mailbox()))
    return (cur.mailbox(),)


def _parse_events(cur: Cursor) -> tuple[Event, tuple[FetchItem, ...]]:
    """`"NONE" / "(" event *(SP event) ")"`; MessageNew may have `fetch-att`s behind it."""
    if cur.peek() != ord("("):
        if cur.keyword() != b"NONE":
            raise BadSyntax("Events are a list, or NONE")
        return Event.NONE, ()
    fetch: tuple[FetchItem, ...] = ()

    def parse_event(cur: Cursor) -> Event:
        nonlocal fetch
        event = _BY_NAME.get(cur.keyword(), Event.UNHEARD_OF)
        if event is Event.MESSAGE_NEW and cur.skip(b" ("):
            fetch = parse_item_list(cur)
        return event

    events = functools.reduce(operator.or_, parenthesised(cur, parse_event))
    _require_companions(events)
    return events, fetch


def _require_companions(events: Event) -> None:
    """RFC 5465 §5: MessageNew and MessageExpunge go together, and FlagChange goes with them."""
    if events & MESSAGE_EVENTS and events & COUNTS != COUNTS:
        raise BadSyntax("MessageNew and MessageExpunge go together, and FlagChange with both")
