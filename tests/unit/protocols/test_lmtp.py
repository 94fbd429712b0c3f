"""LMTP sessions on a real node; transcripts under tests/transcripts/lmtp, the rest here."""

from __future__ import annotations

import asyncio
import logging
import ssl
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from sora import errors
from sora.net.listener import Listener
from sora.net.tls import server_context
from sora.protocols import lmtp
from sora.services.delivery import MailLoop
from sora.services.intake import IN_MEMORY
from sora.services.logins.limits import Limits
from sora.services.recipients import Recipient
from sora.wire.proxyproto import Header, Tls
from tests.support import transcripts
from tests.support.certificates import write_certificate
from tests.support.node import open_node
from tests.support.transcripts import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg

    from sora.services.node import Node
    from sora.types import AccountId
    from sora.wire.lmtp import Path as MailPath

FOLDER: Final = Path(__file__).parents[2] / "transcripts" / "lmtp"
HELLO: Final = b"LHLO mx.example.net\r\n"
ENVELOPE: Final = b"MAIL FROM:<s@example.org>\r\nRCPT TO:<alice@example.com>\r\n"


class NoServer:
    """A pool whose PostgreSQL is away; connections that are out come home to the real one."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.release = pool.release

    async def acquire(self, **_: object) -> Any:
        raise ConnectionRefusedError


class World:
    """What `given` lines and tests say of a node.

    given account NAME · alias NAME ACCOUNT · mailbox ACCOUNT NAME · disabled ACCOUNT · full ACCOUNT ·
    room ACCOUNT MESSAGES · catch-all DOMAIN ACCOUNT · limit KEY VALUE · database away|back · staging full|empty ·
    hops COUNT · trusted NETWORK
    and these, which are checked: stored ACCOUNT MAILBOX COUNT · has ACCOUNT LINE · ends ACCOUNT OCTETS
    """

    def __init__(self, node: Node, patches: pytest.MonkeyPatch) -> None:
        self.node = node
        self.patches = patches
        self.accounts: dict[str, AccountId] = {}
        self.listener = Listener("lmtp", "127.0.0.1:24")
        node.delivery.host = "store.example.com"
        self._pools = [
            (database, database._pool, database._at_hand)
            for database in (node.store.db, node.delivery._commits._messages._db)
        ]

    async def given(self, text: str) -> None:
        verb, *words = text.split(maxsplit=2) if text.startswith(("has", "ends")) else text.split()
        await getattr(self, "given_" + verb.replace("-", "_"))(*words)

    async def given_account(self, name: str) -> None:
        self.accounts[name] = await self.node.store.accounts.create(f"{name}@example.com")

    async def given_alias(self, name: str, account: str) -> None:
        await self.node.store.domains.add_alias(f"{name}@example.com", self.accounts[account])

    async def given_mailbox(self, account: str, name: str) -> None:
        await self.node.store.mailboxes.create(self.accounts[account], name)

    async def given_disabled(self, account: str) -> None:
        await self.given_account(account)
        await self.node.store.accounts.set_disabled(self.accounts[account], True)

    async def given_full(self, account: str) -> None:
        account_id = await self.node.store.accounts.create(f"{account}@example.com", quota_messages=1)
        self.accounts[account] = account_id
        assert await self.node.delivery.deliver(b"a: b\r\n\r\n", envelope(account_id, f"{account}@example.com")) == [
            None
        ]

    async def given_room(self, account: str, messages: str) -> None:
        self.accounts[account] = await self.node.store.accounts.create(
            f"{account}@example.com", quota_messages=int(messages)
        )

    async def given_quota(self, account: str, octets: str) -> None:
        self.accounts[account] = await self.node.store.accounts.create(
            f"{account}@example.com", quota_bytes=int(octets)
        )

    async def given_staging(self, state: str) -> None:
        self.node.staging._max_size = 0 if state == "full" else 10**9

    async def given_hops(self, count: str) -> None:
        self.patches.setattr("sora.services.delivery.MAX_HOPS", int(count))

    async def given_trusted(self, network: str) -> None:
        self.listener = msgspec.structs.replace(self.listener, trusted_networks=(network,))

    async def given_has(self, account: str, line: str) -> None:
        assert any(line.encode() in body.split(b"\r\n") for body in await self.bodies(account))

    async def given_ends(self, account: str, octets: str) -> None:
        assert (await self.bodies(account))[-1].endswith(octets.encode().decode("unicode_escape").encode("latin-1"))

    async def given_catch_all(self, domain: str, account: str) -> None:
        await self.node.store.domains.add(domain)
        await self.node.store.domains.set_catch_all(domain, self.accounts[account])

    async def given_limit(self, key: str, value: str) -> None:
        limits = msgspec.structs.replace(self.node.config.limits, **{key: float(value) if "." in value else int(value)})
        self.node.config = msgspec.structs.replace(self.node.config, limits=limits)

    async def given_database(self, state: str) -> None:
        for database, pool, at_hand in self._pools:
            away = state == "away"
            database._pool, database._at_hand = (NoServer(pool), []) if away else (pool, at_hand)
            database._waiting += 1 if away else -1  # what a task in the background has out is not kept at hand

    async def given_stored(self, account: str, mailbox: str, count: str) -> None:
        assert len(await self.bodies(account, mailbox)) == int(count)

    async def bodies(self, account: str, mailbox: str = "INBOX") -> list[bytes]:
        """What is stored, in the order of the UIDs."""
        account_id = self.accounts[account]
        found = await self.node.store.mailboxes.get(account_id, mailbox)
        rows = await self.node.store.db.fetch(
            "SELECT content_hash FROM messages JOIN message_contents USING (account_id, content_id)"
            " WHERE account_id = $1 AND mailbox_id = $2 ORDER BY uid",
            account_id,
            found.mailbox_id,
        )
        bodies = [await self.node.staging.read(account_id, row["content_hash"]) for row in rows]
        assert None not in bodies
        return bodies  # type: ignore[return-value]

    async def connect(self, number: int = 1, *, hello: bytes = b"", listener: Listener | None = None) -> Link:
        """A session behind its greeting, and behind LHLO if that is given."""
        session = lmtp.connection_factory(self.node, listener or self.listener)()
        link = Link(session)
        assert await link.read_line() == b"220 store.example.com LMTP Sora ready"
        if hello:
            await link.send(hello)
            while not (await link.read_line()).startswith(b"250 "):
                pass
        return link

    async def value(self, name: str) -> str:
        return "x" * 3000 if name == "long" else f"<{name}>"


def envelope(account_id: AccountId, address: str) -> Any:
    recipients = (Recipient(address, account_id, address),)
    return lmtp.MailEnvelope(sender="", recipients=recipients, hello="x", peer="local")


async def ask(link: Link, data: bytes, replies: int) -> list[bytes]:
    """Send, and read so many replies of one line."""
    await link.send(data)
    return [await link.read_line() for _ in range(replies)]


@pytest.fixture
async def world(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with open_node(dsn, tmp_path, auth={"default_domain": "example.com"}) as node:
        world = World(node, monkeypatch)
        yield world
        await world.given_database("back")


@pytest.mark.parametrize(("path", "mode"), transcripts.parameters(FOLDER))
async def test_transcript(path: Path, mode: str, world: World) -> None:
    await transcripts.play(path, world, mode)


@pytest.mark.parametrize("verb", lmtp.VERBS)
def test_every_verb_has_a_transcript(verb: str) -> None:
    assert any(f"C: {verb}" in path.read_text(encoding="utf-8") for path in FOLDER.glob("*.txt"))


class TestStored:
    async def test_byte_for_byte_behind_the_trace_headers(self, world: World) -> None:
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        text = b"Subject: all octets\r\n\r\n" + bytes(range(256)) + b"\r.\r\n..\r\n. \n.\r\r\n"
        stuffed = text.replace(b"\r\n.", b"\r\n..")
        await ask(link, ENVELOPE + b"DATA\r\n" + stuffed + b".\r\n", 4)
        (body,) = await world.bodies("alice")
        assert body.endswith(text)
        assert body[: -len(text)].startswith(
            b"Return-Path: <s@example.org>\r\nDelivered-To: alice@example.com\r\n"
            b"Received: from mx.example.net ([127.0.0.1])\r\n\tby store.example.com with LMTP id "
        )
        await link.hang_up()

    async def test_smuggled_commands_are_data(self, world: World) -> None:
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        text = b"Subject: x\r\n\r\na\n.\r\nMAIL FROM:<e@example.net>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\nb\r\n"
        assert len(await ask(link, ENVELOPE + b"DATA\r\n" + text + b".\r\nQUIT\r\n", 5)) == 5
        await link.read_close()
        assert link.output == b""
        (body,) = await world.bodies("alice")
        assert body.endswith(text)

    async def test_from_a_unix_socket(self, world: World) -> None:
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        link.protocol.peer = "unix"  # type: ignore[attr-defined]
        await ask(link, ENVELOPE + b"DATA\r\n.\r\n", 4)
        (body,) = await world.bodies("alice")
        assert b"Received: from mx.example.net (local)\r\n" in body
        await link.hang_up()

    async def test_each_message_of_a_session_has_its_own_id(self, world: World) -> None:
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        for number in range(2):
            await ask(link, ENVELOPE + b"DATA\r\nn: %d\r\n\r\n.\r\n" % number, 4)
        ids = [body.split(b" id ")[1].split()[0] for body in await world.bodies("alice")]
        assert len(set(ids)) == 2
        await link.hang_up()

    async def test_half_a_message_is_none(self, world: World) -> None:
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        await ask(link, ENVELOPE + b"DATA\r\nSubject: cut\r\n\r\nno end\r\n", 3)
        link.protocol.eof_received()
        await link.read_close()
        assert link.output == b""
        assert await world.bodies("alice") == []
        assert not list(world.node.staging._root.glob("*.eml"))


class TestPipelining:
    async def test_replies_of_a_group_leave_in_one_piece(self, world: World) -> None:
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        pieces: list[bytes] = []
        wrote = link.wrote
        link.wrote = lambda data: (pieces.append(data), wrote(data))[1]  # type: ignore[method-assign]
        await ask(link, ENVELOPE + b"DATA\r\n", 3)
        await ask(link, b"Subject: x\r\n\r\n.\r\nNOOP\r\n", 2)
        assert [piece.count(b"\r\n") for piece in pieces] == [3, 1, 1]
        await link.hang_up()

    async def test_recipients_of_a_group_are_looked_up_together(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.given_account("alice")
        asked: list[list[str]] = []
        real = world.node.recipients.find

        async def spy(paths: Sequence[MailPath], size: int) -> Any:
            asked.append([path.text for path in paths])
            return await real(paths, size)

        monkeypatch.setattr(world.node.recipients, "find", spy)
        link = await world.connect(hello=HELLO)
        group = b"".join(b"RCPT TO:<%s@example.com>\r\n" % name for name in (b"alice", b"nobody", b"alice+x"))
        replies = await ask(link, b"MAIL FROM:<>\r\n" + group + b"RCPT TO:<bad\r\n" + b"NOOP\r\n", 6)
        assert [reply[:3] for reply in replies] == [b"250", b"250", b"550", b"250", b"501", b"250"]
        assert asked == [["alice@example.com", "nobody@example.com", "alice+x@example.com"]]
        await link.hang_up()


class Script:
    """A delivery that answers as it is told."""

    host = "store.example.com"

    def __init__(self, error: Exception | None = None, outcomes: list[Any] | None = None) -> None:
        self.error = error
        self.outcomes = outcomes or []

    async def find(self, paths: Sequence[MailPath], size: int) -> list[Any]:
        if self.error is not None:
            raise self.error
        return [Recipient(path.text, 1, path.text) for path in paths]  # type: ignore[arg-type]

    async def deliver(self, data: bytes, envelope: Any) -> list[Any]:
        if isinstance(self.outcomes, Exception):
            raise self.outcomes
        return self.outcomes


REPLIES: Final = {
    errors.NotFound: b"550 5.1.1",
    errors.InvalidName: b"550 5.1.1",
    errors.OverQuota: b"552 5.2.2",
    errors.TooBig: b"552 5.3.4",
    errors.NoPermission: b"550 5.7.1",
    MailLoop: b"554 5.4.6",
    errors.StagingFull: b"452 4.3.1",
    errors.DatabaseDown: b"451 4.3.0",
    errors.Busy: b"451 4.3.0",
    errors.Unavailable: b"451 4.3.0",
    errors.BlobDown: b"451 4.3.0",
    errors.Expunged: b"554 5.0.0",
}


class TestReplies:
    @pytest.mark.parametrize(("error", "reply"), REPLIES.items())
    async def test_of_a_message(self, world: World, error: type[errors.SoraError], reply: bytes) -> None:
        world.node.delivery = world.node.recipients = Script(outcomes=[None, error("why")])  # type: ignore[assignment]
        link = await world.connect(hello=HELLO)
        replies = await ask(link, ENVELOPE + b"RCPT TO:<bob@example.com>\r\nDATA\r\n.\r\n", 6)
        assert replies[4:] == [b"250 2.0.0 Stored", reply + b" why"]
        await link.hang_up()

    @pytest.mark.parametrize("error", [errors.DatabaseDown(), errors.Busy(), RuntimeError("bug")])
    async def test_of_a_failed_look_up(self, world: World, error: Exception) -> None:
        world.node.recipients = Script(error)  # type: ignore[assignment]
        link = await world.connect(hello=HELLO)
        replies = await ask(link, ENVELOPE + b"RCPT TO:<bob@example.com>\r\nNOOP\r\n", 4)
        assert [reply[:9] for reply in replies] == [b"250 2.1.0", b"451 4.3.0", b"451 4.3.0", b"250 2.0.0"]
        await link.hang_up()

    @pytest.mark.parametrize("error", [errors.DatabaseDown(), RuntimeError("bug")])
    async def test_of_a_failed_delivery(self, world: World, error: Exception) -> None:
        world.node.delivery = world.node.recipients = Script(outcomes=error)  # type: ignore[arg-type, assignment]
        link = await world.connect(hello=HELLO)
        replies = await ask(link, ENVELOPE + b"RCPT TO:<bob@example.com>\r\nDATA\r\n.\r\nNOOP\r\n", 7)
        assert [reply[:9] for reply in replies[4:]] == [b"451 4.3.0", b"451 4.3.0", b"250 2.0.0"]
        await link.hang_up()

    async def test_of_a_bug_in_a_command(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async def bug(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setitem(lmtp.VERBS, "NOOP", lmtp.Verb(bug))  # type: ignore[arg-type]
        link = await world.connect(hello=HELLO)
        assert [reply[:9] for reply in await ask(link, b"NOOP\r\nRSET\r\n", 2)] == [b"451 4.3.0", b"250 2.0.0"]
        await link.hang_up()

    def test_what_may_pass_is_never_permanent(self) -> None:
        for error in (errors.Unavailable, *errors.Unavailable.__subclasses__()):
            assert 400 <= lmtp.reply_to(error()).code < 500

    def test_every_error_has_one(self) -> None:
        for family in (errors.WireError, errors.Refused, errors.Unavailable):
            for error in (family, *family.__subclasses__()):
                assert lmtp.reply_to(error()).code >= 400


class TestEnd:
    async def test_stop_between_commands(self, world: World) -> None:
        link = await world.connect(hello=HELLO)
        link.protocol.stop()  # type: ignore[attr-defined]
        assert await link.read_line() == b"421 4.3.2 Server is going down, try again later"
        await link.read_close()

    async def test_stop_lets_the_message_in_hand_finish(self, world: World) -> None:
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        await ask(link, ENVELOPE + b"DATA\r\nSubject: x\r\n", 3)
        link.protocol.stop()  # type: ignore[attr-defined]
        replies = await ask(link, b"\r\nbody\r\n.\r\nNOOP\r\n", 2)
        assert [reply[:9] for reply in replies] == [b"250 2.0.0", b"421 4.3.2"]
        await link.read_close()
        assert len(await world.bodies("alice")) == 1

    async def test_idle(self, world: World) -> None:
        await world.given_limit("lmtp_idle_timeout", "0.05")
        link = await world.connect()
        assert await link.read_line() == b"421 4.4.2 Idle for too long"
        await link.read_close()

    async def test_dripping_octets_is_idle_too(self, world: World) -> None:
        await world.given_limit("lmtp_idle_timeout", "0.1")
        link = await world.connect()
        while not link.closed:
            await link.send(b"x")
        assert link.output.splitlines()[-1] == b"421 4.4.2 Idle for too long"

    async def test_every_command_buys_time(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(monotonic=lambda: 0.0)
        monkeypatch.setattr(lmtp, "time", clock)
        link = await world.connect(hello=HELLO)
        for minutes in (4, 8, 12):
            clock.monotonic = lambda now=minutes * 60.0: now
            await link.send(b"NO")  # looks at the clock and waits for the rest
            assert await ask(link, b"OP\r\n", 1) == [b"250 2.0.0 OK"]
        await link.hang_up()

    async def test_idle_in_the_middle_of_a_message(self, world: World) -> None:
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        await world.given_limit("lmtp_idle_timeout", "0.05")
        replies = await ask(link, ENVELOPE + b"DATA\r\nSubject: x\r\n", 4)
        assert replies[3] == b"421 4.4.2 Idle for too long"
        await link.read_close()
        assert await world.bodies("alice") == []

    @pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 1000000\r\n", b"BDAT 1\r\n.BDAT 1000000\r\n"])
    async def test_a_message_that_drips(self, world: World, begin: bytes) -> None:
        """No piece is late, but all of them together are."""
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        await world.given_limit("lmtp_message_timeout", "0.1")
        await link.send(ENVELOPE + begin)
        while not link.closed:
            await link.send(b"x")
        assert link.output.splitlines()[-1] == b"421 4.4.2 Message takes too long"
        assert await world.bodies("alice") == []

    async def test_refused_chunks_that_drip(self, world: World) -> None:
        link = await world.connect(hello=HELLO)
        await world.given_limit("lmtp_message_timeout", "0.1")
        await link.send(b"BDAT 1000000\r\n")
        while not link.closed:
            await link.send(b"x")
        assert link.output.splitlines() == [b"421 4.4.2 Message takes too long"]

    async def test_chunks_that_drip(self, world: World) -> None:
        """Time counts from the first octet of the message, not of the chunk."""
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        await world.given_limit("lmtp_message_timeout", "0.1")
        await link.send(ENVELOPE)
        while not link.closed:
            await link.send(b"BDAT 1\r\nx")
        assert link.output.splitlines()[-1] == b"421 4.4.2 Message takes too long"


class TestShares:
    async def test_a_pipelining_client_leaves_turns_to_others(self, world: World) -> None:
        flood, other = await world.connect(hello=HELLO), await world.connect(hello=HELLO)
        await flood.send(b"NOOP\r\n" * 2000)
        assert await ask(other, b"NOOP\r\n", 1) == [b"250 2.0.0 OK"]
        assert flood.output.count(b"\n") < 2000, "the other did not wait for all of them"
        assert set(await ask(flood, b"", 2000)) == {b"250 2.0.0 OK"}
        await flood.hang_up()
        await other.hang_up()

    async def test_a_message_on_its_way_counts_as_staged(self, world: World) -> None:
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        world.node.staging._max_size = IN_MEMORY // 2
        await ask(link, ENVELOPE + b"DATA\r\n", 3)
        assert await ask(link, (b"x" * 998 + b"\r\n") * 2000 + b".\r\n", 1) == [
            b"452 4.3.1 Insufficient storage, try again later"
        ]
        assert world.node.staging.used_bytes == 0
        await link.hang_up()


class Far(asyncio.Transport):
    """A transport of a peer somewhere else."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 1)})
        self.sent = b""
        self.closed = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed.set()

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class TestPeers:
    @pytest.mark.parametrize("networks", [(), ("10.0.0.0/8",)])
    async def test_a_stranger_may_not_deliver(self, world: World, networks: tuple[str, ...]) -> None:
        listener = Listener("lmtp", "0.0.0.0:24", trusted_networks=networks)
        session = lmtp.connection_factory(world.node, listener)()
        transport = Far("192.0.2.1")
        session.connection_made(transport)
        await transport.closed.wait()
        assert transport.sent == b"554 5.7.1 You may not deliver here\r\n"
        session.connection_lost(None)

    async def test_a_trusted_one_may(self, world: World) -> None:
        listener = Listener("lmtp", "0.0.0.0:24", trusted_networks=("192.0.2.0/24",))
        session = lmtp.connection_factory(world.node, listener)()
        transport = Far("192.0.2.1")
        session.connection_made(transport)
        session.data_received(b"QUIT\r\n")
        await transport.closed.wait()
        assert transport.sent.startswith(b"220 ")
        session.connection_lost(None)


