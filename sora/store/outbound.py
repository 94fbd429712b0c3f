"""`outbound_queue`: mail that leaves, one row for each recipient, until the smarthost has taken it.

Whoever has a reason to send mail queues it in the transaction of that reason, by `enqueue`: either both are there or
neither. Afterwards, when that is committed, `Changes.ring(CHANNEL)` wakes those who send (`services/outbound.py`).
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from sora.types import AccountId, ContentId  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sora.store.db import Connection
    from sora.store.sealing import Sealer

CHANNEL: Final = "sora_outbound"
"""Of the notices that something was queued."""

Kind: TypeAlias = Literal["redirect", "vacation", "notify", "reject", "dsn"]


class Params(Struct, frozen=True, omit_defaults=True):
    """What the smarthost is asked for, if it offers that.

    Attributes:
        notify: NOTIFY of RFC 3461 §4.1, such as `NEVER` or `SUCCESS,FAILURE`; empty: none was given.
        ret: RET (§4.3), `FULL` or `HDRS`.
        envid: ENVID (§4.4), decoded.
        orcpt: ORCPT (§4.2), `rfc822;address`, decoded.
        by_at: When RFC 2852's time is over.
        by_mode: `R` or `N`, with a `T` for a trace.
    """

    notify: str = ""
    ret: str = ""
    envid: str = ""
    orcpt: str = ""
    by_at: datetime | None = None
    by_mode: str = ""


NO_PARAMS: Final = Params()


class Outgoing(Struct, frozen=True):
    """A mail to one recipient.

    Attributes:
        sender: Reverse-path; empty: null.
        letter: Which of the letters that are stored together with this is sent; None: `data` is.
        data: The whole mail, with CRLF.
        header: Fields, with their CRLF, that are sent on top of it.
        smtputf8: It came or was made under SMTPUTF8 (RFC 6531): with addresses or header fields in UTF-8.
    """

    kind: Kind
    sender: str
    recipient: str
    letter: int | None = None
    data: bytes = b""
    header: bytes = b""
    smtputf8: bool = False
    params: Params = NO_PARAMS


class Entry(Struct, frozen=True):
    """A row to be written; made by `sealed` or `referring`.

    Attributes:
        size: Octets of the content, or of the body before it was sealed.
    """

    account_id: AccountId
    mail: Outgoing
    size: int
    content_id: ContentId | None = None
    body: bytes | None = None
    body_hash: bytes | None = None


def sealed(account_id: AccountId, mail: Outgoing, sealer: Sealer) -> Entry:
    """The row of a mail that is in no mailbox; meant for small ones."""
    digest = sealer.hash((mail.data,))
    body = b"".join(sealer.seal(digest, (mail.data,)))
    return Entry(account_id, mail, len(mail.data), body=body, body_hash=digest)


def referring(account_id: AccountId, mail: Outgoing, content_id: ContentId, size: int) -> Entry:
    """The row of a mail whose octets are a content of the account; `content_user()` keeps that for it."""
    return Entry(account_id, mail, size, content_id=content_id)


async def enqueue(conn: Connection, entries: Sequence[Entry]) -> list[int]:
    """Queue mail inside the transaction on `conn`, in one statement; its numbers, in order."""
    return [row[0] for row in await conn.fetch(_ENQUEUE, *columns(entries))]


def columns(entries: Sequence[Entry]) -> tuple[list[Any], ...]:
    """Account, kind, sender, recipient, content, body, its hash, header, size, SMTPUTF8, parameters."""
    return (
        [entry.account_id for entry in entries],
        [entry.mail.kind for entry in entries],
        [entry.mail.sender for entry in entries],
        [entry.mail.recipient for entry in entries],
        [entry.content_id for entry in entries],
        [entry.body for entry in entries],
        [entry.body_hash for entry in entries],
        [entry.mail.header for entry in entries],
        [entry.size for entry in entries],
        [entry.mail.smtputf8 for entry in entries],
        [msgspec.json.encode(entry.mail.params).decode() for entry in entries],
    )


_ENQUEUE: Final = """
    INSERT INTO outbound_queue
      (account_id, kind, sender, recipient, content_id, body, body_hash, header, size, smtputf8, params)
    SELECT q.a, q.k, q.s, q.r, q.c, q.b, q.d, q.h, q.n, q.u, q.p
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bytea[], $8::bytea[],
      $9::bigint[], $10::boolean[], $11::jsonb[]) WITH ORDINALITY q (a, k, s, r, c, b, d, h, n, u, p, place)
    ORDER BY q.place RETURNING queue_id
"""
