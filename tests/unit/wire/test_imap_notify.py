"""The grammar of NOTIFY (RFC 5465 §8)."""

from __future__ import annotations

import pytest

from sora._native.imapscan import Command, Scanner
from sora.errors import BadSyntax
from sora.wire.imap_fetch import Attribute
from sora.wire.imap_notify import COUNTS, MAX_NAMES, Event, Filter, Group, Notify, parse_notify


def parse(text: str) -> Notify:
    scanner = Scanner(1 << 20)
    scanner.feed(f"t NOTIFY{text}\r\n".encode())
    line = scanner.next()
    assert isinstance(line, Command)
    return parse_notify(line.cursor)


def test_none() -> None:
    assert parse(" NONE") == parse(" none") == Notify()


def test_groups_in_order() -> None:
    found = parse(
        " SET STATUS (selected-delayed (messagenew (uid flags) messageexpunge)) (personal (MailboxName))"
        ' (subtree ("A B" INBOX) NONE) (mailboxes Sent (SubscriptionChange ServerMetadataChange))'
    )
    assert found == Notify(
        (
            Group(Filter.SELECTED_DELAYED, COUNTS, (), (Attribute.UID, Attribute.FLAGS)),
            Group(Filter.PERSONAL, Event.MAILBOX_NAME),
            Group(Filter.SUBTREE, Event.NONE, ("A B", "INBOX")),
            Group(Filter.MAILBOXES, Event.SUBSCRIPTION_CHANGE | Event.SERVER_METADATA_CHANGE, ("Sent",)),
        ),
        status=True,
    )


def test_an_event_twice_is_one() -> None:
    found = parse(" SET (INBOXES (MessageNew MessageNew MessageExpunge))")
    assert found.groups == (Group(Filter.INBOXES, COUNTS),)


@pytest.mark.parametrize("event", ["AnnotationChange MessageNew MessageExpunge", "NobodyHasHeardOfIt"])
@pytest.mark.parametrize("where", ["SELECTED", "SUBSCRIBED"])
def test_an_unsupported_event_is_no_bad_syntax(event: str, where: str) -> None:
    (group,) = parse(f" SET ({where} ({event}))").groups
    assert group.events & (Event.ANNOTATION_CHANGE | Event.UNHEARD_OF)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", " SET", " NONE NONE", " BOTH", " SET ", " SET STATUS", " SET STATUS ", " SET NOW (SELECTED NONE)",
        " SET ()", " SET (SELECTED)", " SET (SELECTED ())", " SET (SELECTED SOME)", " SET (NOWHERE NONE)",
        " SET (SELECTED NONE)(PERSONAL NONE)", " SET (SELECTED NONE) x",
        " SET (SELECTED (MessageNew))", " SET (SELECTED (MessageExpunge))", " SET (PERSONAL (FlagChange))",
        " SET (PERSONAL (FlagChange MessageNew))", " SET (PERSONAL (AnnotationChange))",
        " SET (SELECTED (MailboxName))", " SET (SELECTED-DELAYED (SubscriptionChange))",
        " SET (SELECTED NONE) (SELECTED NONE)", " SET (SELECTED NONE) (SELECTED-DELAYED NONE)",
        " SET (PERSONAL (MessageNew (UID) MessageExpunge))", " SET (SELECTED (MessageNew () MessageExpunge))",
        " SET (SELECTED (MessageNew (ALL) MessageExpunge))", " SET (SELECTED (MessageExpunge (UID) MessageNew))",
        " SET (SUBTREE NONE)", " SET (SUBTREE () NONE)", " SET (MAILBOXES (A ) NONE)", " SET (PERSONAL INBOX NONE)",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadSyntax):
        parse(text)


def test_so_many_names_and_no_more() -> None:
    names = " ".join(f"n{number}" for number in range(MAX_NAMES))
    assert len(parse(f" SET (MAILBOXES ({names}) NONE)").groups[0].names) == MAX_NAMES
    with pytest.raises(BadSyntax):
        parse(f" SET (MAILBOXES ({names}) NONE) (SUBTREE x NONE)")
