"""The database's side of a rebuild (`services/recovery/rebuild.py`): how far it is, what was gathered."""

from __future__ import annotations

import contextlib
import itertools
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import InUse
from sora.store.applying import Applying
from sora.store.deliveries import digest_arrays
from sora.types import SYSTEM_FLAGS, AccountId, ContentId, MailboxId

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

    from sora.mime.digest import Digest
    from sora.store.blobs import BlobEntry, BlobRef
    from sora.store.db import Connection, Database
    from sora.store.journal import Domains, Frame
    from sora.store.labels import Place

ALIVE_S: Final = 60.0
"""A node that gave a sign within this time is running."""
_LOCK: Final = 21324
RECOVERED: Final = "Recovered"
"""The mailbox for what is found without anything that says where it was."""


class State(Struct, frozen=True):
    """Where the rebuild stands.

    Attributes:
        phase: What is done next.
        place: From where on; the phase knows what it means.
        stopped: The journal was off: no UID that it names can be trusted.
        top_seq: The greatest number of an object of the journal.
    """

    phase: str
    place: str
    stopped: bool
    top_seq: int
    started_at: datetime
    finished_at: datetime | None


class Lost(Struct, frozen=True):
    """An account that is not built anew, and why.

    Attributes:
        deliberate: It was gone before.
    """

    account_id: int
    reason: str
    deliberate: bool = False


class Content(Struct, frozen=True):
    """A body that is due.

    Attributes:
        size: Of the plain body; of the object if it is not known.
        known: The journal names it.
        stored: The bucket has it.
        modified_at: Of the object.
    """

    account_id: AccountId
    content_id: ContentId
    content_hash: bytes
    size: int
    known: bool
    stored: bool
    modified_at: datetime | None


class Missing(Struct, frozen=True):
    """A message whose body is nowhere."""

    account_id: int
    address: str
    mailbox: str
    uid: int
    size: int
    internal_date: datetime


