"""The outbound queue with a smarthost in a process of its own: what arrives, what is tried again, what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
from typing import TYPE_CHECKING, Any

import pytest

from sora.errors import KeyUnavailable
from sora.services.letters import MailEnvelope
from sora.services.recipients import Recipient
from sora.services.smarthost import SmarthostDown
from sora.store.account_keys import NoKeys
from sora.store.outbound import Outgoing, Params, enqueue, referring, sealed
from sora.store.sealing import PLAIN, AccountKey
from sora.wire import lmtp
from tests.support.sender import open_sending
from tests.support.smtpsink import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from email.message import EmailMessage
    from pathlib import Path

    from sora.services.node import Node
    from sora.services.outbound import Sending
    from sora.store.blobs import BlobRef
    from sora.store.store import Store
    from sora.types import AccountId
    from tests.support.smtpsink import Sink

MAIL = b"From: a@example.org\r\nSubject: hi\r\n\r\n.one dot\r\nend\r\n"


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    with running(tmp_path / "sink") as sink:
        yield sink


@pytest.fixture
async def ann(store: Store) -> AccountId:
    return await store.accounts.create("ann@example.com")


def mail(recipient: str = "x@example.org", sender: str = "a@example.org", **fields: Any) -> Outgoing:
    return Outgoing(**{"kind": "redirect", "sender": sender, "recipient": recipient, "data": MAIL, **fields})


async def queue(store: Store, account_id: AccountId, *mails: Outgoing) -> list[int]:
    async with store.db.transaction() as conn:
        return await enqueue(conn, [sealed(account_id, mail, PLAIN) for mail in mails])


async def until(condition: Callable[[], Awaitable[bool] | bool], seconds: float = 15.0) -> None:
    """Look again and again."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


async def is_empty(store: Store) -> bool:
    return (await store.outbound.backlog()).pending == 0


class OneKey(NoKeys):
    """Every account has this key, until that is gone."""

    def __init__(self, account_id: AccountId) -> None:
        self.key = AccountKey(account_id, bytes(32))
        self.gone = False

    async def get(self, account_id: AccountId) -> AccountKey:  # type: ignore[override]
        if self.gone:
            raise KeyUnavailable
        return self.key

    async def reader(self, ref: BlobRef, stored: bytes) -> AccountKey:  # type: ignore[override]
        return await self.get(ref.account_id)


@contextlib.asynccontextmanager
async def sending(store: Store, dsn: str, tmp_path: Path, port: int, **outbound: Any) -> AsyncIterator[Sending]:
    """A sender at work."""
    async with open_sending(dsn, tmp_path / "node", port, **outbound) as sender:
        stopping = asyncio.Event()
        task = asyncio.create_task(sender.run(stopping))
        try:
            yield sender
        finally:
            stopping.set()
            await asyncio.wait_for(task, 15)


def parsed(data: bytes) -> EmailMessage:
    return email.message_from_bytes(data, policy=email.policy.SMTP)  # type: ignore[return-value]


async def test_mail_leaves(store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId) -> None:
    await queue(store, ann, mail("x@example.org", header=b"X-A: b\r\n"), mail("y@example.org", sender=""))
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    first, second = sorted(sink.mails(), key=lambda mail: str(mail["recipient"]))
    assert (first["sender"], first["data"]) == ("a@example.org", b"X-A: b\r\n" + MAIL)
    assert (second["sender"], second["data"]) == ("", MAIL)
    assert first["options"] == [f"SIZE={len(first['data'])}"]


async def test_what_is_queued_is_sent_when_it_is_told(
    store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId
) -> None:
    async with sending(store, dsn, tmp_path, sink.port) as sender:
        await queue(store, ann, mail("first@example.org"))
        sender.wake()
        await until(lambda: sink.recipients() == ["first@example.org"])
        await queue(store, ann, mail("second@example.org"))
        sender.wake()
        await until(lambda: is_empty(store), 5)


async def test_no_bare_line_end_leaves(store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId) -> None:
    await queue(store, ann, mail(data=b"Subject: hi\r\n\r\nbare\nlines\r\rend\n.\r\n.\n"))
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    (taken,) = sink.mails()
    assert taken["data"] == b"Subject: hi\r\n\r\nbare\r\nlines\r\n\r\nend\r\n.\r\n.\r\n"


