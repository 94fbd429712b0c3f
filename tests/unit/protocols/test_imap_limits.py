"""What one client may use of a worker: compression, turns, memory."""

from __future__ import annotations

import asyncio
import imaplib
import resource
import ssl
import zlib
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest

from sora.errors import StagingFull
from sora.net import connection
from sora.net.connection import READ_AHEAD, TURN_STEPS
from sora.net.listener import Listener
from sora.net.tls import server_context
from sora.protocols.imap import append, connection_factory
from sora.store.spool_cipher import SealedSpool
from tests.support.certificates import write_certificate
from tests.support.imap import SAMPLES, ImapWorld, plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sora.protocols.imap.session import Session
    from sora.services.node import Node
    from sora.store.staging import Spool
    from tests.support.transcripts import Link

MIB = 2**20


@pytest.fixture
async def world(node: Node) -> ImapWorld:
    world = ImapWorld(node)
    await world.given("alice: INBOX=3")
    return world


def set_limits(node: Node, **changes: object) -> None:
    node.config = msgspec.structs.replace(node.config, limits=msgspec.structs.replace(node.config.limits, **changes))


def session_of(link: Link) -> Session:
    return link.protocol  # type: ignore[return-value]


async def ask(link: Link, command: str) -> list[bytes]:
    """All lines of the answer, the tagged one last and without its tag."""
    await link.send(f"t {command}\r\n".encode())
    return await answer(link)


async def answer(link: Link) -> list[bytes]:
    lines = [await link.read_line()]
    while not lines[-1].startswith(b"t "):
        lines.append(await link.read_line())
    lines[-1] = lines[-1][2:]
    return lines


async def until(true: Callable[[], bool]) -> None:
    """Let the loop run until something holds; the test's own time limit ends a wait in vain."""
    while not true():
        await asyncio.sleep(0)


# ---------------------------------------------------------------------------------------------------- COMPRESS


