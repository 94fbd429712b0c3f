"""Wrapped keys in the object store, rotation, and the shredding of an account, on a real database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import asyncpg
import pytest
from msgspec.structs import replace

from sora import config, crashpoints
from sora.admin import keys
from sora.admin.context import AdminContext
from sora.errors import BlobDown, Busy, ConfigError, KeyUnavailable, NoPermission, NotFound, Refused
from sora.services import key_objects, rotation, shredding
from sora.services.key_objects import KeyObjects, NoKeyObjects, open_key_objects, prefix_of
from sora.services.shredding import Shredding
from sora.services.uploads import BodyLost, Uploads
from sora.store import keyring
from sora.store.account_keys import AccountKeys, WrappedKeys
from sora.store.blobs import BlobRef, DirectoryStore
from sora.store.keyring import Keyring, MasterKey
from sora.store.sealing import AccountKey, Unsealed
from sora.store.shreddings import Shreddings
from sora.store.staging import Staging
from sora.store.uploads import PendingUploads
from sora.types import AccountId, ContentId
from tests.support.letters import letter, new_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sora.store.db import Database
    from sora.store.store import Store
    from sora.store.uploads import PendingUpload


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    made = DirectoryStore(tmp_path / "objects")
    await made.prepare()
    yield made
    made.close()


@pytest.fixture
async def key(db: Database, path: Path, ann: AccountId) -> AccountKey:
    return await AccountKeys(db, Keyring(path)).get(ann)


class Files:
    """Bodies on a disk, as many as told."""

    def __init__(self, count: int = 3) -> None:
        self.count = count
        self.asked: list[AccountId] = []

    async def remove_account(self, account_id: AccountId) -> int:
        self.asked.append(account_id)
        count, self.count = self.count, 0
        return count


class Died(BaseException):
    """What stands for SIGKILL."""


def die_at(monkeypatch: pytest.MonkeyPatch, module: object, point: str, count: int = 1) -> None:
    """The next passes of a crash point end the test's task there."""
    passes = 0

    def crash_point(name: str) -> None:
        nonlocal passes
        assert name in crashpoints.POINTS
        passes += name == point
        if name == point and passes == count:
            raise Died

    monkeypatch.setattr(module, "crash_point", crash_point)


async def names(blobs: DirectoryStore, prefix: str = "keys/") -> list[str]:
    return [entry.key async for entry in blobs.list(prefix)]


async def deliver(store: Store, key: AccountKey, count: int, *, body: str = "Hello.") -> list[BlobRef]:
    """Mail of an account, with the hashes of its key."""
    mails = [letter(body=body) for _ in range(count)]
    rows = [new_message(key.account_id, mail, key=bytes([n])) for n, mail in enumerate(mails)]
    done = await store.messages.deliver(rows, "node-1")
    return [
        BlobRef(key.account_id, ContentId(row.content_id), key.hash((mail,)), len(mail))
        for row, mail in zip(done, mails, strict=True)
    ]


# ── wrapped keys as objects ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_key_is_stored_once_and_opens(
    db: Database, blobs: DirectoryStore, path: Path, ann: AccountId, key: AccountKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = KeyObjects(db, blobs)
    await objects.ensure(ann)
    master = Keyring(path).newest()
    name = f"keys/{ann:016x}/{master.id}.key"
    assert await names(blobs) == [name]
    found, wrapped = key_objects.parse(await blobs.get(name))
    assert (found.account_id, found.key_id, bytes.fromhex(found.fingerprint)) == (ann, master.id, key.fingerprint)
    assert AccountKey(ann, master.unwrap(ann, wrapped)).hash((b"x",)) == key.hash((b"x",))
    monkeypatch.setattr(blobs, "put", None)
    await objects.ensure(ann)
    await KeyObjects(db, blobs).ensure(ann)
    assert await objects.store_pending() == 0


async def test_an_account_without_a_key_has_no_object(db: Database, blobs: DirectoryStore, ann: AccountId) -> None:
    await KeyObjects(db, blobs).ensure(ann)
    assert await names(blobs) == []
    off = open_key_objects(None, db, blobs)
    assert isinstance(off, NoKeyObjects)
    await off.ensure(ann)
    assert await off.store_pending() == 0


