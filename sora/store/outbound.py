"""`outbound_queue`: mail that leaves, one row for each recipient, until the smarthost has taken it.

Whoever has a reason to send mail queues it in the transaction of that reason, by `enqueue`: either both are there or
neither. Afterwards, when that is committed, `Changes.ring(CHANNEL)` wakes those who send (`services/outbound.py`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from sora.errors import NotFound
from sora.store.blobs import BlobRef
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from sora.store.db import Connection, Database
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


class Claimed(Struct, frozen=True):
    """A mail that is ours to send until the claim ends.

    Attributes:
        claim: By which it was claimed.
        body: Sealed; None: the octets are those of a content.
        ref: Of the body or the content; None: the content is gone.
        attempts: That failed so far.
        last_error: Why it waits, if not for its turn.
        age_s: Since it was queued.
    """

    queue_id: int
    claim: str
    account_id: AccountId
    kind: Kind
    sender: str
    recipient: str
    header: bytes
    smtputf8: bool
    params: Params
    created_at: datetime
    attempts: int
    last_error: str
    age_s: float
    body: bytes | None
    ref: BlobRef | None


class Backlog(Struct, frozen=True):
    """What waits.

    Attributes:
        failing: Those of `pending` that failed at least once.
        oldest_s: Age of the oldest; 0 if nothing waits.
    """

    pending: int = 0
    failing: int = 0
    oldest_s: float = 0.0


class Unreached(Struct, frozen=True):
    """A node that cannot reach the smarthost.

    Attributes:
        node: Its host name.
        error: What it was told last.
    """

    node: str
    since: datetime
    error: str


class QueuedMail(Struct, frozen=True):
    """A mail in the queue, for people.

    Attributes:
        address: Of the account.
        attempts: That failed.
        next_try: None: it is being sent.
        sent_by: Host name of the node that is sending it now; empty: it waits.
    """

    queue_id: int
    kind: str
    address: str
    sender: str
    recipient: str
    size: int
    created_at: datetime
    attempts: int
    next_try: datetime | None
    sent_by: str
    last_error: str


class Outbound:
    """Rows of `outbound_queue`, for those who send and those who look."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(
        self, claim: str, limit: int, *, lease_s: float, hourly: int, before: datetime | None = None
    ) -> list[Claimed]:
        """Take mail that is due, oldest first; nobody else is given it before the lease ends.

        Args:
            claim: Whose it is then.
            hourly: Mail that an account may send in an hour by its scripts; 0: any number.
            before: Instead of what is due, what was queued before.
        """
        rows = await self._db.fetch(
            "SELECT * FROM claim_outbound($1, $2, $3, $4, $5)",
            claim,
            limit,
            timedelta(seconds=lease_s),
            hourly,
            before,
        )
        return [_claimed(row, claim) for row in rows]

    async def give_back(self, claimed: Sequence[Claimed], pause_s: float = 0.0) -> None:
        """End claims without an attempt; they are due again after a pause."""
        await self._db.execute(
            """
            UPDATE outbound_queue q SET next_try = clock() + $3, claimed_by = NULL
            FROM unnest($1::bigint[], $2::text[]) c (queue_id, claim)
            WHERE q.queue_id = c.queue_id AND q.claimed_by = c.claim
            """,
            [mail.queue_id for mail in claimed],
            [mail.claim for mail in claimed],
            timedelta(seconds=pause_s),
        )

    async def renew(self, claimed: Sequence[Claimed], lease_s: float) -> None:
        """Put off the end of claims that are still ours."""
        if claimed:
            await self._db.execute(
                """
                UPDATE outbound_queue q SET next_try = clock() + $3
                FROM unnest($1::bigint[], $2::text[]) c (queue_id, claim)
                WHERE q.queue_id = c.queue_id AND q.claimed_by = c.claim
                """,
                [mail.queue_id for mail in claimed],
                [mail.claim for mail in claimed],
                timedelta(seconds=lease_s),
            )

    async def recover(self, node: str, claim: str) -> int:
        """End the claims of processes of this node that are no more.

        Args:
            node: What the claims of the node begin with.
            claim: Ours: nobody who uses it lives but we, and we have claimed nothing yet.
        """
        rows = await self._db.fetch(
            """
            UPDATE outbound_queue SET next_try = clock(), claimed_by = NULL
            WHERE starts_with(claimed_by, $1) AND (claimed_by = $2 OR NOT starts_with(claimed_by, $3)) RETURNING 1
            """,
            node,
            claim,
            claim.rpartition("/")[0] + "/",
        )
        return len(rows)

    async def sent(self, mail: Claimed) -> None:
        """The smarthost has it; whoever else has claimed it meanwhile has come too late."""
        await self._db.execute("DELETE FROM outbound_queue WHERE queue_id = $1", mail.queue_id)

    async def failed(self, mail: Claimed, error: str, pause_s: float) -> None:
        """Note an attempt that failed; it is due again after the pause."""
        await self._db.execute(
            """
            UPDATE outbound_queue SET attempts = attempts + 1, next_try = clock() + $3, claimed_by = NULL,
              last_error = left($4, 500)
            WHERE queue_id = $1 AND claimed_by = $2
            """,
            mail.queue_id,
            mail.claim,
            timedelta(seconds=pause_s),
            error,
        )

    async def replace(self, mail: Claimed, entries: Sequence[Entry]) -> bool:
        """Remove it, and queue in its place what reports that; False: it was not ours any more."""
        async with self._db.transaction() as conn:
            gone = await conn.fetchval(
                "DELETE FROM outbound_queue WHERE queue_id = $1 AND claimed_by = $2 RETURNING true",
                mail.queue_id,
                mail.claim,
            )
            if gone and entries:
                await enqueue(conn, entries)
            return bool(gone)

    async def next_due_s(self) -> float | None:
        """Seconds until mail is due, not more than 0 if some is; None: there is none."""
        due: float | None = await self._db.fetchval(
            "SELECT extract(epoch FROM min(next_try) - clock())::float8 FROM outbound_queue"
        )
        return due

    async def backlog(self) -> Backlog:
        """What waits."""
        row = await self._db.fetchrow(
            """
            SELECT count(*) AS pending, count(*) FILTER (WHERE attempts > 0) AS failing,
              coalesce(extract(epoch FROM clock() - min(created_at)), 0)::float8 AS oldest_s
            FROM outbound_queue
            """
        )
        return Backlog(**row) if row else Backlog()

    async def room(self, account_id: AccountId, most: int) -> int:
        """How many more mails of an account may be queued, if so many may wait; 0 or more.

        A forecast: what is under way at this moment is not seen.
        """
        waiting = await self._db.fetchval(
            "SELECT count(*) FROM (SELECT FROM outbound_queue WHERE account_id = $1 LIMIT $2) q", account_id, most
        )
        return most - int(waiting)

    async def note_smarthost(self, node: str, error: str) -> None:
        """Note that a node cannot reach the smarthost, and why; empty: it can."""
        await self._db.execute(
            """
            UPDATE instances SET smarthost_error = $2,
              smarthost_down_at = CASE WHEN $2 <> '' THEN coalesce(smarthost_down_at, clock()) END
            WHERE instance_id = $1
            """,
            node,
            error,
        )

    async def unreached(self) -> list[Unreached]:
        """The nodes at work that cannot reach the smarthost."""
        rows = await self._db.fetch(
            """
            SELECT coalesce(nullif(host, ''), instance_id) AS node, smarthost_down_at AS since, smarthost_error AS error
            FROM instances WHERE smarthost_down_at IS NOT NULL AND stopped_at IS NULL AND fenced_at IS NULL
            ORDER BY node, instance_id
            """
        )
        return [Unreached(**row) for row in rows]

    async def list_mail(
        self, address: str = "", recipient: str = "", after: int = 0, limit: int = 100
    ) -> list[QueuedMail]:
        """Mail in the order in which it was queued.

        Args:
            address: Of the account, empty: of all.
            recipient: Empty: any.
            after: The last one of the page before.
        """
        rows = await self._db.fetch(_LIST, address, recipient, after, limit)
        return [QueuedMail(**row) for row in rows]

    async def get(self, queue_id: int) -> tuple[QueuedMail, Claimed]:
        """One mail, for people, and as those who send it see it; it is not claimed by that.

        Raises:
            NotFound: It is not in the queue (any more).
        """
        row = await self._db.fetchrow(_GET, queue_id)
        if row is None:
            raise NotFound("No such mail in the queue")
        shown = QueuedMail(**{name: row[f"shown_{name}"] for name in QueuedMail.__struct_fields__})
        return shown, _claimed(row, row["claimed_by"] or "")

    async def retry(self, queue_id: int | None) -> int:
        """Make one mail, or all that failed, due at once; how many that were."""
        rows = await self._db.fetch(
            """
            UPDATE outbound_queue SET next_try = clock()
            WHERE next_try > clock() AND claimed_by IS NULL AND (queue_id = $1 OR $1 IS NULL) RETURNING 1
            """,
            queue_id,
        )
        return len(rows)

    async def delete(self, queue_id: int) -> QueuedMail:
        """Remove a mail; nobody is told.

        Raises:
            NotFound: It is not in the queue (any more).
        """
        shown, _ = await self.get(queue_id)
        if not await self._db.fetchval("DELETE FROM outbound_queue WHERE queue_id = $1 RETURNING true", queue_id):
            raise NotFound("No such mail in the queue")
        return shown


