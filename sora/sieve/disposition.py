"""What tells a sender that a script has refused the message, where a reply of SMTP cannot (RFC 5429 §2.2, RFC 8098)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.sieve import compose

if TYPE_CHECKING:
    from datetime import datetime

    from sora.sieve.mail import Mail

MAX_ORIGINAL: Final = 32 * 1024
"""Octets of the header of the message that go back."""


class Refusal(Struct, frozen=True):
    """What a report is about.

    Attributes:
        owner: Whose script it was; its address is in From.
        recipient: Forward-path of the message.
        sender: Who gets the report.
        reason: As the script gave it.
        host: Our name.
        external_id: A random name.
    """

    owner: str
    recipient: str
    sender: str
    reason: str
    host: str
    external_id: str
    now: datetime


def report(refusal: Refusal, mail: Mail) -> bytes:
    """A multipart/report: the reason for people, the disposition for programs, the header of the message."""
    boundary = f"report-{refusal.external_id}".encode()
    ids = mail.header("Message-ID")
    fields = [
        ("Date", compose.date(refusal.now)),
        ("From", refusal.owner),
        ("To", refusal.sender),
        ("Subject", "Automatically rejected mail"),
        ("Message-ID", f"<{refusal.external_id}.r@{refusal.owner.rpartition('@')[2] or 'localhost'}>"),
        ("Auto-Submitted", "auto-replied (rejected)"),
        *([("References", ids[0]), ("In-Reply-To", ids[0])] if ids else []),
    ]
    head = b"".join(compose.field(name, value) for name, value in fields)
    return b"".join(
        (
            head,
            b"MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=disposition-notification;\r\n",
            b'\tboundary="%s"\r\n\r\n' % boundary,
            b"--%s\r\n" % boundary,
            compose.text_entity(_for_people(refusal)),
            b"\r\n--%s\r\nContent-Type: message/disposition-notification\r\n\r\n" % boundary,
            _for_programs(refusal, ids[0] if ids else ""),
            b"\r\n--%s\r\nContent-Type: text/rfc822-headers\r\n\r\n" % boundary,
            _header_of(mail),
            b"\r\n--%s--\r\n" % boundary,
        )
    )


def _for_people(refusal: Refusal) -> str:
    return (
        f"Your message to <{refusal.recipient}> was automatically rejected.\r\n"
        f"The following reason was given:\r\n\r\n{refusal.reason}\r\n"
    )


def _for_programs(refusal: Refusal, message_id: str) -> bytes:
    """RFC 8098 §3.1; the recipient's address in the form of RFC 6533 if it is not ASCII."""
    kind = "rfc822" if (refusal.recipient + refusal.owner).isascii() else "utf-8"
    lines = [
        f"Reporting-UA: {refusal.host}; Sora",
        f"Original-Recipient: {kind}; {refusal.recipient}",
        f"Final-Recipient: {kind}; {refusal.owner}",
        *([f"Original-Message-ID: {message_id}"] if message_id else []),
        "Disposition: automatic-action/MDN-sent-automatically; deleted",
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _header_of(mail: Mail) -> bytes:
    """Whole fields only; octets above ASCII are not for every relay."""
    head = mail.head[:MAX_ORIGINAL]
    head = head[: head.rfind(b"\n") + 1].rstrip(b"\r\n").replace(b"\0", b"?")
    return head.decode("ascii", "replace").encode("ascii", "replace") + b"\r\n"
