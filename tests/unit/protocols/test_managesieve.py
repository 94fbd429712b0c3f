"""ManageSieve sessions on a real node; transcripts under tests/transcripts/managesieve, the rest here."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
import pytest_asyncio

from sora import errors, log
from sora.net.connection import TURN_STEPS
from sora.net.listener import Listener
from sora.net.tls import server_context
from sora.protocols import managesieve
from sora.protocols.managesieve.replies import code_of, reply_to
from sora.protocols.managesieve.state import BOTH, STRANGER
from sora.protocols.managesieve.verbs import VERBS
from sora.services.logins.limits import Limits
from sora.sieve.script import compile
from sora.wire import lmtp
from sora.wire.managesieve import Code
from tests.support import transcripts
from tests.support.certificates import write_certificate
from tests.support.managesieve import PASSWORD, SieveWorld
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sora.services.node import Node
    from tests.support.postgres import Cluster
    from tests.support.transcripts import Link

FOLDER: Final = Path(__file__).parents[2] / "transcripts" / "managesieve"
PLAIN: Final = base64.b64encode(f"\0alice@example.com\0{PASSWORD}".encode())
LOGIN: Final = b'AUTHENTICATE "PLAIN" "%b"\r\n' % PLAIN

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_node(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """One database for all tests; each makes its own accounts, so no login may be remembered."""
    name = await cluster.create()
    async with open_node(cluster.dsn(name), tmp_path_factory.mktemp("node"), auth={"cache_ttl": "0s"}) as node:
        yield node
    await cluster.drop(name)


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared_node: Node) -> AsyncIterator[SieveWorld]:
    config = shared_node.config
    world = SieveWorld(shared_node)
    yield world
    await world.close()
    shared_node.take_live(config)


@pytest.mark.parametrize(("path", "mode"), transcripts.parameters(FOLDER))
async def test_transcript(path: Path, mode: str, world: SieveWorld) -> None:
    await transcripts.play(path, world, mode)


@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_has_a_transcript(verb: str) -> None:
    assert any(f"C: {verb}" in path.read_text(encoding="utf-8").upper() for path in FOLDER.glob("*.txt"))


async def ask(link: Link, data: bytes, replies: int = 1) -> list[bytes]:
    """Send, and read so many lines."""
    await link.send(data)
    return [await link.read_line() for _ in range(replies)]


async def logged_in(world: SieveWorld, scripts: str = "") -> Link:
    await world.account("alice", scripts)
    link = await world.connect(1)
    assert await ask(link, LOGIN) == [b'OK "Logged in"']
    return link


async def ended(link: Link) -> None:
    """Hang up and let the session end."""
    await link.hang_up()
    await link.protocol._task  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", [verb for verb, row in VERBS.items() if row.states != BOTH])
async def test_every_verb_is_refused_in_the_wrong_state(verb: str, world: SieveWorld) -> None:
    link = await logged_in(world) if VERBS[verb].states is STRANGER else await world.connect(1)
    arguments = b' "1"' * (len(VERBS[verb].takes) - VERBS[verb].optional)
    assert await ask(link, verb.encode() + arguments + b"\r\n") == [b'NO "Not in this state"']
    await ended(link)


def every(error: type[errors.SoraError]) -> Iterator[type[errors.SoraError]]:
    yield error
    for child in error.__subclasses__():
        yield from every(child)


async def test_every_error_has_a_reply() -> None:
    codes = {
        Code.NONE, Code.TRY_LATER, Code.MAX_SIZE, Code.MAX_SCRIPTS, Code.QUOTA, Code.ENCRYPT_NEEDED, Code.ACTIVE,
        Code.NON_EXISTENT, Code.ALREADY_EXISTS,
    }  # fmt: skip
    kinds = [kind for kind in every(errors.SoraError) if kind not in (errors.BadScript,)]
    assert {code_of(kind("x")) for kind in kinds} == codes
    assert code_of(errors.BadScript([(1, 2, "x")])) == Code.NONE
    assert reply_to(errors.DatabaseDown("a")) == b'NO (TRYLATER) "a"\r\n'
    assert reply_to(errors.NotFound()) == b'NO "Not found"\r\n'


async def test_the_greeting_is_the_capabilities(world: SieveWorld) -> None:
    link = await world.connect(1)
    lines = [*world.greeting[:-1], b"OK"]
    assert await ask(link, b"CAPABILITY\r\n", len(lines)) == lines
    await ended(link)


async def test_a_session_that_has_all_its_commands_gives_others_their_turn(world: SieveWorld) -> None:
    link = await world.connect(1)
    link.protocol.data_received(b"NOOP\r\n" * 1000)
    turns = 0
    while link.output.count(b'OK "Done"\r\n') < 1000:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 1000 // TURN_STEPS
    link.output.clear()
    await ended(link)


async def test_a_large_script_does_not_stop_the_loop(world: SieveWorld) -> None:
    """It is checked in a thread; the loop goes round all the while."""
    link = await logged_in(world)
    rule = b'if header :contains "subject" "%d" { keep; }\r\n'
    script = b"".join(rule % number for number in range(4000))
    await link.send(b'PUTSCRIPT "large" {%d+}\r\n%b\r\n' % (len(script), script))
    started, turns = time.monotonic(), 0
    while not link.output:
        await asyncio.sleep(0)
        turns += 1
        assert time.monotonic() - started < 15
    assert await link.read_line() == b"OK"
    assert turns > 20
    await ended(link)


async def test_a_literal_that_is_too_big_is_thrown_away_and_refused(world: SieveWorld) -> None:
    link = await logged_in(world)
    size = world.node.config.sieve.max_script_size + 10_000
    await link.send(b'PUTSCRIPT "big" {%d+}\r\n' % size)
    for _ in range(size // 65536):
        await link.send(b"#" * 65536)
        assert link.protocol.scanner._literal is None  # type: ignore[attr-defined]
    await link.send(b"#" * (size % 65536) + b'\r\nNOOP "next"\r\n')
    assert await link.read_line() == b'NO (QUOTA/MAXSIZE) "Literal too big"'
    assert await link.read_line() == b'OK (TAG "next") "Done"'
    await ended(link)


async def test_strangers_have_small_literals(world: SieveWorld) -> None:
    link = await world.connect(1)
    assert await ask(link, b"NOOP {8193+}\r\n" + b"x" * 8193 + b"\r\nNOOP\r\n", 2) == [
        b'NO (QUOTA/MAXSIZE) "Literal too big"',
        b'OK "Done"',
    ]
    assert await ask(link, b"NOOP {4+}\r\nabcd {8189+}\r\n" + b"x" * 8189 + b"\r\nNOOP\r\n", 2) == [
        b'NO (QUOTA/MAXSIZE) "Literal too big"',
        b'OK "Done"',
    ]
    await ended(link)


async def test_an_overlong_line_is_refused_once(world: SieveWorld) -> None:
    link = await world.connect(1)
    assert await ask(link, b"x" * 9000 + b"\r\nNOOP\r\n", 2) == [b'NO "Line too long"', b'OK "Done"']
    assert await ask(link, b'CHECKSCRIPT "' + b"x" * 9000 + b'" {10+}\r\nNOOP\r\nNOOP\r\nNOOP "a"\r\n', 2) == [
        b'NO "Line too long"',
        b'OK (TAG "a") "Done"',
    ]
    await ended(link)


async def test_silence_ends_a_session(world: SieveWorld) -> None:
    world.set("limits", managesieve_idle_timeout=0.05)
    link = await logged_in(world)
    assert await link.read_line() == b'BYE "You were silent for too long"'
    await link.read_close()


async def test_a_session_that_does_not_log_in_ends(world: SieveWorld) -> None:
    world.set("limits", login_timeout=0.05)
    link = await world.connect(1)
    await link.send(b'NOOP "drips')
    assert await link.read_line() == b'BYE "You were silent for too long"'
    await link.read_close()


async def test_a_response_that_does_not_come_ends_the_session(world: SieveWorld) -> None:
    world.set("limits", login_timeout=0.05)
    link = await world.connect(1)
    assert await ask(link, b'AUTHENTICATE "PLAIN"\r\n') == [b'""']
    assert await link.read_line() == b'BYE "You were silent for too long"'
    await link.read_close()
    assert link.output == b""


@pytest.mark.parametrize("endless", [b"\r\n", b"\n", b"{0+}\r\n", b'NOOP "" {0+}\r\n', b"NOOP {0+}\r\n{0+}\r\n"])
async def test_what_never_becomes_a_command_ends_the_session(world: SieveWorld, endless: bytes) -> None:
    """Each would keep the loop busy for as long as the peer likes, and never be refused."""
    link = await world.connect(1)
    await link.send(endless * 400)
    for _ in range(world.node.config.limits.bad_commands):
        assert (await link.read_line()).startswith(b"NO ")
    assert await link.read_line() == b'BYE "Too many bad commands"'
    await link.read_close()


async def test_a_stop_ends_the_session_between_two_commands(world: SieveWorld) -> None:
    link = await logged_in(world)
    link.protocol.stop()  # type: ignore[attr-defined]
    assert await link.read_line() == b'BYE (TRYLATER) "Server is going down, try again later"'
    await link.read_close()


async def test_a_stop_ends_an_exchange(world: SieveWorld) -> None:
    link = await world.connect(1)
    assert await ask(link, b'AUTHENTICATE "LOGIN"\r\n') == [b'"VXNlcm5hbWU6"']
    link.protocol.stop()  # type: ignore[attr-defined]
    assert await link.read_line() == b'NO (TRYLATER) "Server is going down, try again later"'
    assert await link.read_line() == b'BYE (TRYLATER) "Server is going down, try again later"'
    await link.read_close()


async def test_too_many_connections_of_an_address(world: SieveWorld) -> None:
    world.node.limits = Limits(per_address=1, exempt_networks=())
    link = await world.connect(1)
    with pytest.raises(AssertionError, match=r"BYE \(TRYLATER\) .*Too many connections"):
        await world.connect(2)
    await ended(link)
    await ended(await world.connect(3))


async def test_connections_of_an_account_are_counted_from_login_to_logout(world: SieveWorld) -> None:
    world.node.limits = Limits(per_account=1)
    await world.account("alice")
    slot = world.node.limits.login(world.accounts["alice"])
    link = await world.connect(1)
    assert (await ask(link, LOGIN))[0].startswith(b'NO (TRYLATER) "Too many connections')
    assert await ask(link, b"LISTSCRIPTS\r\n") == [b'NO "Not in this state"']
    slot.release()
    assert await ask(link, LOGIN) == [b'OK "Logged in"']
    with pytest.raises(errors.LimitExceeded):
        world.node.limits.login(world.accounts["alice"])
    assert await ask(link, b"UNAUTHENTICATE\r\n") == [b'OK "Logged out"']
    world.node.limits.login(world.accounts["alice"]).release()
    assert await ask(link, LOGIN) == [b'OK "Logged in"']
    await ended(link)
    world.node.limits.login(world.accounts["alice"]).release()


async def test_sessions_of_an_account_can_be_ended(world: SieveWorld) -> None:
    link = await logged_in(world)
    world.node.connections.stop_account(world.accounts["alice"])
    assert (await link.read_line()).startswith(b"BYE (TRYLATER)")
    await link.read_close()


async def test_one_who_has_logged_out_is_not_ended_with_the_account(world: SieveWorld) -> None:
    link = await logged_in(world)
    await ask(link, b"UNAUTHENTICATE\r\n")
    world.node.connections.stop_account(world.accounts["alice"])
    assert await ask(link, b"NOOP\r\n") == [b'OK "Done"']
    await ended(link)


async def test_a_bug_is_logged_and_gets_a_fixed_text(
    world: SieveWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link = await logged_in(world)

    async def broken(account_id: int) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(world.node.store.scripts, "list_scripts", broken)
    assert await ask(link, b"LISTSCRIPTS\r\n") == [b'NO (TRYLATER) "Internal error, try again later"']
    assert any(record.exc_info for record in caplog.records)
    await ended(link)


async def test_warnings_come_with_the_ok(world: SieveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5804 §2.6: the script is stored nevertheless."""

    def warned(source: bytes, *, max_bytes: int, max_nesting: int) -> object:
        warnings = ((8, 3, "server redirect action limit is 2"), (9, 1, "this is odd"))
        return msgspec.structs.replace(compile(source, max_bytes=max_bytes, max_nesting=max_nesting), warnings=warnings)

    monkeypatch.setattr("sora.services.filters.scripts.compile", warned)
    link = await logged_in(world)
    text = [b"line 8, column 3: server redirect action limit is 2", b"line 9, column 1: this is odd"]
    assert await ask(link, b'PUTSCRIPT "foo" "keep;"\r\n', 3) == [b"OK (WARNINGS) {82}", *text]
    assert await ask(link, b'CHECKSCRIPT "keep;"\r\n', 3) == [b"OK (WARNINGS) {82}", *text]
    assert await ask(link, b"LISTSCRIPTS\r\n", 2) == [b'"foo"', b"OK"]
    await ended(link)


