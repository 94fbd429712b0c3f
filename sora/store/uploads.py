"""`pending_uploads`: which staged bodies are not in the object store yet. One row for each node that holds a copy."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.store.blobs import BlobRef
from sora.store.labels import MOST_PLACES, Label, Place
from sora.store.leases import DEAD_AFTER_S
from sora.types import SYSTEM_FLAGS, AccountId, ContentId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sora.store.db import Database

LEASE_S: Final = 300.0
"""A claim of this age is given out again: longer than the largest upload over the slowest line takes."""


class PendingUpload(Struct, frozen=True):
    """A claimed row.

    Attributes:
        attempts: Failures so far.
        uploaded: The object is known to be there already: the same bytes were delivered again.
        label: What goes with the object.
    """

    account_id: AccountId
    content_id: ContentId
    content_hash: bytes
    size: int
    attempts: int
    created_at: datetime
    uploaded: bool
    label: Label | None = None

    @property
    def ref(self) -> BlobRef:
        """The body."""
        return BlobRef(self.account_id, self.content_id, self.content_hash, self.size)


class Backlog(Struct, frozen=True):
    """What waits on one node.

    Attributes:
        failing: Those of `pending` that failed at least once.
        oldest_s: Age of the oldest; 0 if nothing waits.
    """

    pending: int = 0
    failing: int = 0
    oldest_s: float = 0.0


class StagedFact(Struct, frozen=True):
    """What the database knows of a staged file.

    Attributes:
        content_id: None: no row refers to these bytes.
        uploaded: The object is in the object store.
        pending: It waits for its upload on this node.
    """

    content_id: ContentId | None
    uploaded: bool
    pending: bool


class Stranded(Struct, frozen=True):
    """Uploads that wait for the disk of a node that is silent.

    Attributes:
        host: Where the node was; empty if it never registered.
        silent_s: Since its last heartbeat; None: it never registered.
    """

    instance_id: str
    host: str
    silent_s: float | None
    uploads: int
    bytes: int
    oldest_s: float


async def list_stranded(db: Database, silent_s: float = DEAD_AFTER_S) -> list[Stranded]:
    """Nodes with uploads that nobody else can do, see `stranded_uploads()`."""
    rows = await db.fetch(
        """
        SELECT instance_id, host, extract(epoch FROM clock() - heartbeat_at)::float8 AS silent_s, uploads, bytes,
          extract(epoch FROM clock() - oldest_at)::float8 AS oldest_s
        FROM stranded_uploads($1)
        """,
        timedelta(seconds=silent_s),
    )
    return [Stranded(**row) for row in rows]


class PendingUploads:
    """The queue of one node.

    Args:
        instance_id: Names the node's staging directory.
    """

    def __init__(self, db: Database, instance_id: str) -> None:
        self._db = db
        self._instance_id = instance_id

    async def claim(self, limit: int) -> list[PendingUpload]:
        """Take rows that are due, oldest first; nobody else is given them for `LEASE_S` seconds."""
        rows = await self._db.fetch(
            "SELECT * FROM claim_uploads($1, $2, $3)", self._instance_id, limit, timedelta(seconds=LEASE_S)
        )
        labels = await self._labels([(row["account_id"], row["content_id"], row["size"]) for row in rows])
        return [PendingUpload(**row, label=label) for row, label in zip(rows, labels, strict=True)]

    async def _labels(self, contents: Sequence[tuple[AccountId, ContentId, int]]) -> list[Label]:
        """Where the messages of these contents are now, in the order of the contents."""
        if not contents:
            return []
        rows = await self._db.fetch(
            _PLACES, [content[0] for content in contents], [content[1] for content in contents], MOST_PLACES
        )
        places: defaultdict[int, list[Place]] = defaultdict(list)
        for row in rows:
            flags = tuple(SYSTEM_FLAGS[no].decode() for no in row["flags"] if no in SYSTEM_FLAGS)
            facts = {name: row[name] for name in ("mailbox_id", "name", "uidvalidity", "uid", "internal_date")}
            places[row["n"]].append(Place(**facts, flags=(*flags, *row["keywords"])))
        return [Label(*content, tuple(places[n])) for n, content in enumerate(contents, 1)]

    async def give_back(self, claimed: Sequence[PendingUpload]) -> None:
        """End claims of which nothing was tried."""
        await self._db.execute(
            """
            UPDATE pending_uploads u SET next_try = clock()
            FROM unnest($2::bigint[], $3::bytea[]) g (account_id, content_hash)
            WHERE u.instance_id = $1 AND u.account_id = g.account_id AND u.content_hash = g.content_hash
            """,
            self._instance_id,
            [row.account_id for row in claimed],
            [row.content_hash for row in claimed],
        )

    async def recover(self) -> None:
        """End every claim and every pause: the uploader has just started, so nobody else is at work on this node."""
        await self._db.execute(
            "UPDATE pending_uploads SET next_try = clock() WHERE instance_id = $1 AND next_try > clock()",
            self._instance_id,
        )

    async def done(self, row: PendingUpload, unlink: Callable[[], Awaitable[object]]) -> None:
        """Note that an object is in the store.

        `unlink` is awaited inside the transaction, with the content row locked, if nothing on this node counts on the
        staged file any more. A delivery of the same bytes waits at that lock: when it goes on it sees the content as
        uploaded, so the file that is gone is not missed. If the process dies between `unlink` and the commit, the row
        is still pending, and whoever claims it finds the object in the store.
        """
        await self.done_many([row], lambda _: unlink())

    async def done_many(
        self, rows: Sequence[PendingUpload], unlink: Callable[[Sequence[PendingUpload]], Awaitable[object]]
    ) -> None:
        """`done` for several rows, all or none; in the order in which deliveries lock content rows."""
        rows = sorted(rows, key=lambda row: (row.account_id, row.content_hash))
        async with self._db.transaction() as connection:
            last = await connection.fetch(
                "SELECT upload_done(a, c, h, $1) FROM unnest($2::bigint[], $3::bigint[], $4::bytea[]) u (a, c, h)",
                self._instance_id,
                [row.account_id for row in rows],
                [row.content_id for row in rows],
                [row.content_hash for row in rows],
            )
            if free := [row for row, (is_last,) in zip(rows, last, strict=True) if is_last]:
                await unlink(free)

    async def failed(self, row: PendingUpload, error: str, *, base_s: float, max_s: float) -> None:
        """Note a failure; the row is due again after `base_s` doubled with each failure, at most `max_s`, for ever."""
        await self._db.execute(
            "SELECT upload_failed($1, $2, $3, $4, $5, $6)",
            row.account_id,
            row.content_hash,
            self._instance_id,
            error,
            timedelta(seconds=base_s),
            timedelta(seconds=max_s),
        )

    async def backlog(self) -> Backlog:
        """What waits."""
        row = await self._db.fetchrow(
            """
            SELECT count(*) AS pending, count(*) FILTER (WHERE attempts > 0) AS failing,
                   coalesce(extract(epoch FROM clock() - min(created_at)), 0)::float8 AS oldest_s
            FROM pending_uploads WHERE instance_id = $1
            """,
            self._instance_id,
        )
        return Backlog(**row) if row else Backlog()

    async def facts(self, staged: Sequence[tuple[AccountId, bytes]]) -> list[StagedFact]:
        """What is known of staged files, in their order."""
        rows = await self._db.fetch(
            """
            SELECT c.content_id, c.uploaded_at IS NOT NULL AS uploaded, EXISTS (
                SELECT 1 FROM pending_uploads u
                WHERE u.account_id = f.account_id AND u.content_hash = f.content_hash AND u.instance_id = $1) AS pending
            FROM unnest($2::bigint[], $3::bytea[]) WITH ORDINALITY f (account_id, content_hash, place)
            LEFT JOIN message_contents c
              ON c.account_id = f.account_id AND c.content_hash = f.content_hash AND c.purging_at IS NULL
            ORDER BY f.place
            """,
            self._instance_id,
            [account_id for account_id, _ in staged],
            [content_hash for _, content_hash in staged],
        )
        return [StagedFact(**row) for row in rows]

    async def add(self, account_id: AccountId, content_id: ContentId) -> None:
        """Queue a staged body that has no row, as after a restore of the database from a backup."""
        await self._db.execute(
            """
            INSERT INTO pending_uploads (account_id, content_hash, instance_id, content_id, size)
            SELECT account_id, content_hash, $3, content_id, size FROM message_contents
            WHERE account_id = $1 AND content_id = $2
            ON CONFLICT (account_id, content_hash, instance_id) DO NOTHING
            """,
            account_id,
            content_id,
            self._instance_id,
        )


_PLACES: Final = """
    SELECT g.n, m.*, b.name, b.uidvalidity,
      ARRAY(
        SELECT f.flag_no FROM message_flags f
        WHERE f.account_id = g.account_id AND f.mailbox_id = m.mailbox_id AND f.block_no = (m.uid >> 10)::int
          AND f.flag_no < 16 AND get_bit(f.bits, (m.uid & 1023)::int) = 1 ORDER BY 1) AS flags,
      ARRAY(
        SELECT k.name FROM message_flags f JOIN account_keywords k USING (account_id, flag_no)
        WHERE f.account_id = g.account_id AND f.mailbox_id = m.mailbox_id AND f.block_no = (m.uid >> 10)::int
          AND f.flag_no >= 16 AND get_bit(f.bits, (m.uid & 1023)::int) = 1 ORDER BY 1) AS keywords
    FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY g (account_id, content_id, n)
    CROSS JOIN LATERAL (
      SELECT x.mailbox_id, x.uid, x.internal_date FROM messages x
      WHERE x.account_id = g.account_id AND x.content_id = g.content_id AND x.expunged_at IS NULL
      ORDER BY x.mailbox_id, x.uid LIMIT $3) m
    JOIN mailboxes b ON b.account_id = g.account_id AND b.mailbox_id = m.mailbox_id
    WHERE b.deleted_at IS NULL AND NOT b.shadow
    ORDER BY g.n, m.mailbox_id, m.uid
"""
