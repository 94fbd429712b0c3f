"""POP3 sessions on a real node; transcripts under tests/transcripts/pop3, the rest here."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio

from sora import errors
from sora.net.connection import TURN_STEPS
from sora.net.listener import Listener
from sora.net.tls import server_context
from sora.protocols import pop3
from sora.protocols.pop3 import session
from sora.protocols.pop3.replies import code_of, reply_to
from sora.protocols.pop3.state import AUTHORIZATION, BOTH
from sora.protocols.pop3.verbs import VERBS
from sora.services import maildrop
from sora.services.logins.limits import Limits
from sora.wire.pop3 import write_unique_id
from tests.support import transcripts
from tests.support.certificates import write_certificate
from tests.support.pop3 import SAMPLES, Pop3World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sora.services.node import Node
    from sora.store import leases
    from sora.store.blobs import BlobRef
    from sora.store.bodies import Bodies
    from tests.support.transcripts import Link

FOLDER: Final = Path(__file__).parents[2] / "transcripts" / "pop3"
LOGIN: Final = b"USER alice@example.com\r\nPASS secret word\r\n"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared_node: Node) -> AsyncIterator[Pop3World]:
    config = shared_node.config
    world = Pop3World(shared_node)
    await world.open()
    yield world
    await world.close()
    shared_node.take_live(config)


@pytest.mark.parametrize(("path", "mode"), transcripts.parameters(FOLDER))
async def test_transcript(path: Path, mode: str, world: Pop3World) -> None:
    await transcripts.play(path, world, mode)


@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_has_a_transcript(verb: str) -> None:
    assert any(f"C: {verb}" in path.read_text(encoding="utf-8") for path in FOLDER.glob("*.txt"))


def arguments(verb: str) -> str:
    """The fewest words that a verb takes."""
    return " ".join([verb, *["1"] * VERBS[verb].arguments[0]])


@pytest.mark.parametrize("verb", [verb for verb, row in VERBS.items() if row.states != BOTH])
async def test_every_verb_is_refused_in_the_wrong_state(verb: str, world: Pop3World) -> None:
    await world.account("alice", "1")
    link = await world.connect(1)
    if VERBS[verb].states is AUTHORIZATION:
        await ask(link, LOGIN, 2)
    assert await ask(link, arguments(verb).encode() + b"\r\n", 1) == [b"-ERR Not in this state"]
    await link.hang_up()


def every(error: type[errors.SoraError]) -> Iterator[type[errors.SoraError]]:
    yield error
    for child in error.__subclasses__():
        yield from every(child)


async def test_every_error_has_a_reply() -> None:
    codes = {"", "AUTH", "IN-USE", "LOGIN-DELAY", "SYS/PERM", "SYS/TEMP"}
    assert {code_of(error()) for error in every(errors.SoraError)} == codes
    assert reply_to(errors.DatabaseDown("a\r\nb")) == b"-ERR [SYS/TEMP] a b\r\n"
    assert reply_to(errors.NotFound()) == b"-ERR Not found\r\n"


async def ask(link: Link, data: bytes, replies: int) -> list[bytes]:
    """Send, and read so many lines."""
    await link.send(data)
    return [await link.read_line() for _ in range(replies)]


async def logged_in(world: Pop3World, content: str) -> Link:
    await world.account("alice", content)
    link = await world.connect(1)
    await ask(link, LOGIN, 2)
    return link


async def until(link: Link, end: bytes) -> bytes:
    """All octets up to and with an end."""
    while end not in link.output:
        await link._change()
    text, _, rest = bytes(link.output).partition(end)
    link.output[:] = rest
    return text + end


async def test_a_message_with_bare_line_ends_comes_as_it_is_with_its_dots_stuffed(world: Pop3World) -> None:
    link = await logged_in(world, "bare")
    await link.send(b"RETR 1\r\n")
    assert await link.read_line() == b"+OK %d octets" % len(SAMPLES["bare"])
    assert await until(link, b"\r\n.\r\n") == b"Subject: bare\n\n..\nmore\n...\nno end\r\n.\r\n"
    await link.hang_up()


async def test_a_large_message_comes_whole_through_a_slow_reader(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.account("alice", "0")
    data = b"Subject: big\r\n\r\n" + b".line of text\r\n" * 100_000
    await world.append("alice", data)
    link = await world.connect(1)
    await ask(link, LOGIN, 2)
    wrote = link.wrote

    def fill_up(octets: bytes) -> None:
        wrote(octets)
        link.protocol.pause_writing()

    monkeypatch.setattr(link, "wrote", fill_up)
    await link.send(b"RETR 1\r\n")
    first = await link.read_line()
    assert first == b"+OK %d octets" % len(data)
    assert 0 < len(link.output) < 200_000
    monkeypatch.undo()
    link.protocol.resume_writing()
    text = await until(link, b"\r\n.\r\n")
    assert text.replace(b"\r\n..", b"\r\n.") == data + b".\r\n"
    await link.hang_up()


async def test_a_small_message_leaves_in_one_piece(world: Pop3World, monkeypatch: pytest.MonkeyPatch) -> None:
    link = await logged_in(world, "dots")
    pieces: list[bytes] = []
    wrote = link.wrote

    def note(octets: bytes) -> None:
        pieces.append(octets)
        wrote(octets)

    monkeypatch.setattr(link, "wrote", note)
    await ask(link, b"RETR 1\r\n", 1)
    await until(link, b"\r\n.\r\n")
    assert len(pieces) == 1
    await link.hang_up()


async def test_a_session_that_has_all_its_commands_gives_others_their_turn(world: Pop3World) -> None:
    link = await logged_in(world, "1")
    link.protocol.data_received(b"NOOP\r\n" * 1000)
    turns = 0
    while link.output.count(b"+OK\r\n") < 1000:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 1000 // TURN_STEPS
    link.output.clear()
    await link.hang_up()


class Slow:
    """Bodies that come when the test says so."""

    def __init__(self, bodies: Bodies) -> None:
        self.asked: list[int] = []
        self.come = asyncio.Event()
        self._bodies = bodies

    def get_now(self, ref: BlobRef) -> bytes | None:
        return self._bodies.get_now(ref) if self.come.is_set() else None

    async def get(self, ref: BlobRef) -> bytes:
        self.asked.append(ref.content_id)
        await self.come.wait()
        return await self._bodies.get(ref)


async def test_bodies_behind_one_that_must_be_waited_for_are_fetched_with_it(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await logged_in(world, "5")
    slow = Slow(world.node.bodies)
    monkeypatch.setattr(world.node, "bodies", slow)
    await link.send(b"RETR 1\r\n")
    while len(slow.asked) < 1 + maildrop.BODIES_AHEAD:
        await asyncio.sleep(0)
    slow.come.set()
    await until(link, b"\r\n.\r\n")
    for number in range(2, 6):
        await ask(link, b"RETR %d\r\n" % number, 1)
        await until(link, b"\r\n.\r\n")
    assert len(slow.asked) == len(set(slow.asked)) == 1 + maildrop.BODIES_AHEAD
    await link.hang_up()


async def test_unique_ids_differ_over_uidvalidity() -> None:
    assert len({write_unique_id(v, u) for v, u in ((1, 1), (1, 17), (17, 1), (1, 0x11))}) == 3


async def test_an_idle_session_ends_without_a_word_and_removes_nothing(world: Pop3World) -> None:
    world.limit(pop3_idle_timeout=0.05)
    link = await logged_in(world, "1")
    assert await ask(link, b"DELE 1\r\n", 1) == [b"+OK Message 1 marked"]
    await link.read_close()
    assert link.output == b""
    assert await world.uids("alice") == [1]


async def test_a_session_that_does_not_log_in_ends(world: Pop3World) -> None:
    world.limit(login_timeout=0.05)
    link = await world.connect(1)
    await link.read_close()
    assert link.output == b""


async def test_a_cut_session_removes_nothing_and_frees_its_maildrop(world: Pop3World) -> None:
    link = await logged_in(world, "1")
    await ask(link, b"DELE 1\r\n", 1)
    await link.hang_up()
    await link.protocol._task  # type: ignore[attr-defined]
    assert await world.uids("alice") == [1]
    other = await world.connect(2)
    assert (await ask(other, LOGIN, 2))[1].startswith(b"+OK 1 messages")
    await other.hang_up()


async def test_the_lease_is_renewed_while_the_session_waits(world: Pop3World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildrop, "RENEW_S", 0.0)
    monkeypatch.setattr(session, "RENEW_S", 0.01)
    renewed = asyncio.Event()
    renew = world.node.store.leases.renew

    async def watched(lease: leases.Lease, *, ttl_s: float) -> bool:
        done = await renew(lease, ttl_s=ttl_s)
        assert done
        renewed.set()
        return done

    monkeypatch.setattr(world.node.store.leases, "renew", watched)
    link = await logged_in(world, "1")
    await asyncio.wait_for(renewed.wait(), 10)
    await link.hang_up()


async def test_a_lease_that_cannot_be_renewed_is_logged_and_the_session_goes_on(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(maildrop, "RENEW_S", 0.0)
    link = await logged_in(world, "1")
    await world.given("stolen: alice")
    with caplog.at_level(logging.WARNING, "sora.services.maildrop"):
        await ask(link, b"LIST\r\nNOOP\r\n", 4)
        await world.given("database: away")
        await ask(link, b"LIST\r\nNOOP\r\n", 4)
        await world.given("database: back")
    assert [record.getMessage() for record in caplog.records] == [
        "maildrop lease lost",
        "maildrop lease not renewed",
    ]
    await link.hang_up()


async def test_a_stop_ends_the_session_between_two_commands(world: Pop3World) -> None:
    link = await logged_in(world, "1")
    link.protocol.stop()  # type: ignore[attr-defined]
    assert await link.read_line() == b"-ERR [SYS/TEMP] Server is going down, try again later"
    await link.read_close()
    assert await world.uids("alice") == [1]


async def test_too_many_connections_of_an_address(world: Pop3World) -> None:
    world.node.limits = Limits(per_address=1, exempt_networks=())
    link = await world.connect(1)
    with pytest.raises(AssertionError, match=r"-ERR \[SYS/TEMP\] Too many connections"):
        await world.connect(2)
    await link.hang_up()
    await link.protocol._task  # type: ignore[attr-defined]
    await (await world.connect(3)).hang_up()


async def test_too_many_connections_of_an_account(world: Pop3World) -> None:
    world.node.limits = Limits(per_account=1)
    await world.account("alice", "1")
    slot = world.node.limits.login(world.accounts["alice"])
    link = await world.connect(1)
    assert (await ask(link, LOGIN, 2))[1].startswith(b"-ERR [SYS/TEMP] Too many connections")
    slot.release()
    assert (await ask(link, LOGIN, 2))[1].startswith(b"+OK 1 messages")
    await link.hang_up()
    await link.protocol._task  # type: ignore[attr-defined]
    world.node.limits.login(world.accounts["alice"]).release()


async def test_a_bug_is_logged_and_gets_a_fixed_text(
    world: Pop3World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link = await logged_in(world, "1")

    async def broken(number: int) -> bytes:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(link.protocol._drop, "body", broken)  # type: ignore[attr-defined]
    assert await ask(link, b"RETR 1\r\n", 1) == [b"-ERR [SYS/TEMP] Internal error, try again later"]
    assert any(record.exc_info for record in caplog.records)
    await link.hang_up()


async def test_an_overlong_line_is_refused_once(world: Pop3World) -> None:
    link = await world.connect(1)
    assert await ask(link, b"USER " + b"x" * 5000, 1) == [b"-ERR Line too long"]
    assert await ask(link, b"x" * 5000 + b"\r\nQUIT\r\n", 1) == [b"+OK Bye"]


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    certificate, key = write_certificate(tmp_path)
    return server_context(certificate, key)


async def test_what_comes_in_plaintext_behind_stls_is_thrown_away(world: Pop3World, context: ssl.SSLContext) -> None:
    """The name of the plaintext half is forgotten, too, and passwords are welcome only then."""
    await world.account("alice", "1")
    await world.given("cleartext: no")
    listener = Listener("pop3", "127.0.0.1:110", tls=context)
    server = await asyncio.get_running_loop().create_server(pop3.connection_factory(world.node, listener), "127.0.0.1")
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.readline() == b"+OK Sora ready\r\n"
        writer.write(b"CAPA\r\n")
        assert b"\r\nSTLS\r\n" in (capabilities := await reader.readuntil(b"\r\n.\r\n"))
        assert b"\r\nUSER\r\n" not in capabilities
        writer.write(b"STLS\r\nUSER alice@example.com\r\nNOOP\r\n")
        assert await reader.readline() == b"+OK Begin TLS\r\n"
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        await writer.start_tls(trust)
        writer.write(b"PASS secret word\r\nCAPA\r\n")
        assert await reader.readline() == b"-ERR USER comes first\r\n"
        assert b"STLS" not in (capabilities := await reader.readuntil(b"\r\n.\r\n"))
        assert b"\r\nUSER\r\n" in capabilities
        writer.write(b"STLS\r\n" + LOGIN + b"QUIT\r\n")
        assert await reader.readline() == b"-ERR TLS is active\r\n"
        assert await reader.read() == b"+OK\r\n+OK 1 messages (%d octets)\r\n+OK Bye\r\n" % world.total
        writer.close()
        await writer.wait_closed()
