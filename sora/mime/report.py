"""Delivery status notifications (RFC 3461, RFC 3464): what became of a mail, written to whoever sent it.

All but a mail that is returned whole is seven bits wide: header fields that are not are quoted, and addresses in UTF-8
are written as RFC 6533 §3 says. Only the address it goes to may make a report need SMTPUTF8.
"""

from __future__ import annotations

import re
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from email.utils import format_datetime
from quopri import encodestring
from typing import Final, Literal

from msgspec import Struct

MAX_TEXT: Final = 900
"""Characters of what the other side said: a line has at most 998."""

MAX_HEADER: Final = 32 * 1024
"""Octets of the header of a mail that go back: whoever is told may never have sent it."""

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]+")
_SUBJECTS: Final = {
    "failed": "Undelivered Mail Returned to Sender",
    "relayed": "Mail Passed On",
}
_TEXTS: Final = {
    "failed": "Your message could not be sent on to the recipient below. No further attempt will be made.",
    "relayed": "Your message was passed on to a server that does not report whether it is delivered.",
}


class Report(Struct, frozen=True, kw_only=True):
    """What is to be reported.

    Attributes:
        action: `failed`, or `relayed` (RFC 3464 §2.3.3).
        status: Enhanced status code, such as `5.1.1` (RFC 3463).
        reporting: Host name of who reports.
        sender: Whom it goes to: the reverse-path of the mail.
        recipient: To whom the mail could not be sent.
        original: ORCPT as `type;address`; empty: none was given.
        envid: ENVID; empty: none was given.
        remote: Host that said `diagnostic`; empty: none did.
        diagnostic: Its reply, as RFC 3464 §2.3.6 wants it, or what went wrong here.
        explained: The same in words for people.
        arrived_at: When the mail was queued.
        reported_at: Now.
        unique: Makes Message-ID and boundary; letters and digits.
    """

    action: Literal["failed", "relayed"]
    status: str
    reporting: str
    sender: str
    recipient: str
    original: str
    envid: str
    remote: str
    diagnostic: str
    explained: str
    arrived_at: datetime
    reported_at: datetime
    unique: str


def write_report(report: Report, mail: bytes, *, whole: bool) -> bytes:
    """The report as a message.

    Args:
        mail: The mail it is about.
        whole: Return all of it, not only its header.
    """
    returned = _whole(mail) if whole else _header(mail)
    boundary = f"{report.unique}/report"
    parts = (_header_fields(report, boundary, wide=not mail.isascii() and whole), _explained(report), _status(report))
    # the line end before a boundary belongs to that, not to the part (RFC 2046 §5.1.1)
    return f"\r\n--{boundary}\r\n".encode().join((*parts, returned)) + f"\r\n--{boundary}--\r\n".encode()


def _header_fields(report: Report, boundary: str, *, wide: bool) -> bytes:
    fields = [
        f"Date: {format_datetime(report.reported_at)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{report.reporting}>",
        f"To: <{report.sender}>",
        f"Subject: {_SUBJECTS[report.action]}",
        f"Message-ID: <{report.unique}@{report.reporting}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f'\tboundary="{boundary}"',
        *(["Content-Transfer-Encoding: 8bit"] if wide else []),
        "",
    ]
    return "\r\n".join(fields).encode()


def _explained(report: Report) -> bytes:
    lines = (
        f"This is the mail system at host {report.reporting}.",
        "",
        _TEXTS[report.action],
        "",
        f"<{report.recipient}>:",
        f"    {report.status} {_plain(report.explained)}",
        "",
    )
    return _text("text/plain; charset=utf-8", "\r\n".join(lines).encode("utf-8", "replace"))


def _status(report: Report) -> bytes:
    """Fields about the mail, an empty line, fields about the recipient (RFC 3464 §2.1)."""
    fields = [
        f"Reporting-MTA: dns; {report.reporting}",
        *([f"Original-Envelope-Id: {_ascii(report.envid)}"] if report.envid else []),
        f"Arrival-Date: {format_datetime(report.arrived_at)}",
        "",
        *([f"Original-Recipient: {_typed(report.original)}"] if report.original else []),
        f"Final-Recipient: {_typed(f'rfc822;{report.recipient}')}",
        f"Action: {report.action}",
        f"Status: {report.status}",
        *([f"Remote-MTA: dns; {_ascii(report.remote)}"] if report.remote else []),
        f"Diagnostic-Code: {'smtp' if report.remote else 'X-Sora'}; {_ascii(_plain(report.diagnostic))}",
        f"Last-Attempt-Date: {format_datetime(report.reported_at)}",
        "",
    ]
    return b"Content-Type: message/delivery-status\r\n\r\n" + "\r\n".join(fields).encode()


def _whole(mail: bytes) -> bytes:
    wide = b"" if mail.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
    return b"Content-Type: message/rfc822\r\n" + wide + b"\r\n" + _ended(mail)


def _header(mail: bytes) -> bytes:
    """The header section (RFC 3462 §2); of one that is too large, the lines that fit."""
    ends = [end for end in (mail.find(b"\r\n\r\n"), mail.find(b"\n\n")) if end >= 0]
    header = mail[: min(ends, default=len(mail))]
    if len(header) > MAX_HEADER:
        header = header[: header.rfind(b"\n", 0, MAX_HEADER) + 1] or header[:MAX_HEADER]
    return _text("text/rfc822-headers; charset=utf-8", header)


def _text(content_type: str, text: bytes) -> bytes:
    """A part; quoted unless it is seven bits wide and in lines that may be sent."""
    text = _ended(text)
    plain = text.isascii() and max(map(len, text.split(b"\r\n"))) <= 998
    if not plain:
        text = encodestring(text.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
    encoding = "7bit" if plain else "quoted-printable"
    return f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + text


def _ended(text: bytes) -> bytes:
    """With CRLF for every line end, and one at the end."""
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", text)
    return text if text.endswith(b"\r\n") else text + b"\r\n"


def _plain(text: str) -> str:
    return _CONTROLS.sub(" ", text).strip()[:MAX_TEXT]


def _typed(address: str) -> str:
    """`type; address`, by RFC 6533 §3 if it is not ASCII."""
    kind, _, name = address.partition(";")
    if name.isascii():
        return f"{_ascii(kind)}; {_ascii(name)}"
    return f"utf-8; {_ascii(name)}"


def _ascii(text: str) -> str:
    """Other characters as `\\x{…}` (utf-8-addr-xtext)."""
    return "".join(c if " " <= c <= "~" else f"\\x{{{ord(c):X}}}" for c in text)