async def test_a_content_leaves_without_our_return_path(
    node: Node, store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId
) -> None:
    (recipient,) = await node.recipients.find([lmtp.Path("ann@example.com", "ann", "example.com")])
    assert isinstance(recipient, Recipient)
    envelope = MailEnvelope(sender="a@example.org", recipients=(recipient,), hello="mx", peer="192.0.2.1", id="1")
    assert await node.delivery.deliver(MAIL, envelope) == [None]
    row = await store.db.fetchrow("SELECT * FROM message_contents")
    assert row is not None
    redirect = mail(data=b"", letter=0, header=b"X-Sieve-Redirected-From: ann\r\n")
    async with store.db.transaction() as conn:
        await enqueue(conn, [referring(ann, redirect, row["content_id"], row["size"])])
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "staging").symlink_to(tmp_path / "staging")
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    (taken,) = sink.mails()
    assert taken["data"].startswith(redirect.header + b"Delivered-To: ann@example.com\r\nReceived: from mx")
    assert taken["data"].endswith(MAIL)
    assert await store.db.fetchval("SELECT count(*) FROM purge_candidates") == 1


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
async def test_temporary_failures_are_tried_again(
    store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId, step: str
) -> None:
    sink.mode(**{step: {"text": "451 4.3.2 later", "times": 1}})
    (number,) = await queue(store, ann, mail())
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: sink.attempts() == 1)
        await until(lambda: _attempts(store, number, 1))
        shown, _ = await store.outbound.get(number)
        assert (shown.last_error, shown.sent_by) == (f"{step}: 451 4.3.2 later", "")
        await until(lambda: is_empty(store))
    assert sink.recipients() == ["x@example.org"]
    assert sink.attempts() == 2


async def _attempts(store: Store, number: int, count: int) -> bool:
    return bool(await store.db.fetchval("SELECT attempts = $2 FROM outbound_queue WHERE queue_id = $1", number, count))


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
async def test_refused_mail_is_reported(
    store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId, step: str
) -> None:
    sink.mode(**{step: {"text": "550 5.1.1 no such user", "times": 1}})
    await queue(store, ann, mail(params=Params(envid="e+1", orcpt="rfc822;old@example.org")))
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    (report,) = sink.mails()
    assert (report["sender"], report["recipient"]) == ("", "a@example.org")
    message = parsed(report["data"])
    assert (message.get_content_type(), message["auto-submitted"]) == ("multipart/report", "auto-replied")
    explained, status, header = message.iter_parts()
    assert f"5.1.1 {step}: 550 5.1.1 no such user" in explained.get_content()
    about, recipient = status.get_payload()  # type: ignore[misc]
    assert (about["reporting-mta"], about["original-envelope-id"]) == ("dns; sora.example", "e+1")  # type: ignore[index]
    assert recipient["action"] == "failed"  # type: ignore[index]
    assert recipient["status"] == "5.1.1"  # type: ignore[index]
    assert recipient["final-recipient"] == "rfc822; x@example.org"  # type: ignore[index]
    assert recipient["original-recipient"] == "rfc822; old@example.org"  # type: ignore[index]
    assert recipient["diagnostic-code"] == "smtp; 550 5.1.1 no such user"  # type: ignore[index]
    assert header.get_content_type() == "text/rfc822-headers"
    assert "Subject: hi" in header.get_content()


@pytest.mark.parametrize(
    "fields",
    [{"sender": ""}, {"kind": "dsn"}, {"params": Params(notify="NEVER")}, {"params": Params(notify="SUCCESS,DELAY")}],
)
async def test_nobody_is_told_who_must_not_be(
    store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId, fields: dict[str, Any]
) -> None:
    sink.mode(RCPT={"text": "550 no", "times": 1})
    await queue(store, ann, mail(**fields))
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    assert sink.mails() == []


async def test_mail_that_is_too_old_goes_back(
    store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId
) -> None:
    sink.mode(RCPT={"text": "450 4.2.1 later", "times": 1})
    await queue(store, ann, mail())
    await store.db.execute("UPDATE outbound_queue SET created_at = clock() - interval '7201 minutes', attempts = 9")
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    (report,) = sink.mails()
    assert b"Status: 4.4.7" in report["data"]
    assert b"4.4.7 Too old: RCPT: 450 4.2.1 later" in report["data"]
    assert b"Diagnostic-Code: smtp; 450 4.2.1 later" in report["data"]
    assert b"Action: failed" in report["data"]