async def test_no_password_is_in_any_line_of_the_log(world: SieveWorld, caplog: pytest.LogCaptureFixture) -> None:
    await world.account("alice")
    wrong = base64.b64encode(b"\0alice@example.com\0Tr0ub4dor")
    with caplog.at_level(logging.DEBUG):
        for data in (
            LOGIN,
            b'AUTHENTICATE "PLAIN" "%b"\r\n' % wrong,
            b'AUTHENTICATE "PLAIN"\r\n"%b"\r\n' % wrong,
            b'AUTHENTICATE "PLAIN" "%b" "%b"\r\n' % (wrong, wrong),
            b"AUTHENTICATE %b\r\n" % wrong,
            b"%b\r\n" % wrong,
        ):
            link = await world.connect(1)
            await link.send(data + b"LOGOUT\r\n")
            await link.read_close()
            await ended(link)
    formats = log.JsonFormatter(), log.TextFormatter()
    text = "\n".join(form.format(record) for record in caplog.records for form in formats)
    assert "login refused" in text
    for secret in (PASSWORD, PLAIN.decode(), "Tr0ub4dor", wrong.decode()):
        assert secret not in text


async def test_failures_block_with_the_text_of_a_wrong_password(world: SieveWorld) -> None:
    world.set("limits", exempt_networks=(), login_delay=0.0, login_failures_per_account=3, bad_commands=99)
    await world.account("carol")
    link = await world.connect(1)
    wrong = b'AUTHENTICATE "PLAIN" "%b"\r\n' % base64.b64encode(b"\0carol@example.com\0wrong")
    for _ in range(3):
        assert await ask(link, wrong) == [b'NO "Authentication failed"']
    right = b'AUTHENTICATE "PLAIN" "%b"\r\n' % base64.b64encode(f"\0carol@example.com\0{PASSWORD}".encode())
    assert await ask(link, right) == [b'NO "Authentication failed"']
    world.set("limits", exempt_networks=("127.0.0.0/8",))
    assert await ask(link, right) == [b'OK "Logged in"']
    await ended(link)