async def test_a_store_that_is_away_is_tried_again(
    db: Database, blobs: DirectoryStore, ann: AccountId, key: AccountKey, tmp_path: Path
) -> None:
    objects = KeyObjects(db, blobs)
    (tmp_path / "objects").rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(BlobDown):
            await objects.ensure(ann)
    with pytest.raises(BlobDown):
        await objects.store_pending()
    (tmp_path / "away").rename(tmp_path / "objects")
    assert await objects.store_pending() == 1
    assert len(await names(blobs)) == 1


async def test_a_new_wrapping_takes_the_place_of_the_old(
    db: Database, blobs: DirectoryStore, path: Path, ann: AccountId, key: AccountKey
) -> None:
    objects = KeyObjects(db, blobs)
    await objects.ensure(ann)
    new = keyring.add_key(path)
    await rotation.rewrap(WrappedKeys(db), Keyring(path))
    assert await objects.store_pending() == 1
    assert await names(blobs) == [f"keys/{ann:016x}/{new.id}.key"]


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b'{"version": 2}'])
def test_what_is_no_key_object(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        key_objects.parse(content)


async def test_no_key_comes_into_the_store_after_it_was_shredded(
    db: Database, dsn: str, blobs: DirectoryStore, ann: AccountId, key: AccountKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The uploader is sending the key at the very moment: the shredding waits, and removes it."""
    sending, go_on = asyncio.Event(), asyncio.Event()
    put = blobs.put

    async def slow(name: str, data: bytes) -> None:
        sending.set()
        await go_on.wait()
        await put(name, data)

    monkeypatch.setattr(blobs, "put", slow)
    storing = asyncio.create_task(KeyObjects(db, blobs).ensure(ann))
    await sending.wait()
    shred = asyncio.create_task(Shredding(Shreddings(db), blobs, [], "").shred(ann))
    connection = await asyncpg.connect(dsn)
    try:
        while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            assert not shred.done()
    finally:
        await connection.close()
    go_on.set()
    await asyncio.gather(storing, shred)
    assert await names(blobs) == []
    await KeyObjects(db, blobs).ensure(ann)
    assert await names(blobs) == []


# ── rotation ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_rotation_in_batches_can_be_cut_short_and_goes_on(
    db: Database, store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = [await store.accounts.create(f"u{n}@example.com") for n in range(7)]
    before = AccountKeys(db, Keyring(path))
    hashes = [(await before.get(account)).hash((b"x",)) for account in accounts]
    new = keyring.add_key(path)
    with monkeypatch.context() as patched:
        die_at(patched, rotation, "rotate.rewrapped", 2)
        with pytest.raises(Died):
            await rotation.rewrap(WrappedKeys(db), Keyring(path), batch=2)
    uses = {use.key_id: use.accounts for use in await WrappedKeys(db).uses()}
    assert uses == {new.id: 4, Keyring(path).keys[0].id: 3}
    assert await rotation.rewrap(WrappedKeys(db), Keyring(path), batch=2) == rotation.Rewrapped(3, 0)
    assert await rotation.rewrap(WrappedKeys(db), Keyring(path)) == rotation.Rewrapped(0, 0)
    path.write_text(keyring.dump([new]))
    after = AccountKeys(db, Keyring(path))
    assert [(await after.get(account)).hash((b"x",)) for account in accounts] == hashes


async def test_a_key_that_cannot_be_unwrapped_does_not_stop_the_others(
    db: Database, store: Store, path: Path, ann: AccountId, key: AccountKey
) -> None:
    bob = await store.accounts.create("bob@example.com")
    keys = AccountKeys(db, Keyring(path))
    await keys.get(bob)
    await db.execute("UPDATE account_keys SET wrapped = 'damaged' WHERE account_id = $1", ann)
    new = keyring.add_key(path)
    assert await rotation.rewrap(WrappedKeys(db), Keyring(path), batch=1) == rotation.Rewrapped(1, 1)
    assert await db.fetchval("SELECT key_id FROM account_keys WHERE account_id = $1", bob) == new.id


async def test_the_keyring_must_fit_the_database(db: Database, store: Store, path: Path, ann: AccountId) -> None:
    wrapped = WrappedKeys(db)
    await rotation.check(wrapped, None)
    await rotation.check(wrapped, Keyring(path))
    await AccountKeys(db, Keyring(path)).get(ann)
    await rotation.check(wrapped, Keyring(path))
    with pytest.raises(ConfigError, match="1 accounts have encrypted mail"):
        await rotation.check(wrapped, None)
    right, kept = Keyring(path).newest(), path.read_bytes()
    path.write_text(keyring.dump([MasterKey(right.id, right.created_at, bytes(32))]))
    with pytest.raises(ConfigError, match=right.id):
        await rotation.check(wrapped, Keyring(path))
    other = MasterKey("other", datetime.now(UTC), bytes(range(32)))
    path.write_text(keyring.dump([other]))
    with pytest.raises(ConfigError, match="no key that is in use"):
        await rotation.check(wrapped, Keyring(path))
    bob = await store.accounts.create("bob@example.com")
    await AccountKeys(db, Keyring(path)).get(bob)
    await rotation.check(wrapped, Keyring(path))  # some accounts have mail
    path.write_bytes(kept)
    await rotation.check(wrapped, Keyring(path))


async def test_a_keyring_that_is_missing_is_not_made_anew_while_accounts_need_it(
    db: Database, store: Store, tmp_path: Path, path: Path, key: AccountKey, dsn: str
) -> None:
    """It is on a disk that is not mounted, or was deleted: every process would take the new one for all there is."""
    settings = {
        "database": {"primary": dsn},
        "object_store": {"kind": "directory", "path": str(tmp_path)},
        "encryption": {"keyring_file": str(path)},
        "uploader": {"staging_path": str(tmp_path)},
        "local_cache": {"path": str(tmp_path / "cache")},
        "process": {"runtime_path": str(tmp_path)},
        "servers": {"imap": {"listen": ["127.0.0.1:0"]}},
    }
    ctx = AdminContext(config=config.parse(settings), dsn=dsn, store=store, blobs=None, cost=None)  # type: ignore[arg-type]
    kept = path.rename(tmp_path / "elsewhere")
    steps: tuple[Literal["all", "add"], ...] = ("all", "add")
    for step in steps:
        with pytest.raises(Refused, match="1 accounts need"):
            await keys.rotate(ctx, keys.Rotate(step=step))
        assert not path.exists()
    kept.rename(path)
    assert (await keys.rotate(ctx, keys.Rotate())).rewrapped == 1
    await db.execute("DELETE FROM account_keys")
    path.unlink()
    assert (await keys.rotate(ctx, keys.Rotate())).added


# ── shredding ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_is_left_of_a_shredded_account(
    db: Database, store: Store, blobs: DirectoryStore, ann: AccountId, key: AccountKey
) -> None:
    bob = await store.accounts.create("bob@example.com")
    await store.messages.deliver([new_message(bob, letter(body="kept"))], "node-1")
    await deliver(store, key, 5, body="peculiar")
    await db.execute(
        "INSERT INTO body_copies (account_id, content_id, part, body) SELECT account_id, content_id, 0, 'a copy'"
        " FROM message_contents WHERE account_id = $1",
        ann,
    )
    await db.execute("SELECT expunge($1, (SELECT mailbox_id FROM mailboxes WHERE account_id = $1 AND name = 'INBOX'),"
                     " ARRAY[2::bigint], ARRAY[2::bigint], false)", ann)  # fmt: skip
    await db.execute(
        """
        WITH old AS (
          DELETE FROM search_queue WHERE account_id = $1 AND content_id = (
            SELECT max(content_id) FROM search_queue WHERE account_id = $1) RETURNING *)
        INSERT INTO search_archive SELECT * FROM old
        """,
        ann,
    )
    await KeyObjects(db, blobs).ensure(ann)
    files = Files()
    await Shredding(Shreddings(db), blobs, [files, Files(1)], "node-1").shred(ann)
    done = await Shreddings(db).get(ann)
    assert await db.fetchval("SELECT count(*) FROM search_texts WHERE account_id = $1", ann) == 0
    assert (done.address, done.fingerprint) == ("ann@example.com", key.fingerprint)
    assert (done.messages, done.contents, done.copies, done.texts) == (5, 5, 10, 5)
    assert (done.key_objects, done.files, done.objects_left, done.nodes_left) == (1, 4, 5, [])
    assert done.finished_at is not None
    assert files.asked == [ann]
    assert await names(blobs) == []
    for table in ("messages", "pending_uploads", "search_queue", "search_index", "recent_deliveries", "account_keys"):
        assert await db.fetchval(f"SELECT count(*) FROM {table} WHERE account_id = $1", ann) == 0, table
        rest = 0 if table in ("search_index", "recent_deliveries", "account_keys") else 1
        assert await db.fetchval(f"SELECT count(*) FROM {table}") == rest, table
    assert await db.fetchval("SELECT count(*) FROM body_copies") == 0
    for row in await db.fetch("SELECT * FROM message_contents WHERE account_id = $1", ann):
        said = {name: value for name, value in row.items() if value not in (None, b"")}
        assert set(said) == {
            "account_id", "content_id", "content_hash", "size", "thread_id", "created_at", "purging_at",
        }  # fmt: skip
    assert [row["what"] for row in await db.fetch(
        "SELECT c.what FROM mailboxes m, check_mailbox(m.account_id, m.mailbox_id) c")] == []  # fmt: skip
    with pytest.raises(NotFound):
        await Shreddings(db).get(bob)


@pytest.mark.parametrize("point", [name for name in crashpoints.POINTS if name.startswith("shred.")])
async def test_a_shredding_that_died_is_finished(
    db: Database,
    store: Store,
    blobs: DirectoryStore,
    ann: AccountId,
    key: AccountKey,
    point: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await deliver(store, key, 3)
    await KeyObjects(db, blobs).ensure(ann)
    files = Files()
    work = Shredding(Shreddings(db), blobs, [files], "node-1")
    with monkeypatch.context() as patched:
        die_at(patched, shredding, point)
        with pytest.raises(Died):
            await work.shred(ann)
    assert (await Shreddings(db).get(ann)).finished_at is None
    assert await work.resume() == 1
    done = await Shreddings(db).get(ann)
    assert done.finished_at is not None
    assert (done.messages, done.contents, done.key_objects) == (3, 3, 1)
    assert await names(blobs) == []
    assert await work.resume() == 0
    await work.shred(ann)  # the command may be given again
    assert (await Shreddings(db).get(ann)).finished_at == done.finished_at


async def test_a_shredding_that_cannot_go_on_keeps_none_waiting(
    db: Database,
    store: Store,
    path: Path,
    blobs: DirectoryStore,
    ann: AccountId,
    key: AccountKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bob = await store.accounts.create("bob@example.com")
    other = await AccountKeys(db, Keyring(path)).get(bob)
    rows = Shreddings(db)
    for shredded in (key, other):
        await deliver(store, shredded, 2)
        await rows.begin(shredded.account_id)
    remove_rows = rows.remove_rows

    async def remove(account_id: AccountId) -> int:
        if account_id == ann:
            raise Busy(detail="a mailbox is locked")
        return await remove_rows(account_id)

    monkeypatch.setattr(rows, "remove_rows", remove)
    with pytest.raises(Busy):
        await Shredding(rows, blobs, [], "").resume()
    assert (await rows.get(ann)).finished_at is None
    assert (await rows.get(bob)).finished_at is not None


async def test_texts_go_though_the_object_store_is_away(
    db: Database, store: Store, blobs: DirectoryStore, ann: AccountId, key: AccountKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver(store, key, 2)

    async def away(_: str) -> int:
        raise BlobDown

    monkeypatch.setattr(blobs, "erase", away)
    files = Files()
    with pytest.raises(BlobDown):
        await Shredding(Shreddings(db), blobs, [files], "node-1").shred(ann)
    assert await db.fetchval("SELECT count(*) FROM search_texts WHERE account_id = $1", ann) == 0
    assert files.asked == [ann]
    assert (await Shreddings(db).get(ann)).finished_at is None, "the wrapped key is there still"


async def test_every_node_removes_its_own_files_once(
    db: Database, store: Store, blobs: DirectoryStore, ann: AccountId, key: AccountKey
) -> None:
    for node in ("node-1", "node-2"):
        await db.execute("SELECT register_instance($1)", node)
    await Shredding(Shreddings(db), blobs, [Files(2)], "node-1").shred(ann)
    assert (await Shreddings(db).get(ann)).nodes_left == ["node-2"]
    files = Files(3)
    other = Shredding(Shreddings(db), blobs, [files], "node-2")
    assert await other.remove_local() == 1
    assert await other.remove_local() == 0
    assert files.asked == [ann]
    done = await Shreddings(db).get(ann)
    assert (done.files, done.nodes_left) == (5, [])
    nowhere = Shredding(Shreddings(db), blobs, [], "")
    assert await nowhere.remove_local() == 0


async def test_the_object_store_may_be_away_meanwhile(
    db: Database, store: Store, blobs: DirectoryStore, ann: AccountId, key: AccountKey, tmp_path: Path
) -> None:
    await KeyObjects(db, blobs).ensure(ann)
    (tmp_path / "objects").rename(tmp_path / "away")
    work = Shredding(Shreddings(db), blobs, [], "")
    with pytest.raises(BlobDown):
        await work.shred(ann)
    assert await db.fetchval("SELECT count(*) FROM account_keys") == 0, "nobody can read it any more"
    (tmp_path / "away").rename(tmp_path / "objects")
    assert await work.resume() == 1
    assert await names(blobs) == []


async def test_a_key_object_that_comes_late_is_found(
    db: Database, blobs: DirectoryStore, ann: AccountId, key: AccountKey
) -> None:
    await KeyObjects(db, blobs).ensure(ann)
    (name,) = await names(blobs)
    content = await blobs.get(name)
    work = Shredding(Shreddings(db), blobs, [], "")
    await work.shred(ann)
    await blobs.put(name, content)
    assert await work.remove_dropped_keys() == 0, "one more may come"
    assert await names(blobs, prefix_of(ann)) == []
    await blobs.put(name, content)
    await db.execute("UPDATE dropped_keys SET dropped_at = dropped_at - interval '1 h'")
    assert await work.remove_dropped_keys() == 1
    assert await names(blobs) == []
    assert await db.fetchval("SELECT count(*) FROM dropped_keys") == 0


async def test_a_restored_bucket_opens_nothing_and_is_cleaned_by_the_same_command(
    db: Database, store: Store, path: Path, blobs: DirectoryStore, ann: AccountId, key: AccountKey
) -> None:
    (ref,) = await deliver(store, key, 1)
    await KeyObjects(db, blobs).ensure(ann)
    (name,) = await names(blobs)
    wrapped, sealed = await blobs.get(name), b"".join(key.seal(ref.content_hash, (letter(body="Hello."),)))
    work = Shredding(Shreddings(db), blobs, [], "")
    await work.shred(ann)
    await db.execute("DELETE FROM dropped_keys")  # long ago
    await blobs.put(name, wrapped)
    await blobs.put(ref.key, sealed)
    with pytest.raises(KeyUnavailable):
        (await AccountKeys(db, Keyring(path)).reader(ref, sealed)).open(ref, sealed)
    await work.shred(ann)
    assert await names(blobs) == []


async def test_a_purged_account_leaves_no_key_object(
    db: Database, blobs: DirectoryStore, ann: AccountId, key: AccountKey
) -> None:
    await KeyObjects(db, blobs).ensure(ann)
    await db.execute("DELETE FROM account_keys")
    await Shredding(Shreddings(db), blobs, [], "").remove_dropped_keys()
    assert await names(blobs) == []


async def test_what_is_held_or_has_no_key_is_not_shredded(
    db: Database, store: Store, blobs: DirectoryStore, ann: AccountId, key: AccountKey
) -> None:
    work = Shredding(Shreddings(db), blobs, [], "")
    bob = await store.accounts.create("bob@example.com")
    with pytest.raises(NotFound, match="no key"):
        await work.shred(bob)
    await db.execute("UPDATE accounts SET legal_hold = true")
    with pytest.raises(NoPermission, match="legal hold"):
        await work.shred(ann)
    assert await db.fetchval("SELECT count(*) FROM account_keys") == 1


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Bell:
    """Nobody rings."""

    async def wait(self, timeout: float | None = None) -> None:
        """See `services.uploads.Doorbell`."""


async def staged_row(db: Database, store: Store, staging: Staging, key: AccountKey) -> PendingUpload:
    """A mail that is delivered and staged, claimed by the uploader."""
    mail = letter(body="sealed")
    digest = key.hash((mail,))
    await staging.stage_many([(key.account_id, digest, Unsealed(key, digest, (mail,)))])
    await store.messages.deliver([replace(new_message(key.account_id, mail), content_hash=digest)], "node-1")
    (row,) = await PendingUploads(db, "node-1").claim(10)
    return row


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    made = Staging(tmp_path / "staging", 10**8)
    yield made
    made.close()


async def test_the_key_of_an_account_is_stored_before_its_first_body(
    db: Database, store: Store, blobs: DirectoryStore, staging: Staging, path: Path, ann: AccountId, key: AccountKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    row = await staged_row(db, store, staging, key)
    stored = staging.path(ann, row.content_hash).read_bytes()
    order: list[str] = []
    for name in ("put", "put_file"):
        if method := getattr(blobs, name, None):

            async def counted(key: str, *arguments: object, method: Any = method) -> None:
                order.append(key)
                await method(key, *arguments)

            monkeypatch.setattr(blobs, name, counted)
    sealers = AccountKeys(db, Keyring(path))
    uploads = Uploads(
        PendingUploads(db, "node-1"), staging, blobs, None, Bell(), sealers=sealers, keys=KeyObjects(db, blobs)
    )
    await uploads.upload(row)
    assert order == [f"keys/{ann:016x}/{Keyring(path).newest().id}.key", row.ref.key]
    assert await blobs.get(row.ref.key) == stored, "encrypted once"
    assert await staging.read(ann, row.content_hash) is None


async def test_an_altered_staged_body_is_not_sent(
    db: Database, store: Store, blobs: DirectoryStore, staging: Staging, path: Path, ann: AccountId, key: AccountKey
) -> None:
    row = await staged_row(db, store, staging, key)
    file = staging.path(ann, row.content_hash)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    sealers = AccountKeys(db, Keyring(path))
    uploads = Uploads(
        PendingUploads(db, "node-1"), staging, blobs, None, Bell(), sealers=sealers, keys=KeyObjects(db, blobs)
    )
    with pytest.raises(BodyLost):
        await uploads.upload(row)
    assert await names(blobs, "") == []


async def test_an_upload_waits_for_a_missing_key_and_loses_nothing(
    db: Database, store: Store, blobs: DirectoryStore, staging: Staging, path: Path, ann: AccountId, key: AccountKey
) -> None:
    row = await staged_row(db, store, staging, key)
    kept = path.read_bytes()
    path.unlink()
    keyring.add_key(path)
    sealers = AccountKeys(db, Keyring(path))
    uploads = Uploads(
        PendingUploads(db, "node-1"), staging, blobs, None, Bell(), sealers=sealers, keys=KeyObjects(db, blobs)
    )
    assert not await uploads._guarded(row, uploads.upload(row))
    assert uploads.store_is_up, "the object store is not to blame"
    assert staging.path(ann, row.content_hash).exists()
    assert await db.fetchval("SELECT attempts FROM pending_uploads") == 1
    path.write_bytes(kept)
    await uploads.upload(row)
    assert row.ref.key in await names(blobs, "")


async def test_a_body_that_was_not_queued_is_queued_with_its_own_size(
    db: Database, store: Store, staging: Staging, ann: AccountId, key: AccountKey
) -> None:
    row = await staged_row(db, store, staging, key)
    await db.execute("DELETE FROM pending_uploads")
    await PendingUploads(db, "node-1").add(ann, row.content_id)
    assert await db.fetchval("SELECT size FROM pending_uploads") == row.size
