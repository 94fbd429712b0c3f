"""What two actions have in common."""

from __future__ import annotations

from sora.sieve.actions import Discard, FileInto, Keep, Redirect, Reject, kept_once, merged, same_as, told
from sora.sieve.mail import Mail

MAIL = Mail(b"")


def test_the_same() -> None:
    assert same_as(FileInto(MAIL, "inbox")) == same_as(FileInto(MAIL, "INBOX", ("a",)))
    assert same_as(FileInto(MAIL, "a")) != same_as(FileInto(MAIL, "A"))
    assert same_as(Redirect(MAIL, "a@B.c")) == same_as(Redirect(MAIL, "a@b.C", notify="NEVER"))
    assert same_as(Redirect(MAIL, "A@b.c")) != same_as(Redirect(MAIL, "a@b.c"))
    assert same_as(Reject("x")) is None


def test_merged() -> None:
    first, second = Mail(b"1"), Mail(b"2")
    assert merged(FileInto(first, "a", ("x",), create=True), FileInto(second, "a")) == FileInto(
        first, "a", None, create=True
    )
    assert merged(Keep(first, None, implicit=True), Keep(second, ("x",))) == Keep(first, ("x",))
    assert merged(Redirect(first, "a@b.c"), Redirect(second, "a@B.C")) == Redirect(first, "a@b.c")


def test_kept_once() -> None:
    actions = [Discard(), FileInto(MAIL, "inbox", ("a",)), FileInto(MAIL, "B"), Keep(MAIL, ("b",), implicit=True)]
    assert list(kept_once(actions, "INBOX")) == [Discard(), Keep(MAIL, ("b",)), FileInto(MAIL, "B")]
    assert list(kept_once(actions, "Other")) == actions
    special = [FileInto(MAIL, "INBOX", special_use="\\Junk"), Keep(MAIL)]
    assert list(kept_once(special, "INBOX")) == special


def test_told() -> None:
    assert told(FileInto(MAIL, "A")) == '"A"'
    assert told(Reject("no")) == '"no"'
    assert told(Keep(MAIL, ("a", "b"))) == "a b"
    assert told(Discard()) == told(Keep(MAIL)) == ""