async def test_a_change_is_seen_by_the_next_delivery(world: SieveWorld) -> None:
    """What LMTP remembers of a recipient is forgotten before the client has its OK."""
    link = await logged_in(world)
    path = lmtp.parse_recipient(b"TO:<alice@example.com>", utf8=False).path
    seen = []
    for command in (
        b'PUTSCRIPT "a" "keep;"\r\n',
        b'SETACTIVE "a"\r\n',
        b'SETACTIVE "a"\r\n',
        b'PUTSCRIPT "a" "discard;"\r\n',
        b'RENAMESCRIPT "a" "b"\r\n',
        b'PUTSCRIPT "included" "keep;"\r\n',
        b'DELETESCRIPT "included"\r\n',
        b'SETACTIVE ""\r\n',
    ):
        assert await ask(link, command) == [b"OK"]
        (found,) = await world.node.recipients.find([path])
        assert not isinstance(found, errors.SoraError)
        seen.append(found.script)
    assert [bool(version) for version in seen] == [False, True, True, True, True, True, True, False]
    assert seen[1] == seen[2], "nothing has changed"
    assert len(set(seen)) == 6
    await ended(link)


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    certificate, key = write_certificate(tmp_path)
    return server_context(certificate, key)


@pytest.mark.parametrize(
    "behind", [b"", LOGIN, b"LOGOUT\r\n", b'NOOP "', b"NOOP {100+}\r\nabc", b"\r\n" * 1000, b"x" * 9000]
)
async def test_nothing_behind_starttls_is_carried_into_tls(
    world: SieveWorld, context: ssl.SSLContext, behind: bytes
) -> None:
    """RFC 5804 §2.2: the capabilities come again, without STARTTLS and with the mechanisms."""
    await world.account("alice", "foo*")
    await world.given("cleartext: no")
    listener = Listener("managesieve", "127.0.0.1:4190", tls=context)
    factory = managesieve.connection_factory(world.node, listener)
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1")
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        greeting = await reader.readuntil(b'OK "Sora ready"\r\n')
        assert b'"STARTTLS"\r\n' in greeting
        assert b'"SASL" ""\r\n' in greeting
        writer.write(b"STARTTLS\r\n" + behind)
        assert await reader.readline() == b'OK "Begin TLS"\r\n'
        await writer.start_tls(trust)
        again = await reader.readuntil(b'OK "TLS is active"\r\n')
        assert b"STARTTLS" not in again
        assert b'"SASL" "PLAIN LOGIN"\r\n' in again
        assert [line for line in again.splitlines() if b"SIEVE" in line] == [
            line for line in greeting.splitlines() if b"SIEVE" in line
        ]
        writer.write(b"LISTSCRIPTS\r\nSTARTTLS\r\n" + LOGIN + b"LISTSCRIPTS\r\nLOGOUT\r\n")
        assert (await reader.read()).split(b"\r\n") == [
            b'NO "Not in this state"',
            b'NO "TLS is active"',
            b'OK "Logged in"',
            b'"foo" ACTIVE',
            b"OK",
            b'OK "Bye"',
            b"",
        ]
        writer.close()
        await writer.wait_closed()
