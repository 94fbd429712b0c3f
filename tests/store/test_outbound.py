"""The outbound queue on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sora.services.changes import Changes
from sora.store.blobs import BlobRef
from sora.store.outbound import CHANNEL, NO_PARAMS, Outgoing, Params, enqueue, referring, sealed
from sora.store.sealing import AccountKey
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
