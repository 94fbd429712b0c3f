"""A node whose database is lost, and is built anew from its bucket."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from sora.services.key_objects import open_key_objects
from sora.services.recovery.journal import Journal
from sora.services.recovery.rebuild import Rebuild, Rebuilt
from sora.services.uploads import Uploads
from sora.store.account_keys import open_sealers
from sora.store.db import Database
from sora.store.keyring import open_keyring
from sora.store.marks import Marks
from sora.store.rebuilding import Rebuilding
from sora.store.uploads import PendingUploads
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.services.node import Node
    from sora.store.leases import Lease
    from sora.store.store import Store
    from sora.types import AccountId, MailboxId
    from tests.support.postgres import Cluster


class NoBell:
    """Uploads are made one by one here."""

    async def wait(self, timeout: float | None = None) -> object:
        """See `services.uploads.Doorbell`."""
        raise AssertionError("nobody waits")


class House:
    """A node on a database, its bucket, and what looks after both."""

    def __init__(self, folder: Path, name: str, node: Node, *, encrypted: bool) -> None:
        self.folder = folder
        self.encrypted = encrypted
        self.name = name
        self.node = node
        self.store = node.store
        self._lease: Lease | None = None
        self._writer: Journal | None = None

    async def upload(self) -> int:
        """Bring every staged body into the bucket; how many there were."""
        keyring, db = open_keyring(self.node.config), self.store.db
        pending = PendingUploads(db, self.node.instance_id)
        uploads = Uploads(
            pending, self.node.staging, self.node.blobs, None, NoBell(),
            sealers=open_sealers(keyring, db), keys=open_key_objects(keyring, db, self.node.blobs),
        )  # fmt: skip
        done = 0
        while rows := await pending.claim(100):
            for row in rows:
                await uploads.upload(row)
            done += len(rows)
        return done

    async def write_journal(self, **options: Any) -> None:
        """Close a segment."""
        if self._writer is None:
            keyring, db = open_keyring(self.node.config), self.store.db
            await self.store.leases.register("writer")
            self._lease = await self.store.leases.acquire("janitor", "writer", ttl_s=3600)

            async def lease() -> Lease | None:
                return self._lease

            self._writer = Journal(
                Marks(db), self.node.blobs, open_sealers(keyring, db), open_key_objects(keyring, db, self.node.blobs),
                lease, **options,
            )  # fmt: skip
        assert await self._writer.step()


@contextlib.asynccontextmanager
async def open_house(
    cluster: Cluster, folder: Path, *, name: str = "", encrypted: bool = False
) -> AsyncIterator[House]:
    """A house; `name` is that of its database, empty: a new one."""
    name = name or await cluster.create()
    tables: dict[str, Any] = {"encryption": {"keyring_file": str(folder / "keyring.toml")}} if encrypted else {}
    async with open_node(cluster.dsn(name), folder, **tables) as node:
        yield House(folder, name, node, encrypted=encrypted)


@contextlib.asynccontextmanager
async def rebuilding(house: House, cluster: Cluster, name: str) -> AsyncIterator[Rebuild]:
    """A rebuild of the bucket of a house into another database."""
    db = await Database.open(cluster.dsn(name), min_size=1, max_size=4)
    try:
        keyring, search = open_keyring(house.node.config), house.node.config.search
        yield Rebuild(
            db,
            Rebuilding(db),
            house.node.blobs,
            keyring,
            open_sealers(keyring, db),
            house.node.staging,
            body_limit=search.body_limit if search.index_bodies else 0,
        )
    finally:
        await db.close()


async def rebuilt(house: House, cluster: Cluster) -> tuple[str, Rebuilt]:
    """The name of the new database, and what was said of it."""
    name = await cluster.create()
    async with rebuilding(house, cluster, name) as rebuild:
        return name, await rebuild.run()


async def picture(store: Store) -> dict[str, object]:
    """All that a rebuild brings back, but for modseqs and what is above the UIDs in use."""
    queries = {
        "domains": "SELECT domain_id, name, catch_all_account_id, quota_bytes, created_at FROM domains ORDER BY 1",
        "accounts": "SELECT account_id, address, domain_id, disabled, legal_hold, deleted_at, quota_bytes,"
        " quota_messages, quota_mailboxes, hold_reason, held_at, script_active, created_at FROM accounts ORDER BY 1",
        "holds": "SELECT account_id, address, held, reason, actor, changed_at FROM legal_hold_log ORDER BY entry_id",
        "credentials": "SELECT account_id, kind, name, hash, expires_at FROM credentials ORDER BY 1, 2, 3",
        "aliases": "SELECT * FROM aliases ORDER BY 1, 2",
        "keywords": "SELECT * FROM account_keywords ORDER BY 1, 2",
        "mailboxes": "SELECT account_id, mailbox_id, name, uidvalidity, special_use, noselect, deleted_at"
        " FROM mailboxes WHERE NOT shadow ORDER BY 1, 2",
        "subscriptions": "SELECT * FROM subscriptions ORDER BY 1, 2",
        "rights": "SELECT * FROM mailbox_acl ORDER BY 1, 2, 3",
        "metadata": "SELECT * FROM metadata ORDER BY 1, 2, 3, 4",
        "scripts": "SELECT * FROM sieve_scripts ORDER BY 1, 2",
        "keys": "SELECT account_id, key_id, wrapped, fingerprint FROM account_keys ORDER BY 1",
        "outbound": "SELECT queue_id, account_id, kind, sender, recipient, content_id, body"
        " FROM outbound_queue ORDER BY 1",
        "counters": "SELECT account_id, mailbox_id, message_count, unseen_count, deleted_count, total_size"
        " FROM mailbox_stats ORDER BY 1, 2",
        "messages": "SELECT account_id, mailbox_id, uid, content_id, size, internal_date, saved_at, expunged_at"
        " FROM messages ORDER BY 1, 2, 3",
        "contents": "SELECT c.account_id, content_id, content_hash, size, sent_at, message_id, in_reply_to,"
        " reference_ids, thread_id, subject, base_subject, sender, recipients, preview, envelope, body_structure,"
        " header FROM message_contents c WHERE EXISTS (SELECT 1 FROM messages m WHERE m.account_id = c.account_id"
        " AND m.content_id = c.content_id) ORDER BY 1, 2",
        "flags": "SELECT * FROM message_flags WHERE bits <> 0::bit(1024) ORDER BY 1, 2, 3, 4",
        "seen": "SELECT * FROM message_viewer_seen WHERE bits <> 0::bit(1024) ORDER BY 1, 2, 3, 4",
        "texts": "SELECT account_id, content_id, headers, body, body_truncated FROM search_texts ORDER BY 1, 2",
    }
    return {name: [tuple(row) for row in await store.db.fetch(sql)] for name, sql in queries.items()}


async def problems(store: Store) -> list[tuple[object, ...]]:
    """What check_mailbox() finds in all mailboxes."""
    rows = await store.db.fetch(
        "SELECT b.mailbox_id, c.* FROM mailboxes b CROSS JOIN LATERAL check_mailbox(b.account_id, b.mailbox_id) c"
    )
    return [tuple(row) for row in rows]


async def modseqs(store: Store, account_id: AccountId, mailbox_id: MailboxId) -> tuple[int, int, int]:
    """UIDNEXT, the highest modseq, and the floor, of a mailbox."""
    row = await store.db.fetchrow(
        "SELECT uid_next, highest_modseq, expunge_floor FROM mailbox_stats WHERE account_id = $1 AND mailbox_id = $2",
        account_id, mailbox_id,
    )  # fmt: skip
    assert row is not None
    return tuple(row)