def _claimed(row: Record, claim: str) -> Claimed:
    account_id = AccountId(row["account_id"])
    digest = row["body_hash"] or row["content_hash"]
    content_id = ContentId(row["content_id"] or 0)
    return Claimed(
        queue_id=row["queue_id"],
        claim=claim,
        account_id=account_id,
        kind=row["kind"],
        sender=row["sender"],
        recipient=row["recipient"],
        header=row["header"],
        smtputf8=row["smtputf8"],
        params=msgspec.json.decode(row["params"], type=Params),
        created_at=row["created_at"],
        attempts=row["attempts"],
        last_error=row["last_error"],
        age_s=(row["now_at"] - row["created_at"]).total_seconds(),
        body=row["body"],
        ref=BlobRef(account_id, content_id, digest, row["size"]) if digest else None,
    )


_ENQUEUE: Final = """
    INSERT INTO outbound_queue
      (account_id, kind, sender, recipient, content_id, body, body_hash, header, size, smtputf8, params)
    SELECT q.a, q.k, q.s, q.r, q.c, q.b, q.d, q.h, q.n, q.u, q.p
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bytea[], $8::bytea[],
      $9::bigint[], $10::boolean[], $11::jsonb[]) WITH ORDINALITY q (a, k, s, r, c, b, d, h, n, u, p, place)
    ORDER BY q.place RETURNING queue_id
"""
_SHOWN: Final = """
    q.queue_id AS {0}queue_id, q.kind AS {0}kind, coalesce(a.address, '') AS {0}address, q.sender AS {0}sender,
    q.recipient AS {0}recipient, q.size + octet_length(q.header) AS {0}size, q.created_at AS {0}created_at,
    q.attempts AS {0}attempts, CASE WHEN s.node IS NULL THEN q.next_try END AS {0}next_try,
    coalesce(s.node, '') AS {0}sent_by, q.last_error AS {0}last_error
"""
_SENT_BY: Final = """
    LEFT JOIN LATERAL (
      SELECT coalesce(nullif(i.host, ''), c.instance_id) AS node
      FROM (SELECT split_part(q.claimed_by, '/', 1) AS instance_id) c LEFT JOIN instances i USING (instance_id)
      WHERE q.claimed_by IS NOT NULL AND q.next_try > clock()) s ON true
"""
_LIST: Final = f"""
    SELECT {_SHOWN.format("")}
    FROM outbound_queue q LEFT JOIN accounts a USING (account_id) {_SENT_BY}
    WHERE q.queue_id > $3 AND ($1 = '' OR a.address = lower($1)) AND ($2 = '' OR lower(q.recipient) = lower($2))
    ORDER BY q.queue_id LIMIT $4
"""
_GET: Final = f"""
    SELECT q.*, m.content_hash, clock() AS now_at, {_SHOWN.format("shown_")}
    FROM outbound_queue q LEFT JOIN accounts a USING (account_id) {_SENT_BY}
    LEFT JOIN message_contents m ON m.account_id = q.account_id AND m.content_id = q.content_id
    WHERE q.queue_id = $1
"""
