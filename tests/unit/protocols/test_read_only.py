"""A database that takes no changes: mail is read over every protocol, and every change is refused for now."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import msgspec
import pytest

from sora.errors import DatabaseReadOnly, Unavailable
from sora.net.listener import Listener
from sora.protocols import imap, lmtp, managesieve, pop3
from sora.services.logins import passwords
from tests.support.imap import QUOTA, ImapWorld
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sora.services.node import Node

    Switch = Callable[[bool], Awaitable[None]]

SERVERS: Final = {"imap": imap, "lmtp": lmtp, "managesieve": managesieve, "pop3": pop3}
SECRET: Final = "secret"
PLAIN: Final = base64.b64encode(f"\0alice@example.com\0{SECRET}".encode())
CHEAP: Final = passwords.HashCost(memory_kib=8, passes=1, lanes=1)


class Talk:
    """A client of a line protocol."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def line(self) -> str:
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 10)).decode().rstrip("\r\n")

    async def ask(self, text: str) -> str:
        """A command with a reply of one line."""
        self.writer.write(text.encode() + b"\r\n")
        return await self.line()

    async def imap(self, text: str) -> list[str]:
        """An IMAP command; all lines up to the tagged one."""
        self.writer.write(f"t {text}\r\n".encode())
        lines = [await self.line()]
        while not lines[-1].startswith("t "):
            lines.append(await self.line())
        return lines


class World:
    """A node with mail and a script, its servers, and a switch."""

    def __init__(self, node: Node, switch: Switch) -> None:
        self.node = node
        self.switch = switch
        self.ports: dict[str, int] = {}
        self.open: list[asyncio.StreamWriter] = []

    async def talk(self, server: str, greeting: int = 1) -> Talk:
        talk = Talk(*await asyncio.open_connection("127.0.0.1", self.ports[server]))
        self.open.append(talk.writer)
        for _ in range(greeting):
            await talk.line()
        return talk

    async def logged_in(self) -> Talk:
        talk = await self.talk("imap")
        assert (await talk.imap(f"LOGIN alice@example.com {SECRET}"))[-1].startswith("t OK")
        return talk

    async def count(self) -> int:
        """Messages that live, as another client of the database sees them."""
        return int(await self.node.store.db.fetchval("SELECT sum(message_count) FROM mailbox_stats"))


@asynccontextmanager
async def servers(world: World) -> AsyncIterator[None]:
    running = []
    for name, module in SERVERS.items():
        factory: Any = module.connection_factory(world.node, Listener(name, "127.0.0.1:0"))
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        world.ports[name] = server.sockets[0].getsockname()[1]
        running.append(server)
    try:
        yield
    finally:
        for writer in world.open:
            writer.close()
        world.node.connections.stop()
        await asyncio.wait_for(world.node.connections.drained(), 10)
        for server in running:
            server.close()


@pytest.fixture(params=["key", "database"])
async def world(request: pytest.FixtureRequest, dsn: str, tmp_path: Path) -> AsyncIterator[World]:
    """Two ways: `database.read_only` of the node, and a setting of the database, of which nobody tells the node."""
    name = dsn.partition("?")[0].rpartition("/")[2]

    async def by_key(on: bool) -> None:
        table = msgspec.structs.replace(node.config.database, read_only=on)
        node.take_live(msgspec.structs.replace(node.config, database=table))

    async def by_database(on: bool) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(
                f"ALTER DATABASE {name} SET default_transaction_read_only = {'on' if on else 'off'}"
            )
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid()"
            )
        finally:
            await connection.close()
        known = None
        while known is not on:  # connections that were cut are found out one by one
            try:
                await node.store.db.ping()
                known = False
            except Unavailable as error:
                known = True if isinstance(error, DatabaseReadOnly) else None

    async with open_node(dsn, tmp_path, auth={"cache_ttl": "0s"}) as node:
        fill = ImapWorld(node)
        await fill.given("alice: INBOX=3 Other=0")
        account_id = fill.accounts["alice"]
        await node.store.scripts.put(account_id, "rules", b"keep;", QUOTA)
        await node.store.leases.register(node.instance_id)
        world = World(node, by_key if request.param == "key" else by_database)
        async with servers(world):
            yield world