async def test_success_is_reported_where_nobody_else_will(
    store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId
) -> None:
    await queue(store, ann, mail(params=Params(notify="SUCCESS")))
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    assert sink.recipients() == ["a@example.org", "x@example.org"]
    (report,) = [mail for mail in sink.mails() if not mail["sender"]]
    assert b"Action: relayed" in report["data"]


async def test_loops_end(store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId) -> None:
    been = b"Delivered-To: ann@example.com\r\nDelivered-To: X@example.org\r\n\r\n"
    hops = b"Received: from a\r\n by b; now\r\n" * 60 + b"\r\n"
    await queue(store, ann, mail(data=been), mail(data=hops), mail("z@example.org", data=been))
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    assert sink.recipients() == ["a@example.org", "a@example.org", "z@example.org"]
    reports = [mail["data"] for mail in sink.mails() if not mail["sender"]]
    assert all(b"Status: 5.4.6" in report for report in reports)


async def test_an_account_sends_so_much_in_an_hour(
    store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId
) -> None:
    bob = await store.accounts.create("bob@example.com")
    await queue(store, ann, *(mail(f"{n}@example.org") for n in range(5)), mail("d@example.org", kind="dsn"))
    await queue(store, bob, mail("bob@example.org"))
    async with sending(store, dsn, tmp_path, sink.port, hourly_limit=3):
        await until(lambda: len(sink.mails()) == 5)
    assert sink.recipients() == ["0@example.org", "1@example.org", "2@example.org", "bob@example.org", "d@example.org"]
    waiting = await store.outbound.list_mail()
    assert [mail.recipient for mail in waiting] == ["3@example.org", "4@example.org"]
    assert {mail.attempts for mail in waiting} == {0}
    await store.db.execute("UPDATE outbound_queue SET next_try = clock()")
    await store.db.execute("UPDATE outbound_usage SET hour = hour - interval '1 hour'")
    async with sending(store, dsn, tmp_path, sink.port, hourly_limit=3):
        await until(lambda: is_empty(store))


