"""The journal's writer on a real database and a real object store: what is in the bucket is what is in the database."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from msgspec.structs import replace

from sora import config, crashpoints, metrics
from sora._native.seqset import UidSet
from sora.admin.context import AdminContext
from sora.admin.journal import status
from sora.errors import BlobDown, Busy, KeyUnavailable
from sora.services.key_objects import NoKeyObjects, open_key_objects
from sora.services.recovery import journal as writing
from sora.services.recovery import journal_objects
from sora.services.recovery.journal import Journal
from sora.services.shredding import Shredding
from sora.store import journal
from sora.store.account_keys import NoKeys, open_sealers
from sora.store.blobs import DirectoryStore
from sora.store.keyring import Keyring
from sora.store.marks import Marks
from sora.store.readings import AHEAD
from sora.store.shreddings import Shreddings
from tests.support.replay import journaled, replay, segments, snapshots, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sora.store.account_keys import Sealers
    from sora.store.blobs import BlobStore
    from sora.store.leases import Lease
    from sora.store.store import Store
    from sora.types import AccountId, MailboxId
    from tests.support.swift import SwiftServer

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    made = DirectoryStore(tmp_path / "objects")
    await made.prepare()
    yield made
    made.close()


class Died(BaseException):
    """What stands for SIGKILL."""


def die_at(monkeypatch: pytest.MonkeyPatch, point: str, count: int = 1) -> None:
    passes = 0

    def crash_point(name: str) -> None:
        nonlocal passes
        assert name in crashpoints.POINTS
        passes += name == point
        if name == point and passes == count:
            raise Died

    for module in (writing, journal_objects):
        monkeypatch.setattr(module, "crash_point", crash_point)


async def leader(store: Store, name: str = "node-1") -> Lease:
    await store.leases.register(name)
    return await store.leases.acquire("janitor", name)


async def writer(
    store: Store, blobs: BlobStore, keyring: Keyring | None = None, *, lease: Lease | None = None, **more: Any
) -> Journal:
    """A writer that has the lease, or believes so."""
    held = lease or await leader(store)

    async def ask() -> Lease:
        return held

    sealers: Sealers = open_sealers(keyring, store.db) if keyring else NoKeys()
    keys = open_key_objects(keyring, store.db, blobs) if keyring else NoKeyObjects()
    return Journal(Marks(store.db), blobs, sealers, keys, ask, **more)


async def put(
    store: Store, account_id: AccountId, mailbox_id: MailboxId, *uids: int, flags: tuple[int, ...] = ()
) -> None:
    await store.db.execute(
        """
        WITH given AS (
          SELECT u AS uid, ($2::bigint << 33) + u AS content_id FROM unnest($3::bigint[]) u
        ), new AS (
          INSERT INTO message_contents (account_id, content_id, content_hash, size, thread_id, envelope, body_structure)
          SELECT $1::bigint, content_id, decode(lpad(to_hex(content_id), 64, '0'), 'hex'), 100, 1, ''::bytea, ''::bytea
          FROM given)
        INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size,
          initial_flags)
        SELECT $1, $2, g.uid, g.content_id, s.highest_modseq + 1, $5, 100, $4
        FROM given g, mailbox_stats s WHERE s.account_id = $1 AND s.mailbox_id = $2
        """,
        account_id, mailbox_id, list(uids), list(flags) or None, WHEN,
    )  # fmt: skip


async def flag(
    store: Store, account_id: AccountId, mailbox_id: MailboxId, first: int, last: int, number: int = 0
) -> None:
    await store.db.execute(
        "SELECT store_flags($1, $2, ARRAY[$3::bigint], ARRAY[$4::bigint], ARRAY[$5::int2], '{}')",
        account_id, mailbox_id, first, last, number,
    )  # fmt: skip


async def expunge(store: Store, account_id: AccountId, mailbox_id: MailboxId, *uids: int) -> None:
    await store.messages.expunge(account_id, mailbox_id, UidSet.from_numbers(uids), only_deleted=False)


async def test_what_changes_is_in_the_next_segment(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    pen = await writer(store, blobs)
    await put(store, ann, inbox, 1, 2, 3, 2000, flags=(1,))
    assert await pen.step()
    assert await journaled(blobs, ann) == await stored(store.db, ann) != {}
    assert len(await segments(blobs)) == 1
    await pen.step()
    assert len(await segments(blobs)) == 1, "nothing has changed"

    await flag(store, ann, inbox, 2, 2)
    await expunge(store, ann, inbox, 3)
    await put(store, ann, inbox, 5)
    await pen.step()
    found = await segments(blobs)
    assert len(found) == 2
    (frame,) = found[max(found)]
    (page,) = journal.unpack(frame.payload)
    assert isinstance(page, journal.Page)
    assert page.blocks == (0,), "the other block is as it was"
    assert [(row.uid, bool(row.expunged_at)) for row in page.messages] == [(3, True), (5, False)]
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_small_things_are_written_when_they_change(store: Store, blobs: DirectoryStore, ann: AccountId) -> None:
    bob = await store.accounts.create("bob@example.com")
    pen = await writer(store, blobs)
    await pen.step()
    db = store.db
    changes = {
        "credentials": f"INSERT INTO credentials (account_id, kind, hash) VALUES ({ann}, 'password', 'x')",
        "aliases": f"INSERT INTO aliases (address, account_id) VALUES ('a@example.com', {ann})",
        "keywords": f"SELECT register_keywords({ann}, '{{$Junk}}')",
        "mailboxes": f"SELECT create_mailbox({ann}, 'Work', '\\Archive')",
        "subscriptions": f"SELECT subscribe({ann}, 'Nowhere')",
        "grants": f"SELECT set_acl({ann}, mailbox_id, {bob}, false, 3, '=') FROM mailboxes WHERE account_id = {ann} "
        "AND name = 'Work'",
        "metadata": f"INSERT INTO metadata VALUES ({ann}, 0, {ann}, '/private/comment', 'hm')",
        "quota_bytes": f"UPDATE accounts SET quota_bytes = 5 WHERE account_id = {ann}",
        "disabled": f"UPDATE accounts SET disabled = true WHERE account_id = {ann}",
    }
    before = (await replay(blobs))[ann].account
    for field, sql in changes.items():
        await db.execute(sql)
        await pen.step()
        after = (await replay(blobs))[ann].account
        assert getattr(after, field) != getattr(before, field), field
        newest = max(await segments(blobs))
        await pen.step()
        assert max(await segments(blobs)) == newest, f"{field} was written twice"
        before = after
    assert before is not None
    (work,) = (box for box in before.mailboxes if box.name == "Work")
    assert work.special_use == "\\Archive"
    (grant,) = before.grants
    assert (grant.mailbox_id, grant.grantee_id, grant.rights) == (work.mailbox_id, bob, 3)
    await db.execute("UPDATE domains SET quota_bytes = 7")
    await db.execute("INSERT INTO metadata VALUES (0, 0, 0, '/shared/comment', 'all')")
    await pen.step()
    domains = (await replay(blobs))[0].domains  # type: ignore[index]
    assert domains is not None
    assert domains.domains[0].quota_bytes == 7
    assert domains.metadata[0].value == b"all"


async def test_scripts_and_mail_that_waits_are_written(store: Store, blobs: DirectoryStore, ann: AccountId) -> None:
    pen = await writer(store, blobs)
    await pen.step()
    await store.db.execute(
        "INSERT INTO sieve_scripts (account_id, name, content, version, active) VALUES ($1, 'a', 'keep;', $2, true)",
        ann, bytes(32),
    )  # fmt: skip
    await store.db.execute(
        """
        INSERT INTO outbound_queue (account_id, kind, sender, recipient, body, body_hash, size, params)
        SELECT $1, 'redirect', 'a@b', 'c' || g || '@d', repeat('x', 400000)::bytea, 'h', 400000, '{"notify": "never"}'
        FROM generate_series(1, 5) g
        """,
        ann,
    )
    await pen.step()
    state = (await replay(blobs))[ann]
    assert [(script.name, script.content, script.active) for script in state.scripts] == [("a", b"keep;", True)]
    assert [mail.recipient for mail in state.outbound.values()] == [f"c{n}@d" for n in range(1, 6)]
    assert {len(mail.body or b"") for mail in state.outbound.values()} == {400000}
    found = await segments(blobs)
    kinds = [type(record) for frame in found[max(found)] for record in journal.unpack(frame.payload)]
    assert kinds == [journal.Scripts, *[journal.Outbound] * 3], "two mails a page"
    await store.db.execute("DELETE FROM outbound_queue WHERE recipient <> 'c3@d'")
    await store.db.execute("DELETE FROM sieve_scripts")
    await pen.step()
    state = (await replay(blobs))[ann]
    assert [mail.recipient for mail in state.outbound.values()] == ["c3@d"]
    assert state.scripts == ()


POINTS = ["journal.read", "journal.put", "journal.marked"]


@pytest.mark.parametrize("point", POINTS)
async def test_nothing_is_missed_when_the_writer_dies(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    lease = await leader(store)
    await put(store, ann, inbox, 1, 2)
    await (await writer(store, blobs, lease=lease)).step()
    await put(store, ann, inbox, 3)
    await flag(store, ann, inbox, 1, 1)
    with monkeypatch.context() as patch:
        die_at(patch, point)
        with pytest.raises(Died):
            await (await writer(store, blobs, lease=lease)).step()
    await expunge(store, ann, inbox, 3)
    await flag(store, ann, inbox, 2, 2, 4)
    await (await writer(store, blobs, lease=lease)).step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)
    assert not await store.db.fetch("SELECT * FROM journal_dirty")


async def test_a_reservation_stands_in_the_bucket_before_it_counts(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leader(store)
    await put(store, ann, inbox, 7)
    with monkeypatch.context() as patch:
        die_at(patch, "journal.put")
        with pytest.raises(Died):
            await (await writer(store, blobs, lease=lease)).step()
    row = "SELECT uid_reserved, modseq_reserved FROM mailbox_stats WHERE mailbox_id = $1"
    assert tuple(await store.db.fetchrow(row, inbox) or ()) == (None, None)
    box = (await replay(blobs))[ann].mailboxes[inbox]
    assert (box.uid_reserved, box.modseq_reserved) == (8 + AHEAD, 3 + AHEAD)
    await (await writer(store, blobs, lease=lease)).step()
    assert tuple(await store.db.fetchrow(row, inbox) or ()) == (8 + AHEAD, 3 + AHEAD)


async def test_who_passes_a_reservation_is_refused_for_a_while(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    pen = await writer(store, blobs)
    await put(store, ann, inbox, 7)
    await pen.step()
    last = 7 + AHEAD
    await put(store, ann, inbox, last)  # the last one that is reserved
    with pytest.raises(Busy):
        await put(store, ann, inbox, last + 1)
    await pen.step()
    await put(store, ann, inbox, last + 1)
    await store.db.execute("UPDATE mailbox_stats SET highest_modseq = modseq_reserved - 1 WHERE mailbox_id = $1", inbox)
    with pytest.raises(Busy):
        await flag(store, ann, inbox, 7, 7)
    with pytest.raises(Busy):
        await expunge(store, ann, inbox, 7)
    await pen.step()
    await flag(store, ann, inbox, 7, 7)
    await pen.step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_an_import_asks_for_the_uids_that_it_keeps(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    pen = await writer(store, blobs)
    ask = "SELECT reserve_uids($1, $2, $3)"
    assert await store.db.fetchval(ask, ann, inbox, 5_000_000), "nothing is reserved yet, so nothing refuses"
    await pen.step()
    assert await store.db.fetchval(ask, ann, inbox, 1 + AHEAD)
    assert not await store.db.fetchval(ask, ann, inbox, 5_000_001)
    await pen.step()
    assert await store.db.fetchval(ask, ann, inbox, 5_000_001)
    await put(store, ann, inbox, 5_000_000)
    await pen.step()
    newest = max(await segments(blobs))
    await pen.step()
    assert max(await segments(blobs)) == newest


async def test_a_mailbox_whose_uids_are_used_up_does_not_come_again_and_again(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    await put(store, ann, inbox, 4_294_967_295)
    pen = await writer(store, blobs)
    await pen.step()
    assert (await replay(blobs))[ann].mailboxes[inbox].uid_reserved == 4_294_967_296
    newest = max(await segments(blobs))
    await pen.step()
    assert max(await segments(blobs)) == newest


async def test_a_locked_mailbox_is_reserved_by_the_next_pass(
    store: Store, dsn: str, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    pen = await writer(store, blobs)
    other = await asyncpg.connect(dsn, server_settings={"search_path": "sora, public"})
    async with other.transaction():
        await other.execute("SELECT 1 FROM mailbox_stats WHERE mailbox_id = $1 FOR UPDATE", inbox)
        await pen.step()  # waits for nobody
    row = "SELECT uid_reserved FROM mailbox_stats WHERE mailbox_id = $1"
    assert await store.db.fetchval(row, inbox) is None
    await pen.step()
    assert await store.db.fetchval(row, inbox) == 1 + AHEAD
    await other.close()


async def test_of_two_writers_the_one_without_the_lease_changes_nothing(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await writer(store, blobs)
    await old.step()
    await put(store, ann, inbox, 1)
    await store.leases.register("node-1")  # its first life is void, and so is its lease
    new = await writer(store, blobs, lease=await leader(store, "node-2"))
    assert not await old.step()
    await new.step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)
    await flag(store, ann, inbox, 1, 1)
    assert not await old.step(), "still"
    await new.step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_a_writer_that_wakes_up_late_does_no_harm(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read, and puts what it read when another one has written what came after."""
    old = await writer(store, blobs)
    await old.step()
    await put(store, ann, inbox, 1, 2)
    new: list[Journal] = []

    async def meanwhile(key: str, data: bytes, *rest: Any) -> None:
        monkeypatch.undo()
        await store.leases.register("node-1")
        new.append(await writer(store, blobs, lease=await leader(store, "node-2")))
        await expunge(store, ann, inbox, 1)
        await flag(store, ann, inbox, 2, 2)
        await new[0].step()
        await DirectoryStore.put(blobs, key, data, *rest)

    monkeypatch.setattr(blobs, "put", meanwhile)
    assert not await old.step()
    assert len(await segments(blobs)) == 3
    assert await journaled(blobs, ann) == await stored(store.db, ann)
    await flag(store, ann, inbox, 2, 2, 1)
    await new[0].step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_records_are_sealed_and_a_shredded_account_is_not_to_be_read(
    store: Store,
    blobs: DirectoryStore,
    ann: AccountId,
    inbox: MailboxId,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "SMALL_BYTES", 10)
    keyring = Keyring(path)
    pen = await writer(store, blobs, keyring, most_segments=0)
    await store.db.execute("INSERT INTO credentials (account_id, kind, hash) VALUES ($1, 'password', 'Geheim')", ann)
    await put(store, ann, inbox, 1)
    await pen.step()
    sealers = open_sealers(keyring, store.db)
    assert await journaled(blobs, ann, sealers) == await stored(store.db, ann)
    for frames in (await segments(blobs)).values():
        assert {frame.sealed for frame in frames if frame.account_id} <= {True}
        assert not any(b"ann@example.com" in frame.payload or b"Geheim" in frame.payload for frame in frames)
    assert [entry.key async for entry in blobs.list(f"keys/{ann:016x}/")], "the key is there before what it seals"
    assert ann in await snapshots(blobs)
    shredding = Shredding(Shreddings(store.db), blobs, [], "")
    await shredding.shred(ann)
    await pen.step()
    state = (await replay(blobs, sealers))[ann] if ann in await told(blobs) else None
    assert state is None
    assert [entry.key async for entry in blobs.list(journal.snapshot_prefix(ann))] == []
    with pytest.raises(KeyUnavailable):
        await open_sealers(keyring, store.db).get(ann)
    newest = max(await segments(blobs))
    await pen.step()
    assert max(await segments(blobs)) == newest, "nothing more to be said of it"