class Zipped:
    """The client's end of a compressed session: zlib by hand."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.out = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        self.inn = zlib.decompressobj(-zlib.MAX_WBITS)
        self.plain = b""

    def pack(self, data: bytes) -> bytes:
        return self.out.compress(data) + self.out.flush(zlib.Z_SYNC_FLUSH)

    async def read_line(self) -> bytes:
        while b"\r\n" not in self.plain:
            while not self.link.output:
                assert not self.link.closed
                await self.link._change()
            self.plain += self.inn.decompress(bytes(self.link.output))
            self.link.output.clear()
        line, _, self.plain = self.plain.partition(b"\r\n")
        return line

    async def ask(self, command: bytes, *, step: int = 0) -> list[bytes]:
        data = self.pack(b"t " + command + b"\r\n")
        for start in range(0, len(data), step or len(data)):
            await self.link.send(data[start : start + (step or len(data))])
        lines = [await self.read_line()]
        while not lines[-1].startswith(b"t "):
            lines.append(await self.read_line())
        return lines


@asynccontextmanager
async def compressed(world: ImapWorld) -> AsyncIterator[Zipped]:
    link = await world.connect(1)
    assert await ask(link, "COMPRESS DEFLATE") == [b"OK DEFLATE active"]
    yield Zipped(link)
    await link.hang_up()


@pytest.mark.parametrize("step", [0, 1])
async def test_a_compressed_session_whole_and_by_octet(world: ImapWorld, step: int) -> None:
    async with compressed(world) as client:
        assert (await client.ask(b"SELECT INBOX", step=step))[-1].startswith(b"t OK [READ-WRITE]")
        lines = await client.ask(b"FETCH 1:3 BODY.PEEK[TEXT]", step=step)
        assert [line for line in lines if line.startswith(b"Body of")] == [
            b"Body of message %d." % n for n in (1, 2, 3)
        ]
        data = plain(7)
        lines = await client.ask(b"APPEND INBOX {%d+}\r\n%s" % (len(data), data), step=step)
        assert lines[0] == b"* 4 EXISTS"


async def test_compression_begins_once_and_is_advertised_until_then(world: ImapWorld) -> None:
    async with compressed(world) as client:
        assert (await client.ask(b"COMPRESS DEFLATE"))[-1].startswith(b"t NO [COMPRESSIONACTIVE] ")
        assert b"COMPRESS" not in (await client.ask(b"CAPABILITY"))[0]
        assert (await client.ask(b"NOOP"))[-1] == b"t OK NOOP completed"


async def test_nothing_may_follow_compress_before_its_answer(world: ImapWorld) -> None:
    link = await world.connect(1)
    await link.send(b"t COMPRESS DEFLATE\r\nu NOOP\r\n")
    assert await link.read_line() == b"t BAD Something follows COMPRESS already"
    assert await link.read_line() == b"u OK NOOP completed"
    assert not session_of(link).compressed
    await link.hang_up()


async def test_compression_ends_with_the_login(world: ImapWorld) -> None:
    async with compressed(world) as client:
        assert (await client.ask(b"UNAUTHENTICATE"))[-1].startswith(b"t OK [CAPABILITY ")
        assert (await ask(client.link, "NOOP")) == [b"OK NOOP completed"]
        assert not session_of(client.link).compressed
        await ask(client.link, "LOGIN alice@example.com secret")
        assert await ask(client.link, "COMPRESS DEFLATE") == [b"OK DEFLATE active"]
        assert (await Zipped(client.link).ask(b"NOOP"))[-1] == b"t OK NOOP completed"


async def test_nothing_may_follow_the_end_of_compression(world: ImapWorld) -> None:
    async with compressed(world) as client:
        await client.link.send(client.pack(b"t UNAUTHENTICATE\r\nu NOOP\r\n"))
        assert await client.read_line() == b"t BAD Something follows UNAUTHENTICATE already"
        assert await client.read_line() == b"u OK NOOP completed"


async def test_a_login_that_ended_leaves_its_place(world: ImapWorld) -> None:
    link = await world.connect(1)
    session = session_of(link)
    account_id = session.account_id
    assert session.owner == account_id
    await ask(link, "UNAUTHENTICATE")
    assert (session.owner, session.identity, session.enabled) == (None, None, set())
    limits = msgspec.structs.replace(world.node.config.limits, connections_per_account=1)
    world.node.config = msgspec.structs.replace(world.node.config, limits=limits)
    other = await world.connect(2)
    assert await ask(other, "NOOP") == [b"OK NOOP completed"]
    await link.hang_up()
    await other.hang_up()


async def test_input_that_is_no_stream_ends_the_session(world: ImapWorld) -> None:
    async with compressed(world) as client:
        await client.link.send(b"t NOOP\r\n" * 3)
        await client.link.read_close()


async def test_a_quiet_session_gives_its_compressor_back(world: ImapWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.01)
    async with compressed(world) as client:
        deflate = session_of(client.link)._deflate
        assert deflate is not None
        for _ in range(3):
            assert (await client.ask(b"NOOP"))[-1] == b"t OK NOOP completed"
            await until(lambda: deflate._compressor is None)


async def test_a_bomb_is_taken_in_slices_and_others_have_their_turn(
    world: ImapWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 MB of blanks in 32 kB: never more than a little is held, and another session is answered meanwhile."""
    other = await world.connect(2)
    async with compressed(world) as client:
        session = session_of(client.link)
        most = 0
        received = type(session).received

        def watched(session: Session, data: bytes) -> None:
            nonlocal most
            received(session, data)
            most = max(most, session.scanner.buffered)

        monkeypatch.setattr(type(session), "received", watched)
        bomb = client.pack(b"t NOOP" + b" " * (32 * MIB) + b"\r\n")
        assert len(bomb) < 40_000
        await client.link.send(bomb)
        assert await ask(other, "NOOP") == [b"OK NOOP completed"]
        assert session._deflate is not None
        assert session._deflate.more, "the bomb is not through yet"
        assert not session._reading, "the next octets wait in the kernel"
        assert (await client.read_line()).startswith(b"t BAD ")
        assert (await client.ask(b"NOOP"))[-1] == b"t OK NOOP completed"
        assert most <= READ_AHEAD
        assert session._reading
    await other.hang_up()


