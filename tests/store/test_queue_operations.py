"""`sora-admin queue …`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sora.admin import queue, system
from sora.admin.context import AdminContext
from sora.admin.queue import ListQueue, QueueNumber, RetryQueue
from sora.errors import NotFound
from sora.store.outbound import Outgoing, Params, enqueue, sealed
from sora.store.sealing import PLAIN

if TYPE_CHECKING:
    from sora.services.node import Node
    from sora.store.store import Store
    from sora.types import AccountId


@pytest.fixture
def context(node: Node, dsn: str) -> AdminContext:
    return AdminContext(config=node.config, dsn=dsn, store=node.store, blobs=node.blobs, cost=None)  # type: ignore[arg-type]


async def fill(store: Store, ann: AccountId) -> list[int]:
    bob = await store.accounts.create("bob@example.com")
    mails = [
        Outgoing("redirect", "a@example.org", "X@example.org", data=b"Subject: one\r\n\r\nbody", header=b"X-A: b\r\n"),
        Outgoing("vacation", "", "y@example.org", data=b"Subject: two\r\n\r\n", params=Params(notify="NEVER")),
    ]
    async with store.db.transaction() as conn:
        return await enqueue(conn, [sealed(ann, mails[0], PLAIN), sealed(bob, mails[1], PLAIN)])


async def test_what_waits_is_listed(context: AdminContext, store: Store, ann: AccountId) -> None:
    numbers = await fill(store, ann)
    await store.db.execute("UPDATE outbound_queue SET attempts = 2, last_error = 'no' WHERE queue_id = $1", numbers[0])
    found = await queue.list_queue(context, ListQueue())
    assert (found.smarthost, found.pending, found.failing) == ("", 2, 1)
    assert [mail.queue_id for mail in found.mails] == numbers
    first = found.mails[0]
    assert (first.kind, first.address, first.sender, first.size) == ("redirect", "ann@example.com", "a@example.org", 28)
    assert (first.attempts, first.last_error, first.sent_by) == (2, "no", "")

    async def listed(**asked: object) -> list[int]:
        answer = await queue.list_queue(context, ListQueue(**asked))  # type: ignore[arg-type]
        return [mail.queue_id for mail in answer.mails]

    assert await listed(account="Bob@example.com") == numbers[1:]
    assert await listed(recipient="x@example.org") == numbers[:1]
    assert await listed(limit=1) == numbers[:1]
    assert await listed(after=numbers[0]) == numbers[1:]
    assert await listed(account="nobody@example.com") == []


async def test_one_is_shown(context: AdminContext, store: Store, ann: AccountId) -> None:
    numbers = await fill(store, ann)
    shown = await queue.show(context, QueueNumber(numbers[0]))
    assert (shown.header, shown.mail.recipient) == ("X-A: b\nSubject: one", "X@example.org")
    assert (await queue.show(context, QueueNumber(numbers[1]))).parameters == Params(notify="NEVER")
    with pytest.raises(NotFound):
        await queue.show(context, QueueNumber(999999))


async def test_retry_ends_pauses(context: AdminContext, store: Store, ann: AccountId) -> None:
    numbers = await fill(store, ann)
    await store.db.execute("UPDATE outbound_queue SET next_try = clock() + interval '1 h'")
    assert (await queue.retry(context, RetryQueue(numbers[1]))).mails == 1
    assert (await queue.retry(context, RetryQueue())).mails == 1
    assert (await queue.retry(context, RetryQueue())).mails == 0
    await store.db.execute("UPDATE outbound_queue SET next_try = clock() + interval '1 h', claimed_by = 'n/1/1'")
    assert (await queue.retry(context, RetryQueue())).mails == 0, "what is being sent is left alone"
    assert {(mail.sent_by, mail.next_try) for mail in await store.outbound.list_mail()} == {("n", None)}
    await store.db.execute("INSERT INTO instances (instance_id, host) VALUES ('n', 'mx1.example.com')")
    assert {mail.sent_by for mail in await store.outbound.list_mail()} == {"mx1.example.com"}
    assert (await queue.show(context, QueueNumber(numbers[0]))).mail.sent_by == "mx1.example.com"
    await store.db.execute("UPDATE outbound_queue SET next_try = clock() - interval '1 s'")
    shown = await store.outbound.list_mail()
    assert [mail.sent_by for mail in shown] == ["", ""], "the claim has ended"
    assert all(mail.next_try for mail in shown)
    with pytest.raises(NotFound):
        await queue.retry(context, RetryQueue(999999))


async def test_deleted_is_gone(context: AdminContext, store: Store, ann: AccountId) -> None:
    numbers = await fill(store, ann)
    assert (await queue.delete(context, QueueNumber(numbers[0]))).recipient == "X@example.org"
    with pytest.raises(NotFound):
        await queue.delete(context, QueueNumber(numbers[0]))
    assert [mail.queue_id for mail in await store.outbound.list_mail()] == numbers[1:]


async def test_health_tells_of_mail_that_nobody_sends(context: AdminContext, store: Store, ann: AccountId) -> None:
    assert (await system.health(context)).outbound == "ok"
    await fill(store, ann)
    health = await system.health(context)
    assert (health.outbound, health.well) == ("2 mails wait, and outbound.host is not set", False)
