"""Data keys of accounts: who makes them, who gets them, and that a shredded account has none for ever."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sora.errors import DatabaseDown, KeyUnavailable, NoPermission, NotFound
from sora.services.delivery import AppendItem
from sora.store import account_keys, keyring
from sora.store.account_keys import AccountKeys, NoKeys, WrappedKeys, open_sealers
from sora.store.blobs import BlobRef, content_hash
from sora.store.keyring import Keyring, MasterKey
from sora.store.sealing import PLAIN, AccountKey
from sora.types import AccountId, ContentId
from tests.support.letters import letter, new_message
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sora.store.db import Database
    from sora.store.store import Store

BODY = letter(body="secret words " * 50)


@pytest.fixture
def clock() -> Callable[[], float]:
    return Clock()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sealed(key: AccountKey, data: bytes = BODY) -> tuple[BlobRef, bytes]:
    digest = key.hash((data,))
    return BlobRef(key.account_id, ContentId(1), digest, len(data)), b"".join(key.seal(digest, (data,)))


async def rows(db: Database) -> list[asyncpg.Record]:
    return await db.fetch("SELECT * FROM account_keys ORDER BY account_id")


async def test_a_key_is_made_at_first_use_and_stays(db: Database, path: Path, ann: AccountId) -> None:
    keys = AccountKeys(db, Keyring(path))
    assert keys.peek(ann) is None
    first = await keys.get(ann)
    assert keys.peek(ann) is first
    (row,) = await rows(db)
    assert row["fingerprint"] == first.fingerprint
    assert row["stored_at"] is None
    other = await AccountKeys(db, Keyring(path)).get(ann)
    assert other is not first
    assert other.open(*sealed(first)) == BODY
    assert await db.fetchval("SELECT array_agg(key_id) FROM master_keys") == [Keyring(path).newest().id]


async def test_two_accounts_have_two_keys(db: Database, store: Store, path: Path, ann: AccountId) -> None:
    keys = AccountKeys(db, Keyring(path))
    bob = await store.accounts.create("bob@example.com")
    assert (await keys.get(ann)).fingerprint != (await keys.get(bob)).fingerprint
    wrapped = {row["account_id"]: row["wrapped"] for row in await rows(db)}
    with pytest.raises(KeyUnavailable):
        Keyring(path).newest().unwrap(bob, wrapped[ann])


async def test_processes_that_make_a_key_at_once_get_the_same(db: Database, path: Path, ann: AccountId) -> None:
    made = await asyncio.gather(*(AccountKeys(db, Keyring(path)).get(ann) for _ in range(6)))
    assert len({key.fingerprint for key in made}) == 1
    assert len(await rows(db)) == 1


async def test_all_who_wait_ask_once(db: Database, path: Path, ann: AccountId, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = AccountKeys(db, Keyring(path))
    asked = []
    fetchrow = db.fetchrow

    async def counted(sql: str, *arguments: object) -> object:
        asked.append(sql)
        return await fetchrow(sql, *arguments)

    monkeypatch.setattr(db, "fetchrow", counted)
    first = asyncio.create_task(keys.get(ann))
    made = await asyncio.gather(*(keys.get(ann) for _ in range(20)))
    assert len(asked) == 2, "look, make"
    assert {await first, *made} == {keys.peek(ann)}


async def test_one_who_goes_away_takes_no_key_from_the_others(db: Database, path: Path, ann: AccountId) -> None:
    keys = AccountKeys(db, Keyring(path))
    first, second = asyncio.create_task(keys.get(ann)), asyncio.create_task(keys.get(ann))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is keys.peek(ann)


async def test_reading_makes_no_key(db: Database, path: Path, ann: AccountId) -> None:
    keys = AccountKeys(db, Keyring(path))
    plain = BlobRef(ann, ContentId(1), content_hash(BODY), len(BODY))
    assert keys.peek_reader(plain, BODY) is PLAIN
    assert await keys.reader(plain, BODY) is PLAIN
    ref, stored = sealed(AccountKey(ann, bytes(32)))
    assert keys.peek_reader(ref, stored) is None
    reader = await keys.reader(ref, stored)
    with pytest.raises(KeyUnavailable):
        reader.open(ref, stored)
    mail = BlobRef(ann, ContentId(1), content_hash(stored), len(stored))
    assert (await keys.reader(mail, stored)).open(mail, stored) == stored, "a plain mail that looks sealed"
    assert await rows(db) == []


async def test_reading_finds_the_key(db: Database, path: Path, ann: AccountId) -> None:
    ref, stored = sealed(await AccountKeys(db, Keyring(path)).get(ann))
    keys = AccountKeys(db, Keyring(path))
    assert (await keys.reader(ref, stored)).open(ref, stored) == BODY
    at_hand = keys.peek_reader(ref, stored)
    assert at_hand is not None
    assert at_hand.open(ref, stored) == BODY


async def test_a_key_is_asked_for_again_after_a_minute(db: Database, path: Path, ann: AccountId, clock: Clock) -> None:
    keys = AccountKeys(db, Keyring(path), clock=clock)
    key = await keys.get(ann)
    clock.now += account_keys.FRESH_S - 0.1
    assert keys.peek(ann) is key
    clock.now += 0.2
    assert keys.peek(ann) is None
    assert await keys.get(ann) is key, "it is the same still"
    clock.now += account_keys.FRESH_S
    await db.execute("SELECT begin_shredding($1)", ann)
    with pytest.raises(KeyUnavailable):
        await keys.get(ann)
    ref, stored = sealed(key)
    with pytest.raises(KeyUnavailable):
        (await keys.reader(ref, stored)).open(ref, stored)


async def test_a_key_that_is_said_to_be_gone_is_forgotten_at_once(db: Database, path: Path, ann: AccountId) -> None:
    keys = AccountKeys(db, Keyring(path))
    await keys.get(ann)
    keys.forget(ann)
    assert keys.peek(ann) is None
    asking = asyncio.create_task(keys.get(ann))
    for _ in range(2):  # until the question is on its way
        await asyncio.sleep(0)
    keys.forget(ann)
    await asking
    assert keys.peek(ann) is None, "the answer may be older than the notice"


async def test_all_keys_are_forgotten_where_notices_were_lost(
    db: Database, dsn: str, tmp_path: Path, path: Path, ann: AccountId
) -> None:
    """A shredding that nobody heard of: what a process keeps is not used any more once it listens again."""
    async with open_node(dsn, tmp_path, encryption={"keyring_file": str(path)}) as node:
        result = await node.delivery.append(
            ann, (await node.store.mailboxes.get(ann, "INBOX")).mailbox_id, [AppendItem(b"Subject: x\r\n\r\nsecret")]
        )
        row = await db.fetchrow(
            "SELECT content_id, content_hash, size FROM message_contents WHERE account_id = $1", ann
        )
        assert row is not None
        ref = BlobRef(ann, ContentId(row["content_id"]), row["content_hash"], row["size"])
        assert result.uids == (1,)
        assert (await node.bodies.get(ref)).endswith(b"secret")
        await node.changes.listening.wait()
        await db.execute("DELETE FROM account_keys WHERE account_id = $1", ann)  # and no notice of it
        assert node.bodies.get_now(ref) is not None
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'sora changes' AND datname = current_database()"
        )
        while node.bodies.get_now(ref) is not None:
            await asyncio.sleep(0)
        with pytest.raises(KeyUnavailable):
            await node.bodies.get(ref)


async def test_a_bounded_number_is_kept(db: Database, store: Store, path: Path) -> None:
    keys = AccountKeys(db, Keyring(path), kept=2)
    one, two, three = [await store.accounts.create(f"u{n}@example.com") for n in range(3)]
    for account in (one, two):
        await keys.get(account)
    assert keys.peek(one) is not None
    await keys.get(three)
    assert keys.peek(two) is None, "the least recently used"
    assert keys.peek(one) is not None


async def test_a_missing_master_key_is_an_error_of_its_accounts(
    db: Database, store: Store, path: Path, ann: AccountId, caplog: pytest.LogCaptureFixture
) -> None:
    old = path.read_bytes()
    await AccountKeys(db, Keyring(path)).get(ann)
    path.unlink()
    keyring.add_key(path)
    keys = AccountKeys(db, Keyring(path))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(KeyUnavailable, match="is not in the keyring"):
                await keys.get(ann)
    assert len([record for record in caplog.records if "cannot be had" in record.message]) == 1
    bob = await store.accounts.create("bob@example.com")
    await keys.get(bob)
    path.write_bytes(old + path.read_bytes())
    assert (await keys.get(ann)).account_id == ann, "found in the file when it was there"


async def test_a_master_key_with_other_octets_is_refused(
    db: Database, store: Store, path: Path, ann: AccountId
) -> None:
    await AccountKeys(db, Keyring(path)).get(ann)
    right = Keyring(path).newest()
    wrong = MasterKey(right.id, datetime.now(UTC), bytes(32))
    path.write_text(keyring.dump([wrong]))
    keys = AccountKeys(db, Keyring(path))
    with pytest.raises(KeyUnavailable, match="does not open"):
        await keys.get(ann)
    bob = await store.accounts.create("bob@example.com")
    with pytest.raises(KeyUnavailable, match="other octets"):
        await keys.get(bob)
    assert len(await rows(db)) == 1
    wrapped = WrappedKeys(db)
    assert await wrapped.register([right]) == []
    assert await wrapped.register([wrong, MasterKey("new", datetime.now(UTC), bytes(32))]) == [right.id]


async def test_a_broken_keyring_makes_no_keys(db: Database, store: Store, path: Path, ann: AccountId) -> None:
    keys = AccountKeys(db, Keyring(path))
    await keys.get(ann)
    path.chmod(0o644)
    path.write_text("broken")
    bob = await store.accounts.create("bob@example.com")
    with pytest.raises(KeyUnavailable):
        await keys.get(bob)
    assert keys.peek(ann) is not None


async def test_a_new_master_key_wraps_what_is_made_after(
    db: Database, store: Store, path: Path, ann: AccountId
) -> None:
    keys = AccountKeys(db, Keyring(path))
    await keys.get(ann)
    second = keyring.add_key(path)
    bob = await store.accounts.create("bob@example.com")
    await keys.get(bob)
    assert {row["account_id"]: row["key_id"] for row in await rows(db)}[bob] == second.id
    assert [(use.accounts, use.unstored) for use in await WrappedKeys(db).uses()] == [(1, 1), (1, 1)]


async def test_unknown_accounts_and_an_absent_database(db: Database, path: Path) -> None:
    keys = AccountKeys(db, Keyring(path))
    with pytest.raises(NotFound):
        await keys.get(AccountId(999))
    await db.close()
    with pytest.raises(DatabaseDown):
        await keys.get(AccountId(1))


async def test_without_encryption_there_are_no_keys(db: Database, ann: AccountId) -> None:
    keys = open_sealers(None, db)
    assert isinstance(keys, NoKeys)
    ref = BlobRef(ann, ContentId(1), content_hash(BODY), len(BODY))
    assert keys.peek(ann) is await keys.get(ann) is PLAIN
    assert keys.peek_reader(ref, BODY) is await keys.reader(ref, BODY) is PLAIN
    keys.forget(ann)
    assert await rows(db) == []


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_rewrapping_replaces_what_it_read(db: Database, store: Store, path: Path, ann: AccountId) -> None:
    key = await AccountKeys(db, Keyring(path)).get(ann)
    old = Keyring(path).newest()
    new = keyring.add_key(path)
    wrapped = WrappedKeys(db)
    await wrapped.register([new])
    await db.execute("UPDATE account_keys SET stored_at = clock()")
    (stored,) = await wrapped.wrapped_by(old.id, 0, 10)
    assert stored.stored
    fresh = new.wrap(ann, old.unwrap(ann, stored.wrapped))
    assert await wrapped.rewrap([(stored, fresh)], new.id) == 1
    assert await wrapped.rewrap([(stored, fresh)], new.id) == 0, "it is another one now"
    assert await wrapped.wrapped_by(old.id, 0, 10) == []
    (row,) = await wrapped.wrapped_by(new.id, 0, 10)
    assert not row.stored
    assert await wrapped.wrapped_by(new.id, ann, 10) == []
    again = await AccountKeys(db, Keyring(path)).get(ann)
    assert again.open(*sealed(key)) == BODY


async def test_shredding_is_for_ever(db: Database, store: Store, path: Path, ann: AccountId) -> None:
    keys = AccountKeys(db, Keyring(path))
    key = await keys.get(ann)
    await store.messages.deliver([new_message(ann)], "node")
    await db.execute("SELECT begin_shredding($1)", ann)
    row = await db.fetchrow("SELECT * FROM shreddings")
    assert row is not None
    assert (row["address"], row["fingerprint"], row["plain_bodies"]) == ("ann@example.com", key.fingerprint, 0)
    assert await rows(db) == []
    assert await db.fetchval("SELECT array_agg(account_id) FROM dropped_keys") == [ann]
    keys.forget(ann)
    with pytest.raises(KeyUnavailable):
        await keys.get(ann)
    with pytest.raises(KeyUnavailable):
        await store.messages.deliver([new_message(ann)], "node")
    assert (await store.accounts.get("ann@example.com")).disabled
    with pytest.raises(NoPermission):
        await store.accounts.set_disabled(ann, False)
    await db.execute("SELECT begin_shredding($1)", ann)
    assert await db.fetchval("SELECT requested_at FROM shreddings") == row["requested_at"]
    while await db.fetchval("SELECT shred_rows($1, 1)", ann):
        pass
    assert await db.fetchval("SELECT count(*) FROM messages") == 0
    assert await db.fetchval("SELECT count(*) FROM message_contents WHERE purging_at IS NULL") == 0


async def test_what_cannot_be_shredded(db: Database, store: Store, path: Path, ann: AccountId) -> None:
    for account in (ann, 999):
        with pytest.raises(NotFound):
            await db.execute("SELECT begin_shredding($1)", account)
    await AccountKeys(db, Keyring(path)).get(ann)
    await db.execute("UPDATE accounts SET legal_hold = true")
    with pytest.raises(NoPermission, match="legal hold"):
        await db.execute("SELECT begin_shredding($1)", ann)
    assert len(await rows(db)) == 1
    assert not (await store.accounts.get("ann@example.com")).disabled
    with pytest.raises(NoPermission):
        await db.fetchval("SELECT shred_rows($1)", ann)


async def test_bodies_from_before_the_key_are_counted(db: Database, store: Store, path: Path, ann: AccountId) -> None:
    await store.messages.deliver([new_message(ann)], "node")
    await AccountKeys(db, Keyring(path)).get(ann)
    await store.messages.deliver([new_message(ann)], "node")
    await db.execute("SELECT begin_shredding($1)", ann)
    assert await db.fetchval("SELECT plain_bodies FROM shreddings") == 1


async def test_a_key_and_its_shredding_take_turns(db: Database, dsn: str, path: Path, ann: AccountId) -> None:
    """A key that is being made while the account is shredded is either destroyed with it or refused."""
    keys = AccountKeys(db, Keyring(path))
    await keys.get(ann)
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "sora, public"})
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT begin_shredding($1)", ann)
        other = AccountKeys(db, Keyring(path))
        await db.execute("DELETE FROM dropped_keys")  # nothing that the transaction has seen
        making = asyncio.create_task(other._create(ann))
        while not await db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            assert not making.done()
        await transaction.commit()
        with pytest.raises(KeyUnavailable):
            await making
    finally:
        await connection.close()
    assert await rows(db) == []


async def test_every_process_hears_of_a_shredding(db: Database, dsn: str, path: Path, ann: AccountId) -> None:
    await AccountKeys(db, Keyring(path)).get(ann)
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(dsn)
    try:
        await connection.add_listener(account_keys.CHANNEL, lambda *notice: heard.put_nowait(str(notice[3])))
        await db.execute("SELECT begin_shredding($1)", ann)
        assert int(await heard.get(), 16) == ann
    finally:
        await connection.close()