@pytest.mark.parametrize("tls", [False, True])
async def test_imaplib_over_deflate(world: ImapWorld, node: Node, tmp_path: Path, tls: bool) -> None:
    """A client that others wrote, on a socket; under TLS the compressed octets are encrypted."""
    async with listening(node, server_context(*write_certificate(tmp_path)) if tls else None) as port:
        assert await asyncio.to_thread(_talk_deflate, port, tls) == b"Body of message 2.\r\n"


class Deflated(imaplib.IMAP4):
    """imaplib with the streams put in between."""

    def compress(self) -> None:
        assert self._simple_command("COMPRESS", "DEFLATE")[0] == "OK"
        self._in, self._plain = zlib.decompressobj(-15), b""
        self._out = zlib.compressobj(6, zlib.DEFLATED, -15)
        self.read, self.readline = self._read, self._readline  # type: ignore[method-assign]
        self.send = self._send  # type: ignore[method-assign, assignment]

    def _fill(self) -> None:
        data = self.sock.recv(65536)
        assert data
        self._plain += self._in.decompress(data)

    def _read(self, size: int) -> bytes:
        while len(self._plain) < size:
            self._fill()
        taken, self._plain = self._plain[:size], self._plain[size:]
        return taken

    def _readline(self) -> bytes:
        while b"\n" not in self._plain:
            self._fill()
        return self._read(self._plain.index(b"\n") + 1)

    def _send(self, data: bytes) -> None:
        self.sock.sendall(self._out.compress(data) + self._out.flush(zlib.Z_SYNC_FLUSH))


def _talk_deflate(port: int, tls: bool) -> bytes:
    imaplib.Commands["COMPRESS"] = ("AUTH",)
    client = Deflated("127.0.0.1", port)
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client.starttls(context)
        assert "COMPRESS=DEFLATE" not in client.capabilities
    client.login("alice@example.com", "secret")
    client.compress()
    client.select("INBOX")
    _, found = client.fetch("2", "(BODY.PEEK[TEXT])")
    client.logout()
    return found[0][1]  # type: ignore[index,return-value]


