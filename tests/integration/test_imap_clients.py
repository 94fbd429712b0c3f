"""IMAP over real sockets: imaplib, TLS, and what only a socket can show."""

from __future__ import annotations

import asyncio
import imaplib
import random
import re
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sora.net.listener import Listener
from sora.net.tls import server_context
from sora.protocols.imap import connection_factory
from tests.support.certificates import write_certificate
from tests.support.imap import ImapWorld, plain
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from sora.services.node import Node

ALICE = "alice@example.com"


@pytest.fixture
async def world(node: Node) -> ImapWorld:
    world = ImapWorld(node)
    await world.given("alice: INBOX=0")
    return world


@asynccontextmanager
async def serving(node: Node, **options: Any) -> AsyncIterator[int]:
    """A listener of a node; gives its port."""
    listener = Listener("imap", "127.0.0.1:0", **options)
    context = listener.tls if listener.implicit_tls else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(connection_factory(node, listener), "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        node.connections.abort()
        await asyncio.wait_for(node.connections.drained(), 5)


async def in_thread(work: Callable[[], None]) -> None:
    """imaplib blocks, so it gets a thread and the server keeps the loop."""
    await asyncio.to_thread(work)


def log_in(port: int) -> imaplib.IMAP4:
    client = imaplib.IMAP4("127.0.0.1", port, timeout=10)
    client.login(ALICE, "secret")
    return client


def ok(answer: tuple[str, list[Any]]) -> list[Any]:
    assert answer[0] == "OK", answer
    return answer[1]


async def test_imaplib_does_all_it_knows(node: Node, world: ImapWorld) -> None:
    def work() -> None:
        c = log_in(port)
        for i in range(1, 6):
            ok(c.append("INBOX", r"(\Seen)" if i % 2 else None, None, plain(i)))
        ok(c.create("Lib"))
        assert ok(c.select("INBOX")) == [b"5"]
        assert ok(c.search(None, "SUBJECT", "Message")) == [b"1 2 3 4 5"]
        assert ok(c.search("UTF-8", "UNSEEN")) == [b"2 4"]
        ok(c.copy("2:3", "Lib"))
        ok(c.store("1", "+FLAGS", r"(\Flagged $K1)"))
        assert b"$K1" in ok(c.fetch("1", "(FLAGS)"))[0]
        assert ok(c.uid("SEARCH", "KEYWORD", "$K1")) == [b"1"]
        for i, item in enumerate(x for x in ok(c.fetch("1:*", "(BODY.PEEK[])")) if isinstance(x, tuple)):
            assert item[1] == plain(i + 1)
        ok(c.rename("Lib", "Lib2"))
        assert b"MESSAGES 2" in ok(c.status("Lib2", "(MESSAGES UIDNEXT UNSEEN)"))[0]
        assert len(ok(c.list())) == 7
        assert len(ok(c.lsub())) == 6
        ok(c.subscribe("Lib2"))
        ok(c.unsubscribe("Lib2"))
        ok(c.namespace())
        ok(c.noop())
        ok(c.check())
        ok(c.uid("MOVE", "5", "Lib2"))
        assert c.response("EXPUNGE")[1] == [b"5"]
        ok(c.store("1:4", "+FLAGS.SILENT", r"\Deleted"))
        assert len(ok(c.expunge())) == 4
        ok(c.close())
        ok(c.delete("Lib2"))
        ok(c.select("INBOX", readonly=True))
        ok(c.unselect())
        assert c.logout()[0] == "BYE"

    async with serving(node) as port:
        await in_thread(work)


async def test_authenticate_plain(node: Node, world: ImapWorld) -> None:
    def work() -> None:
        c = imaplib.IMAP4("127.0.0.1", port, timeout=10)
        ok(c.authenticate("PLAIN", lambda _: b"\0alice@example.com\0secret"))
        c.logout()
        c = imaplib.IMAP4("127.0.0.1", port, timeout=10)
        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            c.authenticate("PLAIN", lambda _: b"\0alice@example.com\0wrong")
        c.logout()

    async with serving(node) as port:
        await in_thread(work)


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_starttls_and_implicit_tls(node: Node, world: ImapWorld, tmp_path: Path) -> None:
    await world.given("cleartext: no")

    def work() -> None:
        c = imaplib.IMAP4("127.0.0.1", port, timeout=10)
        assert "STARTTLS" in c.capabilities
        assert "LOGINDISABLED" in c.capabilities
        with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
            c.login(ALICE, "secret")
        ok(c.starttls(trusting()))
        assert "STARTTLS" not in c.capabilities
        assert "AUTH=PLAIN" in c.capabilities
        with pytest.raises(imaplib.IMAP4.error, match="BAD"):
            c._simple_command("STARTTLS")
        ok(c.login(ALICE, "secret"))
        ok(c.append("INBOX", None, None, plain(1)))
        c.logout()
        c = imaplib.IMAP4_SSL("127.0.0.1", tls_port, ssl_context=trusting(), timeout=10)
        ok(c.login(ALICE, "secret"))
        assert ok(c.select()) == [b"1"]
        c.logout()

    context = server_context(*write_certificate(tmp_path))
    async with serving(node, tls=context) as port, serving(node, tls=context, implicit_tls=True) as tls_port:
        await in_thread(work)


async def test_what_comes_in_plaintext_behind_starttls_is_thrown_away(
    node: Node, world: ImapWorld, tmp_path: Path
) -> None:
    context = server_context(*write_certificate(tmp_path))
    async with serving(node, tls=context) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.readline()
        writer.write(b"a STARTTLS\r\nb NOOP\r\n")
        assert await reader.readline() == b"a OK Begin TLS now\r\n"
        await writer.start_tls(trusting())
        writer.write(b"c NOOP\r\n")
        assert await reader.readline() == b"c OK NOOP completed\r\n", "b was never heard of"
        writer.close()


async def test_answers_still_come_after_a_half_close(node: Node, world: ImapWorld) -> None:
    async with serving(node) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"a LOGIN alice@example.com secret\r\nb STATUS INBOX (MESSAGES)\r\nc LOGOUT\r\n")
        writer.write_eof()
        answer = await reader.read()
        assert answer.endswith(b"c OK LOGOUT completed\r\n")
        assert b"* STATUS INBOX (MESSAGES 0)\r\n" in answer
        writer.close()


