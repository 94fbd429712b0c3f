"""Delivery status notifications."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sora.mime.report import MAX_HEADER, Report, write_report

if TYPE_CHECKING:
    from email.message import EmailMessage

REPORT = Report(
    action="failed",
    status="5.1.1",
    reporting="mail.example.com",
    sender="a@example.org",
    recipient="b@example.org",
    original="",
    envid="",
    remote="smtp.example.com",
    diagnostic="550 5.1.1 no such\r\nuser",
    explained="RCPT: 550 5.1.1 no such\r\nuser",
    arrived_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    reported_at=datetime(2026, 1, 7, 3, 4, 5, tzinfo=UTC),
    unique="0123456789abcdef",
)
MAIL = b"From: a@example.org\r\nSubject: hi\r\n\r\nthe body\r\n"


def parse(data: bytes) -> tuple[EmailMessage, list[Any]]:
    message: Any = email.message_from_bytes(data, policy=email.policy.SMTP)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    return message, list(message.iter_parts())


def fields(part: Any) -> tuple[dict[str, str], dict[str, str]]:
    first, second = part.get_payload()
    return dict(first.items()), dict(second.items())


def test_a_report() -> None:
    message, (explained, status, header) = parse(write_report(REPORT, MAIL, whole=False))
    assert message["from"] == "Mail Delivery System <MAILER-DAEMON@mail.example.com>"
    assert (message["to"], message["date"]) == ("a@example.org", "Wed, 07 Jan 2026 03:04:05 +0000")
    assert "<b@example.org>:" in explained.get_content()
    about, recipient = fields(status)
    assert about == {"Reporting-MTA": "dns; mail.example.com", "Arrival-Date": "Fri, 02 Jan 2026 03:04:05 +0000"}
    assert recipient == {
        "Final-Recipient": "rfc822; b@example.org",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; smtp.example.com",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date": "Wed, 07 Jan 2026 03:04:05 +0000",
    }
    assert (header.get_content_type(), header.get_content()) == (
        "text/rfc822-headers",
        "From: a@example.org\r\nSubject: hi\r\n",
    )


def test_what_the_sender_gave_is_given_back() -> None:
    report = replace(
        REPORT, envid="e 1", original="rfc822;old@example.org", remote="", diagnostic="Mail loop", explained="Mail loop"
    )
    about, recipient = fields(parse(write_report(report, MAIL, whole=False))[1][1])
    assert about["Original-Envelope-Id"] == "e 1"
    assert recipient["Original-Recipient"] == "rfc822; old@example.org"
    assert recipient["Diagnostic-Code"] == "X-Sora; Mail loop"
    assert "Remote-MTA" not in recipient


def test_the_whole_mail() -> None:
    data = write_report(REPORT, MAIL, whole=True)
    assert data.isascii()
    assert parse(data)[1][2].get_payload()[0].get_payload() == "the body\r\n"
    wide = write_report(REPORT, MAIL + b"\xe4\r\n", whole=True)
    assert b"Content-Transfer-Encoding: 8bit" in wide.partition(b"\r\n\r\n")[0]
    assert MAIL + b"\xe4\r\n" in wide


@pytest.mark.parametrize("mail", [b"", b"no header", b"Subject: only\r\n", b"\r\nbody", b"a: b\nc: d\n\nbody"])
def test_mail_of_any_shape(mail: bytes) -> None:
    assert len(parse(write_report(REPORT, mail, whole=False))[1]) == 3
    assert len(parse(write_report(REPORT, mail, whole=True))[1]) == 3


def test_utf8_is_written_in_seven_bits() -> None:
    report = replace(REPORT, recipient="jörg@example.org", diagnostic="550 nö", explained="550 nö")
    data = write_report(report, "Subject: grün\r\n\r\n".encode(), whole=False)
    assert data.isascii()
    _, (explained, status, header) = parse(data)
    assert "<jörg@example.org>" in explained.get_content()
    assert fields(status)[1]["Final-Recipient"] == "utf-8; j\\x{F6}rg@example.org"
    assert fields(status)[1]["Diagnostic-Code"] == "smtp; 550 n\\x{F6}"
    assert "Subject: grün" in header.get_content()


@pytest.mark.parametrize("mail", [b"X-Long: y\r\n" * 90_000, b"X-Long: y\n" * 90_000 + b"\nbody", b"y" * 1_000_000])
def test_not_all_of_a_large_header_goes_back(mail: bytes) -> None:
    assert len(write_report(REPORT, mail, whole=False)) < 2 * MAX_HEADER


def test_relayed() -> None:
    message, (_, status, _) = parse(write_report(replace(REPORT, action="relayed", status="2.0.0"), MAIL, whole=False))
    assert message["subject"] == "Mail Passed On"
    assert fields(status)[1]["Action"] == "relayed"


@given(st.text(max_size=2000), st.text(max_size=60), st.binary(max_size=3000), st.booleans())
def test_nothing_that_is_said_breaks_the_report(diagnostic: str, envid: str, mail: bytes, whole: bool) -> None:
    data = write_report(replace(REPORT, diagnostic=diagnostic, explained=diagnostic, envid=envid), mail, whole=whole)
    assert whole or data.isascii()
    assert data.count(b"\n") == data.count(b"\r\n") == data.count(b"\r")
    assert whole or max(map(len, data.split(b"\r\n"))) <= 998
    boundary = b"--0123456789abcdef/report"
    assert data.endswith(boundary + b"--\r\n")
    lines = data.split(b"\r\n")
    assert lines.count(boundary) == 3