async def told(blobs: DirectoryStore) -> set[int]:
    """Accounts whose last word is not that they are gone."""
    last: dict[int, bool] = {}
    for _, frames in sorted((await segments(blobs)).items()):
        for frame in frames:
            gone = not frame.sealed and isinstance(journal.unpack(frame.payload)[0], journal.Gone)
            last[frame.account_id] = not gone
    return {account_id for account_id, there in last.items() if there}


async def test_an_account_without_its_key_does_not_hold_up_the_others(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, path: Path, tmp_path: Path
) -> None:
    keyring = Keyring(path)
    await open_sealers(keyring, store.db).get(ann)
    await store.db.execute("ALTER TABLE account_keys DROP CONSTRAINT account_keys_key_id_fkey")
    await store.db.execute("UPDATE account_keys SET key_id = 'lost'")
    bob = await store.accounts.create("bob@example.com")
    pen = await writer(store, blobs, keyring)
    await pen.step()
    assert bob in {frame.account_id for frames in (await segments(blobs)).values() for frame in frames}
    assert ann not in {frame.account_id for frames in (await segments(blobs)).values() for frame in frames}
    assert (await Marks(store.db).state()).skipped == 1


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("segment_bytes", [600, 10**6])
async def test_an_account_without_its_key_does_not_hold_up_the_deletion_of_segments(
    store: Store,
    blobs: DirectoryStore,
    ann: AccountId,
    inbox: MailboxId,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    segment_bytes: int,
    small: bool,
) -> None:
    """What there is of it is carried over, and all of it is there when the key is back."""
    if not small:
        monkeypatch.setattr(writing, "SMALL_BYTES", 10)
    keyring, lease = Keyring(path), await leader(store)
    sizes = {"most_segments": 2, "segment_bytes": segment_bytes}
    pen = await writer(store, blobs, keyring, lease=lease, most_segments=1000)
    for uid in range(1, 4):
        await put(store, ann, inbox, uid)
        await flag(store, ann, inbox, uid, uid)
        await pen.step()
    known = await journaled(blobs, ann, open_sealers(keyring, store.db))
    old = max(await segments(blobs))
    bob = await store.accounts.create("bob@example.com")
    await store.db.execute("ALTER TABLE account_keys DROP CONSTRAINT account_keys_key_id_fkey")
    before = await store.db.fetchval("SELECT key_id FROM account_keys WHERE account_id = $1", ann)
    await store.db.execute("UPDATE account_keys SET key_id = 'lost' WHERE account_id = $1", ann)
    pen = await writer(store, blobs, keyring, lease=lease, **sizes)
    for number in range(12):
        await put(store, ann, inbox, 10 + number)
        await store.db.execute("SELECT subscribe($1, $2)", bob, f"x{number}")
        await pen.step()
    assert min(await segments(blobs)) > old
    assert len(await segments(blobs)) < 12
    state = await Marks(store.db).state()
    assert (state.skipped, state.compact_upto < state.closed_seq) == (1, True)
    await store.db.execute("UPDATE account_keys SET key_id = $2 WHERE account_id = $1", ann, before)
    sealers = open_sealers(keyring, store.db)
    assert await journaled(blobs, ann, sealers) == known
    for _ in range(3):
        await (await writer(store, blobs, keyring, lease=lease, **sizes)).step()
        assert await journaled(blobs, ann, sealers) == await stored(store.db, ann)