class Rebuilding:
    """The tables `rebuild_*`, and what they become."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # ── the state ────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While nobody else rebuilds.

        Raises:
            InUse: Somebody does.
        """
        async with self._db.acquire() as conn:
            if not await conn.fetchval("SELECT pg_try_advisory_lock($1, 0)", _LOCK):
                raise InUse("Another `import s3` is running")
            try:
                yield
            finally:
                if not conn.is_closed():
                    await conn.execute("SELECT pg_advisory_unlock($1, 0)", _LOCK)

    async def state(self) -> State | None:
        """None: no rebuild was ever begun here."""
        row = await self._db.fetchrow(
            "SELECT phase, place, stopped, top_seq, started_at, finished_at FROM rebuild_state"
        )
        return State(**row) if row else None

    async def begin(self, phase: str) -> None:
        """Note that a rebuild is under way."""
        await self._db.execute("INSERT INTO rebuild_state (phase) VALUES ($1)", phase)

    async def advance(self, phase: str, place: str = "") -> None:
        """Note what is done next."""
        await self._db.execute("UPDATE rebuild_state SET phase = $1, place = $2", phase, place)

    async def is_empty(self) -> bool:
        """Nothing lives in this database."""
        empty: bool = await self._db.fetchval(
            """
            SELECT NOT EXISTS (SELECT 1 FROM accounts) AND NOT EXISTS (SELECT 1 FROM domains)
              AND NOT EXISTS (SELECT 1 FROM message_contents) AND NOT EXISTS (SELECT 1 FROM shreddings)
            """
        )
        return empty

    async def is_untouched(self) -> bool:
        """Nothing lives in this database, and it has never written a journal."""
        written: int = await self._db.fetchval("SELECT seq FROM journal_state")
        return not written and await self.is_empty()

    async def living_nodes(self) -> list[str]:
        """Hosts of nodes that run on this database."""
        rows = await self._db.fetch(
            """
            SELECT coalesce(nullif(host, ''), instance_id) AS host FROM instances
            WHERE stopped_at IS NULL AND heartbeat_at > clock() - $1::float8 * interval '1 s' ORDER BY 1
            """,
            ALIVE_S,
        )
        return [row["host"] for row in rows]

    # ── keys and journal ─────────────────────────────────────────────────────────────────────────────────────────────

    async def add_key(self, account_id: int, key_id: str, wrapped: bytes, fingerprint: bytes) -> None:
        """A wrapped key that the bucket has."""
        await self._db.execute(
            "INSERT INTO rebuild_keys VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            account_id, key_id, wrapped, fingerprint,
        )  # fmt: skip

    async def keys_of(self, account_id: int) -> list[tuple[str, bytes, bytes]]:
        """Id of the master key, wrapped key, and fingerprint, of each wrapping."""
        rows = await self._db.fetch(
            "SELECT key_id, wrapped, fingerprint FROM rebuild_keys WHERE account_id = $1 ORDER BY key_id", account_id
        )
        return [tuple(row) for row in rows]

    async def master_keys(self) -> set[str]:
        """Ids of the master keys that wrap some key in the bucket."""
        return {row[0] for row in await self._db.fetch("SELECT DISTINCT key_id FROM rebuild_keys")}

    async def add_frames(self, seq: int, frames: Sequence[Frame], place: str, *, snapshot: bool) -> None:
        """An object of the journal; the rebuild goes on behind it."""
        async with self._db.transaction() as conn:
            await conn.execute(
                """
                INSERT INTO rebuild_frames (account_id, group_no, part, last, sealed, payload, snapshot)
                SELECT g.*, $7 FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::boolean[], $5::boolean[],
                  $6::bytea[]) g
                ON CONFLICT DO NOTHING
                """,
                [frame.account_id for frame in frames],
                [frame.group for frame in frames],
                [frame.part for frame in frames],
                [frame.last for frame in frames],
                [frame.sealed for frame in frames],
                [frame.payload for frame in frames],
                snapshot,
            )
            await conn.execute("UPDATE rebuild_state SET place = $1, top_seq = greatest(top_seq, $2)", place, seq)

    async def set_stopped(self) -> None:
        """The journal was turned off."""
        await self._db.execute("UPDATE rebuild_state SET stopped = true")

    async def accounts(self, after: int) -> list[AccountId]:
        """Of which the journal speaks, behind `after`, ascending."""
        rows = await self._db.fetch(
            "SELECT DISTINCT account_id FROM rebuild_frames WHERE account_id > $1 ORDER BY 1", after
        )
        return [AccountId(row[0]) for row in rows]

    async def groups(self, account_id: AccountId) -> list[int]:
        """Groups of an account that count, in their order: the newest whole snapshot, and what came after it."""
        rows = await self._db.fetch(
            """
            SELECT group_no, snapshot FROM rebuild_frames WHERE account_id = $1 GROUP BY 1, 2
            HAVING max(part) FILTER (WHERE last) = count(*) - 1 ORDER BY 1
            """,
            account_id,
        )
        first = max((row["group_no"] for row in rows if row["snapshot"]), default=0)
        return [row["group_no"] for row in rows if row["group_no"] >= first]

    async def frames(self, account_id: AccountId, group: int) -> AsyncGenerator[tuple[int, bool, bool, bytes]]:
        """Part, whether it is the last one, whether it is sealed, and payload, of a group; one at a time."""
        for part in itertools.count():
            row = await self._db.fetchrow(
                """
                SELECT part, last, sealed, payload FROM rebuild_frames
                WHERE account_id = $1 AND group_no = $2 AND part = $3
                """,
                account_id, group, part,
            )  # fmt: skip
            if row is None:
                return
            yield tuple(row)

    @contextlib.asynccontextmanager
    async def applying(self, account_id: AccountId) -> AsyncIterator[Applying]:
        """What the journal says of an account, all of it or nothing; the rebuild goes on behind it."""
        async with self._db.transaction() as conn:
            yield Applying(conn, account_id)
            await conn.execute("UPDATE rebuild_state SET place = $1", str(account_id))

    async def set_catch_alls(self, domains: Domains) -> None:
        """Once the accounts are there."""
        await self._db.execute(
            """
            UPDATE domains d SET catch_all_account_id = g.account_id
            FROM unnest($1::bigint[], $2::bigint[]) g (domain_id, account_id) JOIN accounts a USING (account_id)
            WHERE d.domain_id = g.domain_id
            """,
            [row.domain_id for row in domains.domains],
            [row.catch_all_account_id for row in domains.domains],
        )

    async def lost(self) -> list[Lost]:
        """Accounts that cannot be built anew."""
        return [Lost(**row) for row in await self._db.fetch("SELECT * FROM rebuild_lost ORDER BY account_id")]

    # ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def note_objects(self, objects: Sequence[tuple[BlobRef, BlobEntry]], place: str) -> None:
        """Bodies that the bucket has; the listing goes on behind `place`."""
        async with self._db.transaction() as conn:
            await conn.execute(
                """
                INSERT INTO rebuild_contents AS r
                  (account_id, content_id, content_hash, size, known, stored, modified_at)
                SELECT g.account_id, g.content_id, g.hash, g.size, EXISTS (
                    SELECT 1 FROM outbound_queue o WHERE o.account_id = g.account_id AND o.content_id = g.content_id),
                  true, g.modified_at
                FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bigint[], $5::timestamptz[])
                  g (account_id, content_id, hash, size, modified_at)
                WHERE EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = g.account_id)
                ON CONFLICT (account_id, content_id) DO UPDATE SET stored = true, modified_at = EXCLUDED.modified_at
                WHERE r.content_hash = EXCLUDED.content_hash
                """,
                [ref.account_id for ref, _ in objects],
                [ref.content_id for ref, _ in objects],
                [ref.content_hash for ref, _ in objects],
                [ref.size for ref, _ in objects],
                [entry.modified_at for _, entry in objects],
            )
            await conn.execute(
                """
                INSERT INTO rebuild_lost (account_id, reason)
                SELECT DISTINCT g, 'objects of an account that the journal does not know'
                FROM unnest($1::bigint[]) g WHERE NOT EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = g)
                ON CONFLICT DO NOTHING
                """,
                [ref.account_id for ref, _ in objects],
            )
            await conn.execute("UPDATE rebuild_state SET place = $1", place)

    async def raise_numbers(self, top_content: int) -> None:
        """Above all numbers that the bucket knows."""
        await self._db.execute(
            """
            SELECT raise_numbers(
              (SELECT greatest(max(q.account_id), 0) FROM (
                 SELECT account_id FROM rebuild_keys UNION ALL SELECT account_id FROM rebuild_frames
                 UNION ALL SELECT account_id FROM rebuild_lost) q),
              greatest($1, (SELECT max(content_id) FROM rebuild_contents)),
              (SELECT max(uidvalidity) FROM rebuild_mailboxes))
            """,
            top_content,
        )

    async def note_staged(self, account_id: AccountId, content_hash: bytes, size: int, modified_at: datetime) -> None:
        """A staged body that neither the journal nor the bucket knows, if it is of an account that there is."""
        await self._db.execute(
            """
            INSERT INTO rebuild_contents (account_id, content_id, content_hash, size, known, modified_at)
            SELECT $1, nextval('content_ids'), $2, $3, false, $4
            WHERE EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = $1)
              AND NOT EXISTS (SELECT 1 FROM rebuild_contents r WHERE r.account_id = $1 AND r.content_hash = $2)
            """,
            account_id, content_hash, size, modified_at,
        )  # fmt: skip

    async def count_contents(self) -> tuple[int, int]:
        """How many bodies are done with, and how many there are."""
        row = await self._db.fetchrow(
            "SELECT count(*) FILTER (WHERE state <> 'due') AS done, count(*) AS total FROM rebuild_contents"
        )
        assert row is not None, "aggregates have a row"
        return row["done"], row["total"]

    async def due(self, limit: int, after: Content | None, *, known: bool) -> list[Content]:
        """Bodies to read behind another one, in the order in which they first came."""
        rows = await self._db.fetch(
            """
            SELECT account_id, content_id, content_hash, size, known, stored, modified_at FROM rebuild_contents
            WHERE state = 'due' AND known = $1 AND (account_id, content_id) > ($3, $4)
            ORDER BY account_id, content_id LIMIT $2
            """,
            known, limit, after.account_id if after else 0, after.content_id if after else 0,
        )  # fmt: skip
        return [Content(**row) for row in rows]

    async def store_contents(self, contents: Sequence[tuple[Content, int, Digest]]) -> None:
        """Bodies that were read: their plain sizes, and what they say."""
        await self._db.execute(
            f"SELECT rebuild_contents_read({', '.join(f'${n}' for n in range(1, 25))})",
            [content.account_id for content, _, _ in contents],
            [content.content_id for content, _, _ in contents],
            [content.content_hash for content, _, _ in contents],
            [size for _, size, _ in contents],
            *digest_arrays([digest for _, _, digest in contents]),
        )

    async def set_state(self, contents: Iterable[Content], state: str) -> None:
        """Bodies that are not read."""
        found = list(contents)
        await self._db.execute(
            """
            UPDATE rebuild_contents r SET state = $3 FROM unnest($1::bigint[], $2::bigint[]) g (account_id, content_id)
            WHERE r.account_id = g.account_id AND r.content_id = g.content_id
            """,
            [content.account_id for content in found],
            [content.content_id for content in found],
            state,
        )

    # ── what the journal does not know ───────────────────────────────────────────────────────────────────────────────

    async def place(self, content: Content, places: Sequence[Place], saved_at: datetime) -> bool:
        """Put a message where its object says that it was; False: it was expunged everywhere, as the journal knows.

        A UID is given to it again only in the mailbox that had given it, and only if the journal says nothing of it,
        nor another object. Else it gets a new one, above all that were reserved.
        """
        placed = False
        async with self._db.transaction() as conn:
            for at in places:
                mailbox_id = await self._mailbox(conn, content.account_id, at)
                flags = await self._flags(conn, content.account_id, at.flags)
                tag = await conn.execute(
                    _PLACE, content.account_id, mailbox_id, at.uid, at.uidvalidity, content.content_id,
                    content.content_hash, content.size, at.internal_date, saved_at, flags,
                )  # fmt: skip
                placed = placed or tag.endswith(" 1")
        return placed

    async def has_key(self, account_id: AccountId) -> bool:
        """The account had a key, and has it again."""
        found: bool = await self._db.fetchval(
            "SELECT EXISTS (SELECT 1 FROM account_keys WHERE account_id = $1)", account_id
        )
        return found

    async def is_placed(self, content: Content) -> bool:
        """A message has this body already."""
        found: bool = await self._db.fetchval(
            "SELECT EXISTS (SELECT 1 FROM rebuild_messages WHERE account_id = $1 AND content_id = $2)",
            content.account_id, content.content_id,
        )  # fmt: skip
        return found

    async def is_known_body(self, content: Content) -> bool:
        """The journal names the same octets under another number."""
        found: bool = await self._db.fetchval(
            """
            SELECT EXISTS (
              SELECT 1 FROM rebuild_contents WHERE account_id = $1 AND content_hash = $2 AND known AND content_id <> $3)
            """,
            content.account_id, content.content_hash, content.content_id,
        )  # fmt: skip
        return found

    async def _flags(self, conn: Connection, account_id: AccountId, names: Sequence[str]) -> list[int]:
        """Numbers of flags; a keyword may be newer than what the journal knows of."""
        system = {name.decode(): number for number, name in SYSTEM_FLAGS.items()}
        keywords = [name for name in names if name not in system]
        rows = (
            await conn.fetch("SELECT flag_no FROM register_keywords($1, $2)", account_id, keywords) if keywords else []
        )
        return [system[name] for name in names if name in system] + [row[0] for row in rows]

    async def _mailbox(self, conn: Connection, account_id: AccountId, at: Place) -> MailboxId:
        """The mailbox of a place; one that the journal does not know is made, with a new UIDVALIDITY."""
        found = await conn.fetchval(
            """
            SELECT mailbox_id FROM mailboxes
            WHERE account_id = $1 AND (mailbox_id = $2 OR name = $3 AND deleted_at IS NULL)
            ORDER BY mailbox_id = $2 DESC LIMIT 1
            """,
            account_id, at.mailbox_id, at.name,
        )  # fmt: skip
        if found is None:
            found = await conn.fetchval(
                "INSERT INTO mailboxes (account_id, name) VALUES ($1, $2) RETURNING mailbox_id", account_id, at.name
            )
        await conn.execute(
            "INSERT INTO rebuild_mailboxes (account_id, mailbox_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            account_id, found,
        )  # fmt: skip
        return MailboxId(found)

    # ── mailboxes, and the end ───────────────────────────────────────────────────────────────────────────────────────

    async def mailboxes(self) -> list[tuple[AccountId, MailboxId, str]]:
        """Those that are not closed, with account, and name."""
        rows = await self._db.fetch(
            """
            SELECT r.account_id, r.mailbox_id, m.name FROM rebuild_mailboxes r
            JOIN mailboxes m USING (account_id, mailbox_id) WHERE NOT r.done ORDER BY 1, 2
            """
        )
        return [(AccountId(row[0]), MailboxId(row[1]), row[2]) for row in rows]

    async def fill(self, account_id: AccountId, mailbox_id: MailboxId) -> bool:
        """Put some messages in place; False: the mailbox is closed."""
        more: bool = await self._db.fetchval("SELECT rebuild_fill($1, $2)", account_id, mailbox_id)
        return more

    async def missing(self, limit: int) -> list[Missing]:
        """Messages whose bodies are nowhere."""
        rows = await self._db.fetch(
            """
            SELECT r.account_id, a.address, m.name AS mailbox, r.uid, r.size, r.internal_date FROM rebuild_missing r
            JOIN accounts a USING (account_id) JOIN mailboxes m USING (account_id, mailbox_id)
            ORDER BY r.account_id, r.mailbox_id, r.uid LIMIT $1
            """,
            limit,
        )
        return [Missing(**row) for row in rows]

    async def figures(self) -> dict[str, int]:
        """What came back."""
        row = await self._db.fetchrow(
            """
            SELECT (SELECT count(*) FROM accounts) AS accounts, (SELECT count(*) FROM mailboxes) AS mailboxes,
              (SELECT coalesce(sum(message_count), 0)::bigint FROM mailbox_stats) AS messages,
              (SELECT count(*) FROM rebuild_missing) AS missing
            """
        )
        assert row is not None, "a SELECT of values has a row"
        return dict(row)

    async def finish(self) -> None:
        """Servers may start; the journal goes on above all numbers that it had."""
        async with self._db.transaction() as conn:
            await conn.execute("UPDATE journal_state SET seq = greatest(seq, (SELECT top_seq FROM rebuild_state))")
            for table in ("keys", "frames", "mailboxes", "messages", "planes", "contents"):
                await conn.execute(f"TRUNCATE rebuild_{table}")
            await conn.execute("UPDATE rebuild_state SET phase = 'finished', place = '', finished_at = clock()")

    async def bump(self, mailboxes: Sequence[tuple[int, int]], ahead: int) -> int:
        """Pass over UIDs and modseqs in some mailboxes, named by account and number; how many there are still."""
        bumped: int = await self._db.fetchval(
            "SELECT bump_mailboxes($1, $2, $3)",
            [account_id for account_id, _ in mailboxes],
            [mailbox_id for _, mailbox_id in mailboxes],
            ahead,
        )
        return bumped

    async def all_mailboxes(self, only: AccountId | None = None) -> list[tuple[int, int]]:
        """Account and number of every mailbox, deleted ones too: they may be restored."""
        rows = await self._db.fetch(
            """
            SELECT account_id, mailbox_id FROM mailboxes WHERE $1::bigint IS NULL OR account_id = $1 ORDER BY 1, 2
            """,
            only,
        )
        return [(row[0], row[1]) for row in rows]

    async def bump_numbers(self) -> None:
        """Pass over numbers of accounts, mailboxes and bodies, and over UIDVALIDITYs."""
        await self._db.execute("SELECT raise_numbers()")


