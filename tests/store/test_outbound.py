"""The outbound queue on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sora.errors import KeyUnavailable
from sora.services.changes import Changes
from sora.store.blobs import BlobRef
from sora.store.outbound import CHANNEL, NO_PARAMS, Outgoing, Params, enqueue, referring, sealed
from sora.store.sealing import PLAIN, AccountKey
from sora.types import AccountId, ContentId

if TYPE_CHECKING:
    from sora.store.store import Store


async def test_a_batch_is_queued_in_order(store: Store, ann: AccountId) -> None:
    key = AccountKey(ann, bytes(32))
    made = Outgoing("vacation", "", "x@example.org", data=b"Subject: away\r\n\r\nno\r\n", header=b"A: b\r\n")
    sent_on = Outgoing(
        "redirect", "a@example.org", "b@example.org", letter=0, smtputf8=True, params=Params(notify="NEVER", ret="HDRS")
    )
    async with store.db.transaction() as conn:
        numbers = await enqueue(conn, [sealed(ann, made, key), referring(ann, sent_on, ContentId(7), 99)])
    assert numbers == sorted(set(numbers))
    first, second = await store.db.fetch("SELECT * FROM outbound_queue ORDER BY queue_id")
    assert [first["queue_id"], second["queue_id"]] == numbers
    assert (first["sender"], first["recipient"], first["header"], first["params"]) == (
        "",
        "x@example.org",
        b"A: b\r\n",
        "{}",
    )
    ref = BlobRef(ann, ContentId(0), first["body_hash"], first["size"])
    assert b"away" not in first["body"]
    assert key.open(ref, first["body"]) == made.data
    assert (second["content_id"], second["body"], second["size"], second["smtputf8"]) == (7, None, 99, True)
    assert second["params"] == '{"ret": "HDRS", "notify": "NEVER"}'
    assert made.params == NO_PARAMS


async def test_a_ring_is_heard_once(dsn: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener, ringer = Changes(dsn), Changes(dsn)
    listener.hear(CHANNEL, heard.put_nowait)
    try:
        listener.start()
        await listener.listening.wait()
        ringer.ring(CHANNEL)
        ringer.ring(CHANNEL)
        ringer.start(listen=False)
        assert await asyncio.wait_for(heard.get(), 10) == ""
        ringer.ring(CHANNEL)
        assert await asyncio.wait_for(heard.get(), 10) == ""
        assert heard.empty()
    finally:
        await ringer.close()
        await listener.close()


async def test_a_content_is_kept_until_it_is_sent(store: Store, ann: AccountId) -> None:
    content_id = ContentId(await store.db.fetchval(_CONTENT, ann))
    redirect = Outgoing("redirect", "a@example.org", "b@example.org", letter=0)
    async with store.db.transaction() as conn:
        await enqueue(conn, [referring(ann, redirect, content_id, 1), referring(ann, redirect, content_id, 1)])
    await store.db.execute("INSERT INTO purge_candidates (account_id, content_id) VALUES ($1, $2)", ann, content_id)

    async def purged() -> int:
        return len(await store.db.fetch("SELECT * FROM begin_purges($1, $2)", [ann], [content_id]))

    first, second = await store.outbound.claim("n/1/1", 10, lease_s=60, hourly=0)
    await store.outbound.sent(first)
    assert await purged() == 0
    await store.db.execute("DELETE FROM purge_candidates")
    await store.outbound.sent(second)
    assert await store.db.fetchval("SELECT content_id FROM purge_candidates") == content_id
    assert await purged() == 1


async def test_a_claim_is_one_processs_until_it_ends(store: Store, ann: AccountId) -> None:
    await queue_one(store, ann)
    (mine,) = await store.outbound.claim("a/1/1", 10, lease_s=60, hourly=0)
    assert await store.outbound.claim("b/1/1", 10, lease_s=60, hourly=0) == []
    await store.db.execute("UPDATE outbound_queue SET next_try = clock()")
    (theirs,) = await store.outbound.claim("b/1/1", 10, lease_s=60, hourly=0)
    await store.outbound.failed(mine, "too late", 0)
    await store.outbound.give_back([mine])
    assert not await store.outbound.replace(mine, [])
    (row,) = await store.outbound.list_mail()
    assert (row.attempts, row.sent_by, row.last_error) == (0, "b", "")
    await store.outbound.failed(theirs, "no", 60)
    (row,) = await store.outbound.list_mail()
    assert (row.attempts, row.sent_by, row.last_error) == (1, "", "no")


async def test_whose_claims_end_with_a_process(store: Store, ann: AccountId) -> None:
    claims = ("a/1/1", "a/1/2", "a/1/3", "a/7/2", "ab/1/1")
    for claim in claims:
        await queue_one(store, ann)
        assert len(await store.outbound.claim(claim, 10, lease_s=60, hourly=0)) == 1
    # ours, left by a predecessor that died, and those of an earlier life; not those of generations that still live
    assert await store.outbound.recover("a/", "a/1/2") == 2
    held = {row["claimed_by"] for row in await store.db.fetch("SELECT claimed_by FROM outbound_queue")}
    assert held == {"a/1/1", "a/1/3", "ab/1/1", None}


async def test_a_shredded_account_has_no_queue(store: Store, ann: AccountId) -> None:
    await queue_one(store, ann)
    await store.db.execute("INSERT INTO outbound_usage VALUES ($1, clock(), 1)", ann)
    await store.db.execute("INSERT INTO master_keys VALUES ('k', 'f')")
    await store.db.execute("INSERT INTO account_keys VALUES ($1, 'k', 'w', 'f')", ann)
    await store.db.execute("SELECT begin_shredding($1)", ann)
    await store.db.execute("SELECT shred_rows($1)", ann)
    assert await store.db.fetchval("SELECT count(*) FROM outbound_queue") == 0
    assert await store.db.fetchval("SELECT count(*) FROM outbound_usage") == 0
    with pytest.raises(KeyUnavailable):
        await queue_one(store, ann)


async def test_an_account_that_is_gone_has_no_queue(store: Store, ann: AccountId) -> None:
    await queue_one(store, ann)
    await store.db.execute("INSERT INTO outbound_usage VALUES ($1, clock(), 1)", ann)
    await store.db.execute("DELETE FROM mailboxes WHERE account_id = $1", ann)
    await store.db.execute("UPDATE accounts SET deleted_at = clock() - interval '2 d' WHERE account_id = $1", ann)
    while await store.db.fetchval("SELECT purge_account($1, '1 d')", ann):
        pass
    for table in ("outbound_queue", "outbound_usage", "accounts"):
        assert await store.db.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_the_limit_counts_a_mail_once(store: Store, ann: AccountId) -> None:
    for _ in range(3):
        await queue_one(store, ann)
    for _ in range(4):
        claimed = await store.outbound.claim("a/1/1", 10, lease_s=60, hourly=2)
        assert len(claimed) == 2
        await store.outbound.give_back(claimed)
    assert await store.db.fetchval("SELECT sent FROM outbound_usage") == 2
    await store.db.execute("UPDATE outbound_queue SET next_try = clock()")
    await store.db.execute("UPDATE outbound_usage SET hour = hour - interval '1 hour'")
    assert len(await store.outbound.claim("a/1/1", 10, lease_s=60, hourly=2)) == 3
    assert await store.db.fetchval("SELECT sent FROM outbound_usage") == 1


async def test_what_is_over_the_limit_is_in_nobodys_way(store: Store, ann: AccountId) -> None:
    """All of it waits for the next hour at once, and a claim that ended by itself shows no more."""
    for _ in range(8):
        await queue_one(store, ann)
    await store.db.execute("UPDATE outbound_queue SET claimed_by = 'dead/1/1'")
    bob = await store.accounts.create("bob@example.com")
    await queue_one(store, bob)
    ours = [mail.queue_id for mail in await store.outbound.claim("a/1/1", 3, lease_s=60, hourly=2)]
    assert len(ours) == 2
    assert [mail.account_id for mail in await store.outbound.claim("a/1/1", 3, lease_s=60, hourly=2)] == [bob]
    rows = await store.db.fetch(
        """
        SELECT claimed_by, last_error <> '' FROM outbound_queue
        WHERE account_id = $1 ORDER BY queue_id = ANY ($2) DESC
        """,
        ann,
        ours,
    )
    assert [tuple(row) for row in rows] == [("a/1/1", False)] * 2 + [(None, True)] * 6


async def test_claims_are_renewed_while_they_are_ours(store: Store, ann: AccountId) -> None:
    for _ in range(2):
        await queue_one(store, ann)
    claimed = await store.outbound.claim("a/1/1", 10, lease_s=0, hourly=0)
    (other,) = await store.outbound.claim("b/1/1", 1, lease_s=60, hourly=0)
    await store.outbound.renew(claimed, 600)
    rows = await store.db.fetch("SELECT claimed_by, next_try > clock() + interval '5 min' AS long FROM outbound_queue")
    assert {tuple(row) for row in rows} == {("a/1/1", True), ("b/1/1", False)}
    assert other.queue_id in {mail.queue_id for mail in claimed}
    await store.outbound.renew([], 600)


async def queue_one(store: Store, account_id: AccountId) -> None:
    mail = Outgoing("redirect", "a@example.org", "b@example.org", data=b"x")
    async with store.db.transaction() as conn:
        await enqueue(conn, [sealed(account_id, mail, PLAIN)])


_CONTENT = """
    INSERT INTO message_contents (account_id, content_hash, size, thread_id, envelope, body_structure)
    VALUES ($1, 'x', 1, 1, '', '') RETURNING content_id
"""