async def test_what_cannot_be_carried_over_stays_where_it_is(
    store: Store, blobs: DirectoryStore, ann: AccountId, path: Path
) -> None:
    keyring, lease = Keyring(path), await leader(store)
    await (await writer(store, blobs, keyring, lease=lease)).step()
    (old,) = await segments(blobs)
    key = journal.segment_key(old)
    damaged = (await blobs.get(key))[:-1] + b"?"
    await store.accounts.create("bob@example.com")
    await store.db.execute("ALTER TABLE account_keys DROP CONSTRAINT account_keys_key_id_fkey")
    await store.db.execute("UPDATE account_keys SET key_id = 'lost' WHERE account_id = $1", ann)
    pen = await writer(store, blobs, keyring, lease=lease, most_segments=0)
    errors = metrics.journal_errors._value.get()
    await blobs.put(key, damaged)
    await store.db.execute("SELECT subscribe($1, 'x')", ann)
    await pen.step()
    assert await blobs.get(key) == damaged
    assert metrics.journal_errors._value.get() > errors + 2, "two looks at the account, and the segment"


async def test_who_dies_while_carrying_over_leaves_nothing_twice(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring, lease = Keyring(path), await leader(store)
    await put(store, ann, inbox, 1, 2)
    await (await writer(store, blobs, keyring, lease=lease)).step()
    (old,) = await segments(blobs)
    known = await journaled(blobs, ann, open_sealers(keyring, store.db))
    await store.db.execute("ALTER TABLE account_keys DROP CONSTRAINT account_keys_key_id_fkey")
    before = await store.db.fetchval("UPDATE account_keys k SET key_id = 'lost' FROM account_keys o RETURNING o.key_id")
    with monkeypatch.context() as patch:
        die_at(patch, "journal.put", 2)  # after what is known of no account
        with pytest.raises(Died):
            await (await writer(store, blobs, keyring, lease=lease, most_segments=0)).step()
    left = await segments(blobs)
    assert old in left
    assert sum(frame.account_id == ann for frames in left.values() for frame in frames) == 2
    for _ in range(3):
        await (await writer(store, blobs, keyring, lease=lease, most_segments=0)).step()
    later = await segments(blobs)
    assert old not in later
    assert [sum(frame.account_id == ann for frame in frames) for seq, frames in later.items() if seq not in left] == [1]
    await store.db.execute("UPDATE account_keys SET key_id = $2 WHERE account_id = $1", ann, before)
    assert await journaled(blobs, ann, open_sealers(keyring, store.db)) == known


async def test_an_account_that_was_never_written_holds_up_nothing(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, path: Path
) -> None:
    keyring, lease = Keyring(path), await leader(store)
    await open_sealers(keyring, store.db).get(ann)
    await store.db.execute("ALTER TABLE account_keys DROP CONSTRAINT account_keys_key_id_fkey")
    before = await store.db.fetchval("UPDATE account_keys k SET key_id = 'lost' FROM account_keys o RETURNING o.key_id")
    bob = await store.accounts.create("bob@example.com")
    pen = await writer(store, blobs, keyring, lease=lease, most_segments=2)
    await put(store, ann, inbox, 1)
    await pen.step()
    (old,) = await segments(blobs)
    for number in range(8):
        await store.db.execute("SELECT subscribe($1, $2)", bob, f"x{number}")
        await pen.step()
    assert min(await segments(blobs)) > old
    await store.db.execute("UPDATE account_keys SET key_id = $2 WHERE account_id = $1", ann, before)
    await (await writer(store, blobs, keyring, lease=lease)).step()
    assert await journaled(blobs, ann, open_sealers(keyring, store.db)) == await stored(store.db, ann)


async def test_a_purged_account_is_said_to_be_gone(
    store: Store, blobs: DirectoryStore, ann: AccountId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SMALL_BYTES", 10)
    pen = await writer(store, blobs, most_segments=1)
    await pen.step()
    await store.db.execute("SELECT subscribe($1, 'x')", ann)
    await pen.step()
    assert ann in await snapshots(blobs)
    await store.db.execute("DELETE FROM subscriptions; DELETE FROM mailboxes; DELETE FROM accounts")
    await pen.step()
    state = (await replay(blobs))[ann]
    assert state.gone is journal.Reason.PURGED
    assert state.account is None
    assert ann not in await snapshots(blobs)
    for name in "abcdef":  # until the last segment that speaks of it is needless
        await store.accounts.create(f"{name}@example.com")
        await pen.step()
    assert ann not in await replay(blobs)
    assert not await store.db.fetch("SELECT * FROM journal_accounts WHERE account_id = $1", ann)


async def test_compaction_keeps_everything(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SMALL_BYTES", 200)
    bob = await store.accounts.create("bob@example.com")
    box = (await store.mailboxes.get(bob, "INBOX")).mailbox_id
    pen = await writer(store, blobs, most_segments=3)
    await put(store, bob, box, 1, 2, 3)
    for round_ in range(12):
        await put(store, ann, inbox, *range(1 + round_ * 300, 1 + round_ * 300 + 200), flags=(round_ % 3,))
        await expunge(store, ann, inbox, 1 + round_ * 300)
        await flag(store, ann, inbox, 1, 50 * round_ + 1, 4)
        if round_ == 6:
            await flag(store, bob, box, 2, 2)
        await pen.step()
        for account_id in (ann, bob):
            assert await journaled(blobs, account_id) == await stored(store.db, account_id)
    assert len(await segments(blobs)) <= 6
    assert ann in await snapshots(blobs)
    assert len([entry async for entry in blobs.list(journal.snapshot_prefix(ann))]) == 1


@pytest.mark.parametrize(
    ("point", "count"),
    [("journal.snapshot_put", 1), ("journal.snapshot_marked", 1), ("journal.deleted", 1), *((at, 2) for at in POINTS)],
)
async def test_compaction_that_dies_keeps_everything(
    store: Store,
    blobs: DirectoryStore,
    ann: AccountId,
    inbox: MailboxId,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    count: int,
) -> None:
    monkeypatch.setattr(writing, "SMALL_BYTES", 200)
    bob = await store.accounts.create("bob@example.com")
    lease = await leader(store)
    died = 0
    for round_ in range(8):
        await put(store, ann, inbox, *range(1 + round_ * 300, 1 + round_ * 300 + 200))
        await expunge(store, ann, inbox, 1 + round_ * 300)
        with monkeypatch.context() as patch:
            die_at(patch, point, count)
            try:
                await (await writer(store, blobs, lease=lease, most_segments=2)).step()
            except Died:
                died += 1
        for account_id in (ann, bob):
            found, there = await journaled(blobs, account_id), await stored(store.db, account_id)
            assert found == there or (died and point == "journal.read")
    assert died
    await (await writer(store, blobs, lease=lease, most_segments=2)).step()
    for account_id in (ann, bob):
        assert await journaled(blobs, account_id) == await stored(store.db, account_id)


async def test_a_large_account_spans_objects_and_counts_when_all_of_it_is_there(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leader(store)
    await put(store, ann, inbox, *range(1, 60_000, 3))
    with monkeypatch.context() as patch:
        die_at(patch, "journal.put", 2)
        with pytest.raises(Died):
            await (await writer(store, blobs, lease=lease, segment_bytes=20_000)).step()
    assert len(await segments(blobs)) in (2, 3), "the next one was on its way"
    assert ann not in await replay(blobs)
    pen = await writer(store, blobs, lease=lease, segment_bytes=20_000)
    await pen.step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)
    assert len(await segments(blobs)) > 4
    pen = await writer(store, blobs, lease=lease, segment_bytes=20_000, most_segments=0)
    await pen.step()
    assert len([entry async for entry in blobs.list(journal.snapshot_prefix(ann))]) > 1
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_a_database_that_was_put_back_writes_all_anew(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    await put(store, ann, inbox, 1, 2, 3, 2000)
    pen = await writer(store, blobs)
    await pen.step()
    earlier = [dict(row) for row in await store.db.fetch("SELECT seq, closed_seq FROM journal_state")]
    await flag(store, ann, inbox, 2000, 2000)
    await pen.step()
    # what a backup had: no flag, and not that segment; UIDs of the lost time are given out for other mail
    await store.db.execute("DELETE FROM message_flags")
    await store.db.execute("UPDATE journal_state SET seq = $1, closed_seq = $2", *earlier[0].values())
    await store.db.execute("UPDATE journal_marks SET modseq = modseq - 1 WHERE mailbox_id = $1", inbox)
    await store.db.execute("DELETE FROM journal_segments WHERE seq > $1", earlier[0]["seq"])
    assert await journaled(blobs, ann) != await stored(store.db, ann)
    await (await writer(store, blobs)).step() if await release(store) else None
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def release(store: Store) -> bool:
    await store.db.execute("DELETE FROM leases")
    return True


async def test_a_bucket_that_was_exchanged_gets_everything(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    await put(store, ann, inbox, 1, 2)
    lease = await leader(store)
    await (await writer(store, blobs, lease=lease)).step()
    for seq in await segments(blobs):
        await blobs.delete(journal.segment_key(seq))
    await (await writer(store, blobs, lease=lease)).step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_a_new_database_writes_over_no_journal(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    """Who has lost the database, and has started a server by mistake, has lost nothing more."""
    await blobs.put(journal.segment_key(77), journal.Builder(77).finish())
    pen = await writer(store, blobs)
    await put(store, ann, inbox, 1)
    for _ in range(2):
        await pen.step()
        assert list(await segments(blobs)) == [77]
    assert (await Marks(store.db).state()).recovery_point is None
    await blobs.delete(journal.segment_key(77))
    await pen.step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_turned_off_it_says_so_and_reserves_nothing(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leader(store)
    pen = await writer(store, blobs, lease=lease)
    await put(store, ann, inbox, 1)
    await pen.step()
    with monkeypatch.context() as patch:
        die_at(patch, "journal.stopped")
        with pytest.raises(Died):
            await pen.stop()
    reserved = "SELECT count(uid_reserved) FROM mailbox_stats"
    assert await store.db.fetchval(reserved), "the bucket says so first"
    await pen.stop()
    assert datetime.fromisoformat((await blobs.get(journal.STOPPED)).decode()) <= datetime.now(UTC)
    assert not await store.db.fetchval(reserved)
    await put(store, ann, inbox, 5 + AHEAD)
    await pen.stop()
    assert not await store.db.fetchval("SELECT count(*) FROM journal_dirty")
    await pen.step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)
    assert [entry.key async for entry in blobs.list(journal.STOPPED)] == []
    assert (await Marks(store.db).state()).stopped_at is None


async def test_what_was_trimmed_meanwhile_is_not_missed(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    pen = await writer(store, blobs)
    await put(store, ann, inbox, 1, 2, 1500)
    await pen.step()
    await expunge(store, ann, inbox, 1, 1500)
    await store.db.fetchval("SELECT trim_expunges($1, $2, clock() + interval '1 s')", ann, inbox)
    assert not await store.db.fetch("SELECT * FROM message_expunges")
    await pen.step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_the_recovery_point_is_when_the_pass_began(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    pen = await writer(store, blobs)
    before = await Marks(store.db).now()
    await pen.step()
    first = (await Marks(store.db).state()).recovery_point
    assert first is not None
    assert before <= first <= await Marks(store.db).now()
    await put(store, ann, inbox, 1)

    async def away(*_: Any) -> None:
        raise BlobDown(detail="away")

    with monkeypatch.context() as patch:
        patch.setattr(blobs, "put", away)
        with pytest.raises(BlobDown):
            await pen.step()
    assert (await Marks(store.db).state()).recovery_point == first
    await pen.step()
    later = (await Marks(store.db).state()).recovery_point
    assert later is not None
    assert later > first + timedelta(0)


async def test_a_clock_that_was_put_back_does_not_hide_that_nothing_is_written(
    store: Store, blobs: DirectoryStore, ann: AccountId
) -> None:
    pen = await writer(store, blobs)
    await pen.step()
    await store.db.execute("UPDATE journal_state SET recovery_point = recovery_point + interval '1 day'")
    await store.db.execute("SELECT subscribe($1, 'x')", ann)
    await pen.step()
    now, state = await Marks(store.db).now(), await Marks(store.db).state()
    assert state.recovery_point is not None
    assert now - timedelta(minutes=1) < state.recovery_point <= now


async def test_numbers_go_on_above_those_of_another_history_whatever_the_clock_says(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    lease = await leader(store)
    await (await writer(store, blobs, lease=lease)).step()
    ((old, frames),) = (await segments(blobs)).items()
    ahead = old + 10**9
    for number, key in ((ahead, journal.segment_key(ahead)), (ahead + 5, journal.snapshot_key(ann, ahead + 5, 0))):
        builder = journal.Builder(number)
        for frame in frames:
            if frame.account_id == ann:
                builder.add(replace(frame, group=number))
        await blobs.put(key, builder.finish())
    await put(store, ann, inbox, 1)
    await (await writer(store, blobs, lease=lease)).step()
    assert max(await segments(blobs)) > ahead + 5
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_turned_off_before_its_first_segment_was_noted_it_says_so(
    store: Store, blobs: DirectoryStore, ann: AccountId, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await leader(store)
    with monkeypatch.context() as patch:
        die_at(patch, "journal.put")
        with pytest.raises(Died):
            await (await writer(store, blobs, lease=lease)).step()
    assert await segments(blobs)
    await (await writer(store, blobs, lease=lease)).stop()
    assert await blobs.get(journal.STOPPED)


async def test_a_mailbox_that_shows_expunged_mail_is_no_part_of_it(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    pen = await writer(store, blobs)
    await put(store, ann, inbox, 1)
    await pen.step()
    before = await journaled(blobs, ann)
    newest = max(await segments(blobs))
    shadow = await store.db.fetchval(
        "INSERT INTO mailboxes (account_id, name, shadow) VALUES ($1, 'Deleted/INBOX', true) RETURNING mailbox_id", ann
    )
    await put(store, ann, shadow, 1)
    await pen.step()
    assert max(await segments(blobs)) == newest
    await flag(store, ann, inbox, 1, 1)
    await store.db.execute("SELECT subscribe($1, 'x')", ann)
    await pen.step()
    assert (await journaled(blobs, ann)).keys() == before.keys()
    assert await store.db.fetchval("SELECT count(uid_reserved) FROM mailbox_stats WHERE mailbox_id = $1", shadow) == 0


class World:
    """Accounts to which anything happens; the database alone knows what."""

    def __init__(self, store: Store, seed: int, accounts: list[AccountId]) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.accounts = accounts

    async def mailbox(self) -> tuple[AccountId, MailboxId]:
        account_id = self.random.choice(self.accounts)
        rows = await self.store.db.fetch(
            "SELECT mailbox_id FROM mailboxes WHERE account_id = $1 AND deleted_at IS NULL ORDER BY 1", account_id
        )
        return account_id, self.random.choice(rows)["mailbox_id"]

    async def change(self) -> None:
        account_id, box = await self.mailbox()
        db, pick = self.store.db, self.random
        top: int = await db.fetchval("SELECT uid_next FROM mailbox_stats WHERE mailbox_id = $1", box)
        match pick.choice(["put", "put", "flag", "flag", "expunge", "move", "create", "delete", "trim", "see", "mend"]):
            case "put":
                first = top + pick.choice([0, 0, 0, 900])
                await put(
                    self.store, account_id, box, *range(first, first + pick.randint(1, 30)), flags=(pick.randint(0, 4),)
                )
            case "flag":
                first = pick.randint(1, top)
                await flag(self.store, account_id, box, first, first + pick.choice([0, 5, 1500]), pick.randint(0, 4))
            case "expunge":
                await expunge(self.store, account_id, box, *pick.sample(range(1, top + 1), min(top, 5)))
            case "move":
                _, other = account_id, await db.fetchval(
                    "SELECT mailbox_id FROM mailboxes WHERE account_id = $1 AND name = 'INBOX'", account_id
                )  # fmt: skip
                if other != box:
                    call = "SELECT move_messages($1, $2, $1, $3, ARRAY[1::bigint], ARRAY[$4::bigint])"
                    await db.execute(call, account_id, box, other, pick.randint(1, top))
            case "create":
                await db.execute("SELECT create_mailbox($1, $2)", account_id, f"Box {pick.random()}")
            case "delete":
                name = await db.fetchval("SELECT name FROM mailboxes WHERE mailbox_id = $1", box)
                if name.startswith("Box"):
                    await db.execute("SELECT delete_mailbox($1, $2)", account_id, name)
            case "trim":
                await db.execute("SELECT trim_expunges($1, $2, clock() + interval '1 s', 7)", account_id, box)
                await db.execute("SELECT compact_journal($1, $2, 50)", account_id, box)
            case "see":
                call = "SELECT store_flags($1, $2, '{1}', ARRAY[$3::bigint], '{0}', '{}', false, NULL, $4)"
                await db.execute(call, account_id, box, pick.randint(1, top), pick.choice(self.accounts))
            case "mend":
                await db.execute("SELECT rebuild_mailbox($1, $2)", account_id, box)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_and_whenever_the_writer_dies_all_of_it_is_there(
    store: Store, blobs: DirectoryStore, ann: AccountId, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(writing, "SMALL_BYTES", 300)
    monkeypatch.setattr(writing, "TOGETHER", 2)
    others = [await store.accounts.create(f"{name}@example.com") for name in ("bob", "eve", "dan")]
    world = World(store, seed, [ann, *others])
    lease = await leader(store)
    deaths = 0
    points = [name for name in crashpoints.POINTS if name.startswith("journal.") and name != "journal.stopped"]
    options: dict[str, Any] = {"lease": lease, "most_segments": 2, "segment_bytes": 3000}
    for _ in range(12):
        for _ in range(world.random.randint(1, 12)):
            await world.change()
        with monkeypatch.context() as patch:
            die_at(patch, world.random.choice(points), world.random.randint(1, 3))
            try:
                await (await writer(store, blobs, **options)).step()
            except Died:
                deaths += 1
                continue
        for account_id in world.accounts:
            assert await journaled(blobs, account_id) == await stored(store.db, account_id)
    await (await writer(store, blobs, **options)).step()
    for account_id in world.accounts:
        assert await journaled(blobs, account_id) == await stored(store.db, account_id)
    assert deaths


@pytest.mark.timeout(60)
async def test_what_happens_during_a_pass_is_in_it_or_in_the_next(
    store: Store, blobs: DirectoryStore, ann: AccountId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "TOGETHER", 2)
    others = [await store.accounts.create(f"{name}@example.com") for name in ("bob", "eve", "dan")]
    world = World(store, 7, [ann, *others])
    pen = await writer(store, blobs, most_segments=3, segment_bytes=3000, open_s=0.0)

    passes = 0

    async def live() -> None:
        for _ in range(40):
            await world.change()
        while passes < 2:  # on a slow machine
            await world.change()

    living = asyncio.create_task(live())
    while not living.done():
        await pen.step()
        passes += 1
    await living
    await pen.step()
    for account_id in world.accounts:
        assert await journaled(blobs, account_id) == await stored(store.db, account_id)
    newest = max(await segments(blobs))
    await pen.step()
    assert max(await segments(blobs)) == newest, "nothing is due"


async def test_on_s3(
    store: Store, s3_server: SwiftServer, ann: AccountId, inbox: MailboxId, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SMALL_BYTES", 200)
    blobs = s3_server.store("journal")
    await blobs.prepare()
    keyring = Keyring(path)
    pen = await writer(store, blobs, keyring, most_segments=1)
    for first in (1, 1000, 2000, 3000):
        await put(store, ann, inbox, *range(first, first + 50), flags=(2,))
        await expunge(store, ann, inbox, first)
        await pen.step()
        assert await journaled(blobs, ann, open_sealers(keyring, store.db)) == await stored(store.db, ann)
    assert ann in await snapshots(blobs)
    assert len(await segments(blobs)) < 4
    blobs.close()


async def test_the_status_says_how_old_the_recovery_point_is(
    store: Store, blobs: DirectoryStore, ann: AccountId, tmp_path: Path
) -> None:
    settings = {
        "database": {"primary": "x"},
        "object_store": {"kind": "directory", "path": str(tmp_path)},
        "uploader": {"staging_path": str(tmp_path)},
        "process": {"runtime_path": str(tmp_path)},
        "local_cache": {"capacity": "0"},
    }
    conf = config.parse(settings, base=tmp_path)
    ctx = AdminContext(config=conf, dsn="", store=store, blobs=blobs, cost=None)  # type: ignore[arg-type]
    assert (await status(ctx)).late, "nothing is written"
    await (await writer(store, blobs)).step()
    shown = await status(ctx)
    assert (shown.late, shown.segments, shown.skipped) == (False, 1, 0)
    assert shown.age_s is not None
    await store.db.execute("UPDATE journal_state SET recovery_point = clock() - interval '181 s'")
    assert (await status(ctx)).late


async def test_who_is_refused_is_counted_and_the_status_says_how_much_is_left(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId
) -> None:
    pen = await writer(store, blobs)
    await put(store, ann, inbox, 7)
    await pen.step()
    assert await Marks(store.db).least_left() == AHEAD
    await put(store, ann, inbox, AHEAD)
    assert await Marks(store.db).least_left() == 7
    before = metrics.journal_refusals._value.get()
    with pytest.raises(Busy):
        await put(store, ann, inbox, 8 + AHEAD)
    assert metrics.journal_refusals._value.get() == before + 1


async def test_a_long_pass_closes_segments_on_its_way(
    store: Store, blobs: DirectoryStore, ann: AccountId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has written counts when it dies, and is not written again."""
    monkeypatch.setattr(writing, "TOGETHER", 2)
    for name in "bcdefgh":
        await store.accounts.create(f"{name}@example.com")
    lease = await leader(store)
    with monkeypatch.context() as patch:
        die_at(patch, "journal.marked", 3)
        with pytest.raises(Died):
            await (await writer(store, blobs, lease=lease, open_s=0.0)).step()
    done = await store.db.fetch("SELECT account_id FROM journal_accounts WHERE account_id > 0")
    assert 2 <= len(done) <= 4
    assert (await Marks(store.db).state()).recovery_point is None
    before = set(await segments(blobs))
    await (await writer(store, blobs, lease=lease)).step()
    again = {
        frame.account_id for seq, frames in (await segments(blobs)).items() if seq not in before for frame in frames
    }
    assert not again & {row[0] for row in done}
    assert set(await replay(blobs)) == {0, *(row[0] for row in await store.db.fetch("SELECT account_id FROM accounts"))}


async def test_segments_are_noted_in_their_order(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that began in a segment that is not there yet does not count, whatever is there after it."""
    await put(store, ann, inbox, *range(1, 60_000, 3))
    real, there, keys, noted = DirectoryStore.put, asyncio.Event(), [], []
    really_note = Marks.written

    async def first_fails(self: DirectoryStore, key: str, data: bytes, *rest: Any) -> None:
        keys.append(key)
        if len(keys) == 1:
            await there.wait()
            for _ in range(10):  # turns of the loop: whoever does not wait for this goes on
                await asyncio.sleep(0)
            raise BlobDown(detail="away")
        await real(self, key, data, *rest)
        there.set()

    async def note(self: Marks, lease: Lease, seq: int, *rest: Any, **more: Any) -> None:
        noted.append(seq)
        await really_note(self, lease, seq, *rest, **more)

    pen = await writer(store, blobs, segment_bytes=20_000)
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "put", first_fails)
        patch.setattr(Marks, "written", note)
        with pytest.raises(BlobDown):
            await pen.step()
    assert noted == []
    assert await segments(blobs), "the second one is there"
    assert not await store.db.fetch("SELECT * FROM journal_segments")
    assert not await store.db.fetch("SELECT * FROM journal_marks")
    assert ann not in await replay(blobs)
    await pen.step()
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_one_account_that_cannot_be_read_is_left_out_alone(
    store: Store, blobs: DirectoryStore, ann: AccountId, inbox: MailboxId, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, ann, inbox, 1)
    bob = await store.accounts.create("bob@example.com")
    await put(store, bob, (await store.mailboxes.get(bob, "INBOX")).mailbox_id, 1)
    await store.db.execute("ALTER TABLE message_contents DROP CONSTRAINT IF EXISTS message_contents_content_hash_check")
    await store.db.execute("UPDATE message_contents SET content_hash = 'short' WHERE account_id = $1", ann)
    pen = await writer(store, blobs)
    await pen.step()
    assert (await Marks(store.db).state()).skipped == 1
    assert ann not in await replay(blobs)
    assert await journaled(blobs, bob) == await stored(store.db, bob)
    await store.db.execute("UPDATE message_contents SET content_hash = decode(lpad('1', 64, '0'), 'hex')")
    await pen.step()
    assert (await Marks(store.db).state()).skipped == 0
    assert await journaled(blobs, ann) == await stored(store.db, ann)


async def test_large_filters_are_written_too(store: Store, blobs: DirectoryStore, ann: AccountId) -> None:
    for name in "ab":
        await store.db.execute(
            "INSERT INTO sieve_scripts (account_id, name, content, version) VALUES ($1, $2, $3, $4)",
            ann, name, b"#" * 50_000, bytes(32),
        )  # fmt: skip
    await (await writer(store, blobs)).step()
    assert [len(script.content) for script in (await replay(blobs))[ann].scripts] == [50_000, 50_000]