CHANGES: Final = (
    "STORE 1 +FLAGS (\\Answered)",
    "EXPUNGE",
    "UID EXPUNGE 1",
    "COPY 1 Other",
    "MOVE 1 Other",
    "CREATE New",
    "DELETE Other",
    "RENAME Other Another",
    "SUBSCRIBE Other",
    "UNSUBSCRIBE INBOX",
    "SETACL Other anyone lr",
    'SETMETADATA INBOX (/private/comment "x")',
    "APPEND INBOX {4+}\r\na: b",
)


async def test_imap(world: World) -> None:
    await world.switch(True)
    talk = await world.logged_in()
    lines = await talk.imap("SELECT INBOX")
    assert lines[-1].startswith("t OK [READ-ONLY]"), lines
    assert "* OK [PERMANENTFLAGS ()] Read-only mailbox" in lines
    before = await world.count()
    for change in CHANGES:
        lines = await talk.imap(change)
        assert lines[-1].startswith("t NO [UNAVAILABLE] Read-only"), (change, lines)
    lines = await talk.imap("FETCH 1 (FLAGS BODY[HEADER.FIELDS (SUBJECT)])")
    assert lines[-1].startswith("t OK")
    assert not any("\\Seen" in line for line in lines)
    for reading in ("SEARCH ALL", 'LIST "" *', "STATUS Other (MESSAGES)", "EXAMINE Other", "SELECT INBOX", "CLOSE"):
        assert (await talk.imap(reading))[-1].startswith("t OK"), reading
    assert await world.count() == before


async def test_imap_sessions_that_stay(world: World) -> None:
    """A client that has selected its mailbox hears of both changes of access, and goes on without a new SELECT."""
    talk, examined = await world.logged_in(), await world.logged_in()
    assert (await talk.imap("SELECT INBOX"))[-1].startswith("t OK [READ-WRITE]")
    assert (await examined.imap("EXAMINE INBOX"))[-1].startswith("t OK [READ-ONLY]")
    assert (await talk.imap("STORE 3 +FLAGS.SILENT (\\Deleted)"))[-1].startswith("t OK")
    await world.switch(True)
    refused = [await talk.imap("STORE 1 +FLAGS (\\Flagged)") for _ in range(2)]
    lines = [line for answer in refused for line in answer]
    assert sum(line.startswith("* OK [READ-ONLY]") for line in lines) == 1, lines
    assert refused[-1][-1].startswith("t NO [UNAVAILABLE]")
    lines = await talk.imap("FETCH 1 (BODY[])")
    assert lines[-1].startswith("t OK")
    assert "READ-" not in "".join(await examined.imap("NOOP") + await examined.imap("SEARCH UNSEEN"))
    await world.switch(False)
    lines = []
    while not any(line.startswith("* OK [READ-WRITE]") for line in lines):
        lines = await talk.imap("STATUS Other (MESSAGES)")
        assert lines[-1].startswith("t OK"), lines
    assert any("PERMANENTFLAGS" in line and "\\Answered" in line for line in lines), lines
    lines = await talk.imap("STORE 1 +FLAGS (\\Flagged)")
    assert lines[-1].startswith("t OK"), lines
    assert (await examined.imap("STORE 1 +FLAGS (\\Flagged)"))[-1] == "t NO Mailbox is read-only"
    assert await world.count() == 3
    assert (await talk.imap("CLOSE"))[-1].startswith("t OK")
    assert await world.count() == 2, "CLOSE expunges again"


async def test_close_says_what_it_did_not_do(world: World) -> None:
    """Selected read-write: OK would mean that the messages are gone."""
    talk = await world.logged_in()
    await talk.imap("SELECT INBOX")
    await talk.imap("STORE 1 +FLAGS.SILENT (\\Deleted)")
    await world.switch(True)
    answers = [(await talk.imap("CLOSE"))[-1] for _ in range(2)]
    assert answers[0].startswith("t NO [UNAVAILABLE]")
    assert answers[1].startswith("t OK"), "now the client knows that the mailbox is read-only"
    assert await world.count() == 3


