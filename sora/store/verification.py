"""What `sora-admin verify` asks the database: pages of rows in the order of object keys, and what mends them.

Every page begins behind a place and ends at a bound, so that a million rows take no more memory than a thousand.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.errors import AlreadyExists
from sora.store.blobs import BlobRef
from sora.store.copies import add_parts
from sora.store.deliveries import digest_arrays
from sora.store.leases import DEAD_AFTER_S
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from sora.mime.digest import Digest
    from sora.store.db import Database
    from sora.store.keyring import MasterKey

LEISURE_S: Final = 3600.0
MAX_BIGINT: Final = 2**63 - 1
HOUSE_NAMES: Final = 9


class Body(Struct, frozen=True):
    """A content row, and what else the database says of its body.

    Attributes:
        ref: Names object and files.
        uploaded: The row says that the object is there.
        pending: It waits for its upload on this node.
        elsewhere: It waits for its upload on another node that lives.
        stranded: It waits for its upload on nodes that are silent, and on no other.
        copied: The database has a copy.
        forgotten: Nobody uses it, and the cleaner has not been told.
        keyed: The database has a key of its account.
    """

    ref: BlobRef
    uploaded: bool
    pending: bool
    elsewhere: bool
    stranded: bool
    copied: bool
    forgotten: bool
    keyed: bool


class Verification:
    """The statements.

    Args:
        instance_id: This node.
    """

    def __init__(self, db: Database, instance_id: str) -> None:
        self._db = db
        self._instance_id = instance_id

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────

    async def count(self, account_id: AccountId | None) -> dict[str, int]:
        """How much there is to look at, by phase."""
        (row,) = await self._at_leisure(
            """
            SELECT (SELECT count(*) FROM mailboxes WHERE account_id BETWEEN $1 AND $2) AS mailboxes,
              (SELECT count(*) FROM message_contents
               WHERE account_id BETWEEN $1 AND $2 AND purging_at IS NULL) AS bodies,
              (SELECT count(*) FROM account_keys WHERE account_id BETWEEN $1 AND $2) AS keys
            """,
            *_range(account_id),
        )
        return dict(row)

    async def mailboxes(self, account_id: AccountId | None, after: tuple[int, int], limit: int) -> list[Record]:
        """Mailboxes in the order of their keys: account, id, name."""
        return await self._db.fetch(
            """
            SELECT account_id, mailbox_id, name FROM mailboxes
            WHERE (account_id, mailbox_id) > ($1, $2) AND account_id BETWEEN $3 AND $4
            ORDER BY account_id, mailbox_id LIMIT $5
            """,
            *after,
            *_range(account_id),
            limit,
        )

    async def check_mailbox(self, account_id: int, mailbox_id: int) -> list[Record]:
        """What is wrong with a mailbox: each kind once, how often, and an example."""
        return await self._at_leisure(
            "SELECT what, count(*) AS n, min(detail) AS detail FROM check_mailbox($1, $2) GROUP BY what ORDER BY what",
            account_id,
            mailbox_id,
        )

    async def rebuild_mailbox(self, account_id: int, mailbox_id: int) -> None:
        """Make what is derived from the rows of messages anew."""
        await self._at_leisure("SELECT rebuild_mailbox($1, $2)", account_id, mailbox_id)

    async def contentless(self, account_id: int, mailbox_id: int, limit: int) -> list[ContentId]:
        """Contents that messages of a mailbox name and that have no row, the first ones."""
        rows = await self._at_leisure(
            """
            SELECT DISTINCT m.content_id FROM messages m WHERE m.account_id = $1 AND m.mailbox_id = $2 AND NOT EXISTS (
              SELECT 1 FROM message_contents c WHERE c.account_id = m.account_id AND c.content_id = m.content_id)
            ORDER BY 1 LIMIT $3
            """,
            account_id,
            mailbox_id,
            limit,
        )
        return [ContentId(row["content_id"]) for row in rows]

    async def with_messages(self, account_id: AccountId | None, after: tuple[int, int], limit: int) -> list[Record]:
        """Mailboxes that messages name: account, mailbox, whether each of the two has a row."""
        return await self._db.fetch(
            "SELECT * FROM named_mailboxes($1, $2, $3, $4, $5)",
            *after,
            *_range(account_id),
            limit,
        )

    async def house(self, account_id: int, mailbox_id: int) -> str:
        """Make a mailbox for the messages that have lost theirs; its name.

        Raises:
            AlreadyExists: Of another account, or there are mailboxes of all these names.
        """
        plain = f"Recovered {mailbox_id}"
        for name in (plain, *(f"{plain} ({number})" for number in range(2, HOUSE_NAMES))):
            await self._db.execute(
                "INSERT INTO mailboxes (account_id, mailbox_id, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                account_id,
                mailbox_id,
                name,
            )
            made: str | None = await self._db.fetchval(
                "SELECT name FROM mailboxes WHERE account_id = $1 AND mailbox_id = $2", account_id, mailbox_id
            )
            if made is not None:
                return made
        raise AlreadyExists(detail=f"no name is free for mailbox {mailbox_id}")

    async def bodies(self, account_id: AccountId | None, after: tuple[int, bytes], limit: int) -> list[Body]:
        """Contents in the order of their object keys, but those that are going or were shredded."""
        rows = await self._db.fetch(
            """
            WITH page AS MATERIALIZED (
              SELECT c.account_id, c.content_hash FROM message_contents c
              WHERE c.purging_at IS NULL AND (c.account_id, c.content_hash) > ($3, $4)
                AND c.account_id BETWEEN $5 AND $6
                AND NOT EXISTS (SELECT 1 FROM shreddings s WHERE s.account_id = c.account_id)
              ORDER BY c.account_id, c.content_hash LIMIT $7
            ), names AS (
              SELECT array_agg(account_id ORDER BY account_id, content_hash) AS accounts,
                array_agg(content_hash ORDER BY account_id, content_hash) AS hashes FROM page
            )
            SELECT f.* FROM names n CROSS JOIN LATERAL body_facts($1, $2, n.accounts, n.hashes) f
            """,
            self._instance_id,
            _SILENT,
            *after,
            *_range(account_id),
            limit,
        )
        return [_body(row) for row in rows]

    async def by_hash(self, names: Sequence[tuple[AccountId, bytes]]) -> list[Body | None]:
        """The content rows of files, in their order; None: there is none."""
        rows = await self._db.fetch(
            "SELECT * FROM body_facts($1, $2, $3, $4)",
            self._instance_id,
            _SILENT,
            [account_id for account_id, _ in names],
            [digest for _, digest in names],
        )
        return [None if row["content_id"] is None else _body(row) for row in rows]

    async def lone_uploads(self, account_id: AccountId | None, after: tuple[int, int], limit: int) -> list[Record]:
        """Pending uploads of this node whose content has no row, and whether messages name it all the same."""
        return await self._db.fetch(
            """
            SELECT u.account_id, u.content_id, EXISTS (
              SELECT 1 FROM messages m WHERE m.account_id = u.account_id AND m.content_id = u.content_id) AS wanted
            FROM pending_uploads u
            WHERE u.instance_id = $1 AND u.account_id BETWEEN $2 AND $3
              AND (u.account_id, u.content_id) > ($4, $5) AND NOT EXISTS (
              SELECT 1 FROM message_contents c WHERE c.account_id = u.account_id AND c.content_id = u.content_id)
            ORDER BY 1, 2 LIMIT $6
            """,
            self._instance_id,
            *_range(account_id),
            *after,
            limit,
        )

    async def keys(self, account_id: AccountId | None, after: int, limit: int) -> list[Record]:
        """Wrapped keys, in the order of their accounts."""
        return await self._db.fetch(
            """
            SELECT account_id, key_id, wrapped, fingerprint, stored_at FROM account_keys
            WHERE account_id > $1 AND account_id BETWEEN $2 AND $3 ORDER BY account_id LIMIT $4
            """,
            after,
            *_range(account_id),
            limit,
        )

    async def has_keys(self) -> bool:
        """True if bodies may be sealed, whatever the configuration says now."""
        return bool(await self._db.fetchval("SELECT EXISTS (SELECT 1 FROM account_keys)"))

    async def promises(self, account_id: AccountId | None, after: tuple[int, int], limit: int) -> list[Record]:
        """Mailboxes of which the journal has promised or written something, and what is not as it should be.

        A promise that stands in the counters stands in the bucket, and none is passed; nothing was written that is not.
        """
        return await self._db.fetch(
            """
            SELECT s.account_id, s.mailbox_id, concat_ws(', ',
              CASE WHEN s.uid_reserved > k.uid_reserved THEN 'UIDs are believed to be reserved' END,
              CASE WHEN s.modseq_reserved > k.modseq_reserved THEN 'modseqs are believed to be reserved' END,
              CASE WHEN s.uid_next > k.uid_reserved THEN 'UIDs were given out beyond' END,
              CASE WHEN s.highest_modseq >= k.modseq_reserved THEN 'modseqs were given out beyond' END,
              CASE WHEN k.modseq > s.highest_modseq THEN 'written further than there is' END) AS wrong
            FROM journal_marks k JOIN mailbox_stats s USING (account_id, mailbox_id)
            WHERE (k.account_id, k.mailbox_id) > ($1, $2) AND k.account_id BETWEEN $3 AND $4
            ORDER BY k.account_id, k.mailbox_id LIMIT $5
            """,
            *after,
            *_range(account_id),
            limit,
        )

    async def uploads_of(self, account_id: AccountId, content_id: ContentId) -> list[BlobRef]:
        """What pending uploads say of a content that has no row."""
        rows = await self._db.fetch(
            """
            SELECT DISTINCT content_hash, size FROM pending_uploads WHERE account_id = $1 AND content_id = $2 ORDER BY 1
            """,
            account_id,
            content_id,
        )
        return [BlobRef(account_id, content_id, row["content_hash"], row["size"]) for row in rows]

    async def _at_leisure(self, sql: str, *arguments: object) -> list[Record]:
        """Rows of a statement that looks at all of something large: nobody waits for it, so it may take its time."""
        async with self._db.transaction() as connection:
            await connection.execute(f"SET LOCAL statement_timeout = '{LEISURE_S:.0f}s'")
            rows: list[Record] = await connection.fetch(sql, *arguments, timeout=LEISURE_S + 5)
            return rows

    # ── what mends ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def queue_again(self, ref: BlobRef) -> bool:
        """A good copy is staged: the object is not believed any more, and is to be uploaded from here.

        From here on the cleaner leaves the body alone until it is uploaded.

        Returns:
            False: The row is gone, or going.
        """
        return bool(
            await self._db.fetchval(
                """
                WITH c AS (
                  UPDATE message_contents SET uploaded_at = NULL
                  WHERE account_id = $1 AND content_id = $2 AND purging_at IS NULL
                  RETURNING account_id, content_id, content_hash, size
                )
                INSERT INTO pending_uploads AS u (account_id, content_hash, instance_id, content_id, size)
                SELECT account_id, content_hash, $3, content_id, size FROM c
                ON CONFLICT (account_id, content_hash, instance_id) DO UPDATE SET
                  attempts = 0, next_try = clock(), content_id = EXCLUDED.content_id
                RETURNING true
                """,
                ref.account_id,
                ref.content_id,
                self._instance_id,
            )
        )

    async def mark_uploaded(self, ref: BlobRef) -> None:
        """The object is there, though the row does not say so."""
        await self._db.execute(
            """
            UPDATE message_contents SET uploaded_at = coalesce(uploaded_at, clock())
            WHERE account_id = $1 AND content_id = $2 AND purging_at IS NULL
            """,
            ref.account_id,
            ref.content_id,
        )

    async def replace_copy(self, ref: BlobRef, stored: bytes | None) -> None:
        """The copy in the database is not the body: these octets are. None: there is to be none.

        Under the lock of the content, so that its upload is done before or afterwards.
        """
        async with self._db.transaction() as connection:
            await connection.execute(
                "SELECT FROM message_contents WHERE account_id = $1 AND content_id = $2 FOR UPDATE",
                ref.account_id,
                ref.content_id,
            )
            await connection.execute(
                "DELETE FROM body_copies WHERE account_id = $1 AND content_id = $2", ref.account_id, ref.content_id
            )
            if stored is not None:
                await add_parts(connection, ref.account_id, ref.content_id, (stored,))

    async def sizes_of(self, account_id: AccountId, content_id: ContentId) -> list[int]:
        """What messages say of the size of their content: one number, if nothing else is wrong."""
        rows = await self._db.fetch(
            "SELECT DISTINCT size FROM messages WHERE account_id = $1 AND content_id = $2 ORDER BY 1 LIMIT 8",
            account_id,
            content_id,
        )
        return [row["size"] for row in rows]

    async def restore_content(self, ref: BlobRef, digest: Digest, *, uploaded: bool) -> bool:
        """The row of a content that was found, and its text for the search; False: a row is in its place.

        Args:
            uploaded: It was found in the object store.
        """
        made = await self._db.fetchval(
            """
            WITH c AS (
              INSERT INTO message_contents (account_id, content_id, content_hash, size, sent_at, message_id,
                in_reply_to, reference_ids, thread_id, subject, base_subject, sender, recipients, cc, bcc, reply_to,
                display_from, display_to, preview, envelope, body_structure, header, uploaded_at)
              VALUES ($1, $2, $3, $4, $5, $6, $7, $8, find_thread($1, $2, $7, $8), $9, $10, $11, $12, $13, $14, $15,
                $16, $17, $18, $19, $20, $21, CASE WHEN $25 THEN clock() END)
              ON CONFLICT DO NOTHING RETURNING account_id, content_id
            ), texts AS (
              INSERT INTO search_queue (account_id, content_id, headers, body, body_truncated)
              SELECT account_id, content_id, $22, $23, $24 FROM c
              WHERE NOT EXISTS (SELECT 1 FROM search_texts t WHERE t.account_id = $1 AND t.content_id = $2)
            )
            SELECT true FROM c
            """,
            ref.account_id,
            ref.content_id,
            ref.content_hash,
            ref.size,
            *(column[0] for column in digest_arrays([digest])),
            uploaded,
        )
        return bool(made)

    async def tell_cleaner(self, ref: BlobRef, grace: timedelta) -> None:
        """The body may have lost its last user; when the time has passed the cleaner looks for himself."""
        await self._db.execute(
            """
            INSERT INTO purge_candidates (account_id, content_id, noted_at) VALUES ($1, $2, clock() + $3)
            ON CONFLICT DO NOTHING
            """,
            ref.account_id,
            ref.content_id,
            grace,
        )

    async def drop_upload(self, account_id: int, content_id: int) -> None:
        """Nobody waits for this upload: its content has no row. A staged file of it is put aside by the sweep."""
        await self._db.execute(
            """
            DELETE FROM pending_uploads u WHERE u.account_id = $1 AND u.content_id = $2 AND u.instance_id = $3
              AND NOT EXISTS (
                SELECT 1 FROM message_contents c WHERE c.account_id = u.account_id AND c.content_id = u.content_id)
              AND NOT EXISTS (
                SELECT 1 FROM messages m WHERE m.account_id = u.account_id AND m.content_id = u.content_id)
            """,
            account_id,
            content_id,
            self._instance_id,
        )

    async def forget_promises(self, account_id: int, mailbox_id: int) -> None:
        """The journal writes the mailbox as a whole, and reserves for it anew, with the next segment."""
        async with self._db.transaction() as connection:
            await connection.execute("SELECT lock_mailboxes(ARRAY[$1::bigint])", mailbox_id)
            await connection.execute(
                "DELETE FROM journal_marks WHERE account_id = $1 AND mailbox_id = $2", account_id, mailbox_id
            )
            await connection.execute(
                """
                UPDATE mailbox_stats SET uid_reserved = NULL, modseq_reserved = NULL
                WHERE account_id = $1 AND mailbox_id = $2
                """,
                account_id,
                mailbox_id,
            )

    async def keyless(self, account_ids: Sequence[AccountId]) -> list[AccountId]:
        """Which of these accounts are here without a key, and not because it was destroyed."""
        rows = await self._db.fetch(
            """
            SELECT account_id FROM accounts a WHERE account_id = ANY ($1)
              AND NOT EXISTS (SELECT 1 FROM account_keys k WHERE k.account_id = a.account_id)
              AND NOT EXISTS (SELECT 1 FROM shreddings s WHERE s.account_id = a.account_id)
              AND NOT EXISTS (SELECT 1 FROM dropped_keys d WHERE d.account_id = a.account_id)
            """,
            account_ids,
        )
        return [AccountId(row["account_id"]) for row in rows]

    async def adopt_key(self, account_id: AccountId, master: MasterKey, wrapped: bytes, fingerprint: bytes) -> None:
        """Take a data key that the object store has; nothing is done if the account has got one meanwhile."""
        await self._db.fetch(
            "SELECT create_account_key($1, $2, $3, $4, $5)",
            account_id,
            master.id,
            master.fingerprint,
            wrapped,
            fingerprint,
        )

    async def store_key_again(self, account_id: int) -> None:
        """The key object is not what the row says: `KeyObjects.store_pending` puts it."""
        await self._db.execute("UPDATE account_keys SET stored_at = NULL WHERE account_id = $1", account_id)

    async def replace_key(self, account_id: int, broken: bytes, key_id: str, wrapped: bytes) -> bool:
        """Take the wrapping of a key object in the place of a row that cannot be unwrapped; False: it has changed."""
        return bool(
            await self._db.fetchval(
                """
                UPDATE account_keys SET key_id = $3, wrapped = $4 WHERE account_id = $1 AND wrapped = $2 RETURNING true
                """,
                account_id,
                broken,
                key_id,
                wrapped,
            )
        )


_SILENT: Final = timedelta(seconds=DEAD_AFTER_S)


def _range(account_id: AccountId | None) -> tuple[int, int]:
    """The first and the last account of those to look at."""
    return (0, MAX_BIGINT) if account_id is None else (account_id, account_id)


def _body(row: Record) -> Body:
    ref = BlobRef(AccountId(row["account_id"]), ContentId(row["content_id"]), row["content_hash"], row["size"])
    facts = {name: row[name] for name in Body.__struct_fields__[1:]}
    return Body(ref, **facts)