@asynccontextmanager
async def listening(node: Node, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    factory = connection_factory(node, Listener("imap", "127.0.0.1:143", tls=tls))
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        node.connections.abort()
        await node.connections.drained()


# ---------------------------------------------------------------------------------------------------- turns


async def test_a_flood_of_commands_gets_its_share_and_no_more(
    world: ImapWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "TURN_S", 3600.0)  # steps alone decide
    flood, other = await world.connect(1), await world.connect(2)
    flooding = session_of(flood)
    flooding._new_turn()
    session_of(other)._new_turn()
    await flood.send(b"f NOOP\r\n" * 8000)
    for _ in range(5):
        before = flooding._commands
        assert await ask(other, "NOOP") == [b"OK NOOP completed"]
        assert 0 < flooding._commands - before <= 6 * TURN_STEPS
    assert flooding._commands < 4000
    await until(lambda: flood.output.count(b"\n") == 8000)
    await flood.hang_up()
    await other.hang_up()


@pytest.mark.parametrize(
    ("command", "least"),
    [
        ("SEARCH " + "UNSEEN " * 900 + "ALL", 900 // TURN_STEPS),
        (f"FETCH 1 ({' '.join(f'BODY.PEEK[HEADER.FIELDS (X{n})]' for n in range(1500))})", 1),
        ('LIST "" *', 300 * 2 // TURN_STEPS),
    ],
    ids=["search", "sections", "list"],
)
async def test_long_work_lets_others_have_their_turn(
    world: ImapWorld, node: Node, monkeypatch: pytest.MonkeyPatch, command: str, least: int
) -> None:
    monkeypatch.setattr(connection, "TURN_S", 3600.0)
    if command.startswith("LIST"):
        for number in range(300):
            await node.store.mailboxes.create(world.accounts["alice"], f"box{number}")
    link = await world.connect(1)
    await ask(link, "SELECT INBOX")
    session = session_of(link)
    session._new_turn()
    turns = 0
    new_turn = session._new_turn

    def counted() -> None:
        nonlocal turns
        turns += 1
        new_turn()

    monkeypatch.setattr(type(session), "_new_turn", lambda _: counted())
    assert (await ask(link, command))[-1].startswith(b"OK")
    assert turns > least, "one turn begins with the command itself"
    await link.hang_up()


# ---------------------------------------------------------------------------------------------------- memory


def resident() -> int:
    """Octets of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Growth:
    """The most that the process grew over its start; asked often."""

    def __init__(self) -> None:
        self._start = resident()
        self.most = 0

    def look(self) -> bool:
        self.most = max(self.most, resident() - self._start)
        return True


async def test_a_client_that_asks_for_much_and_reads_nothing(world: ImapWorld, node: Node) -> None:
    """10,000 commands, each of them worth a megabyte: one answer is on its way, and no more is worked out."""
    await world.given("alice: Big=big,big,big")
    growth = Growth()
    async with listening(node) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(b"a LOGIN alice@example.com secret\r\nb SELECT Big\r\n")
        while not (await reader.readline()).startswith(b"b OK"):
            growth.look()
        session: Session = next(iter(node.connections))  # type: ignore[assignment]
        writer.write(b"c FETCH 1:3 BODY.PEEK[]\r\n" * 10000)
        await until(lambda: growth.look() and session._writable is not None)
        done = session._commands
        for _ in range(300):
            await asyncio.sleep(0)
            growth.look()
        assert session._commands <= done + 1
        assert session._bytes_out < 16 * len(SAMPLES["big"])
        writer.transport.abort()
    assert growth.most < 64 * MIB


async def test_small_messages_wait_for_their_reader_too(world: ImapWorld) -> None:
    await world.given("alice: Many=40")
    link = await world.connect(1)
    await ask(link, "SELECT Many")
    session = session_of(link)
    session.pause_writing()
    await link.send(b"t FETCH 1:* (UID BODY.PEEK[])\r\n")
    await until(lambda: bool(link.output))
    assert link.output.count(b"FETCH (UID") == 1
    session.resume_writing()
    assert (await answer(link))[-1] == b"OK FETCH completed"
    await link.hang_up()


async def test_many_sections_of_a_large_message_are_cut_out_one_by_one(world: ImapWorld) -> None:
    """300 times 320 kB are asked for in one command."""
    await world.given("alice: Big=big")
    link = await world.connect(1)
    await ask(link, "SELECT Big")
    growth = Growth()
    session = session_of(link)
    sections = " ".join(f"BODY.PEEK[]<{n}.400000>" for n in range(300))
    total = 0
    await link.send(f"t FETCH 1 ({sections})\r\n".encode())
    while not link.output.endswith(b"t OK FETCH completed\r\n"):
        await until(lambda: bool(link.output))
        growth.look()
        total += len(link.output)
        assert len(link.output) < 16 * MIB
        link.output[:] = link.output[-64:]
        await asyncio.sleep(0)
    assert total > 290 * len(SAMPLES["big"]) / 2
    assert session.alive
    assert growth.most < 48 * MIB
    await link.hang_up()


async def test_hostile_appends_cost_no_memory(world: ImapWorld, node: Node) -> None:
    """Too large, drained; announced and never sent; sent a little, on twenty connections."""
    set_limits(node, message_size=40_000_000)
    growth = Growth()
    link = await world.connect(1)
    await link.send(b"t APPEND INBOX {80000000+}\r\n")
    for _ in range(80_000_000 // 250_000):
        await link.send(b"x" * 250_000)
        growth.look()
    await link.send(b"\r\n")
    assert (await answer(link))[-1] == b"NO [TOOBIG] A message may have 40000000 octets"
    links = [await world.connect(n) for n in range(2, 22)]
    for other in links:
        await other.send(b"t APPEND INBOX {40000000+}\r\n" + b"x" * 100_000)
        growth.look()
    assert await ask(link, "NOOP") == [b"OK NOOP completed"]
    for other in links:
        await other.hang_up()
    await link.hang_up()
    assert growth.most < 48 * MIB


async def test_large_appends_are_not_held_in_memory(world: ImapWorld, node: Node) -> None:
    """Half received on eight connections, in one message and in many."""
    growth = Growth()
    links = [await world.connect(n) for n in range(1, 9)]
    for n, link in enumerate(links):
        await link.send(b"t APPEND INBOX" + (b" {40000000+}\r\n" if n % 2 else b""))
        for _ in range(8):
            if n % 2 == 0:
                await link.send(b" {2000000+}\r\n")
            for _ in range(8):
                await link.send(b"x" * 250_000)
                growth.look()
    assert growth.most < 48 * MIB
    for link in links:
        await link.hang_up()


async def test_a_spooled_append_is_stored_as_it_came(world: ImapWorld) -> None:
    await world.given("alice: Twice=0")
    messages = [plain(n) + bytes(range(1, 256)) * repeats for n, repeats in enumerate([10_000, 1, 5000, 1100, 1100])]
    link = await world.connect(1)
    await link.send(b"t APPEND Twice")
    for message in messages:
        await link.send(b" {%d+}\r\n" % len(message))
        for start in range(0, len(message), 99_999):
            await link.send(message[start : start + 99_999])
    await link.send(b"\r\n")
    assert (await answer(link))[-1].startswith(b"OK [APPENDUID ")
    await ask(link, "SELECT Twice")
    for number, message in enumerate(messages, 1):
        await link.send(b"t FETCH %d BODY.PEEK[]\r\n" % number)
        assert await link.read_line() == b"* %d FETCH (BODY[] {%d}" % (number, len(message))
        await until(lambda: len(link.output) >= len(message))  # noqa: B023 — done before the next turn
        assert bytes(link.output[: len(message)]) == message
        del link.output[: len(message)]
        assert await answer(link) == [b")", b"OK FETCH completed"]
    await link.hang_up()


async def test_an_append_without_room_is_put_off(world: ImapWorld, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise StagingFull

    monkeypatch.setattr(node.staging, "spool", full)
    link = await world.connect(1)
    large = b"x" * 1_500_000
    await link.send(b"t APPEND INBOX {1500000+}\r\n" + large + b"\r\n")
    assert (await answer(link))[-1].startswith(b"NO [UNAVAILABLE]")
    await link.send(b"t APPEND INBOX {1500000+}\r\n" + large + b" {5}\r\n")
    assert (await answer(link))[-1].startswith(b"NO [UNAVAILABLE]"), "the second message is not asked for"
    assert (await ask(link, "STATUS INBOX (MESSAGES)"))[0] == b"* STATUS INBOX (MESSAGES 3)"
    await link.hang_up()


@pytest.mark.parametrize(
    "end", [b" nonsense\r\n", b" {5}\r\n\r\nx", b" {99999999+}\r\n", b" (\\Seen) {0+}\r\n\r\n", b"x" * 100_000]
)
async def test_an_append_that_comes_to_nothing_leaves_nothing(world: ImapWorld, node: Node, end: bytes) -> None:
    set_limits(node, literal=20)
    link = await world.connect(1)
    await link.send(b"t APPEND INBOX {1500000+}\r\n" + b"x" * 1_500_000 + end)
    if end.startswith(b" {5}"):
        assert await link.read_line() == b"+ OK"
        await link.send(b"xxxx junk\r\n")
    assert not (await answer(link))[-1].startswith(b"OK")
    assert session_of(link).appending is None
    await link.hang_up()


async def test_a_spool_ends_with_its_session(world: ImapWorld) -> None:
    link = await world.connect(1)
    session = session_of(link)
    await link.send(b"t APPEND INBOX {3000000+}\r\n" + b"x" * 2_000_000)
    await until(lambda: (spool := spool_of(session)) is not None and spool.size > 1_000_000)
    spool = spool_of(session)
    assert spool is not None
    await link.hang_up()
    await until(lambda: spool._fd < 0)
    assert session.appending is None


def spool_of(session: Session) -> Spool | None:
    """Where the message goes that is arriving; None until it is large."""
    if session.appending is None or session.appending._intake is None:
        return None
    return session.appending._intake._spool


async def test_the_messages_of_one_append_are_bounded_together(
    world: ImapWorld, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "MULTIAPPEND_BYTES", 1000)
    monkeypatch.setattr(append, "MULTIAPPEND_MESSAGES", 5)
    set_limits(node, message_size=600)
    link = await world.connect(1)

    def command(sizes: list[int]) -> bytes:
        return b"t APPEND INBOX" + b"".join(b" {%d+}\r\n" % size + b"x" * size for size in sizes) + b"\r\n"

    await link.send(command([500, 500]))
    assert (await answer(link))[-1].startswith(b"OK [APPENDUID ")
    await link.send(command([500, 501]))
    assert (await answer(link))[-1] == b"NO [TOOBIG] The messages of this command are too big together"
    await link.send(command([1] * 5))
    assert (await answer(link))[-1].startswith(b"OK [APPENDUID ")
    await link.send(command([1] * 6))
    assert (await answer(link))[-1] == b"NO [LIMIT] One command may have 5 messages"
    assert (await ask(link, "STATUS INBOX (MESSAGES)"))[0] == b"* STATUS INBOX (MESSAGES 10)"
    await link.hang_up()


async def test_messages_that_take_memory_wait_for_their_turn(
    world: ImapWorld, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With encryption on a spooled message is in memory while it is stored: few are, however many sessions append."""
    monkeypatch.setattr(node.staging, "_cipher", SealedSpool)
    turns = Turns(1)
    monkeypatch.setattr(node.staging, "mapped", turns)
    append_now, go, storing = node.delivery.append, asyncio.Event(), 0

    async def slowly(*args: Any) -> Any:
        nonlocal storing
        storing += 1
        await go.wait()
        return await append_now(*args)

    monkeypatch.setattr(node.delivery, "append", slowly)
    links = [await world.connect(1) for _ in range(3)]
    large = b" {1500000+}\r\n" + b"x" * 1_500_000
    for link in links:
        await link.send(b"t APPEND INBOX" + 3 * large + b"\r\n")
    await until(lambda: storing + turns.waiting == 3)
    assert storing == 1
    go.set()
    for link in links:
        assert (await answer(link))[-1].startswith(b"OK [APPENDUID ")
        await link.hang_up()
    assert not node.staging.mapped.locked()
    assert node.staging._usage.unnamed == 0


class Turns(asyncio.Semaphore):
    """Counts who waits."""

    waiting = 0

    async def acquire(self) -> Literal[True]:
        self.waiting += 1
        try:
            return await super().acquire()
        finally:
            self.waiting -= 1


async def test_an_append_asks_for_its_mailbox_once(
    world: ImapWorld, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    find_target = node.store.mailboxes.find_target

    async def counted(*args: object) -> object:
        nonlocal asked
        asked += 1
        return await find_target(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(node.store.mailboxes, "find_target", counted)
    link = await world.connect(1)
    await link.send(b"t APPEND INBOX {1+}\r\nx {1+}\r\nx {1+}\r\nx\r\n")
    assert (await answer(link))[-1].startswith(b"OK")
    await link.send(b"t APPEND Nowhere {1+}\r\nx {1+}\r\nx\r\n")
    assert (await answer(link))[-1].startswith(b"NO [TRYCREATE]")
    assert asked == 2
    await link.hang_up()


# ---------------------------------------------------------------------------------------------------- live limits


async def test_limits_hold_as_they_are_now(world: ImapWorld, node: Node) -> None:
    link = await world.connect(1)
    assert await ask(link, "NOOP") == [b"OK NOOP completed"]
    set_limits(node, command_line=100, literal=10, message_size=20, bad_commands=3)
    assert (await ask(link, "NOOP " + "x" * 100))[-1].startswith(b"BAD [TOOBIG]")
    assert (await ask(link, "STATUS {11}"))[-1].startswith(b"BAD [TOOBIG]")
    assert (await ask(link, "APPEND INBOX {21}"))[-1].startswith(b"NO [TOOBIG]")
    set_limits(node, command_line=1000)
    fields = " ".join(['"a" "b"'] * 30)
    assert (await ask(link, f"ID ({fields})"))[-1] == b"OK ID completed"
    for _ in range(2):
        assert (await ask(link, "NONSENSE"))[-1].startswith(b"BAD")
    await link.send(b"t NONSENSE\r\n")
    assert (await link.read_line()).startswith(b"t BAD")
    assert (await link.read_line()).startswith(b"* BYE [CLIENTBUG]")
    await link.read_close()