async def test_log_line(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await world.given_account("alice")
    await world.given_account("bob")
    link = await world.connect(hello=HELLO)
    text = b"Delivered-To: bob@example.com\r\n\r\n"
    await ask(link, ENVELOPE + b"RCPT TO:<bob@example.com>\r\nDATA\r\n" + text + b".\r\n", 6)
    (record,) = [record for record in caplog.records if record.name == "sora.protocols.lmtp"]
    (body,) = await world.bodies("alice")
    assert record.transaction.encode() == body.split(b" id ")[1].split(b";")[0].split()[0]
    assert (record.sender, record.size, record.recipients) == ("s@example.org", len(text), 2)
    assert record.refused == ["The message was delivered here before"]
    await link.hang_up()


async def test_crash_points_in_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.given_account("alice")
    passed: list[tuple[str, int, int]] = []
    link = await world.connect(hello=HELLO)

    def point(name: str) -> None:
        passed.append((name, len(list(world.node.staging._root.glob("*.eml"))), link.output.count(b"Stored")))

    monkeypatch.setattr("sora.services.commits.crash_point", point)
    monkeypatch.setattr("sora.protocols.lmtp.crash_point", point)
    await link.send(ENVELOPE + b"DATA\r\nSubject: x\r\n\r\n.\r\n")
    while len(passed) < 3:
        await link._change()
    assert passed == [("lmtp.staged", 1, 0), ("lmtp.committed", 1, 0), ("lmtp.replied", 1, 1)]
    await link.hang_up()


class TestLarge:
    """Bodies above `intake.IN_MEMORY`, here 1 MiB, go through a file."""

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_is_stored_byte_for_byte_for_everybody(self, world: World, chunked: bool) -> None:
        await world.given_account("alice")
        await world.given_account("bob")
        link = await world.connect(hello=HELLO)
        text = b"Subject: large\r\n\r\n" + bytes(range(256)).replace(b"\n", b"") * 10_000 + b"\r\n.\r\nend\r\n"
        envelope = ENVELOPE + b"RCPT TO:<bob@example.com>\r\n"
        if chunked:
            half = len(text) // 2
            stream = b"BDAT %d\r\n%bBDAT %d LAST\r\n%b" % (half, text[:half], len(text) - half, text[half:])
        else:
            stream = b"DATA\r\n" + text.replace(b"\r\n.", b"\r\n..") + b".\r\n"
        await link.send(envelope)
        for start in range(0, len(stream), 65536):
            await link.send(stream[start : start + 65536])
        replies = [await link.read_line() for _ in range(6)]
        assert [reply[:9] for reply in replies[-2:]] == [b"250 2.0.0", b"250 2.0.0"]
        for name in ("alice", "bob"):
            (body,) = await world.bodies(name)
            assert body.endswith(text)
            assert b"Delivered-To: %s@example.com\r\n" % name.encode() in body[:300]
        assert list((world.node.staging._root / "tmp").iterdir()) == []
        await link.hang_up()

    async def test_memory_does_not_grow_with_the_message(self, world: World) -> None:
        await world.given_account("alice")
        await world.given_account("bob")
        link = await world.connect(hello=HELLO)
        await ask(link, ENVELOPE + b"RCPT TO:<bob@example.com>\r\nDATA\r\n", 4)
        lines = (b"x" * 70 + b"\r\n") * 900
        tracemalloc.start()
        try:
            await link.send(b"Subject: large\r\n\r\n")
            for _ in range(400):
                await link.send(lines)
            await ask(link, b".\r\n", 2)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert 400 * len(lines) > 24 << 20
        assert peak < 6 << 20
        await link.hang_up()

    async def test_is_not_held_when_the_client_goes(self, world: World) -> None:
        await world.given_account("alice")
        link = await world.connect(hello=HELLO)
        await ask(link, ENVELOPE + b"BDAT 2000000\r\n" + b"x" * 2_000_000 + b"BDAT 9\r\n", 3)
        taken = link.protocol.chunks  # type: ignore[attr-defined]
        spool = taken._spool
        assert spool.size == 2_000_000
        await link.hang_up()
        while spool._fd >= 0:
            await asyncio.sleep(0)


class TestProxied:
    async def connect(self, world: World, listener: Listener, header: Header, peer: str = "192.0.2.1") -> Link:
        session = lmtp.connection_factory(world.node, listener)()
        session.header = header
        return Link(session, peer)

    async def test_the_forwarded_client_delivers_but_does_not_speak_for_others(self, world: World) -> None:
        await world.given_account("alice")
        listener = Listener("lmtp", "0.0.0.0:24", trusted_networks=("192.0.2.0/24",), proxy_protocol=True)
        link = await self.connect(world, listener, Header("2001:db8::7", 25, tls=Tls()))
        assert (await link.read_line()).startswith(b"220 ")
        await link.send(HELLO)
        extensions = []
        while not extensions or not extensions[-1].startswith(b"250 "):
            extensions.append(await link.read_line())
        assert not any(b"XCLIENT" in line or b"STARTTLS" in line for line in extensions)
        assert await ask(link, b"XCLIENT ADDR=192.0.2.7\r\n", 1) == [b"550 5.7.1 You may not use this"]
        await ask(link, ENVELOPE + b"DATA\r\na: b\r\n\r\n.\r\n", 4)
        (body,) = await world.bodies("alice")
        assert b"Received: from mx.example.net ([IPv6:2001:db8::7])\r\n" in body
        assert b" with LMTPS id " in body
        await link.hang_up()

    async def test_a_trusted_client_behind_a_proxy_may(self, world: World) -> None:
        listener = Listener("lmtp", "0.0.0.0:24", trusted_networks=("192.0.2.0/24",), proxy_protocol=True)
        link = await self.connect(world, listener, Header("192.0.2.9", 25))
        assert (await link.read_line()).startswith(b"220 ")
        assert await ask(link, b"XCLIENT ADDR=198.51.100.7\r\n", 1) == [b"220 store.example.com LMTP Sora ready"]
        await link.hang_up()

    async def test_the_forwarded_address_is_counted(self, world: World) -> None:
        world.node.limits = Limits(per_address=1)
        listener = Listener("lmtp", "0.0.0.0:24", trusted_networks=("192.0.2.0/24",), proxy_protocol=True)
        first = await self.connect(world, listener, Header("198.51.100.7", 25))
        assert (await first.read_line()).startswith(b"220 ")
        second = await self.connect(world, listener, Header("198.51.100.7", 26))
        assert (await second.read_line()).startswith(b"421 4.7.0 ")
        await second.read_close()
        third = await self.connect(world, listener, Header("198.51.100.8", 26))
        assert (await third.read_line()).startswith(b"220 ")
        await first.hang_up()
        await third.hang_up()


class TestXclient:
    async def test_the_forwarded_address_is_counted_and_the_own_is_not(self, world: World) -> None:
        world.node.limits = Limits(per_address=1)
        listener = Listener("lmtp", "0.0.0.0:24", trusted_networks=("192.0.2.0/24",))

        async def connect() -> Link:
            link = Link(lmtp.connection_factory(world.node, listener)(), "192.0.2.1")
            link.greeting = await link.read_line()  # type: ignore[attr-defined]
            return link

        claim = b"XCLIENT ADDR=198.51.100.7\r\n"
        first = await connect()
        assert (await ask(first, claim, 1))[0].startswith(b"220 ")
        second = await connect()
        assert (await ask(second, claim + b"NOOP\r\n", 1))[0].startswith(b"421 4.7.0 ")
        await second.read_close()
        assert second.output == b""
        await ended(first)
        third = await connect()
        assert (await ask(third, claim, 1))[0].startswith(b"220 ")
        await ended(third)
        assert len(world.node.limits._counts) == 0  # type: ignore[arg-type]

    async def test_forwarded_fields_are_kept_for_their_recipient(self, world: World) -> None:
        await world.given_account("alice")
        await world.given_trusted("127.0.0.0/8")
        link = await world.connect(hello=HELLO)
        await ask(link, ENVELOPE + b"RCPT TO:<alice+x@example.com> XRCPTFORWARD=session+3Dabc\r\n", 3)
        recipients = link.protocol.recipients  # type: ignore[attr-defined]
        assert [found.forward for found in recipients] == [(), (("session", "abc"),)]
        await link.hang_up()

    async def test_the_login_is_logged(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        await world.given_account("alice")
        await world.given_trusted("127.0.0.0/8")
        link = await world.connect()
        await ask(link, b"XCLIENT LOGIN=bob PORT=[UNAVAILABLE]\r\n", 1)
        await ask(link, HELLO, 11)
        await ask(link, ENVELOPE + b"BDAT 0 LAST\r\n", 3)
        (record,) = [record for record in caplog.records if record.name == "sora.protocols.lmtp"]
        assert record.login == "bob"
        await link.hang_up()


class TestStartTls:
    """Over a real socket: a handshake needs one."""

    @pytest.fixture
    async def port(self, world: World, tmp_path: Path) -> AsyncIterator[int]:
        context = server_context(*write_certificate(tmp_path))
        listener = Listener("lmtp", "127.0.0.1:0", tls=context, trusted_networks=("127.0.0.0/8",))
        factory = lmtp.connection_factory(world.node, listener)
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()[1]
        server.close()
        world.node.connections.abort()
        await world.node.connections.drained()

    async def test_what_was_said_before_is_forgotten(self, world: World, port: int) -> None:
        await world.given_account("alice")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.readline()).startswith(b"220 ")
        writer.write(b"XCLIENT ADDR=198.51.100.7 HELO=evil.example.org\r\n" + HELLO)
        assert b"250-STARTTLS\r\n" in await lines_until(reader, b"250 ")
        # A command behind STARTTLS, in plaintext: somebody in between has put it there.
        writer.write(b"MAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nSTARTTLS\r\nRSET\r\nQUIT\r\n")
        await lines_until(reader, b"250 2.1.5 ")
        assert await reader.readline() == b"220 2.0.0 Ready to start TLS\r\n"
        await writer.start_tls(trusting())
        writer.write(b"MAIL FROM:<>\r\n")
        assert await reader.readline() == b"503 5.5.1 Say LHLO first\r\n"
        writer.write(HELLO)
        assert b"250-STARTTLS\r\n" not in await lines_until(reader, b"250 ")
        writer.write(b"STARTTLS\r\nRCPT TO:<alice@example.com>\r\n" + ENVELOPE + b"DATA\r\na: b\r\n\r\n.\r\n")
        assert await reader.readline() == b"503 5.5.1 TLS is active\r\n"
        assert await reader.readline() == b"503 5.5.1 MAIL comes first\r\n"
        await lines_until(reader, b"250 2.0.0 Stored")
        (body,) = await world.bodies("alice")
        assert b"Received: from mx.example.net ([127.0.0.1])\r\n\tby store.example.com with LMTPS id " in body
        writer.close()

    async def test_a_transaction_may_be_open(self, world: World, port: int) -> None:
        await world.given_account("alice")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HELLO + ENVELOPE + b"BDAT 6\r\na: b\r\nSTARTTLS\r\n")
        await lines_until(reader, b"220 2.0.0 ")
        await writer.start_tls(trusting())
        writer.write(HELLO + b"BDAT 0 LAST\r\n")
        await lines_until(reader, b"503 5.5.1 MAIL comes first")
        assert await world.bodies("alice") == []
        writer.close()


async def ended(link: Link) -> None:
    """Hang up, and wait until the session has seen it."""
    await link.hang_up()
    await asyncio.wait([link.protocol._task])  # type: ignore[attr-defined]


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def lines_until(reader: asyncio.StreamReader, start: bytes) -> list[bytes]:
    """Lines up to the first that begins so."""
    lines = [b""]
    while not lines[-1].startswith(start):
        lines.append(await reader.readline())
        assert lines[-1], f"closed after {lines!r}"
    return lines


async def test_bad_commands_in_a_row_are_counted_as_configured(world: World) -> None:
    link = await world.connect(hello=HELLO)
    await world.given_limit("bad_commands", "2")
    assert [reply[:3] for reply in await ask(link, b"bad\r\nNOOP\r\nbad\r\nbad\r\n", 5)] == [
        b"500", b"250", b"500", b"500", b"421",
    ]  # fmt: skip
    await link.read_close()