_PLACE: Final = """
    WITH box AS MATERIALIZED (
      SELECT r.*, m.uidvalidity = $4 AND r.uidvalidity = $4 AND $3::bigint > 0 AND NOT EXISTS (
          -- of two lives of the database: clients know one of the two by this UID, and nobody knows which
          SELECT 1 FROM rebuild_messages x WHERE x.account_id = $1 AND x.mailbox_id = $2 AND x.uid = $3
            AND x.uid >= r.known_next AND x.content_id <> $5) AS same
      FROM rebuild_mailboxes r JOIN mailboxes m USING (account_id, mailbox_id)
      WHERE r.account_id = $1 AND r.mailbox_id = $2 FOR UPDATE OF r
    ), moved AS (
      UPDATE rebuild_mailboxes r SET uid_reserved = r.uid_reserved + 1 FROM box
      WHERE r.account_id = $1 AND r.mailbox_id = $2 AND NOT box.same
    )
    INSERT INTO rebuild_messages
      (account_id, mailbox_id, uid, content_id, content_hash, size, internal_date, saved_at, flags)
    SELECT $1, $2, CASE WHEN same THEN $3::bigint ELSE uid_reserved END, $5, $6, $7, $8, $9, $10
    FROM box WHERE NOT same OR $3::bigint >= known_next OR EXISTS (
      -- a live one of which the part of the journal is damaged that had it
      SELECT 1 FROM rebuild_planes p WHERE p.account_id = $1 AND p.mailbox_id = $2 AND p.flag_no = -1
        AND p.block_no = ($3::bigint >> 10)::int AND get_bit(p.bits, ($3::bigint & 1023)::int) = 1)
    ON CONFLICT DO NOTHING
"""
