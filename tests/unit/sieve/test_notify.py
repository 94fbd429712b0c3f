"""RFC 5435, RFC 5436."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import Any

import pytest

from sora.sieve.actions import Send
from sora.sieve.notify import MailTo, parse_mailto
from tests.support.sieve import MAIL, did, errors, execute, holds

NOTIFY = 'require ["enotify", "variables", "envelope", "fileinto"];'


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("mailto:alm@example.com", MailTo(("alm@example.com",))),
        ("MAILTO:a%40b@example.com", MailTo(('"a@b"@example.com',))),
        ("mailto:a@b.c,d@e.f?to=g@h.i", MailTo(("a@b.c", "d@e.f", "g@h.i"))),
        ("mailto:a@b.c?subject=Hi%20there&body=x%0D%0Ay", MailTo(("a@b.c",), "Hi there", "x\r\ny")),
        (
            "mailto:a@b.c?cc=x@y.z&from=evil@x.y&x-a=1&a%0Ab=2",
            MailTo(("a@b.c",), fields=(("Cc", "x@y.z"), ("X-A", "1"))),
        ),
        ("mailto:", None),
        ("mailto:nobody", None),
        ("xmpp:a@b.c", None),
        ("mailto:" + ",".join(["a@b.c"] * 9), None),
    ],
)
def test_uris(uri: str, found: MailTo | None) -> None:
    assert parse_mailto(uri) == found


def notification(command: str, **arguments: Any) -> tuple[Send, Any]:
    [found, *_] = execute(NOTIFY + command, **arguments).actions
    assert isinstance(found, Send)
    return found, message_from_bytes(found.data, policy=policy.default)


def test_a_notification() -> None:  # RFC 5436 §2.7
    found, message = notification(
        'notify :importance "1" :message "This is probably very important" "mailto:alm@example.com";'
    )
    assert (found.kind, found.sender, found.recipients) == (
        "notify",
        "roadrunner@acme.example.com",
        ("alm@example.com",),
    )
    assert message["Subject"] == "This is probably very important"
    assert message["From"] == "roadrunner@acme.example.com"
    assert message["To"] == "alm@example.com"
    assert message["Importance"] == "High"
    assert message["X-Priority"] == "1 (Highest)"
    assert message["Auto-Submitted"] == 'auto-notified; owner-email="roadrunner@acme.example.com"'
    assert "I have a present for you" in message.get_content()


def test_subject_body_and_fields_of_the_uri() -> None:
    _, message = notification('notify "mailto:a@b.c?subject=S&body=B&x-y=z";')
    assert (message["Subject"], message.get_content(), message["X-Y"]) == ("S", "B", "z")
    assert notification('notify "mailto:a@b.c";')[1]["Subject"] == "I have a present for you"


def test_from() -> None:
    assert notification('notify :from "bird@acme.example.com" "mailto:a@b.c";')[1]["From"] == "bird@acme.example.com"
    assert notification('notify :from "evil@example.org" "mailto:a@b.c";')[1]["From"] == "roadrunner@acme.example.com"


def test_the_implicit_keep_stays() -> None:
    assert did(NOTIFY + 'notify "mailto:a@b.c";') == ["notify a@b.c", "keep"]


def test_no_notification_for_what_a_program_sent() -> None:
    assert did(NOTIFY + 'notify "mailto:a@b.c";', mail=b"Auto-Submitted: auto-notified\r\n" + MAIL) == ["keep"]
    assert len(did(NOTIFY + 'notify "mailto:a@b.c";', mail=b"Auto-Submitted: no\r\n" + MAIL)) == 2


def test_several_have_ids_of_their_own() -> None:
    outcome = execute(NOTIFY + 'notify "mailto:a@b.c"; notify "mailto:a@b.c";')
    ids = {message_from_bytes(action.data)["Message-ID"] for action in outcome.actions if isinstance(action, Send)}
    assert len(ids) == 2


def test_valid_notify_method() -> None:
    assert holds('valid_notify_method "mailto:a@b.c"', "enotify")
    assert not holds('valid_notify_method ["mailto:a@b.c", "http://gw.example.net/notify?test"]', "enotify")


def test_notify_method_capability() -> None:
    assert holds('notify_method_capability "mailto:a@b.c" "Online" "maybe"', "enotify")
    assert not holds('notify_method_capability "mailto:a@b.c" "online" "yes"', "enotify")
    assert not holds('notify_method_capability "mailto:a@b.c" "other" "maybe"', "enotify")
    assert not holds('notify_method_capability "tel:+1" "online" "maybe"', "enotify")


def test_mistakes() -> None:
    assert errors(NOTIFY + 'notify "xmpp:a@b.c";') == ['1:58 "xmpp:a@b.c" is no method of notification: mailto: is']
    assert errors(NOTIFY + 'notify :importance "4" "mailto:a@b.c";') == ["1:58 :importance is 1, 2 or 3"]
    assert "no method of notification" in execute(NOTIFY + 'set "a" "x:y"; notify "${a}";').error


def test_example() -> None:  # RFC 5435 §3.8
    script = (
        NOTIFY
        + """
        if header :contains "from" "coyote" {
            notify :importance "1" :message "This is probably very important" "mailto:alm@example.com";
            stop; }
        if header :contains "to" "sievemailinglist@example.org" {
            if header :matches "Subject" "*" { set "subject" "${1}"; }
            if envelope :all :matches "from" "*" { set "env_from" " [really: ${1}]"; }
            notify :importance "3" :message "[SIEVE] ${subject}${env_from}" "mailto:alm@example.com";
            fileinto "INBOX.sieve"; }"""
    )
    assert did(script) == ["notify alm@example.com", "keep"]