async def test_reading_while_the_mode_begins_delivers_the_body(world: World) -> None:
    talk = await world.logged_in()
    await talk.imap("SELECT INBOX")
    await world.switch(True)
    for _ in range(2):
        lines = await talk.imap("FETCH 1 (BODY[])")
        assert lines[-1].startswith("t OK"), lines
        assert any(line.startswith("* 1 FETCH") for line in lines)


async def test_lmtp(world: World) -> None:
    await world.switch(True)
    talk = await world.talk("lmtp")
    talk.writer.write(b"LHLO x\r\n")
    while (await talk.line())[3] != " ":
        pass
    for _ in range(2):
        for command in ("MAIL FROM:<s@example.org>", "RCPT TO:<alice@example.com>"):
            assert (await talk.ask(command)).startswith("250")
        assert (await talk.ask("DATA")).startswith("354")
        assert (await talk.ask("a: b\r\n\r\nc\r\n.")).startswith("451 4.3.0")
    assert await world.count() == 3
    await world.switch(False)
    answer = ""
    while not answer.startswith("250"):  # a connection to the database that was cut is found out
        await talk.ask("RSET")
        await talk.ask("MAIL FROM:<s@example.org>")
        await talk.ask("RCPT TO:<alice@example.com>")
        await talk.ask("DATA")
        answer = await talk.ask("a: b\r\n\r\nc\r\n.")
        assert answer[:3] in {"250", "451"}
    assert await world.count() == 4


async def test_pop3(world: World) -> None:
    await world.switch(True)
    first, second = await world.talk("pop3"), await world.talk("pop3")
    for talk in (first, second):
        await talk.ask("USER alice@example.com")
        assert (await talk.ask(f"PASS {SECRET}")).startswith("+OK"), "nobody can remove anything, so both may read"
    assert (await first.ask("STAT")).startswith("+OK 3 ")
    assert (await first.ask("RETR 1")).startswith("+OK")
    while await first.line() != ".":
        pass
    assert (await first.ask("DELE 1")).startswith("-ERR [SYS/TEMP] Read-only")
    assert (await first.ask("DELE 9")).startswith("-ERR No such message")
    assert (await first.ask("QUIT")).startswith("+OK")
    assert await world.count() == 3


async def test_pop3_marks_of_a_session_that_stays(world: World) -> None:
    talk = await world.talk("pop3")
    await talk.ask("USER alice@example.com")
    assert (await talk.ask(f"PASS {SECRET}")).startswith("+OK")
    assert (await talk.ask("DELE 1")).startswith("+OK")
    await world.switch(True)
    assert (await talk.ask("QUIT")).startswith("-ERR [SYS/TEMP] Marked messages were not removed")
    assert await world.count() == 3


async def test_managesieve(world: World) -> None:
    await world.switch(True)
    talk = await world.talk("managesieve", greeting=0)
    while not (await talk.line()).startswith("OK"):
        pass
    talk.writer.write(b'AUTHENTICATE "PLAIN" "%b"\r\n' % PLAIN)
    answer = await talk.line()
    assert answer.startswith("OK"), answer
    for change in (
        'PUTSCRIPT "new" {5+}\r\nstop;',
        'SETACTIVE "rules"',
        'DELETESCRIPT "rules"',
        'RENAMESCRIPT "rules" "b"',
    ):
        answer = await talk.ask(change)
        assert answer.startswith("NO (TRYLATER)"), (change, answer)
    assert (await talk.ask("CHECKSCRIPT {5+}\r\nstop;")).startswith("OK")
    assert (await talk.ask('GETSCRIPT "rules"')).startswith("{5}")


async def test_a_login_writes_nothing_that_it_needs(world: World) -> None:
    """A hash of another cost would be replaced, a failure would be counted for all nodes."""
    old = passwords.hash_password(SECRET, CHEAP)
    await world.node.store.db.execute("UPDATE credentials SET hash = $1", old)
    await world.switch(True)
    talk = await world.talk("imap")
    for _ in range(2):
        assert (await talk.imap("LOGIN alice@example.com wrong"))[-1].startswith("t NO [AUTHENTICATIONFAILED]")
    assert (await talk.imap(f"LOGIN alice@example.com {SECRET}"))[-1].startswith("t OK")
    assert await world.node.store.db.fetchval("SELECT hash FROM credentials") == old
    with pytest.raises(DatabaseReadOnly):
        await world.node.store.db.ping()
