"""Messages for tests of the store: a mail from a few words, and its row."""

from __future__ import annotations

import itertools
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sora.mime.digest import digest
from sora.store.blobs import content_hash
from sora.store.deliveries import NewMessage

if TYPE_CHECKING:
    from sora.types import AccountId, MailboxId

NODE = "node-1"
WHEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
_numbers = itertools.count(1)


def letter(subject: str = "", body: str = "Hello.", *, headers: str = "", number: int | None = None) -> bytes:
    """A mail; every one is different unless *number* says otherwise."""
    number = next(_numbers) if number is None else number
    return (
        f"From: Ann <ann@example.com>\r\nTo: bob@example.com\r\nSubject: {subject or f'Letter {number}'}\r\n"
        f"Message-ID: <{number}@example.com>\r\nDate: Mon, 06 May 2024 09:08:09 +0200\r\n{headers}\r\n{body}\r\n"
    ).encode()


def new_message(
    account_id: AccountId,
    data: bytes | None = None,
    mailbox_id: MailboxId | None = None,
    *,
    flags: tuple[int, ...] = (),
    key: bytes | None = None,
    append: bool = False,
    body_limit: int = 65536,
) -> NewMessage:
    """The row of a mail."""
    data = letter() if data is None else data
    return NewMessage(
        account_id=account_id,
        mailbox_id=mailbox_id,
        content_hash=content_hash(data),
        size=len(data),
        internal_date=WHEN,
        digest=digest(data, body_limit),
        flags=flags,
        key=key,
        append_id=uuid.uuid4() if append else None,
    )
