"""RFC 5230, RFC 6131."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any

import pytest

from sora.sieve.actions import Send
from tests.support.sieve import MAIL, did, errors, execute, mail

if TYPE_CHECKING:
    from email.message import EmailMessage

DAY = 86400
VACATION = 'require ["vacation", "vacation-seconds", "variables", "fcc", "mailbox", "imap4flags"];'


def answers(command: str, **arguments: Any) -> list[Send]:
    outcome = execute(VACATION + command, **arguments)
    assert not outcome.error, outcome.error
    return [action for action in outcome.actions if isinstance(action, Send)]


def answer(command: str, **arguments: Any) -> tuple[Send, EmailMessage]:
    [found] = answers(command, **arguments)
    message: Any = message_from_bytes(found.data, policy=policy.default)
    return found, message


def test_an_answer() -> None:
    found, message = answer('vacation "I am away until July";')
    assert (found.kind, found.sender, found.recipients, found.copy) == (
        "vacation",
        "",
        ("coyote@desert.example.org",),
        None,
    )
    assert found.seconds == 7 * DAY
    assert message["To"] == "coyote@desert.example.org"
    assert message["From"] == "roadrunner@acme.example.com"
    assert message["Subject"] == "Auto: I have a present for you"
    assert message["Auto-Submitted"] == "auto-replied (vacation)"
    assert message["In-Reply-To"] == message["References"] == "<1@desert.example.org>"
    assert message["Date"] == "Tue, 05 Mar 2024 14:30:15 +0100"
    assert message["Message-ID"] == "<random.v@acme.example.com>"
    assert message.get_content() == "I am away until July"
    assert message.get_content_type() == "text/plain"


def test_the_message_is_kept_besides() -> None:
    assert did(VACATION + 'vacation "x";') == ["vacation coyote@desert.example.org", "keep"]


@pytest.mark.parametrize(
    ("tags", "seconds"),
    [
        (":days 3", 3 * DAY),
        (":days 0", DAY),
        (":days 9999", 90 * DAY),
        (":seconds 60", 60),
        (":seconds 0", 0),
        (":seconds 99999999", 90 * DAY),
    ],
)
def test_periods(tags: str, seconds: int) -> None:
    assert answers(f'vacation {tags} "x";')[0].seconds == seconds


def test_tags() -> None:
    _, message = answer('vacation :subject "Grüße" :from "Täst <bird@acme.example.com>" "Bin w\u00e4g\r\n.";')
    assert message["Subject"] == "Grüße"
    assert str(message["From"]) == "Täst <bird@acme.example.com>"
    assert message.get_content().split() == ["Bin", "wäg", "."]


def test_mime() -> None:
    found, message = answer("vacation :mime text:\nContent-Type: text/html; charset=utf-8\n\n<b>\u00fc</b>\n.\n;")
    assert message.get_content_type() == "text/html"
    assert found.data.endswith("<b>ü</b>\r\n".encode())
    assert errors(VACATION + 'vacation :mime "just text";') == [
        "1:87 The text of :mime must begin with MIME header fields (RFC 5230 §4.3)"
    ]


def test_handles() -> None:  # §4.2
    def handle(command: str, **arguments: Any) -> str:
        return answers(command, **arguments)[0].handle

    plain = handle('vacation "x";')
    assert plain == handle('vacation :days 3 "x";')
    others = [
        'vacation "y";',
        'vacation :subject "s" "x";',
        'vacation :from "bird@acme.example.com" "x";',
        'vacation :mime "Content-Type: a/b\r\n\r\nx";',
    ]
    assert len({plain, *map(handle, others)}) == 5
    assert plain == handle('vacation "x";', mail=mail(To="bird@acme.example.com", Subject="another"))
    quoting = 'vacation :subject "Away: ${1}" "x";'
    script = f'require ["vacation", "variables"]; if header :matches "subject" "*" {{ {quoting} }}'
    one, two = (
        execute(script, mail=mail(To="bird@acme.example.com", Subject=subject)).actions[0].handle  # type: ignore[union-attr]
        for subject in ("one", "two")
    )
    assert one == two  # the same answer, whatever it quotes
    assert handle('vacation :handle "h" "x";') == handle('vacation :handle "h" :subject "s" "y";') == "h"


@pytest.mark.parametrize(
    ("data", "sender"),
    [
        (MAIL, ""),
        (MAIL, None),
        (MAIL, "roadrunner@ACME.example.com"),
        (MAIL, "bird@acme.example.com"),
        (MAIL, "MAILER-DAEMON@example.org"),
        (MAIL, "owner-list@example.org"),
        (MAIL, "list-request@example.org"),
        (MAIL, "noreply@example.org"),
        (b"List-Id: <a.b>\r\n" + MAIL, "coyote@a.b"),
        (b"List-Post: <mailto:a@b>\r\n" + MAIL, "coyote@a.b"),
        (b"Auto-Submitted: auto-generated\r\n" + MAIL, "coyote@a.b"),
        (b"Auto-Submitted: auto-replied; x=y\r\n" + MAIL, "coyote@a.b"),
        (b"Precedence: Bulk\r\n" + MAIL, "coyote@a.b"),
        (b"X-Auto-Response-Suppress: DR, OOF\r\n" + MAIL, "coyote@a.b"),
        (MAIL.replace(b"To: ", b"X-To: "), "coyote@a.b"),
        (mail(To="all@acme.example.com"), "coyote@a.b"),
    ],
)
def test_who_gets_no_answer(data: bytes, sender: str | None) -> None:  # §4.5, §4.6, RFC 3834 §2
    assert answers('vacation "x";', mail=data, sender=sender) == []


@pytest.mark.parametrize("field", ["Auto-Submitted: no", "X-Auto-Response-Suppress: DR", "Precedence: first-class"])
def test_who_gets_one_all_the_same(field: str) -> None:
    assert answers('vacation "x";', mail=field.encode() + b"\r\n" + MAIL)


@pytest.mark.parametrize("field", ["To", "Cc", "Bcc", "Resent-To", "Resent-Cc", "Resent-Bcc"])
def test_the_owner_must_be_addressed(field: str) -> None:
    data = f"{field}: x@y.z, Bird <BIRD@acme.example.com>\r\n\r\n".encode()
    assert answers('vacation "x";', mail=data)
    other = data.replace(b"BIRD@acme", b"tim@acme")
    assert not answers('vacation "x";', mail=other)
    assert answers('vacation :addresses ["tim@ACME.example.com"] "x";', mail=other)


def test_subjects() -> None:
    assert answer('vacation "x";', mail=mail(To="bird@acme.example.com"))[1]["Subject"] == "Automated reply"
    data = mail(To="bird@acme.example.com", Subject="=?utf-8?q?=C3=BC?= \r\n x")
    assert answer('vacation "x";', mail=data)[1]["Subject"].split() == ["Auto:", "ü", "x"]


def test_headers_cannot_be_injected() -> None:
    _, message = answer('vacation :subject "a\r\nBcc: evil@example.org" "x";')
    assert message["Bcc"] is None


def test_references_are_kept() -> None:
    data = mail(To="bird@acme.example.com", Message_ID="<2@a>", References="<0@a> <1@a>")
    assert answer('vacation "x";', mail=data)[1]["References"] == "<0@a> <1@a> <2@a>"


def test_twice_is_a_failure() -> None:
    assert "vacation is used twice" in execute(VACATION + 'vacation "x"; vacation "y";').error
    assert did(VACATION + 'vacation "x";', VACATION + 'vacation "y";') == ["vacation coyote@desert.example.org", "keep"]


def test_fcc() -> None:  # RFC 8580 §3
    [found] = answers('vacation :fcc "Sent" :create :flags ["\\\\Seen"] "x";')
    assert found.copy is not None
    assert (found.copy.mailbox, found.copy.create, found.copy.flags) == ("Sent", True, ("\\Seen",))
    assert found.copy.mail.data == found.data


def test_mistakes() -> None:
    assert errors('require "vacation-seconds"; vacation :seconds 5 "x";') == [], "RFC 6131 §2"
    assert errors('require "vacation"; vacation :seconds 5 "x";')[0] == '1:30 :seconds needs require "vacation-seconds"'
    assert "Only one of" in errors(VACATION + 'vacation :days 1 :seconds 5 "x";')[0]
    assert errors(VACATION + 'vacation :from "x" "y";') == ['1:87 "x" is no mail address']


def test_example() -> None:  # RFC 5230 §4.7 (shortened)
    script = """require "vacation";
        if header :matches "subject" "*" {
            vacation :days 23 :addresses ["tjs@example.edu", "ts4z@landru.example.edu"]
                "I'm away until October 19. If it's an emergency, call 911, I guess."; }"""
    assert did(script, mail=mail(To="tjs@example.edu", Subject="x")) == ["vacation coyote@desert.example.org", "keep"]


def test_an_id_that_is_none_is_not_answered_to() -> None:  # RFC 5322 §3.6.4
    _, message = answer('vacation "x";', mail=mail(To="roadrunner@acme.example.com", Message_ID="no id"))
    assert message["In-Reply-To"] is None
    assert message["References"] is None