async def test_what_takes_longer_than_a_claim_is_sent_once(
    store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims are renewed while their process lives, so that those of a dead one need not be long."""
    monkeypatch.setattr("sora.services.outbound.LEASE_S", 0.6)
    monkeypatch.setattr("sora.services.outbound.RENEW_S", 0.1)
    monkeypatch.setattr("sora.services.outbound.POLL_S", 0.1)
    sink.mode(slow_s=1.5)
    await queue(store, ann, mail("1@example.org"), mail("2@example.org"))
    async with (
        sending(store, dsn, tmp_path, sink.port, connections=1),
        sending(store, dsn, tmp_path, sink.port, connections=1, claim="other/1/1"),
    ):
        await until(lambda: is_empty(store))
    assert sink.recipients() == ["1@example.org", "2@example.org"]
    assert sink.attempts() == 2


async def test_no_smarthost_no_loss(store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId) -> None:
    await queue(store, ann, mail("new@example.org"), mail("old@example.org"))
    await store.db.execute(
        "UPDATE outbound_queue SET created_at = clock() - interval '6 days' WHERE recipient = 'old@example.org'"
    )
    async with sending(store, dsn, tmp_path, 0, host=""):
        await until(lambda: _kinds(store, ["redirect", "dsn"]))
    assert sink.mails() == []
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    assert sink.recipients() == ["a@example.org", "new@example.org"]


async def test_mail_over_the_limit_is_not_kept_for_ever(
    store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId
) -> None:
    await queue(store, ann, mail("over@example.org"), mail("y@example.org", kind="dsn"))
    await store.db.execute("UPDATE outbound_queue SET created_at = clock() - interval '6 days', counted = false")
    await store.db.execute("INSERT INTO outbound_usage VALUES ($1, date_trunc('hour', clock()), 3)", ann)
    assert [claimed.kind for claimed in await store.outbound.claim("n/1/1", 9, lease_s=0, hourly=3)] == ["dsn"]
    async with sending(store, dsn, tmp_path, sink.port, hourly_limit=3):
        await until(lambda: is_empty(store))
    assert sink.recipients() == ["a@example.org"], "a report; nothing is sent after its time"
    assert b"Too old: the account has sent as much as it may in this hour" in sink.mails()[0]["data"]


@pytest.mark.parametrize(
    ("smarthost", "last_error", "told"),
    [
        ("up", "", "more mail waits than the smarthost takes"),
        ("up", "RCPT: 450 4.2.1 later", "RCPT: 450 4.2.1 later"),
        ("down", "", "the smarthost is down"),
        ("down", "internal error", "the smarthost is down; before: internal error"),
        ("none", "", "no smarthost is configured"),
    ],
)
async def test_what_is_too_old_is_told_why(
    store: Store, dsn: str, tmp_path: Path, ann: AccountId, sink: Sink, smarthost: str, last_error: str, told: str
) -> None:
    await queue(store, ann, mail())
    await store.db.execute(
        """
        UPDATE outbound_queue SET created_at = clock() - interval '6 days', next_try = clock() + interval '1 hour',
          last_error = $1
        """,
        last_error,
    )
    port, host = (sink.port if smarthost == "up" else 1), {"host": ""} if smarthost == "none" else {}
    async with open_sending(dsn, tmp_path / "node", port, **host) as sender:
        if smarthost == "down":
            assert sender._smarthost is not None
            with pytest.raises(SmarthostDown):
                await sender._smarthost.probe()
        await sender._expire("n/1/1", 0.0)
    (report,) = await store.outbound.claim("n/1/1", 9, lease_s=0, hourly=0)
    assert report.kind == "dsn"
    assert report.body is not None
    assert f"Diagnostic-Code: X-Sora; Too old: {told}\r\n".encode() in report.body.replace(b"\r\n ", b" ")


async def test_what_is_sealed_is_sent_open(store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId) -> None:
    sealers = OneKey(ann)
    sink.mode(RCPT={"text": "550 no", "times": 1})
    async with store.db.transaction() as conn:
        await enqueue(conn, [sealed(ann, mail("refused@example.org"), sealers.key)])
    async with open_sending(dsn, tmp_path / "node", sink.port, sealers=sealers) as sender:
        (claimed,) = await store.outbound.claim("node/1/1", 1, lease_s=60, hourly=0)
        await sender._mailer.process(claimed)
        ((kind, body),) = await store.db.fetch("SELECT kind, body FROM outbound_queue")
        assert kind == "dsn"
        assert b"refused@example.org" not in body, "reports are sealed as well"
    async with sending(store, dsn, tmp_path, sink.port, sealers=sealers):
        await until(lambda: is_empty(store))
    (report,) = sink.mails()
    assert b"refused@example.org" in report["data"]


async def test_a_key_that_is_gone_tells_nobody_anything(
    store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId
) -> None:
    sealers = OneKey(ann)
    async with store.db.transaction() as conn:
        await enqueue(conn, [sealed(ann, mail(), sealers.key)])
    sealers.gone = True
    async with sending(store, dsn, tmp_path, sink.port, sealers=sealers):
        await until(lambda: _waits(store))
        assert (await store.outbound.list_mail())[0].attempts == 0
    await store.db.execute("UPDATE outbound_queue SET created_at = clock() - interval '6 d', next_try = clock()")
    async with sending(store, dsn, tmp_path, sink.port, sealers=sealers):
        await until(lambda: is_empty(store))
    assert sink.mails() == []


async def _waits(store: Store) -> bool:
    return bool(
        await store.db.fetchval("SELECT bool_and(next_try > clock() AND claimed_by IS NULL) FROM outbound_queue")
    )


async def test_large_mail_leaves_too(store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId) -> None:
    data = b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 70_000
    await queue(store, ann, mail("1@example.org", data=data), mail("2@example.org", data=data), mail("3@example.org"))
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    assert sink.recipients() == ["1@example.org", "2@example.org", "3@example.org"]
    assert all(mail["data"] in (data, MAIL) for mail in sink.mails())


async def _kinds(store: Store, kinds: list[str]) -> bool:
    return [mail.kind for mail in await store.outbound.list_mail()] == kinds


async def test_mail_in_utf8(store: Store, dsn: str, tmp_path: Path, sink: Sink, ann: AccountId) -> None:
    await queue(store, ann, mail("jörg@example.org", data="Subject: ü\r\n\r\nä\r\n".encode()))
    async with sending(store, dsn, tmp_path, sink.port):
        await until(lambda: is_empty(store))
    (taken,) = sink.mails()
    assert taken["recipient"] == "jörg@example.org"
    assert set(taken["options"]) >= {"SMTPUTF8", "BODY=8BITMIME"}