async def test_idle_is_pushed_from_another_worker(dsn: str, node: Node, world: ImapWorld, tmp_path: Path) -> None:
    """Two processes' worth of services on one database: the notice goes through PostgreSQL."""
    async with open_node(dsn, tmp_path) as elsewhere, serving(node) as port, serving(elsewhere) as other_port:
        await asyncio.wait_for(node.changes.listening.wait(), 10)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"a LOGIN alice@example.com secret\r\nb SELECT INBOX\r\nc IDLE\r\n")
        await reader.readuntil(b"+ idling\r\n")

        def work() -> None:
            c = log_in(other_port)
            ok(c.append("INBOX", None, None, plain(1)))
            c.logout()

        await in_thread(work)
        assert await asyncio.wait_for(reader.readline(), 10) == b"* 1 EXISTS\r\n"
        assert await asyncio.wait_for(reader.readline(), 10) == b"* 1 RECENT\r\n"
        writer.close()


class Reader:
    """A client that believes what it is told, and nothing else."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self.reader, self.writer = streams
        self.messages: list[tuple[int, frozenset[bytes]]] = []
        self.exists = 0

    async def ask(self, command: str) -> list[bytes]:
        """Send, believe the answer, and ask for what is new."""
        lines = await self._exchange(command)
        while self.exists > len(self.messages):
            await self._exchange(f"FETCH {len(self.messages) + 1}:{self.exists} (UID FLAGS)")
        return lines

    async def _exchange(self, command: str) -> list[bytes]:
        self.writer.write(f"t {command}\r\n".encode())
        lines: list[bytes] = []
        while not lines or not lines[-1].startswith(b"t "):
            line = await asyncio.wait_for(self.reader.readline(), 10)
            assert line, "the server hung up"
            lines.append(line)
            self._believe(line, command)
        return lines

    def _believe(self, line: bytes, command: str) -> None:
        if match := re.match(rb"\* (\d+) EXPUNGE", line):
            assert not command.startswith(("FETCH", "STORE", "SEARCH")), f"{line!r} during {command}"
            del self.messages[int(match[1]) - 1]
            self.exists -= 1
        elif match := re.match(rb"\* (\d+) EXISTS", line):
            assert int(match[1]) >= self.exists
            self.exists = int(match[1])
        elif match := re.match(rb"\* (\d+) FETCH \((?:UID (\d+) )?FLAGS \((.*?)\)\)", line):
            index, flags = int(match[1]) - 1, frozenset(match[3].split()) - {rb"\Recent"}
            if index == len(self.messages):
                self.messages.append((int(match[2]), flags))
            elif index < len(self.messages):
                uid = self.messages[index][0]
                assert match[2] is None or int(match[2]) == uid, "a number changed its message"
                self.messages[index] = (uid, flags)


async def a_few_commands(client: Reader, chance: random.Random) -> None:
    """What real clients do, with numbers as this client knows them."""
    number = chance.randint(1, max(1, client.exists))
    action = chance.choice(["store", "uid", "delete", "expunge", "append", "copy", "noop", "search", "fetch"])
    if action == "append":
        data = plain(chance.randint(1, 9))
        await client.ask(f"APPEND INBOX {{{len(data)}+}}\r\n{data.decode()}")
    elif action in ("expunge", "noop"):
        await client.ask(action.upper())
    elif not client.exists:
        await client.ask("CHECK")
    elif action == "store":
        sign, flag = chance.choice(["+", "-", ""]), chance.choice(["\\Seen", "\\Flagged", "$Kw"])
        await client.ask(f"STORE {number} {sign}FLAGS ({flag})")
    elif action == "uid":
        await client.ask(f"UID STORE {client.messages[number - 1][0]} +FLAGS (\\Answered)")
    elif action == "delete":
        await client.ask(f"STORE {number} +FLAGS (\\Deleted)")
    elif action == "copy":
        await client.ask(f"COPY {number} INBOX")
    else:
        await client.ask("SEARCH ALL" if action == "search" else f"FETCH {number} (UID FLAGS)")


@pytest.mark.parametrize("seed", range(3))
async def test_clients_of_two_workers_agree_in_the_end(
    seed: int, dsn: str, node: Node, world: ImapWorld, tmp_path: Path
) -> None:
    """Whatever they do at once, after a poll each of them has the same picture, and it is that of the database."""
    await world.given("alice: INBOX=5")

    async def busy(client: Reader, chance: random.Random) -> None:
        for _ in range(60):
            await a_few_commands(client, chance)

    async with open_node(dsn, tmp_path) as elsewhere, serving(node) as port, serving(elsewhere) as other_port:
        clients = [Reader(await asyncio.open_connection("127.0.0.1", p)) for p in (port, port, other_port, other_port)]
        try:
            for client in clients:
                await client.reader.readline()
                await client.ask("LOGIN alice@example.com secret")
                await client.ask("SELECT INBOX")
            await asyncio.gather(*(busy(client, random.Random(seed * 10 + i)) for i, client in enumerate(clients)))
            for client in clients:
                await client.ask("NOOP")
        finally:
            for client in clients:
                client.writer.close()
        rows = await node.store.db.fetch("SELECT uid FROM messages WHERE expunged_at IS NULL ORDER BY uid")
        for client in clients:
            assert client.messages == clients[0].messages
            assert [uid for uid, _ in client.messages] == [row["uid"] for row in rows]
        mailbox = await node.store.mailboxes.get(world.accounts["alice"], "INBOX")
        wrong = await node.store.db.fetch(
            "SELECT * FROM check_mailbox($1, $2)", world.accounts["alice"], mailbox.mailbox_id
        )
        assert wrong == []
